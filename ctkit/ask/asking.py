"""Questions to the index of names: what lies in a range of them, or anything else."""

import os
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import duckdb
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.acero  # Arrow imports it when it first groups, DuckDB `dataset` with the first stream: in the answer.
import pyarrow.compute as pc
import pyarrow.dataset
from deltalake import DeltaTable

from ctkit.ask.index import Run, bring_up_to_date, dates_of, define_names, index_folder, known_runs
from ctkit.ask.runs import RUN, is_readable, read_between
from ctkit.errors import TableError
from ctkit.lake.querying import connect, define_table, streamed
from ctkit.lake.reasons import first_line
from ctkit.schema import PARTITION
from ctkit.visible import get_logger

logger = get_logger(__name__)

KEYS = ("name", "source_url", "cert_index")
"""What a name of an entry is known by."""

_ANSWER = pa.schema([*(field for field in RUN if field.name != "file"), (PARTITION, pa.string())])

# An entry may have the same name in several spellings.
_SORTED = """
    SELECT substr(reverse(name), 2) AS name, kind, seen_date, source_url, cert_index
    FROM (SELECT DISTINCT name, kind, seen_date, source_url, cert_index FROM incoming) AS found
    ORDER BY found.name, source_url, cert_index"""

_STEP = 1 << 12
"""Names that are looked at together when only the first are wanted."""

Window = tuple[date | None, date | None]
"""Dates ``[first, end)``; None for no bound."""


def ask_index(
    table: DeltaTable,
    index_path: str | os.PathLike[str] | None,
    question: Callable[[ir.Table], ir.Table],
    within: Window | None = None,
) -> ir.Table:
    """Bring the index up to date, put a question to it, and return the answer as a table of DuckDB.

    Parameters
    ----------
    table
        At the version that counts.
    index_path
        The index's folder; None for the one in the cache.
    question
        From a table ``name, source_url, cert_index, kind, seen_date`` to an answer.
    within
        The dates (``seen_date``) that count.

    Raises
    ------
    ParameterError
        There is no cache, or `index_path` is no place for an index.
    TableError
        A file of the table cannot be read, or the index cannot be written.
    """

    def ask(runs: list[Run], files: dict[str, str | None]) -> ir.Table:
        connection = connect()
        # Other processes may remove runs: the answer must not need them.
        return connection.create_table("answer", question(define_names(connection, runs, files)))

    return _read(table, index_path, within, ask)


def names_between(
    table: DeltaTable,
    index_path: str | os.PathLike[str] | None,
    first: str,
    end: str,
    *,
    within: Window | None = None,
    kind: str | None = None,
    limit: int | None = None,
) -> ir.Table:
    """Bring the index up to date, and return the turned names ``[first, end)`` as a table of DuckDB.

    Runs are sorted, and their footers say where a range lies: reading just that takes half of what DuckDB takes to
    find it.

    Parameters
    ----------
    table, index_path, within
        As for `ask_index`.
    kind
        The one that counts.
    limit
        At most this many rows, the first ones.

    Returns
    -------
    ibis.Table
        ``name, kind, seen_date, source_url, cert_index``, by turned name, log and index; names are turned back.

    Raises
    ------
    ParameterError, TableError
        As `ask_index`.
    """

    def of_run(run: Run, files: dict[str, str | None]) -> Iterator[pa.RecordBatch]:
        is_live = pa.array([file in files for file in run.files])
        days = pa.array([files.get(file) for file in run.files], pa.string())
        for names in read_between(run.path, first, end):
            for at in range(0, len(names), _STEP):
                step = names.slice(at, _STEP)
                live = step.filter(is_live.take(step["file"]))
                if kind is not None:
                    live = live.filter(pc.equal(live["kind"], kind))
                dated = live.append_column(PARTITION, days.take(live["file"]))
                yield from dated.select(_ANSWER.names).cast(_ANSWER).to_batches()

    def ask(runs: list[Run], files: dict[str, str | None]) -> ir.Table:
        found = (batch for run in runs for batch in _enough(of_run(run, files), limit))
        first_rows = "" if limit is None else f" LIMIT {limit}"
        with streamed(_ANSWER, found) as names:
            return define_table(connect(), "names", names, _SORTED + first_rows)

    return _read(table, index_path, within, ask)


def _enough(batches: Iterator[pa.RecordBatch], limit: int | None) -> Iterator[pa.RecordBatch]:
    """Yield sorted names until the first `limit` are among them, whatever follows."""
    count = 0
    for batch in batches:
        yield batch
        if limit is not None and len(batch):
            # More of the last name may follow, of another log; and an entry may have a name in several spellings.
            done = pa.table(batch.filter(pc.less(batch["name"], batch["name"][-1])))
            count += done.group_by(list(KEYS), use_threads=False).aggregate([]).num_rows
            if count >= limit:
                return


def _read(
    table: DeltaTable,
    index_path: str | os.PathLike[str] | None,
    within: Window | None,
    ask: Callable[[list[Run], dict[str, str | None]], ir.Table],
) -> ir.Table:
    """Return what is read of the runs, brought up to date, and of the files that count.

    What is damaged is built again.
    """
    folder, files = index_folder(table, index_path), dates_of(table)
    first, end = (None if day is None else day.isoformat() for day in within or (None, None))
    wanted = {
        file: day
        for file, day in files.items()
        if (first is None or (day is not None and day >= first)) and (end is None or (day is not None and day < end))
    }
    for _ in range(3):
        runs = bring_up_to_date(table, folder, files)
        try:
            return ask(runs, wanted)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            if known_runs(table, folder) != runs:
                # Another process has made one run of several meanwhile, or built the index again.
                continue
            broken = [run for run in runs if not is_readable(run.path)]
            if not broken:
                message = f"this index of names cannot be asked that ({first_line(error)}). Ask something simpler"
                raise TableError(str(folder), message) from error
            for run in broken:
                logger.warning("part of the index of names cannot be read, building it again path=%s", run.path)
                _remove(run.path)
    message = "this index of names cannot be read: others keep changing it, or its disk damages it"
    raise TableError(str(folder), f"{message}. Ask again; if that does not help, remove the folder")


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise TableError(str(path), f"is damaged and cannot be removed ({error.strerror}); remove it") from error
