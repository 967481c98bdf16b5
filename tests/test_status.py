"""How things stand: what is told of a table and its logs, and the exit code that a monitor uses."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import FakeLog
from rows import LOG, commits_of, make_rows, make_table
from runbooks import MISSING, NOTEBOOKS, SIZE, lines_of, parameters_of

import ctkit
from ctkit.cli import main as run_command
from ctkit.desk.runbook import run_notebook
from ctkit.desk.state_file import write_state
from ctkit.errors import LogUnavailableError, ParameterError, TableError
from ctkit.lake.commits import commit_path
from ctkit.lake.provenance import Provenance, metadata_of, read_statements
from ctkit.lake.recorded import find_recorded
from ctkit.lake.table import find_table, hold
from ctkit.lake.write import write_entries


def test_status_when_entries_are_missing(world):
    """Held, staged and missing add up; the check fails, and says which command helps."""
    make_table(Path("staging"), make_rows([0, 1], url=next(iter(world.logs))))
    before = sorted(os.walk("."))
    report = ctkit.find_status(parameters_of(world))
    rfc, static = world.logs

    found = lines_of(report)
    assert {url: (log.held, log.staged, log.missing, log.lag) for url, log in found.items()} == {
        rfc: (SIZE - 51, 2, 49, 10),
        static: (SIZE - 250, 0, 250, 0),
    }
    assert {log.outcome for log in report.logs} == {"incomplete"}
    assert [command for command, _ in report.next_steps()] == ["ctkit update"]
    with pytest.raises(TableError):
        report.check()
    assert sorted(os.walk(".")) == before


def test_status_when_all_is_well(world):
    """After an update nothing is left to do; what is proven is told from the records, without reading a file."""
    ctkit.update(parameters_of(world, verify="entries")).check()
    for file in Path("main").glob("seen_date=*/*.parquet"):
        status = file.stat()
        file.write_bytes(bytes(status.st_size))
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    report = ctkit.find_status(parameters_of(world))
    report.check()

    assert (report.title, report.next_steps()) == ("status good", [])
    # What the fixture wrote was not proven.
    assert sum(log.recorded for log in report.logs) == MISSING
    assert {(log.held, log.lag, log.lag_days) for log in report.logs} == {(SIZE, 0, 0.0)}
    assert (report.commit.version, report.commit.kind) == (find_table("main").version(), "merge")


def test_rows_are_recorded_as_proven_one_by_one(tmp_path):
    """Of a file, only what its commit calls proven counts."""
    table = make_table(tmp_path)
    said = [
        Provenance(LOG, start, start + 5, 5, 100, bytes(32), verified, signed=True)
        for start, verified in ((0, "entries"), (5, "heads"))
    ]
    write_entries(table, make_rows([0, 1, 3, 4, *range(5, 10)]), metadata=metadata_of(said))

    recorded = find_recorded({LOG: (1, 10)}, table, read_statements(table))
    assert [str(each) for each in recorded[LOG]] == ["[1, 2)", "[3, 5)"]


def test_status_of_a_log_that_grows(world):
    """Growth comes from the tree heads that commits recorded, and the lag in time from both."""
    ctkit.update(parameters_of(world, verify="entries")).check()
    main = find_table("main")
    yesterday = time.time() - 86_400
    for version in range(main.version() + 1):
        os.utime(commit_path(main, version), (yesterday, yesterday))
    rfc, static = world.logs
    world.logs[rfc].grow(200)
    report = ctkit.find_status(parameters_of(world, ceiling="log"))

    found = lines_of(report)
    assert (found[rfc].lag, found[static].lag) == (200, 0)
    assert found[rfc].per_day == pytest.approx(200, rel=0.01)
    assert found[rfc].lag_days == pytest.approx(1, rel=0.01)
    assert (found[static].per_day, found[static].lag_days) == (0, 0)
    assert (found[rfc].outcome, found[static].outcome) == ("incomplete", "complete")
    # During the day, a nightly table lags behind its logs; only holes count then. Tree sizes are known all the same.
    report = ctkit.find_status(parameters_of(world, ceiling="log", internal_only=True))
    report.check()
    assert lines_of(report)[rfc].per_day == pytest.approx(200, rel=0.01)


def test_growth_does_not_end_where_the_live_server_goes_on(world):
    """What is left to it is no sign that a log has not grown."""
    ctkit.update(parameters_of(world, verify="entries")).check()
    main = find_table("main")
    yesterday = time.time() - 86_400
    for version in range(main.version() + 1):
        os.utime(commit_path(main, version), (yesterday, yesterday))
    rfc, _ = world.logs
    world.logs[rfc].grow(200)
    write_state(Path("state.json"), {url: len(log.entries) for url, log in world.logs.items()})
    report = ctkit.find_status(parameters_of(world, ceiling="log").model_copy(update={"internal_only": None}))

    assert report.left_to_server == 200
    assert (lines_of(report)[rfc].lag, lines_of(report)[rfc].per_day) == (0, None)


def test_status_when_a_log_is_dead(world):
    """Its state is not known, which is not good."""
    ctkit.update(parameters_of(world)).check()
    rfc, static = world.logs
    world.logs[static].always = 404
    report = ctkit.find_status(parameters_of(world, ceiling="log"))

    assert [error.url for error in report.unavailable] == [static]
    assert list(lines_of(report)) == [rfc]
    # What main has of it is known all the same.
    assert (report.held_of_unknown, report.facts()["held"]) == ({static: SIZE}, 2 * SIZE)
    assert [entry["held"] for entry in report.to_json()["not_known"]] == [SIZE]
    assert lines_of(report)[rfc].name == "Small rfc6962"
    with pytest.raises(LogUnavailableError):
        report.check()


def test_status_when_a_log_has_no_start(world, serve):
    """Its state is not known, either."""
    ctkit.update(parameters_of(world)).check()
    new = serve(FakeLog("New", 9, protocols=("rfc6962",)))
    logs = [*world.parameters["logs"], {"url": new, "protocol": "rfc6962"}]
    report = ctkit.find_status(parameters_of(world, ceiling="log", logs=logs).model_copy(update={"from_index": None}))

    assert (list(report.undone), report.unavailable) == ([new], ())
    assert {log.outcome for log in report.logs} == {"complete"}
    assert [step["log"] for step in report.to_json()["not_known"]] == [new]
    # Running the command again would not help.
    assert [command for command, _ in replace(report, file="my ct.yaml").next_steps()] == ["edit 'my ct.yaml'"]
    with pytest.raises(ParameterError):
        report.check()


@pytest.mark.parametrize("by_server", [False, True])
def test_status_of_a_named_log_that_has_no_row(world, serve, by_server):
    """It is incomplete, even if only holes count, or the live server is to fetch it."""
    ctkit.update(parameters_of(world)).check()
    new = serve(FakeLog("New", 9, protocols=("rfc6962",)))
    logs = [*world.parameters["logs"], {"url": new, "protocol": "rfc6962"}]
    write_state(Path("state.json"), {**dict.fromkeys(world.logs, SIZE), new: 9})
    words = {"internal_only": None if by_server else True}
    report = ctkit.find_status(parameters_of(world, logs=logs).model_copy(update=words))
    assert bool(report.left_to_server) == by_server

    assert {log.source_url: log.outcome for log in report.logs} == {
        **dict.fromkeys(world.logs, "complete"),
        new: "incomplete",
    }
    assert (lines_of(report)[new].missing, lines_of(report)[new].lag) == (9, 9)
    with pytest.raises(TableError):
        report.check()

    if by_server:
        # Nothing says where it starts; the server does.
        words["from_index"] = None
        report = ctkit.find_status(parameters_of(world, logs=logs).model_copy(update=words))
        assert [error.url for error in report.unavailable] == [new]
        with pytest.raises(LogUnavailableError):
            report.check()


def test_status_of_a_log_that_has_not_grown_to_its_start(world):
    """There is nothing to do."""
    ctkit.update(parameters_of(world)).check()
    report = ctkit.find_status(parameters_of(world, from_index=SIZE))
    report.check()

    assert set(report.to_json()["not_begun"]) == {*world.logs}


def test_status_of_a_log_that_is_empty(world, serve):
    """It is named, whatever says where it is to start; that is settled when it has entries."""
    ctkit.update(parameters_of(world)).check()
    new = FakeLog("New", 0, protocols=("rfc6962",))
    url = serve(new)
    logs = [*world.parameters["logs"], {"url": url, "protocol": "rfc6962", "last": 5}]
    parameters = parameters_of(world, ceiling="log", logs=logs)
    ctkit.update(parameters).check()
    report = ctkit.find_status(parameters)
    report.check()
    assert (list(report.not_begun), report.facts()["not_begun"]) == ([url], 1)

    new.grow(20)
    ctkit.update(parameters).check()
    report = ctkit.find_status(parameters)
    assert (lines_of(report)[url].start, lines_of(report)[url].held, report.not_begun) == (15, 5, {})


def test_status_when_entries_have_several_rows(world):
    """The command that helps is named."""
    ctkit.update(parameters_of(world)).check()
    rfc = next(iter(world.logs))
    make_table(Path("main"), make_rows([3], url=rfc))
    report = ctkit.find_status(parameters_of(world))

    assert (lines_of(report)[rfc].outcome, lines_of(report)[rfc].repeated) == ("contradicted", 1)
    assert [command for command, _ in report.next_steps()] == ["ctkit repair"]


@pytest.mark.parametrize("words", [{}, {"internal_only": True}, {"from_index": SIZE}])
def test_status_without_a_table(world, words):
    """Before the first night, everything is missing."""
    report = ctkit.find_status(parameters_of(world, main_path="new", **words))

    assert (report.files, report.commit) == (None, None)
    assert {log.missing for log in report.logs} == (set() if "from_index" in words else {SIZE})
    assert [command for command, _ in report.next_steps()] == ["ctkit update"]
    with pytest.raises(TableError):
        report.check()
    assert not Path("new").exists()


def test_status_of_runs(world):
    """The last run is told from its record, whether it ended or not."""
    assert ctkit.find_status(parameters_of(world)).last_run is None
    down = list(world.logs.values())[1]
    down.always = 404
    assert run_notebook(NOTEBOOKS / "update.ipynb", {}, shared=world.parameters) == 1
    run = ctkit.find_status(parameters_of(world)).last_run
    assert (run.runbook, run.outcome) == ("update", "failed")

    Path("runs/.my-audit-29991231T235959Z.partial.ipynb").touch()
    run = ctkit.find_status(parameters_of(world)).last_run
    assert (run.runbook, run.started, run.outcome) == ("my-audit", "2999-12-31T23:59:59Z", "died")


def test_status_as_a_command(world, capsys):
    """A monitor reads the exit code, or the JSON; the commands to run next can be pasted."""
    Path("demo.yaml").rename("my demo.yaml")
    assert run_command(["status", "-f", "my demo.yaml", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    Path("my demo.yaml").rename("demo.yaml")
    assert (told["good"], told["missing"]) == (False, MISSING)
    assert [step["command"] for step in told["next_steps"]] == ["ctkit update -f 'my demo.yaml'"]

    commits = commits_of(Path("main"))
    assert run_command(["update", "-f", "demo.yaml"]) == 0
    capsys.readouterr()
    assert run_command(["status", "-f", "demo.yaml"]) == 0
    printed = capsys.readouterr().out
    assert all(url in printed for url in world.logs)
    assert len(commits_of(Path("main"))) == len(commits) + 1


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(bytes(path.stat().st_size))])
def test_status_when_a_file_is_lost_or_damaged(world, capsys, damage):
    """What can be told is told; its entries are missing, and the command that helps is named first."""
    ctkit.update(parameters_of(world)).check()
    rfc, static = world.logs
    [*_, lost] = sorted(Path("main").glob("seen_date=*/*.parquet"), key=lambda path: path.stat().st_size)
    damage(lost)
    report = ctkit.find_status(parameters_of(world))

    assert [Path(path).name for path in report.unreadable] == [lost.name]
    found = lines_of(report)
    assert {*found} == {rfc, static}
    assert 0 < sum(log.held for log in report.logs) < 2 * SIZE
    assert {log.held + log.missing for log in report.logs} == {SIZE}
    assert [command for command, _ in report.next_steps()][:2] == ["ctkit repair", "ctkit update"]
    with pytest.raises(TableError):
        report.check()
    # Elsewhere it is an error, as before: what is missing is not known.
    with pytest.raises(TableError):
        ctkit.report_gaps(parameters_of(world))

    assert run_command(["status", "-f", "demo.yaml"]) == 1
    assert "ctkit repair" in capsys.readouterr().out
    assert run_command(["repair", "-f", "demo.yaml"]) == 0
    capsys.readouterr()
    report = ctkit.find_status(parameters_of(world))
    assert (report.unreadable, report.next_steps()[0][0]) == ({}, "ctkit update")


def test_status_of_commands(world, capsys):
    """The last run is known whatever way it was made; a second one on one staging says so, and asks for nothing."""
    assert run_command(["update", "-f", "demo.yaml"]) == 0
    run = ctkit.find_status(parameters_of(world)).last_run
    assert (run.runbook, run.outcome, run.exit_code, run.rows, run.record) == ("update", "complete", 0, MISSING, None)
    assert run.results[0]["title"] == "update complete"
    capsys.readouterr()

    rfc = next(iter(world.logs))
    world.logs[rfc].grow(9)
    asked = {url: len(log.requests) for url, log in world.logs.items()}
    with hold(ctkit.open_table("staging")):
        assert run_command(["backfill", "-f", "demo.yaml", "--ceiling", "log"]) == 1
    assert not [
        path for url, log in world.logs.items() for path in log.requests[asked[url] :] if "entries" in str(path)
    ]
    run = ctkit.find_status(parameters_of(world)).last_run
    assert (run.runbook, run.outcome, run.rows) == ("backfill", "failed", None)
    assert run.error in capsys.readouterr().err

    assert run_command(["runs", "-f", "demo.yaml"]) == 0
    printed = capsys.readouterr().out
    assert "backfill" in printed
    assert "update" in printed
