"""Questions to tables: DuckDB answers them as plain Python does, and Spark could be asked."""

import inspect
from collections import Counter
from datetime import UTC, datetime
from itertools import groupby

import ibis
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import LOG, OTHER_LOG, add_file, as_type, make_rows

import ctkit
from ctkit.errors import ParameterError
from ctkit.lake import questions
from ctkit.lake.gaps import find_gaps, ranges_by_log
from ctkit.lake.querying import define_table, reading
from ctkit.ranges import END, LARGEST_TREE
from ctkit.schema import KEY, row_schema

SILENT_LOG = "https://silent.example.com"
INDICES = st.none() | st.integers(-3, 30) | st.sampled_from([LARGEST_TREE - 1, LARGEST_TREE, END - 1, END])
KEYS = st.lists(st.tuples(st.sampled_from([LOG, OTHER_LOG, None]), INDICES), max_size=40)
GOOD_KEYS = st.lists(st.tuples(st.sampled_from([LOG, OTHER_LOG]), st.integers(0, 30)), max_size=40)
STAGED = st.tuples(st.sampled_from([LOG, OTHER_LOG]), st.integers(0, 9), st.sampled_from("AB"), st.integers(1, 3))

PLACE = {"file_index": "int64", "file_row_number": "int64"}
ROWS, OTHERS = (ibis.table({**ibis.Schema.from_pyarrow(row_schema()), **PLACE}, name=name) for name in ("rows", "more"))
PAIRS = ibis.table(dict.fromkeys(("pair", "own", "row", "other", "other_row"), "int64"), name="pairs")
LINKS = {"get_entries_url": "string", "data_tile_url": "string"}
EXPECTED = ibis.table({**ROWS.select("cert_index", *questions.COMPARED).schema(), **LINKS}, name="expected")
ASKED = {
    "covered_runs": questions.covered_runs(ROWS, {LOG: (0, 7), OTHER_LOG: (3, 9)}),
    "known_keys": questions.known_keys(ROWS, OTHERS),
    "rows_by_log": questions.rows_by_log(ROWS),
    "source_names": questions.source_names(ROWS),
    "stretches_by_file": questions.stretches_by_file(ROWS),
    "merge_summary": questions.merge_summary(ROWS, ibis.table(PLACE, name="skipped")),
    "merge_sample": questions.merge_sample(ROWS, ibis.table(PLACE, name="skipped"), 5),
    "differing_pairs": questions.differing_pairs(PAIRS, ROWS, OTHERS),
    "counts_of_kinds": questions.counts_of_kinds(ROWS),
    "rows_by": questions.rows_by(questions.counts_of_kinds(ROWS), "issuer_aggregated"),
    "rows_about": questions.rows_about(ROWS, "Example"),
    "rows_of_issuers": questions.rows_of_issuers(ROWS, ibis.table({"issuer_aggregated": "string"}, name="issuers")),
    "places_in_order": questions.places_in_order(ROWS, 40, 20),
    "rows_of_key": questions.rows_of_key(ROWS, LOG, 7),
    "rows_at": questions.rows_at(ROWS, ibis.table(PLACE, name="places"), ["source_url", "cert_index"], first=0, last=9),
    "differences": questions.differences(ROWS, EXPECTED, LOG, first=0, last=9),
}


@pytest.fixture(scope="module")
def ask():
    """Return a function that puts a question to tables of Arrow, by DuckDB."""
    with reading() as connection:

        def ask(question, *tables, **options):
            names = [ibis.util.gen_name("asked") for _ in tables]
            defined = [define_table(connection, name, table) for name, table in zip(names, tables, strict=True)]
            return question(*defined, **options).to_pyarrow()

        yield ask


def table_of(keys):
    """Return keys as a table of Arrow."""
    urls, indices = zip(*keys, strict=True) if keys else ((), ())
    return pa.table([pa.array(urls, pa.string()), pa.array(indices, pa.int64())], KEY)


def with_places(*files):
    """Return the rows of some files with their places."""
    numbers = [(file, row) for file, rows in enumerate(files) for row in range(len(rows))]
    rows = pa.concat_tables(files)
    for name, values in zip(PLACE, zip(*numbers, strict=True), strict=True):
        rows = rows.append_column(name, pa.array(values))
    return rows


def places(*pairs):
    """Return places as a table."""
    return pa.table([pa.array([pair[at] for pair in pairs], pa.int64()) for at in (0, 1)], list(PLACE))


def tuples(table):
    """Return the rows of an answer."""
    return [tuple(row.values()) for row in table.to_pylist()]


def test_every_question_is_here():
    """Each public function of the module is among those that are tried."""
    functions = inspect.getmembers(questions, lambda each: inspect.getmodule(each) is questions)

    assert {name for name, _ in functions if not name.startswith("_")} == ASKED.keys()


@pytest.mark.parametrize("dialect", ["pyspark", "trino"])
@pytest.mark.parametrize("name", ASKED)
def test_question_compiles(name, dialect):
    """Engines for tables that have outgrown one machine can be asked it, and are told the columns by name."""
    sql = ibis.to_sql(ASKED[name], dialect=dialect)

    assert all(column in sql for column in ASKED[name].columns)


def test_question_about_many_logs_compiles():
    """However many logs are asked about, the question is not nested deeper."""
    stretches = {f"https://ct{number}.example.com": (0, number) for number in range(2000)}

    assert f"ct{1999}" in ibis.to_sql(questions.covered_runs(ROWS, stretches), dialect="pyspark")


@given(keys=KEYS, start=st.integers(0, 30), end=st.sampled_from([0, 5, 31, LARGEST_TREE, END]))
@settings(max_examples=60, deadline=None)
def test_covered_runs(ask, keys, start, end):
    """The indices that are asked about and have a row, as few runs, ascending."""
    asked = {LOG: (start, end), OTHER_LOG: (0, 5)}

    found = tuples(ask(questions.covered_runs, table_of(keys), stretches=asked))

    wanted = {
        (url, index) for url, index in keys if url and index is not None and asked[url][0] <= index < asked[url][1]
    }
    assert Counter((url, index) for url, *run in found for index in range(*run)) == Counter(wanted)
    assert found == sorted(found)
    assert not {(url, end) for url, _, end in found} & {(url, start) for url, start, _ in found}


@given(
    main=KEYS,
    staging=KEYS,
    starts=st.tuples(*[st.none() | st.integers(0, 32)] * 2),
    ceilings=st.tuples(*[st.sampled_from([0, 7, 31, LARGEST_TREE])] * 2),
    internal_only=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_gaps_of_ibis_tables_are_those_of_delta_tables(
    tmp_path_factory, ask, main, staging, starts, ceilings, internal_only
):
    """The engine and NumPy agree, whatever the rows: repeated, in any order, without a key, out of range."""
    folder = tmp_path_factory.mktemp("gaps")
    within = dict(zip((LOG, OTHER_LOG), zip(starts, ceilings, strict=True), strict=True)) | {SILENT_LOG: (2, 4)}
    stored = [as_type(make_rows([0] * len(keys))) for keys in (main, staging)]
    for at, keys in enumerate((main, staging)):
        for name in KEY:
            place = stored[at].schema.get_field_index(name)
            stored[at] = stored[at].set_column(place, name, table_of(keys)[name])
    delta = [add_file(folder / name, rows, row_group_size=7) for name, rows in zip(("m", "s"), stored, strict=True)]
    lazy = [ibis.memtable(table_of(keys)) for keys in (main, staging)]

    def find(*tables):
        return find_gaps(*tables, within=within, internal_only=internal_only).to_pylist()

    assert find(*lazy) == find(*delta)
    assert find(lazy[0], delta[1]) == find(*delta)
    assert find(None, ctkit.rows_of(delta[1])) == find(None, delta[1])


@pytest.mark.parametrize("type_", [pa.int32(), pa.uint64(), pa.float64()])
def test_gaps_of_an_ibis_table_with_another_integer(type_):
    """Whatever type indices have, and text that is only bytes, the gaps are those of int64; they can be filled."""
    top = 2**31 - 1
    rows = pa.table({"source_url": pa.array([LOG.encode()] * 3), "cert_index": pa.array([top - 2, None, top], type_)})

    found = find_gaps(ibis.memtable(rows), within={LOG: (None, top + 2)})

    assert [str(each) for each in ranges_by_log(found)[LOG]] == [f"[{top - 1}, {top})", f"[{top + 1}, {top + 2})"]


@pytest.mark.parametrize(
    "rows",
    [
        ibis.memtable({"cert_index": [1]}),
        ibis.memtable({"source_url": ["u"], "cert_index": [1]}).cert_index,
        pa.table({"source_url": ["u"], "cert_index": [1]}),
        pd.DataFrame({"source_url": ["u"], "cert_index": [1]}),
    ],
    ids=["without URLs", "a column", "Arrow", "pandas"],
)
def test_gaps_of_something_else(rows):
    """What is neither an open table nor an ibis table with the two columns is refused."""
    with pytest.raises(ParameterError):
        find_gaps(rows, within={LOG: (0, 5)})


@given(staged=GOOD_KEYS, main=GOOD_KEYS)
@settings(max_examples=30, deadline=None)
def test_known_keys(ask, staged, main):
    """What is staged and in main, each key once."""
    found = ask(questions.known_keys, table_of(staged), table_of(main))

    assert Counter(tuples(found)) == Counter({*staged} & {*main})


@given(keys=GOOD_KEYS)
@settings(max_examples=30, deadline=None)
def test_rows_by_log(ask, keys):
    """Rows, keys, and the first and the last index of each log."""
    found = ask(questions.rows_by_log, table_of(keys))

    by_log = {url: [index for _, index in group] for url, group in groupby(sorted(keys), lambda key: key[0])}
    assert tuples(found) == [(url, len(each), len({*each}), each[0], each[-1]) for url, each in by_log.items()]


def test_source_names(ask):
    """Logs that have a name, the last one by the alphabet; not those that are called by their URL."""
    rows = pa.concat_tables([make_rows([1, 2], name="B"), make_rows([3], name="A"), make_rows([1], url="u", name="u")])

    assert tuples(ask(questions.source_names, rows)) == [(LOG, "B")]


def test_stretches_by_file(ask):
    """Each file and log by itself, without indices that no log has."""
    files = [pa.concat_tables([make_rows([7, -2, 3]), make_rows([4], url=OTHER_LOG)]), make_rows([3, 3])]

    found = ask(questions.stretches_by_file, with_places(*files))

    assert found.column_names == ["source_url", "start", "end", "rows"]
    assert sorted(tuples(found)) == [(LOG, 3, 4, 2), (LOG, 3, 8, 2), (OTHER_LOG, 4, 5, 1)]


@given(
    rows=st.lists(STAGED, min_size=1, max_size=12),
    skipped=st.sets(st.integers(0, 11)),
)
@settings(max_examples=30, deadline=None)
def test_merge_summary_and_sample(ask, rows, skipped):
    """By log, day and name, what is inserted and what is not; and the first rows that are."""
    staged = with_places(*(make_rows([index], url=url, name=name, day=day) for url, index, name, day in rows))
    places_skipped = places(*((row, 0) for row in skipped if row < len(rows)))

    summary = ask(questions.merge_summary, staged, places_skipped)
    sample = ask(questions.merge_sample, staged, places_skipped, count=3)

    groups = {}
    for number, (url, index, name, day) in enumerate(rows):
        groups.setdefault((url, f"2026-03-0{day}", name), []).append((index, number in skipped))
    assert summary.schema.types == [pa.string()] * 3 + [pa.int64()] * 5
    assert summary.column_names == [
        *("source_url", "source_name", "seen_date", "first_index", "last_index", "rows", "inserted", "skipped")
    ]
    assert tuples(summary) == [
        (url, name, day, min(each)[0], max(each)[0], len(each), len(each) - left_out, left_out)
        for (url, day, name), each in sorted(groups.items())
        for left_out in [sum(is_skipped for _, is_skipped in each)]
    ]
    inserted = sorted((url, index) for number, (url, index, *_) in enumerate(rows) if number not in skipped)
    assert tuples(sample.select(KEY)) == inserted[:3]
    assert {"as_der", "chain"}.isdisjoint(sample.column_names)
    assert all(sample.schema.field(name).type == row_schema().field(name).type for name in sample.column_names)


def test_questions_when_staging_has_columns_of_its_own(ask):
    """Whatever else a writer keeps, the answer is the same."""
    staged = with_places(make_rows([1, 2]))
    for name in ("file", "row", "is_skipped", "own", "other_row", "expected_sha1"):
        staged = staged.append_column(name, pa.array([None, "x"]))

    assert tuples(ask(questions.merge_summary, staged, places((0, 1))))[0][-3:] == (2, 1, 1)
    assert ask(questions.merge_sample, staged, places((0, 1)), count=9)["cert_index"].to_pylist() == [1]


@pytest.mark.parametrize("as_bytes", [(), ("staged",), ("others",), ("staged", "others")])
def test_differing_pairs(ask, as_bytes):
    """Pairs of different certificates, also where one writer did not note that a digest is text."""
    tables = {"staged": with_places(make_rows([1, 2]), make_rows([3])), "others": with_places(make_rows([3, 9, 1]))}
    for name in as_bytes:
        place = tables[name].schema.get_field_index("sha256")
        tables[name] = tables[name].set_column(place, "sha256", tables[name]["sha256"].cast(pa.binary()))
    pairs = [(10, 0, 0, 0, 2), (11, 0, 1, 0, 1), (12, 1, 0, 0, 0), (13, 1, 0, 0, 1)]
    columns = dict(zip(PAIRS.columns, zip(*pairs, strict=True), strict=True))

    found = ask(questions.differing_pairs, pa.table(columns), *tables.values())

    assert sorted(tuples(found)) == [(11,), (13,)]


@pytest.mark.parametrize("as_bytes", [False, True])
def test_differences(ask, as_bytes):
    """Each column that differs is named, in the order of the schema; only nulls of what its writer decides."""
    wanted = make_rows(range(6)).to_pylist()
    rows = make_rows([5, 4, 3, 2, 1, 0, 7]).to_pylist() + make_rows([2], url=OTHER_LOG).to_pylist()
    for row in wanted:
        row |= {"get_entries_url": row["cert_link"], "data_tile_url": f"tile of {row['cert_index']}"}
    rows[5] |= {"seen_date": "", "source_name": "", "seen": datetime.now(UTC), "cert_link": "tile of 0"}
    rows[4] |= {"sha1": "", "is_ca": True, "not_before": None, "chain": []}
    rows[3] |= {"all_domains": ["www.example.com"], "chain": ["x"], "cert_link": "elsewhere"}
    rows[2] |= {"serial_number": None, "as_der": b"", "cert_link": None}
    wanted[4]["chain"] = None
    rows[1] |= {"chain": ["as it was"], "seen": None}
    stored = pa.Table.from_pylist(rows, row_schema())
    if as_bytes:
        texts = [field for field in row_schema() if field.type in (pa.string(), pa.list_(pa.string()))]
        for field in texts:
            type_ = pa.binary() if field.type == pa.string() else pa.list_(pa.binary())
            stored = stored.set_column(
                stored.schema.get_field_index(field.name), field.name, stored[field.name].cast(type_)
            )
    links = [(name, pa.string()) for name in ("get_entries_url", "data_tile_url")]
    fields = [row_schema().field(name).with_nullable(True) for name in ("cert_index", *questions.COMPARED)]

    found = ask(
        questions.differences, stored, pa.Table.from_pylist(wanted, pa.schema(fields + links)), url=LOG, first=0, last=4
    )

    assert tuples(found) == [
        (0, ""),
        (1, "sha1, not_before, is_ca, chain"),
        (2, "all_domains, chain, cert_link"),
        (3, "serial_number, as_der"),
        (4, "seen"),
    ]
