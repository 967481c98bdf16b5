"""Check `extra_data` (RFC 6962, section 4.6), pre-certificates and chains, which no log signs, against the leaves."""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import load_der_public_key
from numpy.typing import NDArray

from ctkit.wire.der import der, header
from ctkit.wire.entries import X509_ENTRY, EntryBlock
from ctkit.wire.names import canonical_name
from ctkit.wire.signatures import signature_holds
from ctkit.wire.volume import are_many
from ctkit.wire.x509 import POISON_EXTENSION

FAULTS = (
    "",
    "its chain cannot be read, or a certificate in it is not signed by the next",
    "its chain is not that of its issuer",
    "its pre-certificate is not the TBSCertificate of its leaf, with the poison",
    "its chain does not end in a root certificate that the log accepts",
)
"""Faults of an entry, by the number that `find_faults` gives them."""

_CHAIN, _ISSUER, _PRE_CERTIFICATE = 1, 2, 3
OPEN_END = 4
"""The fault of a chain that does not end in a self-signed certificate; `ctkit.wire.roots.Roots` tells whether the log
accepts that end all the same."""

_BIT_STRING, _OBJECT_IDENTIFIER, _SEQUENCE, _VERSION, _EXTENSIONS = 0x03, 0x06, 0x30, 0xA0, 0xA3

_EXTENDED_KEY_USAGE = bytes.fromhex("0603551d25")
_AUTHORITY_KEY_IDENTIFIER = bytes.fromhex("0603551d23")
# 1.3.6.1.4.1.11129.2.4.4: the key purpose of a Precertificate Signing Certificate.
_SIGNS_PRE_CERTIFICATES = bytes.fromhex("060a2b06010401d679020404")

_RSA, _ECDSA = bytes.fromhex("2a864886f70d0101"), bytes.fromhex("2a8648ce3d04")
_HASHES: dict[bytes, hashes.HashAlgorithm] = {
    _RSA + b"\x04": hashes.MD5(),
    _RSA + b"\x05": hashes.SHA1(),
    _RSA + b"\x0b": hashes.SHA256(),
    _RSA + b"\x0c": hashes.SHA384(),
    _RSA + b"\x0d": hashes.SHA512(),
    _ECDSA + b"\x01": hashes.SHA1(),
    _ECDSA + b"\x03\x02": hashes.SHA256(),
    _ECDSA + b"\x03\x03": hashes.SHA384(),
    _ECDSA + b"\x03\x04": hashes.SHA512(),
}
"""Signature algorithms that are verified: contents of the object identifiers of PKCS #1 v1.5 and ECDSA."""

_REMEMBERED = 1024
"""Certificates, and pairs of them, that need not be checked again."""

_LARGEST_ISSUER = 1 << 16
"""Bytes of a chain certificate above which it is odd; those of public logs have about 2 kB."""


def find_faults(block: EntryBlock) -> NDArray[np.uint8]:
    """Find entries whose chain or pre-certificate does not match their leaf, or has a false signature.

    A leaf hash covers a whole certificate; of a pre-certificate it covers the ``TBSCertificate`` without the poison and
    the key of its issuer, and of the chain nothing else. The rest is checked as follows.

    - Each certificate of the chain is signed by the next, and the last by itself; otherwise `ctkit.wire.roots.Roots`
      tells whether the log accepts it as a root (`OPEN_END`, `find_ends`). The same holds for an entry without a chain.
      Where the signature algorithm is neither RSA with PKCS #1 v1.5 nor ECDSA, or the key cannot be read, a certificate
      only has to name the next as its issuer.
    - The first certificate of the chain is the issuer: a certificate names it, and ``issuer_key_hash`` is that of its
      key, or of the next one's if it is a Precertificate Signing Certificate.
    - A pre-certificate, without its signature, is the leaf's ``TBSCertificate`` with the poison (RFC 6962, section
      3.1). After a Precertificate Signing Certificate, which the pre-certificate names as its issuer, issuer and
      authority key identifier of the leaf are those in that certificate.

    An unreadable chain or pre-certificate is a fault; an unreadable certificate is not, since the leaf covers it. Nor
    is an issuer that the log does not have, and what would be compared with it is skipped. The signature of an entry by
    its issuer is not verified, because that takes up to half a millisecond: in a pre-certificate nothing vouches for
    the bytes of the signature, the place of the poison among the extensions and, after a Precertificate Signing
    Certificate, the authority key identifier.

    Parameters
    ----------
    block
        With its issuers.

    Returns
    -------
    ndarray of uint8
        For each entry the index in `FAULTS` of the first fault found; 0 if there is none.
    """
    # Position -1, that of a missing issuer, is the last of these.
    ders = [*block.issuers, None]
    chained, edges = block.chain.tobytes(), (8 * block.chain_offsets).tolist()
    number_of: dict[bytes, int] = {}
    numbers = [number_of.setdefault(chained[start:end], len(number_of)) for start, end in pairwise(edges)]
    chains = [[ders[position] for position in np.frombuffer(chain, np.int64).tolist()] for chain in number_of]
    is_signed = [_is_signed_chain(chain) for chain in chains]
    is_open = np.array([bool(chain) and _is_open(chain[-1]) for chain in chains], bool)
    issuers = [[read_issuer(der) if der else None for der in chain[:2]] for chain in chains]
    plain = [_plain_issuer(first) if signed else _NO_ISSUER for signed, first in zip(is_signed, issuers, strict=True)]
    is_precert = block.entry_type != X509_ENTRY
    matching = np.zeros(len(block), np.bool_)
    if are_many():
        from ctkit.wire.kernels import find_matching

        chains_of = np.array(numbers, np.int64)
        matching = find_matching(block.data, block.leaf, block.certificate, is_precert, chains_of, plain)
    faults = np.zeros(len(block), np.uint8)
    for row in np.flatnonzero(~matching).tolist():
        (leaf, _), (start, end), chain = block.leaf[row].tolist(), block.certificate[row].tolist(), numbers[row]
        if not is_signed[chain]:
            faults[row] = _CHAIN
        elif is_precert[row]:
            faults[row] = _find_in_pre_certificate(block.data, leaf, start, end, issuers[chain])
        else:
            faults[row] = _find_in_certificate(block.data, start, end, issuers[chain])
    if len(block):
        faults[(faults == 0) & is_open[numbers]] = OPEN_END
        faults[np.isin(block.index, block.odd_chains)] = _CHAIN
    return faults


def find_ends(block: EntryBlock, faults: NDArray[np.uint8]) -> dict[int, bytes]:
    """Return for each row whose fault is `OPEN_END` the certificate in which its chain ends."""
    ends = {}
    for row in np.flatnonzero(faults == OPEN_END).tolist():
        first, last = block.chain_offsets[row : row + 2].tolist()
        start, end = block.certificate[row].tolist()
        ends[row] = block.issuers[block.chain[last - 1]] if first < last else block.data[start:end]
    return ends


class _OddError(ValueError):
    """Bytes are not the DER that they should be."""


class _Frame(NamedTuple):
    """Where the parts of a certificate begin; each extends to the next one, and the signature to the end."""

    tbs: int
    version: int
    algorithm: int
    issuer: int
    validity: int
    subject: int
    key: int
    after_key: int
    extensions: int
    first_extension: int
    tbs_end: int
    signature: int


class Issuer(NamedTuple):
    """A chain certificate, in parts as they were encoded.

    Attributes
    ----------
    algorithm
        Contents of the object identifier of the signature algorithm.
    key
        ``SubjectPublicKeyInfo``.
    authority_key_identifier
        The extension, empty if there is none.
    """

    tbs: bytes
    algorithm: bytes
    signature: bytes
    issuer: bytes
    subject: bytes
    key: bytes
    key_hash: bytes
    authority_key_identifier: bytes
    signs_pre_certificates: bool


_NO_ISSUER = b"", b""


def _plain_issuer(issuers: Sequence[Issuer | None]) -> tuple[bytes, bytes]:
    """Return subject and key hash of the first issuer in a chain, unless it is a Precertificate Signing Certificate."""
    first = issuers[0] if issuers else None
    return (first.subject, first.key_hash) if first and not first.signs_pre_certificates else _NO_ISSUER


def _find_in_certificate(data: bytes, start: int, end: int, issuers: Sequence[Issuer | None]) -> int:
    """Return the fault of the certificate in ``data[start:end]``, whose chain begins with `issuers`."""
    if not issuers:
        # A root is an entry without a chain.
        return OPEN_END if _is_open(data[start:end]) else 0
    issuer = issuers[0]
    if issuer is None or data.find(issuer.subject, start, end) >= 0:
        return 0
    try:
        frame = _read_frame(data, start, end)
    except (_OddError, IndexError):
        # Odd as it is, the log signed it; its issuer is unknown.
        return 0
    name = data[frame.issuer : frame.validity]
    is_named = len(name) <= _LARGEST_ISSUER and canonical_name(name) == canonical_name(issuer.subject)
    return 0 if is_named else _ISSUER


def _find_in_pre_certificate(data: bytes, leaf: int, start: int, end: int, issuers: Sequence[Issuer | None]) -> int:
    """Return the fault of the pre-certificate in ``data[start:end]``; its ``TimestampedEntry`` begins at `leaf`."""
    # TimestampedEntry (quoted in `ctkit.wire.leaf`): 8 bytes of timestamp, 2 of entry_type, 32 of issuer_key_hash,
    # then the TBSCertificate.
    first = issuers[0] if issuers else None
    signing = first if first and first.signs_pre_certificates else None
    if len(issuers) < (2 if signing else 1):
        return _ISSUER
    issuer = issuers[1] if signing else first
    if issuer and not data.startswith(issuer.key_hash, leaf + 10):
        return _ISSUER
    try:
        tbs = _final_tbs(data, _read_frame(data, start, end), signing)
    except (_OddError, IndexError):
        return _PRE_CERTIFICATE
    return 0 if data.startswith(len(tbs).to_bytes(3) + tbs, leaf + 42) else _PRE_CERTIFICATE


def _final_tbs(data: bytes, frame: _Frame, signing: Issuer | None) -> bytes:
    """Return the ``TBSCertificate`` that a log makes of a pre-certificate (RFC 6962, section 3.2)."""
    # Extension by extension: inside of another one the same bytes would be part of its value.
    poison = frame.first_extension
    while not data.startswith(POISON_EXTENSION, poison):
        _, poison = _contents(data, poison, frame.tbs_end, _SEQUENCE)
    fields = data[frame.version : frame.extensions]
    extensions = data[frame.first_extension : poison] + data[poison + len(POISON_EXTENSION) : frame.tbs_end]
    if signing:
        if canonical_name(data[frame.issuer : frame.validity]) != canonical_name(signing.subject):
            raise _OddError
        fields = data[frame.version : frame.issuer] + signing.issuer + data[frame.validity : frame.extensions]
        own = _find_extension(extensions, 0, len(extensions), _AUTHORITY_KEY_IDENTIFIER)
        if own:
            extensions = extensions.replace(own, signing.authority_key_identifier, 1)
        else:
            extensions += signing.authority_key_identifier
    return der(_SEQUENCE, fields, der(_EXTENSIONS, der(_SEQUENCE, extensions)))


def _is_signed_chain(chain: Sequence[bytes | None]) -> bool:
    """Tell whether each certificate is signed by the next, where neither is missing."""
    return all(der is None or by is None or _is_signed(der, by) for der, by in pairwise(chain))


def _is_open(certificate: bytes | None) -> bool:
    """Tell whether a chain may go on after this certificate: it is not self-signed."""
    return certificate is not None and not _is_signed(certificate, certificate)


def _is_signed(certificate: bytes, by: bytes) -> bool:
    # Oversized certificates must not stay in memory.
    return max(len(certificate), len(by)) <= _LARGEST_ISSUER and _verify(certificate, by)


# Logs accept few issuers, and they recur in every block.
@lru_cache(maxsize=_REMEMBERED)
def _verify(certificate: bytes, by: bytes) -> bool:
    signed, issuer = read_issuer(certificate), read_issuer(by)
    if signed is None or issuer is None:
        return False
    is_named = canonical_name(signed.issuer) == canonical_name(issuer.subject)
    algorithm = _HASHES.get(signed.algorithm)
    if algorithm is None:
        return is_named
    try:
        key = load_der_public_key(issuer.key)
    except (ValueError, UnsupportedAlgorithm):
        # Logs accept keys that the library does not; but a root whose key was damaged is not self-signed.
        return is_named and certificate != by
    try:
        return signature_holds(key, signed.signature, signed.tbs, algorithm)
    except UnsupportedAlgorithm:
        # Some builds of the library refuse old hashes.
        return is_named


def read_issuer(certificate: bytes) -> Issuer | None:
    """Read a chain certificate; None if it is odd."""
    return _read_issuer(certificate) if len(certificate) <= _LARGEST_ISSUER else None


@lru_cache(maxsize=_REMEMBERED)
def _read_issuer(certificate: bytes) -> Issuer | None:
    try:
        frame = _read_frame(certificate, 0, len(certificate))
        algorithm, _ = _contents(certificate, frame.algorithm, frame.issuer, _SEQUENCE)
        algorithm, algorithm_end = _contents(certificate, algorithm, frame.issuer, _OBJECT_IDENTIFIER)
        extensions = certificate, frame.first_extension, frame.tbs_end
        purposes = _find_extension(*extensions, _EXTENDED_KEY_USAGE)
        authority_key_identifier = _find_extension(*extensions, _AUTHORITY_KEY_IDENTIFIER)
    except (_OddError, IndexError):
        return None
    key = certificate[frame.key : frame.after_key]
    return Issuer(
        tbs=certificate[frame.tbs : frame.tbs_end],
        algorithm=certificate[algorithm:algorithm_end],
        signature=certificate[frame.signature :],
        issuer=certificate[frame.issuer : frame.validity],
        subject=certificate[frame.subject : frame.key],
        key=key,
        key_hash=sha256(key).digest(),
        authority_key_identifier=authority_key_identifier,
        signs_pre_certificates=_SIGNS_PRE_CERTIFICATES in purposes,
    )


def _read_frame(data: bytes, start: int, end: int) -> _Frame:
    """Return where the parts of the certificate ``data[start:end]`` begin (quoted in `ctkit.wire.x509`)."""
    tbs, stop = _contents(data, start, end, _SEQUENCE)
    version, tbs_end = _contents(data, tbs, stop, _SEQUENCE)
    serial_number = _end(data, version, tbs_end) if data[version] == _VERSION else version
    algorithm = _end(data, serial_number, tbs_end)
    issuer = _end(data, algorithm, tbs_end)
    validity = _end(data, issuer, tbs_end)
    subject = _end(data, validity, tbs_end)
    key = _end(data, subject, tbs_end)
    extensions = after_key = _end(data, key, tbs_end)
    while extensions < tbs_end and data[extensions] != _EXTENSIONS:
        extensions = _end(data, extensions, tbs_end)
    first_extension = field_end = sequence_end = extensions
    if extensions < tbs_end:
        first_extension, field_end = _contents(data, extensions, tbs_end, _EXTENSIONS)
        first_extension, sequence_end = _contents(data, first_extension, tbs_end, _SEQUENCE)
    outer_algorithm_end = tbs_end + issuer - algorithm
    signature, signature_end = _contents(data, outer_algorithm_end, stop, _BIT_STRING)
    if (
        (stop, signature_end, field_end, sequence_end) != (end, end, tbs_end, tbs_end)
        or data[tbs_end:outer_algorithm_end] != data[algorithm:issuer]
        # The first octet of a bit string counts the unused bits of the last.
        or data[signature] != 0
    ):
        raise _OddError
    return _Frame(
        tbs, version, algorithm, issuer, validity, subject, key, after_key, extensions, first_extension, tbs_end,
        signature + 1,
    )  # fmt: skip


def _find_extension(data: bytes, at: int, end: int, identifier: bytes) -> bytes:
    """Return the first extension with this encoded identifier in ``data[at:end]``; nothing if there is none."""
    while at < end:
        start, stop = _contents(data, at, end, _SEQUENCE)
        if data.startswith(identifier, start):
            return data[at:stop]
        at = stop
    return b""


def _contents(data: bytes, at: int, end: int, tag: int) -> tuple[int, int]:
    """Return where the contents of the element at `at` begin and end."""
    found, start, stop = header(data, at, end)
    if found != tag or stop > end:
        raise _OddError
    return start, stop


def _end(data: bytes, at: int, end: int) -> int:
    """Return where the element at `at` ends, beyond `end` if it does not fit into the element around it."""
    return header(data, at, end)[2]
