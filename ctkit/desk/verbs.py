"""The verbs as parameters call for them, the same for notebooks and commands: from a plan to the upkeep of tables."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from deltalake import DeltaTable

from ctkit.arguments import Index, checked
from ctkit.desk.ceilings import read_served, with_ceiling
from ctkit.desk.chosen_logs import NamedLogs, choose_logs, open_logs
from ctkit.desk.gap_report import GapReport, check_creation, find_main, find_tables
from ctkit.desk.live import leave_to_server
from ctkit.desk.parameters import LogParameter, Parameters
from ctkit.desk.records import old_records
from ctkit.desk.stretches import find_stretches, no_start, skip_startless, undone_of
from ctkit.errors import LogError, LogUnavailableError, StalePreviewError
from ctkit.jobs.audit import audit
from ctkit.jobs.audit_report import AuditReport
from ctkit.jobs.backfill import backfill
from ctkit.jobs.backfill_report import BackfillReport
from ctkit.jobs.plan import Plan, plan_backfill
from ctkit.jobs.progress import Progress
from ctkit.lake.doubts import check_doubts, doubts_of
from ctkit.lake.drop import finish_retiring
from ctkit.lake.gaps import Gaps
from ctkit.lake.merge import MergePreview, MergeReport, merge_staging, preview_merge
from ctkit.lake.table import check_features, files_of, find_table, hold, open_table, table_path
from ctkit.lake.tidy import TidyReport, tidy
from ctkit.lake.undo import UndoReport, undo_merge
from ctkit.logs.ask_each import SECONDS_TO_ANSWER, ask_each
from ctkit.logs.log import Log
from ctkit.ranges import LARGEST_TREE
from ctkit.report import frame_of
from ctkit.urls import canonical_url
from ctkit.visible import get_logger

logger = get_logger(__name__)


@checked
def fill_gaps(
    gap_report: GapReport,
    gaps: Gaps | None = None,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> BackfillReport:
    """Backfill into staging, or into main where no staging is named; nothing is created if nothing is missing.

    Parameters
    ----------
    gap_report
        From `report_gaps`.
    gaps
        The part of the report's gaps to fill; None for those that the parameter `choice` leaves.
    on_progress
        Called every second, such as `ctkit.ProgressBar`; see `ctkit.backfill`.
    stop
        Ends the run when it is set: what has arrived is written, and the report says what is left. So does Ctrl+C.
    """
    parameters = gap_report.parameters
    gaps = gap_report.wanted if gaps is None else gaps
    path = parameters.staging_path or parameters.need("main_path")
    for line in gap_report.remark.splitlines():
        logger.info("%s", line)
    if gaps.num_rows:
        report = backfill(
            gap_report.logs,
            gaps,
            open_table(path, like=gap_report.main, as_der=parameters.as_der),
            main=gap_report.main,
            seen=parameters.seen,
            verify=parameters.verify,
            max_requests=parameters.max_requests,
            max_entries=parameters.max_entries,
            deadline=parameters.deadline,
            bounds=gap_report.bounds,
            on_progress=on_progress,
            stop=stop,
        )
    else:
        if gap_report.gaps.num_rows:
            logger.info("nothing of what is missing is chosen, nothing to backfill choice=%s", parameters.choice)
        elif not gap_report.unavailable:
            logger.info("no gaps detected, nothing to backfill")
        table = find_table(path)
        report = BackfillReport.of_nothing(path, None if table is None else table.version(), parameters.verify)
    return replace(report, unavailable=gap_report.unavailable, left_to_server=dict(gap_report.left_to_server))


@checked
def plan_gaps(gap_report: GapReport, gaps: Gaps | None = None) -> Plan:
    """Return what `fill_gaps` will ask for; nothing is created or changed.

    A log whose page size is not known is asked for one page.

    Parameters
    ----------
    gap_report
        From `report_gaps`.
    gaps
        The part of the report's gaps to fill; None for those that the parameter `choice` leaves.
    """
    return plan_backfill(gap_report.logs, gap_report.wanted if gaps is None else gaps)


@checked
def preview_staged(parameters: Parameters) -> MergePreview:
    """Return what a merge of the staging table into main would do; nothing is created or changed.

    A staging table that does not exist counts as one without rows, at version -1.

    Raises
    ------
    ParameterError
        `staging_path` or `main_path` is missing, or the two tables are one, or one lies inside the other.
    TableError
        A table is not one of CT entries, or cannot be read.
    """
    parameters.check_given("staging_path", "main_path")
    staging_path = str(table_path(parameters.need("staging_path")))
    main_path = str(table_path(parameters.need("main_path")))
    main, staging = find_tables(parameters)
    if staging is None:
        version = None if main is None else main.version()
        return MergePreview(staging_path, main_path, -1, version, 0, 0, 0, 0, frame_of(), frame_of())
    # A main table that does not exist has no name in the preview.
    return replace(preview_merge(staging, main), main=main_path)


@checked
def merge_staged(parameters: Parameters, *, expected: MergePreview | None = None) -> MergeReport:
    """Merge the staging table into main; nothing is created if nothing is staged.

    If an earlier merge could not remove all of its staging table, the rest is removed now.

    Parameters
    ----------
    parameters
        `staging_path`, `main_path`, `confirmed` and `create_main` are used. A missing main table is created unless
        `create_main` is False.
    expected
        From `preview_staged`: merge only if neither table has changed since.

    Raises
    ------
    ParameterError
        `staging_path` or `main_path` is missing, or the two tables are one, or one lies inside the other; or there is
        no main table, and `create_main` is False.
    StalePreviewError
        A table changed since the preview.
    UnconfirmedMergeError
        Staging looks like a main table.
    TableError
        As `ctkit.merge_staging`: nothing was merged, staging is intact.
    """
    parameters.check_given("staging_path", "main_path")
    staging_path = str(table_path(parameters.need("staging_path")))
    main_path = str(table_path(parameters.need("main_path")))
    main, staging = find_tables(parameters)
    version = -1 if staging is None else staging.version()
    if expected and version != expected.staging_version:
        now = f"at {version}" if staging else "gone"
        message = f"was previewed at version {expected.staging_version} and is now {now}; preview again"
        raise StalePreviewError(staging_path, message)
    if staging is not None and files_of(staging):
        if main is None:
            check_creation(parameters)
            check_features(staging, "remove")
            if not parameters.confirmed:
                check_doubts(doubts_of(staging, None), staging_path, main_path)
            logger.warning("main table does not exist, creating it main_path=%s", parameters.main_path)
            # Not while another run holds staging: the merge would not be made.
            with hold(staging):
                main = open_table(main_path, like=staging)
        return merge_staging(staging, main, expected=expected, confirmed=parameters.confirmed)
    if staging is None:
        logger.warning("staging table does not exist, nothing to merge staging_path=%s", parameters.staging_path)
    else:
        logger.info("staging table is empty, nothing to merge staging_path=%s", parameters.staging_path)
    removal = finish_retiring(staging_path, staging)
    version = -1 if main is None else main.version()
    return MergeReport(main_path, version, version, 0, 0, 0, 0, staging_path, *removal)


@checked
def undo_staged(parameters: Parameters, *, version: Index | None = None) -> UndoReport:
    """Undo the last merge: take its rows out of main and stage them, in `staging_path` or where they came from.

    Parameters
    ----------
    parameters
        `main_path` and `staging_path` are used.
    version
        Main's version that the merge made: undo only if main is still there.

    Raises
    ------
    ParameterError
        `main_path` is missing.
    StalePreviewError
        Main is no longer at `version`.
    TableError
        There is no main table, its last commit is not a merge, or its rows cannot be staged.
    """
    return undo_merge(find_main(parameters), parameters.staging_path, version=version)


@checked
def audit_main(parameters: Parameters) -> AuditReport:
    """Report how complete the main table is, and which rows are proven.

    Audited is what a backfill keeps complete: each log from its start, which the table remembers, or else from its
    first row, up to its end or ceiling. With `recheck`, rows are compared with the logs' entries again. Nothing is
    changed.

    Raises
    ------
    ParameterError
        Something is missing, no log is named, or none has a start.
    TableError
        There is no main table, or it cannot be read.
    """
    main = find_main(parameters)
    named = choose_logs(parameters, main)
    chosen, within, undone = _kept_complete(named.logs, parameters, main)
    logs, unavailable = open_logs(chosen, user_agent=parameters.need("user_agent"))
    try:
        return audit(
            _without_gone(logs, named),
            main,
            within=within,
            final_heads=named.final_heads,
            unavailable=(*unavailable, *undone),
            recheck=parameters.recheck,
            require_proof=parameters.require_proof,
        )
    finally:
        for log in logs:
            log.close()


def _without_gone(logs: Sequence[Log], named: NamedLogs) -> list[Log]:
    """Return logs without those retired ones that no longer answer."""
    retired = [log for log in logs if log.url in named.retired]
    answers = ask_each(Log.get_checkpoint, retired, seconds=SECONDS_TO_ANSWER)
    silent = [answer for answer in answers if isinstance(answer, LogError)]
    gone = {error.url for error in silent} - {error.url for error in named.without_gone(silent)}
    return [log for log in logs if log.url not in gone]


def _kept_complete(
    chosen: Sequence[LogParameter], parameters: Parameters, main: DeltaTable
) -> tuple[list[LogParameter], dict[str, tuple[int | None, int]], list[LogError]]:
    """Return the logs that a backfill keeps complete, their stretches, and an error for each log that is not begun."""
    state, served = read_served(parameters, main)
    bounded = with_ceiling(chosen, state, parameters) if parameters.by_state else chosen
    ceilings = {url: state.get(url, LARGEST_TREE) for url in (canonical_url(log.url) for log in bounded)}
    found = find_stretches(bounded, ceilings, parameters, [main])
    if served or parameters.internal_only:
        leave_to_server(found.within, state if served else ceilings, main, None)
    skip_startless(found.within, (), main)
    # A log that the server has just begun on is left to it.
    done = {*found.within, *found.undone, *(state if served else ())}
    undone = found.undone | undone_of(chosen, done, ceilings, parameters)
    if not found.within and not undone:
        raise no_start(parameters)
    kept = [log for log in bounded if canonical_url(log.url) in found.within]
    # Of a log that is undone, nothing is judged: a log without a stretch would be audited from its first entry on.
    within = found.within | dict.fromkeys(undone, (0, 0))
    return kept, within, [LogUnavailableError(url, why) for url, why in undone.items()]


@checked
def tidy_main(parameters: Parameters, *, dry_run: bool = False) -> TidyReport:
    """Keep up the main table: small files become few large ones, and files that no version needs are removed.

    With `keep_runs`, records of runs that are older than that many days are removed, too.

    Raises
    ------
    ParameterError
        `main_path` is missing.
    TableError
        There is no main table, or it cannot be read or written, or another run works on it.
    """
    report = tidy(find_main(parameters), dry_run=dry_run)
    records = [] if parameters.keep_runs is None else old_records(parameters.keep_runs, parameters.runs)
    for record in () if dry_run else records:
        record.unlink(missing_ok=True)
    return replace(report, records=tuple(map(str, records)))
