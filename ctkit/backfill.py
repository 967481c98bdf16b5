"""Gaps -> fetch -> write: the verb that fills a table, and its report."""

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable

from ctkit.certificate import count_unreadable, read_rows
from ctkit.entry import EntryBlock
from ctkit.errors import LogError, LogUnavailableError, ParameterError
from ctkit.fetch import fetch_blocks
from ctkit.gap import ranges_by_log
from ctkit.log import Log
from ctkit.ranges import RangeSet
from ctkit.report import Report
from ctkit.table import as_der_type, folder_of, hold, source_names
from ctkit.write import write_batches

READ_AHEAD = 16
"""Batches that may wait for the writer: about 20 kB to 5 MB each."""


@dataclass(frozen=True, order=True)
class Hole:
    """Indices ``[start, end)`` of one log that a run planned to fill and did not, and why."""

    source_url: str
    start: int
    end: int
    reason: str

    def __str__(self) -> str:
        return f"{self.source_url} [{self.start}, {self.end}): {self.reason}"


@dataclass(frozen=True)
class Progress:
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

    title = "backfill complete"

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
        """
        if self.complete:
            return
        named = "; ".join(str(hole) for hole in self.holes[:10])
        more = f"; and {len(self.holes) - 10} more" if len(self.holes) > 10 else ""
        missing = sum(self.wanted.values()) - sum(self.written.values())
        url = self.holes[0].source_url
        raise LogUnavailableError(url, f"{missing} entries are still missing: {named}{more}; run again to fetch them")

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

    Everything that can be had is written, a commit every few seconds of work; what cannot is in the report. On Ctrl+C
    (``KeyboardInterrupt``) the rows that have arrived are written before it goes on. To resume, find the gaps again.

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
    began = time.monotonic()
    by_url = {log.url: log for log in logs}
    plan = ranges_by_log(gaps)
    if unknown := sorted(plan.keys() - by_url.keys()):
        raise ParameterError(f"gaps name {unknown}, but no such log was given; give it, or leave those gaps out")
    names, as_der = source_names(main, table), as_der_type(table)
    wanted = {url: ranges.size for url, ranges in plan.items()}
    written = dict.fromkeys(plan, 0)
    missing_issuers: dict[str, set[str]] = defaultdict(set)
    holes: list[Hole] = []
    unreadable = 0

    stop = threading.Event()
    arrivals: queue.Queue[_Arrival | LogError | None] = queue.Queue(READ_AHEAD)
    commits: queue.SimpleQueue[Progress | None] = queue.SimpleQueue()

    def fetch(log: Log, ranges: RangeSet) -> None:
        name = log.name or names.get(log.url, log.url)

        def read(block: EntryBlock) -> _Arrival:
            moment = int(time.time() * 1000) if seen == "fetched" else None
            rows = read_rows(block, log, source_name=name, as_der=as_der, seen=moment)
            return _Arrival(log.url, rows, block.missing_issuers)

        try:
            for arrival in fetch_blocks(log, ranges, stop=stop, decode=read):
                arrivals.put(arrival)
        finally:
            arrivals.put(None)

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

    def write() -> None:
        nonlocal unreadable
        arrived = arriving()
        try:
            for rows in write_batches(table, batches(arrived)):
                unreadable += count_unreadable(rows)
                for count in rows["source_url"].value_counts().to_pylist():
                    written[count["values"]] += count["counts"]
                commits.put(Progress(sum(wanted.values()), sum(written.values()), table.version()))
        finally:
            # After a failed commit nothing more can be kept: let the fetching threads end.
            stop.set()
            for _ in arrived:
                pass
            commits.put(None)

    # Commits happen in a thread of their own: an interrupt reaches the main thread only, so it never falls between a
    # commit and its bookkeeping, and leaving the pool waits until what has arrived is written.
    with hold(table), ThreadPoolExecutor(len(plan) + 1) as pool:
        try:
            tasks = [pool.submit(write), *(pool.submit(fetch, by_url[url], plan[url]) for url in plan)]
            for progress in iter(commits.get, None):
                if on_progress:
                    on_progress(progress)
        finally:
            stop.set()
        for task in tasks:
            task.result()
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
    return Hole(error.url, error.start, error.end, error.message)
