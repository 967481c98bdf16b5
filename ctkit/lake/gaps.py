"""Tables -> gaps: which indices of a log no row has."""

import json
import sys
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from pydantic import BeforeValidator, PlainValidator

from ctkit.arguments import Index, WholeNumber, checked, shown
from ctkit.errors import ParameterError
from ctkit.lake.coverage import find_covered
from ctkit.lake.table import check_features, files_of, folder_of
from ctkit.ranges import END, LARGEST_TREE, NOTHING, Int64s, RangeSet
from ctkit.schema import GAP_SCHEMA, KEY
from ctkit.urls import canonical_url

if TYPE_CHECKING:
    import ibis.expr.types as ir


def _as_tuple(pair: object) -> object:
    return tuple(pair) if isinstance(pair, list) else pair


Within = Mapping[str, Annotated[tuple[WholeNumber | None, Index], BeforeValidator(_as_tuple)]]
"""URL of a log -> where to look: ``[start, ceiling)``, or from the log's first row on where start is None."""


def check_gaps(gaps: object) -> pa.Table:
    """Return gaps as a table; anything with an Arrow stream and their columns will do.

    Raises
    ------
    ValueError
        It has none, or other columns, or a gap starts below 0.
    """
    advice = "give the table that ctkit.find_gaps returned, or a part of it"
    try:
        table = pa.table(gaps)
        starts = table.select(GAP_SCHEMA.names).cast(GAP_SCHEMA)["start"]
    except (TypeError, ValueError, LookupError, OverflowError, pa.ArrowException) as error:
        raise ValueError(f"it should have the columns source_url, start, end ({error}); {advice}") from error
    if (pc.min(starts).as_py() or 0) < 0:
        raise ValueError(f"a gap starts below 0; {advice}")
    return table


Gaps = Annotated[pa.Table, PlainValidator(check_gaps)]
"""Anything with an Arrow stream and the columns ``source_url, start, end``."""


def _check_rows(rows: object) -> object:
    # A caller with an ibis table has imported ibis, which takes long.
    ibis = sys.modules.get("ibis")
    is_ibis = ibis is not None and isinstance(rows, ibis.Table) and {*KEY} <= {*rows.columns}
    if not (is_ibis or isinstance(rows, DeltaTable)):
        wanted = "an open table, from ctkit.open_table, or an ibis table with the columns source_url and cert_index"
        raise ValueError(f"it should be {wanted}, but is {shown(rows)}")
    return rows


if TYPE_CHECKING:
    TableOrRows: TypeAlias = DeltaTable | ir.Table
else:
    TableOrRows = Annotated[Any, PlainValidator(_check_rows)]

_LOOKED_AT = b"ctkit.looked_at"
"""Metadata of a gap table: JSON of folder -> version of the tables that it was found in."""


@checked
def find_gaps(
    main: TableOrRows | None,
    staging: TableOrRows | None = None,
    *,
    within: Within,
    internal_only: bool = False,
) -> pa.Table:
    """Find the indices of each log that neither table has.

    Each file of a Delta table is read once only: which indices it has is remembered in the user's cache, unless
    CTKIT_CACHE is empty (`ctkit.lake.remembered`). A table that has outgrown one machine is given as an ibis table: its
    engine, Spark for instance, works out the runs of indices that have a row, and only they come back.

    Parameters
    ----------
    main, staging
        Tables of CT entries, or ibis tables of any backend with the columns ``source_url`` and ``cert_index``; None for
        one that does not exist. A row in either closes its index.
    within
        URL -> ``(start, ceiling)``, half-open. With a start (historical) everything in ``[start, ceiling)`` counts,
        also for a log without any row. With None (catch-up) the log's lowest row in either table is the start, and a
        log without any row has no gaps.
    internal_only
        Leave out what lies above a log's highest row, which the live service may be about to write.

    Returns
    -------
    pyarrow.Table
        Columns ``source_url, start, end`` (`ctkit.schema.GAP_SCHEMA`): the gaps ``[start, end)``, ascending by URL and
        start. None reaches its ceiling.

    Raises
    ------
    ParameterError
        An argument is of the wrong kind, a stretch of `within` cannot be of a log, or two of its URLs name one log.
    SchemaMismatchError
        A table demands of its readers what we do not do.
    TableError
        A file of a Delta table cannot be read. What the engine of an ibis table raises is passed on.

    Examples
    --------
    >>> find_gaps(None, within={"https://ct.example.com/2026h2": (5, 8)}).to_pylist()
    [{'source_url': 'https://ct.example.com/2026h2', 'start': 5, 'end': 8}]
    """
    tables = [table for table in (main, staging) if isinstance(table, DeltaTable)]
    for table in tables:
        check_features(table, "read")
    asked = stretches_by_log(within)
    # Rows at or above the ceiling count only where the highest one does.
    stretches = {url: (start or 0, END if internal_only else ceiling) for url, (start, ceiling) in asked.items()}
    by_log = find_covered(stretches, main, staging)
    found = {}
    for url, (start, ceiling) in sorted(asked.items()):
        covered = by_log.pop(url, NOTHING)
        if start is None or internal_only:
            if not len(covered):
                continue
            start = int(covered.starts[0]) if start is None else start
            ceiling = min(ceiling, int(covered.ends[-1])) if internal_only else ceiling
        found[url] = covered.missing(start, ceiling)
    looked_at = {folder_of(table): table.version() for table in tables}
    return gaps_of(found, {_LOOKED_AT: json.dumps(looked_at)})


def gaps_of(missing: Mapping[str, RangeSet], metadata: Mapping[bytes, str | bytes] | None = None) -> pa.Table:
    """Return gaps as a table.

    Parameters
    ----------
    missing
        By URL, in the order of the table.
    metadata
        Of the table that they were found in or chosen from.
    """
    found = []
    for url, ranges in missing.items():
        codes = pa.DictionaryArray.from_arrays(np.zeros(len(ranges), np.int32), [url])
        found.append(pa.table([codes, ranges.starts, ranges.ends], GAP_SCHEMA))
    # In one piece, of which arrays are made without a copy. The last of these makes two of one, so that they are copied
    # from NumPy's memory to Arrow's: readers will use Arrow's threads, which may outlive the interpreter.
    gaps = pa.concat_tables([*(each for each in found if len(each)), GAP_SCHEMA.empty_table()])
    return gaps.unify_dictionaries().combine_chunks().replace_schema_metadata(metadata)


def size_of(gaps: pa.Table) -> int:
    """Return the number of missing entries."""
    # Sums wrap around at 64 bits; their difference fits.
    return ((pc.sum(gaps["end"]).as_py() or 0) - (pc.sum(gaps["start"]).as_py() or 0)) % (1 << 64)


def without(gaps: pa.Table, ranges: Mapping[str, RangeSet]) -> pa.Table:
    """Return gaps as `find_gaps` found them, less some indices of each log.

    Examples
    --------
    >>> gaps = find_gaps(None, within={"https://ct.example.com/2026h2": (5, 8)})
    >>> without(gaps, {"https://ct.example.com/2026h2": RangeSet.of((5, 7))}).to_pylist()
    [{'source_url': 'https://ct.example.com/2026h2', 'start': 7, 'end': 8}]
    """
    left = {url: found.minus(ranges.get(url, NOTHING)) for url, found in ranges_by_log(gaps).items()}
    return gaps_of(left, gaps.schema.metadata)


def stretches_by_log(within: Within) -> dict[str, tuple[int | None, int]]:
    """Return the stretches by canonical URL.

    Raises
    ------
    ParameterError
        One cannot be of a log, or one log has two.
    """
    found: dict[str, tuple[int | None, int]] = {}
    for given, (start, ceiling) in within.items():
        url = canonical_url(given)
        if url in found:
            raise ParameterError(f"within names the log {url} twice, once as {given!r}: give it once, with one stretch")
        if not (0 <= (start or 0) <= LARGEST_TREE and ceiling <= LARGEST_TREE):
            message = f"within says ({start!r}, {ceiling!r}) of {url}: give indices from 0 to {LARGEST_TREE}"
            raise ParameterError(f"{message}, or None as start for the log's first row")
        found[url] = (start, ceiling)
    return found


def still_missing(gaps: pa.Table, table: DeltaTable) -> dict[str, RangeSet]:
    """Return the gaps of each log that the table has no row for, as arrays.

    The table is read only if it has rows and is not at the version that the gaps were found in: another run may have
    filled them since.

    Parameters
    ----------
    gaps
        As for `ranges_by_log`.
    table
        What is to be written to, at its newest version.
    """
    wanted = ranges_by_log(gaps)
    looked_at = json.loads((pa.table(gaps).schema.metadata or {}).get(_LOOKED_AT, b"{}"))
    if looked_at.get(folder_of(table)) == table.version() or not files_of(table):
        return wanted
    within = {url: (int(ranges.starts[0]), int(ranges.ends[-1])) for url, ranges in wanted.items()}
    missing = ranges_by_log(find_gaps(table, within=within))
    left = {url: ranges.intersect(missing[url]) for url, ranges in wanted.items() if url in missing}
    return {url: ranges for url, ranges in left.items() if len(ranges)}


def ranges_by_log(gaps: pa.Table) -> dict[str, RangeSet]:
    """Return the gaps of each log as arrays.

    Parameters
    ----------
    gaps
        Anything with an Arrow stream and the columns ``source_url, start, end``: what `find_gaps` returned, or what was
        chosen from it. Order and overlap do not matter.

    Raises
    ------
    ParameterError
        A gap cannot be one of a log.

    Examples
    --------
    >>> gaps = pa.table({"source_url": ["u", "u"], "start": [4, 1], "end": [9, 5]})
    >>> ranges_by_log(gaps)["u"].size
    8
    """
    table = pa.table(gaps).select(GAP_SCHEMA.names).cast(GAP_SCHEMA)
    if not table.num_rows:
        return {}
    # Of a table in one piece nothing is copied.
    logs, starts, ends = (column.chunk(0) for column in table.combine_chunks().columns)
    codes, starts, ends = logs.indices.to_numpy(), starts.to_numpy(), ends.to_numpy()
    if (codes[:-1] > codes[1:]).any():
        order = np.argsort(codes, kind="stable")
        codes, starts, ends = codes[order], starts[order], ends[order]
    edges = np.searchsorted(codes, np.arange(len(logs.dictionary) + 1, dtype=codes.dtype)).tolist()
    parts = zip(logs.dictionary.to_pylist(), pairwise(edges), strict=True)
    return {url: _ranges_of(url, starts[low:high], ends[low:high]) for url, (low, high) in parts if low < high}


def _ranges_of(url: str, starts: Int64s, ends: Int64s) -> RangeSet:
    if starts.min() < 0 or ends.max() > LARGEST_TREE:
        message = f"gaps name entries of {url} that no log can have: give indices from 0 to {LARGEST_TREE}"
        raise ParameterError(message)
    return RangeSet.merged(starts, ends)
