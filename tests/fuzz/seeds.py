"""Inputs that are well formed: answers of an embedded log and, where they are at hand, of real ones."""

import base64
import gzip
import io
import json
import os
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from blocks import certificate
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from rows import OTHER_LOG, make_rows

from ctkit.demo.embedded import EmbeddedLog, Request, make_log
from ctkit.wire.merkle import TILE_WIDTH, Tree

START = 2 * TILE_WIDTH
"""Index of the first entry of all pages and tiles."""


@cache
def embedded_log() -> EmbeddedLog:
    """Return a log with two full tiles and a partial one."""
    return make_log("Fuzzed 2026h1", START + 40)


@cache
def real_data() -> Path | None:
    """Return the folder of real data, if there is one."""
    folder = os.environ.get("CTKIT_REAL_DATA")
    return Path(folder).resolve() if folder else None


def _files(pattern: str) -> list[bytes]:
    folder = real_data()
    return [path.read_bytes() for path in sorted(folder.glob(pattern))] if folder else []


@cache
def certificates() -> list[bytes]:
    """Return DER of leaves, pre-certificates and CAs."""
    log, folder = embedded_log(), real_data()
    issued = [entry.certificate for entry in log.entries[:40]]
    found = pq.read_table(folder / "certs/certs.parquet", columns=["der"])["der"].to_pylist() if folder else []
    return [certificate(), *issued, *log.issuers.values(), *found]


def pages() -> list[bytes]:
    """Return short answers of ``get-entries``."""
    answers = [embedded_log().respond(Request("ct/v1/get-entries", {"start": f"{START}", "end": f"{START + 3}"})).body]
    for body in _files("get_entries/*[0-9].json") + _files("get_entries/bad/*.json"):
        entries = json.loads(body)["entries"]
        answers += [json.dumps({"entries": entries[at : at + 2]}).encode() for at in range(0, min(len(entries), 12), 2)]
    return answers


def data_tiles() -> list[bytes]:
    """Return the first entries of data tiles."""
    entries = embedded_log().entries
    tiles = [b"".join(entry.tile_leaf for entry in entries[START : START + width]) for width in (1, 2, 6)]
    folder = real_data()
    for path in sorted(folder.glob("static/*/tile/data/00[0-9]")) if folder else ():
        tile = path.read_bytes()[:8000]
        for at in range(8):
            tile = tile.replace(_leaf_index(int(path.name) * TILE_WIDTH + at), _leaf_index(START + at))
        tiles += [tile[:stop] for stop in (3000, 8000)]
    return tiles


def _leaf_index(index: int) -> bytes:
    return b"\x00\x00\x05" + index.to_bytes(5)


def tree_heads() -> list[bytes]:
    """Return answers of ``get-sth``."""
    real = [json.dumps(head["sth"]).encode() for file in _files("sth/sths.json") for head in json.loads(file)]
    return [embedded_log().respond(Request("ct/v1/get-sth")).body, *real]


def checkpoints() -> list[bytes]:
    """Return signed notes."""
    return [embedded_log().checkpoint(), *_files("checkpoints/*.txt")]


def log_keys() -> list[bytes]:
    """Return the keys that tree heads and checkpoints are signed with."""
    known = [json.loads(file) for file in _files("sth/sths.json") + _files("checkpoints/*.json")]
    keys = {base64.b64decode(head["key"]) for heads in known for head in heads if "key" in head}
    return [embedded_log().public_key, *sorted(keys)]


def proofs() -> list[bytes]:
    """Return answers of the three requests for proofs: the leaf is number `START`, the older tree has `START`."""
    log = embedded_log()
    size, leaf = str(log.tree_size), base64.b64encode(log.tree.leaf_hash(START)).decode()
    requests = [
        Request("ct/v1/get-proof-by-hash", {"hash": leaf, "tree_size": size}),
        Request("ct/v1/get-entry-and-proof", {"leaf_index": str(START), "tree_size": size}),
        Request("ct/v1/get-sth-consistency", {"first": str(START), "second": size}),
    ]
    return [log.respond(request).body for request in requests]


def hash_tiles() -> list[bytes]:
    """Return the tiles of `embedded_log`, as `hash_tile` numbers them."""
    tree = embedded_log().tree
    return [hash_tile(tree, level, index) for level, index in ((0, 0), (0, 1), (0, 2), (1, 0))]


def hash_tile(tree: Tree, level: int, index: int) -> bytes:
    """Return a tile of a tree, as wide as it is."""
    return tree.tile(level, index, min(TILE_WIDTH, (tree.size >> 8 * level) - index * TILE_WIDTH))


def log_lists() -> list[bytes]:
    """Return log lists: a small one of all that is read, and real ones."""
    key = base64.b64encode(embedded_log().public_key).decode()
    logs = [
        {"description": "One", "key": key, "url": "https://a.example/2026h1/", "state": {"usable": {"timestamp": "x"}}},
        {"key": key, "url": "b.example:8080", "state": {"retired": {}}},
    ]
    tiled = [{"description": "Two", "key": key, "monitoring_url": "https://[::1]/2026h2/", "state": {"readonly": {}}}]
    small = {"version": "1", "operators": [{"name": "Nobody", "logs": logs, "tiled_logs": tiled}]}
    return [json.dumps(small).encode()] * 8 + _files("loglists/*.json")


def public_keys() -> list[bytes]:
    """Return keys of several kinds, PEM and DER."""
    keys = [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
    ]
    return [
        key.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
        for key in keys
        for encoding in (Encoding.PEM, Encoding.DER)
    ]


def responses() -> list[bytes]:
    """Return HTTP responses, as they go over the wire."""
    body = b'{"entries":[]}' + b" " * 100
    packed = gzip.compress(body, mtime=0)
    heads = [
        (b"200 OK", b"Content-Type: application/json", body),
        (b"200 OK", b"Content-Encoding: gzip", packed),
        (b"200 OK", b"Content-Encoding: gzip", gzip.compress(b"\0" * (1 << 20), mtime=0)),
        (b"200 OK", b"Content-Encoding: gzip", packed + packed),
        (b"200 OK", b"Set-Cookie: a=b; Path=/; Max-Age=10", b"<html>busy</html>"),
        (b"301 Moved Permanently", b"Location: /elsewhere?a=b#c", b""),
        (b"307 Temporary Redirect", b"Location: http://127.0.0.1:1/", b""),
        (b"413 Content Too Large", b"X: y", b"too large"),
        (b"429 Too Many Requests", b"Retry-After: 17.5", b"<html>slow down</html>"),
        (b"503 Service Unavailable", b"Retry-After: Thu, 01 Jan 2099 00:01:00 UTC", b""),
    ]
    return [
        b"HTTP/1.1 %s\r\n%s\r\nContent-Length: %d\r\n\r\n%s" % (status, header, len(body), body)
        for status, header, body in heads
    ] + [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\nA: b\r\n\r\n"]


WAITS = [
    b"120",
    b"1.5",
    b"Thu, 01 Jan 1970 00:01:00 GMT",
    b"Thursday, 01-Jan-70 00:01:00 UTC",
    b"Thu Jan  1 00:01:00 1970",
]
"""Values of ``Retry-After``."""

URLS = [
    b"https://ct.example.com/2026h2/",
    b"ct.example.com:8080",
    b"http://[::1]:80/x",
    "https://bücher.example".encode(),
]

STATES = [
    json.dumps(
        {
            "version": 1,
            "logs": {
                "https://a.example": {"current_index": 5, "tree_size": 9, "last_success": 1_773_144_000},
                "b.example/": {"current_index": 70},
            },
        }
    ).encode()
]
"""State files of the live server."""

PARAMETERS = [
    b"""\
main_path: data/main
state_file: file:///var/state.json
logs:
  - {name: One, url: https://a.example/2026h1, protocol: static-ct}
  - url: b.example
    key: AAAA
log_filter: "2026"
from_index: 0
to_index: 1_000
internal_only: yes
""",
    b"""\
# what the live server reads
delta_sink: &sink
  table_path: ./data/main
  enabled: true
ct_log: {state_file: state.json, <<: *sink}
ct_logs_url: https://lists.example/v3.json
custom_logs:
- name: >-
    One
    log
  url: https://a.example
static_logs: [{name: !!str 2, url: "b.example"}]
at: 2026-01-01 00:00:00
""",
]
"""Parameter files, and the live server's ``config.yaml``."""


def parquet_files() -> list[bytes]:
    """Return data files with the columns of a table, in various encodings."""
    rows = pa.concat_tables([make_rows(range(40)), make_rows(range(20), url=OTHER_LOG)])
    keys = rows.select(["source_url", "cert_index"])
    return [
        _parquet(rows, compression="zstd", use_dictionary=["source_url", "chain"]),
        _parquet(keys, compression="none", use_dictionary=False),
        _parquet(keys, compression="none", use_dictionary=True, row_group_size=16, data_page_version="2.0"),
        _parquet(
            keys, compression="snappy", use_dictionary=False, column_encoding={"cert_index": "DELTA_BINARY_PACKED"}
        ),
    ]


def _parquet(rows: pa.Table, **options: object) -> bytes:
    file = io.BytesIO()
    pq.write_table(rows, file, **options)
    return file.getvalue()
