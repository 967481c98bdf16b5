"""How fast names are found, and how fast and large their index is; ``ROWS`` in the environment asks for fewer rows."""

import os
import shutil
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from lake import in_process, make_rows, timed

import ctkit
from ctkit.lake.files import write_files
from ctkit.lake.links import commit_files
from ctkit.lake.table import open_table, table_path
from ctkit.schema import row_schema

ROWS = int(os.environ.get("ROWS", 10_000_000))
FEW, MANY = 100, ROWS // 100
"""Names of two of the domains; they are spread over the whole table."""

PER_FILE = 65_536
ROUNDS = 5

FIND = """
import sys, time, ctkit, ibis
folder, index, domain, first = sys.argv[1].split("|")
main = ctkit.open_table(folder)
find, certificates = ctkit.find_names, ctkit.certificates
# What ibis and DuckDB load at their first question is part of starting the process.
ctkit.rows_of(main).select("cert_index").limit(1).to_pyarrow()
began = time.perf_counter()
names = find(main, domain, limit=int(first), index_path=index)
found = names.to_pyarrow()
print(len(found), time.perf_counter() - began)
"""

FULL = FIND.replace("names.to_pyarrow", """certificates(main, names).select(
    "key", "seen", "kind", "issuer_o", "valid_from", "valid_until").to_pyarrow""")  # fmt: skip

SCAN = """
import sys, time, ctkit, duckdb
folder, index, domain, first = sys.argv[1].split("|")
files = [path.removeprefix("file://") for path in ctkit.open_table(folder).file_uris()]
# Nor does the baseline pay for what DuckDB imports at its first question.
duckdb.connect().execute("SELECT $files", {"files": files}).fetch_arrow_table()
began = time.perf_counter()
connection = duckdb.connect()
# Without the bar of what takes long, which DuckDB would draw beside the result.
connection.execute("SET enable_progress_bar = false")
found = connection.execute('''
    SELECT * FROM (SELECT unnest(all_domains) AS name, source_url, cert_index FROM read_parquet($files)
        WHERE len(list_filter(all_domains, lambda name: name = $domain OR ends_with(name, '.' || $domain))) > 0)
    WHERE name = $domain OR ends_with(name, '.' || $domain) ORDER BY name LIMIT ''' + first,
    {"files": files, "domain": domain}).fetch_arrow_table()
print(len(found), time.perf_counter() - began)
"""

BUILD = """
import sys, time, ctkit
folder, index, *_ = sys.argv[1].split("|")
main = ctkit.open_table(folder)
began = time.perf_counter()
ctkit.index_names(main, index_path=index)
print(time.perf_counter() - began)
"""


def add(table: DeltaTable, start: int, count: int) -> None:
    """Append rows of two names each, of which only keys, dates and names differ, in files of one commit."""
    random = np.random.default_rng(start)
    alike = make_rows(0, 1).drop_columns(["cert_index", "all_domains"])
    words = ["".join(map(chr, letters)) for letters in random.integers(97, 123, (20_000, 6))]
    files = []
    for at in range(start, start + count, PER_FILE):
        index = np.arange(at, min(at + PER_FILE, start + count))
        pairs = random.integers(0, len(words), (len(index), 2)).tolist()
        domains = [f"{words[one]}{words[two]}.com" for one, two in pairs]
        for number, row in enumerate(index.tolist()):
            if row % (ROWS // MANY) == 7:
                domains[number] = f"n{row}.many.example"
            elif row % (ROWS // FEW) == 5:
                domains[number] = f"n{row}.few.example"
        columns = {name: pa.repeat(alike[name][0], len(index)) for name in alike.column_names}
        columns["all_domains"] = pa.array(
            [[name, f"www.{name}"] for name in domains], row_schema().field("all_domains").type
        )
        columns["cert_index"] = pa.array(index)
        rows = pa.record_batch([columns[name] for name in row_schema().names], row_schema())
        files += write_files(table_path(table.table_uri), row_schema(), [rows])
    commit_files(files, table)


@pytest.fixture(scope="module")
def main(tmp_path_factory) -> DeltaTable:
    """Return a table of ten million rows, twenty million names, of light rows otherwise."""
    table = open_table(tmp_path_factory.mktemp("names") / "main")
    add(table, 0, ROWS)
    return table


def compressed(files: list[str], column: str) -> int:
    """Return the bytes of a column in some files."""
    size = 0
    for file in files:
        footer = pq.read_metadata(file.removeprefix("file://"))
        for group in map(footer.row_group, range(footer.num_row_groups)):
            chunks = map(group.column, range(group.num_columns))
            size += sum(chunk.total_compressed_size for chunk in chunks if chunk.path_in_schema.startswith(column))
    return size


def test_names_of_ten_million_rows(main, tmp_path, benchmark):
    """30 times as fast as a scan, and under 150 ms; brought up to date 20 times as fast as built."""
    folder, index = main.table_uri.removeprefix("file://"), tmp_path / "names"
    build, memory = in_process(BUILD, f"{folder}|{index}")
    size = sum(path.stat().st_size for path in index.iterdir())
    ratio = size / compressed(main.file_uris(), "all_domains")
    print(f"\nindex of {ROWS:,} rows: {build:.1f} s, {ROWS / build:,.0f} rows/s, {memory:.0f} MB", end=", ")
    print(f"{ratio:.2f} of the bytes of all_domains")
    for domain, first in (("few.example", 1000), ("many.example", 1000)):
        given = f"{folder}|{index}|{domain}|{first}"
        find, full, scan = (median(in_process(code, given)[0] for _ in range(ROUNDS)) for code in (FIND, FULL, SCAN))
        benchmark.extra_info[domain] = scan / find
        print(f"{domain}: {find * 1000:.0f} ms, with certificates {full * 1000:.0f} ms", end="; ")
        print(f"scan {scan:.2f} s: {scan / find:.0f} times")
    add(main, ROWS, ROWS // 100)
    again = timed(lambda: ctkit.index_names(main, index_path=index))
    shutil.rmtree(index)
    anew, _ = in_process(BUILD, f"{folder}|{index}")
    benchmark.extra_info["again"] = anew / again
    print(f"1 % new rows: {again:.2f} s; built anew {anew:.2f} s: {anew / again:.0f} times")
    benchmark.pedantic(lambda: ctkit.find_names(main, "few.example", index_path=index), rounds=ROUNDS)


def test_memory_does_not_grow(tmp_path, benchmark):
    """A fifth of the rows takes as much."""
    table = open_table(tmp_path / "main")
    add(table, 0, ROWS // 5)
    folder = table.table_uri.removeprefix("file://")
    seconds, memory = in_process(BUILD, f"{folder}|{Path(tmp_path, 'names')}")
    print(f"\nindex of {ROWS // 5:,} rows: {seconds:.1f} s, {memory:.0f} MB")
    benchmark.extra_info["memory"] = memory
    benchmark.pedantic(lambda: None)
