"""Backfills that believe nothing: what is verified, what is not written, and what the table says of it."""

import logging
from collections import Counter
from dataclasses import replace
from hashlib import sha256

import pytest
from fakes import HEADS, FakeLog, check_table, each_protocol
from raising import fails
from rows import read_provenance

from ctkit.demo.embedded import make_log
from ctkit.desk.parameters import read_parameters
from ctkit.errors import LogProtocolError, LogUnavailableError
from ctkit.jobs.backfill import backfill
from ctkit.jobs.backfill_report import Hole
from ctkit.lake.gaps import find_gaps
from ctkit.lake.provenance import Provenance
from ctkit.lake.table import open_table
from ctkit.wire.entries import PRECERT_ENTRY
from ctkit.wire.extra_data import FAULTS

NOT_THERE = "not what the log's tree of {size} entries holds there"


@pytest.fixture
def begin(tmp_path, opened):
    """Return what serves a log of this size and opens it, with a table for its entries."""

    def begin_one(protocol, size, *, page_size=256, **options):
        fake = FakeLog(size=size, page_size=page_size)
        return fake, opened(fake, protocol, **options), open_table(tmp_path / "staging")

    return begin_one


def fill(log, table, within=(0, 600), **options):
    """Backfill what is missing of one log."""
    options = {"verify": "entries", **options}
    return backfill([log], find_gaps(table, within={log.url: within}), table, **options)


def asked(fake):
    """Return how often each kind of request came."""
    kinds = Counter()
    for path in fake.paths():
        kinds["/".join(path.split("/")[:2]) if path.startswith("tile") else path.split("/")[-1]] += 1
    return {kind: count for kind, count in kinds.items() if len(kind) < 60}


@each_protocol
def test_backfill_that_proves_entries(begin, protocol):
    """Every row is proven with few requests, and the commit says under which signed tree head."""
    fake, log, table = begin(protocol, 600, page_size=32)

    report = fill(log, table, (3, 600))

    check_table(table, {log.url: fake}, {log.url: (3, 600)})
    assert (report.complete, report.verify, report.unsigned) == (True, "entries", ())
    record = Provenance(log.url, 3, 600, 597, 600, fake.tree.root(600), "entries", signed=True)
    assert read_provenance(table) == [(1, record)]
    expected = {
        # All pages are proven by the path of the first entry.
        "rfc6962": {"get-sth": 1, "get-entries": 19, "get-proof-by-hash": 1},
        # Two whole tiles and a part of one: the right edge of both levels shows the root and the tiles' own hashes.
        "static-ct": {"checkpoint": 1, "tile/data": 3, "tile/0": 1, "tile/1": 1},
    }
    assert asked(fake) == expected[protocol]


@each_protocol
def test_backfill_that_proves_single_entries(begin, protocol):
    """Entries far apart take a request for each page, and one proof at the most."""
    fake, log, table = begin(protocol, 600, page_size=64)
    lonely = [7, 70, 200, 599]
    gaps = find_gaps(None, within={log.url: (0, 600)}).slice(0, 0)
    gaps = gaps.from_pylist([{"source_url": log.url, "start": at, "end": at + 1} for at in lonely], gaps.schema)

    report = backfill([log], gaps, table, verify="entries")

    check_table(table, {log.url: fake}, {log.url: [(at, at + 1) for at in lonely]})
    assert report.complete
    counts = asked(fake)
    # As long as the page size is not known, the answer for the first entry brings the second.
    assert counts["get-entries" if protocol == "rfc6962" else "tile/data"] == (3 if protocol == "rfc6962" else 2)
    assert counts.get("get-proof-by-hash", 0) <= 2 * 3
    assert counts.get("tile/0", 0) + counts.get("tile/1", 0) <= 2


@each_protocol
def test_backfill_of_a_log_that_changed_entries(begin, protocol):
    """What is not in the signed tree is named and not written, all the rest is; the next run completes the table."""
    fake, log, table = begin(protocol, 600, page_size=32)
    other = make_log("Another", 600)
    true = {index: fake.entries[index] for index in (40, 41, 300)}
    for index in true:
        fake.entries[index] = other.entries[index]
    fake.issuers |= other.issuers

    report = fill(log, table)

    reason = report.holes[0].reason
    assert reason.startswith(NOT_THERE.format(size=600))
    assert report.holes == (Hole(log.url, 40, 42, reason, True), Hole(log.url, 300, 301, reason, True))
    check_table(table, {log.url: fake}, {log.url: [(0, 40), (42, 300), (301, 600)]})
    with fails(LogProtocolError, url=log.url):
        report.check()
    for index, entry in true.items():
        fake.entries[index] = entry
    assert fill(log, table).complete
    check_table(table, {log.url: fake}, {log.url: (0, 600)})


def test_backfill_of_a_tile_that_begins_with_another_entry(begin):
    """A tile is asked for as a whole to be proven; what is wrong before the first missing entry costs nothing."""
    fake, log, table = begin("static-ct", 300)
    true = fake.entries[0]
    fake.entries[0] = fake.entries[1]

    report = fill(log, table, (37, 300))

    assert (report.complete, report.holes) == (True, ())
    fake.entries[0] = true
    check_table(table, {log.url: fake}, {log.url: (37, 300)})


@each_protocol
def test_backfill_of_a_log_that_changed_what_it_does_not_sign(tmp_path, begin, protocol):
    """A pre-certificate or chain that does not belong to its leaf is named and not written; heads do not tell."""
    fake, log, table = begin(protocol, 300, page_size=32)
    right = dict(enumerate(fake.entries))
    pre_certificates = [index for index, entry in right.items() if entry.entry_type == PRECERT_ENTRY]
    one, two, three = pre_certificates[3], pre_certificates[50], pre_certificates[90]
    other = next(entry.chain for entry in fake.entries if entry.chain[0] != right[two].chain[0])
    certificate = bytearray(right[one].certificate)
    certificate[100] ^= 1
    fake.entries[one] = replace(right[one], certificate=bytes(certificate))
    fake.entries[two] = replace(right[two], chain=other)
    fake.entries[three] = replace(right[three], chain=right[three].chain[::-1])

    report = fill(log, table, (0, 300))

    assert report.holes == (
        Hole(log.url, one, one + 1, f"{FAULTS[3]}; report this to the log's operator", True),
        Hole(log.url, two, two + 1, f"{FAULTS[2]}; report this to the log's operator", True),
        Hole(log.url, three, three + 1, f"{FAULTS[1]}; report this to the log's operator", True),
    )
    wrong = {one, two, three}
    check_table(table, {log.url: fake}, {log.url: [(at, at + 1) for at in range(300) if at not in wrong]})
    assert fill(log, open_table(tmp_path / "heads"), (0, 300), verify="heads").complete
    fake.entries[:] = right.values()
    assert fill(log, table, (0, 300)).complete
    check_table(table, {log.url: fake}, {log.url: (0, 300)})


def end_at_an_intermediate(fake):
    """Let chains of three end in their second certificate, which another signed; return it, and the indices."""
    long = [index for index, entry in enumerate(fake.entries) if len(entry.chain) == 3]
    middle = fake.entries[long[0]].chain[1]
    for index in long:
        fake.entries[index] = replace(fake.entries[index], chain=fake.entries[index].chain[:2])
    return middle, long


@each_protocol
def test_backfill_under_a_root_that_does_not_sign_itself(begin, protocol):
    """A chain may end in any root that the log accepts, which it is asked for once, however much it has."""
    fake, log, table = begin(protocol, 300, page_size=32)
    middle, _ = end_at_an_intermediate(fake)
    fake.roots.add(middle)

    assert fill(log, table, (0, 290)).complete
    assert fill(log, table, (0, 300)).complete
    check_table(table, {log.url: fake}, {log.url: (0, 300)})
    assert asked(fake).get("get-roots", 0) == (1 if protocol == "rfc6962" else 0)


def test_backfill_of_chains_that_end_early(begin):
    """A chain that lacks the root that the log accepts is named and not written."""
    fake, log, table = begin("rfc6962", 300, page_size=32)
    _, long = end_at_an_intermediate(fake)

    report = fill(log, table, (0, 300))

    assert {index for hole in report.holes for index in range(hole.start, hole.end)} == set(long)
    assert all(hole.lasting and hole.reason.startswith(FAULTS[4]) for hole in report.holes)
    rest = [(index, index + 1) for index in range(300) if index not in long]
    check_table(table, {log.url: fake}, {log.url: rest})


@pytest.mark.parametrize("status", [404, 500])
def test_backfill_when_accepted_roots_cannot_be_had(begin, status):
    """Where the log does not say what it accepts, no end of a chain is known to be wrong."""
    fake, log, table = begin("rfc6962", 300)
    end_at_an_intermediate(fake)
    fake.roots_status = status

    assert fill(log, table, (0, 300)).complete
    check_table(table, {log.url: fake}, {log.url: (0, 300)})


@each_protocol
def test_backfill_of_entries_without_a_chain(begin, protocol):
    """No certificate but a root may lack a chain, and no pre-certificate."""
    fake, log, table = begin(protocol, 300)
    right = list(fake.entries)
    one, two = (next(at for at, entry in enumerate(right) if entry.entry_type == kind) for kind in (0, PRECERT_ENTRY))
    for at in (one, two):
        fake.entries[at] = replace(right[at], chain=())

    report = fill(log, table, (0, 300))

    assert {hole.start: hole.reason.partition(";")[0] for hole in report.holes} == {one: FAULTS[4], two: FAULTS[2]}
    fake.entries[:] = right
    assert fill(log, table, (0, 300)).complete
    check_table(table, {log.url: fake}, {log.url: (0, 300)})


def test_backfill_when_an_issuer_is_missing(begin):
    """What is next to an issuer that the log does not have cannot be compared with it: it is written, and said."""
    fake, log, table = begin("static-ct", 300)
    missing = sha256(fake.entries[0].chain[0]).hexdigest()
    fake.issuer_status = {missing: 404}

    report = fill(log, table, (0, 300))

    assert (report.complete, report.missing_issuers) == (True, {log.url: (missing,)})
    check_table(table, {log.url: fake}, {log.url: (0, 300)}, missing_issuers={missing})


@pytest.mark.parametrize("verify", ["heads", "entries"])
@each_protocol
def test_backfill_of_a_log_with_another_key(begin, protocol, verify):
    """A tree head that the log's key did not sign: nothing is believed, nothing is asked for, nothing is written."""
    fake, log, table = begin(protocol, 600)
    log.key = FakeLog(size=0, seed=1).public_key

    report = fill(log, table, verify=verify)

    assert [(hole.start, hole.end, hole.lasting) for hole in report.holes] == [(0, 600, True)]
    assert "is not signed by the log's key" in report.holes[0].reason
    assert (table.version(), asked(fake)) == (0, {"get-sth" if protocol == "rfc6962" else "checkpoint": 1})


@each_protocol
def test_backfill_of_a_log_without_a_key(begin, protocol, caplog):
    """It is said once, entries are proven against the root as it came, and report and commit say: unsigned."""
    fake, log, table = begin(protocol, 600, key=None)

    with caplog.at_level(logging.WARNING, "ctkit"):
        report = fill(log, table)
        fake.grow(10)
        assert fill(log, table, (600, 610)).facts()["written"] == 10

    assert caplog.messages == [f"the log's key is not known, its tree head is not verified url={log.url}"]
    assert (report.complete, report.unsigned, report.facts()["unsigned"]) == (True, (log.url,), 1)
    assert [record.signed for _, record in read_provenance(table)] == [False, False]


@each_protocol
def test_backfill_that_verifies_heads_only(begin, protocol):
    """Heads take one request for each log; the commit says so much and no more."""
    fake, log, table = begin(protocol, 600)

    fill(log, table, verify="heads")

    assert [(record.verified, record.signed) for _, record in read_provenance(table)] == [("heads", True)]
    heads = {"get-sth", "checkpoint"}
    assert sum(count for kind, count in asked(fake).items() if kind in heads) == 1
    assert not {"get-proof-by-hash", "tile/0", "tile/1"} & asked(fake).keys()


@each_protocol
@pytest.mark.parametrize(("key", "verify"), [(False, "heads"), (True, "heads"), (False, "entries")])
def test_backfill_when_the_tree_head_cannot_be_read(begin, protocol, key, verify):
    """It is read as a log whose key is not known is, unless its key is, or entries have to be proven."""
    fake, log, table = begin(protocol, 512)
    log.key = log.key if key else None
    respond = fake.respond

    def give_no_signature(request):
        answer = respond(request)
        body = answer.body.replace(b'"tree_head_signature"', b'"signature"').replace("\u2014".encode(), b"-")
        return replace(answer, body=body) if request.path in HEADS else answer

    fake.respond = give_no_signature
    report = fill(log, table, (0, 512), verify=verify)

    if key or verify == "entries":
        assert (report.written, report.holes[0].lasting) == ({log.url: 0}, True)
    else:
        assert (report.complete, report.unsigned, report.heads) == (True, (log.url,), {})
        check_table(table, {log.url: fake}, {log.url: (0, 512)})
        assert read_provenance(table) == []


def test_backfill_when_tree_heads_without_a_key_contradict_each_other(begin):
    """A tree head that can be read and contradicts another one is believed of no log."""
    fake, log, table = begin("rfc6962", 512, key=None)
    log.get_checkpoint()
    fake.tree = FakeLog("Another", 512).tree

    report = fill(log, table, (0, 512), verify="heads")

    assert (report.written, report.holes[0].lasting) == ({log.url: 0}, True)


def test_backfill_that_verifies_nothing(begin):
    """Nothing but entries is asked for, and nothing is said of them."""
    fake, log, table = begin("rfc6962", 600)

    fill(log, table, verify="off")

    assert set(asked(fake)) == {"get-entries"}
    assert read_provenance(table) == []


@each_protocol
def test_backfill_beyond_the_tree_head(begin, protocol):
    """Entries that came after the run's tree head are proven under the next one, shown to be of the same tree."""
    fake, log, table = begin(protocol, 600, page_size=32)
    respond = fake.respond

    def grow_after_the_first_head(request):
        answer = respond(request)
        if request.path in HEADS and len(fake.entries) == 600:
            fake.grow(40)
        return answer

    fake.respond = grow_after_the_first_head
    report = fill(log, table, (0, 640))

    check_table(table, {log.url: fake}, {log.url: (0, 640)})
    assert (report.complete, report.heads[log.url].tree_size) == (True, 640)


@each_protocol
def test_backfill_when_the_tree_head_is_of_an_empty_tree(begin, protocol):
    """A backend that is far behind may give it: what others have is written, and nothing was verified of it."""
    fake, log, table = begin(protocol, 200)

    def begin_behind(request):
        fake.lag = len(fake.entries) if len(fake.requests) == 0 else 0

    fake.on_request = begin_behind
    report = fill(log, table, (0, 200), verify="heads")

    check_table(table, {log.url: fake}, {log.url: (0, 200)})
    assert report.complete
    assert read_provenance(table) == [(1, Provenance(log.url, 0, 200, 200, 0, b"", "off", signed=False))]


@each_protocol
def test_backfill_of_entries_that_are_not_signed_yet(begin, protocol):
    """What is at or above every tree head of the run waits for another one; what is below it is written."""
    fake, log, table = begin(protocol, 640)

    def show_old_heads(request):
        fake.lag = lag if request.path in HEADS else 0

    lag, fake.on_request = 30, show_old_heads
    report = fill(log, table, (590, 640))

    check_table(table, {log.url: fake}, {log.url: (590, 610)})
    reasons = {
        "rfc6962": "the log has signed 610 entries, but not this one yet; run again later",
        "static-ct": "the log has no data tile with entry 610 yet (tree size 610); run again later",
    }
    assert report.holes == (Hole(log.url, 610, 640, reasons[protocol], lasting=False),)
    lag = 0
    assert fill(log, table, (590, 640)).complete
    check_table(table, {log.url: fake}, {log.url: (590, 640)})


@each_protocol
def test_backfill_of_a_log_that_forks(begin, protocol):
    """A next tree head that is not of the same tree: what it covers is not written."""
    fake, log, table = begin(protocol, 600, page_size=32)
    respond, fork, heads = fake.respond, FakeLog(size=640, days=4), []
    fork._key, fork.public_key = fake._key, fake.public_key

    def answer_as_two_trees(request):
        if request.path not in HEADS:
            return respond(request)
        heads.append((respond if not heads else fork.respond)(request))
        fake.grow(640 - len(fake.entries))
        return heads[-1]

    fake.respond = answer_as_two_trees
    report = fill(log, table, (590, 640))

    # What the first tree head covers is proven by it, where it came in a piece of its own.
    assert report.written == {log.url: 0 if protocol == "rfc6962" else 10}
    assert {hole.lasting for hole in report.holes} == {True}
    # The tiles are those of one tree only.
    wrong = {"rfc6962": "is not shown to begin with that of 600", "static-ct": "do not give the root hash"}
    assert all(wrong[protocol] in hole.reason for hole in report.holes)


@each_protocol
def test_backfill_when_proofs_cannot_be_had(begin, protocol):
    """Entries that cannot be proven now are holes; the next run writes them."""
    fake, log, table = begin(protocol, 600, page_size=32)
    proofs, lost, well = ("get-proof-by-hash", "get-entry-and-proof", "tile/0", "tile/1"), [], fake.on_request

    def without_proofs(request):
        if any(each in request.path for each in proofs) and "data" not in request.path:
            lost.append(request.path)
            raise ConnectionAbortedError

    fake.on_request = without_proofs
    report = fill(log, table, (3, 600))

    assert report.written == {log.url: 0}
    assert {(hole.reason.startswith("not proven: "), hole.lasting) for hole in report.holes} == {(True, False)}
    assert len(lost) < 10
    with fails(LogUnavailableError, url=log.url):
        report.check()
    fake.on_request = well
    assert fill(log, table, (3, 600)).complete
    check_table(table, {log.url: fake}, {log.url: (3, 600)})


def test_backfill_of_single_entries_asks_for_their_issuers_only(begin):
    """A whole tile is proven for one entry of it; the issuers of the others are none of our business."""
    fake, log, table = begin("static-ct", 256)
    own = {sha256(certificate).hexdigest() for certificate in fake.entries[7].chain}

    assert fill(log, table, (7, 8)).complete

    assert {path.removeprefix("issuer/") for path in fake.paths("issuer")} == own
    assert own < fake.issuers.keys()


def test_verify_in_a_parameter_file(tmp_path):
    """YAML reads ``off`` as false; it is meant as written."""
    (tmp_path / "p.yaml").write_text("verify: off\n")

    assert read_parameters(tmp_path / "p.yaml").verify == "off"
    assert read_parameters().verify == "heads"
