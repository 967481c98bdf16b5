"""Certificates by name: the index answers like a scan of the table, whatever is in the table or has become of it."""

import os
import random
import shutil
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import LOG, OTHER_LOG, add_file, as_type, make_rows, make_table

import ctkit
from ctkit.ask import asking, index
from ctkit.ask.names import folded, turn, turned
from ctkit.errors import ParameterError, TableError

HOSTILE = [
    "example.com",
    "EXAMPLE.com.",
    "www.example.com",
    "*.example.com",
    "*.*.example.com",
    "notexample.com",
    "-example.com",
    "my-example.com",
    "example.com.evil.org",
    "example.co",
    "example.comm",
    "xample.com",
    "com",
    ".example.com",
    "a..example.com",
    "a/example.com",
    "a.example.com/",
    "",
    ".",
    "bücher.example",
    "BÜCHER.example",
    "xn--bcher-kva.example",
    "www.xn--bcher-kva.example",
    "Bu\u0308cher。example",
    "straße.example.com",
    "\u202eexample.com",
    "a\nb.example.com",
    "it's.example.com",
    'say "hi".example.com',
    "%.example.com",
    "_dmarc.example.com",
    "\\.example.com",
    "Example Company Ltd.",
    "user@example.com",
    "192.0.2.1",
    "💩.example.com",
    "İ.example.com",
    "\U0010ffff.example.com",
    "a" * 300 + ".example.com",
]
DOMAINS = [
    "example.com",
    "Example.COM.",
    "*.example.com",
    "com",
    "bücher.example",
    "XN--BCHER-KVA.example",
    "evil.org",
    "ltd",
    "a..example.com",
    "example.com/",
    "💩.example.com",
    "straße.example.com",
    "it's.example.com",
    "no.example",
]
LETTERS = st.text("aA.*-_%\\'xnü\u0308İß。\n", max_size=6)
NAMES = st.sampled_from(HOSTILE) | st.builds("{}.example.com".format, LETTERS) | LETTERS | st.text(max_size=8)


def rows_with(*names, start=0, **options):
    """Return rows with these names, a list for each row."""
    rows = make_rows(range(start, start + len(names)), **options)
    at = rows.schema.get_field_index("all_domains")
    return rows.set_column(at, rows.schema.field(at), pa.array(names, rows.schema.field(at).type))


def scanned(table, wanted, *, dates=("", "~"), kind=None):
    """Return what `find_names` should, by a look at each name of each row."""
    kinds = {"X509LogEntry": "certificate", "PrecertLogEntry": "precertificate"}
    found = set()
    for row in ctkit.rows_of(table).to_pyarrow().to_pylist():
        if dates[0] <= row["seen_date"] < dates[1] and kind in (None, kinds[row["update_type"]]):
            entry = (kinds[row["update_type"]], row["seen_date"], row["source_url"], row["cert_index"])
            found |= {(name, *entry) for name in map(folded, row["all_domains"]) if wanted(name)}
    return sorted(found)


def below(domain):
    """Tell whether a folded name is that of a domain or below it."""
    return lambda name: name == folded(domain) or name.endswith(f".{folded(domain)}")


def answer(names):
    """Return the rows of an answer; they are as many as there are different ones."""
    rows = sorted(tuple(row.values()) for row in names.to_pyarrow().to_pylist())
    assert len(set(rows)) == len(rows)
    return rows


def check(table, **options):
    """Hold an answer that has nearly all names against a scan."""
    assert answer(ctkit.find_names(table, "com", **options)) == scanned(table, below("com"))


@pytest.fixture
def main(tmp_path):
    """Return a table of hostile names, in two files."""
    one, two = ([[name] for name in names] for names in (HOSTILE[::2], HOSTILE[1::2]))
    return make_table(tmp_path / "main", rows_with(*one), rows_with(*two, url=OTHER_LOG, day=2))


@pytest.mark.parametrize("domain", DOMAINS)
def test_hostile_names(main, cache, domain):
    """Names are found as DNS compares them, and those that are no host names too; a wildcard is a name."""
    exact = answer(ctkit.find_names(main, domain, exact=True))

    assert answer(ctkit.find_names(main, domain)) == scanned(main, below(domain))
    assert exact == scanned(main, lambda name: name == folded(domain))


@settings(max_examples=10)
@given(st.lists(st.lists(NAMES, max_size=5), min_size=1, max_size=12), NAMES)
def test_any_names(tmp_path_factory, rows, domain):
    """Whatever a row's names are, the answers are those of a scan."""
    folder = tmp_path_factory.mktemp("any")
    table = make_table(folder / "main", rows_with(*rows))
    for asked in {domain, *rows[0][:2]}:
        if folded(asked) and "\0" not in asked:
            found = ctkit.find_names(table, asked, index_path=folder / "names")
            assert answer(found) == scanned(table, below(asked))


def test_ten_thousand_names_of_one_certificate(tmp_path, cache):
    """Each is found, once, and all of them."""
    names = [f"n{at}.example.com" for at in range(10_000)]
    table = make_table(tmp_path / "main", rows_with([*names, names[0].upper()], ["www.n7.example.com"]))

    assert ctkit.find_names(table, "example.com").count().to_pyarrow().as_py() == 10_001
    assert [row[0] for row in answer(ctkit.find_names(table, "n7.example.com"))] == [
        "n7.example.com",
        "www.n7.example.com",
    ]


@pytest.mark.parametrize(
    "pattern",
    [
        "*",
        "*example*",
        "*.example.com",
        "?.example.com",
        "example.c?m",
        "%.example.com",
        "*xn--b*",
        "bücher.*",
        "a*com",
        "*.",
    ],
)
def test_patterns(main, cache, pattern):
    """An asterisk stands for any characters, a question mark for one, and nothing else for anything else."""

    def wanted(name):
        return fnmatchcase(name, folded(pattern).replace("[", "[[]"))

    assert answer(ctkit.search_names(main, pattern)) == scanned(main, wanted)


def test_dates_and_kinds(main, cache):
    """Dates are half-open, as everywhere."""
    for within in [("2026-03-01", "2026-03-02"), (date(2026, 3, 2), None), (None, "2026-03-02"), (None, None)]:
        dates = (str(within[0] or ""), str(within[1] or "~"))
        assert answer(ctkit.find_names(main, "com", within=within)) == scanned(main, below("com"), dates=dates)
    for kind in ("certificate", "precertificate"):
        assert answer(ctkit.find_names(main, "com", kind=kind)) == scanned(main, below("com"), kind=kind)
    found = ctkit.search_names(main, "*a*", kind=kind, within=("2026-03-02", None))
    assert answer(found) == scanned(main, lambda name: "a" in name, kind=kind, dates=("2026-03-02", "~"))


@settings(max_examples=30)
@given(data=st.data())
def test_first_of_many(tmp_path_factory, data):
    """A limit gives the first rows of all, of however many logs, runs and equal names they are."""
    folder = tmp_path_factory.mktemp("first")
    names = st.sampled_from(["a.example.com", "A.example.com", "b.example.com", "example.com", "x.org"])
    commits = st.lists(st.lists(names, max_size=3), min_size=1, max_size=4)
    for number, commit in enumerate(data.draw(st.lists(commits, min_size=1, max_size=3))):
        rows = rows_with(*commit, start=10 * number, url=data.draw(st.sampled_from([LOG, OTHER_LOG])))
        table = make_table(folder / "main", rows)
        ctkit.index_names(table, index_path=folder / "names")
    limit, kind = data.draw(st.integers(1, 8)), data.draw(st.sampled_from([None, "certificate"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "_STEP", data.draw(st.integers(1, 4)))
        first = ctkit.find_names(table, "com", limit=limit, kind=kind, index_path=folder / "names").to_pyarrow()
    whole = ctkit.find_names(table, "com", kind=kind, index_path=folder / "names").to_pyarrow()

    assert first.to_pylist() == whole.to_pylist()[:limit]


def test_no_more_than_the_first_are_read(tmp_path, cache, monkeypatch):
    """What comes after them is not looked at."""
    table = make_table(tmp_path / "main", rows_with(*[[f"n{at:03}.example.com"] for at in range(100)]))
    looked = []
    monkeypatch.setattr(asking, "_STEP", 10)
    monkeypatch.setattr(
        asking, "_enough", lambda *given, enough=asking._enough: (looked.append(len(b)) or b for b in enough(*given))
    )

    assert ctkit.find_names(table, "com", limit=15).count().to_pyarrow().as_py() == 15
    assert sum(looked) == 20
    with pytest.raises(ParameterError):
        ctkit.find_names(table, "com", limit=-1)


def test_names_too_long_for_statistics(tmp_path, cache):
    """Groups of names that Parquet keeps no bounds of are looked into."""
    names = [f"{letter * 5000}.example.com" for letter in "abc"]
    table = make_table(tmp_path / "main", rows_with(*[[name] for name in names]))

    assert [row[0] for row in answer(ctkit.find_names(table, names[1]))] == [names[1]]


def test_certificates_of_names(main, cache):
    """The entries of an answer in full, each once, and none else; also of another backend's table."""
    names = ctkit.find_names(main, "example.com")
    keys = {f"{url}#{at}" for _, _, _, url, at in answer(names)}

    assert sorted(ctkit.certificates(main, names).key.to_pyarrow().to_pylist()) == sorted(keys)
    assert ctkit.certificates(main, names.limit(0)).count().to_pyarrow().as_py() == 0
    rows, same = (ibis.memtable(table.to_pyarrow()) for table in (ctkit.rows_of(main), names))
    assert set(ctkit.certificates(rows, same).key.to_pyarrow().to_pylist()) == keys


def runs_in(folder):
    """Return the names of the runs of an index."""
    return {path.name for path in folder.rglob("*.parquet")}


def test_only_what_is_new_is_read(tmp_path, monkeypatch):
    """Files of the table are read once, and few runs are left of many; an old version is answered as it was."""
    read = []
    monkeypatch.setattr(
        index, "read_names", lambda path, number, read_=index.read_names: read.append(path) or read_(path, number)
    )
    path, names = tmp_path / "main", tmp_path / "names"
    for at in range(10):
        table = make_table(path, rows_with([f"n{at}.example.com", f"n{at}.org"], start=at))
        check(table, index_path=names)
        assert len(read) == len(set(read)) == at + 1
        assert len(runs_in(names)) <= 4
    old = ctkit.open_table(path)
    old.load_as_version(4)
    check(old, index_path=names)
    assert len(read) == 10
    assert ctkit.index_names(table, index_path=names) == 20


def test_other_writers(tmp_path, cache):
    """Rows that others delete are gone, and compacted ones are there once; so with each older version."""
    path = tmp_path / "main"
    commits = [rows_with([f"n{at}.example.com"], ["www.example.com"], start=2 * at) for at in range(6)]
    table = make_table(path, *commits)
    check(table)
    table.delete("cert_index = 3")
    check(table)
    table.optimize.compact()
    check(table)
    table = make_table(path, rows_with(["new.example.com"], start=99))
    check(table)
    for version in range(table.version() + 1):
        table.load_as_version(version)
        check(table)
    assert ctkit.tidy(ctkit.open_table(path))
    check(ctkit.open_table(path))


def damage_list(folder):
    """Flip a byte in the list of runs."""
    content = bytearray((folder / "runs").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "runs").write_bytes(content)


def damage_runs(folder):
    """Make other bytes of each run, as long as it was, of the same time."""
    for path in folder.glob("*.parquet"):
        times = path.stat()
        path.write_bytes(random.Random(1).randbytes(times.st_size))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def cut_runs(folder):
    """Cut each run in half."""
    for path in folder.glob("*.parquet"):
        os.truncate(path, path.stat().st_size // 2)


def remove_runs(folder):
    """Leave the list only."""
    for path in folder.glob("*.parquet"):
        path.unlink()


def remove_list(folder):
    """Leave the runs only, and what a build that died has left."""
    (folder / "runs").unlink()
    (folder / f"{'0' * 32}.parquet").write_bytes(b"PAR1 half a run")


@pytest.mark.parametrize("damage", [damage_list, damage_runs, cut_runs, remove_runs, remove_list, shutil.rmtree])
def test_damaged_index(main, tmp_path, damage):
    """It is built again, and nothing of the old one stays."""
    names = tmp_path / "names"
    check(main, index_path=names)
    before = runs_in(names)
    (own,) = names.iterdir()
    damage(own)
    check(main, index_path=names)

    assert len(runs_in(names)) == 1
    assert runs_in(names).isdisjoint(before) or damage is damage_list


def test_index_that_another_process_builds_again(main, tmp_path, monkeypatch, caplog):
    """The runs that were to be read are gone: the new ones answer, and nothing is called damaged."""
    names = tmp_path / "names"
    check(main, index_path=names)

    def read_late(*given, read=asking.read_between):
        monkeypatch.setattr(asking, "read_between", read)
        shutil.rmtree(names)
        ctkit.index_names(main, index_path=names)
        return read(*given)

    monkeypatch.setattr(asking, "read_between", read_late)
    check(main, index_path=names)
    assert asking.read_between is not read_late
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


@pytest.mark.parametrize("ask", [ctkit.find_names, ctkit.search_names])
def test_nul_in_a_question(tmp_path, cache, ask):
    """It cannot be asked for; a name that has one is found with a question mark in its place."""
    table = make_table(tmp_path / "main", rows_with(["a\0b.example.com"]))
    with pytest.raises(ParameterError):
        ask(table, "a\0b.example.com")
    assert [row[0] for row in answer(ctkit.search_names(table, "a?b.example.com"))] == ["a\0b.example.com"]


def test_question_that_cannot_be_answered(main, tmp_path):
    """The index is not to blame, and stays."""
    names = tmp_path / "names"
    check(main, index_path=names)
    before = runs_in(names)
    with pytest.raises(TableError):
        ctkit.search_names(main, "?" * 3_000_000, index_path=names)
    assert runs_in(names) == before


def test_build_that_is_interrupted(main, tmp_path, monkeypatch):
    """What was written stays, and nothing else; the next one goes on there."""
    monkeypatch.setattr(index, "BYTES_PER_RUN", 0)
    built = []

    def build(table, folder, files, build_=index._build):
        if built:
            raise KeyboardInterrupt
        return built.append(files) or build_(table, folder, files)

    names = tmp_path / "names"
    with monkeypatch.context() as patch:
        patch.setattr(index, "_build", build)
        with pytest.raises(KeyboardInterrupt):
            ctkit.index_names(main, index_path=names)
    assert len(runs_in(names)) == 1
    check(main, index_path=names)
    assert len(runs_in(names)) == 2


def test_index_of_another_table(main, tmp_path):
    """Tables that share a folder keep their indexes apart."""
    other = make_table(tmp_path / "other", rows_with(["other.example.com"]))
    names = tmp_path / "names"
    check(other, index_path=names)
    of_other = runs_in(names)
    check(main, index_path=names)
    assert runs_in(names) > of_other
    check(other, index_path=names)


def test_table_that_is_made_anew(tmp_path, cache):
    """Another table at the same path has its own names."""
    check(make_table(tmp_path / "main", rows_with(["old.example.com"])))
    shutil.rmtree(tmp_path / "main")
    check(make_table(tmp_path / "main", rows_with(["new.example.com"])))


def test_index_stays_outside_of_the_table(main, tmp_path, monkeypatch):
    """Neither in the table, nor among other things, nor nowhere; and nothing is written there."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").touch()
    for wrong in ("main", "main/names", "home", "home/letter.txt"):
        with pytest.raises(ParameterError):
            ctkit.find_names(main, "example.com", index_path=tmp_path / wrong)
    monkeypatch.setenv("CTKIT_CACHE", "")
    with pytest.raises(ParameterError):
        ctkit.find_names(main, "example.com")
    assert os.listdir(tmp_path / "home") == ["letter.txt"]
    assert not (tmp_path / "main" / "names").exists()


@pytest.mark.parametrize("damage", [os.unlink, lambda path: os.truncate(path, 100)])
def test_damaged_table(main, cache, damage):
    """A file of the table that is not what it was is an error, also where the index has its names."""
    ctkit.index_names(main)
    damage(next(iter(main.file_uris())).removeprefix("file://"))
    with pytest.raises(TableError):
        ctkit.find_names(main, "example.com")


def test_damaged_names_of_the_table(main, cache):
    """A file that is as long as it was but cannot be read is named; the index has nothing of it."""
    path = Path(next(iter(main.file_uris())).removeprefix("file://"))
    path.write_bytes(random.Random(1).randbytes(path.stat().st_size))
    with pytest.raises(TableError) as raised:
        ctkit.find_names(main, "example.com")
    assert raised.value.uri == str(path)
    assert not [*cache.rglob("*.parquet")]


def test_interrupt_is_one(main, cache, monkeypatch):
    """Ctrl+C while a file is read ends the call as it should."""

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(index, "read_names", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ctkit.index_names(main)
    assert not [*cache.rglob("*.parquet")]


def test_other_writers_columns(tmp_path, cache):
    """Nulls, text that is not marked as such, and large lists, as others write them."""
    types = {"source_url": pa.binary(), "update_type": pa.binary(), "all_domains": pa.large_list(pa.binary())}
    rows = rows_with(["a.example.com", None], ["b.example.com"])
    add_file(tmp_path / "main", as_type(rows, **types), store_schema=False)
    found = ctkit.find_names(ctkit.open_table(tmp_path / "main"), "example.com")

    assert answer(found) == [
        ("a.example.com", "certificate", "2026-03-01", LOG, 0),
        ("b.example.com", "precertificate", "2026-03-01", LOG, 1),
    ]


def test_empty_table(tmp_path, cache):
    """It has no names."""
    table = ctkit.open_table(tmp_path / "main")

    assert ctkit.find_names(table, "example.com").count().to_pyarrow().as_py() == 0
    assert ctkit.index_names(table) == 0


def test_runs_are_sorted_and_small(main, cache):
    """Readers skip by the statistics of names; a run is in order."""
    ctkit.index_names(main)
    (run,) = cache.rglob("*.parquet")
    names = pq.read_table(run)["name"].to_pylist()

    assert names == sorted(names, key=str.encode)
    assert pq.read_metadata(run).row_group(0).column(0).statistics.has_min_max


@given(st.lists(NAMES))
def test_names_in_arrow_are_those_in_python(names):
    """They are folded and turned alike, and folding a second time changes nothing."""
    assert turn(pa.array(names, pa.string())).to_pylist() == [turned(folded(name)) for name in names]
    assert [folded(folded(name)) for name in names] == [folded(name) for name in names]
