"""Parquet files of one Delta table, published in another by a single commit, without being rewritten."""

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction, Transaction

from ctkit.errors import TableError
from ctkit.schema import PARTITION, row_schema
from ctkit.table import as_der_type, files_of, table_path


@dataclass(frozen=True)
class DataFile:
    """One Parquet file that a Delta table's version holds.

    Attributes
    ----------
    folder
        The table's folder.
    action
        What adds the file to a table; its path is relative to the table's folder, below ``seen_date=.../``.
    rows
        ``numRecords`` of the log's statistics; None where it has none.
    """

    folder: Path
    action: AddAction
    rows: int | None

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self.folder / unquote(self.action.path)


def data_files(table: DeltaTable) -> list[DataFile]:
    """Return the files of the table's version, with the statistics that its log has of them."""
    folder = table_path(table.table_uri)
    return [_data_file(folder, added) for added in pa.table(table.get_add_actions()).to_pylist()]


def _data_file(folder: Path, added: dict[str, Any]) -> DataFile:
    statistics = {
        "numRecords": added["num_records"],
        "minValues": _present(added.get("min")),
        "maxValues": _present(added.get("max")),
        "nullCount": _present(added.get("null_count")),
    }
    action = AddAction(
        path=added["path"],
        size=added["size_bytes"],
        partition_values=added["partition"],
        modification_time=added["modification_time"],
        data_change=True,
        stats=json.dumps(statistics, default=_timestamp),
    )
    return DataFile(folder, action, added["num_records"])


def _present(values: dict[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (values or {}).items() if value is not None}


def _timestamp(value: datetime) -> str:
    return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def link_files(files: Iterable[DataFile], target: DeltaTable) -> None:
    """Make the files durable below the target's folder: hard links, or copies where linking is impossible.

    They are not part of the target until they are committed.

    Raises
    ------
    TableError
        A file is missing, truncated, or not what its table's log says; or there is no room or right to link it.
    """
    root = table_path(target.table_uri)
    schema = row_schema(as_der_type(target))
    folders: set[Path] = set()
    for file in files:
        _verify(file, schema)
        link = root / unquote(file.action.path)
        try:
            if link.parent not in folders:
                link.parent.mkdir(exist_ok=True)
                folders.add(link.parent)
            try:
                os.link(file.path, link)
            except FileExistsError:
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


def _verify(file: DataFile, schema: pa.Schema) -> None:
    try:
        footer = pq.read_metadata(file.path)
        have = footer.schema.to_arrow_schema()
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
    else:
        wrong = [name for name in schema.names if name != PARTITION and _type_of(have, name) != schema.field(name).type]
        if wrong:
            reason = f"its columns {', '.join(wrong)} are missing or of another type"
        elif file.rows not in (None, footer.num_rows) or file.path.stat().st_size != file.action.size:
            reason = f"it has {footer.num_rows} rows in {file.path.stat().st_size} bytes, not what its table's log says"
        else:
            return
    raise TableError(str(file.folder), f"{file.action.path} is damaged: {reason}; remove this table and backfill anew")


def _type_of(schema: pa.Schema, name: str) -> pa.DataType | None:
    return schema.field(name).type if name in schema.names else None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unlink_files(names: Iterable[str], target: DeltaTable) -> None:
    """Remove what `link_files` left below the target's folder and no commit has taken up.

    Parameters
    ----------
    names
        Paths relative to the target's folder.
    """
    root = table_path(target.table_uri)
    taken = set(files_of(target))
    for name in names:
        link = root / name
        if str(link) not in taken:
            link.unlink(missing_ok=True)


def commit_files(files: list[DataFile], target: DeltaTable, transaction: Transaction, facts: dict[str, str]) -> bool:
    """Add linked files to the version after the one that the handle has, in one commit.

    Parameters
    ----------
    transaction
        Goes into the commit, where it tells a later run that this one got so far.
    facts
        Go into the commit, where ``DeltaTable.history()`` shows them.

    Returns
    -------
    bool
        False if somebody else committed first: nothing was added, and the handle shows what they did.

    Raises
    ------
    TableError
        Nothing was added.
    """
    properties = CommitProperties(custom_metadata=facts, app_transactions=[transaction], max_commit_retries=0)
    actions: list[AddAction | RemoveAction] = [file.action for file in files]
    try:
        target.create_write_transaction(actions, "append", target.schema(), [PARTITION], commit_properties=properties)
    except (DeltaError, OSError) as error:
        target.update_incremental()
        # What fails after the commit itself, such as the checkpoint that follows it, leaves the commit in place.
        if target.transaction_version(transaction.app_id) == transaction.version:
            return True
        if isinstance(error, CommitFailedError):
            return False
        message = f"the commit failed ({error}); nothing was added: mend that and run again"
        raise TableError(str(table_path(target.table_uri)), message) from error
    target.update_incremental()
    return True


def confirm_files(files: Iterable[DataFile], target: DeltaTable) -> None:
    """Make the commit of the files durable, and read it back from the disk.

    Raises
    ------
    TableError
        The table on the disk does not have them.
    """
    root = table_path(target.table_uri)
    log = root / "_delta_log"
    _sync(log / f"{target.version():020}.json")
    _sync(log)
    have = set(files_of(DeltaTable(root.as_uri())))
    if lost := [file.action.path for file in files if str(root / unquote(file.action.path)) not in have]:
        raise TableError(str(root), f"does not show {lost[:3]} after their commit; look at its history() and run again")


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
