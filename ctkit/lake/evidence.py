"""What a table shows without its logs: its rows, which of them are proven or altered, and which files are damaged."""

import base64
import errno
import hashlib
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from numpy.typing import NDArray

from ctkit.errors import TableError
from ctkit.lake.digests import digest_in, is_damaged
from ctkit.lake.files import FileBounds, cast_column, plain_type
from ctkit.lake.keys import Keys, keys_in, read_keys
from ctkit.lake.provenance import Statement, proven_in
from ctkit.lake.reasons import first_line
from ctkit.lake.table import as_der_type, folder_of
from ctkit.ranges import END, NOTHING, Int64s, RangeSet, runs_of
from ctkit.schema import KEY

ROWS_PER_BATCH = 4096

_CHECKED = ("as_der", "sha256")
_NEEDED = (*KEY, *_CHECKED)
"""All that must be read of a file that is known to be what was written."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one log in a table.

    Attributes
    ----------
    starts, ends
        Ranges of indices that hold each index as often as there are rows of it, in any order.
    proven
        Indices of which a row lies in a file that is as it was written, by a commit that calls it proven.
    altered
        Indices of which a certificate does not have the SHA-256 that its row gives.
    """

    starts: Int64s
    ends: Int64s
    proven: RangeSet
    altered: RangeSet

    def count(self, start: int, end: int) -> int:
        """Return how many rows there are of ``[start, end)``."""
        return int(np.maximum(np.minimum(self.ends, end) - np.maximum(self.starts, start), 0).sum())

    @property
    def present(self) -> RangeSet:
        """Indices that have a row."""
        return RangeSet.merged(self.starts, self.ends)

    @property
    def repeated(self) -> RangeSet:
        """Indices that have several rows."""
        return RangeSet.repeated(self.starts, self.ends)


def read_evidence(
    table: DeltaTable, urls: Collection[str], statements: Iterable[Statement], *, within: Collection[str] | None = None
) -> tuple[dict[str, Rows], dict[str, str]]:
    """Read every file that can hold a row of some logs, once and to its last byte, a few thousand rows at a time.

    A file that gives the digest of its bytes must have it. Of the others, which other writers made, each column must be
    readable, and what has a page checksum must fit it.

    Parameters
    ----------
    urls
        The logs.
    statements
        From `ctkit.lake.provenance.read_statements`, with what is not believed as ``"off"``.
    within
        Paths of the files to read; all of them if None.

    Returns
    -------
    tuple
        URL -> its rows; and name of each damaged file -> what is wrong with it. Of these, the rows whose keys can be
        read are there, and nothing else.

    Raises
    ------
    TableError
        The table's log cannot be read.
    """
    folder, bounds, proven = folder_of(table), FileBounds(table), proven_in(statements)
    holds_text = as_der_type(table) == "string"
    wanted = np.logical_or.reduce([np.zeros(len(bounds.files), bool), *map(bounds.may_hold, urls)])
    if within is not None:
        # The caller has read their keys, and does not go by the statistics of the table's log.
        wanted = np.isin(bounds.files.astype(str), list(within))
    found: dict[str, list[Rows]] = {url: [] for url in urls}
    damaged: dict[str, str] = {}
    for file, size in zip(bounds.files[wanted], bounds.sizes[wanted], strict=True):
        sound = True
        try:
            rows = _read_rows(file, int(size), urls, holds_text)
        except _UNREADABLE as error:
            sound = False
            damaged[os.path.relpath(file, folder)] = first_line(error)
            rows = _read_indices(file, urls)
        for url, (index, altered) in rows.items():
            stretches = proven[file].get(url, NOTHING) if sound and file in proven else NOTHING
            shown = RangeSet.holding(index).intersect(stretches)
            found[url].append(Rows(*runs_of(index), shown, RangeSet.holding(altered)))
    return {url: _together(parts) for url, parts in found.items()}, damaged


_UNREADABLE = (OSError, ValueError, KeyError, pa.ArrowException)


def _read_rows(file: str, size: int, urls: Collection[str], holds_text: bool) -> dict[str, tuple[Int64s, Int64s]]:
    """Return the indices of each log in a file, and those whose certificate was altered.

    Raises
    ------
    OSError, ValueError, KeyError, pa.ArrowException
        The file is damaged.
    """
    found: dict[str, tuple[list[Int64s], list[Int64s]]] = defaultdict(lambda: ([], []))
    for batch in _sound_batches(file, size):
        keys = keys_in(pa.Table.from_batches([batch.select(list(KEY))]))
        for url, mine in _by_log(keys, urls):
            altered = _altered(batch, mine, holds_text)
            found[url][0].append(keys.index[mine])
            found[url][1].append(keys.index[mine][altered])
    return {url: (np.concatenate(index), np.concatenate(altered)) for url, (index, altered) in found.items()}


def _sound_batches(file: str, size: int) -> Iterator[pa.RecordBatch]:
    """Yield what must be read of a file, as long as nothing is wrong with it."""
    if (has := os.stat(file).st_size) != size:
        raise ValueError(f"it has {has} bytes, not {size} as its table's log says")
    if is_damaged(file):
        raise ValueError("its bytes do not have the SHA-256 in its name")
    # Unbuffered: a file of another writer may be a single row group of a gigabyte.
    with pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True) as parquet:
        if missing := set(_NEEDED) - set(parquet.schema_arrow.names):
            raise ValueError(f"it has no column {', '.join(sorted(missing))}")
        columns = list(_NEEDED) if digest_in(file) else None
        for batch in parquet.iter_batches(ROWS_PER_BATCH, columns=columns, use_threads=False):
            # Arrow reads as text what is not UTF-8; other readers stop there.
            batch.validate(full=True)
            yield batch


def damage_of(file: str, size: int) -> str:
    """Return what is wrong with a file, as `read_evidence` sees it; "" if nothing is.

    Parameters
    ----------
    file, size
        Its path, and how many bytes it has as its table's log says.

    Raises
    ------
    TableError
        It may be sound, and cannot be read for another reason, such as its rights.
    """
    try:
        # The digest covers what follows.
        for _ in islice(_sound_batches(file, size), 1 if digest_in(file) else None):
            pass
    except _UNREADABLE as error:
        if isinstance(error, OSError) and error.errno not in _OF_THE_FILE:
            message = f"cannot be read ({first_line(error)}). Nothing was changed. Correct that, then run again"
            raise TableError(file, message) from error
        return "it is gone" if isinstance(error, FileNotFoundError) else first_line(error)
    return ""


_OF_THE_FILE = (None, errno.ENOENT, errno.EIO)
"""Errors of reading that are a file's own; pyarrow gives no number to those that it makes of what it reads."""


def _read_indices(file: str, urls: Collection[str]) -> dict[str, tuple[Int64s, Int64s]]:
    """Return the same of a damaged file, as far as its keys can be read."""
    try:
        keys = read_keys(file)
    except TableError:
        return {}
    return {url: (keys.index[mine], keys.index[:0]) for url, mine in _by_log(keys, urls)}


def _by_log(keys: Keys, urls: Collection[str]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    for number, url in enumerate(keys.urls):
        mine = (keys.log == number) & (keys.index >= 0) & (keys.index < END)
        if url is not None and url in urls and mine.any():
            yield url, mine


def _altered(rows: pa.RecordBatch, mine: NDArray[np.bool_], holds_text: bool) -> NDArray[np.bool_]:
    """Tell of each of the rows in question whether its certificate does not have the SHA-256 that the row gives."""
    # Arrow cannot filter the views that deltalake makes of text and bytes.
    ders, sha256 = (cast_column(rows[name], plain_type(rows[name].type)).filter(pa.array(mine)) for name in _CHECKED)
    digests = [_sha256(der, holds_text) for der in ders.to_pylist()]
    given = pc.ascii_lower(pc.replace_substring(cast_column(sha256, pa.string()), ":", ""))
    equal = pc.equal(given, pa.array(digests, pa.string())).fill_null(False)
    return np.asarray(~equal.to_numpy(zero_copy_only=False), np.bool_)


def _sha256(der: bytes | str | None, holds_text: bool) -> str | None:
    if der is None:
        return None
    if holds_text:
        try:
            der = base64.b64decode(der, validate=True)
        except ValueError:
            return None
    return hashlib.sha256(der.encode() if isinstance(der, str) else der).hexdigest()


def _together(parts: Sequence[Rows]) -> Rows:
    none = np.empty(0, np.int64)
    return Rows(
        np.concatenate([none, *(part.starts for part in parts)]),
        np.concatenate([none, *(part.ends for part in parts)]),
        *(RangeSet.joined(getattr(part, name) for part in parts) for name in ("proven", "altered")),
    )


class FilesOf:
    """The files of a table, to be chosen by what the statistics of its log say of them.

    Parameters
    ----------
    table
        At the version that counts.
    url
        The log whose rows are asked for.
    without
        Names of files that are left out.
    """

    def __init__(self, table: DeltaTable, url: str, without: Mapping[str, object]) -> None:
        bounds = FileBounds(table)
        left_out = {f"{folder_of(table)}/{name}" for name in without}
        chosen = bounds.may_hold(url) & np.array([file not in left_out for file in bounds.files], bool)
        self._files, self._lowest, self._highest = (
            each[chosen] for each in (bounds.files, bounds.lowest, bounds.highest)
        )

    def between(self, first: int, last: int) -> list[str]:
        """Return the paths of the files that can hold a row of the log from index `first` to `last`, inclusive."""
        return list(self._files[(self._lowest <= last) & (self._highest >= first)])
