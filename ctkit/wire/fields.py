"""The columns that are read from certificates themselves."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ctkit.ranges import Int64s
from ctkit.schema import row_schema
from ctkit.wire import x509
from ctkit.wire.entries import EntryBlock
from ctkit.wire.volume import are_many, count_read

if TYPE_CHECKING:
    from ctkit.wire.kernels import Texts

_NO_FIELDS = {
    name: pa.nulls(0, row_schema().field(name).type)
    for name in (
        *("serial_number", "not_before", "not_after", "is_ca"),
        *("signature_algorithm", "subject_aggregated", "issuer_aggregated", "all_domains"),
    )
}
"""The columns that are read from certificates, of none."""


def read_fields(block: EntryBlock) -> dict[str, pa.Array]:
    """Return the columns that are read from the certificates themselves."""
    if are_many():
        found, odd = _compiled_fields(block)
    else:
        found, odd = _NO_FIELDS, np.arange(len(block))
        count_read(len(block))
    if len(odd):
        rows = np.arange(len(block))
        rows[odd] = np.arange(len(odd)) + len(found["is_ca"])
        read = _read_fields([block.data[start:end] for start, end in block.certificate[odd].tolist()])
        columns = {name: [column, pa.array(read[name], column.type)] for name, column in found.items()}
        found = {name: pa.concat_arrays(parts).take(pa.array(rows)) for name, parts in columns.items()}
    return found | {name: found[name].dictionary_encode() for name in ("signature_algorithm", "issuer_aggregated")}


def _compiled_fields(block: EntryBlock) -> tuple[dict[str, pa.Array], Int64s]:
    """Return the columns by the compiled functions, and the rows of those certificates that they do not understand."""
    from ctkit.wire.kernels import read_certificates

    fields = read_certificates(block.data, block.certificate, list(SIGNATURE_ALGORITHMS))
    names = [*SIGNATURE_ALGORITHMS.values(), "unknown"]
    found = {
        "serial_number": _array(fields.serial_number),
        "not_before": pa.array(fields.not_before),
        "not_after": pa.array(fields.not_after),
        "is_ca": pa.array(fields.is_ca),
        "signature_algorithm": pa.array(names, pa.string()).take(pa.array(fields.algorithm)),
        "subject_aggregated": _array(fields.subject),
        "issuer_aggregated": _array(fields.issuer),
        "all_domains": pa.ListArray.from_arrays(pa.array(fields.first_domain), _array(fields.domains)),
    }
    return found, np.flatnonzero(~fields.understood)


def _array(texts: "Texts") -> pa.StringArray:
    offsets, size = texts.offsets, texts.offsets[-1]
    return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(texts.text[:size].copy()))


def _read_fields(ders: list[bytes]) -> dict[str, list[Any]]:
    """Return the same columns for certificates of any kind."""
    certificates = [x509.read_certificate(der) for der in ders]
    subjects = [x509.read_name(certificate.subject) for certificate in certificates]
    return {
        "serial_number": [serial_number(certificate) for certificate in certificates],
        "not_before": [certificate.not_before for certificate in certificates],
        "not_after": [certificate.not_after for certificate in certificates],
        "is_ca": [is_ca(certificate) for certificate in certificates],
        "signature_algorithm": [signature_algorithm(certificate) for certificate in certificates],
        "subject_aggregated": [aggregated(subject) for subject in subjects],
        "issuer_aggregated": [aggregated(x509.read_name(certificate.issuer)) for certificate in certificates],
        "all_domains": [_all_domains(*pair) for pair in zip(certificates, subjects, strict=True)],
    }


def serial_number(certificate: x509.Certificate) -> str:
    """Return it as upper-case hex without leading zeros; a negative number keeps its two's complement."""
    octets = certificate.serial_number
    return (octets.lstrip(b"\0") or octets[:1]).hex().upper()


def is_ca(certificate: x509.Certificate) -> bool:
    """Return cA of the BasicConstraints extension; several of them count as none."""
    constraints = certificate.extensions.get(x509.BASIC_CONSTRAINTS, [])
    return len(constraints) == 1 and x509.read_basic_constraints(constraints[0]) is True


# The contents of object identifiers; the texts are those of the live server.
SIGNATURE_ALGORITHMS = {
    bytes.fromhex(contents): text
    for contents, text in {
        "2a864886f70d010102": "md2, rsa",
        "2a864886f70d010104": "md5, rsa",
        "2a864886f70d010105": "sha1, rsa",
        "2a864886f70d01010b": "sha256, rsa",
        "2a864886f70d01010c": "sha384, rsa",
        "2a864886f70d01010d": "sha512, rsa",
        "2a864886f70d01010a": "sha256, rsa-pss",
        "2a8648ce380403": "dsa, sha1",
        "608648016503040302": "dsa, sha256",
        "2a8648ce3d0401": "ecdsa, sha1",
        "2a8648ce3d040302": "ecdsa, sha256",
        "2a8648ce3d040303": "ecdsa, sha384",
        "2a8648ce3d040304": "ecdsa, sha512",
        "2b6570": "ed25519",
    }.items()
}


def signature_algorithm(certificate: x509.Certificate) -> str:
    """Return the words of the live server for the algorithm; "" if the certificate cannot be read."""
    if not certificate.readable:
        return ""
    return SIGNATURE_ALGORITHMS.get(certificate.signature_algorithm, "unknown")


AGGREGATED = ("C", "CN", "L", "O", "OU", "ST")
"""Attributes of a name that are kept, in their order."""


def aggregated(name: dict[str, str]) -> str:
    """Return a name as one text, as in ``subject_aggregated``."""
    return "".join([f"/{attribute}={name[attribute]}" for attribute in AGGREGATED if attribute in name])


def _all_domains(certificate: x509.Certificate, subject: dict[str, str]) -> list[str]:
    """Return the common name, unless the certificate is a CA's, and then the DNS names, each once."""
    domains = []
    common_name = subject.get("CN")
    if common_name and not is_ca(certificate):
        domains.append(common_name)
    for value in certificate.extensions.get(x509.SUBJECT_ALT_NAME, []):
        domains += [x509.ia5_text(name) for tag, name in x509.read_general_names(value) if tag == x509.DNS_NAME]
    return list(dict.fromkeys(domains))
