"""Parquet files of one Delta table, published in another by a single commit, without being rewritten."""

import json
import logging
import os
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

from ctkit.commits import actions_since, commit_path, files_added, files_removed, read_commit
from ctkit.datafile import DataFile, plain_schema
from ctkit.digests import digest_in, new_name
from ctkit.errors import TableError
from ctkit.schema import PARTITION
from ctkit.table import files_of, first_line, folder_of, table_path

logger = logging.getLogger(__name__)


def link_files(files: Sequence[DataFile], target: DeltaTable, note: Path) -> list[DataFile]:
    """Make the files durable below the target's folder, each under a new name, which nobody else has or had.

    They are hard links, or copies where linking is impossible, and not part of the target until they are committed.

    Parameters
    ----------
    note
        A file of ours in the target's folder, for `unlink_noted`: there before the first link is.

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
        _write_note(note, [link.name for link in links], target)
        for folder in folders:
            folder.mkdir(exist_ok=True)
        for file, link in zip(files, links, strict=True):
            _link(file.path, link.path)
        for folder in folders | {root}:
            _sync(folder)
    except OSError as error:
        message = (
            f"{len(files)} files cannot be brought there ({error}); nothing was committed: mend that and run again"
        )
        raise TableError(str(root), message) from error
    return links


def _renamed(file: DataFile, root: Path) -> DataFile:
    name = f"{os.path.dirname(file.name)}/{new_name(digest_in(file.name))}"
    return replace(file, folder=root, action=replace(file.action, path=name))


def _link(file: Path, link: Path) -> None:
    try:
        os.link(file, link)
    except OSError:
        # Another file system, or one without hard links.
        shutil.copyfile(file, link)
    _sync(link)
    # A link has the age of its file; a full VACUUM beside us goes by age.
    os.utime(link)


def is_adoptable(file: DataFile, schema: pa.Schema) -> bool:
    """Tell whether a file can be part of a table as it is; its rows must be written anew where not.

    Parameters
    ----------
    schema
        The table's columns.

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
        elif _types_of(hints) != _types_of(schema.remove(schema.get_field_index(PARTITION))):
            return False
        elif nulls := _with_nulls(file.path, [field.name for field in hints if field.nullable]):
            reason = f"its columns {', '.join(nulls)} have nulls"
        else:
            # Without a value for the partition a table cannot be opened any more.
            return bool(file.partition)
    except (OSError, pa.ArrowException) as error:
        reason = first_line(error)
    message = f"{file.name} cannot become part of another table: {reason}; nothing was changed"
    raise TableError(str(file.folder), f"{message}: write the file anew, or remove this table and backfill anew")


# The files of a table are mostly alike.
@lru_cache(maxsize=16)
def _types_of(schema: pa.Schema) -> dict[str, pa.DataType]:
    plain = plain_schema(schema)
    return dict(zip(plain.names, plain.types, strict=True))


def _with_nulls(path: Path, names: list[str]) -> list[str]:
    """Return which of the columns have nulls; little of one is in memory at a time."""
    if not names:
        return []
    with pq.ParquetFile(path, pre_buffer=False) as parquet:
        return [name for name in names if any(rows[0].null_count for rows in parquet.iter_batches(columns=[name]))]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_note(note: Path, names: list[str], target: DeltaTable) -> None:
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({"version": target.version(), "names": names}))
    for path in (note, note.parent, note.parent.parent, table_path(target.table_uri)):
        _sync(path)


def unlink_noted(note: Path, target: DeltaTable) -> None:
    """Remove what `link_files` linked, in this run or in one that died, unless it was committed.

    What was committed belongs to the target's history, also where others have replaced it since. If the commits are
    gone that would tell, everything stays.

    Raises
    ------
    DeltaError, OSError
        The target cannot be read, or a link cannot be removed.
    """
    try:
        noted = json.loads(note.read_bytes())
    except (FileNotFoundError, ValueError):
        # A run that dies while it writes the note has not linked anything yet.
        return
    try:
        # The disk decides, not the handle: an interrupt may have come between a commit and what the handle knows of it.
        taken = files_added(actions_since(DeltaTable(target.table_uri), noted["version"]))
    except TableError as error:
        logger.warning("files of a run that died may be left in main: %s", error)
        return
    if taken.isdisjoint(noted["names"]):
        unlink_files(noted["names"], target)


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


def commit_files(
    files: Sequence[DataFile],
    target: DeltaTable,
    properties: CommitProperties | None = None,
    *,
    replaced: Sequence[DataFile] = (),
) -> bool:
    """Add files that lie below the target's folder to the table, in one commit.

    Parameters
    ----------
    replaced
        Files of the target that the same commit takes out of it.
    properties
        With ``max_commit_retries=0`` the commit is made only if it is the next one after the handle's version.

    Returns
    -------
    bool
        False if somebody else committed first: nothing was changed, and the handle shows what they did.

    Raises
    ------
    TableError
        Nothing was changed.
    """
    actions: list[AddAction | RemoveAction] = [*(file.action for file in files), *_removals(replaced)]
    before = target.version()
    try:
        target.create_write_transaction(actions, "append", target.schema(), [PARTITION], commit_properties=properties)
    except (DeltaError, OSError) as error:
        target.update_incremental()
        # What fails after the commit itself, such as the checkpoint that follows it, leaves the commit in place.
        ours = {file.name for file in files}, {file.name for file in replaced}
        since = (read_commit(target, version) for version in range(before + 1, target.version() + 1))
        if ours in ((files_added(commit), files_removed(commit)) for commit in since):
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
    commit = commit_path(target, version)
    try:
        _sync(commit)
        _sync(commit.parent)
        have = commit.read_bytes()
    except OSError as error:
        message = f"version {version}, which has what was merged, cannot be read back ({error}); look at its history()"
        raise TableError(folder_of(target), f"{message} and run again") from error
    # Names are new and unlike all others: there is no need to take the commit apart.
    if lost := [file.name for file in files if file.path.name.encode() not in have]:
        message = f"does not show {lost[:3]} in version {version}; look at its history() and run again"
        raise TableError(folder_of(target), message)


def _removals(files: Iterable[DataFile]) -> list[RemoveAction]:
    now = int(datetime.now().timestamp() * 1000)
    return [
        RemoveAction(file.action.path, True, now, file.action.size, dict(file.action.partition_values))
        for file in files
    ]


def remove_files(files: Iterable[DataFile], table: DeltaTable, facts: dict[str, str]) -> None:
    """Take files out of a table by one commit; others that were added meanwhile stay."""
    properties = CommitProperties(custom_metadata=facts)
    actions: list[AddAction | RemoveAction] = [*_removals(files)]
    table.create_write_transaction(actions, "append", table.schema(), [PARTITION], commit_properties=properties)
    table.update_incremental()
