"""Damaged certificates, read by us and by `cryptography`: where both read one, they read the same."""

import json
import warnings
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import seeds
from blocks import LOG, block_of
from cryptography import x509
from cryptography.x509.oid import NameOID
from mutation import mutate
from oracle import ATTRIBUTES, is_ca, shown

from ctkit.wire.rows import read_rows
from ctkit.wire.x509 import dotted, read_certificate


def _damaged(number: int) -> bytes:
    """Return a certificate with a few changed bits or bytes: what is damaged more, `cryptography` seldom reads."""
    random = Random(f"differential/{number}")
    if number % 4 == 0:
        return mutate(random, seeds.certificates())
    data = bytearray(random.choice(seeds.certificates()))
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(len(data))
        data[at] = data[at] ^ 1 << random.randrange(8) if random.random() < 0.7 else random.randrange(256)
    return bytes(data)


def _serial_number(certificate: x509.Certificate) -> str:
    number = certificate.serial_number
    length = (number.bit_length() + 7) // 8 or 1 if number >= 0 else (number + 1).bit_length() // 8 + 1
    return number.to_bytes(length, signed=number < 0).hex().upper()


def _name(name: x509.Name) -> str | None:
    """Return the text of a name; None where a text is by its type not UTF-8, which is all that we read."""
    texts = {}
    for attribute in name:
        if attribute._type.name in ("BMPString", "T61String", "UniversalString"):
            return None
        texts[attribute.oid] = attribute.value
    return "".join(f"/{key}={texts[oid]}" for oid, key in ATTRIBUTES.items() if oid in texts)


def _domains(certificate: x509.Certificate) -> list[str] | None:
    if _name(certificate.subject) is None:
        return None
    names = [name.value for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    domains = names[-1:] if names and names[-1] and not is_ca(certificate) else []
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        domains += alternative.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        pass
    return list(dict.fromkeys(domains))


_COLUMNS: dict[str, Callable[[x509.Certificate], Any]] = {
    "serial_number": _serial_number,
    "not_before": lambda certificate: int(certificate.not_valid_before_utc.timestamp()),
    "not_after": lambda certificate: int(certificate.not_valid_after_utc.timestamp()),
    "subject_aggregated": lambda certificate: _name(certificate.subject),
    "issuer_aggregated": lambda certificate: _name(certificate.issuer),
    "is_ca": is_ca,
    "all_domains": _domains,
    "extensions": lambda certificate: dict(
        pair for extension in certificate.extensions for pair in shown(extension.value)
    ),
    "algorithm": lambda certificate: certificate.signature_algorithm_oid.dotted_string,
}


def _differences(der: bytes) -> list[tuple[str, Any, Any]] | None:
    """Return column, our value and the other one, where they differ; None if `cryptography` reads no certificate."""
    with warnings.catch_warnings(action="ignore"):
        try:
            certificate = x509.load_der_x509_certificate(der)
        except Exception:  # It refuses in many ways.
            return None
        (row,) = read_rows(block_of([der], chains=[[0]], issuers=[der]), LOG, source_name=LOG.name).to_pylist()
        row["algorithm"] = dotted(read_certificate(der).signature_algorithm)
        row["extensions"] = json.loads(row["chain"][0])["extensions"] if row["chain"] else None
        differences = []
        for column, read in _COLUMNS.items():
            with suppress(Exception):
                if (expected := read(certificate)) not in (None, row[column]):
                    differences.append((column, row[column], expected))
        return differences


def test_columns_of_damaged_certificates_are_those_of_cryptography(inputs: int) -> None:
    """No column differs, of those that `cryptography` reads."""
    count = max(1, inputs // 20)

    found = [(number, _differences(_damaged(number))) for number in range(count)]

    assert [(number, differences) for number, differences in found if differences] == []
    assert sum(differences is not None for _, differences in found) > count // 3
