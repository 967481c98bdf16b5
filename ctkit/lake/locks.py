"""One writer at a time: locks on the folders of tables, which die with their process."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ctkit.errors import TableBusyError, TableError


def lock_folder(descriptor: int, folder: str, operation: int = fcntl.LOCK_EX) -> None:
    """Lock an open folder; do not wait.

    Raises
    ------
    TableBusyError
        Another run of ctkit holds it.
    TableError
        Its file system has no such locks.
    """
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        message = "is being written by another run of ctkit. Wait until it has ended, then run again"
        raise TableBusyError(folder, message) from None
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
        # Where another run has a lock, there are some.
        with suppress(TableBusyError):
            lock_folder(descriptor, str(folder), fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


@contextmanager
def lock_steps(folder: str) -> Iterator[None]:
    """Keep out other runs that take several steps on a table; each step locks the table's folder for itself.

    There need not be a table yet; if there is none in the end either, nothing is left of its folder.

    Raises
    ------
    TableBusyError
        Such a run is at work.
    TableError
        The folder cannot be made or locked.
    """
    # Nothing else locks it.
    log = Path(folder, "_delta_log")
    if not log.is_dir():
        check_lockable(log)
    try:
        log.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(log, os.O_RDONLY)
    except OSError as error:
        raise TableError(folder, f"its _delta_log cannot be opened ({error.strerror}); check it") from error
    try:
        lock_folder(descriptor, folder)
        try:
            yield
        finally:
            # Fails where there is a table.
            with suppress(OSError):
                log.rmdir()
                log.parent.rmdir()
    finally:
        os.close(descriptor)
