"""The gaps of each log as a lane, the same for widget, picture and terminal."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ctkit.desk.choice import GapChoice
from ctkit.desk.gap_report import GapReport
from ctkit.desk.stretches import why_not_begun
from ctkit.desk.wording import counted, in_bytes, in_percent, in_time
from ctkit.jobs.plan import Plan, learn_page_sizes, plan_ranges
from ctkit.lake.gaps import ranges_by_log
from ctkit.logs.log import Log
from ctkit.ranges import NOTHING, Int64s, RangeSet
from ctkit.visible import visible

BINS = 1000
"""Bins of a lane: about a pixel each."""


class Bins(NamedTuple):
    """How many entries of each bin are what.

    Attributes
    ----------
    edges
        Bin ``i`` has the indices ``[edges[i], edges[i + 1])``; none is empty.
    missing
        Entries that neither table has.
    staged
        Entries that only staging has.
    chosen
        Missing entries that are chosen.
    """

    edges: Int64s
    missing: Int64s
    staged: Int64s
    chosen: Int64s

    @property
    def sizes(self) -> Int64s:
        """Entries of each bin."""
        return np.diff(self.edges)

    @property
    def held(self) -> Int64s:
        """Entries that main has."""
        return self.sizes - self.missing - self.staged


@dataclass(frozen=True, eq=False)
class Lane:
    """One log.

    Attributes
    ----------
    url, name
        The log; a name is text from outside, made safe to show.
    start, end
        The stretch that was searched for gaps; empty if nothing was.
    missing, staged
        What neither table has of the stretch, and what only staging has.
    beyond
        Rows at or above the log's ceiling, which are not in the stretch.
    left
        Entries above the stretch that are left to the live server, which is running.
    why
        Why nothing was searched, and what to do; empty if something was.
    failed
        Whether that is a failure.
    """

    url: str
    name: str
    start: int = 0
    end: int = 0
    missing: RangeSet = NOTHING
    staged: RangeSet = NOTHING
    beyond: int = 0
    left: int = 0
    why: str = ""
    failed: bool = False

    @property
    def size(self) -> int:
        """Entries of the stretch."""
        return self.end - self.start

    def bins(self, start: int, end: int, chosen: RangeSet = NOTHING, *, count: int = BINS) -> Bins:
        """Return what the part ``[start, end)`` of the stretch has, in `count` bins at most.

        Parameters
        ----------
        start, end
            Where to look, which may be a few entries of many.
        chosen
            Those of the missing entries that are chosen.
        count
            How many bins; there are fewer if there are fewer entries.
        """
        count = max(min(count, end - start), 0)
        edges = start + np.arange(count + 1, dtype=np.int64) * (end - start) // max(count, 1)
        # Within the part alone: a log may have millions of gaps.
        parts = (ranges.between(start, end) for ranges in (self.missing, self.staged, chosen))
        return Bins(edges, *(np.diff(ranges.below(edges)) for ranges in parts))

    def caption(self) -> str:
        """Return what is missing, in words."""
        left = [f"{self.left:,} left to the live server"] if self.left else []
        if not self.size:
            return " · ".join([self.why, *left])
        parts = [f"{self.missing.size:,} missing ({in_percent(self.missing.size, self.size)})"]
        parts = parts if len(self.missing) else ["nothing missing"]
        if len(self.staged):
            parts.append(f"{self.staged.size:,} staged")
        if self.beyond:
            parts.append(f"{self.beyond:,} above the ceiling")
        return " · ".join([*parts, *left])


@dataclass(frozen=True, eq=False)
class Lanes:
    """All logs; the one that misses most comes first, those without an answer last.

    Attributes
    ----------
    lanes
        One for each log.
    names
        URL -> name, as `ctkit.desk.choice.GapChoice.resolve` takes them.
    logs
        URL -> log, to plan with; empty if they are not known.
    without_main
        Whether there is no main table yet.
    """

    lanes: tuple[Lane, ...]
    names: Mapping[str, str | None]
    logs: Mapping[str, Log] = field(default_factory=dict)
    without_main: bool = False

    @classmethod
    def of_report(cls, report: GapReport) -> "Lanes":
        """Return the lanes of a gap report."""
        names = dict.fromkeys(report.within) | dict(report.names)
        stretches = report.stretches()
        left = {url: end - start for url, (start, end) in report.left_to_server.items()}
        lanes = [
            Lane(
                url,
                label(url, names),
                *stretch,
                report.missing[url],
                report.staged.get(url, NOTHING),
                report.beyond.get(url, 0),
                left.get(url, 0),
            )
            for url, stretch in stretches.items()
        ]
        failed = {error.url: error.message for error in report.unavailable} | dict(report.undone)
        lanes += [Lane(url, label(url, names), why=visible(why), failed=True) for url, why in failed.items()]
        for url in report.within.keys() - stretches.keys() - failed.keys():
            start = report.not_begun.get(url)
            why = "nothing to do yet" if start is None else why_not_begun(start, report.within[url][1])
            beyond = report.beyond.get(url, 0)
            lanes.append(Lane(url, label(url, names), why=why, beyond=beyond, left=left.get(url, 0)))
        # Where nothing is missing there is nothing to plan, and connections take a while to prepare.
        logs = report.logs if report.gaps.num_rows and report.parameters.user_agent else ()
        return cls(_sorted(lanes), names, {log.url: log for log in logs}, report.main is None)

    @classmethod
    def of_gaps(cls, gaps: pa.Table, within: Mapping[str, tuple[int | None, int]]) -> "Lanes":
        """Return the lanes of gaps alone; without a stretch, a lane runs from the first gap to the last.

        Parameters
        ----------
        gaps
            As `ctkit.find_gaps` returns them.
        within
            Canonical URL -> stretch, as given to `ctkit.find_gaps`.
        """
        lanes = []
        missing = ranges_by_log(gaps)
        for url in {**within, **missing}:
            found = missing.get(url, NOTHING)
            first, last = (int(found.starts[0]), int(found.ends[-1])) if len(found) else (0, 0)
            start, end = within.get(url, (first, last))
            if start is None:
                # The log's first row is not known; its first gap comes after it.
                start = first if len(found) else end
            if start < end:
                lanes.append(Lane(url, label(url, {}), start, end, found.between(start, end)))
        return cls(_sorted(lanes), dict.fromkeys([lane.url for lane in lanes]))

    @property
    def missing(self) -> dict[str, RangeSet]:
        """URL -> what is missing, of logs that miss anything."""
        return {lane.url: lane.missing for lane in self.lanes if len(lane.missing)}

    def choose(self, choice: GapChoice) -> dict[str, RangeSet]:
        """Return the chosen gaps of each log that has any.

        Raises
        ------
        ParameterError
            The choice does not fit the logs.
        """
        return choice.choose(self.missing, self.names)

    def learn_page_sizes(self) -> None:
        """Ask the logs that miss anything for a page, where that is needed for `plan` to tell what a backfill takes."""
        learn_page_sizes(self.logs[url] for url in self.missing.keys() & self.logs.keys())

    def plan(self, chosen: Mapping[str, RangeSet]) -> Plan | None:
        """Return what it takes to fetch the chosen gaps, without asking any log; None if the logs are not known."""
        return plan_ranges(self.logs, chosen) if self.logs.keys() >= chosen.keys() and self.logs else None

    def verdict(self, chosen: Mapping[str, RangeSet], plan: Plan | None) -> str:
        """Return one line: what is missing, staged and chosen, and what it takes to fetch that."""
        searched = [lane for lane in self.lanes if lane.size]
        missing, size = sum(lane.missing.size for lane in searched), sum(lane.size for lane in searched)
        staged, beyond = sum(lane.staged.size for lane in searched), sum(lane.beyond for lane in self.lanes)
        failed = sum(lane.failed for lane in self.lanes)
        parts = [f"{in_percent(missing, size)} of {counted(len(searched), 'log')} missing"]
        if not missing:
            parts = [f"nothing missing in {counted(len(searched), 'log')}"]
        if self.without_main:
            parts.insert(0, "no main table yet")
        if failed:
            parts.append(f"{counted(failed, 'log')} failed")
        if staged:
            parts.append(f"{staged:,} staged")
        if beyond:
            parts.append(f"{beyond:,} above the ceiling")
        if left := sum(lane.left for lane in self.lanes):
            parts.append(f"{left:,} left to the live server")
        if missing:
            wanted = sum(ranges.size for ranges in chosen.values())
            parts.append(f"{wanted:,} to fetch" if wanted == missing else f"{wanted:,} of {missing:,} chosen to fetch")
            if plan is not None and plan.logs:
                parts.append(in_short(plan))
        return " · ".join(parts)


def in_short(plan: Plan) -> str:
    """Return what a plan takes, in words."""
    assumed = {name for log in plan.logs for name in log.assumed}
    said = [words for name, words in _ASSUMED.items() if name in assumed]
    unknown = f" ({', '.join(said)})" if said else ""
    volume = in_bytes(sum(log.bytes for log in plan.logs))
    return f"{counted(plan.requests, 'request')}, {volume}, at least {in_time(plan.seconds)}{unknown}"


# What makes most of the difference, of the names that `ctkit.jobs.plan.LogPlan.assumed` has.
_ASSUMED = {"page size": "page size assumed", "rate": "rate unknown"}


def label(url: str, names: Mapping[str, str | None]) -> str:
    """Return the name of a log for display, or its URL without ``https://``."""
    return visible(names.get(url) or url.removeprefix("https://").removeprefix("http://"))


def _sorted(lanes: list[Lane]) -> tuple[Lane, ...]:
    return tuple(sorted(lanes, key=lambda lane: (not lane.size, -lane.missing.size, lane.name, lane.url)))


# Okabe and Ito's colours, which all kinds of colour vision tell apart.
COLOURS = {"missing": "#D55E00", "not chosen": "#E69F00", "staged": "#56B4E9", "held": "#0072B2"}
PARTS = tuple(COLOURS)
"""What a bin can have, from the bottom of its picture up."""
ABOVE = "#CC79A7"
"""Of rows above the ceiling."""


def levels(bins: Bins, height: int) -> NDArray[np.uint8]:
    """Return where the parts of each bin end, from the bottom up, in a picture of that many pixels, shaped ``(3, n)``.

    The lowest part is what is missing and chosen, then come what is missing and not chosen, and what is staged; above
    that everything is held. Shares are heights: however little is missing, or not chosen, it has a pixel, and the whole
    height only where all is.
    """
    sizes, least = bins.sizes, np.minimum(1, bins.sizes - bins.missing)
    tops = np.zeros((3, len(sizes)), np.int64)
    total = np.zeros(len(sizes), np.int64)
    for number, part in enumerate((bins.chosen, bins.missing - bins.chosen, bins.staged)):
        total = total + part
        # At least a pixel more than the part below; of what is missing, one less than all, unless all is; of what is
        # chosen, one less than that, unless all of it is.
        most = (height - least - (bins.missing > bins.chosen), height - least, height)[number]
        exact = np.maximum(np.rint(total / sizes * height).astype(np.int64), tops[number - 1] + 1 if number else 1)
        tops[number] = np.where(part > 0, np.minimum(exact, most), tops[number - 1] if number else 0)
    return tops.astype(np.uint8)


def paint(bins: Bins, height: int) -> NDArray[np.uint8]:
    """Return bins as a picture with a column for each, in RGB; see `levels`."""
    palette = np.array([list(bytes.fromhex(COLOURS[name][1:])) for name in PARTS], np.uint8)
    rows = np.arange(height)[::-1, None, None]
    numbers = (rows >= levels(bins, height)[None].transpose(0, 2, 1)).sum(axis=2)
    picture: NDArray[np.uint8] = palette[numbers]
    return picture
