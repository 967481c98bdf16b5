"""Batches -> commits: rows become sorted Parquet files of a Delta table."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Transaction

from ctkit.errors import TableError
from ctkit.lake.files import (
    BYTES_PER_FILE,
    ROWS_PER_GROUP,
    DataFile,
    FileWriter,
    by_partition,
    cast_column,
    write_files,
)
from ctkit.lake.links import commit_files
from ctkit.lake.scratch import unlink_files
from ctkit.lake.table import as_der_type, folder_of, table_path
from ctkit.schema import KEY, PARTITION, encoded_schema

ROWS_PER_COMMIT = 100_000
BYTES_PER_COMMIT = 256 << 20
SECONDS_PER_COMMIT = 30.0

BYTES_PER_BATCH = 16 << 10
"""Memory of a batch in addition to its values; with one-row gaps, each a batch of its own, it is most of it."""

WRITTEN = "ctkit.written"
"""Commit metadata: how many rows the commit added."""

NOTED = [*KEY, "signature_algorithm"]
"""Columns that are kept of rows until they are committed."""


def write_entries(table: DeltaTable, rows: pa.Table, *, metadata: Mapping[str, str] | None = None) -> None:
    """Append rows to the table in one commit.

    Files are sorted by log and index, so that their statistics tell which indices of which log they hold.

    Parameters
    ----------
    table
        Where to; the handle moves on to the new version.
    rows
        Rows with the table's own schema (`ctkit.schema.row_schema`), encoded or not, in any order.
    metadata
        What the commit is to say of them, such as `ctkit.lake.provenance.metadata_of`.

    Raises
    ------
    TableError
        Nothing was committed.
    """
    schema = encoded_schema(as_der_type(table))
    with _writing(table, rows.num_rows):
        encoded = [cast_column(rows[field.name], field.type) for field in schema]
        ordered = in_order(pa.table(encoded, schema=schema))
        files = write_files(table_path(table.table_uri), schema, ordered)
    _commit(table, files, metadata)


@contextmanager
def _writing(table: DeltaTable, count: int) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        message = f"{count} rows could not be written ({error}); none of them is in the table"
        raise TableError(folder_of(table), f"{message}. Correct that, then run again") from error


def _commit(
    table: DeltaTable,
    files: list[DataFile],
    metadata: Mapping[str, str] | None,
    transactions: Sequence[Transaction] = (),
) -> None:
    """Add files to the table, or remove them."""
    rows = sum(file.rows for file in files)
    try:
        # Every commit of ours says so: a staging table that another program wrote to must be confirmed.
        said = {WRITTEN: str(rows), **(metadata or {})}
        if not commit_files(files, table, CommitProperties(said, app_transactions=list(transactions))):
            message = "others commit to it too often for this commit to get through. Run again"
            raise TableError(folder_of(table), message)
    except BaseException:
        unlink_files([file.name for file in files], table)
        raise


def in_order(rows: pa.Table) -> list[pa.RecordBatch]:
    """Return rows, with the schema `ctkit.schema.encoded_schema`, by partition, log and index."""
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
    transactions: Sequence[Transaction] = (),
) -> Iterator[pa.Table]:
    """Append batches as they come, a commit at a time.

    A commit is due after `ROWS_PER_COMMIT` rows, `BYTES_PER_COMMIT` bytes or `SECONDS_PER_COMMIT` seconds, and when
    `batches` end. Rows of one log and day are written as soon as they fill a row group, to a file of their own: while
    that is done, others fetch and decode, and no more than the other rows are in memory.

    Parameters
    ----------
    table
        Where to; the handle moves on with each commit.
    batches
        Rows with the schema `ctkit.schema.encoded_schema`, each batch of one log; a log's indices ascend. One without
        rows, of any schema, lets time pass: whether a commit is due is looked at after each batch.
    describe
        Makes the metadata of a commit from the columns `NOTED` of its rows.
    transactions
        Application transactions of the first commit.

    Yields
    ------
    pa.Table
        The columns `NOTED` of the rows of each commit, after it is done.

    Raises
    ------
    TableError
        The commit that was due failed; earlier ones stay.
    """
    commit = _Commit(table, transactions)
    try:
        for batch in batches:
            commit.add(batch)
            if commit.is_due():
                yield commit.finish(describe)
                commit = _Commit(table)
        if commit.noted:
            yield commit.finish(describe)
    finally:
        commit.abort()


class _Commit:
    """A commit in the making.

    Attributes
    ----------
    noted
        The columns `NOTED` of its rows.
    """

    def __init__(self, table: DeltaTable, transactions: Sequence[Transaction] = ()) -> None:
        self._table, self._transactions = table, transactions
        self._schema = encoded_schema(as_der_type(table))
        self._writers: dict[tuple[str, str], FileWriter] = {}
        self._files: list[DataFile] = []
        self._rows = self._bytes = 0
        self._since = time.monotonic()
        self.noted: list[pa.RecordBatch] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """Take rows of one log."""
        if not batch.num_rows:
            return
        self.noted.append(batch.select(NOTED))
        self._rows += batch.num_rows
        self._bytes += batch.nbytes + BYTES_PER_BATCH
        url = batch["source_url"][0].as_py()
        with _writing(self._table, self._rows):
            for day, rows in by_partition(batch):
                writer = self._writers.get((day, url))
                if writer is None:
                    folder = table_path(self._table.table_uri)
                    writer = self._writers[day, url] = FileWriter(folder, day, self._schema)
                writer.write(rows)
                if writer.size >= BYTES_PER_FILE:
                    self._close((day, url))

    def _close(self, key: tuple[str, str]) -> None:
        self._files.append(self._writers[key].close())
        # Not before: a file that cannot be closed is removed in the end.
        del self._writers[key]

    def is_due(self) -> bool:
        """Tell whether there are enough rows, or have been some for long enough."""
        is_late = time.monotonic() - self._since >= SECONDS_PER_COMMIT
        return bool(self._rows) and (self._rows >= ROWS_PER_COMMIT or self._bytes >= BYTES_PER_COMMIT or is_late)

    def finish(self, describe: Callable[[pa.Table], Mapping[str, str]] | None) -> pa.Table:
        """Write what is left, what is too little for a file of its own together; and commit."""
        # A commit has one dictionary of each column.
        noted = pa.Table.from_batches(self.noted).unify_dictionaries()
        metadata = describe(noted) if describe else None
        with _writing(self._table, self._rows):
            few: list[pa.RecordBatch] = []
            for key in sorted(self._writers):
                if self._writers[key].size:
                    self._close(key)
                else:
                    few += self._writers.pop(key).waiting
            self._files += write_files(table_path(self._table.table_uri), self._schema, few)
        files, self._files = self._files, []
        _commit(self._table, files, metadata, self._transactions)
        return noted

    def abort(self) -> None:
        """Remove what was written and not committed."""
        for writer in self._writers.values():
            writer.abort()
        for file in self._files:
            file.path.unlink(missing_ok=True)
