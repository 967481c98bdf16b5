"""Take repeated rows out of a table: of the rows of one key one stays, in one commit.

The keys of all files tell which rows are repeated. Only files that have such a row are read further, and must be sound:
the row that stays will be the only one. Files with a row to remove are rewritten without it, and exchanged in one
commit, which says of their rows what was said before.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from deltalake import CommitProperties, DeltaTable
from numpy.typing import NDArray

from ctkit.arguments import checked
from ctkit.errors import KeyConflictError, TableError
from ctkit.lake.digests import RESTORE
from ctkit.lake.drop import REPAIRED
from ctkit.lake.evidence import read_evidence
from ctkit.lake.files import DataFile, check_dates, data_files
from ctkit.lake.keys import Keys, read_keys
from ctkit.lake.links import commit_files, confirm_files, link_files
from ctkit.lake.overlap import Overlap
from ctkit.lake.provenance import carried_rows, metadata_of, proven_in, read_statements
from ctkit.lake.rewrite import rewrite_files
from ctkit.lake.scratch import clear_scratch, scratch_of
from ctkit.lake.table import as_der_type, check_features, files_of, folder_of, hold
from ctkit.ranges import END, Int64s, RangeSet, runs_of
from ctkit.report import Report, frame_of
from ctkit.visible import get_logger

logger = get_logger(__name__)

SHOWN = 1000
"""Ranges of each log that a report lists; all count."""


@dataclass(frozen=True, eq=False, repr=False)
class RepairReport(Report):
    """What a repair did, or would do.

    Attributes
    ----------
    main
        The table's folder.
    version_before, version
        The version that was looked at, and the one that was made; equal if nothing was changed.
        ``DeltaTable.restore(version_before)`` goes back.
    repeated
        Rows after the first of their key.
    removed
        How many of them were taken out; none by a dry run.
    conflicts
        How many of them contradict, and stay: the certificate differs from that of the first row, or a certificate
        under that key does not have the SHA-256 that its row gives.
    files
        Files that were rewritten or taken out, or would be.
    keys, conflicting
        URL -> indices that had several rows; those that keep several, because they contradict.
    done
        False for a dry run.
    """

    main: str
    version_before: int
    version: int
    repeated: int
    removed: int
    conflicts: int
    files: int
    keys: dict[str, RangeSet]
    conflicting: dict[str, RangeSet]
    done: bool

    @property
    def title(self) -> str:  # type: ignore[override]
        """Whether it was done."""
        return "repair complete" if self.done else "repair preview"

    def check(self) -> None:
        """Raise if rows contradict each other: they are for a person to look at.

        Raises
        ------
        KeyConflictError
            There are different certificates under one key.
        """
        if self.conflicts:
            named = [f"{url} {each}" for url, ranges in self.conflicting.items() for each in islice(ranges, 5)]
            message = f"{self.conflicts} rows contradict another row of the same key and stay: {', '.join(named[:5])}"
            advice = "`ctkit audit --recheck all` names those that are not the log's; DeltaTable.delete() removes them"
            raise KeyConflictError(self.main, f"{message}; {advice}")

    def facts(self) -> dict[str, Any]:
        """Return the totals."""
        return {
            "main": self.main,
            "version_before": self.version_before,
            "version": self.version,
            "repeated": self.repeated,
            "removed": self.removed,
            "conflicts": self.conflicts,
            "files": self.files,
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return which entries had, and which keep, several rows."""
        return {"repeated": _listed(self.keys), "conflicting": _listed(self.conflicting)}


@checked
def repair(main: DeltaTable, *, dry_run: bool = False) -> RepairReport:
    """Take repeated rows out of a table, in one commit.

    Of the rows of one key, one that is proven stays, else the one that was added first. What was proven stays so.
    Rows that contradict each other all stay, see `RepairReport.conflicts`. Interrupted or failed at any point, the
    table is as before or repaired. What others commit meanwhile stays as it is: a repetition in it is left for another
    call.

    Parameters
    ----------
    main
        The table; the handle moves on to the new version.
    dry_run
        Change nothing.

    Raises
    ------
    SchemaMismatchError
        The table demands of those who take files out of it what we do not do; nothing was changed.
    TableError
        The table cannot be read or written, a file with repeated rows is damaged, or another run works on the table.
        Nothing was changed.
    """
    with nullcontext(main) if dry_run else hold(main) as table:
        report = _report_of(_Repeats(table), done=False) if dry_run else _repair(table)
    if not dry_run:
        main.update_incremental()
    return report


def _repair(main: DeltaTable) -> RepairReport:
    check_features(main, "append")
    check_features(main, "remove")
    clear_scratch(main)
    while (found := _Repeats(main)).removed:
        try:
            done = _replace(main, found)
        except BaseException:
            # What cannot be removed now stays noted, for the next run.
            with suppress(TableError):
                clear_scratch(main)
            raise
        clear_scratch(main)
        if done:
            break
    return _report_of(found, done=True)


def _replace(main: DeltaTable, found: "_Repeats") -> bool:
    """Exchange the files by one commit; False if others have replaced some of them meanwhile."""
    check_dates(found.shortened.values())
    rewritten = rewrite_files(found.shortened, found.overlap, as_der_type(main), main, scratch_of(main))
    linked = link_files(rewritten, main)
    if (rows := sum(file.rows for file in linked)) != found.kept:
        message = f"{rows} rows were written where {found.kept} stay. Nothing was changed. Report this"
        raise TableError(found.folder, message)
    properties = CommitProperties({REPAIRED: str(found.removed), **found.said}, max_commit_retries=0)
    while not commit_files(linked, main, properties, removed=found.replaced):
        logger.info("table has a new version, checking its files version=%d", main.version())
        check_features(main, "append")
        check_features(main, "remove")
        if not found.involved <= set(files_of(main)):
            return False
        found.version = main.version()
    confirm_files(linked, main, found.version + 1)
    return True


class _Repeats:
    """The repeated rows of a table, and what is to become of them.

    Attributes
    ----------
    version
        The version that a commit would be made on.
    keys, conflicting
        URL -> indices that have several rows; those that contradict.
    involved
        Paths of the files that have such a row.
    repeated, removed
        Rows after the first of their key; those that are to go.
    replaced, shortened, kept
        Files that lose a row; those of them that keep one, by their position in the `overlap`; rows of these that stay.
    said
        What is to be said of them.
    """

    def __init__(self, main: DeltaTable) -> None:
        self.folder, self.version = folder_of(main), main.version()
        statements = read_statements(main)
        runs = {path: _runs_in(read_keys(path)) for path in files_of(main)}
        self.keys = _repeated(runs.values())
        self.involved = {
            path
            for path, of_file in runs.items()
            if any(len(RangeSet.merged(*of_file[url]).intersect(self.keys[url])) for url in of_file.keys() & self.keys)
        }
        del runs
        added = {path: each.version for each in reversed(statements) for path in each.files}
        files = sorted(
            (file for file in data_files(main) if str(file.path) in self.involved),
            # What no commit that is left speaks of is older than they are.
            key=lambda file: (added.get(str(file.path), -1), file.action.modification_time, file.name),
        )
        rows, damaged = read_evidence(main, self.keys, statements, within=self.involved)
        if damaged:
            named = ", ".join(f"{name} ({why})" for name, why in islice(damaged.items(), 5))
            message = f"{len(damaged)} files with repeated rows are damaged: {named}. Nothing was changed"
            raise TableError(self.folder, f"{message}; {RESTORE}")
        proven = proven_in(statements)
        self.overlap = Overlap(
            main, files, preferred=lambda path, keys: _within(keys, proven.get(path, {})), keeps_conflicts=True
        )
        altered = {url: of_log.altered for url, of_log in rows.items()}
        self.replaced: list[DataFile] = []
        self.shortened: dict[int, DataFile] = {}
        self.kept = self.removed = 0
        left = []
        carried: list[tuple[str, str, Int64s]] = []
        for at, file in enumerate(files):
            keys = read_keys(str(file.path))
            self.overlap.keep(at, _within(keys, altered))
            stays = ~self.overlap.skipped_in(at)
            of_file = {url: keys.index[mine & stays] for url, mine in _by_url(keys)}
            left.append({url: runs_of(index) for url, index in of_file.items()})
            if stays.all():
                continue
            self.replaced.append(file)
            self.removed += int(np.count_nonzero(~stays))
            if stays.any():
                self.shortened[at] = file
                self.kept += int(np.count_nonzero(stays))
                carried += [(str(file.path), url, index) for url, index in of_file.items()]
        self.conflicting = _repeated(left)
        self.repeated = sum(of_log.count(0, END) - of_log.present.size for of_log in rows.values())
        self.said = metadata_of(carried_rows(statements, carried))


def _report_of(found: _Repeats, *, done: bool) -> RepairReport:
    removed = found.removed if done else 0
    return RepairReport(
        main=found.folder,
        version_before=found.version,
        version=found.version + bool(removed),
        repeated=found.repeated,
        removed=removed,
        conflicts=found.repeated - found.removed,
        files=len(found.replaced),
        keys=found.keys,
        conflicting=found.conflicting,
        done=done,
    )


_Runs = dict[str, tuple[Int64s, Int64s]]
"""URL -> starts and ends of runs of indices, see `runs_of`."""


def _by_url(keys: Keys) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    for number, url in enumerate(keys.urls):
        if url is not None:
            yield url, (keys.log == number) & (keys.index >= 0)


def _runs_in(keys: Keys) -> _Runs:
    return {url: runs_of(keys.index[mine]) for url, mine in _by_url(keys)}


def _repeated(files: Iterable[_Runs]) -> dict[str, RangeSet]:
    """Return which indices have several rows, in one file or in several."""
    runs: dict[str, list[tuple[Int64s, Int64s]]] = defaultdict(list)
    for of_file in files:
        for url, of_log in of_file.items():
            runs[url].append(of_log)
    found = {url: RangeSet.repeated(*map(np.concatenate, zip(*each, strict=True))) for url, each in runs.items()}
    return {url: repeated for url, repeated in sorted(found.items()) if len(repeated)}


def _within(keys: Keys, stretches: dict[str, RangeSet]) -> NDArray[np.bool_]:
    """Tell of each key whether it lies in the stretches of its log."""
    found = np.zeros(len(keys.index), np.bool_)
    for url, mine in _by_url(keys):
        if url in stretches:
            found |= mine & stretches[url].contains(keys.index)
    return found


def _listed(ranges: dict[str, RangeSet]) -> pd.DataFrame:
    return frame_of(
        {"log": url, "start": each.start, "end": each.end}
        for url, of_log in ranges.items()
        for each in islice(of_log, SHOWN)
    )
