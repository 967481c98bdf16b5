"""The Parquet files of our Delta tables: described as the log of a table has them, and written."""

import json
import sys
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.transaction import AddAction
from numpy.typing import NDArray

from ctkit.errors import TableError
from ctkit.lake.digests import RESTORE, digest_of, new_name
from ctkit.lake.reasons import first_line
from ctkit.lake.table import add_actions, folder_of, make_folder, table_path
from ctkit.schema import KEY, PARTITION, REPEATING

Column = TypeVar("Column", pa.Array, pa.ChunkedArray)

ROWS_PER_GROUP = 16_384
"""About 64 MB before compression: what a writer holds in memory, and the least that a reader must read."""

BYTES_PER_FILE = 256 << 20

ZSTD_LEVEL = 1
"""Rows of public logs take 1.3 % more bytes than at level 3, and 3 % more than at level 6, for half the time of the
former and less of the latter."""

# By the path of their values in the file, as the format names it.
_DICTIONARIES = [f"{name}.list.element" if name == "chain" else name for name in REPEATING]

# What files and row groups are skipped by: gaps and merges ask for stretches of a log, analysts also for dates.
_STATISTICS = [*KEY, "seen", "not_before", "not_after"]


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a Delta table.

    Attributes
    ----------
    folder
        The table's folder.
    action
        What adds the file to a table; its path is relative to the table's folder, below ``seen_date=.../``.
    rows
        ``numRecords`` of the statistics, or by its footer where the table's log has none.
    """

    folder: Path
    action: AddAction
    rows: int

    @property
    def name(self) -> str:
        """Where the file lies, relative to the table's folder."""
        return self.action.path

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self.folder / self.name

    @property
    def partition(self) -> str:
        """The value of ``seen_date`` of all its rows."""
        return self.action.partition_values[PARTITION] or ""

    @property
    def first_key(self) -> tuple[str, int]:
        """Lowest ``source_url`` and ``cert_index``, each by itself, where the statistics have them."""
        lowest = json.loads(self.action.stats)["minValues"]
        return lowest.get("source_url", ""), lowest.get("cert_index", 0)


def data_files(table: DeltaTable, *, lost: Collection[str] = ()) -> list[DataFile]:
    """Return the files of the table's version, with the statistics that its log has of them.

    Parameters
    ----------
    lost
        Paths of files that cannot be read: they have 0 rows where the log does not say how many.

    Raises
    ------
    TableError
        As `ctkit.lake.table.add_actions`; or the footer of a file without statistics cannot be read.
    """
    folder = table_path(table.table_uri)
    return [
        _data_file(
            folder,
            # An action takes the path as it is on the disk, and encodes it by itself.
            path=added["path"],
            size=added["size_bytes"],
            partition=added["partition"],
            modified=added["modification_time"],
            # No row takes less than a byte; what cannot be, the footer tells better.
            rows=added["num_records"]
            if 0 < (added["num_records"] or 0) <= added["size_bytes"]
            else _rows_of(folder / added["path"], lost),
            statistics={
                "minValues": _present(added.get("min")),
                "maxValues": _present(added.get("max")),
                "nullCount": _present(added.get("null_count")),
            },
        )
        for added in add_actions(table).to_pylist()
    ]


def check_dates(files: Iterable[DataFile]) -> None:
    """Refuse files whose partition is not a date: it names the folder that their rows go to.

    Raises
    ------
    TableError
        Names the first; nothing was changed.
    """
    for file in files:
        try:
            is_date = date.fromisoformat(file.partition).isoformat() == file.partition
        except ValueError:
            is_date = False
        if not is_date:
            message = f"has rows whose {PARTITION} is {file.partition!r} instead of a date, in {file.name!r}"
            raise TableError(str(file.folder), f"{message}. Nothing was changed. Remove them, then run again")


def _rows_of(path: Path, lost: Collection[str]) -> int:
    if str(path) in lost:
        return 0
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        message = f"its rows cannot be counted ({first_line(error)}). Nothing was changed; {RESTORE}"
        raise TableError(str(path), message) from error


class FileBounds:
    """Between which keys the rows of each file of a table lie, by the statistics of the table's log.

    A file that lacks one of these statistics can hold anything.

    Parameters
    ----------
    table
        At the version that counts.

    Attributes
    ----------
    files
        Absolute path of each file.
    sizes
        Bytes of each file, as the table's log has it.
    first_url, last_url, lowest, highest
        Bounds of ``source_url``, and of ``cert_index`` as int64, all inclusive.
    """

    def __init__(self, table: DeltaTable) -> None:
        actions = add_actions(table, flatten=True)
        folder = folder_of(table)
        self.files = np.array([f"{folder}/{name}" for name in actions["path"].to_pylist()], object)
        self.sizes = actions["size_bytes"].to_numpy()
        widest: dict[str, Any] = {
            "min.source_url": "",
            "max.source_url": chr(sys.maxunicode),
            "min.cert_index": 0,
            "max.cert_index": np.iinfo(np.int64).max,
        }
        if not widest.keys() <= set(actions.column_names):
            columns = [np.full(len(self.files), bound) for bound in widest.values()]
        else:
            unknown = np.logical_or.reduce([actions[name].is_null().to_numpy() for name in widest])
            columns = [
                np.where(unknown, bound, actions[name].fill_null(bound).to_numpy()) for name, bound in widest.items()
            ]
        self.first_url, self.last_url, self.lowest, self.highest = columns

    def may_hold(self, url: str) -> NDArray[np.bool_]:
        """Tell of each file whether it can hold a row of a log."""
        return np.asarray((self.first_url <= url) & (self.last_url >= url), np.bool_)

    def may_hold_any(self, stretches: Mapping[str, tuple[int, int]]) -> NDArray[np.bool_]:
        """Tell of each file whether it can hold a row of a log in its stretch ``[start, end)``, by URL.

        A file that can hold several of the logs counts if it can have an index in any of their stretches.
        """
        urls = sorted(stretches)
        starts, ends = np.array([stretches[url] for url in urls] or np.empty((0, 2)), np.int64).T
        # Of the sorted logs a file can hold those from the first to before the last.
        first = np.searchsorted(np.array(urls, object), self.first_url, side="left")
        last = np.searchsorted(np.array(urls, object), self.last_url, side="right")
        pairs = np.stack([first, last], axis=1).ravel()
        lowest = np.minimum.reduceat(np.append(starts, 0), pairs)[::2]
        highest = np.maximum.reduceat(np.append(ends, 0), pairs)[::2]
        return np.asarray((first < last) & (self.lowest < highest) & (self.highest >= lowest), np.bool_)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema with text as string and bytes as binary, whichever of Arrow's layouts a writer had in mind.

    deltalake notes views in the files that it writes from them, others dictionaries or large types; the bytes in the
    file are the same.
    """
    return pa.schema([pa.field(field.name, plain_type(field.type)) for field in schema])


def plain_type(type_: pa.DataType) -> pa.DataType:
    """Return text as string, bytes as binary and lists as lists; see `plain_schema`."""
    if pa.types.is_dictionary(type_):
        return plain_type(type_.value_type)
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_list_view(type_):
        return pa.list_(plain_type(type_.value_type))
    if pa.types.is_string_view(type_) or pa.types.is_large_string(type_):
        return pa.string()
    if pa.types.is_binary_view(type_) or pa.types.is_large_binary(type_):
        return pa.binary()
    return type_


def cast_column(column: Column, type_: pa.DataType) -> Column:
    """Return the column with another of Arrow's layouts of the same values."""
    return column if column.type == type_ else column.cast(plain_type(column.type)).cast(type_)


def write_files(folder: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> list[DataFile]:
    """Write rows to new Parquet files below `folder`, in the layout of our tables; no table knows of them yet.

    No more than one row group is held in memory.

    Parameters
    ----------
    folder
        Of a table, or of one to be.
    schema
        `ctkit.schema.encoded_schema`.
    batches
        Rows in the order of partition, log and index. A new file begins with each partition, and after
        `BYTES_PER_FILE`.

    Returns
    -------
    list of DataFile
        With the statistics of the columns that files are chosen by.
    """
    written: list[DataFile] = []
    writer: FileWriter | None = None
    try:
        for batch in batches:
            for day, rows in by_partition(batch):
                if writer and (writer.day != day or writer.size >= BYTES_PER_FILE):
                    written.append(writer.close())
                    writer = None
                writer = writer or FileWriter(folder, day, schema)
                writer.write(rows)
        if writer:
            written.append(writer.close())
    except BaseException:
        if writer:
            writer.abort()
        for file in written:
            file.path.unlink(missing_ok=True)
        raise
    return written


class FileWriter:
    """One Parquet file in the making, below the folder of a table.

    Parameters
    ----------
    folder, schema
        As for `write_files`.
    day
        The partition of all its rows.

    Attributes
    ----------
    size
        Bytes written so far: there is no file before the first row group is full.
    waiting
        Rows that are not written yet, less than a row group.
    """

    def __init__(self, folder: Path, day: str, schema: pa.Schema) -> None:
        self.day = day
        self.size = 0
        self.waiting: list[pa.RecordBatch] = []
        self._rows = 0
        self._folder = folder
        self._stored = pa.schema([field for field in schema if field.name != PARTITION])
        self._path = folder / f"{PARTITION}={day}" / new_name(None)
        self._sink: Any = None
        self._writer: pq.ParquetWriter | None = None

    def write(self, rows: pa.RecordBatch) -> None:
        """Take rows; they are written as whole row groups."""
        self.waiting.append(rows)
        self._rows += len(rows)
        if self._rows >= ROWS_PER_GROUP:
            self._flush()

    def _open(self) -> pq.ParquetWriter:
        if self._writer is None:
            make_folder(self._path.parent)
            self._sink = pa.OSFile(str(self._path), "wb")
            self._writer = pq.ParquetWriter(
                self._sink,
                self._stored,
                compression="zstd",
                compression_level=ZSTD_LEVEL,
                use_dictionary=_DICTIONARIES,
                # Ascending numbers take a bit or two each, and a third of the time to read.
                column_encoding={KEY[1]: "DELTA_BINARY_PACKED"},
                write_statistics=_STATISTICS,
                # For readers of other tools that verify them; ours also go by the digest in the file's name.
                write_page_checksum=True,
                # Readers go by the table's schema; arrow-rs would take our hints of wider types for more than they are.
                store_schema=False,
            )
        return self._writer

    def _flush(self) -> None:
        # A column chunk has one dictionary: with several of them the writer would fall back to plain text.
        rows = pa.Table.from_batches(self.waiting).select(self._stored.names).unify_dictionaries()
        # Groups of one size: not whole ones, each followed by a tiny one of what was too much.
        groups = max(len(rows) // ROWS_PER_GROUP, 1)
        self._open().write_table(rows, row_group_size=-(-len(rows) // groups))
        self.waiting.clear()
        self._rows = 0
        self.size = self._sink.tell()

    def close(self) -> DataFile:
        """Finish the file and describe it; it has rows."""
        if self.waiting:
            self._flush()
        self._open().close()
        self._sink.close()
        self._path = self._path.rename(self._path.with_name(new_name(digest_of(self._path))))
        footer = pq.read_metadata(self._path)
        status = self._path.stat()
        return _data_file(
            self._folder,
            path=str(self._path.relative_to(self._folder)),
            size=status.st_size,
            partition={PARTITION: self.day},
            modified=status.st_mtime_ns // 1_000_000,
            rows=footer.num_rows,
            statistics=_statistics(footer),
        )

    def abort(self) -> None:
        """Give the file up and remove it."""
        if self._writer:
            with suppress(OSError, pa.ArrowException):
                self._writer.close()
            # Else it would try again when it is collected, and complain on stderr.
            self._writer.is_open = False
        if self._sink:
            with suppress(OSError, pa.ArrowException):
                self._sink.close()
            self._path.unlink(missing_ok=True)


def by_partition(batch: pa.RecordBatch) -> Iterable[tuple[str, pa.RecordBatch]]:
    """Cut a batch where the partition changes."""
    runs = pc.run_end_encode(batch[PARTITION])
    start = 0
    for day, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        yield day, batch.slice(start, end - start)
        start = end


def stats_of(footer: pq.FileMetaData) -> str:
    """Return what a table's log says of the rows of a file (Delta protocol, "Per-file Statistics"), by its footer.

    Only for the columns that files are chosen by. A column without bounds in some row group is left out.
    """
    return json.dumps({"numRecords": footer.num_rows, **_statistics(footer)}, default=_timestamp)


def _statistics(footer: pq.FileMetaData) -> dict[str, Any]:
    found: dict[str, Any] = {"minValues": {}, "maxValues": {}, "nullCount": {}}
    low, high, nulls = found.values()
    unknown: set[str] = set()
    for at in range(footer.num_row_groups):
        group = footer.row_group(at)
        for column in map(group.column, range(group.num_columns)):
            name, statistics = column.path_in_schema, column.statistics
            if name not in _STATISTICS:
                continue
            if statistics is None or not statistics.has_min_max:
                unknown.add(name)
                continue
            low[name] = min(low.get(name, statistics.min), statistics.min)
            high[name] = max(high.get(name, statistics.max), statistics.max)
            nulls[name] = nulls.get(name, 0) + (statistics.null_count or 0)
    # Where one row group has no bounds, because a text is too long for them, the file has none.
    return {kind: {name: each[name] for name in each.keys() - unknown} for kind, each in found.items()}


def _data_file(
    folder: Path,
    *,
    path: str,
    size: int,
    partition: dict[str, str | None],
    modified: int,
    rows: int,
    statistics: dict[str, Any],
) -> DataFile:
    stats = json.dumps({"numRecords": rows, **statistics}, default=_timestamp)
    return DataFile(folder, AddAction(path, size, partition, modified, True, stats), rows)


def _present(values: dict[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (values or {}).items() if value is not None}


def _timestamp(value: datetime) -> str:
    return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
