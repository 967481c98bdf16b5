"""Entries and certificates built by hand, for tests of what comes after the decoding of entries."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import accumulate, pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from ctkit.ranges import Int64s
from ctkit.wire.der import der
from ctkit.wire.entries import EntryBlock

TIMESTAMP = 1_773_144_000_123
"""2026-03-10T12:00:00.123Z"""


def block_of(
    certificates: Sequence[bytes],
    *,
    start: int = 0,
    timestamps: Sequence[int] | None = None,
    entry_types: Sequence[int] | None = None,
    chains: Sequence[Sequence[int]] | None = None,
    issuers: Sequence[bytes] = (),
) -> EntryBlock:
    """Return a block of the given certificates, at consecutive indices from `start` on."""
    count = len(certificates)
    chains = chains or [()] * count
    stops = np.cumsum([0, *map(len, certificates)])
    ranges = np.stack((stops[:-1], stops[1:]), axis=1)
    return EntryBlock(
        index=np.arange(start, start + count),
        timestamp=np.array(timestamps or [TIMESTAMP] * count, np.int64),
        entry_type=np.array(entry_types or [0] * count, np.uint16),
        data=b"".join(certificates),
        leaf=ranges,
        certificate=ranges,
        chain_offsets=np.array([0, *accumulate(map(len, chains))]),
        chain=np.array([position for chain in chains for position in chain], np.int64),
        issuers=tuple(issuers),
    )


def certificates_of(block: EntryBlock) -> list[bytes]:
    """Return the certificate of each entry."""
    return [block.data[start:end] for start, end in block.certificate.tolist()]


def chains_of(block: EntryBlock) -> list[list[bytes]]:
    """Return the chain of each entry, without missing issuers."""
    edges = block.chain_offsets.tolist()
    return [[block.issuers[i] for i in block.chain[start:end] if i >= 0] for start, end in pairwise(edges)]


def _entry_urls(index: Int64s) -> pa.StringArray:
    return pa.array([f"https://log.example/entry/{i}" for i in index.tolist()], pa.string())


LOG = SimpleNamespace(url="https://log.example", name="Example log", page_size=32, entry_urls=_entry_urls)
"""What rows need to know of a log."""

ALGORITHM = der(0x30, bytes.fromhex("06082a8648ce3d040302"))
NAME = der(0x30, der(0x31, der(0x30, bytes.fromhex("0603550403"), der(0x0C, b"example.org"))))
DATES = der(0x17, b"260310120000Z"), der(0x17, b"260608115959Z")
KEY = der(0x30, ALGORITHM, der(0x03, b"\0key"))
SAN = der(0x30, bytes.fromhex("0603551d11"), der(0x04, der(0x30, der(0x82, b"example.org"))))
FIELDS = {
    "version": der(0xA0, der(0x02, b"\2")),
    "serial_number": der(0x02, b"\x12\x34"),
    "signature": ALGORITHM,
    "issuer": NAME,
    "validity": der(0x30, *DATES),
    "subject": NAME,
    "key": KEY,
    "extensions": der(0xA3, der(0x30, SAN)),
}
"""The fields of a ``TBSCertificate`` (RFC 5280, section 4.1), encoded."""


def certificate(*, algorithm: bytes = ALGORITHM, **fields: bytes) -> bytes:
    """Return a certificate with some of its fields replaced by other bytes."""
    return der(0x30, der(0x30, *(FIELDS | fields).values()), algorithm, der(0x03, b"\0signature"))


def certify(
    subject: str | x509.Name,
    key: Any,
    issuer: str | x509.Name,
    issuer_key: Any,
    *extensions: x509.ExtensionType,
    serial_number: int = 17,
) -> x509.Certificate:
    """Return a certificate for a key, signed by another; names that are texts are common names."""
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) if isinstance(name, str) else name
        for name in (issuer, subject)
    ]
    dates = datetime(2026, 3, 10, tzinfo=UTC), datetime(2026, 6, 10, tzinfo=UTC)
    builder = x509.CertificateBuilder(*names, key.public_key(), serial_number, *dates)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=isinstance(extension, x509.PrecertPoison))
    return builder.sign(issuer_key, None if isinstance(issuer_key, Ed25519PrivateKey) else hashes.SHA256())
