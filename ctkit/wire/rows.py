"""From a block of entries to rows: one for every entry, however odd its certificate."""

import json
from base64 import b64encode
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha1, sha256
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ctkit.ranges import Int64s
from ctkit.schema import AsDer, encoded_schema
from ctkit.wire import x509
from ctkit.wire.entries import PRECERT_ENTRY, EntryBlock
from ctkit.wire.fields import AGGREGATED, aggregated, is_ca, read_fields, serial_number, signature_algorithm

_LAST_MILLISECOND = 253_402_300_799_999
"""The end of the year 9999, the last with four digits."""

_LONGEST_CHAIN = 1 << 20
"""Largest size of the texts of one chain, in bytes; those of public logs take some 10 kB. Each entry of a tile can name
two thousand issuers, or one of them as often, and all texts of a tile must fit into one array of 2 GiB."""

_LARGEST_CACHED = 1 << 16
"""Largest chain certificate, in bytes, whose text is remembered; those of public logs have about 2 kB."""


class Source(Protocol):
    """The log that rows come from, as far as they name it."""

    @property
    def url(self) -> str:
        """Stored as ``source_url``."""

    def entry_urls(self, index: Int64s) -> pa.StringArray:
        """Return the URL of each index, stored as ``cert_link``."""


def read_rows(
    block: EntryBlock, source: Source, *, source_name: str, as_der: AsDer = "binary", seen: int | None = None
) -> pa.RecordBatch:
    """Return one row for each entry of a block, in its order.

    A certificate that cannot be read keeps its bytes, its hashes, and the fields before the point where it breaks; the
    others are empty (``""``, 0, false, no elements). Its ``signature_algorithm`` is ``""``, as for no readable
    certificate. A chain certificate that cannot be read is left out of ``chain``, and so is everything beyond 1 MiB of
    text in one chain.

    Parameters
    ----------
    block
        Entries of one log.
    source
        The log.
    source_name
        Stored in the column of that name.
    as_der
        Type of the column of that name.
    seen
        When the entries were fetched, in milliseconds since the Unix epoch; None for the log's timestamp of each.
        A time before 1970 or after 9999 is stored as 0.

    Returns
    -------
    pa.RecordBatch
        As many rows as entries; its schema is ``encoded_schema(as_der)``.
    """
    data = memoryview(block.data)
    ders = [data[start:end] for start, end in block.certificate.tolist()]
    sha1s = _fingerprints([sha1(der).digest() for der in ders])

    moments = block.timestamp if seen is None else np.full(len(block), seen)
    usable = (moments >= 0) & (moments <= _LAST_MILLISECOND)
    times: NDArray[np.datetime64] = np.where(usable, moments, 0).astype("datetime64[ms]")

    columns = {
        "cert_index": block.index,
        "update_type": _encode(
            (block.entry_type == PRECERT_ENTRY).astype(np.int32), ["X509LogEntry", "PrecertLogEntry"]
        ),
        "seen": times,
        "seen_date": _dates(times),
        "source_name": _encode(np.zeros(len(block), np.int32), [source_name]),
        "source_url": _encode(np.zeros(len(block), np.int32), [source.url]),
        "cert_link": source.entry_urls(block.index),
        "fingerprint": sha1s,
        "sha256": _fingerprints([sha256(der).digest() for der in ders]),
        "sha1": sha1s,
        "as_der": _concatenated(ders) if as_der == "binary" else [b64encode(der).decode() for der in ders],
        "chain": _chains(block),
        **read_fields(block),
    }
    schema = encoded_schema(as_der)
    return pa.RecordBatch.from_pydict({name: columns[name] for name in schema.names}, schema=schema)


def _encode(codes: NDArray[np.int32], texts: list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(texts, pa.string()))


def _dates(times: NDArray[np.datetime64]) -> pa.StringArray:
    days, number = np.unique(times.astype("datetime64[D]"), return_inverse=True)
    return pa.array(np.datetime_as_string(days).tolist(), pa.string()).take(pa.array(number))


def _fingerprints(digests: list[bytes]) -> pa.StringArray:
    """Return digests of one length as ``AB:CD:...``."""
    if not digests:
        return pa.array([], pa.string())
    octets = np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1)
    width = 3 * octets.shape[1] - 1
    text = _HEX[octets].reshape(len(digests), -1)[:, :width].tobytes()
    offsets = np.arange(0, len(text) + 1, width, dtype=np.int32)
    return pa.StringArray.from_buffers(len(digests), pa.py_buffer(offsets), pa.py_buffer(text))


_HEX = np.array([list(b"%02X:" % octet) for octet in range(256)], np.uint8)


def _concatenated(values: list[memoryview]) -> pa.BinaryArray:
    offsets = np.concatenate(([0], np.cumsum([len(value) for value in values]))).astype(np.int32)
    # In Arrow's memory, as it outlives everything else that is made from a block.
    buffer = pa.allocate_buffer(int(offsets[-1]))
    memoryview(buffer).cast("B")[:] = b"".join(values)
    return pa.BinaryArray.from_buffers(pa.binary(), len(values), [None, pa.py_buffer(offsets), buffer])


def count_unreadable(rows: pa.RecordBatch | pa.Table) -> int:
    """Return how many of the rows have a certificate that cannot be read."""
    return int(pc.sum(pc.equal(rows["signature_algorithm"], "")).as_py() or 0)


def _fingerprint(digest: bytes) -> str:
    return digest.hex(":").upper()


def _chains(block: EntryBlock) -> pa.ListArray:
    # Position -1, that of a missing issuer, is the last of these.
    texts = pa.array([*map(_chain_text, block.issuers), None], pa.string())
    stops = np.cumsum(pc.binary_length(texts).fill_null(0).to_numpy()[block.chain], dtype=np.int64)
    before = np.concatenate(([0], stops))[np.repeat(block.chain_offsets[:-1], np.diff(block.chain_offsets))]
    kept = texts.is_valid().to_numpy(zero_copy_only=False)[block.chain] & (stops - before <= _LONGEST_CHAIN)
    offsets = np.concatenate(([0], np.cumsum(kept)))[block.chain_offsets]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), texts.take(pa.array(block.chain[kept])))


def _chain_text(der: bytes) -> str | None:
    return _cached_text(der) if len(der) <= _LARGEST_CACHED else _text_of(der)


def _text_of(der: bytes) -> str | None:
    """Return the JSON text of a chain certificate; None if it cannot be read."""
    certificate = x509.read_certificate(der)
    if not certificate.readable:
        return None
    return json.dumps(describe_certificate(certificate, der), ensure_ascii=False, separators=(",", ":"))


def describe_certificate(certificate: x509.Certificate, der: bytes) -> dict[str, Any]:
    """Return what `chain` says of a certificate, keys in the live server's order; empty where it cannot be read."""
    fingerprint = _fingerprint(sha1(der).digest())
    return {
        "subject": _name_object(certificate.subject),
        "issuer": _name_object(certificate.issuer),
        "serial_number": serial_number(certificate),
        "not_before": certificate.not_before,
        "not_after": certificate.not_after,
        "fingerprint": fingerprint,
        "sha1": fingerprint,
        "sha256": _fingerprint(sha256(der).digest()),
        "signature_algorithm": signature_algorithm(certificate),
        "is_ca": is_ca(certificate),
        "extensions": _extensions_object(certificate.extensions),
    }


# Logs accept few issuers, and they recur in every block.
_cached_text = lru_cache(maxsize=4096)(_text_of)


def _name_object(contents: bytes) -> dict[str, str]:
    name = x509.read_name(contents)
    shown = {attribute: name[attribute] for attribute in AGGREGATED if attribute in name}
    shown["aggregated"] = aggregated(name)
    if "email_address" in name:
        shown["email_address"] = name["email_address"]
    return shown


def _extensions_object(extensions: dict[bytes, list[bytes]]) -> dict[str, str | bool]:
    """Return the extensions that are shown; if one is repeated, the last that can be read."""
    shown: dict[str, str | bool] = {}
    for key, identifier, text_of in _SHOWN_EXTENSIONS:
        texts = [text for value in extensions.get(identifier, []) if (text := text_of(value)) is not None]
        if texts:
            # Alternative names of several extensions are joined, as in all_domains.
            shown[key] = ", ".join(texts) if identifier == x509.SUBJECT_ALT_NAME else texts[-1]
    if x509.POISON in extensions:
        shown["ctlPoisonByte"] = True
    return shown


def _access_text(value: bytes) -> str | None:
    locations = x509.read_access_locations(value)
    return ", ".join([f"URI:{x509.ia5_text(uri)}" for tag, uri in locations if tag == x509.URI]) or None


def _authority_key_text(value: bytes) -> str | None:
    key = x509.read_authority_key_identifier(value)
    return f"keyid:{key.hex(':')}" if key else None


def _subject_key_text(value: bytes) -> str | None:
    key = x509.read_subject_key_identifier(value)
    return f"keyid:{key.hex(':')}" if key else None


def _constraints_text(value: bytes) -> str | None:
    ca = x509.read_basic_constraints(value)
    return None if ca is None else "CA:TRUE" if ca else "CA:FALSE"


def _policies_text(value: bytes) -> str | None:
    policies = [x509.dotted(identifier) for identifier in x509.read_policies(value)]
    return "".join([f"Policy: {policy}\n" for policy in policies if policy]) or None


_KEY_PURPOSES = {
    b"\x2b\x06\x01\x05\x05\x07\x03\x01": "serverAuth",
    b"\x2b\x06\x01\x05\x05\x07\x03\x02": "clientAuth",
    b"\x2b\x06\x01\x05\x05\x07\x03\x03": "codeSigning",
    b"\x2b\x06\x01\x05\x05\x07\x03\x04": "emailProtection",
    b"\x2b\x06\x01\x05\x05\x07\x03\x08": "timeStamping",
    b"\x2b\x06\x01\x05\x05\x07\x03\x09": "OCSPSigning",
    b"\x55\x1d\x25\x00": "anyExtendedKeyUsage",
}
"""In the order in which they are shown; others are not."""


def _key_purposes_text(value: bytes) -> str | None:
    purposes = x509.read_key_purposes(value)
    return ", ".join([text for purpose, text in _KEY_PURPOSES.items() if purpose in purposes]) if purposes else None


_KEY_USAGES = (
    "Digital Signature",
    "Content Commitment",
    "Key Encipherment",
    "Data Encipherment",
    "Key Agreement",
    "Certificate Signing",
    "CRL Signing",
    "Encipher Only",
    "Decipher Only",
)
"""By the number of their bit."""


def _key_usage_text(value: bytes) -> str | None:
    bits = x509.read_key_usage(value)
    return None if bits is None else ", ".join([_KEY_USAGES[bit] for bit in bits])


def _alternative_names_text(value: bytes) -> str | None:
    return ", ".join(alternative_names(value)) or None


def alternative_names(value: bytes) -> list[str]:
    """Return the domains, mail addresses and IP addresses of a SubjectAltName extension, each with its kind.

    Examples
    --------
    >>> alternative_names(bytes.fromhex("3009 8201 61 8704 7f000001"))
    ['DNS:a', 'IP Address:127.0.0.1']
    """
    texts = []
    for tag, name in x509.read_general_names(value):
        if tag == x509.DNS_NAME:
            texts.append(f"DNS:{x509.ia5_text(name)}")
        elif tag == x509.RFC822_NAME:
            texts.append(f"email:{x509.ia5_text(name)}")
        elif tag == x509.IP_ADDRESS and len(name) == 4:
            texts.append(f"IP Address:{IPv4Address(name)}")
        elif tag == x509.IP_ADDRESS and len(name) == 16:
            address = IPv6Address(name)
            mapped = address.ipv4_mapped
            texts.append(f"IP Address:{f'::ffff:{mapped}' if mapped else address}")
    return texts


_SHOWN_EXTENSIONS: tuple[tuple[str, bytes, Callable[[bytes], str | None]], ...] = (
    ("authorityInfoAccess", x509.AUTHORITY_INFO_ACCESS, _access_text),
    ("authorityKeyIdentifier", x509.AUTHORITY_KEY_IDENTIFIER, _authority_key_text),
    ("basicConstraints", x509.BASIC_CONSTRAINTS, _constraints_text),
    ("certificatePolicies", x509.CERTIFICATE_POLICIES, _policies_text),
    ("extendedKeyUsage", x509.EXTENDED_KEY_USAGE, _key_purposes_text),
    ("keyUsage", x509.KEY_USAGE, _key_usage_text),
    ("subjectAltName", x509.SUBJECT_ALT_NAME, _alternative_names_text),
    ("subjectKeyIdentifier", x509.SUBJECT_KEY_IDENTIFIER, _subject_key_text),
)
"""In the order in which the live server shows them."""
