"""What a backfill will take, in requests, bytes and time, before it runs."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import timedelta
from typing import Any, Literal

from ctkit.arguments import LogProtocol, checked
from ctkit.errors import LogError, ParameterError
from ctkit.lake.gaps import Gaps, ranges_by_log
from ctkit.logs.ask_each import SECONDS_TO_ANSWER, ask_each
from ctkit.logs.log import Log, Logs
from ctkit.ranges import RangeSet
from ctkit.report import Frame, Report, frame_of
from ctkit.urls import host_of

ENTRY_BYTES: dict[LogProtocol | Literal["auto"], int] = {"rfc6962": 6067, "static-ct": 1776, "auto": 6067}
"""Bytes of an entry in an uncompressed answer, assumed until the log has sent entries.

Means over recorded answers of public logs: 330 entries of three RFC 6962 logs (5,505 to 6,241 by log; base64, each with
its whole chain), and 1,280 entries in the data tiles of two Static CT logs (1,586 and 2,537). For a log whose protocol
is not known, the larger one is assumed.
"""

LATENCY = 0.25
"""Seconds until an answer begins, assumed until the host has been asked."""

BANDWIDTH = 10e6
"""Bytes per second, assumed until the host has sent entries."""

Term = Literal["requests", "bytes", "latency"]


@dataclass(frozen=True)
class LogPlan:
    """What it takes to fetch the missing entries of one log.

    Attributes
    ----------
    source_url, protocol
        The log, and its protocol; ``"auto"`` if that is not known yet.
    page_size
        Entries in a full page or tile.
    requests
        Pages or tiles that hold a wanted entry; each is fetched once.
    wanted
        Entries that are missing.
    in_vain
        Entries that come with them and are dropped. A partial tile counts as a full one.
    bytes
        Of all answers together, uncompressed.
    seconds
        How long that takes if only the term that `binds` counts.
    binds
        What takes longest: the rate of ``"requests"`` that the host allows, the ``"bytes"``, or the ``"latency"`` of
        the requests at the host's current concurrency.
    assumed
        The numbers that are assumed, because they are not known of this log yet. `rate`: no limit is known.
    extra
        Further requests, of which the number is not known: the issuers of a Static CT log, each once.
    """

    source_url: str
    protocol: LogProtocol | Literal["auto"]
    page_size: int
    requests: int
    wanted: int
    in_vain: int
    bytes: int
    seconds: float
    binds: Term
    assumed: tuple[str, ...]
    extra: str


@dataclass(frozen=True, repr=False)
class Plan(Report):
    """What a backfill will ask for.

    Attributes
    ----------
    logs
        One for each log with missing entries.
    unavailable
        One error for each of these logs that did not answer: its numbers are assumed.
    """

    logs: tuple[LogPlan, ...]
    unavailable: tuple[LogError, ...] = ()

    title = "plan"

    @property
    def requests(self) -> int:
        """Requests for entries, of all logs."""
        return sum(log.requests for log in self.logs)

    @property
    def wanted(self) -> int:
        """Entries that are missing, of all logs."""
        return sum(log.wanted for log in self.logs)

    @property
    def seconds(self) -> float:
        """How long the slowest host takes: hosts are asked in parallel, logs of one host share its pace."""
        of_host: dict[str, float] = defaultdict(float)
        for log in self.logs:
            of_host[host_of(log.source_url)] += log.seconds
        return max(of_host.values(), default=0.0)

    def facts(self) -> dict[str, Any]:
        """Return the totals."""
        return {
            "logs": len(self.logs),
            "requests": self.requests,
            "entries_wanted": self.wanted,
            "in_vain": sum(log.in_vain for log in self.logs),
            "bytes": sum(log.bytes for log in self.logs),
            "seconds": round(self.seconds, 1),
        }

    def table(self) -> Frame:
        """Return a line for each log."""
        import pandas as pd

        table = pd.DataFrame([asdict(log) for log in self.logs], columns=[field.name for field in fields(LogPlan)])
        table["seconds"] = [_shown(log.seconds) for log in self.logs]
        table["assumed"] = table["assumed"].map(", ".join)
        return table.rename(columns={"source_url": "log", "in_vain": "in vain", "seconds": "time"})

    def tables(self) -> dict[str, Frame]:
        """Return a line for each log, and the logs that did not answer."""
        found = {"by log": self.table()}
        if self.unavailable:
            found["did not answer"] = frame_of({"why": str(error)} for error in self.unavailable)
        return found


def _shown(seconds: float) -> str:
    # A log can claim more entries than a timedelta can count seconds for.
    return "below 1 s" if seconds < 1 else str(timedelta(seconds=round(min(seconds, 1e13))))


@checked
def plan_backfill(logs: Logs, gaps: Gaps, *, ask: bool = True) -> Plan:
    """Return what it takes to fill gaps.

    Parameters
    ----------
    logs
        Where to fetch from; one for each ``source_url`` in `gaps`.
    gaps
        What to fetch: the table that `ctkit.find_gaps` returned, or a part of it.
    ask
        Whether to fetch the first page of each log whose page size is not known; nothing of it is written. A log that
        gives none within `ctkit.logs.ask_each.SECONDS_TO_ANSWER` is named, and planned with assumed numbers.

    Raises
    ------
    ParameterError
        A gap is in a log that is not among `logs`.
    """
    ranges = ranges_by_log(gaps)
    chosen = logs_of(ranges, logs)
    silent = learn_page_sizes(chosen.values()) if ask else ()
    return replace(plan_ranges(chosen, ranges), unavailable=silent)


def learn_page_sizes(logs: Iterable[Log]) -> tuple[LogError, ...]:
    """Ask each log for one page, if its page size cannot be known otherwise; return an error for each silent one."""
    answers = ask_each(lambda log: log.learn_page_size(), list(logs), seconds=SECONDS_TO_ANSWER)
    return tuple(answer for answer in answers if isinstance(answer, LogError))


def logs_of(urls: Iterable[str], logs: Sequence[Log]) -> dict[str, Log]:
    """Return the log of each URL.

    Raises
    ------
    ParameterError
        There is none for one of them.
    """
    by_url = {log.url: log for log in logs}
    if unknown := sorted(set(urls) - by_url.keys()):
        message = f"gaps name {unknown}, but no such log was given; give it, or leave those gaps out"
        raise ParameterError(message, keys=("gaps",))
    return {url: by_url[url] for url in urls}


def plan_ranges(logs: Mapping[str, Log], ranges: Mapping[str, RangeSet]) -> Plan:
    """Return the plan for the ranges wanted of each log, by URL, from what is known of the logs; none is asked."""
    return Plan(tuple(_plan_log(logs[url], wanted) for url, wanted in sorted(ranges.items()) if len(wanted)))


def _plan_log(log: Log, wanted: RangeSet) -> LogPlan:
    page_size, pace, size = log.page_size, log.pace, wanted.size
    requests, brought = wanted.page_totals(page_size)
    if log.protocol == "static-ct":
        brought = requests * page_size
    volume = round(brought * (log.entry_bytes or ENTRY_BYTES[log.protocol]))
    terms: dict[Term, float] = {
        "requests": requests / pace.rate if pace.rate else 0.0,
        "bytes": volume / (pace.bandwidth or BANDWIDTH),
        "latency": requests * (pace.latency or LATENCY) / pace.concurrency,
    }
    known = {
        "protocol": log.protocol != "auto",
        "page size": log.page_size_known,
        "bytes of an entry": log.entry_bytes,
        "rate": pace.rate,
        "latency": pace.latency,
        "bandwidth": pace.bandwidth,
    }
    binds = max(terms, key=lambda term: terms[term])
    return LogPlan(
        source_url=log.url,
        protocol=log.protocol,
        page_size=page_size,
        requests=requests,
        wanted=size,
        in_vain=brought - size,
        bytes=volume,
        seconds=terms[binds],
        binds=binds,
        assumed=tuple(name for name, value in known.items() if not value),
        extra="issuers" if log.protocol == "static-ct" else "",
    )
