"""The steps of an update, again and again: a table that is never more than a stated lag behind its logs.

Each log is asked for its tree head at its own pace: more often while it grows, less often while it does not, and a log
that fails ever more seldom, while the others go on. What has grown is fetched and merged in rounds, a few in the time
of the lag, so that there are few commits; every so many rounds main is tidied. From time to time everything is looked
at afresh: the log list, the gaps, logs that did not answer. The table is the only memory, so that a loop that was
killed goes on like a run that was.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ctkit.arguments import Seconds, checked
from ctkit.desk.gap_report import GapReport, find_tables
from ctkit.desk.holdings import Holding, find_holdings
from ctkit.desk.parameters import Parameters
from ctkit.desk.update import Steps, check_tables
from ctkit.errors import CheckpointError, CtkitError, LogError, TableError
from ctkit.lake.gaps import find_gaps, without
from ctkit.lake.locks import lock_steps
from ctkit.lake.table import files_of, find_table, table_path
from ctkit.logs.ask_each import SECONDS_TO_ANSWER, ask_each
from ctkit.logs.log import Log
from ctkit.ranges import NOTHING, RangeSet
from ctkit.report import Frame, Report, frame_of
from ctkit.visible import get_logger
from ctkit.wire.checkpoint import Checkpoint

logger = get_logger(__name__)

LAG = 60.0
"""Seconds that the table may be behind its logs, if nothing else is said."""

ROUNDS_PER_LAG, HEADS_PER_LAG = 2, 4
"""In the time of the lag, how many rounds begin at most, each a commit, and how often at least a log is asked for its
tree head: what it grows by is seen after a quarter, fetched half a lag later at the latest, and then in main."""

SECONDS_BETWEEN_HEADS = {"static-ct": 1.0, "rfc6962": 5.0, "auto": 5.0}
"""The least time between two questions for a tree head: a checkpoint is a small static file, get-sth is not."""

LONGEST_PAUSE = 600.0
"""Seconds after which a log that fails is asked again at the latest."""

SECONDS_PER_LOOK = 600.0
"""How often the log list is read, and all gaps are found, afresh."""

ROUNDS_PER_TIDY = 16
"""After so many rounds that wrote something main is tidied."""


@dataclass
class Pulse:
    """What is known of one log that is followed.

    Attributes
    ----------
    log
        The log.
    start, end
        Where its stretch starts, None for its first row, and where it ends, None for the log's own end.
    size, done
        The end of its stretch by its newest tree head, and up to where the table is complete.
    wait, due
        Seconds between two questions for its tree head, and when the next one is due.
    head
        The newest tree head that extends the ones before it; None if it is not known.
    since
        When it was first known to be behind; None while it is not.
    seen
        When it last gave a tree head.
    failures, resumes
        How often it has failed in a row, and when its entries are fetched again.
    held, missing
        Entries of the stretch that main has, and that it lacks.
    """

    log: Log
    start: int | None
    end: int | None
    size: int
    done: int
    wait: float
    due: float
    seen: float
    head: Checkpoint | None = None
    since: float | None = None
    failures: int = 0
    resumes: float = 0.0
    held: int = 0
    missing: int = 0

    @property
    def stretch(self) -> tuple[int | None, int]:
        """``[start, end)`` up to its newest tree head; empty while the log has not grown to its start."""
        return None if self.start is None else min(self.start, self.size), self.size

    def behind(self, now: float) -> float:
        """Return for how many seconds the table has been behind; of a log that fails, since its last tree head."""
        if self.since is None:
            return now - self.seen if self.failures else 0.0
        return now - self.since


@dataclass(frozen=True, eq=False, repr=False)
class FollowReport(Report):
    """How a table stands that follows its logs.

    Attributes
    ----------
    main
        The main table's folder.
    version, files
        Main's version and number of data files; None while there is no table.
    rounds
        Rounds that wrote something so far.
    logs
        Canonical URL -> entries that main has, entries that it lacks, seconds that it is behind, failures in a row.
    unavailable
        One error for each log that could not be asked at the last look at everything.
    problems
        What stood in the way of the last round, and of the last look at everything.
    """

    main: str
    version: int | None
    files: int | None
    rounds: int
    logs: Mapping[str, tuple[int, int, float, int]]
    unavailable: tuple[LogError, ...]
    problems: tuple[CtkitError, ...]

    title = "following"

    def facts(self) -> dict[str, Any]:
        """Return the totals, and the largest lag."""
        of_logs = self.logs.values()
        return {
            "main": self.main,
            "version": self.version,
            "files": self.files,
            "rounds": self.rounds,
            "logs": len(self.logs),
            "held": sum(held for held, *_ in of_logs),
            "missing": sum(missing for _, missing, *_ in of_logs),
            "lag_seconds": round(max((lag for *_, lag, _ in of_logs), default=0.0), 1),
            "failing": sum(failures > 0 for *_, failures in of_logs) + len(self.unavailable),
            "problems": len(self.problems),
        }

    def tables(self) -> dict[str, Frame]:
        """Return a line for each log."""
        columns = ("held", "missing", "lag_seconds", "failures")
        return {"logs": frame_of({"log": url, **dict(zip(columns, of, strict=True))} for url, of in self.logs.items())}


class Follower:
    """Follows logs; `step` does what is due and returns how long there is nothing to do.

    Parameters
    ----------
    parameters
        As for `ctkit.update`. The ceilings are the logs' own tree sizes; budgets do not count.
    lag
        Seconds that the table may be behind its logs.
    clock
        Seconds that only grow.
    on_round
        Called after each round, each look at everything, and when a log fails.
    """

    def __init__(
        self,
        parameters: Parameters,
        *,
        lag: float = LAG,
        clock: Callable[[], float] = time.monotonic,
        on_round: Callable[[FollowReport], None] | None = None,
    ) -> None:
        limits = {"max_requests": None, "max_entries": None, "deadline": max(lag / 2, 1.0)}
        self._parameters = parameters.model_copy(update={"ceiling": "log", **limits})
        self._main = str(table_path(parameters.need("main_path")))
        self._lag, self._clock, self._on_round = lag, clock, on_round
        self._report: GapReport | None = None
        self._pulses: dict[str, Pulse] = {}
        self._look_due = self._round_due = clock()
        self._rounds = self._untidied = self._bad_looks = 0
        # Entries that a log does not give as it should: of them the next look asks again, not every round.
        self._in_vain: dict[str, RangeSet] = {}
        self._of_look: list[CtkitError] = []
        self._of_round: list[CtkitError] = []

    def step(self) -> float:
        """Do what is due; return the seconds until something is due again."""
        if self._clock() >= self._look_due:
            self._look()
        self._poll()
        if self._clock() >= self._round_due and (ready := self._ready()):
            self._round(ready)
        return max(self._next() - self._clock(), 0.0)

    def close(self) -> None:
        """Close the connections to the logs."""
        if self._report:
            self._report.close()

    def _look(self) -> None:
        """Look at everything afresh: the log list, the gaps, the logs; merge what a run before this one has staged."""
        first, now = self._report is None, self._clock()
        steps = Steps(self._parameters, self._main)
        try:
            if report := steps.find_gaps():
                self._begin(steps.check_heads(report), steps)
        except (CtkitError, OSError) as error:
            if first:
                raise
            steps.note(error)
        self._of_look = steps.tell()
        self._bad_looks = self._bad_looks + 1 if steps.problems else 0
        # Soon again, if something was wrong, and then ever less often.
        wait = self._lag * 2.0 ** min(self._bad_looks - 1, 10) if self._bad_looks else SECONDS_PER_LOOK
        self._look_due = now + min(wait, SECONDS_PER_LOOK)
        if self._report and (first or self._ready()):
            self._round(self._ready())
        else:
            self._tell()

    def _begin(self, report: GapReport, steps: Steps) -> None:
        """Follow the logs of a report from here on."""
        self.close()
        now = self._clock()
        self._report, before, self._pulses, self._in_vain = report, self._pulses, {}, {}
        for log in report.logs:
            start, size = report.within[log.url]
            start = report.not_begun.get(log.url, start)
            known, least = before.get(log.url), SECONDS_BETWEEN_HEADS[log.protocol]
            # What is left to the live server ends before the tree does; only the next look tells how far it has come.
            due = math.inf if log.url in report.left_to_server else now + least
            pulse = self._pulses[log.url] = Pulse(log, start, report.ends.get(log.url), size, 0, least, due, now)
            head = steps.heads.get(log.url)
            pulse.head = head if isinstance(head, Checkpoint) else None
            if known:
                pulse.since, pulse.failures, pulse.resumes = known.since, known.failures, known.resumes
        self._judge(steps, report.within, steps.before)
        for pulse in self._pulses.values():
            if pulse.done < pulse.size and pulse.since is None:
                pulse.since = now

    def _poll(self) -> None:
        """Ask the logs that are due for their tree heads."""
        now = self._clock()
        due = [pulse for pulse in self._pulses.values() if pulse.due <= now]
        answers = ask_each(self._ask, due, seconds=SECONDS_TO_ANSWER)
        for pulse, answer in zip(due, answers, strict=True):
            if isinstance(answer, LogError):
                logger.warning("log cannot be asked %s", answer)
                self._pause(pulse)
                if isinstance(answer, CheckpointError):
                    # Nothing is fetched of it any more; the next look compares it with what the table knows.
                    self._of_look.append(answer)
                    del self._pulses[pulse.log.url]
                continue
            pulse.head, pulse.seen = answer, now
            size = answer.tree_size if pulse.end is None else min(answer.tree_size, pulse.end)
            least = SECONDS_BETWEEN_HEADS[pulse.log.protocol]
            if pulse.done >= pulse.size:
                pulse.failures = 0
            if size > pulse.size:
                pulse.size, pulse.wait = size, max(least, self._lag / (2 * HEADS_PER_LAG))
                pulse.since = now if pulse.since is None else pulse.since
            else:
                pulse.wait = max(least, min(pulse.wait * 1.5, self._lag / HEADS_PER_LAG))
            pulse.due = now + pulse.wait
        if any(isinstance(answer, LogError) for answer in answers):
            self._tell()

    def _ask(self, pulse: Pulse) -> Checkpoint:
        """Ask a log for its tree head, and if it has grown, for a proof that it extends the one before."""
        head = pulse.log.get_checkpoint()
        if pulse.head is not None and pulse.head.tree_size not in (0, head.tree_size):
            pulse.log.check_consistency(pulse.head, head)
        return head

    def _pause(self, pulse: Pulse) -> None:
        """Leave a log alone that has failed, ever longer; what it asks for itself its host's pace heeds."""
        pulse.failures += 1
        seconds = min(SECONDS_BETWEEN_HEADS["rfc6962"] * 2.0 ** min(pulse.failures, 10), LONGEST_PAUSE)
        pulse.resumes = pulse.due = self._clock() + seconds

    def _ready(self) -> list[Pulse]:
        now = self._clock()
        return [pulse for pulse in self._pulses.values() if pulse.done < pulse.size and pulse.resumes <= now]

    def _next(self) -> float:
        """Return when something is due."""
        round_due = [max(self._round_due, p.resumes) for p in self._pulses.values() if p.done < p.size]
        return min([self._look_due, *round_due, *(pulse.due for pulse in self._pulses.values())])

    def _round(self, ready: list[Pulse]) -> None:
        """Fetch and merge what some logs have that the table lacks; tidy now and then."""
        self._round_due = self._clock() + self._lag / ROUNDS_PER_LAG
        steps = Steps(self._parameters, self._main)
        try:
            self._take(steps, ready)
        except (TableError, OSError) as error:
            # Another run is at work, or its merge has removed the table that was just found; or the disk is full.
            steps.note(error)
        self._of_round = steps.tell()
        self._tell()

    def _take(self, steps: Steps, ready: list[Pulse]) -> None:
        assert self._report is not None
        main, staging = find_tables(self._parameters)
        before = None if main is None else main.version()
        within = {pulse.log.url: pulse.stretch for pulse in ready}
        gaps = find_gaps(main, staging, within=within, internal_only=bool(self._parameters.internal_only))
        gaps = without(gaps, self._in_vain)
        now = replace(
            self._report, main=main, staging=staging, within=within, gaps=gaps, unavailable=(), left_to_server={}
        )
        with lock_steps(self._main):
            steps.backfill(now)
            if steps.interrupted:
                raise KeyboardInterrupt
            steps.merge()
        main, staging = find_tables(self._parameters)
        if main is not None and main.version() != before:
            self._rounds += 1
            self._untidied += 1
        for hole in steps.filled.holes if steps.filled else ():
            if hole.lasting:
                ranges = [RangeSet.of((hole.start, hole.end)), self._in_vain.get(hole.source_url, NOTHING)]
                self._in_vain[hole.source_url] = RangeSet.joined(ranges)
        self._judge(steps, within, find_holdings(replace(now, main=main, staging=staging)))
        if self._untidied >= ROUNDS_PER_TIDY:
            self._untidied = 0
            steps.tidy()

    def _judge(self, steps: Steps, urls: Iterable[str], holdings: Mapping[str, Holding]) -> None:
        """Note up to where logs are complete now; leave one alone for a while that did not give its entries."""
        failed = {hole.source_url for hole in steps.filled.holes} if steps.filled else set()
        for url in urls:
            # One that has no row yet, and has not grown to its start, has no holding.
            pulse, holding = self._pulses[url], holdings.get(url)
            pulse.held = holding.held.size if holding else 0
            pulse.missing = holding.missing.size + holding.staged.size if holding else 0
            if not pulse.missing:
                pulse.done, pulse.since, pulse.failures = pulse.size, None, 0
            elif url in failed and steps.filled and not steps.filled.written.get(url):
                self._pause(pulse)

    def _tell(self) -> None:
        if self._on_round is None:
            return
        try:
            self._on_round(self._state())
        except (TableError, OSError) as error:
            logger.warning("main cannot be looked at now: %s", error)

    def _state(self) -> FollowReport:
        main, now = find_table(self._main), self._clock()
        return FollowReport(
            main=self._main,
            version=None if main is None else main.version(),
            files=None if main is None else len(files_of(main)),
            rounds=self._rounds,
            logs={
                url: (pulse.held, pulse.missing, pulse.behind(now), pulse.failures)
                for url, pulse in sorted(self._pulses.items())
            },
            unavailable=self._report.unavailable if self._report else (),
            problems=(*self._of_look, *self._of_round),
        )


@checked
def follow(
    parameters: Parameters,
    *,
    lag: Seconds = LAG,
    on_round: Callable[[FollowReport], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Keep the main table at most a stated lag behind its logs, until Ctrl+C.

    A log that fails is asked again later, while the others go on; so is everything that stands in the way of a round,
    such as a full disk.

    Parameters
    ----------
    parameters
        As for `ctkit.update`. The ceilings are the logs' own tree sizes; budgets do not count.
    lag
        Seconds that the table may be behind, as long as logs give their entries faster than they grow.
    on_round
        Called after each round of fetching and merging, each look at everything, and when a log fails.
    clock, sleep
        Where time comes from.

    Raises
    ------
    ParameterError, SchemaMismatchError, TableError
        As for `ctkit.update`, at the start.
    KeyboardInterrupt
        On Ctrl+C; what has arrived is written, and the next run merges it.
    """
    parameters.check_given("user_agent", "main_path")
    check_tables(parameters)
    follower = Follower(parameters, lag=lag, clock=clock, on_round=on_round)
    try:
        while True:
            sleep(follower.step())
    finally:
        follower.close()
