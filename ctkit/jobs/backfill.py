"""The verb that fills a table: gaps -> fetch -> write."""

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import replace

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable
from numpy.typing import NDArray

from ctkit.arguments import Count, Seconds, Seen, Verify, checked
from ctkit.errors import LogError
from ctkit.jobs.backfill_report import BackfillReport, Hole
from ctkit.jobs.budget import Budget
from ctkit.jobs.fetching import Fetching
from ctkit.jobs.plan import logs_of, plan_ranges
from ctkit.jobs.progress import Progress, Tally
from ctkit.jobs.prove import Arrival
from ctkit.lake.coverage import source_names
from ctkit.lake.doubts import STAGED_FOR
from ctkit.lake.gaps import Gaps, ranges_by_log, still_missing
from ctkit.lake.starts import BoundsByLog, transactions_of
from ctkit.lake.table import as_der_type, check_features, folder_of, hold
from ctkit.lake.write import write_batches
from ctkit.logs.deadline import POLL
from ctkit.logs.log import Log, Logs
from ctkit.visible import get_logger
from ctkit.wire.entries import EntryBlock
from ctkit.wire.rows import count_unreadable
from ctkit.wire.volume import plan_to_read

logger = get_logger(__name__)

SECONDS_PER_PROGRESS = 1.0
"""Progress is reported at least this often, whether anything arrives or not."""


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
    stop: threading.Event | None = None,
) -> BackfillReport:
    """Fetch the missing entries and append them to a table.

    Every entry that the logs give is written, in a commit every few seconds; the report names the others. Gaps that
    have been filled since they were found are skipped, so the same call can be repeated. On Ctrl+C, the rows that have
    arrived are written, and the report says what is left; a second Ctrl+C raises ``KeyboardInterrupt`` after that.

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
        Called in the calling thread at the start, every `SECONDS_PER_PROGRESS`, after commits and at the end. An error
        that it raises ends the run like a stop, and is raised again. After a second Ctrl+C the last call is in another
        thread, once what is being written is written.
    stop
        Ends the run when it is set, by another thread, like a deadline.

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
    ranges = ranges_by_log(gaps)
    by_url = logs_of(ranges, logs)
    if main is not None:
        check_features(main, "read")
    tally = Tally(by_url, {url: missing.size for url, missing in ranges.items()})
    halt, shown = threading.Event(), threading.Event()

    def run() -> BackfillReport:
        # What is shown first stands above what the run logs.
        shown.wait()
        with hold(table) as held:
            check_features(held, "append")
            return _run(by_url, gaps, held, main, seen, verify, budget, bounds or {}, halt, tally)

    def show_last() -> None:
        # However the run ended, what is shown last is what is written.
        tally.close()
        if on_progress:
            on_progress(tally.snapshot())

    # An interrupt reaches the main thread only, and that only listens: so it never falls between a commit and its
    # bookkeeping, and the lock is held until the rows that have arrived are written.
    runner, patient = ThreadPoolExecutor(1, "backfill"), True
    try:
        running = runner.submit(run)
        interrupted = _listen(running, shown, tally, on_progress, stop, halt)
    except KeyboardInterrupt:
        # The second: what is being written is written, but nobody waits for it; what follows is told then.
        patient = False
        runner.submit(show_last)
        raise
    finally:
        halt.set()
        shown.set()
        runner.shutdown(wait=patient)
        if patient:
            show_last()
    report = running.result()
    table.update_incremental()
    if interrupted:
        written, wanted = sum(report.written.values()), sum(report.wanted.values())
        logger.warning("backfill stopped, arrived rows are written written=%d wanted=%d", written, wanted)
        limits = tuple(limit for limit in report.stopped_by if limit != "stop")
        return replace(report, stopped_by=(*limits, "stop"))
    return report


def _listen(
    running: Future[BackfillReport],
    shown: threading.Event,
    tally: Tally,
    on_progress: Callable[[Progress], None] | None,
    stop: threading.Event | None,
    halt: threading.Event,
) -> bool:
    """Report progress until the run has ended, and halt it at a stop; return whether an interrupt was one."""
    interrupted, due, commits = False, 0.0, 0
    while True:
        try:
            if running.done():
                return interrupted
            if stop is not None and stop.is_set():
                halt.set()
            if on_progress and (time.monotonic() >= due or tally.commits != commits):
                due, commits = time.monotonic() + SECONDS_PER_PROGRESS, tally.commits
                on_progress(tally.snapshot())
            shown.set()
            wait([running], timeout=POLL)
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            halt.set()


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
    tally: Tally,
) -> BackfillReport:
    """Fetch and write until nothing is missing, the budget is spent, or `stop` is set; the table is locked."""
    began = time.monotonic()
    # Some gaps may have been filled since they were found, by an earlier call for instance.
    missing = still_missing(gaps, table)
    nameless = any(by_url[url].name is None for url in missing)
    names, as_der = source_names(main, table) if nameless else {}, as_der_type(table)
    wanted = {url: ranges.size for url, ranges in missing.items()}
    plan_to_read(min(sum(wanted.values()), budget.max_entries or sys.maxsize))
    written = dict.fromkeys(missing, 0)
    missing_issuers: dict[str, set[str]] = defaultdict(set)
    holes: list[Hole] = []
    unreadable = 0

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

    def describe(rows: pa.Table) -> dict[str, str]:
        # Tells a merge that this table is staging for `main`, however much larger it gets.
        return fetching.describe(rows) | ({} if main is None else {STAGED_FOR: str(main.metadata().id)})

    fetching = Fetching(by_url, missing, budget, read, verify, stop, tally)
    seconds = None if budget.deadline is None else began + budget.deadline - time.monotonic()
    with closing(fetching.arrivals(seconds)) as arrivals:
        new = transactions_of(bounds, table)
        for rows in write_batches(table, batches(arrivals), describe=describe, transactions=new):
            unreadable += count_unreadable(rows)
            counts = {count["values"]: count["counts"] for count in rows["source_url"].value_counts().to_pylist()}
            for url, count in counts.items():
                written[url] += count
            tally.write(counts, table.version())
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
