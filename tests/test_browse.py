"""Looking into a table: its counts, a search, pages and single rows are those of the rows that it has."""

from collections import Counter

import pyarrow as pa
import pytest
from rows import LOG, OTHER_LOG, add_file, make_rows, make_table

from ctkit.lake import browse
from ctkit.lake.browse import RowBrowser
from ctkit.lake.table import open_table


def with_column(rows, name, values):
    """Return rows with other values in one column."""
    at = rows.schema.get_field_index(name)
    return rows.set_column(at, rows.schema.field(at), pa.array(values, rows.schema.field(at).type))


@pytest.fixture
def table(tmp_path):
    """Make a table of two logs, two days and two issuers; the file of the lower indices was written last."""
    others = with_column(
        make_rows(range(60), url=OTHER_LOG, day=2), "issuer_aggregated", ["/CN=Straße"] * 59 + ["/CN=one"]
    )
    return make_table(tmp_path / "table", make_rows(range(50, 100)), others, make_rows([3, 4]))


def indices(page):
    """Return the keys of a page."""
    return list(zip(page["source_url"].to_pylist(), page["cert_index"].to_pylist(), strict=True))


def test_pages_are_in_the_order_of_keys(table):
    """However the rows are spread over files, and whatever the size of a page; none is left out or repeated."""
    browser = RowBrowser(table)
    keys = [(LOG, index) for index in [3, 4, *range(50, 100)]] + [(OTHER_LOG, index) for index in range(60)]

    assert browser.rows == 112
    assert [key for start in range(0, 130, 50) for key in indices(browser.page(start, 50))] == keys
    assert indices(browser.page(51, 2)) == keys[51:53]
    assert browser.page(112, 20).num_rows == 0


def test_pages_near_each_other_are_ordered_once(table, monkeypatch):
    """Rows are put in order for many pages at a time; far away, again: pages stay the same, in whatever order."""
    ordered = []
    ask = browse.questions.places_in_order
    monkeypatch.setattr(browse, "ORDERED", 40)
    monkeypatch.setattr(browse.questions, "places_in_order", lambda *args: ordered.append(args[1:]) or ask(*args))
    browser = RowBrowser(table)
    keys = [(LOG, index) for index in [3, 4, *range(50, 100)]] + [(OTHER_LOG, index) for index in range(60)]

    for start in (0, 10, 30, 40, 100, 90, 110, 0):
        assert indices(browser.page(start, 10)) == keys[start : start + 10]
    assert ordered == [(0, 40), (20, 40), (80, 40), (0, 40)]


def test_counts(table):
    """They are those of the rows, by date in its order, by issuer from the largest on."""
    counts = RowBrowser(table).count()

    assert list(counts.dates.items()) == [("2026-03-01", 52), ("2026-03-02", 60)]
    kinds = Counter("PrecertLogEntry" if index % 3 else "X509LogEntry" for index in [3, 4, *range(50, 100), *range(60)])
    assert counts.kinds == kinds
    assert list(counts.issuers.items()) == [
        ("/CN=Straße", 59),
        ("/C=US/CN=Example CA/O=Example", 52),
        ("/CN=one", 1),
    ]
    assert (counts.issuers_in_all, counts.unreadable) == (3, 0)


def test_counts_of_the_unreadable(tmp_path, monkeypatch):
    """A row without a signature algorithm is unreadable; issuers beyond the most are counted."""
    monkeypatch.setattr(browse, "MOST_ISSUERS", 2)
    rows = with_column(make_rows(range(4)), "signature_algorithm", ["", "unknown", "", "ecdsa, sha256"])
    rows = with_column(rows, "issuer_aggregated", ["/CN=a", "/CN=b", "", "/CN=d"])
    counts = RowBrowser(make_table(tmp_path / "table", rows)).count()

    assert (counts.unreadable, counts.issuers_in_all, len(counts.issuers)) == (2, 4, 2)


def test_nulls_of_another_writer(tmp_path):
    """Null and no text are one kind, and no row is left out."""
    table, rows = open_table(tmp_path / "table"), make_rows(range(5)).drop_columns(["seen_date"])
    columns = {
        "signature_algorithm": ["", None, "a", "a", "a"],
        "issuer_aggregated": [None, None, "", "/CN=d", "/CN=d"],
        "update_type": [None, "", "a", "a", "a"],
    }
    for name, values in columns.items():
        rows = rows.drop_columns([name]).append_column(name, pa.array(values))
    add_file(tmp_path / "table", rows)
    table.update_incremental()
    browser = RowBrowser(table)
    counts = browser.count()

    assert (counts.issuers, counts.issuers_in_all) == ({"": 3, "/CN=d": 2}, 2)
    assert (counts.kinds, counts.unreadable) == ({"a": 3, "": 2}, 2)
    assert browser.search(issuer="") == 3


def test_rows_of_an_issuer(tmp_path):
    """Each issuer that is counted finds as many rows, whatever is in its name."""
    names = ["/CN=E1", "/CN=E10", "/CN=e1", "", "/CN=\0", "/CN=%", "/CN=" + "a" * 5000, "/CN='\u202e"]
    browser = RowBrowser(make_table(tmp_path / "table", with_column(make_rows(range(8)), "issuer_aggregated", names)))
    issuers = browser.count().issuers

    assert len(issuers) == 8
    assert {issuer: browser.search(issuer=issuer) for issuer in issuers} == issuers
    assert browser.search(issuer="/CN=E1") == 1
    assert browser.page(0, 9)["issuer_aggregated"].to_pylist() == ["/CN=E1"]
    assert browser.search() == 8


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", 112),
        ("www.EXAMPLE.com", 112),
        ("strASSE", 0),
        ("STRAßE", 59),
        ("example ca", 52),
        ("4.example", 12),
        ("%", 0),
        ("_", 0),
        ("com\nwww", 112),
        ("'; DROP TABLE rows; --", 0),
        ("\x00", 0),
        ("\ud800", 0),
    ],
)
def test_search(table, text, found):
    """It is by a part of a domain or the issuer, in any case of letters; nothing in the text is a pattern."""
    browser = RowBrowser(table)

    assert browser.search(text) == found
    assert browser.page(0, 200).num_rows == found


def test_search_that_finds_very_many(table, monkeypatch):
    """All are counted, the first can be turned to, and without a text there are all rows again."""
    monkeypatch.setattr(browse, "MOST_FOUND", 5)
    browser = RowBrowser(table)

    assert browser.search("example") == 112
    assert indices(browser.page(3, 20)) == [(LOG, 51), (LOG, 52)]
    assert browser.search("") == 112
    assert browser.page(100, 20).num_rows == 12


@pytest.mark.parametrize("as_der", ["binary", "string"])
def test_row(tmp_path, as_der):
    """A row of a page, and each row of an entry, is read in full; rows of one key are told apart."""
    table = open_table(tmp_path / "table", as_der="binary" if as_der == "binary" else "text")
    first, again = make_rows([7], as_der=as_der), with_column(make_rows([7], as_der=as_der), "source_name", ["again"])
    for rows in (first, again):
        add_file(tmp_path / "table", rows.drop_columns(["seen_date"]), name=f"{rows['source_name'][0]}.parquet")
    table.update_incremental()
    browser = RowBrowser(table)

    places = browser.places_of(LOG, 7)
    expected = first.to_pylist() + again.to_pylist()
    by_name = sorted((browser.row(place) for place in places), key=lambda row: row["source_name"])
    assert by_name == sorted(expected, key=lambda row: row["source_name"])
    assert (
        sorted((browser.row(row) for row in browser.page(0, 9).to_pylist()), key=lambda row: row["source_name"])
        == by_name
    )
    assert browser.places_of(LOG, 8) == browser.places_of(OTHER_LOG, 7) == []


def test_table_without_rows(tmp_path):
    """It has nothing to count, to find or to show."""
    browser = RowBrowser(open_table(tmp_path / "table"))

    assert (browser.rows, browser.search("a"), browser.page(0, 20).num_rows) == (0, 0, 0)
    assert browser.count().kinds == {}


def test_later_versions_are_not_seen(table, tmp_path):
    """A page that is turned shows the table that was opened."""
    browser = RowBrowser(table)
    make_table(tmp_path / "table", make_rows([200]))

    assert browser.page(0, 200).num_rows == 112
