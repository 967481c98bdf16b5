"""Every wanted index arrives exactly once, in order, or is named in a hole."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctkit.errors import LogError, LogProtocolError, LogUnavailableError
from ctkit.logs.asking import NotAskedError, may_ask, stopping
from ctkit.logs.fetch import fetch_blocks
from ctkit.logs.log import Log
from ctkit.ranges import RangeSet
from ctkit.wire.entries import EntryBlock

Hole = tuple[int, int]


class PlainLog:
    """A log without a network: entries are their index, and some are missing.

    Attributes
    ----------
    broken
        Indices that cannot be read; each costs as many indices as its value says.
    away
        Indices from which on the log has nothing of what is asked for.
    poison
        Indices that spoil every answer they are part of.
    answer_size
        Largest number of entries in one answer.
    """

    url = "https://log.example"

    def __init__(self, page_size: int = 8, answer_size: int = 1000) -> None:
        self.page_size = page_size
        self.answer_size = answer_size
        self.broken: dict[int, int] = {}
        self.away: set[int] = set()
        self.poison: set[int] = set()
        self.dead = False
        self.asked: list[tuple[int, int]] = []

    def get_entries(self, start: int, end: int, wanted: RangeSet | None = None) -> EntryBlock:
        """Return entries up to the first that is missing."""
        self.asked.append((start, end))
        if self.dead:
            raise LogProtocolError(self.url, "a page for people")
        if start in self.away:
            raise LogUnavailableError(self.url, "away", start=start, end=end)
        if not self.poison.isdisjoint(range(start, end)):
            raise LogUnavailableError(self.url, "internal error")
        if start in self.broken:
            raise LogProtocolError(self.url, "broken", start=start, end=start + self.broken[start])
        index = np.arange(start, min(end, start + self.answer_size))
        bad = np.isin(index, [*self.broken, *self.away])
        index = index[: bad.argmax()] if bad.any() else index
        empty = np.zeros((len(index), 2), np.int64)
        offsets = np.zeros(len(index) + 1, np.int64)
        return EntryBlock(index, index, index.astype(np.uint16), b"", empty, empty, offsets, offsets[:0], ())


def _wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something to happen; the bound is there for what never does."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _indices(block: EntryBlock, wanted: NDArray[np.bool_]) -> list[int]:
    return block.index[wanted].tolist()


def _fetch(
    log: Log,
    wanted: RangeSet,
    *,
    stop: threading.Event | None = None,
    decode: Callable[[EntryBlock, NDArray[np.bool_]], Any] = _indices,
    **options: Any,
) -> Generator[Any, None, RangeSet]:
    """Fetch blocks; without the signs that nothing comes."""
    fetching = fetch_blocks(log, wanted, stop=stop or threading.Event(), decode=decode, **options)
    try:
        while True:
            if (result := next(fetching)) is not None:
                yield result
    except StopIteration as end:
        return end.value
    finally:
        fetching.close()


def _run(log: Log, wanted: RangeSet, workers: int = 4) -> list[list[int] | LogError]:
    return list(_fetch(log, wanted, workers=workers))


def _holes(results: list[list[int] | LogError]) -> list[Hole]:
    return [(result.start, result.end) for result in results if isinstance(result, LogError)]


def _fetched(results: list[list[int] | LogError]) -> list[int]:
    return [index for result in results if not isinstance(result, LogError) for index in result]


def _fetch_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fetch ")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Fail if threads of the pool survive the test."""
    yield
    deadline = time.monotonic() + 60
    while _fetch_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _fetch_threads() == []


@pytest.mark.parametrize("ahead", [1, 3])
def test_fetch_starts_no_more_threads_than_it_keeps_busy(ahead: int) -> None:
    """However many threads there may be, one page at a time takes one."""
    threads = set[str]()

    class Watched(PlainLog):
        """Notes who asks."""

        def get_entries(self, start: int, end: int, wanted: RangeSet | None = None) -> EntryBlock:
            threads.add(str(threading.get_ident()))
            return super().get_entries(start, end, wanted)

    fetched = _fetch(Watched(page_size=1), RangeSet.of((0, 200)), ahead=lambda: ahead)

    assert [index for result in fetched for index in result] == list(range(200))
    assert len(threads) <= ahead


def test_fetch_when_nothing_is_wanted() -> None:
    """Without a wanted index nothing is asked and nothing comes."""
    log = PlainLog()

    assert _run(log, RangeSet.of()) == []
    assert log.asked == []


def test_fetch_when_answers_are_short() -> None:
    """A short answer is continued where it stopped, or where the next wanted index is."""
    log = PlainLog(page_size=100, answer_size=10)

    results = _run(log, RangeSet.of((5, 25), (60, 61), (90, 95)))

    assert results == [[*range(5, 15)], [*range(15, 25)], [60], [90, 91, 92, 93, 94]]
    assert log.asked == [(5, 95), (15, 95), (60, 95), (90, 95)]


FAR_APART = {*range(16), *range(24, 40), *range(48, 64)}
LOSSES: dict[str, tuple[int, dict[str, Any], list[Hole], list[Hole]]] = {
    "a broken entry": (8, {"broken": {3: 1}}, [(0, 16)], [(3, 4)]),
    "a tile that is broken from an entry on": (8, {"broken": {3: 5}}, [(0, 4), (6, 7), (9, 12)], [(3, 7)]),
    "a broken entry that is not wanted": (8, {"broken": {3: 1}}, [(2, 3), (4, 5)], []),
    "many broken entries": (1, {"broken": dict.fromkeys(range(50), 1)}, [(0, 52)], [(i, i + 1) for i in range(50)]),
    "pages that are away": (8, {"away": {9, 16}}, [(0, 4), (6, 40)], [(9, 16), (16, 24)]),
    "pages that are away far from each other": (
        8, {"away": FAR_APART}, [(0, 80)], [(i, i + 8) for i in range(0, 80, 8) if i in FAR_APART]
    ),
    "a broken entry and a page that is away": (8, {"broken": {3: 1}, "away": {16}}, [(0, 40)], [(3, 4), (16, 24)]),
    "entries that spoil their page": (
        256, {"poison": {3, 4, 100, 255, 300}}, [(0, 1024)], [(i, i + 1) for i in (3, 4, 100, 255, 300)]
    ),
}  # fmt: skip


@pytest.mark.parametrize(("page_size", "knobs", "wanted", "holes"), LOSSES.values(), ids=LOSSES)
def test_fetch_when_something_is_lost(
    page_size: int, knobs: dict[str, Any], wanted: list[Hole], holes: list[Hole]
) -> None:
    """Each loss is a hole of its own, with the error that the log raised; all else that is wanted is fetched."""
    log = PlainLog(page_size)
    vars(log).update(knobs)

    results = _run(log, RangeSet.of(*wanted))

    rest = RangeSet.of(*wanted).minus(RangeSet.of(*holes))
    assert _holes(results) == holes
    assert _fetched(results) == [index for each in rest for index in range(each.start, each.end)]
    assert [type(result) for result in results if isinstance(result, LogError)] == [
        LogProtocolError if start in log.broken else LogUnavailableError for start, _ in holes
    ]


@pytest.mark.parametrize(("dead", "requests"), [(True, 4 + 2 + 4), (False, 4 + 4)])
def test_fetch_when_the_log_is_dead(dead: bool, requests: int) -> None:
    """A log that answers nowhere is left alone soon, and every wanted index is named in a hole."""
    log = PlainLog(page_size=8)
    log.dead, log.away = dead, set(range(8_000))

    results = _run(log, RangeSet.of((4, 4000), (5000, 8000)), workers=2)

    assert _holes(results) == [(4, 8), (8, 16), (16, 24), (24, 32), (32, 8000)]
    assert len(log.asked) == requests
    assert isinstance(results[-1], LogUnavailableError)


@pytest.mark.parametrize("tip", [800, 792])
def test_fetch_when_many_pages_at_the_front_are_away(tip: int) -> None:
    """However many pages are lost, what follows is fetched, even if the last page is not there either."""
    log = PlainLog(page_size=8)
    log.away = set(range(240)) | set(range(tip, 800))

    results = _run(log, RangeSet.of((0, 800)), workers=2)

    assert _fetched(results) == list(range(240, tip))
    assert _holes(results) == [(i, i + 8) for i in range(0, 800, 8) if i in log.away]
    assert len(log.asked) <= 100 + 4 * 30 / 3


@pytest.mark.parametrize("poison", [0, 1, 311, 512, 1022, 1023])
@pytest.mark.parametrize("wanted", [(0, 1024), (0, 5000)])
def test_fetch_when_an_entry_spoils_its_page(wanted: Hole, poison: int) -> None:
    """An entry that fails every request with it is found by halves, also where nothing but its page is wanted."""
    log = PlainLog(page_size=1024)
    log.poison = {poison}

    results = _run(log, RangeSet.of(wanted))

    assert _holes(results) == [(poison, poison + 1)]
    assert len(_fetched(results)) == wanted[1] - 1
    vain = [start for start, end in log.asked if start <= poison < end]
    assert len(vain) <= 11 + 1
    assert len(log.asked) <= 3 * 11 + 1 + 4


def test_fetch_when_a_whole_page_is_spoilt() -> None:
    """A page without a sound entry is not asked for entry by entry, while the others are fetched."""
    log = PlainLog(page_size=256)
    log.poison = set(range(256, 512))

    results = _run(log, RangeSet.of((0, 1024)), workers=1)

    assert _fetched(results) == [*range(256), *range(512, 1024)]
    assert len(log.asked) <= 3 + 2 * (2 * 9 + 1)
    assert _holes(results)[-1][1] == 512


def test_fetch_reads_ahead_within_bounds() -> None:
    """No more pages are asked for than twice the workers beyond what was taken."""
    log = PlainLog(page_size=1)
    fetching = _fetch(log, RangeSet.of((0, 1000)), workers=2)

    next(fetching)
    _wait_until(lambda: len(log.asked) > 1)
    time.sleep(0.2)
    asked = len(log.asked)
    fetching.close()

    assert asked <= 5


def test_fetch_reads_ahead_as_far_as_it_may() -> None:
    """Whoever fetches from many logs at once says how many pages each may have; one always may."""
    log = PlainLog(page_size=1)
    may = [0]
    wanted = RangeSet.of((0, 1000))
    fetching = _fetch(log, wanted, ahead=lambda: may[0])

    for may[0], asked in (0, 1), (0, 2), (5, 7), (5, 8):
        next(fetching)
        _wait_until(lambda expected=asked: len(log.asked) >= expected)
        time.sleep(0.1)
        assert len(log.asked) == asked
    fetching.close()


def test_fetch_when_the_page_size_is_learned() -> None:
    """Pages planned after the log's page size is known have that size."""
    log = PlainLog(page_size=100)

    def decode(block: EntryBlock, wanted: NDArray[np.bool_]) -> list[int]:
        log.page_size = 10
        return _indices(block, wanted)

    results = list(_fetch(log, RangeSet.of((0, 600)), workers=1, decode=decode))

    assert _fetched(results) == list(range(600))
    assert (log.asked[0], log.asked[-1]) == ((0, 100), (590, 600))


def test_fetch_decodes_in_worker_threads() -> None:
    """What is expensive is done by as many threads as there are processors, however many fetch."""
    fetching = _fetch(
        PlainLog(),
        RangeSet.of((0, 200)),
        decode=lambda block, wanted: threading.current_thread(),
    )

    threads = set(fetching)

    assert {thread.name for thread in threads} == {"decode"}
    assert len(threads) <= (os.cpu_count() or 1)
    assert len([thread for thread in threading.enumerate() if thread.name == "decode"]) <= (os.cpu_count() or 1)


def test_fetch_when_decoding_fails() -> None:
    """An error of the caller's own function is raised, not made a hole."""

    def decode(block: EntryBlock, wanted: NDArray[np.bool_]) -> list[int]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(_fetch(PlainLog(), RangeSet.of((0, 20)), decode=decode))


class WaitingLog(PlainLog):
    """A log that asks to wait long before each answer, as http does: the wait ends with the thread's event.

    What ended the waits is noted: the event, or that they have been too long.
    """

    def __init__(self, page_size: int = 8, answer_size: int = 1000) -> None:
        super().__init__(page_size, answer_size)
        self.ends: list[bool] = []

    def get_entries(self, start: int, end: int, wanted: RangeSet | None = None) -> EntryBlock:
        """Wait from the third page on."""
        if start >= 16:
            self.asked.append((start, end))
            self.ends.append(stopping.get().wait(60))
            raise LogUnavailableError(self.url, "stopped")
        return super().get_entries(start, end)


def test_fetch_when_stopped() -> None:
    """Setting the event ends the iterator at once with what has arrived, without a hole and without a new request."""
    log, stop = WaitingLog(page_size=8), threading.Event()
    fetching = _fetch(log, RangeSet.of((0, 8000)), workers=2, stop=stop)
    results = [next(fetching), next(fetching)]
    _wait_until(lambda: len(log.asked) == 4)

    threading.Timer(0.1, stop.set).start()
    results += list(fetching)

    assert results == [[*range(8)], [*range(8, 16)]]
    _wait_until(lambda: log.ends == [True, True])
    assert len(log.asked) == 4


def test_fetch_when_stopped_in_the_middle_of_a_page() -> None:
    """What a page has got before the event is set arrives, though the page is not complete."""
    log, stop = WaitingLog(page_size=1000, answer_size=8), threading.Event()

    def stop_when_it_waits() -> None:
        _wait_until(lambda: len(log.asked) == 3)
        stop.set()

    threading.Thread(target=stop_when_it_waits).start()
    results = list(_fetch(log, RangeSet.of((0, 1000)), stop=stop))

    assert results == [[*range(8)], [*range(8, 16)]]


def test_fetch_when_stopped_while_a_failing_log_is_asked_further_on() -> None:
    """A log that fails because the fetching was stopped is not given up for that."""
    stop = threading.Event()

    class Stopping(PlainLog):
        """Stops the fetching when it is asked for a single entry."""

        def get_entries(self, start: int, end: int, wanted: RangeSet | None = None) -> EntryBlock:
            """Have nothing."""
            if end - start == 1:
                stop.set()
            raise LogUnavailableError(self.url, "away", start=start, end=end)

    results = list(_fetch(Stopping(), RangeSet.of((0, 40)), workers=2, stop=stop))

    assert _holes(results) == [(0, 8), (8, 16), (16, 24), (24, 32)]


def test_fetch_when_stopped_before_it_begins() -> None:
    """An event that is set already means that nothing is asked."""
    log, stop = PlainLog(), threading.Event()
    stop.set()

    assert list(_fetch(log, RangeSet.of((0, 80)), stop=stop)) == []
    assert log.asked == []


def test_fetch_when_closed() -> None:
    """Closing the iterator ends all waits and asks for nothing more; the caller's event stays as it is."""
    log, stop = WaitingLog(page_size=8), threading.Event()
    fetching = _fetch(log, RangeSet.of((0, 8000)), workers=2, stop=stop)
    next(fetching)
    _wait_until(lambda: len(log.asked) == 4)

    fetching.close()

    _wait_until(lambda: not _fetch_threads())
    assert log.ends == [True, True]
    assert not stop.is_set()
    assert len(log.asked) == 4


def _left(fetching: Iterator[list[int] | LogError]) -> tuple[list[list[int] | LogError], list[Hole]]:
    """Return what comes, and what is returned as left."""
    results = []
    while True:
        try:
            results.append(next(fetching))
        except StopIteration as end:
            return results, [(each.start, each.end) for each in end.value]


def test_fetch_returns_what_is_left_when_stopped() -> None:
    """What did not arrive before the event was set is returned: of pages under way, and of those never asked for."""
    log, stop = WaitingLog(page_size=8), threading.Event()
    threading.Timer(0.3, stop.set).start()

    results, left = _left(_fetch(log, RangeSet.of((0, 8), (9, 30), (70, 80)), stop=stop))

    assert results == [[*range(8)], [*range(9, 16)]]
    assert left == [(16, 30), (70, 80)]


@pytest.mark.parametrize("workers", [1, 4])
def test_fetch_returns_what_is_left_when_no_more_is_allowed(workers: int) -> None:
    """Requests under way end, what they bring arrives, errors are told, and all else is left."""

    class Rationed(PlainLog):
        """Sends three requests."""

        def get_entries(self, start: int, end: int, wanted: RangeSet | None = None) -> EntryBlock:
            """Ask the thread's budget, as http does."""
            if start < 24 and may_ask.get()():
                return super().get_entries(start, end)
            may_ask.get()()
            raise NotAskedError(self.url, "not asked for")

    log, allowed = Rationed(page_size=8), iter([True, True, True])
    log.broken = {8: 1}
    fetching = _fetch(
        log,
        RangeSet.of((0, 100)),
        workers=workers,
        allowed=lambda: next(allowed, False),
    )

    results, left = _left(fetching)

    indices = set(_fetched(results)) | {index for start, end in _holes(results) for index in range(start, end)}
    assert len(log.asked) == 3
    assert list(RangeSet.of(*left)) == list(RangeSet.of(*((i, i + 1) for i in range(100) if i not in indices)))


def test_fetch_when_no_more_is_allowed_ends_at_once() -> None:
    """The rest is not tried page by page, and a log that may not be asked any more is not called dead."""

    class Rationed(PlainLog):
        """Has nothing, and lets itself be asked three times."""

        def get_entries(self, start: int, end: int, wanted: RangeSet | None = None) -> EntryBlock:
            """Ask the thread's budget, as http does."""
            self.asked.append((start, end))
            if may_ask.get()():
                raise LogUnavailableError(self.url, "away", start=start, end=end)
            raise NotAskedError(self.url, "not asked for")

    for rations in (1, 3):
        log, allowed = Rationed(page_size=8), iter([True] * rations)
        fetching = _fetch(
            log,
            RangeSet.of((0, 8_000)),
            workers=1,
            ahead=lambda: 1,
            allowed=lambda allowed=allowed: next(allowed, False),
        )

        results, left = _left(fetching)

        assert _holes(results) == [(page * 8, page * 8 + 8) for page in range(rations)]
        assert left == [(rations * 8, 8_000)]
        assert len(log.asked) <= rations + 4


def test_fetch_when_all_has_come_leaves_nothing() -> None:
    """Nothing is left where each index has arrived or is in a hole."""
    log = PlainLog(page_size=8)
    log.away = set(range(8, 4000))

    assert _left(_fetch(log, RangeSet.of((0, 4000))))[1] == []


STOPPED_RUN = """
import socket, threading
from ctkit.logs.fetch import fetch_blocks
from ctkit.logs.open import open_log
from ctkit.ranges import RangeSet

silent = socket.create_server(("127.0.0.1", 0))
stop = threading.Event()
threading.Timer(0.3, stop.set).start()
log = open_log(f"http://127.0.0.1:{silent.getsockname()[1]}", user_agent="ct@example.org", protocol="rfc6962")
fetching = fetch_blocks(log, RangeSet.of((0, 9000)), stop=stop, decode=lambda block, _: len(block))
print([result for result in fetching if result])
"""


def test_fetch_when_stopped_while_a_log_is_silent() -> None:
    """A process that stops fetching ends soon, though requests wait for a log that accepts them and never answers."""
    ended = subprocess.run([sys.executable, "-c", STOPPED_RUN], capture_output=True, text=True, timeout=20)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[]\n", "")


UNATTENDED_RUN = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from test_fetch import PlainLog, _fetch
from ctkit.ranges import RangeSet

class WaitingLog(PlainLog):
    def get_entries(self, *asked):
        # Which ends after all that `concurrent.futures` does at the end of the process.
        threading.main_thread().join()
        return super().get_entries(*asked)

def run():
    print(list(_fetch(WaitingLog(), RangeSet.of((0, 20)))) == [[*range(8)], [*range(8, 16)], [*range(16, 20)]])

threading.Thread(target=run).start()
"""


def test_fetch_when_the_main_thread_has_ended() -> None:
    """What arrives then is still decoded: a backfill may be left to a thread."""
    folder = os.path.dirname(__file__)
    ended = subprocess.run([sys.executable, "-c", UNATTENDED_RUN, folder], capture_output=True, text=True, timeout=60)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", "")


indices = st.integers(0, 100)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(indices, indices), max_size=8),
    st.dictionaries(indices, st.integers(1, 30), max_size=6),
    st.sets(indices, max_size=6),
    st.sets(indices, max_size=6),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_fetch_accounts_for_every_index(
    pairs: list[tuple[int, int]],
    broken: dict[int, int],
    away: set[int],
    poison: set[int],
    page_size: int,
    answer_size: int,
) -> None:
    """Whatever the gaps and the failures, each wanted index is in one block or one hole, and both ascend."""
    log = PlainLog(page_size, answer_size)
    log.broken, log.away, log.poison = broken, away, poison
    wanted = RangeSet.of(*pairs)

    results = _run(log, wanted, workers=2)

    fetched, holes = _fetched(results), RangeSet.of(*_holes(results))
    every = [index for stretch in wanted for index in range(stretch.start, stretch.end)]
    lost = [index for index in every if holes.contains(np.array([index]))[0]]
    assert sorted(fetched + lost) == every
    assert fetched == sorted(fetched)
    assert all(a[1] <= b[0] for a, b in pairwise(_holes(results)))
    assert all(wanted.contains(np.array([a, b - 1])).all() for a, b in _holes(results))
    assert not set(fetched) & (set(broken) | away | poison)
