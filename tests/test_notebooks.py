"""Runbooks: what is in git, what each does through papermill, and what happens when something goes wrong."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
import papermill
import pytest
from deltalake import DeltaTable
from fakes import check_table
from rows import commits_of
from runbooks import HOLES, MISSING, NOTEBOOKS, SIZE, World, make_world

from ctkit.demo.server import LogServer
from ctkit.desk.parameters import Parameters
from ctkit.desk.runbook import run_notebook
from ctkit.desk.state_file import write_state
from ctkit.errors import ParameterError, TableError
from ctkit.lake.table import open_table

pytestmark = pytest.mark.filterwarnings(
    # Sockets of the kernel's client that papermill leaves to the garbage collector.
    "ignore::pytest.PytestUnraisableExceptionWarning",
)

AUDITED = ["main_path", "state_file", "logs", "log_list", "log_list_key", "log_filter", "from_index", "last", "since"]
AUDITED += ["to_index", "ceiling", "internal_only", "recheck", "require_proof", "user_agent", "server_config"]
ASKED = ("domain", "domains", "brands", "told_path")
OTHERS = ("recheck", "require_proof", "confirmed", "create_main", "keep_runs", "runs_path", *ASKED)
KNOWN = [key for key in Parameters.model_fields if key not in OTHERS]
DECLARED = {
    "audit": AUDITED,
    "backfill": [*KNOWN[:-2], "create_main", *KNOWN[-2:]],
    "explore": ["main_path", "domain"],
    "merge": ["main_path", "staging_path", "confirmed", "create_main", "server_config"],
    "runs": ["runs_path"],
    "update": [key for key in Parameters.model_fields if key not in ("recheck", "require_proof", "choice", *ASKED)],
    "watch": ["main_path", *ASKED[1:], "server_config"],
    "preview": KNOWN,
}
CYCLE = ["preview", "backfill", "preview", "merge", "backfill"]

each_notebook = pytest.mark.parametrize("name", sorted(DECLARED))


def read(path):
    """Return the notebook at `path`."""
    return nbformat.read(path, as_version=4)


def outputs(book, cell_id):
    """Return the data of a cell's outputs."""
    (cell,) = [cell for cell in book.cells if cell.id == cell_id]
    return [output.data for output in cell.outputs if "data" in output]


def result(book, cell_id):
    """Return the facts of the report that a cell shows."""
    (facts,) = [data["application/vnd.ctkit.result+json"] for data in outputs(book, cell_id) if len(data) > 2]
    return facts


# What is in git


def test_every_notebook_is_tested():
    """The tests below know all notebooks that there are."""
    assert sorted(path.stem for path in NOTEBOOKS.iterdir()) == sorted(DECLARED)


@each_notebook
def test_notebook_is_clean(name):
    """A notebook in git has no outputs, counts, attachments or metadata of a run, and ids that stay."""
    book = read(NOTEBOOKS / f"{name}.ipynb")

    nbformat.validate(book)
    assert (book.nbformat, book.nbformat_minor) == (4, 5)
    assert book.metadata == {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in book.cells:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", cell.id)
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert "attachments" not in cell
        folded = {"jupyter": {"source_hidden": True}} if name == "preview" and cell.cell_type == "code" else {}
        assert cell.metadata == folded | ({"tags": ["parameters"]} if cell.id == "parameters" else {})


@each_notebook
def test_notebook_is_thin(name):
    """It has about twelve cells of plain calls, and says at its top what it reads and writes, and how to undo it."""
    book = read(NOTEBOOKS / f"{name}.ipynb")
    code = "\n".join(cell.source for cell in book.cells if cell.cell_type == "code")

    assert len(book.cells) <= 13
    assert not re.search(r"^\s*(def|class|for|while|with|try|if|%|!)\b|SELECT", code, re.MULTILINE)
    for word in ("reads", "writes", "undo"):
        assert f"| {word} |" in book.cells[0].source


@each_notebook
def test_notebook_declares_its_parameters(name):
    """Each has ctkit's default, and its description as help, on a line of its own."""
    declared = papermill.inspect_notebook(str(NOTEBOOKS / f"{name}.ipynb"))

    assert list(declared) == DECLARED[name]
    for key, parameter in declared.items():
        field = Parameters.model_fields[key]
        assert (parameter["default"].replace('"', "'"), parameter["help"]) == (repr(field.default), field.description)


# What the runbooks do


@dataclass(frozen=True)
class Cycle:
    """What is left of a cycle of runbooks that ran in ``world.folder``: copies of it, and the records in each."""

    world: World
    before_merge: Path
    after: Path


@pytest.fixture(scope="module")
def cycle(tmp_path_factory):
    """Run all runbooks, as `ctkit demo` does."""
    parent = tmp_path_factory.mktemp("cycle")
    folder, before_merge, after = parent / "work", parent / "before-merge", parent / "after"
    folder.mkdir()
    with LogServer() as server:
        world = make_world(folder, server.add)
        for number, name in enumerate(CYCLE):
            if name == "merge":
                shutil.copytree(folder, before_merge)
            notebook, output = NOTEBOOKS / f"{name}.ipynb", folder / f"{number}-{name}.ipynb"
            assert run_notebook(notebook, {}, shared=world.parameters, output=output, cwd=folder) == 0
        folder.rename(after)
        yield Cycle(world, before_merge, after)


def test_preview_before_a_backfill(cycle):
    """It shows the gaps in numbers and as lanes, has all of them chosen, and has nothing to merge."""
    book = read(cycle.after / "0-preview.ipynb")
    facts = result(book, "missing")

    assert (facts["entries_missing"], facts["entries_chosen"], facts["choice"]) == (MISSING, MISSING, "all")
    assert f"{MISSING} to fetch" in outputs(book, "missing")[-1]["text/html"]
    assert outputs(book, "missing")[-1]["text/html"].count("<img") == 2
    assert result(book, "staging")["rows"] == result(book, "panel")["staging_rows"] == 0


def test_the_code_of_a_preview_is_folded(cycle):
    """So are the parameters that were added to it."""
    codes = [cell for cell in read(cycle.after / "0-preview.ipynb").cells if cell.cell_type == "code"]

    assert any("injected-parameters" in cell.metadata.get("tags", []) for cell in codes)
    assert all(cell.metadata["jupyter"]["source_hidden"] for cell in codes)


def test_backfill_shows_its_plan(cycle):
    """The plan stands before what it led to, and says the same."""
    book = read(cycle.after / "1-backfill.ipynb")
    (plan,) = outputs(book, "plan")

    assert (result(book, "plan")["requests"], result(book, "plan")["entries_wanted"]) == (5, MISSING)
    assert all(url in plan["text/html"] for url in cycle.world.logs)


def test_backfill(cycle):
    """AC1.1, AC1.2: what is missing goes to staging, main has no new commit, and the report says so."""
    book = read(cycle.after / "1-backfill.ipynb")
    facts = result(book, "act")
    progress = next(each["text/plain"] for each in outputs(book, "act") if each["text/plain"].startswith("progress"))

    assert (facts["wanted"], facts["written"], facts["missing"]) == (MISSING, MISSING, 0)
    assert progress.startswith(f"progress wanted={MISSING} fetched={MISSING} written={MISSING} ")
    staging = open_table(cycle.before_merge / "staging")
    check_table(staging, cycle.world.logs, dict(zip(cycle.world.logs, HOLES.values(), strict=True)))
    assert len(commits_of(cycle.before_merge / "main")) == 2


def test_preview_before_a_merge(cycle):
    """The second preview shows no gap, what is staged, and what the merge will insert, in the widget and as HTML."""
    book = read(cycle.after / "2-preview.ipynb")

    assert result(book, "missing")["gaps_found"] == 0
    assert f"{MISSING} staged" in outputs(book, "missing")[-1]["text/html"]
    assert result(book, "staging")["rows"] == result(book, "panel")["would_insert"] == MISSING
    assert "by issuer" in outputs(book, "staging")[-1]["text/html"]
    assert "by log and date" in outputs(book, "panel")[-1]["text/html"]


def test_merge(cycle):
    """E2E: main has every entry of both logs once, staging is gone, and the report says how to go back."""
    facts = result(read(cycle.after / "3-merge.ipynb"), "act")

    assert (facts["total_inserted"], facts["total_skipped"], facts["total_staging_rows"]) == (MISSING, 0, MISSING)
    assert not (cycle.after / "staging").exists()
    assert len(commits_of(cycle.after / "main")) == 3
    check_table(open_table(cycle.after / "main"), cycle.world.logs, cycle.world.within)
    assert DeltaTable(cycle.after / "main", version=facts["version_before"]).count() == 2 * SIZE - MISSING


def test_backfill_when_nothing_is_missing(cycle):
    """AC2.2: the last run has nothing to fetch and succeeds."""
    facts = result(read(cycle.after / "4-backfill.ipynb"), "act")

    assert (facts["wanted"], facts["written"]) == (0, 0)


def test_merge_when_nothing_is_staged(cycle):
    """AC4.1: it succeeds and says so; main is as it was, and papermill alone is enough to run it."""
    parameters = {key: cycle.world.parameters[key] for key in ("main_path", "staging_path")}
    book = papermill.execute_notebook(NOTEBOOKS / "merge.ipynb", None, parameters, cwd=cycle.after, progress_bar=False)

    assert result(book, "act")["total_staging_rows"] == 0
    assert len(commits_of(cycle.after / "main")) == 3


def test_audit(cycle):
    """Everything is there; of nothing a commit says that it was proven, until a recheck compares it."""
    parameters = {key: cycle.world.parameters[key] for key in ("main_path", "logs", "user_agent")}
    parameters["recheck"] = "unproven"
    notebook = NOTEBOOKS / "audit.ipynb"
    book = papermill.execute_notebook(notebook, None, parameters, cwd=cycle.after, progress_bar=False)
    facts = result(book, "audit")

    assert (facts["complete"], facts["rows"], facts["proven"], facts["not_proven"]) == (2, 2 * SIZE, 2 * SIZE, 0)
    assert "complete" in outputs(book, "audit")[0]["text/html"]


def test_nbval_on_executed_runbooks(cycle):
    """Run again from the same tables in the same place, each cell shows the same but for times."""
    folder = cycle.world.folder
    shutil.copytree(cycle.before_merge, folder)
    books = ["2-preview.ipynb", "3-merge.ipynb", "4-backfill.ipynb"]
    for book in books:
        shutil.copy(cycle.after / book, folder)
    sanitize = Path(__file__).with_name("nbval-sanitize.cfg")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    command += ["--nbval", "--nbval-sanitize-with", str(sanitize), *books]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout
    assert re.search(r"^\d+ passed", done.stdout, re.MULTILINE)
    assert open_table(folder / "main").count() == 2 * SIZE


# What happens when something goes wrong


@each_notebook
@pytest.mark.parametrize("missing", ["main_path", "staging_path"])
def test_runbook_when_a_path_is_missing(tmp_path, monkeypatch, name, missing):
    """AC4.5: the error names the parameter, and nothing is created; backfill and update need no staging path."""
    monkeypatch.chdir(tmp_path)
    write_state("state.json", {"http://127.0.0.1:9/log": 0})
    values = {
        "main_path": "main",
        "staging_path": "staging",
        "state_file": "state.json",
        "logs": [{"url": "http://127.0.0.1:9/log", "protocol": "rfc6962"}],
        "from_index": 0,
        "domains": ["example.com"],
        "told_path": "told",
        "user_agent": "test@example.org",
        missing: None,
    }
    if name == "runs" or (name, missing) in (("backfill", "staging_path"), ("update", "staging_path")):
        run_cells(name, values)
    elif name in ("audit", "explore", "watch") and missing == "staging_path":
        with pytest.raises(TableError):
            run_cells(name, values)
    else:
        with pytest.raises(ParameterError) as raised:
            run_cells(name, values)
        assert raised.value.keys == (missing,)
    assert os.listdir(tmp_path) == ["state.json"]


def run_cells(name, values):
    """Run the code cells of a notebook in this process, with the values set after its parameters cell."""
    namespace = {}
    for cell in read(NOTEBOOKS / f"{name}.ipynb").cells:
        if cell.cell_type == "code":
            exec(cell.source, namespace)
        if cell.id == "parameters":
            namespace |= values


@pytest.fixture
def world(tmp_path, serve):
    """Make a small world of this test's own."""
    return make_world(tmp_path, serve)


def test_backfill_when_a_log_is_down(world):
    """A hole that stays makes the run fail; the record holds the report that names it, and the other log is filled."""
    gone, down = list(world.logs.items())[1]
    down.always = 404
    record = world.folder / "record.ipynb"
    code = run_notebook(NOTEBOOKS / "backfill.ipynb", {}, shared=world.parameters, output=record, cwd=world.folder)
    book = read(record)

    assert code == 1
    assert result(book, "act")["missing"] == 250
    assert f">{gone}</td>" in outputs(book, "act")[-1]["text/html"]
    (error,) = [output for cell in book.cells for output in cell.get("outputs", []) if output.output_type == "error"]
    assert error.ename == "LogUnavailableError"
    assert "250 entries are still missing" in error.evalue
    assert open_table(world.folder / "staging").count() == MISSING - 250


def test_backfill_when_the_budget_is_spent(world):
    """The run succeeds, and its record says what stopped it and what is left."""
    record = world.folder / "record.ipynb"
    limits = {"max_entries": 100, "max_requests": 9, "deadline": 600}
    code = run_notebook(NOTEBOOKS / "backfill.ipynb", limits, shared=world.parameters, output=record, cwd=world.folder)
    facts = result(read(record), "act")

    assert code == 0
    assert (facts["written"], facts["stopped_by"], facts["left"]) == (100, "max_entries", MISSING - 100)
    assert open_table(world.folder / "staging").count() == 100


def test_update_when_a_log_is_down(world):
    """The record holds the report, the run fails, and what the other log gave is in main."""
    gone, down = list(world.logs.items())[1]
    down.always = 404
    record = world.folder / "record.ipynb"
    code = run_notebook("update", {}, shared=world.parameters, output=record, cwd=world.folder)
    book = read(record)

    assert code == 1
    assert (result(book, "act")["missing"], result(book, "act")["new_rows"]) == (250, MISSING - 250)
    assert f">{gone}</td>" in outputs(book, "act")[-1]["text/html"]
    (error,) = [output for cell in book.cells for output in cell.get("outputs", []) if output.output_type == "error"]
    assert error.ename == "UpdateError"
    # What happened and what to do, without a traceback.
    assert [line.split(": ")[0] for line in error.traceback] == ["UpdateError", "Next"] * (len(error.traceback) // 2)

    down.always = None
    code = run_notebook("update", {}, shared=world.parameters, output=world.folder / "next.ipynb", cwd=world.folder)
    assert code == 0
    check_table(open_table(world.folder / "main"), world.logs, world.within)


def test_audit_when_entries_are_missing(world):
    """The record holds the report that names them, and the run fails."""
    record = world.folder / "record.ipynb"
    code = run_notebook(NOTEBOOKS / "audit.ipynb", {}, shared=world.parameters, output=record, cwd=world.folder)
    book = read(record)

    assert code == 1
    assert result(book, "audit")["missing"] == MISSING
    (error,) = [output for cell in book.cells for output in cell.get("outputs", []) if output.output_type == "error"]
    assert error.ename == "TableError"
    assert "51 entries are missing: [0, 40), [300, 301), [590, 600)" in error.evalue


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_backfill_when_signalled(world, signum):
    """AC4.4: a signal gives exit code 1 and leaves whole tables; the next run fetches the rest."""
    _, slow = world.logs.values()
    slow.latency = 2
    slow.requests.clear()
    ctkit = "import sys; from ctkit.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", ctkit, "run", str(NOTEBOOKS / "backfill.ipynb"), "-f", "demo.yaml"]
    process = subprocess.Popen(command, cwd=world.folder, stderr=subprocess.PIPE, text=True)
    try:
        while process.poll() is None and not slow.requests:
            time.sleep(0.02)
        process.send_signal(signum)
        process.communicate(timeout=120)
    finally:
        process.kill()
    slow.latency = 0
    (record,) = world.folder.glob("runs/*.ipynb")

    assert process.returncode == 1
    assert read(record).metadata["ctkit"]["outcome"] == "stopped"
    assert not [output for cell in read(record).cells for output in cell.get("outputs", []) if "ename" in output]
    assert result(read(record), "act")["stopped_by"] == "stop"
    assert len(commits_of(world.folder / "main")) == 2
    staged = open_table(world.folder / "staging").count()
    assert staged < MISSING

    code = run_notebook(
        NOTEBOOKS / "backfill.ipynb", {}, shared=world.parameters, output=world.folder / "next.ipynb", cwd=world.folder
    )
    assert code == 0
    assert result(read(world.folder / "next.ipynb"), "act")["wanted"] == MISSING - staged
    check_table(open_table(world.folder / "staging"), world.logs, dict(zip(world.logs, HOLES.values(), strict=True)))
