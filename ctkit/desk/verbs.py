"""What parameters come to, done: gaps filled or planned, main audited; the same for notebooks and commands."""

from collections.abc import Callable
from dataclasses import replace

from ctkit.arguments import checked
from ctkit.desk.chosen_logs import choose_of, listed_logs
from ctkit.desk.gap_report import GapReport, open_logs
from ctkit.desk.parameters import Parameters
from ctkit.errors import TableError
from ctkit.jobs.audit import audit
from ctkit.jobs.audit_report import AuditReport
from ctkit.jobs.backfill import backfill
from ctkit.jobs.backfill_report import BackfillReport, Progress
from ctkit.jobs.plan import Plan, plan_backfill
from ctkit.lake.gaps import Gaps
from ctkit.lake.table import find_table, open_table
from ctkit.visible import get_logger

logger = get_logger(__name__)


@checked
def fill_gaps(
    gap_report: GapReport, gaps: Gaps | None = None, *, on_progress: Callable[[Progress], None] | None = None
) -> BackfillReport:
    """Backfill into staging, or into main where no staging is named; nothing is created if nothing is missing.

    Parameters
    ----------
    gap_report
        From `report_gaps`.
    gaps
        What to fill, as chosen from the report's gaps; None for all of them.
    on_progress
        Called after each commit.
    """
    parameters = gap_report.parameters
    gaps = gap_report.gaps if gaps is None else gaps
    path = parameters.staging_path or parameters.need("main_path")
    if gap_report.remark:
        logger.info("%s", gap_report.remark)
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
            on_progress=on_progress,
        )
    else:
        if not gap_report.unavailable:
            logger.info("no gaps detected, nothing to backfill")
        table = find_table(path)
        report = BackfillReport.of_nothing(path, None if table is None else table.version(), parameters.verify)
    return replace(report, unavailable=gap_report.unavailable, left_to_server=dict(gap_report.left_to_server))


@checked
def plan_gaps(gap_report: GapReport, gaps: Gaps | None = None) -> Plan:
    """Tell what `fill_gaps` will ask for; nothing is created or changed.

    A log of which it is not known how many entries a page has is asked for one page.

    Parameters
    ----------
    gap_report
        From `report_gaps`.
    gaps
        What to fill, as chosen from the report's gaps; None for all of them.
    """
    return plan_backfill(gap_report.logs, gap_report.gaps if gaps is None else gaps)


@checked
def audit_main(parameters: Parameters) -> AuditReport:
    """Tell how complete the main table is up to the tree head of each log, and what of it is proven.

    With `recheck`, rows are compared with the logs' entries again. Nothing is changed.

    Raises
    ------
    ParameterError
        Something is missing, or no log is named, or one has no entry at `from_index` or after it.
    TableError
        There is no main table, or it cannot be read.
    """
    main_path = parameters.need("main_path")
    main = find_table(main_path)
    if main is None:
        raise TableError(main_path, "there is no table there; name the main table")
    listed = listed_logs(parameters)
    logs, unavailable = open_logs(choose_of(parameters, listed), user_agent=parameters.need("user_agent"))
    try:
        return audit(
            logs,
            main,
            from_index=parameters.from_index or 0,
            to_index=parameters.to_index,
            final_heads={log.url: log.final_tree_head for log in listed if log.final_tree_head},
            unavailable=unavailable,
            recheck=parameters.recheck,
            require_proof=parameters.require_proof,
        )
    finally:
        for log in logs:
            log.close()
