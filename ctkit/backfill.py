"""Gaps -> fetch -> write: the verb that fills a table, and its report."""

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable

from ctkit.certificate import count_unreadable, read_rows
from ctkit.entry import EntryBlock
from ctkit.errors import LogError, LogProtocolError, LogUnavailableError, ParameterError
from ctkit.fetch import fetch_blocks
from ctkit.gap import ranges_by_log, still_missing
from ctkit.log import Log
from ctkit.ranges import RangeSet
from ctkit.report import Report
from ctkit.table import as_der_type, folder_of, hold, source_names
from ctkit.write import write_batches

READ_AHEAD = 16
"""Batches that may wait for the writer: about 20 kB to 5 MB each."""

PAGES_AHEAD = 64
"""Pages of all logs together that are fetched ahead of the writer."""

LOGS_AT_ONCE = 16
"""So many logs are read at a time; the others wait for their turn."""


@dataclass(frozen=True, order=True)
class Hole:
    """Indices ``[start, end)`` of one log that a run planned to fill and did not, and why.

    Attributes
    ----------
    lasting
        Whether running again will hardly help, because the log broke its protocol there.
    """

    source_url: str
    start: int
    end: int
    reason: str
    lasting: bool


@dataclass(frozen=True, repr=False)
class Progress(Report):
    """How far a backfill is; given to `on_progress` after each commit.

    Attributes
    ----------
    wanted
        Entries planned.
    written
        Entries committed so far.
    version
        The table's version after the commit.
    """

    wanted: int
    written: int
    version: int

    title = "rows written"

    def facts(self) -> dict[str, Any]:
        """Return the totals so far."""
        return {"wanted": self.wanted, "written": self.written, "version": self.version}


@dataclass(frozen=True, repr=False)
class BackfillReport(Report):
    """What a backfill did.

    Attributes
    ----------
    table
        The folder that was written to.
    version
        The table's version afterwards.
    wanted, written
        Source URL -> entries planned, entries committed.
    holes
        What was planned and not written.
    unreadable
        Rows whose certificate could not be read: bytes and hashes are there, the parsed columns are empty.
    missing_issuers
        Source URL -> hex SHA-256 of the issuers that the log names but does not have; `chain` leaves them out.
    seconds
        Duration.
    """

    table: str
    version: int
    wanted: dict[str, int]
    written: dict[str, int]
    holes: tuple[Hole, ...]
    unreadable: int
    missing_issuers: dict[str, tuple[str, ...]]
    seconds: float

    @property
    def title(self) -> str:  # type: ignore[override]
        """What became of the run."""
        return "backfill complete" if self.complete else "backfill incomplete"

    @property
    def complete(self) -> bool:
        """Whether every planned entry was written."""
        return self.written == self.wanted

    def check(self) -> None:
        """Raise unless every planned entry was written.

        Raises
        ------
        LogUnavailableError
            Names the holes. What was fetched is in the table; running again asks for the rest only.
        LogProtocolError
            Likewise, where the log broke its protocol in every hole, so that running again will hardly help.
        """
        if self.complete:
            return
        lasting = all(hole.lasting for hole in self.holes)
        error, advice = (
            (LogProtocolError, "report them to the log's operator")
            if lasting
            else (LogUnavailableError, "run again to fetch them")
        )
        of_each = "; and of ".join(filter(None, map(self._missing_of, self.wanted)))
        url, _, message = of_each.partition(": ")
        raise error(url, f"{message}; {advice}")

    def _missing_of(self, url: str) -> str:
        """Say what is missing of one log, and why; "" if nothing is."""
        missing = self.wanted[url] - self.written[url]
        holes = [hole for hole in self.holes if hole.source_url == url]
        named = ", ".join(f"[{hole.start}, {hole.end}) {hole.reason}" for hole in holes[:5])
        more = f", and {len(holes) - 5} more" if len(holes) > 5 else ""
        return f"{url}: {missing} entries are still missing: {named}{more}" if missing else ""

    def facts(self) -> dict[str, Any]:
        """Return the totals."""
        wanted, written = sum(self.wanted.values()), sum(self.written.values())
        return {
            "table": self.table,
            "version": self.version,
            "wanted": wanted,
            "written": written,
            "missing": wanted - written,
            "unreadable": self.unreadable,
            "missing_issuers": sum(map(len, self.missing_issuers.values())),
            "seconds": round(self.seconds, 1),
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the counts of each log, and the holes."""
        counts = [{"log": url, "wanted": self.wanted[url], "written": self.written[url]} for url in self.wanted]
        found = {"logs": pd.DataFrame(counts)} if counts else {}
        if self.holes:
            found["holes"] = pd.DataFrame(self.holes)
        if self.missing_issuers:
            pairs = [(url, issuer) for url, issuers in self.missing_issuers.items() for issuer in issuers]
            found["missing issuers"] = pd.DataFrame(pairs, columns=["log", "sha256"])
        return found


def backfill(
    logs: Sequence[Log],
    gaps: pa.Table,
    table: DeltaTable,
    *,
    main: DeltaTable | None = None,
    seen: Literal["log", "fetched"] = "log",
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
    on_progress
        Called after each commit, in the calling thread.

    Raises
    ------
    ParameterError
        A gap is of a log that is not among `logs`; nothing was written.
    TableError
        Another run writes to the table, or a commit failed; earlier commits stay.
    """
    by_url = {log.url: log for log in logs}
    if unknown := sorted(ranges_by_log(gaps).keys() - by_url.keys()):
        raise ParameterError(f"gaps name {unknown}, but no such log was given; give it, or leave those gaps out")
    stop = threading.Event()
    commits: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()

    def run() -> BackfillReport:
        try:
            with hold(table) as held:
                return _run(by_url, gaps, held, main, seen, stop, commits.put)
        finally:
            commits.put(None)

    # An interrupt reaches the main thread only, and the main thread only listens: it never falls between a commit and
    # its bookkeeping, and the lock is held until what has arrived is written.
    with ThreadPoolExecutor(1, "backfill") as runner:
        try:
            running = runner.submit(run)
            for progress in iter(commits.get, None):
                if on_progress:
                    on_progress(progress)
        finally:
            stop.set()
    report = running.result()
    table.update_incremental()
    return report


def _run(
    by_url: Mapping[str, Log],
    gaps: pa.Table,
    table: DeltaTable,
    main: DeltaTable | None,
    seen: Literal["log", "fetched"],
    stop: threading.Event,
    on_commit: Callable[[Progress], None],
) -> BackfillReport:
    """Fetch and write until everything is there, or `stop` is set; the table is held."""
    began = time.monotonic()
    # Somebody may have filled some of the gaps since they were found: this very call, made a second time.
    plan = still_missing(gaps, table)
    nameless = any(by_url[url].name is None for url in plan)
    names, as_der = source_names(main, table) if nameless else {}, as_der_type(table)
    wanted = {url: ranges.size for url, ranges in plan.items()}
    written = dict.fromkeys(plan, 0)
    missing_issuers: dict[str, set[str]] = defaultdict(set)
    holes: list[Hole] = []
    unreadable = 0
    arrivals: queue.Queue[_Arrival | LogError | None] = queue.Queue(READ_AHEAD)
    unfinished = set(plan)

    def fetch(log: Log, ranges: RangeSet) -> None:
        name = log.name or names.get(log.url, log.url)

        def read(block: EntryBlock) -> _Arrival:
            moment = int(time.time() * 1000) if seen == "fetched" else None
            rows = read_rows(block, log, source_name=name, as_der=as_der, seen=moment)
            return _Arrival(log.url, rows, block.missing_issuers)

        try:
            for arrival in fetch_blocks(log, ranges, ahead=pages_ahead, stop=stop, decode=read):
                arrivals.put(arrival)
        finally:
            unfinished.discard(log.url)
            arrivals.put(None)

    def pages_ahead() -> int:
        return PAGES_AHEAD // max(1, min(len(unfinished), LOGS_AT_ONCE))

    def arriving() -> Iterator[_Arrival | LogError]:
        for _ in plan:
            while (arrival := arrivals.get()) is not None:
                yield arrival

    def batches(arrived: Iterator[_Arrival | LogError]) -> Iterator[pa.RecordBatch]:
        for arrival in arrived:
            if isinstance(arrival, LogError):
                holes.append(_hole(arrival))
            else:
                missing_issuers[arrival.source_url].update(arrival.missing_issuers)
                yield arrival.rows

    with ThreadPoolExecutor(max(1, min(len(plan), LOGS_AT_ONCE)), "log") as pool:
        fetching = [pool.submit(fetch, by_url[url], ranges) for url, ranges in plan.items()]
        arrived = arriving()
        try:
            for rows in write_batches(table, batches(arrived)):
                unreadable += count_unreadable(rows)
                for count in rows["source_url"].value_counts().to_pylist():
                    written[count["values"]] += count["counts"]
                on_commit(Progress(sum(wanted.values()), sum(written.values()), table.version()))
        finally:
            # After a failed commit nothing more can be kept: let the fetching threads end.
            stop.set()
            for _ in arrived:
                pass
    for each in fetching:
        each.result()
    return BackfillReport(
        table=folder_of(table),
        version=table.version(),
        wanted=wanted,
        written=written,
        holes=tuple(sorted(holes)),
        unreadable=unreadable,
        missing_issuers={url: tuple(sorted(missing)) for url, missing in missing_issuers.items() if missing},
        seconds=time.monotonic() - began,
    )


@dataclass(frozen=True, eq=False)
class _Arrival:
    source_url: str
    rows: pa.RecordBatch
    missing_issuers: tuple[str, ...]


def _hole(error: LogError) -> Hole:
    if error.start is None or error.end is None:
        raise error
    return Hole(error.url, error.start, error.end, error.message, isinstance(error, LogProtocolError))
