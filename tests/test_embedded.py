"""The embedded log: one tree, two protocols, and certificates that others can read."""

import base64
import gzip
import json
import shutil
import subprocess
import threading
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from http.client import HTTPConnection
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID
from fakes import AGENT

from ctkit.demo.embedded import PROTOCOLS, EmbeddedLog, LogEntry, Request, make_log
from ctkit.demo.server import LogServer
from ctkit.errors import ParameterError
from ctkit.logs.audit_paths import ProvenTree
from ctkit.logs.log_list import read_log_list, read_public_key
from ctkit.logs.open import open_log
from ctkit.wire.checkpoint import read_checkpoint, read_sth
from ctkit.wire.der import der
from ctkit.wire.entries import PRECERT_ENTRY, X509_ENTRY
from ctkit.wire.merkle import hash_leaf, verify_consistency

LOG = make_log("Embedded 2026h1", 600)


def get(path, log=LOG, **headers):
    """Return the log's answer to a path with a query."""
    path, _, query = path.partition("?")
    return log.respond(Request(path, dict(part.split("=", 1) for part in query.split("&") if part), headers))


def get_json(path, log=LOG):
    """Return the JSON of an answer that has to be right."""
    response = get(path, log)
    assert (response.status, response.content_type) == (200, "application/json")
    return json.loads(response.body)


def decoded(texts):
    """Return the bytes of base64 texts."""
    return [base64.b64decode(text) for text in texts]


def split(data, *sizes):
    """Return the parts of `data` that have these sizes, and the rest."""
    parts = []
    for size in sizes:
        parts.append(data[:size])
        data = data[size:]
    return [*parts, data]


def vector(data, length_size):
    """Split data into the content of a TLS vector and what follows it."""
    length, data = data[:length_size], data[length_size:]
    end = int.from_bytes(length)
    assert end <= len(data)
    return data[:end], data[end:]


def read_timestamped_entry(data):
    """Return timestamp, type, signed entry, extensions, and what follows."""
    timestamp, entry_type, data = split(data, 8, 2)
    key_hash = b""
    if entry_type == b"\x00\x01":
        key_hash, data = data[:32], data[32:]
    signed, data = vector(data, 3)
    extensions, data = vector(data, 2)
    return int.from_bytes(timestamp), int.from_bytes(entry_type), (key_hash, signed), extensions, data


def without_poison(certificate):
    """Return the TBSCertificate of a pre-certificate without its poison, found and cut out byte by byte."""
    tbs = certificate.tbs_certificate_bytes
    poison = bytes.fromhex("3013060a2b06010401d679020403 0101ff 04020500")
    assert tbs.count(poison) == 1
    # The lengths of Extensions, [3] and TBSCertificate shrink by the poison's 21 bytes; all have two octets here.
    extensions = next(at for at in range(len(tbs)) if tbs[at] == 0xA3 and end_of(tbs, at) == len(tbs))
    inner = extensions + header_size(tbs, extensions)
    content = tbs[inner + header_size(tbs, inner) :].replace(poison, b"")
    return der(0x30, tbs[header_size(tbs, 0) : extensions], der(0xA3, der(0x30, content)))


def header_size(data, at):
    """Return the size of a DER header."""
    return 2 if data[at + 1] < 0x80 else 2 + data[at + 1] - 0x80


def end_of(data, at):
    """Return where the DER element at `at` ends."""
    size = header_size(data, at)
    length = data[at + 1] if size == 2 else int.from_bytes(data[at + 2 : at + size])
    return at + size + length


def test_get_entries_has_the_structs_of_the_rfc():
    """Leaf and extra data of every entry hold what RFC 6962 puts there, certificate and precertificate alike."""
    wire = [pair for start in (0, 256, 512) for pair in get_json(f"ct/v1/get-entries?start={start}&end=599")["entries"]]

    assert len(wire) == 600
    for index, (pair, entry) in enumerate(zip(wire, LOG.entries, strict=True)):
        leaf, extra = decoded([pair["leaf_input"], pair["extra_data"]])
        timestamp, entry_type, (key_hash, signed), extensions, rest = read_timestamped_entry(leaf[2:])
        certificate = x509.load_der_x509_certificate(entry.certificate)
        issuer = x509.load_der_x509_certificate(entry.chain[0])
        certificate.verify_directly_issued_by(issuer)
        assert leaf[:2] == b"\x00\x00"
        assert (timestamp, entry_type, rest) == (entry.timestamp, entry.entry_type, b"")
        assert extensions == bytes.fromhex("000005") + index.to_bytes(5)
        if entry_type == X509_ENTRY:
            assert (key_hash, signed) == (b"", entry.certificate)
        else:
            assert key_hash == sha256(spki(issuer)).digest()
            assert signed == without_poison(certificate)
            pre_certificate, extra = vector(extra, 3)
            assert pre_certificate == entry.certificate
        chain, rest = vector(extra, 3)
        assert (certificates(chain), rest) == (entry.chain, b"")
        assert hash_leaf(leaf) == LOG.tree.leaf_hash(index)


def spki(certificate):
    """Return the SubjectPublicKeyInfo of a certificate."""
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def certificates(chain):
    """Return the certificates of a chain vector."""
    found = []
    while chain:
        certificate, chain = vector(chain, 3)
        found.append(certificate)
    return tuple(found)


@pytest.mark.parametrize(
    ("path", "start", "end"), [("000", 0, 256), ("001", 256, 512), ("002.p/88", 512, 600), ("002.p/1", 512, 513)]
)
def test_data_tile_has_the_structs_of_static_ct(path, start, end):
    """A data tile is its TileLeaf structs, one after another, and the issuers they name can be had."""
    response = get(f"tile/data/{path}")

    assert (response.status, response.content_type) == (200, "application/octet-stream")
    data = response.body
    for entry in LOG.entries[start:end]:
        whole = data
        timestamp, entry_type, _, _, data = read_timestamped_entry(data)
        assert whole[: len(whole) - len(data)] == entry.timestamped_entry
        assert (timestamp, entry_type) == (entry.timestamp, entry.entry_type)
        if entry_type == PRECERT_ENTRY:
            certificate, data = vector(data, 3)
            assert certificate == entry.certificate
        fingerprints, data = vector(data, 2)
        names = [fingerprints[at : at + 32].hex() for at in range(0, len(fingerprints), 32)]
        assert tuple(get(f"issuer/{name}").body for name in names) == entry.chain
        assert [sha256(issuer).hexdigest() for issuer in entry.chain] == names
    assert data == b""


def test_data_tile_is_compressed_for_those_who_accept_it():
    """A data tile comes in gzip if the request says so."""
    plain, packed = get("tile/data/001"), get("tile/data/001", **{"accept-encoding": "gzip, br"})

    assert (plain.headers, packed.headers) == ({}, {"Content-Encoding": "gzip"})
    assert gzip.decompress(packed.body) == plain.body


def test_hash_tiles_are_those_of_the_tree():
    """Hash tiles of both levels, full and partial."""
    assert get("tile/0/001").body == LOG.tree.tile(0, 1)
    assert get("tile/0/002.p/88").body == LOG.tree.tile(0, 2, 88)
    assert get("tile/1/000.p/2").body == LOG.tree.tile(1, 0, 2)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/data/002",
        "tile/data/002.p/89",
        "tile/data/002.p/0",
        "tile/data/000.p/256",
        "tile/0/000.p/256",
        "tile/data/x000/000",
        "tile/data/003",
        "tile/data/0",
        "tile/0/002",
        "tile/1/000",
        "tile/2/000",
        "tile/6/000",
        "tile/names/000",
        "issuer/" + "0" * 64,
        "issuer/",
        "ct/v1/get-roots",
        "ct/v2/get-sth",
        "checkpoint/",
    ],
)
def test_path_that_is_not_there(path):
    """What the log does not have is 404; a tile path has one form only."""
    assert get(path).status == 404


def test_tile_path_beyond_a_thousand():
    """Tile numbers are written in groups of three digits."""
    log = EmbeddedLog("Sparse")
    log.read = lambda start, end: [replace(LOG.entries[0], timestamped_entry=b"%d-%d;" % (start, end))]
    log.entries = [LOG.entries[0]] * (1234 * 256 + 256)

    assert get("tile/data/x001/234", log).body.startswith(b"315904-316160;")


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("start=0&end=0", 1),
        ("start=0&end=599", 256),
        ("start=598&end=5000", 2),
        ("start=599&end=599", 1),
        ("start=3&end=258", 256),
    ],
)
def test_get_entries_returns_no_more_than_a_page(query, count):
    """Answers begin at `start`, end with `end`, the page or the tree, whichever comes first."""
    entries = get_json(f"ct/v1/get-entries?{query}")["entries"]

    start = int(query.split("&")[0].removeprefix("start="))
    assert decoded(pair["leaf_input"] for pair in entries) == [
        entry.leaf_input for entry in LOG.entries[start : start + count]
    ]


@pytest.mark.parametrize(
    "path",
    [
        "get-entries?start=5&end=4",
        "get-entries?start=600&end=601",
        "get-entries?start=-1&end=4",
        "get-entries?start=1",
        "get-entries?start=a&end=b",
        "get-sth-consistency?first=5&second=601",
        "get-sth-consistency?first=5&second=4",
        "get-proof-by-hash?hash=AAAA&tree_size=5",
        "get-proof-by-hash?hash=!&tree_size=5",
        "get-entry-and-proof?leaf_index=5&tree_size=5",
        "get-entry-and-proof?leaf_index=5&tree_size=601",
        "get-entry-and-proof?leaf_index=-1&tree_size=5",
    ],
)
def test_bad_request(path):
    """A request that makes no sense for this tree is 400."""
    assert get(f"ct/v1/{path}").status == 400


def test_both_protocols_sign_the_same_tree_head():
    """Signed tree head and checkpoint are about one tree, and signed by one key."""
    sth = read_sth(get("ct/v1/get-sth").body, "https://log.example").verify(LOG.public_key)
    note = read_checkpoint(get("checkpoint").body, "https://log.example").verify(LOG.public_key)

    facts = (600, LOG.tree.root(), LOG.entries[-1].timestamp)
    assert (sth.tree_size, sth.root_hash, sth.timestamp) == facts
    assert (note.tree_size, note.root_hash, note.timestamp) == facts
    assert note.origin == LOG.origin == "embedded-2026h1.log.example"


def test_proofs_hold():
    """Inclusion and consistency proofs verify against the tree head."""
    leaf_hash = LOG.tree.leaf_hash(77)
    by_hash = get_json(f"ct/v1/get-proof-by-hash?tree_size=600&hash={base64.b64encode(leaf_hash).decode()}")
    with_entry = get_json("ct/v1/get-entry-and-proof?leaf_index=77&tree_size=600")
    consistency = get_json("ct/v1/get-sth-consistency?first=300&second=600")

    assert by_hash == {"leaf_index": 77, "audit_path": with_entry["audit_path"]}
    assert decoded([with_entry["leaf_input"], with_entry["extra_data"]]) == [
        LOG.entries[77].leaf_input,
        LOG.entries[77].extra_data,
    ]
    assert ProvenTree(600, LOG.tree.root()).learn(77, leaf_hash, decoded(by_hash["audit_path"]))
    assert verify_consistency(300, LOG.tree.root(300), 600, LOG.tree.root(), decoded(consistency["consistency"]))


def test_log_of_one_protocol():
    """A log that speaks one protocol does not answer the other; without Static CT, leaves have no extensions."""
    rfc6962, static_ct = make_log("R", 3, protocols=["rfc6962"]), make_log("S", 3, protocols=["static-ct"])

    assert [get(path, rfc6962).status for path in ("ct/v1/get-sth", "checkpoint")] == [200, 404]
    assert [get(path, static_ct).status for path in ("ct/v1/get-sth", "checkpoint")] == [404, 200]
    assert [read_timestamped_entry(log.entries[1].timestamped_entry)[3] for log in (rfc6962, static_ct)] == [
        b"",
        bytes.fromhex("000005 0000000001"),
    ]


def test_growing_log_keeps_its_past():
    """What was appended stays, and the new tree head is consistent with the old one."""
    log = make_log("Growing", 300)
    before, root = list(log.entries), log.tree.root()

    log.grow(45)

    assert (log.tree_size, log.entries[:300]) == (345, before)
    assert verify_consistency(300, root, 345, log.tree.root(), log.tree.consistency_proof(300, 345))
    assert log.entries[300].timestamp >= before[-1].timestamp


def test_timestamps_spread_over_days():
    """Entries begin at the given time, ascend, and fill the given days."""
    start = datetime(2025, 12, 30, tzinfo=UTC)

    timestamps = [entry.timestamp for entry in make_log("Days", 400, start=start, days=4).entries]

    assert timestamps == sorted(timestamps)
    assert {f"{datetime.fromtimestamp(timestamp / 1000, UTC):%m-%d}" for timestamp in timestamps} == {
        "12-30",
        "12-31",
        "01-01",
        "01-02",
    }


def facts(log):
    """Return what the seed decides."""
    return [(entry.entry_type, entry.timestamp, names(entry), serial(entry)) for entry in log.entries]


def serial(entry: LogEntry):
    """Return the serial number of an entry."""
    return x509.load_der_x509_certificate(entry.certificate).serial_number


def names(entry: LogEntry):
    """Return the DNS names of an entry."""
    extensions = x509.load_der_x509_certificate(entry.certificate).extensions
    return extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)


def test_same_seed_same_log():
    """Names, serial numbers and timestamps come from name and seed; keys and signatures do not."""
    first, again, other = make_log("Seeded", 50, seed=4), make_log("Seeded", 50, seed=4), make_log("Seeded", 50, seed=5)

    assert facts(first) == facts(again)
    assert facts(first) != facts(other)
    assert first.public_key != again.public_key


def test_certificates_look_like_real_ones():
    """Sizes, numbers of names and the share of precertificates are those of real logs; no serial number comes twice."""
    counts = sorted(len(names(entry)) for entry in LOG.entries)
    sizes = sorted(len(entry.certificate) for entry in LOG.entries)

    assert (counts[300], 4 <= counts[570] <= 12, counts[-1] >= 20) == (2, True, True)
    assert 1000 < sizes[300] < 1400
    assert 0.5 < sum(entry.entry_type for entry in LOG.entries) / 600 < 0.7
    assert len({serial(entry) for entry in LOG.entries}) == 600
    assert {len(entry.chain) for entry in LOG.entries} == {2, 3}


def test_certificates_are_marked_as_what_they_are():
    """Precertificates have the poison, final certificates have SCTs, and none has both."""
    for entry in LOG.entries[:100]:
        found = {extension.oid for extension in x509.load_der_x509_certificate(entry.certificate).extensions}
        marks = {ExtensionOID.PRECERT_POISON, ExtensionOID.PRECERT_SIGNED_CERTIFICATE_TIMESTAMPS}
        expected = {sorted(marks, key=lambda oid: oid != ExtensionOID.PRECERT_POISON)[entry.entry_type == X509_ENTRY]}
        assert found & marks == expected


def test_chain_certificates_issue_each_other():
    """Every chain leads from the issuer to a root that signed itself."""
    for chain in {entry.chain for entry in LOG.entries}:
        read = [x509.load_der_x509_certificate(certificate) for certificate in chain]
        for certificate, issuer in zip(read, [*read[1:], read[-1]], strict=True):
            certificate.verify_directly_issued_by(issuer)
        with pytest.raises((InvalidSignature, ValueError, TypeError)):
            read[0].verify_directly_issued_by(read[0])


@pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl command")
def test_openssl_reads_the_certificates():
    """OpenSSL reads certificates and precertificates as well."""
    for entry in LOG.entries[:6]:
        command = ["openssl", "x509", "-inform", "DER", "-noout", "-serial"]
        done = subprocess.run(command, input=entry.certificate, capture_output=True, check=True)

        assert int(done.stdout.decode().strip().removeprefix("serial="), 16) == serial(entry)


def test_server_keeps_connections_alive(serve):
    """Many requests over one connection, to several logs, with queries that are percent-encoded."""
    other = make_log("Another", 3)
    paths = [serve(log).split("/")[-1] for log in (LOG, other)]
    port = int(serve(LOG).split(":")[2].split("/")[0])
    leaf_hash = quote(base64.b64encode(other.tree.leaf_hash(2)), safe="")

    connection = HTTPConnection("127.0.0.1", port)
    answers = []
    for path in (f"{paths[0]}/checkpoint", f"{paths[1]}/ct/v1/get-proof-by-hash?hash={leaf_hash}&tree_size=3", "none/"):
        connection.request("GET", "/" + path)
        response = connection.getresponse()
        answers.append((response.status, response.headers["Content-Type"], response.read()))
    connection.close()

    assert answers[0][:2] == (200, "text/plain; charset=utf-8")
    assert read_checkpoint(answers[0][2], "https://log.example").tree_size == 600
    assert (answers[1][0], json.loads(answers[1][2])["leaf_index"]) == (200, 2)
    assert answers[2] == (404, "text/plain; charset=utf-8", b"not found")


def test_server_refuses_two_logs_of_one_name(serve):
    """Two logs cannot share a path."""
    serve(LOG)

    with pytest.raises(ValueError, match="'embedded-2026h1'"):
        serve(make_log("Embedded 2026H1", 1))


def test_server_closes_despite_idle_connections(capfd):
    """Closing ends idle connections and all threads, and nothing is printed."""
    before = threading.active_count()
    with LogServer(LOG) as server:
        connection = HTTPConnection("127.0.0.1", int(server.url(LOG).split(":")[2].split("/")[0]))
        connection.request("GET", f"/{LOG.slug}/checkpoint")
        connection.getresponse().read()
    connection.close()

    assert threading.active_count() == before
    assert capfd.readouterr() == ("", "")


# Logs that grow, and the list of them


def test_a_log_grows_until_a_time():
    """New entries are spread over the time since the last one, and never earlier."""
    log = EmbeddedLog("growing", protocols=["rfc6962"])
    log.grow(2)
    last = log.entries[-1].timestamp

    log.grow(4, until=last + 4000)
    log.grow(2, until=last)

    assert [entry.timestamp - last for entry in log.entries[2:]] == [1000, 2000, 3000, 4000, 4000, 4000]
    assert len({entry.certificate for entry in log.entries}) == 8
    assert log.tree.size == log.tree_size == 8


def test_repeated_certificates_are_entries_of_their_own(serve):
    """Where few are issued for many entries, each entry is another leaf, and proven to be in the tree."""
    log = EmbeddedLog("growing")
    log.grow(600, until=log.start + 600_000, issued=7)
    url = serve(log)

    assert len({entry.certificate for entry in log.entries}) == 7
    assert len({entry.timestamped_entry for entry in log.entries}) == 600
    for protocol in PROTOCOLS:
        with open_log(url, user_agent=AGENT, protocol=protocol, key=log.public_key) as opened:
            head = opened.get_checkpoint()
            assert head.tree_size == 600
            leaf_hashes = [hash_leaf(entry.leaf_input) for entry in log.entries[:256]]
            assert opened.prove(0, leaf_hashes, head).all()


def test_logs_of_a_server_grow_together():
    """Calls with few entries add up to equal shares; a log that is at its end by the list stays as it is."""
    logs = [EmbeddedLog(name) for name in ("one", "two", "three")]
    with LogServer(*logs) as server:
        for _ in range(7):
            server.grow(1)
        sizes = [log.tree_size for log in logs]
        server.listed.states["two"] = "readonly"
        server.grow(10)

    assert (sum(sizes), max(sizes) - min(sizes)) == (7, 1)
    assert logs[1].tree_size == sizes[1]
    assert sum(log.tree_size for log in logs) == 17


def test_the_log_list_of_a_server(tmp_path, cache):
    """It is a signed list of the logs, by operator, with the states that it is told; a tiled log has its prefix."""
    logs = [
        EmbeddedLog("pages", protocols=["rfc6962"], operator="One"),
        EmbeddedLog("tiles", protocols=["static-ct"], operator="Two"),
        EmbeddedLog("end", operator="One"),
        EmbeddedLog("gone", operator="Three"),
    ]
    for log in logs:
        log.grow(3)
    with LogServer(*logs) as server:
        server.listed.states.update(end="readonly", gone=None)
        (tmp_path / "list.pem").write_bytes(server.listed.public_key)
        found = read_log_list(server.list_url, user_agent=AGENT, key=read_public_key(tmp_path / "list.pem"))

        assert [(log.name, log.url, log.protocol, log.state, log.key, log.operator) for log in found] == [
            ("pages", server.url(logs[0]), "rfc6962", "usable", logs[0].public_key, "One"),
            ("end", server.url(logs[2]), "rfc6962", "readonly", logs[2].public_key, "One"),
            ("tiles", server.url(logs[1]), "static-ct", "usable", logs[1].public_key, "Two"),
        ]
        assert found[1].final_tree_head.tree_size == 3
        with open_log(found[1].url, user_agent=AGENT) as opened:
            opened.check_consistency(found[1].final_tree_head, opened.get_checkpoint())
        with pytest.raises(ParameterError):
            read_log_list(server.list_url, user_agent=AGENT, key=logs[0].public_key)
