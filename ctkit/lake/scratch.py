"""What a run prepares below a table's folder and has not committed: noted, and removed by the next run."""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from ctkit.errors import TableError
from ctkit.lake.commits import actions_since, files_added
from ctkit.lake.reasons import first_line
from ctkit.lake.table import files_of, folder_of, make_folder, table_path
from ctkit.schema import PARTITION
from ctkit.visible import get_logger

logger = get_logger(__name__)

SCRATCH = "_ctkit_merge"
"""Folder inside a table for rewritten files and `LINKS`. The underscore keeps Delta readers and VACUUM away from it.

One for all runs: only one at a time holds the table.
"""

LINKS = "links.json"
"""File in there: what was linked from there and from other tables."""

_LINK = re.compile(rf"{PARTITION}=\d{{4}}-\d{{2}}-\d{{2}}/part-00000-[0-9a-f-]{{36}}-(c000|[0-9a-f]{{64}})\.parquet")
"""What a link is called below the table's folder."""


def scratch_of(table: DeltaTable) -> Path:
    """Return the folder for what is written and not yet linked."""
    return table_path(table.table_uri) / SCRATCH


def clear_scratch(table: DeltaTable) -> None:
    """Remove what a run prepared and did not commit, this one or one that died; the table is held.

    What was committed belongs to the table's history, even where others have replaced it since. If the commits that
    would tell are gone, it stays.

    Raises
    ------
    TableError
        Something cannot be removed, or the table cannot be read.
    """
    try:
        _unlink_noted(table)
    except (DeltaError, OSError) as error:
        message = f"what a run left there cannot be removed ({first_line(error)}). Correct that, then run again"
        raise TableError(folder_of(table), message) from error
    shutil.rmtree(scratch_of(table), ignore_errors=True)


def write_note(names: list[str], table: DeltaTable) -> None:
    """Note what is about to be linked below the table's folder; it is on the disk when this returns."""
    note = scratch_of(table) / LINKS
    make_folder(note.parent)
    note.write_text(json.dumps({"version": table.version(), "names": names}))
    for path in (note, note.parent, note.parent.parent):
        sync(path)


def _unlink_noted(table: DeltaTable) -> None:
    noted = _read_note(scratch_of(table) / LINKS)
    if noted is None:
        return
    if noted.version > table.version():
        logger.warning("note of a run names a version that does not exist, its links stay table=%s", folder_of(table))
        return
    try:
        # The disk decides, not the handle: an interrupt may have come between a commit and what the handle knows of it.
        taken = files_added(actions_since(DeltaTable(table.table_uri), noted.version))
    except TableError as error:
        logger.warning("files of a run that died may be left in main: %s", error)
        return
    if taken.isdisjoint(noted.names):
        unlink_files(noted.names, table)


class _Note(NamedTuple):
    """The target's version before the links were made, and their names."""

    version: int
    names: list[str]


def _read_note(note: Path) -> _Note | None:
    """Return what is noted; None where nothing is, or what is there is not what `write_note` writes."""
    try:
        noted = json.loads(note.read_bytes())
        version, names = noted["version"], noted["names"]
        if type(version) is not int or not all(_LINK.fullmatch(name) for name in names):
            raise ValueError("it names other things than links of a merge")
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        # A run that dies while it writes the note has not linked anything yet.
        logger.warning("note of a merge that died cannot be read, its links stay path=%s error=%s", note, error)
        return None
    return _Note(version, names)


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


_NO_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # CIFS and some of FUSE cannot sync a folder; nothing better is available there.
        if error.errno not in _NO_FSYNC or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
