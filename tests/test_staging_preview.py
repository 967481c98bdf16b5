"""The look into staging: what it shows is what the table has; no front end is needed."""

import shutil

import pyarrow as pa
import pytest
from blocks import LOG as BLOCK_LOG
from blocks import block_of, certify
from cryptography import x509 as library
from cryptography.hazmat.primitives.serialization import Encoding
from rows import LOG, OTHER_LOG, add_file, as_type, make_rows, make_table
from test_certificate_view import HOSTILE, KEY

import ctkit
from ctkit.desk.parameters import Parameters
from ctkit.desk.staging_preview import MOST_BARS, StagingPreview
from ctkit.errors import ParameterError, TableError
from ctkit.lake import browse
from ctkit.lake.write import write_entries
from ctkit.wire.rows import read_rows


def replaced(rows, **columns):
    """Return rows with other values in some columns."""
    for name, values in columns.items():
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(at), pa.array(values, rows.schema.field(at).type))
    return rows


def tell(preview, **content):
    """Send what the front end would send."""
    preview._received(content)


@pytest.fixture
def staging(tmp_path):
    """Make a table of 112 rows."""
    return make_table(
        tmp_path / "staging", make_rows(range(50, 100)), make_rows(range(60), url=OTHER_LOG, day=2), make_rows([3, 4])
    )


def test_when_nothing_is_staged(tmp_path):
    """Without a table, or with one without rows, the state says so, and nothing is created."""
    preview = StagingPreview(Parameters(staging_path=str(tmp_path / "none")))
    assert (preview.state, preview.report.version, preview.page["rows"]) == ("empty", None, 0)
    assert "run a backfill" in preview.note
    assert list(tmp_path.iterdir()) == []

    assert StagingPreview(ctkit.open_table(tmp_path / "empty")).state == "empty"


def test_when_it_is_not_a_table(tmp_path):
    """What cannot be looked into is an error."""
    (tmp_path / "notes.txt").touch()
    with pytest.raises(TableError):
        StagingPreview(tmp_path)
    with pytest.raises(ParameterError):
        StagingPreview(Parameters())


@pytest.mark.parametrize("form", [lambda table: table, lambda table: table.table_uri])
def test_first_page_before_the_charts(staging, form):
    """The page is there at once, the charts when the report is asked for."""
    preview = StagingPreview(form(staging))
    assert (preview.state, preview.charts, len(preview.page["items"])) == ("loading", None, 20)

    report = preview.report
    assert preview.state == "ready"
    assert (report.rows, report.counts.dates) == (112, {"2026-03-01": 52, "2026-03-02": 60})
    assert preview.charts["dates"] == [["2026-03-01", 52], ["2026-03-02", 60]]
    assert preview.charts["others"] == [0, 0]
    assert report.facts() == {
        "table": str(preview._folder),
        "version": staging.version(),
        "rows": 112,
        "issuers": 1,
        "unreadable": 0,
        "shown": "1 to 20",
    }


def test_page(staging):
    """A row has what an analyst looks for, and where its log serves it."""
    item = StagingPreview(staging).page["items"][0]

    assert item == {
        "log": "Example 2026h2",
        "index": "3",
        "seen": "2026-03-01 12:00",
        "domains": "3.example.com +1",
        "issuer": "Example CA, Example",
        "issuer_in_full": "/C=US/CN=Example CA/O=Example",
        "valid": "2023-11-14 to 2027-01-15",
        "kind": "certificate",
        "entry": f"{LOG}/ct/v1/get-entries?start=3&end=3",
    }


@pytest.mark.parametrize(("start", "first"), [(20, 20), (100, 100), (10**9, 100), (-20, 0)])
def test_turning_pages(staging, start, first):
    """Pages begin within the table, and the report has the one that is shown."""
    preview = StagingPreview(staging)
    tell(preview, do="turn", start=start)

    assert (preview.page["start"], preview.page["within"]) == (first, 112)
    assert preview.report.facts()["shown"] == f"{first + 1} to {min(first + 20, 112)}"
    assert preview.report.page[0]["cert_index"] == int(preview.page["items"][0]["index"])


def test_search(staging):
    """It narrows the rows, not the charts; an empty one shows all again."""
    preview = StagingPreview(staging)
    tell(preview, do="search", text=" 9.EXAMPLE ")
    facts = preview.report.facts()
    assert (preview.state, facts["search"], facts["matches"], facts["rows"]) == ("ready", "9.EXAMPLE", 11, 112)
    assert [item["index"] for item in preview.page["items"]][:2] == ["59", "69"]

    tell(preview, do="search", text="nothing")
    assert (preview.page["matches"], preview.page["items"], preview.report.page) == (0, [], ())
    tell(preview, do="search", text="")
    assert preview.page["matches"] == 112
    assert "search" not in preview.report.facts()


def test_a_click_on_another_page_opens_nothing(staging):
    """A row is one of the page that was clicked on, whatever was asked for meanwhile."""
    preview = StagingPreview(staging)
    clicked = preview.page["number"]
    for meanwhile in ({"do": "turn", "start": 20}, {"do": "search", "text": "9"}, {"do": "refresh"}):
        tell(preview, **meanwhile)
        tell(preview, do="open", page=clicked, row=3)
        assert (preview.certificate, preview.state) == (None, "failed")
        clicked = preview.page["number"]

    preview.turn(0)
    tell(preview, do="open", page=preview.page["number"], row=3)
    assert preview.report.certificate.cert_index == preview.report.page[3]["cert_index"]


def test_rows_of_an_issuer(tmp_path):
    """A choice in the chart shows the rows of that issuer only, and is refused if the chart is another by then."""
    names = ["/CN=E1", "/CN=E1", "/CN=E10", "", "/CN=" + "a" * 5000]
    preview = StagingPreview(make_table(tmp_path / "staging", replaced(make_rows(range(5)), issuer_aggregated=names)))
    assert preview.report.counts.issuers["/CN=E1"] == 2
    assert [shown for shown, *_ in preview.charts["issuers"]][:3] == ["E1", "", "E10"]
    for place, (name, rows, in_full) in enumerate(preview.charts["issuers"]):
        assert in_full.startswith(list(preview.report.counts.issuers)[place][:9])
        tell(preview, do="issuer", place=place, name=name)
        assert (preview.page["matches"], len(preview.page["items"])) == (rows, rows)
        assert (preview.page["issuer"], preview.report.issuer) == (in_full, list(preview.report.counts.issuers)[place])
        assert preview.report.facts()["matches"] == rows

    tell(preview, do="issuer", place=0, name="E10")
    assert preview.state == "failed"
    tell(preview, do="search", text="")
    assert (preview.page["issuer"], preview.report.issuer, preview.page["matches"]) == (None, None, 5)
    tell(preview, do="refresh")
    tell(preview, do="issuer", place=0, name="E1")
    assert (preview.state, preview.page["matches"]) == ("failed", 5)


@pytest.mark.parametrize("part", ["search", "page"])
def test_when_a_search_fails(staging, monkeypatch, part):
    """The record does not say that it was made, or that other rows are those which it found."""
    preview = StagingPreview(staging)
    preview.search("9.example")
    monkeypatch.setattr(browse.RowBrowser, part, lambda *_, **__: [][1])
    tell(preview, do="search", text="5.example")
    report = preview.report

    assert preview.state == "failed"
    assert (report.search, report.matches, len(report.page)) == (
        ("9.example", 11, 11) if part == "search" else ("5.example", 11, 0)
    )


def test_search_that_finds_very_many(staging, monkeypatch):
    """The page says how many can be turned to, and how many there are."""
    monkeypatch.setattr("ctkit.desk.staging_preview.MOST_FOUND", 30)
    monkeypatch.setattr(browse, "MOST_FOUND", 30)
    preview = StagingPreview(staging)
    preview.search("example")
    preview.turn(10**6)

    assert (preview.page["matches"], preview.page["within"], len(preview.page["items"])) == (112, 30, 10)


def test_certificate_is_opened_and_closed(tmp_path):
    """It is the one of the row, its names come in pages, and the record has it as long as it is open."""
    names = library.SubjectAlternativeName([library.DNSName(f"{number}.example") for number in range(120)])
    encoded = certify("leaf.example", KEY, "Example CA", KEY, names).public_bytes(Encoding.DER)
    table = make_table(tmp_path / "staging")
    write_entries(table, pa.Table.from_batches([read_rows(block_of([encoded] * 3), BLOCK_LOG, source_name="a log")]))
    preview = StagingPreview(table)
    tell(preview, do="open", page=preview.page["number"], row=2)

    assert dict(preview.certificate["facts"])["subject"] == "CN=leaf.example"
    assert (preview.certificate["row"], preview.certificate["title"]) == (2, "certificate 2 of a log")
    assert (preview.names["total"], preview.names["items"][0], len(preview.names["items"])) == (
        120,
        "DNS:0.example",
        50,
    )
    tell(preview, do="names", start=100)
    assert (preview.names["start"], len(preview.names["items"])) == (100, 20)
    assert preview.report.certificate.cert_index == preview.report.facts()["opened"] == 2
    assert "BEGIN CERTIFICATE" in preview.report._repr_html_()

    tell(preview, do="close")
    assert (preview.certificate, preview.report.certificate) == (None, None)


def test_when_the_table_has_changed(staging):
    """What is shown is called old, still works, and one look more shows what is there now."""
    preview = StagingPreview(staging)
    write_entries(ctkit.open_table(preview._folder), make_rows([2]))
    tell(preview, do="turn", start=20)
    assert (preview.state, preview.page["rows"], preview.page["start"]) == ("stale", 112, 20)

    tell(preview, do="refresh")
    assert (preview.report.rows, preview.state, preview.note, preview.page["start"]) == (113, "ready", "", 0)


def test_when_somebody_turns_to_it(staging, monkeypatch):
    """The front end asks then whether the table has changed, which the record says, too; it hears when to ask again."""
    preview = StagingPreview(staging)
    records, sent = [], []
    monkeypatch.setattr(preview, "record", lambda: records.append(preview.state))
    monkeypatch.setattr(preview, "send", sent.append)
    tell(preview, do="check")
    assert (preview.state, records) == ("loading", [])
    assert preview.report
    write_entries(ctkit.open_table(preview._folder), make_rows([2]))
    tell(preview, do="check")
    tell(preview, do="check")

    assert (preview.state, records) == ("stale", ["stale"])
    assert sent == [{"what": "checked"}] * 3


def test_rows_without_an_index(tmp_path):
    """What is counted is shown, whatever another writer has left out; only it cannot be opened."""
    rows = as_type(make_rows([4, 5, 6]))
    without = pa.schema([field.with_nullable(True) for field in rows.schema])
    rows = replaced(rows.cast(without), cert_index=[4, None, 5])
    make_table(tmp_path / "staging")
    table = add_file(tmp_path / "staging", rows)
    preview = StagingPreview(table)

    assert (preview.report.rows, [item["index"] for item in preview.page["items"]]) == (3, ["4", "5", "none"])
    tell(preview, do="open", page=preview.page["number"], row=2)
    assert (preview.certificate, preview.state) == (None, "failed")
    tell(preview, do="open", page=preview.page["number"], row=1)
    assert preview.report.certificate.cert_index == 5


def test_when_the_table_is_merged(staging):
    """Its files are gone: that is no failure, and then nothing is staged."""
    preview = StagingPreview(staging)
    shutil.rmtree(preview._folder)
    tell(preview, do="open", page=preview.page["number"], row=0)
    assert preview.state == "stale"

    tell(preview, do="refresh")
    assert (preview.state, preview.report.rows, preview.page["items"]) == ("empty", 0, [])


@pytest.mark.parametrize(
    "content", [{"do": "open", "page": 1, "row": 99}, {"do": "search"}, {"do": "turn", "start": "x"}]
)
def test_when_something_fails(staging, content):
    """It is shown, and what is asked for next works."""
    preview = StagingPreview(staging)
    tell(preview, **content)
    assert preview.state == "failed"
    assert preview.note

    tell(preview, do="search", text="9.example")
    assert (preview.report.matches, preview.state, preview.note) == (11, "ready", "")


def test_when_a_file_is_lost(staging):
    """What cannot be counted is said in the record too, and the rows of the page stay."""
    preview = StagingPreview(staging)
    for file in staging.file_uris():
        with open(file, "wb"):
            pass
    report = preview.report

    assert (preview.state, report.counts, len(report.page)) == ("failed", None, 20)
    assert "cannot be read" in preview.note


@pytest.mark.parametrize(("days", "unit", "bars"), [(MOST_BARS, "date", 62), (63, "month", 3), (2400, "year", 7)])
def test_many_dates(staging, monkeypatch, days, unit, bars):
    """Where there are very many, columns stand for months or years; none is left out."""
    dates = {f"{2020 + day // 372}-{day // 31 % 12 + 1:02}-{day % 31 + 1:02}": 2 for day in range(days)}
    counts = browse.Counts(dates, {"X509LogEntry": 2 * days}, {"/CN=a": 2 * days}, 1, 0)
    monkeypatch.setattr(browse.RowBrowser, "count", lambda _: counts)
    preview = StagingPreview(staging)

    assert preview.report.counts is counts
    assert (preview.charts["unit"], len(preview.charts["dates"])) == (unit, bars)
    assert sum(number for _, number in preview.charts["dates"]) == 2 * days


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda text: ascii(text[:12]))
def test_hostile_text(tmp_path, hostile):
    """Names of logs, issuers and domains are short text in which nothing is hidden, and can be searched for."""
    rows = replaced(
        make_rows(range(2)),
        source_name=[hostile] * 2,
        issuer_aggregated=[hostile] * 2,
        all_domains=[[hostile] * 3, []],
        subject_aggregated=[hostile] * 2,
        cert_link=[hostile] * 2,
    )
    preview = StagingPreview(make_table(tmp_path / "staging", rows))
    html = preview.report._repr_html_()
    preview.search(hostile[:200])

    assert preview.page["matches"] == 2
    assert "<script>" not in html
    sent = str([preview.page, preview.charts, preview.note])
    assert not set("\x1b\u202e\u200b") & set(html + str(preview.report) + sent.replace("\\\\", "\\"))
    assert len(str(preview.page["items"][0]["domains"])) < 200


def test_rows_of_another_writer(tmp_path, monkeypatch):
    """Nulls, and dates that no calendar has, are shown as well as they can be."""
    preview = StagingPreview(make_table(tmp_path / "staging", make_rows([0])))
    (row,) = preview.report.page
    odd = {**dict.fromkeys(row), "cert_index": 5, "not_before": 1 << 62, "not_after": -1}
    monkeypatch.setattr(browse.RowBrowser, "page", lambda *_: pa.Table.from_pylist([odd]))
    preview.turn(0)

    assert preview.page["items"][0]["valid"] == "? to 1969-12-31"
    assert len(preview.report.tables()["rows"]) == 1


def test_record_is_rewritten(staging, monkeypatch):
    """Whatever changes what is shown, rewrites the record."""
    preview = StagingPreview(staging)
    written = []
    monkeypatch.setattr(preview, "record", lambda: written.append(preview.report.facts()))
    for content in ({"do": "search", "text": "9.example"}, {"do": "turn", "start": 0}):
        tell(preview, **content)
    tell(preview, do="open", page=preview.page["number"], row=0)
    tell(preview, do="close")

    assert ["matches" in facts for facts in written] == [True] * 4
    assert ["opened" in facts for facts in written] == [False, False, True, False]
