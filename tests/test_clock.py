"""What is promised within some time is done then, whether anything comes from a log or not."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import FakeLog, check_table
from rows import LOG, make_batch

from ctkit.jobs import backfill as backfill_module
from ctkit.jobs import prove
from ctkit.jobs.backfill import backfill
from ctkit.lake import write
from ctkit.lake.gaps import find_gaps
from ctkit.lake.table import open_table
from ctkit.ranges import RangeSet
from ctkit.wire.checkpoint import Checkpoint

ANY_TIME = 30
"""Seconds after which a test stops waiting."""


@pytest.fixture
def stalling(opened):
    """Return a log that stalls after 100 of its 300 entries, with its client."""
    fake = FakeLog(size=300, page_size=100, protocols=["rfc6962"])
    fake.go_on, fake.went_on = threading.Event(), False

    def stall(request):
        if int(request.query.get("start", 0)) >= 100:
            fake.went_on |= fake.go_on.wait(ANY_TIME)

    fake.on_request = stall
    log = opened(fake, "rfc6962")
    log.learn_page_size()
    yield fake, log
    fake.go_on.set()


@pytest.mark.parametrize("level", ["off", "entries"])
def test_rows_are_committed_when_nothing_more_comes(tmp_path, stalling, monkeypatch, level):
    """What a log has brought is proven and committed in time, though the log brings nothing after it."""
    fake, log = stalling
    monkeypatch.setattr(prove, "SECONDS_AT_ONCE", 0.05)
    monkeypatch.setattr(write, "SECONDS_PER_COMMIT", 0.05)
    table = open_table(tmp_path / "staging")
    committed = []

    def listen(progress):
        if progress.written:
            committed.append(progress.written)
            fake.go_on.set()

    gaps = find_gaps(None, within={log.url: (0, 300)})
    backfill([log], gaps, table, verify=level, on_progress=listen).check()

    assert (committed[0], committed[-1], fake.went_on) == (100, 300, True)
    check_table(table, {log.url: fake}, {log.url: (0, 300)})


def test_progress_is_reported_when_nothing_comes(tmp_path, stalling, monkeypatch):
    """A run that waits for its log is heard of all the same."""
    fake, log = stalling
    monkeypatch.setattr(backfill_module, "SECONDS_PER_PROGRESS", 0.05)
    heard = []

    def listen(progress):
        heard.append(progress)
        if len(heard) > 2:
            fake.go_on.set()

    gaps = find_gaps(None, within={log.url: (100, 300)})
    backfill([log], gaps, open_table(tmp_path / "staging"), on_progress=listen).check()

    assert [(each.wanted, each.written, each.ended) for each in (heard[0], heard[-1])] == [
        (200, 0, False),
        (200, 200, True),
    ]
    assert fake.went_on


def test_progress_is_reported_after_an_interrupt(tmp_path, stalling, monkeypatch):
    """Rows that are written after Ctrl+C are reported too: the last number is that of the table."""
    _, log = stalling
    monkeypatch.setattr(backfill_module, "SECONDS_PER_PROGRESS", 0.05)
    table = open_table(tmp_path / "staging")
    heard = []

    def interrupt_once(progress):
        heard.append(progress)
        if len(heard) == 1:
            raise KeyboardInterrupt

    report = backfill([log], find_gaps(None, within={log.url: (0, 300)}), table, on_progress=interrupt_once)

    assert heard[-1].written == open_table(tmp_path / "staging").count() == report.written[log.url]


def test_pages_are_passed_on_while_others_trickle_in(monkeypatch):
    """The bound counts from the first page that is held back, not from the last."""
    log = SimpleNamespace(url=LOG, prove=lambda start, leaf_hashes, head: np.ones(len(leaf_hashes), bool))
    clock = [0.0]
    monkeypatch.setattr(prove, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def arrivals():
        for index in range(6):
            clock[0] = index * 0.6 * prove.SECONDS_AT_ONCE
            yield prove.Arrival(LOG, make_batch([index]), (), index, [bytes(32)], np.zeros(1, np.uint8))
        return RangeSet.of()

    head = Checkpoint.remembered(LOG, 6, bytes(32))
    proving = prove.prove_arrivals(log, {LOG: head}, arrivals(), stop=threading.Event())

    assert next(proving).start == 0
    assert clock[0] == 2 * 0.6 * prove.SECONDS_AT_ONCE
    assert [arrival.start for arrival in proving] == [1, 2, 3, 4, 5]


def test_a_commit_is_due_when_a_batch_is_empty(tmp_path, monkeypatch):
    """A batch without rows lets time pass: what came before it is committed without what comes after."""
    table = open_table(tmp_path / "staging")

    def batches():
        yield make_batch([1])
        monkeypatch.setattr(write, "SECONDS_PER_COMMIT", 0.0)
        yield make_batch([9]).slice(1)
        yield make_batch([2])

    assert [rows.num_rows for rows in write.write_batches(table, batches())] == [1, 1]
