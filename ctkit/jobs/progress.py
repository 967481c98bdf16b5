"""The progress of a backfill: counted where entries pass, shown as snapshots.

Counts flow one way: what fetches and what commits tell a `Tally`, a snapshot of it is a `Progress`, and whoever shows
that, on a terminal, in a log file or in a notebook, changes nothing.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ctkit.logs.log import Log
from ctkit.report import Frame, Report, frame_of
from ctkit.visible import first_of

State = Literal["queued", "asking", "waiting", "fetching", "writing", "done", "left", "failed"]

URGENT: tuple[State, ...] = ("failed", "waiting", "asking", "fetching", "writing", "left", "queued", "done")
"""States in the order in which logs are shown."""

ACTIVE: tuple[State, ...] = ("asking", "waiting", "fetching", "writing")
"""States of a log that is being worked on."""

SECONDS_OF_RATE = 15.0
"""A rate is that of the last so many seconds."""

NAMED = 3
"""Logs that the one line of a progress names."""


@dataclass(frozen=True)
class LogProgress:
    """The progress of one log.

    Attributes
    ----------
    source_url, name
        The log; its URL is its name if it has no other.
    wanted
        Entries planned.
    fetched
        Entries that have arrived; once the run has ended, those that are written.
    written
        Entries committed.
    state
        ``"queued"``: its turn has not come. ``"asking"``: nothing has arrived yet. ``"waiting"``: its last answer was
        an error, or there was none. ``"writing"``: all has arrived, and is not committed yet. ``"left"``: another run
        can fetch the rest, which the budget or a stop has left. ``"failed"``: entries could not be fetched.
    why
        What it waits for, or why it failed.
    rate
        Entries fetched per second, lately; None if that is not known yet.
    seconds_left
        How long the rest takes at this rate; None if that is not known.
    """

    source_url: str
    name: str
    wanted: int
    fetched: int
    written: int
    state: State
    why: str = ""
    rate: float | None = None
    seconds_left: float | None = None

    @property
    def status(self) -> str:
        """The state in words.

        Examples
        --------
        >>> LogProgress("https://log.example", "Example", 9, 0, 0, "waiting", "waiting 41 s for 429").status
        'waiting 41 s for 429'
        >>> LogProgress("https://log.example", "Example", 9, 9, 9, "done").status
        'done'
        """
        if self.state == "waiting":
            return self.why or self.state
        return f"{self.state}: {self.why}" if self.why else self.state

    @property
    def counts(self) -> str:
        """What has arrived of what is wanted."""
        return f"{self.fetched:,} of {self.wanted:,}"

    @property
    def pace(self) -> str:
        """Entries per second; "" if they are not known."""
        return "" if self.rate is None else f"{self.rate:,.0f}/s"

    @property
    def time(self) -> str:
        """How long the rest takes; "" if that is not known."""
        if self.seconds_left is None:
            return ""
        minutes = round(self.seconds_left / 60)
        if minutes < 2:
            return f"{self.seconds_left:.0f} s left"
        return f"{minutes} min left" if minutes < 120 else f"{minutes / 60:.1f} h left"


@dataclass(frozen=True, repr=False)
class Progress(Report):
    """The progress of a backfill; given to `on_progress` every second, after each commit, and at the end.

    Attributes
    ----------
    logs
        One for each log with missing entries.
    version
        The table's version after the last commit; None before the first.
    seconds
        Since the start.
    ended
        Whether the run has ended: then its report says the same.
    """

    logs: tuple[LogProgress, ...]
    version: int | None
    seconds: float
    ended: bool = False

    title = "progress"

    @property
    def wanted(self) -> int:
        """Entries planned."""
        return sum(log.wanted for log in self.logs)

    @property
    def fetched(self) -> int:
        """Entries that have arrived."""
        return sum(log.fetched for log in self.logs)

    @property
    def written(self) -> int:
        """Entries committed."""
        return sum(log.written for log in self.logs)

    @property
    def rate(self) -> float | None:
        """Entries fetched per second, lately; None if that is not known yet."""
        rates = [log.rate for log in self.logs if log.rate is not None]
        return sum(rates) if rates else None

    @property
    def seconds_left(self) -> float | None:
        """How long the slowest log takes, of those whose rate is known; None if that is known of none."""
        return max((log.seconds_left for log in self.logs if log.seconds_left is not None), default=None)

    @property
    def total(self) -> LogProgress:
        """All logs as if they were one."""
        states = {log.state for log in self.logs}
        state: State = next((state for state in URGENT if state in states), "done")
        if len(states) > 1 and not self.ended:
            state = "fetching" if self.fetched else "asking"
        name = f"{len(self.logs)} logs"
        counts = self.wanted, self.fetched, self.written
        return LogProgress("", name, *counts, state, "", self.rate, self.seconds_left)

    def most_urgent(self, most: int) -> tuple[tuple[LogProgress, ...], str]:
        """Return the logs that need attention most, and how many others there are, "" if there are none."""
        ordered = sorted(self.logs, key=lambda log: URGENT.index(log.state))
        rest = Counter(log.state for log in ordered[most:])
        named = ", ".join(f"{count} {state}" for state, count in rest.items())
        return tuple(ordered[:most]), f"and {rest.total()} more: {named}" if rest else ""

    def facts(self) -> dict[str, Any]:
        """Return the totals so far, and what logs wait for."""
        states = [log.state for log in self.logs]
        # Why one has failed is told by the report.
        troubled = [log for log in self.logs if log.state in ("waiting", "failed")]
        waiting = [f"{log.name} ({log.why if log.state == 'waiting' else log.state})" for log in troubled]
        return {
            "wanted": self.wanted,
            "fetched": self.fetched,
            "written": self.written,
            **({} if self.version is None else {"version": self.version}),
            **({} if self.rate is None else {"entries_per_second": round(self.rate)}),
            **({} if self.seconds_left is None else {"seconds_left": round(self.seconds_left)}),
            "logs_done": f"{states.count('done')}/{len(states)}",
            **({"troubled": first_of(waiting, NAMED)} if waiting else {}),
        }

    def tables(self) -> dict[str, Frame]:
        """Return a line for each log."""
        lines = [
            {"log": log.name, "wanted": log.wanted, "fetched": log.fetched, "written": log.written, "state": log.status}
            for log in self.logs
        ]
        return {"logs": frame_of(lines)} if lines else {}


@dataclass(eq=False)
class _Count:
    """What is known of one log."""

    wanted: int
    needed: int
    fetched: int = 0
    written: int = 0
    begun: bool = False
    ended: bool = False
    failed: str = ""
    seen: deque[tuple[float, int]] = field(default_factory=deque)

    def rate(self, now: float) -> float | None:
        """Return the entries fetched per second since the oldest look that counts; note this one."""
        self.seen.append((now, self.fetched))
        while len(self.seen) > 2 and self.seen[1][0] <= now - SECONDS_OF_RATE:
            self.seen.popleft()
        since, fetched = self.seen[0]
        return (self.fetched - fetched) / (now - since) if now > since and self.begun and not self.ended else None


class Tally:
    """Counts what a backfill has fetched and written, by log; any thread may tell it.

    Parameters
    ----------
    logs
        By URL.
    wanted
        By URL, how many entries are missing.

    Attributes
    ----------
    commits
        How many commits it was told of.
    """

    def __init__(self, logs: Mapping[str, Log], wanted: Mapping[str, int]) -> None:
        self._logs = logs
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._version: int | None = None
        self._ended = False
        self.commits = 0
        self.plan(wanted, wanted)

    def plan(self, wanted: Mapping[str, int], needed: Mapping[str, int]) -> None:
        """Begin to count: `wanted` entries are missing, and the budget allows to fetch `needed` of them."""
        with self._lock:
            self._counts = {url: _Count(size, needed.get(url, 0)) for url, size in wanted.items()}

    def begin(self, url: str) -> None:
        """Note that a log is asked from now on."""
        with self._lock:
            self._counts[url].begun = True

    def fetch(self, url: str, entries: int) -> None:
        """Count entries that have arrived."""
        with self._lock:
            self._counts[url].fetched += entries

    def lose(self, url: str, why: str) -> None:
        """Note that entries could not be fetched; the last reason is shown."""
        with self._lock:
            self._counts[url].failed = why

    def end(self, url: str) -> None:
        """Note that a log is not asked any more."""
        with self._lock:
            self._counts[url].ended = True

    def write(self, entries: Mapping[str, int], version: int) -> None:
        """Count a commit."""
        with self._lock:
            for url, count in entries.items():
                self._counts[url].written += count
            self._version = version
            self.commits += 1

    def close(self) -> None:
        """Note that the run has ended."""
        with self._lock:
            self._ended = True

    def snapshot(self) -> Progress:
        """Return how far the run is now."""
        now = time.monotonic()
        with self._lock:
            logs = tuple(self._look_at(url, count, now) for url, count in self._counts.items())
            return Progress(logs, self._version, now - self._began, self._ended)

    def _look_at(self, url: str, count: _Count, now: float) -> LogProgress:
        log, rate = self._logs[url], count.rate(now)
        state, why = self._state_of(log, count, now)
        seconds_left = (count.needed - count.fetched) / rate if rate and state in ACTIVE else None
        name = log.name or url
        # What has arrived and was not proven, or came too late, counts no more.
        fetched = count.written if self._ended else count.fetched
        return LogProgress(url, name, count.wanted, fetched, count.written, state, why, rate, seconds_left)

    def _state_of(self, log: Log, count: _Count, now: float) -> tuple[State, str]:
        """Return the state of a log, and why."""
        if count.ended or self._ended:
            if count.written < count.fetched and not self._ended:
                return "writing", ""
            if count.failed:
                return "failed", count.failed
            return ("done" if count.written == count.wanted else "left"), ""
        if not count.begun:
            return "queued", ""
        if (trouble := log.trouble) is not None:
            seconds = round(trouble.resumes - now)
            wait = (
                f"waiting {seconds} s for {trouble.what}" if seconds > 0 else f"{trouble.what}, try {trouble.attempt}"
            )
            return "waiting", wait
        return ("fetching" if count.fetched else "asking"), ""
