"""The acceptance criteria of the staging backfill, by their numbers, through the command line."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from deltalake import DeltaTable, write_deltalake
from fakes import FakeLog, check_table
from rows import commits_of, indices_of, keys_of, make_rows

from ctkit import cli
from ctkit.desk.state_file import write_state
from ctkit.jobs.backfill import backfill
from ctkit.lake import links
from ctkit.lake.table import find_table, open_table
from ctkit.logs.open import open_log
from ctkit.schema import row_schema

USER_AGENT = "ctkit tests, nobody@example.org"


@dataclass
class World:
    """A live service's table and state file, and two logs, one for each protocol."""

    folder: Path
    logs: list[FakeLog]
    urls: list[str]

    @property
    def main(self) -> Path:
        """Where the live service writes."""
        return self.folder / "main"

    @property
    def staging(self) -> Path:
        """Where backfills write."""
        return self.folder / "staging"

    @property
    def by_url(self) -> dict[str, FakeLog]:
        """The logs by their URL."""
        return dict(zip(self.urls, self.logs, strict=True))

    def write_files(self, *, ceilings: tuple[int, int] = (500, 400), staged: bool = True, **more: object) -> Path:
        """Write state and parameter file; return the latter."""
        write_state(self.folder / "state.json", dict(zip(self.urls, ceilings, strict=True)))
        parameters = {
            "main_path": str(self.main),
            "state_file": str(self.folder / "state.json"),
            "logs": [{"name": log.name, "url": url} for log, url in zip(self.logs, self.urls, strict=True)],
            "user_agent": USER_AGENT,
            "internal_only": False,
            **more,
        }
        if staged:
            parameters["staging_path"] = str(self.staging)
        (self.folder / "parameters.yaml").write_text(yaml.safe_dump(parameters))
        return self.folder / "parameters.yaml"

    def fill(self, path: Path, *ranges: tuple[int, int, int]) -> DeltaTable:
        """Write the rows of (number of the log, start, end) to a table, as a live service would have."""
        table = open_table(path)
        for at, start, end in ranges:
            with open_log(self.urls[at], user_agent=USER_AGENT, name=self.logs[at].name) as log:
                gaps = pa.table({"source_url": [log.url], "start": [start], "end": [end]})
                backfill([log], gaps, table).check()
        return table


@pytest.fixture
def world(tmp_path: Path, serve: Callable[[FakeLog], str]) -> World:
    """Make a main with [10, 100) and [150, 300) of the first log and [0, 256) of the second; the state knows more."""
    logs = [
        FakeLog("Acceptance RFC", 600, protocols=["rfc6962"], page_size=64),
        FakeLog("Acceptance static", 520, protocols=["static-ct"]),
    ]
    world = World(tmp_path, logs, [serve(log) for log in logs])
    world.fill(world.main, (0, 10, 100), (0, 150, 300), (1, 0, 256))
    return world


def ctkit(*words: object) -> int:
    """Run a command in this process."""
    return cli.main([str(word) for word in words])


def gaps_json(capsys, *words: object) -> list[tuple[str, int, int]]:
    """Return what ``ctkit gaps --json`` prints."""
    capsys.readouterr()
    assert ctkit("gaps", "--json", *words) == 0
    return [(gap["source_url"], gap["start"], gap["end"]) for gap in json.loads(capsys.readouterr().out)]


def test_ac1_1_staging_table_has_the_20_columns(world):
    """AC1.1: a backfill with a staging path creates a Delta table there, 20 columns, partitioned by seen_date."""
    assert ctkit("backfill", "-f", world.write_files()) == 0

    staging = DeltaTable(world.staging)
    assert pa.schema(staging.schema()) == row_schema()
    assert len(row_schema()) == 20
    assert staging.metadata().partition_columns == ["seen_date"]


def test_ac1_2_rows_go_to_staging_and_main_is_untouched(world):
    """AC1.2: fetched rows are in staging; main has no new file at all."""
    before = sorted(str(path) for path in world.main.rglob("*"))

    assert ctkit("backfill", "-f", world.write_files()) == 0

    assert sorted(str(path) for path in world.main.rglob("*")) == before
    first, second = world.urls
    check_table(DeltaTable(world.staging), world.by_url, {first: [(100, 150), (300, 500)], second: (256, 400)})


def test_ac1_3_catch_up_and_historical(world, capsys):
    """AC1.3: catch-up starts at the first row of each log, historical at --from; both write to staging."""
    file = world.write_files()
    first, second = world.urls
    catch_up = [(first, 100, 150), (first, 300, 500), (second, 256, 400)]
    assert gaps_json(capsys, "-f", file) == sorted(catch_up)
    assert gaps_json(capsys, "-f", file, "--from", 5) == sorted([(first, 5, 10), *catch_up])
    assert gaps_json(capsys, "-f", file, "--from", 120, "--to", 310) == sorted(
        [(first, 120, 150), (first, 300, 310), (second, 256, 310)]
    )

    assert ctkit("backfill", "-f", file, "--from", 0) == 0

    within = {first: [(0, 10), (100, 150), (300, 500)], second: (256, 400)}
    check_table(DeltaTable(world.staging), world.by_url, within)


def test_ac2_1_entries_in_either_table_are_no_gap(world, capsys):
    """AC2.1: rows of staging close gaps as rows of main do."""
    world.fill(world.staging, (0, 120, 130))

    assert (world.urls[0], 100, 120) in gaps_json(capsys, "-f", world.write_files())
    assert (world.urls[0], 130, 150) in gaps_json(capsys, "-f", world.write_files())


def test_ac2_2_a_second_run_has_nothing_to_fetch(world, capsys, caplog):
    """AC2.2: a second run into the same staging asks the logs for nothing and commits nothing."""
    file = world.write_files()
    assert ctkit("backfill", "-f", file) == 0
    commits = commits_of(world.staging)
    # protocol: auto looks for the first data tile, in case that a log has tiles and no checkpoint.
    asked = [len(log.paths(path)) for log, path in zip(world.logs, ["ct/v1/get-entries", "tile/data"], strict=True)]

    assert gaps_json(capsys, "-f", file) == []
    assert ctkit("backfill", "-f", file) == 0

    assert "no gaps detected, nothing to backfill" in caplog.text
    assert commits_of(world.staging) == commits
    assert [len(world.logs[0].paths("ct/v1/get-entries")), len(world.logs[1].paths("tile/data"))] == asked


def test_ac2_2_after_a_failed_run_exactly_the_rest_is_fetched(world, capsys):
    """AC2.2: what a run could not fetch, and nothing else, is left for the next one, which exits with 0."""
    file = world.write_files()
    world.logs[0].broken_leaves = {120, 121}
    assert ctkit("backfill", "-f", file) == 1
    assert gaps_json(capsys, "-f", file) == [(world.urls[0], 120, 122)]

    world.logs[0].broken_leaves = set()
    assert ctkit("backfill", "-f", file) == 0

    assert gaps_json(capsys, "-f", file) == []
    first, second = world.urls
    check_table(DeltaTable(world.staging), world.by_url, {first: [(100, 150), (300, 500)], second: (256, 400)})


def test_ac2_3_nothing_reaches_the_ceiling(world, capsys):
    """AC2.3: whatever the tables and the logs hold, no gap reaches the ceiling and no row at or above it is written."""
    world.fill(world.staging, (0, 450, 452), (1, 390, 410))
    file = world.write_files(ceilings=(400, 395), from_index=0)
    first, second = world.urls

    assert gaps_json(capsys, "-f", file, "--to", 9999) == sorted(
        [(first, 0, 10), (first, 100, 150), (first, 300, 400), (second, 256, 390)]
    )
    assert ctkit("backfill", "-f", file) == 0

    within = {first: [(0, 10), (100, 150), (300, 400), (450, 452)], second: [(256, 390), (390, 410)]}
    check_table(DeltaTable(world.staging), world.by_url, within)


def test_ac2_4_tables_that_are_missing(world, capsys, caplog):
    """AC2.4: without staging main decides, without main staging does, without both everything from N is a gap."""
    file = world.write_files()
    first, second = world.urls
    assert not world.staging.exists()
    assert gaps_json(capsys, "-f", file, "--logs", "rfc") == [(first, 100, 150), (first, 300, 500)]

    world.main.rename(world.staging)
    assert gaps_json(capsys, "-f", file, "--logs", "rfc") == [(first, 100, 150), (first, 300, 500)]

    world.staging.rename(world.folder / "elsewhere")
    assert ctkit("gaps", "-f", file) == 1
    assert f"main table does not exist main_path={world.main}" in caplog.text
    assert caplog.text.count("log has no row in either table, skipping (catch-up)") == 2
    assert gaps_json(capsys, "-f", file, "--from", 7) == sorted([(first, 7, 500), (second, 7, 400)])
    assert not world.main.exists()
    assert not world.staging.exists()


def test_ac3_merge_inserts_what_main_lacks(world, caplog):
    """AC3.1 to 3.5: missing rows are inserted, known and repeated ones skipped, sums reported, staging removed."""
    file = world.write_files()
    world.fill(world.staging, (0, 90, 120), (1, 250, 300))
    twin = world.fill(world.folder / "twin", (0, 110, 130))
    write_deltalake(world.staging, pa.table(twin.scan()), mode="append")
    before = DeltaTable(world.main).count()

    assert ctkit("merge", "-f", file, "--yes") == 0

    assert "merge complete total_inserted=74 total_skipped=26 total_staging_rows=100" in caplog.text
    assert not world.staging.exists()
    first, second = world.urls
    main = DeltaTable(world.main)
    assert main.count() == before + 74
    check_table(main, world.by_url, {first: [(10, 130), (150, 300)], second: (0, 300)})


def test_ac3_3_merge_is_idempotent(world, caplog):
    """AC3.3: merging the same rows a second time inserts nothing and commits nothing."""
    file = world.write_files()
    for expected in ("total_inserted=20 total_skipped=0", "total_inserted=0 total_skipped=20"):
        world.fill(world.staging, (0, 100, 120))
        assert ctkit("merge", "-f", file) == 0
        assert expected in caplog.text
        commits = commits_of(world.main)
        assert not world.staging.exists()

    assert commits_of(world.main) == commits
    assert len(set(keys_of(DeltaTable(world.main)))) == DeltaTable(world.main).count()


def test_ac4_1_staging_is_missing_or_empty(world, caplog):
    """AC4.1: nothing to merge is no error, is said, and changes nothing."""
    file = world.write_files()
    before = commits_of(world.main)
    assert ctkit("merge", "-f", file) == 0
    assert "staging table does not exist, nothing to merge" in caplog.text

    open_table(world.staging)
    assert ctkit("merge", "-f", file) == 0

    assert "staging table is empty, nothing to merge" in caplog.text
    assert commits_of(world.main) == before


def test_ac4_2_missing_main_is_created(world, caplog):
    """AC4.2: a main that does not exist, folder included, is created and gets everything."""
    world.fill(world.staging, (0, 0, 30))
    main = world.folder / "new" / "folder" / "main"

    assert ctkit("merge", "--main-path", main, "--staging-path", world.staging, "--create") == 0

    check_table(DeltaTable(main), world.by_url, {world.urls[0]: (0, 30)})
    assert not world.staging.exists()
    assert f"main table does not exist, creating it main_path={main}" in caplog.text


def test_ac4_3_a_failing_merge_changes_nothing(world, monkeypatch, capsys):
    """AC4.3: a failure in the middle of a merge: exit 1, words, staging intact, main unchanged."""
    file = world.write_files()
    world.fill(world.staging, (0, 90, 120), (1, 300, 320))
    before = {path: sorted(str(each) for each in path.rglob("*.*")) for path in (world.main, world.staging)}
    calls = []

    def fail_on_the_second(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(links.os, "link", lambda source, link: link.write_bytes(source.read_bytes()))
    monkeypatch.setattr(links.os, "utime", fail_on_the_second)
    assert ctkit("merge", "-f", file) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert len(calls) == 2
    monkeypatch.undo()

    assert {path: sorted(str(each) for each in path.rglob("*.*")) for path in (world.main, world.staging)} == before
    assert ctkit("merge", "-f", file) == 0
    first, second = world.urls
    check_table(DeltaTable(world.main), world.by_url, {first: [(10, 120), (150, 300)], second: [(0, 256), (300, 320)]})


def start(*words: object, patch: str = "") -> subprocess.Popen[str]:
    """Start a command in a process of its own; `patch` is run in it first."""
    code = f"import sys\n{patch}\nfrom ctkit.cli import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *(str(word) for word in words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for something to happen."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ac4_4_a_signal_during_a_backfill(world, number):
    """AC4.4: a backfill that is stopped writes what has arrived, exits with 1, and the next run completes the work."""
    file = world.write_files()
    for log in world.logs:
        log.latency = 0.5
    patch = "import ctkit.lake.write; ctkit.lake.write.SECONDS_PER_COMMIT = 0.1"
    process = start("backfill", "-f", file, patch=patch)
    wait_until(lambda: len(commits_of(world.staging)) > 1)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)

    assert process.returncode == 1, said
    assert "Traceback" not in said
    kept = DeltaTable(world.staging).count()
    assert 0 < kept < 394
    for log in world.logs:
        log.latency = 0
    assert ctkit("backfill", "-f", file) == 0
    first, second = world.urls
    check_table(DeltaTable(world.staging), world.by_url, {first: [(100, 150), (300, 500)], second: (256, 400)})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", ["link_files", "commit_files", "retire"])
def test_ac4_4_a_signal_during_a_merge(world, number, step):
    """AC4.4: a merge that is stopped exits with 1, main has all or nothing, and the next run completes the work."""
    file = world.write_files()
    world.fill(world.staging, (0, 90, 130))
    ready = world.folder / "ready"
    patch = (
        "import ctkit.lake.merge, pathlib, time\n"
        f"step = ctkit.lake.merge.{step}\n"
        "def slow(*arguments):\n"
        f"    pathlib.Path({str(ready)!r}).touch()\n"
        "    time.sleep(300)\n"
        "    return step(*arguments)\n"
        f"ctkit.lake.merge.{step} = slow"
    )
    process = start("merge", "-f", file, patch=patch)
    wait_until(ready.exists)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)

    assert process.returncode == 1, said
    assert "Traceback" not in said
    assert DeltaTable(world.staging).count() == 40
    assert DeltaTable(world.main).count() == 496 + (30 if step == "retire" else 0)
    assert ctkit("merge", "-f", file) == 0
    assert not world.staging.exists()
    check_table(DeltaTable(world.main), world.by_url, {world.urls[0]: [(10, 130), (150, 300)], world.urls[1]: (0, 256)})
    assert {str(path) for path in world.main.rglob("*.parquet")} == {
        str(world.main / path) for path in pa.table(DeltaTable(world.main).get_add_actions())["path"].to_pylist()
    }


def test_ac4_5_merge_without_a_staging_path(world, capsys):
    """AC4.5: the missing flag is named on stderr, exit 1."""
    assert ctkit("merge", "-f", world.write_files(staged=False)) == 1

    assert capsys.readouterr().err.splitlines()[-1] == "Error: merge requires --staging-path <PATH>"


def test_ac5_1_without_a_staging_path_main_is_written(world):
    """AC5.1: without a staging path a backfill writes to main and creates no other folder but that of its record."""
    file = world.write_files(staged=False)
    before = {*os.listdir(world.folder)}

    assert ctkit("backfill", "-f", file) == 0

    assert {*os.listdir(world.folder)} == before | {"runs"}
    first, second = world.urls
    check_table(DeltaTable(world.main), world.by_url, {first: (10, 500), second: (0, 400)})


def test_e2e_full_cycle(world, capsys, caplog):
    """E2E: main grows by exactly total_inserted, gaps shrink to none, nothing is there twice, for both protocols."""
    file = world.write_files(from_index=0)
    before = DeltaTable(world.main).count()
    gaps = gaps_json(capsys, "-f", file)
    missing = sum(end - start for _, start, end in gaps)
    assert {url for url, _, _ in gaps} == set(world.urls)

    assert ctkit("backfill", "-f", file, "--logs", "STATIC") == 0
    assert {url for url, _, _ in gaps_json(capsys, "-f", file)} == {world.urls[0]}
    assert ctkit("backfill", "-f", file) == 0
    assert find_table(world.staging).count() == missing
    assert gaps_json(capsys, "-f", file) == []
    assert ctkit("merge", "-f", file) == 0

    inserted, skipped, rows = map(
        int, re.search(r"inserted=(\d+) total_skipped=(\d+) \S+rows=(\d+)", caplog.text).groups()
    )
    assert (inserted, skipped, rows) == (missing, 0, missing)
    assert DeltaTable(world.main).count() == before + inserted
    assert not world.staging.exists()
    assert gaps_json(capsys, "-f", file) == []
    first, second = world.urls
    check_table(DeltaTable(world.main), world.by_url, {first: (0, 500), second: (0, 400)})


@pytest.mark.parametrize("command", ["gaps", "backfill", "merge"])
def test_staging_that_is_main_is_refused(world, capsys, command):
    """No command takes main for staging, or a folder inside it; nothing is written."""
    before = sorted(str(path) for path in world.folder.rglob("*"))
    file = world.write_files()

    for staging in (world.main, f"{world.main}/", world.main / "inner", world.folder):
        assert ctkit(command, "-f", file, "--staging-path", staging) == 1
        assert "staging" in capsys.readouterr().err

    assert (
        sorted(str(path) for path in world.folder.rglob("*") if path.name not in ("state.json", "parameters.yaml"))
        == before
    )


def test_a_table_that_is_not_ours_is_refused(world, capsys):
    """A main of another schema is named with what differs, and nothing is written."""
    rows = make_rows([1]).drop_columns(["chain"])
    path = world.folder / "other"
    DeltaTable.create(path, rows.schema)
    file = world.write_files()
    before = sorted(str(each) for each in path.rglob("*"))

    for command in ("gaps", "backfill", "merge"):
        assert ctkit(command, "-f", file, "--main-path", path) == 1
        assert "column chain is missing" in capsys.readouterr().err

    assert sorted(str(each) for each in path.rglob("*")) == before
    assert not world.staging.exists()


def test_an_old_main_is_followed(world):
    """A main with base64 text in as_der gets its rows in that form, through staging and merge."""
    main = world.folder / "old"
    DeltaTable.create(main, row_schema("string"), partition_by=["seen_date"])
    file = world.write_files(from_index=0, to_index=40)

    assert ctkit("backfill", "-f", file, "--main-path", main) == 0
    assert ctkit("merge", "-f", file, "--main-path", main) == 0

    check_table(DeltaTable(main), world.by_url, dict.fromkeys(world.urls, (0, 40)))
    assert indices_of(open_table(main), world.urls[0]) == list(range(40))
