"""Plans: what a backfill will ask for, counted before it runs, and then what it did ask for."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from fakes import FakeLog, check_table
from hypothesis import given
from hypothesis import strategies as st
from raising import fails

from ctkit.errors import ParameterError
from ctkit.jobs.backfill import backfill
from ctkit.jobs.plan import BANDWIDTH, ENTRY_BYTES, LATENCY, LogPlan, Plan, plan_backfill
from ctkit.lake.gaps import find_gaps
from ctkit.lake.table import open_table
from ctkit.logs.asking import Patience
from ctkit.report import RESULT_MIME_TYPE
from ctkit.schema import GAP_SCHEMA

HASTY = Patience(tries=1)
RFC, STATIC = "https://rfc.example/2026h1", "https://static.example/2026h1"


def pace(**known):
    """Return what is known of a host that is asked for one thing at a time."""
    return SimpleNamespace(**{"concurrency": 1.0, "rate": None, "latency": None, "bandwidth": None, **known})


def plain_log(url=RFC, protocol="rfc6962", **known):
    """Return a log that does not answer."""
    shown = {"page_size": 256, "page_size_known": True, "entry_bytes": None, "pace": pace()}
    return SimpleNamespace(url=url, protocol=protocol, **{**shown, **known})


def gaps_of(url, *ranges):
    """Return a gap table of one log."""
    rows = [dict(zip(GAP_SCHEMA.names, (url, *each), strict=True)) for each in ranges]
    return pa.Table.from_pylist(rows, schema=GAP_SCHEMA)


def plan_one(log, *ranges):
    """Return the plan for one log, which is not asked for anything."""
    (planned,) = plan_backfill([log], gaps_of(log.url, *ranges), ask=False).logs
    return planned


def test_plan_of_both_protocols():
    """Each page or tile counts once; not wanted is the rest of a tile, and what lies between the gaps of a page."""
    ranges = [(5, 7), (200, 210), (300, 1000)]
    logs = [plain_log(), plain_log(STATIC, "static-ct")]
    gaps = pa.concat_tables([gaps_of(log.url, *ranges) for log in logs])

    plan = plan_backfill(logs, gaps, ask=False)

    shared = {"page_size": 256, "requests": 4, "wanted": 712, "binds": "latency"}
    assumed = ("bytes of an entry", "rate", "latency", "bandwidth")
    brought = (210 - 5) + 700
    assert plan == Plan(
        (
            LogPlan(
                source_url=RFC,
                protocol="rfc6962",
                in_vain=brought - 712,
                bytes=brought * ENTRY_BYTES["rfc6962"],
                seconds=4 * LATENCY,
                assumed=assumed,
                extra="",
                **shared,
            ),
            LogPlan(
                source_url=STATIC,
                protocol="static-ct",
                in_vain=1024 - 712,
                bytes=1024 * ENTRY_BYTES["static-ct"],
                seconds=4 * LATENCY,
                assumed=assumed,
                extra="issuers",
                **shared,
            ),
        )
    )
    assert (plan.requests, plan.wanted, plan.seconds) == (8, 1424, 4 * LATENCY)


def test_plan_when_all_is_known():
    """What a log has shown is not assumed: the size of its entries, the pace of its host."""
    known = pace(concurrency=4.0, rate=2.0, latency=0.1, bandwidth=1e6)

    planned = plan_one(plain_log(entry_bytes=1000.5, pace=known), (0, 2560))

    assert (planned.bytes, planned.seconds, planned.binds, planned.assumed) == (2_561_280, 5.0, "requests", ())


@pytest.mark.parametrize(
    ("known", "seconds", "binds"),
    [
        (pace(concurrency=2.0, rate=35 / 60), 10 / (35 / 60), "requests"),
        (pace(concurrency=2.0, rate=100.0, bandwidth=1000.0), 2560.0, "bytes"),
        (pace(concurrency=2.0, latency=3.0), 15.0, "latency"),
        (pace(concurrency=100.0), 2560 * 1000 / BANDWIDTH, "bytes"),
    ],
)
def test_plan_names_the_term_that_binds(known, seconds, binds):
    """The slowest of rate, bandwidth and latency is what a log takes."""
    planned = plan_one(plain_log(entry_bytes=1000, pace=known), (0, 2560))

    assert (planned.seconds, planned.binds) == (pytest.approx(seconds), binds)


@pytest.mark.parametrize(("rate", "shown"), [(10, "below 1 s"), (5, "0:00:01"), (1 / 60, "0:05:00")])
def test_plan_shows_how_long_it_takes(rate, shown):
    """Times are whole seconds, but less than one second is not shown as zero."""
    log = plain_log(pace=pace(concurrency=100.0, rate=rate, bandwidth=1e9))

    (time,) = plan_backfill([log], gaps_of(log.url, (0, 5 * 256)), ask=False).table()["time"]

    assert time == shown


@pytest.mark.parametrize("known", [{}, {"rate": 1e-9}])
def test_plan_of_as_many_entries_as_a_log_can_claim(known):
    """The plan of the largest log, and of a host that hardly answers, can be made and shown like others."""
    log = plain_log(page_size=32, pace=pace(**known))

    plan = plan_backfill([log], gaps_of(log.url, (0, 1 << 40)), ask=False)

    assert (plan.requests, plan.wanted) == (1 << 35, 1 << 40)
    assert len(plan.table()) == 1
    assert plan._repr_html_()


def test_plan_when_logs_share_a_host():
    """Logs of one host take turns; other hosts are asked meanwhile."""
    logs = [plain_log(f"https://a.example/{name}") for name in "xyz"] + [plain_log("https://b.example/x")]
    gaps = pa.concat_tables([gaps_of(log.url, (0, 256 * 4)) for log in logs])

    plan = plan_backfill(logs, gaps, ask=False)

    assert plan.seconds == 3 * 4 * LATENCY


def test_plan_when_the_page_size_is_a_guess():
    """It is said that the page size of a log that was not asked is assumed."""
    assert plan_one(plain_log(page_size_known=False), (0, 1)).assumed[0] == "page size"


def test_plan_when_a_gap_is_of_another_log():
    """A gap of a log that was not given is an error that names it."""
    with fails(ParameterError, keys=("gaps",)):
        plan_backfill([plain_log()], gaps_of(STATIC, (0, 1)))


def test_plan_when_there_is_nothing_to_do():
    """Without gaps the plan is empty, takes no time, and can be shown."""
    plan = plan_backfill([plain_log()], GAP_SCHEMA.empty_table())

    assert (plan, plan.seconds) == (Plan(()), 0.0)
    assert str(plan) == "plan logs=0 requests=0 entries_wanted=0 in_vain=0 bytes=0 seconds=0.0"
    assert "plan" in plan._repr_html_()


def test_plan_shows_itself():
    """A plan is a line of text, a table in HTML and facts in JSON."""
    plan = plan_backfill([plain_log()], gaps_of(RFC, (0, 256 * 20_000)), ask=False)

    assert str(plan).startswith("plan logs=1 requests=20000 entries_wanted=5120000 in_vain=0 bytes=31063040000 ")
    for text in (RFC, "20,000", "1:23:20", "latency", "bytes of an entry, rate, latency, bandwidth"):
        assert text in plan._repr_html_()
    assert json.loads(json.dumps(plan._repr_mimebundle_()[RESULT_MIME_TYPE]))["requests"] == 20_000
    assert json.loads(json.dumps([dataclasses.asdict(log) for log in plan.logs]))[0]["binds"] == "latency"


indices = st.integers(0, 400)


@given(st.lists(st.tuples(indices, indices)), st.integers(1, 64))
def test_plan_equals_set_arithmetic(pairs, page_size):
    """Whatever the gaps, requests and entries are those that counting index by index gives."""
    wanted = {index for start, end in pairs for index in range(start, end)}
    pages = [[index for index in wanted if index // page_size == page] for page in range(400 // page_size + 1)]
    pages = [page for page in pages if page]
    logs = [plain_log(page_size=page_size), plain_log(STATIC, "static-ct", page_size=page_size)]

    plan = plan_backfill(logs, pa.concat_tables([gaps_of(log.url, *pairs) for log in logs]), ask=False)

    counted = [(log.requests, log.wanted, log.in_vain) for log in plan.logs]
    spans = sum(max(page) + 1 - min(page) for page in pages)
    assert counted == (
        [(len(pages), len(wanted), brought - len(wanted)) for brought in (spans, len(pages) * page_size)]
        if wanted
        else []
    )


@pytest.fixture(scope="module")
def holes():
    """Return 1,000 of 40 times 64 indices, 25 of each 64."""
    random = np.random.default_rng(4)
    return np.concatenate([page * 64 + np.sort(random.choice(64, 25, replace=False)) for page in range(40)])


@pytest.mark.parametrize("alignment", [1, 64])
def test_a_thousand_gaps_in_40_pages(tmp_path, opened, holes, alignment):
    """In a log that is not known yet, they are filled with at most 40 requests, as the plan says."""
    log = FakeLog("Thrifty", 2560, protocols=["rfc6962"], page_size=64)
    log.page_alignment = alignment
    client = opened(log, "rfc6962")
    url = client.url
    gaps = gaps_of(url, *((index, index + 1) for index in holes.tolist()))
    assert backfill([client], gaps, open_table(tmp_path / "unplanned")).complete
    assert log.data_requests <= 40

    client, before = opened(log, "rfc6962"), log.data_requests
    plan = plan_backfill([client], gaps)
    assert log.data_requests == before + 1
    report = backfill([client], gaps, open_table(tmp_path / "planned"))
    assert (plan.requests, plan.wanted, log.data_requests - before - 1) == (40, 1000, 40)
    assert report.written == {url: 1000}
    for name in ("unplanned", "planned"):
        check_table(open_table(tmp_path / name), {url: log}, {url: [(index, index + 1) for index in holes.tolist()]})


def test_a_thousand_gaps_in_40_tiles(tmp_path, opened, holes):
    """The same of a Static CT log: planning asks for nothing, and the run for the 40 tiles."""
    log = FakeLog("Thrifty", 40 * 256, protocols=["static-ct"])
    client, indices = opened(log, "static-ct"), (holes * 4).tolist()
    url = client.url
    gaps = gaps_of(url, *((index, index + 1) for index in indices))
    plan = plan_backfill([client], gaps)
    assert log.requests == []
    backfill([client], gaps, open_table(tmp_path / "staging")).check()

    assert (plan.requests, plan.wanted, log.data_requests) == (40, 1000, 40)
    check_table(open_table(tmp_path / "staging"), {url: log}, {url: [(index, index + 1) for index in indices]})


def test_plan_when_a_log_is_down(opened):
    """A log that does not answer is planned all the same, with a page size that is said to be assumed."""
    log = FakeLog("Down", 300, protocols=["rfc6962"])
    client = opened(log, "rfc6962", patience=HASTY)
    log.down = True
    plan = plan_backfill([client], find_gaps(None, within={client.url: (0, 300)}))

    (planned,) = plan.logs
    assert (planned.page_size, planned.requests, planned.assumed[0]) == (1024, 1, "page size")
