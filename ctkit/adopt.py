"""Parquet files of one Delta table, published in another by a single commit, without being rewritten."""

import filecmp
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from ctkit.datafile import DataFile, plain_schema
from ctkit.errors import TableError
from ctkit.schema import PARTITION, row_schema
from ctkit.table import as_der_type, files_of, first_line, folder_of, table_path


def link_files(files: Iterable[DataFile], target: DeltaTable) -> int:
    """Make the files durable below the target's folder: hard links, or copies where linking is impossible.

    They are not part of the target until they are committed.

    Returns
    -------
    int
        How many rows they have, by their footers.

    Raises
    ------
    TableError
        A file is missing, truncated, or not what its table's log says; or there is no room or right to link it.
    """
    root = table_path(target.table_uri)
    schema = row_schema(as_der_type(target))
    folders: set[Path] = set()
    rows = 0
    for file in files:
        rows += _verify(file, schema)
        link = root / file.name
        try:
            if link.parent not in folders:
                link.parent.mkdir(exist_ok=True)
                folders.add(link.parent)
            try:
                os.link(file.path, link)
            except FileExistsError:
                # Main's history still names it where a merge that had not removed staging was undone.
                if not filecmp.cmp(file.path, link, shallow=False):
                    raise
            except OSError:
                # Another file system, or one without hard links.
                shutil.copyfile(file.path, link)
            _sync(link)
            # A link has the age of its file; a full VACUUM beside us goes by age.
            os.utime(link)
        except OSError as error:
            message = f"{file.path.name} cannot be brought there ({error.strerror or error}); nothing was committed"
            raise TableError(str(root), f"{message}: mend that and run again") from error
    for folder in (*folders, root):
        _sync(folder)
    return rows


def _verify(file: DataFile, schema: pa.Schema) -> int:
    """Refuse a file that the target could not be read with; return how many rows it has."""
    try:
        footer = pq.read_metadata(file.path)
        hints = footer.schema.to_arrow_schema()
        have = plain_schema(hints)
        wrong = [name for name in schema.names if name != PARTITION and _type_of(have, name) != schema.field(name).type]
        if wrong:
            reason = f"its columns {', '.join(wrong)} are missing or of another type"
        elif file.rows not in (None, footer.num_rows) or file.path.stat().st_size != file.action.size:
            reason = f"it has {footer.num_rows} rows in {file.path.stat().st_size} bytes, not what its table's log says"
        elif nulls := _with_nulls(file.path, [field.name for field in hints if field.nullable]):
            reason = f"its columns {', '.join(nulls)} have nulls"
        else:
            return int(footer.num_rows)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
    message = f"{file.action.path} cannot become part of another table: {reason}; nothing was changed"
    advice = "write the file anew with the table's own types, or remove this table and backfill anew"
    raise TableError(str(file.folder), f"{message}: {advice}")


def _with_nulls(path: Path, names: list[str]) -> list[str]:
    """Return which of the columns have nulls; one is in memory at a time."""
    return [name for name in names if pq.ParquetFile(path).read([name])[name].null_count]


def _type_of(schema: pa.Schema, name: str) -> pa.DataType | None:
    return schema.field(name).type if name in schema.names else None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unlink_files(names: Iterable[str], target: DeltaTable) -> None:
    """Remove what was written or linked below the target's folder and no commit has taken up.

    Parameters
    ----------
    names
        Paths relative to the target's folder, which no commit before has ever named.
    """
    root = table_path(target.table_uri)
    if links := [link for name in names if (link := root / name).exists()]:
        # The disk decides, not the handle: an interrupt may have come between a commit and what the handle knows of it.
        taken = set(files_of(DeltaTable(root.as_uri())))
        for link in links:
            if str(link) not in taken:
                link.unlink()


def commit_files(files: Sequence[DataFile], target: DeltaTable, properties: CommitProperties | None = None) -> bool:
    """Add files that lie below the target's folder to the table, in one commit.

    Parameters
    ----------
    properties
        With ``max_commit_retries=0`` the commit is made only if it is the next one after the handle's version.

    Returns
    -------
    bool
        False if somebody else committed first: nothing was added, and the handle shows what they did.

    Raises
    ------
    TableError
        Nothing was added.
    """
    actions: list[AddAction | RemoveAction] = [file.action for file in files]
    before = target.version()
    try:
        target.create_write_transaction(actions, "append", target.schema(), [PARTITION], commit_properties=properties)
    except (DeltaError, OSError) as error:
        target.update_incremental()
        # What fails after the commit itself, such as the checkpoint that follows it, leaves the commit in place.
        if {file.name for file in files} <= files_added(actions_since(target, before)):
            return True
        if isinstance(error, CommitFailedError) and target.version() > before:
            return False
        message = f"the commit failed ({first_line(error)}); nothing was added: mend that and run again"
        raise TableError(folder_of(target), message) from error
    target.update_incremental()
    return True


def confirm_files(files: Iterable[DataFile], target: DeltaTable, version: int) -> None:
    """Make the commit of the files durable, and read it back from the disk.

    Parameters
    ----------
    version
        What they were committed as; others may have committed since, and even replaced the files.

    Raises
    ------
    TableError
        The commit on the disk does not have them.
    """
    commit = _commit_path(target, version)
    _sync(commit)
    _sync(commit.parent)
    have = files_added(_read_commit(commit))
    if lost := [file.name for file in files if file.name not in have]:
        message = f"does not show {lost[:3]} in version {version}; look at its history() and run again"
        raise TableError(folder_of(target), message)


def actions_since(table: DeltaTable, version: int) -> list[dict[str, Any]]:
    """Return the actions of all commits after `version`, up to the one that the handle shows (Delta protocol, Actions).

    What is new in a table of many files costs as much as is new, and not a listing of all.

    Raises
    ------
    TableError
        A commit is not there any more.
    """
    commits = [_commit_path(table, later) for later in range(version + 1, table.version() + 1)]
    try:
        return [action for commit in commits for action in _read_commit(commit)]
    except (OSError, ValueError) as error:
        message = f"its commits after version {version} cannot be read ({error}); nothing was changed: run again"
        raise TableError(folder_of(table), message) from error


def files_added(actions: Iterable[dict[str, Any]]) -> set[str]:
    """Return the paths of the files that the actions add, relative to the table's folder."""
    return {unquote(action["add"]["path"]) for action in actions if "add" in action}


def added_by(table: DeltaTable, version: int) -> set[str]:
    """Return the absolute paths of the files that one commit added.

    Raises
    ------
    TableError
        The commit cannot be read.
    """
    folder = folder_of(table)
    try:
        return {f"{folder}/{name}" for name in files_added(_read_commit(_commit_path(table, version)))}
    except (OSError, ValueError) as error:
        message = f"its commit {version} cannot be read ({error}); nothing was changed: run again"
        raise TableError(folder, message) from error


def _commit_path(table: DeltaTable, version: int) -> Path:
    return table_path(table.table_uri) / "_delta_log" / f"{version:020}.json"


def _read_commit(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def remove_files(files: Iterable[DataFile], table: DeltaTable, facts: dict[str, str]) -> None:
    """Take files out of a table by one commit; others that were added meanwhile stay."""
    now = int(datetime.now().timestamp() * 1000)
    actions: list[AddAction | RemoveAction] = [
        RemoveAction(file.action.path, True, now, file.action.size, dict(file.action.partition_values))
        for file in files
    ]
    properties = CommitProperties(custom_metadata=facts)
    table.create_write_transaction(actions, "append", table.schema(), [PARTITION], commit_properties=properties)
    table.update_incremental()
