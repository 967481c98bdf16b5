"""From log bytes to rows one entry after the other, with `cryptography` and the standard library: the baseline."""

import base64
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from hashlib import sha1, sha256
from typing import Any

import pyarrow as pa
from cryptography import x509
from cryptography.x509.oid import NameOID
from oracle import ATTRIBUTES, is_ca, shown

from ctkit.logs.log import Log
from ctkit.schema import row_schema

_ALGORITHMS = {
    "1.2.840.113549.1.1.4": "md5, rsa",
    "1.2.840.113549.1.1.5": "sha1, rsa",
    "1.2.840.113549.1.1.11": "sha256, rsa",
    "1.2.840.113549.1.1.12": "sha384, rsa",
    "1.2.840.113549.1.1.13": "sha512, rsa",
    "1.2.840.10045.4.3.2": "ecdsa, sha256",
    "1.2.840.10045.4.3.3": "ecdsa, sha384",
}

Entry = tuple[int, int, bytes, list[bytes]]
"""Type, timestamp, certificate, chain."""


def read_page(body: bytes) -> Iterator[Entry]:
    """Yield the entries of an answer of get-entries."""
    for entry in json.loads(body)["entries"]:
        leaf, extra = base64.b64decode(entry["leaf_input"]), base64.b64decode(entry["extra_data"])
        timestamp, entry_type = struct.unpack_from(">QH", leaf, 2)
        certificate, at = _vector(extra, 0) if entry_type else (_vector(leaf, 12)[0], 0)
        vector, _ = _vector(extra, at)
        chain, at = [], 0
        while at < len(vector):
            issuer, at = _vector(vector, at)
            chain.append(issuer)
        yield entry_type, timestamp, certificate, chain


def read_tile(tile: bytes, issuers: Mapping[bytes, bytes]) -> Iterator[Entry]:
    """Yield the entries of a data tile; `issuers` by their fingerprint."""
    at = 0
    while at < len(tile):
        timestamp, entry_type = struct.unpack_from(">QH", tile, at)
        certificate, at = _vector(tile, at + (42 if entry_type else 10))
        at += 2 + int.from_bytes(tile[at : at + 2])
        if entry_type:
            certificate, at = _vector(tile, at)
        start, at = at + 2, at + 2 + int.from_bytes(tile[at : at + 2])
        yield entry_type, timestamp, certificate, [issuers[tile[i : i + 32]] for i in range(start, at, 32)]


def _vector(data: bytes, at: int) -> tuple[bytes, int]:
    end = at + 3 + int.from_bytes(data[at : at + 3])
    return data[at + 3 : end], end


def read_rows(entries: Iterator[Entry], start: int, log: Log, chain_text: Callable[[bytes], str]) -> pa.RecordBatch:
    """Return the rows of the entries from index `start` on."""
    rows: dict[str, list[Any]] = {column: [] for column in row_schema().names}
    for index, (entry_type, timestamp, der, chain) in enumerate(entries, start):
        certificate = x509.load_der_x509_certificate(der)
        fields = _fields(certificate, der)
        moment = datetime.fromtimestamp(timestamp // 1000, UTC).replace(microsecond=timestamp % 1000 * 1000)
        row = {
            "cert_index": index,
            "update_type": "PrecertLogEntry" if entry_type else "X509LogEntry",
            "seen": moment,
            "seen_date": f"{moment:%Y-%m-%d}",
            "source_name": log.name,
            "source_url": log.url,
            "cert_link": f"{log.url}/entry/{index}",
            **fields,
            "subject_aggregated": _name(certificate.subject)["aggregated"],
            "issuer_aggregated": _name(certificate.issuer)["aggregated"],
            "all_domains": _domains(certificate, fields["is_ca"]),
            "as_der": der,
            "chain": [chain_text(issuer) for issuer in chain],
        }
        for column, values in rows.items():
            values.append(row[column])
    return pa.RecordBatch.from_pydict(rows, schema=row_schema())


def chain_text(der: bytes) -> str:
    """Return the JSON text of a chain certificate."""
    certificate = x509.load_der_x509_certificate(der)
    fields = _fields(certificate, der)
    texts = dict(pair for extension in certificate.extensions for pair in shown(extension.value))
    content = {
        "subject": _name(certificate.subject),
        "issuer": _name(certificate.issuer),
        **{key: fields[key] for key in ("serial_number", "not_before", "not_after", "fingerprint", "sha1", "sha256")},
        "signature_algorithm": fields["signature_algorithm"],
        "is_ca": fields["is_ca"],
        "extensions": dict(sorted(texts.items())),
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _fields(certificate: x509.Certificate, der: bytes) -> dict[str, Any]:
    number, fingerprint = certificate.serial_number, _colons(sha1(der).digest())
    return {
        "serial_number": number.to_bytes((number.bit_length() + 7) // 8 or 1).hex().upper(),
        "fingerprint": fingerprint,
        "sha256": _colons(sha256(der).digest()),
        "sha1": fingerprint,
        "not_before": int(certificate.not_valid_before_utc.timestamp()),
        "not_after": int(certificate.not_valid_after_utc.timestamp()),
        "is_ca": is_ca(certificate),
        "signature_algorithm": _ALGORITHMS[certificate.signature_algorithm_oid.dotted_string],
    }


def _colons(digest: bytes) -> str:
    return digest.hex(":").upper()


def _domains(certificate: x509.Certificate, is_ca: bool) -> list[str]:
    names = (
        [] if is_ca else [name.value for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)][-1:]
    )
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names += alternative.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        pass
    return list(dict.fromkeys(names))


def _name(name: x509.Name) -> dict[str, str]:
    texts = {attribute.oid: attribute.value for attribute in name}
    shown = {key: texts[oid] for oid, key in ATTRIBUTES.items() if oid in texts}
    shown["aggregated"] = "".join(f"/{key}={text}" for key, text in shown.items())
    if NameOID.EMAIL_ADDRESS in texts:
        shown["email_address"] = texts[NameOID.EMAIL_ADDRESS]
    return shown
