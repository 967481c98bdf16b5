"""Which indices of each log the rows of a table have, file by file.

The key columns of a file become runs of indices in NumPy, and the runs of all files one `RangeSet` for each log. Of a
Delta table that is no question to DuckDB, which would take twenty times as long, and could not say which file has what,
so that nothing could be remembered. An ibis table is asked (`ctkit.lake.questions.covered_runs`).
"""

import os
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import date
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from numpy.typing import NDArray

from ctkit.errors import TableError
from ctkit.lake.files import FileBounds
from ctkit.lake.keys import NO_KEY, key_batches
from ctkit.lake.remembered import BLOCKS, RUNS, recall, remember
from ctkit.lake.table import add_actions, folder_of
from ctkit.ranges import END, NOTHING, Int64s, RangeSet
from ctkit.schema import PARTITION

if TYPE_CHECKING:
    import ibis.expr.types as ir

_Runs = tuple[Int64s, Int64s, Int64s]
"""Numbers of logs, and of each one run of indices: its start and its end."""

_NO_RUNS = (np.empty(0, np.int64),) * 3


_UNREADABLE: ContextVar[dict[str, TableError] | None] = ContextVar("_UNREADABLE", default=None)


@contextmanager
def without_unreadable() -> Iterator[dict[str, TableError]]:
    """Take the rows of files that cannot be read for missing, in this thread, for as long as the context lasts.

    Yields path -> error of such files, which grows as they are met. Without it, the first one raises.
    """
    met: dict[str, TableError] = {}
    token = _UNREADABLE.set(met)
    try:
        yield met
    finally:
        _UNREADABLE.reset(token)


def find_covered(
    stretches: Mapping[str, tuple[int, int]], *tables: "DeltaTable | ir.Table | None"
) -> dict[str, RangeSet]:
    """Return which indices of each log have a row in one of the tables.

    A Delta table's files are not opened if by the statistics of its log they have nothing of the stretches, or if it is
    remembered what they hold (`ctkit.lake.remembered`).

    Parameters
    ----------
    stretches
        URL -> ``[start, end)`` that is asked about.
    tables
        Delta tables at the versions that count, or ibis tables; None for one that does not exist.

    Returns
    -------
    dict
        URL -> indices: all of the stretch, and perhaps some beyond it. Logs without any are left out.

    Raises
    ------
    TableError
        A file cannot be read.
    """
    found: dict[str, list[RangeSet]] = defaultdict(list)
    for table in tables:
        if table is not None:
            for url, covered in (_runs_of if isinstance(table, DeltaTable) else _ask)(table, stretches):
                found[url].append(covered)
    return {url: RangeSet.joined(sets) for url, sets in found.items()}


def find_staged(
    stretches: Mapping[str, tuple[int, int]], main: DeltaTable | None, staging: DeltaTable | None
) -> dict[str, RangeSet]:
    """Return which indices of each log, within its stretch, have a row in staging and none in main.

    Logs without any are left out.

    Raises
    ------
    TableError
        A file cannot be read.
    """
    staged = {url: rows.between(*stretches[url]) for url, rows in find_covered(stretches, staging).items()}
    # Of main, only what may be staged, too.
    spans = {url: (int(rows.starts[0]), int(rows.ends[-1])) for url, rows in staged.items() if len(rows)}
    held = find_covered(spans, main) if spans else {}
    found = {url: staged[url].minus(held.get(url, NOTHING).between(*span)) for url, span in spans.items()}
    return {url: rows for url, rows in found.items() if len(rows)}


def count_from(starts: Mapping[str, int], *tables: DeltaTable | None) -> dict[str, int]:
    """Return how many indices of each log, from its start on, have a row in one of the tables.

    Logs without any are left out.

    Raises
    ------
    TableError
        A file cannot be read.
    """
    covered = find_covered({url: (start, END) for url, start in starts.items()}, *tables)
    found = {url: rows.between(starts[url], END).size for url, rows in covered.items()}
    return {url: count for url, count in found.items() if count}


def _ask(rows: "ir.Table", stretches: Mapping[str, tuple[int, int]]) -> Iterator[tuple[str, RangeSet]]:
    # Not with this module: ibis takes long to import.
    from ctkit.lake.questions import covered_runs

    runs = covered_runs(rows, stretches).to_pyarrow()
    starts, ends = (runs[name].to_numpy() for name in ("start", "end"))
    logs = runs["source_url"].value_counts()
    edges = np.cumsum([0, *logs.field("counts").to_pylist()]).tolist()
    for url, (first, end) in zip(logs.field("values").to_pylist(), pairwise(edges), strict=True):
        yield url, RangeSet.merged(starts[first:end], ends[first:end])


def find_repeated(stretches: Mapping[str, tuple[int, int]], table: DeltaTable) -> dict[str, RangeSet]:
    """Return the indices of each log, within its stretch, that several files of a table have.

    What is remembered of a file does not tell a row that it repeats itself; what ctkit writes has none.

    Raises
    ------
    TableError
        A file cannot be read.
    """
    found = {}
    for url, starts, ends in _by_log(_blocks_of(table, stretches), stretches):
        if len(repeated := RangeSet.repeated(starts, ends).between(*stretches[url])):
            found[url] = repeated
    return found


def runs_by_file(stretches: Mapping[str, tuple[int, int]], table: DeltaTable) -> Iterator[tuple[str, str, RangeSet]]:
    """Yield the path of each file that may have entries of the stretches, the URL of each log in it, and its indices.

    Raises
    ------
    TableError
        A file cannot be read.
    """
    blocks = _blocks_of(table, stretches)
    files, logs, starts, ends = (column.combine_chunks() for column in blocks.columns)
    paths, urls, offsets = files.dictionary.to_pylist(), logs.dictionary.to_pylist(), starts.offsets.to_numpy()
    for number, (file, log) in enumerate(zip(files.indices.to_pylist(), logs.indices.to_pylist(), strict=True)):
        if log is not None and urls[log] in stretches:
            runs = slice(offsets[number], offsets[number + 1])
            # A state ends with the path.
            indices = RangeSet.merged(starts.values[runs].to_numpy(), ends.values[runs].to_numpy())
            yield paths[file].split(" ", 2)[2], urls[log], indices


def find_days(
    stretches: Mapping[str, tuple[int, int]], *tables: DeltaTable | None
) -> dict[str, dict[date, tuple[int, int]]]:
    """Return, by log and date, the lowest index that has a row of that ``seen_date``, and the one behind the highest.

    Only indices within a log's stretch count; what no calendar knows as a date is left out.

    Raises
    ------
    TableError
        A file cannot be read.
    """
    found: dict[str, dict[date, tuple[int, int]]] = defaultdict(dict)
    for table in tables:
        if table is None:
            continue
        actions = add_actions(table)
        folder = folder_of(table)
        dates = {
            f"{folder}/{name}": values[PARTITION]
            for name, values in zip(actions["path"].to_pylist(), actions["partition"].to_pylist(), strict=True)
        }
        for path, url, indices in runs_by_file(stretches, table):
            within = indices.between(*stretches[url])
            with suppress(TypeError, ValueError):
                day = date.fromisoformat(dates[path])
                if len(within):
                    first, behind = found[url].get(day, (END, 0))
                    found[url][day] = min(first, int(within.starts[0])), max(behind, int(within.ends[-1]))
    return dict(found)


def first_and_last(urls: Iterable[str], *tables: DeltaTable | None) -> dict[str, tuple[int, int]]:
    """Return the lowest and the highest index of each log that has a row in one of the tables."""
    covered = find_covered(dict.fromkeys(urls, (0, END)), *tables)
    return {url: (int(each.starts[0]), int(each.ends[-1]) - 1) for url, each in covered.items() if len(each)}


def logs_in(*tables: DeltaTable | None) -> set[str]:
    """Return the URL of each log that has a row in one of the tables; what cannot be read is left out."""
    found: set[str] = set()
    for table in tables:
        if table is None:
            continue
        bounds = FileBounds(table)
        # Statistics tell exactly of a file of one log; others may hold their first and their last one.
        is_of_one = bounds.first_url == bounds.last_url
        found |= {*bounds.first_url[is_of_one].tolist()}
        mixed = {*bounds.first_url[~is_of_one].tolist(), *bounds.last_url[~is_of_one].tolist()}
        with suppress(TableError):
            logs = _blocks_of(table, dict.fromkeys(mixed, (0, END)))["source_url"]
            found |= {*logs.unique().drop_null().to_pylist()}
    return found - {""}


def source_names(*tables: DeltaTable | None) -> dict[str, str]:
    """Return URL -> ``source_name`` in the tables, for every log that has a name other than its URL."""
    # Not with this module: ibis takes long to import.
    from ctkit.lake.querying import read_tables, reading
    from ctkit.lake.questions import source_names as named

    with reading(*tables) as connection:
        names = named(read_tables(connection, *tables)).to_pyarrow()
    return dict(zip(names["source_url"].to_pylist(), names["name"].to_pylist(), strict=True))


def _runs_of(table: DeltaTable, stretches: Mapping[str, tuple[int, int]]) -> Iterator[tuple[str, RangeSet]]:
    for url, starts, ends in _by_log(_blocks_of(table, stretches), stretches):
        yield url, RangeSet.merged(starts, ends)


def _blocks_of(table: DeltaTable, stretches: Mapping[str, tuple[int, int]]) -> pa.Table:
    """Return what the files of a table hold, by log; read those that are not remembered and may have the stretches."""
    bounds = FileBounds(table)
    states = _states_of(bounds)
    blocks = _of_files(recall(table), states)
    known = pc.is_in(states, value_set=blocks["file"].combine_chunks().dictionary)
    unread = np.flatnonzero(bounds.may_hold_any(stretches) & ~known.to_numpy(zero_copy_only=False))
    if read := _read(table, bounds.files[unread], states.take(unread)) if len(unread) else None:
        blocks = _in_order(pa.concat_tables([blocks, read]) if len(blocks) else read)
        remember(table, blocks)
    return blocks


def _states_of(bounds: FileBounds) -> pa.Array:
    """Return a text for each file that changes when the file does; null if the file is not what the log says it is."""
    states: list[str | None] = []
    for path, size in zip(bounds.files, bounds.sizes, strict=True):
        try:
            status = os.stat(path)
        except OSError:
            states.append(None)
        else:
            states.append(f"{status.st_mtime_ns} {size} {path}" if status.st_size == size else None)
    return pa.array(states, pa.string())


def _read(table: DeltaTable, files: NDArray[np.object_], states: pa.Array) -> pa.Table | None:
    """Return the blocks of some files; None if none of them can be read (`without_unreadable`)."""
    unreadable = _UNREADABLE.get()
    found, good = [], []
    for number, path in enumerate(files):
        try:
            found.append(_read_file(path))
        except TableError as error:
            if unreadable is None:
                raise TableError(folder_of(table), f"a file of it cannot be read: {error}") from error
            unreadable[path] = error
        else:
            good.append(number)
    if not found:
        return None
    files, states = files[good], states.take(good)
    urls, runs = zip(*found, strict=True)
    counts = [np.bincount(log, minlength=len(of_file)) for of_file, (log, *_) in zip(urls, runs, strict=True)]
    file = np.repeat(np.arange(len(files)), list(map(len, urls)))
    offsets = pa.array(np.cumsum(np.concatenate([[0], *counts])))
    _, starts, ends = map(np.concatenate, zip(*runs, strict=True))
    columns = [
        states.take(file).dictionary_encode(),
        pa.array(chain.from_iterable(urls), pa.string()).dictionary_encode(),
        pa.LargeListArray.from_arrays(offsets, pa.array(starts), RUNS),
        pa.LargeListArray.from_arrays(offsets, pa.array(ends), RUNS),
    ]
    return pa.table(columns, BLOCKS)


def _read_file(path: str) -> tuple[list[str], _Runs]:
    """Return the URLs of the logs in a file and its runs, by the log's number among them; one log at least."""
    numbers: dict[str, int] = {}
    runs: list[_Runs] = []
    for keys in key_batches(path):
        of_urls = [NO_KEY if url is None else numbers.setdefault(url, len(numbers)) for url in keys.urls]
        log, index = np.array([*of_urls, NO_KEY], np.int64)[keys.log], keys.index
        good = (log >= 0) & (index >= 0) & (index < END)
        if not good.all():
            log, index = log[good], index[good]
        runs.append(_joined(log, index, index + 1))
    if len(runs) != 1:
        runs = [_joined(*map(np.concatenate, zip(_NO_RUNS, *runs, strict=True)))]
    return list(numbers) or [""], runs[0]


def _joined(log: Int64s, starts: Int64s, ends: Int64s) -> _Runs:
    """Return runs in the order of log and start, those that go on where the one before ends as one."""
    same = log[1:] == log[:-1]
    if not ((log[1:] > log[:-1]) | same & (starts[1:] >= starts[:-1])).all():
        order = np.lexsort((starts, log))
        log, starts, ends = log[order], starts[order], ends[order]
        same = log[1:] == log[:-1]
    first = np.flatnonzero(np.append(np.ones(len(log[:1]), bool), ~same | (starts[1:] > ends[:-1])))
    return log[first], starts[first], np.maximum.reduceat(ends, first) if len(first) else ends


def _of_files(blocks: pa.Table, states: pa.Array) -> pa.Table:
    """Return the blocks of the files that are in one of the given states."""
    files = blocks["file"].combine_chunks()
    wanted = pc.is_in(files.dictionary, value_set=states.drop_null())
    if not files.null_count and pc.all(wanted).as_py():
        return blocks
    kept = blocks.filter(wanted.take(files.indices))
    # Not the names of the others, too.
    return kept.set_column(0, BLOCKS.field("file"), kept["file"].cast(pa.string()).dictionary_encode())


def _in_order(blocks: pa.Table) -> pa.Table:
    """Return the blocks by log, those of a log by their first index."""
    blocks = blocks.unify_dictionaries().combine_chunks()
    log, starts = (blocks[name].chunk(0) for name in ("source_url", "starts"))
    first = np.append(starts.values, 0)[starts.offsets[:-1]]
    order = np.lexsort((first, log.indices))
    return blocks if (order[:-1] < order[1:]).all() else blocks.take(order)


def _by_log(blocks: pa.Table, urls: Container[str]) -> Iterator[tuple[str, Int64s, Int64s]]:
    """Yield the URL of each of some logs and its runs of indices, of all files; the blocks are by log."""
    logs, starts, ends = (blocks[name].combine_chunks() for name in BLOCKS.names[1:])
    codes, offsets = logs.indices.to_numpy(), starts.offsets.to_numpy()
    edges = [0, *(np.flatnonzero(codes[1:] != codes[:-1]) + 1).tolist(), len(codes)]
    for first, end in pairwise(edges if len(codes) else []):
        # Blocks are of whole files, which have other logs, too.
        if (url := logs.dictionary[int(codes[first])].as_py()) in urls:
            runs = slice(offsets[first], offsets[end])
            yield url, starts.values[runs].to_numpy(), ends.values[runs].to_numpy()
