"""Many logs are fetched from at once, within the budget of a run."""

import queue
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ctkit.arguments import Verify
from ctkit.errors import LogError, LogUnavailableError
from ctkit.jobs.budget import Budget, Requests, share
from ctkit.jobs.plan import plan_ranges
from ctkit.jobs.progress import Tally
from ctkit.jobs.prove import Arrival, prove_arrivals
from ctkit.lake.provenance import Provenance, metadata_of
from ctkit.logs.deadline import POLL
from ctkit.logs.fetch import ask, fetch_blocks, unanswered
from ctkit.logs.log import Log
from ctkit.ranges import NOTHING, RangeSet
from ctkit.visible import get_logger
from ctkit.wire.checkpoint import Checkpoint, UnreadableHeadError
from ctkit.wire.entries import EntryBlock

logger = get_logger(__name__)

READ_AHEAD = 16
"""Batches that may wait for the writer, of about 20 kB to 5 MB each."""

PAGES_AHEAD = 64
"""Pages, of all logs together, that are fetched ahead of the writer."""

LOGS_AT_ONCE = 16
"""Logs that are read at a time; the others wait their turn."""

_GRACE = 5.0
"""Seconds after the end of a run in which entries that have arrived may still be proven."""

_NOTHING = Arrival("", pa.record_batch({}), (), 0)
"""Nothing has arrived for a while; a commit may be due all the same."""


class Fetching:
    """Fetches from many logs at once, within the budget.

    Attributes
    ----------
    left
        By URL, what was left because of the budget or a stop; complete when the arrivals have ended.
    heads
        By URL, the tree head that was verified.
    unsigned
        Logs whose tree heads have no verified signature, because their keys are not known.
    """

    def __init__(
        self,
        logs: Mapping[str, Log],
        wanted: Mapping[str, RangeSet],
        budget: Budget,
        read: Callable[[Log, EntryBlock, NDArray[np.bool_]], Arrival],
        verify: Verify,
        stop: threading.Event,
        tally: Tally,
    ) -> None:
        self._logs, self._read, self._verify, self._stop, self._tally = logs, read, verify, stop, tally
        self.heads: dict[str, Checkpoint] = {}
        self.unsigned: list[str] = []
        sizes = {url: ranges.size for url, ranges in wanted.items()}
        entries = sizes if budget.max_entries is None else share(budget.max_entries, sizes)
        parts = {url: ranges.split(entries[url]) for url, ranges in wanted.items()}
        self._wanted = {url: first for url, (first, _) in parts.items() if len(first)}
        self.left = {url: rest for url, (_, rest) in parts.items() if len(rest)}
        self._limits = {"max_entries": bool(self.left), "max_requests": False, "deadline": False, "stop": False}
        tally.plan(sizes, {url: first.size for url, first in self._wanted.items()})
        planned = {log.source_url: log for log in plan_ranges(logs, self._wanted).logs}
        # While the page size is a guess, the plan's requests may be too few; one for each entry is always enough.
        needs = {url: log.requests if logs[url].page_size_known else log.wanted for url, log in planned.items()}
        self._requests = Requests(budget.max_requests, needs)
        # Logs that need few requests go first, so that a deadline leaves as few logs as possible.
        self._order = sorted(planned, key=lambda url: planned[url].requests)
        self._unfinished = set(planned)
        self._arrivals: queue.Queue[Arrival | LogError | None] = queue.Queue(READ_AHEAD)
        self._expired = self._given_up = False
        self._hurry = threading.Event()

    @property
    def stopped_by(self) -> tuple[str, ...]:
        """Names of the limits that were reached."""
        return tuple(name for name, is_spent in self._limits.items() if is_spent)

    def arrivals(self, seconds: float | None) -> Generator[Arrival | LogError, None, None]:
        """Yield what arrives, and `_NOTHING` while nothing does, to the end or until `seconds` have passed."""
        threading.Thread(target=self._watch, args=(seconds,), name="deadline", daemon=True).start()
        fetching: list[Future[None]] = []
        with ThreadPoolExecutor(max(1, min(len(self._order), LOGS_AT_ONCE)), "log") as pool:
            try:
                for url in self._order:
                    fetching.append(pool.submit(self._fetch, url))
                for _ in fetching:
                    while (arrival := self._next()) is not None:
                        yield arrival
            finally:
                # After a failed commit nothing more can be written: let the fetching threads end.
                self._given_up = True
                self._stop.set()
        self._hurry.set()
        for log in fetching:
            log.result()

    def _watch(self, seconds: float | None) -> None:
        """Stop the run after `seconds`; let proofs go on for `_GRACE` after its end."""
        if not self._stop.wait(None if seconds is None else min(max(seconds, 0), threading.TIMEOUT_MAX)):
            self._expired = True
            self._stop.set()
        self._hurry.wait(_GRACE)
        self._hurry.set()

    def _fetch(self, url: str) -> None:
        self._tally.begin(url)
        try:
            for arrival in self._fetch_log(self._logs[url], self._wanted[url]):
                if isinstance(arrival, LogError):
                    self._tally.lose(url, arrival.message)
                if arrival is not None:
                    self._put(arrival)
        finally:
            self._tally.end(url)
            self._unfinished.discard(url)
            self._requests.finish(url)
            self._put(None)

    def _fetch_log(self, log: Log, wanted: RangeSet) -> Generator[Arrival | LogError | None, None, None]:
        left = wanted
        if self._requests.has_any(log.url) and not self._stop.is_set():
            error = self._verify_head(log) if self._verify != "off" else None
            if error is None:
                arrivals = fetch_blocks(
                    log,
                    wanted,
                    ahead=self._pages_ahead,
                    allowed=partial(self._requests.take, log.url),
                    whole=self._verify == "entries",
                    stop=self._stop,
                    decode=partial(self._decode, log),
                )
                if self._verify == "entries":
                    # Entries that have arrived may still be proven after the run has stopped.
                    arrivals = prove_arrivals(log, self.heads, arrivals, stop=self._hurry)
                left = yield from arrivals
                if left.size == wanted.size:
                    error = unanswered(log)
            # A log that gave no answer is a hole, not left, unless it was only too slow for the deadline or a stop.
            is_slow = isinstance(error, LogUnavailableError) and self._stop.is_set() and not log.in_trouble
            if error and not is_slow:
                error.start, error.end = int(wanted.starts[0]), int(wanted.ends[-1])
                yield error
                return
        if len(left):
            self.left[log.url] = RangeSet.joined([left, self.left.get(log.url, NOTHING)])
            self._limits["max_requests"] |= self._requests.refused
            self._limits["deadline"] |= self._expired
            self._limits["stop"] |= self._stop.is_set() and not self._expired

    def _decode(self, log: Log, block: EntryBlock, wanted: NDArray[np.bool_]) -> Arrival:
        """Count entries when they arrive: with `verify: entries` it takes many pages until the first are proven."""
        arrival = self._read(log, block, wanted)
        self._tally.fetch(log.url, arrival.rows.num_rows)
        return arrival

    def _verify_head(self, log: Log) -> LogError | None:
        """Fetch and verify the log's tree head; return what is wrong with it."""
        if log.key is None:
            _warn_of_no_key(log.url)
        try:
            self.heads[log.url] = ask(log, log.get_checkpoint, self._stop)
        except LogError as error:
            if self._verify == "entries" or log.key is not None or not isinstance(error, UnreadableHeadError):
                return error
            # Without a key, nothing of it would be verified anyway.
            logger.warning("log is read without its tree head reason=%s", error)
        if log.key is None:
            self.unsigned.append(log.url)
        return None

    def describe(self, rows: pa.Table) -> dict[str, str]:
        """Return what a commit records about its rows."""
        by_log = rows.group_by("source_url", use_threads=False)
        bounds = by_log.aggregate([("cert_index", kind) for kind in ("min", "max", "count")])
        return metadata_of(
            [
                Provenance(
                    source_url=url,
                    start=of_log["cert_index_min"],
                    end=of_log["cert_index_max"] + 1,
                    rows=of_log["cert_index_count"],
                    tree_size=head.tree_size,
                    # The head of an empty tree, from a backend that is far behind, proves no row.
                    root_hash=head.root_hash if head.tree_size else b"",
                    verified=self._verify if head.tree_size else "off",
                    signed=head.tree_size > 0 and self._logs[url].key is not None,
                )
                for of_log in bounds.to_pylist()
                if (head := self.heads.get(url := of_log["source_url"]))
            ]
        )

    def _pages_ahead(self) -> int:
        return PAGES_AHEAD // max(1, min(len(self._unfinished), LOGS_AT_ONCE))

    def _next(self) -> Arrival | LogError | None:
        """Return the next arrival of any log; `_NOTHING` after `POLL` seconds, None at the end of a log."""
        try:
            return self._arrivals.get(timeout=POLL)
        except queue.Empty:
            return _NOTHING

    def _put(self, arrival: Arrival | LogError | None) -> None:
        while not self._given_up:
            with suppress(queue.Full):
                return self._arrivals.put(arrival, timeout=POLL)
        return None


@cache
def _warn_of_no_key(url: str) -> None:
    """Say once for each log that its tree head is not verified: to follow a table takes a backfill in each round."""
    logger.warning("the log's key is not known, its tree head is not verified url=%s", url)
