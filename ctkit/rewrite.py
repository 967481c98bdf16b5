"""Staged files of which main has some rows already: written anew without them."""

from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from ctkit.datafile import REPEATING, DataFile, plain_type, write_files
from ctkit.overlap import Overlap
from ctkit.schema import PARTITION, row_schema
from ctkit.table import as_der_type

ROWS_PER_BATCH = 4096

WRITERS = 2
"""So many partitions are rewritten at a time; each holds a row group in memory."""


def rewrite(files: Mapping[int, DataFile], overlap: Overlap, main: DeltaTable, scratch: Path) -> list[DataFile]:
    """Write the rows of staged files that are to be inserted to new files below `scratch`, with main's columns.

    Partitions are written side by side, each in the order of its files, a few row groups in memory at a time.

    Parameters
    ----------
    files
        By their position in the `overlap`.

    Raises
    ------
    OSError, ValueError, pyarrow.ArrowException
        A file cannot be read, or nothing can be written.
    """
    schema = _encoded(row_schema(as_der_type(main)))
    in_order = sorted(files.items(), key=lambda item: (item[1].partition, *item[1].first_key))
    with ThreadPoolExecutor(WRITERS, "rewrite") as pool:
        try:
            writing = [
                pool.submit(write_files, scratch, schema, _missing_rows(list(partition), overlap, schema))
                for _, partition in groupby(in_order, key=lambda item: item[1].partition)
            ]
            return [file for written in writing for file in written.result()]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _missing_rows(files: list[tuple[int, DataFile]], overlap: Overlap, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Read staged files of one partition without their skipped rows, with main's columns."""
    for at, file in files:
        row = 0
        kept = ~overlap.skipped_in(at)
        footer = pq.read_metadata(file.path)
        columns = [footer.schema.column(number).path for number in range(footer.num_columns)]
        repeating = [path for path in columns if path.partition(".")[0] in REPEATING]
        # Unbuffered: a file of another writer may be a single row group of a gigabyte.
        with pq.ParquetFile(
            file.path, metadata=footer, read_dictionary=repeating, pre_buffer=False, buffer_size=1 << 20
        ) as parquet:
            for batch in parquet.iter_batches(ROWS_PER_BATCH):
                batch = _follow_as_der(batch, schema.field("as_der"))
                batch = batch.append_column(PARTITION, pa.repeat(file.partition, len(batch)))
                batch = pa.record_batch([_cast(batch[field.name], field.type) for field in schema], schema=schema)
                yield batch.filter(pa.array(kept[row : row + len(batch)]))
                row += len(batch)


def _encoded(schema: pa.Schema) -> pa.Schema:
    """Return the schema with dictionaries in place of repeating texts: they are not taken apart on the way."""
    encoded = pa.dictionary(pa.int32(), pa.string())
    for at, field in enumerate(schema):
        if field.name in REPEATING:
            type_ = pa.list_(field.type.value_field.with_type(encoded)) if pa.types.is_list(field.type) else encoded
            schema = schema.set(at, field.with_type(type_))
    return schema


def _cast(column: pa.Array, type_: pa.DataType) -> pa.Array:
    return column if column.type == type_ else column.cast(plain_type(column.type)).cast(type_)


def _follow_as_der(rows: pa.RecordBatch, field: pa.Field) -> pa.RecordBatch:
    """Turn base64 text into raw DER or back, where staging has the one and main the other."""
    ders = rows["as_der"]
    raw, wanted_raw = (pa.types.is_binary(plain_type(type_)) for type_ in (ders.type, field.type))
    if raw == wanted_raw:
        return rows
    ders = ders.to_pylist()
    values = [b64encode(der).decode() for der in ders] if raw else [b64decode(der, validate=True) for der in ders]
    return rows.set_column(rows.schema.get_field_index("as_der"), field, pa.array(values, field.type))
