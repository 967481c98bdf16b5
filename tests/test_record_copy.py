"""Executed notebooks as records: what stays of a widget, and the copy as HTML."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from ctkit.cli import main
from ctkit.desk.record_copy import WIDGET, make_static, write_html
from ctkit.desk.records import read_records
from ctkit.desk.runbook import run_notebook
from ctkit.errors import ParameterError

WIDGETS = "application/vnd.jupyter.widget-state+json"


def book_of(*outputs, source="1 + 1"):
    """Return an executed notebook of one cell."""
    cell = nbformat.v4.new_code_cell(source, outputs=list(outputs))
    book = nbformat.v4.new_notebook(cells=[cell])
    book.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    return book


def shown(**data):
    """Return an output."""
    return nbformat.v4.new_output("display_data", {key.replace("_", "/"): value for key, value in data.items()})


def test_what_stays_of_a_widget():
    """Its text, HTML and pictures; an output that was nothing else is gone, and so is the state of all widgets."""
    book = book_of(
        shown(text_plain="3 gaps", text_html="<b>3 gaps</b>"),
        shown(image_png="AAAA"),
        shown(text_plain="x"),
        shown(text_plain=""),
    )
    for output in book.cells[0].outputs:
        output.data[WIDGET] = {"model_id": "1"}
    book.metadata["widgets"] = {WIDGETS: {"state": {}}}
    make_static(book)

    assert [dict(output.data) for output in book.cells[0].outputs] == [
        {"text/plain": "3 gaps", "text/html": "<b>3 gaps</b>"},
        {"image/png": "AAAA"},
        {"text/plain": "x"},
    ]
    assert "widgets" not in book.metadata
    nbformat.validate(book)


def test_texts_of_a_record_are_visible():
    """What cells print turns nothing around and links nowhere; colours and lines stay. Parameters mean the same."""
    text = "\x1b[31mred\x1b[0m\n\u202eevil\x1b]8;;http://x\x07\tz\r"
    error = nbformat.v4.new_output("error", ename="E", evalue="", traceback=["\x1b[31m\u202e\x1b[0m"])
    book = book_of(nbformat.v4.new_output("stream", text=text), error, source='log_filter = "\u202e"')
    book.cells[0].metadata["tags"] = ["injected-parameters"]
    make_static(book)

    printed, raised = book.cells[0].outputs
    assert printed.text == "\x1b[31mred\x1b[0m\n\\u202eevil\\x1b]8;;http://x\\x07\tz\r"
    assert raised.traceback == ["\x1b[31m\\u202e\x1b[0m"]
    names = {}
    exec(book.cells[0].source, names)
    assert (names["log_filter"], book.cells[0].source.isascii()) == ("\u202e", True)


def test_copy_loads_nothing(tmp_path):
    """No address of another host stands where a browser would load it, and no script would run."""
    book = book_of(shown(text_html="<script>alert(1)</script><img src=x onerror=alert(1)>", text_plain="x"))
    path = write_html(book, tmp_path / "<b>$x$&\u202e.ipynb")
    html = Path(path).read_text()

    (policy,) = re.findall(r'<meta content="([^"]*)" http-equiv="Content-Security-Policy"', html)
    assert policy.startswith("default-src 'none'; ")
    assert "script" not in policy
    assert html.index("Content-Security-Policy") < html.index("alert(1)")
    # As it comes from nbconvert there are three scripts: require.js, MathJax and Mermaid.
    assert html.count("<script") == 1
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", html)
    assert not re.search(r"@import|url\(['\"]?(https?:)?//", html)
    assert "<title>&lt;b&gt;$x$&amp;\\u202e</title>" in html
    assert [each.suffix for each in tmp_path.iterdir()] == [".html"]


def test_copy_that_cannot_be_made(tmp_path, caplog):
    """It is a warning, and nothing half written stays."""
    (tmp_path / "record.html").mkdir()

    assert write_html(book_of(), tmp_path / "record.ipynb") is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert [each.name for each in tmp_path.iterdir()] == ["record.html"]


@pytest.fixture
def book(tmp_path, monkeypatch):
    """Go to a folder with a notebook that shows a widget and a report, then fails."""
    monkeypatch.chdir(tmp_path)
    report = "{'application/vnd.ctkit.result+json': {'title': 'backfill incomplete', 'written': 5}}"
    cells = ["last = None", f"import ipywidgets\ndisplay({report}, raw=True)\nipywidgets.IntSlider()", "1 / 0"]
    book = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
    book.cells[0].metadata["tags"] = ["parameters"]
    book.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(book, "book.ipynb")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "ct.yaml").write_text("last: 5")
    return tmp_path


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_run_for_a_scheduler(book, capfd):
    """One line of JSON says how it ended and where the record is, which lies beside the parameter file."""
    code = main(["run", "book.ipynb", "-f", "files/ct.yaml"])
    (line,) = capfd.readouterr().out.splitlines()
    told = json.loads(line)

    assert list(told) == [
        "runbook",
        "started",
        "ended",
        "outcome",
        "exit_code",
        "record",
        "html",
        "rows",
        "error",
        "parameters",
        "results",
    ]
    assert (code, told["exit_code"], told["runbook"], told["outcome"], told["rows"]) == (1, 1, "book", "failed", 5)
    assert (told["error"], told["parameters"]) == ("In [4] ZeroDivisionError: division by zero", {"last": 5})
    record = Path(told["record"])
    assert (record.parent, Path(told["html"])) == (book / "files" / "runs", record.with_suffix(".html"))
    assert WIDGET not in record.read_text()
    assert "IntSlider" in record.read_text()
    assert "ZeroDivisionError" in Path(told["html"]).read_text()
    assert sorted(path.suffix for path in record.parent.iterdir()) == [".html", ".ipynb"]
    (run,) = read_records(record.parent).runs
    assert json.loads(json.dumps(run.to_json())) == told

    assert main(["runs", "-f", "files/ct.yaml", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["by_run"][0]["error"] == told["error"]


@pytest.mark.parametrize(
    ("own", "shared", "key"),
    [
        ({"verify": "entires"}, {"main_path": "main"}, "verify"),
        ({}, {"main_path": "main", "from_index": -1}, "from_index"),
        ({"last": 5}, {"main_path": "main", "to_index": 5, "logs": [{"url": "a b"}]}, "logs.0.url"),
        ({}, {}, "main_path"),
    ],
)
def test_parameters_are_checked_before_the_kernel_starts(tmp_path, monkeypatch, own, shared, key):
    """What a runbook would refuse is refused at once, and leaves no record."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError) as raised:
        run_notebook("update", own, shared=shared)

    assert raised.value.keys == (key,)
    assert list(tmp_path.iterdir()) == []
