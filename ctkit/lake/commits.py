"""The log of a Delta table, read from ``_delta_log`` itself (Delta protocol, "Delta Log Entries" and "Actions").

The version of a commit is the number in its file's name. ``DeltaTable.history()`` is not used: it counts down from the
version of the handle over the commits on the disk that have a ``commitInfo``. That is optional: after a writer that
leaves it out, or with another writer at work, commits get the versions of others.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from ctkit.errors import TableError
from ctkit.lake.table import file_name, find_table, folder_of

Action = dict[str, Any]

_COMMIT = re.compile(r"(\d{20})\.json")


def commit_path(table: DeltaTable, version: int) -> Path:
    """Return where the log has the commit that made `version`."""
    return _log_of(table) / f"{version:020}.json"


def kept_versions(table: DeltaTable) -> list[int]:
    """Return the versions, up to that of the handle, whose commits the log still has, ascending.

    Writers may remove commits that a checkpoint covers (Delta protocol, "Metadata Cleanup"). Those from 0 on are all
    there if the first is 0.

    Raises
    ------
    TableError
        The log cannot be listed.
    """
    try:
        names = os.listdir(_log_of(table))
    except OSError as error:
        raise TableError(folder_of(table), f"its _delta_log cannot be listed ({error}); check the folder") from error
    versions = (int(match[1]) for match in map(_COMMIT.fullmatch, names) if match)
    return sorted(version for version in versions if version <= table.version())


def read_commit(table: DeltaTable, version: int) -> list[Action]:
    """Return the actions of one commit.

    Raises
    ------
    TableError
        The commit is gone, or cannot be read.
    """
    path = commit_path(table, version)
    try:
        # Not splitlines() of the text: it also ends lines at what Unicode calls so, which names of certificates have.
        actions = [json.loads(line) for line in path.read_bytes().split(b"\n") if line.strip()]
        if not all(isinstance(action, dict) for action in actions):
            raise ValueError("a line is not a JSON object")
        for action in actions:
            for kind in ("add", "remove"):
                if kind in action:
                    file_name(action[kind]["path"])
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        message = f"its commit {version} cannot be read ({error}). Nothing was changed. Check its _delta_log, run again"
        raise TableError(folder_of(table), message) from error
    return actions


def kept_commits(table: DeltaTable, *, newest_first: bool = False) -> Iterator[tuple[int, list[Action]]]:
    """Yield version and actions of each commit that the log still has, up to the handle's version, ascending.

    A commit that is cleaned up meanwhile is skipped, as if it had been gone before.

    Raises
    ------
    TableError
        A commit cannot be read, or another table is in the folder by now, so that its commits are of that one.
    """
    for version in sorted(kept_versions(table), reverse=newest_first):
        try:
            actions = read_commit(table, version)
        except TableError:
            if commit_path(table, version).exists():
                raise
        else:
            yield version, actions
    now = find_table(folder_of(table))
    if now is None or now.metadata().id != table.metadata().id:
        raise TableError(folder_of(table), "is no longer the table you opened; another is in its place. Open it again")


def actions_since(table: DeltaTable, version: int) -> list[Action]:
    """Return the actions of all commits after `version`, up to the one that the handle shows.

    In a table of many files this costs as much as what is new, not a listing of all files.

    Raises
    ------
    TableError
        A commit is gone.
    """
    return [action for later in range(version + 1, table.version() + 1) for action in read_commit(table, later)]


def commit_info(actions: Iterable[Action]) -> dict[str, Any]:
    """Return what a commit says of itself (Delta protocol, "Commit Provenance Information"); nothing if it does not.

    Our own keys begin with ``ctkit.``; their values are text.
    """
    found = [action["commitInfo"] for action in actions if isinstance(action.get("commitInfo"), dict)]
    return found[0] if found else {}


def files_added(actions: Iterable[Action]) -> set[str]:
    """Return the names of the files that the actions add, see `ctkit.lake.table.file_name`."""
    return {file_name(action["add"]["path"]) for action in actions if "add" in action}


def files_removed(actions: Iterable[Action]) -> set[str]:
    """Return the names of the files that the actions take out of the table."""
    return {file_name(action["remove"]["path"]) for action in actions if "remove" in action}


def times_removed(actions: Iterable[Action]) -> dict[str, float]:
    """Return when the actions took files out, by name: seconds since the Unix epoch, without end if they do not say."""
    removals = [action["remove"] for action in actions if "remove" in action]
    times = {file_name(removal["path"]): removal.get("deletionTimestamp") for removal in removals}
    return {name: time / 1000 if isinstance(time, int) else math.inf for name, time in times.items()}


def files_left(actions: Iterable[Action]) -> set[str]:
    """Return those that no later action takes out of the table again: a VACUUM may have removed the others."""
    left: set[str] = set()
    for action in actions:
        left |= files_added([action])
        left -= files_removed([action])
    return left


def files_named(table: DeltaTable) -> set[str] | None:
    """Return the names of all files that a commit of the table, up to the handle's version, ever added or removed.

    Returns
    -------
    set of str or None
        None if commits are gone, so that it cannot be known.

    Raises
    ------
    TableError
        A commit cannot be read.
    """
    versions = kept_versions(table)
    if len(versions) <= table.version():
        return None
    commits = (read_commit(table, version) for version in versions)
    return set().union(*(files_added(actions) | files_removed(actions) for actions in commits))


def _log_of(table: DeltaTable) -> Path:
    return Path(folder_of(table)) / "_delta_log"
