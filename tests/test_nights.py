"""Thirty nights of a table that keeps itself complete, whatever happens to its logs and to the machine.

The file is written by ``ctkit init``; the logs grow, and each night there is one update. The clock is fast: after each
night the tables' commits are a day older.
"""

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from deltalake import DeltaTable
from fakes import FakeLog, check_table
from rows import commits_of, keys_of

import ctkit
from ctkit.cli import main as run_command
from ctkit.demo.server import LogServer
from ctkit.errors import LogUnavailableError, TableError, UpdateError
from ctkit.lake import merge, write
from ctkit.lake.table import find_table
from ctkit.lake.tidy import FILES

NIGHTS = 30
LAST = 100
FIRST_SIZE = 300
BEGUN = {8: "Third 2026h2", 15: "Fourth 2026h2"}
RETIRED = {12: "Second 2026h1"}
DEAD = range(4, 7)
KILLED = {10: (write, "write_files"), 18: (merge, "commit_files")}
DISK_FULL, RATE_LIMITED, NO_LIST = 20, 22, 25

# Forked from a process that has imported everything and run nothing.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["ctkit.desk.update", "ibis.backends.duckdb", "test_nights"])


def update_and_die(file: Path, night: int) -> None:
    """Update, and die by SIGKILL before a step that comes when something is staged."""
    owner, name = KILLED[night]
    step, calls = getattr(owner, name), Counter()

    def dying(*arguments: object, **options: object) -> object:
        calls[name] += 1
        if calls[name] == (2 if owner is write else 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*arguments, **options)

    write.ROWS_PER_COMMIT = 20
    setattr(owner, name, dying)
    ctkit.update(ctkit.read_parameters(file))


class Nights:
    """The logs, their list, and the table."""

    def __init__(self, folder: Path, server: LogServer) -> None:
        self.folder, self.server = folder, server
        self.file = folder / "ct.yaml"
        self.logs: dict[str, FakeLog] = {}
        self.start: dict[str, int] = {}
        for number, name in enumerate(["First 2026h1", *RETIRED.values()]):
            self.begin(name, FIRST_SIZE, number)

    def begin(self, name: str, size: int, number: int) -> None:
        """Serve and list one more log."""
        log = FakeLog(name, size, protocols=[("rfc6962", "static-ct")[number % 2]], page_size=32)
        url = self.server.add(log)
        self.logs[url] = log

    def url_of(self, name: str) -> str:
        """Return the URL of a log."""
        return next(url for url, log in self.logs.items() if log.name == name)

    def held(self) -> set[tuple[str, int]]:
        """Return the keys in both tables, each there once."""
        tables = [table for name in ("main", "staging") if (table := find_table(self.folder / "data" / name))]
        keys = [key for table in tables for key in keys_of(table)]
        assert len(keys) == len(set(keys))
        return set(keys)

    def wanted(self) -> dict[str, tuple[int, int]]:
        """Return what main should hold."""
        return {url: (self.start[url], log.tree_size) for url, log in self.logs.items()}

    def asked_in_vain(self, held: set[tuple[str, int]]) -> list[str]:
        """Return the requests for entries that were all in the tables when the night began."""
        found = []
        for url, log in self.logs.items():
            for path, query, _ in log.requests:
                if path == "ct/v1/get-entries":
                    asked = range(int(query["start"]), int(query["end"]) + 1)
                elif path.startswith("tile/data/"):
                    number, _, width = path.removeprefix("tile/data/").partition(".p/")
                    first = 256 * int(number.replace("x", "").replace("/", ""))
                    asked = range(first, first + int(width or 256))
                else:
                    continue
                if all((url, index) in held for index in asked):
                    found.append(f"{path} {query}")
        return found

    def pass_a_day(self) -> None:
        """Let the commits of the tables become a day older."""
        for path in (self.folder / "data").glob("*/_delta_log/[0-9]*"):
            modified = path.stat().st_mtime - 86_400
            os.utime(path, (modified, modified))


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nights]:
    """Return the world before the first night, with the file that ``ctkit init`` wrote."""
    monkeypatch.chdir(tmp_path)
    with LogServer() as server:
        world = Nights(tmp_path, server)
        (tmp_path / "list.pem").write_bytes(server.listed.public_key)
        words = f"--log-list {server.list_url} --log-list-key list.pem --logs 2026 --last {LAST}"
        assert run_command(["init", "ct.yaml", *words.split(), "--user-agent", "nights@example.org"]) == 0
        yield world


@contextmanager
def trouble(nights: Nights, night: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the night have its trouble, if it is to have one."""
    first = nights.logs[nights.url_of("First 2026h1")]
    with monkeypatch.context() as patch:
        if night in DEAD:
            patch.setattr(first, "down", True)
        if night == RATE_LIMITED:
            for log in nights.logs.values():
                patch.setattr(log, "limit", (2, 0.2))
                patch.setattr(log, "limit_names_a_time", True)
        if night == NO_LIST:
            patch.setattr(nights.server.listed, "text", drop)
        if night == DISK_FULL:
            patch.setattr(write, "write_files", fail_with_full_disk)
        yield


def drop(*_: object) -> bytes:
    """Close the connection without an answer."""
    raise ConnectionAbortedError("the host of the list is down")


def fail_with_full_disk(*_: object, **__: object) -> None:
    """Fail as a write to a full disk does."""
    raise OSError(28, "No space left on device")


def test_thirty_nights(nights, monkeypatch):
    """Each report says what is true, nothing is fetched twice, little is left behind; the table is the logs."""
    fetched = 0
    first = nights.url_of("First 2026h1")
    for night in range(NIGHTS):
        if night in BEGUN:
            nights.begin(BEGUN[night], 30, night)
        nights.server.grow(37 * len(nights.logs))
        if night in RETIRED:
            nights.server.listed.states[nights.logs[nights.url_of(RETIRED[night])].slug] = "retired"
        before = nights.held()
        for url, log in nights.logs.items():
            nights.start.setdefault(url, max(0, log.tree_size - LAST))
            log.requests.clear()

        if night in KILLED:
            process = PROCESSES.Process(target=update_and_die, args=(nights.file, night))
            process.start()
            process.join()
            assert process.exitcode == -signal.SIGKILL
            assert before < nights.held()
            assert find_table("data/staging")
            fetched += len(nights.held() - before)
        else:
            with trouble(nights, night, monkeypatch):
                report = ctkit.update(ctkit.read_parameters(nights.file))
            problems = problems_of(report)
            new = nights.held() - before
            fetched += sum(log.fetched for log in report.logs)
            assert len(new) == sum(log.fetched for log in report.logs)
            held = Counter(url for url, _ in keys_of(find_table("data/main")))
            for log in report.logs:
                if log.outcome == "not known":
                    assert (log.source_url, night in DEAD) == (first, True)
                    continue
                start, end = nights.wanted()[log.source_url]
                assert (log.start, log.end, log.held) == (start, end, held[log.source_url])
                assert log.missing + log.staged == end - start - log.held
                assert (log.outcome == "complete") == (log.missing == log.staged == 0)
            new_logs = [*nights.logs] if night == 0 else [nights.url_of(BEGUN[night])] if night in BEGUN else []
            assert sorted(report.begun) == sorted(new_logs)
            assert report.retired == {nights.url_of(name): "retired" for at, name in RETIRED.items() if at <= night}
            if night in DEAD:
                assert {(type(problem), problem.url) for problem in problems} == {(LogUnavailableError, first)}
            elif night == DISK_FULL:
                assert {type(problem) for problem in problems} == {TableError}
            else:
                assert problems == ()
                assert not Path("data/staging").exists()
                check_keys(nights)
        assert nights.asked_in_vain(before) == []
        if night == 0:
            at_once = {"delta.deletedFileRetentionDuration": "interval 0 days"}
            DeltaTable("data/main").alter.set_table_properties(at_once)
        nights.pass_a_day()

    main = find_table("data/main")
    check_table(main, nights.logs, nights.wanted())
    assert fetched == main.count() == sum(end - start for start, end in nights.wanted().values())
    ctkit.audit_main(ctkit.read_parameters(nights.file, require_proof=True)).check()
    by_date = Counter(path.parent for path in Path("data/main").rglob("seen_date=*/*.parquet"))
    assert max(by_date.values()) < 2 * FILES
    assert len(commits_of(Path("data/main"))) < 3 * NIGHTS


def check_keys(nights: Nights) -> None:
    """See that main holds what the logs hold, from where each began."""
    found = Counter(keys_of(find_table("data/main")))
    stretches = nights.wanted().items()
    assert found == Counter((url, index) for url, (start, end) in stretches for index in range(start, end))


def problems_of(report: ctkit.UpdateReport) -> tuple[Exception, ...]:
    """Return the problems that a report's check names."""
    try:
        report.check()
    except UpdateError as error:
        return error.problems
    return ()
