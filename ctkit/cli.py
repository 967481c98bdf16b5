"""The ``ctkit`` command."""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING

from ctkit.arguments import did_you_mean
from ctkit.desk.flags import HelpFormatter, Parser, Version, add_flags, complete, literal, read_flags, typed_paths
from ctkit.desk.keeping import follow, init, logs, repair, runs, status, tidy, update
from ctkit.desk.parameters import Parameters
from ctkit.desk.progress_lines import show_progress
from ctkit.desk.running import notebooks, run
from ctkit.desk.shipped import RUNBOOKS
from ctkit.desk.terminal import (
    OutputError,
    columns,
    fail,
    interrupt,
    let_finish,
    log_to_stderr,
    print_drawn,
    print_lines,
    print_tables,
    signals_to,
    text_of,
    write,
)
from ctkit.errors import CtkitError, ParameterError
from ctkit.visible import get_logger, visible

if TYPE_CHECKING:
    from ctkit.desk.gap_report import GapReport

# Commands import slow modules only after their arguments and parameter file are read, so that help and errors in either
# come at once.

logger = get_logger(__name__)

_NO_LOG = "no log could be asked"
_BUDGET = ("max_requests", "max_entries", "deadline")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv
        The arguments after ``ctkit``; those of the process if None.

    Returns
    -------
    int
        0 if everything that was asked for is done or there was nothing to do; 1 for anything else: an error, an
        interrupt, or a hole that a run planned to fill and did not.
    """
    # A process ends after its command, so its signal handlers need not be restored.
    with signals_to(interrupt, restore=argv is not None):
        code = _run(argv)
        let_finish()
        try:
            write("", flush=True)
        except OutputError as error:
            code = fail(error)
    return code


def _run(argv: Sequence[str] | None) -> int:
    try:
        with log_to_stderr():
            arguments = _parse(argv)
            code: int = arguments.command(arguments)
            return code
    except KeyboardInterrupt:
        return fail("Interrupted. Nothing is half done: run the same command to go on.")
    except OutputError as error:
        return fail(error)
    except CtkitError as error:
        return fail(f"Error: {error}")
    except OSError as error:
        problem = visible(str(error))
        return fail(f"Error: {problem}. Nothing is half done: correct this, then run the same command again")
    except SystemExit as exit_:  # argparse, for --help
        return int(exit_.code or 0)


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
        for line in gap_report.summary().itertuples():
            logger.info("gaps found source_url=%s gaps=%d missing=%d", line.log, line.gaps, line.missing)
        with show_progress() as on_progress:
            report = fill_gaps(gap_report, on_progress=on_progress)
        let_finish()
        reports.append(report)
        logger.info("%s", report)
        for log in report.left.logs:
            logger.info("left source_url=%s entries=%d requests=%d", log.source_url, log.wanted, log.requests)
        if report.stopped_by and not (report.holes and not any(report.written.values())):
            logger.warning("stopped, run again to go on stopped_by=%s", ",".join(report.stopped_by))
        if "interrupt" in report.stopped_by and not report.complete:
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
            print_lines(text_of(plan.table()) if plan.logs else nothing, plan)
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
        with recording("merge --undo", parameters):
            version = undo_staged(parameters)
            let_finish()
        logger.info("merge undone, rows are staged again main_path=%s version=%d", parameters.main_path, version)
        return 0
    logger.info("merge mode starting staging_path=%s main_path=%s", parameters.staging_path, parameters.main_path)
    with recording("merge", parameters) as reports:
        report = merge_staged(typed_paths(parameters, arguments))
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


def demo(arguments: argparse.Namespace) -> int:
    """Show the whole cycle."""
    from ctkit.demo.cycle import run as run_demo

    return run_demo(arguments.dir, serve=arguments.serve, grow=arguments.grow)


def completion(arguments: argparse.Namespace) -> int:
    """Print a completion script."""
    from argcomplete.shell_integration import shellcode

    print_lines(shellcode(["ctkit"], shell=arguments.shell))
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="ctkit",
        description="Make a Delta Lake table of Certificate Transparency entries complete, and prove it.",
        epilog="Exit code: 0 if everything asked for is done, else 1. See `ctkit COMMAND --help`.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(command: Callable[[argparse.Namespace], int], about: str, *examples: str, more: str = "") -> Parser:
        added: Parser = commands.add_parser(
            command.__name__,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.\n{more}".rstrip(),
            epilog="\n".join(["examples:", *(f"  ctkit {command.__name__} {words}".rstrip() for words in examples)]),
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )
        added.set_defaults(command=command, parser=added)
        return added

    begun = add(
        init,
        "ask logs how large they are, and write a parameter file for them",
        "--logs argon2026 --user-agent me@x.org",
        "--log-url https://log.example/2026 --last 500 --user-agent me@x.org",
        more="Reads Google's log list, unless --log-list or --log-url is given.\n--user-agent is required.",
    )
    begun.add_argument("path", metavar="FILE", nargs="?", default="ct.yaml", help="file to write (%(default)s)")
    add_flags(begun, file=False)
    updated = add(
        update,
        "the nightly run: find gaps, backfill, merge, check, tidy",
        "-f ct.yaml",
        "-f ct.yaml --deadline 14400 --json",
    )
    updated.add_argument("--json", action="store_true", help="print one JSON object")
    followed = add(
        follow,
        "keep main close behind its logs, until Ctrl+C",
        "-f ct.yaml",
        "-f ct.yaml --lag 30 --metrics 9464",
        more="The ceilings are the logs' own tree sizes. Budgets (max_requests, max_entries,\ndeadline) do not count.",
    )
    followed.add_argument(
        "--lag", metavar="SECONDS", type=literal, default=60, help="how far main may be behind (%(default)s)"
    )
    followed.add_argument(
        "--metrics", metavar="[HOST:]PORT", help="serve figures for Prometheus there; HOST is 127.0.0.1 if not given"
    )
    stated = add(
        status,
        "show the state of the table and what to do next; changes nothing",
        "-f ct.yaml",
        "-f ct.yaml --internal-only --json",
        more="For monitors: the exit code is 0 if main is complete and nothing is wrong,\nelse 1.",
    )
    stated.add_argument("--json", action="store_true", help="print one JSON object")
    listed = add(
        runs,
        "list the runs of which there are records, and what changed; changes nothing",
        "-f ct.yaml",
        "--runs-path /srv/ct/runs --json",
    )
    listed.add_argument("--json", action="store_true", help="print one JSON object")
    known = add(
        logs,
        "list the logs of a list, of parameters or of the table; changes nothing",
        "-f ct.yaml",
        "--log-list google --logs argon --user-agent me@x.org",
    )
    known.add_argument("--json", action="store_true", help="print one JSON object")
    found = add(gaps, "show what is missing; changes nothing", "-f ct.yaml", "-f ct.yaml --logs argon --json")
    found.add_argument(
        "--json", action="store_true", help="print [{source_url, start, end}, ...], half-open, ascending"
    )
    filled = add(
        backfill,
        "fetch what is missing into staging, or into main",
        "-f ct.yaml --dry-run",
        "-f ct.yaml --verify entries --deadline 3600",
    )
    filled.add_argument("--dry-run", action="store_true", help="show what would be fetched; change nothing")
    filled.add_argument("--json", action="store_true", help="print the plan of --dry-run as {..., by_log: [...]}")
    merged = add(merge, "move staging into main, in one commit; removes staging", "-f ct.yaml", "--undo -f ct.yaml")
    merged.add_argument(
        "--undo",
        action="store_true",
        help="undo the last merge, if it is main's last commit, and stage its rows",
    )
    audited = add(
        audit,
        "show what is complete and what is proven; changes nothing",
        "-f ct.yaml",
        "-f ct.yaml --recheck --require-proof",
    )
    audited.add_argument("--json", action="store_true", help="print one JSON object")
    repaired = add(
        repair,
        "take damaged files and repeated rows out of main, in one commit",
        "-f ct.yaml --dry-run",
        "--main-path data/main",
    )
    repaired.add_argument("--dry-run", action="store_true", help="show what would be removed; change nothing")
    tidied = add(
        tidy,
        "make few large files of main's small ones, and remove old ones from the disk",
        "-f ct.yaml --dry-run",
        "-f ct.yaml --keep-runs 90",
    )
    tidied.add_argument("--dry-run", action="store_true", help="show what would be done; change nothing")
    for added in (updated, followed, stated, listed, known, found, filled, merged, audited, repaired, tidied):
        add_flags(added)
    ran = add(
        run,
        "run a notebook through papermill; its record goes to runs/",
        "backfill -f ct.yaml",
        "my-audit.ipynb -f ct.yaml -p recheck all",
        more="Prints one line of JSON when the run has ended. runs/ is beside FILE, or else in\nthe current directory.",
    )
    named = ran.add_argument(
        "notebook", metavar="NOTEBOOK", help=f"a file, or a runbook of ctkit: {', '.join(RUNBOOKS)}"
    )
    complete(named, RUNBOOKS)
    ran.add_argument("-f", dest="file", metavar="FILE", help="parameter file (YAML); -p overrides it")
    ran.add_argument(
        "-p",
        dest="parameter",
        metavar=("KEY", "VALUE"),
        nargs=2,
        action="append",
        default=[],
        help="one parameter; its value is read as YAML",
    )
    copied = add(notebooks, "copy the runbooks of ctkit to a folder, to be edited", "notebooks", "/srv/ct/notebooks")
    copied.add_argument("dir", metavar="DIR", help="folder for the copies")
    shown = add(demo, "run the whole cycle on embedded logs, from the start", "", "/tmp/demo --serve --grow 50")
    shown.add_argument("dir", metavar="DIR", nargs="?", default="ctkit-demo", help="folder to work in (%(default)s)")
    shown.add_argument("--serve", action="store_true", help="keep the logs running afterwards, for JupyterLab")
    shown.add_argument(
        "--grow", metavar="N", type=int, default=0, help="let these logs grow by N entries a second together"
    )
    completed = add(
        completion,
        "print the completion script for a shell",
        "bash > ctkit-completion.bash && . ./ctkit-completion.bash",
        "fish > ~/.config/fish/completions/ctkit.fish",
    )
    completed.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "fish"), help="bash, zsh or fish")
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        command: Parser = arguments.parser
        hint = did_you_mean(unknown[0].split("=")[0], list(command._option_string_actions)) or "see --help"
        if unknown[0] == "--file" or unknown[0].endswith((".yaml", ".yml")):
            hint = "a parameter file is given with -f"
        command.error(f"unknown argument {unknown[0]}; {hint}")
    return arguments
