"""New names of watched domains, and of their look-alikes: those that were not told yet."""

import re
from collections.abc import Sequence

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
from deltalake import DeltaTable

from ctkit.ask.asked import entries_of, with_name
from ctkit.ask.look_alikes import look_alikes
from ctkit.ask.names import LONGEST_LABEL, folded, spellings
from ctkit.ask.questions import name_history
from ctkit.ask.told import without_told
from ctkit.errors import ParameterError, TableError
from ctkit.lake.digests import RESTORE
from ctkit.lake.reasons import first_line
from ctkit.lake.table import folder_of

COLUMNS = ("watched", "name", "reason", "first_seen", "last_seen", "certificates", "issuers", "key")

OF_DOMAIN = "name of the domain"
"""Why a name of a watched domain is told; that of a look-alike says what is alike."""


def find_news(
    main: DeltaTable, domains: Sequence[str], brands: Sequence[str], told: DeltaTable | None, most: int
) -> pa.Table:
    """Return names that were not told yet, each with the domain or brand that it is told for.

    Parameters
    ----------
    main
        From `ctkit.open_table`.
    domains
        Domains of which all names are told.
    brands
        Domains whose look-alikes are told; neither they nor `domains` are look-alikes of each other.
    told
        From `ctkit.ask.told.find_told`.
    most
        How many names are returned at most.

    Returns
    -------
    pyarrow.Table
        `COLUMNS`, as `ctkit.look_alikes` has them; by ``watched``, the newest name first.

    Raises
    ------
    ParameterError
        One of the domains or brands is none.
    SchemaMismatchError, TableError
        As `ctkit.certificates`; or what was told cannot be read.
    """
    # However they are written, they are the same.
    own = {folded(domain): _spellings("domains", domain) for domain in domains}
    alike = {folded(brand): _spellings("brands", brand) for brand in brands}
    entries = entries_of(main)
    # Read once, however many domains there are.
    named = with_name(entries, [spelling for each in own.values() for spelling in each])
    found: list[ir.Table] = []
    for domain in own:
        names = name_history(named, domain)
        found.append(names.mutate(watched=ibis.literal(domain), reason=ibis.literal(OF_DOMAIN)).select(COLUMNS))
    for brand in alike:
        names = look_alikes(entries, brand, own=[*own, *alike])
        found.append(names.mutate(watched=ibis.literal(brand)).select(COLUMNS))
    news = without_told(ibis.union(*found) if len(found) > 1 else found[0], told)
    try:
        return news.order_by("watched", ibis.desc("first_seen"), "name").limit(most).to_pyarrow()
    except duckdb.Error as error:
        message = f"a file of it cannot be read ({first_line(error)}). Nothing was changed; {RESTORE}"
        raise TableError(folder_of(main), message) from error


def _spellings(key: str, domain: str) -> list[str]:
    found = spellings(key, domain)
    labels = found[0].split(".")
    is_dns = all(0 < len(label) <= LONGEST_LABEL and label != "*" for label in labels)
    if not is_dns or re.search(r"[/:@\s]", domain):
        raise ParameterError(f"{key}: {domain!r} is no domain; give one like example.com", keys=(key,))
    return found
