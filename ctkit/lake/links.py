"""Parquet files of one Delta table, published in another by a single commit, without being rewritten."""

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from ctkit.errors import TableError
from ctkit.lake.commits import commit_path, files_added, files_removed, read_commit
from ctkit.lake.digests import digest_in, new_name
from ctkit.lake.files import DataFile, plain_schema, stats_of
from ctkit.lake.reasons import first_line
from ctkit.lake.scratch import sync, write_note
from ctkit.lake.table import file_name, folder_of, make_folder, table_path
from ctkit.schema import PARTITION
from ctkit.visible import get_logger

logger = get_logger(__name__)

_PLAIN = re.compile(r"[A-Za-z0-9/=._+-]+")
"""Characters that no writer percent-encodes in a path."""


def link_files(files: Sequence[DataFile], target: DeltaTable) -> list[DataFile]:
    """Link the files into the target's ``seen_date=.../`` folders, durably, each under a name that no file ever had.

    They are hard links, or copies where linking is impossible, and not part of the target until they are committed.
    They are noted first: if this run dies, `ctkit.lake.scratch.clear_scratch` removes them.

    Returns
    -------
    list of DataFile
        What to commit, in the same order.

    Raises
    ------
    TableError
        A file is missing, truncated, or not what its table's log says; or there is no room or right to link it.
    """
    root = table_path(target.table_uri)
    links = [_renamed(file, root) for file in files]
    folders = {link.path.parent for link in links}
    try:
        write_note([link.name for link in links], target)
        for folder in folders:
            make_folder(folder)
        for file, link in zip(files, links, strict=True):
            _link(file.path, link.path)
        for folder in folders | {root}:
            sync(folder)
    except OSError as error:
        message = (
            f"{len(files)} files cannot be linked there ({error}). Nothing was committed. Correct that, then run again"
        )
        raise TableError(str(root), message) from error
    return links


def _renamed(file: DataFile, root: Path) -> DataFile:
    name = f"{PARTITION}={file.partition}/{new_name(digest_in(file.name))}"
    return replace(file, folder=root, action=replace(file.action, path=name))


def _link(file: Path, link: Path) -> None:
    try:
        os.link(file, link)
    except OSError:
        # Another file system, or one without hard links.
        shutil.copyfile(file, link)
    sync(link)
    # A link has the age of its file, and a full VACUUM at the same time goes by age.
    os.utime(link)


def find_adoptable(file: DataFile, schema: pa.Schema) -> DataFile | None:
    """Return a file as an action of another table; None where its rows must be rewritten.

    Parameters
    ----------
    schema
        The other table's columns.

    Returns
    -------
    DataFile or None
        With the statistics of its own footer: those of its table's log were never compared with the rows, and would
        decide in the other table which rows are found.

    Raises
    ------
    TableError
        It is missing, truncated, not what its table's log says, or has nulls.
    """
    try:
        footer = pq.read_metadata(file.path)
        hints = footer.schema.to_arrow_schema()
        if file.rows != footer.num_rows or file.path.stat().st_size != file.action.size:
            reason = f"it has {footer.num_rows} rows in {file.path.stat().st_size} bytes, not what its table's log says"
        elif _types_of(hints) != _types_of(schema.remove(schema.get_field_index(PARTITION))) or file.path.is_symlink():
            # A link to a link would go where that leads.
            return None
        elif nulls := _with_nulls(file.path, [field for field in schema if _may_have_nulls(hints, field)]):
            reason = f"its columns {', '.join(nulls)} have nulls"
        else:
            return replace(file, action=replace(file.action, stats=stats_of(footer)))
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = first_line(error)
    message = f"{file.name} cannot become part of another table: {reason}. Nothing was changed"
    raise TableError(str(file.folder), f"{message}. Rewrite the file, or remove this table and backfill again")


# The files of a table are mostly alike.
@lru_cache(maxsize=16)
def _types_of(schema: pa.Schema) -> dict[str, pa.DataType]:
    plain = plain_schema(schema)
    return dict(zip(plain.names, plain.types, strict=True))


def _may_have_nulls(hints: pa.Schema, field: pa.Field) -> bool:
    """Tell whether the footer of a file allows nulls where a column, or the elements of its lists, cannot be null."""

    def allows(hint: pa.Field, field: pa.Field) -> bool:
        if hint.nullable and not field.nullable:
            return True
        return pa.types.is_list(field.type) and allows(hint.type.value_field, field.type.value_field)

    return field.name != PARTITION and allows(hints.field(field.name), field)


def has_nulls(values: pa.Array, field: pa.Field) -> bool:
    """Tell whether there are nulls where a column, or the elements of its lists, cannot be null."""
    if values.null_count and not field.nullable:
        return True
    return pa.types.is_list(field.type) and has_nulls(values.flatten(), field.type.value_field)


def _with_nulls(path: Path, fields: list[pa.Field]) -> list[str]:
    """Return which of the columns have nulls; little of one is in memory at a time."""
    if not fields:
        return []
    with pq.ParquetFile(path, pre_buffer=False) as parquet:
        return [
            field.name
            for field in fields
            if any(has_nulls(rows[0], field) for rows in parquet.iter_batches(columns=[field.name]))
        ]


def commit_files(
    files: Sequence[DataFile],
    target: DeltaTable,
    properties: CommitProperties | None = None,
    *,
    removed: Sequence[DataFile] = (),
    data_change: bool = True,
) -> bool:
    """Add files that lie below the target's folder to the table, and take others out of it, in one commit.

    Parameters
    ----------
    properties
        With ``max_commit_retries=0`` the commit is made only if it is the next one after the handle's version.
    removed
        Files of the table; they stay on the disk.
    data_change
        False where the files added have the same rows as those removed (Delta protocol, "Add File and Remove File").

    Returns
    -------
    bool
        False if somebody else committed first: nothing was changed, and the handle shows what they did.

    Raises
    ------
    TableError
        Nothing was changed.
    """
    if removed:
        check_removable(removed, target)
    now = int(datetime.now().timestamp() * 1000)
    actions: list[AddAction | RemoveAction] = [replace(file.action, data_change=data_change) for file in files]
    actions += [
        RemoveAction(file.name, data_change, now, file.action.size, dict(file.action.partition_values))
        for file in removed
    ]
    before = target.version()
    try:
        target.create_write_transaction(actions, "append", target.schema(), [PARTITION], commit_properties=properties)
    except (DeltaError, OSError) as error:
        target.update_incremental()
        # What fails after the commit itself, such as the checkpoint that follows it, leaves the commit in place.
        ours = {file.name for file in files}, {file.name for file in removed}
        since = (read_commit(target, version) for version in range(before + 1, target.version() + 1))
        if ours in ((files_added(commit), files_removed(commit)) for commit in since):
            return True
        if isinstance(error, CommitFailedError) and target.version() > before:
            return False
        message = f"the commit failed ({first_line(error)}). Nothing was changed. Correct that, then run again"
        raise TableError(folder_of(target), message) from error
    target.update_incremental()
    return True


def check_removable(files: Iterable[DataFile], table: DeltaTable) -> None:
    """Refuse files of a table that deltalake cannot take out of it again.

    A remove action must repeat the path exactly as the log has it (Delta protocol, "Action Reconciliation"), and
    deltalake percent-encodes paths in its own way only; other writers may have encoded them differently.

    Raises
    ------
    TableError
        Names such a file.
    """
    spelled = {file_name(path): path for path in pa.table(table.get_add_actions())["path"].to_pylist()}
    for file in files:
        if spelled[file.name] != file.name or not _PLAIN.fullmatch(file.name):
            message = f"has a file whose path in its log, {spelled[file.name]!r}, deltalake cannot repeat"
            raise TableError(folder_of(table), f"{message}. Rewrite the table with deltalake, then run again")


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
    commit = commit_path(target, version)
    try:
        sync(commit)
        sync(commit.parent)
        have = commit.read_bytes()
    except OSError as error:
        message = f"version {version}, which has what was merged, cannot be read back ({error}). Check its _delta_log"
        raise TableError(folder_of(target), f"{message}, then run again") from error
    # Names are unique: the commit need not be parsed.
    if lost := [file.name for file in files if file.path.name.encode() not in have]:
        message = f"does not show {lost[:3]} in version {version}. Check its _delta_log, then run again"
        raise TableError(folder_of(target), message)
