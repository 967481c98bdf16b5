"""Which rows of staging a merge must skip: keys that main has, and repetitions.

Keys are integers in sorted arrays outside of memory (`ctkit.lake.keys`), so that a staging table of any size takes the
same memory, and asking for the few keys of somebody else's late commit takes no time.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable
from numpy.typing import NDArray

from ctkit.errors import TableError
from ctkit.lake.files import DataFile, FileBounds
from ctkit.lake.keys import INDEX_BITS, NO_KEY, DiskArrays, Keys, SortedKeys, read_keys, scattered
from ctkit.ranges import Int64s

KEYS_AT_ONCE = 500_000
"""Staged keys that are sorted at a time, about: staging's keys are read once for each such part, those of main once."""

MOST_LISTED = 50
"""Conflicts that are listed one by one."""

MEMORY = "256MB"
"""Memory limit of DuckDB; what does not fit is spilled."""


class Overlap:
    """The staged rows that a merge must skip.

    Rows have numbers: those of the first file come first, and so on.

    Parameters
    ----------
    staging
        The table; named in errors.
    staged
        Its files, known by their position here.
    preferred
        Tells of a file's path and keys which of its rows stay before those of other files with the same key.
    keeps_conflicts
        Whether rows stay whose certificate differs from that of the row that stays.

    Attributes
    ----------
    rows
        Number of staged rows.
    conflicts
        Skipped rows whose certificate differs from the one that main, or an earlier row, has under the same key.

    Raises
    ------
    TableError
        A file cannot be read, or has a row without a key.
    """

    def __init__(
        self,
        staging: DeltaTable,
        staged: Sequence[DataFile],
        *,
        preferred: Callable[[str, Keys], NDArray[np.bool_]] | None = None,
        keeps_conflicts: bool = False,
    ) -> None:
        self._staging = staging
        self._preferred = preferred
        self._files = [str(file.path) for file in staged]
        self._logs: dict[str, int] = {}
        self._starts = np.zeros(1, np.int64)
        count = -(-sum(file.rows for file in staged) // KEYS_AT_ONCE)
        self._parts = [self._sorted(part, count) for part in range(count)]
        self.rows = int(self._starts[-1])
        self._skipped = DiskArrays([np.zeros(self.rows, np.bool_)]).mapped()[0]
        self.conflicts = 0
        self._conflicting: list[tuple[int, int]] = []
        for part in self._parts:
            again, first = part.repeated()
            self._skipped[again] = True
            file = self._file_of(first)
            differing = self._differing(again, staging, self._files, file, first - self._starts[file])
            self._note(differing)
            if keeps_conflicts:
                self._skipped[differing] = False

    def _sorted(self, part: int, count: int) -> SortedKeys:
        """Sort one of `count` parts of the keys."""
        # In which of equal keys the first is to stay: those of preferred rows, then the others.
        keys_of_part: tuple[list[Int64s], list[Int64s]] = ([], [])
        rows_of_part: tuple[list[Int64s], list[Int64s]] = ([], [])
        starts = [0]
        for file, found in zip(self._files, map(read_keys, self._files), strict=True):
            for url in filter(None, found.urls):
                self._logs.setdefault(url, len(self._logs))
            keys = found.numbered(self._logs)
            if (keys == NO_KEY).any():
                message = f"has rows without source_url or with a cert_index outside of [0, 2**{INDEX_BITS})"
                raise TableError(file, f"{message}. Delete those rows, then backfill again")
            mine = scattered(keys, count) == part
            first = self._preferred(file, found) if self._preferred else np.ones(len(keys), np.bool_)
            for at, chosen in enumerate((mine & first, mine & ~first)):
                keys_of_part[at].append(keys[chosen])
                rows_of_part[at].append(np.flatnonzero(chosen) + starts[-1])
            starts.append(starts[-1] + len(keys))
        self._starts = np.array(starts)
        for lists in (keys_of_part, rows_of_part):
            lists[0].extend(lists[1])
            # Their memory, once they are sorted.
            lists[1].clear()
        return SortedKeys(keys_of_part[0], rows_of_part[0])

    def may_be_in(self, main: DeltaTable) -> list[str]:
        """Return the paths of main's files that can hold a staged key, going by the statistics of main's log."""
        bounds = FileBounds(main)
        low, high = (np.clip(each, 0, (1 << INDEX_BITS) - 1) for each in (bounds.lowest, bounds.highest))
        hit = np.zeros(len(bounds.files), bool)
        keys_of_parts = [part.keys for part in self._parts]
        for url, log in self._logs.items():
            open_ = np.flatnonzero(~hit & bounds.may_hold(url))
            for keys in keys_of_parts:
                first = np.searchsorted(keys, log << INDEX_BITS | low[open_])
                hit[open_] |= first < np.searchsorted(keys, log << INDEX_BITS | high[open_], side="right")
        return list(bounds.files[hit])

    def skip_present(self, main: DeltaTable, files: list[str]) -> bool:
        """Skip the rows whose key is in one of main's files; tell whether that skips any more rows."""
        before = self.skipped
        # Of the rows that are skipped now: the number, where in `files` the key is, and where in that file.
        found: list[tuple[Int64s, Int64s, Int64s]] = []
        count = 0
        for at, keys in enumerate(map(read_keys, files)):
            numbers = keys.numbered(self._logs)
            order = np.argsort(numbers, kind="stable")
            ordered = numbers[order]
            for part in self._parts:
                rows, others = part.common(ordered)
                if not len(rows):
                    continue
                rows, first = np.unique(rows, return_index=True)
                new = ~self._skipped[rows]
                if new.any():
                    found.append((rows[new], np.full(np.count_nonzero(new), at), order[others[first[new]]]))
                    count += len(found[-1][0])
                self._skipped[rows] = True
            if count >= KEYS_AT_ONCE:
                self._compare(main, files, found)
                count = 0
        self._compare(main, files, found)
        return self.skipped > before

    def _compare(self, main: DeltaTable, files: list[str], found: list[tuple[Int64s, Int64s, Int64s]]) -> None:
        """Count the conflicts among what was found, and empty the list."""
        if found:
            rows, places, others = (np.concatenate(column) for column in zip(*found, strict=True))
            found.clear()
            self._note(self._differing(rows, main, files, places, others))

    def _note(self, differing: Int64s) -> None:
        """Count conflicts, and note where the first are."""
        self.conflicts += len(differing)
        listed = differing[: MOST_LISTED - len(self._conflicting)]
        files = self._file_of(listed)
        self._conflicting += zip(files.tolist(), (listed - self._starts[files]).tolist(), strict=True)

    def _differing(self, rows: Int64s, table: DeltaTable, files: list[str], at: Int64s, others: Int64s) -> Int64s:
        """Return which rows have another certificate than row ``others[i]`` of ``files[at[i]]``, pair by pair."""
        if not len(rows):
            return rows
        from ctkit.lake import questions
        from ctkit.lake.querying import define_rows, define_table, reading

        own_files, own = np.unique(self._file_of(rows), return_inverse=True)
        other_files, other = np.unique(at, return_inverse=True)
        row = rows - self._starts[own_files][own]
        pairs = {"pair": rows, "own": own, "row": row, "other": other, "other_row": others}
        with reading(self._staging, table, memory_limit=MEMORY) as connection:
            differing = questions.differing_pairs(
                define_table(connection, "pairs", pa.table(pairs)),
                define_rows(connection, "staged", [self._files[file] for file in own_files], numbered=True),
                define_rows(connection, "others", [files[file] for file in other_files], numbered=True),
            ).to_pyarrow()
        return np.asarray(differing["pair"].to_numpy(), np.int64)

    def _file_of(self, rows: Int64s) -> Int64s:
        return np.searchsorted(self._starts, rows, side="right") - 1

    @property
    def skipped(self) -> int:
        """Number of staged rows that must not be inserted."""
        return int(np.count_nonzero(self._skipped))

    @property
    def kept(self) -> int:
        """Number of staged rows to insert."""
        return self.rows - self.skipped

    def keep(self, file: int, rows: NDArray[np.bool_]) -> None:
        """Keep some rows of a staged file after all."""
        self.skipped_in(file)[rows] = False

    def skipped_in(self, file: int) -> NDArray[np.bool_]:
        """Tell for each row of the staged file at a position whether it must not be inserted."""
        return self._skipped[self._starts[file] : self._starts[file + 1]]

    def skipped_rows(self) -> pa.RecordBatchReader:
        """Return the places, ``file_index, file_row_number``, of all rows that must not be inserted."""
        rows = ((at, np.flatnonzero(self.skipped_in(at))) for at in range(len(self._files)))
        batches = (pa.record_batch([np.full(len(found), at), found], schema=_PLACES) for at, found in rows)
        return pa.RecordBatchReader.from_batches(_PLACES, batches)

    def conflicting_rows(self) -> pa.Table:
        """Return the places of the first conflicts, `MOST_LISTED` at most."""
        return pa.Table.from_pylist(
            [dict(zip(_PLACES.names, place, strict=True)) for place in self._conflicting], _PLACES
        )


_PLACES = pa.schema([("file_index", pa.int64()), ("file_row_number", pa.int64())])
