"""How fast staging becomes main, and in how much memory."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from lake import in_process, make_pair, make_rows, merge_in_one_call, timed

from ctkit.lake import links, merge, rewrite
from ctkit.lake.merge import merge_staging
from ctkit.lake.table import files_of, open_table
from ctkit.lake.write import write_entries

ROUNDS = 5
LIVE_BATCH = 8192

MERGE = """
import sys, time
from ctkit.lake.merge import merge_staging
from ctkit.lake.table import open_table
main, staging = open_table(sys.argv[1] + "/main"), open_table(sys.argv[1] + "/staging")
began = time.perf_counter()
merge_staging(staging, main)
print(time.perf_counter() - began)
"""


@pytest.fixture(scope="module")
def apart(tmp_path_factory) -> Path:
    """Return 200,000 staged rows, the holes of a main of a million: no common key."""
    folder = tmp_path_factory.mktemp("apart")
    make_pair(folder, 1_000_000, 200_000)
    return folder


@pytest.fixture(scope="module")
def overlapping(tmp_path_factory) -> Path:
    """Return the same with 10 % of the staged keys in main, some in every file."""
    folder = tmp_path_factory.mktemp("overlapping")
    make_pair(folder, 1_000_000, 200_000, overlap=0.1)
    return folder


def fresh(pristine: Path, folder: Path) -> tuple[DeltaTable, DeltaTable]:
    """Return a copy of main and staging, all of it on the disk."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(pristine, folder)
    os.sync()
    return open_table(folder / "main"), open_table(folder / "staging")


def seconds_of(verb: Callable[[DeltaTable, DeltaTable], object], pristine: Path, folder: Path, rounds: int) -> float:
    """Return the median time of merging copies of `pristine`."""
    times = []
    for _ in range(rounds):
        main, staging = fresh(pristine, folder)
        times.append(timed(lambda main=main, staging=staging: verb(main, staging)))
    return median(times)


def ours(main: DeltaTable, staging: DeltaTable) -> None:
    """Merge as ctkit does."""
    merge_staging(staging, main)


def live_server_batches(main: DeltaTable, staging: DeltaTable, batches: int) -> None:
    """Merge some batches as the live server does: one MERGE and one commit for each 8,192 rows."""
    rows = pa.table(staging.scan())
    for at in range(batches):
        condition = "s.source_url = t.source_url AND s.cert_index = t.cert_index"
        batch = rows.slice(at * LIVE_BATCH, LIVE_BATCH)
        merging = main.merge(batch, condition, source_alias="s", target_alias="t")
        merging.when_not_matched_insert_all().execute()


def test_merge_without_overlap(apart, tmp_path, benchmark):
    """Merge 200,000 rows into a million 30 times as fast as one MERGE, 100 times as fast as the live server does."""
    seconds = seconds_of(ours, apart, tmp_path / "ours", ROUNDS)
    one_call = seconds_of(merge_in_one_call, apart, tmp_path / "one", 2)
    tried = 3
    some = seconds_of(lambda main, staging: live_server_batches(main, staging, tried), apart, tmp_path / "live", 1)
    live = some / tried * (200_000 / LIVE_BATCH)
    benchmark.extra_info.update(one_call=one_call / seconds, live_server=live / seconds)
    print(
        f"\nmerge, no overlap: {seconds:.3f} s; one MERGE {one_call:.2f} s = {one_call / seconds:.0f} times;", end=" "
    )
    print(f"live server {live:.1f} s (extrapolated from {tried} batches) = {live / seconds:.0f} times")
    benchmark.pedantic(ours, setup=lambda: (fresh(apart, tmp_path / "ours"), {}), rounds=ROUNDS)

    assert one_call / seconds >= 30
    assert live / seconds >= 100


def test_merge_with_a_tenth_known(overlapping, tmp_path, benchmark):
    """Merge rows of which main has a tenth at least 3 times as fast as one MERGE."""
    seconds = seconds_of(ours, overlapping, tmp_path / "ours", 3)
    one_call = seconds_of(merge_in_one_call, overlapping, tmp_path / "one", 2)
    benchmark.extra_info["one_call"] = one_call / seconds
    print(f"\nmerge, a tenth known: {seconds:.2f} s; one MERGE {one_call:.2f} s = {one_call / seconds:.1f} times")
    benchmark.pedantic(ours, setup=lambda: (fresh(overlapping, tmp_path / "ours"), {}), rounds=1)

    assert one_call / seconds >= 3


def test_merge_grows_with_staging_only(apart, tmp_path, tmp_path_factory):
    """Five times the rows cost at most 6 times the time, in the same memory of less than 1 GB."""
    large = tmp_path_factory.mktemp("large")
    make_pair(large, 5_000_000, 1_000_000)
    fresh(apart, tmp_path / "small")
    small_runs = []
    for _ in range(3):
        fresh(apart, tmp_path / "small")
        small_runs.append(in_process(MERGE, tmp_path / "small"))
    large_runs = [in_process(MERGE, large)]
    seconds, memory = (median(values) for values in zip(*small_runs, strict=True))
    large_seconds, large_memory = large_runs[0]
    print(f"\nmerge of 200,000 into 1 million: {seconds:.3f} s, {memory:.0f} MB; ", end="")
    print(f"of 1 into 5 million: {large_seconds:.3f} s, {large_memory:.0f} MB; {large_seconds / seconds:.1f} times")

    assert large_seconds / seconds <= 6
    assert large_memory < 1000
    assert large_memory <= 1.15 * memory


def test_commit_of_a_thousand_files(tmp_path, monkeypatch):
    """The commit that makes a thousand files part of main takes less than 100 ms."""
    main, staging = open_table(tmp_path / "main"), open_table(tmp_path / "staging")
    rows = make_rows(0, 4000)
    for at in range(0, 4000, 4):
        staging_rows = rows.slice(at, 4)
        write_entries(staging, staging_rows)
    monkeypatch.setattr(rewrite, "MANY_TINY_FILES", 10_000)
    took = []
    commit = links.commit_files

    def timing(*arguments):
        began = time.perf_counter()
        done = commit(*arguments)
        took.append(time.perf_counter() - began)
        return done

    monkeypatch.setattr(merge, "commit_files", timing)
    merge_staging(staging, main)
    print(f"\ncommit of {len(files_of(main))} files: {took[0] * 1000:.0f} ms")

    assert len(files_of(main)) >= 1000
    assert took[0] < 0.1
