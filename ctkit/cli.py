"""The ``ctkit`` command: its words, its exit code, its signals. What each command does is in `ctkit.commands`."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence

from ctkit import commands
from ctkit.arguments import did_you_mean
from ctkit.desk.flags import HelpFormatter, Parser, Version, add_flags, complete, literal
from ctkit.desk.shipped import RUNBOOKS
from ctkit.desk.terminal import OutputError, fail, interrupt, let_finish, log_to_stderr, signals_to, write
from ctkit.errors import CtkitError
from ctkit.visible import visible


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv
        The arguments after ``ctkit``; those of the process if None.

    Returns
    -------
    int
        0 if everything that was asked for is done or there was nothing to do; 3 if a watch has told something; 1 for
        anything else: an error, an interrupt, or a hole that a run planned to fill and did not.
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


def _parser() -> Parser:
    parser = Parser(
        prog="ctkit",
        description="Make a Delta Lake table of Certificate Transparency entries complete, and prove it.",
        epilog="Exit code: 0 if everything asked for is done, 3 if a watch has news, else 1.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=Version, nargs=0, help="show the version and exit")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(command: Callable[[argparse.Namespace], int], about: str, *examples: str, more: str = "") -> Parser:
        added: Parser = subparsers.add_parser(
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
        commands.init,
        "ask logs how large they are, and write a parameter file for them",
        "--logs argon2026 --user-agent me@x.org",
        "--log-url https://log.example/2026 --last 500 --user-agent me@x.org",
        more="Reads Google's log list, unless --log-list or --log-url is given.\n--user-agent is required.",
    )
    begun.add_argument("path", metavar="FILE", nargs="?", default="ct.yaml", help="file to write (%(default)s)")
    add_flags(begun, file=False)
    updated = add(
        commands.update,
        "the nightly run: find gaps, backfill, merge, check, tidy",
        "-f ct.yaml",
        "-f ct.yaml --deadline 14400 --json",
    )
    updated.add_argument("--json", action="store_true", help="print one JSON object")
    followed = add(
        commands.follow,
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
        commands.status,
        "show the state of the table and what to do next; changes nothing",
        "-f ct.yaml",
        "-f ct.yaml --internal-only --json",
        more="For monitors: the exit code is 0 if main is complete and nothing is wrong,\nelse 1.",
    )
    stated.add_argument("--json", action="store_true", help="print one JSON object")
    listed = add(
        commands.runs,
        "list the runs of which there are records, and what changed; changes nothing",
        "-f ct.yaml",
        "--runs-path /srv/ct/runs --json",
    )
    listed.add_argument("--json", action="store_true", help="print one JSON object")
    watched = add(
        commands.watch,
        "tell new names of domains, and names that look like brands, each once",
        "-f watch.yaml",
        "-f watch.yaml --json --brand example.com",
        more="What was told is remembered in the table told_path. Exit code: 3 if there are\n"
        "new names, 0 if there are none, 1 for errors.",
    )
    watched.add_argument("--json", action="store_true", help="print one line of JSON for each name")
    known = add(
        commands.logs,
        "list the logs of a list, of parameters or of the table; changes nothing",
        "-f ct.yaml",
        "--log-list google --logs argon --user-agent me@x.org",
    )
    known.add_argument("--json", action="store_true", help="print one JSON object")
    found = add(commands.gaps, "show what is missing; changes nothing", "-f ct.yaml", "-f ct.yaml --logs argon --json")
    found.add_argument(
        "--json", action="store_true", help="print [{source_url, start, end}, ...], half-open, ascending"
    )
    filled = add(
        commands.backfill,
        "fetch what is missing into staging, or into main",
        "-f ct.yaml --dry-run",
        "-f ct.yaml --verify entries --deadline 3600",
    )
    filled.add_argument("--dry-run", action="store_true", help="show what would be fetched; change nothing")
    filled.add_argument("--json", action="store_true", help="print the plan of --dry-run as {..., by_log: [...]}")
    merged = add(
        commands.merge, "move staging into main, in one commit; removes staging", "-f ct.yaml", "--undo -f ct.yaml"
    )
    merged.add_argument(
        "--undo",
        action="store_true",
        help="undo the last merge, if it is main's last commit, and stage its rows",
    )
    audited = add(
        commands.audit,
        "show what is complete and what is proven; changes nothing",
        "-f ct.yaml",
        "-f ct.yaml --recheck --require-proof",
    )
    audited.add_argument("--json", action="store_true", help="print one JSON object")
    repaired = add(
        commands.repair,
        "take damaged files and repeated rows out of main, in one commit",
        "-f ct.yaml --dry-run",
        "--main-path data/main",
    )
    repaired.add_argument("--dry-run", action="store_true", help="show what would be removed; change nothing")
    tidied = add(
        commands.tidy,
        "make few large files of main's small ones, and remove old ones from the disk",
        "-f ct.yaml --dry-run",
        "-f ct.yaml --keep-runs 90",
    )
    tidied.add_argument("--dry-run", action="store_true", help="show what would be done; change nothing")
    for added in (updated, followed, stated, listed, watched, known, found, filled, merged, audited, repaired, tidied):
        add_flags(added)
    ran = add(
        commands.run,
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
    copied = add(
        commands.notebooks, "copy the runbooks of ctkit to a folder, to be edited", "notebooks", "/srv/ct/notebooks"
    )
    copied.add_argument("dir", metavar="DIR", help="folder for the copies")
    shown = add(
        commands.demo, "run the whole cycle on embedded logs, from the start", "", "/tmp/demo --serve --grow 50"
    )
    shown.add_argument("dir", metavar="DIR", nargs="?", default="ctkit-demo", help="folder to work in (%(default)s)")
    shown.add_argument("--serve", action="store_true", help="keep the logs running afterwards, for JupyterLab")
    shown.add_argument(
        "--grow", metavar="N", type=int, default=0, help="let these logs grow by N entries a second together"
    )
    completed = add(
        commands.completion,
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
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0].startswith("-") and words[0] not in parser._option_string_actions:
        known = next(action.choices for action in parser._actions if action.choices)
        if named := next((word for word in words if word in known), None):
            words.remove(named)
            parser.error(f"the command comes first: ctkit {shlex.join([named, *words])}")
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        command: Parser = arguments.parser
        hint = did_you_mean(unknown[0].split("=")[0], list(command._option_string_actions)) or "see --help"
        if unknown[0] == "--file" or unknown[0].endswith((".yaml", ".yml")):
            hint = "a parameter file is given with -f"
        command.error(f"unknown argument {unknown[0]}; {hint}")
    return arguments
