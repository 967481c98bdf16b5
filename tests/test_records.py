"""Records of runs: what they say, whatever became of them, and their end, which nothing else in ``runs/`` shares."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from rows import make_rows, make_table

import ctkit
from ctkit.desk.parameters import Parameters
from ctkit.desk.recording import recording
from ctkit.desk.records import LINES, Run, append_run, as_utc, held, last_run, old_records, partial_of, read_records
from ctkit.desk.runbook import run_notebook
from ctkit.desk.verbs import tidy_main
from ctkit.errors import LogError

OURS = {
    "ctkit": {"runbook": "backfill", "started": "2026-03-01T00:00:00Z", "ended": None, "outcome": "complete"},
    "papermill": {"parameters": {}},
}
PARTIAL = {"papermill": {"parameters": {}}}


def name_of(days, *, stem="backfill", suffix=""):
    """Return what the record of a run is called that began so many days ago."""
    return f"{stem}-{datetime.now(UTC) - timedelta(days=days):%Y%m%dT%H%M%SZ}{suffix}.ipynb"


def write_book(folder, name, metadata):
    """Write a notebook with this metadata."""
    path = folder / name
    nbformat.write(nbformat.v4.new_notebook(metadata=metadata), path)
    return path


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Go to a folder that has one for records."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def test_old_records(runs):
    """The name says when a run began, whenever the file was copied; a run that died leaves what is half or empty."""
    old = {
        write_book(runs, name_of(31), OURS),
        write_book(runs, name_of(40, stem="my audit", suffix="-2"), OURS),
        write_book(runs, f".{name_of(31, suffix='.partial')}", PARTIAL),
        runs / f".{name_of(32, suffix='.partial')}",
    }
    (runs / f".{name_of(32, suffix='.partial')}").touch()
    write_book(runs, name_of(29), OURS)

    assert {path.name for path in old_records(30, Path("runs"))} == {path.name for path in old}


@pytest.mark.parametrize("metadata", [{}, PARTIAL, {"ctkit": OURS["ctkit"]}, {**OURS, "ctkit": {"outcome": "good"}}])
def test_what_others_wrote_is_no_record(runs, metadata):
    """A name like that of a record is not enough."""
    write_book(runs, name_of(100), metadata)
    (runs / name_of(101)).write_text("{}")
    (runs / name_of(102)).write_text("not a notebook")
    (runs / name_of(103)).touch()
    (runs / name_of(104)).mkdir()
    (runs / name_of(105)).symlink_to(write_book(runs, "mine.ipynb", OURS))

    assert old_records(30, Path("runs")) == []


def test_no_runs(tmp_path, monkeypatch):
    """There need not be a folder."""
    monkeypatch.chdir(tmp_path)

    assert old_records(1, Path("runs")) == []


def test_tidy_main_removes_records_only_if_it_is_told_to(runs, tmp_path):
    """Records stay for ever, unless somebody says for how long; a dry run removes none."""
    make_table(tmp_path / "main", make_rows([1]))
    record = write_book(runs, name_of(31), OURS)

    assert tidy_main(Parameters(main_path="main")).records == ()
    preview = tidy_main(Parameters(main_path="main", keep_runs=30), dry_run=True)
    assert record.exists()
    report = tidy_main(Parameters(main_path="main", keep_runs=30))

    assert preview.records == report.records == (f"runs/{record.name}",)
    assert not record.exists()
    assert tidy_main(Parameters(main_path="main", keep_runs=30)).records == ()


def test_a_run_writes_what_is_a_record(runs, tmp_path):
    """What `run_notebook` writes now is removed later."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
    book.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(book, tmp_path / "mine.ipynb")

    assert run_notebook("mine.ipynb", {}) == 0

    (record,) = runs.glob("*.ipynb")
    assert {path.suffix for path in runs.iterdir()} == {".ipynb", ".html"}
    assert old_records(30, Path("runs")) == []
    began = time.time() - 31 * 86_400
    stamp = datetime.fromtimestamp(began, UTC)
    for path in (record, record.with_suffix(".html")):
        os.rename(path, runs / f"mine-{stamp:%Y%m%dT%H%M%SZ}{path.suffix}")
    assert len(old_records(30, Path("runs"))) == 2


def run_of(started="2026-11-27T03:15:00Z", **others):
    """Return a run that was complete."""
    return Run(**{"runbook": "update", "started": started, "ended": started, "outcome": "complete", **others})


def test_lines_of_commands(runs):
    """Each run is a line, read as it was written; the newest record is the last run, whatever kind it is."""
    first = run_of(exit_code=0, parameters={"last": 5}, results=({"title": "t", "new_rows": 7, "held": 9},))
    append_run(runs, first)
    append_run(runs, run_of("2026-11-28T03:15:00Z", outcome="failed", exit_code=1, error="x\ny"))

    found = read_records(runs)
    assert [run.outcome for run in found.runs] == ["failed", "complete"]
    assert (found.runs[1], found.runs[1].rows, found.unreadable, found.others) == (first, 7, {}, 0)
    assert last_run(runs) == found.runs[0]
    book = {**OURS, "ctkit": {**OURS["ctkit"], "started": "2026-11-29T00:00:00Z"}}
    write_book(runs, "demo.ipynb", book)
    assert last_run(runs).record == str(runs / "demo.ipynb")


def test_lines_do_not_pile_up(runs, monkeypatch):
    """Lines older than the days given go, and the oldest ones if there are very many; one half written stays apart."""
    old, new = (as_utc(datetime.now(UTC) - timedelta(days=days)) for days in (31, 1))
    append_run(runs, run_of(old))
    with (runs / LINES).open("a") as file:
        file.write('{"runbook": "upd')
    append_run(runs, run_of(new))
    found = read_records(runs)
    assert ([run.started for run in found.runs], len(found.unreadable)) == ([new, old], 1)

    append_run(runs, run_of(new), keep=30)
    assert [run.started for run in read_records(runs).runs] == [new, new]
    monkeypatch.setattr("ctkit.desk.records.MOST_LINES", 3)
    append_run(runs, run_of(as_utc(datetime.now(UTC))))
    append_run(runs, run_of(as_utc(datetime.now(UTC))))
    assert len((runs / LINES).read_bytes().splitlines()) == 3
    assert [path.name for path in runs.iterdir()] == [LINES]


def test_records_that_cannot_be_read(runs):
    """They are named, and the others read all the same; notebooks of somebody else are counted."""
    good = write_book(runs, name_of(1), OURS)
    for number, text in enumerate(["", "{", "[]", '{"metadata": 5}', '{"cells": []}', "\x00", "[" * 100_000]):
        (runs / name_of(2 + number)).write_text(text)
    write_book(runs, name_of(20), {**OURS, "ctkit": {"outcome": "good"}})
    write_book(runs, "mine.ipynb", {})
    (runs / "notes.ipynb").write_text("half")
    (runs / LINES).write_bytes(b"\xff\xfe\n[5]\nnull\n")

    found = read_records(runs)
    assert [run.record for run in found.runs] == [str(good)]
    assert (len(found.unreadable), found.others) == (8 + 3, 2)
    assert last_run(runs).record == str(good)


def test_a_run_is_alive_as_long_as_its_process(runs):
    """Of a run that has not ended, the lock on its partial file tells whether it is running or died."""
    partial = partial_of(runs / name_of(0))
    with held(partial):
        (run,) = read_records(runs).runs
        assert (run.runbook, run.outcome, run.ended, run.exit_code) == ("backfill", "running", None, None)
    partial.write_text('{"metadata": {"papermill": {}}}')
    assert [run.outcome for run in read_records(runs).runs] == ["died"]
    assert read_records(runs / "nowhere") == ((), {}, 0)


def test_what_changed(runs):
    """Of runs of one name: how they ended, what they found, what they were given."""
    for day, (name, words) in enumerate(
        [
            ("update", {"parameters": {"last": 5, "verify": "off"}, "results": ({"title": "t", "missing": 6724},)}),
            ("merge", {}),
            ("update", {"parameters": {"last": 6}, "results": ({"title": "t", "missing": 0},), "outcome": "failed"}),
            ("update", {"parameters": {"last": 6}, "results": ({"title": "t", "missing": 0},), "outcome": "failed"}),
        ],
        start=1,
    ):
        append_run(runs, run_of(f"2026-11-0{day}T00:00:00Z", **words, runbook=name))

    report = ctkit.find_runs(runs)
    assert report.changes() == [
        "",
        "outcome complete -> failed, missing 6,724 -> 0, last 5 -> 6, verify off -> not given",
        "",
        "",
    ]
    assert (report.facts()["runs"], report.facts()["failed"], report.facts()["complete"]) == (4, 2, 2)
    assert [run["changed"] for run in report.to_json()["by_run"]] == report.changes()


def test_long_parameters_are_not_repeated(runs):
    """A long one is told by its digest, so that a change is seen; a secret is not told at all."""
    append_run(runs, run_of(parameters={"logs": [{"url": "https://a.example"}] * 60}))
    assert "SHA-256" in read_records(runs).runs[0].parameters["logs"]

    parameters = Parameters(runs_path="runs", log_list="https://me:word@a.example/list.json", last=5)
    with pytest.raises(KeyboardInterrupt), recording("backfill", parameters):
        raise KeyboardInterrupt
    run = last_run(runs)
    assert (run.runbook, run.outcome, run.exit_code, dict(run.parameters)) == (
        "backfill",
        "stopped",
        1,
        {"last": 5},
    )


def test_a_run_that_cannot_be_recorded(tmp_path, caplog):
    """It is a warning, and the run goes on."""
    (tmp_path / "runs").write_text("a file")
    with recording("merge", Parameters(runs_path=str(tmp_path / "runs"))) as reports:
        assert reports == []
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_record_that_is_being_written(runs):
    """However much of it there is, its lock tells whether its run lives; a long run keeps it."""
    partial = partial_of(runs / name_of(31))
    with held(partial):
        partial.write_text('{"cells": [')
        assert [run.outcome for run in read_records(runs).runs] == ["running"]
        assert last_run(runs).outcome == "running"
        assert old_records(30, runs) == []
    assert [run.outcome for run in read_records(runs).runs] == ["died"]
    assert old_records(30, runs) == [partial]


def test_passwords_are_not_recorded(runs):
    """Neither in an error nor in a fact."""
    report = SimpleNamespace(title="t", facts=lambda: {"list": "https://me:hunter2@a.example", "rows": 5})

    def fail():
        with recording("backfill", Parameters(runs_path="runs")) as reports:
            reports.append(report)
            raise LogError("https://me:hunter2@a.example", "no answer")

    with pytest.raises(LogError):
        fail()
    assert "a.example: no answer" in last_run(runs).error
    assert last_run(runs).results[0]["rows"] == 5
    assert "hunter2" not in (runs / LINES).read_text()
