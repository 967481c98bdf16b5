"""Records of runs come to an end: those of ``ctkit run`` that are old enough, and nothing else in ``runs/``."""

import os
import time
from datetime import UTC, datetime, timedelta

import nbformat
import pytest
from rows import make_rows, make_table

from ctkit.desk.parameters import Parameters
from ctkit.desk.records import old_records
from ctkit.desk.runbook import run_notebook
from ctkit.desk.verbs import tidy_main

OURS = {"ctkit": {"status": "complete"}, "papermill": {"parameters": {}}}
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

    assert {path.name for path in old_records(30)} == {path.name for path in old}


@pytest.mark.parametrize("metadata", [{}, PARTIAL, {"ctkit": {"status": "complete"}}])
def test_what_others_wrote_is_no_record(runs, metadata):
    """A name like that of a record is not enough."""
    write_book(runs, name_of(100), metadata)
    (runs / name_of(101)).write_text("{}")
    (runs / name_of(102)).write_text("not a notebook")
    (runs / name_of(103)).touch()
    (runs / name_of(104)).mkdir()
    (runs / name_of(105)).symlink_to(write_book(runs, "mine.ipynb", OURS))

    assert old_records(30) == []


def test_no_runs(tmp_path, monkeypatch):
    """There need not be a folder."""
    monkeypatch.chdir(tmp_path)

    assert old_records(1) == []


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

    (record,) = runs.iterdir()
    assert old_records(30) == []
    began = time.time() - 31 * 86_400
    stamp = datetime.fromtimestamp(began, UTC)
    os.rename(record, runs / f"mine-{stamp:%Y%m%dT%H%M%SZ}.ipynb")
    assert len(old_records(30)) == 1
