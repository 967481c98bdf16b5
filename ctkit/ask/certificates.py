"""The rows of a table typed for people, an entry or an issuance each."""

import ibis
import ibis.expr.types as ir
from deltalake import DeltaTable

from ctkit.arguments import checked
from ctkit.ask.suffixes import registrable
from ctkit.lake.querying import rows_of, rows_with_keys
from ctkit.schema import KEY, row_schema

_YEARS = (-62_167_219_200, 253_402_300_799)
"""Seconds of the years 0000 to 9999: the times that a certificate can have."""

_ISSUANCE = ("issuer_aggregated", "serial_number", "not_before", "not_after", "subject_aggregated")
"""What a certificate has in common with its precertificate, but with hardly another one."""


@checked
def certificates(main: DeltaTable | ir.Table, names: ir.Table | None = None) -> ir.Table:
    """Return the entries of a table, typed for people, as an ibis table.

    It is lazy: a question reads the columns and files that it needs. The 20 columns of the table follow those that are
    listed here; for certificates without their entries see `issuances`.

    ===================== ========= ====================================================================================
    ``key``               string    names the entry: URL of the log, ``#``, index
    ``seen``              timestamp when the log took the entry (in rows of the live server: when it was fetched)
    ``kind``              string    ``certificate`` or ``precertificate``
    ``domains``           strings   its names in lower case, without trailing dots, each once, ascending
    ``registrable``       strings   their registrable domains, each once, ascending (`ctkit.ask.suffixes`)
    ``subject_cn``        string    common name of the subject; null without one
    ``issuer_cn``         string    common name of the issuer
    ``issuer_o``          string    organization of the issuer
    ``valid_from``        timestamp ``not_before``; null where it is none of the years 0000 to 9999
    ``valid_until``       timestamp ``not_after``
    ``validity_days``     float64   days between them, both included as in RFC 5280, 4.1.2.5
    ``link``              string    where the log has the entry
    ===================== ========= ====================================================================================

    Names of subject and issuer are cut out of ``subject_aggregated`` and ``issuer_aggregated``, which escape nothing:
    whoever puts ``/O=`` into a common name ends it there.

    Parameters
    ----------
    main
        From `ctkit.open_table`, to be asked by a DuckDB of its own; or an ibis table with the 20 columns, of any
        backend, which is asked then.
    names
        What `ctkit.find_names` or `ctkit.search_names` returned, or some rows of it: their entries only, for which no
        more of the table is read than the parts that have them. Any ibis table with ``source_url`` and ``cert_index``
        will do, of the same backend if `main` is an ibis table.

    Raises
    ------
    SchemaMismatchError
        The table is not one of ours, or demands of its readers what we do not do.
    TableError
        The table names a file that is none of its own, or one that cannot be read.

    Examples
    --------
    >>> import tempfile, ctkit
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     certificates = ctkit.certificates(ctkit.open_table(folder))
    ...     print(certificates.group_by("issuer_o").agg(issued=certificates.count()).to_pandas().empty)
    True
    """
    rows = _as_text(_rows(main, names))
    typed = rows.select(
        key=_key(rows),
        seen=rows.seen,
        kind=rows.update_type.cases(
            ("X509LogEntry", "certificate"), ("PrecertLogEntry", "precertificate"), else_=rows.update_type
        ),
        **_named(rows),
        **{name: rows[name] for name in row_schema().names if name not in ("seen", "cert_link")},
        link=rows.cert_link,
        cert_link=rows.cert_link,
    )
    return typed.relocate("link", after="validity_days")


@checked
def issuances(main: DeltaTable | ir.Table) -> ir.Table:
    """Return the certificates that were issued, each once, however often logs have them, as an ibis table.

    A certificate is usually in several logs, and its precertificate too. All of these entries are one issuance if
    issuer, serial number, validity and subject are the same: RFC 5280 (4.1.2.2) demands that an issuer uses a number
    once, RFC 6962 (3.1) that the two differ in no more than the poison and the embedded timestamps. The hash of the
    issuer's key, which would tell two issuers of one name apart, is not among the 20 columns. A precertificate that is
    signed by a special certificate (RFC 6962, 3.1) names that as its issuer, and stays an issuance of its own. What
    cannot be read, and therefore has neither issuer nor serial number, is told apart by its hash.

    Besides the columns of `certificates` that describe the certificate itself, there are

    =================== ========= ================================================================
    ``first_seen``      timestamp when the first of its entries was seen
    ``last_seen``       timestamp when the last one was
    ``logs``            int64     number of logs that have it
    ``entries``         int64     number of entries
    ``precertificates`` int64     how many of them are precertificates
    ``promised``        timestamp when the first of these was seen; null without one
    ``sha256``          string    hash of the certificate; null if there are only precertificates
    ``key``             string    names one of its entries, for `ctkit.open_certificate`
    =================== ========= ================================================================

    Parameters
    ----------
    main
        As for `certificates`.

    Raises
    ------
    SchemaMismatchError, TableError
        As `certificates`.

    Examples
    --------
    >>> import tempfile, ctkit
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     issued = ctkit.issuances(ctkit.open_table(folder))
    ...     print(issued.filter(issued.precertificates == issued.entries).count().to_pyarrow())
    0
    """
    rows = _as_text(rows_of(main) if isinstance(main, DeltaTable) else main)
    is_final = rows.update_type == "X509LogEntry"
    issued = rows.group_by(**issuance_key(rows)).agg(
        first_seen=rows.seen.min(),
        last_seen=rows.seen.max(),
        logs=rows.source_url.nunique(),
        entries=rows.count(),
        precertificates=(~is_final).sum(),
        promised=rows.seen.min(where=~is_final),
        sha256=rows.sha256.max(where=is_final),
        key=_key(rows).min(),
        is_ca=rows.is_ca.max(),
        all_domains=rows.all_domains.max(),
        signature_algorithm=rows.signature_algorithm.max(),
    )
    described = ("first_seen", "last_seen", "logs", "entries", "precertificates", "promised", "sha256", "key", "is_ca")
    raw = (*_ISSUANCE, "all_domains", "signature_algorithm")
    return issued.select(**_named(issued), **{name: issued[name] for name in (*described, *raw)})


def issuance_key(rows: ir.Table) -> dict[str, ir.Value]:
    """Return the columns by which entries are one issuance."""
    # The rows that could not be read would else be one.
    unread = (rows.serial_number == "").ifelse(rows.sha256, "")
    return {**{name: rows[name] for name in _ISSUANCE}, "unread": unread}


def _key(rows: ir.Table) -> ir.StringValue:
    """Return the names of entries."""
    return rows.source_url + "#" + rows.cert_index.cast("string")


def _rows(main: DeltaTable | ir.Table, names: ir.Table | None) -> ir.Table:
    """Return the rows of a table, or those of the entries that have some names."""
    if names is None:
        return rows_of(main) if isinstance(main, DeltaTable) else main
    if isinstance(main, DeltaTable):
        return rows_with_keys(main, names.select(*KEY).distinct().to_pyarrow())
    return main.semi_join(names, KEY)


def _as_text(rows: ir.Table) -> ir.Table:
    """Return rows with text as such: some writers do not note what is text, which is bytes then."""
    types = ibis.Schema.from_pyarrow(row_schema())
    texts = (name for name, kind in types.items() if kind.is_string() or kind.is_array())
    return rows.cast({name: types[name] for name in texts if rows[name].type() != types[name]})


def _named(rows: ir.Table) -> dict[str, ir.Value]:
    """Return the columns of `certificates` that describe a certificate."""
    domains = rows.all_domains.map(lambda name: name.lower().re_replace(r"\.+$", "")).unique().sort()
    valid_from, valid_until = (
        rows[name].between(*_YEARS).ifelse(rows[name], None).as_timestamp("s").cast("timestamp('UTC')")
        for name in ("not_before", "not_after")
    )
    # As floating point: the numbers of a damaged row may be any.
    seconds = rows.not_after.cast("float64") - rows.not_before.cast("float64") + 1
    return {
        "domains": domains,
        "registrable": domains.map(registrable).filter(lambda name: name.notnull()).unique().sort(),
        "subject_cn": _attribute(rows.subject_aggregated, "CN"),
        "issuer_cn": _attribute(rows.issuer_aggregated, "CN"),
        "issuer_o": _attribute(rows.issuer_aggregated, "O"),
        "valid_from": valid_from,
        "valid_until": valid_until,
        "validity_days": seconds / 86_400,
    }


_ATTRIBUTES = ("C", "CN", "L", "O", "OU", "ST")
"""In the order in which an aggregated name has them, each once at most."""


def _attribute(name: ir.StringValue, attribute: str) -> ir.StringValue:
    """Return the value of an attribute in an aggregated name, such as ``/C=US/CN=example.com/O=Example``."""
    at = _ATTRIBUTES.index(attribute)
    before = "".join(f"(?:/{each}=.*?)?" for each in _ATTRIBUTES[:at])
    after = "|".join(f"/{each}=.*" for each in _ATTRIBUTES[at + 1 :])
    # A value may have line ends.
    return name.re_extract(f"(?s)^{before}/{attribute}=(.*?)(?:{after})?$", 1).nullif("")
