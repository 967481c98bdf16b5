"""Notebook runs: parameters, records, exit codes, signals and secrets."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from datetime import datetime
from pathlib import Path

import nbformat
import papermill
import pytest

from ctkit.errors import ParameterError
from ctkit.runbook import _Client, _reserve, run_notebook

pytestmark = pytest.mark.filterwarnings(
    # Sockets of the kernel's client that papermill leaves to the garbage collector.
    "ignore::pytest.PytestUnraisableExceptionWarning",
)

PARAMETERS = "main_path = None  # the main table\ncount = 1\nwhere = 'here'"
SHOW = "from pathlib import Path\nprint(main_path, count, where, Path.cwd())"


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Write a notebook of the given cells, the first tagged as parameters, into the current folder."""
    monkeypatch.chdir(tmp_path)

    def make(*cells, name="book.ipynb"):
        book = nbformat.v4.new_notebook()
        book.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
        book.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
        book.cells[0].metadata["tags"] = ["parameters"]
        nbformat.write(book, tmp_path / name)
        return tmp_path / name

    return make


def read(record):
    """Return the record's status, and the text that its cells printed."""
    book = nbformat.read(record, as_version=4)
    text = "".join(output.get("text", "") for cell in book.cells for output in cell.get("outputs", []))
    return book.metadata["ctkit"]["status"], text


def test_run_notebook_when_all_cells_run(make, tmp_path, caplog):
    """Own parameters count before shared ones, what only ctkit knows is left out and named."""
    caplog.set_level("INFO", logger="ctkit")
    result = "display({'application/vnd.ctkit.result+json': {'title': 'backfill complete', 'written': 5}}, raw=True)"
    shared = {"main_path": "shared", "count": 2, "from_index": 0}
    code = run_notebook(make(PARAMETERS, SHOW, result), {"count": 3}, shared=shared)

    (record,) = tmp_path.glob("runs/*")
    assert code == 0
    assert re.fullmatch(r"book-\d{8}T\d{6}Z\.ipynb", record.name)
    assert read(record) == ("complete", f"shared 3 here {tmp_path}\n")
    assert caplog.messages == [
        "parameters left out, which the notebook does not declare keys=from_index",
        f"shared 3 here {tmp_path}",
        "backfill complete written=5",
        f"run complete output={record.relative_to(tmp_path)}",
    ]


def test_run_notebook_when_a_cell_raises(make, tmp_path, caplog):
    """A cell that raises gives exit code 1, its error in the last line, and a record up to that cell."""
    record = tmp_path / "out" / "{record}.ipynb"
    code = run_notebook(make(PARAMETERS, "print('one')", "raise KeyError('two')", "print('three')"), {}, output=record)

    assert code == 1
    assert read(record) == ("failed", "one\n")
    assert caplog.messages[-1] == f"run failed output={record} error=In [3] KeyError: 'two'"
    assert os.listdir(record.parent) == [record.name]


def test_run_notebook_when_the_kernel_dies(make, tmp_path, caplog):
    """A kernel that dies gives exit code 1 and a record."""
    code = run_notebook(make(PARAMETERS, "import os\nos._exit(3)"), {}, output="record.ipynb", cwd=tmp_path)

    assert code == 1
    assert read("record.ipynb")[0] == "failed"
    assert "error=Kernel died" in caplog.messages[-1]


@pytest.mark.parametrize(
    ("own", "shared", "message"),
    [
        ({"cuont": 2}, {}, r"has no parameter cuont; did you mean count\?"),
        ({"zzz": 2}, {}, "has no parameter zzz; it declares main_path, count, where"),
        ({"from_index": 2}, {}, "has no parameter from_index"),
        ({}, {"cuont": 2}, "has no parameter cuont"),
    ],
)
def test_run_notebook_when_a_parameter_is_unknown(make, tmp_path, own, shared, message):
    """A name that the notebook does not declare is refused before anything is run or written."""
    notebook = make(PARAMETERS, SHOW)

    with pytest.raises(ParameterError, match=message):
        run_notebook(notebook, own, shared=shared)
    assert os.listdir(tmp_path) == ["book.ipynb"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("password", "x"),
        ("aws_secret_access_key", "x"),
        ("api_key", "x"),
        ("github_token", "x"),
        ("where", "https://user:word@a.example/"),
        ("where", [{"url": "https://user:word@a.example/"}]),
        ("where", "-----BEGIN PRIVATE KEY-----\nword@"),
        ("where", {"key": "-----BEGIN EC PRIVATE KEY-----\nword@"}),
    ],
)
def test_run_notebook_when_a_parameter_is_a_secret(make, tmp_path, key, value):
    """Secrets are refused before anything is run or written, and the message does not repeat them."""
    notebook = make(f"where = None\n{key} = None", SHOW)

    with pytest.raises(ParameterError, match=f"parameter {key} looks like a secret") as raised:
        run_notebook(notebook, {key: value})
    assert "word@" not in str(raised.value)
    assert os.listdir(tmp_path) == ["book.ipynb"]


@pytest.mark.parametrize("content", [None, "", "{}", "no notebook"])
def test_run_notebook_when_it_is_no_notebook(tmp_path, content):
    """A missing or unreadable notebook is an error that names it."""
    notebook = tmp_path / "book.ipynb"
    if content is not None:
        notebook.write_text(content)

    with pytest.raises(ParameterError, match=r"book\.ipynb cannot be read"):
        run_notebook(notebook, {})


def test_run_notebook_when_the_kernel_is_unknown(make, tmp_path):
    """A kernel that is not installed is an error that names it, and leaves nothing behind."""
    notebook = make(PARAMETERS, SHOW)
    notebook.write_text(notebook.read_text().replace('"python3"', '"cobol"'))

    with pytest.raises(ParameterError, match="cobol"):
        run_notebook(notebook, {})
    assert list(tmp_path.glob("runs/.*")) == []


SLOW = """
import time
from pathlib import Path
try:
    Path("started").touch()
    time.sleep(60)
finally:
    time.sleep(SECONDS)
    Path("finished").touch()
"""

RUN = "import sys; from ctkit.runbook import run_notebook; sys.exit(run_notebook('book.ipynb', {}, output='out.ipynb'))"


def start(folder):
    """Run the notebook in a process of its own, and return that once its slow cell has started."""
    process = subprocess.Popen([sys.executable, "-c", RUN], cwd=folder, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (folder / "started").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


@pytest.mark.parametrize(
    ("signum", "seconds"),
    # Longer than papermill alone would wait after SIGINT, and than it would live after the others.
    [(signal.SIGINT, 4), (signal.SIGTERM, 1), (signal.SIGHUP, 1)],
    ids=["SIGINT", "SIGTERM", "SIGHUP"],
)
def test_run_notebook_when_signalled(make, tmp_path, signum, seconds):
    """A signal interrupts the cell, waits for its finally, runs no further cell, and gives exit code 1."""
    make(PARAMETERS, SLOW.replace("SECONDS", str(seconds)), "Path('further').touch()")
    process = start(tmp_path)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=30)

    assert process.returncode == 1
    assert (tmp_path / "finished").exists()
    assert not (tmp_path / "further").exists()
    assert read(tmp_path / "out.ipynb")[0] == "interrupted"
    assert "run interrupted output=out.ipynb error=In [2] KeyboardInterrupt" in errors
    assert {path.name for path in tmp_path.iterdir()} == {"book.ipynb", "out.ipynb", "started", "finished"}


def test_run_notebook_when_signalled_twice(make, tmp_path):
    """A second signal gives up on the cell; there is a record all the same."""
    make(PARAMETERS, SLOW.replace("SECONDS", "60"))
    process = start(tmp_path)
    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)

    assert process.returncode == 1
    assert not (tmp_path / "finished").exists()
    assert read(tmp_path / "out.ipynb")[0] == "interrupted"


def test_run_notebook_when_signalled_between_cells(make, monkeypatch):
    """A signal that comes while no cell runs, here before the first one, keeps the next one from running."""
    begin = _Client.start_new_kernel_client

    def begin_and_signal(client):
        os.kill(os.getpid(), signal.SIGTERM)
        return begin(client)

    monkeypatch.setattr(_Client, "start_new_kernel_client", begin_and_signal)

    assert run_notebook(make("print('one')"), {}, output="out.ipynb") == 1
    assert read("out.ipynb") == ("interrupted", "")


class Noon(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, zone=None):
        """Return noon of a certain day."""
        return cls(2026, 2, 3, 12, tzinfo=zone)


def test_run_notebook_keeps_runs_of_one_second_apart(make, tmp_path, monkeypatch):
    """Each run has a record of its own, also beside one that is still running."""
    monkeypatch.setattr("ctkit.runbook.datetime", Noon)
    notebook = make(PARAMETERS, SHOW)
    execute = papermill.execute_notebook

    def execute_beside_another(*words, **more):
        monkeypatch.setattr(papermill, "execute_notebook", execute)
        assert run_notebook(notebook, {"count": 2}) == 0
        return execute(*words, **more)

    monkeypatch.setattr(papermill, "execute_notebook", execute_beside_another)
    assert run_notebook(notebook, {"count": 1}) == 0
    assert run_notebook(notebook, {"count": 3}) == 0
    assert {path.name: read(path)[1].split()[1] for path in (tmp_path / "runs").iterdir()} == {
        "book-20260203T120000Z.ipynb": "1",
        "book-20260203T120000Z-2.ipynb": "2",
        "book-20260203T120000Z-3.ipynb": "3",
    }


def test_reserve_when_another_run_ends_at_that_moment(tmp_path, monkeypatch):
    """A name whose run has ended since one looked is not taken."""
    record = tmp_path / "record.ipynb"
    touch = Path.touch

    def end_and_touch(partial, **more):
        record.write_text("of the other run")
        touch(partial, **more)

    monkeypatch.setattr(Path, "touch", end_and_touch)

    assert not _reserve(record)
    assert list(tmp_path.iterdir()) == [record]


@pytest.mark.parametrize("content", [None, "", '{"cells": ['])
@pytest.mark.parametrize("output", [None, "runs/out.ipynb"])
def test_run_notebook_when_signalled_before_it_began(make, tmp_path, monkeypatch, caplog, output, content):
    """A signal before papermill has written anything gives exit code 1, says so, and leaves nothing behind."""

    def stop(_, partial, *__, **___):
        if content is not None:
            Path(partial).write_text(content)
        raise KeyboardInterrupt

    monkeypatch.setattr(papermill, "execute_notebook", stop)

    assert run_notebook(make(PARAMETERS), {}, output=output) == 1
    assert caplog.messages == ["run interrupted before it began, nothing is recorded error=stopped by a signal"]
    assert list((tmp_path / "runs").iterdir()) == []


def test_run_notebook_tells_progress(make, caplog):
    """An output that is drawn anew is a line in the log each time; one that is drawn once is not."""
    caplog.set_level("INFO", logger="ctkit")
    draw = """
    class Text(str):
        __repr__ = str.__str__
    display(Text("once"))
    shown = display(Text(" 33% version=1"), display_id=True)
    shown.update(Text(" 67% version=2"))
    """

    assert run_notebook(make(PARAMETERS, textwrap.dedent(draw)), {}, output="out.ipynb") == 0
    assert caplog.messages == [
        "progress 33% version=1",
        "progress 67% version=2",
        "run complete output=out.ipynb",
    ]


def test_record_holds_no_trace_of_the_partial_file(make, tmp_path):
    """Metadata of papermill name the record, not the file that it was written to first."""
    run_notebook(make(PARAMETERS), {}, output="out.ipynb")

    assert ".partial" not in json.dumps(nbformat.read(Path("out.ipynb"), as_version=4))
