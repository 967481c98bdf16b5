"""The commands, one function each, in the order of the help; `ctkit.cli` reads their words.

Each imports what is slow to import only after its parameter file is read, so that errors in the file come at once.
"""

import argparse
import json
import shlex
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from ctkit.desk.flags import literal, read_flags
from ctkit.desk.parameter_files import read_parameter_file, runs_beside, without_overridden
from ctkit.desk.parameters import Parameters
from ctkit.desk.progress_lines import show_progress
from ctkit.desk.terminal import columns, let_finish, print_drawn, print_lines, print_tables, text_of, write
from ctkit.desk.wording import counted
from ctkit.errors import ParameterError
from ctkit.paths import local_path
from ctkit.visible import first_of, get_logger, visible

if TYPE_CHECKING:
    from ctkit.desk.gap_report import GapReport
    from ctkit.desk.listing import LogListing
    from ctkit.desk.records import Run
    from ctkit.desk.runs import RunsReport
    from ctkit.desk.status import StatusReport
    from ctkit.lake.repair import RepairReport
    from ctkit.lake.tidy import TidyReport

logger = get_logger(__name__)

_NO_LOG = "no log could be asked"
_BUDGET = ("max_requests", "max_entries", "deadline")


def init(arguments: argparse.Namespace) -> int:
    """Write the first parameter file."""
    parameters = read_flags(arguments)
    from ctkit.desk.first_file import next_steps, write_first_file

    survey = write_first_file(arguments.path, parameters)
    let_finish()
    for table in survey.tables().values():
        print_lines(text_of(table), "")
    print_lines(survey.remark, "", f"{arguments.path} is written. Next:", *next_steps(arguments.path))
    survey.check()
    return 0


def update(arguments: argparse.Namespace) -> int:
    """Do the nightly run."""
    parameters = read_flags(arguments)
    from ctkit.desk.recording import recording
    from ctkit.desk.update import update as run_update

    with recording("update", parameters) as reports:
        with show_progress() as on_progress:
            report = run_update(parameters, on_progress=on_progress)
        let_finish()
        reports.append(report)
        # Before printing, which may fail: it is done.
        logger.info("%s", report)
        if arguments.json:
            print_lines(json.dumps(report.to_json(), indent=1))
        else:
            # What is wrong is told by the error at the end, once.
            print_tables(report, advice="; --json lists them", without=("problems", "why"), names=report.names)
        if report.backfill and "stop" in report.backfill.stopped_by:
            raise KeyboardInterrupt
        report.check()
    return 0


def follow(arguments: argparse.Namespace) -> int:
    """Keep a table close behind its logs."""
    parameters = read_flags(arguments)
    parameters.check_given("user_agent", "main_path")
    from ctkit.desk.follow import FollowReport
    from ctkit.desk.follow import follow as run_follow

    with ExitStack() as stack:
        gauges = None
        if arguments.metrics is not None:
            from ctkit.desk.metrics import serve_metrics

            gauges = stack.enter_context(serve_metrics(arguments.metrics))

        def tell(report: FollowReport) -> None:
            logger.info("%s", report)
            if gauges is not None:
                gauges(report)

        named = first_of([log.name or log.url for log in parameters.logs or ()], 5) or parameters.log_list
        text = "following until Ctrl+C main_path=%s logs=%s lag_seconds=%s"
        logger.info(text, parameters.main_path, named, arguments.lag)
        try:
            run_follow(parameters, lag=arguments.lag, on_round=tell)
        except KeyboardInterrupt:
            logger.info("following stopped, nothing is half done; the same command goes on")
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Print the state of the table and what to do next."""
    parameters = read_flags(arguments)
    from ctkit.desk.status import find_status

    report = replace(find_status(parameters), file=arguments.file or "")
    _print_report(report, as_json=arguments.json)
    report.check()
    return 0


def runs(arguments: argparse.Namespace) -> int:
    """List the records of runs."""
    parameters = read_flags(arguments)
    from ctkit.desk.runs import find_runs

    report = find_runs(parameters.runs)
    _print_report(report, as_json=arguments.json)
    return 0


def watch(arguments: argparse.Namespace) -> int:
    """Tell the new names of watched domains and brands."""
    parameters = read_flags(arguments)
    parameters.check_given("main_path", "told_path")
    told_path = parameters.need("told_path")
    from ctkit.desk.recording import recording
    from ctkit.desk.watch import watch as find_news
    from ctkit.lake.locks import lock_steps
    from ctkit.lake.table import table_path

    # Two at once would tell the same.
    with recording("watch", parameters) as reports, lock_steps(str(table_path(told_path))):
        report = find_news(parameters)
        if arguments.json:
            for line in report.lines():
                print_lines(json.dumps(line))
        else:
            print_tables(report, shown=report.shown)
        # Only what was printed was told: a disk may turn out to be full at the end.
        write("", flush=True)
        report.remember()
        reports.append(report)
        logger.info("%s", report)
    return report.exit_code


def logs(arguments: argparse.Namespace) -> int:
    """List logs."""
    parameters = read_flags(arguments)
    from ctkit.desk.listing import list_logs

    report = list_logs(parameters)
    _print_report(report, as_json=arguments.json)
    report.check()
    return 0


def _print_report(report: "LogListing | RunsReport | StatusReport", *, as_json: bool) -> None:
    if as_json:
        print_lines(json.dumps(report.to_json(), indent=1))
    else:
        print_tables(report, advice="; --json lists them")
        print_lines(report)


def gaps(arguments: argparse.Namespace) -> int:
    """Print what is missing."""
    parameters = read_flags(arguments)
    from ctkit.desk.gap_report import report_gaps

    with closing(report_gaps(parameters)) as gap_report:
        if arguments.json:
            for line in gap_report.remark.splitlines():
                logger.info("%s", line)
            write("[")
            separator = "\n"
            # One batch at a time: there can be more gaps than fit in memory as Python objects.
            for batch in gap_report.wanted.to_batches(max_chunksize=65_536):
                write(separator + ",\n".join(map(json.dumps, batch.to_pylist())))
                separator = ",\n"
            print_lines("\n]")
        else:
            _draw_gaps(gap_report)
            print_lines(*map(visible, gap_report.remark.splitlines()))
        gap_report.check()
    return 0


def _draw_gaps(gap_report: "GapReport") -> None:
    if not gap_report.within:
        print_lines(_NO_LOG)
        return
    from ctkit.desk.lanes import Lanes
    from ctkit.desk.lanes_text import draw_lanes
    from ctkit.lake.gaps import ranges_by_log

    lanes, chosen = Lanes.of_report(gap_report), ranges_by_log(gap_report.wanted)
    lanes.learn_page_sizes()
    print_drawn(lanes.verdict(chosen, lanes.plan(chosen)), "", *draw_lanes(lanes, chosen, width=columns()))


def backfill(arguments: argparse.Namespace) -> int:
    """Fetch what is missing, or show what fetching it would take."""
    parameters = read_flags(arguments)
    if arguments.dry_run:
        return _dry_run(parameters, as_json=arguments.json)
    if arguments.json:
        raise ParameterError("--json needs --dry-run; give both")
    from ctkit.desk.gap_report import report_gaps
    from ctkit.desk.verbs import fill_gaps

    target = (
        f"staging_path={parameters.staging_path}" if parameters.staging_path else f"main_path={parameters.main_path}"
    )
    from ctkit.desk.recording import recording

    logger.info("backfill mode starting %s", target)
    with (
        recording("backfill", parameters) as reports,
        closing(report_gaps(parameters, verb="append")) as gap_report,
    ):
        for url, missing in gap_report.missing.items():
            logger.info("gaps found source_url=%s gaps=%d missing=%d", url, len(missing), missing.size)
        with show_progress() as on_progress:
            report = fill_gaps(gap_report, on_progress=on_progress)
        let_finish()
        reports.append(report)
        logger.info("%s", report)
        for log in report.left.logs:
            logger.info("left source_url=%s entries=%d requests=%d", log.source_url, log.wanted, log.requests)
        if report.stopped_by and not (report.holes and not any(report.written.values())):
            logger.warning("stopped, run again to go on stopped_by=%s", ",".join(report.stopped_by))
        if "stop" in report.stopped_by and not report.complete:
            raise KeyboardInterrupt
        report.check()
        gap_report.check()
    return 0


def _dry_run(parameters: Parameters, *, as_json: bool) -> int:
    from ctkit.desk.gap_report import report_gaps
    from ctkit.desk.verbs import plan_gaps

    with closing(report_gaps(parameters, verb="append")) as gap_report:
        plan = plan_gaps(gap_report)
        if as_json:
            print_lines(json.dumps({**plan.facts(), "by_log": [asdict(log) for log in plan.logs]}, indent=1))
        else:
            nothing = "no gaps, nothing to fetch" if gap_report.within else _NO_LOG
            if gap_report.within and gap_report.unavailable:
                nothing = "no gaps in the logs that could be asked"
            print_lines(text_of(plan.table(), gap_report.names) if plan.logs else nothing, plan)
        for error in plan.unavailable:
            logger.warning("log cannot be asked %s", error)
        for line in gap_report.remark.splitlines():
            logger.info("%s", line)
        if limits := [f"{key}={limit}" for key in _BUDGET if (limit := getattr(parameters, key)) is not None]:
            logger.warning("the plan covers everything that is missing, without the budget %s", " ".join(limits))
        gap_report.check()
    return 0


def merge(arguments: argparse.Namespace) -> int:
    """Move staging into main."""
    parameters = read_flags(arguments)
    if parameters.staging_path is None and not arguments.undo:
        raise ParameterError("merge requires --staging-path <PATH>")
    from ctkit.desk.recording import recording
    from ctkit.desk.verbs import merge_staged, undo_staged

    if arguments.undo:
        with recording("merge --undo", parameters) as reports:
            undone = undo_staged(parameters)
            let_finish()
            reports.append(undone)
        logger.info("%s", undone)
        file = f" -f {shlex.quote(arguments.file)}" if arguments.file else ""
        print_lines(
            f"{counted(undone.rows, 'row')} went from {undone.main} back to {visible(undone.staging)}.",
            f"Next: `ctkit merge{file}` merges them again; `ctkit update` and `ctkit follow` would, too.",
        )
        return 0
    logger.info("merge mode starting staging_path=%s main_path=%s", parameters.staging_path, parameters.main_path)
    with recording("merge", parameters) as reports:
        report = merge_staged(parameters)
        let_finish()
        reports.append(report)
    if report.staging_rows:
        logger.info("%s", report)
    if report.note:
        logger.warning("staging is not removed staging_path=%s: %s", parameters.staging_path, report.note)
    return 0


def audit(arguments: argparse.Namespace) -> int:
    """Print what is complete and what is proven."""
    parameters = read_flags(arguments)
    from ctkit.desk.verbs import audit_main

    report = audit_main(parameters)
    if arguments.json:
        for piece in report.json_pieces():
            write(piece)
        print_lines("")
    else:
        print_tables(report, advice="; --json lists them")
    logger.info("%s", report)
    report.check()
    return 0


def repair(arguments: argparse.Namespace) -> int:
    """Take damaged files and repeated rows out of main."""
    parameters = read_flags(arguments)
    parameters.need("main_path")
    from ctkit.desk.gap_report import find_main
    from ctkit.lake import repair as repair_module

    report = repair_module.repair(find_main(parameters), dry_run=arguments.dry_run)
    return _tell(report, "no damaged files, no repeated rows")


def tidy(arguments: argparse.Namespace) -> int:
    """Keep main's files few."""
    parameters = read_flags(arguments)
    parameters.need("main_path")
    from ctkit.desk.verbs import tidy_main

    return _tell(tidy_main(parameters, dry_run=arguments.dry_run), "nothing to tidy")


def _tell(report: "RepairReport | TidyReport", nothing: str) -> int:
    """Print what was done to main, or `nothing`."""
    let_finish()
    # Before printing, which may fail: it is done.
    logger.info("%s", report)
    print_tables(report)
    if not any(map(len, report.tables().values())):
        print_lines(nothing)
    report.check()
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Run a notebook."""
    from ctkit.desk.runbook import run_notebook

    own = {key: literal(value) for key, value in arguments.parameter}
    shared = without_overridden(read_parameter_file(arguments.file), own) if arguments.file else {}
    beside = runs_beside(arguments.file) if arguments.file else "runs"
    folder = str(own.get("runs_path") or shared.get("runs_path") or beside)
    ended: list[Run] = []
    code = run_notebook(arguments.notebook, own, shared=shared, runs=local_path(folder), on_end=ended.append)
    let_finish()
    print_lines(*(json.dumps(run.to_json()) for run in ended))
    return code


def notebooks(arguments: argparse.Namespace) -> int:
    """Copy the runbooks."""
    from ctkit.desk.shipped import copy_runbooks

    print_lines(*map(str, copy_runbooks(arguments.dir)))
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """Show the whole cycle."""
    from ctkit.demo.cycle import run as run_demo

    return run_demo(arguments.dir, serve=arguments.serve, grow=arguments.grow)


def completion(arguments: argparse.Namespace) -> int:
    """Print a completion script."""
    from argcomplete.shell_integration import shellcode

    print_lines(shellcode(["ctkit"], shell=arguments.shell))
    return 0
