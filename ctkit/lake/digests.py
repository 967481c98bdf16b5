"""Data files whose names tell what is in them.

The SHA-256 of each file that ctkit writes is part of its name. So it is in the table's log, stays with the file when
another table adds it, and ``sha256sum`` tells whether the file is, byte for byte, what was written. Parquet's page
checksums, which our files have too, cover neither the headers of pages nor the footer.
"""

import hashlib
import re
from pathlib import Path
from uuid import uuid4

_NAME = re.compile(r"part-00000-[0-9a-f-]{36}-([0-9a-f]{64})\.parquet$")

RESTORE = (
    "restore damaged files from a backup, or let `ctkit repair` take them out of the table and backfill their rows"
)
"""What to do about files that are not what was written."""


def new_name(digest: str | None) -> str:
    """Return a name for a data file that no other file has or had, with the digest of its bytes if it is known."""
    return f"part-00000-{uuid4()}-{digest or 'c000'}.parquet"


def digest_in(name: str) -> str | None:
    """Return the digest that the name, or path, of a data file gives; None if it is not one of ours.

    Examples
    --------
    >>> digest_in(f"seen_date=2026-03-01/{new_name('0f' * 32)}") == "0f" * 32
    True
    """
    found = _NAME.search(name)
    return found[1] if found else None


def digest_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_damaged(path: str | Path) -> bool:
    """Tell whether a file is not what its name says was written; False where the name does not say.

    Raises
    ------
    OSError
        It cannot be read.
    """
    written = digest_in(str(path))
    return written is not None and written != digest_of(path)
