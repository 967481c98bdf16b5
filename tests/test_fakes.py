"""The knobs of the fake log turn, and the oracle of tables sees what is wrong with one."""

import base64
import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, IncompleteRead, RemoteDisconnected

import deltalake
import fakes
import pyarrow as pa
import pytest
from fakes import UNREADABLE, FakeLog, cert_links, check_table, expected_row

from ctkit.demo.embedded import Request
from ctkit.ranges import RangeSet
from ctkit.schema import row_schema

URL = "http://127.0.0.1:1/fake"
GOOD = FakeLog("Good", 600, unreadable=[7, 8, 9])


@pytest.fixture
def log():
    """Return a log of 600 entries, its knobs to be turned."""
    return FakeLog(size=600)


def get(log, path):
    """Return the log's answer to a path with a query."""
    path, _, query = path.partition("?")
    return log.respond(Request(path, dict(part.split("=") for part in query.split("&") if part)))


def page(log, start, end):
    """Return status and number of entries of a page."""
    response = get(log, f"ct/v1/get-entries?start={start}&end={end - 1}")
    return response.status, response.body.count(b"leaf_input")


def over_http(url, path):
    """Return status, headers and body of an answer that came over the network."""
    connection = HTTPConnection("127.0.0.1", int(url.split(":")[2].split("/")[0]), timeout=5)
    try:
        connection.request("GET", f"/{url.split('/')[-1]}/{path}")
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()
    finally:
        connection.close()


def test_requests_are_remembered(log, serve):
    """Path, query and headers of each request are kept, from any number of threads."""
    url = serve(log)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda n: over_http(url, f"ct/v1/get-entries?start={n}&end={n}"), range(8)))
    over_http(url, "checkpoint")

    assert sorted(query["start"] for _, query, _ in log.requests[:8]) == [*"01234567"]
    assert log.paths() == ["ct/v1/get-entries"] * 8 + ["checkpoint"]
    assert log.paths("check") == ["checkpoint"]
    assert "host" in log.requests[0][2]


@pytest.mark.parametrize(
    ("knobs", "pages"),
    [
        ({"page_size": 32}, {(5, 600): (200, 32), (5, 10): (200, 5)}),
        ({"page_alignment": 32}, {(5, 600): (200, 27), (64, 600): (200, 32)}),
        ({"too_many": 64, "too_many_status": 403}, {(0, 65): (403, 0), (0, 64): (200, 64)}),
        ({"data_lag": 100}, {(490, 600): (200, 10), (500, 600): (400, 0)}),
        ({"data_lag": 100, "tip_status": 404}, {(500, 600): (404, 0)}),
        ({"broken_leaves": {5}}, {(4, 7): (200, 3)}),
    ],
)
def test_pages(log, knobs, pages):
    """Pages are cut, or refused, as the knobs say."""
    vars(log).update(knobs)

    assert {asked: page(log, *asked) for asked in pages} == pages


@pytest.mark.parametrize(
    ("knobs", "statuses"),
    [
        ({"always": 500}, {"checkpoint": 500, "tile/data/000": 500}),
        ({"tip_status": 400}, {"tile/data/002": 400, "tile/data/002.p/88": 200}),
        ({"data_lag": 100}, {"tile/data/001.p/244": 200, "tile/data/001.p/245": 404}),
        ({"missing_partial_tiles": True}, {"tile/data/000": 200, "tile/data/000.p/5": 404, "tile/data/002.p/88": 404}),
        ({"missing_tiles": {1}}, {"tile/data/000": 200, "tile/data/001": 404, "tile/data/001.p/5": 404}),
        ({"missing_full_tiles": {0}}, {"tile/data/000": 404, "tile/data/000.p/9": 200, "tile/data/001": 200}),
        ({"absent": {"checkpoint"}}, {"checkpoint": 404, "ct/v1/get-sth": 200}),
    ],
)
def test_statuses(log, knobs, statuses):
    """What is not there, or not just now, is refused; all else is answered."""
    vars(log).update(knobs)

    assert {path: get(log, path).status for path in statuses} == statuses


@pytest.mark.parametrize("retry_after", ["1", "0.5", "Wed, 21 Oct 2026 07:28:00 GMT", None])
def test_busy(log, serve, retry_after):
    """The next answers have the given statuses and header, those after them are right again."""
    url = serve(log)
    log.busy, log.retry_after = [429, 503], retry_after

    answers = [over_http(url, "checkpoint") for _ in range(3)]

    assert [(status, headers.get("Retry-After")) for status, headers, _ in answers] == [
        (429, retry_after),
        (503, retry_after),
        (200, None),
    ]


@pytest.mark.parametrize("path", ["tile/data/000", "ct/v1/get-entries?start=0&end=9"])
def test_bodies_that_end_early(log, serve, path):
    """A body that breaks off is seen by the client; one that is cut is shorter, and nothing else."""
    url = serve(log)
    whole = over_http(url, path)[2]

    log.broken_bodies = 1
    with pytest.raises(IncompleteRead) as caught:
        over_http(url, path)
    log.cut_bodies = 1

    assert caught.value.partial == whole[: len(whole) // 2]
    assert over_http(url, path)[2] == whole[: len(whole) // 2]
    assert over_http(url, path)[2] == whole


def test_shift(log):
    """A log that answers for other indices than asked for."""
    right = get(log, "ct/v1/get-entries?start=8&end=9").body
    log.shift = 3

    assert get(log, "ct/v1/get-entries?start=5&end=6").body == right
    assert get(log, "tile/data/000").body == b"".join(entry.tile_leaf for entry in log.entries[3:259])


def test_empty_pages(log):
    """An answer without entries, then a right one."""
    log.empty_pages = 1

    assert [page(log, 0, 5), page(log, 0, 5)] == [(200, 0), (200, 5)]


def test_surplus_and_packed_pages(log):
    """Answers carry more than was asked for; pages are packed."""
    log.surplus, log.packs_pages = 7, True

    response = get(log, "ct/v1/get-entries?start=5&end=9")
    assert (response.headers, len(json.loads(gzip.decompress(response.body))["entries"])) == (
        {"Content-Encoding": "gzip"},
        12,
    )


def test_bodies_that_are_something_else(log, serve):
    """Instead of entries there is a page for people, an endless body, a redirect, nothing at all."""
    url = serve(log)
    log.html_bodies = 1
    html = get(log, "tile/data/000").body
    log.flood = b"x" * 1000
    with pytest.raises(IncompleteRead) as caught:
        over_http(url, "ct/v1/get-entries?start=0&end=9")
    log.flood, log.redirect = None, "http://elsewhere.example/"
    status, headers, _ = over_http(url, "tile/data/000")
    log.redirect, log.empty_pages = None, 1

    assert html.startswith(b"<!doctype html>")
    assert (caught.value.partial, caught.value.expected) == (b"x" * 1000, (1 << 27) - 1000)
    assert (status, headers["Location"]) == (302, "http://elsewhere.example/")
    assert [len(get(log, "tile/data/000").body) > 0 for _ in range(2)] == [False, True]


@pytest.mark.parametrize("names_a_time", [True, False])
def test_limit(log, names_a_time, monkeypatch):
    """More requests than the limit allows are refused, whether with the time to wait or without, until it is over."""
    log.limit, log.limit_names_a_time, log.busy_body = (2, 0.05), names_a_time, b"<p>Slow down"

    now = [0.0]
    monkeypatch.setattr(fakes, "monotonic", lambda: now[0])
    answers = [get(log, "checkpoint") for _ in range(3)]
    now[0] = 0.06
    answers.append(get(log, "checkpoint"))

    assert [answer.status for answer in answers] == [200, 200, 429, 200]
    assert (answers[2].body, answers[2].content_type, log.refused) == (b"<p>Slow down", "text/html", 1)
    assert (0 < float(answers[2].headers.get("Retry-After", 0)) <= 0.05) is names_a_time


def test_growing_and_lagging(log):
    """Tree heads show a growing log, or a smaller one."""
    log.grow_by = 10
    grown = [json.loads(get(log, "ct/v1/get-sth").body)["tree_size"] for _ in range(2)]
    log.grow_by, log.lag = 0, 20
    smaller = json.loads(get(log, "ct/v1/get-sth").body)["tree_size"]

    assert (grown, smaller) == ([610, 620], 600)


def test_broken_leaf(log):
    """A leaf that cannot be framed, with sound ones around it."""
    whole = get(log, "tile/data/000").body
    log.broken_leaves = {5, 300}

    broken = get(log, "tile/data/000").body
    differing = [at for at in range(len(whole)) if whole[at] != broken[at]]
    start = sum(len(entry.tile_leaf) for entry in log.entries[:5])
    assert {at - start for at in differing} <= {10, 11, 12, 42, 43, 44}


def test_issuers_that_cannot_be_had(log):
    """An issuer is not there, not just now, or not what it should be."""
    first, second, third = list(log.issuers)[:3]
    log.issuer_status, log.wrong_issuers = {first: 404, second: 500}, {third}

    assert [get(log, f"issuer/{name}").status for name in (first, second, third)] == [404, 500, 200]
    assert get(log, f"issuer/{third}").body != log.issuers[third]


def test_down(log, serve):
    """A log that is down drops every connection, and is back later."""
    url = serve(log)
    log.down = True
    with pytest.raises((RemoteDisconnected, HTTPException)):
        over_http(url, "checkpoint")
    log.down = False

    assert over_http(url, "checkpoint")[0] == 200


def test_unreadable_certificates_are_in_the_tree():
    """A certificate that cannot be read is in a sound entry of a sound tree."""
    types = {GOOD.entries[index].entry_type for index in (7, 8, 9)}

    assert {GOOD.entries[index].certificate for index in (7, 8, 9)} == {UNREADABLE}
    assert types == {0, 1}
    assert json.loads(get(GOOD, "ct/v1/get-entry-and-proof?leaf_index=7&tree_size=600").body)["audit_path"]


def rows_of(start, end, **options):
    """Return the rows that the entries ``[start, end)`` have to become."""
    return [expected_row(GOOD, URL, index, **options) for index in range(start, end)]


def write(path, *parts, as_der="binary"):
    """Return a table of the given rows, each part appended by itself."""
    table = deltalake.DeltaTable.create(str(path), row_schema(as_der), mode="ignore", partition_by=["seen_date"])
    for rows in parts:
        columns = {name: [row[name] for row in rows] for name in row_schema().names}
        if as_der == "string":
            columns["as_der"] = [base64.b64encode(der).decode() for der in columns["as_der"]]
        deltalake.write_deltalake(table, pa.table(columns, row_schema(as_der)), mode="append")
    return deltalake.DeltaTable(str(path))


@pytest.mark.parametrize("as_der", ["binary", "string"])
def test_check_table_when_all_is_right(tmp_path, as_der):
    """Right rows pass, in any order and number of files, with either form of ``as_der``."""
    table = write(tmp_path, rows_of(300, 600), rows_of(0, 200), as_der=as_der)

    check_table(table, {URL: GOOD}, {URL: [(0, 200), (300, 600)]})
    check_table(table, {URL: GOOD}, {URL: RangeSet.of((0, 200), (300, 600))})


def test_check_table_when_it_is_empty(tmp_path):
    """An empty table holds nothing, and nothing else."""
    table = write(tmp_path)

    check_table(table, {URL: GOOD}, {})
    with pytest.raises(AssertionError, match="missing"):
        check_table(table, {URL: GOOD}, {URL: (0, 1)})


@pytest.mark.parametrize(
    ("parts", "within", "what"),
    [
        ([(0, 20)], (0, 21), "missing: .*20"),
        ([(0, 20)], (0, 19), "should not be there: .*19"),
        ([(0, 20)], (1, 20), "should not be there: .*0"),
        ([(0, 20), (5, 6)], (0, 20), "more than once: .*5"),
    ],
)
def test_check_table_when_rows_are_too_many_or_too_few(tmp_path, parts, within, what):
    """Each index is there exactly once, and no other."""
    table = write(tmp_path, *(rows_of(start, end) for start, end in parts))

    with pytest.raises(AssertionError, match=what):
        check_table(table, {URL: GOOD}, {URL: within})


@pytest.mark.parametrize("index", [3, 7], ids=["readable", "unreadable"])
@pytest.mark.parametrize("column", [name for name in row_schema().names if name not in ("cert_index", "source_url")])
def test_check_table_when_one_column_is_wrong(tmp_path, column, index):
    """Each of the columns is looked at, in rows of readable and of unreadable certificates."""
    others = {bool: True, int: 1, str: "other", bytes: b"other", list: ["other"]}
    rows = rows_of(0, 20)
    rows[index][column] = "2020-01-01" if column == "seen_date" else others[type(rows[index][column])]
    table = write(tmp_path, rows)

    with pytest.raises(AssertionError, match=f"row {index} of"):
        check_table(table, {URL: GOOD}, {URL: (0, 20)})


def test_check_table_when_the_schema_is_another(tmp_path):
    """Columns, types and partitioning are part of what is right."""
    deltalake.DeltaTable.create(str(tmp_path / "partition"), row_schema(), partition_by=["source_name"])
    deltalake.DeltaTable.create(str(tmp_path / "columns"), row_schema().remove(0), partition_by=["seen_date"])

    for name in ("partition", "columns"):
        with pytest.raises(AssertionError):
            check_table(deltalake.DeltaTable(str(tmp_path / name)), {}, {})


def test_check_table_with_what_a_run_may_choose(tmp_path):
    """The oracle can be told names, the time of fetching, and issuers that the log lacks."""
    fingerprint = next(iter(GOOD.issuers))
    seen = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp() * 1_000_000)
    table = write(tmp_path, rows_of(0, 50, source_name="Mine", seen=seen, missing_issuers=[fingerprint]))
    within = {URL: (0, 50)}

    check_table(table, {URL: GOOD}, within, source_names={URL: "Mine"}, missing_issuers=[fingerprint], seen=False)
    with pytest.raises(AssertionError):
        check_table(table, {URL: GOOD}, within, source_names={URL: "Mine"}, seen=False)
    with pytest.raises(AssertionError):
        check_table(table, {URL: GOOD}, within, source_names={URL: "Mine"}, missing_issuers=[fingerprint])


def test_cert_links_beyond_a_thousand_tiles():
    """Tile numbers are written in groups of three digits; both protocols have their links."""
    assert cert_links(GOOD, URL, 1_234_567 * 256 + 3) == [
        f"{URL}/ct/v1/get-entries?start=316049155&end=316049155",
        f"{URL}/tile/data/x001/x234/567",
    ]
