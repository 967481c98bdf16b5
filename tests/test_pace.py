"""A host is asked as fast as it answers, and no faster than it allows."""

import gc
import heapq
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from math import inf
from random import Random
from typing import Any

import pytest
from fakes import AGENT, FAST, FakeLog, Serve

from ctkit.demo.embedded import EmbeddedLog, Request, Response
from ctkit.errors import LogUnavailableError
from ctkit.logs.asking import Patience
from ctkit.logs.http import Client
from ctkit.logs.pace import Gate, NoTurnError, Pace, gate_of

PAGE = 1 << 16
LOG = "https://log.example"
NEVER = threading.Event()
TURN = {"tries": 3, "pause": 0.01, "longest": 1}


# What a host does about many requests: `wait` returns 0 and counts the request if it is answered, else the seconds
# until one may be.


class Window:
    """So many requests are answered in each of the windows that begin at multiples of `seconds`."""

    def __init__(self, count: int, seconds: float) -> None:
        self.count, self.seconds = count, seconds
        self.window, self.answered = 0, 0

    def wait(self, now: float) -> float:
        """Count by the clock on the wall."""
        window, into = divmod(now, self.seconds)
        if window != self.window:
            self.window, self.answered = int(window), 0
        if self.answered >= self.count:
            return self.seconds - into
        self.answered += 1
        return 0.0


class SlidingWindow:
    """So many requests are answered in any `seconds`."""

    def __init__(self, count: int, seconds: float) -> None:
        self.seconds, self.times = seconds, deque([-inf] * count, count)

    def wait(self, now: float) -> float:
        """Look at the oldest request that counts."""
        if self.times[0] + self.seconds > now:
            return self.times[0] + self.seconds - now
        self.times.append(now)
        return 0.0


class Bucket:
    """A bucket of `count` tokens, full at first, filled up in `seconds`; a request takes one."""

    def __init__(self, count: int, seconds: float) -> None:
        self.count, self.rate = count, count / seconds
        self.tokens, self.filled_at = float(count), 0.0

    def wait(self, now: float) -> float:
        """Fill the bucket and take a token."""
        self.tokens = min(self.count, self.tokens + (now - self.filled_at) * self.rate)
        self.filled_at = now
        if self.tokens < 1:
            return (1 - self.tokens) / self.rate + 1e-6
        self.tokens -= 1
        return 0.0


Unlimited = partial(Bucket, 1_000_000, 1)
"""Every request is answered."""


class World:
    """A host and its requests in simulated time; there is always another one to be sent."""

    def __init__(
        self, limiter: Any, *, names_a_time: bool = False, latency: Callable[[int], float] = lambda _: 0.1
    ) -> None:
        self.limiter, self.names_a_time, self.latency = limiter, names_a_time, latency
        self.pace, self.now = Pace(), 0.0
        self.answered = self.refused = 0
        self._ends: list[tuple[float, int, float, float]] = []
        self._random = Random(0)

    def run(self, answers: int) -> None:
        """Go on until `answers` more requests are answered."""
        last = self.answered + answers
        while self.answered < last:
            delay = self.pace.delay(self.now, tries=1000)
            if delay <= 0:
                self.pace.sent(self.now)
                seconds = self.latency(len(self._ends) + 1) * self._random.uniform(0.8, 1.2)
                wait = self.limiter.wait(self.now)
                heapq.heappush(self._ends, (self.now + seconds, self.pace.requests, self.now, wait))
            elif self._ends and self._ends[0][0] <= self.now + delay:
                self.now, _, sent, wait = heapq.heappop(self._ends)
                self._end(sent, wait)
            else:
                self.now += delay

    def _end(self, sent: float, wait: float) -> None:
        if wait:
            self.refused += 1
            self.pace.refused(sent, self.now, 1.0, wait if self.names_a_time else None)
        else:
            self.answered += 1
            self.pace.answered(sent, self.now, self.now - sent, PAGE)
        self.pace.ended(self.now, PAGE)

    def rest(self, seconds: float) -> None:
        """Let all requests end, and send none for `seconds`."""
        while self._ends:
            self.now, _, sent, wait = heapq.heappop(self._ends)
            self._end(sent, wait)
        self.now += seconds


@pytest.mark.parametrize("names_a_time", [False, True])
@pytest.mark.parametrize("limiter", [Window, SlidingWindow, Bucket])
@pytest.mark.parametrize(("count", "seconds"), [(35, 60), (10, 1)])
def test_rate_when_the_host_has_a_limit(
    limiter: Callable[[int, float], Any], count: int, seconds: float, names_a_time: bool
) -> None:
    """However a host counts, it is soon read at nearly its limit, with one request in fifty refused or fewer."""
    world = World(limiter(count, seconds), names_a_time=names_a_time)

    world.run(300)
    early, began = world.refused, world.now
    world.run(2000)

    assert early <= 30
    assert world.refused - early <= 0.02 * 2000
    assert 2000 / (world.now - began) >= 0.95 * count / seconds
    assert world.pace.rate == pytest.approx(count / seconds, rel=0.15)


def test_rate_when_the_limit_is_lifted() -> None:
    """A rate eases off as long as the host keeps answering."""
    world = World(SlidingWindow(35, 60))
    world.run(200)
    world.limiter = Unlimited()

    before, began = world.pace.rate, world.now
    world.run(1000)

    assert world.pace.rate > 5 * before
    assert world.now - began < 15 * 60


def test_rate_when_nothing_was_refused() -> None:
    """No rate is known of a host that answers all."""
    world = World(Unlimited())
    world.run(100)
    world.rest(1)

    assert world.pace.rate is None
    assert world.pace.requests == world.answered >= 100


def test_rate_after_an_idle_hour() -> None:
    """Idle time does not make the host look slow."""
    world = World(Window(35, 60))
    world.run(1)
    world.rest(3600)
    world.run(100)

    assert world.pace.rate == pytest.approx(35 / 60, rel=0.5)


def test_concurrency_when_the_host_keeps_up() -> None:
    """Concurrency grows by about one in each round trip, up to its bound."""
    world = World(Unlimited())
    concurrency = [world.pace.concurrency]
    for _ in range(3):
        world.run(200)
        concurrency.append(world.pace.concurrency)

    assert concurrency[0] == 4
    assert concurrency == sorted(concurrency)
    assert concurrency[-1] == 32
    assert world.now > (32 - 4) * 0.08


def test_concurrency_when_it_is_not_used() -> None:
    """One request at a time does not raise a concurrency that was not tried."""
    pace = Pace()
    for now in range(100):
        pace.sent(now)
        pace.answered(now, now + 0.1, 0.1, PAGE)
        pace.ended(now + 0.1)

    assert pace.concurrency == 4


def test_concurrency_when_latency_rises() -> None:
    """A host that answers ever slower is asked less, but never less than at first for that alone."""
    world = World(Unlimited(), latency=lambda under_way: 0.1 * max(1, (under_way / 8) ** 2))
    heights = []
    for _ in range(100):
        world.run(50)
        heights.append(world.pace.concurrency)

    assert min(heights) >= 4
    assert max(heights) < 20


def test_concurrency_when_the_host_is_slower_than_it_was() -> None:
    """A host that stays slow, however little it is asked, is asked as much as it can take after a while."""
    world = World(Unlimited())
    world.run(1000)
    world.latency = lambda _: 1.0
    world.run(200)
    slow = world.pace.concurrency
    world.run(2000)

    assert slow < 8
    assert world.pace.concurrency == 32


def test_latency_is_that_of_pages() -> None:
    """What is small comes sooner, and is no measure; it counts where there is nothing else yet."""
    pace = Pace()
    seen = []
    for latency, size in ((0.1, 100), (0.5, PAGE), (0.1, 100), (0.9, PAGE)):
        pace.sent(0.0)
        pace.answered(0.0, 1.0, latency, size)
        pace.ended(1.0, size)
        seen.append(pace.latency)

    assert seen == [0.1, 0.5, 0.5, pytest.approx(0.55)]


def test_concurrency_when_a_round_fails() -> None:
    """Requests that were under way together halve the concurrency once; a later one does so again, and pauses."""
    pace = Pace()
    for _ in range(4):
        pace.sent(0.0)
    for _ in range(4):
        pace.failed(0.0, 1.0, pause=3.0)
        pace.ended(1.0)
    first = (pace.concurrency, pace.troubles, pace.delay(1.0, tries=8))
    pace.sent(1.0)
    pace.failed(1.0, 2.0, pause=3.0)
    pace.ended(2.0)

    assert first == (2, 1, -inf)
    assert (pace.concurrency, pace.troubles, pace.delay(2.0, tries=8)) == (1, 2, 3.0)


def test_pace_when_a_refused_host_is_probed() -> None:
    """After a refusal one request at a time finds out whether the host answers again, later and later."""
    pace = Pace()
    delays = []
    now = 0.0
    for _ in range(4):
        pace.sent(now)
        assert pace.delay(now, tries=8) == (inf if pace.troubles else -inf)
        pace.refused(now, now, pause=1.0, wait=None)
        pace.ended(now)
        delays.append(pace.delay(now, tries=8))
        now += delays[-1]

    assert delays == [1, 2, 4, 8]


def test_pace_tells_what_it_measured() -> None:
    """Requests, latency and bandwidth are those of the answers so far."""
    pace = Pace()
    before = (pace.requests, pace.latency, pace.bandwidth, pace.rate)
    for start in (0.0, 100.0):
        pace.sent(start)
        pace.answered(start, start + 2, 0.5, PAGE)
        pace.ended(start + 2, PAGE)

    assert before == (0, None, None, None)
    assert (pace.requests, pace.latency, pace.bandwidth) == (2, 0.5, PAGE / 2)


@pytest.mark.parametrize("names_a_time", [False, True])
def test_client_when_the_log_has_a_limit(serve: Serve, names_a_time: bool) -> None:
    """A log with a limit, scaled down from 35 requests a minute, is read by many threads at nearly that limit."""
    fake = FakeLog(size=3)
    fake.limit, fake.limit_names_a_time = (35, 0.7), names_a_time
    answers = 120
    with closing(Client(serve(fake), user_agent=AGENT, patience=Patience(first_wait=0.01))) as client:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: client.get("/checkpoint", bytes, limit=1000), range(answers)))

        assert client.pace.requests == len(fake.requests) == answers + fake.refused
    assert fake.refused <= 25


@pytest.fixture
def gate() -> Gate:
    """Return a gate through which one request may go at a time, and one is under way."""
    gate = Gate()
    gate.pace.concurrency = 1.0
    return gate


def waiting(gate: Gate, run: Callable[[], None]) -> threading.Thread:
    """Start a thread and return when it waits at the gate."""
    before = len(gate._queue)
    thread = threading.Thread(target=run)
    thread.start()
    while len(gate._queue) == before:
        time.sleep(0.001)
    return thread


def enter(gate: Gate, ends: list[object], log: str = LOG, *, name: str = "", urgent: bool = False) -> None:
    """Pass through the gate, and note that it was so."""
    with gate.turn(log, NEVER, **TURN, urgent=urgent):
        ends.append(name or log)


def test_gate_when_somebody_comes_late(gate: Gate) -> None:
    """Who comes when a turn is free does not overtake those who wait for it."""
    order: list[object] = []
    with gate.turn(LOG, NEVER, **TURN):
        thread = waiting(gate, lambda: enter(gate, order, name="first"))
    enter(gate, order, name="late")
    thread.join(5)

    assert order == ["first", "late"]


def test_gate_when_a_log_hangs(gate: Gate) -> None:
    """A log whose requests take up all that may be under way does not hold up another on its host, one at a time."""
    order: list[object] = []
    with gate.turn(LOG, NEVER, **TURN):
        behind = waiting(gate, lambda: enter(gate, order))
        for _ in range(2):
            other = threading.Thread(target=enter, args=(gate, order, "other"))
            other.start()
            other.join(1)
        assert order == ["other", "other"]
        with gate.turn("other", NEVER, **TURN):
            second = waiting(gate, lambda: enter(gate, order, "other"))
            assert order == ["other", "other"]
    behind.join(1)
    second.join(1)

    assert sorted(order[2:]) == [LOG, "other"]


def test_gate_when_somebody_is_urgent(gate: Gate) -> None:
    """What is urgent goes before what is not; otherwise requests get their turn in the order in which they came."""
    order: list[object] = []
    with gate.turn(LOG, NEVER, **TURN):
        plain = [("a", False), ("b", True), ("c", False), ("d", True)]
        threads = [
            waiting(gate, lambda name=name, urgent=urgent: enter(gate, order, name=name, urgent=urgent))
            for name, urgent in plain
        ]
    for thread in threads:
        thread.join(5)

    assert order == ["b", "d", "a", "c"]


def test_gate_when_stopped(gate: Gate) -> None:
    """A thread that waits for its turn ends when it is stopped, and those behind it move up."""
    stop, ends = threading.Event(), list[object]()

    def run() -> None:
        with pytest.raises(NoTurnError) as raised, gate.turn(LOG, stop, **TURN):
            pass
        ends.append(str(raised.value))

    with gate.turn(LOG, NEVER, **TURN):
        first, second = waiting(gate, run), waiting(gate, lambda: enter(gate, ends))
        stop.set()
        first.join(1)
        assert ends == ["stopped before the log answered; run again"]
    second.join(1)

    assert ends[1:] == [LOG]


def test_gate_when_stopped_in_trouble(gate: Gate) -> None:
    """What went wrong tells more than that there was no time for another try."""
    with gate.turn(LOG, NEVER, **TURN) as turn:
        turn.trouble = "ConnectError refused"
    stop = threading.Event()
    stop.set()

    with pytest.raises(NoTurnError) as raised, gate.turn(LOG, stop, **TURN):
        pass
    assert str(raised.value).endswith(turn.trouble)


def test_gate_when_the_host_is_given_up(gate: Gate) -> None:
    """Requests that wait for a log in trouble are given up with its host; another log on it is still asked."""
    ends: list[object] = []

    def run() -> None:
        with pytest.raises(NoTurnError) as raised, gate.turn(LOG, NEVER, **TURN):
            pass
        ends.append(raised.value.status)

    def run_other() -> None:
        with gate.turn("other", NEVER, **TURN) as turn:
            turn.status, turn.latency = 200, 0.01
        ends.append(turn.status)

    with gate.turn("other", NEVER, **TURN):
        with gate.turn(LOG, NEVER, **TURN) as turn:
            gate.pace.troubles = 2
            threads = [*(waiting(gate, run) for _ in range(3)), waiting(gate, run_other)]
            turn.trouble, turn.status = "no luck", 503
        for thread in threads[:3]:
            thread.join(1)
        assert (ends, gate.pace.requests) == ([503] * 3, 2)
    threads[3].join(1)

    assert ends == [503] * 3 + [200]
    assert (gate.pace.requests, gate.pace.troubles) == (3, 0)


def test_gate_is_that_of_the_host(serve: Serve) -> None:
    """All logs of one host share what is known of it, as long as one of them is open; other hosts know nothing."""
    one, two = (Client(serve(FakeLog(name, 3)), user_agent=AGENT, patience=FAST) for name in ("One", "Two"))
    other = Client("http://127.0.0.1:9/one", user_agent=AGENT, patience=FAST)
    with closing(one), closing(two), closing(other):
        before = one.pace.requests
        one.get("/checkpoint", bytes, limit=1000)

        assert one.pace is two.pace
        assert two.pace.requests == before + 1
        assert other.pace is not one.pace
    authority = one.url.split("/")[2]
    gate = gate_of(authority)
    assert gate.pace is one.pace
    del one, two, gate
    gc.collect()
    assert gate_of(authority).pace.requests == 0


def test_client_learns_from_answers(serve: Serve) -> None:
    """Latency and bandwidth are known after the first answer, and redirects count as requests."""

    class Redirecting(EmbeddedLog):
        """Redirects once."""

        def respond(self, request: Request) -> Response:
            """Answer under another path."""
            if request.path == "x":
                return Response(302, b"", headers={"Location": "/redirecting/y"})
            return Response(200, bytes(PAGE))

    with closing(Client(serve(Redirecting("redirecting")), user_agent=AGENT, patience=FAST)) as client:
        client.get("/x", bytes, limit=PAGE)

        assert client.pace.requests == 2
        assert 0 < client.pace.latency < 5
        assert client.pace.bandwidth > 0


@pytest.fixture
def silent() -> Iterator[str]:
    """Return the URL of a host that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_client_when_the_host_is_dead(silent: str, caplog: pytest.LogCaptureFixture) -> None:
    """A dead host is given up by all who ask it, after few requests and few words; who comes later asks once."""
    patience = Patience(tries=3, first_wait=0.01, longest_wait=0.05, timeout=0.2, total=20)
    with closing(Client(silent, user_agent=AGENT, patience=patience)) as client, caplog.at_level(logging.INFO):

        def ask(_: object = None) -> None:
            with pytest.raises(LogUnavailableError, match=r"ReadTimeout.*run again later$"):
                client.get("/x", bytes, limit=9)

        with ThreadPoolExecutor(32) as pool:
            list(pool.map(ask, range(32)))
        requests = client.pace.requests
        ask()
        assert client.pace.requests == requests + 1

    assert requests <= 12
    assert len(caplog.messages) == 1


def test_pace_shows_what_is_known() -> None:
    """`log.pace` in a notebook tells the numbers, and which are not known yet."""
    pace = Pace()
    assert repr(pace) == "Pace(requests=0, concurrency=4, rate=None, latency=None, bandwidth=None, troubles=0)"

    pace.sent(0.0)
    pace.answered(0.0, 0.5, 0.125, PAGE)
    pace.ended(0.5, PAGE)
    pace.rate = 0.58333
    assert repr(pace) == "Pace(requests=1, concurrency=4, rate=0.583, latency=0.125, bandwidth=1.31e+05, troubles=0)"
