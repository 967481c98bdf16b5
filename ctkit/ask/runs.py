"""One part of an index of names: a Parquet file of turned names (`ctkit.ask.names`), sorted."""

import uuid
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ctkit.ask.names import turn
from ctkit.errors import TableError
from ctkit.lake.digests import RESTORE
from ctkit.lake.reasons import first_line

_ROWS_PER_GROUP = 1 << 15
"""Names that a reader must read at least. Half as many make the footer longer to read than is saved."""

_ORDER = ("name", "file", "cert_index")
_COLUMNS = ("source_url", "cert_index", "update_type", "all_domains")
RUN = pa.schema(
    [
        ("name", pa.string()),
        ("source_url", pa.string()),
        ("cert_index", pa.int64()),
        ("kind", pa.string()),
        ("file", pa.int32()),
    ]
)
_KINDS = {"X509LogEntry": "certificate", "PrecertLogEntry": "precertificate"}


def read_names(path: str, number: int) -> Iterator[pa.RecordBatch]:
    """Yield the names in a file, turned round; `number` is that of the file in the run."""
    try:
        with pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as parquet:
            for rows in parquet.iter_batches(1 << 16, columns=list(_COLUMNS), use_threads=False):
                lists = rows["all_domains"].cast(pa.list_(pa.string()))
                row, names = pc.list_parent_indices(lists), pc.list_flatten(lists)
                if names.null_count:
                    row, names = row.filter(names.is_valid()), names.drop_null()
                kinds = rows["update_type"].cast(pa.string()).dictionary_encode()
                words = pa.array([_KINDS.get(kind, kind) for kind in kinds.dictionary.to_pylist()], pa.string())
                columns = [
                    turn(names),
                    rows["source_url"].cast(pa.string()).take(row),
                    rows["cert_index"].cast(pa.int64()).take(row),
                    words.take(kinds.indices).take(row),
                    pa.repeat(pa.scalar(number, pa.int32()), len(names)),
                ]
                yield pa.record_batch(columns, RUN)
    except (OSError, KeyError, UnicodeDecodeError, pa.ArrowException) as error:
        message = f"its names cannot be read ({first_line(error)}). Nothing was changed; {RESTORE}"
        raise TableError(path, message) from error


def write_run(folder: Path, names: ir.Table) -> Path:
    """Write names to a new run, sorted."""
    path = folder / f"{uuid.uuid4().hex}.parquet"
    try:
        with pq.ParquetWriter(
            path,
            RUN,
            compression="zstd",
            compression_level=1,
            use_dictionary=["source_url", "kind"],
            # Neighbours begin alike; numbers take as many bits as they need.
            column_encoding={
                "name": "DELTA_BYTE_ARRAY",
                "cert_index": "DELTA_BINARY_PACKED",
                "file": "DELTA_BINARY_PACKED",
            },
            write_statistics=["name"],
            write_page_checksum=True,
            store_schema=False,
        ) as writer:
            for batch in names.select(RUN.names).order_by(_ORDER).to_pyarrow_batches(chunk_size=_ROWS_PER_GROUP):
                writer.write_batch(batch.cast(RUN))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def read_between(path: Path, first: str, end: str) -> Iterator[pa.Table]:
    """Yield the names of a run that are in ``[first, end)``, in order, row group by row group; they are ASCII."""
    lists = ["source_url", "kind"]
    with pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True, read_dictionary=lists) as run:

        def lowest(group: int) -> str:
            statistics = run.metadata.row_group(group).column(0).statistics
            # Those of a very long name are left out.
            is_known = statistics is not None and statistics.has_min_max
            return str(statistics.min if is_known else run.read_row_group(group, columns=["name"])["name"][0])

        groups = range(run.num_row_groups)
        # The group before may end in them.
        begin = max(bisect_left(groups, first, key=lowest) - 1, 0)
        for group in range(begin, bisect_left(groups, end, key=lowest)):
            names = run.read_row_group(group, use_threads=False)
            yield names.filter(pc.and_(pc.greater_equal(names["name"], first), pc.less(names["name"], end)))


def is_readable(path: Path) -> bool:
    """Tell whether a run can be read to its end, by the checksums of its pages."""
    try:
        with pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as run:
            for group in range(run.num_row_groups):
                run.read_row_group(group, use_threads=False)
    except (OSError, pa.ArrowException):
        return False
    return True
