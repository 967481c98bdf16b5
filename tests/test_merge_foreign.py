"""Merges of files and tables that other writers made, each in its own way."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from raising import fails
from rows import add_file, as_type, before_commit, indices_of, make_rows, make_table, rows_of

from ctkit.errors import TableError
from ctkit.lake.files import plain_schema
from ctkit.lake.keys import INDEX_BITS
from ctkit.lake.merge import merge_staging
from ctkit.lake.table import files_of, open_table
from ctkit.lake.write import write_entries
from ctkit.schema import row_schema


def test_merge_when_main_does_not_say_what_is_text(tmp_path):
    """Keys of a file of main whose ``source_url`` is bytes, as older writers leave it, are found."""
    main = add_file(tmp_path / "main", as_type(make_rows([1, 2]), source_url=pa.binary()))

    report = merge_staging(make_table(tmp_path / "staging", make_rows([1, 2, 3])), main)

    assert (report.inserted, report.skipped) == (1, 2)


@pytest.mark.parametrize("separator", ["\u2028", "\x85"])
def test_merge_when_statistics_hold_line_separators(tmp_path, monkeypatch, separator):
    """What Unicode calls the end of a line may be in a subject, and so in a commit; no action ends there."""
    main = make_table(tmp_path / "main", make_rows([1]))
    rows = make_rows([2, 3])
    rows = rows.set_column(15, rows.schema.field("subject_aggregated"), pa.array([f"/CN=a{separator}b"] * 2))

    def interfere():
        monkeypatch.undo()
        write_deltalake(tmp_path / "main", rows, mode="append")

    before_commit(monkeypatch, interfere)
    report = merge_staging(make_table(tmp_path / "staging", make_rows([3, 4])), main)

    assert (report.inserted, report.skipped) == (1, 1)
    assert indices_of(main) == [1, 2, 3, 4]


ODD_ROWS = {
    "int32": lambda rows: as_type(rows, cert_index=pa.int32()),
    "milliseconds": lambda rows: as_type(rows, seen=pa.timestamp("ms", tz="UTC")),
    "bytes for text": lambda rows: as_type(rows, sha1=pa.binary(), sha256=pa.binary()),
    "partition column": lambda rows: rows,
    "another column": lambda rows: rows.append_column("note", rows["sha1"]).drop_columns(["seen_date"]),
}


@pytest.mark.parametrize("indices", [[2, 3], [1, 3]])
@pytest.mark.parametrize("odd", ODD_ROWS)
def test_merge_when_a_staged_file_has_other_columns(tmp_path, odd, indices):
    """Rows of a file whose columns are not quite main's are converted, whether main has some of them or none."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = add_file(tmp_path / "staging", ODD_ROWS[odd](make_rows(indices)))

    report = merge_staging(staging, main)

    assert report.staging_rows == 2
    assert rows_of(main) == make_rows(sorted({1, *indices})).to_pylist()
    expected = {field.name: field.type for field in row_schema() if field.name != "seen_date"}
    for file in files_of(main):
        stored = plain_schema(pq.read_schema(file))
        assert dict(zip(stored.names, stored.types, strict=True)) == expected


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (lambda rows: rows.drop_columns(["seen_date", "sha1"]), "sha1"),
        (lambda rows: as_type(rows, as_der=pa.string()), "a file has as_der as string, its table as binary"),
    ],
)
@pytest.mark.parametrize("indices", [[2, 3], [1, 3]])
def test_merge_when_a_staged_file_cannot_be_converted(tmp_path, odd, reason, indices):
    """A file without one of the columns, or with DER of which nobody knows the form, is refused with words."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = add_file(tmp_path / "staging", odd(make_rows(indices)))

    with pytest.raises(TableError, match=reason):
        merge_staging(staging, main)

    assert indices_of(main) == [1]


@pytest.mark.parametrize("indices", [[2, 3], [1, 3]])
def test_merge_when_base64_is_stored_as_bytes(tmp_path, indices):
    """A table of text may have a file that says bytes; they are not taken for the raw DER that main holds."""
    main = make_table(tmp_path / "main", make_rows([1]))
    open_table(tmp_path / "staging", as_der="text")
    rows = as_type(make_rows(indices, as_der="string"), as_der=pa.binary())

    with pytest.raises(TableError, match="as_der"):
        merge_staging(add_file(tmp_path / "staging", rows), main)

    assert rows_of(open_table(tmp_path / "main")) == make_rows([1]).to_pylist()


def test_merge_when_text_is_no_base64(tmp_path):
    """Letters that base64 does not have are not dropped in silence: what would be left may be another certificate."""
    main = make_table(tmp_path / "main", make_rows([1]))
    rows = make_rows([2], as_der="string")
    odd = pa.array(["*" + rows["as_der"][0].as_py()])
    rows = rows.set_column(rows.schema.get_field_index("as_der"), rows.schema.field("as_der"), odd)
    staging = open_table(tmp_path / "staging", as_der="text")
    write_entries(staging, rows)

    with pytest.raises(TableError):
        merge_staging(staging, main)

    assert indices_of(open_table(tmp_path / "main")) == [1]
    assert indices_of(open_table(tmp_path / "staging")) == [2]


def make_nullable(path: Path, rows: pa.Table, column: str, values: list[str | None]) -> DeltaTable:
    """Create a table that allows nulls, with `rows` and other values in one column."""
    schema = pa.schema([field.with_nullable(True) for field in rows.schema])
    DeltaTable.create(path, schema, partition_by=["seen_date"])
    at = schema.get_field_index(column)
    rows = rows.cast(schema).set_column(at, schema.field(at), pa.array(values, schema.field(at).type))
    write_deltalake(path, rows, mode="append")
    return open_table(path)


@pytest.mark.parametrize("date", [None, ""])
@pytest.mark.parametrize("indices", [[2, 3], [1, 3]])
def test_merge_when_staged_rows_have_no_date(tmp_path, date, indices):
    """Without a partition value main could not be opened any more; so such rows do not get in."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_nullable(tmp_path / "staging", make_rows(indices), "seen_date", [date, date])

    with pytest.raises(TableError, match="seen_date"):
        merge_staging(staging, main, confirmed=True)

    assert indices_of(open_table(tmp_path / "main")) == [1]


@pytest.mark.parametrize("index", [-1, 1 << INDEX_BITS])
def test_merge_when_staged_rows_have_an_index_of_no_log(tmp_path, index):
    """Such rows have no key to be told apart by: they are refused, and none is lost as the repetition of another."""
    main = make_table(tmp_path / "main", make_rows([1]))
    rows = make_rows([2, 3])
    rows = rows.set_column(0, rows.schema.field("cert_index"), [[index, index]])
    staging = add_file(tmp_path / "staging", as_type(rows))

    with pytest.raises(TableError, match="cert_index"):
        merge_staging(staging, main)

    assert indices_of(open_table(tmp_path / "main")) == [1]
    assert len(files_of(open_table(tmp_path / "staging"))) == 1


@pytest.mark.parametrize(("theirs", "ours"), [("string", "binary"), ("binary", "string"), ("binary", "binary")])
def test_merge_when_der_is_missing(tmp_path, theirs, ours):
    """A row without ``as_der`` is refused with words, also where DER is converted."""
    DeltaTable.create(tmp_path / "main", row_schema(ours), partition_by=["seen_date"])
    rows = make_rows([2, 3], as_der=theirs)
    staging = make_nullable(tmp_path / "staging", rows, "as_der", [None, rows["as_der"][1].as_py()])

    with pytest.raises(TableError, match=r"as_der.* null"):
        merge_staging(staging, open_table(tmp_path / "main"), confirmed=True)

    assert files_of(open_table(tmp_path / "main")) == []


@pytest.mark.parametrize("column", ["chain", "all_domains"])
@pytest.mark.parametrize("indices", [[2, 3], [1, 3]])
def test_merge_when_a_list_is_missing(tmp_path, column, indices):
    """A row without a list is refused with words, also where its file is rewritten: an empty list is something else."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_nullable(tmp_path / "staging", make_rows(indices), column, [["x"], None])

    with pytest.raises(TableError, match=column):
        merge_staging(staging, main, confirmed=True)

    assert indices_of(main) == [1]


def test_merge_when_staging_has_no_statistics(tmp_path):
    """Rows are counted by the footers then, and main has their number from there."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = add_file(tmp_path / "staging", as_type(make_rows([2, 3]).cast(row_schema())))

    merge_staging(staging, main, confirmed=True)

    assert sorted(pa.table(main.get_add_actions())["num_records"].to_pylist()) == [1, 2]


def test_merge_when_a_file_without_statistics_is_damaged(tmp_path):
    """The error names the file."""
    staging = add_file(tmp_path / "staging", as_type(make_rows([2, 3])))
    Path(files_of(staging)[0]).write_bytes(b"PAR1 is all there is of it PAR1")

    with fails(TableError, uri=files_of(staging)[0]):
        merge_staging(staging, make_table(tmp_path / "main", make_rows([1])))


def test_merge_when_main_is_compacted_and_vacuumed_meanwhile(tmp_path, monkeypatch):
    """Files that came and went while the merge was being prepared are not looked for."""
    main = make_table(tmp_path / "main", make_rows([1]), make_rows([2]))
    staging = make_table(tmp_path / "staging", make_rows([2, 3, 50]))

    def interfere():
        monkeypatch.undo()
        for index in (50, 51):
            write_deltalake(tmp_path / "main", make_rows([index]), mode="append")
            DeltaTable(tmp_path / "main").optimize.compact()
        DeltaTable(tmp_path / "main").vacuum(0, dry_run=False, enforce_retention_duration=False)

    before_commit(monkeypatch, interfere)
    report = merge_staging(staging, main, confirmed=True)

    assert (report.inserted, report.skipped) == (1, 2)
    assert indices_of(main) == [1, 2, 3, 50, 51]


def test_merge_when_others_name_their_files_oddly(tmp_path, monkeypatch):
    """Names that a log has percent-encoded are found on the disk, in what is there and in what comes late."""
    main = add_file(tmp_path / "main", as_type(make_rows([1])), name="part one+two%.parquet")
    staging = make_table(tmp_path / "staging", make_rows([1, 2, 3]))

    def interfere():
        monkeypatch.undo()
        add_file(tmp_path / "main", as_type(make_rows([2])), name="part three%20+four.parquet")

    before_commit(monkeypatch, interfere)

    assert merge_staging(staging, main, confirmed=True).inserted == 1
