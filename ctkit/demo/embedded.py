"""A CT log in this process, with real keys and certificates, a real Merkle tree, and both protocols."""

import base64
import gzip
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from random import Random

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ctkit.demo.issuance import Issued, issue
from ctkit.wire.checkpoint import note_key_id, tree_head_to_sign
from ctkit.wire.entries import PRECERT_ENTRY, X509_ENTRY
from ctkit.wire.merkle import TILE_WIDTH, Tree, hash_leaf

PROTOCOLS = ("rfc6962", "static-ct")
DEFAULT_START = datetime(2026, 1, 10, 6, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What the log holds at one index.

    Attributes
    ----------
    entry_type
        ``X509_ENTRY`` or ``PRECERT_ENTRY``.
    timestamp
        Milliseconds since the Unix epoch.
    certificate
        DER; of the full pre-certificate with its poison for a ``PRECERT_ENTRY``.
    chain
        DER of the chain, from the issuer to the root.
    timestamped_entry
        The ``TimestampedEntry`` (RFC 6962, section 3.4), the same bytes in both protocols.
    """

    entry_type: int
    timestamp: int
    certificate: bytes
    chain: tuple[bytes, ...]
    timestamped_entry: bytes

    @property
    def leaf_input(self) -> bytes:
        """The ``MerkleTreeLeaf``: version v1, leaf type timestamped_entry, then the entry."""
        return b"\x00\x00" + self.timestamped_entry

    @property
    def extra_data(self) -> bytes:
        """The ``extra_data`` of get-entries (RFC 6962, section 4.6)."""
        # ASN.1Cert certificate_chain<0..2^24-1>;                                          for an x509_entry
        # struct { ASN.1Cert pre_certificate;
        #          ASN.1Cert precertificate_chain<0..2^24-1>; } PrecertChainEntry;         for a precert_entry
        chain = _vector(3, b"".join(_vector(3, certificate) for certificate in self.chain))
        return chain if self.entry_type == X509_ENTRY else _vector(3, self.certificate) + chain

    @property
    def tile_leaf(self) -> bytes:
        """The ``TileLeaf`` of a data tile (Static CT API, Log entries)."""
        # struct {
        #     TimestampedEntry timestamped_entry;
        #     select (entry_type) {
        #         case x509_entry: Empty;
        #         case precert_entry: ASN.1Cert pre_certificate;
        #     };
        #     Fingerprint certificate_chain<0..2^16-1>;
        # } TileLeaf;
        pre_certificate = b"" if self.entry_type == X509_ENTRY else _vector(3, self.certificate)
        fingerprints = _vector(2, b"".join(sha256(certificate).digest() for certificate in self.chain))
        return self.timestamped_entry + pre_certificate + fingerprints


@dataclass(frozen=True, slots=True)
class Request:
    """One GET request, its path relative to the log's URL."""

    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """What the log answers."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


NOT_FOUND = Response(404, b"not found")

# tile/<L>/<N>[.p/<W>] and tile/data/<N>[.p/<W>]: N in groups of three digits, all but the last behind an x.
_TILE = re.compile(r"(?P<level>data|[0-5])/(?P<path>(?!x000)(x\d{3}/)*\d{3})(\.p/(?P<width>[1-9]\d{0,2}))?")


class EmbeddedLog:
    """A CT log in memory that grows on demand and answers requests of both protocols from one tree.

    Parameters
    ----------
    name
        Name of the log; its path on a server and its origin are derived from it.
    protocols
        Any of ``"rfc6962"`` and ``"static-ct"``. Entries carry a ``leaf_index`` extension only with the latter.
    seed
        Decides names, serial numbers and timestamps of the entries.
    start
        When the log begins.
    interval
        Milliseconds between two entries, on average.
    page_size
        Largest number of entries in one answer of get-entries.
    operator
        Who runs it, in a log list.

    Attributes
    ----------
    slug
        Path of the log on a server.
    origin
        First line of its checkpoints.
    entries
        What the log holds, by index.
    tree
        The Merkle tree over them.
    issuers
        DER of the certificates in all chains, by lowercase hex SHA-256.
    public_key
        DER of the ``SubjectPublicKeyInfo`` of the log's ECDSA P-256 key.
    """

    def __init__(
        self,
        name: str,
        *,
        protocols: Sequence[str] = PROTOCOLS,
        seed: int = 0,
        start: datetime = DEFAULT_START,
        interval: int = 60_000,
        page_size: int = 256,
        operator: str = "Embedded Operator",
    ) -> None:
        self.name = name
        self.operator = operator
        self.slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        self.origin = f"{self.slug}.log.example"
        self.protocols = tuple(protocols)
        self.start = int(start.timestamp() * 1000)
        self.interval = interval
        self.page_size = page_size
        self.entries: list[LogEntry] = []
        self.tree = Tree()
        self.issuers: dict[str, bytes] = {}
        self._random = Random(f"{name}/{seed}")
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.public_key = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._index_by_leaf_hash: dict[bytes, int] = {}

    @property
    def tree_size(self) -> int:
        """Number of entries that the log admits to have."""
        return len(self.entries)

    def grow(self, count: int, *, until: int | None = None, issued: int | None = None) -> None:
        """Append `count` entries; the tree head follows.

        Parameters
        ----------
        count
            Number of entries.
        until
            When the last one is logged, in milliseconds since the Unix epoch: they are spread over the time since the
            last entry. None for `interval` from one to the next.
        issued
            Number of certificates that are issued for them; the others repeat these, each with a timestamp of its own,
            as when a certificate is submitted again. None for a certificate for each entry.
        """
        size = len(self.entries)
        last = self.entries[-1].timestamp if self.entries else self.start
        repeated: list[Issued] = []
        for number in range(count):
            if until is None:
                timestamp = self.start + (size + number) * self.interval + self._random.randrange(max(self.interval, 1))
            else:
                timestamp = last + max(until - last, 0) * (number + 1) // count
            if issued is None:
                self.append(issue(self._random, timestamp), timestamp)
                continue
            if number < max(issued, 1):
                repeated.append(issue(self._random, timestamp))
            self.append(repeated[number % len(repeated)], timestamp)

    def append(self, issued: Issued, timestamp: int) -> None:
        """Append one entry, `timestamp` in milliseconds since the Unix epoch."""
        # struct {
        #     uint64 timestamp;
        #     LogEntryType entry_type;
        #     select(entry_type) {
        #         case x509_entry: ASN.1Cert;
        #         case precert_entry: PreCert;      opaque issuer_key_hash[32]; TBSCertificate tbs_certificate;
        #     } signed_entry;
        #     CtExtensions extensions;
        # } TimestampedEntry;
        if issued.tbs is None:
            entry_type, signed_entry = X509_ENTRY, _vector(3, issued.certificate)
        else:
            entry_type, signed_entry = PRECERT_ENTRY, issued.issuer_key_hash + _vector(3, issued.tbs)
        extensions = b""
        if "static-ct" in self.protocols:
            # struct { ExtensionType extension_type = leaf_index(0); opaque extension_data<0..2^16-1>; } Extension;
            # uint40 LeafIndex;
            extensions = b"\x00" + _vector(2, len(self.entries).to_bytes(5))
        timestamped_entry = timestamp.to_bytes(8) + entry_type.to_bytes(2) + signed_entry + _vector(2, extensions)
        entry = LogEntry(entry_type, timestamp, issued.certificate, issued.chain, timestamped_entry)
        leaf_hash = hash_leaf(entry.leaf_input)
        self._index_by_leaf_hash[leaf_hash] = len(self.entries)
        self.issuers.update((sha256(issuer).hexdigest(), issuer) for issuer in issued.chain)
        self.tree.append(leaf_hash)
        self.entries.append(entry)

    def read(self, start: int, end: int) -> Sequence[LogEntry]:
        """Return the entries ``[start, end)`` as the log sends them."""
        return self.entries[start:end]

    def tree_head(self, tree_size: int) -> tuple[int, bytes]:
        """Return the timestamp and the signature of the tree head of `tree_size` entries.

        Returns
        -------
        tuple
            The timestamp of its last entry in milliseconds, and the ``digitally-signed`` struct.
        """
        timestamp = self.entries[tree_size - 1].timestamp if tree_size else self.start
        signed = tree_head_to_sign(timestamp, tree_size, self.tree.root(tree_size))
        signature = self._key.sign(signed, ec.ECDSA(hashes.SHA256()))
        # struct { SignatureAndHashAlgorithm algorithm; opaque signature<0..2^16-1>; } DigitallySigned;
        return timestamp, b"\x04\x03" + _vector(2, signature)

    def respond(self, request: Request) -> Response:
        """Answer one GET request."""
        if request.path.startswith("ct/v1/") and "rfc6962" in self.protocols:
            return self._respond_rfc6962(request.path.removeprefix("ct/v1/"), request.query)
        if "static-ct" in self.protocols:
            return self._respond_static_ct(request.path, request.headers)
        return NOT_FOUND

    def _respond_rfc6962(self, verb: str, query: Mapping[str, str]) -> Response:
        # RFC 6962, section 4.
        try:
            match verb:
                case "get-sth":
                    return _json(self._signed_tree_head())
                case "get-entries":
                    return _json({"entries": self._get_entries(int(query["start"]), int(query["end"]))})
                case "get-sth-consistency":
                    first, second = int(query["first"]), self._published(query["second"])
                    return _json({"consistency": _texts(self.tree.consistency_proof(first, second))})
                case "get-proof-by-hash":
                    tree_size = self._published(query["tree_size"])
                    index = self._index_by_leaf_hash[base64.b64decode(query["hash"], validate=True)]
                    return _json(
                        {"leaf_index": index, "audit_path": _texts(self.tree.inclusion_proof(index, tree_size))}
                    )
                case "get-entry-and-proof":
                    index, tree_size = int(query["leaf_index"]), self._published(query["tree_size"])
                    path = _texts(self.tree.inclusion_proof(index, tree_size))
                    return _json({**_wire(*self.read(index, index + 1)), "audit_path": path})
        except (KeyError, ValueError) as error:
            return Response(400, f"bad request: {error}".encode())
        return NOT_FOUND

    def _published(self, tree_size: str) -> int:
        if not 0 <= int(tree_size) <= self.tree_size:
            raise ValueError(f"there is no tree head of {tree_size} entries")
        return int(tree_size)

    def _signed_tree_head(self) -> dict[str, object]:
        tree_size = self.tree_size
        timestamp, signature = self.tree_head(tree_size)
        return {
            "tree_size": tree_size,
            "timestamp": timestamp,
            "sha256_root_hash": _text(self.tree.root(tree_size)),
            "tree_head_signature": _text(signature),
        }

    def _get_entries(self, start: int, end: int) -> list[dict[str, str]]:
        # `end` is the last index, not the one after it (RFC 6962, section 4.6).
        if not 0 <= start <= end or start >= self.tree_size:
            raise ValueError(f"no entries {start} to {end} in a tree of {self.tree_size}")
        stop = min(end + 1, start + self.page_size, self.tree_size)
        return [_wire(entry) for entry in self.read(start, stop)]

    def _respond_static_ct(self, path: str, headers: Mapping[str, str]) -> Response:
        # Static CT API, Monitoring APIs.
        kind, _, rest = path.partition("/")
        if path == "checkpoint":
            return Response(200, self.checkpoint())
        if kind == "issuer" and rest in self.issuers:
            return Response(200, self.issuers[rest], "application/pkix-cert")
        if kind != "tile" or not (tile := _TILE.fullmatch(rest)):
            return NOT_FOUND
        index = int(tile["path"].replace("x", "").replace("/", ""))
        width = int(tile["width"] or TILE_WIDTH)
        if tile["width"] and width >= TILE_WIDTH:
            return NOT_FOUND
        if tile["level"] != "data":
            try:
                return Response(200, self.tree.tile(int(tile["level"]), index, width), "application/octet-stream")
            except ValueError:
                return NOT_FOUND
        start = index * TILE_WIDTH
        if start + width > self.tree_size:
            return NOT_FOUND
        body = b"".join(entry.tile_leaf for entry in self.read(start, start + width))
        if "gzip" not in headers.get("accept-encoding", ""):
            return Response(200, body, "application/octet-stream")
        return Response(200, gzip.compress(body, 1, mtime=0), "application/octet-stream", {"Content-Encoding": "gzip"})

    def checkpoint(self) -> bytes:
        """Return the tree head as a signed note (Static CT API, Checkpoints)."""
        tree_size = self.tree_size
        timestamp, signature = self.tree_head(tree_size)
        key_id = note_key_id(self.origin, self.public_key)
        note_signature = _text(key_id + timestamp.to_bytes(8) + signature)
        root_hash = _text(self.tree.root(tree_size))
        return f"{self.origin}\n{tree_size}\n{root_hash}\n\n\u2014 {self.origin} {note_signature}\n".encode()


def make_log(
    name: str,
    size: int,
    *,
    seed: int = 0,
    protocols: Sequence[str] = PROTOCOLS,
    start: datetime = DEFAULT_START,
    days: float = 3,
) -> EmbeddedLog:
    """Return an embedded log of `size` entries whose timestamps are spread over `days`.

    Examples
    --------
    >>> log = make_log("Example 2026h1", 3)
    >>> log.tree_size, log.origin
    (3, 'example-2026h1.log.example')
    """
    log = EmbeddedLog(
        name, protocols=protocols, seed=seed, start=start, interval=int(days * 86_400_000) // max(size, 1)
    )
    log.grow(size)
    return log


def _vector(length_size: int, content: bytes) -> bytes:
    """Encode ``opaque content<0..2^(8 * length_size) - 1>`` (RFC 5246, section 4.3)."""
    return len(content).to_bytes(length_size) + content


def _wire(entry: LogEntry) -> dict[str, str]:
    return {"leaf_input": _text(entry.leaf_input), "extra_data": _text(entry.extra_data)}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _texts(hashes: Sequence[bytes]) -> list[str]:
    return [_text(node) for node in hashes]


def _json(answer: object) -> Response:
    return Response(200, json.dumps(answer, separators=(",", ":")).encode(), "application/json")
