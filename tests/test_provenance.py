"""What commits say of the rows that they wrote."""

import json
import shutil
from dataclasses import replace

import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake
from hypothesis import given
from hypothesis import strategies as st
from raising import fails
from rows import LOG, OTHER_LOG, make_batch, make_rows, make_table, read_provenance, rows_of

from ctkit.errors import TableError
from ctkit.lake import commits, write
from ctkit.lake.merge import merge_staging
from ctkit.lake.provenance import Provenance, joined, metadata_of, read_statements
from ctkit.lake.table import open_table
from ctkit.lake.undo import undo_merge
from ctkit.lake.write import write_batches, write_entries

ROOT, OTHER_ROOT = bytes(range(32)), bytes(reversed(range(32)))


def record(start, end, rows=None, *, url=LOG, tree_size=1000, root=ROOT, verified="entries", signed=True):
    """Return what is said of rows in ``[start, end)``, by default of all of them."""
    return Provenance(url, start, end, end - start if rows is None else rows, tree_size, root, verified, signed)


def write_recorded(table, *records):
    """Write all rows that the records span, each log's rows by itself, in one commit that says so."""
    for of_log in records:
        write_entries(
            table, make_rows(range(of_log.start, of_log.end), url=of_log.source_url), metadata=metadata_of([of_log])
        )


def test_records_survive_a_commit(tmp_path):
    """What one commit says of two logs is read from its metadata; other commits, before and after, say nothing."""
    table = make_table(tmp_path / "main", make_rows([1]))
    said = [record(2, 4), Provenance(OTHER_LOG, 7, 10, 2, 0, b"", "off", signed=False)]

    write_entries(table, make_rows([2, 3]), metadata=metadata_of(said))
    write_entries(table, make_rows([4]))

    assert read_provenance(table) == [(2, said[0]), (2, said[1])]
    assert json.loads(table.history()[1]["ctkit.root_hash"]) == ["AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", ""]


def test_metadata_when_there_is_nothing_to_say(tmp_path):
    """No records, no metadata: the commit is like that of anybody else."""
    table = open_table(tmp_path / "main")

    write_entries(table, make_rows([2, 3]), metadata=metadata_of([]))

    assert metadata_of([]) == {}
    assert read_provenance(table) == []


def test_write_batches_describes_each_commit(tmp_path, monkeypatch):
    """Metadata is made from the rows of its own commit."""
    monkeypatch.setattr(write, "ROWS_PER_COMMIT", 4)
    table = open_table(tmp_path / "staging")
    batches = [make_batch(range(at, at + 2)) for at in range(0, 10, 2)]

    def describe(rows):
        indices = rows["cert_index"].to_pylist()
        return metadata_of([record(min(indices), max(indices) + 1)])

    for _ in write_batches(table, batches, describe=describe):
        pass

    assert read_provenance(table) == [(1, record(0, 4)), (2, record(4, 8)), (3, record(8, 10))]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ctkit.start", None),
        ("ctkit.start", "[1"),
        ("ctkit.start", "7"),
        ("ctkit.start", "[2, 3]"),
        ("ctkit.start", '["2"]'),
        ("ctkit.start", "[4]"),
        ("ctkit.start", "[-1]"),
        ("ctkit.signed", "[1]"),
        ("ctkit.rows", "[true]"),
        ("ctkit.rows", "[0]"),
        ("ctkit.verified", '["all"]'),
        ("ctkit.root_hash", '["AAE="]'),
        ("ctkit.root_hash", '["?"]'),
        ("ctkit.tree_size", "[3]"),
    ],
)
def test_statements_when_a_record_is_malformed(tmp_path, caplog, key, value):
    """A commit whose records cannot be read says nothing, a warning names it, and those of others count."""
    table = make_table(tmp_path / "main", make_rows([1]))
    metadata = {**metadata_of([record(2, 4)]), key: value}
    if value is None:
        del metadata[key]
    write_entries(table, make_rows([2, 3]), metadata=metadata)
    write_recorded(table, record(5, 7))

    assert read_provenance(table) == [(3, record(5, 7))]
    (warning,) = caplog.records
    assert (warning.levelname, warning.args[:2]) == ("WARNING", (str(tmp_path / "main"), 2))


def test_merge_when_a_record_of_staging_is_malformed(tmp_path):
    """Rows of such a commit are merged, and are said not to be verified."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = open_table(tmp_path / "staging")
    write_recorded(staging, record(2, 4))
    write_entries(staging, make_rows([4, 5]), metadata={**metadata_of([record(4, 6)]), "ctkit.start": "?"})

    assert merge_staging(staging, main).inserted == 4
    off = Provenance(LOG, 4, 6, 2, 0, b"", "off", signed=False)
    assert read_provenance(main) == [(2, record(2, 4)), (2, off)]


def test_merge_of_files_that_others_wrote_under_our_words(tmp_path):
    """What a commit says counts for files that ctkit wrote, which their names tell; also where they are rewritten."""
    main = make_table(tmp_path / "main", make_rows([3]))
    staging = open_table(tmp_path / "staging")
    write_recorded(staging, record(10, 12))
    said = CommitProperties(metadata_of([record(2, 6)]))
    write_deltalake(staging, make_rows([2, 3, 5]), mode="append", commit_properties=said)
    staging.update_incremental()

    merge_staging(staging, main)

    off = Provenance(LOG, 2, 6, 3, 0, b"", "off", signed=False)
    assert read_provenance(main) == [(2, off), (2, record(10, 12))]


def test_statements_when_a_commit_vanishes(tmp_path, monkeypatch):
    """A commit that is cleaned up while the log is read is passed over."""
    table = open_table(tmp_path / "main")
    write_recorded(table, record(0, 2), record(2, 4), record(4, 6))
    table.create_checkpoint()
    read = commits.read_commit

    def read_while_somebody_cleans_up(table, version):
        if version == 2:
            commits.commit_path(table, version).unlink()
        return read(table, version)

    monkeypatch.setattr(commits, "read_commit", read_while_somebody_cleans_up)

    assert [version for version, _ in read_provenance(table)] == [1, 3]


def test_statements_when_a_commit_is_damaged(tmp_path):
    """A commit that is there and cannot be read is an error that names it."""
    table = open_table(tmp_path / "main")
    write_recorded(table, record(0, 2), record(2, 4))
    commits.commit_path(table, 1).write_text("{")

    with fails(TableError, uri=tmp_path / "main"):
        read_statements(table)


@pytest.mark.parametrize("commits_since", [0, 5])
def test_statements_when_another_table_is_in_the_folder(tmp_path, commits_since):
    """The commits of another table say nothing of this one, whichever of the two has more of them."""
    old = open_table(tmp_path / "main")
    write_recorded(old, record(0, 2), record(2, 4))
    shutil.rmtree(tmp_path / "main")
    new = open_table(tmp_path / "main")
    write_recorded(new, *(record(at, at + 1) for at in range(commits_since)))

    with fails(TableError, uri=tmp_path / "main"):
        read_statements(old)


def test_statements_when_the_folder_is_gone(tmp_path):
    """The same where there is nothing any more."""
    old = open_table(tmp_path / "main")
    shutil.rmtree(tmp_path / "main")

    with pytest.raises(TableError):
        read_statements(old)


def test_merge_carries_records_over(tmp_path):
    """Main's merge commit says what staging's commits said, neighbours of which the same is said in one record."""
    main = make_table(tmp_path / "main", make_rows([0]))
    staging = open_table(tmp_path / "staging")
    write_recorded(staging, record(1, 10), record(20, 30), record(30, 40, verified="heads"), record(40, 50))
    write_recorded(staging, record(50, 60, root=OTHER_ROOT), record(60, 70, signed=False), record(5, 9, url=OTHER_LOG))

    merge_staging(staging, main)

    assert read_provenance(main) == [
        (2, record(1, 30, 19)),
        (2, record(30, 40, verified="heads")),
        (2, record(40, 50)),
        (2, record(50, 60, root=OTHER_ROOT)),
        (2, record(60, 70, signed=False)),
        (2, record(5, 9, url=OTHER_LOG)),
    ]
    assert main.history(1)[0]["ctkit.inserted"] == "63"


def test_merge_when_rows_are_left_out(tmp_path):
    """Rows that main has already count in the record all the same: it says how many were written so."""
    main = make_table(tmp_path / "main", make_rows([3, 4]))
    staging = open_table(tmp_path / "staging")
    write_recorded(staging, record(0, 10))

    assert merge_staging(staging, main).inserted == 8
    assert read_provenance(main) == [(2, record(0, 10))]


def test_merge_when_it_is_repeated_and_undone(tmp_path):
    """Each merge has its own records, and those of an undone one stay with its commit."""
    main = make_table(tmp_path / "main", make_rows([0]))
    for start in (10, 20, 30):
        staging = open_table(tmp_path / "staging")
        write_recorded(staging, record(start, start + 5))
        merge_staging(staging, main)
    undo_merge(main)

    assert read_provenance(main) == [(2, record(10, 15)), (3, record(20, 25)), (4, record(30, 35))]
    assert len(rows_of(main)) == 11


def test_merge_when_of_some_rows_nothing_is_said(tmp_path):
    """Rows of a commit without records, or of a file that was rewritten since, are said not to be verified."""
    main = make_table(tmp_path / "main", make_rows([0]))
    staging = open_table(tmp_path / "staging")
    write_recorded(staging, record(1, 10), record(10, 20))
    staging.optimize.compact()
    write_recorded(staging, record(30, 40))
    write_entries(staging, make_rows([50, 55]))
    write_deltalake(staging, make_rows([60], url=OTHER_LOG), mode="append")
    staging.update_incremental()

    merge_staging(staging, main, confirmed=True)

    off = record(1, 20, tree_size=0, root=b"", verified="off", signed=False)
    assert read_provenance(main) == [
        (2, off),
        (2, record(30, 40)),
        (2, replace(off, start=50, end=56, rows=2)),
        (2, replace(off, source_url=OTHER_LOG, start=60, end=61, rows=1)),
    ]


def test_merge_when_nothing_is_said(tmp_path):
    """Where no commit of staging says anything, neither does the merge."""
    main = make_table(tmp_path / "main", make_rows([0]))

    merge_staging(make_table(tmp_path / "staging", make_rows([1])), main)

    assert read_provenance(main) == []


def test_merge_of_many_commits_stays_small(tmp_path):
    """A thousand commits of one run take one record for each log."""
    records = [record(start, start + 1, url=url) for start in range(500) for url in (LOG, OTHER_LOG)]

    assert joined(records) == [record(0, 500), record(0, 500, url=OTHER_LOG)]
    assert len("".join(metadata_of(joined(records)).values())) < 500


@given(
    st.lists(
        st.builds(
            lambda start, length, level: record(start, start + length, verified=level),
            st.integers(0, 30),
            st.integers(1, 10),
            st.sampled_from(["entries", "heads"]),
        )
    )
)
def test_joined_records_prove_nothing_more(records):
    """A row that was not proven is not proven after records are joined: one that spans it still says so."""

    def proven(of, index):
        levels = {each.verified for each in of if each.start <= index < each.end}
        return levels == {"entries"}

    some = {index for each in records for index in range(each.start, each.end)}
    assert {index for index in some if proven(joined(records), index)} <= {
        index for index in some if proven(records, index)
    }
    assert sum(each.rows for each in joined(records)) == sum(each.rows for each in records)


def test_records_when_others_write_beside_them(tmp_path):
    """Metadata of somebody else under ctkit's own prefix is none of ours."""
    table = make_table(tmp_path / "main", make_rows([1]))
    write_deltalake(
        table, make_rows([2]), mode="append", commit_properties=CommitProperties({"ctkit.other": "x", "start": "1"})
    )

    assert read_provenance(DeltaTable(tmp_path / "main")) == []


def test_kept_versions_of_an_old_handle(tmp_path):
    """What was committed after the version of a handle is none of its history."""
    old = make_table(tmp_path / "main", make_rows([1]))
    write_entries(open_table(tmp_path / "main"), make_rows([2]))

    assert commits.kept_versions(old) == [0, 1]
