"""The live server: what it may hold in memory is left to it while it is running."""

import json
import os
import time

import pytest
from fakes import FakeLog, check_table
from rows import LOG, OTHER_LOG, make_rows, make_table

from ctkit.cli import main
from ctkit.desk.gap_report import report_gaps
from ctkit.desk.live import SECONDS_ALIVE, is_alive
from ctkit.desk.parameters import Parameters
from ctkit.desk.state_file import write_state
from ctkit.desk.verbs import fill_gaps
from ctkit.lake.table import open_table

AGENT = "ctkit tests, ct@example.org"


@pytest.fixture
def find(tmp_path):
    """Return what finds the gap report of a main table and a state file in the test's folder."""

    def find(**more):
        given = {
            "main_path": tmp_path / "main",
            "staging_path": tmp_path / "staging",
            "state_file": tmp_path / "state.json",
            "logs": [{"url": LOG, "protocol": "rfc6962"}, {"url": OTHER_LOG}],
            **more,
        }
        return report_gaps(Parameters(**given))

    return find


def age(path, seconds):
    """Let a file be of that age."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def gaps_of(gap_report):
    """Return the gaps as triples."""
    return [tuple(gap.values()) for gap in gap_report.gaps.to_pylist()]


@pytest.mark.parametrize(
    ("seconds", "alive"),
    [
        (0, True),
        (SECONDS_ALIVE - 60, True),
        (SECONDS_ALIVE + 1, False),
        (60 - SECONDS_ALIVE, True),
        (-SECONDS_ALIVE - 60, False),
    ],
)
def test_is_alive(tmp_path, caplog, seconds, alive):
    """A server is running if its state file is young, even if clocks differ a little; one from the future is logged."""
    (tmp_path / "state.json").write_text("{}")
    age(tmp_path / "state.json", seconds)

    assert is_alive((tmp_path / "state.json").as_uri()) is alive
    assert len(caplog.records) == (seconds < -SECONDS_ALIVE)
    assert not is_alive(tmp_path / "nothing.json")
    assert not is_alive(None)


def test_the_server_is_left_what_lies_above_its_last_row(tmp_path, find):
    """While it runs, gaps end with the log's last row in main; what was left is said; otherwise nothing is left."""
    make_table(tmp_path / "main", make_rows([5, 9]))
    write_state(tmp_path / "state.json", {LOG: 20, OTHER_LOG: 20})

    running = find(logs=[{"url": LOG}])
    assert gaps_of(running) == [(LOG, 6, 9)]
    assert running.left_to_server == {LOG: (10, 20)}
    assert running.facts()["left_to_server"] == 10
    assert "entries=10" in running.remark
    assert "internal_only" in running._repr_html_()

    age(tmp_path / "state.json", SECONDS_ALIVE + 60)
    stopped = find(logs=[{"url": LOG}])
    assert (gaps_of(stopped), stopped.left_to_server, stopped.remark) == ([(LOG, 6, 9), (LOG, 10, 20)], {}, "")


def test_internal_only_decides_otherwise(tmp_path, find):
    """Whoever says what to do is believed, whether the server runs or not."""
    make_table(tmp_path / "main", make_rows([5, 9]))
    write_state(tmp_path / "state.json", {LOG: 20})

    assert gaps_of(find(internal_only=False)) == [(LOG, 6, 9), (LOG, 10, 20)]
    assert gaps_of(find(internal_only=True)) == [(LOG, 6, 9)]


def test_rows_of_staging_and_above_the_index_are_not_those_of_the_server(tmp_path, find):
    """The server writes main in order: what others have written above says nothing about its memory."""
    make_table(tmp_path / "main", make_rows([5, 9, 25]))
    make_table(tmp_path / "staging", make_rows([7, 15]))
    write_state(tmp_path / "state.json", {LOG: 20})

    gap_report = find()

    assert (gaps_of(gap_report), gap_report.left_to_server) == ([(LOG, 6, 7), (LOG, 8, 9)], {LOG: (10, 20)})


@pytest.mark.parametrize(
    ("stretch", "gaps", "left"),
    [
        ({"from_index": 3}, [(LOG, 3, 5), (LOG, 6, 9)], {LOG: (10, 20), OTHER_LOG: (3, 30)}),
        ({"from_index": 12}, [], {LOG: (12, 20), OTHER_LOG: (12, 30)}),
        ({"from_index": 3, "to_index": 8}, [(LOG, 3, 5), (LOG, 6, 8)], {OTHER_LOG: (3, 8)}),
        ({"from_index": 25}, [], {OTHER_LOG: (25, 30)}),
    ],
)
def test_a_log_without_a_row_in_main_is_left_to_the_server(tmp_path, find, stretch, gaps, left):
    """It is not known which part of it the server has in memory."""
    make_table(tmp_path / "main", make_rows([5, 9]))
    write_state(tmp_path / "state.json", {LOG: 20, OTHER_LOG: 30})

    gap_report = find(**stretch)

    assert all(start <= end for start, end in gap_report.within.values())
    assert (gaps_of(gap_report), gap_report.left_to_server) == (gaps, left)


def test_catch_up_of_a_log_that_only_staging_has(tmp_path, find):
    """What was staged before the server began with the log stays, and the rest of it is left."""
    make_table(tmp_path / "main", make_rows([5]))
    make_table(tmp_path / "staging", make_rows([8], url=OTHER_LOG))
    write_state(tmp_path / "state.json", {LOG: 6, OTHER_LOG: 30})

    gap_report = find()

    assert (gaps_of(gap_report), gap_report.left_to_server) == ([], {OTHER_LOG: (8, 30)})


def test_no_server_writes_a_table_that_is_not_there(tmp_path, find):
    """A server that runs has created its table: all of a table to come is for us."""
    write_state(tmp_path / "state.json", {LOG: 20})

    assert gaps_of(find(from_index=3)) == [(LOG, 3, 20)]


@pytest.mark.parametrize("seconds", [0, SECONDS_ALIVE + 60])
def test_with_the_ceiling_of_the_log(tmp_path, find, serve, seconds):
    """Also where the log's own tree is the ceiling, what the server fetches is left to it; not so what it does not."""
    followed, other = FakeLog("Followed", 40, protocols=["rfc6962"]), FakeLog("Other", 30, protocols=["rfc6962"])
    urls = [serve(followed), serve(other)]
    make_table(tmp_path / "main", make_rows([5, 9], url=urls[0]), make_rows([27], url=urls[1]))
    write_state(tmp_path / "state.json", {urls[0]: 20})
    age(tmp_path / "state.json", seconds)

    logs = [{"url": url} for url in urls]
    gap_report = find(logs=logs, ceiling="log", user_agent=AGENT)
    gap_report.close()

    alive = seconds == 0
    above = [] if alive else [(urls[0], 10, 40)]
    assert gaps_of(gap_report) == sorted([(urls[0], 6, 9), *above, (urls[1], 28, 30)])
    assert gap_report.left_to_server == ({urls[0]: (10, 40)} if alive else {})


def test_with_the_ceiling_of_the_log_and_a_state_file_that_is_not_there(tmp_path, find, serve):
    """The live server's configuration may name one before it was ever started."""
    url = serve(FakeLog(size=12, protocols=["rfc6962"]))
    make_table(tmp_path / "main", make_rows([9], url=url))

    gap_report = find(logs=[{"url": url}], ceiling="log", user_agent=AGENT)
    gap_report.close()

    assert gaps_of(gap_report) == [(url, 10, 12)]


def test_a_backfill_says_what_was_left(tmp_path, find, serve, caplog):
    """No row above the last one is written; report and log line say what is left to whom."""
    fake = FakeLog(size=40, protocols=["rfc6962"])
    url = serve(fake)
    make_table(tmp_path / "main", make_rows([5, 9], url=url))
    write_state(tmp_path / "state.json", {url: 20})
    caplog.set_level("INFO", "ctkit")

    gap_report = find(logs=[{"url": url, "name": fake.name}], user_agent=AGENT)
    report = fill_gaps(gap_report)
    gap_report.close()

    assert (report.written, report.complete, report.left_to_server) == ({url: 3}, True, {url: (10, 20)})
    assert (report.facts()["left_to_server"], "left_to_server=10" in str(report)) == (10, True)
    assert gap_report.remark in caplog.messages
    check_table(open_table(tmp_path / "staging"), {url: fake}, {url: (6, 9)})


def test_gaps_says_what_was_left(tmp_path, capsys):
    """The command says so below the table, and not in its JSON."""
    make_table(tmp_path / "main", make_rows([5, 9]))
    write_state(tmp_path / "state.json", {LOG: 20})
    words = ["gaps", "--main-path", str(tmp_path / "main"), "--state-file", str(tmp_path / "state.json")]
    (tmp_path / "p.yaml").write_text(json.dumps({"logs": [{"url": LOG}]}))

    assert main([*words, "-f", str(tmp_path / "p.yaml")]) == 0
    assert "left to the live server" in capsys.readouterr().out
    assert main([*words, "-f", str(tmp_path / "p.yaml"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == [{"source_url": LOG, "start": 6, "end": 9}]
    assert "left to the live server" in err
