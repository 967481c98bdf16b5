"""Batches -> commits: rows become sorted Parquet files of a Delta table."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable

from ctkit.adopt import commit_files, unlink_files
from ctkit.datafile import ROWS_PER_GROUP, write_files
from ctkit.errors import TableError
from ctkit.schema import KEY, PARTITION, row_schema
from ctkit.table import as_der_type, folder_of, table_path

ROWS_PER_COMMIT = 100_000
BYTES_PER_COMMIT = 256 << 20
SECONDS_PER_COMMIT = 30.0


def write_entries(table: DeltaTable, rows: pa.Table, *, metadata: Mapping[str, str] | None = None) -> None:
    """Append rows to the table in one commit.

    Files are sorted by log and index, so that their statistics tell which indices of which log they hold.

    Parameters
    ----------
    table
        Where to; the handle moves on to the new version.
    rows
        Rows with the table's own schema (`ctkit.schema.row_schema`).
    metadata
        What the commit is to say of them, such as `ctkit.provenance.metadata_of`.

    Raises
    ------
    TableError
        Nothing was committed.
    """
    schema = row_schema(as_der_type(table))
    try:
        ordered = rows.cast(schema).sort_by([(column, "ascending") for column in (PARTITION, *KEY)])
        files = write_files(table_path(table.table_uri), schema, ordered.to_batches(ROWS_PER_GROUP))
    except (OSError, ValueError, pa.ArrowException) as error:
        message = f"{rows.num_rows} rows could not be written ({error}); nothing of them is in the table"
        raise TableError(folder_of(table), f"{message}: mend that and run again") from error
    try:
        committed = commit_files(files, table, CommitProperties(dict(metadata)) if metadata else None)
    except TableError:
        unlink_files([file.name for file in files], table)
        raise
    if not committed:
        unlink_files([file.name for file in files], table)
        message = "others commit to it so often that this commit never had its turn; run again"
        raise TableError(folder_of(table), message)


def write_batches(
    table: DeltaTable,
    batches: Iterable[pa.RecordBatch],
    *,
    describe: Callable[[pa.Table], Mapping[str, str]] | None = None,
) -> Iterator[pa.Table]:
    """Append batches as they come, a commit at a time, and yield the rows of each commit after it is done.

    A commit is due after `ROWS_PER_COMMIT` rows, `BYTES_PER_COMMIT` bytes or `SECONDS_PER_COMMIT` seconds, and when
    `batches` end; without a row there is none.

    Parameters
    ----------
    table
        Where to; the handle moves on with each commit.
    batches
        Rows, as for `write_entries`.
    describe
        Makes the metadata of a commit from its rows.

    Raises
    ------
    TableError
        The commit that was due failed; earlier ones stay.
    """
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    since = time.monotonic()
    for batch in batches:
        waiting.append(batch)
        rows += batch.num_rows
        size += batch.nbytes
        is_late = time.monotonic() - since >= SECONDS_PER_COMMIT
        if rows and (rows >= ROWS_PER_COMMIT or size >= BYTES_PER_COMMIT or is_late):
            yield _commit(table, waiting, describe)
            waiting, rows, size, since = [], 0, 0, time.monotonic()
    if rows:
        yield _commit(table, waiting, describe)


def _commit(
    table: DeltaTable, batches: list[pa.RecordBatch], describe: Callable[[pa.Table], Mapping[str, str]] | None
) -> pa.Table:
    rows = pa.Table.from_batches(batches)
    write_entries(table, rows, metadata=describe(rows) if describe else None)
    return rows
