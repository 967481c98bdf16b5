"""The report of an update: what a night did for each log, and what it leaves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ctkit.errors import CtkitError, UpdateError
from ctkit.jobs.backfill_report import BackfillReport
from ctkit.lake.merge import MergeReport
from ctkit.lake.tidy import TidyReport
from ctkit.report import Frame, Report, frame_of

MEANING = (
    "Complete means that main has a row for every entry of the stretch, and no entry in several files. That is told "
    "from the indices that each file has, which are remembered, so that only new files are read.",
    "Unless verify is off, each log was asked, before anything was fetched, whether its tree extends the largest one "
    "that this table's commits name. With verify: entries, what was fetched is proven to be in the log's tree.",
    "Only `ctkit audit` reads every file to its last byte, hashes every certificate, counts what is proven, and "
    "compares every tree head; only `ctkit audit --recheck` compares rows with the log again.",
)


Outcome = Literal["complete", "stopped", "incomplete", "contradicted", "not known"]


@dataclass(frozen=True)
class LogUpdate:
    """What an update did for one log; all counts are of entries of its stretch.

    Attributes
    ----------
    source_url
        The log.
    outcome
        ``"stopped"`` is what only the budget left incomplete. ``"contradicted"``: the log contradicts an earlier tree
        head, or entries have several rows. ``"not known"``: the log could not be asked.
    tree_size
        Of the tree head that the log gave at the end; None if it gave none.
    start, end
        The stretch ``[start, end)`` that is to be complete; None if it is not known.
    was_missing, fetched
        Entries that neither table had at the start, and how many of them this run wrote.
    new_rows, held
        Entries that main has, and how many of them it did not have at the start.
    staged, missing
        Entries that main lacks: those that staging has, and those that neither has.
    left_to_server
        Entries above the stretch that are left to the live server, which is running.
    why
        Why entries are missing, or what is wrong.
    """

    source_url: str
    outcome: Outcome
    tree_size: int | None = None
    start: int | None = None
    end: int | None = None
    was_missing: int = 0
    fetched: int = 0
    new_rows: int = 0
    held: int = 0
    staged: int = 0
    missing: int = 0
    left_to_server: int = 0
    why: str = ""

    def line(self) -> dict[str, Any]:
        """Return the facts under short names, as JSON values."""
        return {
            "log": self.source_url,
            "outcome": self.outcome,
            "tree_size": self.tree_size,
            "from": self.start,
            "to": self.end,
            "was_missing": self.was_missing,
            "fetched": self.fetched,
            "new_rows": self.new_rows,
            "held": self.held,
            "staged": self.staged,
            "missing": self.missing,
            "left_to_server": self.left_to_server,
            "why": self.why,
        }


@dataclass(frozen=True, eq=False, repr=False)
class UpdateReport(Report):
    """What an update did, step by step, and what it leaves.

    Attributes
    ----------
    main
        The main table's folder.
    version_before, version
        Main's version at the start and at the end; None while there is no table.
    logs
        A line for each log, by URL.
    begun
        URLs of the logs of the log list of which no table had a row.
    retired
        URL -> what the log list says of a log that has rows and comes to its end: ``"readonly"``, ``"retired"``,
        ``"rejected"``, or ``"not listed"``. It is finished, and its rows are kept.
    backfill, merge, tidy
        The reports of the steps; None for a step that was not taken, or failed.
    problems
        What stood in the way, in the order of the steps.
    tidy_note
        Why main was not tidied, though nothing is wrong; "" if it was.
    seconds
        Duration.
    names
        URL -> name of logs; None for one without.
    """

    main: str
    version_before: int | None
    version: int | None
    logs: tuple[LogUpdate, ...]
    begun: tuple[str, ...]
    retired: Mapping[str, str]
    backfill: BackfillReport | None
    merge: MergeReport | None
    tidy: TidyReport | None
    problems: tuple[CtkitError, ...]
    tidy_note: str
    seconds: float
    names: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def title(self) -> str:  # type: ignore[override]
        """The result."""
        if self.problems:
            return "update incomplete"
        return "update stopped" if self.backfill and self.backfill.stopped_by else "update complete"

    def check(self) -> None:
        """Raise unless everything was done, as far as the budget allowed, and nothing is wrong.

        Raises
        ------
        UpdateError
            Names each problem, and what to do about it.
        """
        if self.problems:
            raise UpdateError(self.problems)

    def facts(self) -> dict[str, Any]:
        """Return the totals."""
        lines = [log.line() for log in self.logs]
        totals = ("was_missing", "fetched", "new_rows", "held", "staged", "missing", "left_to_server")
        stopped_by = ", ".join(self.backfill.stopped_by) if self.backfill else ""
        return {
            "main": self.main,
            "version_before": self.version_before,
            "version": self.version,
            "logs": len(lines),
            "complete": sum(log.outcome == "complete" for log in self.logs),
            "begun": len(self.begun),
            "retired": len(self.retired),
            **{name: sum(line[name] for line in lines) for name in totals},
            "problems": len(self.problems),
            **({"stopped_by": stopped_by} if stopped_by else {}),
            **({"files": self.tidy.files, "compacted": self.tidy.facts()["compacted"]} if self.tidy else {}),
            **({"tidy": self.tidy_note} if self.tidy_note else {}),
            "seconds": round(self.seconds, 1),
        }

    def tables(self) -> dict[str, Frame]:
        """Return a line for each log, the problems, and what an update can and cannot tell."""
        return {
            "logs": frame_of(log.line() for log in self.logs),
            "by the log list": frame_of(
                {"log": url, "is": state}
                for url, state in [*((url, "new") for url in self.begun), *self.retired.items()]
            ),
            "problems": frame_of({"": text} for text in dict.fromkeys(map(str, self.problems))),
            "what this tells": frame_of({"": text} for text in MEANING),
        }

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values, for other programs."""
        steps: dict[str, Report | None] = {"backfill": self.backfill, "merge": self.merge, "tidy": self.tidy}
        return {
            "passed": not self.problems,
            **self.facts(),
            "by_log": [log.line() for log in self.logs],
            "begun_logs": list(self.begun),
            "retired_logs": dict(self.retired),
            "why": list(dict.fromkeys(map(str, self.problems))),
            "steps": {name: report and {"title": report.title, **report.facts()} for name, report in steps.items()},
        }
