"""Repairs: of rows with one key one stays, in one commit, and nothing else changes."""

import errno
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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
    read_provenance,
    rows_of,
)

from ctkit.errors import KeyConflictError, TableError
from ctkit.lake import evidence, exchange
from ctkit.lake import repair as repair_module
from ctkit.lake.evidence import read_evidence
from ctkit.lake.gaps import find_gaps
from ctkit.lake.provenance import Provenance, metadata_of, read_statements
from ctkit.lake.repair import repair
from ctkit.lake.table import files_of, open_table
from ctkit.lake.write import write_entries

ROOT = bytes(32)


def record(start, end, *, url=LOG, verified="entries"):
    """Return what is said of rows of which something was verified."""
    return Provenance(url, start, end, end - start, 1000, ROOT, verified, signed=True)


def write_proven(table, start, end, **said):
    """Write rows that their commit calls proven."""
    write_entries(table, make_rows(range(start, end)), metadata=metadata_of([record(start, end, **said)]))


def proven_of(table, url=LOG):
    """Return the indices of the rows that an audit would call proven, if the log says nothing against it."""
    rows, damaged = read_evidence(table, [url], read_statements(table))
    assert not damaged
    return [index for each in rows[url].proven for index in range(each.start, each.end)]


def named(rows, name):
    """Return rows that are told from others by the name of their log."""
    return rows.set_column(4, rows.schema.field("source_name"), pa.array([name] * len(rows)))


def other_certificate(rows):
    """Return rows whose certificate is another."""
    for at, name, value in ((9, "sha256", hashlib.sha256(b"other").hexdigest()), (18, "as_der", b"other")):
        rows = rows.set_column(at, rows.schema.field(name), pa.array([value] * len(rows)))
    return rows


def test_repair_when_rows_are_repeated(tmp_path):
    """Repetitions in one file and across files go, of all logs and days; all else stays, in one commit."""
    main = make_table(
        tmp_path / "main",
        make_rows([1, 2, 2, 3]),
        make_rows([3, 4], day=2),
        make_rows([1, 5], url=OTHER_LOG),
        make_rows([1, 5], url=OTHER_LOG),
        make_rows([9]),
    )
    untouched = set(files_of(main))

    report = repair(main)

    assert (report.repeated, report.removed, report.conflicts, report.files) == (4, 4, 0, 3)
    assert (report.version_before, report.version, main.version()) == (5, 6, 6)
    assert keys_of(main) == sorted([*((LOG, index) for index in (1, 2, 3, 4, 9)), (OTHER_LOG, 1), (OTHER_LOG, 5)])
    assert rows_of(open_table(tmp_path / "main"))[2]["seen_date"] == "2026-03-01"
    assert len(commits_of(tmp_path / "main")) == 7
    assert len(untouched & set(files_of(main))) == 2
    assert not (tmp_path / "main" / "_ctkit_merge").exists()
    report.check()


def test_repair_when_nothing_is_repeated(tmp_path):
    """Nothing is committed."""
    main = make_table(tmp_path / "main", make_rows([1, 2]), make_rows([1], url=OTHER_LOG))

    report = repair(main)

    assert (report.repeated, report.removed, report.version_before, report.version) == (0, 0, 2, 2)
    assert len(commits_of(tmp_path / "main")) == 3


def test_repair_of_an_empty_table(tmp_path):
    """Nothing to do is no error."""
    assert repair(open_table(tmp_path / "main")).repeated == 0


def test_repair_dry_run(tmp_path):
    """A dry run counts the same and changes nothing, also where another run holds the table."""
    main = make_table(tmp_path / "main", make_rows([1, 2, 2, 3]), make_rows([3, 4]))
    before = sorted(tmp_path.rglob("*"))

    report = repair(main, dry_run=True)

    assert (report.repeated, report.removed, report.files, report.version) == (2, 0, 2, 2)
    assert [(each["start"], each["end"]) for each in report.tables()["repeated"].to_dict("records")] == [(2, 4)]
    assert sorted(tmp_path.rglob("*")) == before


def test_repair_keeps_the_first_row(tmp_path):
    """Where nothing is proven, the row stays that was added first, whatever the files are called."""
    for attempt in range(3):
        rows = [named(make_rows([1, 2]), name) for name in ("first", "second", "third")]
        main = make_table(tmp_path / f"main{attempt}", *rows)

        repair(main)

        assert [row["source_name"] for row in rows_of(main)] == ["first", "first"]


def test_repair_keeps_the_proven_row(tmp_path):
    """A row that is proven stays before one that is not, row by row, also where it was added later."""
    main = open_table(tmp_path / "main")
    said = metadata_of([record(0, 5), record(5, 10, verified="heads")])
    write_entries(main, named(make_rows(range(3, 12)), "first"))
    write_entries(main, named(make_rows(range(10)), "half"), metadata=said)
    write_entries(main, named(make_rows(range(5, 8)), "proven"), metadata=metadata_of([record(5, 8)]))

    assert proven_of(main) == [*range(8)]
    repair(main)

    names = [row["source_name"] for row in rows_of(main)]
    assert names == [*["half"] * 5, *["proven"] * 3, *["first"] * 4]
    assert proven_of(main) == [*range(8)]


def test_repair_carries_records_over(tmp_path):
    """What was said of the rows that are written anew is said again, as exactly: no row more, and none less."""
    main = open_table(tmp_path / "main")
    write_proven(main, 0, 10)
    said = [record(20, 21), record(21, 22, verified="heads")]
    write_entries(main, make_rows([5, 20, 20, 21]), metadata=metadata_of(said))
    write_entries(main, make_rows([8, 8, 12]))

    repair(main)

    version = main.version()
    off = Provenance(LOG, 12, 13, 1, 0, b"", "off", signed=False)
    assert [said for at, said in read_provenance(main) if at == version] == [
        off,
        record(20, 21),
        replace(off, start=21, end=22),
    ]
    assert proven_of(main) == [*range(10), 20]


def test_repair_where_records_contradict(tmp_path):
    """Rows of which one record says that they are proven, and another that they are not, are not proven afterwards."""
    main = open_table(tmp_path / "main")
    said = [record(0, 10), record(3, 5, verified="heads")]
    write_entries(main, make_rows([*range(10), 7]), metadata=metadata_of(said))
    before = proven_of(main)

    assert repair(main).removed == 1

    assert before == proven_of(main) == [0, 1, 2, 5, 6, 7, 8, 9]


def test_repair_when_rows_contradict(tmp_path):
    """Different certificates under one key are for a person: both rows stay, and the report says so."""
    main = make_table(
        tmp_path / "main", make_rows([1, 2, 3]), other_certificate(make_rows([2])), make_rows([2, 3]), make_rows([7, 7])
    )

    report = repair(main)

    assert (report.repeated, report.removed, report.conflicts) == (4, 3, 1)
    assert indices_of(main) == [1, 2, 2, 3, 7]
    assert {url: list(map(str, each)) for url, each in report.conflicting.items()} == {LOG: ["[2, 3)"]}
    with fails(KeyConflictError, uri=tmp_path / "main"):
        report.check()
    again = repair(main)
    assert (again.repeated, again.removed, again.conflicts, again.version) == (1, 0, 1, report.version)


def test_repair_when_rows_beside_a_contradiction_are_proven(tmp_path):
    """A row that contradicts a proven one, and is written anew with it, costs the proof of that one and no other."""
    main = open_table(tmp_path / "main")
    write_entries(main, make_rows([0, 0, 5, 6, 7]), metadata=metadata_of([record(0, 8)]))
    write_entries(main, pa.concat_tables([make_rows([0, 8]), other_certificate(make_rows([6]))]))

    repair(main)

    assert indices_of(main) == [0, 5, 6, 6, 7, 8]
    assert proven_of(main) == [0, 5, 7]


def test_repair_when_a_certificate_was_altered(tmp_path):
    """A row that does not have the certificate of its SHA-256 is not kept in place of one that does."""
    rows = make_rows([1, 2])
    ders = pa.array([b"rotten", rows["as_der"][1].as_py()])
    main = make_table(tmp_path / "main", rows.set_column(18, rows.schema.field("as_der"), ders), rows)

    report = repair(main)

    assert (report.removed, report.conflicts) == (1, 1)
    assert indices_of(main) == [1, 1, 2]


def flip(path):
    """Change a bit of a file."""
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


HARMS = [Path.unlink, flip, lambda path: os.truncate(path, 99), lambda path: path.write_bytes(b"")]


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("which", [0, 1])
def test_repair_when_a_file_is_damaged(tmp_path, harm, which):
    """It is taken out of the table and nothing else: its rows are the only gap, and what is left of it stays."""
    main = open_table(tmp_path / "main")
    spans = [(0, 10), (10, 25)]
    files = []
    for start, end in spans:
        write_proven(main, start, end)
        files += [Path(file) for file in files_of(main) if Path(file) not in files]
    write_proven(main, 25, 30)
    harm(files[which])
    is_left = files[which].exists()
    start, end = spans[which]

    preview = repair(main, dry_run=True)
    assert len(commits_of(tmp_path / "main")) == 4
    report = repair(main)

    assert preview.damaged == report.damaged
    assert [(file.name, file.rows, file.first) for file in report.damaged] == [
        (str(files[which].relative_to(tmp_path / "main")), end - start, {LOG: start})
    ]
    assert (report.removed, report.version_before, report.version, main.version()) == (0, 3, 4, 4)
    assert find_gaps(main, within={LOG: (0, 30)}).to_pylist() == [{"source_url": LOG, "start": start, "end": end}]
    assert proven_of(main) == [index for index in range(30) if not start <= index < end]
    assert files[which].exists() == is_left
    report.check()
    assert repair(main).version == 4


@pytest.mark.parametrize(
    ("urls", "records", "flipped", "first"),
    [
        ([LOG, OTHER_LOG], [], True, {LOG: 5, OTHER_LOG: 3}),
        ([LOG, OTHER_LOG], [record(5, 9), record(3, 7, url=OTHER_LOG)], False, {LOG: 5, OTHER_LOG: 3}),
        ([LOG], [], False, {LOG: 5}),
        ([LOG, OTHER_LOG], [], False, {}),
    ],
)
def test_repair_tells_which_rows_are_lost(tmp_path, urls, records, flipped, first):
    """By the keys, if they can be read; by what the commit says; by the statistics, if there is one log."""
    main = open_table(tmp_path / "main")
    parts = [make_rows(range(5 - 2 * at, 9 - 2 * at), url=url) for at, url in enumerate(urls)]
    write_entries(main, pa.concat_tables(parts), metadata=metadata_of(records))
    (file,) = map(Path, files_of(main))
    if flipped:
        content = file.read_bytes()
        at = content.rindex(b"parquet-cpp")
        file.write_bytes(content[:at] + b"p\x20" + content[at + 2 :])
    else:
        file.unlink()

    assert [file.first for file in repair(main).damaged] == [first]


def test_repair_when_keys_have_changed(tmp_path):
    """No row is lost that the table's log does not know."""
    statistics = {"numRecords": 3, "minValues": {"cert_index": 5}, "maxValues": {"cert_index": 7}}
    main = add_file(tmp_path / "main", as_type(make_rows([2, 6, 7])), statistics=statistics)
    (file,) = map(Path, files_of(main))
    content = file.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    file.write_bytes(content[:footer] + b"not what was written" + content[footer:])

    assert [file.first for file in repair(main).damaged] == [{LOG: 5}]


def test_repair_when_a_row_of_a_damaged_file_is_repeated(tmp_path):
    """No row is removed in favour of one in a file that is not what was written; it all takes one commit."""
    main = open_table(tmp_path / "main")
    write_proven(main, 0, 10)
    (file,) = files_of(main)
    write_entries(main, make_rows([3]))
    write_entries(main, make_rows([20, 20, 30]))
    flip(Path(file))

    report = repair(main)

    assert (len(report.damaged), report.repeated, report.removed, report.version) == (1, 1, 1, 4)
    assert indices_of(main) == [3, 20, 30]


def test_repair_when_a_file_without_statistics_is_gone(tmp_path):
    """Nobody knows how many rows it had."""
    make_table(tmp_path / "main", make_rows([1]))
    main = add_file(tmp_path / "main", as_type(make_rows([2])))
    (tmp_path / "main/seen_date=2026-03-01/part-of-another-writer.parquet").unlink()

    assert [file.rows for file in repair(main).damaged] == [0]

    assert indices_of(main) == [1]


def test_repair_when_a_page_of_a_foreign_file_is_damaged(tmp_path):
    """What another writer gave checksums of its pages is damaged if one of them does not hold."""
    plain = {"use_dictionary": False, "compression": "none", "write_page_checksum": True}
    main = add_file(tmp_path / "main", as_type(make_rows(range(50))), **plain)
    (file,) = map(Path, files_of(main))
    content = file.read_bytes()
    file.write_bytes(content.replace(b"7.example.com", b"7.example.org"))

    assert len(repair(main).damaged) == 1

    assert indices_of(main) == []


def test_repair_when_a_file_may_be_sound(tmp_path, monkeypatch):
    """A file that this user may not read is none that is damaged."""
    main = make_table(tmp_path / "main", make_rows([1]))
    (file,) = files_of(main)

    def refuse(_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(evidence, "is_damaged", refuse)
    with fails(TableError, uri=file):
        repair(main)

    assert len(commits_of(tmp_path / "main")) == 2


def test_repair_of_files_of_other_writers(tmp_path):
    """Files whose columns are not quite ours are written anew with ours."""
    make_table(tmp_path / "main", make_rows([1, 2]))
    main = add_file(tmp_path / "main", as_type(make_rows([2, 3]), cert_index=pa.int32()))

    repair(main)

    assert rows_of(main) == make_rows([1, 2, 3]).to_pylist()


@pytest.mark.parametrize("as_der", ["binary", "string"])
def test_repair_follows_as_der(tmp_path, as_der):
    """Text stays text, and bytes stay bytes."""
    write_deltalake(tmp_path / "main", make_rows([1, 2, 2, 3], as_der=as_der), partition_by=["seen_date"])
    main = open_table(tmp_path / "main")

    repair(main)

    assert rows_of(main) == make_rows([1, 2, 3], as_der=as_der).to_pylist()


def interfering(monkeypatch, act, *, times=1):
    """Let somebody act just before a repair commits."""
    commit, left = exchange.commit_files, [act] * times

    def commit_after_somebody(*arguments, **options):
        if left:
            left.pop()()
        return commit(*arguments, **options)

    monkeypatch.setattr(exchange, "commit_files", commit_after_somebody)


def test_repair_beside_the_live_server(tmp_path, monkeypatch):
    """What others add meanwhile stays as it is, and the commit is tried again."""
    main = make_table(tmp_path / "main", make_rows([1, 2, 2]))
    interfering(monkeypatch, lambda: write_deltalake(tmp_path / "main", make_rows([2, 5]), mode="append"), times=2)

    report = repair(main)

    assert (report.removed, report.version_before, report.version) == (1, 3, 4)
    assert indices_of(main) == [1, 2, 2, 2, 5, 5]
    assert repair(main).removed == 3


def test_repair_beside_a_compaction(tmp_path, monkeypatch):
    """Where others replace the files meanwhile, the repair starts anew."""
    main = make_table(tmp_path / "main", make_rows([1, 2, 2]), make_rows([2, 3]))
    interfering(monkeypatch, lambda: DeltaTable(tmp_path / "main").optimize.compact())

    report = repair(main)

    assert (report.removed, report.version_before, report.version) == (2, 3, 4)
    assert indices_of(main) == [1, 2, 3]


@pytest.mark.parametrize("step", ["rewrite_files", "link_files", "commit_files", "confirm_files"])
@pytest.mark.parametrize("after", [False, True])
def test_repair_when_it_is_interrupted(tmp_path, monkeypatch, step, after):
    """Before or after whichever step: the table is as before or repaired, and the next call finishes it."""
    main = make_table(tmp_path / "main", make_rows([1, 2, 2]), make_rows([2, 3]))
    files = set((tmp_path / "main").rglob("*.parquet"))
    module = repair_module if step == "rewrite_files" else exchange

    with interrupted(monkeypatch, module, step, after=after):
        repair(main)

    table = open_table(tmp_path / "main")
    assert set(indices_of(table)) == {1, 2, 3}
    if table.version() == 2:
        assert set((tmp_path / "main").rglob("*.parquet")) == files
    repair(main)
    assert indices_of(main) == [1, 2, 3]
    assert not (tmp_path / "main" / "_ctkit_merge").exists()


def test_repair_when_rows_and_counts_disagree(tmp_path, monkeypatch):
    """A repair that would leave another number of rows than it counted changes nothing."""
    main = make_table(tmp_path / "main", make_rows([1, 1, 2]), make_rows([3, 3], day=2))
    rewrite = repair_module.rewrite_files
    monkeypatch.setattr(repair_module, "rewrite_files", lambda *arguments: rewrite(*arguments)[1:])

    with fails(TableError, uri=tmp_path / "main"):
        repair(main)

    assert indices_of(open_table(tmp_path / "main")) == [1, 1, 2, 3, 3]


def test_repair_when_the_table_is_held(tmp_path):
    """Two runs do not repair one table at a time."""
    main = make_table(tmp_path / "main", make_rows([1, 1]))

    with repair_module.hold(main), fails(TableError, uri=tmp_path / "main"):
        repair(main)


KEYS = st.lists(st.tuples(st.integers(0, 8), st.sampled_from([LOG, OTHER_LOG]), st.booleans()), min_size=1, max_size=8)


@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(commits=st.lists(st.tuples(KEYS, st.booleans()), min_size=1, max_size=4))
def test_repaired_tables(tmp_path_factory, commits):
    """Whatever is repeated: each key is there, once, unless its rows contradict; and proven as before."""
    main = open_table(tmp_path_factory.mktemp("repaired") / "main")
    certificates = {}
    for keys, proven in commits:
        rows = []
        for index, url, other in keys:
            row = make_rows([index], url=url)
            rows.append(other_certificate(row) if other and not proven else row)
            certificates.setdefault((url, index), []).append(rows[-1]["sha256"][0].as_py())
        said = [record(0, 9, url=url) for url in (LOG, OTHER_LOG)] if proven else []
        write_entries(main, pa.concat_tables(rows), metadata=metadata_of(said))
    before = {url: proven_of(main, url) for url in (LOG, OTHER_LOG)}

    report = repair(main)

    rows = rows_of(main)
    found = {}
    for row in rows:
        found.setdefault((row["source_url"], row["cert_index"]), []).append(row["sha256"])
    assert found.keys() == certificates.keys()
    assert all(set(found[key]) <= set(certificates[key]) for key in found)
    single = {key for key in found if len(set(certificates[key])) == 1}
    assert all(len(found[key]) == 1 for key in single)
    for url, indices in before.items():
        after = proven_of(main, url)
        assert set(after) <= set(indices)
        assert {index for index in indices if (url, index) in single} <= set(after)
    assert report.conflicts == sum(map(len, found.values())) - len(found)
