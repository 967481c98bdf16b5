"""Proven means proven: what an audit says after whatever happened to a table, held against what was really done."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError
from fakes import FakeLog
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from rows import keys_of

from ctkit.arguments import Verify
from ctkit.demo.server import LogServer
from ctkit.errors import TableError
from ctkit.jobs.audit import audit
from ctkit.lake import history
from ctkit.lake import tidy as tidy_module
from ctkit.lake.commits import kept_versions
from ctkit.lake.merge import merge_staging
from ctkit.lake.provenance import Provenance, metadata_of
from ctkit.lake.repair import repair
from ctkit.lake.table import files_of, hold, open_table
from ctkit.lake.write import write_entries
from ctkit.logs.log import Log
from ctkit.logs.open import open_log
from ctkit.wire.rows import read_rows

SIZE = 40

START = st.integers(0, SIZE - 1)
COUNT = st.integers(1, 12)
LEVEL = st.sampled_from(["entries", "entries", "heads", "off"])
WHICH = st.integers(0, 99)


class World:
    """A log that is served, and its rows: as they are, and as somebody might get them wrong."""

    def __init__(self, log: Log, fake: FakeLog) -> None:
        self.log = log
        self.root = fake.tree.root()
        self.rows = pa.Table.from_batches([read_rows(log.get_entries(0, SIZE), log, source_name="Log")])
        own = self.rows.column_names[0], "source_url", "seen_date"
        # Of each row all but its key is that of the next.
        moved = self.rows.take([*range(1, SIZE), 0])
        self.wrong = pa.table({name: (self.rows if name in own else moved)[name] for name in self.rows.column_names})


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Serve a log of a few entries, all of one day."""
    fake = FakeLog("Log", SIZE, protocols=["rfc6962"], days=0.01)
    with (
        LogServer(fake) as server,
        open_log(server.url(fake), user_agent="t@example.org", protocol="rfc6962", key=fake.public_key) as log,
    ):
        yield World(log, fake)


class Writers(RuleBasedStateMachine):
    """Everybody who writes to one table; what was really proven is known of each file by its path."""

    def __init__(self, folder: Path, world: World) -> None:
        super().__init__()
        self.world = world
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        self.path = self.folder / "main"
        open_table(self.path)
        self.proven: dict[str, tuple[int, set[int]]] = {}
        """Path -> the version whose commit proved rows of it, and which."""
        self.repeated: dict[str, set[int]] = {}
        """Path -> the versions whose commits say so again."""
        self.handles = [self.table()]

    def table(self) -> DeltaTable:
        """Return the table as it is now."""
        return open_table(self.path)

    def records(self, start: int, end: int, level: Verify) -> list[Provenance]:
        """Return what is said of rows of which something was verified."""
        head = (0, b"") if level == "off" else (SIZE, self.world.root)
        return [Provenance(self.world.log.url, start, end, end - start, *head, level, signed=level != "off")]

    def take(self, start: int, count: int, *, wrong: bool = False) -> pa.Table:
        """Return some rows."""
        return (self.world.wrong if wrong else self.world.rows).slice(start, count)

    def note(self, before: DeltaTable, proven: set[int]) -> None:
        """Note what was proven of the rows in files that are new."""
        after = self.table()
        for path in set(files_of(after)) - set(files_of(before)):
            self.proven[path] = after.version(), proven & set(pq.read_table(path)["cert_index"].to_pylist())

    def commit(self, *actions: dict[str, Any]) -> None:
        """Commit as some writers do: nothing but actions."""
        path = self.path / "_delta_log" / f"{self.table().version() + 1:020}.json"
        path.write_text("".join(json.dumps(action) + "\n" for action in actions))

    def add(self, path: Path, rows: pa.Table) -> dict[str, Any]:
        """Write a file, perhaps in place of another, and return what adds it."""
        path.parent.mkdir(exist_ok=True)
        pq.write_table(rows.drop_columns(["seen_date"]), path)
        status = path.stat()
        return {
            "add": {
                "path": str(path.relative_to(self.path)),
                "partitionValues": {"seen_date": path.parent.name.removeprefix("seen_date=")},
                "size": status.st_size,
                "modificationTime": status.st_mtime_ns // 1_000_000,
                "dataChange": True,
            }
        }

    def folder_of_rows(self) -> Path:
        """Return the partition of all rows."""
        return self.path / f"seen_date={self.world.rows['seen_date'][0]}"

    def added(self, path: str) -> dict[str, Any] | None:
        """Return what added a file first, if a commit that is left did."""
        for commit in sorted((self.path / "_delta_log").glob("*.json")):
            for action in map(json.loads, commit.read_text().splitlines()):
                if "add" in action and str(self.path / action["add"]["path"]) == path:
                    return action
        return None

    @rule(
        start=START, count=COUNT, level=LEVEL, other=st.one_of(st.none(), st.tuples(START, COUNT)), wrong=st.booleans()
    )
    def ours(self, start: int, count: int, level: Verify, other: tuple[int, int] | None, wrong: bool) -> None:
        """Write rows with records; a second one may speak of some of the rows with less confidence."""
        before, rows = self.table(), self.take(start, count, wrong=wrong and level != "entries")
        end = start + rows.num_rows
        records, proven = self.records(start, end, level), set(range(start, end)) if level == "entries" else set()
        if other:
            records += self.records(other[0], sum(other), "off")
            proven -= set(range(other[0], sum(other)))
        write_entries(self.table(), rows, metadata=metadata_of(records))
        self.note(before, proven)

    @rule(start=START, count=COUNT, wrong=st.booleans())
    def live(self, start: int, count: int, wrong: bool) -> None:
        """Append rows of which nothing is said."""
        write_deltalake(self.table(), self.take(start, count, wrong=wrong), mode="append")

    @rule(start=START, count=COUNT, wrong=st.booleans(), names=st.sampled_from(["bare", "digest"]))
    def bare(self, start: int, count: int, wrong: bool, names: str) -> None:
        """Add a file without a word about the commit, perhaps under a name that looks like ours."""
        name = f"part-00000-{self.table().version():036}-{'0' * 64}" if names == "digest" else "part-of-somebody"
        file = self.folder_of_rows() / f"{name}-{self.table().version()}.parquet"
        self.commit(self.add(file, self.take(start, count, wrong=wrong)))

    @rule(start=START, count=COUNT, broken=st.booleans())
    def foreign_words(self, start: int, count: int, broken: bool) -> None:
        """Append wrong rows under metadata that looks like ours and cannot be read, or is not about these rows."""
        said = metadata_of(self.records(0, SIZE, "entries"))
        if broken:
            said["ctkit.start"] = "?"
        properties = CommitProperties(said)
        write_deltalake(self.table(), self.take(start, count, wrong=True), mode="append", commit_properties=properties)

    @rule(which=WHICH)
    def remove(self, which: int) -> None:
        """Take a file out of the table."""
        if files := sorted(files_of(self.table())):
            name = str(Path(files[which % len(files)]).relative_to(self.path))
            self.commit({"remove": {"path": name, "dataChange": True, "deletionTimestamp": 1}})

    @rule(which=WHICH, content=st.sampled_from(["same", "wrong"]))
    def add_again(self, which: int, content: str) -> None:
        """Add a file once more that the table has or had: as it was, or with other rows in it."""
        files = sorted(map(str, self.path.glob("seen_date=*/*.parquet")))
        if not files:
            return
        file = files[which % len(files)]
        if content == "same":
            if action := self.added(file):
                self.commit(action)
            return
        index = sorted(pq.read_table(file)["cert_index"].to_pylist())
        self.commit(self.add(Path(file), self.world.wrong.take(index)))
        self.proven.pop(file, None)

    @rule(back=st.integers(1, 6))
    def restore(self, back: int) -> None:
        """Go back to an older version, as far as deltalake can."""
        table = self.table()
        with suppress(DeltaError, OSError, ValueError):
            table.restore(max(table.version() - back, 0))

    @rule()
    def compact(self) -> None:
        """Write small files anew as one."""
        with suppress(DeltaError, OSError):
            self.table().optimize.compact()

    @rule(keep=st.integers(0, 8))
    def clean_up(self, keep: int) -> None:
        """Remove old commits that a checkpoint covers."""
        table = self.table()
        table.create_checkpoint()
        for version in kept_versions(table):
            if version < table.version() - keep:
                (self.path / "_delta_log" / f"{version:020}.json").unlink()

    @rule()
    def shorten(self) -> None:
        """Let commits be old: what they say is repeated, and some go."""
        before = self.table()
        said = self.said(before)
        with pytest.MonkeyPatch.context() as patch, hold(before) as held:
            patch.setattr(history, "WEEK", -2 * history.LONGER)
            history.shorten_log(held, dry_run=False)
        for path in said if self.table().version() > before.version() else ():
            self.repeated.setdefault(path, set()).add(self.table().version())

    @rule(start=START, count=COUNT, other=st.one_of(st.none(), st.tuples(START, COUNT)), forged=st.booleans())
    def merge(self, start: int, count: int, other: tuple[int, int] | None, forged: bool) -> None:
        """Merge rows that are proven, and some of which nobody says anything, or somebody else our words."""
        before, rows = self.table(), self.take(start, count)
        staging, end = open_table(self.folder / "staging"), start + rows.num_rows
        write_entries(staging, rows, metadata=metadata_of(self.records(start, end, "entries")))
        proven = set(range(start, end))
        if other:
            properties = CommitProperties(metadata_of(self.records(0, SIZE, "entries"))) if forged else None
            write_deltalake(staging, self.take(*other, wrong=True), mode="append", commit_properties=properties)
            staging.update_incremental()
            proven -= set(range(other[0], sum(other)))
        self.attempt(lambda: merge_staging(staging, self.table()))
        shutil.rmtree(self.folder / "staging", ignore_errors=True)
        self.note(before, proven)

    @rule()
    def repair(self) -> None:
        """Remove damaged files and repeated rows: other keys stay, and what was proven."""
        before, keys = self.table(), keys_of(self.table())
        proven, reports = self.truth(before), []
        if self.attempt(lambda: reports.append(repair(self.table()))):
            for name in (file.name for file in reports[0].damaged):
                for index in pq.read_table(self.path / name, partitioning=None)["cert_index"].to_pylist():
                    keys.remove((self.world.log.url, index))
            new = set(files_of(self.table())) - set(files_of(before))
            index = [each for path in new for each in pq.read_table(path)["cert_index"].to_pylist()]
            # Of rows that contradict, and are written anew both, one commit cannot say that one is proven.
            self.note(before, {each for each in proven if index.count(each) == 1})
            assert set(keys_of(self.table())) == set(keys)
            lost = proven - self.truth(self.table())
            assert all(index.count(each) > 1 for each in lost)

    @rule()
    def tidy(self) -> None:
        """Make few files of many: all rows stay, and exactly what was proven is proven."""
        before, keys = self.table(), keys_of(self.table())
        proven = self.truth(before)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tidy_module, "FILES", 2)
            if self.attempt(lambda: tidy_module.tidy(self.table())):
                self.note(before, proven)
                assert keys_of(self.table()) == keys
                assert self.truth(self.table()) == proven

    def attempt(self, act: Callable[[], object]) -> bool:
        """Do what may be refused because a file is not what was written: then nothing happens."""
        version = self.table().version()
        try:
            act()
        except TableError:
            assert self.table().version() == version
            return False
        return True

    @rule()
    def hold_a_handle(self) -> None:
        """Keep the table open for later."""
        self.handles = [*self.handles[-2:], self.table()]

    def said(self, table: DeltaTable) -> set[str]:
        """Return the files that a handle shows and of which a commit that is left proves rows."""
        kept = {int(path.stem) for path in (self.path / "_delta_log").glob("*.json")}
        kept &= set(range(table.version() + 1))
        known = set(files_of(table)) & self.proven.keys()
        return {path for path in known if kept & {self.proven[path][0], *self.repeated.get(path, ())}}

    def truth(self, table: DeltaTable) -> set[int]:
        """Return what is proven of the rows in the files that a handle shows."""
        return {index for path in self.said(table) for index in self.proven[path][1]}

    @invariant()
    def audits_are_true(self) -> None:
        """See that an audit calls proven what was proven, neither more nor less, whatever handle it is given."""
        for table in (self.table(), *self.handles):
            (found,) = audit([self.world.log], table).logs
            assert {index for each in found.proven for index in range(each.start, each.end)} == self.truth(table)

    def teardown(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self.folder)


def test_audit_whoever_writes(tmp_path, world, examples):
    """Whoever writes, cleans up, restores, compacts or opened the table long ago: proven is what was proven."""
    run_state_machine_as_test(
        lambda: Writers(tmp_path, world),
        settings=settings(
            max_examples=examples * 2, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
