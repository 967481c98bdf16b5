"""Upkeep of a table: small files become few large ones, and files that no version needs any more are removed.

A live service, or a run that follows its logs, leaves a small file for each commit. Files of one date and about one
size become one, in the order of log and index, by a commit of its own: its rows, and what is proven of them, are those
of the files that it takes out. So every step leaves a whole table, and a run that dies is one that did less.

Sizes go by powers of `FILES`: only where there are that many files of one power is it worth while to rewrite them, and
their rows are then in a file of a higher one. So a row is rewritten a few times in its life, however often this runs.
"""

import math
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import DeltaError

from ctkit.arguments import checked
from ctkit.errors import TableError
from ctkit.lake.commits import files_added, kept_commits, times_removed
from ctkit.lake.digests import RESTORE
from ctkit.lake.evidence import damage_of
from ctkit.lake.exchange import exchange_files, preparing
from ctkit.lake.files import BYTES_PER_FILE, DataFile, check_dates, data_files
from ctkit.lake.history import restorable_for, shorten_log
from ctkit.lake.keys import Keys, read_keys
from ctkit.lake.provenance import Statement, carried_rows, metadata_of, proven_in, read_statements
from ctkit.lake.reasons import first_line
from ctkit.lake.rewrite import sort_files
from ctkit.lake.scratch import clear_scratch
from ctkit.lake.table import check_features, files_of, folder_of, hold, table_path
from ctkit.ranges import RangeSet
from ctkit.report import Frame, Report, frame_of
from ctkit.schema import PARTITION
from ctkit.visible import first_of

SMALL = BYTES_PER_FILE // 2
"""Files of fewer bytes may be rewritten with others; what `BYTES_PER_FILE` of them become is not."""

FILES = 8
"""From this many files of about one size on, it is worth while to make one of them: fewer, and rows would be rewritten
more often; more, and there would be more files."""

COMPACTED = "ctkit.compacted"
"""Commit metadata: how many files the commit took out, whose rows are in those that it added."""

NAMED = 5
"""Files that an error names; all count."""


class Compaction(NamedTuple):
    """Files of one date whose rows went, or would go, into fewer.

    Attributes
    ----------
    date
        Their ``seen_date``.
    files, size
        How many they were, and how many bytes they had.
    rows
        Their rows, now in the others.
    """

    date: str
    files: int
    size: int
    rows: int


@dataclass(frozen=True, eq=False, repr=False)
class TidyReport(Report):
    """What the upkeep of a table did, or would do.

    Attributes
    ----------
    main
        The table's folder.
    version_before, version
        The version that was looked at, and the last one that was made; equal if no commit was.
    files_before, files
        Files of the table then and now.
    compacted
        Small files that were rewritten, or would be, by commit.
    removed
        Paths, relative to the table's folder, of files that were removed from the disk, or would be: no version
        that can be restored has them.
    commits
        How many commits were removed from the table's log, or would be, after what they said was repeated.
    damaged
        Name of each file that should have been rewritten and is damaged -> what is wrong with it. It was left alone.
    records
        Paths of the records of old runs that were removed, or would be.
    done
        False for a dry run.
    """

    main: str
    version_before: int
    version: int
    files_before: int
    files: int
    compacted: tuple[Compaction, ...]
    removed: tuple[str, ...]
    commits: int
    damaged: Mapping[str, str]
    done: bool
    records: tuple[str, ...] = ()

    @property
    def title(self) -> str:  # type: ignore[override]
        """Whether it was done."""
        return "tidy complete" if self.done else "tidy preview"

    def check(self) -> None:
        """Raise if a file is damaged.

        Raises
        ------
        TableError
            Names the first files, and says what to do.
        """
        if self.damaged:
            named = first_of([f"{name} ({why})" for name, why in self.damaged.items()], NAMED)
            raise TableError(self.main, f"{len(self.damaged)} files are damaged: {named}; {RESTORE}")

    def facts(self) -> dict[str, Any]:
        """Return the totals."""
        return {
            "main": self.main,
            "version_before": self.version_before,
            "version": self.version,
            "files_before": self.files_before,
            "files": self.files,
            "compacted": sum(each.files for each in self.compacted),
            "removed": len(self.removed),
            "commits": self.commits,
            "records": len(self.records),
            "damaged": len(self.damaged),
        }

    def tables(self) -> dict[str, Frame]:
        """Return what was compacted, removed and damaged."""
        return {
            "compacted": frame_of(each._asdict() for each in self.compacted),
            "removed from the disk": frame_of({"file": name} for name in (*self.removed, *self.records)),
            "damaged files": frame_of({"file": name, "why": why} for name, why in self.damaged.items()),
        }


@checked
def tidy(main: DeltaTable, *, dry_run: bool = False) -> TidyReport:
    """Make few large files of a table's many small ones, and remove files that no version needs any more.

    Its rows stay the same, and what is proven of them; so do files that others add meanwhile. Interrupted or failed at
    any point, the table is whole, and the next call goes on. It does nothing where there is little to gain, so that it
    may run as often as a table is written.

    Removed are files that commits have taken out, and files that no commit ever named, both only when they are older
    than the table's ``delta.deletedFileRetentionDuration``, a week by default: until then, `DeltaTable.restore` goes
    back to older versions. Commits go a day later, after what they said of rows is repeated.

    Parameters
    ----------
    main
        The table; the handle moves on to the new version.
    dry_run
        Change nothing, and read no rows.

    Raises
    ------
    SchemaMismatchError
        The table demands of those who take files out of it what we do not do; nothing was changed.
    TableError
        The table cannot be read or written, or another run works on it. What was done before is complete.
    """
    with nullcontext(main) if dry_run else hold(main) as table:
        check_features(table, "append")
        check_features(table, "remove")
        if not dry_run:
            clear_scratch(table)
        before, names = table.version(), files_of(table)
        damaged: dict[str, str] = {}
        compacted = tuple(_compact_all(table, damaged, dry_run=dry_run))
        removed, commits = _clean_up(table, dry_run=dry_run)
        report = TidyReport(
            main=folder_of(table),
            version_before=before,
            version=table.version(),
            files_before=len(names),
            files=len(names) if dry_run else len(files_of(table)),
            compacted=compacted,
            removed=removed,
            commits=commits,
            damaged=damaged,
            done=not dry_run,
        )
    if not dry_run:
        main.update_incremental()
    return report


def _compact_all(main: DeltaTable, damaged: dict[str, str], *, dry_run: bool) -> Iterator[Compaction]:
    """Compact what is worth it, or tell what that would be; add damaged files to `damaged`."""
    lost = {path for path in files_of(main) if not Path(path).exists()}
    chosen = _worth_rewriting(data_files(main, lost=lost), lambda file: file.partition)
    if not chosen:
        return
    check_dates(chosen)
    statements = read_statements(main, [str(file.path) for file in chosen])
    proven = {path for path, of_file in proven_in(statements).items() if any(map(len, of_file.values()))}

    def kind_of(file: DataFile) -> tuple[str, bool]:
        # Files with proven rows are apart from the others: of rows of one key, one commit cannot call only some proven,
        # and of whole files it has few records to make.
        return file.partition, str(file.path) in proven

    for group in _groups(_worth_rewriting(chosen, kind_of), kind_of):
        if len(group) > 1 and (done := group if dry_run else _compact(main, group, statements, damaged)):
            size, rows = sum(file.action.size for file in done), sum(file.rows for file in done)
            yield Compaction(done[0].partition, len(done), size, rows)


def _worth_rewriting(files: Iterable[DataFile], kind_of: Callable[[DataFile], Any]) -> list[DataFile]:
    """Return the small files of each kind up to the largest size of which there are `FILES`, by kind."""
    found: list[DataFile] = []
    small = (file for file in files if file.action.size < SMALL)
    for _, of_kind in groupby(sorted(small, key=kind_of), key=kind_of):
        # Which power of FILES a size reaches.
        powers = [(file, (file.action.size.bit_length() - 1) // (FILES.bit_length() - 1)) for file in of_kind]
        many = [power for power, count in Counter(power for _, power in powers).items() if count >= FILES]
        found += [file for file, power in powers if power <= max(many, default=-1)]
    return found


def _groups(files: Iterable[DataFile], kind_of: Callable[[DataFile], Any]) -> Iterator[list[DataFile]]:
    """Yield files of one kind, to be made one of no more than `BYTES_PER_FILE`."""
    for _, of_kind in groupby(sorted(files, key=lambda file: (kind_of(file), file.first_key)), key=kind_of):
        group: list[DataFile] = []
        size = 0
        for file in of_kind:
            if size + file.action.size > BYTES_PER_FILE:
                yield group
                group, size = [], 0
            group.append(file)
            size += file.action.size
        yield group


def _compact(
    main: DeltaTable, group: Sequence[DataFile], statements: Iterable[Statement], damaged: dict[str, str]
) -> list[DataFile]:
    """Make one file of some; return which, nothing if there is nothing to do or others have replaced some of them."""
    found = {file.name: why for file in group if (why := damage_of(str(file.path), file.action.size))}
    damaged.update(found)
    keys = {str(file.path): read_keys(str(file.path)) for file in group if file.name not in found}
    own = [statement for statement in statements if not statement.files.isdisjoint(keys)]
    agreeing = _agreeing(keys, proven_in(own))
    files = [file for file in group if str(file.path) in agreeing]
    if len(files) < 2:
        return []
    rows = sum(len(keys[path].index) for path in agreeing)
    said = carried_rows(
        own, ((path, url, keys[path].index[mine]) for path in agreeing for url, mine in keys[path].by_url())
    )
    properties = CommitProperties({COMPACTED: str(len(files)), **metadata_of(said)}, max_commit_retries=0)
    with preparing(main) as scratch:
        written = sort_files({file.path: keys[str(file.path)] for file in files}, files[0].partition, main, scratch)
        done = exchange_files(files, written, rows, main, properties, needed=agreeing, data_change=False)
    return files if done is not None else []


def _agreeing(keys: Mapping[str, Keys], proven: Mapping[str, Mapping[str, RangeSet]]) -> set[str]:
    """Leave out files with an unproven row under the key of a proven one: one commit cannot tell the two apart."""
    proofs: dict[str, list[RangeSet]] = defaultdict(list)
    unproven = []
    for path, of_file in keys.items():
        known = of_file.within(proven.get(path, {}))
        for url, mine in of_file.by_url():
            proofs[url].append(RangeSet.holding(of_file.index[mine & known]))
            unproven.append((path, url, of_file.index[mine & ~known]))
    of_logs = {url: RangeSet.joined(sets) for url, sets in proofs.items()}
    return keys.keys() - {path for path, url, index in unproven if of_logs[url].contains(index).any()}


def _clean_up(main: DeltaTable, *, dry_run: bool) -> tuple[tuple[str, ...], int]:
    """Remove files that no version needs that can be restored, and old commits; return which, and how many."""
    folder = folder_of(main)
    try:
        # deltalake also names those that are gone. A VACUUM with nothing to do makes commits all the same.
        removed = [name for path in main.vacuum(dry_run=True) if Path(folder, name := _relative(path, folder)).exists()]
        if removed and not dry_run:
            main.vacuum(dry_run=False)
            main.update_incremental()
        orphans = _orphans(main)
        for orphan in () if dry_run else orphans:
            orphan.unlink(missing_ok=True)
        commits = shorten_log(main, dry_run=dry_run)
    except (DeltaError, OSError) as error:
        message = f"what no version needs cannot be removed ({first_line(error)}). Correct that, then run again"
        raise TableError(folder, message) from error
    return tuple(sorted({*removed, *(_relative(str(orphan), folder) for orphan in orphans)})), commits


def _relative(path: str, folder: str) -> str:
    return path.removeprefix(f"{folder}/")


def _orphans(main: DeltaTable) -> list[Path]:
    """Return files that writers wrote and no version needs that can be restored, if they are old enough.

    Most were never named by a commit. Others were taken out, and a VACUUM no longer knows of them: a checkpoint leaves
    out removals that have expired (Delta protocol, "Checkpoints"). Files that the oldest commit that is left found in
    the table are in it yet, or a later one has taken them out.
    """
    folder, before = table_path(main.table_uri), time.time() - restorable_for(main)
    partitions = (parent for parent in folder.glob(f"{PARTITION}=*") if not parent.is_symlink())
    paths = {str(path): path for parent in partitions for path in parent.glob("part-*.parquet")}
    known = set(files_of(main))
    old = {
        str(path.relative_to(folder)): path
        for text, path in paths.items()
        if text not in known and _OF_A_WRITER.fullmatch(path.name) and path.stat().st_mtime < before
    }
    needed_until: dict[str, float] = {}
    for _, actions in kept_commits(main) if old else ():
        needed_until |= dict.fromkeys(files_added(actions), math.inf) | times_removed(actions)
    return sorted(path for name, path in old.items() if needed_until.get(name, 0.0) < before)


_OF_A_WRITER = re.compile(r"part-\d{5}-[0-9a-f-]{36}-(c000|[0-9a-f]{64})(\.\w+)?\.parquet")
"""What ctkit and other writers of Delta tables call their files."""
