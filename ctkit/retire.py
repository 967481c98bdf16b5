"""Remove a staging table that was merged: its own files, and nothing else."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from ctkit.adopt import remove_files
from ctkit.datafile import DataFile
from ctkit.schema import PARTITION
from ctkit.table import files_of, folder_of, hold, table_path

MERGED = "ctkit.merged"
"""Commit metadata of staging: everything that it held is in main."""

_REMOVED_LOG = "_delta_log.removed"


def retire(staging: DeltaTable, merged: Sequence[DataFile]) -> str:
    """Remove merged files, and the table with its folder if nothing was added to it meanwhile.

    A commit takes the files out of the table first. From then on no reader and no later run can take them for rows, so
    that what follows may be interrupted anywhere.

    Returns
    -------
    str
        What is left and why; "" if the table and its folder are gone.
    """
    try:
        remove_files(merged, staging, {MERGED: "all"})
        for file in merged:
            file.path.unlink(missing_ok=True)
        staging.update_incremental()
        if rows := staging.count():
            return f"{rows} rows that were added during the merge; merge again"
        return _remove_empty(staging)
    except (DeltaError, OSError) as error:
        return f"{folder_of(staging)} could not be removed ({error}); merge again or remove it"


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
    if staging is None:
        rest = Path(folder)
        if rest.is_dir() and all(path.name == _REMOVED_LOG for path in rest.iterdir()):
            _remove_rest(rest)
        return ""
    if MERGED not in staging.history(1)[0]:
        return "an empty table"
    with hold(staging):
        return _remove_empty(staging)


def orphans(staging: DeltaTable) -> list[Path]:
    """Return the files that writers left in the table's folder which died before their commit: rows of nobody."""
    known = set(files_of(staging))
    found = table_path(staging.table_uri).glob(f"{PARTITION}=*/part-*.parquet")
    return sorted(path for path in found if str(path) not in known)


def _remove_empty(staging: DeltaTable) -> str:
    folder = table_path(staging.table_uri)
    for orphan in orphans(staging):
        orphan.unlink()
    for partition in folder.glob(f"{PARTITION}=*"):
        if not any(partition.iterdir()):
            partition.rmdir()
    shutil.rmtree(folder / _REMOVED_LOG, ignore_errors=True)
    if foreign := sorted(path.name for path in folder.iterdir() if path.name != "_delta_log"):
        return f"an empty table, because {folder} also holds {', '.join(foreign[:5])}; remove it"
    # Renamed at once, it is no table any more: half a log would be a broken one.
    (folder / "_delta_log").rename(folder / _REMOVED_LOG)
    _remove_rest(folder)
    return ""


def _remove_rest(folder: Path) -> None:
    shutil.rmtree(folder / _REMOVED_LOG, ignore_errors=True)
    folder.rmdir()
