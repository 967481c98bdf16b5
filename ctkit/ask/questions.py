"""Questions of analysts, each from a table of certificates to a lazy ibis table.

Each takes an open table, or what `ctkit.certificates` returned, of any backend; filter that first to ask about a part
of it. In the answers, ``certificates`` counts issuances, as `ctkit.issuances` has them: a precertificate and its
certificate are one, however many logs have them. ``issuers`` are organizations with common names, such as
``Let's Encrypt: R11``; ``key`` names an entry, for `ctkit.open_certificate`.
"""

from datetime import UTC, datetime, timedelta
from typing import Literal

import ibis
import ibis.expr.types as ir

from ctkit.arguments import Count, Day, checked
from ctkit.ask.asked import Asked, by_name, described, entries_of, is_below, midnight, names_of, with_name
from ctkit.ask.certificates import issuance_key, issuances
from ctkit.ask.names import spellings
from ctkit.ask.suffixes import registrable

By = Literal["issuer_o", "issuer_cn", "source_name", "kind", "signature_algorithm", "validity"]
Period = Literal["day", "week", "month", "year"]

_CLASSES = (10, 47, 100, 200, 398)
"""Days up to which validities are counted together: what the CA/Browser Forum calls short-lived, and its limits."""


@checked
def busiest_domains(certificates: Asked) -> ir.Table:
    """Count the certificates of each registrable domain: the domain with the most comes first.

    ``SELECT registrable, count(*) FROM issuances, unnest(registrable) GROUP BY 1 ORDER BY 2 DESC``

    Parameters
    ----------
    certificates
        From `ctkit.open_table`; or what `ctkit.certificates` returned, filtered or not.

    Returns
    -------
    ibis.Table
        ``registrable, certificates, first_seen, last_seen``. A certificate counts once for each of its domains.

    Raises
    ------
    ParameterError
        The table lacks columns of `ctkit.certificates`.
    SchemaMismatchError, TableError
        As `ctkit.certificates`.

    Examples
    --------
    >>> import tempfile, ctkit
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(ctkit.busiest_domains(ctkit.open_table(folder)).limit(10).to_pandas().empty)
    True
    """
    issued = issuances(entries_of(certificates))
    names = issued.select("key", "first_seen", "last_seen", name=issued.domains.unnest())
    # Not the column of that name, which is a list: see `described`.
    domains = names.select("key", "first_seen", "last_seen", registrable=registrable(names.name)).distinct()
    domains = domains.filter(domains.registrable.notnull())
    counted = domains.group_by("registrable").agg(
        certificates=domains.count(), first_seen=domains.first_seen.min(), last_seen=domains.last_seen.max()
    )
    return counted.order_by(ibis.desc("certificates"), "registrable")


@checked
def issued_over_time(certificates: Asked, *, by: By | None = "issuer_o", every: Period = "day") -> ir.Table:
    """Count certificates over time, by issuer, log, kind, signature algorithm or validity.

    A certificate counts once for each value of `by`, in the period in which the first of its entries with that value
    was seen: once for its issuer, but in each log that has it, and as a precertificate and as a certificate.

    ``SELECT date_trunc(every, min(seen)), by, count(*) FROM entries GROUP BY issuance, by`` and its sums

    Parameters
    ----------
    certificates
        As for `busiest_domains`.
    by
        ``issuer_o``, ``issuer_cn``, ``source_name`` (the log), ``kind``, ``signature_algorithm``, or ``validity``,
        classes of days; None to count all together.
    every
        ``day``, ``week`` (from Monday on), ``month`` or ``year``: of UTC, and of the session's time zone where another
        engine than our DuckDB is asked.

    Returns
    -------
    ibis.Table
        ``date``, the first day of the period, the column that `by` names, and ``certificates``, by date and ascending
        in it. A period without any has no row.

    Raises
    ------
    ParameterError, SchemaMismatchError, TableError
        As `busiest_domains`.

    Examples
    --------
    >>> import tempfile, ctkit
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(ctkit.issued_over_time(ctkit.open_table(folder), by="validity", every="week").to_pandas().empty)
    True
    """
    rows = entries_of(certificates)
    groups = {} if by is None else {by: _validity(rows.validity_days) if by == "validity" else rows[by]}
    key = issuance_key(rows)
    entries = rows.select(**key, **groups, seen=rows.seen)
    once = entries.group_by(*key, *groups).agg(seen=entries.seen.min())
    dated = once.select(*groups, date=once.seen.truncate(every).date())
    counted = dated.group_by("date", *groups).agg(certificates=dated.count())
    return counted.order_by("date", *groups)


@checked
def name_history(certificates: Asked, domain: str | None = None, *, new_since: Day | None = None) -> ir.Table:
    """Tell when each name appeared first and last, in how many certificates, and of which issuers.

    For a domain of a large table, ``name_history(certificates(main, find_names(main, domain)), domain)`` takes the
    entries from the index of names.

    ``SELECT name, min(first_seen), max(last_seen), count(*) FROM issuances, unnest(domains) GROUP BY name HAVING
    min(first_seen) >= new_since``

    Parameters
    ----------
    certificates
        As for `busiest_domains`.
    domain
        Only its own name and those below it, wildcards too; case, a dot at its end and the form of international labels
        do not matter. None for all names.
    new_since
        Only names that were not seen before this date (UTC). What is new to the table may be older than the table.

    Returns
    -------
    ibis.Table
        ``name, first_seen, last_seen, certificates, issuers, valid_until, key``, the newest names first: `valid_until`
        is the last date on which a certificate for it ends, `key` names an entry for `ctkit.open_certificate`.

    Raises
    ------
    ParameterError, SchemaMismatchError, TableError
        As `busiest_domains`.

    Examples
    --------
    >>> import tempfile, ctkit
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     history = ctkit.name_history(ctkit.open_table(folder), "example.com", new_since="2026-11-20")
    ...     print(history.to_pandas().empty)
    True
    """
    entries = entries_of(certificates)
    if domain is None:
        names = names_of(entries)
    else:
        forms = spellings("name_history: domain", domain)
        names = names_of(with_name(entries, forms))
        names = names.filter(is_below(names.name, forms))
    history = by_name(names, valid_until=names.valid_until.max(), key=names.key.min())
    if new_since is not None:
        history = history.filter(history.first_seen >= midnight(new_since))
    return history.order_by(ibis.desc("first_seen"), "name")


@checked
def related_names(certificates: Asked, domain: str, *, exact: bool = False) -> ir.Table:
    """Return the names that share certificates with a domain, which often means the same owner, or the same host.

    ``SELECT name, count(*) FROM issuances, unnest(domains) WHERE the issuance has a name of the domain GROUP BY name``

    Parameters
    ----------
    certificates
        As for `busiest_domains`. For a domain of a large table, give ``certificates(main, find_names(main, domain))``.
    domain
        As for `name_history`.
    exact
        Certificates for this name itself, not those for names below it; and all their other names, not only those of
        other domains.

    Returns
    -------
    ibis.Table
        ``name, registrable, certificates, first_seen, last_seen, issuers``, of the certificates that they share; the
        name that shares most comes first.

    Raises
    ------
    ParameterError, SchemaMismatchError, TableError
        As `busiest_domains`.

    Examples
    --------
    >>> import tempfile, ctkit
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(ctkit.related_names(ctkit.open_table(folder), "example.com").to_pandas().empty)
    True
    """
    forms = spellings("related_names: domain", domain)
    names = names_of(with_name(entries_of(certificates), forms, exact=exact))
    related = by_name(names.filter(~is_below(names.name, forms, exact=exact)))
    related = related.mutate(registrable=registrable(related.name)).relocate("registrable", after="name")
    return related.order_by(ibis.desc("certificates"), "name")


@checked
def broad_certificates(certificates: Asked, *, names: Count = 100) -> ir.Table:
    """Return the certificates with wildcards, or with many names.

    ``SELECT * FROM issuances WHERE len(domains) >= names OR a domain LIKE '*.%'``

    Parameters
    ----------
    certificates
        As for `busiest_domains`.
    names
        How many names are many.

    Returns
    -------
    ibis.Table
        A row for each certificate: ``names`` and ``wildcards``, how many of either, and the columns of
        `ctkit.issuances` but ``registrable``; that with the most names first.

    Raises
    ------
    ParameterError, SchemaMismatchError, TableError
        As `busiest_domains`.

    Examples
    --------
    >>> import tempfile, ctkit
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(ctkit.broad_certificates(ctkit.open_table(folder), names=250).to_pandas().empty)
    True
    """
    entries = entries_of(certificates)
    # All entries of a certificate have its names, and most certificates are not broad: fewer are grouped.
    issued = issuances(entries.filter((entries.domains.length() >= names) | (_wildcards(entries) > 0)))
    broad = issued.select(names=issued.domains.length(), wildcards=_wildcards(issued), **described(issued))
    return broad.order_by(ibis.desc("names"), ibis.desc("wildcards"), "key")


@checked
def expiring_names(certificates: Asked, *, days: Count = 30, as_of: Day | None = None) -> ir.Table:
    """Return the names whose last certificate ends soon: no other one, and no wildcard's, is valid for longer.

    ``SELECT name, max(valid_until) FROM issuances, unnest(domains) GROUP BY name``, between `as_of` and `days` later

    Parameters
    ----------
    certificates
        As for `busiest_domains`.
    days
        How many days from `as_of` on are soon.
    as_of
        A date (UTC); now by default. Names without a valid certificate on it are left out.

    Returns
    -------
    ibis.Table
        ``name, registrable, valid_until, issuer, key``, of the certificate that ends last; that which ends next first.

    Raises
    ------
    ParameterError, SchemaMismatchError, TableError
        As `busiest_domains`.

    Examples
    --------
    >>> import tempfile, ctkit
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(ctkit.expiring_names(ctkit.open_table(folder), days=14).to_pandas().empty)
    True
    """
    start = datetime.now(UTC) if as_of is None else midnight(as_of)
    # Python knows no day after 9999.
    end = start + min(timedelta(days=min(days, 10**6)), datetime.max.replace(tzinfo=UTC) - start)
    rows = entries_of(certificates)
    names = names_of(rows.filter(rows.valid_until >= start, ~rows.is_ca))
    last = names.group_by("name").agg(
        valid_from=names.valid_from.min(),
        valid_until=names.valid_until.max(),
        issuer=names.issuer.argmax(names.valid_until),
        key=names.key.argmax(names.valid_until),
    )
    covering = last.filter(last.name.startswith("*."), last.valid_until >= end)
    ending = last.filter(last.valid_from <= start, last.valid_until < end).drop("valid_from")
    # A wildcard stands for one label (RFC 6125, 6.4.3).
    ending = ending.anti_join(covering, ("*." + ending.name.re_replace(r"^[^.]*\.", "")) == covering.name)
    ending = ending.mutate(registrable=registrable(ending.name)).relocate("registrable", after="name")
    return ending.order_by("valid_until", "name")


def _wildcards(rows: ir.Table) -> ir.IntegerValue:
    """Return how many of the names are wildcards."""
    return rows.domains.filter(lambda name: name.startswith("*.")).length()


def _validity(days: ir.FloatingValue) -> ir.StringValue:
    """Return the class of a validity."""
    firsts = (0, *(last + 1 for last in _CLASSES))
    classes = [(days <= last, f"{first} to {last} days") for first, last in zip(firsts, _CLASSES, strict=False)]
    return ibis.cases(*classes, else_=f"more than {_CLASSES[-1]} days")
