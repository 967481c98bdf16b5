"""Gaps -> requests: what a backfill will cost, as a value to look at before it runs."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import timedelta
from typing import Any, Literal

import pandas as pd

from ctkit.arguments import checked
from ctkit.errors import LogError, ParameterError
from ctkit.lake.gaps import Gaps, ranges_by_log
from ctkit.logs.ask_each import SECONDS_TO_ANSWER, ask_each
from ctkit.logs.log import Log, LogProtocol, Logs
from ctkit.ranges import RangeSet
from ctkit.report import Report
from ctkit.urls import host_of

ENTRY_BYTES: dict[LogProtocol | Literal["auto"], int] = {"rfc6962": 6067, "static-ct": 1776, "auto": 6067}
"""Bytes of an entry in an answer, unpacked, of a log that was not asked for any yet.

Means over recorded answers of public logs: 330 entries of three logs that speak RFC 6962 (5,505 to 6,241 by log; in
base64, each with its whole chain), and 1,280 entries in the data tiles of two Static CT logs (1,586 and 2,537). The
larger one counts where it is not known which a log speaks.
"""

LATENCY = 0.25
"""Seconds until an answer begins, of a host that was not asked yet."""

BANDWIDTH = 10e6
"""Bytes a second, of a host that was not asked for entries yet."""

Term = Literal["requests", "bytes", "latency"]


@dataclass(frozen=True)
class LogPlan:
    """What it takes to fetch what is wanted of one log.

    Attributes
    ----------
    source_url, protocol
        The log, and how it is read; ``"auto"`` where that is not known yet.
    page_size
        Entries of a whole page, or tile.
    requests
        Pages or tiles that hold a wanted entry; each is asked for once.
    wanted
        Entries that are missing.
    vain
        Entries that come with them and are dropped. A partial tile is taken for a full one.
    bytes
        Of all answers together, unpacked.
    seconds
        How long that takes, with nothing in the way but the term that `binds`.
    binds
        What takes longest: the rate of ``"requests"`` that the host allows, the ``"bytes"``, or the ``"latency"`` of
        the requests, as many at a time as the host is asked now.
    assumed
        Which of the numbers are not known of this log yet and assumed. `rate`: no limit is known.
    extra
        What may be asked for beside, nobody knows how often: the issuers of a Static CT log, each once.
    """

    source_url: str
    protocol: LogProtocol | Literal["auto"]
    page_size: int
    requests: int
    wanted: int
    vain: int
    bytes: int
    seconds: float
    binds: Term
    assumed: tuple[str, ...]
    extra: str


@dataclass(frozen=True, repr=False)
class Plan(Report):
    """What a backfill will ask for; nothing of it has run.

    Attributes
    ----------
    logs
        A line for each log that misses something.
    unavailable
        Errors of the logs among them that were asked and did not answer: what is said of them is assumed.
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
        """How long the slowest host takes: hosts are asked side by side, logs of one host share its pace."""
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
            "entries_in_vain": sum(log.vain for log in self.logs),
            "bytes": sum(log.bytes for log in self.logs),
            "seconds": round(self.seconds, 1),
        }

    def table(self) -> pd.DataFrame:
        """Return a line for each log."""
        table = pd.DataFrame([asdict(log) for log in self.logs], columns=[field.name for field in fields(LogPlan)])
        table["seconds"] = [_shown(log.seconds) for log in self.logs]
        table["assumed"] = table["assumed"].map(", ".join)
        return table.rename(columns={"source_url": "log", "vain": "in vain", "seconds": "time"})

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the line of each log, and the logs that did not answer."""
        found = {"by log": self.table()}
        if self.unavailable:
            found["did not answer"] = pd.DataFrame({"why": [str(error) for error in self.unavailable]})
        return found


def _shown(seconds: float) -> str:
    # A log can claim so many entries, and be so slow, that no timedelta is as long.
    return "below 1 s" if seconds < 1 else str(timedelta(seconds=round(min(seconds, 1e13))))


@checked
def plan_backfill(logs: Logs, gaps: Gaps, *, ask: bool = True) -> Plan:
    """Tell what it takes to fill gaps.

    Parameters
    ----------
    logs
        Where to fetch from; one for each ``source_url`` in `gaps`.
    gaps
        What to fetch: the table that `ctkit.find_gaps` returned, or a part of it.
    ask
        Whether to ask each log whose page size is not known for one page, so that the plan is true. It is the first
        page of the log, and nothing of it is written. A log that gives none within
        `ctkit.logs.ask_each.SECONDS_TO_ANSWER` is named, and planned all the same with what is assumed.

    Raises
    ------
    ParameterError
        A gap is of a log that is not among `logs`.
    """
    ranges = ranges_by_log(gaps)
    chosen = logs_of(ranges, logs)
    silent: tuple[LogError, ...] = ()
    if ask:
        answers = ask_each(lambda log: log.learn_page_size(), list(chosen.values()), seconds=SECONDS_TO_ANSWER)
        silent = tuple(answer for answer in answers if isinstance(answer, LogError))
    return replace(plan_ranges(chosen, ranges), unavailable=silent)


def logs_of(urls: Iterable[str], logs: Sequence[Log]) -> dict[str, Log]:
    """Return the log of each URL.

    Raises
    ------
    ParameterError
        There is none for one of them.
    """
    by_url = {log.url: log for log in logs}
    if unknown := sorted(set(urls) - by_url.keys()):
        raise ParameterError(f"gaps name {unknown}, but no such log was given; give it, or leave those gaps out")
    return {url: by_url[url] for url in urls}


def plan_ranges(logs: Mapping[str, Log], ranges: Mapping[str, RangeSet]) -> Plan:
    """Return the plan for what is wanted of each log, by URL, as far as the logs are known; none of them is asked."""
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
        vain=brought - size,
        bytes=volume,
        seconds=terms[binds],
        binds=binds,
        assumed=tuple(name for name, value in known.items() if not value),
        extra="issuers" if log.protocol == "static-ct" else "",
    )
