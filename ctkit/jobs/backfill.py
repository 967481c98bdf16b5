"""The verb that fills a table: gaps -> fetch -> write."""

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
from ctkit.lake.starts import BoundsByLog, transactions_of
from ctkit.lake.table import as_der_type, check_features, folder_of, hold
from ctkit.lake.write import write_batches
from ctkit.logs.deadline import POLL
from ctkit.logs.fetch import ask, fetch_blocks, unanswered
from ctkit.logs.log import Log, Logs
from ctkit.ranges import RangeSet
from ctkit.visible import get_logger
from ctkit.wire.checkpoint import Checkpoint, UnreadableHeadError
from ctkit.wire.entries import EntryBlock
from ctkit.wire.rows import count_unreadable

logger = get_logger(__name__)

READ_AHEAD = 16
"""Batches that may wait for the writer, of about 20 kB to 5 MB each."""

PAGES_AHEAD = 64
"""Pages, of all logs together, that are fetched ahead of the writer."""

LOGS_AT_ONCE = 16
"""Logs that are read at a time; the others wait their turn."""

SECONDS_PER_PROGRESS = 10.0
"""Progress is reported at least this often, whether anything arrives or not."""

_GRACE = 5.0
"""Seconds after the end of a run in which entries that have arrived may still be proven."""

_NOTHING = Arrival("", pa.record_batch({}), (), 0)
"""Nothing has arrived for a while; a commit may be due all the same."""


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
    bounds: BoundsByLog | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> BackfillReport:
    """Fetch the missing entries and append them to a table.

    Every entry that the logs give is written, in a commit every few seconds; the report names the others. Gaps that
    have been filled since they were found are skipped, so the same call can be repeated. On Ctrl+C, the rows that have
    arrived are written before ``KeyboardInterrupt`` is raised.

    Parameters
    ----------
    logs
        Where to fetch from; one for each ``source_url`` in `gaps`.
    gaps
        What to fetch: the table that `ctkit.find_gaps` returned, or a part of it.
    table
        Where to write: staging, or main itself.
    main
        Where to look for the ``source_name`` of a log that is given without a name.
    seen
        ``"log"``: the column ``seen`` is the entry's log timestamp. ``"fetched"``: it is the time of download, as in
        the live server.
    verify
        ``"off"``: nothing. ``"heads"``: each log's tree head is fetched first, and its signature verified if the log's
        key is known; a log without a known key is read even if its tree head is unreadable. ``"entries"``: also, only
        those entries are written that are proven to be in the tree of that head, and whose pre-certificate and chain,
        which the log does not sign, match what it signed (`ctkit.wire.extra_data.find_faults`). Not verified are the
        signature in a pre-certificate, an issuer that a log names but does not have, and the end of a chain if the log
        does not say which roots it accepts. Each commit records what was verified (`ctkit.lake.provenance`).
    max_requests, max_entries, deadline
        The budget: requests for entries that may be sent, retries included; entries that may be written; seconds after
        which no request starts and those under way are ended. Logs share the first two equally, up to their needs. What
        was fetched is written, and the report says what is left; the same call goes on with it.
    bounds
        URL -> ``(start, end)``, half-open, None for what is not known: where logs start and end from now on. The table
        remembers it with the first commit, unless it knows wider bounds (`ctkit.lake.starts`).
    on_progress
        Called in the calling thread after each commit, and every `SECONDS_PER_PROGRESS` between commits.

    Raises
    ------
    ParameterError
        An argument is of the wrong kind, or a gap is in a log that is not among `logs`; nothing was fetched or written.
    SchemaMismatchError
        The table cannot be appended to, or main cannot be read, because it requires a feature that ctkit lacks; no log
        was asked.
    TableError
        Another run is writing to the table, or a commit failed; earlier commits stay.
    """
    budget = Budget(max_requests, max_entries, deadline)
    by_url = logs_of(ranges_by_log(gaps), logs)
    if main is not None:
        check_features(main, "read")
    stop, interrupted = threading.Event(), False
    commits: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()

    def run() -> BackfillReport:
        try:
            with hold(table) as held:
                check_features(held, "append")
                report = _run(by_url, gaps, held, main, seen, verify, budget, bounds or {}, stop, commits.put)
            if interrupted:
                written, wanted = sum(report.written.values()), sum(report.wanted.values())
                logger.warning("backfill interrupted, arrived rows are written written=%d wanted=%d", written, wanted)
            return report
        finally:
            commits.put(None)

    # An interrupt reaches the main thread only, and that only listens: so it never falls between a commit and its
    # bookkeeping, and the lock is held until the rows that have arrived are written.
    try:
        with ThreadPoolExecutor(1, "backfill") as runner:
            try:
                running = runner.submit(run)
                for progress in iter(commits.get, None):
                    if on_progress:
                        on_progress(progress)
            except KeyboardInterrupt:
                interrupted = True
                raise
            finally:
                stop.set()
    finally:
        # Rows that were written after an interrupt count as well.
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
    bounds: BoundsByLog,
    stop: threading.Event,
    on_progress: Callable[[Progress], None],
) -> BackfillReport:
    """Fetch and write until nothing is missing, the budget is spent, or `stop` is set; the table is locked."""
    began = time.monotonic()
    # Some gaps may have been filled since they were found, by an earlier call for instance.
    missing = still_missing(gaps, table)
    nameless = any(by_url[url].name is None for url in missing)
    names, as_der = source_names(main, table) if nameless else {}, as_der_type(table)
    wanted = {url: ranges.size for url, ranges in missing.items()}
    written = dict.fromkeys(missing, 0)
    missing_issuers: dict[str, set[str]] = defaultdict(set)
    holes: list[Hole] = []
    unreadable = 0
    reported = began

    def report_progress() -> None:
        nonlocal reported
        reported = time.monotonic()
        on_progress(Progress(sum(wanted.values()), sum(written.values()), table.version()))

    def read(log: Log, block: EntryBlock, wanted: NDArray[np.bool_]) -> Arrival:
        moment = int(time.time() * 1000) if seen == "fetched" else None
        name = log.name or names.get(log.url, log.url)
        return Arrival.of(log, block, wanted, proves=verify == "entries", source_name=name, as_der=as_der, seen=moment)

    def batches(arrivals: Iterator[Arrival | LogError]) -> Iterator[pa.RecordBatch]:
        for arrival in arrivals:
            if isinstance(arrival, LogError):
                holes.append(Hole.of(arrival))
            else:
                missing_issuers[arrival.source_url].update(arrival.missing_issuers)
                # Even without rows: a commit may be due.
                yield arrival.rows
            if time.monotonic() - reported >= SECONDS_PER_PROGRESS:
                report_progress()

    def describe(rows: pa.Table) -> dict[str, str]:
        # Tells a merge that this table is staging for `main`, however much larger it gets.
        return fetching.describe(rows) | ({} if main is None else {STAGED_FOR: str(main.metadata().id)})

    fetching = _Fetching(by_url, missing, budget, read, verify, stop)
    seconds = None if budget.deadline is None else began + budget.deadline - time.monotonic()
    with closing(fetching.arrivals(seconds)) as arrivals:
        new = transactions_of(bounds, table)
        for rows in write_batches(table, batches(arrivals), describe=describe, transactions=new):
            unreadable += count_unreadable(rows)
            for count in rows["source_url"].value_counts().to_pylist():
                written[count["values"]] += count["counts"]
            report_progress()
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
    """Fetches from many logs at once, within the budget.

    Attributes
    ----------
    left
        By URL, what was left because of the budget; complete when the arrivals have ended.
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
        try:
            for arrival in self._fetch_log(self._logs[url], self._wanted[url]):
                if arrival is not None:
                    self._put(arrival)
        finally:
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
                    decode=partial(self._read, log),
                )
                if self._verify == "entries":
                    # Entries that have arrived may still be proven after the run has stopped.
                    arrivals = prove_arrivals(log, self.heads, arrivals, stop=self._hurry)
                left = yield from arrivals
                if left.size == wanted.size:
                    error = unanswered(log)
            # A log that gave no answer is a hole, not left by the budget, unless it was only too slow for the deadline.
            is_slow = isinstance(error, LogUnavailableError) and self._expired and not log.in_trouble
            if error and not is_slow:
                error.start, error.end = int(wanted.starts[0]), int(wanted.ends[-1])
                yield error
                return
        if len(left):
            self.left[log.url] = RangeSet.joined([left, self.left.get(log.url, RangeSet.of())])
            self._limits["max_requests"] |= self._requests.refused
            self._limits["deadline"] |= self._expired

    def _verify_head(self, log: Log) -> LogError | None:
        """Fetch and verify the log's tree head; return what is wrong with it."""
        if log.key is None:
            logger.warning("the log's key is not known, its tree head is not verified url=%s", log.url)
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
