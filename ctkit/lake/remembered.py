"""What the files of tables hold, remembered on this machine.

A Parquet file never changes, so its indices need not be read a second time. For each table there is one
file below ``coverage/`` in the user's cache (`ctkit.cache`). All of it can be removed at any time:
what is not there, or cannot be read or written, is read from the table again. Commit metadata does not serve: it says
between which indices rows were written, not which of them, and nothing of the commits of others.
"""

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from ctkit.cache import NAME_LENGTH, cache_path, write_cached
from ctkit.lake.table import folder_of
from ctkit.visible import get_logger

logger = get_logger(__name__)

# Named as Parquet names them, so that what is read has this type again.
RUNS = pa.large_list(pa.field("element", pa.int64()))

BLOCKS = pa.schema(
    [
        pa.field("file", pa.dictionary(pa.int32(), pa.string())),
        pa.field("source_url", pa.dictionary(pa.int32(), pa.string())),
        pa.field("starts", RUNS),
        pa.field("ends", RUNS),
    ]
)
"""A row for each file and log in it: the state of the file (`ctkit.lake.coverage`), the URL, and the runs of indices
``[start, end)`` that it has, by start; they may overlap. A file without rows has one without URL and runs."""

_ENCODING = {f"{name}.list.element": "DELTA_BINARY_PACKED" for name in ("starts", "ends")}

_TABLE_ID = b"ctkit.table_id"

_DAYS = 90
"""What is remembered of a table is removed after this many days without a change: the table may be gone."""


def recall(table: DeltaTable) -> pa.Table:
    """Return what is remembered of a table's files, of any of its versions; an empty table if nothing is."""
    with suppress(RuntimeError):
        path = _path_of(table)
        if path and (found := read_stored(path, about(table, BLOCKS))):
            return found
    return BLOCKS.empty_table()


def remember(table: DeltaTable, blocks: pa.Table) -> None:
    """Remember what a table's files hold, in place of what was known of them.

    Other runs may do the same: the last one wins, and no reader sees half a file.
    """
    try:
        path = _path_of(table)
        if path is None:
            return
        _remove_old(path.parent)
        blocks = blocks.replace_schema_metadata(about(table, BLOCKS).metadata)
        store(path, blocks, use_dictionary=["file", "source_url"], column_encoding=_ENCODING)
    except (OSError, RuntimeError, ValueError) as error:
        logger.debug("coverage not remembered table=%s reason=%s", folder_of(table), error)


def read_stored(path: Path, schema: pa.Schema) -> pa.Table | None:
    """Return what `store` wrote to a file, without metadata; None if it is not there, damaged, or of another schema.

    Parameters
    ----------
    schema
        With metadata that tells what it is about.
    """
    with suppress(OSError, ValueError, pa.ArrowException):
        # Arrow's own memory, as a thread of Arrow's that lets go of Python's when Python has ended aborts the process.
        with pa.OSFile(os.fspath(path)) as file:
            stored = file.read_buffer()
        digest, content = stored[: hashlib.sha256().digest_size], stored[hashlib.sha256().digest_size :]
        if digest.to_pybytes() == hashlib.sha256(content).digest():
            with pq.ParquetFile(pa.BufferReader(content), pre_buffer=False) as parquet:
                found = parquet.read(use_threads=False)
            if found.schema.equals(schema, check_metadata=True):
                return found.replace_schema_metadata()
    return None


def store(path: Path, rows: pa.Table, **options: Any) -> None:
    """Write rows to a file with their digest, in place of the one that is there; `options` are those of Parquet.

    Raises
    ------
    OSError
        It cannot be written.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", write_statistics=False, **options)
    stored = sink.getvalue()
    write_cached(path, (hashlib.sha256(stored).digest(), stored))


def _path_of(table: DeltaTable) -> Path | None:
    return cache_path("coverage", folder_of(table))


def about(table: DeltaTable, schema: pa.Schema) -> pa.Schema:
    """Return the schema of what is stored of a table: its id tells whether it is still the table at that path."""
    return schema.with_metadata({_TABLE_ID: str(table.metadata().id)})


def _remove_old(folder: Path) -> None:
    # Only what is named as ours: people have folders of that name, too.
    for path in folder.glob("[0-9a-f]" * NAME_LENGTH + "*"):
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - _DAYS * 86_400:
                path.unlink()
