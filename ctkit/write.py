"""Batches -> commits: rows become sorted Parquet files of a Delta table."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable

from ctkit.adopt import commit_files, unlink_files
from ctkit.datafile import ROWS_PER_GROUP, cast_column, write_files
from ctkit.errors import TableError
from ctkit.schema import KEY, PARTITION, encoded_schema
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
        Rows with the table's own schema (`ctkit.schema.row_schema`), encoded or not.
    metadata
        What the commit is to say of them, such as `ctkit.provenance.metadata_of`.

    Raises
    ------
    TableError
        Nothing was committed.
    """
    schema = encoded_schema(as_der_type(table))
    try:
        encoded = [cast_column(rows[field.name], field.type) for field in schema]
        files = write_files(table_path(table.table_uri), schema, _in_order(pa.table(encoded, schema=schema)))
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


def _in_order(rows: pa.Table) -> list[pa.RecordBatch]:
    """Sort rows by partition and key."""
    # Dictionaries are not sorted by their texts, so that the few URLs are sorted here.
    rows = rows.unify_dictionaries()
    urls, index = (rows[name].combine_chunks() for name in KEY)
    rank = np.argsort(np.argsort(urls.dictionary.to_numpy(zero_copy_only=False)))
    keys = pa.table([rows[PARTITION], rank[urls.indices.to_numpy()], index], [PARTITION, *KEY])
    order = pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names])
    batches: list[pa.RecordBatch] = rows.take(order).to_batches(ROWS_PER_GROUP)
    return batches


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
    rows = pa.Table.from_batches(batches).unify_dictionaries()
    write_entries(table, rows, metadata=describe(rows) if describe else None)
    return rows
