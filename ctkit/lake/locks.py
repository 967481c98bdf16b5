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
    is_new = not log.parent.exists()
    descriptor = _open_locked(log, folder)
    try:
        yield
    finally:
        # Fails where there is a table.
        with suppress(OSError):
            log.rmdir()
            if is_new:
                log.parent.rmdir()
        os.close(descriptor)


def _open_locked(log: Path, folder: str) -> int:
    problem = "other runs make and remove it all the time"
    for _ in range(_TRIES):
        try:
            log.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(log, os.O_RDONLY)
        except OSError as error:
            problem = str(error.strerror)
            if isinstance(error, FileNotFoundError | FileExistsError):
                # Another run, which has ended, may have removed it meanwhile.
                continue
            break
        try:
            lock_folder(descriptor, folder)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(log)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # What is locked is not there any more.
        os.close(descriptor)
    raise TableError(folder, f"its _delta_log cannot be opened ({problem}); check it")


_TRIES = 100
"""How often a folder is opened that other runs remove."""
