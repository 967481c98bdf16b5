"""One command for a night: gaps, backfill, merge of what came, a short audit, upkeep.

No step holds up the next: what a log refuses is named in the report, and what the others gave is merged. Every step can
be repeated, so an update that was killed is one that did less, and the next one goes on with what it has staged.
"""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from deltalake import DeltaTable

from ctkit.arguments import checked
from ctkit.desk.choice import refuse_choice
from ctkit.desk.gap_report import GapReport, check_creation, find_tables, report_gaps
from ctkit.desk.holdings import Holding, find_holdings
from ctkit.desk.parameters import Parameters
from ctkit.desk.update_report import LogUpdate, Outcome, UpdateReport
from ctkit.desk.verbs import fill_gaps, merge_staged, tidy_main
from ctkit.errors import (
    CheckpointError,
    CtkitError,
    KeyConflictError,
    LogError,
    LogUnavailableError,
    ParameterError,
    SchemaMismatchError,
    TableBusyError,
    TableError,
)
from ctkit.jobs.audit import check_heads
from ctkit.jobs.backfill_report import BackfillReport
from ctkit.jobs.progress import Progress
from ctkit.lake.doubts import check_doubts, doubts_of
from ctkit.lake.gaps import find_gaps
from ctkit.lake.locks import lock_steps
from ctkit.lake.merge import MergeReport
from ctkit.lake.table import files_of, find_table, folder_of, table_path
from ctkit.lake.tidy import TidyReport
from ctkit.visible import first_of, get_logger
from ctkit.wire.checkpoint import Checkpoint

logger = get_logger(__name__)

T = TypeVar("T")

NAMED = 5
"""Holes or ranges of a log that its line names."""


@checked
def update(
    parameters: Parameters,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> UpdateReport:
    """Complete the main table, as far as the logs and the budget allow: the nightly run.

    What is missing is fetched into staging; with what an earlier run has left there, it is merged into main, and main
    is tidied. Without `staging_path`, entries are written to main directly.

    Parameters
    ----------
    parameters
        As for `report_gaps`, `fill_gaps`, `merge_staged` and `tidy_main`.
    on_progress
        Called every second of the backfill, such as `ctkit.ProgressBar`.
    stop
        Ends the backfill when it is set, as Ctrl+C does; what has come stays staged for the next run.

    Raises
    ------
    ParameterError
        Something is missing or contradictory, or no log has a ceiling; nothing was done.
    TableBusyError
        Another update of the table is at work; nothing was done.
    UnconfirmedMergeError
        Staging looks like a main table; nothing was done.
    TableError
        A table cannot be opened, or is not one of CT entries; nothing was done.
    """
    began = time.monotonic()
    parameters.check_given("user_agent", "main_path")
    main = check_tables(parameters)
    night = Steps(parameters, str(table_path(parameters.need("main_path"))))
    logs: list[LogUpdate] = []
    shards: tuple[tuple[str, ...], Mapping[str, str]] = (), {}
    names: Mapping[str, str | None] = {}
    with ExitStack() as stack:
        stack.enter_context(lock_steps(night.main))
        if gap_report := night.find_gaps():
            stack.callback(gap_report.close)
            names = gap_report.names
            shards = gap_report.chosen.begun, gap_report.chosen.retired
            night.backfill(night.check_heads(gap_report), on_progress, stop)
        if not night.interrupted:
            night.merge()
        if gap_report:
            logs = night.attempt(partial(night.judge, gap_report)) or []
        if not night.interrupted:
            night.tidy()
    now = find_table(night.main)
    if now is not None:
        # Not with this module: ibis, which it imports, takes long to import.
        from ctkit.ask.index import keep_index

        keep_index(now)
    return UpdateReport(
        main=night.main,
        version_before=None if main is None else main.version(),
        version=None if now is None else now.version(),
        logs=tuple(sorted(logs, key=lambda log: log.source_url)),
        begun=shards[0],
        retired=shards[1],
        backfill=night.filled,
        merge=night.merged,
        tidy=night.tidied,
        problems=tuple(night.problems),
        tidy_note=night.tidy_note,
        seconds=time.monotonic() - began,
        names=names,
    )


def check_tables(parameters: Parameters) -> DeltaTable | None:
    """Return main, if it exists; refuse tables that could not be merged, before anything is fetched.

    Raises
    ------
    ParameterError
        There is no main table, and none is to be created; or gaps are chosen.
    UnconfirmedMergeError
        Staging looks like a main table: the paths may be swapped.
    TableError
        A table cannot be opened, or is not one of CT entries.
    """
    refuse_choice(parameters.choice)
    main, staging = find_tables(parameters)
    if staging is not None and files_of(staging) and not parameters.confirmed:
        check_doubts(doubts_of(staging, main), folder_of(staging), str(table_path(parameters.need("main_path"))))
    if main is None:
        check_creation(parameters)
    return main


@dataclass
class Steps:
    """The steps of an update, and what stands in their way.

    Attributes
    ----------
    parameters
        What was asked for.
    main
        The main table's folder.
    problems
        What stood in the way, in the order of the steps.
    before
        What the tables had of each log when the gaps were found.
    heads
        Canonical URL -> the log's tree head, or why it says nothing: see `ctkit.jobs.audit.check_heads`.
    filled, merged, tidied
        The reports of the steps; None for one that was not taken, or failed.
    tidy_note
        Why main was not tidied, though nothing is wrong.
    """

    parameters: Parameters
    main: str
    problems: list[CtkitError] = field(default_factory=list)
    before: dict[str, Holding] = field(default_factory=dict)
    heads: dict[str, Checkpoint | LogError] = field(default_factory=dict)
    filled: BackfillReport | None = None
    merged: MergeReport | None = None
    tidied: TidyReport | None = None
    tidy_note: str = ""

    def find_gaps(self) -> GapReport | None:
        """Find what is missing; None if the log list cannot be used, and no other log is chosen."""
        found: GapReport | None
        try:
            found = report_gaps(self.parameters, verb="append")
        except (LogError, ParameterError) as error:
            # A log that cannot be asked is in the report: this is the list.
            if isinstance(error, ParameterError) and error.keys != ("log_list",):
                raise
            self.note(error)
            unlisted = self.parameters.model_copy(update={"log_list": None})
            if not unlisted.logs or not (found := self.attempt(partial(report_gaps, unlisted, verb="append"))):
                return None
        for problem in found.problems():
            self.note(problem)
        # Now, because the merge will remove the staging table.
        self.before = find_holdings(found)
        return found

    @property
    def interrupted(self) -> bool:
        """Whether a stop or Ctrl+C has ended the backfill: the steps after it are left to the next run."""
        return self.filled is not None and "stop" in self.filled.stopped_by

    def backfill(
        self,
        gap_report: GapReport,
        on_progress: Callable[[Progress], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Fetch what is missing."""
        self.filled = self.attempt(partial(fill_gaps, gap_report, on_progress=on_progress, stop=stop))
        if self.filled:
            self.attempt(self.filled.check)

    def merge(self) -> None:
        """Move into main what is staged, by this run or one before it."""
        if self.parameters.staging_path is None:
            return
        self.merged = merged = self.attempt(partial(merge_staged, self.parameters))
        if merged and merged.conflicts:
            message = f"{merged.conflicts} staged rows differ from the row of the same key in main, which stays"
            self.note(KeyConflictError(merged.main, f"{message}. Compare main with the logs: audit --recheck all"))
        if merged and merged.note:
            logger.warning("staging is not removed staging_path=%s: %s", self.parameters.staging_path, merged.note)

    def judge(self, gap_report: GapReport) -> list[LogUpdate]:
        """Tell from the indices in the tables, and from the logs' tree heads, how each log stands now."""
        main, staging = find_tables(self.parameters)
        named = {hole.source_url for hole in self.filled.holes} if self.filled else set()
        for url, head in self.heads.items():
            if isinstance(head, LogError) and not isinstance(head, CheckpointError) and url not in named:
                self.note(head)
        logs = []
        for url, now in find_holdings(replace(gap_report, main=main, staging=staging)).items():
            if len(now.repeated):
                repeated = f"{now.repeated.size} entries of {url} have several rows: {first_of(now.repeated, NAMED)}"
                self.note(TableError(self.main, f"{repeated}; remove the repeated rows (ctkit repair)"))
            left = gap_report.left_to_server.get(url, (0, 0))
            logs.append(self._line_of(url, now, self.heads.get(url), left[1] - left[0]))
        lost = [log.source_url for log in logs if log.outcome == "incomplete"]
        if lost and not self.problems:
            self.note(TableError(self.main, f"entries of {first_of(lost, NAMED)} are missing in main. Run again"))
        unknown = [(error.url, error.message) for error in gap_report.unavailable] + [*gap_report.undone.items()]
        return logs + [LogUpdate(url, "not known", why=why) for url, why in unknown]

    def check_heads(self, gap_report: GapReport) -> GapReport:
        """Ask logs whether their trees extend what main's commits name; return the report without those that do not.

        Nothing is fetched of a log that contradicts what it has shown before.
        """
        # Where tree heads are not to be verified, they say nothing.
        if gap_report.main is None or self.parameters.verify == "off":
            return gap_report
        retired = gap_report.chosen.retired
        self.heads = {
            url: head
            for url, head in check_heads(gap_report.logs, gap_report.main).items()
            # A retired log that is gone has nothing more to say.
            if not isinstance(head, LogUnavailableError) or retired.get(url, "readonly") == "readonly"
        }
        wrong = {url: head for url, head in self.heads.items() if isinstance(head, CheckpointError)}
        for head in wrong.values():
            self.note(head)
        if not wrong:
            return gap_report
        within = {url: stretch for url, stretch in gap_report.within.items() if url not in wrong}
        bounds = {url: found for url, found in gap_report.bounds.items() if url not in wrong}
        internal_only = bool(self.parameters.internal_only)
        gaps = find_gaps(gap_report.main, gap_report.staging, within=within, internal_only=internal_only)
        return replace(gap_report, within=within, bounds=bounds, gaps=gaps)

    def _line_of(self, url: str, now: Holding, head: Checkpoint | LogError | None, left_to_server: int) -> LogUpdate:
        before, filled, why = self.before.get(url), self.filled, []
        holes = [hole for hole in filled.holes if hole.source_url == url] if filled else []
        if holes:
            why.append(first_of([f"[{hole.start}, {hole.end}) {hole.reason}" for hole in holes], NAMED))
        is_left = filled is not None and any(log.source_url == url for log in filled.left.logs)
        if filled and is_left:
            why.append(f"left because of {', '.join(filled.stopped_by)}: run again to go on")
        if len(now.staged):
            why.append(f"{now.staged.size} entries are staged and not merged")
        if len(now.repeated):
            why.append(f"{now.repeated.size} entries have several rows")
        if isinstance(head, LogError):
            why.append(head.message)
        elif head is None and filled:
            head = filled.heads.get(url)
        outcome: Outcome = "complete"
        if isinstance(head, CheckpointError) or len(now.repeated):
            outcome = "contradicted"
        elif len(now.missing) or len(now.staged):
            unmerged = len(now.staged) and not self.interrupted
            outcome = "stopped" if (is_left or self.interrupted) and not holes and not unmerged else "incomplete"
        elif isinstance(head, LogError):
            outcome = "not known"
        return LogUpdate(
            source_url=url,
            outcome=outcome,
            tree_size=head.tree_size if isinstance(head, Checkpoint) else None,
            start=now.start,
            end=now.end,
            was_missing=before.missing.size if before else now.end - now.start,
            fetched=filled.written.get(url, 0) if filled else 0,
            new_rows=now.held.minus(before.held).size if before else now.held.size,
            held=now.held.size,
            staged=now.staged.size,
            missing=now.missing.size,
            left_to_server=left_to_server,
            why="; ".join(why),
        )

    def tidy(self) -> None:
        """Keep main's files few; another writer, or a table that forbids it, is no reason to fail."""
        try:
            if find_table(self.main) is None:
                return
            self.tidied = tidy_main(self.parameters)
            self.tidied.check()
        except (TableBusyError, SchemaMismatchError) as error:
            self.tidy_note = error.message
            logger.warning("main is not tidied: %s", error)
        except (TableError, OSError) as error:
            self.note(error)

    def attempt(self, step: Callable[[], T]) -> T | None:
        """Take a step; note what stands in its way."""
        try:
            return step()
        except (CtkitError, OSError) as error:
            self.note(error)
            return None

    def tell(self) -> list[CtkitError]:
        """Log the problems and return them: a loop has no end at which a report could tell them."""
        for problem in dict.fromkeys(map(str, self.problems)):
            logger.error("%s", problem)
        return self.problems

    def note(self, problem: CtkitError | OSError) -> None:
        """Keep a problem: the report tells it."""
        if isinstance(problem, OSError):
            problem = TableError(self.main, f"{problem}. Nothing is half done: correct this, then run again")
        self.problems.append(problem)
