"""Tables -> gaps: which indices of a log no row has."""

import json
from collections.abc import Mapping
from itertools import pairwise

import ibis
import numpy as np
import pyarrow as pa
from deltalake import DeltaTable

from ctkit.errors import ParameterError
from ctkit.ranges import RangeSet
from ctkit.schema import GAP_SCHEMA, canonical_url
from ctkit.table import files_of, folder_of, read_tables, reading

Within = Mapping[str, tuple[int | None, int]]
"""For each log's URL where to look: ``[start, ceiling)``, or from the log's first row on where start is None."""

_NOWHERE = -1

_LOOKED_AT = b"ctkit.looked_at"
"""Metadata of a gap table: JSON of folder -> version of the tables that it was found in."""


def find_gaps(
    main: DeltaTable | None,
    staging: DeltaTable | None = None,
    *,
    within: Within,
    internal_only: bool = False,
) -> pa.Table:
    """Find the indices of each log that neither table has.

    Parameters
    ----------
    main, staging
        Tables of CT entries; None for one that does not exist. A row in either closes its index.
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
        A start is negative, or two URLs of `within` are those of one log.

    Examples
    --------
    >>> find_gaps(None, within={"https://ct.example.com/2026h2": (5, 8)}).to_pylist()
    [{'source_url': 'https://ct.example.com/2026h2', 'start': 5, 'end': 8}]
    """
    urls = [canonical_url(url) for url in within]
    for given, url, (start, _) in zip(within, urls, within.values(), strict=True):
        if urls.count(url) > 1:
            raise ParameterError(f"within names the log {url} twice, once as {given!r}: give it once, with one stretch")
        if start is not None and start < 0:
            raise ParameterError(f"within says that {url} starts at {start}: give 0 or more, or None for its first row")
    bounds = pa.table(
        {
            "source_url": urls,
            "start": [_NOWHERE if start is None else start for start, _ in within.values()],
            "ceiling": [ceiling for _, ceiling in within.values()],
        },
        schema=pa.schema({"source_url": pa.string(), "start": pa.int64(), "ceiling": pa.int64()}),
    )
    with reading(main, staging) as connection:
        rows = read_tables(connection, main, staging).select("source_url", "cert_index")
        # The URLs are few and known: as literals they let DuckDB skip row groups by their statistics.
        rows = rows.filter(rows.source_url.isin(bounds["source_url"].to_pylist()))
        covered = rows.group_by("source_url").agg(lowest=rows.cert_index.min(), highest=rows.cert_index.max())
        logs = ibis.memtable(bounds).join(covered, "source_url", how="inner" if internal_only else "left")
        logs = logs.select(
            logs.source_url,
            start=ibis.ifelse(logs.start == _NOWHERE, logs.lowest, logs.start),
            end=ibis.least(logs.ceiling, logs.highest + 1) if internal_only else logs.ceiling,
        )
        # In catch-up a log without rows has no start: it drops out here.
        logs = logs.filter(logs.start < logs.end)
        logs = ibis.memtable(logs.to_pyarrow())
        inside = rows.join(logs, "source_url")
        inside = inside.filter(inside.cert_index >= inside.start, inside.cert_index < inside.end)
        # Two sentinels for each log turn its leading and trailing gap into ordinary ones.
        indices = ibis.union(
            inside.select("source_url", "cert_index"),
            logs.select("source_url", cert_index=logs.start - 1),
            logs.select("source_url", cert_index=logs.end),
        )
        following = indices.cert_index.lead().over(group_by=indices.source_url, order_by=indices.cert_index)
        steps = indices.mutate(following=following)
        gaps = steps.filter(steps.following - steps.cert_index > 1)
        gaps = gaps.select("source_url", start=gaps.cert_index + 1, end=gaps.following)
        # Batch by batch, so that the URLs of all gaps are never there as text.
        batches = gaps.order_by("source_url", "start").to_pyarrow_batches()
        found = pa.Table.from_batches((batch.cast(GAP_SCHEMA) for batch in batches), GAP_SCHEMA)
    # In one piece, of which arrays are made without a copy.
    return (
        found.unify_dictionaries()
        .combine_chunks()
        .replace_schema_metadata(
            {_LOOKED_AT: json.dumps({folder_of(table): table.version() for table in (main, staging) if table})}
        )
    )


def still_missing(gaps: pa.Table, table: DeltaTable) -> dict[str, RangeSet]:
    """Return the gaps of each log that the table has no row for, as arrays.

    The table is asked only if it has rows and is not at the version that the gaps were found in: another run may have
    filled them.

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
    return {url: RangeSet.merged(starts[low:high], ends[low:high]) for url, (low, high) in parts if low < high}
