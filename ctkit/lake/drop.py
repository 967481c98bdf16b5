"""Remove a staging table that was merged: its own files, and nothing else."""

import os
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import DeltaError

from ctkit.errors import TableError
from ctkit.lake.commits import commit_info, files_named, files_removed, kept_commits, read_commit
from ctkit.lake.files import DataFile
from ctkit.lake.links import commit_files
from ctkit.lake.reasons import first_line
from ctkit.lake.table import files_of, folder_of, hold, table_path
from ctkit.schema import PARTITION

MERGED = "ctkit.merged"
"""Commit metadata of staging: everything that it held is in main."""

REPAIRED = "ctkit.repaired"
"""Commit metadata: how many repeated rows the commit took out."""


class Removal(NamedTuple):
    """Whether a staging table is gone with its folder; if a merge would have removed it, why it did not."""

    removed: bool
    note: str = ""


def retire(staging: DeltaTable, merged: Sequence[DataFile], dead: Sequence[Path]) -> Removal:
    """Remove merged files, and the table with its folder if nothing was added to it meanwhile.

    A commit takes the files out of the table first. From then on no reader and no later run takes them for rows, so
    what follows may be interrupted anywhere. Where deltalake cannot do that, the files go with the folder only.

    Parameters
    ----------
    staging
        The table, held.
    merged
        Its files that were merged.
    dead
        Its `orphans` from before the merge; they go only with the whole table, for a writer without our lock may
        commit them yet.
    """
    try:
        with suppress(TableError):
            commit_files([], staging, CommitProperties({MERGED: "all"}), removed=merged)
            _unlink(merged, table_path(staging.table_uri))
        return _remove_empty(staging, {file.path for file in merged}, dead)
    except (DeltaError, OSError, TableError) as error:
        return Removal(
            False, f"{folder_of(staging)} could not be removed ({first_line(error)}); merge again or remove it"
        )


def _unlink(files: Sequence[DataFile], folder: Path) -> None:
    """Remove files, and the folders below the table's that are empty then."""
    for file in files:
        file.path.unlink(missing_ok=True)
        with suppress(OSError):
            for parent in file.path.parents:
                if parent == folder:
                    break
                parent.rmdir()


def finish_retiring(folder: str, staging: DeltaTable | None) -> Removal:
    """Remove a table that a merge emptied and could not remove; leave alone one that is empty for another reason.

    Parameters
    ----------
    folder
        Where staging is, or was.
    staging
        The table there, without rows; None if there is none.
    """
    try:
        if staging is None:
            shutil.rmtree(_husk(Path(folder)), ignore_errors=True)
            return Removal(True)
        with hold(staging) as held:
            last = read_commit(held, held.version())
            if files_of(held) or MERGED not in commit_info(last):
                return Removal(False)
            return _remove_empty(held, {Path(folder, name) for name in files_removed(last)}, orphans(held))
    except (DeltaError, OSError, TableError) as error:
        return Removal(False, f"{folder} could not be removed ({first_line(error)}); remove it")


def orphans(staging: DeltaTable) -> list[Path]:
    """Return the files that dead writers left in the table's folder, in no commit.

    A file that any commit has ever named is not one of them, whether the table still has it or not. Where commits are
    gone, nothing is.
    """
    folder, named = table_path(staging.table_uri), files_named(staging)
    if named is None:
        return []
    partitions = folder.glob(f"{PARTITION}=*")
    found = (path for parent in partitions if not parent.is_symlink() for path in parent.glob("part-*.parquet"))
    return sorted(path for path in found if str(path.relative_to(folder)) not in named)


def _remove_empty(table: DeltaTable, merged: Collection[Path], dead: Collection[Path]) -> Removal:
    """Remove a table without other files than those that were merged, and its orphans with it."""
    folder = table_path(table.table_uri)
    table.update_incremental()
    if added := set(map(Path, files_of(table))).difference(merged):
        return Removal(False, f"{len(added)} files were added during the merge; merge again")
    own = {*merged, *dead, *_replaced(table), folder / "_delta_log"}
    if foreign := sorted(path.name for path in folder.iterdir() if not _is_own(path, own)):
        return Removal(False, f"the table is empty, but {folder} also holds {', '.join(foreign[:5])}; remove it")
    # Renamed, it is gone at once: half a log would be a broken table.
    husk = _husk(folder)
    shutil.rmtree(husk, ignore_errors=True)
    folder.rename(husk)
    if (husk / "_delta_log" / f"{table.version() + 1:020}.json").exists():
        # A writer without our lock committed before the rename: put its table back.
        husk.rename(folder)
        return Removal(False, "files were added during the merge; merge again")
    shutil.rmtree(husk)
    return Removal(True)


def _replaced(table: DeltaTable) -> set[Path]:
    """Return the files that ctkit or a compaction took out of the table: their rows were kept, or merged.

    What others took out is history that only the table itself can bring back.
    """
    folder = table_path(table.table_uri)
    found: set[Path] = set()
    for _, actions in kept_commits(table):
        removed = [action["remove"] for action in actions if "remove" in action]
        if {REPAIRED, MERGED} & commit_info(actions).keys() or not any(
            each.get("dataChange", True) for each in removed
        ):
            found |= {folder / name for name in files_removed(actions)}
    return found


def _is_own(path: Path, own: Collection[Path]) -> bool:
    """Tell whether a path holds nothing but the table's own files; an empty folder counts as its own."""
    if path in own:
        return True
    return path.is_dir() and not path.is_symlink() and all(_is_own(each, own) for each in path.iterdir())


def _husk(folder: Path) -> Path:
    """Return where a staging folder goes that is about to be deleted."""
    name = os.fsencode(folder.name)
    if len(name) > _LONGEST:
        name = sha256(name).hexdigest().encode()
    return folder.with_name(f".{os.fsdecode(name)}.ctkit-removed")


_LONGEST = 200
"""Bytes of a folder's name to which something can still be added: most file systems allow 255."""
