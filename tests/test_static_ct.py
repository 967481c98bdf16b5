"""Logs of the Static CT API, well-behaved and not."""

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from blocks import certificates_of, chains_of
from fakes import AGENT, FAST, FakeLog, Serve
from raising import fails

from ctkit.demo.embedded import EmbeddedLog, Request, Response
from ctkit.errors import LogProtocolError, LogUnavailableError
from ctkit.logs.asking import HttpError, stopping
from ctkit.logs.static_ct import StaticCtLog, tile_path
from ctkit.wire.entries import EntryBlock


@pytest.fixture(scope="module")
def fake() -> FakeLog:
    """Return a log of 600 entries whose knobs no test turns."""
    return FakeLog("shared", 600, protocols=["static-ct"])


@pytest.fixture
def small() -> FakeLog:
    """Return a log of 260 entries whose knobs may be turned."""
    return FakeLog("small", 260, protocols=["static-ct"])


def _open(url: str) -> StaticCtLog:
    return StaticCtLog(url, user_agent=AGENT, name="a log", patience=FAST)


def _fingerprint(fake: FakeLog, index: int) -> str:
    return hashlib.sha256(fake.entries[index].chain[0]).hexdigest()


@pytest.mark.parametrize(
    ("number", "path"),
    [
        (0, "000"),
        (999, "999"),
        (1000, "x001/000"),
        (1234067, "x001/x234/067"),
        ((1 << 32) - 1, "x004/x294/x967/295"),
    ],
)
def test_tile_path_groups_digits(number: int, path: str) -> None:
    """The number of a tile is written in groups of three digits, all but the last marked."""
    assert tile_path(number) == path


def test_get_checkpoint_reads_the_note(fake: FakeLog, serve: Serve) -> None:
    """The checkpoint is that of the log, with its signature."""
    with _open(serve(fake) + "/") as log:
        checkpoint = log.get_checkpoint()

    assert (checkpoint.url, checkpoint.tree_size, checkpoint.root_hash) == (log.url, 600, fake.tree.root(600))
    assert checkpoint.verify(fake.public_key).tree_size == 600


@pytest.mark.parametrize(("start", "end"), [(0, 1), (0, 256), (255, 256), (256, 512), (300, 310), (512, 600)])
def test_get_entries_returns_what_was_asked_for(fake: FakeLog, serve: Serve, start: int, end: int) -> None:
    """Every entry of a stretch comes with its index, its certificate and its chain."""
    with _open(serve(fake)) as log:
        block = log.get_entries(start, end)

    expected = fake.entries[start:end]
    assert block.index.tolist() == list(range(start, end))
    assert certificates_of(block) == [entry.certificate for entry in expected]
    assert chains_of(block) == [list(entry.chain) for entry in expected]
    assert block.missing_issuers == ()


@pytest.mark.parametrize(("start", "end", "stop"), [(255, 600, 256), (256, 600, 512), (512, 700, 600)])
def test_get_entries_when_a_tile_ends_the_answer(fake: FakeLog, serve: Serve, start: int, end: int, stop: int) -> None:
    """An answer ends with its tile, and a partial tile with the tree."""
    with _open(serve(fake)) as log:
        block = log.get_entries(start, end)

    assert block.index.tolist() == list(range(start, stop))


def test_get_entries_asks_for_the_tiles_that_the_checkpoint_covers(small: FakeLog, serve: Serve) -> None:
    """Full tiles are asked for as such, the last one by its width, and the checkpoint once."""
    with _open(serve(small)) as log:
        log.get_entries(0, 256)
        log.get_entries(256, 260)

    assert small.paths("checkpoint") == ["checkpoint"]
    assert small.paths("tile/") == ["tile/data/000", "tile/data/001.p/4"]


def test_get_entries_in_many_threads_asks_for_one_checkpoint(serve: Serve) -> None:
    """A backfill that verifies nothing begins in all its threads at once."""
    fake = FakeLog(size=8 * 256)
    barrier = threading.Barrier(8)

    def read(log: StaticCtLog, tile: int) -> int:
        barrier.wait(10)
        return len(log.get_entries(256 * tile, 256 * tile + 256))

    with _open(serve(fake)) as log, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda tile: read(log, tile), range(8))) == [256] * 8

    assert fake.paths("checkpoint") == ["checkpoint"]


def test_get_entries_when_another_partial_tile_is_there(small: FakeLog, serve: Serve) -> None:
    """Where neither the known partial tile nor the full one is there, a newer checkpoint tells the width."""

    class Forgetful(EmbeddedLog):
        """Has only the newest partial tile."""

        def respond(self, request: Request) -> Response:
            width = request.path.partition(".p/")[2]
            if width and int(width) != small.tree_size % 256:
                return Response(404, b"gone")
            return small.respond(request)

    with _open(serve(Forgetful("forgetful"))) as log:
        log.get_checkpoint()
        small.grow(10)
        block = log.get_entries(256, 512)

    assert block.index.tolist() == list(range(256, 270))
    assert small.paths("tile/") == ["tile/data/001", "tile/data/001.p/14"]


def test_get_entries_when_the_tree_has_grown(small: FakeLog, serve: Serve) -> None:
    """An index beyond the known tree is looked for in a newer checkpoint."""
    with _open(serve(small)) as log:
        log.get_checkpoint()
        small.grow(10)
        block = log.get_entries(265, 280)

    assert block.index.tolist() == [265, 266, 267, 268, 269]


def test_get_entries_beyond_the_tip(small: FakeLog, serve: Serve) -> None:
    """An index that the log does not have is not asked for, and not there yet."""
    with _open(serve(small)) as log, fails(LogUnavailableError, start=260, end=270):
        log.get_entries(260, 270)
    assert small.paths("tile/") == []


def test_get_entries_when_an_entry_is_broken(small: FakeLog, serve: Serve) -> None:
    """A broken entry ends the answer before it; from it on, the tile is lost."""
    small.broken_leaves = {7}

    with _open(serve(small)) as log:
        block = log.get_entries(5, 256)
        with fails(LogProtocolError, start=7, end=256):
            log.get_entries(7, 256)

    assert block.index.tolist() == [5, 6]


def test_get_entries_when_a_tile_is_too_large(small: FakeLog, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile beyond the limit is lost as a whole, and the error does not advise to ask for less: there is no less."""
    monkeypatch.setattr("ctkit.logs.static_ct._TILE_LIMIT", 1000)

    with _open(serve(small)) as log, fails(HttpError, too_large=True, start=5, end=200):
        log.get_entries(5, 200)
    assert len(small.paths("tile/")) == 1


def test_get_entries_when_the_tile_is_packed_without_saying_so(small: FakeLog, serve: Serve) -> None:
    """A tile that is served in gzip without a header for it is unpacked."""

    class Silent(EmbeddedLog):
        def respond(self, request: Request) -> Response:
            response = small.respond(replace(request, headers={"accept-encoding": "gzip"}))
            return replace(response, headers={})

    with _open(serve(Silent("silent"))) as log:
        block = log.get_entries(0, 256)

    assert certificates_of(block) == [entry.certificate for entry in small.entries[:256]]


def test_issuers_are_asked_for_once(fake: FakeLog, serve: Serve) -> None:
    """Each issuer is asked for once in the life of a log object."""
    fake.requests.clear()
    with _open(serve(fake)) as log:
        for start in (0, 1, 300):
            log.get_entries(start, 512)

    asked = fake.paths("issuer/")
    assert sorted(asked) == sorted({f"issuer/{hashlib.sha256(d).hexdigest()}" for e in fake.entries for d in e.chain})


def test_issuers_are_asked_for_once_by_all_threads(small: FakeLog, serve: Serve) -> None:
    """Threads that need an issuer at the same time wait for one request."""
    small.latency = 0.05
    with _open(serve(small)) as log, ThreadPoolExecutor() as pool:
        blocks = list(pool.map(lambda _: log.get_entries(0, 1), range(4)))

    assert [chains_of(block) for block in blocks] == [[list(small.entries[0].chain)]] * 4
    assert len(small.paths("issuer/")) == len(small.entries[0].chain)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_get_entries_when_an_issuer_is_unavailable(small: FakeLog, serve: Serve, status: int) -> None:
    """An issuer that is unavailable just now fails the answer, and is asked for again the next time."""
    small.issuer_status = {_fingerprint(small, 3): status}

    with _open(serve(small)) as log:
        with pytest.raises(LogUnavailableError) as raised:
            log.get_entries(3, 9)
        assert isinstance(raised.value.__cause__, HttpError)
        assert raised.value.__cause__.status == status
        small.issuer_status = {}
        block = log.get_entries(3, 9)

    assert (raised.value.start, raised.value.end) == (3, 9)
    assert len(block) == 6


ABSENT = {
    "404": Response(404, b"not found"),
    "400": Response(400, b"bad request"),
    "403 of S3": Response(403, b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "application/xml"),
    "410": Response(410, b"gone"),
    "a page": Response(200, b"<!doctype html><p>Not found", "text/html"),
}
"""What stores say of objects that they do not have."""

each_absent = pytest.mark.parametrize("absent", ABSENT.values(), ids=ABSENT)


class Store(EmbeddedLog):
    """A log in an object store, which has its own answer for what it does not have, or for all that is asked."""

    def __init__(self, fake: FakeLog, absent: Response) -> None:
        super().__init__("store")
        self.fake, self.absent, self.lacks = fake, absent, lambda path: False

    def respond(self, request: Request) -> Response:
        """Answer for what is there."""
        response = self.fake.respond(request)
        return self.absent if response.status == 404 or self.lacks(request.path) else response


@pytest.mark.parametrize("absent", [*ABSENT.values(), Response(200, b"no such key")], ids=[*ABSENT, "a text"])
def test_get_entries_when_a_store_has_no_issuer(small: FakeLog, serve: Serve, absent: Response) -> None:
    """However the log says that it does not have an issuer, that one is left out, named, and not asked for again."""
    store, missing = Store(small, absent), _fingerprint(small, 0)
    store.lacks = lambda path: path == f"issuer/{missing}"

    with _open(serve(store)) as log:
        blocks = [log.get_entries(0, 256)]
        asked = small.paths("issuer/")
        blocks.append(log.get_entries(0, 256))

    expected = [
        [der for der in entry.chain if hashlib.sha256(der).hexdigest() != missing] for entry in small.entries[:256]
    ]
    assert [chains_of(block) for block in blocks] == [expected, expected]
    assert [block.missing_issuers for block in blocks] == [(missing,)] * 2
    assert small.paths("issuer/") == asked


@pytest.mark.parametrize("absent", [ABSENT["400"], ABSENT["403 of S3"], ABSENT["a page"]])
def test_get_entries_when_a_store_answers_for_nothing(small: FakeLog, serve: Serve, absent: Response) -> None:
    """A store that does not answer for what it has, either, is not said to lack an issuer."""
    store = Store(small, absent)

    with _open(serve(store)) as log:
        log.get_checkpoint()
        store.lacks = lambda path: path.startswith(("issuer/", "checkpoint"))
        with pytest.raises((LogUnavailableError, LogProtocolError)):
            log.get_entries(0, 256)


@each_absent
def test_get_entries_when_a_store_has_no_partial_tile(small: FakeLog, serve: Serve, absent: Response) -> None:
    """However the log says that a partial tile has gone, the full one is read."""
    with _open(serve(Store(small, absent))) as log:
        log.get_checkpoint()
        small.grow(512 - 260)
        small.missing_partial_tiles = True
        block = log.get_entries(256, 512)

    assert block.index.tolist() == list(range(256, 512))
    assert list(dict.fromkeys(small.paths("tile/"))) == ["tile/data/001.p/4", "tile/data/001"]


@each_absent
def test_get_entries_when_a_store_has_no_tile(small: FakeLog, serve: Serve, absent: Response) -> None:
    """A tile that is not there is not there yet, and the error says how the log put it."""
    small.missing_tiles = {0}

    with (
        _open(serve(Store(small, absent))) as log,
        pytest.raises(LogUnavailableError, match=f"{absent.status if absent.status != 200 else 'page'}") as raised,
    ):
        log.get_entries(3, 10)
    assert (raised.value.start, raised.value.end) == (3, 10)


@each_absent
def test_prove_when_a_store_has_no_partial_hash_tile(small: FakeLog, serve: Serve, absent: Response) -> None:
    """However the log says that a partial hash tile has gone, the full one is read."""
    store = Store(small, absent)

    with _open(serve(store)) as log:
        head = log.get_checkpoint()
        hashes = log.get_entries(256, 260).leaf_hashes()
        small.grow(512 - 260)
        store.lacks = lambda path: path == "tile/0/001.p/4"
        proven = log.prove(256, hashes, head)

    assert proven.all()


@each_absent
def test_get_checkpoint_when_a_store_of_a_hybrid_has_none(serve: Serve, absent: Response) -> None:
    """However the log says that it has no checkpoint, its signed tree head is asked for."""
    fake = FakeLog("hybrid", 5)
    fake.absent = {"checkpoint"}

    with _open(serve(Store(fake, absent))) as log:
        assert log.get_checkpoint().tree_size == 5


def test_get_entries_when_an_issuer_is_another_certificate(small: FakeLog, serve: Serve) -> None:
    """An issuer with another SHA-256 than its name is asked for again, then refused for the entries that need it."""
    wrong = _fingerprint(small, 3)
    small.wrong_issuers = {wrong}

    with _open(serve(small)) as log, fails(LogProtocolError, start=3, end=9):
        log.get_entries(3, 9)
    assert small.paths("issuer/").count(f"issuer/{wrong}") == FAST.tries


def test_issuer_when_whoever_asked_for_it_was_stopped(small: FakeLog, serve: Serve) -> None:
    """A run that is stopped while it asks for an issuer does not spoil it for another run with the same log."""
    blocks: list[EntryBlock] = []
    stop = threading.Event()
    asked = threading.Event()

    class Slow(EmbeddedLog):
        """Gives no issuer to the run that is stopped."""

        def respond(self, request: Request) -> Response:
            if request.path.startswith("issuer/") and not asked.is_set():
                asked.set()
                stop.wait(5)
                return Response(503, b"later")
            return small.respond(request)

    def run(own: threading.Event) -> None:
        stopping.set(own)
        try:
            blocks.append(log.get_entries(0, 1))
        except LogUnavailableError:
            assert own is stop

    with StaticCtLog(serve(Slow("slow")), user_agent=AGENT, patience=FAST) as log:
        threads = [threading.Thread(target=run, args=(stop,))]
        threads[0].start()
        assert asked.wait(60)
        threads.append(threading.Thread(target=run, args=(threading.Event(),)))
        threads[1].start()
        time.sleep(0.2)
        stop.set()
        for thread in threads:
            thread.join(60)

    assert [chains_of(block) for block in blocks] == [[list(small.entries[0].chain)]]


def test_entry_urls_name_full_tiles() -> None:
    """The URL of an entry is that of its full tile, for one index or many in any order."""
    with _open("log.example/2026h2/") as log:
        urls = log.entry_urls(np.array([256_255, 0, 255, 256_256]))
        none = log.entry_urls(np.array([], np.int64))

    prefix = "https://log.example/2026h2/tile/data"
    assert urls.to_pylist() == [f"{prefix}/x001/000", f"{prefix}/000", f"{prefix}/000", f"{prefix}/x001/001"]
    assert none.to_pylist() == []


def test_entry_bytes_when_tiles_were_read(serve: Serve) -> None:
    """Tiles, full and partial ones, tell how many bytes an entry has; the page size needs no request."""
    fake = FakeLog(size=300, protocols=["static-ct"])

    with _open(serve(fake)) as log:
        log.learn_page_size()
        assert (log.page_size, log.page_size_known, log.entry_bytes, fake.requests) == (256, True, None, [])
        log.get_entries(3, 9)
        log.get_entries(299, 300)

        assert log.entry_bytes == sum(len(entry.tile_leaf) for entry in fake.entries) / 300
