"""Remove a staging table that was merged: its own files, and nothing else."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from ctkit.adopt import remove_files
from ctkit.datafile import DataFile
from ctkit.schema import PARTITION
from ctkit.table import files_of, table_path

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
    folder = table_path(staging.table_uri)
    try:
        if merged:
            remove_files(merged, staging, {MERGED: "all"})
        for file in merged:
            file.path.unlink(missing_ok=True)
        staging.update_incremental()
        if staging.count():
            return f"{staging.count()} rows that were added during the merge; merge again"
        return _remove_empty(folder, staging)
    except (DeltaError, OSError) as error:
        return f"{folder} could not be removed ({error}); merge again or remove it"


def is_retired(staging: DeltaTable) -> bool:
    """Tell whether the table is what a merge emptied and then could not remove."""
    return not files_of(staging) and MERGED in staging.history(1)[0]


def _remove_empty(folder: Path, staging: DeltaTable) -> str:
    # Files of writers that died before their commit: the table's own by their name, and rows of nobody.
    for orphan in folder.glob(f"{PARTITION}=*/part-*.parquet"):
        orphan.unlink()
    for partition in folder.glob(f"{PARTITION}=*"):
        if not any(partition.iterdir()):
            partition.rmdir()
    if foreign := sorted(path.name for path in folder.iterdir() if path.name != "_delta_log"):
        return f"an empty table, because {folder} also holds {', '.join(foreign[:5])}; remove it"
    # Renamed at once, it is no table any more: half a log would be a broken one.
    removed = (folder / "_delta_log").rename(folder / _REMOVED_LOG)
    shutil.rmtree(removed)
    folder.rmdir()
    return ""
