"""Audits: what is complete, what is proven, what contradicts; over real tables and a log that is asked again."""

import base64
import json
import os
import re
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.transaction import AddAction
from fakes import HEADS, FakeLog, each_protocol
from raising import fails
from rows import OTHER_LOG, make_rows

from ctkit.errors import CheckpointError, LogProtocolError, LogUnavailableError, TableError
from ctkit.jobs.audit import audit
from ctkit.jobs.backfill import backfill
from ctkit.lake.gaps import find_gaps
from ctkit.lake.merge import merge_staging
from ctkit.lake.provenance import Provenance, metadata_of
from ctkit.lake.repair import repair
from ctkit.lake.table import files_of, open_table
from ctkit.lake.write import write_entries
from ctkit.ranges import LARGEST_TREE, RangeSet
from ctkit.wire.checkpoint import Checkpoint
from ctkit.wire.extra_data import FAULTS
from ctkit.wire.rows import read_rows

SIZE = 600


@dataclass
class Place:
    """A served log, opened with its key, and an empty main table."""

    fake: FakeLog
    log: object
    main: object
    folder: object

    def rows(self, start, end):
        """Return the rows of the entries ``[start, end)``, as the log has them."""
        batches = []
        while start < end:
            block = self.log.get_entries(start, end)
            batches.append(read_rows(block, self.log, source_name=self.fake.name))
            start += len(block)
        return pa.Table.from_batches(batches)

    def record(self, start, end, *, verified="entries", tree_size=SIZE, root=None):
        """Return what a backfill says of the entries ``[start, end)``."""
        root = self.fake.tree.root(tree_size) if root is None else root
        metadata = Provenance(self.log.url, start, end, end - start, tree_size, root, verified, signed=True)
        return metadata_of([metadata])

    def write(self, start, end, *, table=None, recorded=True, **said):
        """Write the rows ``[start, end)``, in one commit that calls them proven."""
        metadata = self.record(start, end, **said) if recorded else None
        write_entries(table or self.main, self.rows(start, end), metadata=metadata)

    def audit(self, **options):
        """Audit main; return the report."""
        self.main.update_incremental()
        return audit([self.log], self.main, **options)

    def within(self, start, end=LARGEST_TREE):
        """Return a stretch of the log, as `audit` takes it."""
        return {self.log.url: (start, end)}

    def line(self, **options):
        """Audit main; return what the report says of the log."""
        return line_of(self.audit(**options))


@pytest.fixture
def protocol():
    """Return the protocol of the log, where a test does not name it."""
    return "static-ct"


@pytest.fixture
def place(protocol, tmp_path, opened):
    """Serve a log of `SIZE` entries."""
    fake = FakeLog("Audited", SIZE, protocols=[protocol], days=0.5)
    return Place(fake, opened(fake, protocol), open_table(tmp_path / "main"), tmp_path)


def line_of(report):
    """Return what a report says of its only log, without the log's URL."""
    (found,) = report.logs
    return {name: value for name, value in found.line().items() if name != "log"}


def line(**others):
    """Return the line of a log whose rows are all there and proven."""
    whole = {
        "verdict": "complete",
        "tree_size": SIZE,
        "tree_head": "signed",
        "from": 0,
        "to": SIZE,
        "rows": SIZE,
        "repeated": 0,
        "missing": 0,
        "proven": SIZE,
        "not_proven": 0,
        "proven_under": SIZE,
        "altered": 0,
        "differing": 0,
    }
    return whole | others


def ranges(found):
    """Return ranges as pairs."""
    return [(each.start, each.end) for each in found]


# Complete and proven


@each_protocol
def test_audit_of_what_a_backfill_has_proven(place, protocol):
    """What a backfill proves is proven in main, after the merge too; what it does not prove is there."""
    for start, end, verify in [(0, 250, "entries"), (250, 300, "heads"), (300, SIZE, "entries")]:
        gaps = find_gaps(None, within={place.log.url: (start, end)})
        staging = open_table(place.folder / "staging")
        backfill([place.log], gaps, staging, verify=verify).check()
        merge_staging(staging, place.main)

    assert place.line() == line(proven=550, not_proven=50)


@each_protocol
def test_audit_when_all_is_complete_and_proven(place, protocol):
    """Rows of several commits, under several tree heads that the log continues, are all proven."""
    place.write(0, 300, tree_size=300)
    place.write(300, SIZE)

    report = place.audit(require_proof=True)
    report.check()

    assert line_of(report) == line()
    assert [(head.tree_size, head.verified, head.consistent) for head in report.logs[0].heads] == [
        (300, "entries", True),
        (SIZE, "entries", True),
    ]
    assert report.facts() == {
        "main": str(place.folder / "main"),
        "version": 2,
        "logs": 1,
        "complete": 1,
        "rows": SIZE,
        "repeated": 0,
        "missing": 0,
        "proven": SIZE,
        "not_proven": 0,
        "altered": 0,
        "differing": 0,
        "problems": 0,
        "damaged": 0,
        "forgotten": 0,
    }
    assert report.title == "audit passed"
    assert "only the log can tell whether it is the log" in report._repr_html_()


def test_audit_after_merges(place):
    """What staging's commits say of rows goes with them into main, of each staging table's own."""
    for start in range(0, SIZE, 200):
        staging = open_table(place.folder / "staging")
        place.write(start, start + 100, table=staging)
        place.write(start + 100, start + 200, table=staging, verified="heads")
        merge_staging(staging, place.main)

    report = place.audit()

    assert line_of(report) == line(proven=300, not_proven=300)
    assert ranges(report.logs[0].proven) == [(0, 100), (200, 300), (400, 500)]
    assert ranges(report.logs[0].unproven) == [(100, 200), (300, 400), (500, 600)]


def test_audit_when_the_log_grew(place):
    """Completeness is up to the tree head of now, and old proofs hold under it."""
    place.write(0, SIZE)
    place.fake.grow(10)

    found = place.audit().logs[0]

    assert found.line()["missing"] == 10
    assert ranges(found.missing) == [(SIZE, SIZE + 10)]
    assert (found.proven.size, found.proven_under, found.head.tree_size) == (SIZE, SIZE, SIZE + 10)


def test_audit_of_a_stretch(place):
    """With a range, what lies outside of it is neither missing nor counted."""
    place.write(100, 200)
    place.write(300, 310)

    assert place.line(within=place.within(100, 200)) == line(**{"from": 100, "to": 200}, rows=100, proven=100)


@pytest.mark.parametrize("start", [SIZE, 10 * SIZE])
def test_audit_of_a_stretch_beyond_the_tree(place, start):
    """A stretch without an entry is not called complete."""
    report = place.audit(within=place.within(start))

    assert (report.passed, report.facts()["complete"], report.logs[0].verdict) == (True, 0, "not begun")
    assert (report.logs[0].start, report.logs[0].end) == (SIZE, SIZE)


def test_audit_from_the_first_row(place):
    """Without a start, what lies below the first row is not missing; a log without rows is not begun."""
    assert place.line(within=place.within(None))["verdict"] == "not begun"
    place.write(100, 200)

    assert place.line(within=place.within(None, 210)) == line(
        **{"from": 100, "to": 210}, verdict="incomplete", rows=100, missing=10, proven=100
    )


# Holes, and rows of which nothing is said


def test_audit_when_there_are_holes(place):
    """What is missing is named, and makes the audit fail; what is there counts all the same."""
    place.write(10, 100)
    place.write(101, SIZE)

    report = place.audit()

    assert line_of(report) == line(verdict="incomplete", rows=589, proven=589, missing=11)
    assert report.tables()["missing"].to_dict("records") == [
        {"log": place.log.url, "start": 0, "end": 10},
        {"log": place.log.url, "start": 100, "end": 101},
    ]
    assert report.title == "audit failed"
    with pytest.raises(TableError):
        report.check()


def test_audit_of_very_many_ranges(place):
    """Programs get all of them, piece by piece; people get some, and how many there are."""
    place.write(0, SIZE)
    report = place.audit()
    starts = np.arange(70_000) * 2
    (log,) = report.logs
    report = replace(report, logs=(replace(log, missing=RangeSet(starts, starts + 1)), log))
    pieces = list(report.json_pieces())

    assert json.loads("".join(pieces)) == report.to_json()
    assert len(report.to_json()["details"][0]["missing"]) == 70_000
    assert max(map(len, pieces)) < 4_000_000
    assert len(report.tables()["missing"]) == 1000
    assert "... and 69,950 more" in report._repr_html_()


def test_audit_when_a_part_was_filled_live(place):
    """Rows of commits that say nothing are complete and not proven, which is an error only for who asks for proof."""
    place.write(0, 200)
    write_deltalake(place.main, place.rows(200, SIZE), mode="append")

    report = place.audit()

    assert line_of(report) == line(proven=200, not_proven=400)
    report.check()
    required = place.audit(require_proof=True)
    assert [each.title for each in (report, required)] == ["audit passed", "audit failed"]
    assert [each.to_json()["passed"] for each in (report, required)] == [True, False]
    with pytest.raises(TableError):
        required.check()


def test_audit_when_rows_are_written_twice(place):
    """Repeated rows are counted and named, close their index once, and make the audit fail."""
    place.write(0, SIZE)
    place.write(0, 5, recorded=False)
    write_deltalake(place.main, pa.concat_tables([place.rows(9, 10)] * 2), mode="append")

    report = place.audit()

    assert line_of(report) == line(rows=SIZE + 7, repeated=7)
    assert ranges(report.logs[0].repeated) == [(0, 5), (9, 10)]
    assert report.facts()["repeated"] == 7
    assert report.tables()["repeated"].to_dict("records")[0] == {"log": place.log.url, "start": 0, "end": 5}
    with pytest.raises(TableError):
        report.check()
    assert place.audit(within=place.within(10)).passed


def test_audit_after_a_repair(place):
    """What was repeated is not any more, and what was proven still is."""
    place.write(0, 300)
    place.write(290, SIZE)
    place.write(100, 400, recorded=False)

    assert repair(place.main).removed == 310

    assert place.line() == line()


@pytest.mark.parametrize("verified", ["off", "heads"])
def test_audit_when_records_overlap(place, verified):
    """A row is proven only if every record of its commit that spans it says so."""
    said = [
        Provenance(place.log.url, start, end, end - start, SIZE, place.fake.tree.root(), level, signed=True)
        for start, end, level in [(0, SIZE, "entries"), (100, 150, verified), (140, 160, verified)]
    ]
    write_entries(place.main, place.rows(0, SIZE), metadata=metadata_of(said))

    assert place.line() == line(proven=540, not_proven=60)


def test_audit_when_files_were_rewritten(place):
    """Rows in files that a compaction wrote are not proven any more, and VACUUM changes nothing in that."""
    place.write(0, 100)
    place.write(100, 200)
    place.main.optimize.compact()
    place.write(200, SIZE)

    assert place.line() == line(proven=400, not_proven=200)
    place.main.vacuum(0, enforce_retention_duration=False, dry_run=False)
    assert place.line() == line(proven=400, not_proven=200)


def test_audit_when_files_are_restored(place):
    """Files that come back as they were written are proven as before."""
    place.write(0, SIZE)
    place.main.delete()
    assert place.line()["missing"] == SIZE

    place.main.restore(1)

    assert place.line() == line()


def test_audit_of_files_that_others_wrote_under_our_words(place):
    """What a commit says counts for files that ctkit wrote, whoever repeats its words."""
    said = CommitProperties(place.record(0, SIZE))
    write_deltalake(place.main, place.rows(0, 300), mode="append", commit_properties=said)

    assert ranges(place.audit().logs[0].proven) == []


@pytest.mark.parametrize("added_again", [True, False])
def test_audit_when_a_file_was_rewritten_in_its_place(place, added_again):
    """Other rows under the name of a file that held proven ones are not proven, for old and new handles."""
    place.write(0, 300)
    old, (file,) = open_table(place.folder / "main"), files_of(place.main)[:1]
    rows = pq.read_table(file)
    size = os.path.getsize(file)
    pq.write_table(rows, file, compression="zstd", use_dictionary=False)
    if added_again:
        with open(file, "ab") as opened:
            opened.truncate(size)
        name, stats = os.path.relpath(file, place.folder / "main"), '{"numRecords": 1}'
        action = AddAction(name, size, {"seen_date": name[10:20]}, 1, True, stats)
        place.main.create_write_transaction([action], "append", place.main.schema(), ["seen_date"])

    for table in (old, open_table(place.folder / "main")):
        report = audit([place.log], table)
        assert list(report.damaged) == [os.path.relpath(file, place.folder / "main")]
        assert report.logs[0].proven.size == 300 - rows.num_rows


def clean_up(place, *versions):
    """Remove commits that a checkpoint covers, as writers do after a while."""
    place.main.update_incremental()
    place.main.create_checkpoint()
    for version in versions:
        (place.folder / "main" / "_delta_log" / f"{version:020}.json").unlink()


def test_audit_when_the_history_is_gone(place):
    """Without the commits that wrote them nothing is proven of rows that are there, and the report says which."""
    place.write(0, 300)
    place.write(300, SIZE)
    assert place.audit().facts()["forgotten"] == 0
    clean_up(place, 0, 1)

    report = place.audit()

    assert line_of(report) == line(proven=300, not_proven=300)
    assert report.passed
    assert report.facts()["forgotten"] == 2
    assert report.to_json()["forgotten_versions"] == [{"start": 0, "end": 2}]
    text = report.tables()["what this tells"][""].to_list()[-1]
    assert "[0, 2)" in text
    assert "delta.logRetentionDuration" in text
    assert place.line(recheck="unproven") == line()


def test_advice_keeps_commits(place):
    """The property that the report advises is one that deltalake heeds."""
    place.write(0, SIZE)
    clean_up(place, 0)
    text = place.audit().tables()["what this tells"][""].to_list()[-1]
    exec(text.partition("longer: ")[2], {"DeltaTable": DeltaTable})
    log = place.folder / "main" / "_delta_log"
    os.utime(log / f"{1:020}.json", (0, 0))

    table = DeltaTable(place.folder / "main")
    table.create_checkpoint()
    table.cleanup_metadata()

    assert (log / f"{1:020}.json").exists()


def test_audit_of_a_handle_of_long_ago(place):
    """Whatever others have committed since the table was opened, its version is what is looked at."""
    place.write(0, 300)
    write_deltalake(place.main, place.rows(300, 400), mode="append")
    place.main.update_incremental()
    for start in range(400, 500, 10):
        write_deltalake(place.folder / "main", place.rows(start, start + 10), mode="append")

    report = audit([place.log], place.main, within=place.within(0, 400))

    assert (ranges(report.logs[0].proven), ranges(report.logs[0].unproven)) == ([(0, 300)], [(300, 400)])
    assert report.version == 2


def test_audit_when_commits_say_nothing_of_themselves(place):
    """A commit without ``commitInfo`` is a version like any other, and moves none of the others."""
    place.write(0, 100)
    write_deltalake(place.main, place.rows(100, 200), mode="append")
    place.write(200, 300)
    place.main.update_incremental()
    write_deltalake(place.main, place.rows(300, 310), mode="append")
    last = place.folder / "main" / "_delta_log" / f"{4:020}.json"
    last.write_text("".join(f"{each}\n" for each in last.read_text().splitlines() if "commitInfo" not in each))
    place.main = open_table(place.folder / "main")

    found = place.audit(within=place.within(0, 310)).logs[0]

    assert ranges(found.proven) == [(0, 100), (200, 300)]


# Contradictions


@each_protocol
def test_audit_when_the_log_forked(place, protocol):
    """A tree head that the log's tree does not continue is named, and what was proven with it is not proven."""
    place.write(0, 300, tree_size=300)
    place.write(300, 400, tree_size=400, root=bytes(32))
    place.write(400, SIZE, recorded=False)

    report = place.audit()

    assert line_of(report) == line(verdict="contradicted", proven=300, not_proven=300, proven_under=300)
    assert [head.consistent for head in report.logs[0].heads] == [True, False]
    with pytest.raises(CheckpointError):
        report.check()


def test_audit_when_proven_rows_are_of_another_tree(place):
    """Rows that were proven with a tree that the log has left are not proven."""
    place.write(0, SIZE, root=bytes(32))

    report = place.audit()

    assert line_of(report) == line(verdict="contradicted", proven=0, not_proven=SIZE, proven_under=0)
    assert [str(problem) for problem in report.logs[0].problems] == [
        f"{place.log.url}: there are two root hashes for the tree of 600 entries: believe neither, and report this to"
        " the log's operator"
    ]


def alter(rows, index, **values):
    """Return rows of which the one at an index has other values."""
    return pa.Table.from_pylist(
        [row | (values if row["cert_index"] == index else {}) for row in rows.to_pylist()], schema=rows.schema
    )


def test_audit_when_a_certificate_was_altered(place):
    """The bytes of each certificate are hashed: one that has another SHA-256 than its row says is named."""
    rows = alter(place.rows(0, SIZE), 77, as_der=b"another")
    write_entries(place.main, rows, metadata=place.record(0, SIZE))

    report = place.audit()

    assert line_of(report) == line(verdict="contradicted", proven=SIZE - 1, not_proven=1, altered=1)
    with pytest.raises(TableError):
        report.check()


def test_audit_of_a_stretch_beside_an_altered_certificate(place):
    """What was altered counts where the audit looks, and nowhere else."""
    write_entries(place.main, alter(place.rows(0, SIZE), 77, as_der=b"another"), metadata=place.record(0, SIZE))

    found = [place.audit(within=place.within(start, end)).logs[0] for start, end in ((0, 77), (77, 78), (78, SIZE))]

    assert [ranges(each.altered) for each in found] == [[], [(77, 78)], []]


@pytest.mark.parametrize("text", ["YW5vdGhlcg==", "no base64!"])
def test_audit_when_a_certificate_in_base64_was_altered(place, text):
    """Tables that hold base64 text are checked likewise, and text that is none is altered too."""
    rows = place.rows(0, SIZE).to_pylist()
    rows = [row | {"as_der": base64.b64encode(row["as_der"]).decode()} for row in rows]
    rows[77]["as_der"] = text
    other = open_table(place.folder / "old", like=_text_table(place.folder / "like"))
    write_entries(other, pa.Table.from_pylist(rows, schema=pa.schema(other.schema())), metadata=place.record(0, SIZE))
    place.main = other

    assert ranges(place.audit().logs[0].altered) == [(77, 78)]


def _text_table(path):
    table = make_rows([1], as_der="string")
    write_deltalake(path, table, partition_by=["seen_date"])
    return open_table(path)


def test_audit_when_rows_lie_beyond_the_tree(place):
    """Rows that the log has no entries for contradict it."""
    place.write(0, SIZE)
    write_entries(place.main, make_rows([SIZE, SIZE + 7], url=place.log.url))

    report = place.audit()

    assert report.logs[0].verdict == "contradicted"
    assert report.logs[0].beyond == 2
    with pytest.raises(TableError):
        report.check()


@each_protocol
def test_audit_when_a_backend_is_behind(place, protocol, opened):
    """Rows of a tree that a commit names, and that the log's tree of now is the beginning of, contradict nothing."""
    place.write(0, SIZE)

    def show_an_old_head(request):
        place.fake.lag = 50 if request.path in HEADS else 0

    place.fake.on_request = show_an_old_head
    log = opened(place.fake, protocol)
    report = audit([log], place.main)
    write_entries(place.main, make_rows([SIZE], url=log.url))
    contradicted = audit([log], place.main)

    report.check()
    found = report.logs[0]
    assert (found.verdict, found.end, found.rows, found.beyond) == ("complete", SIZE - 50, SIZE - 50, 0)
    assert (contradicted.logs[0].verdict, contradicted.logs[0].beyond) == ("contradicted", 1)


# Logs that do not answer, or whose key is not known


def test_audit_when_a_log_is_down(place, opened):
    """What is not known is said, and makes the audit fail; other logs are looked at all the same."""
    other = FakeLog("Down", 10, protocols=["rfc6962"])
    down = opened(other, "rfc6962")
    rows = pa.Table.from_batches([read_rows(down.get_entries(2, 8), down, source_name="Down")])
    write_entries(place.main, rows)
    place.write(0, SIZE)
    other.down = True

    report = audit([down, place.log], place.main)

    lines = {found["log"]: found for found in (each.line() for each in report.logs)}
    assert lines[place.log.url] == {"log": place.log.url, **line()}
    assert lines[down.url] == {
        "log": down.url,
        **line(verdict="not known", tree_size=None, tree_head="not known", to=8, rows=6, missing=2),
        "proven": 0,
        "not_proven": 6,
        "proven_under": 0,
    }
    with pytest.raises(TableError):
        report.check()
    tables = report.tables()
    assert sorted(tables["logs"]["tree_size"], key=str) == ["", SIZE]
    shown = "".join(table.to_string() for table in tables.values())
    assert not re.search(rf"{SIZE}\.0|NaN|None", shown)


def test_audit_when_a_log_could_not_be_opened(place):
    """A log of which only an error is known is in the report too."""
    place.write(0, SIZE)
    error = LogUnavailableError(OTHER_LOG, "its key cannot be used")

    report = place.audit(unavailable=[error])

    assert {each.source_url: each.verdict for each in report.logs} == {
        place.log.url: "complete",
        OTHER_LOG: "not known",
    }
    with fails(LogUnavailableError, url=OTHER_LOG):
        report.check()


def test_audit_when_proofs_cannot_be_had(place, monkeypatch):
    """Tree heads that could not be compared are said to be open, and the log is not asked for one after the other."""
    asked = []

    def refuse(old, new):
        asked.append(old.tree_size)
        raise LogUnavailableError(place.log.url, "not now")

    monkeypatch.setattr(place.log, "check_consistency", refuse)
    place.write(0, 300, tree_size=300)
    place.write(300, SIZE)

    report = place.audit()

    assert asked == [300]
    assert [head.consistent for head in report.logs[0].heads] == [None, None]
    assert line_of(report) == line()
    with pytest.raises(LogUnavailableError):
        report.check()


def test_audit_when_the_key_is_not_known(place):
    """Everything is compared with the unsigned tree head, and the report says so."""
    place.write(0, SIZE)
    place.log.key = None

    assert place.line() == line(tree_head="unsigned")


def test_audit_when_the_tree_head_is_not_signed_by_the_key(place):
    """A tree head that is not believed is none."""
    place.write(0, SIZE)
    place.log.key = FakeLog("Another", 1).public_key

    report = place.audit()

    assert report.logs[0].line()["tree_head"] == "not known"
    with pytest.raises(CheckpointError):
        report.check()


# Logs that do not grow any more


def final(place, tree_size=SIZE, root=None):
    """Return final tree heads as a log list gives them."""
    root = place.fake.tree.root(tree_size) if root is None else root
    return {place.log.url: Checkpoint.remembered(place.log.url, tree_size, root)}


def test_audit_of_a_log_that_ended(place):
    """The final word, up to the final tree head of the log list; of a part of the log there is none."""
    place.write(0, SIZE - 1)
    assert place.line(final_heads=final(place))["verdict"] == "incomplete"

    place.write(SIZE - 1, SIZE)

    assert place.line(final_heads=final(place)) == line(verdict="complete for good")
    assert place.line(final_heads=final(place), within=place.within(0, 100))["verdict"] == "complete"


def test_audit_of_a_log_that_ended_and_is_down(place):
    """The final tree head of the log list is enough to tell what is complete."""
    place.write(0, SIZE)
    place.fake.down = True

    report = place.audit(final_heads=final(place))

    assert line_of(report) == line(verdict="complete for good", tree_head="listed")
    with pytest.raises(LogUnavailableError):
        report.check()


def test_audit_of_a_log_that_ended_and_grew(place):
    """A log that has more entries than its final tree head contradicts it, and so does one with another root."""
    place.write(0, SIZE)

    with pytest.raises(CheckpointError):
        place.audit(final_heads=final(place, 500)).check()
    with pytest.raises(CheckpointError):
        place.audit(final_heads=final(place, root=bytes(32))).check()


def test_audit_of_a_log_that_ended_and_is_behind(place, opened):
    """Up to the final tree head, even where a backend does not show all of it; what it lacks cannot be rechecked."""
    place.write(0, SIZE, recorded=False)
    log = opened(place.fake, "static-ct")
    place.fake.lag = 50
    report = audit([log], place.main, final_heads=final(place), recheck="unproven")

    found = report.logs[0]
    assert (found.verdict, found.end, ranges(found.unproven)) == ("complete for good", SIZE, [(550, SIZE)])
    with pytest.raises(LogUnavailableError):
        report.check()
    assert [(problem.start, problem.end) for problem in report.logs[0].problems] == [(550, SIZE)]


# Rechecks


@each_protocol
def test_recheck_of_rows_that_are_not_proven(place, protocol):
    """Rows of the live server are compared with the log's entries, proven again, and asked for page by page."""
    place.write(0, 256)
    write_deltalake(place.main, place.rows(300, SIZE), mode="append")
    place.fake.requests.clear()

    assert place.line(recheck="unproven") == line(verdict="incomplete", rows=556, proven=556, missing=44)
    asked = [path for path, _, _ in place.fake.requests if "get-entries" in path or "data" in path]
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("as_der", b"another"),
        ("sha256", "00"),
        ("update_type", "other"),
        ("serial_number", "00"),
        ("not_before", 1),
        ("is_ca", True),
        ("all_domains", ["another.example"]),
        ("chain", []),
        ("cert_link", "https://another.example"),
    ],
)
def test_recheck_names_what_differs(place, column, value):
    """A row that is another than the log's entry is named with the column, whatever its commit says."""
    write_entries(place.main, alter(place.rows(0, SIZE), 300, **{column: value}), metadata=place.record(0, SIZE))

    report = place.audit(recheck="all")

    found = report.logs[0]
    assert (ranges(found.differing), found.columns) == ([(300, 301)], {300: column})
    assert (ranges(found.unproven), found.verdict) == ([(300, 301)], "contradicted")
    with pytest.raises(TableError):
        report.check()


@pytest.mark.parametrize("column", ["seen", "source_name"])
def test_recheck_names_what_is_null(place, column):
    """What a row may have any value of, it must have a value of."""
    rows = alter(place.rows(0, SIZE), 300, **{column: None})
    nullable = pa.schema([field.with_nullable(True) for field in rows.schema])
    write_deltalake(place.folder / "nullable", rows.cast(nullable), partition_by=["seen_date"])
    place.main = open_table(place.folder / "nullable")

    found = place.audit(recheck="all").logs[0]

    assert (ranges(found.differing), found.columns) == ([(300, 301)], {300: column})


def test_recheck_allows_what_is_free(place):
    """When a row was seen, what the log is called, and by which protocol it was read, is up to who wrote it."""
    rows = place.rows(0, SIZE)
    seen = rows["seen"][5].as_py() + timedelta(days=3)
    link = f"{place.log.url}/ct/v1/get-entries?start=5&end=5"
    free = {"seen": seen, "seen_date": seen.date().isoformat(), "source_name": "other", "cert_link": link}
    write_entries(place.main, alter(rows, 5, **free))

    assert place.line(recheck="unproven") == line()


def test_recheck_when_an_issuer_is_gone(place, opened):
    """A row whose chain has an issuer that the log no longer has does not differ."""
    place.write(0, SIZE, recorded=False)
    place.fake.issuer_status = dict.fromkeys(place.fake.issuers, 404)

    assert line_of(audit([opened(place.fake, "static-ct")], place.main, recheck="unproven")) == line()


def test_recheck_of_a_few_rows_asks_for_their_pages(place):
    """Of a tile with one row to be compared the whole tile serves to prove it, in one request for data."""
    place.write(0, 100)
    place.write(100, 101, recorded=False)
    place.write(101, SIZE)
    place.fake.requests.clear()

    assert place.line(recheck="unproven") == line()
    assert place.fake.paths("tile/data/") == ["tile/data/000"]
    assert "tile/0/000" not in place.fake.paths()


def test_recheck_when_the_log_gives_other_entries(place):
    """Entries that are not in the log's own tree prove nothing: the log is at fault, not the rows."""
    place.write(0, SIZE, recorded=False)
    one = place.fake.entries[40]
    place.fake.entries[40] = type(one)(
        one.entry_type, one.timestamp, one.certificate, one.chain, bytes(8) + one.timestamped_entry[8:]
    )

    report = place.audit(recheck="unproven")

    assert (ranges(report.logs[0].unproven), report.logs[0].differing.size) == ([(40, 41)], 0)
    with pytest.raises(LogProtocolError):
        report.check()
    assert [(problem.start, problem.end) for problem in report.logs[0].problems] == [(40, 41)]


def test_recheck_when_the_log_gives_another_pre_certificate(place):
    """A recheck also compares `extra_data`, which no log signs, with the leaves."""
    place.write(0, SIZE, recorded=False)
    index, one = next((at, entry) for at, entry in enumerate(place.fake.entries) if entry.entry_type == 1)
    place.fake.entries[index] = replace(one, certificate=one.certificate + b"\0")

    report = place.audit(recheck="unproven")

    assert (ranges(report.logs[0].unproven), report.logs[0].differing.size) == ([(index, index + 1)], 0)
    with pytest.raises(LogProtocolError, match=FAULTS[3]):
        report.check()


def test_recheck_when_entries_cannot_be_had(place):
    """What could not be compared is named, and the audit fails; the rest is proven."""
    place.write(0, SIZE, recorded=False)
    place.fake.missing_tiles = {1}

    report = place.audit(recheck="unproven")

    assert (report.logs[0].proven.size, ranges(report.logs[0].unproven)) == (SIZE - 256, [(256, 512)])
    with pytest.raises(LogUnavailableError):
        report.check()
    assert [(problem.start, problem.end) for problem in report.logs[0].problems] == [(256, 512)]


def test_recheck_of_all_rows_relies_on_no_record(place):
    """A row that the log does not answer for is not proven, whatever its commit says."""
    place.write(0, SIZE)
    place.fake.missing_tiles = {1}

    found = place.audit(recheck="all").logs[0]

    assert (found.proven.size, ranges(found.unproven)) == (SIZE - 256, [(256, 512)])


def test_recheck_when_nothing_is_to_be_compared(place):
    """Where everything is proven, the log is not asked for entries."""
    place.write(0, SIZE)
    place.fake.requests.clear()

    assert place.line(recheck="unproven") == line()
    assert place.fake.paths("tile/data/") == []


def test_audit_of_no_logs(place):
    """Nothing asked, nothing found."""
    assert audit([], place.main).facts()["logs"] == 0
