"""How fast one host is asked: learned from its answers, and shared by all logs on it."""

import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from ctkit.logs.deadline import POLL
from ctkit.logs.trouble import Trouble

_FIRST_CONCURRENCY = 4.0
_LARGEST_CONCURRENCY = 32.0
_LARGEST_EASE = 1 / 4
"""Largest part of itself by which a learned rate grows, while as many answers come as had shown it."""
_RISING = 2.0, 0.1
"""Latency counts as rising above the least seen multiplied by the first, plus the second in seconds."""
_SMALL = 1 << 14
"""Bytes: an answer with entries is larger, except for a few single entries."""

_IDLE = 60.0
"""Idle seconds after which a new count begins: hosts count requests over a minute at the longest."""

_LONGEST_PAUSE = 120.0

_QUIET = 60.0
"""Seconds between two log lines about the troubles of one host."""


class Pace:
    """What is known of the pace of one host. Not thread-safe; a `Gate` is.

    It neither waits nor looks at a clock: times are given, in seconds of a monotonic clock.

    Concurrency rises by one in each round trip while all of it is used, and is halved by each round trip that meets
    trouble (429, 5xx, no answer), or falls a little where latency rises. A rate is learned when the host answers again
    after a 429: it is the number of answers since the last such moment, divided by the time they took. Requests are
    then spaced accordingly, and the rate grows a little with each answer, the less the closer to the limit it proved
    to be.

    Attributes
    ----------
    concurrency : float
        Requests that may be under way at the same time.
    rate : float or None
        Requests a second that the host is known to allow; None until it refuses one.
    latency : float or None
        Seconds until an answer with entries begins, smoothed; before the first such answer, of any other.
    requests : int
        Sent so far.
    troubles : int
        Consecutive rounds that met trouble, with no answer between them.
    """

    def __init__(self) -> None:
        self.concurrency = _FIRST_CONCURRENCY
        self.rate: float | None = None
        self.latency: float | None = None
        self.requests = 0
        self.troubles = 0
        self._under_way = 0
        # Nothing is sent before the time that the host named, the end of our own pause, and what the rate allows.
        self._resume_at = self._pause_until = self._next_at = float("-inf")
        # The fate of requests sent before the last trouble was known says nothing new about it.
        self._cut_at = float("-inf")
        self._refusing, self._refused_until = False, float("-inf")
        # Answers since the host last answered again after a refusal, or since it was idle.
        self._answers, self._counted_from = 0, float("-inf")
        # How many answers showed the rate, and whether it is what holds requests back.
        self._horizon, self._ease, self._paced = 1, _LARGEST_EASE, False
        self._least_latency = float("inf")
        self._bytes, self._busy, self._busy_from, self._ended_at = 0, 0.0, 0.0, float("-inf")

    def __repr__(self) -> str:
        known = {"rate": self.rate, "latency": self.latency, "bandwidth": self.bandwidth}
        shown = "".join(f", {name}={value and f'{value:.3g}'}" for name, value in known.items())
        return f"Pace(requests={self.requests}, concurrency={self.concurrency:.3g}{shown}, troubles={self.troubles})"

    @property
    def bandwidth(self) -> float | None:
        """Bytes a second of all answers with entries, while any was under way; None before the first one."""
        return self._bytes / self._busy if self._bytes and self._busy else None

    @property
    def limited(self) -> bool:
        """Whether the host has refused requests because there were too many (429): it is up, but must be heeded."""
        return self._refusing or self.rate is not None

    @property
    def resumes(self) -> float:
        """When the host is asked again, after a pause of ours or of its own wish."""
        return max(self._resume_at, self._pause_until)

    def named_delay(self, now: float) -> float:
        """Return the seconds until the time that the host named in ``Retry-After``."""
        return self._resume_at - now

    def delay(self, now: float, tries: int, *, first: bool = False) -> float:
        """Return the seconds until a request may be sent: infinite while too many are under way.

        Parameters
        ----------
        tries
            Rounds of trouble after which the host is given up: each further request is sent without a pause.
        first
            Whether the log has no other request under way: one may be sent unless the host refuses, so that a log that
            hangs does not delay others on its host.
        """
        most = 1 if self._refusing or self.troubles > 1 else int(self.concurrency)
        if self._under_way >= most and (self._refusing or not first):
            return float("inf")
        at = max(self._resume_at, self._next_at)
        return (at if self.troubles >= tries else max(at, self._pause_until)) - now

    def sent(self, now: float) -> None:
        """Count a request that is sent now."""
        if not self._under_way:
            # Waiting for a turn is not idling.
            if now - max(self._ended_at, self._resume_at, self._pause_until, self._next_at) > _IDLE:
                self._answers, self._counted_from = 0, now
            self._busy_from = now
        self.requests += 1
        self._under_way += 1
        if self.rate is not None:
            spacing = 1 / self.rate
            self._paced = now < self._next_at + spacing
            # A request that is sent a little late does not delay the next.
            self._next_at = max(self._next_at, now - spacing) + spacing

    def ended(self, now: float, size: int = 0) -> None:
        """Count a finished request, whatever its result, and the bytes that came."""
        self._under_way -= 1
        self._ended_at = now
        if size >= _SMALL:
            self._bytes += size
            self._busy += now - self._busy_from
            self._busy_from = now

    def answered(self, sent: float, now: float, latency: float, size: int) -> None:
        """Learn from an answer of `size` bytes to the request sent at `sent`, which still counts as under way."""
        self._answers += 1
        if not self._refusing:
            self.troubles = 0
            if self.rate is not None and self._paced:
                self.rate *= 1 + self._ease / self._horizon
                self._ease = min(self._ease * 1.01, _LARGEST_EASE)
        elif sent >= self._cut_at:
            self._learn_rate(sent, now)
        if self._under_way >= int(self.concurrency):
            self.concurrency = min(self.concurrency + 1 / self.concurrency, _LARGEST_CONCURRENCY)
        self._learn_latency(sent, now, latency, size)

    def _learn_rate(self, sent: float, now: float) -> None:
        """Learn from the first answer after a refusal."""
        self._refusing, self.troubles = False, 0
        # This answer opens the next count. It could have come at any time since the host was last known to refuse.
        answers, seconds = self._answers - 1, (self._refused_until + now) / 2 - self._counted_from
        if answers:
            shown = answers / seconds
            if self.rate is not None and shown > self.rate / 2:
                self._ease /= 4
            self.rate, self._horizon = shown, answers
            self._next_at = sent + 1 / shown
        self._answers, self._counted_from = 1, now

    def _learn_latency(self, sent: float, now: float, latency: float, size: int) -> None:
        if size < _SMALL:
            # Tree heads and issuers come sooner than pages, whatever the load.
            self.latency = self.latency or latency
            return
        if self.latency is None or self._least_latency == float("inf"):
            self.latency = latency
        self.latency += (latency - self.latency) / 8
        self._least_latency = min(self._least_latency, self.latency)
        factor, more = _RISING
        if self.latency > factor * self._least_latency + more and sent >= self._cut_at:
            self._cut_at = now
            if self.concurrency >= _FIRST_CONCURRENCY + 1:
                self.concurrency = max(self.concurrency * 3 / 4, _FIRST_CONCURRENCY)
            else:
                # Slow with so few requests: that is what the host is like now.
                self._least_latency = self.latency

    def refused(self, sent: float, now: float, pause: float, wait: float | None) -> None:
        """Learn from a 429.

        Parameters
        ----------
        pause
            Seconds to wait where no rate is known; doubled in each further round of trouble.
        wait
            Seconds for which the host asks to be left alone.
        """
        self._heed(now, wait)
        if self._is_news(sent, now):
            self._refusing, self._refused_until = True, max(now, self._resume_at)
            pause = (pause if self.rate is None else 1 / self.rate) * 2 ** (self.troubles - 1)
            self._pause_until = now + min(pause, _LONGEST_PAUSE)

    def failed(self, sent: float, now: float, pause: float, wait: float | None = None) -> None:
        """Learn from a 5xx, or from a request without a whole answer; parameters as for `refused`.

        A single failure halves the concurrency; only a second one with no answer in between leads to a pause.
        """
        self._heed(now, wait)
        if self._is_news(sent, now) and self.troubles > 1:
            self._pause_until = now + min(pause * 2 ** (self.troubles - 2), _LONGEST_PAUSE)

    def _heed(self, now: float, wait: float | None) -> None:
        if wait is not None:
            self._resume_at = max(self._resume_at, now + wait)

    def _is_news(self, sent: float, now: float) -> bool:
        if sent < self._cut_at:
            return False
        self._cut_at = now
        self.troubles += 1
        self.concurrency = max(self.concurrency / 2, 1.0)
        return True


class NoTurnError(Exception):
    """A request may not be sent; the text says why, and what to do.

    Attributes
    ----------
    status
        The HTTP status that led to it.
    retry_after
        Seconds for which the host asks to be left alone.
    """

    def __init__(self, reason: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after = retry_after


@dataclass
class Turn:
    """A request that may be sent, and its outcome.

    Attributes
    ----------
    sent
        When the turn came, on the monotonic clock.
    latency
        Seconds until the answer began; None where none did.
    size
        Bytes of the answer, unpacked.
    status
        HTTP status; None where no whole answer came.
    trouble
        Why to ask more slowly, such as a 429 or a connection that was reset; "" if there is no reason.
    wait
        Seconds for which the host asks to be left alone.
    """

    sent: float
    latency: float | None = None
    size: int = 0
    status: int | None = None
    trouble: str = ""
    wait: float | None = None


@dataclass(eq=False)
class _Waiting:
    """A thread that waits for its turn, and is notified when that may have come."""

    log: str
    urgent: bool
    called: threading.Condition


class Gate:
    """Lets the requests of any number of threads to one host pass, in the order in which they came.

    Urgent ones go first, and a log without a request under way need not wait behind the requests of others.

    Attributes
    ----------
    pace
        What is known of the host; read only.
    troubles
        By the URL of a log, what keeps it from answering.
    """

    def __init__(self) -> None:
        self.pace = Pace()
        self.troubles: dict[str, Trouble] = {}
        self._lock = threading.Lock()
        self._queue: deque[_Waiting] = deque()
        self._under_way: Counter[str] = Counter()
        self._in_trouble: set[str] = set()
        self._last = Turn(0.0)
        self._suppressed, self._logged_at = 0, float("-inf")

    @contextmanager
    def turn(
        self, log: str, stop: threading.Event, *, tries: int, pause: float, longest: float, urgent: bool = False
    ) -> Iterator[Turn]:
        """Wait for a turn, and learn from its outcome when the context ends.

        Parameters
        ----------
        log
            The URL of the log that is asked.
        stop
            Ends the wait when it is set.
        tries
            Consecutive rounds of trouble after which the host is given up: requests that wait for a log that met some
            get no turn any more, and later ones pass one at a time.
        pause
            Seconds of the first pause after trouble.
        longest
            Longest wait, in seconds, for a time that the host named.
        urgent
            Whether it goes before requests that are not.

        Raises
        ------
        NoTurnError
            `stop` was set, the host is given up, or it asks to be left alone for longer.
        """
        turn = Turn(self._wait(_Waiting(log, urgent, threading.Condition(self._lock)), stop, tries, longest))
        try:
            yield turn
        finally:
            with self._lock:
                self._learn(log, turn, time.monotonic(), pause)
                self._under_way -= Counter([log])
                self._call(log)

    def _wait(self, mine: _Waiting, stop: threading.Event, tries: int, longest: float) -> float:
        log = mine.log
        with self._lock:
            before = sum(waiting.urgent for waiting in self._queue) if mine.urgent else len(self._queue)
            self._queue.insert(before, mine)
            troubles = self.pace.troubles
            try:
                while True:
                    now = time.monotonic()
                    if stop.is_set():
                        why = f": {self._last.trouble}" if log in self._in_trouble else "; run again"
                        raise NoTurnError(f"stopped before the log answered{why}")
                    self._check_named(now, longest)
                    if log in self._in_trouble and self.pace.troubles >= max(tries, troubles + 1):
                        message = f"the host has answered no request: {self._last.trouble}"
                        raise NoTurnError(message, status=self._last.status)
                    first = not self._under_way[log] and self._first_of(log) is mine
                    delay = self.pace.delay(now, tries, first=first) if first or self._queue[0] is mine else POLL
                    if delay <= 0:
                        self.pace.sent(now)
                        self._under_way[log] += 1
                        return now
                    mine.called.wait(min(delay, POLL))
            finally:
                self._queue.remove(mine)
                self._call(log)

    def _first_of(self, log: str) -> _Waiting | None:
        return next((waiting for waiting in self._queue if waiting.log == log), None)

    def _call(self, log: str) -> None:
        """Notify those whose turn may have come: the first of all, and the first of this log."""
        if self._queue:
            self._queue[0].called.notify()
        if waiting := self._first_of(log):
            waiting.called.notify()

    def _learn(self, log: str, turn: Turn, now: float, pause: float) -> None:
        if turn.trouble:
            self._last = turn
            self._in_trouble.add(log)
            learn = self.pace.refused if turn.status == 429 else self.pace.failed
            learn(turn.sent, now, pause, turn.wait)
        elif turn.status is not None and turn.latency is not None:
            self._in_trouble.discard(log)
            self.pace.answered(turn.sent, now, turn.latency, turn.size)
        self.pace.ended(now, turn.size)

    def check(self, longest: float) -> None:
        """Raise `NoTurnError` if the host asks to be left alone for more than `longest` seconds from now."""
        with self._lock:
            self._check_named(time.monotonic(), longest)

    def _check_named(self, now: float, longest: float) -> None:
        seconds = self.pace.named_delay(now)
        if seconds > longest:
            message = f"the log asks to be left alone for another {seconds:.0f} seconds; run again after that"
            raise NoTurnError(message, status=429, retry_after=seconds)

    def news(self) -> int:
        """Count a trouble; return how many troubles a log line would now stand for, 0 if none is due yet."""
        with self._lock:
            self._suppressed += 1
            now = time.monotonic()
            if now - self._logged_at < _QUIET:
                return 0
            count, self._suppressed, self._logged_at = self._suppressed, 0, now
            return count


_gates: WeakValueDictionary[str, Gate] = WeakValueDictionary()
_gates_lock = threading.Lock()


def gate_of(authority: str) -> Gate:
    """Return the gate of a host, given as ``host:port``; the same one for as long as it is in use."""
    with _gates_lock:
        return _gates.setdefault(authority, Gate())
