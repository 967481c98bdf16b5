"""What logs really do, one test each: what can be had is written and right, what cannot is named, nothing else happens.

Each test ends with a table that is complete and equal to the log, or lacks exactly the named holes; and once the log is
well again, another run completes it.
"""

import gzip
import re
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from deltalake import DeltaTable
from fakes import AGENT, FakeLog, Serve, check_table
from rows import rows_of

from ctkit.demo.embedded import DEFAULT_START, Request, Response
from ctkit.demo.issuance import Issued, issue
from ctkit.demo.server import LogServer
from ctkit.jobs.backfill import BackfillReport, backfill
from ctkit.lake.gaps import find_gaps
from ctkit.lake.table import open_table
from ctkit.logs.asking import HttpError, Patience
from ctkit.logs.http import Client
from ctkit.logs.log import Log
from ctkit.logs.open import open_log
from ctkit.logs.static_ct import StaticCtLog
from ctkit.ranges import RangeSet

SHORT = Patience(tries=4, first_wait=0.005, longest_wait=0.5, timeout=5, total=20)
SIZE = 600
MIB = 1 << 20
HTML = b"<!doctype html><p>Too many requests"
EVER = 1 << 30

Ranges = list[tuple[int, int]]

RFC6962, STATIC_CT = "rfc6962", "static-ct"
BOTH = (RFC6962, STATIC_CT)


@contextmanager
def opened(url: str, protocol: str = "auto") -> Iterator[Log]:
    """Open a log that shows its tree head before it misbehaves."""
    with open_log(url, user_agent=AGENT, protocol=protocol, name="a log", patience=SHORT) as log:
        log.get_checkpoint()
        yield log


def run(log: Log, table: DeltaTable, end: int = SIZE) -> BackfillReport:
    """Fill the table from the log, as a user would."""
    return backfill([log], find_gaps(None, table, within={log.url: (0, end)}), table)


def check(
    report: BackfillReport, table: DeltaTable, fake: FakeLog, holes: Ranges, end: int = SIZE, **more: Any
) -> None:
    """Fail unless the table has exactly the entries that are in no hole, and the report names exactly the holes."""
    (url,) = report.wanted
    lost = RangeSet.of(*holes)
    assert [*RangeSet.of(*((hole.start, hole.end) for hole in report.holes))] == [*lost]
    assert report.wanted[url] - report.written[url] == lost.size
    assert report.complete is (not holes)
    edges = [0, *(edge for hole in lost for edge in (hole.start, hole.end)), end]
    check_table(
        table, {url: fake}, {url: list(zip(edges[::2], edges[1::2], strict=True))}, source_names={url: "a log"}, **more
    )


HEALING = [
    ("short pages, aligned to 32", [RFC6962], {"page_alignment": 32}),
    ("short pages, aligned to 64", [RFC6962], {"page_alignment": 64}),
    ("short pages, aligned to 256", [RFC6962], {"page_alignment": 256, "page_size": 1000}),
    ("short pages of 100", [RFC6962], {"page_size": 100}),
    ("longer answers than asked for", BOTH, {"surplus": 7}),
    ("no entries in an answer", BOTH, {"empty_pages": 2}),
    ("403 with a size message", [RFC6962], {"too_many": 70, "too_many_status": 403}),
    ("413", [RFC6962], {"too_many": 70, "too_many_status": 413}),
    ("500 with a size message", [RFC6962], {"too_many": 70, "too_many_status": 500}),
    ("429 with HTML, without Retry-After", BOTH, {"busy": [429] * 3, "busy_body": HTML}),
    ("429 with an empty body", BOTH, {"busy": [429] * 3, "busy_body": b""}),
    ("429 with Retry-After in a fraction", BOTH, {"busy": [429] * 2, "retry_after": "0.015"}),
    ("429 with Retry-After as a date", BOTH, {"busy": [429], "retry_after": "Wed, 21 Oct 2015 07:28:00 UTC"}),
    ("502", BOTH, {"busy": [502] * 3}),
    ("503 and 504", BOTH, {"busy": [504, 503, 504]}),
    ("HTML under status 200", BOTH, {"html_bodies": 2}),
    ("truncated JSON, truncated tile", BOTH, {"cut_bodies": 2}),
    ("truncated gzip", [RFC6962], {"packs_pages": True, "cut_bodies": 2}),
    ("connection reset in mid-body", BOTH, {"broken_bodies": 2}),
    ("rate limit with Retry-After", BOTH, {"limit": (4, 0.1), "limit_names_a_time": True}),
    ("rate limit without Retry-After", BOTH, {"limit": (4, 0.02)}),
    ("tree that grows", BOTH, {"grow_by": 10}),
]


@pytest.mark.parametrize(
    ("protocol", "knobs"),
    [pytest.param(protocol, knobs, id=f"{name}, {protocol}") for name, of, knobs in HEALING for protocol in of],
)
def test_backfill_gets_everything(tmp_path: Path, serve: Serve, protocol: str, knobs: dict[str, Any]) -> None:
    """Where asking again, or in another way, brings an answer, the table is complete after one run."""
    fake, table = FakeLog(size=SIZE, protocols=[protocol]), open_table(tmp_path / "main")
    with opened(serve(fake), protocol) as log:
        vars(fake).update(knobs)
        report = run(log, table)

    check(report, table, fake, [])


HOLES = [
    ("400 at the tip", {"data_lag": 100, "tip_status": 400}, r"400", [(500, 600)], [(256, 600)]),
    ("404 at the tip", {"data_lag": 100, "tip_status": 404}, r"entry \d+ yet", [(500, 600)], [(256, 600)]),
    ("tree that goes down", {"lag": 100}, r"entry 5\d\d yet", [(500, 600)], [(500, 600)]),
    ("no entries, ever", {"empty_pages": EVER}, r"brought none|is empty", [(0, 600)], [(0, 600)]),
    ("413 for a single entry", {"too_many": 0}, r"status 413", [(0, 600)], None),
    ("always 429", {"always": 429, "busy_body": HTML}, r"status 429 \(<!doctype", [(0, 600)], [(0, 600)]),
    ("always 504", {"always": 504}, r"status 504", [(0, 600)], [(0, 600)]),
    ("always HTML", {"html_bodies": EVER}, r"HTML page", [(0, 600)], [(0, 600)]),
    ("always truncated", {"cut_bodies": EVER}, r"not a JSON|EOFError", [(0, 600)], [(0, 600)]),
    ("always truncated gzip", {"packs_pages": True, "cut_bodies": EVER}, r"EOFError", [(0, 600)], None),
    ("always reset", {"broken_bodies": EVER}, r"RemoteProtocolError|ReadError", [(0, 600)], [(0, 600)]),
    ("body without end", {"flood": bytes(2 * MIB)}, r"larger than the 1048576 bytes", [(0, 600)], [(0, 600)]),
    ("gzip bomb", {"flood": gzip.compress(bytes(2 * MIB))}, r"larger than the 10", [(0, 600)], [(0, 600)]),
    ("redirect to another host", {"redirect": "http://elsewhere.example/"}, r"redirected", [(0, 600)], [(0, 600)]),
    ("another start", {"shift": 1}, r"leaf_index is \d+|entry 599", None, [(0, 600)]),
    (
        "entries without a frame",
        {"broken_leaves": {42, 350}},
        r"entry",
        [(42, 43), (350, 351)],
        [(42, 256), (350, 512)],
    ),
    ("tile gone", {"missing_tiles": {1}}, r"no data tile with entry 256 yet", None, [(256, 512)]),
    ("partial tile gone", {"missing_partial_tiles": True}, r"no data tile with entry 512 yet", None, [(512, 600)]),
    ("down", {"down": True}, r"RemoteProtocolError|ReadError", [(0, 600)], [(0, 600)]),
]


@pytest.mark.parametrize(
    ("protocol", "knobs", "reason", "holes"),
    [
        pytest.param(protocol, knobs, reason, holes, id=f"{name}, {protocol}")
        for name, knobs, reason, *of_each in HOLES
        for protocol, holes in zip(BOTH, of_each, strict=True)
        if holes is not None
    ],
)
def test_backfill_names_what_it_cannot_get(
    tmp_path: Path,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    protocol: str,
    knobs: dict[str, Any],
    reason: str,
    holes: Ranges,
) -> None:
    """What the log does not give is in the report with its reason; all else is there, and the rest once it is well."""
    monkeypatch.setattr("ctkit.logs.rfc6962._PAGE_LIMIT", MIB)
    monkeypatch.setattr("ctkit.logs.static_ct._TILE_LIMIT", MIB)
    fake, table = FakeLog(size=SIZE, protocols=[protocol]), open_table(tmp_path / "main")
    well = {name: vars(fake)[name] for name in knobs}
    with opened(serve(fake), protocol) as log:
        vars(fake).update(knobs)
        report = run(log, table)
        assert [hole for hole in report.holes if not re.search(reason, hole.reason)] == []
        check(report, table, fake, holes)

        vars(fake).update(well)
        again = run(log, table)

    assert sum(again.wanted.values()) == RangeSet.of(*holes).size
    check(again, table, fake, [])


def test_backfill_when_entries_of_rfc6962_are_of_another_start(tmp_path: Path, serve: Serve) -> None:
    """Entries that begin elsewhere are seen only where they say their index, or where they are verified.

    An answer of get-entries carries no index, and the leaves of a log that speaks RFC 6962 alone carry none either:
    what comes is taken for what was asked for, and nothing but the proof up to the tree head (``verify: entries``)
    can tell. A log that writes ``leaf_index`` into its entries is caught at once, as in a tile.
    """
    silent = FakeLog("Silent", 300, protocols=[RFC6962])
    outspoken = FakeLog("Outspoken", 300, protocols=BOTH)
    silent.shift = outspoken.shift = 1
    table = open_table(tmp_path / "main")
    with opened(serve(silent), RFC6962) as log, opened(serve(outspoken), RFC6962) as other:
        within = {log.url: (0, 200), other.url: (0, 200)}
        report = backfill([log, other], find_gaps(None, table, within=within), table)

    assert {(hole.source_url, hole.start, hole.end, hole.lasting) for hole in report.holes} == {
        (other.url, 0, 200, True)
    }
    assert [row["as_der"] for row in rows_of(table)] == [entry.certificate for entry in silent.entries[1:201]]


def test_backfill_when_the_full_tile_is_there_instead_of_the_partial_one(tmp_path: Path, serve: Serve) -> None:
    """A log that has outgrown the known tree head, and dropped its partial tiles, is read from the full tile."""
    fake, table = FakeLog(size=SIZE, protocols=[STATIC_CT]), open_table(tmp_path / "main")
    with opened(serve(fake)) as log:
        fake.grow(200)
        fake.missing_partial_tiles = True
        report = run(log, table)

    check(report, table, fake, [])


def test_backfill_when_the_partial_tile_is_there_instead_of_the_full_one(tmp_path: Path, serve: Serve) -> None:
    """Where a full tile is not there yet, what an earlier tree head had of it is read from the partial tile."""
    fake, table = FakeLog(size=SIZE, protocols=[STATIC_CT]), open_table(tmp_path / "main")
    with opened(serve(fake)) as log:
        fake.grow(200)
        log.get_checkpoint()
        fake.missing_full_tiles = {2}
        report = run(log, table, 700)
        check(report, table, fake, [(600, 700)], 700)

        fake.missing_full_tiles = set()
        check(run(log, table, 700), table, fake, [], 700)


def test_backfill_of_a_hybrid_log(tmp_path: Path, serve: Serve) -> None:
    """A log with get-sth and data tiles, but neither checkpoints nor get-entries, is read from its tiles."""
    fake, table = FakeLog(size=SIZE, protocols=BOTH), open_table(tmp_path / "main")
    fake.absent = {"checkpoint", "ct/v1/get-entries"}
    with opened(serve(fake)) as log:
        assert isinstance(log, StaticCtLog)
        assert log.get_checkpoint().tree_size == SIZE
        report = run(log, table)

    check(report, table, fake, [])


def test_backfill_when_an_issuer_is_missing(tmp_path: Path, serve: Serve) -> None:
    """An issuer that the log does not have is left out of the chains and named; the rows are there."""
    fake, table = FakeLog(size=SIZE, protocols=[STATIC_CT]), open_table(tmp_path / "main")
    missing = sorted(fake.issuers)[0]
    fake.issuer_status = {missing: 404}
    with opened(serve(fake)) as log:
        report = run(log, table)

    assert report.missing_issuers == {log.url: (missing,)}
    assert missing in report._repr_html_()
    check(report, table, fake, [], missing_issuers=[missing])


@pytest.mark.parametrize(("status", "reason"), [(None, "is not the certificate"), (500, "status 500")])
def test_backfill_when_an_issuer_cannot_be_had(tmp_path: Path, serve: Serve, status: int | None, reason: str) -> None:
    """An issuer of other bytes, or not to be had just now, costs the tiles that need it, until it is right."""
    fake, table = FakeLog(size=SIZE, protocols=[STATIC_CT]), open_table(tmp_path / "main")
    issuer = fake.entries[0].chain[0]
    needing = {index // 256 for index, entry in enumerate(fake.entries) if issuer in entry.chain}
    (name,) = (name for name, der in fake.issuers.items() if der == issuer)
    with opened(serve(fake)) as log:
        fake.issuer_status, fake.wrong_issuers = ({name: status}, set()) if status else ({}, {name})
        report = run(log, table)
        assert {hole.start // 256 for hole in report.holes} == needing
        assert all(name in hole.reason and reason in hole.reason for hole in report.holes)
        check(report, table, fake, [(256 * tile, min(256 * tile + 256, SIZE)) for tile in needing])

        fake.issuer_status, fake.wrong_issuers = {}, set()
        check(run(log, table), table, fake, [])


def certificate(size: int, names: int) -> Issued:
    """Return a certificate of exactly `size` bytes, or of any size for 0, with `names` DNS names."""
    key, issuer = rsa.generate_private_key(65537, 2048), issue(Random(0), 0)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "large.example")])

    def build(padding: int) -> bytes:
        domains = x509.SubjectAlternativeName([x509.DNSName(f"{n}.large.example") for n in range(names)])
        other = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.999.1"), bytes(padding))
        builder = x509.CertificateBuilder(name, name, key.public_key(), 1)
        builder = builder.not_valid_before(DEFAULT_START).not_valid_after(DEFAULT_START)
        builder = builder.add_extension(domains, critical=False).add_extension(other, critical=False)
        return builder.sign(key, hashes.SHA256()).public_bytes(encoding=serialization.Encoding.DER)

    padding = max(size - 2000, 0)
    der = build(padding)
    if size:
        der = build(padding + size - len(der))
    return Issued(der, issuer.chain, None, issuer.issuer_key_hash)


@pytest.mark.parametrize("protocol", BOTH)
@pytest.mark.parametrize(("size", "names"), [((1 << 24) - 1, 1), (0, 10_000)], ids=["16 MiB", "10,000 names"])
def test_backfill_when_a_certificate_is_large(
    tmp_path: Path, serve: Serve, protocol: str, size: int, names: int
) -> None:
    """The largest certificate that a log can hold, and one with very many names, become rows like others."""
    fake, table = FakeLog(size=5, protocols=[protocol]), open_table(tmp_path / "main")
    issued = certificate(size, names)
    assert len(issued.certificate) == size or not size
    fake.append(issued, fake.entries[-1].timestamp)
    fake.grow(5)
    with opened(serve(fake), protocol) as log:
        report = run(log, table, 11)

    check(report, table, fake, [], 11)
    assert report.unreadable == 0


@pytest.mark.parametrize("protocol", BOTH)
def test_backfill_when_a_leaf_is_there_twice(tmp_path: Path, serve: Serve, protocol: str) -> None:
    """One certificate at two indices, with the same time of logging, is two rows."""
    fake, table = FakeLog(size=300, protocols=[protocol]), open_table(tmp_path / "main")
    entry, issued = fake.entries[-1], issue(Random(1), fake.entries[-1].timestamp)
    fake.append(issued, entry.timestamp)
    fake.append(issued, entry.timestamp)
    with opened(serve(fake), protocol) as log:
        report = run(log, table, 302)

    check(report, table, fake, [], 302)
    assert len({row["sha256"] for row in rows_of(table) if row["cert_index"] >= 300}) == 1


class Poisoned(FakeLog):
    """Fails every range that holds entry 300, as far as it would send it."""

    status = 0

    def _respond_page(self, request: Request) -> Response:
        start, end = int(request.query["start"]), int(request.query["end"])
        spoiled = self.status and start <= 300 <= min(end, start + self.page_size - 1)
        return Response(self.status, b"invalid data tile x509_entry") if spoiled else super()._respond_page(request)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 517])
def test_backfill_when_an_entry_spoils_every_answer(tmp_path: Path, serve: Serve, status: int) -> None:
    """It alone is named, and found by few requests: several entries are not asked for again as often as one is."""
    fake, table = Poisoned(size=SIZE, protocols=[RFC6962]), open_table(tmp_path / "main")
    patience = Patience(tries=8, first_wait=0.001, longest_wait=0.005, timeout=5, total=20)
    with open_log(serve(fake), user_agent=AGENT, protocol=RFC6962, name="a log", patience=patience) as log:
        fake.status = status
        report = run(log, table)
        check(report, table, fake, [(300, 301)])
        # Halves until it is alone, and as many probes whether the log answers at all; three pages; all tries for one.
        assert len(fake.paths("ct/v1/get-entries")) < 9 * 2 + 9 + 9 + 3 + 8

        fake.status = 0
        check(run(log, table), table, fake, [])


@pytest.mark.parametrize("protocol", BOTH)
def test_backfill_when_one_host_is_down(tmp_path: Path, protocol: str) -> None:
    """A host that is down for the whole run costs its own entries; the other's pace knows nothing of it."""
    (other,) = set(BOTH) - {protocol}
    down, up = FakeLog("Down", SIZE, protocols=[protocol]), FakeLog("Up", SIZE, protocols=[other])
    table = open_table(tmp_path / "main")
    with (
        LogServer(down) as first,
        LogServer(up) as second,
        opened(first.url(down), protocol) as dead,
        opened(second.url(up), other) as alive,
    ):
        logs, within = {dead.url: down, alive.url: up}, {dead.url: (0, SIZE), alive.url: (0, SIZE)}
        down.down = True
        report = backfill([dead, alive], find_gaps(None, table, within=within), table)
        assert report.written == {dead.url: 0, alive.url: SIZE}
        assert {hole.source_url for hole in report.holes} == {dead.url}
        assert [*RangeSet.of(*((hole.start, hole.end) for hole in report.holes))] == [*RangeSet.of((0, SIZE))]
        check_table(table, logs, {alive.url: (0, SIZE)}, source_names=dict.fromkeys(logs, "a log"))
        assert dead.pace.concurrency < alive.pace.concurrency

        down.down = False
        assert backfill([dead, alive], find_gaps(None, table, within=within), table).complete
        check_table(table, logs, within, source_names=dict.fromkeys(logs, "a log"))


@pytest.mark.parametrize("is_packed", [False, True], ids=["endless", "gzip bomb"])
def test_memory_when_a_body_does_not_end(serve: Serve, is_packed: bool) -> None:
    """No more than the cap of a page is ever held, whether the body is packed into next to nothing or not."""
    fake, cap = FakeLog(size=300, protocols=[RFC6962]), 64 * MIB
    fake.flood = gzip.compress(bytes(80 * MIB)) if is_packed else bytes(80 * MIB)
    client = Client(serve(fake), user_agent=AGENT, patience=SHORT)
    tracemalloc.start()
    try:
        with pytest.raises(HttpError) as raised:
            client.get("/ct/v1/get-entries?start=0&end=0", bytes, limit=cap)
        assert raised.value.too_large
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        client.close()

    assert peak < 1.5 * cap
