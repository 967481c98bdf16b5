"""Files of a table, taken out of it and replaced by others in one commit."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from deltalake import CommitProperties, DeltaTable

from ctkit.errors import TableError
from ctkit.lake.files import DataFile
from ctkit.lake.links import commit_files, confirm_files, link_files
from ctkit.lake.scratch import clear_scratch, scratch_of
from ctkit.lake.table import check_features, files_of, folder_of
from ctkit.visible import get_logger

logger = get_logger(__name__)


@contextmanager
def preparing(table: DeltaTable) -> Iterator[Path]:
    """Yield a folder for files that are written before they are committed; the table is held.

    What was prepared and not committed is removed: what a run left that died at the beginning, the rest at the end.

    Raises
    ------
    TableError
        Something cannot be removed, or the table cannot be read.
    """
    clear_scratch(table)
    try:
        yield scratch_of(table)
    except BaseException:
        # What cannot be removed now stays noted, for the next run.
        with suppress(TableError):
            clear_scratch(table)
        raise
    clear_scratch(table)


def exchange_files(
    removed: Sequence[DataFile],
    written: Sequence[DataFile],
    rows: int,
    table: DeltaTable,
    properties: CommitProperties,
    *,
    needed: Collection[str],
    data_change: bool = True,
) -> int | None:
    """Take files out of a table, and put those in that were written instead, by one commit.

    Parameters
    ----------
    written, rows
        What was written while the table is `preparing`, and how many rows it must have.
    properties
        Of the commit, with ``max_commit_retries=0``.
    needed
        Paths of files that must still be the table's.
    data_change
        False if the rows of the table stay the same.

    Returns
    -------
    int or None
        The version; None if others have replaced files meanwhile. Nothing was changed then, and the handle shows what
        they did.

    Raises
    ------
    SchemaMismatchError
        The table has changed, and demands what we do not do; nothing was changed.
    TableError
        Nothing was changed, unless the commit cannot be read back.
    """
    if (found := sum(file.rows for file in written)) != rows:
        message = f"{found} rows were written where {rows} stay. Nothing was changed. Report this"
        raise TableError(folder_of(table), message)
    linked = link_files(written, table)
    version = table.version()
    while not commit_files(linked, table, properties, removed=removed, data_change=data_change):
        logger.info("table has a new version, checking its files version=%d", table.version())
        check_features(table, "append")
        check_features(table, "remove")
        if not set(files_of(table)).issuperset(needed):
            return None
        version = table.version()
    confirm_files(linked, table, version + 1)
    return version + 1
