"""Questions to tables: their rows as a view of DuckDB, and as an ibis table."""

import re
import tempfile
import weakref
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from ctkit.arguments import checked
from ctkit.errors import TableError
from ctkit.lake.digests import RESTORE
from ctkit.lake.files import FileBounds
from ctkit.lake.reasons import first_line
from ctkit.lake.table import add_actions, check_features, folder_of
from ctkit.schema import PARTITION, row_schema

_FEW_KEYS = 1_000
"""Keys that are listed in a question. More would take longer to compare than what they leave out takes to read."""


@contextmanager
def reading(*tables: DeltaTable | None, **settings: str) -> Iterator[ibis.BaseBackend]:
    """Connect ibis to a DuckDB of our own, to ask the given tables; it spills to a temporary folder.

    Parameters
    ----------
    tables
        Whom errors of reading are about; None stands for a table that does not exist.
    settings
        DuckDB's, such as ``memory_limit="512MB"``.

    Raises
    ------
    TableError
        A file of the tables cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="ctkit-") as spill:
        # DuckDB would make a folder .tmp below the current directory, which a scheduler may not be allowed to write.
        connection = duckdb.connect(config={"temp_directory": spill, **settings})
        try:
            _configure(connection)
            yield ibis.duckdb.from_connection(connection)
        except RuntimeError as error:
            # What DuckDB makes of Ctrl+C.
            if "interrupted" in str(error).lower():
                raise KeyboardInterrupt from error
            raise
        # It is ibis that misses a column.
        except (duckdb.Error, ibis.common.exceptions.IbisError) as error:
            raise _unreadable(error, *tables) from error
        finally:
            connection.close()


def _unreadable(error: duckdb.Error, *tables: DeltaTable | None) -> TableError:
    folders = [folder_of(table) for table in tables if table]
    named = next((folder for folder in folders if folder in str(error)), " or ".join(folders))
    message = f"a file of it cannot be read ({first_line(error)}). Nothing was changed; {RESTORE}"
    return TableError(named, message)


def read_tables(
    connection: ibis.BaseBackend, *tables: DeltaTable | None, files: Container[str] | None = None
) -> ir.Table:
    """Return the rows of all given tables, together, as one lazy ibis table; None stands for a table without rows.

    Columns of different type (`as_der`) are not reconciled: select what is asked before it is executed.

    Parameters
    ----------
    files
        Paths of the files whose rows are wanted; by default, all.
    """
    dates: dict[str, str | None] = {}
    for table in filter(None, tables):
        actions = add_actions(table, flatten=True)
        paths = (f"{folder_of(table)}/{name}" for name in actions["path"].to_pylist())
        dates |= zip(paths, actions[f"partition.{PARTITION}"].to_pylist(), strict=True)
    wanted = {path: date for path, date in dates.items() if files is None or path in files}
    return define_rows(connection, ibis.util.gen_name("rows"), list(wanted), dates=list(wanted.values()))


@checked
def rows_of(table: DeltaTable) -> ir.Table:
    """Return the rows of a table as an ibis table, to ask it whatever you like.

    It is lazy, and asks a DuckDB of its own, which reads no more than the columns and files that a question needs. It
    shows the table's version of now, for as long as no VACUUM or merge removes its files.

    Parameters
    ----------
    table
        From `ctkit.open_table`.

    Raises
    ------
    SchemaMismatchError
        The table is not one of ours, or demands of its readers what we do not do.
    TableError
        The table names a file that is none of its own, or one that cannot be read.

    Examples
    --------
    >>> import tempfile, ctkit
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rows = ctkit.rows_of(ctkit.open_table(folder))
    ...     print(rows.filter(rows.is_ca).count().to_pyarrow())
    0
    """
    check_features(table, "read")
    backend = connect()
    try:
        return read_tables(backend, table)
    except duckdb.Error as error:
        raise _unreadable(error, table) from error


def rows_with_keys(table: DeltaTable, keys: pa.Table) -> ir.Table:
    """Return the rows of a table with some keys, ``source_url, cert_index``, as a lazy ibis table like `rows_of`.

    Files, and row groups in them, that cannot hold one by their statistics are not read.

    Raises
    ------
    SchemaMismatchError, TableError
        As `rows_of`.
    """
    check_features(table, "read")
    backend = connect()
    wanted = define_table(backend, "wanted", keys)
    try:
        rows = read_tables(backend, table, files=_may_have(table, keys))
    except duckdb.Error as error:
        raise _unreadable(error, table) from error
    indices = pc.unique(keys["cert_index"])
    if 0 < len(indices) <= _FEW_KEYS:
        # By these DuckDB leaves out row groups.
        rows = rows.filter(rows.cert_index.isin(indices.to_pylist()))
    # Text is bytes where a writer did not note that it is text.
    return rows.semi_join(wanted, (rows.source_url.cast("string") == wanted.source_url, "cert_index"))


def _may_have(table: DeltaTable, keys: pa.Table) -> set[str]:
    """Return the paths of the files that can have one of some keys, by the statistics of the table's log."""
    bounds = FileBounds(table)
    hit = np.zeros(len(bounds.files), bool)
    for url in pc.unique(keys["source_url"]).drop_null().to_pylist():
        indices = np.sort(keys.filter(pc.equal(keys["source_url"], url))["cert_index"].drop_null().to_numpy())
        first = np.searchsorted(indices, bounds.lowest)
        hit |= bounds.may_hold(url) & (first < np.searchsorted(indices, bounds.highest, side="right"))
    return set(bounds.files[hit])


def _configure(connection: duckdb.DuckDBPyConnection) -> None:
    # Not the machine's, in which DuckDB would show times.
    connection.execute("SET TimeZone = 'UTC'")
    # In a notebook, DuckDB would draw a widget for each question of a few seconds, which the record keeps as text.
    connection.execute("SET enable_progress_bar = false")


def connect() -> ibis.BaseBackend:
    """Connect ibis to a DuckDB that lives for as long as its tables are used; it spills to a temporary folder."""
    spill = tempfile.TemporaryDirectory(prefix="ctkit-")
    connection = duckdb.connect(config={"temp_directory": spill.name})
    _configure(connection)
    backend = ibis.duckdb.from_connection(connection)
    weakref.finalize(backend, spill.cleanup)
    return backend


def define_rows(
    connection: ibis.BaseBackend,
    view: str,
    files: Sequence[str],
    *,
    dates: Sequence[str | None] | None = None,
    numbered: bool = False,
) -> ir.Table:
    """Define a view of the rows in Parquet files of our tables; return it.

    Parameters
    ----------
    view
        Its name.
    files
        Their paths; without any the view has no rows.
    dates
        The ``seen_date`` of each, which the table's log has: where a file lies says nothing (Delta protocol,
        "Partition Value Serialization"). Without them the view lacks that column.
    numbered
        Add the columns ``file_index``, the position in `files`, and ``file_row_number``, which together name a row.
    """
    if not files:
        rows = row_schema().empty_table()
        if dates is None:
            rows = rows.drop_columns([PARTITION])
        for name in ("file_index", "file_row_number") if numbered else ():
            rows = rows.append_column(name, pa.array([], pa.int64()))
        return define_table(connection, view, rows)
    # DuckDB takes each path for a pattern. A variable takes a hundred thousand of them where SQL text would not.
    patterns = [re.sub(r"[*?[]", r"[\g<0>]", file) for file in files]
    connection.con.execute(f"SET VARIABLE files_of_{view} = $files", {"files": patterns})
    date = ""
    if dates is not None:
        connection.con.execute(f"SET VARIABLE dates_of_{view} = $dates::VARCHAR[]", {"dates": list(dates)})
        date = f", getvariable('dates_of_{view}')[(file_index + 1)::BIGINT] AS {PARTITION}"
    # Some writers also keep the partition in the file. Hive partitions would also be folders above the table.
    connection.con.execute(
        f"CREATE VIEW {view} AS SELECT COLUMNS(name -> name <> '{PARTITION}')"
        f"{date}{', file_index' if numbered else ''} "
        f"FROM read_parquet(getvariable('files_of_{view}'), hive_partitioning = false, file_row_number = {numbered})"
    )
    return connection.table(view)


def define_table(connection: ibis.BaseBackend, name: str, rows: Any, question: str = "FROM incoming") -> ir.Table:
    """Copy rows into a table of DuckDB, to be asked more than once; return it.

    Parameters
    ----------
    rows
        An Arrow table, or a reader. DuckDB gets a stream: Arrow's threads must not let go of what Python owns.
    question
        What becomes of the rows, which are called ``incoming``, in SQL: where ibis would take longer than the answer.
    """
    connection.con.register("incoming", rows.__arrow_c_stream__())
    connection.con.execute(f"CREATE TABLE {name} AS {question}")
    connection.con.unregister("incoming")
    return connection.table(name)


def define_stream(connection: ibis.BaseBackend, name: str, rows: pa.RecordBatchReader) -> ir.Table:
    """Define a view of rows that are still to come; return it. It can be asked once."""
    connection.con.register(name, rows.__arrow_c_stream__())
    return connection.table(name)


@contextmanager
def streamed(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatchReader]:
    """Make a stream for DuckDB of batches; what they raise, also Ctrl+C, is raised in place of DuckDB's own error."""
    failed: list[BaseException] = []

    def watched() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except BaseException as error:
            failed.append(error)
            raise

    try:
        yield pa.RecordBatchReader.from_batches(schema, watched())
    except Exception:
        if failed:
            raise failed[0] from None
        raise
