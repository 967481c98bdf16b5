"""What all questions begin with: a table of certificates, the names in it, and what is said of each name."""

from datetime import UTC, date, datetime
from typing import TypeAlias

import ibis.expr.types as ir
from deltalake import DeltaTable

from ctkit.ask.certificates import certificates as typed
from ctkit.ask.certificates import issuances
from ctkit.errors import ParameterError
from ctkit.schema import row_schema

Asked: TypeAlias = DeltaTable | ir.Table
Question: TypeAlias = ir.Table


def entries_of(certificates: Asked) -> ir.Table:
    """Return a table as `ctkit.certificates` does, unless it is from there.

    Raises
    ------
    ParameterError
        It is neither that nor a table with the 20 columns.
    SchemaMismatchError, TableError
        As `ctkit.certificates`.
    """
    if isinstance(certificates, DeltaTable):
        return typed(certificates)
    if missing := set(row_schema().names) - set(certificates.columns):
        message = f"certificates: it lacks {', '.join(sorted(missing))}; give what ctkit.certificates returned"
        raise ParameterError(message, keys=("certificates",))
    return certificates if "domains" in certificates.columns else typed(certificates)


def is_below(name: ir.StringValue, domain: list[str], *, exact: bool = False) -> ir.BooleanValue:
    """Tell whether a name is that of a domain, which `spellings` has, or below it."""
    below = name.isin(domain)
    for spelling in [] if exact else domain:
        below |= name.endswith(f".{spelling}")
    return below


def with_name(entries: ir.Table, domain: list[str], *, exact: bool = False) -> ir.Table:
    """Return the entries that have a name of a domain."""
    return entries.filter(entries.domains.filter(lambda name: is_below(name, domain, exact=exact)).length() > 0)


def names_of(entries: ir.Table) -> ir.Table:
    """Return a row for each name of each certificate."""
    issued = issuances(entries)
    columns = ("first_seen", "last_seen", "valid_from", "valid_until", "key")
    return issued.select(*columns, name=issued.domains.unnest(), issuer=issuer_of(issued))


def described(issued: ir.Table) -> dict[str, ir.Value]:
    """Return the columns of issuances but for ``registrable``.

    For lists, DuckDB compiles the rules of the suffixes again with every 2,048 rows: a million take minutes.
    """
    return {name: issued[name] for name in issued.columns if name != "registrable"}


def issuer_of(issued: ir.Table) -> ir.StringColumn:
    """Return who issued: organization and common name, such as ``Let's Encrypt: R11``, or what there is of them."""
    return (issued.issuer_o + ": " + issued.issuer_cn).coalesce(issued.issuer_o, issued.issuer_cn)


def by_name(names: ir.Table, **more: ir.Value) -> ir.Table:
    """Return a row for each name: when it was seen, in how many certificates, of which issuers, and `more`."""
    return names.group_by("name").agg(
        first_seen=names.first_seen.min(),
        last_seen=names.last_seen.max(),
        certificates=names.count(),
        issuers=names.issuer.collect(distinct=True).sort(),
        **more,
    )


def midnight(day: date) -> datetime:
    """Return the beginning of a date in UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
