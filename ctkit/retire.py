"""Remove a staging table that was merged: its own files, and nothing else."""

import os
import shutil
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from ctkit.adopt import remove_files
from ctkit.datafile import DataFile
from ctkit.schema import PARTITION
from ctkit.table import files_of, first_line, folder_of, hold, table_path

MERGED = "ctkit.merged"
"""Commit metadata of staging: everything that it held is in main."""

EMPTY = "an empty table"
"""What is left where nothing was to be removed: a staging table that never had a row."""


def retire(staging: DeltaTable, merged: Sequence[DataFile], dead: Sequence[Path]) -> str:
    """Remove merged files, and the table with its folder if nothing was added to it meanwhile.

    A commit takes the files out of the table first. From then on no reader and no later run can take them for rows, so
    that what follows may be interrupted anywhere.

    Parameters
    ----------
    staging
        The table, held.
    merged
        Its files that were merged.
    dead
        Its `orphans` from before the merge; they go only with the whole table, for a writer without our lock may
        commit them yet.

    Returns
    -------
    str
        What is left and why; "" if the table and its folder are gone.
    """
    try:
        remove_files(merged, staging, {MERGED: "all"})
        for file in merged:
            file.path.unlink(missing_ok=True)
        return _remove_empty(staging, dead)
    except (DeltaError, OSError) as error:
        return f"{folder_of(staging)} could not be removed ({first_line(error)}); merge again or remove it"


def finish_retiring(folder: str, staging: DeltaTable | None) -> str:
    """Remove what a merge emptied and then could not remove; leave a table alone that is empty for another reason.

    Parameters
    ----------
    folder
        Where staging is, or was.
    staging
        The table there, without rows; None if there is none.

    Returns
    -------
    str
        What is left and why; "" if nothing is.
    """
    try:
        if staging is None:
            shutil.rmtree(_husk(Path(folder)), ignore_errors=True)
            return ""
        with hold(staging) as held:
            if files_of(held) or MERGED not in held.history(1)[0]:
                return EMPTY
            return _remove_empty(held, orphans(held))
    except (DeltaError, OSError) as error:
        return f"{folder} could not be removed ({first_line(error)}); remove it"


def orphans(staging: DeltaTable) -> list[Path]:
    """Return the files that writers left in the table's folder which died before their commit: rows of nobody."""
    known = set(files_of(staging))
    partitions = table_path(staging.table_uri).glob(f"{PARTITION}=*")
    found = (path for folder in partitions if not folder.is_symlink() for path in folder.glob("part-*.parquet"))
    return sorted(path for path in found if str(path) not in known)


def _remove_empty(table: DeltaTable, dead: Sequence[Path]) -> str:
    """Remove a table without files, and its orphans with it."""
    folder = table_path(table.table_uri)
    table.update_incremental()
    if files := files_of(table):
        return f"{len(files)} files that were added during the merge; merge again"
    partitions = (path for path in folder.glob(f"{PARTITION}=*") if not path.is_symlink())
    own = {folder / "_delta_log", *(path for path in partitions if set(dead).issuperset(path.iterdir()))}
    if foreign := sorted(path.name for path in folder.iterdir() if path not in own):
        return f"{EMPTY}, because {folder} also holds {', '.join(foreign[:5])}; remove it"
    # Renamed, it is gone at once: half a log would be a broken table.
    husk = _husk(folder)
    shutil.rmtree(husk, ignore_errors=True)
    folder.rename(husk)
    if (husk / "_delta_log" / f"{table.version() + 1:020}.json").exists():
        # A writer without our lock was quicker than the rename: give it its table back.
        husk.rename(folder)
        return "files that were added during the merge; merge again"
    shutil.rmtree(husk)
    return ""


def _husk(folder: Path) -> Path:
    """Return where a staging folder goes that is about to be deleted."""
    name = os.fsencode(folder.name)
    if len(name) > _LONGEST:
        name = sha256(name).hexdigest().encode()
    return folder.with_name(f".{os.fsdecode(name)}.ctkit-removed")


_LONGEST = 200
"""Bytes of a folder's name to which something can still be added: most file systems allow 255."""
