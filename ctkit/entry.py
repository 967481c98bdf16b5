"""Entries in flight, as columns over the bytes that the log sent."""

import binascii
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ctkit.errors import LogProtocolError
from ctkit.merkle import TILE_WIDTH
from ctkit.ranges import Int64s

if TYPE_CHECKING:
    from ctkit.framing import Frames

X509_ENTRY = 0
PRECERT_ENTRY = 1
"""``LogEntryType`` of RFC 6962, section 3.1."""

REPORT = "report this to the log's operator"


@dataclass(frozen=True, eq=False)
class EntryBlock:
    """Entries of one log: one buffer of wire bytes, and arrays of offsets into it.

    Attributes
    ----------
    index
        int64[n]: position of each entry in its log, strictly ascending, not always consecutive.
    timestamp
        int64[n]: ``TimestampedEntry.timestamp``, milliseconds since the Unix epoch; the largest int64 for all beyond.
    entry_type
        uint16[n]: ``X509_ENTRY`` or ``PRECERT_ENTRY``.
    data
        The bytes that the offsets below point into.
    leaf
        int64[n, 2]: ``[start, end)`` in `data` of the ``TimestampedEntry`` (RFC 6962, section 3.4).
    certificate
        int64[n, 2]: ``[start, end)`` in `data` of the DER certificate; of the full pre-certificate with its poison
        for a ``PRECERT_ENTRY``.
    chain_offsets
        int64[n + 1]: the chain of entry ``i`` is ``chain[chain_offsets[i]:chain_offsets[i + 1]]``, in the log's order.
    chain
        int64[m]: positions in `issuers`; -1 for one of `missing_issuers`.
    issuers
        DER of each distinct chain certificate, once.
    missing_issuers
        Lowercase hex SHA-256 of issuers that the log names but does not have.
    cut
        The log sent more entries than these, but the next one cannot be read.
    """

    index: Int64s
    timestamp: Int64s
    entry_type: NDArray[np.uint16]
    data: bytes
    leaf: Int64s
    certificate: Int64s
    chain_offsets: Int64s
    chain: Int64s
    issuers: tuple[bytes, ...]
    missing_issuers: tuple[str, ...] = ()
    cut: bool = False

    def __len__(self) -> int:
        return len(self.index)

    def take(self, wanted: NDArray[np.bool_]) -> Self:
        """Return the entries for which `wanted` (bool[n]) is true; `data` and `issuers` are shared, not copied."""
        if wanted.all():
            return self
        lengths = np.diff(self.chain_offsets)
        return replace(
            self,
            index=self.index[wanted],
            timestamp=self.timestamp[wanted],
            entry_type=self.entry_type[wanted],
            leaf=self.leaf[wanted],
            certificate=self.certificate[wanted],
            chain_offsets=np.concatenate(([0], np.cumsum(lengths[wanted]))),
            chain=self.chain[np.repeat(wanted, lengths)],
        )

    def leaf_hashes(self) -> list[bytes]:
        """Return the leaf hash of each entry (RFC 6962, section 2.1), 32 bytes each, in the order of `index`.

        It covers timestamp, type, certificate or TBSCertificate, and extensions: all that the log signs. The rest of a
        pre-certificate (its poison and its signature) and the chain are not in the tree; see `ctkit.binding`.
        """
        # SHA-256(0x00 || MerkleTreeLeaf), and a MerkleTreeLeaf is 00 00 (v1, timestamped_entry) and the entry.
        prefix, data = sha256(b"\0\0\0"), memoryview(self.data)
        hashes = []
        for start, end in self.leaf.tolist():
            leaf = prefix.copy()
            leaf.update(data[start:end])
            hashes.append(leaf.digest())
        return hashes

    def with_issuers(self, fingerprints: Sequence[bytes], certificates: Mapping[bytes, bytes | None]) -> Self:
        """Return the block with its chains resolved from fingerprints to certificates.

        Parameters
        ----------
        fingerprints
            What the positions in `chain` have meant so far: SHA-256 of each certificate, 32 bytes each.
        certificates
            DER by fingerprint; None where the log does not have the certificate. Those that are not named at all are
            missing as well: nobody wants a chain with them.
        """
        ders = [certificates.get(fingerprint) for fingerprint in fingerprints]
        found = np.array([der is not None for der in ders], bool)
        return replace(
            self,
            chain=np.where(found, np.cumsum(found) - 1, -1)[self.chain],
            issuers=tuple(der for der in ders if der is not None),
            missing_issuers=tuple(f.hex() for f in fingerprints if f in certificates and certificates[f] is None),
        )


def decode_get_entries(data: bytes, start: int, url: str, limit: int) -> EntryBlock:
    """Decode the answer of ``get-entries`` (RFC 6962, section 4.6).

    Parameters
    ----------
    data
        The body: a JSON object.
    start
        Index of the first entry asked for; the position in the answer decides all indices.
    url
        The log, for errors.
    limit
        Number of entries asked for; what the log sends beyond is ignored.

    Returns
    -------
    EntryBlock
        The entries up to the first that cannot be read; empty if the log sent none. A chain goes as far as it can be
        read: the log signs entries, not their chains.

    Raises
    ------
    LogProtocolError
        The first entry cannot be read; ``[start, end)`` covers it and the unreadable ones that follow it. Without
        ``start`` and ``end`` if the answer is not JSON of the right form at all.

    Examples
    --------
    >>> len(decode_get_entries(b'{"entries": []}', 7, "https://log.example", 32))
    0
    """
    # Numba takes a while to import, and only those who decode entries need it.
    from ctkit.framing import read_page

    if understood := read_page(data, start, limit):
        block, issuers = _framed(start, *understood)
        return replace(block, issuers=issuers)
    return _decode_odd_page(data, start, url, limit)


def _decode_odd_page(data: bytes, start: int, url: str, limit: int) -> EntryBlock:
    # { "entries": [ { "leaf_input": base64 MerkleTreeLeaf, "extra_data": base64 }, ... ] }
    try:
        entries = json.loads(data)["entries"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise LogProtocolError(url, f"the answer of get-entries is no JSON object with entries; {REPORT}") from error
    if not isinstance(entries, list):
        raise LogProtocolError(url, f'"entries" in the answer of get-entries is no list; {REPORT}')
    columns, parts = _Columns(), list[bytes]()
    size, lost, cut = 0, 0, False
    reason: _MalformedError | None = None
    for index, entry in enumerate(entries[:limit], start):
        try:
            leaf_input, extra_data, leaf, pre_certificate, chain = _read_entry(entry, index)
        except _MalformedError as malformed:
            if cut := bool(columns.types):
                break
            reason, lost = reason or malformed, lost + 1
            continue
        if reason:
            break
        leaf_end = size + len(leaf_input)
        begin, end = (leaf_end + at for at in pre_certificate) if pre_certificate else (size + at for at in leaf.signed)
        parts += [leaf_input, extra_data]
        columns.append(leaf, (size + 2, leaf_end), (begin, end), chain)
        size = leaf_end + len(extra_data)
    if reason:
        raise LogProtocolError(url, f"entry {start}: {reason}; {REPORT}", start=start, end=start + lost)
    return columns.block(start, b"".join(parts), issuers=tuple(columns.chain_positions), cut=cut)


def decode_data_tile(data: bytes, start: int, end: int, url: str) -> tuple[EntryBlock, tuple[bytes, ...]]:
    """Decode entries of one data tile (Static CT API, "Log Entries").

    Parameters
    ----------
    data
        The tile, full or partial, not compressed.
    start, end
        The indices ``[start, end)`` to decode; all of one tile.
    url
        The log, for errors.

    Returns
    -------
    EntryBlock
        The entries from `start` up to `end`, or up to the first that cannot be read or is of another index. It has no
        issuers yet.
    tuple of bytes
        The SHA-256 fingerprints that ``chain`` of the block points into; see `EntryBlock.with_issuers`.

    Raises
    ------
    LogProtocolError
        The entry at `start`, or one before it in the tile, cannot be read, and thereby none up to the tile's end; or
        the entries from `start` on say that they are of other indices. ``[start, end)`` covers these entries.
    """
    from ctkit.framing import read_tile

    if frames := read_tile(data, start, end, TILE_WIDTH):
        return _framed(start, frames, data)
    return _decode_odd_tile(data, start, end, url)


def _decode_odd_tile(data: bytes, start: int, end: int, url: str) -> tuple[EntryBlock, tuple[bytes, ...]]:
    columns = _Columns()
    first = start - start % TILE_WIDTH
    at = lost = 0
    reason: _MalformedError | None = None
    for index in range(first, end):
        # struct {
        #     TimestampedEntry timestamped_entry;
        #     select (entry_type) {
        #         case x509_entry: Empty;
        #         case precert_entry: ASN.1Cert pre_certificate;
        #     };
        #     Fingerprint certificate_chain<0..2^16-1>;      opaque Fingerprint[32];
        # } TileLeaf;
        try:
            leaf = _read_timestamped_entry(data, at)
            certificate = _certificate(data, leaf.end) if leaf.entry_type == PRECERT_ENTRY else leaf.signed
            chain_start, chain_end = _opaque(data, max(certificate[1], leaf.end), 2)
        except _MalformedError as malformed:
            if index > start:
                break
            message = f"entry {index} in its data tile: {malformed}; {REPORT}"
            raise LogProtocolError(url, message, start=start, end=first + TILE_WIDTH) from malformed
        entry, at = at, chain_end
        if index < start:
            continue
        if leaf.leaf_index not in (None, index):
            if columns.types:
                break
            reason, lost = reason or _MalformedError(f"its leaf_index is {leaf.leaf_index}"), lost + 1
            continue
        if reason:
            break
        chain = [data[i : i + 32] for i in range(chain_start, chain_end - 31, 32)]
        columns.append(leaf, (entry, leaf.end), certificate, chain)
    if reason:
        raise LogProtocolError(url, f"entry {start}: {reason}; {REPORT}", start=start, end=start + lost)
    return columns.block(start, data, issuers=()), tuple(columns.chain_positions)


def _framed(start: int, frames: "Frames", data: bytes) -> tuple[EntryBlock, tuple[bytes, ...]]:
    """Return the entries that a kernel has found, and what their chains consist of."""
    index = np.arange(start, start + len(frames.timestamp))
    block = EntryBlock(index=index, data=data, **frames._asdict() | {"issuers": ()})
    return block, tuple(data[begin:end] for begin, end in frames.issuers.tolist())


class _MalformedError(ValueError):
    """Bytes are not the struct that they should be; the text says what is wrong with it."""


class _TimestampedEntry(NamedTuple):
    timestamp: int
    entry_type: int
    signed: tuple[int, int]
    leaf_index: int | None
    end: int


class _Columns:
    """The columns of an `EntryBlock` while it is decoded."""

    def __init__(self) -> None:
        self.timestamps: list[int] = []
        self.types: list[int] = []
        self.leaves: list[tuple[int, int]] = []
        self.certificates: list[tuple[int, int]] = []
        self.chain_offsets = [0]
        self.chain: list[int] = []
        self.chain_positions: dict[bytes, int] = {}

    def append(
        self, entry: _TimestampedEntry, leaf: tuple[int, int], certificate: tuple[int, int], chain: list[bytes]
    ) -> None:
        self.timestamps.append(entry.timestamp)
        self.types.append(entry.entry_type)
        self.leaves.append(leaf)
        self.certificates.append(certificate)
        positions = self.chain_positions
        self.chain.extend([positions.setdefault(issuer, len(positions)) for issuer in chain])
        self.chain_offsets.append(len(self.chain))

    def block(self, start: int, data: bytes, issuers: tuple[bytes, ...], cut: bool = False) -> EntryBlock:
        return EntryBlock(
            index=np.arange(start, start + len(self.types), dtype=np.int64),
            timestamp=np.array(self.timestamps, np.int64),
            entry_type=np.array(self.types, np.uint16),
            data=data,
            leaf=np.array(self.leaves, np.int64).reshape(-1, 2),
            certificate=np.array(self.certificates, np.int64).reshape(-1, 2),
            chain_offsets=np.array(self.chain_offsets, np.int64),
            chain=np.array(self.chain, np.int64),
            issuers=issuers,
            cut=cut,
        )


def _read_entry(entry: Any, index: int) -> tuple[bytes, bytes, _TimestampedEntry, tuple[int, int] | None, list[bytes]]:
    """Read one of ``entries``: leaf input, extra data, what the leaf says, where a pre-certificate is, the chain."""
    try:
        leaf_input = binascii.a2b_base64(entry["leaf_input"], strict_mode=True)
        extra_data = binascii.a2b_base64(entry["extra_data"], strict_mode=True)
    except (ValueError, TypeError, KeyError) as error:
        raise _MalformedError("leaf_input or extra_data is missing or not base64") from error
    # struct {
    #     Version version;                                  v1(0)
    #     MerkleLeafType leaf_type;                         timestamped_entry(0)
    #     TimestampedEntry timestamped_entry;
    # } MerkleTreeLeaf;                                     RFC 6962, section 3.4
    if leaf_input[:2] != b"\0\0":
        raise _MalformedError("its leaf is not a timestamped_entry of version v1")
    leaf = _read_timestamped_entry(leaf_input, 2)
    if leaf.end != len(leaf_input):
        raise _MalformedError("bytes follow its leaf")
    if leaf.leaf_index not in (None, index):
        raise _MalformedError(f"its leaf_index is {leaf.leaf_index}")
    # x509_entry:    ASN.1Cert certificate_chain<0..2^24-1>;
    # precert_entry: struct {
    #                    ASN.1Cert pre_certificate;
    #                    ASN.1Cert precertificate_chain<0..2^24-1>;
    #                } PrecertChainEntry;                   RFC 6962, sections 3.1 and 4.6
    pre_certificate, at = None, 0
    if leaf.entry_type == PRECERT_ENTRY:
        pre_certificate = _certificate(extra_data, 0)
        at = pre_certificate[1]
    return leaf_input, extra_data, leaf, pre_certificate, list(_chain(extra_data, at))


def _read_timestamped_entry(data: bytes, at: int) -> _TimestampedEntry:
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
        raise _MalformedError("it ends before its type")
    timestamp, entry_type = struct.unpack_from(">QH", data, at)
    if entry_type not in (X509_ENTRY, PRECERT_ENTRY):
        raise _MalformedError(f"its type {entry_type} is unknown")
    signed = _certificate(data, at + 10 + (32 if entry_type == PRECERT_ENTRY else 0))
    extensions = _opaque(data, signed[1], 2)
    leaf_index = _leaf_index(data, *extensions)
    return _TimestampedEntry(min(timestamp, (1 << 63) - 1), entry_type, signed, leaf_index, extensions[1])


def _leaf_index(data: bytes, at: int, end: int) -> int | None:
    """Return the ``leaf_index`` in the extensions ``data[at:end]``, None where they hold none or are something else."""
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


def _chain(data: bytes, at: int) -> Iterator[bytes]:
    """Yield the certificates of the chain at position `at` of `data`, up to the first that is not whole."""
    start = at + 3
    chain, at = data[start : start + int.from_bytes(data[at:start], "big")], 0
    with suppress(_MalformedError):
        while at < len(chain):
            begin, at = _certificate(chain, at)
            yield chain[begin:at]


def _certificate(data: bytes, at: int) -> tuple[int, int]:
    """Return where the ``opaque ASN.1Cert<1..2^24-1>`` at `at` begins and ends."""
    start, end = _opaque(data, at, 3)
    if start == end:
        raise _MalformedError("it holds an empty certificate")
    return start, end


def _opaque(data: bytes, at: int, prefix: int) -> tuple[int, int]:
    """Return where the variable-length vector at `at`, with a length of `prefix` bytes, begins and ends."""
    start = at + prefix
    end = start + int.from_bytes(data[at:start], "big")
    if end > len(data):
        raise _MalformedError("it ends in the middle")
    return start, end
