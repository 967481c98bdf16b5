"""Notebook runs: parameters, records, exit codes, signals and secrets."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from datetime import datetime
from pathlib import Path

import nbformat
import papermill
import pytest

from ctkit.desk.runbook import _Client, _reserve, prepare_notebook, run_notebook
from ctkit.desk.shipped import RUNBOOKS, copy_runbooks, find_runbook
from ctkit.errors import ParameterError

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
    return book.metadata["ctkit"]["outcome"], text


def test_run_notebook_when_all_cells_run(make, tmp_path, caplog):
    """Own parameters count before shared ones, what only ctkit knows is left out and named."""
    caplog.set_level("INFO", logger="ctkit")
    result = "display({'application/vnd.ctkit.result+json': {'title': 'backfill complete', 'written': 5}}, raw=True)"
    shared = {"main_path": "shared", "count": 2, "from_index": 0}
    code = run_notebook(make(PARAMETERS, SHOW, result), {"count": 3}, shared=shared)

    (record,) = tmp_path.glob("runs/*.ipynb")
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
    assert sorted(os.listdir(record.parent)) == ["{record}.html", record.name]


def test_run_notebook_when_the_kernel_dies(make, tmp_path, caplog):
    """A kernel that dies gives exit code 1 and a record."""
    code = run_notebook(make(PARAMETERS, "import os\nos._exit(3)"), {}, output="record.ipynb", cwd=tmp_path)

    assert code == 1
    assert read("record.ipynb")[0] == "failed"
    assert "error=Kernel died" in caplog.messages[-1]


@pytest.mark.parametrize(
    ("own", "shared", "key", "hint"),
    [
        ({"cuont": 2}, {}, "cuont", "count?"),
        ({"zzz": 2}, {}, "zzz", "main_path, count, where"),
        ({"from_index": 2}, {}, "from_index", ""),
        ({}, {"cuont": 2}, "cuont", "count?"),
    ],
)
def test_run_notebook_when_a_parameter_is_unknown(make, tmp_path, own, shared, key, hint):
    """A name that the notebook does not declare is refused before anything is run or written."""
    notebook = make(PARAMETERS, SHOW)

    with pytest.raises(ParameterError) as raised:
        run_notebook(notebook, own, shared=shared)
    assert (raised.value.keys, str(raised.value).endswith(hint)) == ((key,), True)
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

    with pytest.raises(ParameterError) as raised:
        run_notebook(notebook, {key: value})
    assert raised.value.keys == (key,)
    assert "word@" not in str(raised.value)
    assert os.listdir(tmp_path) == ["book.ipynb"]


@pytest.mark.parametrize("name", ["run.yaml", "run.yml", ".", "..", "run", "run.txt"])
def test_run_notebook_when_its_name_is_that_of_no_notebook(tmp_path, monkeypatch, recwarn, name):
    """A parameter file or a folder in its place is one error; papermill says nothing of its own."""
    monkeypatch.chdir(tmp_path)
    if name.startswith("run"):
        (tmp_path / name).write_text("main_path: main")

    with pytest.raises(ParameterError):
        run_notebook(name, {})
    assert not recwarn.list


@pytest.mark.parametrize("content", [None, "", "{}", "no notebook"])
def test_run_notebook_when_it_is_no_notebook(tmp_path, content):
    """A missing or unreadable notebook is an error that names it."""
    notebook = tmp_path / "book.ipynb"
    if content is not None:
        notebook.write_text(content)

    with pytest.raises(ParameterError):
        run_notebook(notebook, {})


def test_run_notebook_when_the_kernel_is_unknown(make, tmp_path):
    """A kernel that is not installed is an error that names it, and leaves nothing behind."""
    notebook = make(PARAMETERS, SHOW)
    notebook.write_text(notebook.read_text().replace('"python3"', '"cobol"'))

    with pytest.raises(ParameterError):
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

RUN = "from ctkit.desk.runbook import run_notebook; exit(run_notebook('book.ipynb', {}, output='out.ipynb'))"


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
    assert read(tmp_path / "out.ipynb")[0] == "stopped"
    assert "run stopped output=out.ipynb error=In [2] KeyboardInterrupt" in errors
    assert {path.name for path in tmp_path.iterdir()} == {
        "book.ipynb",
        "out.html",
        "out.ipynb",
        "started",
        "finished",
    }


def test_run_notebook_when_signalled_twice(make, tmp_path):
    """A second signal aborts the cell; there is a record even so."""
    make(PARAMETERS, SLOW.replace("SECONDS", "60"))
    process = start(tmp_path)
    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)

    assert process.returncode == 1
    assert not (tmp_path / "finished").exists()
    assert read(tmp_path / "out.ipynb")[0] == "stopped"


def test_run_notebook_when_signalled_between_cells(make, monkeypatch):
    """A signal that comes while no cell runs, here before the first one, keeps the next one from running."""
    begin = _Client.start_new_kernel_client

    def begin_and_signal(client):
        os.kill(os.getpid(), signal.SIGTERM)
        return begin(client)

    monkeypatch.setattr(_Client, "start_new_kernel_client", begin_and_signal)

    assert run_notebook(make("print('one')"), {}, output="out.ipynb") == 1
    assert read("out.ipynb") == ("stopped", "")


class Noon(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, zone=None):
        """Return noon of a certain day."""
        return cls(2026, 2, 3, 12, tzinfo=zone)


def test_run_notebook_keeps_runs_of_one_second_apart(make, tmp_path, monkeypatch):
    """Each run has a record of its own, even while another is running."""
    monkeypatch.setattr("ctkit.desk.runbook.datetime", Noon)
    notebook = make(PARAMETERS, SHOW)
    execute = papermill.execute_notebook

    def execute_beside_another(*words, **more):
        monkeypatch.setattr(papermill, "execute_notebook", execute)
        assert run_notebook(notebook, {"count": 2}) == 0
        return execute(*words, **more)

    monkeypatch.setattr(papermill, "execute_notebook", execute_beside_another)
    assert run_notebook(notebook, {"count": 1}) == 0
    assert run_notebook(notebook, {"count": 3}) == 0
    assert {path.name: read(path)[1].split()[1] for path in (tmp_path / "runs").glob("*.ipynb")} == {
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
    assert caplog.messages == ["run stopped before it began, nothing is recorded error=stopped by a signal"]
    assert list((tmp_path / "runs").iterdir()) == []


def test_run_notebook_tells_progress(make, caplog):
    """Of a progress that is redrawn, the first and the last are log lines; other outputs are not."""
    caplog.set_level("INFO", logger="ctkit")
    draw = """
    class Text(str):
        __repr__ = str.__str__
    display(Text("once"))
    shown = display(Text("progress written=1"), display_id=True)
    shown.update(Text("progress written=2"))
    shown.update(Text("progress written=3"))
    """

    assert run_notebook(make(PARAMETERS, textwrap.dedent(draw)), {}, output="out.ipynb") == 0
    assert caplog.messages == [
        "progress written=1",
        "progress written=3",
        "run complete output=out.ipynb",
    ]


def test_record_holds_no_trace_of_the_partial_file(make, tmp_path):
    """Metadata of papermill name the record, not the file that it was written to first."""
    run_notebook(make(PARAMETERS), {}, output="out.ipynb")

    assert ".partial" not in json.dumps(nbformat.read(Path("out.ipynb"), as_version=4))


FORMS = {
    "annotated": "main_path: str | None = None\nfrom_index: Optional[int] = None\nverify: 'str'\n",
    "on one line": "main_path = verify = None; from_index = None\n",
    "a tuple": "main_path, (verify, *from_index) = None, (None,)\n",
    "equals signs": "main_path = 'a=b'\nfrom_index = None  # x == y\nverify = dict(a=1)\n",
    "several lines": "main_path = (\n    None\n)\nfrom_index = [\n    1,\n]\nverify = \\\n    None\n",
    "inside of others": "if True:\n    main_path = None\nfor from_index in []:\n    pass\n(verify := None)\n",
    "with magic": "%matplotlib inline\nmain_path = None\nfrom_index = None\n!true\nverify = None\n",
}
GIVEN = {"main_path": "data/main", "from_index": 0, "verify": "entries"}


def injected(record):
    """Return the values of the cell that papermill puts after that of the parameters."""
    cells = nbformat.read(record, as_version=4).cells
    (cell,) = (cell for cell in cells if "injected-parameters" in cell.metadata.get("tags", []))
    namespace = {}
    exec(cell.source, namespace)
    return {key: value for key, value in namespace.items() if not key.startswith("__")}


@pytest.mark.parametrize(
    ("own", "shared", "created"),
    [
        ({"main_path": "x"}, {}, False),
        ({"main_path": "x"}, {"main_path": "y", "create_main": None}, False),
        ({"main_path": "x", "create_main": True}, {}, True),
        ({}, {"main_path": "x"}, None),
        ({"count": 1}, {"main_path": "x"}, None),
    ],
)
def test_main_path_typed_by_hand(make, own, shared, created):
    """A merge creates the main table that a file names, and one that was typed by hand if that is said."""
    cell = "main_path = create_main = None\ncount = 1"

    assert run_notebook(make(cell), own, shared=shared, output="out.ipynb") == 0
    assert injected("out.ipynb").get("create_main") is created


@pytest.mark.parametrize("form", FORMS)
def test_parameters_cell_in_any_form(make, form):
    """However the cell assigns its parameters, each value that is given arrives."""
    prepare_notebook(make(FORMS[form]), GIVEN, "out.ipynb")

    assert injected("out.ipynb") == GIVEN


def test_run_notebook_when_papermill_does_not_see_a_parameter(make, caplog, capfd):
    """It is set all the same, and nothing says otherwise."""
    code = run_notebook(make(FORMS["on one line"], "print(main_path, from_index, verify)"), GIVEN, output="out.ipynb")

    assert (code, read("out.ipynb")[1]) == (0, "data/main 0 entries\n")
    assert "arameter" not in caplog.text + capfd.readouterr().err


@pytest.mark.parametrize(
    "cell", ["import main_path\ndef from_index(): verify = 1", "print(verify)", "%%time\nverify = None", ""]
)
@pytest.mark.parametrize("values", [({"verify": "off"}, {}), ({}, {"verify": "off"})])
def test_run_notebook_when_nothing_is_declared(make, tmp_path, cell, values):
    """A value that cannot be set is refused by its name, before anything is run or written."""
    own, shared = values
    with pytest.raises(ParameterError) as raised:
        run_notebook(make(cell), own, shared=shared)
    assert raised.value.keys == ("verify",)
    assert os.listdir(tmp_path) == ["book.ipynb"]


def test_run_notebook_without_a_parameters_cell(make, tmp_path):
    """Values for it are refused by name; without any it runs."""
    notebook = make("verify = None")
    notebook.write_text(notebook.read_text().replace('"parameters"', '"other"'))

    with pytest.raises(ParameterError) as raised:
        run_notebook(notebook, {}, shared=GIVEN)
    assert raised.value.keys == ("main_path", "from_index", "verify")
    assert os.listdir(tmp_path) == ["book.ipynb"]
    assert run_notebook(notebook, {}, output="out.ipynb") == 0


def test_run_notebook_when_the_parameters_cell_is_no_python(make, tmp_path):
    """It is an error that says where."""
    with pytest.raises(ParameterError):
        run_notebook(make("verify = = None"), {"verify": "off"})
    assert os.listdir(tmp_path) == ["book.ipynb"]


def test_values_arrive_as_they_are(make):
    """Tuples are lists and paths are text; numbers and what lies inside of others stay."""
    values = {"a": (1, (True, None)), "b": Path("x/y"), "c": {"k": [1.5, "\u2028$"]}}
    prepare_notebook(make("a = b = c = None"), {}, "out.ipynb")
    run_notebook(make("a = b = c = None"), values, output="out.ipynb")

    assert injected("out.ipynb") == {"a": [1, [True, None]], "b": "x/y", "c": {"k": [1.5, "\u2028$"]}}


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, {1: "one"}, [object()], datetime(2026, 1, 1)])
def test_values_that_cannot_arrive(make, tmp_path, value):
    """What a notebook would be given as the text of it is refused by name."""
    with pytest.raises(ParameterError) as raised:
        run_notebook(make(PARAMETERS), {"count": value})
    assert raised.value.keys == ("count",)
    assert os.listdir(tmp_path) == ["book.ipynb"]


@pytest.mark.parametrize(
    ("name", "shown"), [("python3", f"{sys.executable} None"), ("Mine", f"{sys.executable} of another kernel")]
)
def test_kernel(make, tmp_path, monkeypatch, name, shown):
    """``python3`` is the Python that runs ctkit, whoever has a kernel of that name; another one is meant."""
    for kernel, command in [("python3", "/bin/false"), ("mine", sys.executable)]:
        folder = tmp_path / "jupyter" / "kernels" / kernel
        folder.mkdir(parents=True)
        spec = {"argv": [command, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "language": "python"}
        spec |= {"display_name": kernel, "env": {"MARK": "of another kernel"}}
        (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    notebook = make(PARAMETERS, "import os, sys\nprint(sys.executable, os.environ.get('MARK'))")
    notebook.write_text(notebook.read_text().replace('"name": "python3"', f'"name": "{name}"'))

    assert run_notebook(notebook, {}, output="out.ipynb") == 0
    assert read("out.ipynb")[1] == f"{shown}\n"


def test_kernel_is_not_interrupted_at_its_end(make, tmp_path):
    """What runs well ends without a signal, which the kernel, or what it has started, would complain of."""
    child = """
    import subprocess, sys, time
    from pathlib import Path
    code = "import pathlib, signal, time;"
    code += "signal.signal(signal.SIGINT, lambda *_: pathlib.Path('interrupted').touch());"
    code += "pathlib.Path('ready').touch(); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code])
    while not Path("ready").exists():
        time.sleep(0.01)
    """

    assert run_notebook(make(PARAMETERS, textwrap.dedent(child)), {}, output="out.ipynb") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["book.ipynb", "out.html", "out.ipynb", "ready"]


def in_thread(what):
    """Return what a function returns in a thread that is not the main one."""
    found = []
    thread = threading.Thread(target=lambda: found.append(what()))
    thread.start()
    thread.join()
    return found[0]


def test_run_notebook_in_a_thread(make, tmp_path):
    """It runs in any thread, in the folder that is named, and leaves this process's alone."""
    (tmp_path / "folder").mkdir()
    notebook = make(PARAMETERS, "from pathlib import Path\nprint(Path.cwd().name)")

    assert in_thread(lambda: run_notebook(notebook, {}, output="out.ipynb", cwd="folder")) == 0
    assert read("out.ipynb") == ("complete", "folder\n")
    assert Path.cwd() == tmp_path


def test_run_notebook_when_the_folder_is_missing(make, tmp_path):
    """A folder to run in that is not there is refused before anything is written."""
    with pytest.raises(ParameterError) as raised:
        run_notebook(make(PARAMETERS), {}, cwd="nowhere")
    assert raised.value.keys == ("cwd",)
    assert os.listdir(tmp_path) == ["book.ipynb"]


def test_run_notebook_when_papermill_fails(make, tmp_path, monkeypatch):
    """An unexpected error leaves no part of a record."""

    class UnheardOfError(Exception):
        pass

    def fail(*_, **__):
        raise UnheardOfError

    monkeypatch.setattr(papermill, "execute_notebook", fail)

    with pytest.raises(UnheardOfError):
        run_notebook(make(PARAMETERS), {})
    assert list((tmp_path / "runs").iterdir()) == []


def test_run_notebook_when_the_terminal_closes(make, tmp_path):
    """SIGHUP comes by the shell and by the kernel then: that is one interrupt, which the cell has time for."""
    make(PARAMETERS, SLOW.replace("SECONDS", "8"))
    process = start(tmp_path)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=30)

    assert process.returncode == 1
    assert (tmp_path / "finished").exists()


def test_lines_of_a_notebook_are_visible(make, caplog):
    """What its cells print is a line in the log for each line that they print, and nothing else."""
    caplog.set_level("INFO", logger="ctkit")
    forged = "merge complete total_inserted=1"
    cell = rf"print('one\u2028{forged}\x85{forged}\x1b[2J\r{forged}'); print('two')"

    assert run_notebook(make(PARAMETERS, cell), {}, output="out.ipynb") == 0
    assert caplog.messages == [
        rf"one\u2028{forged}\x85{forged}\x1b[2J\r{forged}",
        "two",
        "run complete output=out.ipynb",
    ]


@pytest.mark.parametrize("installed", [True, False])
def test_find_runbook(tmp_path, monkeypatch, installed):
    """A wheel has the runbooks inside the package, a checkout next to it."""
    ours = tmp_path / ("ctkit/notebooks" if installed else "notebooks")
    ours.mkdir(parents=True)
    (tmp_path / "notebooks").mkdir(exist_ok=True)
    monkeypatch.setattr("ctkit.desk.shipped.__file__", str(tmp_path / "ctkit" / "desk" / "shipped.py"))

    assert find_runbook("merge") == ours / "merge.ipynb"


def test_run_a_runbook_by_name(tmp_path, monkeypatch):
    """A runbook is found by its name, wherever one is; a file of that name is a file."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ParameterError) as raised:
        run_notebook("audit", {"recheckk": "all"})
    assert raised.value.keys == ("recheckk",)

    (tmp_path / "audit").write_text("mine")
    with pytest.raises(ParameterError) as raised:
        run_notebook("audit", {"recheckk": "all"})
    assert raised.value.keys == ()


def test_copy_runbooks(tmp_path):
    """All of them are copied, or none: what is there is not overwritten."""
    copies = copy_runbooks(tmp_path / "deep" / "notebooks")

    assert [copy.stem for copy in copies] == [*RUNBOOKS]
    assert all(copy.read_bytes() == find_runbook(copy.stem).read_bytes() for copy in copies)
    copies[0].write_text("edited")
    copies[1].unlink()
    with pytest.raises(ParameterError):
        copy_runbooks(tmp_path / "deep" / "notebooks")
    assert (copies[0].read_text(), copies[1].exists()) == ("edited", False)
    (tmp_path / "file").write_text("")
    with pytest.raises(ParameterError):
        copy_runbooks(tmp_path / "file")
