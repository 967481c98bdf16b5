"""Rows made up for tests of the lake side: the shape of real ones, the content of none."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import CommitProperties, DeltaTable
from deltalake.transaction import AddAction

from ctkit.lake import merge
from ctkit.lake.files import cast_column
from ctkit.lake.provenance import Provenance, read_statements
from ctkit.lake.querying import read_tables, reading
from ctkit.lake.table import open_table
from ctkit.lake.write import WRITTEN, write_entries
from ctkit.schema import AsDer, encoded_schema, row_schema

LOG = "https://ct.example.com/2026h2"
OTHER_LOG = "https://ct.example.org/2026h2"


def make_rows(
    indices: Iterable[int], *, url: str = LOG, name: str = "Example 2026h2", day: int = 1, as_der: AsDer = "binary"
) -> pa.Table:
    """Return a row for each index, all of one date; content follows from the index, so equal keys have equal rows."""
    seen = datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(days=day - 1)
    rows = []
    for index in indices:
        der = f"{url}#{index}".encode()
        sha256, sha1 = hashlib.sha256(der).hexdigest().upper(), hashlib.sha1(der).hexdigest().upper()
        rows.append(
            {
                "cert_index": index,
                "update_type": "PrecertLogEntry" if index % 3 else "X509LogEntry",
                "seen": seen,
                "seen_date": seen.date().isoformat(),
                "source_name": name,
                "source_url": url,
                "cert_link": f"{url}/ct/v1/get-entries?start={index}&end={index}",
                "serial_number": f"{index:016X}",
                "fingerprint": sha1,
                "sha256": sha256,
                "sha1": sha1,
                "not_before": 1_700_000_000 + index,
                "not_after": 1_800_000_000 + index,
                "is_ca": False,
                "signature_algorithm": "ecdsa, sha256",
                "subject_aggregated": f"/CN={index}.example.com",
                "issuer_aggregated": "/C=US/CN=Example CA/O=Example",
                "all_domains": [f"{index}.example.com", "www.example.com"],
                "as_der": der if as_der == "binary" else base64.b64encode(der).decode(),
                "chain": ['{"subject":{"aggregated":""}}'],
            }
        )
    return pa.Table.from_pylist(rows, schema=row_schema(as_der))


def make_batch(indices: Iterable[int], **options: Any) -> pa.RecordBatch:
    """Return the same rows in flight."""
    rows, schema = make_rows(indices, **options), encoded_schema(options.get("as_der", "binary"))
    (batch,) = pa.table([cast_column(rows[field.name], field.type) for field in schema], schema=schema).to_batches()
    return batch


def make_table(path: Path, *commits: pa.Table) -> DeltaTable:
    """Create a table at `path` with one commit for each table of rows."""
    table = open_table(path)
    for rows in commits:
        write_entries(table, rows)
    return table


def add_file(
    path: Path,
    rows: pa.Table,
    *,
    name: str = "part-of-another-writer.parquet",
    day: str = "2026-03-01",
    statistics: Mapping[str, object] | None = None,
    **options: object,
) -> DeltaTable:
    """Add one file to the table at `path` as another writer may have made it: columns and statistics as they are given.

    `options` are those of `pyarrow.parquet.write_table`.
    """
    table = open_table(path)
    file = path / f"seen_date={day}" / name
    file.parent.mkdir(exist_ok=True)
    pq.write_table(rows, file, **options)
    stats = json.dumps(statistics) if statistics else None
    action = AddAction(str(file.relative_to(path)), file.stat().st_size, {"seen_date": day}, 0, True, stats)
    ours = CommitProperties({WRITTEN: str(rows.num_rows)})
    table.create_write_transaction([action], "append", table.schema(), ["seen_date"], commit_properties=ours)
    table.update_incremental()
    return table


def as_type(rows: pa.Table, **types: pa.DataType) -> pa.Table:
    """Return rows with some columns of another type, and without ``seen_date``, as they are stored."""
    for name, type_ in types.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, rows[name].cast(type_))
    return rows.drop_columns(["seen_date"])


def keys_of(table: DeltaTable) -> list[tuple[str, int]]:
    """Return the keys of all rows, ascending, duplicates included."""
    with reading(table) as connection:
        rows = read_tables(connection, table).select("source_url", "cert_index").to_pyarrow().to_pylist()
    return sorted((row["source_url"], row["cert_index"]) for row in rows)


def indices_of(table: DeltaTable, url: str = LOG) -> list[int]:
    """Return the indices of one log's rows, ascending, duplicates included."""
    return [index for source_url, index in keys_of(table) if source_url == url]


def rows_of(table: DeltaTable) -> list[dict[str, object]]:
    """Return all rows, ordered by key."""
    with reading(table) as connection:
        rows = read_tables(connection, table).select(row_schema().names).order_by("source_url", "cert_index")
        return rows.to_pyarrow().to_pylist()


def read_provenance(table: DeltaTable) -> list[tuple[int, Provenance]]:
    """Return the records of all commits, each with the commit's version."""
    return [(statement.version, record) for statement in read_statements(table) for record in statement.records]


def commits_of(path: Path) -> list[str]:
    """Return the names of the commits in a table's log."""
    return sorted(entry.name for entry in (path / "_delta_log").glob("*.json"))


def before_commit(monkeypatch: pytest.MonkeyPatch, interfere: Callable[[], object]) -> None:
    """Let somebody do something just before each commit of a merge, when all is prepared."""
    commit = merge.commit_files

    def commit_after_somebody(*arguments: Any) -> bool:
        interfere()
        return commit(*arguments)

    monkeypatch.setattr(merge, "commit_files", commit_after_somebody)
