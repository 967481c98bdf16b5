"""Is a staging table one? Signs of swapped paths, or of somebody else's table.

A merge empties the staging table and removes it. With the two paths swapped, that would be main: a staging table that
looks like a main table is merged only after a confirmation.
"""

import pyarrow.compute as pc
from deltalake import DeltaTable

from ctkit.errors import UnconfirmedMergeError
from ctkit.lake.commits import Action, commit_info, kept_commits, kept_versions, read_commit
from ctkit.lake.table import add_actions, folder_of

MERGED_FROM = "ctkit.merged_from"
"""Commit metadata of main: the staging folder that the commit's rows came from."""

STAGED_FOR = "ctkit.staged_for"
"""Commit metadata of staging: the id of the main table that its rows were fetched for."""

MANY_ROWS, MANY_TIMES = 1000, 10
"""A staging table may be main itself from this many rows on, if it has this many times the rows of main."""

LAST_COMMITS = 100
"""Commits of main that are read; it may have any number of them."""


def doubts_of(staging: DeltaTable, main: DeltaTable | None) -> tuple[str, ...]:
    """Return what makes a staging table look like a main table; nothing where it looks like what a backfill writes.

    Raises
    ------
    TableError
        A commit of staging cannot be read.
    """
    infos, writing = [], []
    for version, actions in kept_commits(staging):
        infos.append(commit_info(actions))
        if _has_new_rows(actions):
            writing.append((version, infos[-1]))
    own = str(staging.metadata().id)
    merges = sum(MERGED_FROM in info for info in infos)
    foreign = [version for version, info in writing if not any(key.startswith("ctkit.") for key in info)]
    meant_for = {info[STAGED_FOR] for _, info in writing if STAGED_FOR in info}
    found = {
        "its log has lost commits, and with them what they said": len(kept_versions(staging)) <= staging.version(),
        f"{merges} merges were made into it": merges > 0,
        f"another program than ctkit wrote rows to it, first in version {min(foreign, default=0)}": foreign,
        "a backfill filled it as a main table": own in meant_for,
    }
    if main:
        folder, rows, rows_of_main = folder_of(main), 0, 0
        if any(STAGED_FOR not in info for _, info in writing):
            rows, rows_of_main = _rows_of(staging), _rows_of(main)
        found |= {
            f"its rows were fetched for another main table than {folder}": meant_for - {own, str(main.metadata().id)},
            f"the rows of {folder} were fetched for it": own in _meant_for(main),
            f"it has {rows} rows, many more than the {rows_of_main} of {folder}": rows_of_main
            and rows >= max(MANY_ROWS, MANY_TIMES * rows_of_main),
        }
    return tuple(doubt for doubt, holds in found.items() if holds)


def _meant_for(table: DeltaTable) -> set[str]:
    """Return the ids of the main tables that the rows of a table's last commits were fetched for."""
    infos = (commit_info(read_commit(table, version)) for version in kept_versions(table)[-LAST_COMMITS:])
    return {info[STAGED_FOR] for info in infos if STAGED_FOR in info}


def check_doubts(doubts: tuple[str, ...], staging: str, main: str) -> None:
    """Raise if there are doubts.

    Raises
    ------
    UnconfirmedMergeError
        Names them.
    """
    if doubts:
        raise UnconfirmedMergeError(staging, main, doubts)


def _has_new_rows(actions: list[Action]) -> bool:
    return any(action["add"].get("dataChange", True) for action in actions if "add" in action)


def _rows_of(table: DeltaTable) -> int:
    """Return the number of rows by the statistics of the table's log."""
    return pc.sum(add_actions(table)["num_records"]).as_py() or 0
