"""The records of runs that `ctkit run` keeps in ``runs/``, and their end."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import nbformat

_NAME = re.compile(r"\.?.+-(\d{8}T\d{6}Z)(-\d+)?(\.partial)?\.ipynb", re.DOTALL)
"""How `ctkit.desk.runbook` calls them: when the run began, and a number where several began together."""


def old_records(days: int, folder: Path = Path("runs")) -> list[Path]:
    """Return the records of runs that began more than some days ago, and what runs left there that died.

    Only what ``ctkit run`` wrote: its name says when the run began, and its metadata that it was one.
    """
    before = f"{datetime.now(UTC) - timedelta(days=days):%Y%m%dT%H%M%SZ}"
    return sorted(path for began, path in _named(folder) if began < before and _status_of(path) is not None)


class LastRecord(NamedTuple):
    """The newest record of a run.

    Attributes
    ----------
    notebook
        The notebook's name.
    began
        When the run began, as ``20261127T031500Z``.
    status
        ``"complete"``, ``"failed"`` or ``"interrupted"``; ``"not ended"`` if it is running, or died.
    """

    notebook: str
    began: str
    status: str


def last_record(folder: Path = Path("runs")) -> LastRecord | None:
    """Return the newest record of a run in a folder; None if there is none."""
    for began, path in sorted(_named(folder), reverse=True):
        if (status := _status_of(path)) is not None:
            return LastRecord(path.name.removeprefix(".").partition(f"-{began}")[0], began, status)
    return None


def _named(folder: Path) -> list[tuple[str, Path]]:
    """Return when runs began, and paths that may be their records."""
    named = ((path, _NAME.fullmatch(path.name)) for path in folder.glob("*.ipynb"))
    return [(match[1], path) for path, match in named if match]


def _status_of(path: Path) -> str | None:
    """Return how a run has ended; None if this is no record of one."""
    if not path.is_file() or path.is_symlink():
        return None
    try:
        # One that died may have written nothing yet, or only what papermill does.
        partial = path.name.startswith(".") and path.name.endswith(".partial.ipynb")
        if partial and not path.stat().st_size:
            return "not ended"
        book = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, nbformat.reader.NotJSONError, nbformat.ValidationError):
        return None
    status = "not ended" if partial else book.metadata.get("ctkit", {}).get("status")
    return None if status is None or "papermill" not in book.metadata else str(status)
