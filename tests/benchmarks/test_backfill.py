"""How fast entries become committed rows, in how much memory, and of how many bytes."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import httpx
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from lake import in_process, make_rows, timed
from servers import serving_log, serving_long_log

import ctkit
from ctkit.lake.gaps import find_gaps
from ctkit.lake.table import files_of, open_table
from ctkit.lake.write import write_entries
from ctkit.logs.static_ct import tile_path

ENTRIES = 51_200
ROUNDS = 5

BACKFILL = """
import json, sys, time
import ctkit
url, size, folder = json.loads(sys.argv[1])
with ctkit.open_log(url, user_agent="ctkit, nobody@example.org", protocol="static-ct", name="B") as log:
    table = ctkit.open_table(folder)
    gaps = ctkit.find_gaps(None, within={log.url: (0, size)})
    began = time.perf_counter()
    report = ctkit.backfill([log], gaps, table, verify="off")
    assert sum(report.written.values()) == size
    print(time.perf_counter() - began)
"""


@pytest.fixture(scope="module")
def served():
    """Serve a log in both protocols."""
    with serving_log(ENTRIES) as (url, _):
        yield url


def fill(url: str, protocol: str, folder: Path) -> tuple[float, float]:
    """Return entries per second of a backfill into a new table, and what of two cores this process used."""
    with ctkit.open_log(url, user_agent="ctkit, nobody@example.org", protocol=protocol, name="B") as log:
        table = open_table(folder)
        gaps = find_gaps(None, within={log.url: (0, ENTRIES)})
        busy = time.process_time()
        seconds = timed(lambda: ctkit.backfill([log], gaps, table, verify="off"))
        busy = time.process_time() - busy
    assert table.count() == ENTRIES
    return ENTRIES / seconds, busy / seconds / 2


def download(url: str, protocol: str) -> float:
    """Return the entries per second of which the bytes alone are fetched: what the server can do, at least."""
    pages = {
        "static-ct": [f"/tile/data/{tile_path(number)}" for number in range(ENTRIES // 256)],
        "rfc6962": [f"/ct/v1/get-entries?start={at}&end={at + 255}" for at in range(0, ENTRIES, 256)],
    }[protocol]
    with httpx.Client(base_url=url) as client, ThreadPoolExecutor(4) as pool:
        return ENTRIES / timed(lambda: list(pool.map(lambda page: len(client.get(url + page).content), pages)))


@pytest.mark.parametrize(("protocol", "least"), [("static-ct", 40_000), ("rfc6962", 25_000)])
def test_backfill(served, tmp_path, protocol, least):
    """From the answers of a log on loopback to committed rows of staging."""
    fill(served, protocol, tmp_path / "warm")
    rates, busy = zip(*(fill(served, protocol, tmp_path / str(round_)) for round_ in range(ROUNDS)), strict=True)
    rate, only = median(rates), median(download(served, protocol) for _ in range(ROUNDS))
    print(f"\n{protocol}: {rate:.0f} entries/s, {100 * median(busy):.0f} % of two cores; ", end="")
    print(f"the bytes alone come at {only:.0f} entries/s")

    assert rate >= least


def test_memory_of_a_million(tmp_path):
    """A million entries take less than 1.2 GB, and no more than 10 % above what 200,000 take."""
    found = {}
    for size in (204_800, 1_024_000):
        with serving_long_log(size) as (url, _):
            found[size] = in_process(BACKFILL, json.dumps([url, size, str(tmp_path / str(size))]))
    (_, small), (seconds, large) = found.values()
    sizes = [os.path.getsize(file) >> 20 for file in files_of(open_table(tmp_path / "1024000"))]
    print(f"\nbackfill of 204,800: {small:.0f} MB; of 1,024,000: {large:.0f} MB, {1_024_000 / seconds:.0f} entries/s")
    print(f"{len(sizes)} files of {min(sizes)} to {max(sizes)} MB")

    assert large < 1200
    assert large <= 1.1 * small


def test_bytes_per_row(tmp_path):
    """The same rows take at most 0.9 of the bytes that deltalake's defaults take."""
    rows = make_rows(0, 100_000)
    ours, theirs = open_table(tmp_path / "ours"), open_table(tmp_path / "theirs")
    write_entries(ours, rows)
    write_deltalake(theirs, rows, mode="append")
    theirs = open_table(tmp_path / "theirs")
    sizes = [sum(map(os.path.getsize, files_of(table))) / len(rows) for table in (ours, theirs)]
    print(f"\n{sizes[0]:.0f} bytes a row, by deltalake's defaults {sizes[1]:.0f}: {sizes[0] / sizes[1]:.2f}")

    assert pa.table(ours.scan()).num_rows == pa.table(theirs.scan()).num_rows
    assert sizes[0] <= 0.9 * sizes[1]
