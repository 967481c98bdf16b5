"""How a process ends that has used ctkit: with its exit code, whatever the threads of libraries still do."""

import ast
import os
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from fakes import FakeLog
from rows import LOG, make_rows, make_table
from test_fetch import PlainLog, _fetch

from ctkit.lake import table
from ctkit.lake.gaps import find_gaps
from ctkit.lake.table import find_table, folder_of
from ctkit.ranges import RangeSet

BY_ENGINES = ("asked", "certificates", "look_alikes", "questions")
"""Modules whose tables are those of an engine, which groups by itself."""

PACKAGE = Path(__file__).parents[1] / "ctkit"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_no_thread_of_arrow_is_given_memory(path):
    """Python does not wait for Arrow's threads: one that drops Python's memory afterwards aborts the process.

    What is grouped or turned into pandas must therefore say ``use_threads=False``, nothing is read from files or bytes
    of Python's by threads, and DuckDB gets streams, which it reads itself; of a table, Arrow's threads would read.
    """
    wrong = []
    for call in ast.walk(ast.parse(path.read_text())):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        words = [ast.unparse(word) for word in (*call.args, *call.keywords)]
        name, owner = call.func.attr, ast.unparse(call.func.value)
        threaded = name == "to_pandas" or (name == "group_by" and path.stem not in BY_ENGINES)
        threaded = threaded and "use_threads=False" not in words
        scanned = owner.startswith("connection") and name == "register" and "__arrow_c_stream__" not in words[1]
        if threaded or scanned or name in ("read_table", "PythonFile", "dataset"):
            wrong.append(f"{path.name}:{call.lineno}: {ast.unparse(call)}")

    assert wrong == []


COMMAND = """
import os, sys, time
from pathlib import Path
import ctkit.desk.verbs, ctkit.desk.gap_report, duckdb, pyarrow.acero, pyarrow.dataset, pyarrow.parquet
from ctkit.cli import main

def threads():
    # Those with a name, of deltalake and of Arrow's allocator, keep nothing of Python's.
    names = [Path(f"/proc/self/task/{thread}/comm").read_text() for thread in os.listdir("/proc/self/task")]
    return len([name for name in names if not name.startswith(("tokio", "jemalloc"))])

before = threads()
code = main(sys.argv[1:])
# Arrow's threads stay; others may take a moment to end, or to get their name.
until = time.monotonic() + 10
while threads() > before and time.monotonic() < until:
    time.sleep(0.01)
print("threads", threads() - before, "code", code)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no list of a process's threads here")
@pytest.mark.parametrize("words", [["gaps"], ["gaps", "--json"], ["backfill", "--dry-run"], ["audit"]], ids="-".join)
def test_command_starts_no_thread_of_arrow(tmp_path, serve, words):
    """A command has not started any of Arrow's threads, also where it recalls what files hold."""
    log = FakeLog(size=60)
    url = serve(log)
    make_table(tmp_path / "main", make_rows([*range(20), *range(30, 60)], url=url))
    (tmp_path / "p.yaml").write_text(
        f"main_path: {tmp_path}/main\nlogs: [{{url: '{url}', protocol: rfc6962}}]\n"
        "ceiling: log\nfrom_index: 0\nuser_agent: tests, nobody@example.org\n"
    )
    command = [sys.executable, "-c", COMMAND, *words, "-f", tmp_path / "p.yaml"]
    for _ in range(2):
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert ended.stdout.splitlines()[-1:] == [f"threads 0 code {int(words[0] == 'audit')}"], ended.stderr
        assert ended.returncode == 0


def test_command_ends_with_its_exit_code_every_time(tmp_path):
    """Ten processes in a row that recall what files hold end as they should."""
    make_table(tmp_path / "main", make_rows(range(0, 100, 2)))
    code = (
        f"import ctkit; gaps = ctkit.find_gaps(ctkit.open_table({str(tmp_path / 'main')!r}), "
        f"within={{{LOG!r}: (0, 100)}}); print(len(gaps))"
    )
    ended = [subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=300) for _ in range(10)]

    assert {(each.returncode, each.stdout, each.stderr) for each in ended} == {(0, b"50\n", b"")}


def test_gaps_are_in_memory_of_arrow(tmp_path):
    """Whoever filters or groups them uses Arrow's threads, so that none of their memory is Python's."""
    made = make_table(tmp_path / "main", make_rows(range(0, 1000, 2)))
    before = pa.total_allocated_bytes()
    gaps = find_gaps(made, within={LOG: (0, 1000)})

    assert gaps.num_rows == 500
    assert pa.total_allocated_bytes() - before >= 2 * 500 * 8


def in_a_fork(run):
    """Call a function in a forked child; return what it writes, "" if it hangs or dies."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(there, str(run()).encode())
        except Exception as error:
            os.write(there, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(there)
    guard = threading.Timer(60, os.kill, (child, 9))
    guard.start()
    with os.fdopen(here) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    guard.cancel()
    return said


def fetch_twenty():
    """Fetch entries; return how many came."""
    return sum(map(len, _fetch(PlainLog(), RangeSet.of((0, 20)))))


def test_fetch_in_a_forked_child():
    """A child of a process that has fetched has none of its threads, and fetches with its own."""
    # In a process of its own: what other tests have left running may hold a lock of some library at the fork.
    script = "import test_exit; print(test_exit.fetch_twenty(), test_exit.in_a_fork(test_exit.fetch_twenty))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)

    assert done.stdout == "20 20\n", done.stderr


def test_tables_in_a_forked_child(tmp_path):
    """A forked child of a process that has used tables gets an error from any function."""
    made = make_table(tmp_path / "main", make_rows([1]))

    for begin in (lambda: find_table(tmp_path / "main"), lambda: find_gaps(made, within={LOG: (0, 9)})):
        said = in_a_fork(begin)
        assert said.startswith(f"TableError: {tmp_path}/main: ")
        assert "'spawn'" in said


def test_tables_in_the_child_of_a_process_without(tmp_path, monkeypatch):
    """A child of a process that has only imported ctkit uses tables as any other."""
    made = make_table(tmp_path / "main", make_rows([1]))
    monkeypatch.setattr(table, "_processes", set())

    assert in_a_fork(lambda: folder_of(made)) == str(tmp_path / "main")
