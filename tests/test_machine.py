"""Whatever happens: random tables, logs that misbehave, runs that are stopped, and in the end the table is the log.

The machine knows the keys of both tables after each step. What a row must be, it leaves to `check_table`.
"""

import math
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from fakes import FakeLog, cert_links, check_table, expected_row
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from rows import keys_of
from troubles import KNOBS, STOPS, TroubledLog, first_call, interrupt, stopping

from ctkit.demo.server import LogServer
from ctkit.errors import TableError
from ctkit.jobs.backfill import backfill
from ctkit.jobs.backfill_report import BackfillReport
from ctkit.lake import merge, write
from ctkit.lake.gaps import find_gaps
from ctkit.lake.merge import merge_staging, preview_merge
from ctkit.lake.querying import read_tables, reading
from ctkit.lake.table import find_table, open_table
from ctkit.lake.undo import undo_merge
from ctkit.logs.asking import Patience
from ctkit.logs.log import Log
from ctkit.logs.open import open_log
from ctkit.schema import row_schema

AGENT = "ctkit tests, ct@example.org"
SHORT = Patience(tries=3, first_wait=0.002, longest_wait=0.03, timeout=5, total=10)

Key = tuple[str, int]
Keys = set[Key]

WHICH = st.integers(0, 2)
TABLE = st.sampled_from(["staging", "staging", "main"])
STRETCH = st.tuples(st.sampled_from([None, 0, 0, 37]), st.sampled_from([-20, 0, 0, 1, 60]))
"""Where to begin, and how far below the end of the log the ceiling is."""
BUDGET = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"max_requests": st.integers(1, 8)}),
    st.fixed_dictionaries({"max_entries": st.integers(1, 200)}),
    st.fixed_dictionaries({"deadline": st.sampled_from([0.01, 0.05, 0.2])}),
)
STOP = st.one_of(st.none(), st.tuples(st.sampled_from(sorted(STOPS)), st.integers(1, 9)))


class World(RuleBasedStateMachine):
    """Two tables, three logs on one host, a live service, and somebody who runs ctkit."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        self.fakes = [
            TroubledLog("Pages", 200, protocols=["rfc6962"], page_size=64),
            TroubledLog("Tiles", 300, protocols=["static-ct"]),
            TroubledLog("Few", 30),
        ]
        self.server = LogServer(*self.fakes)
        self.urls = [self.server.url(fake) for fake in self.fakes]
        self.by_url = dict(zip(self.urls, self.fakes, strict=True))
        self.logs = [self.open_log(at, with_key=True) for at in range(3)]
        self.main: Counter[Key] = Counter()
        self.staging: Keys = set()
        self.before_merge: Counter[Key] | None = None
        self.checked: dict[str, int] = {}
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(write, "ROWS_PER_COMMIT", 60)

    def open_log(self, at: int, *, with_key: bool) -> Log:
        """Open a log as a new process would."""
        fake = self.fakes[at]
        key = fake.public_key if with_key else None
        protocol = fake.protocols[-1]
        return open_log(self.urls[at], user_agent=AGENT, protocol=protocol, name=fake.name, key=key, patience=SHORT)

    def table(self, name: str) -> DeltaTable:
        """Return main or staging as it is now."""
        return open_table(self.folder / name)

    # What is not ctkit: the live service, the logs, and their troubles.

    def write_live(self, keys: Iterable[Key]) -> None:
        """Append rows to main, as the live service does, whether main has them or not."""
        keys = [(url, index) for url, index in keys if index < len(self.by_url[url].entries)]
        rows = [
            expected_row(fake := self.by_url[url], url, index) | {"cert_link": cert_links(fake, url, index)[-1]}
            for url, index in keys
        ]
        if rows:
            write_deltalake(self.table("main"), pa.Table.from_pylist(rows, schema=row_schema()), mode="append")
            self.main.update(keys)
            self.before_merge = None

    @initialize(ranges=st.lists(st.tuples(WHICH, st.integers(0, 299), st.integers(1, 60)), max_size=8))
    def live_before(self, ranges: list[tuple[int, int, int]]) -> None:
        """Fill a part of main, with holes between the ranges, each key once."""
        keys = {(self.urls[at], index) for at, start, count in ranges for index in range(start, start + count)}
        self.write_live(sorted(keys))

    @rule(at=WHICH, start=st.integers(0, 350), count=st.integers(1, 20), step=st.sampled_from([1, 2, 7]))
    def live(self, at: int, start: int, count: int, step: int) -> None:
        """Let the live service write rows, some of them for the second time."""
        self.write_live((self.urls[at], index) for index in range(start, start + step * count, step))

    @rule(name=st.sampled_from(["main", "staging"]), vacuums=st.booleans())
    def compact(self, name: str, vacuums: bool) -> None:
        """Let somebody look after a table."""
        table = self.table(name)
        before = table.version()
        table.optimize.compact()
        table.create_checkpoint()
        if vacuums:
            table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
        if name == "main" and table.version() > before:
            self.before_merge = None

    @rule(at=WHICH, count=st.integers(1, 60))
    def grow(self, at: int, count: int) -> None:
        """Let a log grow."""
        self.fakes[at].grow(count)

    @rule(at=WHICH, knobs=st.one_of(st.none(), *map(st.just, KNOBS)))
    def turn(self, at: int, knobs: dict[str, Any] | None) -> None:
        """Turn some knobs of a log, or all of them back."""
        if knobs is None:
            self.fakes[at].behave()
        else:
            self.fakes[at].misbehave(knobs)

    # What ctkit does.

    @rule(
        into=TABLE,
        chosen=st.sets(WHICH, min_size=1),
        stretch=STRETCH,
        verify=st.sampled_from(["off", "heads", "entries"]),
        process=st.sampled_from(["same", "with keys", "without keys"]),
        budget=BUDGET,
        stop=STOP,
        twice=st.booleans(),
    )
    def backfill(
        self,
        into: str,
        chosen: set[int],
        stretch: tuple[int | None, int],
        verify: Any,
        process: str,
        budget: dict[str, Any],
        stop: tuple[str, int] | None,
        twice: bool,
    ) -> None:
        """Fill gaps, perhaps not to the end; and perhaps make the same call once more."""
        for at in chosen if process != "same" else ():
            self.logs[at].close()
            self.logs[at] = self.open_log(at, with_key=process == "with keys")
        logs = [self.logs[at] for at in sorted(chosen)]
        within = {log.url: (stretch[0], max(1, len(self.by_url[log.url].entries) - stretch[1])) for log in logs}
        gaps = find_gaps(self.table("main"), self.table("staging"), within=within)
        wanted = self.missing(within)
        assert {(gap["source_url"], at) for gap in gaps.to_pylist() for at in range(gap["start"], gap["end"])} == wanted
        for how in [stop, None] if twice else [stop]:
            wanted -= self.run(into, logs, gaps, wanted, how, verify=verify, **budget)

    @rule(into=TABLE, at=WHICH, start=st.integers(0, 150), count=st.integers(1, 100), shift=st.sampled_from([0, 0, 1]))
    def backfill_from_a_liar(self, into: str, at: int, start: int, count: int, shift: int) -> None:
        """Ask for proofs, of a log that gives leaves of another log, or of another index, in place of its own."""
        fake, liar = self.fakes[at], other_log(self.fakes[at].protocols[-1])
        true, fake.shift = fake.entries, shift
        end = min(start + count, len(true))
        fake.entries = [*true[:start], *liar.entries[start:end], *true[max(start, end) :]]
        fake.issuers |= liar.issuers
        within = {self.urls[at]: (0, len(true))}
        gaps = find_gaps(self.table("main"), self.table("staging"), within=within)
        self.run(into, [self.logs[at]], gaps, self.missing(within), None, verify="entries")
        fake.entries, fake.shift = true, 0

    def missing(self, within: dict[str, tuple[int | None, int]]) -> Keys:
        """Return what neither table has."""
        covered = self.main.keys() | self.staging
        missing: Keys = set()
        for url, (start, end) in within.items():
            if start is None:
                start = min((index for found, index in covered if found == url), default=end)
            missing |= {(url, index) for index in range(start, end)}
        return missing - covered

    def run(self, into: str, logs: Sequence[Log], gaps: pa.Table, wanted: Keys, stop: Any, **options: Any) -> Keys:
        """Backfill once, hold the report against the table, and return what was written."""
        known = set(self.main) if into == "main" else self.staging
        files = sorted(self.folder.joinpath("main").rglob("*"))
        report = None
        with suppress(*[STOPS[stop[0]]] if stop else []), stopping(stop, self.fakes) as on_progress:
            report = backfill(logs, gaps, self.table(into), on_progress=on_progress, **options)
        written = set(keys_of(self.table(into))) - known
        assert written <= wanted
        assert len(written) <= options.get("max_entries", math.inf)
        if into == "staging":
            assert sorted(self.folder.joinpath("main").rglob("*")) == files
            self.staging |= written
        elif written:
            self.main.update(written)
            self.before_merge = None
        if report:
            self.check_report(report, wanted, written)
            assert set(report.stopped_by) <= {*options, "stop"}
            assert ("stop" in report.stopped_by) <= bool(stop)
        return written

    def check_report(self, report: BackfillReport, wanted: Keys, written: Keys) -> None:
        """See that each wanted entry is written, in a hole or left, and only one of them."""
        left = {plan.source_url: plan.wanted for plan in report.left.logs}
        for url in {url for url, _ in wanted}:
            of_log, had = ({index for found, index in keys if found == url} for keys in (wanted, written))
            holes = [of_log & {*range(hole.start, hole.end)} for hole in report.holes if hole.source_url == url]
            assert all(holes), "a hole in which nothing is missing"
            lost = set().union(*holes)
            assert len(lost) == sum(map(len, holes)), "holes that overlap"
            assert not lost & had
            assert report.wanted[url] == len(of_log) == len(had) + len(lost) + left.get(url, 0)
            assert report.written[url] == len(had)
        assert report.complete == (written == wanted)
        # An interrupt may come when everything is written.
        assert bool(left) == bool({*report.stopped_by} - (set() if left else {"stop"}))

    @rule(
        crash=st.sampled_from([None, None, None, "link_files", "commit_files", "confirm_files", "retire"]),
        meanwhile=st.one_of(st.none(), st.tuples(st.integers(0, 300), st.integers(1, 30))),
        looks=st.booleans(),
    )
    def merge(self, crash: str | None, meanwhile: tuple[int, int] | None, looks: bool) -> None:
        """Merge, perhaps beside the live service, and perhaps not to the end."""
        # No precondition: what may be drawn must not depend on how far a deadline let a backfill come.
        if not self.staging:
            return
        staging, main = self.table("staging"), self.table("main")
        preview = preview_merge(staging, main)
        fresh = self.staging - self.main.keys()
        assert (preview.inserted, preview.skipped) == (len(fresh), len(self.staging - fresh))
        done = False
        with pytest.MonkeyPatch.context() as patch:
            if meanwhile and not looks:
                keys = [(url, index) for url in self.urls for index in range(meanwhile[0], sum(meanwhile))]
                first_call(patch, merge, "commit_files", lambda: self.write_live(keys))
            if crash:
                first_call(patch, merge, crash, interrupt)
            with suppress(KeyboardInterrupt):
                report = merge_staging(staging, main, expected=preview if looks else None)
                done = True
        # Whatever the live service has written in the meantime is not inserted any more.
        fresh = self.staging - self.main.keys()
        if done:
            assert (report.inserted, report.staging_rows, report.conflicts) == (len(fresh), len(self.staging), 0)
            assert find_table(self.folder / "staging") is None
        if done or fresh & set(keys_of(self.table("main"))):
            if fresh:
                self.before_merge, self.merged = self.main.copy(), set(fresh)
            self.main.update(fresh)
        if done:
            self.staging = set()

    @rule()
    def undo(self) -> None:
        """Take the last merge back, if it was the last thing that happened to main; its rows are staged again."""
        if self.before_merge is None:
            with pytest.raises(TableError):
                undo_merge(self.table("main"))
        else:
            undo_merge(self.table("main"))
            self.main, self.before_merge = self.before_merge, None
            self.staging |= self.merged

    # What must hold.

    @invariant()
    def tables_are_right(self) -> None:
        """Each table has the keys that it should have, main's doubles included, and each row is the log's entry."""
        for name, keys in (("main", self.main), ("staging", Counter(self.staging))):
            table = self.table(name)
            if self.checked.get(name) != table.version():
                assert Counter(keys_of(table)) == keys
                self.check_rows(table, keys)
                self.checked[name] = table.version()

    def check_rows(self, table: DeltaTable, keys: Counter[Key]) -> None:
        """Compare all rows with the logs; of those that the live service wrote twice, one."""
        if table.count() > len(keys):
            with reading(table) as connection:
                rows = read_tables(connection, table).select(row_schema().names).distinct().to_pyarrow()
            shutil.rmtree(self.folder / "single", ignore_errors=True)
            table = self.table("single")
            write_deltalake(table, rows.cast(row_schema()), mode="append")
        within: dict[str, list[tuple[int, int]]] = {url: [] for url in self.urls}
        for url, index in keys:
            within[url].append((index, index + 1))
        check_table(table, self.by_url, within)

    def teardown(self) -> None:
        """Let all logs be well, run once more, and see that main is the logs."""
        try:
            if sys.exception() is None:
                self.finish()
        finally:
            self.patch.undo()
            for log, fake in zip(self.logs, self.fakes, strict=True):
                fake.wake()
                log.close()
            self.server.close()
            shutil.rmtree(self.folder)

    def finish(self) -> None:
        """Complete the table with one backfill and one merge."""
        for fake in self.fakes:
            fake.behave()
        within = {url: (0, len(fake.entries)) for url, fake in self.by_url.items()}
        gaps = find_gaps(self.table("main"), self.table("staging"), within=within)
        report = backfill(self.logs, gaps, self.table("staging"), verify="entries")
        report.check()
        assert report.complete
        merge_staging(self.table("staging"), self.table("main"))
        keys = Counter({(url, index): 1 for url, bounds in within.items() for index in range(*bounds)})
        assert Counter(keys_of(self.table("main"))) == keys | self.main
        self.check_rows(self.table("main"), keys)


@cache
def other_log(protocol: str) -> FakeLog:
    """Return a log of which entries are given in place of those of the world's logs."""
    return FakeLog("Another", 320, protocols=[protocol])


def test_machine(tmp_path: Path, examples: int) -> None:
    """After any history, one run against healthy logs makes the table equal to them."""
    run_state_machine_as_test(
        lambda: World(tmp_path),
        settings=settings(
            max_examples=examples, stateful_step_count=12, suppress_health_check=list(HealthCheck), deadline=None
        ),
    )
