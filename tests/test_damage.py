"""Bytes that have rotted: every byte of a file counts, and nothing in a damaged file is proven."""

import os
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from fakes import FakeLog
from raising import fails
from rows import LOG, add_file, as_type, indices_of, make_rows, make_table

from ctkit.demo.server import LogServer
from ctkit.errors import TableError
from ctkit.jobs.audit import audit
from ctkit.lake.gaps import find_gaps
from ctkit.lake.keys import read_keys
from ctkit.lake.merge import merge_staging
from ctkit.lake.provenance import Provenance, metadata_of
from ctkit.lake.table import files_of, open_table
from ctkit.lake.write import write_entries
from ctkit.logs.open import open_log
from ctkit.schema import row_schema
from ctkit.wire.rows import read_rows

SIZE = 300


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Serve a log, and return it, its rows, and a table in which all of them are proven."""
    fake = FakeLog("Rotting", SIZE, protocols=["rfc6962"], days=0.01)
    with (
        LogServer(fake) as server,
        open_log(server.url(fake), user_agent="t@example.org", protocol="rfc6962", key=fake.public_key) as log,
    ):
        batches, start = [], 0
        while start < SIZE:
            batches.append(read_rows(log.get_entries(start, SIZE), log, source_name="Rotting"))
            start += len(batches[-1])
        rows = pa.Table.from_batches(batches)
        said = Provenance(log.url, 0, SIZE, SIZE, SIZE, fake.tree.root(), "entries", signed=True)
        path = tmp_path_factory.mktemp("proven") / "main"
        write_entries(open_table(path), rows, metadata=metadata_of([said]))
        yield log, rows, path


@pytest.fixture
def main(served, tmp_path):
    """Return a table of its own for each test, in which everything is proven."""
    return open_table(shutil.copytree(served[2], tmp_path / "main"))


def flip(path, position, bits=0xFF):
    """Change a byte of a file, and neither its size nor its age."""
    status = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ bits]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def pages_of(path, column):
    """Return where the bytes of a column are in a file of one row group."""
    group = pq.read_metadata(path).row_group(0)
    (chunk,) = (each for each in map(group.column, range(group.num_columns)) if each.path_in_schema == column)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    return range(start, start + chunk.total_compressed_size)


def test_audit_when_any_byte_is_flipped(served, main):
    """Whichever bit of whichever byte is flipped, header, page or footer: nothing is proven, and the file is named."""
    log = served[0]
    (file,) = files_of(main)
    find_gaps(main, within={log.url: (0, SIZE)})
    chosen = random.Random(10)
    size = os.path.getsize(file)
    # The footer and what is around it, too: there is little of it.
    positions = [*chosen.sample(range(size), 60), *range(size - 12, size), *chosen.sample(range(size - 3000, size), 40)]
    for position in positions:
        bits = 1 << chosen.randrange(8)
        flip(file, position, bits)
        report = audit([log], main, require_proof=True)
        flip(file, position, bits)

        assert list(report.damaged) == [str(Path(file).relative_to(main.table_uri.removeprefix("file://")))], position
        assert report.logs[0].proven.size == 0
        assert not report.passed
        with fails(TableError, uri=main.table_uri.removeprefix("file://").rstrip("/")):
            report.check()
    assert audit([log], main, require_proof=True).passed


def test_report_when_a_file_is_damaged(served, main):
    """The report counts the file, names it with the reason, in JSON too; rows whose keys can be read are there."""
    (file,) = files_of(main)
    flip(file, pages_of(file, "subject_aggregated")[50])

    report = audit([served[0]], main)

    assert report.facts()["damaged"] == 1
    (name,) = report.damaged
    assert file.endswith(name)
    assert report.to_json()["damaged_files"] == report.damaged
    assert report.tables()["damaged files"]["file"].to_list() == [name]
    found = report.logs[0]
    assert (found.rows, found.missing.size, found.proven.size, found.unproven.size) == (SIZE, 0, 0, SIZE)
    assert report.title == "audit failed"


def test_report_when_keys_cannot_be_read(served, main):
    """Rows of a file whose keys do not fit their checksum are missing, and the file is named."""
    (file,) = files_of(main)
    flip(file, pages_of(file, "cert_index")[-1])

    report = audit([served[0]], main)

    assert (len(report.damaged), report.logs[0].missing.size) == (1, SIZE)


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b""), lambda path: os.truncate(path, 99)])
def test_report_when_a_file_is_gone(served, main, harm):
    """A file that is not there, or is not all there, is damaged like any other."""
    harm(Path(files_of(main)[0]))

    report = audit([served[0]], main, recheck="unproven")

    assert (len(report.damaged), report.logs[0].missing.size) == (1, SIZE)


def test_recheck_leaves_damaged_files_out(served, tmp_path):
    """A recheck of the other rows goes on, and none of a damaged file is proven by it."""
    log, rows, _ = served
    main = open_table(tmp_path / "main")
    write_entries(main, rows.slice(0, 200))
    (file,) = files_of(main)
    write_deltalake(main, rows.slice(200), mode="append")
    main.update_incremental()
    flip(file, pages_of(file, "as_der")[100])

    report = audit([log], main, recheck="all")

    found = report.logs[0]
    assert [(each.start, each.end) for each in found.proven] == [(200, SIZE)]
    assert found.differing.size == 0
    assert len(report.damaged) == 1
    assert not report.passed


def test_audit_when_a_foreign_file_cannot_be_read_whole(served, main):
    """Of files of other writers each column is read: one that cannot be makes the audit fail, whichever it is."""
    log, rows, path = served
    write_deltalake(path.with_name("foreign"), rows, partition_by=["seen_date"], mode="overwrite")
    foreign = open_table(path.with_name("foreign"))
    (file,) = files_of(foreign)
    assert audit([log], foreign).passed
    flip(file, pages_of(file, "subject_aggregated")[0])

    report = audit([log], foreign)

    assert len(report.damaged) == 1
    assert not report.passed


def test_audit_when_deltalake_has_rewritten_a_file(served, tmp_path):
    """What deltalake leaves of a file after it has taken rows out is sound, and its certificates are looked at."""
    log, rows, path = served
    table = open_table(tmp_path / "rewritten", like=open_table(path))
    write_deltalake(table, pa.concat_tables([rows.cast(row_schema()), make_rows(range(50))]), mode="append")
    table.update_incremental()
    table.delete("cert_index % 7 = 3")
    table.update({"sha256": "'00'"}, predicate=f"cert_index = 5 and source_url = '{log.url}'")

    report = audit([log], open_table(tmp_path / "rewritten"), recheck="all")

    assert report.damaged == {}
    assert indices_of(table, log.url) == [index for index in range(SIZE) if index % 7 != 3]
    assert (report.logs[0].missing.size, report.logs[0].altered.size) == (len(range(3, SIZE, 7)), 1)
    assert [(each.start, each.end) for each in report.logs[0].differing] == [(5, 6)]


def test_audit_when_a_page_of_a_foreign_file_is_damaged(served, tmp_path):
    """Values that can be read, and do not fit the checksum of their page: the file is damaged."""
    log, rows, _ = served
    plain = {"use_dictionary": False, "compression": "none", "write_page_checksum": True}
    table = add_file(tmp_path / "foreign", as_type(rows), **plain)
    assert audit([log], table).passed
    (file,) = files_of(table)
    flip(file, pages_of(file, "not_after")[-1])

    assert len(audit([log], table).damaged) == 1


def test_audit_when_a_foreign_file_is_another(served, tmp_path):
    """A file that is not as long as the table's log says is damaged, however well it can be read."""
    log, rows, path = served
    table = open_table(tmp_path / "foreign", like=open_table(path))
    write_deltalake(table, rows, mode="append")
    table.update_incremental()
    pq.write_table(rows.slice(5).drop_columns(["seen_date"]), files_of(table)[0])

    report = audit([log], table)

    assert (len(report.damaged), report.logs[0].missing.size) == (1, 5)


@pytest.mark.parametrize("index", [-(1 << 63), -1, 1 << 62, (1 << 63) - 1])
def test_audit_when_a_foreign_row_has_an_index_of_no_log(served, main, index):
    """It is no row of the log, wherever it lies among the numbers; what is proven of others stays so."""
    log, rows, _ = served
    at = rows.column_names.index("cert_index")
    write_deltalake(main, rows.slice(0, 1).set_column(at, rows.schema.field(at), [[index]]), mode="append")
    main.update_incremental()

    report = audit([log], main, recheck="all", require_proof=True)

    assert report.passed
    assert report.logs[0].rows == SIZE


def test_audit_when_a_foreign_file_is_no_utf8(served, tmp_path):
    """Text that other readers stop at is damage, too."""
    log, rows, path = served
    table = open_table(tmp_path / "foreign", like=open_table(path))
    subjects = pa.array([b"\xff"] * SIZE).view(pa.binary())
    rows = rows.set_column(15, pa.field("subject_aggregated", pa.string()), pa.array(subjects).view(pa.string()))
    write_deltalake(table, rows, mode="append")
    table.update_incremental()

    assert len(audit([log], table).damaged) == 1


@pytest.mark.parametrize("column", ["subject_aggregated", "not_after", "as_der", "chain.list.element"])
def test_pages_have_checksums(main, column):
    """A reader of whatever tool that asks for them finds what has changed in a page."""
    (file,) = files_of(main)
    pages = pages_of(file, column)
    flip(file, pages[len(pages) * 2 // 3])

    with pytest.raises(OSError, match="checksum"):
        pq.read_table(file, page_checksum_verification=True)


def test_keys_are_not_read_from_a_damaged_page(tmp_path):
    """Keys that do not fit their checksum are an error, and no other keys: a merge would insert what is there."""
    table = make_table(tmp_path / "main", make_rows(range(1000)))
    (file,) = files_of(table)
    flip(file, pages_of(file, "cert_index")[-2])

    with fails(TableError, uri=file):
        read_keys(file)


@pytest.mark.parametrize("where", ["page", "footer"])
def test_merge_when_a_staged_file_is_damaged(tmp_path, where):
    """What has rotted in staging is not written anew under a checksum and a record that it does not deserve."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = open_table(tmp_path / "staging")
    said = Provenance(LOG, 0, 50, 50, 100, bytes(32), "entries", signed=True)
    write_entries(staging, make_rows(range(50)), metadata=metadata_of([said]))
    (file,) = files_of(staging)
    flip(file, pages_of(file, "not_after")[-1] if where == "page" else Path(file).read_bytes().rindex(b"parquet-cpp"))

    with pytest.raises(TableError):
        merge_staging(staging, main)

    assert indices_of(open_table(tmp_path / "main")) == [1]
    assert len(DeltaTable(tmp_path / "staging").file_uris()) == 1


def test_merge_when_a_page_of_a_foreign_file_is_damaged(tmp_path):
    """A file whose name tells nothing may have checksums of its pages: they count where it is written anew."""
    main = make_table(tmp_path / "main", make_rows([1]))
    plain = {"use_dictionary": False, "compression": "none", "write_page_checksum": True}
    staging = add_file(tmp_path / "staging", as_type(make_rows(range(50))), **plain)
    (file,) = files_of(staging)
    flip(file, pages_of(file, "not_after")[-1])

    with pytest.raises(TableError, match="checksum"):
        merge_staging(staging, main)

    assert indices_of(open_table(tmp_path / "main")) == [1]


def test_a_merged_file_still_tells_what_is_in_it(served, tmp_path):
    """A link that a merge has made is as good as the file: what rots after the merge is found."""
    log, _, path = served
    main = open_table(tmp_path / "main")
    merge_staging(open_table(shutil.copytree(path, tmp_path / "staging")), main)
    assert audit([log], main, require_proof=True).passed
    flip(files_of(main)[0], 1000)

    assert len(audit([log], main).damaged) == 1
