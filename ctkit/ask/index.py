"""The names of a table's certificates, sorted, in files beside it: an index that can be deleted at any time.

It consists of *runs*: Parquet files of turned names (`ctkit.ask.names`), sorted, each with the key of its entry and the
file of the table that it stands in. Files of a table never change, so that a run holds for ever what it says of its
files. What is new becomes a run of its own; when several are of like size they become one (a log-structured merge tree:
O'Neil et al. 1996), so that there are few of them, and no name is written often. A list tells which runs there are, and
is replaced at once; whoever reads is not kept out, and filters what belongs to files of another version.
"""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from deltalake import DeltaTable

from ctkit.ask.runs import RUN, read_names, write_run
from ctkit.cache import NAME_LENGTH, cache_path
from ctkit.errors import CtkitError, ParameterError, TableError
from ctkit.lake.digests import RESTORE
from ctkit.lake.querying import define_rows, define_stream, define_table, reading, streamed
from ctkit.lake.reasons import first_line
from ctkit.lake.remembered import about, read_stored, store
from ctkit.lake.table import add_actions, folder_of
from ctkit.schema import PARTITION
from ctkit.visible import get_logger

logger = get_logger(__name__)

BYTES_PER_RUN = 2 << 30
"""Bytes of the table's files after which a run is written, of about ten million names: what is sorted at a time, and
what is lost if the process ends."""

_SMALLEST, _FEW = 1 << 16, 4
"""Runs are of like size if both have up to this many names, or both up to four times as many, and so on; and when there
are four of a size, they become one."""

_MEMORY = "384MB"
"""Memory limit of DuckDB when it sorts; what does not fit is spilled."""

_LIST = "runs"
_RUNS = pa.schema(
    [
        ("run", pa.dictionary(pa.int32(), pa.string())),
        ("state", pa.dictionary(pa.int32(), pa.string())),
        ("file", pa.string()),
        ("names", pa.int64()),
    ]
)
"""A row for each file in each run, in the order of their numbers."""

_PLACES = pa.schema(
    # As DuckDB numbers files.
    [("file_index", pa.uint64()), ("file", pa.int32()), ("new", pa.int32()), (PARTITION, pa.string())]
)


@dataclass
class Run:
    """A run: its file, and which files of the table it has the names of, by number, with how many of each."""

    path: Path
    state: str
    files: list[str]
    names: list[int]

    def count(self, live: Iterable[str]) -> int:
        """Return how many names are of some files."""
        wanted = set(live)
        return sum(names for file, names in zip(self.files, self.names, strict=True) if file in wanted)


def update_index(table: DeltaTable, index_path: str | os.PathLike[str] | None) -> list[Run]:
    """Read the files of the table's version that the index lacks; return its runs.

    Raises
    ------
    ParameterError, TableError
        There is no cache, `index_path` is no place for an index, a file of the table cannot be read, or the index
        cannot be written.
    """
    return bring_up_to_date(table, index_folder(table, index_path), dates_of(table))


def bring_up_to_date(table: DeltaTable, folder: Path, files: dict[str, str | None]) -> list[Run]:
    """Read the files that the index in a folder lacks; return its runs.

    Raises
    ------
    TableError
        A file of the table cannot be read, or the index cannot be written.
    """
    runs = known_runs(table, folder)
    if not _missing(runs, files):
        return runs
    try:
        with _locked(folder):
            runs = _live(known_runs(table, folder), files)
            for chunk in _chunks(_missing(runs, files)):
                runs.append(_build(table, folder, chunk))
                _remember(table, folder, runs)
            while alike := _alike(runs, files):
                runs = [run for run in runs if run not in alike] + [_merge(folder, alike, files)]
                _remember(table, folder, runs)
            for path in {*folder.glob("*.parquet")} - {run.path for run in runs}:
                path.unlink(missing_ok=True)
    except OSError as error:
        message = f"this index of names cannot be written ({first_line(error)}). Name another folder as index_path"
        raise TableError(str(folder), message) from error
    return runs


def keep_index(table: DeltaTable) -> None:
    """Bring the index in the user's cache up to date if there is one.

    What stands in its way is logged only: whoever asks the index next brings it up to date, or is told.
    """
    try:
        if known_runs(table, index_folder(table, None)):
            update_index(table, None)
    except ParameterError:
        # No cache, and so no index.
        return
    except CtkitError as error:
        logger.warning("index of names is not up to date: %s", error)


def index_folder(table: DeltaTable, index_path: str | os.PathLike[str] | None) -> Path:
    """Return where the index is to be: `index_path`, or a place in the user's cache.

    Raises
    ------
    ParameterError
        There is no cache, or `index_path` is no place for an index.
    """
    main = folder_of(table)
    if index_path is None:
        try:
            if folder := cache_path("names", main):
                return folder
        except RuntimeError as error:
            raise ParameterError(f"index_path: {error}; name a folder for the index of names") from error
        raise ParameterError("index_path: the cache is turned off (CTKIT_CACHE); name a folder for the index of names")
    folder = Path(index_path).expanduser().absolute()
    if folder.resolve().is_relative_to(main):
        raise ParameterError(f"index_path {str(folder)!r} is inside of the table; name a folder elsewhere")
    # What is there and is none of ours stays as it is.
    if folder.exists() and not (folder.is_dir() and all(_is_ours(path) for path in folder.iterdir())):
        raise ParameterError(f"index_path {str(folder)!r} holds other things; name an empty or a new folder")
    # Several tables may share it; an id may be any text.
    return folder / hashlib.sha256(str(table.metadata().id).encode()).hexdigest()[:NAME_LENGTH]


def _is_ours(path: Path) -> bool:
    return path.is_dir() and re.fullmatch(f"[0-9a-f]{{{NAME_LENGTH}}}", path.name) is not None


def dates_of(table: DeltaTable) -> dict[str, str | None]:
    """Return the date of each file of the version, by a text that is another one when the file is.

    Raises
    ------
    TableError
        A file is not there, or not as long as it was.
    """
    folder, files = folder_of(table), {}
    actions = add_actions(table, flatten=True)
    columns = (actions[name].to_pylist() for name in ("path", "size_bytes", f"partition.{PARTITION}"))
    for path, size, day in zip(*columns, strict=True):
        try:
            status = os.stat(os.path.join(folder, path))
        except OSError as error:
            raise TableError(folder, f"its file {path!r} cannot be read ({error.strerror}); {RESTORE}") from error
        if status.st_size != size:
            raise TableError(folder, f"its file {path!r} has {status.st_size} bytes instead of {size}; {RESTORE}")
        # Not where the table lies: others may reach it by another path.
        files[f"{status.st_mtime_ns} {size} {path}"] = day
    return files


def _state_of(path: Path) -> str:
    status = path.stat()
    return f"{status.st_mtime_ns} {status.st_size}"


def known_runs(table: DeltaTable, folder: Path) -> list[Run]:
    """Return the runs of the index that are there, as they were written."""
    stored = read_stored(folder / _LIST, about(table, _RUNS))
    runs: dict[str, Run] = {}
    for row in stored.to_pylist() if stored else []:
        run = runs.setdefault(row["run"], Run(folder / row["run"], row["state"], [], []))
        run.files.append(row["file"])
        run.names.append(row["names"])
    whole = []
    for run in runs.values():
        with suppress(OSError):
            if _state_of(run.path) == run.state:
                whole.append(run)
    return whole


def _remember(table: DeltaTable, folder: Path, runs: list[Run]) -> None:
    rows = [
        {"run": run.path.name, "state": run.state, "file": file, "names": names}
        for run in runs
        for file, names in zip(run.files, run.names, strict=True)
    ]
    store(folder / _LIST, pa.Table.from_pylist(rows, about(table, _RUNS)), use_dictionary=["run", "state"])


def _missing(runs: list[Run], files: Iterable[str]) -> list[str]:
    known = {file for run in runs for file in run.files}
    return [file for file in files if file not in known]


def _live(runs: list[Run], files: Iterable[str]) -> list[Run]:
    """Return the runs that have names of some files, without those that are of no use any more."""
    wanted = set(files)
    return [run for run in runs if wanted.intersection(run.files)]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait until nobody else writes the index."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Where a file system has no locks, two builds that meet only cost time.
        with suppress(OSError):
            flock(descriptor, LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _build(table: DeltaTable, folder: Path, files: list[str]) -> Run:
    """Write a run of the names in some files."""
    counts = [0] * len(files)

    def batches() -> Iterator[pa.RecordBatch]:
        for number, file in enumerate(files):
            for batch in read_names(os.path.join(folder_of(table), file.split(" ", 2)[2]), number):
                counts[number] += len(batch)
                yield batch

    with streamed(RUN, batches()) as names, reading(table, memory_limit=_MEMORY) as connection:
        path = write_run(folder, define_stream(connection, "incoming", names))
    logger.info("names indexed path=%s files=%s names=%s", folder, len(files), sum(counts))
    return Run(path, _state_of(path), files, counts)


def _chunks(files: list[str]) -> Iterator[list[str]]:
    """Cut a list of files where a run is to end."""
    chunk: list[str] = []
    size = 0
    for file in files:
        chunk.append(file)
        size += int(file.split(" ", 2)[1])
        if size >= BYTES_PER_RUN:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _alike(runs: list[Run], files: Iterable[str]) -> list[Run]:
    """Return runs that are to become one: as many as there are of a size, or one that is of little use any more."""
    sizes: defaultdict[int, list[Run]] = defaultdict(list)
    for run in runs:
        live = run.count(files)
        if sum(run.names) > max(2 * live, _SMALLEST):
            return [run]
        sizes[max(live // _SMALLEST, 1).bit_length() // 2].append(run)
    return next((alike for _, alike in sorted(sizes.items()) if len(alike) >= _FEW), [])


def _merge(folder: Path, runs: list[Run], files: dict[str, str | None]) -> Run:
    """Make one run of several, without what is of other files."""
    kept = {file: names for run in runs for file, names in zip(run.files, run.names, strict=True) if file in files}
    with reading(memory_limit=_MEMORY) as connection:
        path = write_run(folder, define_names(connection, runs, {file: files[file] for file in kept}))
    return Run(path, _state_of(path), list(kept), list(kept.values()))


def define_names(connection: ibis.BaseBackend, runs: list[Run], files: dict[str, str | None]) -> ir.Table:
    """Return the names of some files: those of a run, with the file's number in `files` and its date."""
    numbers = {file: number for number, file in enumerate(files)}
    places = [
        {"file_index": at, "file": number, "new": numbers[file], PARTITION: files[file]}
        for at, run in enumerate(runs)
        for number, file in enumerate(run.files)
        if file in numbers
    ]
    if not places:
        return define_table(connection, "names", RUN.append(pa.field(PARTITION, pa.string())).empty_table())
    names = define_rows(connection, "runs", [str(run.path) for run in runs], numbered=True)
    live = define_table(connection, "places", pa.Table.from_pylist(places, _PLACES))
    columns = {name: names[name] for name in RUN.names if name != "file"}
    return names.join(live, ("file_index", "file")).select(**columns, file=live.new, seen_date=live[PARTITION])
