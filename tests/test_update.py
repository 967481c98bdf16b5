"""An update: the steps of a night in one run, whatever stands in the way of one of them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import yaml
from deltalake import write_deltalake
from fakes import FakeLog, check_table
from rows import keys_of, make_rows, make_table
from runbooks import MISSING, SIZE, lines_of, parameters_of

import ctkit
from ctkit.cli import main as run_command
from ctkit.errors import (
    CheckpointError,
    KeyConflictError,
    LogError,
    LogUnavailableError,
    ParameterError,
    TableBusyError,
    TableError,
    UnconfirmedMergeError,
    UpdateError,
)
from ctkit.lake import locks
from ctkit.lake.locks import lock_steps
from ctkit.lake.table import files_of, find_table, folder_of, hold

COMMAND = Path(sys.executable).with_name("ctkit")


def problems_of(report):
    """Return the problems that a report's check names."""
    with pytest.raises(UpdateError) as raised:
        report.check()
    return raised.value.problems


def check_complete(world):
    """Check that main equals the logs, and staging is gone."""
    check_table(find_table("main"), world.logs, world.within)
    assert not Path("staging").exists()


def test_update(world):
    """Main equals the logs, staging is gone, and the report says for each log what was done."""
    report = ctkit.update(parameters_of(world))
    report.check()

    check_complete(world)
    (rfc, static), (missing, of_static) = world.logs, (51, 250)
    found = lines_of(report)
    assert {url: (log.was_missing, log.fetched, log.new_rows, log.missing) for url, log in found.items()} == {
        rfc: (missing, missing, missing, 0),
        static: (of_static, of_static, of_static, 0),
    }
    assert {(log.outcome, log.tree_size, log.start, log.end, log.held) for log in found.values()} == {
        ("complete", SIZE, 0, SIZE, SIZE)
    }
    assert (report.title, report.facts()["fetched"], report.merge.inserted) == ("update complete", MISSING, MISSING)
    assert all(url in report._repr_html_() for url in world.logs)


def test_update_when_nothing_is_missing(world):
    """It fetches nothing and makes no commit; the logs' tree heads are compared with those of the night before."""
    ctkit.update(parameters_of(world))
    for log in world.logs.values():
        log.requests.clear()
    report = ctkit.update(parameters_of(world))
    report.check()

    assert report.version == report.version_before
    assert [log.data_requests for log in world.logs.values()] == [0, 0]
    assert {log.tree_size for log in report.logs} == {SIZE}
    assert not Path("staging").exists()


def test_update_without_staging(world):
    """Where no staging is named, main is filled directly, as a backfill does."""
    report = ctkit.update(parameters_of(world).model_copy(update={"staging_path": None}))
    report.check()

    check_complete(world)
    assert report.merge is None
    assert sum(log.new_rows for log in report.logs) == MISSING


def test_update_from_nothing(world):
    """The first night creates main; with a path that may be mistyped, it does not."""
    with pytest.raises(ParameterError) as raised:
        ctkit.update(parameters_of(world, main_path="new", create_main=False))
    assert raised.value.keys == ("main_path",)
    assert not Path("new").exists()

    report = ctkit.update(parameters_of(world, main_path="new"))
    report.check()

    assert report.version_before is None
    check_table(find_table("new"), world.logs, world.within)


def test_update_when_a_log_is_dead(world):
    """What the other log gave is merged; the report names the dead one and why, and the next night fetches the rest."""
    rfc, static = world.logs
    world.logs[static].always = 404
    report = ctkit.update(parameters_of(world))
    (problem,) = problems_of(report)

    assert (type(problem), problem.url) == (LogUnavailableError, static)
    found = lines_of(report)
    assert (found[rfc].outcome, found[rfc].new_rows) == ("complete", 51)
    assert (found[static].outcome, found[static].missing, found[static].fetched) == ("incomplete", 250, 0)
    assert "[100, 350)" in found[static].why
    assert not Path("staging").exists() or files_of(find_table("staging")) == []

    world.logs[static].always = None
    ctkit.update(parameters_of(world)).check()
    check_complete(world)


def test_update_when_a_log_gives_no_tree_head(world):
    """A log without a ceiling is named as not known, and the others are completed."""
    rfc, static = world.logs
    world.logs[rfc].always = 404
    report = ctkit.update(parameters_of(world, ceiling="log"))

    assert {problem.url for problem in problems_of(report)} == {rfc}
    assert {url: log.outcome for url, log in lines_of(report).items()} == {rfc: "not known", static: "complete"}


def test_update_when_a_log_has_no_start(world, serve):
    """A log that is named and cannot be done is wrong, and the others are completed."""
    new = serve(FakeLog("New", 9, protocols=("rfc6962",)))
    logs = [*world.parameters["logs"], {"url": new, "protocol": "rfc6962"}]
    report = ctkit.update(parameters_of(world, ceiling="log", logs=logs).model_copy(update={"from_index": None}))

    assert [type(problem) for problem in problems_of(report)] == [ParameterError]
    assert lines_of(report)[new].outcome == "not known"
    assert {log.outcome for url, log in lines_of(report).items() if url != new} == {"complete"}


def test_update_takes_along_what_is_staged(world):
    """What a run that died has staged is not fetched again, and merged."""
    with_budget = parameters_of(world, max_entries=100)
    with closing(ctkit.report_gaps(with_budget)) as gap_report:
        assert sum(ctkit.fill_gaps(gap_report).written.values()) == 100
    report = ctkit.update(parameters_of(world))
    report.check()

    check_complete(world)
    assert (report.facts()["was_missing"], report.facts()["fetched"]) == (MISSING - 100, MISSING - 100)
    assert report.facts()["new_rows"] == MISSING


def test_update_when_the_budget_is_spent(world):
    """What came is merged, what is left is said, and nothing is wrong."""
    report = ctkit.update(parameters_of(world, max_entries=100))
    report.check()

    assert (report.title, report.facts()["new_rows"]) == ("update stopped", 100)
    assert "stopped" in {log.outcome for log in report.logs}
    assert sum(log.missing for log in report.logs) == MISSING - 100


def test_update_when_staging_looks_like_a_main_table(world):
    """Nothing is fetched or written, in case the paths are swapped; a word makes it go on."""
    ctkit.open_table("staging")
    # As another program does.
    write_deltalake("staging", make_rows([10**6]), mode="append", partition_by=["seen_date"])
    before = keys_of(find_table("staging"))
    for log in world.logs.values():
        log.requests.clear()
    for keep in (ctkit.update, ctkit.follow):
        with pytest.raises(UnconfirmedMergeError):
            keep(parameters_of(world))
    assert keys_of(find_table("staging")) == before
    assert [log.requests for log in world.logs.values()] == [[], []]

    ctkit.update(parameters_of(world, confirmed=True)).check()
    assert not Path("staging").exists()


def test_update_when_paths_are_swapped(world):
    """A main table that is named as staging is not written to."""
    ctkit.update(parameters_of(world)).check()
    for log in world.logs.values():
        log.grow(5)
    version = find_table("main").version()
    with pytest.raises(UnconfirmedMergeError):
        ctkit.update(parameters_of(world, main_path="staging", staging_path="main", ceiling="log"))
    assert find_table("main").version() == version


def test_update_when_another_is_at_work(world, capsys):
    """The second one does nothing and says so, also as a command; afterwards it can be run again."""
    before = keys_of(find_table("main"))
    with lock_steps(folder_of(find_table("main"))):
        with pytest.raises(TableBusyError):
            ctkit.update(parameters_of(world))
        assert run_command(["update", "-f", "demo.yaml"]) == 1
    assert "another run" in capsys.readouterr().err
    assert keys_of(find_table("main")) == before
    assert not Path("staging").exists()

    ctkit.update(parameters_of(world)).check()
    check_complete(world)


def test_update_when_another_is_about_to_create_main(world):
    """The second one asks no log and leaves nothing; a first one that comes to nothing leaves no folder."""
    parameters = parameters_of(world, main_path="deep/new", ceiling="log")
    for log in world.logs.values():
        log.requests.clear()
    with lock_steps(str(Path("deep/new").absolute())):
        for keep in (ctkit.update, partial(ctkit.follow, clock=float, sleep=stop)):
            with pytest.raises((TableBusyError, KeyboardInterrupt)):
                keep(parameters)
            assert not any(log.data_requests for log in world.logs.values())
        assert not Path("staging").exists()
    assert not Path("deep/new").exists()

    ctkit.update(parameters).check()
    check_table(find_table("deep/new"), world.logs, world.within)


def test_a_lock_on_a_folder_that_is_removed(tmp_path, monkeypatch):
    """The run before may remove it between opening and locking: what is locked in the end is what others find."""
    folder, removed = tmp_path / "main", []

    def lock(*given, lock_folder=locks.lock_folder):
        if (folder / "_delta_log").exists() and not removed:
            (folder / "_delta_log").rmdir()
            removed.append(folder)
        lock_folder(*given)

    monkeypatch.setattr(locks, "lock_folder", lock)
    with lock_steps(str(folder)), pytest.raises(TableBusyError), lock_steps(str(folder)):
        pass
    assert removed
    assert not folder.exists()


def test_a_folder_that_was_there_stays(tmp_path):
    """Rights that somebody has given it are not lost because a run comes to nothing."""
    (tmp_path / "main").mkdir()
    with lock_steps(str(tmp_path / "main")):
        pass
    assert not [*(tmp_path / "main").iterdir()]


def stop(_):
    """End a loop."""
    raise KeyboardInterrupt


@pytest.mark.parametrize("held", ["main", "staging"])
def test_update_while_a_step_of_another_run_is_at_work(world, held):
    """A table that a backfill or a merge holds costs the steps that need it; the next night does them."""
    ctkit.open_table("staging")
    with hold(ctkit.open_table(held)):
        report = ctkit.update(parameters_of(world))

    assert {type(problem) for problem in problems_of(report)} == {TableBusyError}
    ctkit.update(parameters_of(world)).check()
    check_complete(world)


def test_update_when_main_cannot_be_tidied_now(world, monkeypatch):
    """Another writer at that moment is said, and nothing is wrong."""

    def refuse(*_, **__):
        raise TableBusyError("main", "is being written")

    monkeypatch.setattr("ctkit.desk.update.tidy_main", refuse)
    report = ctkit.update(parameters_of(world))
    report.check()

    assert (report.tidy, report.tidy_note) == (None, "is being written")


def test_update_keeps_the_index_of_names(world, cache, monkeypatch):
    """An index in the cache has what is new; without one, none is made; one that cannot be kept is no problem."""
    ctkit.update(parameters_of(world, main_path="other")).check()
    assert not (cache / "names").exists()

    ctkit.index_names(ctkit.open_table("main"))
    ctkit.update(parameters_of(world)).check()
    main = ctkit.open_table("main")
    with monkeypatch.context() as patch:
        patch.setattr("ctkit.ask.index._build", None)
        names = ctkit.search_names(main, "*").select("source_url", "cert_index").distinct().to_pyarrow()
    assert len(names) == main.count() > MISSING

    def refuse(*_):
        raise TableError("names", "cannot be written")

    monkeypatch.setattr("ctkit.ask.index.update_index", refuse)
    ctkit.update(parameters_of(world)).check()


def test_update_keeps_files_few(world):
    """Main is tidied at the end."""
    for index in range(10):
        make_table(Path("main"), make_rows([index], url="https://other.example"))
    report = ctkit.update(parameters_of(world))

    assert report.tidy.compacted
    assert report.tidy.files < report.tidy.files_before


@pytest.mark.parametrize("name", ["ctkit.lake.merge.commit_files", "ctkit.lake.write.write_files"])
def test_update_when_the_disk_is_full(world, monkeypatch, name):
    """It is exit code 1, and the next night goes on."""
    with monkeypatch.context() as patch:

        def fail(*_, **__):
            raise OSError(28, "No space left on device")

        patch.setattr(name, fail, raising=False)
        report = ctkit.update(parameters_of(world))
        if "merge" in name:
            assert any(isinstance(problem, TableError) for problem in problems_of(report))

    ctkit.update(parameters_of(world)).check()
    check_complete(world)


def test_update_when_the_log_list_cannot_be_had(world, serve):
    """Logs that are named are completed without it, and it is an error; without any, what is staged is merged."""
    gone = FakeLog("List", 1)
    gone.always = 404
    url = serve(gone)
    report = ctkit.update(parameters_of(world, log_list=f"{url}/list.json"))
    (problem,) = problems_of(report)

    assert isinstance(problem, LogError)
    assert {log.outcome for log in report.logs} == {"complete"}
    check_complete(world)

    make_table(Path("staging"), make_rows([5]))
    report = ctkit.update(parameters_of(world, log_list=f"{url}/list.json").model_copy(update={"logs": None}))
    assert [type(problem) for problem in problems_of(report)] == [type(problem)]
    assert (report.logs, report.merge.inserted) == ((), 1)


def test_update_when_a_log_contradicts_an_earlier_tree_head(world, monkeypatch):
    """A log whose tree does not extend the one of the night before is not believed, though nothing is missing."""
    ctkit.update(parameters_of(world)).check()
    rfc, _ = world.logs
    other = FakeLog("Other", SIZE, seed=7, protocols=("rfc6962",))
    world.logs[rfc].tree, world.logs[rfc].entries = other.tree, other.entries
    report = ctkit.update(parameters_of(world))
    (problem,) = problems_of(report)

    assert (type(problem), problem.url, lines_of(report)[rfc].outcome) == (CheckpointError, rfc, "contradicted")
    # Where tree heads are not to be verified, nothing is asked.
    ctkit.update(parameters_of(world, verify="off")).check()


def test_update_when_a_log_has_become_another(world):
    """Nothing is fetched of a larger tree that does not extend the one of the night before; the others go on."""
    ctkit.update(parameters_of(world, ceiling="log")).check()
    rfc, static = world.logs
    other = FakeLog("Other", SIZE + 100, seed=7, protocols=("rfc6962",))
    world.logs[rfc].tree, world.logs[rfc].entries = other.tree, other.entries
    world.logs[static].grow(20)
    world.logs[rfc].requests.clear()
    report = ctkit.update(parameters_of(world, ceiling="log"))
    (problem,) = problems_of(report)

    assert (type(problem), problem.url) == (CheckpointError, rfc)
    assert world.logs[rfc].data_requests == 0
    found = lines_of(report)
    assert (found[rfc].outcome, found[rfc].new_rows) == ("contradicted", 0)
    assert (found[static].outcome, found[static].new_rows) == ("complete", 20)


@pytest.mark.parametrize("text", ["no list", '{"operators": []}'])
def test_update_when_the_log_list_is_none(world, text):
    """A file that is no log list costs no log that is named, and nothing that is staged."""
    Path("list.json").write_text(text)
    staged = make_rows([5], url="https://other.example")
    make_table(Path("staging"), staged)
    report = ctkit.update(parameters_of(world, log_list="list.json", log_filter="small"))
    if text == "no list":
        (problem,) = problems_of(report)
        assert (type(problem), problem.keys) == (ParameterError, ("log_list",))
    else:
        report.check()

    assert {log.outcome for log in report.logs} == {"complete"}
    assert report.merge.inserted == MISSING + 1


def test_update_when_entries_have_several_rows(world):
    """Repeated rows are found without reading any file again, and what to do is said."""
    ctkit.update(parameters_of(world))
    rfc = next(iter(world.logs))
    make_table(Path("main"), make_rows([3, 4, 9], url=rfc))
    report = ctkit.update(parameters_of(world))
    (problem,) = problems_of(report)

    assert isinstance(problem, TableError)
    assert "[3, 5), [9, 10)" in problem.message
    assert lines_of(report)[rfc].outcome == "contradicted"


def test_update_when_staged_rows_contradict_main(world):
    """Main's row stays, and that is told once."""
    rfc = next(iter(world.logs))
    make_table(Path("staging"), make_rows([100], url=rfc))
    report = ctkit.update(parameters_of(world))

    assert [type(problem) for problem in problems_of(report)] == [KeyConflictError]
    ctkit.update(parameters_of(world)).check()
    check_complete(world)


def test_update_as_a_command(world, capsys):
    """The command prints a line for each log, or all as JSON, and ends with 1 if a log is dead."""
    _, static = world.logs
    world.logs[static].always = 404
    assert run_command(["update", "-f", "demo.yaml", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["passed"], told["missing"], told["new_rows"]) == (False, 250, 51)
    assert {log["log"]: log["outcome"] for log in told["by_log"]}[static] == "incomplete"
    assert run_command(["update", "-f", "demo.yaml"]) == 1
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("HTTP status 404") == 1

    world.logs[static].always = None
    assert run_command(["update", "-f", "demo.yaml"]) == 0
    printed = capsys.readouterr()
    assert all(printed.out.index(log.name) < printed.out.index(url) for url, log in world.logs.items())
    assert "update complete" in printed.err
    check_complete(world)


def test_update_that_is_killed(world, kills):
    """Killed at any moment, it is one that did less: the last one ends with main as the logs, and nothing twice."""
    for log in world.logs.values():
        log.latency = 0.02
    (world.folder / "demo.yaml").write_text(yaml.safe_dump(world.parameters | {"max_entries": 60}))
    for number in range(min(kills, 6)):
        process = subprocess.Popen([COMMAND, "update", "-f", "demo.yaml"], stderr=subprocess.DEVNULL)
        time.sleep(0.8 + 0.25 * number)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        keys = keys_of(find_table("main"))
        assert len(keys) == len(set(keys))
    ctkit.update(parameters_of(world).model_copy(update={"max_entries": None})).check()

    check_complete(world)


def test_update_that_is_stopped(world):
    """What is staged stays so, and the next one goes on."""
    with closing(ctkit.report_gaps(parameters_of(world, max_entries=100))) as gap_report:
        ctkit.fill_gaps(gap_report)
    stop = threading.Event()
    stop.set()
    report = ctkit.update(parameters_of(world), stop=stop)

    assert (report.title, report.backfill.stopped_by) == ("update stopped", ("stop",))
    assert (report.merge, report.tidy, sum(log.staged for log in report.logs)) == (None, None, 100)
    ctkit.update(parameters_of(world)).check()
    check_complete(world)


def test_update_that_is_interrupted(world):
    """SIGTERM ends it with 1 within a short time, and the next one goes on."""
    for log in world.logs.values():
        log.latency = 0.5
        log.requests.clear()
    process = subprocess.Popen([COMMAND, "update", "-f", "demo.yaml"], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not any(log.data_requests for log in world.logs.values()):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    for log in world.logs.values():
        log.latency = 0

    assert process.returncode == 1
    assert "Interrupted" in errors
    ctkit.update(parameters_of(world)).check()
    check_complete(world)
