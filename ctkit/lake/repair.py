"""Take out of a table what makes an audit fail: files that are damaged or gone, and repeated rows.

A damaged or lost file is taken out as a whole, so that its rows are missing again and are fetched anew. It stays on the
disk until a VACUUM. The keys of the other files tell which rows are repeated. Of the rows of one key one stays; files
with a row to remove are rewritten without it. One commit does it all, and says of the rows what was said before.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from deltalake import CommitProperties, DeltaTable

from ctkit.arguments import checked
from ctkit.errors import KeyConflictError, TableError
from ctkit.lake.drop import REPAIRED
from ctkit.lake.evidence import damage_of, read_evidence
from ctkit.lake.exchange import exchange_files, preparing
from ctkit.lake.files import DataFile, FileBounds, check_dates, data_files
from ctkit.lake.keys import Keys, read_keys
from ctkit.lake.overlap import Overlap
from ctkit.lake.provenance import Statement, carried_rows, metadata_of, proven_in, read_statements
from ctkit.lake.rewrite import rewrite_files
from ctkit.lake.starts import Bounds, remembered, transactions_of
from ctkit.lake.table import as_der_type, check_features, folder_of, hold
from ctkit.ranges import END, Int64s, RangeSet, runs_of
from ctkit.report import Frame, Report, frame_of
from ctkit.schema import KEY

SHOWN = 1000
"""Ranges of each log that a report lists; all count."""


class DamagedFile(NamedTuple):
    """A file that is not what was written, or is gone.

    Attributes
    ----------
    name
        Where it lies, or should, relative to the table's folder.
    why
        What is wrong with it.
    rows
        How many rows the table loses with it, as its log says.
    first
        URL -> the lowest index that is lost with it, of each log of which that is known.
    """

    name: str
    why: str
    rows: int
    first: Mapping[str, int]


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
        Files that were rewritten or taken out because of repeated rows, or would be.
    damaged
        Files that were taken out because they are damaged or gone, or would be. Their rows are missing then; the next
        backfill fetches them anew.
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
    damaged: tuple[DamagedFile, ...]
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
            "damaged": len(self.damaged),
            "lost": sum(file.rows for file in self.damaged),
        }

    def tables(self) -> dict[str, Frame]:
        """Return which files are damaged, and which entries had, and which keep, several rows."""
        damaged = frame_of({**file._asdict(), "first": _pairs(file.first)} for file in self.damaged)
        return {"damaged files": damaged, "repeated": _listed(self.keys), "conflicting": _listed(self.conflicting)}


@checked
def repair(main: DeltaTable, *, dry_run: bool = False) -> RepairReport:
    """Take damaged and lost files, and repeated rows, out of a table, in one commit.

    The rows of a file that is damaged or gone are missing afterwards, so that the next backfill fetches exactly them.
    What is damaged stays on the disk until a VACUUM.

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
        The table cannot be read or written, or another run works on the table. Nothing was changed.
    """
    with nullcontext(main) if dry_run else hold(main) as table:
        report = _report_of(_Faults(table), done=False) if dry_run else _repair(table)
    if not dry_run:
        main.update_incremental()
    return report


def _repair(main: DeltaTable) -> RepairReport:
    check_features(main, "append")
    check_features(main, "remove")
    with preparing(main) as scratch:
        while (found := _Faults(main)).replaced:
            check_dates(found.shortened.values())
            rewritten = rewrite_files(found.shortened, found.overlap, as_der_type(main), main, scratch)
            properties = CommitProperties(
                {REPAIRED: str(found.removed), **found.said},
                max_commit_retries=0,
                app_transactions=transactions_of(found.starts, main),
            )
            version = exchange_files(found.replaced, rewritten, found.kept, main, properties, needed=found.involved)
            if version is not None:
                return _report_of(found, done=True, version=version)
    return _report_of(found, done=True)


class _Faults:
    """The damaged files and the repeated rows of a table, and what is to become of them.

    Attributes
    ----------
    version
        The version that was looked at.
    damaged
        Files that are damaged or gone.
    keys, conflicting
        URL -> indices that have several rows; those that contradict.
    involved
        Paths of the files that are damaged, or have such a row.
    repeated, removed
        Rows after the first of their key; those that are to go.
    replaced, shortened, kept
        Files that are damaged or lose a row; those that lose a row and keep one, by their position in the `overlap`;
        rows of these that stay.
    said
        What is to be said of them.
    starts
        URL -> the first index that is lost, of each log whose first row that is, and whose start is not remembered.
    """

    def __init__(self, main: DeltaTable) -> None:
        self.folder, self.version = folder_of(main), main.version()
        statements = read_statements(main)
        bounds = FileBounds(main)
        sizes = zip(bounds.files, bounds.sizes.tolist(), strict=True)
        damaged = {path: why for path, size in sizes if (why := damage_of(path, size))}
        files = data_files(main, lost=damaged)
        lost = [file for file in files if str(file.path) in damaged]
        self.damaged = tuple(
            DamagedFile(file.name, damaged[str(file.path)], file.rows, _first_rows(file, statements)) for file in lost
        )
        runs = {path: _runs_in(read_keys(path)) for path in bounds.files if path not in damaged}
        self.keys = _repeated(runs.values())
        self.starts = _lost_starts(main, self.damaged, runs.values())
        repeating = {
            path
            for path, of_file in runs.items()
            if any(len(RangeSet.merged(*of_file[url]).intersect(self.keys[url])) for url in of_file.keys() & self.keys)
        }
        del runs
        self.involved = repeating | damaged.keys()
        added = {path: each.version for each in reversed(statements) for path in each.files}
        files = sorted(
            (file for file in files if str(file.path) in repeating),
            # What no commit that is left speaks of is older than they are.
            key=lambda file: (added.get(str(file.path), -1), file.action.modification_time, file.name),
        )
        rows, _ = read_evidence(main, self.keys, statements, within=repeating)
        proven = proven_in(statements)
        self.overlap = Overlap(
            main, files, preferred=lambda path, keys: keys.within(proven.get(path, {})), keeps_conflicts=True
        )
        altered = {url: of_log.altered for url, of_log in rows.items()}
        self.replaced = lost
        self.shortened: dict[int, DataFile] = {}
        self.kept = self.removed = 0
        left = []
        carried: list[tuple[str, str, Int64s]] = []
        for at, file in enumerate(files):
            keys = read_keys(str(file.path))
            self.overlap.keep(at, keys.within(altered))
            stays = ~self.overlap.skipped_in(at)
            of_file = {url: keys.index[mine & stays] for url, mine in keys.by_url()}
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


def _first_rows(file: DataFile, statements: Iterable[Statement]) -> dict[str, int]:
    """Return the lowest index of each log in a damaged file, as far as anything tells.

    These are its keys if they can be read, else what was said of the commit that wrote it, else the statistics of the
    table's log, if it was of one log.
    """
    low, high = (json.loads(file.action.stats)[kind] for kind in ("minValues", "maxValues"))
    with suppress(TableError):
        keys = read_keys(str(file.path))
        # No lower than it should be, whatever it has become.
        index = np.maximum(keys.index, low.get(KEY[1], 0))
        return {url: int(index[mine].min()) for url, mine in keys.by_url() if mine.any()}
    said = [record for each in statements if str(file.path) in each.files for record in each.records]
    if said:
        return {record.source_url: record.start for record in sorted(said, key=lambda each: -each.start)}
    is_of_one_log = all(each.keys() >= set(KEY) for each in (low, high)) and low[KEY[0]] == high[KEY[0]]
    return {low[KEY[0]]: low[KEY[1]]} if is_of_one_log else {}


def _report_of(found: _Faults, *, done: bool, version: int | None = None) -> RepairReport:
    """Report what was found, and the version that was made because of it, if one was."""
    return RepairReport(
        main=found.folder,
        version_before=found.version if version is None else version - 1,
        version=found.version if version is None else version,
        repeated=found.repeated,
        removed=found.removed if done else 0,
        conflicts=found.repeated - found.removed,
        files=len(found.replaced) - len(found.damaged),
        damaged=found.damaged,
        keys=found.keys,
        conflicting=found.conflicting,
        done=done,
    )


_Runs = dict[str, tuple[Int64s, Int64s]]
"""URL -> starts and ends of runs of indices, see `runs_of`."""


def _lost_starts(main: DeltaTable, damaged: Iterable[DamagedFile], left: Iterable[_Runs]) -> dict[str, Bounds]:
    """Return the first index of each log that starts at its first row, where that is lost with a damaged file."""
    lost: dict[str, int] = {}
    for file in damaged:
        for url, index in file.first.items():
            lost[url] = min(index, lost.get(url, index))
    for of_file in left:
        for url in of_file.keys() & lost:
            if of_file[url][0].min(initial=END) <= lost[url]:
                del lost[url]
    known = remembered(lost, main)
    return {url: Bounds(index) for url, index in lost.items() if known.get(url, Bounds()).start is None}


def _runs_in(keys: Keys) -> _Runs:
    return {url: runs_of(keys.index[mine]) for url, mine in keys.by_url()}


def _repeated(files: Iterable[_Runs]) -> dict[str, RangeSet]:
    """Return which indices have several rows, in one file or in several."""
    runs: dict[str, list[tuple[Int64s, Int64s]]] = defaultdict(list)
    for of_file in files:
        for url, of_log in of_file.items():
            runs[url].append(of_log)
    found = {url: RangeSet.repeated(*map(np.concatenate, zip(*each, strict=True))) for url, each in runs.items()}
    return {url: repeated for url, repeated in sorted(found.items()) if len(repeated)}


def _pairs(first: Mapping[str, int]) -> str:
    return ", ".join(f"{url} {index}" for url, index in first.items())


def _listed(ranges: dict[str, RangeSet]) -> Frame:
    return frame_of(
        {"log": url, "start": each.start, "end": each.end}
        for url, of_log in ranges.items()
        for each in islice(of_log, SHOWN)
    )
