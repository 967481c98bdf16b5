"""Upkeep: few files in place of many, the same rows, and what was proven of them; nothing goes that anybody needs."""

import json
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from raising import fails, interrupted
from rows import (
    LOG,
    OTHER_LOG,
    add_file,
    as_type,
    commits_of,
    indices_of,
    keys_of,
    make_rows,
    make_table,
    rows_of,
)

from ctkit.errors import SchemaMismatchError, TableError
from ctkit.lake import exchange
from ctkit.lake import tidy as tidy_module
from ctkit.lake.digests import new_name
from ctkit.lake.evidence import read_evidence
from ctkit.lake.gaps import find_gaps
from ctkit.lake.merge import merge_staging
from ctkit.lake.provenance import Provenance, metadata_of, read_statements
from ctkit.lake.repair import repair
from ctkit.lake.table import files_of, hold, open_table
from ctkit.lake.tidy import FILES, tidy
from ctkit.lake.undo import undo_merge
from ctkit.lake.write import write_entries

WEEK = 7 * 86_400


def record(start, end, *, url=LOG, verified="entries"):
    """Return what is said of rows of which something was verified."""
    return Provenance(url, start, end, end - start, 1000, bytes(32), verified, signed=True)


def proven_of(table, url=LOG):
    """Return the indices of the rows that an audit would call proven, if the log says nothing against it."""
    rows, damaged = read_evidence(table, [url], read_statements(table))
    assert not damaged
    return [index for each in rows[url].proven for index in range(each.start, each.end)]


def in_small_commits(path, count, *, size=3, **options):
    """Return a table with that many commits of a few rows each, of two logs in turn, and each but the last proven."""
    table = open_table(path)
    for at in range(count):
        url = (LOG, OTHER_LOG)[at % 2]
        start = at * size
        said = [record(start, start + size, url=url)] if at < count - 1 else []
        write_entries(table, make_rows(range(start, start + size), url=url, **options), metadata=metadata_of(said))
    return table


def test_tidy_makes_one_file_of_many(tmp_path):
    """Those of a date are one then, by log and index; no row changes, and no reader takes them for new ones."""
    main = in_small_commits(tmp_path / "main", 16)
    for start in range(100, 127, 3):
        rows = [make_rows(reversed(range(start, start + 3)), url=url, day=2) for url in (OTHER_LOG, LOG)]
        write_deltalake(main, pa.concat_tables(rows), mode="append")
    rows, before = rows_of(open_table(tmp_path / "main")), main.version()

    report = tidy(main)

    assert rows_of(main) == rows
    assert (report.files_before, report.files, len(files_of(main))) == (25, 3, 3)
    assert [(each.date, each.files, each.rows) for each in report.compacted] == [
        ("2026-03-01", 15, 45),
        ("2026-03-02", 9, 54),
    ]
    assert (report.version_before, report.version, main.version()) == (before, before + 2, before + 2)
    for file in files_of(main):
        keys = pq.read_table(file, columns=["source_url", "cert_index"], partitioning=None).to_pylist()
        assert keys == sorted(keys, key=lambda key: (key["source_url"], key["cert_index"]))
    for version in (before + 1, before + 2):
        path = tmp_path / "main/_delta_log" / f"{version:020}.json"
        actions = [action for action in map(json.loads, path.read_text().splitlines()) if "commitInfo" not in action]
        assert not any(each["dataChange"] for action in actions for each in action.values())
    assert not (tmp_path / "main" / "_ctkit_merge").exists()
    assert rows_of(DeltaTable(tmp_path / "main", version=before)) == rows
    report.check()


def test_tidy_leaves_few_files_alone(tmp_path):
    """One file less than is worth while, and nothing is committed."""
    main = in_small_commits(tmp_path / "main", FILES - 1)

    report = tidy(main)

    assert (report.compacted, report.removed, report.version_before) == ((), (), report.version)
    assert len(commits_of(tmp_path / "main")) == FILES


def test_tidy_dry_run(tmp_path):
    """A dry run says the same and changes nothing, also where another run holds the table."""
    main = in_small_commits(tmp_path / "main", 16)
    before = sorted(tmp_path.rglob("*"))

    with hold(main):
        report = tidy(main, dry_run=True)

    assert sorted(tmp_path.rglob("*")) == before
    assert report.compacted == tidy(main).compacted


def test_tidy_after_every_commit_rewrites_little(tmp_path):
    """However often it runs, a row is rewritten a few times, and files stay few."""
    main, rewritten, most = open_table(tmp_path / "main"), 0, 0
    for at in range(80):
        write_entries(main, make_rows(range(at * 40, at * 40 + 40)))
        report = tidy(main)
        rewritten += sum(each.rows for each in report.compacted)
        most = max(most, report.files)

    assert indices_of(main) == [*range(80 * 40)]
    assert rewritten <= 3 * 80 * 40
    assert most <= 3 * FILES


def test_tidy_keeps_what_is_proven(tmp_path):
    """What an audit calls proven is so afterwards, row by row, also where a key has two rows, of which one is not."""
    main = in_small_commits(tmp_path / "main", 20)
    said = [record(100, 103), record(101, 102, verified="heads"), record(5, 6, url=OTHER_LOG)]
    mixed = pa.concat_tables([make_rows(range(100, 103)), make_rows([5], url=OTHER_LOG)])
    write_entries(main, mixed, metadata=metadata_of(said))
    for at in range(12):
        # Also what is proven elsewhere, and is not here.
        write_entries(main, make_rows([at * 2, 100 + at, 200 + at]))
    # In one file with proven rows, a row that is not, under a key that is proven in another.
    write_entries(main, make_rows([0, 150]), metadata=metadata_of([record(0, 1, verified="heads"), record(150, 151)]))
    before, keys = {url: proven_of(main, url) for url in (LOG, OTHER_LOG)}, keys_of(main)
    assert 0 in before[LOG]
    assert 101 not in before[LOG]

    report = tidy(main)

    assert len(report.compacted) == 2
    assert report.files == 3
    assert {url: proven_of(main, url) for url in (LOG, OTHER_LOG)} == before
    assert keys_of(main) == keys
    repair(main)
    assert {url: proven_of(main, url) for url in (LOG, OTHER_LOG)} == before


def test_tidy_says_much_in_few_records(tmp_path):
    """Rows that are proven are few records in a commit, however many holes are between them."""
    main = open_table(tmp_path / "main")
    for at in range(10):
        write_entries(main, make_rows(range(at, 500, 20)), metadata=metadata_of([record(at, 500)]))
        write_entries(main, make_rows(range(at + 10, 500, 20)))

    tidy(main)

    assert [len(each.records) for each in read_statements(main)[-2:]] == [0, 1]
    assert proven_of(main) == [index for index in range(500) if index % 20 < 10]


def test_tidy_leaves_damaged_files_alone(tmp_path):
    """A file that is not what was written is named, and neither rewritten nor taken out; nor is one that is gone."""
    main = make_table(tmp_path / "main", *(make_rows([at]) for at in range(12)))
    damaged, gone, *_ = sorted(files_of(main))
    content = bytearray(Path(damaged).read_bytes())
    content[100] ^= 1
    Path(damaged).write_bytes(content)
    os.remove(gone)

    report = tidy(main)

    folder = str(tmp_path / "main/")
    assert {f"{folder}/{name}" for name in report.damaged} == {damaged, gone}
    assert {damaged, gone} <= set(files_of(main))
    assert sum(each.files for each in report.compacted) == 10
    with fails(TableError, uri=tmp_path / "main"):
        report.check()


@pytest.mark.parametrize("as_der", ["binary", "string"])
def test_tidy_of_files_of_other_writers(tmp_path, as_der):
    """Files of the live server, and some that are not quite ours, become files like ours; their rows stay."""
    path = tmp_path / "main"
    for at in range(10):
        rows = make_rows([at, at + 1], as_der=as_der)
        write_deltalake(path, rows, mode="append", partition_by=["seen_date"])
    for at in range(3):
        rows = as_type(make_rows([50 + at], as_der=as_der), cert_index=pa.int32())
        main = add_file(path, rows, name=f"part-{at}.parquet")
    before = rows_of(main)

    assert tidy(main).files == 1

    assert rows_of(main) == before
    assert pq.read_table(files_of(main)[0], partitioning=None).num_rows == 23


def test_tables_that_were_tidied_are_like_others(tmp_path, monkeypatch):
    """Gaps are the same, a merge finds its rows, an undo refuses, and a restore brings the old files back."""
    monkeypatch.setenv("CTKIT_CACHE", str(tmp_path / "cache"))
    main = in_small_commits(tmp_path / "main", 12)
    staging = make_table(tmp_path / "staging", make_rows([1, 40]))
    within = {LOG: (0, 100), OTHER_LOG: (0, 100)}
    gaps, files = find_gaps(main, within=within), set(files_of(main))

    report = tidy(main)

    assert find_gaps(main, within=within).equals(gaps)
    assert (merge := merge_staging(staging, main)).skipped == 1
    assert merge.inserted == 1
    for at in range(9):
        write_entries(main, make_rows([50 + at]))
    tidy(main)
    with fails(TableError, uri=tmp_path / "main"):
        undo_merge(main)
    main.restore(report.version_before)
    assert set(files_of(main)) == files
    assert proven_of(main)


def interfering(monkeypatch, act):
    """Let somebody act just before a commit."""
    commit, left = exchange.commit_files, [act]

    def commit_after_somebody(*arguments, **options):
        if left:
            left.pop()()
        return commit(*arguments, **options)

    monkeypatch.setattr(exchange, "commit_files", commit_after_somebody)


def test_tidy_beside_the_live_server(tmp_path, monkeypatch):
    """What others add meanwhile stays as it is."""
    main = in_small_commits(tmp_path / "main", 16)
    keys = keys_of(main)
    interfering(monkeypatch, lambda: write_deltalake(tmp_path / "main", make_rows([99]), mode="append"))

    report = tidy(main)

    assert keys_of(main) == sorted([*keys, (LOG, 99)])
    assert (len(report.compacted), report.version, main.version()) == (1, 18, 18)


def test_tidy_beside_another_compaction(tmp_path, monkeypatch):
    """Where others replace the files meanwhile, theirs stay."""
    main = in_small_commits(tmp_path / "main", 16)
    keys = keys_of(main)
    interfering(monkeypatch, lambda: DeltaTable(tmp_path / "main").optimize.compact())

    report = tidy(main)

    assert keys_of(main) == keys
    assert (report.compacted, main.version()) == ((), 17)
    assert {str(path) for path in (tmp_path / "main/_ctkit_merge").rglob("*")} == set()


def test_tidy_when_the_table_is_held(tmp_path):
    """Two runs do not tidy one table at a time."""
    main = in_small_commits(tmp_path / "main", 8)

    with hold(main), fails(TableError, uri=tmp_path / "main"):
        tidy(main)


def test_tidy_of_a_table_that_nothing_may_be_taken_out_of(tmp_path):
    """It is refused before anything is done."""
    main = in_small_commits(tmp_path / "main", 8)
    main.alter.set_table_properties({"delta.appendOnly": "true"})

    with fails(SchemaMismatchError, uri=tmp_path / "main"):
        tidy(main)


@pytest.mark.parametrize("step", ["link_files", "commit_files", "confirm_files", "clear_scratch"])
@pytest.mark.parametrize("after", [False, True])
def test_tidy_when_it_is_interrupted(tmp_path, monkeypatch, step, after):
    """Before or after whichever step: the table is whole, and the next call goes on."""
    main = in_small_commits(tmp_path / "main", 16)
    keys, proven = keys_of(main), proven_of(main)

    with interrupted(monkeypatch, exchange, step, after=after):
        tidy(main)

    main = open_table(tmp_path / "main")
    assert (keys_of(main), proven_of(main)) == (keys, proven)
    tidy(main)
    assert (keys_of(main), proven_of(main), len(files_of(main))) == (keys, proven, 2)
    assert not (tmp_path / "main" / "_ctkit_merge").exists()


def test_tidy_when_rows_are_lost(tmp_path, monkeypatch):
    """If fewer rows were written than were read, nothing changes."""
    main = in_small_commits(tmp_path / "main", 16)
    files, sort = set(files_of(main)), tidy_module.sort_files
    monkeypatch.setattr(tidy_module, "sort_files", lambda files, *others: sort(dict(list(files.items())[1:]), *others))

    with fails(TableError, uri=tmp_path / "main"):
        tidy(main)

    assert set(files_of(open_table(tmp_path / "main"))) == files


def age(path, seconds):
    """Make a file look as old."""
    os.utime(path, (time.time() - seconds,) * 2)


def age_tombstones(folder, seconds):
    """Let all that was taken out of a table have been taken out so long ago."""
    for commit in (folder / "_delta_log").glob("*.json"):
        actions = list(map(json.loads, commit.read_text().splitlines()))
        for action in actions:
            if "remove" in action:
                action["remove"]["deletionTimestamp"] -= seconds * 1000
        commit.write_text("".join(json.dumps(action) + "\n" for action in actions))


def test_tidy_removes_what_no_version_needs(tmp_path):
    """Files that were taken out long ago go, younger ones stay; then there is nothing to do."""
    main = in_small_commits(tmp_path / "main", 12)
    old = set(files_of(main))
    tidy(main)
    old -= set(files_of(main))
    assert all(map(os.path.exists, old))
    age_tombstones(tmp_path / "main", WEEK + 60)
    main = open_table(tmp_path / "main")

    preview = tidy(main, dry_run=True)
    assert all(map(os.path.exists, old))
    report = tidy(main)

    assert {f"{tmp_path}/main/{name}" for name in report.removed} == old
    assert report.removed == preview.removed
    assert not any(map(os.path.exists, old))
    assert tidy(main).version_before == report.version == tidy(main).version
    assert len(keys_of(main)) == 36


def test_tidy_removes_orphans_and_nothing_of_yours(tmp_path):
    """Only files that a writer wrote, that no commit ever named, and that are old enough."""
    main = make_table(tmp_path / "main", make_rows([1]), make_rows([2], day=2))
    day = tmp_path / "main/seen_date=2026-03-01"
    orphan, server_orphan = day / new_name("0f" * 32), day / f"part-00001-{'a' * 36}-c000.snappy.parquet"
    young, yours, other = day / new_name(None), day / "part-of-mine.parquet", tmp_path / "main/notes.parquet"
    (taken_out,) = [Path(file) for file in files_of(main) if Path(file).parent == day]
    main.delete("cert_index = 1")
    for path in (orphan, server_orphan, young, yours, other):
        path.write_bytes(b"x")
    for path in (orphan, server_orphan, yours, other, taken_out, *map(Path, files_of(main))):
        age(path, WEEK + 60)

    report = tidy(main)

    assert {tmp_path / "main" / name for name in report.removed} == {orphan, server_orphan}
    assert not orphan.exists()
    assert not server_orphan.exists()
    assert all(path.exists() for path in (young, yours, other, taken_out))
    assert indices_of(main) == [2]


def test_tidy_removes_what_a_checkpoint_has_forgotten(tmp_path, monkeypatch):
    """A VACUUM knows only of removals that a checkpoint still has; the commits know of the others."""
    main = in_small_commits(tmp_path / "main", 2 * FILES)
    old = {*files_of(main)}
    main.alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 1 hour"})
    tidy(main)
    old -= {*files_of(main)}
    main.alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 0 hours"})
    main.create_checkpoint()
    for path in old:
        age(Path(path), WEEK + 60)
    main = open_table(tmp_path / "main")
    assert main.vacuum() == []

    assert tidy(main).removed == ()
    monkeypatch.setattr("ctkit.lake.history.WEEK", 0)
    preview = tidy(main, dry_run=True)
    assert tidy(main).removed == preview.removed
    assert {f"{tmp_path}/main/{name}" for name in preview.removed} == old
    assert len(keys_of(main)) == 6 * FILES


def test_tidy_keeps_files_as_long_as_the_table_says(tmp_path):
    """The table's own retention counts where it is longer."""
    main = make_table(tmp_path / "main", make_rows([1]))
    main.alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 30 days"})
    orphan = tmp_path / "main/seen_date=2026-03-01" / new_name(None)
    orphan.write_bytes(b"x")
    age(orphan, 29 * 86_400)

    assert tidy(main).removed == ()
    age(orphan, 31 * 86_400)
    assert len(tidy(main).removed) == 1
