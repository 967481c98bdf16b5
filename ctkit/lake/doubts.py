"""Is a staging table one? What speaks for a swap of main and staging, or for a table of somebody else.

A merge empties the staging table and removes it. Whoever mixes up the two paths would lose main that way, so that a
merge wants to be confirmed where the staging table looks like a main table.
"""

import pyarrow.compute as pc
from deltalake import DeltaTable

from ctkit.errors import UnconfirmedMergeError
from ctkit.lake.commits import Action, commit_info, kept_commits, kept_versions, read_commit
from ctkit.lake.table import add_actions, folder_of

MERGED_FROM = "ctkit.merged_from"
"""Commit metadata of main: the staging folder that the commit's rows came from."""

UNDONE = "ctkit.undone"
"""Commit metadata of main: the version whose merge the commit takes out."""

STAGED_FOR = "ctkit.staged_for"
"""Commit metadata of staging: the id of the main table that its rows were fetched for."""

MANY_ROWS, MANY_TIMES = 1000, 10
"""A staging table of so many rows that has so many times those of main may be main itself."""


LAST_COMMITS = 100
"""So many commits of main are looked at; it may have any number of them."""


def doubts_of(staging: DeltaTable, main: DeltaTable | None) -> tuple[str, ...]:
    """Tell what makes the staging table look like a main table; nothing where it looks like what a backfill writes.

    Raises
    ------
    TableError
        A commit of staging cannot be read.
    """
    merges, undos, foreign, unsaid = 0, 0, [], 0
    meant_for: set[str] = set()
    for version, actions in kept_commits(staging):
        info = commit_info(actions)
        merges += MERGED_FROM in info
        undos += UNDONE in info
        if _has_new_rows(actions):
            if not any(key.startswith("ctkit.") for key in info):
                foreign.append(version)
            unsaid += STAGED_FOR not in info
            meant_for |= {info[STAGED_FOR]} if STAGED_FOR in info else set()
    found = []
    if len(kept_versions(staging)) <= staging.version():
        found.append("its log has lost commits, and with them what they said")
    if merges or undos:
        found.append(f"{merges} merges were made into it, and {undos} undone there")
    if foreign:
        found.append(f"another program than ctkit wrote rows to it, first in version {foreign[0]}")
    if str(staging.metadata().id) in meant_for:
        found.append("a backfill filled it as a main table")
    elif main and meant_for - {str(main.metadata().id)}:
        found.append(f"its rows were fetched for another main table than {folder_of(main)}")
    if main and str(staging.metadata().id) in _meant_for(main):
        found.append(f"the rows of {folder_of(main)} were fetched for it")
    if main and unsaid:
        rows, rows_of_main = _rows_of(staging), _rows_of(main)
        if rows_of_main and rows >= max(MANY_ROWS, MANY_TIMES * rows_of_main):
            found.append(f"it has {rows} rows, many more than the {rows_of_main} of {folder_of(main)}")
    return tuple(found)


def _meant_for(table: DeltaTable) -> set[str]:
    """Return for which main tables the last commits of a table were fetched: a staging table has few."""
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
    """Return the number of rows that the table's log tells."""
    return pc.sum(add_actions(table)["num_records"]).as_py() or 0
