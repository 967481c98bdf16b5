"""The commands that keep a table: begin it (init), complete it (update, follow), look (status, runs, logs), mend it."""

import argparse
import json
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from ctkit.desk.flags import read_flags, typed_paths
from ctkit.desk.progress_lines import show_progress
from ctkit.desk.terminal import let_finish, print_lines, print_tables, text_of
from ctkit.visible import first_of, get_logger

if TYPE_CHECKING:
    from ctkit.lake.repair import RepairReport
    from ctkit.lake.tidy import TidyReport

# As in `ctkit.cli`, slow modules are imported only after arguments and parameter file are read.

logger = get_logger(__name__)


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
    parameters = typed_paths(read_flags(arguments), arguments)
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
            print_tables(report, advice="; --json lists them", without=("problems", "why"))
        if report.backfill and "interrupt" in report.backfill.stopped_by:
            raise KeyboardInterrupt
        report.check()
    return 0


def logs(arguments: argparse.Namespace) -> int:
    """List logs."""
    parameters = read_flags(arguments)
    from ctkit.desk.listing import list_logs

    report = list_logs(parameters)
    if arguments.json:
        print_lines(json.dumps(report.to_json(), indent=1))
    else:
        print_tables(report, advice="; --json lists them")
        print_lines(report)
    report.check()
    return 0


def runs(arguments: argparse.Namespace) -> int:
    """List the records of runs."""
    parameters = read_flags(arguments)
    from ctkit.desk.runs import find_runs

    report = find_runs(parameters.runs)
    if arguments.json:
        print_lines(json.dumps(report.to_json(), indent=1))
    else:
        print_tables(report, advice="; --json lists them")
        print_lines(report)
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Print the state of the table and what to do next."""
    parameters = read_flags(arguments)
    from ctkit.desk.status import find_status

    report = replace(find_status(parameters), file=arguments.file or "")
    if arguments.json:
        print_lines(json.dumps(report.to_json(), indent=1))
    else:
        print_tables(report, advice="; --json lists them")
        print_lines(report)
    report.check()
    return 0


def follow(arguments: argparse.Namespace) -> int:
    """Keep a table close behind its logs."""
    parameters = typed_paths(read_flags(arguments), arguments)
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
