"""New names of watched domains, and of their look-alikes: those that were not told yet."""

from collections.abc import Sequence

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from deltalake import DeltaTable

from ctkit.ask.asked import entries_of, with_name
from ctkit.ask.look_alikes import look_alikes
from ctkit.ask.names import spellings
from ctkit.ask.questions import name_history
from ctkit.ask.told import without_told

NEWS = ("watched", "name", "reason", "first_seen", "last_seen", "certificates", "issuers", "key")

OF_DOMAIN = "name of the domain"
"""Why a name of a watched domain is told; that of a look-alike says what is alike."""


def find_news(main: DeltaTable, domains: Sequence[str], brands: Sequence[str], told: DeltaTable | None) -> pa.Table:
    """Return the names that were not told yet, each with the domain or brand that it is told for.

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

    Returns
    -------
    pyarrow.Table
        The columns `NEWS`, as `ctkit.look_alikes` has them; by ``watched``, the newest name first.

    Raises
    ------
    ParameterError
        One of the domains or brands is none.
    SchemaMismatchError, TableError
        As `ctkit.certificates`.
    """
    entries = entries_of(main)
    own = {domain: spellings("domains", domain) for domain in domains}
    alike = {brand: spellings("brands", brand) for brand in brands}
    # Read once, however many domains there are.
    named = with_name(entries, [spelling for each in own.values() for spelling in each])
    found: list[ir.Table] = []
    for domain in own:
        names = name_history(named, domain)
        found.append(names.mutate(watched=ibis.literal(domain), reason=ibis.literal(OF_DOMAIN)).select(NEWS))
    for brand in alike:
        names = look_alikes(entries, brand, own=[*own, *alike])
        found.append(names.mutate(watched=ibis.literal(brand)).select(NEWS))
    news = without_told(ibis.union(*found) if len(found) > 1 else found[0], told)
    return news.order_by("watched", ibis.desc("first_seen"), "name").to_pyarrow()
