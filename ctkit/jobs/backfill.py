"""Gaps -> fetch -> write: the verb that fills a table."""

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable
from numpy.typing import NDArray

from ctkit.arguments import Count, Seconds, Seen, Verify, checked
from ctkit.errors import LogError, LogUnavailableError
from ctkit.jobs.backfill_report import BackfillReport, Hole, Progress
from ctkit.jobs.budget import Budget, Requests, share
from ctkit.jobs.plan import logs_of, plan_ranges
from ctkit.jobs.prove import Arrival, prove_arrivals
from ctkit.lake.doubts import STAGED_FOR
from ctkit.lake.gaps import Gaps, ranges_by_log, still_missing
from ctkit.lake.provenance import Provenance, metadata_of
from ctkit.lake.querying import source_names
from ctkit.lake.table import as_der_type, check_features, folder_of, hold
from ctkit.lake.write import write_batches
from ctkit.logs.fetch import ask, fetch_blocks, unanswered
from ctkit.logs.log import Log, Logs
from ctkit.ranges import RangeSet
from ctkit.visible import get_logger
from ctkit.wire.checkpoint import Checkpoint, UnreadableHeadError
from ctkit.wire.entries import EntryBlock
from ctkit.wire.extra_data import find_ends, find_faults
from ctkit.wire.rows import count_unreadable, read_rows

logger = get_logger(__name__)

READ_AHEAD = 16
"""Batches that may wait for the writer: about 20 kB to 5 MB each."""

PAGES_AHEAD = 64
"""Pages of all logs together that are fetched ahead of the writer."""

LOGS_AT_ONCE = 16
"""So many logs are read at a time; the others wait for their turn."""

SECONDS_PER_PROGRESS = 10.0
"""Progress is told at least so often, whether anything comes or not."""

_GRACE = 5.0
"""Seconds after the end of a run in which what has arrived may still be proven."""

_POLL = 0.1
"""Seconds between two looks at what comes, and at whether anybody still takes it."""

_NOTHING = Arrival("", pa.record_batch({}), (), 0)
"""Nothing has come for a while: what is due is due all the same."""


@checked
def backfill(
    logs: Logs,
    gaps: Gaps,
    table: DeltaTable,
    *,
    main: DeltaTable | None = None,
    seen: Seen = "log",
    verify: Verify = "heads",
    max_requests: Count | None = None,
    max_entries: Count | None = None,
    deadline: Seconds | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> BackfillReport:
    """Fetch the missing entries and append them to a table.

    Everything that can be had is written, a commit every few seconds of work; what cannot is in the report. Gaps that
    somebody filled since they were found are left alone, so that the same call can be made again. On Ctrl+C
    (``KeyboardInterrupt``) the rows that have arrived are written before it goes on.

    Parameters
    ----------
    logs
        Where to fetch from; one for each ``source_url`` in `gaps`.
    gaps
        What to fetch: the table that `ctkit.find_gaps` returned, or a part of it.
    table
        What to write to: staging, or main itself.
    main
        Where to look for the ``source_name`` of a log that has no name of its own.
    seen
        ``"log"``: the column ``seen`` is the entry's own log timestamp. ``"fetched"``: the time of its download, as the
        live server has it.
    verify
        ``"off"``: nothing. ``"heads"``: before anything of a log is asked for, its tree head is, and its signature is
        verified where the log's key is known; where it is not, the log is read even if its tree head cannot be.
        ``"entries"``: also, only those entries are written that are proven to be in the tree of that head, and whose
        pre-certificate and chain, which the log does not sign, belong to what it signed
        (`ctkit.wire.extra_data.find_faults`). Nobody vouches for the signature in a pre-certificate, for an issuer that
        a log names and does not have, and for the end of a chain where the log does not say which roots it accepts.
        What was verified is noted in each commit (`ctkit.lake.provenance`).
    max_requests, max_entries, deadline
        The budget: requests for entries that may be sent, repeated ones included; entries that may be written; seconds
        after which no request starts and those under way are ended. Logs have equal shares of the first two, as far as
        they need them. What was fetched is written, and the report says what is left: the same call goes on with it.
    on_progress
        Called after each commit, and every `SECONDS_PER_PROGRESS` where there is none, in the calling thread.

    Raises
    ------
    ParameterError
        An argument is of the wrong kind, a gap of a log that is not among `logs`; nothing was fetched or written.
    SchemaMismatchError
        The table demands of those who add to it what we do not do, or main of those who read it; nothing
        was asked of any log.
    TableError
        Another run writes to the table, or a commit failed; earlier commits stay.
    """
    budget = Budget(max_requests, max_entries, deadline)
    by_url = logs_of(ranges_by_log(gaps), logs)
    if main is not None:
        check_features(main, "read")
    stop, interrupted = threading.Event(), threading.Event()
    commits: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()

    def run() -> BackfillReport:
        try:
            with hold(table) as held:
                check_features(held, "append")
                report = _run(by_url, gaps, held, main, seen, verify, budget, stop, commits.put)
            if interrupted.is_set():
                written, wanted = sum(report.written.values()), sum(report.wanted.values())
                logger.warning("backfill interrupted, what had come is written written=%d wanted=%d", written, wanted)
            return report
        finally:
            commits.put(None)

    # An interrupt reaches the main thread only, and the main thread only listens: it never falls between a commit and
    # its bookkeeping, and the lock is held until what has arrived is written.
    try:
        with ThreadPoolExecutor(1, "backfill") as runner:
            try:
                running = runner.submit(run)
                for progress in iter(commits.get, None):
                    if on_progress:
                        on_progress(progress)
            except KeyboardInterrupt:
                interrupted.set()
                raise
            finally:
                stop.set()
    finally:
        # What was written after an interrupt is told as well.
        while on_progress and not commits.empty():
            if late := commits.get():
                on_progress(late)
    report = running.result()
    table.update_incremental()
    return report


def _run(
    by_url: Mapping[str, Log],
    gaps: pa.Table,
    table: DeltaTable,
    main: DeltaTable | None,
    seen: Seen,
    verify: Verify,
    budget: Budget,
    stop: threading.Event,
    on_progress: Callable[[Progress], None],
) -> BackfillReport:
    """Fetch and write until everything is there, the budget is spent, or `stop` is set; the table is held."""
    began = time.monotonic()
    # Somebody may have filled some of the gaps since they were found: this very call, made a second time.
    missing = still_missing(gaps, table)
    nameless = any(by_url[url].name is None for url in missing)
    names, as_der = source_names(main, table) if nameless else {}, as_der_type(table)
    wanted = {url: ranges.size for url, ranges in missing.items()}
    written = dict.fromkeys(missing, 0)
    missing_issuers: dict[str, set[str]] = defaultdict(set)
    holes: list[Hole] = []
    unreadable = 0
    told = began

    def tell() -> None:
        nonlocal told
        told = time.monotonic()
        on_progress(Progress(sum(wanted.values()), sum(written.values()), table.version()))

    def read(log: Log, block: EntryBlock, wanted: NDArray[np.bool_]) -> Arrival:
        moment = int(time.time() * 1000) if seen == "fetched" else None
        name = log.name or names.get(log.url, log.url)
        kept, start = block.take(wanted), int(block.index[0])
        rows = read_rows(kept, log, source_name=name, as_der=as_der, seen=moment)
        if verify != "entries":
            return Arrival(log.url, rows, block.missing_issuers, start)
        faults = find_faults(kept)
        ends = find_ends(kept, faults)
        return Arrival(log.url, rows, block.missing_issuers, start, block.leaf_hashes(), faults, ends)

    def batches(arrivals: Iterator[Arrival | LogError]) -> Iterator[pa.RecordBatch]:
        for arrival in arrivals:
            if isinstance(arrival, LogError):
                holes.append(Hole.of(arrival))
            else:
                missing_issuers[arrival.source_url].update(arrival.missing_issuers)
                # Also where it has no rows: a commit may be due.
                yield arrival.rows
            if time.monotonic() - told >= SECONDS_PER_PROGRESS:
                tell()

    def describe(rows: pa.Table) -> dict[str, str]:
        # What is fetched for a main table may be many times as much as that has.
        return fetching.describe(rows) | ({} if main is None else {STAGED_FOR: str(main.metadata().id)})

    fetching = _Fetching(by_url, missing, budget, read, verify, stop)
    seconds = None if budget.deadline is None else began + budget.deadline - time.monotonic()
    with closing(fetching.arrivals(seconds)) as arrivals:
        for rows in write_batches(table, batches(arrivals), describe=describe):
            unreadable += count_unreadable(rows)
            for count in rows["source_url"].value_counts().to_pylist():
                written[count["values"]] += count["counts"]
            tell()
    return BackfillReport(
        table=folder_of(table),
        version=table.version(),
        wanted=wanted,
        written=written,
        holes=tuple(sorted(holes)),
        unreadable=unreadable,
        missing_issuers={url: tuple(sorted(missing)) for url, missing in missing_issuers.items() if missing},
        seconds=time.monotonic() - began,
        stopped_by=fetching.stopped_by,
        left=plan_ranges(by_url, fetching.left),
        verify=verify,
        heads=fetching.heads,
        unsigned=tuple(fetching.unsigned),
    )


class _Fetching:
    """Fetches from many logs at once, as far as the budget goes.

    Attributes
    ----------
    left
        By URL what was left because of the budget; complete when the arrivals have ended.
    heads
        By URL the tree head that was verified.
    unsigned
        Logs whose tree heads no signature was verified of: their keys are not known.
    """

    def __init__(
        self,
        logs: Mapping[str, Log],
        wanted: Mapping[str, RangeSet],
        budget: Budget,
        read: Callable[[Log, EntryBlock, NDArray[np.bool_]], Arrival],
        verify: Verify,
        stop: threading.Event,
    ) -> None:
        self._logs, self._read, self._verify, self._stop = logs, read, verify, stop
        self.heads: dict[str, Checkpoint] = {}
        self.unsigned: list[str] = []
        sizes = {url: ranges.size for url, ranges in wanted.items()}
        entries = sizes if budget.max_entries is None else share(budget.max_entries, sizes)
        parts = {url: ranges.split(entries[url]) for url, ranges in wanted.items()}
        self._wanted = {url: first for url, (first, _) in parts.items() if len(first)}
        self.left = {url: rest for url, (_, rest) in parts.items() if len(rest)}
        self._limits = {"max_entries": bool(self.left), "max_requests": False, "deadline": False}
        planned = {log.source_url: log for log in plan_ranges(logs, self._wanted).logs}
        # As long as the page size is a guess, that may be too few; no log needs more requests than entries.
        needs = {url: log.requests if logs[url].page_size_known else log.wanted for url, log in planned.items()}
        self._requests = Requests(budget.max_requests, needs)
        # Those that need few requests first: a deadline costs the fewest logs then.
        self._order = sorted(planned, key=lambda url: planned[url].requests)
        self._unfinished = set(planned)
        self._arrivals: queue.Queue[Arrival | LogError | None] = queue.Queue(READ_AHEAD)
        self._expired, self._given_up, self._hurry = threading.Event(), threading.Event(), threading.Event()

    @property
    def stopped_by(self) -> tuple[str, ...]:
        """Names of the limits that something was left because of."""
        return tuple(name for name, is_spent in self._limits.items() if is_spent)

    def arrivals(self, seconds: float | None) -> Generator[Arrival | LogError, None, None]:
        """Yield what comes, and `_NOTHING` while nothing does, until it is all there or so many seconds are over."""
        deadline = threading.Timer(min(max(seconds or 0, 0), threading.TIMEOUT_MAX), self._expire)
        deadline.daemon = True
        if seconds is not None:
            deadline.start()
        threading.Thread(target=self._hurry_up, name="hurry", daemon=True).start()
        fetching: list[Future[None]] = []
        with ThreadPoolExecutor(max(1, min(len(self._order), LOGS_AT_ONCE)), "log") as pool:
            try:
                for url in self._order:
                    fetching.append(pool.submit(self._fetch, url))
                for _ in fetching:
                    while (arrival := self._next()) is not None:
                        yield arrival
            finally:
                deadline.cancel()
                # After a failed commit nothing more can be kept: let the fetching threads end.
                self._given_up.set()
                self._stop.set()
        self._hurry.set()
        for each in fetching:
            each.result()

    def _expire(self) -> None:
        self._expired.set()
        self._stop.set()

    def _hurry_up(self) -> None:
        """Leave those who prove what has arrived some time after the end of the run."""
        self._stop.wait()
        self._hurry.wait(_GRACE)
        self._hurry.set()

    def _fetch(self, url: str) -> None:
        try:
            for arrival in self._fetch_log(self._logs[url], self._wanted[url]):
                self._put(arrival)
        finally:
            self._unfinished.discard(url)
            self._requests.finish(url)
            self._put(None)

    def _fetch_log(self, log: Log, wanted: RangeSet) -> Generator[Arrival | LogError, None, None]:
        left = wanted
        if self._requests.has_any(log.url) and not self._stop.is_set():
            error = self._verify_head(log) if self._verify != "off" else None
            if error is None:
                arrivals = fetch_blocks(
                    log,
                    wanted,
                    ahead=self._pages_ahead,
                    allowed=self._requests.counter(log.url),
                    whole=self._verify == "entries",
                    stop=self._stop,
                    decode=partial(self._read, log),
                )
                if self._verify == "entries":
                    # What has arrived may still be proven when nothing new is asked for.
                    arrivals = prove_arrivals(log, self.heads, arrivals, stop=self._hurry)
                left = yield from arrivals
                if left.size == wanted.size:
                    error = unanswered(log)
            # No budget is the reason where a log that was asked did not answer at all, unless it was only slow.
            is_slow = isinstance(error, LogUnavailableError) and self._expired.is_set() and not log.in_trouble
            if error and not is_slow:
                error.start, error.end = int(wanted.starts[0]), int(wanted.ends[-1])
                yield error
                return
        if len(left):
            self.left[log.url] = RangeSet.joined([left, self.left.get(log.url, RangeSet.of())])
            self._limits["max_requests"] |= self._requests.refused
            self._limits["deadline"] |= self._expired.is_set()

    def _verify_head(self, log: Log) -> LogError | None:
        """Ask for the log's tree head, which verifies it; return what is wrong with it."""
        if log.key is None:
            logger.warning("log's key is not known, its tree head is not verified url=%s", log.url)
        try:
            self.heads[log.url] = ask(log, log.get_checkpoint, self._stop)
        except LogError as error:
            if self._verify == "entries" or log.key is not None or not isinstance(error, UnreadableHeadError):
                return error
            # Nothing would be verified of it.
            logger.warning("log is read without its tree head reason=%s", error)
        if log.key is None:
            self.unsigned.append(log.url)
        return None

    def describe(self, rows: pa.Table) -> dict[str, str]:
        """Return what a commit is to say of its rows."""
        of_each = rows.group_by("source_url", use_threads=False)
        bounds = of_each.aggregate([("cert_index", kind) for kind in ("min", "max", "count")])
        return metadata_of(
            [
                Provenance(
                    source_url=url,
                    start=of_log["cert_index_min"],
                    end=of_log["cert_index_max"] + 1,
                    rows=of_log["cert_index_count"],
                    tree_size=head.tree_size,
                    # The head of an empty tree, from a backend that is far behind, says nothing of any row.
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
        """Return what came from any log; `_NOTHING` where nothing has for a while, None where a log has no more."""
        try:
            return self._arrivals.get(timeout=_POLL)
        except queue.Empty:
            return _NOTHING

    def _put(self, arrival: Arrival | LogError | None) -> None:
        while not self._given_up.is_set():
            with suppress(queue.Full):
                return self._arrivals.put(arrival, timeout=_POLL)
        return None
