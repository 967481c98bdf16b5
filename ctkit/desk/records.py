"""The records of runs: executed notebooks that `ctkit run` keeps, and a line for each run of a command.

Both lie in one folder, ``runs/`` beside the parameter file. A notebook says in its metadata what a line says; one that
is being written, or was when its run died, is hidden, and locked for as long as the run lives.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError

from ctkit.report import RESULT_MIME_TYPE

if TYPE_CHECKING:
    from nbformat import NotebookNode

LINES = "runs.jsonl"
"""File in the folder of records with a line for each run of a command."""

MOST_LINES = 10_000
"""Lines that it keeps, however long runs are kept: some 10 MB."""

_NAME = re.compile(r"\.?.+-(\d{8}T\d{6}Z)(-\d+)?(\.partial)?\.ipynb", re.DOTALL)
"""How `ctkit.desk.runbook` calls them: when the run began, and a number where several began together."""

_ROWS = ("new_rows", "total_inserted", "written")
"""Facts of reports that say how many rows a run has written."""

_LONGEST = 200
"""Characters of a parameter that a record repeats."""

Outcome = Literal["complete", "failed", "stopped", "running", "died"]


@dataclass(frozen=True)
class Run:
    """One run of a runbook, another notebook or a command, as its record tells it.

    Attributes
    ----------
    runbook
        The notebook's name, or the command's.
    started, ended
        UTC, as ``2026-11-27T03:15:00Z``; `ended` is None if the run has not ended, or died.
    outcome
        ``"complete"``, ``"failed"``, ``"stopped"``, ``"running"``; ``"died"`` if its process ended without a word.
    exit_code
        Of the command, or of ``ctkit run``; None if it has not ended.
    record, html
        Paths of the executed notebook and of its copy as HTML; None for a command, or if there is none.
    error
        Why it failed.
    parameters
        What it was given; long values by their length and SHA-256.
    results
        The facts of its reports, in their order, each with its title.
    """

    runbook: str
    started: str
    ended: str | None
    outcome: Outcome
    exit_code: int | None = None
    record: str | None = None
    html: str | None = None
    error: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    results: tuple[Mapping[str, Any], ...] = ()

    @property
    def rows(self) -> int | None:
        """Rows that it wrote into a table, by its last report that says so; None if none does."""
        told = (result[name] for result in reversed(self.results) for name in _ROWS if name in result)
        return next((rows for rows in told if isinstance(rows, int)), None)

    @property
    def seconds(self) -> float | None:
        """Its duration; None if it is not known."""
        # One of the two may name no zone.
        with suppress(ValueError, TypeError):
            if self.ended is not None:
                return (datetime.fromisoformat(self.ended) - datetime.fromisoformat(self.started)).total_seconds()
        return None

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        said = {**asdict(self), "parameters": {key: _brief(value) for key, value in self.parameters.items()}}
        keys = ["runbook", "started", "ended", "outcome", "exit_code", "record", "html", "rows", "error"]
        return {key: self.rows if key == "rows" else said[key] for key in [*keys, "parameters", "results"]}


_RUN = TypeAdapter(Run)


class Records(NamedTuple):
    """What a folder of records holds.

    Attributes
    ----------
    runs
        Of which there is a record, the newest first.
    unreadable
        Path -> why, of what may be a record and cannot be read.
    others
        Number of notebooks that are no records.
    """

    runs: tuple[Run, ...]
    unreadable: Mapping[str, str]
    others: int


def as_utc(moment: datetime) -> str:
    """Return a time as records give it."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def partial_of(record: Path) -> Path:
    """Return the path of a record while its run lasts."""
    return record.with_name(f".{record.stem}.partial.ipynb")


@contextmanager
def held(partial: Path) -> Iterator[None]:
    """Show for as long as the context lasts that the run of a record is alive."""
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        # Without locks, nothing tells whether a run is alive.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def results_in(book: "NotebookNode") -> tuple[dict[str, Any], ...]:
    """Return the facts of each report that an executed notebook shows."""
    return tuple(
        dict(output.data[RESULT_MIME_TYPE])
        for cell in book.cells
        for output in cell.get("outputs", [])
        if RESULT_MIME_TYPE in output.get("data", {})
    )


def read_records(folder: Path) -> Records:
    """Return what a folder of records holds; nothing if there is no such folder."""
    runs, unreadable, others = [], {}, 0
    for path in sorted(folder.glob("*.ipynb")):
        found = _read_book(path)
        if isinstance(found, Run):
            runs.append(found)
        elif found and _NAME.fullmatch(path.name):
            unreadable[str(path)] = found
        else:
            others += 1
    lines = folder / LINES
    for number, line in enumerate(_lines_of(lines), start=1):
        if run := _read_line(line):
            runs.append(run)
        else:
            unreadable[f"{lines}, line {number}"] = "it is no line that ctkit wrote, or only half of one"
    return Records(tuple(sorted(runs, key=lambda run: run.started, reverse=True)), unreadable, others)


def last_run(folder: Path) -> Run | None:
    """Return the newest run of which a folder has a record; None if there is none."""
    names = [(_NAME.fullmatch(path.name), path) for path in folder.glob("*.ipynb")]
    newest_first = sorted(((name[1], path) for name, path in names if name), reverse=True)
    # There may be thousands: of those whose names tell the time, only the newest one is read that can be.
    found = [
        *islice(_runs_in(_read_book(path) for _, path in newest_first), 1),
        *_runs_in(_read_book(path) for name, path in names if not name),
        *islice(_runs_in(map(_read_line, reversed(_lines_of(folder / LINES)))), 1),
    ]
    return max(found, key=lambda run: run.started, default=None)


def append_run(folder: Path, run: Run, *, keep: int | None = None) -> None:
    """Append a line about a run to the folder of records; lines that are older than `keep` days are removed.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LINES
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        lines = _lines_of(path)
        kept = lines[-MOST_LINES + 1 :]
        if keep is not None:
            before = as_utc(datetime.now(UTC) - timedelta(days=keep))
            kept = [line for line in kept if (known := _read_line(line)) is None or known.started >= before]
        new = json.dumps(run.to_json()).encode() + b"\n"
        if len(kept) < len(lines):
            partial = path.with_name(f".{LINES}.partial")
            partial.write_bytes(b"".join(line + b"\n" for line in kept) + new)
            partial.replace(path)
        else:
            with path.open("ab+") as file:
                # A line that was only half written stays apart.
                file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
                file.write(new if file.read() in (b"", b"\n") else b"\n" + new)
    finally:
        os.close(descriptor)


def old_records(days: int, folder: Path) -> list[Path]:
    """Return the records of runs that began more than some days ago, their copies, and what runs left that died.

    Only what ``ctkit run`` wrote: its name says when the run began, and its metadata that it was one. A run that is
    still alive keeps what it writes.
    """
    before = f"{datetime.now(UTC) - timedelta(days=days):%Y%m%dT%H%M%SZ}"
    named = ((path, _NAME.fullmatch(path.name)) for path in folder.glob("*.ipynb"))
    aged = [path for path, name in named if name and name[1] < before]
    old = [path for path in aged if isinstance(run := _read_book(path), Run) and run.outcome != "running"]
    return sorted([*old, *(copy for path in old if (copy := path.with_suffix(".html")).is_file())])


def _runs_in(found: Iterable[Run | str | None]) -> Iterator[Run]:
    return (run for run in found if isinstance(run, Run))


def _read_book(path: Path) -> Run | str | None:
    """Return the run that a notebook records; why it cannot be read, or None if it is another notebook."""
    if not path.is_file() or path.is_symlink():
        return None
    partial = path.name.startswith(".") and path.name.endswith(".partial.ipynb")
    try:
        if partial and _NAME.fullmatch(path.name):
            # It may be only half written just now.
            return _unfinished(path)
        text = path.read_bytes()
        metadata = json.loads(text)["metadata"] if text or not partial else {"papermill": {}}
        said, is_ours = metadata.get("ctkit"), "papermill" in metadata
        if partial:
            return _unfinished(path) if is_ours else None
        if said is None or not is_ours:
            return None
        # Where it lies now, which may not be where it was written.
        copy = path.with_suffix(".html")
        places = {"record": str(path), "html": str(copy) if copy.is_file() else None}
        return _RUN.validate_python({**said, **places})
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = "its metadata are not those of a record" if isinstance(error, ValidationError) else str(error)
        return f"it is damaged, or no notebook: {reason}"


def _unfinished(partial: Path) -> Run:
    """Return what is known of a run that has not ended: the name of its file, and whether it is locked."""
    name = _NAME.fullmatch(partial.name)
    stem = partial.name.removeprefix(".").removesuffix(".partial.ipynb")
    # Its name need not tell the time; the file was made shortly after the run began.
    made = datetime.fromtimestamp(partial.stat().st_ctime, UTC)
    began = datetime.strptime(name[1], "%Y%m%dT%H%M%S%z") if name else made
    alive = False
    with partial.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            alive = True
    return Run(
        stem.partition(f"-{name[1]}")[0] if name else stem,
        as_utc(began),
        None,
        "running" if alive else "died",
        record=str(partial),
    )


def _lines_of(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines()
    except OSError:
        return []


def _read_line(line: bytes) -> Run | None:
    try:
        return _RUN.validate_python(json.loads(line))
    except (ValueError, RecursionError):
        return None


def _brief(value: object) -> object:
    text = json.dumps(value, default=str)
    if len(text) <= _LONGEST:
        return value
    return f"{len(text):,} characters, SHA-256 {sha256(text.encode()).hexdigest()[:12]}"
