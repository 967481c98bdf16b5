"""The folder of what ctkit remembers on this machine; all of it can be removed at any time.

It is the one that the environment's ``CTKIT_CACHE`` names, or else ``ctkit/`` in the user's cache (``XDG_CACHE_HOME``,
``~/.cache``). An empty ``CTKIT_CACHE`` turns it off.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import NamedTemporaryFile

NAME_LENGTH = 32
"""Hex digits in the name of a file."""


def cache_path(kind: str, name: str) -> Path | None:
    """Return the file in which something is remembered, whether it exists or not; None if the cache is turned off.

    Parameters
    ----------
    kind
        Its folder, such as ``"coverage"``.
    name
        What it is about: any text, such as a path or a URL.

    Raises
    ------
    RuntimeError
        The user has no home folder.
    """
    folder = os.environ.get("CTKIT_CACHE")
    if folder == "":
        return None
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    file = hashlib.sha256(os.fsencode(name)).hexdigest()[:NAME_LENGTH]
    return Path(folder or Path(user, "ctkit"), kind, file)


def write_cached(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file of the cache, in place of the one that is there; no reader sees half of it.

    Raises
    ------
    OSError
        It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: another run may be writing the same.
    with NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        try:
            file.writelines(pieces)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
