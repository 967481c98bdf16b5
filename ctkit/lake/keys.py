"""Keys of rows as integers: read from Parquet files, sorted, and kept out of memory."""

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from tempfile import TemporaryFile, gettempdir
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ctkit.errors import CtkitError, TableError
from ctkit.lake.digests import RESTORE
from ctkit.lake.reasons import first_line
from ctkit.ranges import Int64s, RangeSet
from ctkit.schema import KEY

Number = TypeVar("Number", bound=np.generic)

INDEX_BITS = 40
"""Bits of a key for ``cert_index``, as many as ``leaf_index`` has in the Static CT API (``uint40``)."""

NO_KEY = -1
"""The key of a row of another log, or with an index that no log has."""

_ROWS_AT_ONCE = 1_000_000


@dataclass(frozen=True, eq=False)
class Keys:
    """The keys of one file: row ``i`` is of the log ``urls[log[i]]``, at ``index[i]``."""

    urls: list[str | None]
    log: Int64s
    index: Int64s

    def numbered(self, logs: dict[str, int]) -> Int64s:
        """Return each key as ``number of the log << INDEX_BITS | index``, `NO_KEY` where that is not possible."""
        numbers = np.array([logs.get(url or "", NO_KEY) for url in self.urls] + [NO_KEY], np.int64)[self.log]
        known = (numbers != NO_KEY) & (self.index >> INDEX_BITS == 0)
        return np.where(known, numbers << INDEX_BITS | self.index, NO_KEY)

    def by_url(self) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Yield each URL, and tell of each row whether it is of that log and has an index."""
        for number, url in enumerate(self.urls):
            if url is not None:
                yield url, (self.log == number) & (self.index >= 0)

    def within(self, stretches: Mapping[str, RangeSet]) -> NDArray[np.bool_]:
        """Tell of each row whether it lies in the stretches of its log."""
        found = np.zeros(len(self.index), np.bool_)
        for url, mine in self.by_url():
            if url in stretches:
                found |= mine & stretches[url].contains(self.index)
        return found


def read_keys(path: str) -> Keys:
    """Read the key columns of a Parquet file.

    Raises
    ------
    TableError
        It cannot be read.
    """
    with _reading(path) as parquet:
        return keys_in(parquet.read(list(KEY), use_threads=False))


def key_batches(path: str) -> Iterator[Keys]:
    """Read the key columns of a Parquet file in parts of whole row groups, of about a million rows.

    Raises
    ------
    TableError
        It cannot be read.
    """
    with _reading(path) as parquet:
        footer = parquet.metadata
        ends = np.cumsum([footer.row_group(at).num_rows for at in range(footer.num_row_groups)])
        for _, groups in groupby(range(len(ends)), lambda at: ends[at] // _ROWS_AT_ONCE):
            yield keys_in(parquet.read_row_groups(list(groups), list(KEY), use_threads=False))


def keys_in(table: pa.Table) -> Keys:
    """Return the keys of rows that are in memory."""
    urls = table[KEY[0]]
    if not pa.types.is_dictionary(urls.type):
        urls = urls.dictionary_encode()
    urls = pa.chunked_array(urls.unify_dictionaries().chunks, urls.type).combine_chunks()
    codes = urls.indices.cast(pa.int64()).fill_null(NO_KEY)
    index = table[KEY[1]].combine_chunks().cast(pa.int64()).fill_null(NO_KEY)
    # Some writers do not mark it as text; as bytes it would equal nothing.
    return Keys(urls.dictionary.cast(pa.string()).to_pylist(), codes.to_numpy(), index.to_numpy())


@contextmanager
def _reading(path: str) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(
            path, read_dictionary=[KEY[0]], pre_buffer=False, page_checksum_verification=True
        ) as parquet:
            yield parquet
    except (OSError, KeyError, UnicodeDecodeError, pa.ArrowException) as error:
        message = f"its keys cannot be read ({first_line(error)}). Nothing was changed; {RESTORE}"
        raise TableError(path, message) from error


def scattered(keys: Int64s, parts: int) -> Int64s:
    """Return for each key which of some parts it belongs to; keys at regular distances spread over all parts too.

    Examples
    --------
    >>> np.bincount(scattered(np.arange(0, 1000, 10), 2))
    array([51, 49])
    """
    mixed: Int64s = (keys.astype(np.uint64) * _ODD >> np.uint64(32)).astype(np.int64)
    return mixed % parts


# Multiplied by it, whose bits are those of the golden ratio, numbers differ in their upper bits (Knuth, TAOCP 6.4).
_ODD = np.uint64(0x9E3779B97F4A7C15)


class SortedKeys:
    """Keys in ascending order, and of each the number of its row, in a temporary file without a name.

    Parameters
    ----------
    keys, rows
        int64 arrays, pairwise of one length, in any order; the lists are emptied. Of equal keys the one that is given
        first comes first.
    """

    def __init__(self, keys: list[Int64s], rows: list[Int64s]) -> None:
        self._arrays = DiskArrays(_in_order(keys, rows))

    @property
    def keys(self) -> Int64s:
        """The keys; in memory for as long as they are used."""
        return self._arrays.mapped()[0]

    def repeated(self) -> tuple[Int64s, Int64s]:
        """Return the rows whose key was given before, and for each the row that was the first."""
        keys, rows = self._arrays.mapped()
        again = np.flatnonzero(keys[1:] == keys[:-1]) + 1
        return rows[again], rows[np.searchsorted(keys, keys[again])]

    def common(self, others: Int64s) -> tuple[Int64s, Int64s]:
        """Return the rows of the keys that are among `others`, which ascend, and where in `others` each is."""
        keys, numbers = self._arrays.mapped()
        first, last = np.searchsorted(keys, others[:1]), np.searchsorted(keys, others[-1:], side="right")
        near = slice(int(first.sum()), int(last.sum()))
        if near.stop - near.start < len(others):
            at, hit = _find(others, keys[near])
            return numbers[near][hit], at[hit]
        at, hit = _find(keys, others)
        return numbers[at[hit]], np.flatnonzero(hit)


def _find(ordered: Int64s, wanted: Int64s) -> tuple[Int64s, NDArray[np.bool_]]:
    """Return where each wanted key is in an ordered array, and whether it is there at all."""
    at = np.searchsorted(ordered, wanted)
    at[at == len(ordered)] = 0
    return at, ordered[at] == wanted if len(ordered) else np.zeros(len(wanted), bool)


def _in_order(keys: list[Int64s], rows: list[Int64s]) -> Iterator[Int64s]:
    unordered = np.concatenate(keys)
    keys.clear()
    order = np.argsort(unordered, kind="stable")
    # In place, where unordered[order] would be one array more.
    unordered.sort()
    yield unordered
    del unordered
    numbers = np.concatenate(rows)
    rows.clear()
    yield numbers[order]


class DiskArrays(Generic[Number]):
    """Arrays of one length and type in a temporary file that has no name, and is gone with its last user.

    Parameters
    ----------
    arrays
        At least one; each is written before the next is asked for.

    Raises
    ------
    CtkitError
        There is no room for them.
    """

    def __init__(self, arrays: Iterable[NDArray[Number]]) -> None:
        try:
            self._file = TemporaryFile()  # noqa: SIM115 - open for as long as it may be mapped
            weakref.finalize(self, self._file.close)
            count = size = 0
            for array in arrays:
                self._kind, size = array.dtype, len(array)
                count += 1
                array.tofile(self._file)
                # Its memory, before the next is made.
                del array
            self._file.flush()
        except OSError as error:
            message = f"{gettempdir()}: there is no room for the keys of a merge ({first_line(error)})"
            raise CtkitError(f"{message}. Make room, or name another folder in TMPDIR, then run again") from error
        self._shape = (count, size)

    def mapped(self) -> list[NDArray[Number]]:
        """Return the arrays, writable, in memory only as far as and as long as they are used."""
        if not self._shape[1]:
            # There is no mapping of nothing.
            return list(np.empty(self._shape, self._kind))
        return list(np.memmap(self._file, self._kind, "r+", shape=self._shape))
