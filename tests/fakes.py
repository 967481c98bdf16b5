"""A CT log that misbehaves on request, and the one oracle that says whether a table is right."""

import gzip
import json
import threading
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha1, sha256
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import unquote

import deltalake
import duckdb
import pyarrow as pa
import pytest
from cryptography import x509
from oracle import ATTRIBUTES, is_ca, shown

from ctkit.demo.embedded import DEFAULT_START, PROTOCOLS, EmbeddedLog, LogEntry, Request, Response
from ctkit.demo.issuance import Issued
from ctkit.logs.asking import Patience
from ctkit.logs.http import Client
from ctkit.schema import row_schema

T = TypeVar("T")

AGENT = "ctkit tests, ct@example.org"
FAST = Patience(tries=3, first_wait=0.01, longest_wait=0.05, timeout=5, total=20)
UNREADABLE = b"no certificate"
HEADS = ("ct/v1/get-sth", "checkpoint")
"""Paths of tree heads."""

Serve = Callable[[EmbeddedLog], str]
"""What the fixture `serve` is."""

each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


@dataclass(eq=False, repr=False)
class Knobs:
    """What a `FakeLog` is told, at any time, and what it tells."""

    requests: list[tuple[str, dict[str, str], dict[str, str]]] = field(default_factory=list)
    """Every request so far, in order of arrival; paths relative to the log's URL, header names in lower case."""
    page_alignment: int = 1
    """Answers of get-entries end at a multiple of this at the latest."""
    surplus: int = 0
    """Number of entries in an answer beyond those asked for."""
    limit: tuple[int, float] | None = None
    """``(count, seconds)``: in any such time `count` requests are answered; others get a 429."""
    limit_names_a_time: bool = False
    """These 429 carry a ``Retry-After`` with a fraction."""
    refused: int = 0
    """Requests over the limit so far."""
    busy: list[int] = field(default_factory=list)
    """Statuses of the next answers, such as ``[429, 503]``; each request uses one up."""
    always: int | None = None
    """Status of every answer from now on."""
    busy_body: bytes = b"come back later"
    """Body of those answers; HTML if it begins like it."""
    retry_after: str | None = None
    """``Retry-After`` header of those answers: ``"1"``, ``"0.5"``, an HTTP date."""
    too_many: int | None = None
    """get-entries for more entries than this is answered with `too_many_status`."""
    too_many_status: int = 413
    """Status of that answer."""
    broken_bodies: int = 0
    """How many of the next answers with entries break off: the connection closes before ``Content-Length`` is
    reached."""
    cut_bodies: int = 0
    """How many of the next answers with entries are only half as long as they should be, and say so."""
    html_bodies: int = 0
    """How many of the next answers with entries are an HTML page, under status 200."""
    flood: bytes | None = None
    """Body of all answers with entries, with a ``Content-Length`` far beyond its end."""
    packs_pages: bool = False
    """Answers of get-entries are packed with gzip, as tiles are."""
    redirect: str | None = None
    """Where all answers with entries redirect to."""
    shift: int = 0
    """Answers begin at an index larger by this."""
    empty_pages: int = 0
    """How many of the next answers with entries carry none."""
    grow_by: int = 0
    """Entries that are appended before each tree head is given."""
    lag: int = 0
    """Number of entries that the log hides."""
    data_lag: int = 0
    """Number of entries of the tree head that neither pages nor tiles have yet."""
    tip_status: int | None = None
    """Status for entries and tiles beyond the tree, instead of 400 (RFC 6962) and 404 (Static CT)."""
    absent: set[str] = field(default_factory=set)
    """Paths that are answered with 404, such as ``"checkpoint"``: a hybrid of the two protocols has not all of both."""
    missing_full_tiles: set[int] = field(default_factory=set)
    """Indices of data tiles of which only partial ones are there."""
    missing_partial_tiles: bool = False
    """Partial data tiles are not there."""
    missing_tiles: set[int] = field(default_factory=set)
    """Indices of data tiles that are not there, neither full nor partial."""
    broken_leaves: set[int] = field(default_factory=set)
    """Indices of entries whose framing is broken: a length in them points far beyond the end."""
    issuer_status: dict[str, int] = field(default_factory=dict)
    """Status by fingerprint (lowercase hex) for issuers that are unavailable."""
    roots: set[bytes] = field(default_factory=set)
    """DER of the certificates that the log accepts as roots, at first those in which chains end."""
    roots_status: int | None = None
    """Status of the answer to get-roots."""
    wrong_issuers: set[str] = field(default_factory=set)
    """Fingerprints of issuers whose bytes are others."""
    down: bool = False
    """Connections are dropped without an answer."""
    latency: float = 0.0
    """Seconds before each answer."""
    on_request: Callable[[Request], object] = lambda request: None
    """Called with each request before it is answered; ConnectionAbortedError drops the connection."""


def get_once(url: str, patience: Patience = FAST, limit: int = 1000, read: Callable[[bytes], Any] = bytes) -> Any:
    """Ask for a path below a URL, with a client of its own."""
    with closing(Client(url, user_agent=AGENT, patience=patience)) as client:
        return client.get("/x", read, limit=limit)


@contextmanager
def setting(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Give a context variable another value for a while."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


class FakeLog(EmbeddedLog, Knobs):
    """An embedded log with knobs, off at first; `page_size`, the largest number of entries in a page, is one too.

    Parameters
    ----------
    size
        Number of entries to begin with, spread over `days` (and what `grow` appends later goes on at that pace).
    unreadable
        Indices whose certificate is `UNREADABLE`: well framed and in the tree, but not to be parsed.
    """

    def __init__(
        self,
        name: str = "Fake 2026h1",
        size: int = 600,
        *,
        protocols: Sequence[str] = PROTOCOLS,
        seed: int = 0,
        start: datetime = DEFAULT_START,
        days: float = 3,
        page_size: int = 256,
        unreadable: Collection[int] = (),
    ) -> None:
        interval = int(days * 86_400_000) // max(size, 1)
        Knobs.__init__(self)
        super().__init__(name, protocols=protocols, seed=seed, start=start, interval=interval, page_size=page_size)
        self.unreadable = frozenset(unreadable)
        self._answered: deque[float] = deque()
        self._lock = threading.Lock()
        self._awake = threading.Event()
        self.grow(size)

    @property
    def tree_size(self) -> int:
        """Number of entries that the log admits to have."""
        return max(0, len(self.entries) - self.lag)

    def wake(self) -> None:
        """End the waiting for `latency`, now and from now on, so that a server can be closed at once."""
        self._awake.set()

    def paths(self, prefix: str = "") -> list[str]:
        """Return the paths of all requests so far that begin with `prefix`, without their queries."""
        return [path for path, _, _ in self.requests if path.startswith(prefix)]

    @property
    def data_requests(self) -> int:
        """Number of requests for entries so far."""
        return len(self.paths("ct/v1/get-entries")) + len(self.paths("tile/data/"))

    def append(self, issued: Issued, timestamp: int) -> None:
        """Append one entry, spoiled if it is to be."""
        if len(self.entries) in self.unreadable:
            issued = replace(issued, certificate=UNREADABLE, tbs=None if issued.tbs is None else UNREADABLE)
        self.roots.update(issued.chain[-1:])
        super().append(issued, timestamp)

    def read(self, start: int, end: int) -> Sequence[LogEntry]:
        """Return entries as they are to be sent."""
        entries = super().read(start + self.shift, end + self.shift + self.surplus)
        if not self.broken_leaves:
            return entries
        return [
            _broken(entry) if index in self.broken_leaves else entry
            for index, entry in enumerate(entries, start + self.shift)
        ]

    def respond(self, request: Request) -> Response:
        """Answer one GET request as the knobs are turned."""
        self.on_request(request)
        with self._lock:
            self.requests.append((request.path, dict(request.query), dict(request.headers)))
        if self.latency:
            self._awake.wait(self.latency)
        with self._lock:
            if self.down:
                raise ConnectionAbortedError("the log is down")
            status = self.always or (self.busy.pop(0) if self.busy else None)
            if status is not None:
                return self._busy_answer(status, self.retry_after)
            if self.limit is not None and (wait := self._over_limit(*self.limit)):
                self.refused += 1
                return self._busy_answer(429, f"{wait:.6f}" if self.limit_names_a_time else None)
            return self._respond(request)

    def _busy_answer(self, status: int, retry_after: str | None) -> Response:
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        content_type = "text/html" if self.busy_body.startswith(b"<") else "text/plain"
        return Response(status, self.busy_body, content_type, headers)

    def _over_limit(self, count: int, seconds: float) -> float:
        """Return the seconds until another request may be answered; 0 if this one may, which then counts."""
        now = monotonic()
        while self._answered and self._answered[0] <= now - seconds:
            self._answered.popleft()
        if len(self._answered) >= count:
            return self._answered[0] + seconds - now
        self._answered.append(now)
        return 0.0

    def _respond(self, request: Request) -> Response:
        kind, _, rest = request.path.partition("/")
        if request.path in self.absent:
            return Response(404, b"not found")
        if request.path == "ct/v1/get-entries":
            return self._damaged(self._respond_page(request))
        if request.path == "ct/v1/get-roots" and "rfc6962" in self.protocols:
            roots = [b64encode(root).decode() for root in sorted(self.roots)]
            return Response(self.roots_status or 200, json.dumps({"certificates": roots}).encode())
        if request.path.startswith("tile/data/"):
            return self._damaged(self._respond_data_tile(request))
        if kind == "issuer":
            if rest in self.issuer_status:
                return Response(self.issuer_status[rest], b"no issuer")
            if rest in self.wrong_issuers:
                return Response(200, self.issuers[rest][:-1] + b"\x00", "application/pkix-cert")
        if request.path in HEADS:
            self.grow(self.grow_by)
        return super().respond(request)

    def _respond_page(self, request: Request) -> Response:
        start, end = int(request.query["start"]), int(request.query["end"]) + 1
        if self.too_many is not None and end - start > self.too_many:
            return Response(self.too_many_status, b"too many entries")
        if self.empty_pages:
            self.empty_pages -= 1
            return Response(200, b'{"entries":[]}', "application/json")
        if start >= self.tree_size - self.data_lag:
            return Response(self.tip_status or 400, b"not there yet")
        page_end = (start // self.page_alignment + 1) * self.page_alignment if self.page_alignment > 1 else end
        end = min(end, page_end, self.tree_size - self.data_lag)
        response = super().respond(replace(request, query={"start": str(start), "end": str(end - 1)}))
        if self.packs_pages:
            response = replace(response, body=gzip.compress(response.body), headers={"Content-Encoding": "gzip"})
        return response

    def _respond_data_tile(self, request: Request) -> Response:
        path, partial, width = request.path.removeprefix("tile/data/").partition(".p/")
        tile = int(path.replace("x", "").replace("/", ""))
        if tile * 256 + int(width or 256) > self.tree_size - self.data_lag:
            return Response(self.tip_status or 404, b"not there yet")
        if tile in self.missing_tiles or (partial and self.missing_partial_tiles):
            return Response(404, b"gone")
        if tile in self.missing_full_tiles and not partial:
            return Response(404, b"not there yet")
        if self.empty_pages:
            self.empty_pages -= 1
            return Response(200, b"", "application/octet-stream")
        return super().respond(request)

    def _damaged(self, response: Response) -> Response:
        if response.status == 200 and self.redirect is not None:
            return Response(302, b"", headers={"Location": self.redirect})
        if response.status == 200 and self.html_bodies:
            self.html_bodies -= 1
            return Response(200, b"<!doctype html><p>We will be back", "text/html")
        if response.status == 200 and self.flood is not None:
            headers = {"Content-Length": str(1 << 27), "Connection": "close"}
            return replace(response, body=self.flood, headers=headers)
        half = response.body[: len(response.body) // 2]
        if response.status == 200 and self.broken_bodies:
            self.broken_bodies -= 1
            lies = {"Content-Length": str(len(response.body)), "Connection": "close"}
            return replace(response, body=half, headers={**response.headers, **lies})
        if response.status == 200 and self.cut_bodies:
            self.cut_bodies -= 1
            return replace(response, body=half)
        return response


def _broken(entry: LogEntry) -> LogEntry:
    # The length of the certificate, or of the TBSCertificate behind the 32 bytes of issuer_key_hash.
    at = 10 if entry.entry_type == 0 else 42
    leaf = entry.timestamped_entry
    return replace(entry, timestamped_entry=leaf[:at] + b"\xff\xff\xff" + leaf[at + 3 :])


def check_table(
    table: deltalake.DeltaTable,
    logs: Mapping[str, EmbeddedLog],
    within: Mapping[str, tuple[int, int] | Iterable[Any]],
    *,
    source_names: Mapping[str, str] | None = None,
    missing_issuers: Collection[str] = (),
    seen: bool = True,
) -> None:
    """Fail unless the table holds each entry of `within` exactly once, right in all 20 columns, and nothing else.

    What a row must be is computed with `cryptography`, not with ctkit's own parser.

    Parameters
    ----------
    table
        Opened at the version to check.
    logs
        The logs by the ``source_url`` of their rows.
    within
        What must be there, by ``source_url``: ``(start, end)``, or any number of such pairs or `IndexRange`.
    source_names
        ``source_name`` by ``source_url``; the log's own name where it is not given.
    missing_issuers
        Fingerprints (lowercase hex) of issuers that are left out of ``chain``.
    seen
        False if ``seen`` is not the entry's own timestamp; it is then only compared with the partition.
    """
    _check_schema(table)
    rows = _rows(table)
    wanted = {(url, index) for url, ranges in within.items() for index in _indices(ranges)}
    found = [(row["source_url"], row["cert_index"]) for row in rows]
    assert len(found) == len(set(found)), f"rows more than once: {sorted(_repeated(found))[:10]}"
    assert not wanted - set(found), f"rows that are missing: {sorted(wanted - set(found))[:10]}"
    assert not set(found) - wanted, f"rows that should not be there: {sorted(set(found) - wanted)[:10]}"
    for row in rows:
        url, index = row["source_url"], row["cert_index"]
        expected = expected_row(
            logs[url],
            url,
            index,
            source_name=(source_names or {}).get(url),
            missing_issuers=missing_issuers,
            seen=None if seen else row["seen"],
        )
        if row["cert_link"] in cert_links(logs[url], url, index):
            # A log that speaks both protocols may have been read by either.
            expected["cert_link"] = row["cert_link"]
        wrong = {name: {"found": row[name], "expected": expected[name]} for name in row if row[name] != expected[name]}
        assert not wrong, f"row {index} of {url}: {wrong}"


def expected_row(
    log: EmbeddedLog,
    url: str,
    index: int,
    *,
    source_name: str | None = None,
    missing_issuers: Collection[str] = (),
    seen: int | None = None,
) -> dict[str, Any]:
    """Return the row that an entry has to become, ``seen`` in microseconds and ``as_der`` in bytes.

    Parameters
    ----------
    source_name
        The log's own name by default.
    missing_issuers
        Fingerprints (lowercase hex) of issuers that are left out of ``chain``.
    seen
        In microseconds; the entry's own timestamp by default.
    """
    entry = log.entries[index]
    seen = entry.timestamp * 1000 if seen is None else seen
    return {
        "cert_index": index,
        "update_type": "PrecertLogEntry" if entry.entry_type else "X509LogEntry",
        "seen": seen,
        "seen_date": f"{datetime.fromtimestamp(seen // 1_000_000, UTC):%Y-%m-%d}",
        "source_name": log.name if source_name is None else source_name,
        "source_url": url,
        "cert_link": cert_links(log, url, index)[0],
        **_certificate_fields(entry.certificate),
        "chain": [_chain_json(der) for der in entry.chain if sha256(der).hexdigest() not in missing_issuers],
    }


def cert_links(log: EmbeddedLog, url: str, index: int) -> list[str]:
    """Return what ``cert_link`` may be, for each protocol of the log."""
    tile = index // 256
    path = f"{tile % 1000:03}"
    while tile := tile // 1000:
        path = f"x{tile % 1000:03}/{path}"
    links = {
        "rfc6962": f"{url}/ct/v1/get-entries?start={index}&end={index}",
        "static-ct": f"{url}/tile/data/{path}",
    }
    return [links[protocol] for protocol in log.protocols]


def _check_schema(table: deltalake.DeltaTable) -> None:
    schema = pa.schema(table.schema().to_arrow())
    assert schema in (row_schema("binary"), row_schema("string"))
    assert table.metadata().partition_columns == ["seen_date"]


def _rows(table: deltalake.DeltaTable) -> list[dict[str, Any]]:
    """Return all rows; ``seen`` in microseconds, ``as_der`` in bytes, ``seen_date`` as the file's folder says."""
    actions = pa.table(table.get_add_actions(flatten=True))
    for path, date in zip(actions["path"].to_pylist(), actions["partition.seen_date"].to_pylist(), strict=True):
        assert path.startswith(f"seen_date={date}/"), f"{path} is recorded under {date}"
    if not actions.num_rows:
        return []
    with duckdb.connect() as connection:
        columns = row_schema().names
        selected = ", ".join("epoch_us(seen) AS seen" if name == "seen" else name for name in columns)
        rows = connection.execute(
            f"SELECT {selected} FROM read_parquet($files, hive_partitioning = true, union_by_name = true,"
            " hive_types = {'seen_date': VARCHAR})",
            {"files": [unquote(uri.removeprefix("file://")) for uri in table.file_uris()]},
        ).fetchall()
    dicts = [dict(zip(columns, row, strict=True)) for row in rows]
    if row_schema("string").field("as_der").type == pa.schema(table.schema().to_arrow()).field("as_der").type:
        for row in dicts:
            row["as_der"] = b64decode(row["as_der"], validate=True)
    return dicts


def _indices(ranges: Any) -> Iterable[int]:
    pairs = [ranges] if isinstance(ranges, tuple) and ranges and isinstance(ranges[0], int) else ranges
    for pair in pairs:
        start, end = pair if isinstance(pair, tuple) else (pair.start, pair.end)
        yield from range(start, end)


def _repeated(keys: list[tuple[str, int]]) -> set[tuple[str, int]]:
    once: set[tuple[str, int]] = set()
    return {key for key in keys if key in once or once.add(key)}


@lru_cache(maxsize=100_000)
def _certificate_fields(der: bytes) -> dict[str, Any]:
    fingerprint = _hex(sha1(der).digest())
    fields = {
        "serial_number": "",
        "fingerprint": fingerprint,
        "sha256": _hex(sha256(der).digest()),
        "sha1": fingerprint,
        "not_before": 0,
        "not_after": 0,
        "is_ca": False,
        "signature_algorithm": "",
        "subject_aggregated": "",
        "issuer_aggregated": "",
        "all_domains": [],
        "as_der": der,
    }
    if der == UNREADABLE:
        return fields
    certificate = x509.load_der_x509_certificate(der)
    names = [each.value for each in certificate.extensions if isinstance(each.value, x509.SubjectAlternativeName)]
    domains = [domain for each in names for domain in each.get_values_for_type(x509.DNSName)]
    subject = _name(certificate.subject)
    common_names = [subject["CN"]] if subject.get("CN") and not is_ca(certificate) else []
    return fields | {
        "serial_number": certificate.serial_number.to_bytes(certificate.serial_number.bit_length() + 7 >> 3 or 1)
        .hex()
        .upper(),
        "not_before": int(certificate.not_valid_before_utc.timestamp()),
        "not_after": int(certificate.not_valid_after_utc.timestamp()),
        "is_ca": is_ca(certificate),
        "signature_algorithm": _ALGORITHMS[certificate.signature_algorithm_oid.dotted_string],
        "subject_aggregated": subject["aggregated"],
        "issuer_aggregated": _name(certificate.issuer)["aggregated"],
        "all_domains": list(dict.fromkeys(common_names + domains)),
    }


_ALGORITHMS = {"1.2.840.10045.4.3.2": "ecdsa, sha256", "1.2.840.113549.1.1.11": "sha256, rsa"}


def _hex(data: bytes) -> str:
    return data.hex(":").upper()


def _name(name: x509.Name) -> dict[str, str]:
    found = {ATTRIBUTES[attribute.oid]: str(attribute.value) for attribute in name}
    parts = {part: found[part] for part in ATTRIBUTES.values() if part in found}
    return parts | {"aggregated": "".join(f"/{part}={text}" for part, text in parts.items())}


@lru_cache(maxsize=1000)
def _chain_json(der: bytes) -> str:
    certificate = x509.load_der_x509_certificate(der)
    texts = sorted(text for extension in certificate.extensions for text in shown(extension.value))
    fields = _certificate_fields(der)
    answer = {
        "subject": _name(certificate.subject),
        "issuer": _name(certificate.issuer),
        **{
            name: fields[name] for name in ("serial_number", "not_before", "not_after", "fingerprint", "sha1", "sha256")
        },
        **{name: fields[name] for name in ("signature_algorithm", "is_ca")},
        "extensions": dict(texts),
    }
    return json.dumps(answer, separators=(",", ":"), ensure_ascii=False)
