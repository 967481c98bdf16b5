"""One entry at a time, read from the bytes that a log sent, with all its oddities."""

import binascii
import struct
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

X509_ENTRY = 0
PRECERT_ENTRY = 1
"""``LogEntryType`` of RFC 6962, section 3.1."""


class MalformedError(ValueError):
    """Bytes are not the struct that they should be; the text says why."""


class TimestampedEntry(NamedTuple):
    """The fields of an entry; `signed` is where its certificate or TBSCertificate is, `end` where it ends."""

    timestamp: int
    entry_type: int
    signed: tuple[int, int]
    leaf_index: int | None
    end: int


Chain: TypeAlias = tuple[list[bytes], bool]
"""The certificates, up to the first that is incomplete, and whether other bytes follow them."""


def read_entry(entry: Any, index: int) -> tuple[bytes, bytes, TimestampedEntry, tuple[int, int] | None, Chain]:
    """Read one of ``entries``: leaf input, extra data, leaf, where a pre-certificate is, and chain."""
    try:
        leaf_input = binascii.a2b_base64(entry["leaf_input"], strict_mode=True)
        extra_data = binascii.a2b_base64(entry["extra_data"], strict_mode=True)
    except (ValueError, TypeError, KeyError) as error:
        raise MalformedError("leaf_input or extra_data is missing or not base64") from error
    # struct {
    #     Version version;                                  v1(0)
    #     MerkleLeafType leaf_type;                         timestamped_entry(0)
    #     TimestampedEntry timestamped_entry;
    # } MerkleTreeLeaf;                                     RFC 6962, section 3.4
    if leaf_input[:2] != b"\0\0":
        raise MalformedError("its leaf is not a timestamped_entry of version v1")
    leaf = _read_timestamped_entry(leaf_input, 2)
    if leaf.end != len(leaf_input):
        raise MalformedError("bytes follow its leaf")
    if leaf.leaf_index not in (None, index):
        raise MalformedError(f"its leaf_index is {leaf.leaf_index}")
    # x509_entry:    ASN.1Cert certificate_chain<0..2^24-1>;
    # precert_entry: struct {
    #                    ASN.1Cert pre_certificate;
    #                    ASN.1Cert precertificate_chain<0..2^24-1>;
    #                } PrecertChainEntry;                   RFC 6962, sections 3.1 and 4.6
    pre_certificate, at = None, 0
    if leaf.entry_type == PRECERT_ENTRY:
        pre_certificate = _certificate(extra_data, 0)
        at = pre_certificate[1]
    return leaf_input, extra_data, leaf, pre_certificate, _read_chain(extra_data, at)


def read_tile_leaf(data: bytes, at: int) -> tuple[TimestampedEntry, tuple[int, int], tuple[int, int]]:
    """Read the entry of a data tile at `at`: its fields, and where its certificate and its fingerprints are."""
    # struct {
    #     TimestampedEntry timestamped_entry;
    #     select (entry_type) {
    #         case x509_entry: Empty;
    #         case precert_entry: ASN.1Cert pre_certificate;
    #     };
    #     Fingerprint certificate_chain<0..2^16-1>;         opaque Fingerprint[32];
    # } TileLeaf;                                           Static CT API, "Log Entries"
    leaf = _read_timestamped_entry(data, at)
    certificate = _certificate(data, leaf.end) if leaf.entry_type == PRECERT_ENTRY else leaf.signed
    return leaf, certificate, _opaque(data, max(certificate[1], leaf.end), 2)


def goes_on(data: bytes, at: int) -> bool:
    """Tell whether an entry whose certificate ends at `at` is followed by another one, or ends its data tile."""
    try:
        start, at = _opaque(data, at, 2)
        if at < len(data):
            read_tile_leaf(data, at)
    except MalformedError:
        return False
    return (at - start) % 32 == 0


def _read_timestamped_entry(data: bytes, at: int) -> TimestampedEntry:
    """Read the entry from position `at` on; `signed` is its certificate or TBSCertificate."""
    # struct {
    #     uint64 timestamp;
    #     LogEntryType entry_type;
    #     select(entry_type) {
    #         case x509_entry: ASN.1Cert;                   opaque ASN.1Cert<1..2^24-1>;
    #         case precert_entry: PreCert;                  opaque issuer_key_hash[32];
    #     } signed_entry;                                   opaque TBSCertificate<1..2^24-1>;
    #     CtExtensions extensions;                          opaque CtExtensions<0..2^16-1>;
    # } TimestampedEntry;                                   RFC 6962, section 3.4
    if at + 10 > len(data):
        raise MalformedError("it ends before its type")
    timestamp, entry_type = struct.unpack_from(">QH", data, at)
    if entry_type not in (X509_ENTRY, PRECERT_ENTRY):
        raise MalformedError(f"its type {entry_type} is unknown")
    signed = _certificate(data, at + 10 + (32 if entry_type == PRECERT_ENTRY else 0))
    extensions = _opaque(data, signed[1], 2)
    leaf_index = _leaf_index(data, *extensions)
    return TimestampedEntry(min(timestamp, (1 << 63) - 1), entry_type, signed, leaf_index, extensions[1])


def _leaf_index(data: bytes, at: int, end: int) -> int | None:
    """Return the ``leaf_index`` in the extensions ``data[at:end]``; None if they hold none, or are malformed."""
    # struct {
    #     ExtensionType extension_type;                     leaf_index(0)
    #     opaque extension_data<0..2^16-1>;                 uint8 uint40[5];
    # } Extension;                                          Static CT API, "SCT Extension"
    while at + 3 <= end:
        extension_type, at, stop = data[at], at + 3, at + 3 + int.from_bytes(data[at + 1 : at + 3], "big")
        if extension_type == 0 and stop - at == 5 and stop <= end:
            return int.from_bytes(data[at:stop], "big")
        at = stop
    return None


def _read_chain(data: bytes, at: int) -> Chain:
    """Read the chain that begins at position `at`, and should fill the rest of `data`."""
    start = at + 3
    stop = start + int.from_bytes(data[at:start], "big")
    chain, at, certificates = data[start:stop], 0, list[bytes]()
    with suppress(MalformedError):
        while at < len(chain):
            begin, at = _certificate(chain, at)
            certificates.append(chain[begin:at])
        return certificates, stop != len(data)
    return certificates, True


def _certificate(data: bytes, at: int) -> tuple[int, int]:
    """Return where the ``opaque ASN.1Cert<1..2^24-1>`` at `at` begins and ends."""
    start, end = _opaque(data, at, 3)
    if start == end:
        raise MalformedError("it holds an empty certificate")
    return start, end


def _opaque(data: bytes, at: int, prefix: int) -> tuple[int, int]:
    """Return where the variable-length vector at `at`, with a length of `prefix` bytes, begins and ends."""
    start = at + prefix
    end = start + int.from_bytes(data[at:start], "big")
    if end > len(data):
        raise MalformedError("it ends in the middle")
    return start, end
