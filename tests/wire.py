"""Entries as they go over the wire, built by hand."""

import base64
import hashlib
import json
from typing import Any


def opaque(content: bytes, size: int) -> bytes:
    """Return a variable-length vector with a length of `size` bytes."""
    return len(content).to_bytes(size) + content


def make_timestamped_entry(
    certificate: bytes, *, precert: bool = False, timestamp: int = 1_700_000_000_000, extensions: bytes = b""
) -> bytes:
    """Return a ``TimestampedEntry``; the TBSCertificate of a pre-certificate is made up."""
    head = timestamp.to_bytes(8) + (b"\0\1" + bytes(32) if precert else b"\0\0")
    return head + opaque(b"tbs of " + certificate if precert else certificate, 3) + opaque(extensions, 2)


def make_leaf_index(index: int) -> bytes:
    """Return the extension of the Static CT API."""
    return b"\0\0\5" + index.to_bytes(5)


def make_chain(*chain: bytes) -> bytes:
    """Return the chain of an entry in a page."""
    return opaque(b"".join(opaque(certificate, 3) for certificate in chain), 3)


def make_entry(certificate: bytes, *chain: bytes, precert: bool = False, **options: Any) -> tuple[bytes, bytes]:
    """Return leaf_input and extra_data."""
    extra_data = (opaque(certificate, 3) if precert else b"") + make_chain(*chain)
    return b"\0\0" + make_timestamped_entry(certificate, precert=precert, **options), extra_data


def make_page(*entries: tuple[bytes, bytes]) -> bytes:
    """Return the answer of get-entries."""
    texts = [[base64.b64encode(part).decode() for part in parts] for parts in entries]
    return json.dumps({"entries": [{"leaf_input": leaf, "extra_data": extra} for leaf, extra in texts]}).encode()


def make_tile_leaf(certificate: bytes, *chain: bytes, precert: bool = False, **options: Any) -> bytes:
    """Return an entry as it is in a data tile."""
    pre_certificate = opaque(certificate, 3) if precert else b""
    fingerprints = b"".join(hashlib.sha256(issuer).digest() for issuer in chain)
    return make_timestamped_entry(certificate, precert=precert, **options) + pre_certificate + opaque(fingerprints, 2)
