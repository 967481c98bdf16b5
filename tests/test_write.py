"""Batches become commits of sorted files."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raising import fails
from rows import LOG, OTHER_LOG, commits_of, make_batch, make_rows, make_table, rows_of

from ctkit.errors import TableError
from ctkit.lake import files as files_module
from ctkit.lake import write
from ctkit.lake.gaps import find_gaps
from ctkit.lake.table import files_of, open_table
from ctkit.lake.write import write_batches, write_entries
from ctkit.schema import KEY, REPEATING, row_schema


def test_write_entries_sorts_files(tmp_path):
    """Each file is in one partition's folder and ascends by log and index, so that its statistics prune."""
    shuffled = list(range(2000))
    random.Random(1).shuffle(shuffled)
    rows = pa.concat_tables(make_rows(shuffled, url=url, day=day) for url in (OTHER_LOG, LOG) for day in (2, 1))
    table = make_table(tmp_path / "main", rows)

    for file in files_of(table):
        keys = pq.read_table(file, columns=["source_url", "cert_index"], partitioning=None).to_pylist()
        pairs = [(key["source_url"], key["cert_index"]) for key in keys]
        assert pairs == sorted(pairs)
        assert len(pairs) == 4000
    assert sorted(file.split("/")[-2] for file in files_of(table)) == ["seen_date=2026-03-01", "seen_date=2026-03-02"]
    assert len(commits_of(tmp_path / "main")) == 2


def test_write_entries_stores_repeating_texts_once(tmp_path):
    """Columns of few values have dictionaries in the file, the others none; indices are stored as differences."""
    table = make_table(tmp_path / "main", make_rows(range(1000)))

    group = pq.read_metadata(files_of(table)[0]).row_group(0)
    chunks = [group.column(at) for at in range(group.num_columns)]

    assert {chunk.path_in_schema.split(".")[0] for chunk in chunks if chunk.has_dictionary_page} == set(REPEATING)
    assert "DELTA_BINARY_PACKED" in chunks[0].encodings


def test_write_entries_when_a_row_group_has_no_statistics(tmp_path, monkeypatch):
    """A file is not said to lack what one of its row groups says nothing of: a text that is too long to be noted."""
    monkeypatch.setattr(files_module, "ROWS_PER_GROUP", 3)
    long = f"https://{'a' * 5000}.example.com"
    table = make_table(tmp_path / "main", pa.concat_tables(make_rows(range(3), url=url) for url in (LOG, long)))

    assert len(files_of(table)) == 1
    assert find_gaps(table, within={long: (0, 4)})["start"].to_pylist() == [3]


def test_write_entries_keeps_every_column(tmp_path):
    """What was written is what is read, in all 20 columns."""
    table = make_table(tmp_path / "main", make_rows([5, 3, 4]))

    assert rows_of(table) == make_rows([3, 4, 5]).to_pylist()


def test_write_entries_when_the_folder_cannot_be_written(tmp_path):
    """A failed commit is an error that names the table, and the table stays as it was."""
    table = make_table(tmp_path / "main", make_rows([1]))
    rows = make_rows([2]).set_column(0, "cert_index", pa.array([None], pa.int64()))

    with fails(TableError, uri=tmp_path / "main"):
        write_entries(table, rows)

    assert rows_of(open_table(tmp_path / "main")) == make_rows([1]).to_pylist()


def test_write_entries_when_interrupted_after_the_commit(tmp_path, monkeypatch):
    """What a commit has taken up stays, though the caller is interrupted before it hears of it."""
    table = make_table(tmp_path / "main", make_rows([1]))
    commit_files = write.commit_files

    def commit_and_stop(*arguments):
        commit_files(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "commit_files", commit_and_stop)
    with pytest.raises(KeyboardInterrupt):
        write_entries(table, make_rows([2]))

    assert rows_of(open_table(tmp_path / "main")) == make_rows([1, 2]).to_pylist()


def test_write_batches_commits_when_due(tmp_path, monkeypatch):
    """A commit is due after so many rows, and at the end for the rest; each is yielded once it is in the table."""
    monkeypatch.setattr(write, "ROWS_PER_COMMIT", 4)
    table = open_table(tmp_path / "staging")
    batches = [make_batch(range(at, at + 2)) for at in range(0, 10, 2)]

    counts = [(rows.num_rows, table.version(), table.count()) for rows in write_batches(table, batches)]

    assert counts == [(4, 1, 4), (4, 2, 8), (2, 3, 10)]


@pytest.mark.parametrize(("limit", "value"), [("BYTES_PER_COMMIT", 1), ("SECONDS_PER_COMMIT", 0.0)])
def test_write_batches_commits_when_bytes_or_time_are_due(tmp_path, monkeypatch, limit, value):
    """Large rows and slow logs do not wait for the number of rows."""
    monkeypatch.setattr(write, limit, value)
    table = open_table(tmp_path / "staging")
    batches = [make_batch([at]) for at in range(3)]

    assert [rows.num_rows for rows in write_batches(table, batches)] == [1, 1, 1]


def test_write_batches_when_batches_are_small(tmp_path, monkeypatch):
    """Of batches of a row each it counts what they take in memory, not what is in them."""
    monkeypatch.setattr(write, "BYTES_PER_COMMIT", 4 * write.BYTES_PER_BATCH)
    table = open_table(tmp_path / "staging")

    assert [rows.num_rows for rows in write_batches(table, [make_batch([at]) for at in range(8)])] == [4, 4]


def test_write_batches_fills_row_groups_alike(tmp_path, monkeypatch):
    """Batches that do not fill a row group exactly leave no tiny ones between those that are full."""
    monkeypatch.setattr(files_module, "ROWS_PER_GROUP", 4)
    table = open_table(tmp_path / "staging")

    list(write_batches(table, [make_batch(range(at, at + 3)) for at in range(0, 12, 3)] + [make_batch(range(12, 23))]))

    (file,) = files_of(table)
    footer = pq.read_metadata(file)
    assert [footer.row_group(at).num_rows for at in range(footer.num_row_groups)] == [6, 6, 6, 5]


def test_write_batches_stores_texts_once_that_repeat_across_batches(tmp_path):
    """Each batch has dictionaries of its own; a row group has one for all of them."""
    table = open_table(tmp_path / "staging")

    list(write_batches(table, [make_batch(range(at, at + 2), name=str(at % 3) * 1000) for at in range(0, 100, 2)]))

    (file,) = files_of(table)
    assert pq.read_metadata(file).row_group(0).column(3).path_in_schema == "source_name"
    assert pq.read_metadata(file).row_group(0).column(3).total_uncompressed_size < 4000


def test_write_batches_when_nothing_comes(tmp_path, monkeypatch):
    """No rows, no commit, even after a long time: nothing of a page may be what the log signed."""
    monkeypatch.setattr(write, "SECONDS_PER_COMMIT", 0.0)
    table = open_table(tmp_path / "staging")

    assert list(write_batches(table, [])) == []
    assert list(write_batches(table, [pa.RecordBatch.from_pylist([], row_schema())])) == []
    assert table.version() == 0


def test_write_batches_gives_a_log_a_file_of_its_own_when_it_fills_a_row_group(tmp_path, monkeypatch):
    """What fills a row group is written before the commit; what does not shares a file, sorted."""
    monkeypatch.setattr(files_module, "ROWS_PER_GROUP", 4)
    table = open_table(tmp_path / "staging")
    written = []

    def batches():
        for at in range(0, 10, 2):
            yield make_batch(range(at, at + 2), url=OTHER_LOG)
            written.append(len(list(tmp_path.glob("staging/seen_date=*/*.parquet"))))
        yield make_batch([7, 8], url=OTHER_LOG + "x")
        yield make_batch([1, 3], url=LOG)
        yield make_batch([10, 11], url=OTHER_LOG, day=2)

    (noted,) = write_batches(table, batches())

    assert written == [0, 1, 1, 1, 1]
    assert noted.column_names == ["source_url", "cert_index", "signature_algorithm"]
    assert noted.num_rows == 16
    keys = [
        [tuple(key.values()) for key in pq.read_table(file, columns=[*KEY], partitioning=None).to_pylist()]
        for file in files_of(table)
    ]
    assert sorted(keys) == [
        [(LOG, 1), (LOG, 3), (OTHER_LOG + "x", 7), (OTHER_LOG + "x", 8)],
        [(OTHER_LOG, index) for index in range(10)],
        [(OTHER_LOG, 10), (OTHER_LOG, 11)],
    ]


def test_write_batches_begins_another_file_when_one_is_large(tmp_path, monkeypatch):
    """Files do not grow without end."""
    monkeypatch.setattr(files_module, "ROWS_PER_GROUP", 2)
    monkeypatch.setattr(write, "BYTES_PER_FILE", 1)
    table = open_table(tmp_path / "staging")

    list(write_batches(table, [make_batch(range(at, at + 2)) for at in range(0, 6, 2)]))

    assert len(files_of(table)) == 3
    assert rows_of(table) == make_rows(range(6)).to_pylist()


@pytest.mark.parametrize("rows_per_file", [2, 4])
def test_write_batches_when_nobody_takes_the_rest(tmp_path, monkeypatch, rows_per_file):
    """Files that are not committed are removed: those that are whole, and the one in the making."""
    monkeypatch.setattr(files_module, "ROWS_PER_GROUP", 2)
    monkeypatch.setattr(write, "BYTES_PER_FILE", 1 if rows_per_file == 2 else 1 << 20)
    table = open_table(tmp_path / "staging")

    def batches():
        yield make_batch([1, 2])
        assert len(list(tmp_path.glob("staging/seen_date=*/*.parquet"))) == 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(write_batches(table, batches()))

    assert list(tmp_path.glob("staging/seen_date=*/*.parquet")) == []
    assert table.version() == 0


def test_write_batches_when_a_file_cannot_be_closed(tmp_path, monkeypatch):
    """A disk that is full at the last moment leaves nothing of the commit behind."""
    monkeypatch.setattr(files_module, "ROWS_PER_GROUP", 2)
    table = open_table(tmp_path / "staging")

    def close(self):
        raise OSError("No space left on device")

    monkeypatch.setattr(files_module.FileWriter, "close", close)

    with fails(TableError, uri=tmp_path / "staging"):
        list(write_batches(table, [make_batch([1, 2])]))

    assert list(tmp_path.glob("staging/seen_date=*/*.parquet")) == []


class _Unclosed(pa.OSFile):
    def close(self):
        super().close()
        raise OSError("Disk quota exceeded")


def _fail(*_, **__):
    raise MemoryError


@pytest.mark.parametrize(
    ("module", "name", "fake", "error"),
    [
        (files_module.pq, "ParquetWriter", _fail, MemoryError),
        (files_module.pa, "OSFile", _Unclosed, TableError),
        (write, "commit_files", _fail, MemoryError),
        (write, "CommitProperties", _fail, MemoryError),
    ],
)
def test_write_batches_when_something_fails_on_the_way(tmp_path, monkeypatch, module, name, fake, error):
    """Whatever fails, from the first byte of a file to the commit, leaves no file behind."""
    monkeypatch.setattr(files_module, "ROWS_PER_GROUP", 2)
    table = open_table(tmp_path / "staging")
    monkeypatch.setattr(module, name, fake)

    with pytest.raises(error):
        list(write_batches(table, [make_batch([1, 2]), make_batch([5], url=OTHER_LOG)], describe=lambda _: {"a": "b"}))

    assert list(tmp_path.glob("staging/seen_date=*/*")) == []
    assert open_table(tmp_path / "staging").version() == 0


def test_write_entries_when_the_second_file_fails(tmp_path, monkeypatch):
    """The first one, of another day, is complete, and goes too: no commit will have it."""
    table = open_table(tmp_path / "staging")
    steps = iter([files_module.FileWriter, _fail])
    monkeypatch.setattr(files_module, "FileWriter", lambda *arguments: next(steps)(*arguments))

    with pytest.raises(MemoryError):
        write_entries(table, pa.concat_tables([make_rows([1]), make_rows([2], day=2)]))

    assert next(steps, None) is None
    assert list(tmp_path.glob("staging/seen_date=*/*")) == []


def test_write_batches_when_rows_cannot_be_described(tmp_path):
    """Nothing is written then."""
    table = open_table(tmp_path / "staging")

    with pytest.raises(MemoryError):
        list(write_batches(table, [make_batch([1, 2])], describe=_fail))

    assert list(tmp_path.glob("staging/seen_date=*/*")) == []
