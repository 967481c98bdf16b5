"""Backfill: gaps of real logs behind a real server become rows of a real table, or named holes."""

import contextlib
import errno
import multiprocessing
import os
import signal
import threading
import time

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from fakes import AGENT, FakeLog, check_table, each_protocol
from raising import fails
from rows import commits_of, indices_of

from ctkit.errors import LogUnavailableError, ParameterError, TableError
from ctkit.jobs.backfill import backfill
from ctkit.lake import gaps as gaps_module
from ctkit.lake import write
from ctkit.lake.gaps import find_gaps
from ctkit.lake.table import hold, open_table
from ctkit.logs.asking import Patience
from ctkit.logs.open import open_log
from ctkit.schema import GAP_SCHEMA, row_schema

IMPATIENT = Patience(tries=2, first_wait=0.01, longest_wait=0.02)


@pytest.fixture
def both(opened):
    """Return two fake logs, one for each protocol, with their clients."""
    logs = [
        FakeLog("Fake RFC", 700, protocols=["rfc6962"], page_size=100),
        FakeLog("Fake static", 600, protocols=["static-ct"]),
    ]
    return logs, [opened(log, patience=IMPATIENT) for log in logs]


def by_url(logs, clients):
    """Return the fake logs by the URL of their clients."""
    return {client.url: log for log, client in zip(logs, clients, strict=True)}


def gaps_of(*ranges):
    """Return a gap table from (url, start, end)."""
    rows = [dict(zip(GAP_SCHEMA.names, each, strict=True)) for each in ranges]
    return pa.Table.from_pylist(rows, schema=GAP_SCHEMA)


def test_backfill_of_two_logs_at_once(tmp_path, both):
    """Each wanted entry of both protocols becomes exactly one row, equal to the log's entry, and no other does."""
    logs, (rfc, static) = both
    table = open_table(tmp_path / "staging")
    within = {rfc.url: [(0, 1), (99, 302), (699, 700)], static.url: [(0, 300), (511, 513), (590, 600)]}
    gaps = gaps_of(*((url, *pair) for url, pairs in within.items() for pair in pairs))

    report = backfill([rfc, static], gaps, table)

    check_table(table, by_url(logs, (rfc, static)), within)
    assert report.complete
    assert report.wanted == report.written == {rfc.url: 205, static.url: 312}
    assert (report.holes, report.unreadable, report.missing_issuers) == ((), 0, {})
    report.check()
    assert "written=517" in str(report)
    assert "517" in report._repr_html_()


def test_backfill_when_there_is_nothing_to_do(tmp_path, both):
    """No gaps, no request, no commit."""
    logs, clients = both

    report = backfill(clients, GAP_SCHEMA.empty_table(), open_table(tmp_path / "staging"))

    assert report.complete
    assert report.wanted == {}
    assert commits_of(tmp_path / "staging") == ["00000000000000000000.json"]
    assert not logs[0].paths("ct/v1/get-entries")


def test_backfill_when_a_gap_is_of_another_log(tmp_path, both):
    """A gap of a log that was not given is an error before anything is asked or written."""
    _, clients = both

    with fails(ParameterError, keys=("gaps",)):
        backfill(clients, gaps_of(("https://other.example", 0, 1)), open_table(tmp_path / "staging"))


def test_backfill_when_one_log_is_down(tmp_path, both):
    """A dead log does not stop the other; its whole stretch is named, and running again completes the table."""
    logs, (rfc, static) = both
    table = open_table(tmp_path / "staging")
    within = {rfc.url: (0, 700), static.url: (0, 600)}
    logs[0].down = True

    report = backfill([rfc, static], find_gaps(None, table, within=within), table)

    assert not report.complete
    assert report.written == {rfc.url: 0, static.url: 600}
    missing = sorted(index for hole in report.holes for index in range(hole.start, hole.end))
    assert missing == list(range(700))
    assert {hole.source_url for hole in report.holes} == {rfc.url}
    with pytest.raises(LogUnavailableError) as raised:
        report.check()
    assert raised.value.url == rfc.url
    assert str(raised.value).count("run again") == str(raised.value).count("; run again to fetch them") == 1
    assert "Fake-rfc" in report._repr_html_() or rfc.url in report._repr_html_()

    logs[0].down = False
    again = backfill([rfc, static], find_gaps(None, table, within=within), table)
    assert again.wanted == again.written == {rfc.url: 700}
    check_table(table, by_url(logs, (rfc, static)), within)


@each_protocol
def test_backfill_when_certificates_are_unreadable(tmp_path, opened, protocol):
    """A certificate that cannot be read keeps its bytes and hashes, is counted, and is no hole."""
    log = FakeLog("Odd", 300, protocols=[protocol], unreadable=[0, 150, 299])
    table, client = open_table(tmp_path / "staging"), opened(log)

    report = backfill([client], gaps_of((client.url, 0, 300)), table)

    assert (report.unreadable, report.complete) == (3, True)
    check_table(table, {client.url: log}, {client.url: (0, 300)})


def test_backfill_follows_an_old_table(tmp_path, both):
    """DER goes as base64 text into a table that holds it so."""
    logs, (rfc, _) = both
    DeltaTable.create(tmp_path / "old", row_schema("string"), partition_by=["seen_date"])
    table = open_table(tmp_path / "old")

    backfill([rfc], gaps_of((rfc.url, 0, 50)), table)

    check_table(table, by_url(logs, both[1]), {rfc.url: (0, 50)})


def test_backfill_names_the_log_as_main_does(tmp_path, opened):
    """A log without a name of its own is called as in main, and by its URL where main does not know it."""
    log = FakeLog("As the live server says", 20)
    client, main = opened(log), open_table(tmp_path / "main")
    backfill([client], gaps_of((client.url, 0, 5)), main)
    client.name = None

    for name, known in ((log.name, main), (client.url, None)):
        table = open_table(tmp_path / f"staging-{known is None}")
        backfill([client], gaps_of((client.url, 5, 20)), table, main=known)
        check_table(table, {client.url: log}, {client.url: (5, 20)}, source_names={client.url: name})


def test_backfill_when_seen_is_the_time_of_fetch(tmp_path, both):
    """With seen="fetched" rows have the time of their download, in today's partition, as the live server's have."""
    logs, (rfc, _) = both
    table = open_table(tmp_path / "staging")
    before = int(time.time() * 1000)

    backfill([rfc], gaps_of((rfc.url, 0, 5)), table, seen="fetched")

    check_table(table, by_url(logs, both[1]), {rfc.url: (0, 5)}, seen=False)
    seen = pa.table(table.scan(columns=["seen"]))["seen"].to_pylist()
    assert all(before <= moment.timestamp() * 1000 <= time.time() * 1000 for moment in seen)


def test_backfill_tells_its_progress(tmp_path, both, monkeypatch):
    """The caller's thread hears how many rows are committed; the last call has all of them."""
    monkeypatch.setattr(write, "ROWS_PER_COMMIT", 200)
    _, (rfc, _) = both
    heard = []

    backfill(
        [rfc],
        gaps_of((rfc.url, 0, 700)),
        open_table(tmp_path / "staging"),
        on_progress=lambda progress: heard.append((threading.current_thread(), progress)),
    )

    written = [progress.written for _, progress in heard]
    assert (written[0], written[-1], sorted(written)) == (0, 700, written)
    assert {(thread, progress.wanted) for thread, progress in heard} == {(threading.main_thread(), 700)}
    assert {progress.version or 0 for _, progress in heard} <= {0, 1, 2, 3, 4}
    assert [progress.ended for _, progress in heard] == [False] * (len(heard) - 1) + [True]


def test_backfill_when_it_is_interrupted(tmp_path, both, monkeypatch):
    """What has arrived when Ctrl+C comes is written; the next run asks for the rest only, and nothing is twice."""
    monkeypatch.setattr(write, "ROWS_PER_COMMIT", 100)
    logs, (rfc, static) = both
    # However slow the first commit is, there is something left by then.
    logs[0].latency, logs[1].latency = 0.05, 60
    table = open_table(tmp_path / "staging")
    within = {rfc.url: (0, 700), static.url: (0, 600)}

    def interrupt(progress):
        if progress.written and not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    interrupted = threading.Event()
    stopped = backfill([rfc, static], find_gaps(None, table, within=within), table, on_progress=interrupt)

    logs[1].latency = 0
    kept = table.count()
    assert 0 < kept < 1300
    assert (sum(stopped.written.values()), stopped.left.wanted, stopped.holes) == (kept, 1300 - kept, ())
    assert (stopped.stopped_by, stopped.title) == (("stop",), "backfill stopped")
    report = backfill([rfc, static], find_gaps(None, table, within=within), table)
    assert sum(report.written.values()) == 1300 - kept
    check_table(table, by_url(logs, (rfc, static)), within)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetch ")]


def test_backfill_made_twice(tmp_path, both):
    """Gaps that were filled after they were found are left alone: some by another run, all by this very call."""
    logs, (rfc, _) = both
    table = open_table(tmp_path / "main")
    gaps = find_gaps(table, within={rfc.url: (0, 700)})
    backfill([rfc], gaps_of((rfc.url, 100, 120), (rfc.url, 650, 700)), open_table(tmp_path / "main"))

    first = backfill([rfc], gaps, table)
    second = backfill([rfc], gaps, table)

    assert (first.wanted, second.wanted) == ({rfc.url: 630}, {})
    assert second.complete
    check_table(table, by_url(logs, both[1]), {rfc.url: (0, 700)})


def test_backfill_made_twice_asks_the_table_only_if_it_moved(tmp_path, both, monkeypatch):
    """Gaps are taken as they are while the table is at the version that they were found in."""
    _, (rfc, _) = both
    table = open_table(tmp_path / "main")
    gaps = find_gaps(table, within={rfc.url: (0, 10)})
    monkeypatch.setattr(gaps_module, "find_gaps", lambda *_, **__: pytest.fail("the table did not move"))

    assert backfill([rfc], gaps, table).written == {rfc.url: 10}


def test_backfill_into_a_new_table_does_not_ask_it(tmp_path, both, monkeypatch):
    """A table without rows cannot have filled any gap, whenever it was made."""
    _, (rfc, _) = both
    gaps = find_gaps(None, within={rfc.url: (0, 10)})
    monkeypatch.setattr(gaps_module, "find_gaps", lambda *_, **__: pytest.fail("the table is empty"))

    assert backfill([rfc], gaps, open_table(tmp_path / "staging")).written == {rfc.url: 10}


def _backfill_many(path: str, url: str, ready) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        clients = [open_log(f"{url}/{at}", user_agent=AGENT, protocol="rfc6962") for at in range(100)]
        gaps = gaps_of(*((client.url, 0, 10) for client in clients))
        threading.Timer(0.05, ready.set).start()
        backfill(clients, gaps, open_table(path))


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.1])
def test_backfill_of_many_logs_when_it_is_interrupted_at_once(tmp_path, serve, delay):
    """An interrupt while many logs are being started ends the run."""
    log = FakeLog("Slow", 20)
    log.latency = 1.0
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_backfill_many, args=(str(tmp_path / "main"), serve(log), ready))
    process.start()
    assert ready.wait(120)
    time.sleep(delay)
    os.kill(process.pid, signal.SIGINT)
    process.join(120)
    ended = not process.is_alive()
    process.kill()

    assert ended


def test_backfill_when_it_is_interrupted_twice(tmp_path, both, monkeypatch):
    """A second Ctrl+C does not give the table away while a commit is still under way."""
    _, (rfc, _) = both
    table = open_table(tmp_path / "main")
    committing, go_on, heard = threading.Event(), threading.Event(), []
    write_files = write.write_files

    def slow(*arguments):
        committing.set()
        go_on.wait(30)
        return write_files(*arguments)

    def interrupt_twice() -> None:
        committing.wait(30)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    monkeypatch.setattr(write, "write_files", slow)
    interrupter = threading.Thread(target=interrupt_twice)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        backfill([rfc], gaps_of((rfc.url, 0, 50)), table, on_progress=heard.append)
    interrupter.join()

    with pytest.raises(TableError), hold(open_table(tmp_path / "main")):
        pass
    go_on.set()
    wait_until = time.monotonic() + 60
    while not heard[-1].ended and time.monotonic() < wait_until:
        time.sleep(0.05)
    assert (open_table(tmp_path / "main").count(), heard[-1].ended, heard[-1].written) == (50, True, 50)


def test_backfill_when_a_commit_fails(tmp_path, both, monkeypatch):
    """A failed commit ends the run with an error; what was committed before stays, and the next run goes on."""
    monkeypatch.setattr(write, "ROWS_PER_COMMIT", 100)
    logs, (rfc, static) = both
    table = open_table(tmp_path / "staging")
    within = {rfc.url: (0, 700), static.url: (0, 600)}
    calls = []
    write_files = write.write_files

    def fail_third(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_files(*arguments, **options)

    monkeypatch.setattr(write, "write_files", fail_third)
    with pytest.raises(TableError) as raised:
        backfill([rfc, static], find_gaps(None, table, within=within), table)
    assert raised.value.__cause__.errno == errno.ENOSPC

    kept = open_table(tmp_path / "staging").count()
    assert len(calls) == 3
    assert 200 <= kept < 1300
    backfill([rfc, static], find_gaps(None, table, within=within), table)
    check_table(table, by_url(logs, (rfc, static)), within)


def test_backfill_when_the_table_is_held(tmp_path, both):
    """A second run into one table is refused with words, and asks the log for nothing."""
    logs, (rfc, _) = both
    table = open_table(tmp_path / "staging")

    with hold(table), pytest.raises(TableError):
        backfill([rfc], gaps_of((rfc.url, 0, 5)), open_table(tmp_path / "staging"))

    assert indices_of(table, rfc.url) == []
    assert not logs[0].paths("ct/v1/get-entries")
