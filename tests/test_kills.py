"""Runs that are killed at any instant: the next run ends as if nothing had happened.

``--kills N`` sets how many random instants are tried (500 for a merge and 200 for a backfill before a release).
"""

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from fakes import FakeLog, check_table
from rows import LOG, OTHER_LOG, keys_of, make_rows, make_table

import ctkit
from ctkit.desk.parameters import read_parameters
from ctkit.desk.verbs import merge_staged
from ctkit.lake import exchange, merge, rewrite, write
from ctkit.lake.evidence import read_evidence
from ctkit.lake.gaps import find_gaps
from ctkit.lake.provenance import Provenance, metadata_of, read_statements
from ctkit.lake.repair import repair
from ctkit.lake.scratch import SCRATCH
from ctkit.lake.table import files_of, find_table, open_table
from ctkit.lake.tidy import tidy

USER_AGENT = "ctkit tests, nobody@example.org"

# A process of its own for each run, forked from one that has imported everything and run nothing: the threads of the
# libraries do not survive a fork.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["ctkit.desk.gap_report", "ibis.backends.duckdb", "test_kills"])


def run_merge(folder: Path) -> None:
    """Merge what `folder` holds, as ``ctkit merge`` does."""
    merge_staged(read_parameters(main_path=str(folder / "main"), staging_path=str(folder / "staging")))


def run_tidy(folder: Path) -> None:
    """Tidy what `folder` holds."""
    tidy(open_table(folder / "main"))


def run_repair(folder: Path) -> None:
    """Repair what `folder` holds."""
    repair(open_table(folder / "main"))


def run_and_die(run: Callable[[Path], None], step: int, folder: Path, counted: Path) -> None:
    """Run, and die by SIGKILL before call number `step` of what changes something on the disk; or count the calls."""
    steps = itertools.count()
    targets: list[tuple[Any, str]] = [
        (os, "link"),
        (os, "fsync"),
        (os, "utime"),
        (os, "mkdir"),
        (os, "unlink"),
        (os, "rmdir"),
        (os, "rename"),
        (rewrite, "write_files"),
        (merge, "commit_files"),
        (merge, "confirm_files"),
        (merge, "retire"),
        (exchange, "commit_files"),
        (exchange, "confirm_files"),
    ]

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for owner, name in targets:
        setattr(owner, name, dying(getattr(owner, name)))
    run(folder)
    counted.write_text(str(next(steps)))


def start(target: Callable[..., None], *arguments: Any) -> Any:
    """Start a process that can be killed."""
    process = PROCESSES.Process(target=target, args=arguments)
    process.start()
    return process


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a main and a staging that overlap in part: some files are linked and some rewritten."""
    folder = tmp_path_factory.mktemp("pristine")
    make_table(folder / "main", make_rows(range(50)), make_rows(range(50), url=OTHER_LOG, day=2))
    staged = [make_rows(range(50, 70)), make_rows(range(45, 60), url=OTHER_LOG, day=2), make_rows([70, 70], day=3)]
    make_table(folder / "staging", *staged)
    return folder


EXPECTED = sorted([*((LOG, index) for index in range(71)), *((OTHER_LOG, index) for index in range(60))])


def copy(pristine: Path, folder: Path) -> Path:
    """Begin anew in `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(pristine, folder)
    return folder


def check_killed_merge(folder: Path) -> None:
    """See all or nothing of the merge, run it again, and find it done."""
    assert keys_of(open_table(folder / "main")) in (EXPECTED, sorted(key for key in EXPECTED if key[1] < 50))
    run_merge(folder)
    main = open_table(folder / "main")
    assert keys_of(main) == EXPECTED
    assert not (folder / "staging").exists(), sorted(path.name for path in (folder / "staging").rglob("*"))
    known = {str(folder / "main" / path) for path in pa.table(main.get_add_actions())["path"].to_pylist()}
    assert {str(path) for path in (folder / "main").rglob("*.parquet")} == known
    assert not (folder / "main" / SCRATCH).exists()


def test_merge_killed_before_every_step(pristine, tmp_path):
    """A merge that dies before any link, fsync, rename, removal or commit is completed by the next one."""
    counted = tmp_path / "counted"
    start(run_and_die, run_merge, -1, copy(pristine, tmp_path / "whole"), counted).join()
    steps = int(counted.read_text())
    assert steps > 40

    died = 0
    for step in range(steps):
        folder = copy(pristine, tmp_path / "killed")
        process = start(run_and_die, run_merge, step, folder, counted)
        process.join()
        died += process.exitcode == -signal.SIGKILL
        check_killed_merge(folder)
    # Two partitions are written side by side: one run may take a step more or less than another.
    assert died >= steps - 3


def proven_of(table: DeltaTable) -> list[int]:
    """Return the indices of the rows that an audit would call proven."""
    rows, _ = read_evidence(table, [LOG], read_statements(table))
    return [index for each in rows[LOG].proven for index in range(each.start, each.end)]


@pytest.fixture(scope="module")
def untidy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a main of many small files, all but one of them proven."""
    folder = tmp_path_factory.mktemp("untidy")
    main = open_table(folder / "main")
    for at in range(9):
        said = [Provenance(LOG, at * 2, at * 2 + 2, 2, 100, bytes(32), "entries", signed=True)] if at else []
        write.write_entries(main, make_rows([at * 2, at * 2 + 1]), metadata=metadata_of(said))
    return folder


def killed_before_a_step(run: Callable[[Path], None], pristine: Path, tmp_path: Path, kills: int) -> Iterator[Path]:
    """Yield what a run leaves that dies before a step: for each step, or some of them where there are to be few."""
    counted = tmp_path / "counted"
    start(run_and_die, run, -1, copy(pristine, tmp_path / "whole"), counted).join()
    steps = int(counted.read_text())
    for step in range(0, steps, -(-steps // kills)):
        folder = copy(pristine, tmp_path / "killed")
        process = start(run_and_die, run, step, folder, counted)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        yield folder


def test_tidy_killed_before_a_step(untidy, tmp_path, kills):
    """No row is lost or doubled, what is proven stays so, and the next run leaves what one that lives leaves."""
    died = 0
    for folder in killed_before_a_step(run_tidy, untidy, tmp_path, kills):
        expected = [(LOG, index) for index in range(18)], [*range(2, 18)]
        main = open_table(folder / "main")
        assert (keys_of(main), proven_of(main)) == expected
        run_tidy(folder)
        main = open_table(folder / "main")
        assert (keys_of(main), proven_of(main)) == expected
        assert not (folder / "main" / SCRATCH).exists()
        # The others are of older versions.
        assert len(list((folder / "main").rglob("*.parquet"))) == 8 + len(files_of(main)) == 10
        died += 1
    assert died > 3


def test_repair_killed_before_a_step(untidy, tmp_path, kills):
    """A damaged file is in the table or not, and so are repetitions; the next run takes them out, and nothing else."""
    folder = copy(untidy, tmp_path / "faulty")
    main = open_table(folder / "main")
    Path(min(files_of(main))).unlink()
    (lost,) = repair(main, dry_run=True).damaged
    gone = pq.read_table(untidy / "main" / lost.name, partitioning=None)["cert_index"].to_pylist()
    left = [(LOG, index) for index in range(18) if index not in gone]
    write.write_entries(main, make_rows(index for _, index in left[-3:]))
    died = 0
    for killed in killed_before_a_step(run_repair, folder, tmp_path, kills):
        run_repair(killed)
        main = open_table(killed / "main")
        assert keys_of(main) == left
        assert repair(main).version == main.version() == 11
        assert not (killed / "main" / SCRATCH).exists()
        died += 1
    assert died > 3


def test_merge_killed_at_any_time(pristine, tmp_path, kills):
    """A merge that dies at random instants is completed by the next one."""
    # The first process also waits for the one that it is forked from.
    start(run_merge, copy(pristine, tmp_path / "whole")).join()
    copy(pristine, tmp_path / "whole")
    begin = time.perf_counter()
    start(run_merge, tmp_path / "whole").join()
    duration = time.perf_counter() - begin
    chance = random.Random(1)
    died = 0
    for _ in range(kills):
        folder = copy(pristine, tmp_path / "killed")
        process = start(run_merge, folder)
        time.sleep(chance.uniform(0, duration))
        process.kill()
        process.join()
        died += process.exitcode == -signal.SIGKILL
        check_killed_merge(folder)
    assert died > 0


def run_backfill(folder: Path, url: str) -> None:
    """Backfill a log into staging."""
    with ctkit.open_log(url, user_agent=USER_AGENT, protocol="rfc6962", name="Killed") as log:
        table = open_table(folder / "staging")
        ctkit.backfill([log], find_gaps(None, table, within={log.url: (0, 400)}), table)


def run_backfill_with_many_commits(folder: Path, url: str) -> None:
    """Backfill a log into staging, with a commit after few rows; for a process of its own."""
    write.ROWS_PER_COMMIT = 50
    run_backfill(folder, url)


def test_backfill_killed_at_any_time(serve, tmp_path, kills):
    """A backfill that dies at random instants has written whole commits; the next one fetches exactly the rest."""
    log = FakeLog("Killed", 400, protocols=["rfc6962"], page_size=32)
    log.latency = 0.05
    url = serve(log)
    begin = time.perf_counter()
    start(run_backfill_with_many_commits, tmp_path / "whole", url).join()
    duration = time.perf_counter() - begin
    chance = random.Random(2)
    died = 0
    for _ in range(max(1, kills * 2 // 5)):
        folder = tmp_path / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        process = start(run_backfill_with_many_commits, folder, url)
        time.sleep(chance.uniform(0, duration))
        process.kill()
        process.join()
        table = find_table(folder / "staging")
        died += process.exitcode == -signal.SIGKILL
        assert 0 <= (table.count() if table else 0) <= 400
        run_backfill(folder, url)
        check_table(open_table(folder / "staging"), {url: log}, {url: (0, 400)})
    assert died > 0
