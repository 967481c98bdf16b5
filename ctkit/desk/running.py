"""The commands that run notebooks, or lay them out: run, notebooks."""

import argparse
import json
from typing import TYPE_CHECKING

from ctkit.desk.flags import literal
from ctkit.desk.parameter_files import read_parameter_file, runs_beside, without_overridden
from ctkit.desk.terminal import let_finish, print_lines
from ctkit.paths import local_path

if TYPE_CHECKING:
    from ctkit.desk.records import Run

# As in `ctkit.cli`, slow modules are imported only after arguments and parameter file are read.


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
