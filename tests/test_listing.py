"""The logs of a list, of parameters or of a table: what is told of each."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import FakeLog
from rows import LOG, make_rows, make_table

import ctkit
from ctkit.cli import main
from ctkit.desk.listing import ListedLog, LogListing
from ctkit.desk.state_file import write_state
from ctkit.errors import LogUnavailableError, ParameterError


@pytest.fixture
def listed(tmp_path, monkeypatch, serve):
    """Go to a folder with a list of two logs, of which one is retired, and a table of these and one more."""
    monkeypatch.chdir(tmp_path)
    urls = [serve(FakeLog(name, 9, protocols=("rfc6962",))) for name in ("Old", "New")]
    logs = [
        {"url": url, "key": "", "description": name, "state": {state: {}}}
        for url, name, state in zip(urls, ("Old", "New"), ("retired", "usable"), strict=True)
    ]
    Path("list.json").write_text(json.dumps({"operators": [{"name": "Op", "logs": logs}]}))
    for url, indices in zip((*urls, LOG), ([0, 1], [4, 5, 8], [7]), strict=True):
        make_table(Path("main"), make_rows(indices, url=url))
    return urls


def test_logs_of_a_list_and_a_table(listed):
    """Each once: what the list says, its size, and what the table has of it; one that the list lacks, too."""
    old, new = listed
    parameters = ctkit.read_parameters(
        main_path="main", log_list="list.json", user_agent="a@b.c", log_filter="127.0.0.1"
    )
    report = ctkit.list_logs(parameters)

    lines = {
        log.url: (log.name, log.operator, log.state, log.size, log.held, log.first, log.last, log.coverage)
        for log in report.logs
    }
    assert lines == {
        new: ("New", "Op", "usable", 9, 3, 4, 8, 33.3),
        old: ("Old", "Op", "retired", 9, 2, 0, 1, 22.2),
    }
    report.check()
    assert [log.url for log in ctkit.list_logs(ctkit.read_parameters(main_path="main")).logs].count(LOG) == 1
    # It may be anybody's; those of the list are not.
    others = parameters.model_copy(update={"log_filter": "operator: other", "user_agent": None})
    assert [log.url for log in ctkit.list_logs(others).logs] == [LOG]


def test_rows_above_the_ceiling(world):
    """Held is what is below it, as in the status; what lies above it is counted beside that."""
    first, second = world.logs
    make_table(world.folder / "main", make_rows([700, 701], url=second))
    parameters = ctkit.read_parameters("demo.yaml", state_file=str(world.folder / "lower.json"))
    write_state(world.folder / "lower.json", {first: 550, second: 600})
    report, status = ctkit.list_logs(parameters), ctkit.find_status(parameters)

    assert {log.url: (log.held, log.beyond) for log in report.logs} == {first: (509, 40), second: (350, 2)}
    assert {log.source_url: log.held for log in status.logs} == {first: 509, second: 350}
    assert report.facts()["held"] == status.facts()["held"]
    assert list(report.tables()["logs"]["above"]) == [40, 2]


def test_sizes_without_asking(listed):
    """Nobody is asked who is not told who asks: sizes are those of the state file, or not known."""
    _, new = listed
    write_state("state.json", {new: 7})
    report = ctkit.list_logs(ctkit.read_parameters(log_list="list.json", state_file="state.json"))

    assert [(log.url, log.size, log.held, log.coverage) for log in report.logs] == [(new, 7, 0, 0.0)]
    with pytest.raises(ParameterError):
        ctkit.list_logs(ctkit.read_parameters())


def test_logs_as_a_command(listed, serve, capsys):
    """Names stand before URLs, and lines fit; a log that does not answer is named, and the exit code is 1."""
    _, new = listed
    assert (
        main(["logs", "--log-list", "list.json", "--main-path", "main", "--logs", "Op", "--user-agent", "a@b.c"]) == 1
    )
    capsys.readouterr()
    words = ["logs", "--log-list", "list.json", "--main-path", "main", "--logs", "127.0.0.1", "--user-agent", "a@b.c"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.index("New") < out.index(new)
    assert max(map(len, out.splitlines())) <= 80
    assert main([*words, "--json"]) == 0
    assert [log["log"] for log in json.loads(capsys.readouterr().out)["by_log"]] == ["New", "Old"]

    dead = FakeLog("Dead", 5, protocols=("rfc6962",))
    dead.always = 404
    report = ctkit.list_logs(
        ctkit.read_parameters(logs=[{"url": serve(dead), "protocol": "rfc6962"}], user_agent="a@b.c")
    )
    with pytest.raises(LogUnavailableError):
        report.check()


def test_only_what_is_complete_is_whole():
    """One entry of many that is missing is seen, in the table and as a number."""
    log = ListedLog("A", LOG, "", "", "auto", 1_000_000, 999_999, 0, 0, 999_999)
    report = LogListing((log, replace(log, held=1_000_000)), ())
    assert [line["percent"] for line in report.to_json()["by_log"]] == [99.9, 100.0]
    assert "above" not in report.tables()["logs"]
    assert list(report.tables()["logs"]["percent"]) == ["> 99.9 %", "100 %"]
