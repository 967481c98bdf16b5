"""Which indices of each log the rows of a table have, file by file."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from numpy.typing import NDArray

from ctkit.datafile import FileBounds
from ctkit.errors import TableError
from ctkit.keys import read_index
from ctkit.ranges import RangeSet
from ctkit.remembered import BLOCKS, RUNS, recall, remember
from ctkit.table import folder_of

_READERS = 2
"""Files that are read at once: Arrow and NumPy leave the interpreter to others while they work."""


def find_covered(stretches: Mapping[str, tuple[int, int]], *tables: DeltaTable | None) -> dict[str, RangeSet]:
    """Return which indices of each log have a row in one of the tables.

    Files are not opened if by the statistics of their table's log they have nothing of the stretches, or if it is
    remembered what they hold (`ctkit.remembered`).

    Parameters
    ----------
    stretches
        URL -> ``[start, end)`` that is asked about.
    tables
        At the versions that count; None for one that does not exist.

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
        for url, covered in _runs_of(table, stretches) if table else ():
            if url in stretches:
                found[url].append(covered)
    return {url: RangeSet.joined(sets) for url, sets in found.items()}


def _runs_of(table: DeltaTable, stretches: Mapping[str, tuple[int, int]]) -> Iterator[tuple[str, RangeSet]]:
    bounds = FileBounds(table)
    states = _states_of(bounds)
    blocks = _of_files(recall(table), states)
    known = pc.is_in(states, value_set=blocks["file"].combine_chunks().dictionary)
    unread = np.flatnonzero(bounds.may_hold_any(stretches) & ~known.to_numpy(zero_copy_only=False))
    if len(unread):
        blocks = _in_order(pa.concat_tables([blocks, _read(table, bounds.files[unread], states.take(unread))]))
        remember(table, _of_files(blocks, states))
    return _by_log(blocks)


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


def _read(table: DeltaTable, files: NDArray[np.object_], states: pa.Array) -> pa.Table:
    """Return the blocks of some files."""
    number: list[int] = []
    urls: list[str] = []
    sets: list[RangeSet] = []
    pool = ThreadPoolExecutor(_READERS, "coverage")
    try:
        for at, of_file in enumerate(pool.map(_read_file, files)):
            number += [at] * len(of_file)
            urls += of_file
            sets += of_file.values()
    except TableError as error:
        raise TableError(folder_of(table), f"a file of it cannot be read: {error}") from error
    finally:
        pool.shutdown(cancel_futures=True)
    offsets = pa.array(np.cumsum([0, *map(len, sets)]), pa.int64())
    starts, ends = (np.concatenate([getattr(each, name) for each in sets]) for name in ("starts", "ends"))
    columns = [
        pa.DictionaryArray.from_arrays(pa.array(number, pa.int32()), states),
        pa.array(urls, pa.string()).dictionary_encode(),
        pa.LargeListArray.from_arrays(offsets, pa.array(starts), RUNS),
        pa.LargeListArray.from_arrays(offsets, pa.array(ends), RUNS),
    ]
    return pa.table(columns, BLOCKS)


def _read_file(path: str) -> dict[str, RangeSet]:
    """Return which indices of each log a file has; of one without rows, none of a log without a name."""
    found: dict[str, list[RangeSet]] = defaultdict(list)
    for url, index in read_index(path):
        found[url].append(RangeSet.holding(index))
    return {url: RangeSet.joined(sets) for url, sets in found.items()} or {"": RangeSet.of()}


def _of_files(blocks: pa.Table, states: pa.Array) -> pa.Table:
    """Return the blocks of the files that are in one of the given states."""
    files = blocks["file"].combine_chunks()
    wanted = pc.is_in(files.dictionary, value_set=states.drop_null())
    if pc.all(wanted).as_py():
        return blocks
    kept = blocks.filter(wanted.take(files.indices))
    # Not the names of the others, too.
    return kept.set_column(0, BLOCKS.field("file"), kept["file"].cast(pa.string()).dictionary_encode())


def _in_order(blocks: pa.Table) -> pa.Table:
    """Return the blocks by log, those of a log by their first index."""
    blocks = blocks.unify_dictionaries().combine_chunks()
    starts = blocks["starts"].chunk(0)
    first = np.append(starts.values, 0)[starts.offsets[:-1]]
    return blocks.take(np.lexsort((first, blocks["source_url"].chunk(0).indices)))


def _by_log(blocks: pa.Table) -> Iterator[tuple[str, RangeSet]]:
    """Yield the URL of each log and its indices; the blocks are by log."""
    logs, starts, ends = (blocks[name].combine_chunks() for name in BLOCKS.names[1:])
    codes, offsets = logs.indices.to_numpy(), starts.offsets.to_numpy()
    edges = [0, *(np.flatnonzero(codes[1:] != codes[:-1]) + 1).tolist(), len(codes)]
    for first, end in pairwise(edges if len(codes) else []):
        runs = (each.values[offsets[first] : offsets[end]].to_numpy() for each in (starts, ends))
        yield logs.dictionary[int(codes[first])].as_py(), RangeSet.merged(*runs)
