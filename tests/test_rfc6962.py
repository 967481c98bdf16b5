"""Logs of RFC 6962, well-behaved and not."""

import numpy as np
import pytest
from blocks import certificates_of, chains_of
from fakes import AGENT, FAST, FakeLog, Serve
from raising import fails

from ctkit.demo.embedded import Request
from ctkit.errors import LogProtocolError, LogUnavailableError
from ctkit.logs.asking import HttpError
from ctkit.logs.rfc6962 import Rfc6962Log

PAGE = "ct/v1/get-entries"


@pytest.fixture(scope="module")
def fake() -> FakeLog:
    """Return a log of 600 entries whose knobs no test turns."""
    return FakeLog("shared", 600, protocols=["rfc6962"])


def _open(url: str) -> Rfc6962Log:
    return Rfc6962Log(url, user_agent=AGENT, name="a log", patience=FAST)


def _asked(fake: FakeLog) -> list[tuple[int, int]]:
    """Return the requests for entries, half-open."""
    return [(int(query["start"]), int(query["end"]) + 1) for path, query, _ in fake.requests if path == PAGE]


def _read(log: Rfc6962Log, start: int, end: int) -> None:
    while start < end:
        start += len(log.get_entries(start, end))


def test_log_has_its_canonical_url(fake: FakeLog, serve: Serve) -> None:
    """A log opened with a trailing slash has none in its URL."""
    url = serve(fake)

    with _open(url + "/") as log:
        assert (log.url, log.name) == (url, "a log")


def test_get_checkpoint_reads_the_signed_tree_head(fake: FakeLog, serve: Serve) -> None:
    """The checkpoint is that of the log, with its signature."""
    with _open(serve(fake)) as log:
        checkpoint = log.get_checkpoint()

    assert (checkpoint.tree_size, checkpoint.root_hash) == (600, fake.tree.root(600))
    assert checkpoint.verify(fake.public_key) is checkpoint


@pytest.mark.parametrize(("start", "end"), [(0, 1), (0, 256), (255, 257), (599, 600), (17, 99)])
def test_get_entries_returns_what_was_asked_for(fake: FakeLog, serve: Serve, start: int, end: int) -> None:
    """Every entry of a stretch comes with its index, its certificate and its chain."""
    with _open(serve(fake)) as log:
        block = log.get_entries(start, end)

    expected = fake.entries[start:end]
    assert block.index.tolist() == list(range(start, end))
    assert certificates_of(block) == [entry.certificate for entry in expected]
    assert chains_of(block) == [list(entry.chain) for entry in expected]


def test_get_entries_when_the_answer_is_short(serve: Serve) -> None:
    """A short answer is returned as it is, without a second request."""
    fake = FakeLog(size=100, page_size=10)

    with _open(serve(fake)) as log:
        block = log.get_entries(5, 99)

    assert block.index.tolist() == list(range(5, 15))
    assert _asked(fake) == [(5, 99)]


@pytest.mark.parametrize(
    ("knobs", "learned"),
    [({"page_size": 40}, 40), ({"page_alignment": 32}, 32), ({"page_size": 3}, 32)],
    ids=["capped", "aligned", "very few at a time"],
)
def test_page_size_when_answers_are_short(serve: Serve, knobs: dict[str, int], learned: int) -> None:
    """The length of an answer that continues a short one is the log's page size, but no less than 32 entries."""
    fake = FakeLog(size=300)
    vars(fake).update(knobs)

    with _open(serve(fake)) as log:
        log.get_checkpoint()
        before = log.page_size
        _read(log, 28, 155)

        assert (before, log.page_size) == (1024, learned)


def test_page_size_when_later_entries_show_that_it_is_not_the_tip(serve: Serve) -> None:
    """The page size is learned without any question but for entries: one that came from further on tells enough."""
    fake = FakeLog(size=300, page_size=40)

    with _open(serve(fake)) as log:
        log.get_entries(250, 260)
        _read(log, 3, 130)

        assert log.page_size == 40
    assert set(fake.paths("")) == {PAGE}


def test_page_size_when_a_broken_entry_cuts_an_answer(serve: Serve) -> None:
    """An answer that ends before a broken entry teaches nothing."""
    fake = FakeLog(size=600, page_size=256)
    fake.broken_leaves = {296}

    with _open(serve(fake)) as log:
        log.get_checkpoint()
        blocks = [log.get_entries(10, 600), log.get_entries(266, 600)]

        assert log.page_size == 1024
    assert [len(block) for block in blocks] == [256, 30]


@pytest.mark.parametrize(
    ("page_size", "size", "known"), [(32, 600, 32), (100, 600, 100), (2000, 1500, 1024), (256, 100, 1024), (8, 600, 32)]
)
def test_learn_page_size_when_it_is_not_known(serve: Serve, page_size: int, size: int, known: int) -> None:
    """One request tells the page size of any log; a second one is not needed, nor any for a log that was read."""
    fake = FakeLog(size=size, page_size=page_size)

    with _open(serve(fake)) as log:
        assert (log.page_size_known, log.entry_bytes) == (False, None)
        log.learn_page_size()
        log.learn_page_size()

        assert (log.page_size, log.page_size_known) == (known, True)
        assert _asked(fake) == [(0, 1024)]
        page = fake.respond(Request(PAGE, {"start": "0", "end": "1023"}))
        assert log.entry_bytes == len(page.body) / min(page_size, size, 1024)


def test_learn_page_size_when_the_log_is_empty(serve: Serve) -> None:
    """A log without an entry is not asked for one."""
    fake = FakeLog(size=0)

    with _open(serve(fake)) as log:
        log.learn_page_size()

        assert not log.page_size_known
        assert _asked(fake) == []


def test_page_size_when_a_single_answer_is_short(serve: Serve) -> None:
    """One short answer is no evidence: it may be cut at a boundary that is not ours."""
    fake = FakeLog(size=200)
    fake.page_alignment = 32

    with _open(serve(fake)) as log:
        log.get_entries(30, 150)

        assert log.page_size == 1024


def test_page_size_when_the_answer_is_full(fake: FakeLog, serve: Serve) -> None:
    """Answers that bring all that was asked for teach nothing."""
    with _open(serve(fake)) as log:
        for start in range(0, 100, 10):
            log.get_entries(start, start + 10)

        assert log.page_size == 1024


def test_page_size_at_the_tip_of_a_growing_log(serve: Serve) -> None:
    """Answers that are short because the tree ends do not shrink the page size, even where each continues the last."""
    fake = FakeLog(size=20)
    start = 10

    with _open(serve(fake)) as log:
        for growth in (5, 3, 2, 1, 1):
            start += len(log.get_entries(start, start + 50))
            fake.grow(growth)

        assert log.page_size == 1024
    assert [first for first, _ in _asked(fake)] == [10, 20, 25, 28, 30]
    assert set(fake.paths("")) == {PAGE}


@pytest.mark.parametrize("status", [403, 413, 500])
def test_get_entries_when_too_many_are_asked_for(serve: Serve, status: int) -> None:
    """A size error halves the request until it fits, and the page size with it: the next one fits at once."""
    fake = FakeLog(size=600, page_size=1000)
    fake.too_many, fake.too_many_status = 70, status

    with _open(serve(fake)) as log:
        blocks = [log.get_entries(0, 512), log.get_entries(64, 512)]

        assert log.page_size == 64
    assert [block.index.tolist() for block in blocks] == [list(range(64)), list(range(64, 128))]
    assert _asked(fake) == [(0, 512), (0, 256), (0, 128), (0, 64), (64, 128)]


def test_page_size_when_even_few_are_too_many(serve: Serve) -> None:
    """One stretch of large entries is fetched one by one, but does not make all pages that small."""
    fake = FakeLog(size=60)
    fake.too_many = 1

    with _open(serve(fake)) as log:
        block = log.get_entries(0, 60)

        assert log.page_size == 32
    assert block.index.tolist() == [0]


def test_get_entries_when_one_is_too_many(serve: Serve) -> None:
    """Of entries that are refused for their size, only the first is lost, not those after it."""
    fake = FakeLog(size=60)
    fake.too_many = 0

    with _open(serve(fake)) as log, fails(HttpError, status=413, start=0, end=1):
        log.get_entries(0, 4)
    assert _asked(fake) == [(0, 4), (0, 2), (0, 1)]


@pytest.mark.parametrize(("status", "lost"), [(429, (3, 9)), (500, (None, None)), (403, (None, None))])
def test_get_entries_when_the_log_refuses(serve: Serve, status: int, lost: tuple[int | None, int | None]) -> None:
    """A log that is busy gives none of the entries; any other refusal may be due to some of them only."""
    fake = FakeLog(size=20)
    fake.always = status

    with _open(serve(fake)) as log, pytest.raises(HttpError) as raised:
        log.get_entries(3, 9)
    assert (raised.value.status, raised.value.start, raised.value.end) == (status, *lost)


@pytest.mark.parametrize("status", [400, 404])
def test_get_entries_beyond_the_tip(serve: Serve, status: int) -> None:
    """A refusal of an index is no failure of the log: the entry is not there yet."""
    fake = FakeLog(size=20)
    fake.tip_status = status

    with _open(serve(fake)) as log, fails(LogUnavailableError, start=20, end=30):
        log.get_entries(20, 30)
    assert len(fake.requests) == 1


def test_get_entries_when_the_answer_is_empty(serve: Serve) -> None:
    """An answer without entries is tried again; if it stays so, the entry is not there yet."""
    fake = FakeLog(size=20)
    with _open(serve(fake)) as log:
        fake.empty_pages = 2
        block = log.get_entries(0, 20)
        fake.empty_pages = 3
        with fails(LogUnavailableError, start=0, end=20):
            log.get_entries(0, 20)

    assert len(block) == 20


def test_get_entries_when_bodies_are_cut(serve: Serve) -> None:
    """They are asked for again; a log that never sends JSON breaks its protocol, for no entry in particular."""
    fake = FakeLog(size=20)
    with _open(serve(fake)) as log:
        fake.broken_bodies, fake.cut_bodies = 1, 1
        block = log.get_entries(0, 20)
        fake.cut_bodies = 3
        with fails(LogProtocolError, start=None, end=None):
            log.get_entries(0, 20)

    assert len(block) == 20


def test_get_entries_when_an_entry_is_broken(serve: Serve) -> None:
    """A broken entry ends the answer before it; asked for by itself it costs itself only, without another try."""
    fake = FakeLog(size=20)
    fake.broken_leaves = {7}

    with _open(serve(fake)) as log:
        block = log.get_entries(5, 20)
        with fails(LogProtocolError, start=7, end=8):
            log.get_entries(7, 20)

    assert block.index.tolist() == [5, 6]
    assert len(fake.requests) == 2


def test_entry_urls_name_each_entry() -> None:
    """The URL of an entry asks for it alone, with an end that is inclusive as on the wire."""
    with _open("log.example/2026h2/") as log:
        urls = log.entry_urls(np.array([0, 1 << 40]))

    assert urls.to_pylist() == [
        "https://log.example/2026h2/ct/v1/get-entries?start=0&end=0",
        "https://log.example/2026h2/ct/v1/get-entries?start=1099511627776&end=1099511627776",
    ]
