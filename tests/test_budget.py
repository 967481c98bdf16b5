"""Budgets: what a run may cost, who gets how much of it, and what is said of the rest."""

import threading
import time

import pyarrow as pa
import pytest
from fakes import AGENT, FakeLog, check_table
from hypothesis import given
from hypothesis import strategies as st
from raising import fails
from rows import indices_of

from ctkit.errors import LogProtocolError, LogUnavailableError
from ctkit.jobs import fetching
from ctkit.jobs.backfill import backfill
from ctkit.jobs.budget import Requests, share
from ctkit.lake.gaps import find_gaps
from ctkit.lake.table import open_table
from ctkit.logs.asking import Patience
from ctkit.logs.open import open_log

IMPATIENT = Patience(tries=3, first_wait=0.01, longest_wait=0.02)


@given(st.integers(0, 200), st.dictionaries(st.text(max_size=2), st.integers(0, 100), max_size=6))
def test_share_is_fair(total, needs):
    """Nobody gets more than they need, all is given if needed, and those who get less get equal shares, but for one."""
    shares = share(total, needs)

    assert shares.keys() == needs.keys()
    assert sum(shares.values()) == min(total, sum(needs.values()))
    for name, got in shares.items():
        assert 0 <= got <= needs[name]
        assert got == needs[name] or got + 1 >= max(shares.values())


def test_requests_when_a_log_needs_more_than_was_planned():
    """Each log has its share; requests that no share needs, or that another log has left, go to any log."""
    requests = Requests(7, {"a": 2, "b": 4})

    taken = [requests.take(url) for url in "aaaabb"]
    requests.finish("b")
    taken += [requests.take(url) for url in "aaa"]

    assert taken == [True, True, True, False, True, True, True, True, False]
    assert (requests.refused, requests.has_any("a"), requests.has_any("b")) == (True, False, False)


def test_requests_when_there_is_no_limit():
    """Any number may be sent."""
    requests = Requests(None, {"a": 1})

    assert all(requests.take("a") for _ in range(100))
    assert (requests.refused, requests.has_any("a")) == (False, True)


@pytest.fixture
def both(opened):
    """Return two fake logs, one for each protocol, with their clients, which know their sizes."""
    logs = [
        FakeLog("Fake RFC", 1280, protocols=["rfc6962"], page_size=128),
        FakeLog("Fake static", 1280, protocols=["static-ct"]),
    ]
    clients = [opened(log, log.protocols[0], patience=IMPATIENT) for log in logs]
    for log, client in zip(logs, clients, strict=True):
        client.get_checkpoint()
        client.learn_page_size()
        log.requests.clear()
    return logs, clients


def run(clients, table, *, verify="off", **budget):
    """Backfill all that is missing of [0, 1280) of each log."""
    gaps = find_gaps(table, within={client.url: (0, 1280) for client in clients})
    return backfill(clients, gaps, table, verify=verify, **budget)


def test_backfill_when_requests_are_few(tmp_path, both):
    """No more are sent, the logs share them, all they bring is written, and the next run goes on with the rest."""
    logs, (rfc, static) = both
    table = open_table(tmp_path / "staging")

    report = run([rfc, static], table, max_requests=6)

    # Of 10 pages and 5 tiles.
    assert [log.data_requests for log in logs] == [3, 3]
    assert report.written == {rfc.url: 3 * 128, static.url: 3 * 256}
    assert (report.complete, report.stopped_by, report.holes) == (False, ("max_requests",), ())
    assert {log.source_url: (log.wanted, log.requests) for log in report.left.logs} == {
        rfc.url: (7 * 128, 7),
        static.url: (2 * 256, 2),
    }
    report.check()
    check_table(table, {rfc.url: logs[0], static.url: logs[1]}, {rfc.url: (0, 3 * 128), static.url: (0, 3 * 256)})
    assert str(report).startswith("backfill stopped ")
    assert " stopped_by=max_requests left=1408 left_requests=9" in str(report)
    assert "left because of max_requests: run again to go on" in report._repr_html_()

    report = run([rfc, static], table, max_requests=9)
    assert (report.complete, report.stopped_by, report.left.logs) == (True, (), ())
    assert [log.data_requests for log in logs] == [10, 5]
    check_table(table, {rfc.url: logs[0], static.url: logs[1]}, {rfc.url: (0, 1280), static.url: (0, 1280)})


def test_backfill_when_requests_are_few_and_tried_again(tmp_path, both):
    """A retry counts: 8 requests, of which 3 fail, bring 3 pages and 2 tiles."""
    logs, clients = both
    logs[0].busy, logs[1].busy = [503], [429, 502]
    table = open_table(tmp_path / "staging")

    report = run(clients, table, max_requests=8)

    assert [log.data_requests for log in logs] == [4, 4]
    assert list(report.written.values()) == [3 * 128, 2 * 256]
    assert report.stopped_by == ("max_requests",)
    report.check()
    run(clients, table).check()
    check_table(
        table,
        {client.url: log for client, log in zip(clients, logs, strict=True)},
        dict.fromkeys([client.url for client in clients], (0, 1280)),
    )


def test_backfill_when_the_last_request_is_sent_at_the_end(tmp_path, both):
    """A budget that is just enough is no reason for anything to be left."""
    logs, clients = both

    report = run(clients, open_table(tmp_path / "staging"), max_requests=15, max_entries=2560, deadline=600)

    assert (report.complete, report.stopped_by) == (True, ())
    assert sum(log.data_requests for log in logs) == 15


def test_backfill_when_there_are_more_logs_than_requests(tmp_path, both):
    """A log that has no share is not asked at all, and is left, not missing."""
    logs, (rfc, static) = both

    report = run([rfc, static], open_table(tmp_path / "staging"), max_requests=1)

    assert [len(log.requests) for log in logs] == [1, 0]
    assert {log.source_url: log.wanted for log in report.left.logs} == {rfc.url: 1280 - 128, static.url: 1280}
    report.check()


def test_backfill_when_the_page_size_is_learned_under_way(tmp_path, opened):
    """Requests that no plan knew of are sent as long as there are any."""
    log = FakeLog("Unknown", 1280, page_size=128)
    client = opened(log, "rfc6962")
    report = run([client], open_table(tmp_path / "staging"), max_requests=9)

    assert log.data_requests == 9
    assert report.written == {client.url: 9 * 128}
    assert [(left.wanted, left.requests) for left in report.left.logs] == [(128, 1)]


def test_backfill_when_only_one_page_size_is_known(tmp_path, both):
    """A log that shows small pages under way has as many requests as one that was planned well."""
    logs, (rfc, static) = both
    with open_log(rfc.url, user_agent=AGENT, protocol="rfc6962", name=logs[0].name) as unknown:
        report = run([unknown, static], open_table(tmp_path / "staging"), max_requests=8)

    assert [log.data_requests for log in logs] == [4, 4]
    assert report.written == {rfc.url: 4 * 128, static.url: 4 * 256}


def test_backfill_when_a_log_needs_less_than_it_might(tmp_path, both):
    """What a log of unknown page size did not need in the end is for one that is still being read."""
    logs, (rfc, static) = both
    logs[1].latency = 0.3
    logs[1].busy = [503] * 3
    table = open_table(tmp_path / "staging")
    with open_log(rfc.url, user_agent=AGENT, protocol="rfc6962", name=logs[0].name) as unknown:
        gaps = find_gaps(None, within={rfc.url: (0, 100), static.url: (0, 1024)})
        report = backfill([unknown, static], gaps, table, verify="off", max_requests=8)

    # Shares of 4 and 4, of which one log needs 1 and the other 7.
    assert report.complete
    assert [log.data_requests for log in logs] == [1, 7]


def test_backfill_when_entries_are_few(tmp_path, both):
    """No more are written, each log has half of them from its lowest gap on, and no unneeded page is fetched."""
    logs, (rfc, static) = both
    table = open_table(tmp_path / "staging")
    for size, requests in [(150, [2, 1]), (300, [4, 3])]:
        report = run([rfc, static], table, max_entries=300)

        assert (report.stopped_by, report.left.wanted) == (("max_entries",), 2560 - 2 * size)
        assert report.written == {rfc.url: 150, static.url: 150}
        assert indices_of(table, rfc.url) == indices_of(table, static.url) == list(range(size))
        assert [log.data_requests for log in logs] == requests
        report.check()


def test_backfill_when_one_log_misses_few_entries(tmp_path, both):
    """What one log does not need is for the other."""
    _, (rfc, static) = both
    table = open_table(tmp_path / "staging")
    gaps = find_gaps(None, within={rfc.url: (1000, 1010), static.url: (0, 1280)})

    report = backfill([rfc, static], gaps, table, max_entries=400)

    assert report.written == {rfc.url: 10, static.url: 390}


def test_backfill_when_the_time_is_over(tmp_path, both):
    """No request starts after the deadline, those under way are ended soon, and what has come is written."""
    logs, (rfc, static) = both
    logs[0].latency, logs[1].latency = 0.01, 60
    table = open_table(tmp_path / "staging")
    with open_log(rfc.url, user_agent=AGENT, protocol="rfc6962", name=logs[0].name) as slow:
        gaps = find_gaps(table, within={slow.url: (0, 256), static.url: (0, 1280)})
        logs[1].requests.clear()
        report = backfill([slow, static], gaps, table, deadline=5)

    asked = sum(log.data_requests for log in logs)
    assert report.written == {rfc.url: 256, static.url: 0}
    time.sleep(0.3)
    assert sum(log.data_requests for log in logs) == asked
    assert (report.stopped_by, report.holes) == (("deadline",), ())
    assert {log.source_url: log.wanted for log in report.left.logs} == {static.url: 1280}
    report.check()


@pytest.mark.parametrize("verify", ["off", "heads", "entries"])
def test_backfill_when_the_time_is_over_before_the_first_answer(tmp_path, both, verify):
    """A log that is only slow is left, whatever it was asked first; one that refused is a hole, for it may be down."""
    logs, (rfc, static) = both
    logs[0].latency = 30
    logs[1].always = 503
    patient = Patience(tries=50, first_wait=0.1, longest_wait=0.1)
    gaps = find_gaps(None, within={client.url: (0, 1280) for client in (rfc, static)})
    with open_log(static.url, user_agent=AGENT, protocol="static-ct", patience=patient) as refusing:
        report = backfill([rfc, refusing], gaps, open_table(tmp_path / "staging"), verify=verify, deadline=4)

    assert report.stopped_by == ("deadline",)
    assert {log.source_url: log.wanted for log in report.left.logs} == {rfc.url: 1280}
    assert [(hole.source_url, hole.start, hole.end) for hole in report.holes] == [(static.url, 0, 1280)]
    with fails(LogUnavailableError, url=static.url):
        report.check()


@pytest.mark.parametrize("knob", ["cut_bodies", "html_bodies"])
def test_backfill_when_the_time_is_over_and_no_answer_could_be_read(tmp_path, both, knob):
    """A log whose answers are none is a hole, like one that refused."""
    logs, (_, static) = both
    setattr(logs[1], knob, 1 << 30)
    patient = Patience(tries=5000, first_wait=0.1, longest_wait=0.1)
    gaps = find_gaps(None, within={static.url: (0, 1280)})
    with open_log(static.url, user_agent=AGENT, protocol="static-ct", patience=patient) as log:
        report = backfill([log], gaps, open_table(tmp_path / "staging"), verify="off", deadline=1)

    assert [hole.source_url for hole in report.holes] == [static.url] * len(report.holes)
    assert sum(hole.end - hole.start for hole in report.holes) == 1280


def test_backfill_when_the_time_is_over_and_no_issuer_could_be_read(tmp_path, both):
    """Tiles that can be read bring no row as long as their issuers cannot: the log is a hole, not only slow."""
    logs, (_, static) = both
    logs[1].wrong_issuers = set(logs[1].issuers)
    patient = Patience(tries=50, first_wait=60, longest_wait=60)
    gaps = find_gaps(None, within={static.url: (0, 1280)})
    with open_log(static.url, user_agent=AGENT, protocol="static-ct", patience=patient) as log:
        report = backfill([log], gaps, open_table(tmp_path / "staging"), verify="off", deadline=2)

    assert [(hole.start, hole.end) for hole in report.holes] == [(0, 1280)]


@pytest.mark.parametrize(("verify", "deadline"), [("off", 3.0), ("entries", 5.0)])
def test_backfill_when_the_time_is_over_in_the_middle(tmp_path, both, verify, deadline):
    """What a log brought before the deadline is written, proven where asked for; the next run fetches what is left."""
    (log, _), (client, _) = both
    log.latency = 2
    table = open_table(tmp_path / "staging")

    report = run([client], table, deadline=deadline, verify=verify)

    assert report.stopped_by == ("deadline",)
    assert 0 < report.written[client.url] < 1280
    assert report.left.wanted == 1280 - report.written[client.url]
    report.check()
    log.latency = 0
    assert run([client], table).written == {client.url: report.left.wanted}
    check_table(table, {client.url: log}, {client.url: (0, 1280)})


def test_backfill_begins_with_what_needs_few_requests(tmp_path, both, monkeypatch):
    """Where logs take turns, those that are soon done come first, so that a deadline costs the fewest."""
    monkeypatch.setattr(fetching, "LOGS_AT_ONCE", 1)
    _, (rfc, static) = both
    gaps = find_gaps(None, within={rfc.url: (0, 1280), static.url: (0, 256)})
    heard = []
    fetch_blocks = fetching.fetch_blocks

    def listen(log, *words, **more):
        heard.append(log.url)
        return fetch_blocks(log, *words, **more)

    monkeypatch.setattr(fetching, "fetch_blocks", listen)

    backfill([rfc, static], gaps, open_table(tmp_path / "staging")).check()

    assert heard == [static.url, rfc.url]


def test_backfill_when_an_entry_is_broken_too(tmp_path, both):
    """A hole is an error even if the budget left other entries, and does not count those."""
    logs, (rfc, _) = both
    logs[0].broken_leaves = {3}

    report = run([rfc], open_table(tmp_path / "staging"), max_entries=200)

    assert (report.stopped_by, report.left.wanted, report.written) == (("max_entries",), 1080, {rfc.url: 199})
    assert str(report).startswith("backfill incomplete ")
    with fails(LogProtocolError, url=rfc.url):
        report.check()


def test_backfill_when_a_log_is_down_and_requests_are_few(tmp_path, both):
    """A log that had requests and answered none is a hole, though the budget ended before patience did."""
    logs, (rfc, static) = both
    logs[0].down = True

    report = run([rfc, static], open_table(tmp_path / "staging"), max_requests=4)

    assert [log.data_requests for log in logs] == [2, 2]
    assert [(hole.source_url, hole.start, hole.end) for hole in report.holes] == [(rfc.url, 0, 1280)]
    assert (report.stopped_by, report.left.wanted) == (("max_requests",), 1280 - 512)
    with fails(LogUnavailableError, url=rfc.url):
        report.check()


def test_backfill_when_logs_are_many(tmp_path, opened):
    """Each of more logs than are read at a time has its share."""
    logs = [FakeLog(f"Log {number}", 300, page_size=100, seed=number % 3) for number in range(20)]
    clients = [opened(log, "rfc6962") for log in logs]
    for log, client in zip(logs, clients, strict=True):
        client.learn_page_size()
        log.requests.clear()
    gaps = find_gaps(None, within=dict.fromkeys([client.url for client in clients], (0, 300)))
    report = backfill(clients, gaps, open_table(tmp_path / "staging"), max_requests=40)

    assert [log.data_requests for log in logs] == [2] * 20
    assert set(report.written.values()) == {200}


def test_backfill_when_a_thread_cannot_start(tmp_path, opened, monkeypatch):
    """A run that gets no thread for its second log ends with that error, and does not hang."""
    clients = [opened(FakeLog(f"Log {number}", 5000, page_size=100), "rfc6962") for number in range(2)]
    start = threading.Thread.start

    class NoThreadError(RuntimeError):
        pass

    def refuse(thread):
        if thread.name == "log_1":
            time.sleep(0.5)
            raise NoThreadError
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    gaps = find_gaps(None, within=dict.fromkeys([client.url for client in clients], (0, 5000)))
    ended = []

    def fill():
        with pytest.raises(NoThreadError):
            backfill(clients, gaps, open_table(tmp_path / "staging"))
        ended.append(True)

    filling = threading.Thread(target=fill, daemon=True)
    filling.start()
    filling.join(60)

    assert ended


def test_backfill_when_gaps_are_a_table_of_texts(tmp_path, both):
    """Gaps made by hand, with URLs as plain text, work too."""
    _, (rfc, _) = both
    gaps = pa.table({"source_url": [rfc.url] * 2, "start": [9, 3], "end": [10, 4]})

    assert backfill([rfc], gaps, open_table(tmp_path / "staging")).written == {rfc.url: 2}
