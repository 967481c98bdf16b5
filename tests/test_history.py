"""The log of a table kept short: old commits go, and what they said of rows stays."""

import os
import time

import pytest
from deltalake import DeltaTable
from raising import fails, interrupted
from rows import commits_of, indices_of, keys_of, make_rows
from test_tidy import proven_of, record

from ctkit.errors import TableError
from ctkit.lake import history
from ctkit.lake.provenance import known_versions, metadata_of, read_statements
from ctkit.lake.repair import repair
from ctkit.lake.table import files_of, hold, open_table
from ctkit.lake.tidy import tidy
from ctkit.lake.write import write_entries

DAY = 86_400


def age(folder, days, *, until=None):
    """Make the commits up to a version, or all, look as old."""
    for path in (folder / "_delta_log").glob("[0-9]*"):
        if until is None or int(path.name[:20]) <= until:
            os.utime(path, (time.time() - days * DAY,) * 2)


def write(table, *indices, proven=True):
    """Write some rows in a commit of their own."""
    said = [record(min(indices), max(indices) + 1)] if proven else []
    write_entries(table, make_rows(indices), metadata=metadata_of(said))


@pytest.fixture
def main(tmp_path):
    """Return a table of two months, with a checkpoint after one."""
    table = open_table(tmp_path / "main")
    for at in range(6):
        write(table, at * 10, at * 10 + 1, proven=at != 2)
    table.create_checkpoint()
    age(tmp_path / "main", 40)
    write(table, 100)
    return table


def test_old_commits_go_and_proofs_stay(tmp_path, main):
    """What is left is whole, and what was proven is proven, also when what repeats it is old itself."""
    proven, keys = proven_of(main), keys_of(main)

    preview = tidy(main, dry_run=True)
    report = tidy(main)

    assert (report.commits, report.files) == (6, 7)
    assert preview.commits == 6
    assert commits_of(tmp_path / "main") == [f"{version:020}.json" for version in (6, 7, 8)]
    for _ in range(3):
        table = open_table(tmp_path / "main")
        assert (proven_of(table), keys_of(table)) == (proven, keys)
        assert len(known_versions(read_statements(table)).missing(0, table.version() + 1)) == 0
        write(main, 200 + main.version(), proven=False)
        keys = keys_of(main)
        main.create_checkpoint()
        age(tmp_path / "main", 40)
        assert tidy(main).commits > 0
        assert len(commits_of(tmp_path / "main")) <= 5
    assert indices_of(DeltaTable(tmp_path / "main", version=main.version() - 1)) == indices_of(main)


def test_young_commits_stay(tmp_path, main):
    """Nothing is repeated, and nothing removed, before it is time."""
    age(tmp_path / "main", 3)

    assert tidy(main).version == 7

    age(tmp_path / "main", 5)
    report = tidy(main)
    assert (report.version, report.commits) == (8, 0)
    assert tidy(main).version == 8


def test_commits_stay_while_their_versions_can_be_restored(tmp_path, main):
    """A table that keeps files for longer keeps commits for longer."""
    age(tmp_path / "main", 20)
    main.alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 20 days"})
    assert tidy(main).commits == 0

    main.alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 18 days"})
    assert tidy(main).commits == 6


def test_without_a_checkpoint_all_commits_stay(tmp_path, main):
    """A reader would have nothing to begin with."""
    (checkpoint,) = (tmp_path / "main/_delta_log").glob("*.checkpoint.parquet")
    (checkpoint.parent / "_last_checkpoint").unlink()
    checkpoint.unlink()

    assert tidy(main).commits == 0
    assert keys_of(open_table(tmp_path / "main")) == keys_of(main)


@pytest.mark.parametrize("days", ["30", "60"])
def test_tables_that_say_otherwise_keep_their_commits(tmp_path, main, days):
    """Only what was said is repeated: deltalake removes old commits by what the table says."""
    proven = proven_of(main)
    age(tmp_path / "main", 0)
    main.alter.set_table_properties({"delta.logRetentionDuration": f"interval {days} days"})
    age(tmp_path / "main", 40, until=5)

    report = tidy(main)

    assert (report.commits, report.version) == (0, report.version_before + 1)
    for version in range(6):
        (tmp_path / "main/_delta_log" / f"{version:020}.json").unlink(missing_ok=True)
    assert proven_of(open_table(tmp_path / "main")) == proven


def test_what_is_repeated_is_of_files_not_of_rows(tmp_path, main):
    """A file that rots afterwards proves nothing; one that is repaired or compacted carries what was said on."""
    tidy(main)
    proven = proven_of(main)
    for index in range(200, 212):
        write(main, index)
    write(main, 0)
    repair(main)
    tidy(main)

    assert proven_of(main) == [*proven, *range(200, 212)]


@pytest.mark.parametrize("step", ["commit_files", "confirm_files", "read_commit"])
@pytest.mark.parametrize("after", [False, True])
def test_shortening_when_it_is_interrupted(tmp_path, main, monkeypatch, step, after):
    """No proof goes, and the next run goes on."""
    proven = proven_of(main)

    with interrupted(monkeypatch, history, step, after=after):
        tidy(main)

    assert proven_of(open_table(tmp_path / "main")) == proven
    assert tidy(main).commits == 6
    assert proven_of(open_table(tmp_path / "main")) == proven


def test_shortening_when_a_commit_cannot_be_removed(tmp_path, main, monkeypatch):
    """The error names the table; the others go next time, and the table is whole in between."""
    keys, unlink = keys_of(main), os.unlink

    def refuse(path, *arguments, **options):
        if str(path).endswith(f"{3:020}.json"):
            raise PermissionError(13, "Permission denied")
        unlink(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        with fails(TableError, uri=tmp_path / "main"):
            tidy(main)

    assert keys_of(open_table(tmp_path / "main")) == keys
    assert tidy(main).commits == 3


def test_commits_are_not_repeated_over_those_of_others(tmp_path, main, monkeypatch):
    """Where somebody commits just then, whatever it is, it is done again."""
    commit, left = history.commit_files, [True]

    def commit_after_somebody(*arguments, **options):
        if left:
            left.pop()
            DeltaTable(tmp_path / "main").alter.set_table_properties({"delta.appendOnly": "false"})
        return commit(*arguments, **options)

    monkeypatch.setattr(history, "commit_files", commit_after_somebody)
    with hold(main) as held:
        assert history.shorten_log(held, dry_run=False) == 6
        assert held.transaction_version("ctkit.repeated") == 8
    assert proven_of(open_table(tmp_path / "main"))


def test_proofs_of_files_that_come_back(tmp_path):
    """What is repeated does not stand for all that a commit said, as long as the commit is there."""
    main = open_table(tmp_path / "main")
    for index in range(8):
        write(main, index)
    proven, version = proven_of(main), main.version()
    assert tidy(main).files == 1
    age(tmp_path / "main", 16)
    tidy(main)
    assert main.transaction_version("ctkit.repeated") == version + 1

    main.restore(version)

    assert len(files_of(main)) == 8
    assert proven_of(main) == proven
    assert tidy(main).files == 1
    assert proven_of(main) == proven


def test_statements_about_some_files(main):
    """No more is read than speaks of them, and all that does, also where a later commit added them without a word."""
    last = read_statements(main)[-1]
    assert read_statements(main, last.files) == [last]
    main.restore(3)
    tidy(main)
    for file in files_of(main):
        said, found = (
            [each for each in read_statements(main, about) if file in each.files and each.records]
            for about in (None, [file])
        )
        assert found == said
