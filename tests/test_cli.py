"""The command line: texts, exit codes, and the whole cycle with it."""

import base64
import itertools
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from fakes import FakeLog, check_table
from rows import LOG, indices_of, make_rows, make_table

from ctkit.cli import main
from ctkit.desk.runs import find_runs
from ctkit.desk.state_file import write_state
from ctkit.lake.table import files_of, find_table, open_table
from ctkit.lake.write import write_entries
from ctkit.logs.asking import DEFAULT_PATIENCE
from ctkit.logs.open import open_log

NEW = "https://new.example/2027h1"
COMMAND = Path(sys.executable).with_name("ctkit")
MERGE = ("merge", "--staging-path", "staging", "--main-path", "main")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ctkit(capsys):
    """Run a command; return its exit code, and what it printed on stdout and stderr."""

    def ctkit(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return ctkit


@pytest.fixture
def write_file(folder):
    """Write a parameter file for the given logs and return its name."""

    def write_file(*urls, **parameters):
        values = {
            "main_path": "main",
            "staging_path": "staging",
            "state_file": "state.json",
            "logs": [{"url": url} for url in urls],
            "user_agent": "tests of ctkit, nobody@example.org",
            # The tests write new state files, but no live server is running.
            "internal_only": False,
        }
        given = {key: value for key, value in {**values, **parameters}.items() if value is not None}
        (folder / "run.yaml").write_text(yaml.safe_dump(given))
        return "run.yaml"

    return write_file


def names(folder):
    """Return what is in a folder, but for the records of runs."""
    return {path.name for path in folder.iterdir()} - {"runs"}


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        *(
            [name, "-h"]
            for name in (
                "init",
                "update",
                "follow",
                "status",
                "runs",
                "watch",
                "logs",
                "gaps",
                "backfill",
                "merge",
                "audit",
                "repair",
                "tidy",
            )
        ),
        *([name, "-h"] for name in ("run", "demo")),
    ],
)
def test_help(ctkit, words):
    """Help is printed on stdout, with exit code 0."""
    code, out, err = ctkit(*words)

    assert (code, err) == (0, "")
    assert "usage: ctkit" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Error: the following arguments are required: COMMAND"),
        (["backfil"], "Error: argument COMMAND: invalid choice: 'backfil'; did you mean backfill?"),
        (["-f", "a b.yaml", "watch"], "Error: the command comes first: ctkit watch -f 'a b.yaml'"),
        (
            ["x"],
            "invalid choice: 'x'; choose from init, update, follow, status, runs, watch, logs, gaps, backfill, merge, ",
        ),
        (
            ["audit", "--recheck", "al"],
            "Error: argument --recheck: it should be 'unproven' or 'all', but is 'al'; did you mean all?",
        ),
        (["gaps", "--form", "5"], "Error: unknown argument --form; did you mean --from?"),
        (["gaps", "--zzz"], "Error: unknown argument --zzz; see --help"),
        (["gaps", "--main", "x"], "Error: unknown argument --main; did you mean --main-path?"),
        (["gaps", "extra"], "Error: unknown argument extra; see --help"),
        (["gaps", "ct.yaml"], "Error: unknown argument ct.yaml; a parameter file is given with -f"),
        (["gaps", "--file", "ct.yaml"], "Error: unknown argument --file; a parameter file is given with -f"),
        (["backfill", "--from", "five"], "Error: argument --from: it should be a whole number, but is 'five'"),
        (["backfill", "--staging-path"], "Error: argument --staging-path: expected one argument"),
        (["merge", "--from", "5"], "Error: unknown argument --from"),
        (["backfill", "--json"], "Error: --json needs --dry-run; give both"),
        (["backfill", "--deadline", "noon"], "Error: argument --deadline: it should be a number, but is 'noon'"),
        (["backfill", "--max-requests", "0"], "Error: argument --max-requests: it should be greater than 0, but is 0"),
        (["gaps", "--max-requests", "5"], "Error: unknown argument --max-requests; see --help"),
        (["audit", "--staging-path", "x"], "Error: unknown argument --staging-path"),
        (
            ["audit", "--main-path", "nowhere", "--logs", "x"],
            "nowhere: there is no table yet; ",
        ),
        (["init"], "Error: user_agent is missing"),
        (["init", "--last", "x", "--user-agent", "a@b.c"], "Error: argument --last: "),
        (["init", "-f", "ct.yaml"], "Error: unknown argument -f; see --help"),
        (["demo", "--grow", "5"], "Error: --grow needs --serve; give both"),
        (["run"], "Error: the following arguments are required: NOTEBOOK"),
        (["run", "book.ipynb", "-p", "key"], "Error: argument -p: expected 2 arguments"),
        (["update"], "--user-agent\nmain_path is missing"),
        (["follow"], "Error: user_agent is missing"),
        (["watch"], "--main-path\ntold_path is missing"),
        (["update", "--user-agent", "me"], "Error: main_path is missing"),
        (["update", "--user-agent", "me", "--main-path", "typo"], "there is no main table at "),
        (["merge"], "Error: merge requires --staging-path <PATH>"),
        (["merge", "--staging-path", "staging"], "; give it in the parameter file, or as --main-path\n"),
        (["merge", "--staging-path", "t", "--main-path", "./t"], "Error: staging 't' is main itself"),
        (["merge", "--staging-path", "t/s", "--main-path", "t"], "Error: staging 't/s' and main lie inside each other"),
        (["gaps"], "Error: main_path is missing"),
        (["gaps", "--main-path", "main"], "Error: no log is named"),
        (["gaps", "--main-path", "main", "--ceiling", "state"], "Error: state_file is missing"),
        (["gaps", "--main-path", "main", "--state-file", "none"], "Error: state_file none cannot be read"),
        (["backfill", "--from", "-1"], "Error: argument --from: it should be greater than or equal to 0"),
        (["backfill", "--from", "5", "--to", "5"], "Error: from_index 5 is not below to_index 5"),
        (["gaps", "--from", "5", "--last", "5"], "Error: from_index and last say where to start; give one of them"),
        (["audit", "--since", "today"], "Error: argument --since: it should be a date like 2026-11-01, but is 'today'"),
        (["backfill", "-f", "nowhere.yaml"], "Error: nowhere.yaml cannot be read"),
        (["run", "nowhere.ipynb"], "Error: notebook nowhere.ipynb cannot be read"),
    ],
)
def test_usage_errors(ctkit, folder, words, message):
    """An error is one clear text on stderr with exit code 1; nothing is written (AC4.5 is among these)."""
    code, out, err = ctkit(*words)

    assert (code, out) == (1, "")
    assert message in err
    assert names(folder) == set()


def test_version(ctkit):
    """It is the one that is installed."""
    assert ctkit("--version") == (0, f"ctkit {version('ctkit')}\n", "")


def test_merge_help(ctkit):
    """It is about the merge, not about what a backfill does without a staging path."""
    _, out, _ = ctkit("merge", "--help")

    assert "backfill writes to main" not in out
    assert "merge removes it" in " ".join(out.split())


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("init", ["Google", "--user-agent is required"]),
        ("status", ["monitors", "exit code"]),
        ("follow", ["ceilings", "max_requests", "max_entries", "deadline"]),
    ],
)
def test_help_says_what_flags_do_not(ctkit, command, said):
    """The list that is read by default, what a monitor reads, and which parameters do not count."""
    about = ctkit(command, "--help")[1].split("\n\n")[1]

    assert [word for word in said if word not in about] == []
    assert max(map(len, about.splitlines())) <= 78


def test_user_agent_is_missing(ctkit, write_file):
    """The flag that gives it is named."""
    write_state("state.json", {LOG: 5})
    _, _, err = ctkit("backfill", "-f", write_file(LOG, user_agent=None), "--from", "0")

    assert err.endswith(
        "introduce yourself to logs, with a mail address or URL); give it in the parameter file, or as --user-agent\n"
    )


def test_server_config_is_missing(ctkit, write_file, folder):
    """The error names the parameter and the path."""
    _, _, err = ctkit("gaps", "-f", write_file(LOG, server_config="nowhere.yaml"))

    assert err.startswith(f"Error: server_config: {folder}/nowhere.yaml cannot be read (")


@pytest.mark.parametrize("command", [[COMMAND], [sys.executable, "-m", "ctkit"]], ids=["installed", "module"])
def test_ac4_5_merge_without_staging_path(command):
    """The installed command, and the package, say exactly what is missing, on stderr, with exit code 1."""
    done = subprocess.run([*command, "merge"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: merge requires --staging-path <PATH>\n"


def test_ac4_1_merge_when_staging_is_missing(ctkit, folder):
    """Missing staging is nothing to do, unless its path is mistyped: exit code 0, a warning, and nothing is created."""
    code, out, err = ctkit(*MERGE)

    assert (code, out) == (0, "")
    assert "WARNING staging table does not exist, nothing to merge staging_path=staging" in err
    assert names(folder) == set()


def test_ac4_1_merge_when_staging_is_empty(ctkit, folder):
    """Empty staging is nothing to do: exit code 0, says so, and is kept."""
    open_table("staging")
    code, out, err = ctkit(*MERGE)

    assert (code, out) == (0, "")
    assert "INFO staging table is empty, nothing to merge staging_path=staging" in err
    assert "WARNING" not in err
    assert names(folder) == {"staging"}


def test_merge_removes_what_an_interrupted_merge_left(ctkit, folder):
    """A staging table that a merge has emptied and could not remove is removed by the next one."""
    make_table(folder / "staging", make_rows(range(3)))
    foreign = folder / "staging" / "notes.txt"
    foreign.write_text("not ours")
    warning = "WARNING staging is not removed staging_path=staging: "
    for _ in range(2):
        code, _, err = ctkit(*MERGE, "--create")
        assert (code, err.count(warning)) == (0, 1)
        assert names(folder) == {"main", "staging"}

    foreign.unlink()
    code, _, err = ctkit(*MERGE)

    assert code == 0
    assert "staging table is empty, nothing to merge" in err
    assert names(folder) == {"main"}


def test_ac3_5_merge_reports_totals(ctkit, folder):
    """The totals are in one line, and add up; main is created where it is missing (AC4.2)."""
    make_table(folder / "staging", make_rows(range(3)))
    code, _, err = ctkit("merge", "--staging-path", "staging", "--main-path", "deep/main", "--create")

    assert code == 0
    assert "merge complete total_inserted=3 total_skipped=0 total_staging_rows=3" in err
    assert indices_of(find_table("deep/main")) == [0, 1, 2]

    make_table(folder / "staging", make_rows(range(1, 5)))
    code, _, err = ctkit("merge", "--staging-path", "staging", "--main-path", "deep/main")

    assert code == 0
    assert "merge complete total_inserted=2 total_skipped=2 total_staging_rows=4" in err
    assert names(folder) == {"deep"}


def test_ac4_3_merge_when_the_commit_fails(ctkit, folder, monkeypatch):
    """A failure in the middle of the merge is exit code 1, with staging intact and main unchanged."""
    make_table(folder / "main", make_rows(range(2)))
    make_table(folder / "staging", make_rows(range(1, 5)))

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("ctkit.lake.merge.commit_files", fail)
    code, out, err = ctkit(*MERGE)

    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("Error: ")
    assert "disk full" in err
    assert indices_of(find_table("main")) == [0, 1]
    assert indices_of(find_table("staging")) == [1, 2, 3, 4]


def test_merge_when_a_table_is_not_ours(ctkit, folder):
    """A Delta table of something else is refused with what differs."""
    make_table(folder / "main", make_rows(range(2)))
    staging = folder / "staging" / "_delta_log"
    staging.mkdir(parents=True)
    (staging / f"{0:020}.json").write_text("no commit")
    code, _, err = ctkit(*MERGE)

    assert code == 1
    assert re.search("^Error: .*staging: cannot be opened as a Delta table", err, re.MULTILINE)


def test_gaps_when_a_log_is_not_in_the_state_file(ctkit, write_file, folder):
    """No ceiling for any log is said loudly, with exit code 1."""
    write_state("state.json", {"https://other.example": 5})
    code, out, err = ctkit("gaps", "-f", write_file(LOG))

    assert (code, out) == (1, "")
    assert f"WARNING log not in state file, skipping (no ceiling reference) url={LOG}" in err
    assert f"Error: no logs have ceiling values from state file {folder}/state.json" in err
    assert names(folder) == {"run.yaml", "state.json"}


def test_gaps(ctkit, write_file, folder):
    """Gaps of main and staging together are shown for each log, or all as JSON; nothing is created."""
    make_table(folder / "main", make_rows([10, 11, 15, 16]))
    make_table(folder / "staging", make_rows([12, 13]))
    write_state("state.json", {LOG: 20})
    file = write_file(logs=[{"url": f"{LOG}/", "protocol": "rfc6962"}])

    code, out, _ = ctkit("gaps", "-f", file, "--json")
    assert code == 0
    assert json.loads(out) == [{"source_url": LOG, "start": a, "end": b} for a, b in [(14, 15), (17, 20)]]

    code, out, _ = ctkit("gaps", "-f", file, "--json", "--from", "0", "--to", "18")
    assert code == 0
    assert [(gap["start"], gap["end"]) for gap in json.loads(out)] == [(0, 10), (14, 15), (17, 18)]

    code, out, _ = ctkit("gaps", "-f", file)
    assert code == 0
    assert out.startswith("40.0 % of 1 log missing · 2 staged · 4 to fetch · 1 request, ")
    lane, indices = out.splitlines()[4:6]
    assert lane.split() == ["ct.example.com/2026h2", "──░░█──███", "4", "2"]
    assert indices.split() == ["10", "to", "20", "40.0", "%"]
    assert max(map(len, out.splitlines())) <= 80
    assert names(folder) == {"main", "staging", "run.yaml", "state.json"}


def test_gaps_when_there_are_none(ctkit, write_file, folder):
    """No gaps are an empty list, and nothing to do for a backfill: exit code 0, nothing created."""
    make_table(folder / "main", make_rows([10, 11]))
    write_state("state.json", {LOG: 12})
    file = write_file(logs=[{"url": LOG, "protocol": "rfc6962"}])
    code, out, _ = ctkit("gaps", "-f", file, "--json")
    assert (code, json.loads(out)) == (0, [])

    code, _, err = ctkit("backfill", "-f", file)
    assert code == 0
    assert "no gaps detected, nothing to backfill" in err
    assert "version=" not in err
    assert names(folder) == {"main", "run.yaml", "state.json"}


@pytest.mark.parametrize("command", ["gaps", "backfill"])
def test_catch_up_when_no_log_has_a_row(ctkit, write_file, folder, command):
    """A main path that is mistyped, or holds other logs, is an error that names it; nothing is created."""
    write_state("state.json", {NEW: 20})
    file = write_file(logs=[{"url": NEW, "protocol": "rfc6962"}])
    for rows in ([], range(3)):
        make_table(folder / "main", make_rows(rows))
        for path in ("typo", "main"):
            code, out, err = ctkit(command, "-f", file, "--main-path", path)

            assert (code, out) == (1, "")
            if (command, path) == ("backfill", "typo"):
                assert "Error: there is no main table at " in err
                continue
            assert f"Error: no log has a row in main_path {path}, nor in staging: " in err
            assert err.endswith("check main_path, or say where the logs start (last, since or from)\n")
    assert names(folder) == {"main", "run.yaml", "state.json"}


def test_gaps_when_a_log_is_skipped(ctkit, write_file, folder):
    """A log without a row does not look like one that is complete, and what was asked for is not done."""
    make_table(folder / "main", make_rows([10, 11]))
    write_state("state.json", {LOG: 12, NEW: 20})

    code, out, err = ctkit("gaps", "-f", write_file(logs=[{"url": url, "protocol": "rfc6962"} for url in (LOG, NEW)]))

    assert (code, err.splitlines()[-1].startswith(f"Error: {NEW} has no row")) == (1, True)
    assert out.startswith("nothing missing in 1 log · 1 log failed\n")
    assert "new.example/2027h1     has no row" in out


@pytest.mark.parametrize("command", ["gaps", "backfill", "logs"])
def test_a_main_table_that_does_not_exist(ctkit, write_file, serve, folder, command):
    """It is right on the first day, where a file names it; a path that was typed by hand is to be corrected."""
    log = FakeLog(size=20, protocols=["rfc6962"])
    file = write_file(logs=[{"url": serve(log), "protocol": "rfc6962"}], state_file=None, last=5)
    make_table(folder / "mein", make_rows([1]))

    code, out, err = ctkit(command, "-f", file, "--main-path", "./main")
    assert (code, "did you mean mein?" in err) == (1, True)
    assert command == "gaps" or log.data_requests == 0
    assert out.startswith("no main table yet · 100 % of 1 log missing") == (command == "gaps")

    code, out, _ = ctkit(command, "-f", file)
    assert code == 0
    assert out.startswith("no main table yet") == (command == "gaps")
    if command == "backfill":
        assert log.data_requests == 1
        log.grow(1)
        assert ctkit("backfill", "-f", file, "--main-path", "main", "--create")[0] == 0
        assert find_table("staging").count() == 6
    assert not (folder / "main").exists()


PRINTING = [["gaps"], ["gaps", "--json"], ["backfill", "--dry-run"], ["audit"], ["audit", "--json"]]
PRINTING += [["repair"], ["repair", "--dry-run"], ["tidy"], ["tidy", "--dry-run"]]


@pytest.fixture
def parameter_file(write_file, folder, serve):
    """Write the parameters of a log that misses something in main, which a process of its own can ask."""
    log = FakeLog("Small", 30, protocols=["rfc6962"])
    url = serve(log)
    make_table(folder / "main", make_rows([0, 2], url=url))
    named = [{"url": url, "protocol": "rfc6962", "name": "Small"}]
    return write_file(logs=named, ceiling="log", state_file=None, staging_path=None)


@pytest.mark.parametrize(
    ("words", "where", "unbuffered"),
    [
        *itertools.product([["gaps"], ["--help"]], ["full disk", "closed pipe", "no stdout"], ["", "1"]),
        *itertools.product([*PRINTING[1:], ["gaps", "--help"], ["--version"], ["demo"]], ["full disk"], [""]),
        *itertools.product([*PRINTING[1:], ["demo"]], ["no stdout"], [""]),
    ],
)
def test_when_the_output_cannot_be_written(parameter_file, words, where, unbuffered):
    """It is exit code 1 and one line that says so, whatever was to be printed, and wherever it does not arrive."""
    command = [COMMAND, *words, *(["-f", parameter_file] if words in PRINTING else [])]
    reader, writer = os.pipe()
    os.close(reader)
    target = os.open("/dev/full", os.O_WRONLY) if where == "full disk" else writer
    done = subprocess.run(
        command,
        stdout=target,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        preexec_fn=(lambda: os.close(1)) if where == "no stdout" else None,
    )
    for descriptor in {target, writer}:
        os.close(descriptor)

    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ") and "stdout" in line]
    assert (done.returncode, len(errors)) == (1, 1), done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if "audit" not in words:  # which tells of the entries that are missing, too
        assert [line for line in done.stderr.splitlines() if not line.startswith("20")] == errors


@pytest.mark.parametrize("closed", [(1,), (1, 2)], ids=["stdout", "both"])
@pytest.mark.parametrize("verb", ["merge", "backfill"])
def test_verbs_that_print_nothing_need_no_stdout(parameter_file, folder, verb, closed):
    """What only tells on stderr is done without either, too."""
    make_table(folder / "staging", make_rows([5]))
    words = {"backfill": ["-f", parameter_file], "merge": ["--main-path", "main", "--staging-path", "staging"]}
    done = subprocess.run([COMMAND, verb, *words[verb]], preexec_fn=lambda: [os.close(each) for each in closed])

    assert done.returncode == 0
    assert find_table("main").count() == {"backfill": 30, "merge": 3}[verb]


def test_repair_tells_what_it_did_where_nothing_can_be_printed(parameter_file, folder):
    """The table is repaired then, and stderr says so, also where the exit code is 1."""
    make_table(folder / "twice", make_rows([0, 2]), make_rows([2]))
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [COMMAND, "repair", "--main-path", "twice"], stdout=full, stderr=subprocess.PIPE, text=True
        )

    assert (done.returncode, find_table("twice").count()) == (1, 2)
    assert "repair complete" in done.stderr


def test_undo_is_not_interrupted_once_it_is_complete(ctkit, folder):
    """What comes while its last line is written makes another exit code of 0 no more."""
    make_table(folder / "main", make_rows([1]))
    make_table(folder / "staging", make_rows([2]))
    assert ctkit("merge", "--main-path", "main", "--staging-path", "staging")[0] == 0

    class Interrupting(logging.Handler):
        def emit(self, record):
            if record.getMessage().startswith("merge undone"):
                os.kill(os.getpid(), signal.SIGINT)

    handler = Interrupting()
    logging.getLogger("ctkit").addHandler(handler)
    try:
        code, out, _ = ctkit("merge", "--undo", "--main-path", "main", "--runs-path", "runs")
        assert (code, out.splitlines()[0]) == (0, f"1 row went from {folder}/main back to {folder}/staging.")
    finally:
        logging.getLogger("ctkit").removeHandler(handler)
    assert (find_table("main").count(), find_table("staging").count()) == (1, 1)
    assert [(run.runbook, run.outcome) for run in find_runs("runs").runs] == [("merge --undo", "complete")]


def test_main_in_a_thread(ctkit, parameter_file):
    """A command runs in any thread; signals are left to whoever started it."""
    codes = []
    thread = threading.Thread(target=lambda: codes.append(main(["gaps", "-f", parameter_file])))
    thread.start()
    thread.join()

    assert codes == [0]


def test_main_leaves_signals_as_they_were(ctkit):
    """Who calls main from Python keeps the handlers that were set up."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(each) for each in signals]
    ctkit(*MERGE)

    assert [signal.getsignal(each) for each in signals] == before


INTERRUPTED_AT_ITS_END = """
import atexit, logging, os, signal, sys
from ctkit.cli import main
def interrupt(*_):
    for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        os.kill(os.getpid(), each)
class Interrupting(logging.Handler):
    def emit(self, record):
        if record.getMessage().startswith(("merge complete", "backfill complete")):
            interrupt()
logging.getLogger("ctkit").addHandler(Interrupting())
atexit.register(interrupt)
sys.exit(main())
"""


@pytest.mark.parametrize("verb", ["merge", "backfill"])
def test_interrupt_when_the_work_is_done(parameter_file, folder, verb):
    """Once it says that it is complete, nothing that comes on the way out makes another exit code of it."""
    words = ["merge", "--main-path", "main", "--staging-path", "staging"]
    if verb == "merge":
        make_table(folder / "staging", make_rows([5]))
    else:
        words = ["backfill", "-f", parameter_file]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AT_ITS_END, *words], capture_output=True, text=True, check=False
    )

    assert (done.returncode, "Interrupted" in done.stderr) == (0, False), done.stderr


def test_gaps_names_what_is_left_out(ctkit, write_file):
    """Logs of the state file that no parameter names, and logs without any row in catch-up, are each said once."""
    others = {f"https://other{number}.example": 9 for number in range(100, 122)}
    write_state("state.json", {LOG: 5, NEW: 5, **others})
    make_table("main", make_rows([2]))
    logs = [{"url": url, "protocol": "rfc6962"} for url in (LOG, NEW)]
    first = ", ".join(list(others)[:20])
    unnamed = f"WARNING the state file lists logs that no parameter names, skipping count=22 {first} and 2 more\n"
    without_row = f"WARNING log has no row in either table, skipping (catch-up) url={NEW}\n"

    code, _, err = ctkit("gaps", "-f", write_file(logs=logs))
    assert (code, err.count(unnamed), err.count(without_row), err.count("WARNING")) == (1, 1, 1, 2)

    # With a filter the others are left out on purpose; with --from, a log needs no row.
    for expected, words, warning in [(1, ("--logs", "example"), without_row), (0, ("--from", "0"), unnamed)]:
        code, _, err = ctkit("gaps", "-f", write_file(logs=logs), *words)
        assert (code, err.count(warning), err.count("WARNING")) == (expected, 1, 1)

    # A log that is complete has rows and no gaps.
    code, _, err = ctkit("gaps", "-f", write_file(logs=logs[:1]), "--logs", "example", "--to", "3")
    assert (code, err.count("WARNING")) == (0, 0)


@pytest.mark.parametrize("bad", [f"https://{'a' * 64}.example/", "https://log..example", "https://log.example:port/"])
def test_a_bad_url_in_a_log_list_does_not_stop_others(ctkit, write_file, serve, folder, bad):
    """The other logs of the list are backfilled; the one that cannot be asked is named and the exit code is 1."""
    log = FakeLog("Good", 30, protocols=["rfc6962"])
    listed = [{"url": url, "key": "", "description": url} for url in (bad, serve(log))]
    (folder / "list.json").write_text(json.dumps({"operators": [{"logs": listed}]}))
    code, _, err = ctkit("backfill", "-f", write_file(logs=None, log_list="list.json", ceiling="log"), "--from", "0")

    assert code == 1
    assert find_table("staging").count() == 30
    assert f"Error: {bad.rstrip('/')}: its gaps are not known: " in err
    assert "the log list gives a URL that cannot be asked" in err


def test_logs_when_the_filter_matches_nothing(ctkit, write_file, serve):
    """A filter that matches no log is exit code 1 and lists what there is."""
    url = serve(FakeLog(size=1))
    code, _, err = ctkit("gaps", "-f", write_file(url, ceiling="log"), "--logs", "nothing")

    assert code == 1
    assert f"Error: no logs matched the filter log_filter='nothing'; there are no name ({url})" in err


def test_e2e_two_logs(ctkit, write_file, serve, folder):
    """The cycle: gaps, backfill into staging, merge, no gaps; main grows by exactly what is inserted."""
    logs = {
        serve(log): log
        for log in (
            FakeLog("Fake A", 300, protocols=["rfc6962"], seed=1),
            FakeLog("Fake B", 300, protocols=["static-ct"], seed=2),
        )
    }
    write_state("state.json", dict.fromkeys(logs, 290))
    file = write_file(logs=[{"url": url, "name": log.name} for url, log in logs.items()])

    # Without a staging path, one log, the historical way: straight into main (AC5.1).
    direct = write_file(logs=[{"url": url, "name": log.name} for url, log in logs.items()], staging_path=None)
    code, _, err = ctkit("backfill", "-f", direct, "--from", "20", "--to", "60", "--logs", "FAKE-a")
    assert code == 0
    assert f"backfill mode starting main_path={folder}/main" in err
    assert names(folder) == {"main", "run.yaml", "state.json"}
    assert find_table("main").count() == 40

    # Catch-up into staging: from the first row of the one log that has any (AC1.1 to AC1.3); the other has no start.
    file = write_file(logs=[{"url": url, "name": log.name} for url, log in logs.items()])
    version = find_table("main").version()
    code, _, err = ctkit("backfill", "-f", file)
    assert code == 1
    assert f"backfill mode starting staging_path={folder}/staging" in err
    assert find_table("staging").count() == 290 - 60
    assert find_table("main").version() == version

    code, _, err = ctkit("backfill", "-f", file, "--from", "0")
    assert code == 0
    assert find_table("staging").count() == 2 * 290 - 40

    # Nothing is left to fetch (AC2.2), nothing reached the ceiling (AC2.3).
    code, out, _ = ctkit("gaps", "-f", file, "--from", "0", "--json")
    assert (code, json.loads(out)) == (0, [])

    code, _, err = ctkit("merge", "-f", file)
    assert code == 0
    assert "merge complete total_inserted=540 total_skipped=0 total_staging_rows=540" in err
    assert names(folder) == {"main", "run.yaml", "state.json"}
    check_table(find_table("main"), logs, dict.fromkeys(logs, (0, 290)))


def data_requests(log):
    """Return how many requests for entries a fake log has seen."""
    return len(log.paths("ct/v1/get-entries")) + len(log.paths("tile/data/"))


@pytest.fixture
def two_logs(serve, write_file):
    """Return two logs of 1,000 entries by URL, one of each protocol, and a parameter file that wants all of them."""
    logs = {
        serve(log): log
        for log in (
            FakeLog("Fake A", 1000, protocols=["rfc6962"], page_size=100),
            FakeLog("Fake B", 1000, protocols=["static-ct"]),
        )
    }
    named = [{"url": url, "name": log.name, "protocol": log.protocols[0]} for url, log in logs.items()]
    return logs, write_file(logs=named, ceiling="log", state_file=None, from_index=0)


def test_backfill_dry_run(ctkit, two_logs, folder):
    """The plan is a table, or JSON, on stdout; one page is asked for to know its size, and nothing is created."""
    logs, file = two_logs
    rfc, static = logs

    code, out, err = ctkit("backfill", "-f", file, "--dry-run", "--json")
    assert code == 0
    plan = json.loads(out)
    assert [(log["source_url"], log["requests"], log["wanted"], log["in_vain"]) for log in plan["by_log"]] == [
        (rfc, 10, 1000, 0),
        (static, 4, 1000, 24),
    ]
    assert (plan["requests"], plan["entries_wanted"], plan["in_vain"]) == (14, 2000, 24)
    assert [data_requests(log) for log in logs.values()] == [1, 0]
    assert "backfill mode starting" not in err

    code, out, _ = ctkit("backfill", "-f", file, "--dry-run")
    assert code == 0
    *lines, total = out.splitlines()
    named = [lines.index(logs[url].name) for url in (rfc, static)]
    first, second = (lines[at : at + 4] for at in named)
    assert {"protocol=rfc6962", "page_size=100", "requests=10", "wanted=1,000"} <= {*" ".join(first).split()}
    assert {"protocol=static-ct", "page_size=256", "requests=4", "wanted=1,000"} <= {*" ".join(second).split()}
    assert total.startswith("plan logs=2 requests=14 entries_wanted=2000 ")
    assert names(folder) == {"run.yaml"}


def test_names_stand_before_urls(ctkit, world):
    """A plan names logs as people do, and their URLs after that."""
    code, out, _ = ctkit("backfill", "-f", "demo.yaml", "--dry-run")

    assert code == 0
    assert all(out.index(log.name) < out.index(url) for url, log in world.logs.items())


def test_backfill_dry_run_when_nothing_is_missing(ctkit, write_file, folder):
    """It says so, and sends no request."""
    make_table(folder / "main", make_rows([10, 11]))
    write_state("state.json", {LOG: 12})

    code, out, _ = ctkit("backfill", "-f", write_file(logs=[{"url": LOG, "protocol": "rfc6962"}]), "--dry-run")

    assert code == 0
    assert out.splitlines()[0] == "no gaps, nothing to fetch"


def test_backfill_dry_run_when_a_log_cannot_be_asked(ctkit, write_file, serve, folder, monkeypatch):
    """Nothing is said of gaps that are not known; a log whose gaps are known is planned, and not called skipped."""
    hasty = replace(DEFAULT_PATIENCE, tries=1)
    monkeypatch.setattr(
        "ctkit.desk.chosen_logs.open_log", lambda *words, **more: open_log(*words, **more, patience=hasty)
    )
    log = FakeLog("Dead", 30, protocols=["rfc6962"])
    log.down = True
    logs = [{"url": serve(log), "protocol": "rfc6962"}]

    code, out, err = ctkit("backfill", "-f", write_file(logs=logs, ceiling="log"), "--from", "0", "--dry-run")
    assert (code, out.splitlines()[0]) == (1, "no log could be asked")
    assert "its gaps are not known" in err

    write_state("state.json", {logs[0]["url"]: 30})
    code, out, err = ctkit("backfill", "-f", write_file(logs=logs), "--from", "0", "--dry-run")
    assert (code, out.split()[-7:-5]) == (0, ["plan", "logs=1"])
    assert "WARNING log cannot be asked http" in err
    assert "skipping" not in err


def test_backfill_dry_run_with_a_budget(ctkit, two_logs):
    """The plan covers everything that is missing, and says so."""
    code, out, err = ctkit("backfill", "-f", two_logs[1], "--dry-run", "--max-entries", "5", "--deadline", "2")

    assert (code, "entries_wanted=2000" in out) == (0, True)
    assert "WARNING the plan covers everything that is missing, without the budget max_entries=5 deadline=2.0\n" in err


@pytest.mark.parametrize(
    ("words", "limit"), [(("--max-requests", "5"), "max_requests"), (("--max-entries", "700"), "max_entries")]
)
def test_backfill_when_the_budget_is_spent(ctkit, two_logs, words, limit):
    """What the budget allows is written, what is left is said, the exit code is 0; runs go on until all is there."""
    logs, file = two_logs
    code, _, err = ctkit("backfill", "-f", file, *words)

    assert code == 0
    written = find_table("staging").count()
    assert 500 <= written <= 1000
    assert "INFO backfill stopped " in err
    assert f"stopped_by={limit} left={2000 - written} left_requests=" in err
    assert f"WARNING stopped, run again to go on stopped_by={limit}" in err
    for url in logs:
        assert f"INFO left source_url={url} entries=" in err

    for _ in range(4):
        assert ctkit("backfill", "-f", file, *words)[0] == 0
    check_table(find_table("staging"), logs, dict.fromkeys(logs, (0, 1000)))


def test_backfill_when_the_budget_is_spent_beside_a_hole(ctkit, two_logs):
    """Another reason for what is missing makes the exit code 1."""
    logs, file = two_logs
    next(iter(logs.values())).broken_leaves = {3}

    code, _, err = ctkit("backfill", "-f", file, "--max-entries", "700")

    assert code == 1
    assert "stopped_by=max_entries" in err
    assert "1 entries are still missing: [3, 4)" in err


def test_backfill_when_every_log_failed_within_a_budget(ctkit, serve, write_file):
    """Going on with the budget is no advice where the log is the reason."""
    key = base64.b64encode(FakeLog("Other", 1).public_key).decode()
    file = write_file(logs=[{"url": serve(FakeLog("Forged", 30)), "protocol": "rfc6962", "key": key}], state_file=None)
    write_state("state.json", {yaml.safe_load(Path(file).read_text())["logs"][0]["url"]: 30})

    code, _, err = ctkit("backfill", "-f", file, "--state-file", "state.json", "--from", "0", "--max-entries", "5")

    assert code == 1
    assert "stopped_by=max_entries" in err
    assert "run again to go on" not in err
    assert err.endswith("report them to the log's operator\n")


def test_backfill_when_the_time_is_over(ctkit, two_logs):
    """A deadline is given in seconds, and what a log brought until then is written."""
    logs, file = two_logs
    (url, slow), _ = logs.items()
    slow.latency = 0.5

    code, _, err = ctkit("backfill", "-f", file, "--deadline", "1.2", "--logs", "Fake A")

    assert code == 0
    assert "stopped_by=deadline" in err
    written = find_table("staging").count()
    assert 0 < written < 1000
    assert f"INFO left source_url={url} entries={1000 - written} requests=" in err


def test_a_dead_log_does_not_stop_another(ctkit, write_file, serve, monkeypatch):
    """With ceiling: log, the logs that answer are backfilled; the dead one is named and the exit code is 1."""
    hasty = replace(DEFAULT_PATIENCE, tries=1)
    monkeypatch.setattr(
        "ctkit.desk.chosen_logs.open_log", lambda *words, **more: open_log(*words, **more, patience=hasty)
    )
    alive, dead = FakeLog("Alive", 30, protocols=["rfc6962"]), FakeLog("Dead", 30, protocols=["rfc6962"])
    urls = [serve(dead), serve(alive)]
    dead.down = True
    for protocol in ("auto", "rfc6962"):
        logs = [{"url": url, "protocol": protocol} for url in urls]
        code, out, err = ctkit("gaps", "-f", write_file(logs=logs, ceiling="log"), "--from", "0", "--json")
        assert code == 1
        assert json.loads(out) == [{"source_url": urls[1], "start": 0, "end": 30}]
        message = err[err.index(f"Error: {urls[0]}: its gaps are not known") :]
        assert message.count(urls[0]) == 1

    code, _, err = ctkit("backfill", "-f", write_file(logs=logs, ceiling="log"), "--from", "0")
    assert code == 1
    assert f"Error: {urls[0]}: its gaps are not known" in err
    check_table(find_table("staging"), {urls[1]: alive}, {urls[1]: (0, 30)}, source_names={urls[1]: urls[1]})

    code, out, _ = ctkit("backfill", "-f", write_file(logs=logs, ceiling="log"), "--from", "0", "--dry-run")
    assert (code, out.splitlines()[0]) == (1, "no gaps in the logs that could be asked")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda each: each.name)
def test_ac4_4_backfill_when_signalled(ctkit, write_file, serve, folder, signum):
    """A signal to a backfill gives exit code 1, keeps what was written, and the next run fetches the rest."""

    class Slow(FakeLog):
        """Answers ever so slowly beyond its first half."""

        def respond(self, request):
            """Wait, if it is to."""
            if int(request.query.get("start", 0)) >= 2500:
                self._awake.wait(slowness)
            return super().respond(request)

    slowness = 60.0
    log = Slow(size=5000, protocols=["rfc6962"])
    url = serve(log)
    file = write_file(logs=[{"url": url, "name": log.name, "protocol": "rfc6962"}], ceiling="log", from_index=0)
    hasty = "from ctkit import cli; from ctkit.lake import write; write.SECONDS_PER_COMMIT = 0.1; exit(cli.main())"
    words = [sys.executable, "-c", hasty, "backfill", "-f", file]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            while not (folder / "staging/_delta_log" / f"{1:020}.json").exists():
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signum)
            if signum == signal.SIGHUP:  # a terminal that closes: by the shell, and by the kernel
                time.sleep(0.1)
                process.send_signal(signum)
            _, err = process.communicate(timeout=120)
        finally:
            process.kill()

    assert process.returncode == 1
    assert err.endswith("Interrupted. Nothing is half done: run the same command to go on.\n")
    written = find_table("staging").count()
    assert 0 < written < 5000, err
    assert f"WARNING backfill stopped, arrived rows are written written={written} wanted=5000\n" in err

    slowness = 0.0
    code, _, err = ctkit("backfill", "-f", file)
    assert code == 0
    assert f"wanted={5000 - written} " in err
    check_table(find_table("staging"), {url: log}, {url: (0, 5000)})


def test_backfill_when_hangups_are_ignored(parameter_file, folder):
    """Under nohup, a terminal that closes is nothing to the run."""
    code = "import os, signal, sys; from ctkit.cli import main; from ctkit.desk import gap_report\n"
    code += "find = gap_report.find_gaps\n"
    code += "def hang_up(*w, **k): os.kill(os.getpid(), signal.SIGHUP); return find(*w, **k)\n"
    code += "gap_report.find_gaps = hang_up; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "backfill", "-f", parameter_file],
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
        capture_output=True,
        text=True,
    )

    assert (done.returncode, "backfill complete" in done.stderr) == (0, True), done.stderr


def test_run_reads_values_as_yaml(ctkit, folder, monkeypatch):
    """Numbers, lists, nulls and text of -p arrive as such, and what is no YAML as text."""
    seen = []
    monkeypatch.setattr("ctkit.desk.runbook.run_notebook", lambda *words, **more: seen.append((words, more)) or 0)
    (folder / "run.yaml").write_text("main_path: main")
    pairs = [
        ("a", "5"),
        ("b", "null"),
        ("c", "[1, x]"),
        ("d", "2026-01-01"),
        ("e", "[x"),
        ("f", "true"),
        ("g", "ct@x.y"),
        ("h", "!!int ''"),
    ]
    code, _, _ = ctkit("run", "book.ipynb", "-f", "run.yaml", *(word for pair in pairs for word in ("-p", *pair)))

    values = {"a": 5, "b": None, "c": [1, "x"], "d": "2026-01-01", "e": "[x", "f": True, "g": "ct@x.y", "h": "!!int ''"}
    assert code == 0
    [(words, more)] = seen
    assert words == ("book.ipynb", values)
    assert more["shared"] == {"main_path": str(folder / "main")}


def test_main_leaves_logging_as_it_was(ctkit):
    """Who calls main from Python keeps the logging that was set up."""
    before = list(logging.getLogger("ctkit").handlers)
    ctkit(*MERGE)

    assert logging.getLogger("ctkit").handlers == before


def test_audit(ctkit, write_file, folder, serve):
    """What is complete and proven is shown as text or JSON; the exit code says whether anything is wrong."""
    log = FakeLog("Audited", 40, protocols=["static-ct"])
    key = base64.b64encode(log.public_key).decode()
    url = serve(log)
    file = write_file(logs=[{"url": url, "protocol": "static-ct", "name": "Audited", "key": key}], ceiling="log")
    assert ctkit("backfill", "-f", file, "--from", "0", "--to", "30")[0] == 0
    assert ctkit("merge", "-f", file)[0] == 0

    code, out, err = ctkit("audit", "-f", file)
    assert code == 1
    assert url in out.splitlines()
    assert {"verdict=incomplete", "tree_size=40", "tree_head=signed", "from=0", "to=40", "rows=30"} <= {*out.split()}
    assert "INFO audit failed main=" in err
    assert f"of {url} 10 entries are missing: [30, 40); backfill what is missing" in err

    code, out, err = ctkit("audit", "-f", file, "--to", "30", "--json")
    found = json.loads(out)
    assert (code, found["passed"], found["rows"]) == (0, True, 30)
    assert found["details"][0]["complete"] == [{"start": 0, "end": 30}]

    code, out, err = ctkit("audit", "-f", file, "--to", "30", "--require-proof", "--json")
    assert (code, json.loads(out)["passed"]) == (1, False)
    assert "INFO audit failed main=" in err
    assert err.endswith(f"of {url} 30 rows are not proven: [0, 30); recheck them (--recheck)\n")

    assert ctkit("audit", "-f", file, "--to", "30", "--recheck", "--require-proof")[0] == 0


def test_repair(ctkit, folder):
    """What would be removed, then its removal; rows that contradict are exit code 1."""
    make_table(folder / "main", make_rows([1, 2, 2]), make_rows([2, 3]))

    code, out, err = ctkit("repair", "--main-path", "main", "--dry-run")
    assert (code, out.split()[-2:]) == (0, ["2", "3"])
    assert "repair preview" in err
    assert indices_of(open_table("main")) == [1, 2, 2, 2, 3]

    code, out, err = ctkit("repair", "--main-path", "main")
    assert code == 0
    assert "repair complete" in err
    assert "removed=2" in err
    assert indices_of(open_table("main")) == [1, 2, 3]

    rows = make_rows([3])
    write_entries(open_table("main"), rows.set_column(9, rows.schema.field("sha256"), pa.array(["00"])))
    code, out, err = ctkit("repair", "--main-path", "main")
    assert code == 1
    assert "1 rows contradict" in err


def test_repair_of_a_file_that_is_gone(ctkit, folder):
    """It is listed, then taken out, which is all that was asked for."""
    make_table(folder / "main", make_rows([1, 2]), make_rows([3]))
    lost = max(files_of(open_table("main")), key=os.path.getsize)
    os.remove(lost)

    code, out, err = ctkit("repair", "--main-path", "main", "--dry-run")
    assert (code, "damaged=1 lost=2" in err) == (0, True)
    # A terminal folds it.
    assert os.path.basename(lost) in "".join(out.split())
    assert ctkit("repair", "--main-path", "main")[0] == 0
    assert indices_of(open_table("main")) == [3]


def test_tidy(ctkit, folder):
    """What would be done, then it is done; then there is nothing to do."""
    make_table(folder / "main", *(make_rows([at]) for at in range(9)))

    code, out, err = ctkit("tidy", "--main-path", "main", "--dry-run")
    assert (code, out.splitlines()[0]) == (0, "compacted")
    assert "tidy preview" in err
    assert len(files_of(open_table("main"))) == 9

    code, _, err = ctkit("tidy", "--main-path", "main", "--keep-runs", "30")
    assert (code, "tidy complete" in err, "files_before=9 files=1" in err) == (0, True, True)
    assert indices_of(open_table("main")) == [*range(9)]

    assert ctkit("tidy", "--main-path", "main")[:2] == (0, "nothing to tidy\n")


def test_tidy_when_a_file_is_damaged(ctkit, folder):
    """The others are tidied, and the exit code is 1."""
    main = make_table(folder / "main", *(make_rows([at]) for at in range(9)))
    os.remove(files_of(main)[0])

    code, out, err = ctkit("tidy", "--main-path", "main")

    assert code == 1
    assert "damaged files" in out
    assert "ctkit repair" in err
    assert len(files_of(open_table("main"))) == 2


@pytest.mark.parametrize("command", ["repair", "tidy"])
def test_repair_when_there_is_no_table(ctkit, folder, command):
    """No table is made where none was."""
    code, _, err = ctkit(command, "--main-path", "main")

    assert code == 1
    assert "there is no table yet" in err
    assert not (folder / "main").exists()


def test_audit_of_many_ranges(ctkit, write_file, folder, serve):
    """A terminal shows some ranges of each kind and says how many more there are."""
    log = FakeLog("Audited", 120, protocols=["static-ct"])
    url = serve(log)
    file = write_file(logs=[{"url": url, "protocol": "static-ct", "name": "Audited"}], ceiling="log")
    make_table(folder / "main", make_rows(range(0, 60, 2), url=url))

    code, out, _ = ctkit("audit", "-f", file)

    assert code == 1
    assert out.count("... and 10 more; --json lists them") == 3
    assert len(out.splitlines()) < 100


def test_audit_when_the_log_list_knows_the_end(ctkit, write_file, folder, serve):
    """A read-only log is complete for good, up to the final tree head that the list gives."""
    log = FakeLog("Ended", 40, protocols=["static-ct"])
    url = serve(log)
    root_hash = base64.b64encode(log.tree.root()).decode()
    head = {"tree_size": 40, "sha256_root_hash": root_hash}
    listed = {"key": base64.b64encode(log.public_key).decode(), "monitoring_url": url}
    listed["state"] = {"readonly": {"timestamp": "2026-01-01T00:00:00Z", "final_tree_head": head}}
    (folder / "list.json").write_text(json.dumps({"operators": [{"tiled_logs": [listed]}]}))
    file = write_file(logs=None, log_list="list.json", ceiling="log", staging_path=None)
    assert ctkit("backfill", "-f", file, "--from", "0")[0] == 0

    code, out, _ = ctkit("audit", "-f", file, "--json")

    assert (code, json.loads(out)["details"][0]["verdict"]) == (0, "complete for good")
