"""Merge: staging into main, once each, in one commit, and staging is gone."""

import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raising import fails
from rows import (
    LOG,
    OTHER_LOG,
    add_file,
    as_type,
    before_commit,
    commits_of,
    indices_of,
    keys_of,
    make_rows,
    make_table,
    rows_of,
)

from ctkit.errors import KeyConflictError, ParameterError, StalePreviewError, TableError
from ctkit.lake import drop, links, merge, overlap, rewrite
from ctkit.lake import files as files_module
from ctkit.lake.files import data_files
from ctkit.lake.merge import merge_staging, preview_merge
from ctkit.lake.scratch import SCRATCH
from ctkit.lake.table import files_of, find_table, open_table
from ctkit.lake.write import write_entries
from ctkit.schema import AsDer, row_schema


def parquet_files(path: Path) -> set[str]:
    """Return the Parquet files below a folder, whether a table knows them or not."""
    return {str(file) for file in path.rglob("*.parquet")}


def test_merge_when_nothing_overlaps(tmp_path):
    """The staged files themselves become main's, by hard links, in one commit, and staging's folder is gone."""
    main = make_table(tmp_path / "main", make_rows(range(10)))
    staging = make_table(tmp_path / "staging", make_rows(range(10, 14)), make_rows(range(14, 16), day=2))
    inodes = {os.stat(file).st_ino for file in files_of(staging)}
    preview = preview_merge(staging, main)

    report = merge_staging(staging, main)

    assert preview.adopted == 6
    assert (report.inserted, report.skipped, report.staging_rows) == (6, 0, 6)
    assert (report.version_before, report.version, main.version()) == (1, 2, 2)
    assert report.staging_removed
    assert not (tmp_path / "staging").exists()
    assert inodes < {os.stat(file).st_ino for file in files_of(main)}
    assert rows_of(open_table(tmp_path / "main")) == sorted(
        pa.concat_tables([make_rows(range(14)), make_rows(range(14, 16), day=2)]).to_pylist(),
        key=lambda row: row["cert_index"],
    )
    assert parquet_files(tmp_path / "main") == set(files_of(main))


def test_merge_when_keys_overlap_and_repeat(tmp_path):
    """Keys that main has are skipped, repetitions in staging are merged once, and the sums add up."""
    main = make_table(tmp_path / "main", make_rows([10, 11, 12]), make_rows([11], url=OTHER_LOG))
    staging = make_table(
        tmp_path / "staging", make_rows([11, 12, 13, 13]), make_rows([13, 14, 14], day=2), make_rows([20])
    )

    preview = preview_merge(staging, main)
    report = merge_staging(staging, main, expected=preview)

    assert (preview.inserted, preview.skipped, preview.staging_rows, preview.conflicts) == (3, 5, 8, 0)
    assert (preview.adopted, len(preview.conflicting)) == (1, 0)
    assert (report.inserted, report.skipped, report.staging_rows, report.conflicts) == (3, 5, 8, 0)
    assert keys_of(main) == sorted([*((LOG, index) for index in (10, 11, 12, 13, 14, 20)), (OTHER_LOG, 11)])
    assert len(commits_of(tmp_path / "main")) == 4
    assert parquet_files(tmp_path / "main") == set(files_of(main))
    assert not (tmp_path / "main" / SCRATCH).exists()


def test_merge_when_it_was_done_before(tmp_path):
    """Merging the same rows again commits nothing and removes the second staging too."""
    main = make_table(tmp_path / "main", make_rows([1]))
    for attempt in range(2):
        staging = make_table(tmp_path / "staging", make_rows([2, 3]))
        report = merge_staging(staging, main)
        assert (report.inserted, report.skipped) == ((2, 0), (0, 2))[attempt]
        assert not (tmp_path / "staging").exists()

    assert indices_of(main) == [1, 2, 3]
    assert (report.version_before, report.version, main.version()) == (2, 2, 2)


def test_merge_when_a_key_has_another_certificate(tmp_path):
    """Main's row stays, the contradiction is counted, and the preview's check names it."""
    theirs = make_rows([1, 2])
    ours = theirs.set_column(9, theirs.schema.field("sha256"), pa.array(["00", theirs["sha256"][1].as_py()]))
    main = make_table(tmp_path / "main", ours)
    staging = make_table(tmp_path / "staging", make_rows([1, 2, 3]))

    preview = preview_merge(staging, main)
    with fails(KeyConflictError, uri=tmp_path / "staging"):
        preview.check()
    report = merge_staging(staging, main)

    assert (report.inserted, report.skipped, report.conflicts) == (1, 2, 1)
    assert next(row["sha256"] for row in rows_of(main)) == "00"


@pytest.mark.parametrize(("theirs", "ours"), [("string", "binary"), ("binary", "string")])
def test_merge_when_as_der_differs(tmp_path, theirs, ours):
    """DER follows main's type, whatever staging's is: bytes never end up as base64 text, nor text as bytes."""
    DeltaTable.create(tmp_path / "main", row_schema(ours), partition_by=["seen_date"])
    DeltaTable.create(tmp_path / "staging", row_schema(theirs), partition_by=["seen_date"])
    main, staging = open_table(tmp_path / "main"), open_table(tmp_path / "staging")
    write_entries(main, make_rows([1], as_der=ours))
    write_entries(staging, make_rows([1, 2, 3], as_der=theirs))

    report = merge_staging(staging, main)

    assert (report.inserted, report.skipped) == (2, 1)
    assert rows_of(main) == make_rows([1, 2, 3], as_der=ours).to_pylist()


@pytest.mark.parametrize("overlap", [False, True])
def test_merge_when_staging_was_written_from_views(tmp_path, overlap):
    """Files that deltalake wrote from its own reader's views are staged files like any other."""
    main = make_table(tmp_path / "main", make_rows([1]))
    source = make_table(tmp_path / "source", make_rows([1, 2, 3] if overlap else [2, 3]))
    open_table(tmp_path / "staging")
    write_deltalake(tmp_path / "staging", pa.table(source.scan()), mode="append")

    report = merge_staging(open_table(tmp_path / "staging"), main, confirmed=True)

    assert report.inserted == 2
    assert rows_of(main) == make_rows([1, 2, 3]).to_pylist()


def test_merge_when_main_is_new(tmp_path):
    """AC4.2: everything goes into a main that was just created, folder and all."""
    staging = make_table(tmp_path / "staging", make_rows(range(5)))

    assert preview_merge(staging, None).inserted == 5
    main = open_table(tmp_path / "new" / "main", like=staging)
    report = merge_staging(staging, main)

    assert report.inserted == 5
    assert indices_of(main) == [0, 1, 2, 3, 4]


def test_merge_when_main_moves_meanwhile(tmp_path, monkeypatch):
    """Rows that somebody commits between plan and commit are seen: the commit is tried again without them."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2, 3, 4, 5]), make_rows([6], day=2))
    live = [make_rows([3, 100]), make_rows([4, 6]), make_rows([101])]

    def interfere():
        if live:
            write_deltalake(tmp_path / "main", live.pop(0), mode="append")

    before_commit(monkeypatch, interfere)
    report = merge_staging(staging, main)

    assert (report.inserted, report.skipped) == (2, 3)
    assert indices_of(main) == [1, 2, 3, 4, 5, 6, 100, 101]
    assert (report.version_before, report.version) == (4, 5)
    assert parquet_files(tmp_path / "main") == set(files_of(main))


def test_merge_when_main_moves_reads_what_is_new(tmp_path, monkeypatch):
    """After a commit of somebody else only its files are looked at, however many there are already."""
    main = make_table(tmp_path / "main", *(make_rows([at, at + 10]) for at in range(5)))
    staging = make_table(tmp_path / "staging", make_rows([5, 6]))
    read_keys = overlap.read_keys
    live = [make_rows([6]), make_rows([100])]
    read = []

    def interfere():
        read.append("commit")
        if live:
            write_deltalake(tmp_path / "main", live.pop(0), mode="append")

    before_commit(monkeypatch, interfere)
    monkeypatch.setattr(overlap, "read_keys", lambda path: read.append(Path(path).parts[-3]) or read_keys(path))
    report = merge_staging(staging, main)

    assert (report.inserted, report.skipped) == (1, 1)
    assert read == ["staging", *["main"] * 5, "commit", "main", "commit", "main", "commit"]


def test_preview_when_a_staged_file_is_not_what_its_log_says(tmp_path):
    """A preview shows all it can: only the merge needs to know the file."""
    open_table(tmp_path / "staging")
    rows = as_type(make_rows(range(10, 14)))
    staging = add_file(tmp_path / "staging", rows, statistics={"numRecords": 3})

    preview = preview_merge(staging, make_table(tmp_path / "main", make_rows(range(10))))

    assert (preview.inserted, preview.adopted) == (4, 0)


def test_merge_when_staging_contradicts_itself(tmp_path):
    """Two certificates under one staged key are counted; the first goes into main."""
    main = make_table(tmp_path / "main", make_rows([1]))
    rows = pa.concat_tables([make_row(LOG, 2, 1, other, "binary") for other in (False, True, False)])
    staging = make_table(tmp_path / "staging", rows)

    preview = preview_merge(staging, main)
    report = merge_staging(staging, main)

    with fails(KeyConflictError, uri=tmp_path / "staging"):
        preview.check()
    assert (preview.inserted, preview.skipped, preview.conflicts) == (1, 2, 1)
    assert preview.conflicting[["source_url", "cert_index"]].to_dict("records") == [
        {"source_url": LOG, "cert_index": 2}
    ]
    assert (report.inserted, report.skipped, report.conflicts) == (1, 2, 1)
    assert rows_of(main) == make_rows([1, 2]).to_pylist()


def test_merge_when_main_loses_rows_meanwhile(tmp_path, monkeypatch):
    """A key that main had, and has no more, is not left out: the merge says so, and the next one inserts it."""
    main = make_table(tmp_path / "main", make_rows([1]), make_rows([2], day=2))
    staging = make_table(tmp_path / "staging", make_rows([1, 3]))

    def interfere():
        DeltaTable(tmp_path / "main").delete("cert_index = 1")

    before_commit(monkeypatch, interfere)
    with fails(TableError, uri=tmp_path / "main"):
        merge_staging(staging, main)
    monkeypatch.undo()

    assert indices_of(open_table(tmp_path / "main")) == [2]
    assert merge_staging(open_table(tmp_path / "staging"), open_table(tmp_path / "main")).inserted == 2
    assert indices_of(open_table(tmp_path / "main")) == [1, 2, 3]


def test_merge_when_the_commits_of_others_are_gone(tmp_path, monkeypatch):
    """Without the commits that came between, nothing is guessed."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2]))

    def commit_late(files, target, *_):
        write_deltalake(tmp_path / "main", make_rows([2]), mode="append")
        target.update_incremental()
        target.create_checkpoint()
        (tmp_path / "main/_delta_log" / f"{2:020}.json").unlink()
        return False

    monkeypatch.setattr(merge, "commit_files", commit_late)
    with fails(TableError, uri=tmp_path / "main"):
        merge_staging(staging, main)

    assert indices_of(open_table(tmp_path / "staging")) == [2]


def test_merge_when_staging_grows_meanwhile(tmp_path, monkeypatch):
    """Rows added to staging after it was looked at stay there, are said, and the next merge takes them."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2]))

    def interfere():
        write_deltalake(tmp_path / "staging", make_rows([3]), mode="append")

    before_commit(monkeypatch, interfere)
    report = merge_staging(staging, main)
    monkeypatch.undo()

    assert not report.staging_removed
    assert indices_of(main) == [1, 2]
    assert indices_of(open_table(tmp_path / "staging")) == [3]
    assert merge_staging(open_table(tmp_path / "staging"), main, confirmed=True).staging_removed
    assert indices_of(main) == [1, 2, 3]
    assert not (tmp_path / "staging").exists()


@pytest.mark.parametrize("moved", ["main", "staging"])
def test_merge_when_the_preview_is_stale(tmp_path, moved):
    """A merge of a preview that no longer holds is refused, and nothing is written."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2]))
    preview = preview_merge(staging, main)
    write_deltalake(tmp_path / moved, make_rows([50]), mode="append")
    before = {name: commits_of(tmp_path / name) for name in ("main", "staging")}

    with fails(StalePreviewError, uri=tmp_path / moved):
        merge_staging(staging, main, expected=preview, confirmed=True)

    assert {name: commits_of(tmp_path / name) for name in ("main", "staging")} == before


@pytest.mark.parametrize("replaced", ["main", "staging"])
def test_merge_when_a_table_was_replaced_since_the_preview(tmp_path, replaced):
    """Another table at the same version, in the same folder, is not the one that was previewed."""
    tables = {"main": make_table(tmp_path / "main", make_rows([1]))}
    tables["staging"] = make_table(tmp_path / "staging", make_rows([2]))
    preview = preview_merge(tables["staging"], tables["main"])
    version = tables[replaced].version()
    shutil.rmtree(tmp_path / replaced)
    tables[replaced] = make_table(tmp_path / replaced, make_rows([9]))
    assert tables[replaced].version() == version

    with fails(StalePreviewError, uri=tmp_path / replaced):
        merge_staging(tables["staging"], tables["main"], expected=preview, confirmed=True)


def test_merge_when_the_preview_becomes_stale(tmp_path, monkeypatch):
    """What somebody commits while the merge is prepared was not shown either: nothing of staging gets in."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2]))
    preview = preview_merge(staging, main)

    def interfere():
        monkeypatch.undo()
        write_deltalake(tmp_path / "main", make_rows([50]), mode="append")

    before_commit(monkeypatch, interfere)
    with pytest.raises(StalePreviewError):
        merge_staging(staging, main, expected=preview)

    assert indices_of(open_table(tmp_path / "main")) == [1, 50]
    assert indices_of(open_table(tmp_path / "staging")) == [2]


def test_preview_shows_times_in_utc(tmp_path, monkeypatch):
    """Whatever the machine's time zone, times are those of the table, and say so."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "America/Los_Angeles")
        time.tzset()
        preview = preview_merge(make_table(tmp_path / "staging", make_rows([1])), None)
    time.tzset()

    assert str(preview.sample["seen"].dtype.tz) == "UTC"
    assert "2026-03-01 12:00:00+00:00" in preview._repr_html_()


def test_preview_changes_nothing(tmp_path):
    """A preview tells rows by log and date, and shows some of what would be inserted, without a new file anywhere."""
    main = make_table(tmp_path / "main", make_rows([1, 2]))
    staging = make_table(tmp_path / "staging", make_rows([2, 3]), make_rows([7], url=OTHER_LOG, name="Other", day=2))
    before = sorted(str(path) for path in tmp_path.rglob("*"))

    preview = preview_merge(staging, main)

    assert preview.summary.to_dict("records") == [
        {
            "source_url": LOG,
            "source_name": "Example 2026h2",
            "seen_date": "2026-03-01",
            "first_index": 2,
            "last_index": 3,
            "rows": 2,
            "inserted": 1,
            "skipped": 1,
        },
        {
            "source_url": OTHER_LOG,
            "source_name": "Other",
            "seen_date": "2026-03-02",
            "first_index": 7,
            "last_index": 7,
            "rows": 1,
            "inserted": 1,
            "skipped": 0,
        },
    ]
    assert preview.sample["cert_index"].to_list() == [3, 7]
    assert "as_der" not in preview.sample.columns
    assert "would insert" in preview._repr_html_()
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_merge_when_staging_is_empty(tmp_path):
    """An empty staging table is previewed and merged as what it is, and stays."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = open_table(tmp_path / "staging")

    assert preview_merge(staging, main).staging_rows == 0
    report = merge_staging(staging, main)

    assert (report.inserted, report.skipped, report.version) == (0, 0, 1)
    assert (report.staging_removed, report.note) == (False, "")
    assert find_table(tmp_path / "staging") is not None


def test_merge_when_staging_is_main(tmp_path):
    """A table is never merged into itself, nor shown so; it is still there afterwards."""
    make_table(tmp_path / "main", make_rows([1]))

    for staging in (tmp_path / "main", f"file://{tmp_path}/main/"):
        for verb in (preview_merge, merge_staging):
            with pytest.raises(ParameterError):
                verb(open_table(staging), open_table(tmp_path / "main"))

    assert indices_of(open_table(tmp_path / "main")) == [1]


STEPS = [
    (owner, name, overlap)
    for overlap in (False, True)
    for owner, name in (
        (links.os, "link"),
        (links, "sync"),
        (links.pq, "read_metadata"),
        (merge, "link_files"),
        (merge, "commit_files"),
    )
]


@pytest.mark.parametrize(("owner", "name", "overlap"), [*STEPS, (rewrite, "write_files", True)])
def test_merge_when_a_step_fails(tmp_path, monkeypatch, owner, name, overlap):
    """AC4.3: a failure before the commit leaves staging intact and main unchanged, and the next run completes it."""
    main = make_table(tmp_path / "main", make_rows([1, 2]))
    staging = make_table(tmp_path / "staging", make_rows([3, 4]), make_rows([2, 5] if overlap else [5], day=2))
    before = {folder: sorted(str(path) for path in (tmp_path / folder).rglob("*.*")) for folder in ("main", "staging")}

    def fail(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(KeyboardInterrupt):
        merge_staging(staging, main)
    monkeypatch.undo()

    after = {folder: sorted(str(path) for path in (tmp_path / folder).rglob("*.*")) for folder in ("main", "staging")}
    assert after == before
    assert indices_of(open_table(tmp_path / "main")) == [1, 2]
    report = merge_staging(open_table(tmp_path / "staging"), open_table(tmp_path / "main"))
    assert report.inserted == 3
    assert indices_of(open_table(tmp_path / "main")) == [1, 2, 3, 4, 5]


def test_merge_when_a_rewrite_is_interrupted(tmp_path, monkeypatch):
    """What is being rewritten beside what failed, or was interrupted, ends with its next batch."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([1, 2]), make_rows([1, *range(3, 2000)], day=2))
    started, read = threading.Event(), []

    def write(folder, schema, batches):
        for batch in batches:
            if batch["seen_date"][0].as_py() == "2026-03-01":
                started.wait()
                raise KeyboardInterrupt
            started.set()
            read.append(len(batch))
            time.sleep(0.005)
        return []

    monkeypatch.setattr(rewrite, "ROWS_PER_BATCH", 2)
    monkeypatch.setattr(rewrite, "write_files", write)
    with pytest.raises(KeyboardInterrupt):
        merge_staging(staging, main, confirmed=True)

    assert 0 < len(read) < 500


def test_merge_when_linking_is_impossible(tmp_path, monkeypatch):
    """Files are copied where they cannot be linked."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2]))

    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(links.os, "link", refuse)
    merge_staging(staging, main)

    assert indices_of(open_table(tmp_path / "main")) == [1, 2]


def damage_nothing(file: Path) -> None:
    """Remove the file."""
    file.unlink()


def damage_tail(file: Path) -> None:
    """Cut the file's footer off."""
    file.write_bytes(file.read_bytes()[:-100])


def damage_schema(file: Path) -> None:
    """Replace the file by one with other columns."""
    pq.write_table(pa.table({"source_url": [LOG], "cert_index": [5], "sha256": ["x"]}), file)


@pytest.mark.parametrize("damage", [damage_nothing, damage_tail, damage_schema])
def test_merge_when_a_staged_file_is_damaged(tmp_path, damage):
    """A staged file that is missing, truncated or of another shape stops the merge before main is touched."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2]), make_rows([5], day=2))
    damage(Path(next(file for file in files_of(staging) if "03-02" in file)))
    before = commits_of(tmp_path / "main")

    with pytest.raises(TableError):
        merge_staging(staging, main)

    assert commits_of(tmp_path / "main") == before
    assert parquet_files(tmp_path / "main") == set(files_of(open_table(tmp_path / "main")))
    assert commits_of(tmp_path / "staging") == [f"{version:020}.json" for version in range(3)]


def test_merge_when_staging_holds_other_things(tmp_path):
    """A file that is not the table's own survives, and is named; the rows are merged and gone from staging."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2]))
    (tmp_path / "staging" / "notes.txt").write_text("mine")

    report = merge_staging(staging, main)

    assert "notes.txt" in report.note
    assert (tmp_path / "staging" / "notes.txt").read_text() == "mine"
    assert find_table(tmp_path / "staging").count() == 0
    assert parquet_files(tmp_path / "staging") == set()


def test_merge_removes_orphans_of_staging(tmp_path):
    """Files that a dead writer left in staging without a commit go with it."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2]))
    file = Path(files_of(staging)[0])
    shutil.copy(file, file.with_name("part-00000-dead-c000.zstd.parquet"))

    assert merge_staging(staging, main).staging_removed
    assert not (tmp_path / "staging").exists()


@pytest.mark.parametrize("owner", [merge, drop])
def test_merge_when_an_orphan_is_committed_meanwhile(tmp_path, monkeypatch, owner):
    """What looked like an orphan may be of a writer that is about to commit, even at the last moment; it stays."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2]))
    (file,) = data_files(make_table(tmp_path / "other", make_rows([3])))
    shutil.copy(file.path, tmp_path / "staging" / file.name)
    name = {merge: "commit_files", drop: "_husk"}[owner]
    step = getattr(owner, name)

    def step_after_somebody(*arguments):
        monkeypatch.undo()
        links.commit_files([file], open_table(tmp_path / "staging"))
        return step(*arguments)

    monkeypatch.setattr(owner, name, step_after_somebody)

    assert not merge_staging(staging, main).staging_removed
    assert indices_of(open_table(tmp_path / "staging")) == [3]
    assert merge_staging(open_table(tmp_path / "staging"), main, confirmed=True).staging_removed
    assert indices_of(main) == [1, 2, 3]


def test_merge_when_main_was_written_by_somebody_else(tmp_path):
    """A main written with deltalake's defaults, compacted and checkpointed, is merged into and stays readable."""
    DeltaTable.create(tmp_path / "main", row_schema(), partition_by=["seen_date"])
    for index in range(5):
        write_deltalake(tmp_path / "main", make_rows([index, 90 - index]), mode="append")
    main = open_table(tmp_path / "main")
    main.optimize.compact()
    main.create_checkpoint()
    staging = make_table(tmp_path / "staging", make_rows([3, 88, 200]))

    report = merge_staging(staging, main)
    write_deltalake(tmp_path / "main", make_rows([300]), mode="append")
    main.update_incremental()
    main.create_checkpoint()

    assert (report.inserted, report.skipped) == (1, 2)
    assert indices_of(open_table(tmp_path / "main")) == [0, 1, 2, 3, 4, 86, 87, 88, 89, 90, 200, 300]
    assert DeltaTable(tmp_path / "main", version=report.version_before).count() == 10


def test_merge_again_after_others_compacted_main(tmp_path, monkeypatch):
    """Files that a merge brought and others replaced belong to main's history: a later merge leaves them there."""
    main = make_table(tmp_path / "main", make_rows([1]), make_rows([2]))
    staging = make_table(tmp_path / "staging", make_rows([3, 4]))

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(merge, "retire", die)
    with pytest.raises(KeyboardInterrupt):
        merge_staging(staging, main)
    monkeypatch.undo()
    merged = DeltaTable(tmp_path / "main").version()
    DeltaTable(tmp_path / "main").optimize.compact()

    assert merge_staging(open_table(tmp_path / "staging"), main).inserted == 0

    assert sorted(pa.table(DeltaTable(tmp_path / "main", version=merged).scan())["cert_index"].to_pylist()) == [
        1,
        2,
        3,
        4,
    ]
    assert indices_of(open_table(tmp_path / "main")) == [1, 2, 3, 4]


def test_merge_when_others_compact_at_once(tmp_path, monkeypatch):
    """A compaction right after the commit is no failure of the merge, and its version can still be read."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2]))
    commit = merge.commit_files

    def compact_after(*arguments):
        done = commit(*arguments)
        DeltaTable(tmp_path / "main").optimize.compact()
        return done

    monkeypatch.setattr(merge, "commit_files", compact_after)
    report = merge_staging(staging, main)

    assert report.staging_removed
    assert pa.table(DeltaTable(tmp_path / "main", version=report.version).scan()).num_rows == 2
    assert indices_of(main) == [1, 2]


def test_merge_when_staging_was_made_anew(tmp_path):
    """A handle of a staging table that is gone does not pass for the one that is there now."""
    main = make_table(tmp_path / "main", make_rows([1]))
    old = make_table(tmp_path / "staging", make_rows([2]))
    preview = preview_merge(old, main)
    shutil.rmtree(tmp_path / "staging")
    new = make_table(tmp_path / "staging", make_rows([10, 11]), make_rows([12]))

    for options in ({}, {"expected": preview}):
        with fails(TableError, uri=tmp_path / "staging"):
            merge_staging(old, main, **options)

    assert merge_staging(new, main).inserted == 3
    with fails(TableError, uri=tmp_path / "staging"):
        merge_staging(new, main)


def test_merge_when_the_preview_is_of_other_tables(tmp_path):
    """A preview of one pair of tables does not allow to merge another."""
    main = make_table(tmp_path / "main", make_rows([1]))
    preview = preview_merge(make_table(tmp_path / "other", make_rows([2])), main)
    staging = make_table(tmp_path / "staging", make_rows([3]))

    with fails(StalePreviewError, uri=tmp_path / "staging"):
        merge_staging(staging, main, expected=preview)

    assert indices_of(main) == [1]


def test_merge_when_a_staged_file_has_nulls(tmp_path):
    """A null never gets into a main that has none: readers would refuse all of it."""
    main = make_table(tmp_path / "main", make_rows([1]))
    nullable = pa.schema([field.with_nullable(True) for field in row_schema()])
    DeltaTable.create(tmp_path / "staging", nullable, partition_by=["seen_date"])
    rows = make_rows([2, 3]).cast(nullable)
    rows = rows.set_column(9, "sha256", pa.array([None, "x"]))
    write_deltalake(tmp_path / "staging", rows, mode="append")

    with pytest.raises(TableError, match="sha256 have nulls"):
        merge_staging(open_table(tmp_path / "staging"), main, confirmed=True)

    assert indices_of(open_table(tmp_path / "main")) == [1]


def test_merge_when_rows_and_counts_disagree(tmp_path, monkeypatch):
    """A merge that would insert another number of rows than it counted commits nothing."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([1, 2, 3]))
    monkeypatch.setattr(merge.Overlap, "skipped_in", lambda *_: np.array([True, True, False]))

    with fails(TableError, uri=tmp_path / "staging"):
        merge_staging(staging, main)

    assert indices_of(open_table(tmp_path / "main")) == [1]
    assert parquet_files(tmp_path / "main") == set(files_of(main))


# Log, index, day, and which of two certificates the row has.
rows_of_logs = st.lists(
    st.tuples(st.sampled_from([LOG, OTHER_LOG]), st.integers(0, 12), st.integers(1, 3), st.booleans()), max_size=12
)


def make_row(url: str, index: int, day: int, other: bool, as_der: AsDer) -> pa.Table:
    """Return one row; with `other`, of another certificate than the index stands for elsewhere."""
    row = make_rows([index], url=url, day=day, as_der=as_der)
    if not other:
        return row
    another = make_rows([index + 100], url=url, day=day, as_der=as_der)
    return another.set_column(0, another.schema.field(0), row["cert_index"])


def write_rows(
    path: Path, rows: list[tuple[str, int, int, bool]], *, commits: int, as_der: AsDer = "binary"
) -> DeltaTable:
    """Create a table with the given rows, spread over some commits."""
    DeltaTable.create(path, row_schema(as_der), partition_by=["seen_date"])
    tables = [make_row(*row, as_der) for row in rows]
    return make_table(path, *(pa.concat_tables(tables[at::commits]) for at in range(commits) if tables[at::commits]))


@given(
    main_rows=rows_of_logs,
    staging_rows=rows_of_logs.filter(bool),
    commits=st.integers(1, 3),
    types=st.tuples(*[st.sampled_from(["binary", "string"])] * 2),
    keys_at_once=st.integers(1, 20),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_merge_is_the_union_by_key(tmp_path_factory, main_rows, staging_rows, commits, types, keys_at_once):
    """Whatever the two hold, main keeps its rows and gains each missing key once; a second merge commits nothing."""
    folder = tmp_path_factory.mktemp("merge")
    # One key has one certificate in main, so that it is clear what staging contradicts.
    main_rows = [(url, index, day, index % 2 == 0) for url, index, day, _ in main_rows]
    main = write_rows(folder / "main", main_rows, commits=commits, as_der=types[0])
    staging = write_rows(folder / "staging", staging_rows, commits=commits, as_der=types[1])
    shutil.copytree(folder / "staging", folder / "again")
    before = rows_of(main)
    have = sorted((url, index) for url, index, _, _ in main_rows)
    staged: dict[tuple[str, int], list[bool]] = {}
    for url, index, _, other in staging_rows:
        staged.setdefault((url, index), []).append(other)
    missing = staged.keys() - set(have)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "KEYS_AT_ONCE", keys_at_once)
        report = merge_staging(staging, main)
        again = merge_staging(open_table(folder / "again"), main)

    assert keys_of(main) == sorted([*have, *missing])
    after = rows_of(main)
    kept = [row for row in after if (row["source_url"], row["cert_index"]) in have]
    assert sorted(kept, key=str) == sorted(before, key=str)
    is_other = {
        (row["source_url"], row["cert_index"]): row["subject_aggregated"] != f"/CN={row['cert_index']}.example.com"
        for row in after
    }
    assert all(is_other[key] in staged[key] for key in missing)
    assert {type(row["as_der"]) for row in after} == {bytes if types[0] == "binary" else str}
    assert (report.inserted, report.skipped) == (len(missing), len(staging_rows) - len(missing))
    contradictions = [key for key, others in staged.items() if {is_other[key]} != set(others)]
    assert len(contradictions) <= report.conflicts <= len(staging_rows)
    assert bool(contradictions) == bool(report.conflicts)
    assert (again.inserted, again.conflicts, again.version) == (0, report.conflicts, report.version)
    assert parquet_files(folder / "main") == set(files_of(main))


def test_merge_when_a_file_has_several_row_groups_with_chains_of_their_own(tmp_path, monkeypatch):
    """Rows are written anew however the dictionaries of a staged file change in the middle of it."""
    monkeypatch.setattr(files_module, "ROWS_PER_GROUP", 100)
    rows = make_rows(range(1000))
    chains = pa.array([[f"issuer {at // 70}", f"root {at // 300}"] for at in range(1000)], rows["chain"].type)
    rows = rows.set_column(rows.column_names.index("chain"), rows.schema.field("chain"), chains)
    staging, main = make_table(tmp_path / "staging", rows), make_table(tmp_path / "main", rows.slice(500, 1))
    (file,) = files_of(staging)
    assert pq.read_metadata(file).num_row_groups > 1

    merge_staging(staging, main, confirmed=True)

    assert rows_of(main) == rows.to_pylist()


@pytest.mark.parametrize("folder", ["main", "staging"])
def test_merge_when_a_file_has_another_name(tmp_path, caplog, folder):
    """What is missing is an error, and nothing is said to go that does not go."""
    main = make_table(tmp_path / "main", make_rows([1, 2]))
    staging = make_table(tmp_path / "staging", make_rows([2, 3]))
    (file,) = (tmp_path / folder).glob("seen_date=*/*.parquet")
    renamed = file.rename(file.with_name("part-renamed.parquet"))

    with pytest.raises(TableError):
        merge_staging(staging, main)
    assert renamed.exists()
    assert not caplog.records
