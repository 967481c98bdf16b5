"""The log of a table kept short, and what its commits said of rows kept with it.

Commits say which rows are proven, so they must not just go. From time to time one commit repeats what all others before
it said of the files that the table still has (`ctkit.lake.provenance.repeat`). deltalake may then remove the others, as
it does with commits that are older than ``delta.logRetentionDuration``. Tables that ctkit creates keep theirs for good,
as far as deltalake goes; there, commits are removed that have been repeated and are older than `DAYS`.
"""

import re
import time
from itertools import takewhile
from pathlib import Path

from deltalake import CommitProperties, DeltaTable, Transaction

from ctkit.lake.commits import commit_info, commit_path, kept_versions, read_commit
from ctkit.lake.links import commit_files, confirm_files
from ctkit.lake.provenance import REPEATED, read_statements, repeat
from ctkit.lake.table import LOG_RETENTION

WEEK = 604_800
"""For how long files stay that have been taken out: deltalake's default, and never less."""

LONGER = 86_400
"""Seconds that commits stay longer than the files that they took out: they tell when those may go."""


def retention_of(table: DeltaTable, key: str, default: int) -> int:
    """Return for how many seconds a table keeps something, by one of its properties."""
    interval = table.metadata().configuration.get(key, "")
    found = re.fullmatch(r"interval\s+(\d+)\s+(second|minute|hour|day|week)s?", interval.strip().lower())
    return int(found[1]) * _SECONDS[found[2]] if found else default


_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": WEEK}


def restorable_for(table: DeltaTable) -> int:
    """Return for how many seconds a table keeps files that have been taken out, so that older versions can be read."""
    return max(retention_of(table, "delta.deletedFileRetentionDuration", WEEK), WEEK)


def shorten_log(table: DeltaTable, *, dry_run: bool) -> int:
    """Repeat what commits said that are about to become old, and remove old ones; return how many.

    Commits stay a day longer than the files that they took out, and are repeated when they are half as old. Interrupted
    at any point, no commit is gone that was not repeated.

    Parameters
    ----------
    table
        The table, held.
    dry_run
        Change nothing; return how many there would be to remove.

    Raises
    ------
    TableError
        The log cannot be read or written.
    OSError
        A commit cannot be removed.
    """
    keeps = restorable_for(table) + LONGER
    versions = kept_versions(table)
    repeated = table.transaction_version(REPEATED)
    unsaid = [version for version in versions if repeated is None or version > repeated]
    if not dry_run and _are_older(table, unsaid[:1], keeps / 2):
        _repeat(table)
    if table.metadata().configuration.get("delta.logRetentionDuration") != LOG_RETENTION:
        return 0
    # None that was not repeated: that would be half as old at most.
    old = list(takewhile(lambda version: _are_older(table, [version], keeps), versions))
    # A reader of the oldest version that stays begins at its checkpoint (Delta protocol, "Metadata Cleanup").
    log = commit_path(table, 0).parent
    first = max((version for version in old if _checkpoint_in(log, version).exists()), default=0)
    going = [version for version in old if version < first]
    for version in () if dry_run else going:
        # The checkpoint before its commit: the other way round, one that is interrupted would leave it for ever.
        _checkpoint_in(log, version).unlink(missing_ok=True)
        commit_path(table, version).unlink(missing_ok=True)
    return len(going)


def _are_older(table: DeltaTable, versions: list[int], seconds: float) -> bool:
    """Tell whether there are commits, and all are older."""
    before = time.time() - seconds
    return bool(versions) and all(commit_path(table, version).stat().st_mtime < before for version in versions)


def _checkpoint_in(log: Path, version: int) -> Path:
    return log / f"{version:020}.checkpoint.parquet"


def _repeat(table: DeltaTable) -> None:
    """Commit what all commits said."""
    while True:
        before = table.version()
        said = repeat(read_statements(table), table)
        until = Transaction(REPEATED, before)
        commit_files([], table, CommitProperties(said, max_commit_retries=0, app_transactions=[until]))
        # Nothing else tells an empty commit from that of somebody else.
        if commit_info(read_commit(table, before + 1)).get(REPEATED) == said[REPEATED]:
            confirm_files([], table, before + 1)
            return
