"""The merge in the world: beside a live writer, on bad disks, undone, and read by others."""

import contextlib
import multiprocessing
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from deltalake import DeltaTable, write_deltalake
from rows import LOG, OTHER_LOG, commits_of, indices_of, keys_of, make_rows, make_table

import ctkit
from ctkit import cli
from ctkit.errors import TableError
from ctkit.lake import links
from ctkit.lake.merge import merge_staging
from ctkit.lake.scratch import SCRATCH
from ctkit.lake.table import files_of, find_table, open_table


def write_all_the_time(main: Path, stop: Any, written: Any) -> None:
    """Append to main every 100 ms, as a live server does: new indices of both logs, and some that staging has."""
    chance = random.Random(3)
    at = 100_000
    while not stop.is_set():
        table = DeltaTable(main)
        known = set(keys_of(table))
        also = [index for index in chance.sample(range(1000), 3) if (LOG, index) not in known]
        rows = pa.concat_tables([make_rows([at, *also]), make_rows([at], url=OTHER_LOG, day=2)])
        # Only if nobody committed since it looked: this writer never doubles a row itself.
        properties = ctkit.lake.merge.CommitProperties(max_commit_retries=0)  # type: ignore[attr-defined]
        with contextlib.suppress(Exception):
            write_deltalake(table, rows, mode="append", commit_properties=properties)
            written.put([(LOG, at), *((LOG, index) for index in also), (OTHER_LOG, at)])
        at += 1
        time.sleep(0.1)


@pytest.fixture
def live_writer(tmp_path: Path) -> Iterator[Any]:
    """Start a process that writes to a new main until the test has what it wants; calling the fixture stops it."""
    make_table(tmp_path / "main", make_rows([99_999]))
    context = multiprocessing.get_context("spawn")
    stop, written = context.Event(), context.Queue()
    process = context.Process(target=write_all_the_time, args=(tmp_path / "main", stop, written))
    process.start()

    def finish() -> set[tuple[str, int]]:
        stop.set()
        keys: set[tuple[str, int]] = set()
        while process.is_alive() or not written.empty():
            with contextlib.suppress(Exception):
                keys.update(map(tuple, written.get(timeout=0.1)))
        process.join()
        return keys

    yield finish
    if process.is_alive():
        process.kill()


def test_merge_beside_a_live_writer(tmp_path, live_writer):
    """Fifty merges beside a writer that commits every 100 ms: none fails, no row is lost or twice or seen too early."""
    main = tmp_path / "main"
    seen: set[int] = set()
    done = threading.Event()

    def read() -> None:
        # Each merge brings five rows of the other log, which the live writer does not.
        while not done.is_set():
            merged = [index // 20 for index in indices_of(DeltaTable(main), OTHER_LOG) if index < 1000]
            seen.update(Counter(merged).values())

    reader = threading.Thread(target=read)
    reader.start()
    while len(commits_of(main)) < 4:
        time.sleep(0.05)
    expected: set[tuple[str, int]] = {(LOG, 99_999)}
    try:
        for batch in range(50):
            indices = range(batch * 20, batch * 20 + 20)
            staging = make_table(tmp_path / "staging", make_rows(indices), make_rows(indices[:5], url=OTHER_LOG, day=2))
            report = merge_staging(staging, open_table(main))
            assert report.inserted + report.skipped == report.staging_rows == 25
            assert not (tmp_path / "staging").exists()
            expected |= {(LOG, index) for index in indices} | {(OTHER_LOG, index) for index in indices[:5]}
    finally:
        done.set()
        reader.join()
        expected |= live_writer()

    found = keys_of(open_table(main))
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert {str(path) for path in main.rglob("*.parquet")} >= set(files_of(open_table(main)))
    assert len(commits_of(main)) > 60
    assert seen == {5}


def test_readers_see_a_merge_whole(tmp_path):
    """A reader that polls during a merge of many files sees the table before or after it, never in between."""
    main = make_table(tmp_path / "main", make_rows([10_000]))
    staged = [make_rows(range(at, at + 5), day=1 + at % 3) for at in range(0, 60, 5)]
    staging = make_table(tmp_path / "staging", *staged)
    counts: set[int] = set()
    done = threading.Event()

    def poll() -> None:
        while not done.is_set():
            counts.add(DeltaTable(tmp_path / "main").count())

    reader = threading.Thread(target=poll)
    reader.start()
    merge_staging(staging, main)
    done.set()
    reader.join()
    counts.add(DeltaTable(tmp_path / "main").count())

    assert counts == {1, 61} or counts == {61}


def test_merge_undone(tmp_path, caplog):
    """The last merge can be undone, which the history tells; its rows are staged again, and can be merged again."""
    make_table(tmp_path / "main", make_rows([1, 2]))
    make_table(tmp_path / "staging", make_rows([2, 3]))
    flags = ["--main-path", str(tmp_path / "main")]
    shutil.copytree(tmp_path / "staging", tmp_path / "again")

    assert cli.main(["merge", *flags, "--staging-path", str(tmp_path / "staging")]) == 0
    assert indices_of(open_table(tmp_path / "main")) == [1, 2, 3]
    assert cli.main(["merge", "--undo", *flags]) == 0

    assert "merge undone" in caplog.text
    assert indices_of(open_table(tmp_path / "main")) == [1, 2]
    assert DeltaTable(tmp_path / "main").history(1)[0]["ctkit.undone"] == "2"
    assert cli.main(["merge", "--undo", *flags]) == 1
    assert indices_of(open_table(tmp_path / "staging")) == [3]
    assert merge_staging(open_table(tmp_path / "again"), open_table(tmp_path / "main")).inserted == 1
    assert indices_of(open_table(tmp_path / "main")) == [1, 2, 3]


def test_merge_undone_when_nothing_can_be_written(tmp_path):
    """What deltalake says in several lines and colours is one plain line, with what to do next."""
    main = make_table(tmp_path / "main", make_rows([1]))
    merge_staging(make_table(tmp_path / "staging", make_rows([2])), main)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))
    try:
        with pytest.raises(TableError) as raised:
            ctkit.undo_merge(main)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    assert re.fullmatch(r"[ -~]*File too large[ -~]*", str(raised.value))
    assert indices_of(open_table(tmp_path / "main")) == [1, 2]


@pytest.mark.parametrize("copied", [False, True])
def test_merge_undone_before_staging_was_removed(tmp_path, monkeypatch, copied):
    """A merge that died after its commit and was undone is made again with the same files, linked or copied."""
    main = make_table(tmp_path / "main", make_rows([1]))
    make_table(tmp_path / "staging", make_rows([2, 3]))

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    def refuse(source: Path, link: Path) -> None:
        raise FileExistsError(17, "File exists") if link.exists() else OSError(18, "Invalid cross-device link")

    if copied:
        monkeypatch.setattr(links.os, "link", refuse)
    with monkeypatch.context() as patch:
        patch.setattr(ctkit.lake.merge, "retire", die)
        with pytest.raises(KeyboardInterrupt):
            merge_staging(open_table(tmp_path / "staging"), main)
    ctkit.undo_merge(open_table(tmp_path / "main"))
    assert indices_of(open_table(tmp_path / "main")) == [1]
    assert indices_of(open_table(tmp_path / "staging")) == [2, 3]

    assert merge_staging(open_table(tmp_path / "staging"), open_table(tmp_path / "main")).inserted == 2

    assert indices_of(open_table(tmp_path / "main")) == [1, 2, 3]
    assert indices_of(DeltaTable(tmp_path / "main", version=2)) == [1, 2, 3]
    assert not (tmp_path / "staging").exists()


def test_merge_undone_when_main_moved_on(tmp_path, capsys):
    """A merge that is not main's last commit stays, and the message says what else there is."""
    main = make_table(tmp_path / "main", make_rows([1]))
    merge_staging(make_table(tmp_path / "staging", make_rows([2])), main)
    write_deltalake(tmp_path / "main", make_rows([9]), mode="append")
    before = commits_of(tmp_path / "main")

    assert cli.main(["merge", "--undo", "--main-path", str(tmp_path / "main")]) == 1
    assert "version 3 was not made by a merge" in capsys.readouterr().err
    assert commits_of(tmp_path / "main") == before
    assert cli.main(["merge", "--undo", "--main-path", str(tmp_path / "nowhere")]) == 1


def test_merged_table_is_read_by_others(tmp_path):
    """Everybody reads the merged table alike, also after checkpoint, compaction and vacuum, and at earlier versions."""
    main = make_table(tmp_path / "main", make_rows(range(20)), make_rows(range(5), url=OTHER_LOG, day=2))
    for at in (30, 40):
        staging = make_table(
            tmp_path / "staging", make_rows(range(at, at + 5)), make_rows([3, at], url=OTHER_LOG, day=2)
        )
        merge_staging(staging, main)
    expected = make_rows([*range(20), *range(30, 35), *range(40, 45)])["sha256"].to_pylist()

    def check() -> None:
        table = DeltaTable(tmp_path / "main")
        files = [str(tmp_path / "main" / path) for path in pa.table(table.get_add_actions())["path"].to_pylist()]
        query = f"SELECT sha256 FROM t WHERE source_url = '{LOG}' ORDER BY cert_index"
        by_duckdb = duckdb.from_parquet(files, hive_partitioning=True)
        assert [row[0] for row in by_duckdb.query("t", query).fetchall()] == expected
        scanned = pa.table(table.scan(columns=["cert_index", "sha256"], predicate=f"source_url = '{LOG}'"))
        assert [row["sha256"] for row in sorted(scanned.to_pylist(), key=lambda row: row["cert_index"])] == expected
        frame = pd.concat(pd.read_parquet(file, columns=["source_url", "cert_index", "sha256"]) for file in files)
        frame = frame[frame.source_url == LOG].sort_values("cert_index")
        assert frame.sha256.to_list() == expected
        dataset = ds.dataset(files, partitioning="hive").to_table(filter=ds.field("source_url") == LOG)
        assert dataset.sort_by("cert_index")["sha256"].to_pylist() == expected
        assert table.count() == 37

    check()
    main.create_checkpoint()
    check()
    main.optimize.compact()
    check()
    main.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    check()
    assert DeltaTable(tmp_path / "main", version=3).count() == 31
    staging = make_table(tmp_path / "staging", make_rows([44, 45]))
    assert merge_staging(staging, open_table(tmp_path / "main")).inserted == 1


def test_merge_from_another_file_system(tmp_path):
    """Where files cannot be linked they are copied, and staging on the other file system is gone."""
    shared = Path("/dev/shm")
    assert shared.stat().st_dev != tmp_path.stat().st_dev
    folder = shared / f"ctkit-test-{os.getpid()}"
    try:
        main = make_table(tmp_path / "main", make_rows([1]))
        merge_staging(make_table(folder / "staging", make_rows([2, 3])), main)
        assert indices_of(main) == [1, 2, 3]
        assert not (folder / "staging").exists()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of one megabyte; only root can, as in CI."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("overlap", [False, True])
def test_merge_when_the_disk_is_full(tmp_path, small_disk, capsys, overlap):
    """No space left: exit 1 with words, main unchanged and without a new file, staging intact."""
    make_table(small_disk / "main", make_rows([1]))
    noise = pa.array([random.Random(at).randbytes(3000) for at in range(1000)])
    rows = make_rows(range(1 if overlap else 2, 1001 if overlap else 1002))
    make_table(tmp_path / "staging", rows.set_column(18, rows.schema.field("as_der"), noise))
    before = sorted(str(path) for path in small_disk.rglob("*.*"))
    staged = sorted(str(path) for path in (tmp_path / "staging").rglob("*.*"))
    flags = ["--main-path", str(small_disk / "main"), "--staging-path", str(tmp_path / "staging")]

    assert cli.main(["merge", *flags, "--yes"]) == 1

    said = capsys.readouterr().err
    assert "No space left" in said
    assert "Traceback" not in said
    assert sorted(str(path) for path in small_disk.rglob("*.*")) == before
    assert sorted(str(path) for path in (tmp_path / "staging").rglob("*.*")) == staged
    assert indices_of(open_table(small_disk / "main")) == [1]


def without_privilege(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command that is bound by the rights of files, also where root runs the tests."""
    drop = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    return subprocess.run([*drop, sys.executable, "-m", "ctkit", *words], capture_output=True, text=True)


@pytest.mark.parametrize("locked", ["main", "main/_delta_log", "main/seen_date=2026-03-01"])
def test_merge_when_main_is_read_only(tmp_path, locked):
    """A main that may not be written: exit 1 with words, main unchanged, staging intact."""
    make_table(tmp_path / "main", make_rows([1]))
    make_table(tmp_path / "staging", make_rows([2]), make_rows([3], day=2))
    merge_it = ["merge", "--main-path", str(tmp_path / "main"), "--staging-path", str(tmp_path / "staging")]
    (tmp_path / locked).chmod(0o555)
    before = sorted(str(path) for path in tmp_path.rglob("*.*"))

    done = without_privilege(*merge_it)

    assert done.returncode == 1, done.stderr
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(str(path) for path in tmp_path.rglob("*.*")) == before
    (tmp_path / locked).chmod(0o755)
    done = without_privilege(*merge_it)
    assert done.returncode == 0, done.stderr
    assert indices_of(open_table(tmp_path / "main")) == [1, 2, 3]


@pytest.mark.parametrize("broken", ["main", "staging"])
def test_merge_when_a_log_is_corrupt(tmp_path, capsys, broken):
    """A table whose log is corrupt stops the merge before anything is written."""
    make_table(tmp_path / "main", make_rows([1]))
    make_table(tmp_path / "staging", make_rows([2]))
    (tmp_path / broken / "_delta_log" / "00000000000000000001.json").write_text("{not json")
    before = sorted(str(path) for path in tmp_path.rglob("*.*"))

    flags = ["--main-path", str(tmp_path / "main"), "--staging-path", str(tmp_path / "staging")]
    assert cli.main(["merge", *flags]) == 1

    said = capsys.readouterr().err
    assert str(tmp_path / broken) in said
    assert "Traceback" not in said
    assert sorted(str(path) for path in tmp_path.rglob("*.*")) == before


def test_merge_when_the_clock_goes_backwards(tmp_path):
    """Commits and files from the future do no harm: order comes from versions, not from clocks."""
    make_table(tmp_path / "main", make_rows([1]), make_rows([2]))
    staging = make_table(tmp_path / "staging", make_rows([2, 3]))
    future = time.time() + 10 * 365 * 86_400
    for path in tmp_path.rglob("*"):
        os.utime(path, (future, future))
    for log in (tmp_path / "main" / "_delta_log").glob("*.json"):
        log.write_text(
            log.read_text().replace('"timestamp":17', '"timestamp":27').replace('"timestamp":18', '"timestamp":28')
        )

    report = merge_staging(open_table(tmp_path / "staging"), open_table(tmp_path / "main"))

    assert (report.inserted, report.skipped) == (1, 1)
    assert indices_of(open_table(tmp_path / "main")) == [1, 2, 3]
    assert staging.version() == 1


def test_merge_compacts_tiny_files(tmp_path):
    """Many tiny files of one partition become one on the way to main; a few are adopted as they are."""
    main = make_table(tmp_path / "main", make_rows([999]))
    many = [make_rows([at]) for at in range(10)]
    staging = make_table(tmp_path / "staging", *many, make_rows([50], day=2), make_rows([51], day=2))

    report = merge_staging(staging, main)

    assert report.inserted == 12
    assert len(files_of(main)) == 1 + 1 + 2
    assert indices_of(main) == [*range(10), 50, 51, 999]
    assert not (tmp_path / "main" / SCRATCH).exists()


def test_merge_names_orphans(tmp_path, caplog):
    """Files that a dead run left in staging are named by the merge that removes them, and by none that fails."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2]))
    file = Path(files_of(staging)[0])
    orphan = Path(shutil.copy(file, file.with_name("part-00000-dead-c000.zstd.parquet")))
    merge_it = ["merge", "--main-path", str(tmp_path / "main"), "--staging-path", str(tmp_path / "staging")]
    truncated = file.read_bytes()
    file.write_bytes(truncated[:-50])

    assert cli.main(merge_it) == 1
    assert orphan.exists()
    file.write_bytes(truncated)
    assert cli.main(merge_it) == 0

    assert f"path={orphan}" in caplog.text
    assert find_table(tmp_path / "staging") is None
    assert indices_of(main) == [1] or indices_of(open_table(tmp_path / "main")) == [1, 2]


def hold_merge(folder: str, ready: Any, go: Any, answers: Any) -> None:
    """Merge, but wait before the commit."""
    commit = ctkit.lake.merge.commit_files  # type: ignore[attr-defined]

    def wait(*arguments: Any) -> bool:
        ready.set()
        go.wait(30)
        return bool(commit(*arguments))

    ctkit.lake.merge.commit_files = wait  # type: ignore[attr-defined]
    answers.put(cli.main(["merge", "--main-path", f"{folder}/main", "--staging-path", f"{folder}/staging"]))


def test_two_merges_of_one_staging_at_once(tmp_path, capsys):
    """The second of two merges is refused with words; what the first does is not disturbed."""
    make_table(tmp_path / "main", make_rows([1]))
    make_table(tmp_path / "staging", make_rows([2, 3]))
    context = multiprocessing.get_context("spawn")
    ready, go, answers = context.Event(), context.Event(), context.Queue()
    first = context.Process(target=hold_merge, args=(str(tmp_path), ready, go, answers))
    first.start()
    assert ready.wait(30)

    assert cli.main(["merge", "--main-path", str(tmp_path / "main"), "--staging-path", str(tmp_path / "staging")]) == 1
    assert "another run of ctkit" in capsys.readouterr().err
    go.set()
    first.join()

    assert answers.get() == 0
    assert indices_of(open_table(tmp_path / "main")) == [1, 2, 3]
    assert not (tmp_path / "staging").exists()
