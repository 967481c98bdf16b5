"""Files that are written from the rows of others: without those that main has, or in the order of log and index."""

from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Sized
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from threading import Event

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from numpy.typing import NDArray

from ctkit.errors import TableError
from ctkit.lake.digests import RESTORE, is_damaged
from ctkit.lake.files import DataFile, cast_column, plain_type, write_files
from ctkit.lake.keys import Keys
from ctkit.lake.links import find_adoptable, has_nulls
from ctkit.lake.overlap import Overlap
from ctkit.lake.table import as_der_type, folder_of, make_folder
from ctkit.lake.write import in_order
from ctkit.schema import PARTITION, REPEATING, AsDer, encoded_schema, row_schema

ROWS_PER_BATCH = 4096

WRITERS = 2
"""Partitions that are rewritten at a time; each holds a row group in memory."""


TINY_FILE = 1 << 20
MANY_TINY_FILES = 8
"""From this many files of less than `TINY_FILE` bytes on, those of one partition become one on the way to main."""


def prepare_files(
    staging: DeltaTable, staged: Sequence[DataFile], overlap: Overlap, main: DeltaTable, scratch: Path
) -> list[DataFile]:
    """Return files that hold exactly the rows which main lacks: staging's own where possible, else rewritten ones.

    Parameters
    ----------
    staged
        The files of staging, in the order of the `overlap`.
    scratch
        Folder for the others.

    Raises
    ------
    TableError
        A file is damaged, or has rows that main cannot have; or nothing can be written.
    """
    adopted = adoptable_files(staging, staged, overlap, main)
    names = {file.name for file in adopted}
    others = {
        at: file
        for at, file in enumerate(staged)
        if file.name not in names and np.count_nonzero(overlap.skipped_in(at)) < file.rows
    }
    return adopted + rewrite_files(others, overlap, as_der_type(staging), main, scratch)


def adoptable_files(
    staging: DeltaTable, staged: Sequence[DataFile], overlap: Overlap, main: DeltaTable
) -> list[DataFile]:
    """Return the files of staging that main can have as they are; see `prepare_files`."""
    if as_der_type(staging) != as_der_type(main):
        return []
    schema = _schema_of(main)
    whole = [file for at, file in enumerate(staged) if file.rows and not overlap.skipped_in(at).any()]
    return [found for file in _large_enough(whole) if (found := find_adoptable(file, schema))]


def _schema_of(main: DeltaTable) -> pa.Schema:
    """Return main's columns: nothing that is ours is null, whatever main allows; it may forbid nulls in lists."""
    have = pa.schema(main.schema())
    return pa.schema([have.field(name).with_nullable(False) for name in row_schema().names])


def _encoded_schema(main: DeltaTable) -> pa.Schema:
    """Return main's columns as they are written, with dictionaries for texts that repeat."""
    schema = _schema_of(main)
    # Lists as they are read: the file's writer makes its dictionary of them more quickly than Arrow would.
    return pa.schema(
        [schema.field(each.name) if pa.types.is_list(each.type) else each for each in encoded_schema(as_der_type(main))]
    )


def _large_enough(files: list[DataFile]) -> list[DataFile]:
    """Leave out the tiny files of partitions that have many of them: main is better off with a few larger ones."""
    tiny = Counter(file.partition for file in files if file.action.size < TINY_FILE)
    return [file for file in files if file.action.size >= TINY_FILE or tiny[file.partition] < MANY_TINY_FILES]


def rewrite_files(
    files: Mapping[int, DataFile], overlap: Overlap, as_der: AsDer, main: DeltaTable, scratch: Path
) -> list[DataFile]:
    """Rewrite files without the rows that are skipped, with main's columns.

    Parameters
    ----------
    files
        By their position in the `overlap`.
    as_der
        What their table has.
    scratch
        Folder for what is written.

    Raises
    ------
    TableError
        A file is damaged, or has rows that main cannot have; or nothing can be written.
    """
    schema = _encoded_schema(main)
    try:
        return _rewrite(files, overlap, as_der, schema, scratch)
    except _UNWRITABLE as error:
        raise _unwritable(files, main, error) from error


_UNWRITABLE = (OSError, ValueError, KeyError, pa.ArrowException)


def _unwritable(files: Sized, main: DeltaTable, error: Exception) -> TableError:
    message = f"{len(files)} files cannot be rewritten there ({error}). Correct that, then run again"
    return TableError(folder_of(main), message)


def sort_files(files: Mapping[Path, Keys], partition: str, main: DeltaTable, scratch: Path) -> list[DataFile]:
    """Write the rows of some of main's files in the order of log and index.

    The keys tell where in this order each row comes. So rows first go to some temporary files, each of the rows of one
    part of the result, which fit in memory to be sorted.

    Parameters
    ----------
    files
        Their paths, and the keys in each; all are of one partition.
    scratch
        Folder for what is written.

    Raises
    ------
    TableError
        A file is damaged, or has rows that main cannot have; or nothing can be written.
    """
    schema, as_der = _encoded_schema(main), as_der_type(main)
    urls = sorted({url or "" for keys in files.values() for url in keys.urls})
    logs = {url: number for number, url in enumerate(urls)}
    order = np.argsort(np.concatenate([keys.numbered(logs) for keys in files.values()]), kind="stable")
    size = max(ROWS_PER_BATCH, -(-len(order) // _PARTS))
    groups = np.empty_like(order)
    groups[order] = np.arange(len(order)) // size
    parts = [scratch / f"rows-{number}.arrow" for number in range(-(-len(order) // size))]
    try:
        make_folder(scratch)
        with ExitStack() as stack:
            writers = [stack.enter_context(pa.ipc.new_stream(str(part), schema, options=_LZ4)) for part in parts]
            row = 0
            for batch in (batch for path in files for batch in _read_rows(path, partition, None, as_der, schema)):
                group = groups[row : row + len(batch)]
                row += len(batch)
                for number in np.unique(group):
                    writers[number].write_batch(batch.filter(pa.array(group == number)))
        return write_files(scratch, schema, (rows for part in parts for rows in _sorted_rows(part)))
    except _UNWRITABLE as error:
        raise _unwritable(files, main, error) from error


_PARTS = 128
"""Temporary files at most, which are open at a time."""

_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")


def _sorted_rows(part: Path) -> list[pa.RecordBatch]:
    """Read rows from a file, which is removed, and sort them."""
    with pa.OSFile(str(part)) as file, pa.ipc.open_stream(file) as stream:
        rows = stream.read_all()
    part.unlink()
    return in_order(rows)


def _rewrite(
    files: Mapping[int, DataFile], overlap: Overlap, as_der: AsDer, schema: pa.Schema, scratch: Path
) -> list[DataFile]:
    """Write partitions side by side, each in the order of its files, a few row groups in memory at a time."""
    ordered = sorted(files.items(), key=lambda item: (item[1].partition, *item[1].first_key))
    stop = Event()
    with ThreadPoolExecutor(WRITERS, "rewrite") as pool:
        try:
            writing = [
                pool.submit(write_files, scratch, schema, _missing_rows(list(partition), overlap, as_der, schema, stop))
                for _, partition in groupby(ordered, key=lambda item: item[1].partition)
            ]
            return [file for written in writing for file in written.result()]
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _missing_rows(
    files: list[tuple[int, DataFile]], overlap: Overlap, as_der: AsDer, schema: pa.Schema, stop: Event
) -> Iterator[pa.RecordBatch]:
    """Read staged files of one partition without their skipped rows, with main's columns, until `stop` is set."""
    for at, file in files:
        for rows in _read_rows(file.path, file.partition, ~overlap.skipped_in(at), as_der, schema):
            if stop.is_set():
                raise CancelledError
            yield rows


def _read_rows(
    path: Path, partition: str, kept: NDArray[np.bool_] | None, as_der: AsDer, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Read the rows of a file that are kept, all of them if None, with the columns of `schema`."""
    stored = [name for name in schema.names if name != PARTITION]
    if is_damaged(path):
        # Rewritten it would look sound.
        raise TableError(str(path), f"its bytes do not have the SHA-256 in its name; {RESTORE}")
    row = 0
    footer = pq.read_metadata(path)
    # Not lists of them: Arrow cannot read those where a row group, or the end of its dictionary, is in between.
    columns = [footer.schema.column(number).path for number in range(footer.num_columns)]
    repeating = [column for column in columns if column in REPEATING]
    # Unbuffered: a file of another writer may be a single row group of a gigabyte.
    with pq.ParquetFile(
        path,
        metadata=footer,
        read_dictionary=repeating,
        pre_buffer=False,
        buffer_size=1 << 20,
        page_checksum_verification=True,
    ) as parquet:
        for batch in parquet.iter_batches(ROWS_PER_BATCH, columns=stored):
            batch = _follow_as_der(batch, as_der, schema.field("as_der"))
            batch = batch.append_column(PARTITION, pa.repeat(partition, len(batch)))
            wanted = _as_schema(batch, schema)
            if kept is not None:
                wanted = wanted.filter(pa.array(kept[row : row + len(batch)]))
                row += len(batch)
            # Parquet's writer would make empty lists of those that are null.
            if nulls := [field.name for field in schema if has_nulls(wanted[field.name], field)]:
                raise ValueError(f"{', '.join(nulls)} of {path.name} have nulls")
            yield wanted


def _as_schema(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the columns of a schema, in its layouts."""
    return pa.record_batch([cast_column(rows[field.name], field.type) for field in schema], schema=schema)


def _follow_as_der(rows: pa.RecordBatch, as_der: AsDer, field: pa.Field) -> pa.RecordBatch:
    """Turn base64 text into raw DER or back, where staging has the one and main the other."""
    ders = rows["as_der"]
    stored = row_schema(as_der).field("as_der").type
    if plain_type(ders.type) != stored:
        # Bytes that are not marked as text may be either.
        raise ValueError(f"a file has as_der as {ders.type}, its table as {stored}")
    if stored == field.type:
        return rows
    raw = stored == pa.binary()
    values = [der and (b64encode(der).decode() if raw else b64decode(der, validate=True)) for der in ders.to_pylist()]
    return rows.set_column(rows.schema.get_field_index("as_der"), field, pa.array(values, field.type))
