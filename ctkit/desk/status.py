"""The state of things: what main has and lacks, what is proven, how far it is behind, and what to do next."""

import shlex
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from ctkit.arguments import checked
from ctkit.desk.gap_report import GapReport, report_gaps
from ctkit.desk.holdings import Holding, find_holdings
from ctkit.desk.parameters import Parameters
from ctkit.desk.records import Run, last_run
from ctkit.desk.stretches import why_not_begun
from ctkit.errors import LogError, LogUnavailableError, ParameterError, TableError
from ctkit.lake.coverage import find_covered, first_and_last, without_unreadable
from ctkit.lake.provenance import read_statements
from ctkit.lake.recorded import LastCommit, find_recorded, heads_by_time, last_commit
from ctkit.lake.table import files_of, table_path
from ctkit.ranges import END, NOTHING, RangeSet
from ctkit.report import Frame, Report, frame_of
from ctkit.urls import canonical_url
from ctkit.visible import first_of

DAYS = 7
"""Growth is told from the tree heads that commits of this many days recorded."""

_DAY = 86_400


@dataclass(frozen=True)
class LogStatus:
    """The state of one log; all counts are of entries of its stretch.

    Attributes
    ----------
    source_url, name
        The log, and what it is called; its URL if nobody says.
    start, end
        The stretch ``[start, end)`` that is to be complete.
    held, staged, missing
        Entries that main has, those that only staging has, and those that neither has.
    repeated
        Entries that several files of main have.
    recorded
        Entries whose rows are proven by what main's commits record. Only an audit checks that the files are still what
        was written, and that the log's tree extends the recorded ones.
    lag
        Entries from the last one that main has to the end of the stretch.
    per_day
        Entries by which the log has grown a day, of late; None if the table's commits do not tell.
    lag_days
        How long the log takes to grow by `lag`; None if that is not known.
    """

    source_url: str
    name: str
    start: int
    end: int
    held: int
    staged: int
    missing: int
    repeated: int
    recorded: int
    lag: int
    per_day: float | None
    lag_days: float | None

    @property
    def outcome(self) -> Literal["complete", "incomplete", "contradicted"]:
        """The state in a word; entries that have several rows contradict each other."""
        if self.repeated:
            return "contradicted"
        return "incomplete" if self.missing or self.staged else "complete"

    def line(self) -> dict[str, Any]:
        """Return the facts under short names, as JSON values."""
        return {
            "name": self.name,
            "log": self.source_url,
            "outcome": self.outcome,
            "from": self.start,
            "to": self.end,
            "held": self.held,
            "staged": self.staged,
            "missing": self.missing,
            "repeated": self.repeated,
            "proven": self.recorded,
            "lag": self.lag,
            "lag_days": self.lag_days,
            "per_day": self.per_day,
        }


@dataclass(frozen=True, eq=False, repr=False)
class StatusReport(Report):
    """The state of a main table and its logs.

    Attributes
    ----------
    main
        The table's folder.
    files
        Its data files; None if there is no table.
    logs
        The state of each log, by URL.
    unavailable
        One error for each log whose state is not known: it could not be reached, or the live server is to write its
        first row.
    undone
        Canonical URL -> why the state of a log is not known that has no start, no ceiling, or an end below its start.
    not_begun
        Canonical URL -> why there is nothing to do yet for a log that is empty, or has not grown to its start.
    held_of_unknown
        URL -> entries that main has of it, of logs whose state is not known.
    unreadable
        Path -> error, of data files that are damaged or gone. Their entries count as missing.
    left_to_server
        Entries that are left to the live server, which is running.
    commit
        The table's newest commit.
    last_run
        The newest run of which there is a record, notebook or command; None if there is none.
    file
        The parameter file, for the commands that are advised; "" if it is not known.
    """

    main: str
    files: int | None
    logs: tuple[LogStatus, ...]
    unavailable: tuple[LogError, ...]
    left_to_server: int
    commit: LastCommit | None
    last_run: Run | None
    undone: Mapping[str, str] = field(default_factory=dict)
    not_begun: Mapping[str, str] = field(default_factory=dict)
    unreadable: Mapping[str, TableError] = field(default_factory=dict)
    held_of_unknown: Mapping[str, int] = field(default_factory=dict)
    file: str = ""

    @property
    def title(self) -> str:  # type: ignore[override]
        """Whether all is well."""
        return "status good" if not self.next_steps() else "status needs attention"

    def next_steps(self) -> list[tuple[str, str]]:
        """Return what to do, in most cases as commands, each with the reason; nothing if all is well."""
        lacking, repeated = _named(self.logs, "incomplete"), _named(self.logs, "contradicted")
        steps = []
        if self.unreadable:
            named = first_of([str(error) for error in self.unreadable.values()], 5)
            steps.append(("ctkit repair", f"files cannot be read, so that their entries count as missing: {named}"))
        if repeated:
            steps.append(("ctkit repair", f"entries have several rows: {repeated}"))
        if self.files is None:
            steps.append(("ctkit update", "there is no main table yet"))
        elif lacking:
            steps.append(("ctkit update", f"entries are missing in main: {lacking}"))
        if self.unavailable:
            named = first_of([str(error) for error in self.unavailable], 5)
            steps.append(("ctkit status", f"the state of logs is not known: {named}"))
        file = shlex.quote(self.file)
        steps = [(f"{command} -f {file}" if self.file else command, why) for command, why in steps]
        if self.undone:
            named = first_of([f"{url} {why}" for url, why in self.undone.items()], 5)
            steps.append((f"edit {file if self.file else 'the parameters'}", named))
        return steps

    def check(self) -> None:
        """Raise unless main is complete up to the end of each log's stretch, and nothing is wrong.

        Raises
        ------
        TableError
            There is no main table, or entries are missing in it, or have several rows, or a file cannot be read.
        LogUnavailableError
            A log could not be asked, so its state is not known.
        ParameterError
            A log has no start, no ceiling, or an end below its start.
        """
        steps = "; ".join(f"{why}. Next: {command}" for command, why in self.next_steps())
        if self.files is None or self.unreadable or any(log.outcome != "complete" for log in self.logs):
            raise TableError(self.main, steps)
        if self.unavailable:
            raise LogUnavailableError(self.unavailable[0].url, steps)
        if self.undone:
            raise ParameterError(steps, keys=("logs",))

    def facts(self) -> dict[str, Any]:
        """Return the totals, the last commit and the last run."""
        lines = [log.line() for log in self.logs]
        totals = ("held", "staged", "missing", "repeated", "proven", "lag")
        found: dict[str, Any] = {
            "main": self.main,
            "files": self.files,
            "logs": len(lines) + len(self._not_known),
            "complete": sum(log.outcome == "complete" for log in self.logs),
            **{name: sum(line[name] for line in lines) for name in totals},
            "held": sum(log.held for log in self.logs) + sum(self.held_of_unknown.values()),
            "left_to_server": self.left_to_server,
            "unavailable": len(self.unavailable),
            "undone": len(self.undone),
            **({"not_begun": len(self.not_begun)} if self.not_begun else {}),
            **({"unreadable": len(self.unreadable)} if self.unreadable else {}),
        }
        if self.commit:
            found |= {"version": self.commit.version, "last_commit": self.commit.kind, "at": _utc(self.commit.seconds)}
        if self.last_run:
            run = self.last_run
            found |= {"last_run": run.runbook, "started": run.started, "outcome": run.outcome}
        return found

    def tables(self) -> dict[str, Frame]:
        """Return a line for each log, the logs whose state is not known, and what to do next."""
        return {
            "logs": frame_of(log.line() for log in self.logs),
            "not known": frame_of(
                {"log": url, "held": self.held_of_unknown.get(url, 0), "why": why} for url, why in self._not_known
            ),
            "not begun": frame_of({"log": url, "why": why} for url, why in self.not_begun.items()),
            "next steps": frame_of({"command": command, "why": why} for command, why in self.next_steps()),
        }

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values, for other programs."""
        return {
            "good": not self.next_steps(),
            **self.facts(),
            "by_log": [log.line() for log in self.logs],
            "not_known": [
                {"log": url, "held": self.held_of_unknown.get(url, 0), "why": why} for url, why in self._not_known
            ],
            "not_begun": dict(self.not_begun),
            "next_steps": [{"command": command, "why": why} for command, why in self.next_steps()],
        }

    @property
    def _not_known(self) -> list[tuple[str, str]]:
        return [*((error.url, error.message) for error in self.unavailable), *self.undone.items()]


@checked
def find_status(parameters: Parameters) -> StatusReport:
    """Tell how the main table and its logs stand; nothing is created or changed, and no data file is read twice.

    Raises
    ------
    ParameterError, SchemaMismatchError, TableError
        As for `report_gaps`.
    """
    with without_unreadable() as unreadable, closing(report_gaps(parameters)) as gap_report:
        main, holdings = gap_report.main, _held(gap_report)
        statements = [] if main is None else read_statements(main)
        stretches = {url: (holding.start, holding.end) for url, holding in holdings.items()}
        recorded = {} if main is None else find_recorded(stretches, main, statements)
        heads = {} if main is None else heads_by_time(main, statements)
        logs = []
        for url, holding in sorted(holdings.items()):
            known = heads.get(url, [])
            # An end that the log itself gave is its tree size now.
            if not parameters.by_state and url not in gap_report.ends and url not in gap_report.left_to_server:
                known.append((time.time(), gap_report.within[url][1]))
            name = gap_report.chosen.names.get(url, url)
            logs.append(_status_of(url, name, holding, recorded.get(url, NOTHING), _growth(known)))
        unavailable = (*gap_report.unavailable, *_just_begun(gap_report, holdings))
        unknown = {error.url for error in unavailable} | gap_report.undone.keys()
        covered = find_covered(dict.fromkeys(unknown - holdings.keys(), (0, END)), main)
        return StatusReport(
            main=str(table_path(parameters.need("main_path"))),
            files=None if main is None else len(files_of(main)),
            logs=tuple(logs),
            unavailable=unavailable,
            held_of_unknown={url: indices.size for url, indices in covered.items()},
            undone=gap_report.undone,
            not_begun={
                url: why_not_begun(start, gap_report.within[url][1]) for url, start in gap_report.not_begun.items()
            },
            unreadable=unreadable,
            left_to_server=sum(end - start for start, end in gap_report.left_to_server.values()),
            commit=None if main is None else last_commit(main),
            last_run=last_run(parameters.runs),
        )


def _held(report: GapReport) -> dict[str, Holding]:
    """Return what the tables have of each log; of one without a row everything is missing, whoever is to fetch it.

    What `internal_only` or the live server leaves of such a log is nothing, which would pass for complete.
    """
    found = find_holdings(report)
    without = report.within.keys() - found.keys() - report.not_begun.keys()
    for url in without - first_and_last(without, report.main).keys():
        start, end = report.left_to_server.get(url, report.within[url])
        if start is not None and start < end:
            none = RangeSet.of()
            found[url] = Holding(start, end, none, none, RangeSet.of((start, end)), none)
    return found


def _just_begun(report: GapReport, holdings: Collection[str]) -> list[LogError]:
    """Return an error for each log of `logs` that the live server is following, and has not written a row of yet."""
    known = {*holdings, *report.within, *report.undone, *(error.url for error in report.unavailable)}
    named = {canonical_url(log.url) for log in report.parameters.logs or ()}
    new = sorted(named.intersection(report.chosen.urls) - known)
    return [LogUnavailableError(url, "it has no row yet; the live server is to write the first") for url in new]


def _status_of(url: str, name: str, holding: Holding, recorded: RangeSet, per_day: float | None) -> LogStatus:
    lag = holding.end - (int(holding.held.ends[-1]) if len(holding.held) else holding.start)
    return LogStatus(
        source_url=url,
        name=name,
        start=holding.start,
        end=holding.end,
        held=holding.held.size,
        staged=holding.staged.size,
        missing=holding.missing.size,
        repeated=holding.repeated.size,
        recorded=recorded.size,
        lag=lag,
        per_day=None if per_day is None else round(per_day, 1),
        lag_days=round(lag / per_day, 4) if per_day else None if lag else 0.0,
    )


def _growth(heads: Sequence[tuple[float, int]]) -> float | None:
    """Return by how many entries a log grows a day, of tree sizes by time; None if they do not tell."""
    late = [head for head in heads if head[0] >= heads[-1][0] - DAYS * _DAY]
    if not late or late[-1][0] - late[0][0] < 60:
        return None
    return max(late[-1][1] - late[0][1], 0) / (late[-1][0] - late[0][0]) * _DAY


def _named(logs: Sequence[LogStatus], outcome: str) -> str:
    return first_of([log.source_url for log in logs if log.outcome == outcome], 5)


def _utc(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
