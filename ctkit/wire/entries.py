"""Entries in flight: columns over the bytes that the log sent."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from ctkit.errors import REPORT, LogProtocolError
from ctkit.ranges import Int64s
from ctkit.wire.leaf import PRECERT_ENTRY as PRECERT_ENTRY
from ctkit.wire.leaf import X509_ENTRY as X509_ENTRY
from ctkit.wire.leaf import MalformedError, TimestampedEntry, goes_on, read_entry, read_tile_leaf
from ctkit.wire.merkle import TILE_WIDTH
from ctkit.wire.volume import are_many, count_read

if TYPE_CHECKING:
    from ctkit.wire.framing import Frames


@dataclass(frozen=True, eq=False)
class EntryBlock:
    """Entries of one log: one buffer of wire bytes, and arrays of offsets into it.

    Attributes
    ----------
    index
        int64[n]: position of each entry in its log, strictly ascending, not always consecutive.
    timestamp
        int64[n]: ``TimestampedEntry.timestamp``, milliseconds since the Unix epoch; capped at the largest int64.
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
        The log sent more entries, but the next one cannot be read.
    odd_chains
        Indices of entries whose chain cannot be read to its end.
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
    odd_chains: tuple[int, ...] = ()

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

        It covers timestamp, type, certificate or TBSCertificate, and extensions: all that the log signs. The poison and
        the signature of a pre-certificate, and the chain, are not in the tree; see `ctkit.wire.extra_data`.
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
            What the positions in `chain` stand for: the SHA-256 of each certificate, 32 bytes each.
        certificates
            DER by fingerprint; None where the log does not have the certificate. Fingerprints that are not in it belong
            to chains that are not wanted, and count as missing too.
        """
        ders = [certificates.get(fingerprint) for fingerprint in fingerprints]
        found = np.array([der is not None for der in ders], bool)
        last = self.index[-1:].tolist()
        # Unless another entry follows the last one, the length of its chain may be wrong.
        is_whole = not last or goes_on(self.data, int(max(self.leaf[-1, 1], self.certificate[-1, 1])))
        return replace(
            self,
            chain=np.where(found, np.cumsum(found) - 1, -1)[self.chain],
            issuers=tuple(der for der in ders if der is not None),
            missing_issuers=tuple(f.hex() for f in fingerprints if f in certificates and certificates[f] is None),
            odd_chains=() if is_whole else tuple(last),
        )


def decode_get_entries(data: bytes, start: int, url: str, limit: int) -> EntryBlock:
    """Decode the answer of ``get-entries`` (RFC 6962, section 4.6).

    Parameters
    ----------
    data
        The body: a JSON object.
    start
        Index of the first entry asked for; the position in the answer determines all others.
    url
        The log, for errors.
    limit
        Number of entries asked for; any further ones are ignored.

    Returns
    -------
    EntryBlock
        The entries up to the first that cannot be read; empty if the log sent none. A chain is kept as far as it can
        be read: the log signs entries, not their chains.

    Raises
    ------
    LogProtocolError
        The first entry cannot be read: ``[start, end)`` covers it and the unreadable ones that follow. Or the answer is
        not JSON of the right form: then it has no ``start`` and ``end``.

    Examples
    --------
    >>> len(decode_get_entries(b'{"entries": []}', 7, "https://log.example", 32))
    0
    """
    if are_many():
        from ctkit.wire.framing import read_page

        if understood := read_page(data, start, limit):
            block, issuers = _framed(start, *understood)
            return replace(block, issuers=issuers)
    block = _decode_any_page(data, start, url, limit)
    count_read(len(block) // 2)
    return block


def _decode_any_page(data: bytes, start: int, url: str, limit: int) -> EntryBlock:
    # { "entries": [ { "leaf_input": base64 MerkleTreeLeaf, "extra_data": base64 }, ... ] }
    try:
        entries = json.loads(data)["entries"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise LogProtocolError(url, f"the answer of get-entries is not a JSON object with entries; {REPORT}") from error
    if not isinstance(entries, list):
        raise LogProtocolError(url, f'"entries" in the answer of get-entries is not a list; {REPORT}')
    columns, parts, odd_chains = _Columns(), list[bytes](), list[int]()
    size, lost, cut = 0, 0, False
    reason: MalformedError | None = None
    for index, entry in enumerate(entries[:limit], start):
        try:
            leaf_input, extra_data, leaf, pre_certificate, (chain, is_odd) = read_entry(entry, index)
        except MalformedError as malformed:
            if cut := bool(columns.types):
                break
            reason, lost = reason or malformed, lost + 1
            continue
        if reason:
            break
        leaf_end = size + len(leaf_input)
        base, span = (leaf_end, pre_certificate) if pre_certificate else (size, leaf.signed)
        begin, end = base + span[0], base + span[1]
        parts += [leaf_input, extra_data]
        odd_chains += [index] * is_odd
        columns.append(leaf, (size + 2, leaf_end), (begin, end), chain)
        size = leaf_end + len(extra_data)
    if reason:
        raise LogProtocolError(url, f"entry {start}: {reason}; {REPORT}", start=start, end=start + lost)
    block = columns.block(start, b"".join(parts), issuers=tuple(columns.chain_positions), cut=cut)
    return replace(block, odd_chains=tuple(odd_chains))


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
        The entries from `start` up to `end`, or up to the first that cannot be read or has another index. The block has
        no issuers yet.
    tuple of bytes
        The SHA-256 fingerprints that ``chain`` of the block points into; see `EntryBlock.with_issuers`.

    Raises
    ------
    LogProtocolError
        The entry at `start`, or one before it in the tile, cannot be read, and so none up to the end of the tile; or
        the entries from `start` on state other indices. ``[start, end)`` covers these entries.
    """
    if are_many():
        from ctkit.wire.framing import read_tile

        if frames := read_tile(data, start, end, TILE_WIDTH):
            return _framed(start, frames, data)
    return _decode_any_tile(data, start, end, url)


def _decode_any_tile(data: bytes, start: int, end: int, url: str) -> tuple[EntryBlock, tuple[bytes, ...]]:
    columns = _Columns()
    first = start - start % TILE_WIDTH
    at = lost = 0
    reason: MalformedError | None = None
    for index in range(first, end):
        try:
            leaf, certificate, (chain_start, chain_end) = read_tile_leaf(data, at)
        except MalformedError as malformed:
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
            reason, lost = reason or MalformedError(f"its leaf_index is {leaf.leaf_index}"), lost + 1
            continue
        if reason:
            break
        chain = [data[i : i + 32] for i in range(chain_start, chain_end - 31, 32)]
        columns.append(leaf, (entry, leaf.end), certificate, chain)
    if reason:
        raise LogProtocolError(url, f"entry {start}: {reason}; {REPORT}", start=start, end=start + lost)
    return columns.block(start, data, issuers=()), tuple(columns.chain_positions)


def _framed(start: int, frames: "Frames", data: bytes) -> tuple[EntryBlock, tuple[bytes, ...]]:
    """Return the entries that a kernel has found, and the issuers in their chains."""
    index = np.arange(start, start + len(frames.timestamp))
    block = EntryBlock(index=index, data=data, **frames._asdict() | {"issuers": ()})
    return block, tuple(data[begin:end] for begin, end in frames.issuers.tolist())


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
        self, entry: TimestampedEntry, leaf: tuple[int, int], certificate: tuple[int, int], chain: list[bytes]
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
