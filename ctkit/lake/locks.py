"""One writer at a time: locks on the folders of tables, which die with their process."""

import fcntl
import os
from pathlib import Path

from ctkit.errors import TableError


def lock_folder(descriptor: int, folder: str, operation: int = fcntl.LOCK_EX) -> None:
    """Lock an open folder; do not wait.

    Raises
    ------
    TableError
        Another run of ctkit holds it, or its file system has no such locks.
    """
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        message = "is being written by another run of ctkit. Wait until it has ended, then run again"
        raise TableError(folder, message) from None
    except OSError as error:
        message = (
            f"cannot be locked: its file system refuses flock() of a folder ({error.strerror}). Move it to another one"
        )
        raise TableError(folder, message) from error


def check_lockable(folder: Path) -> None:
    """Refuse a new folder where tables could not be locked, and so not be written.

    Raises
    ------
    TableError
        The file system of what there is of its path has no locks of folders.
    """
    above = next(each for each in (folder, *folder.parents) if each.is_dir())
    try:
        descriptor = os.open(above, os.O_RDONLY)
    except OSError:
        # Whether anything can be made in it, making it will tell.
        return
    try:
        lock_folder(descriptor, str(folder), fcntl.LOCK_SH)
    except TableError as error:
        # Where another run has a lock, there are some.
        if error.__cause__ is not None:
            raise
    finally:
        os.close(descriptor)
