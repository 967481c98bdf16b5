"""Entries in flight, as columns over the bytes that the log sent."""

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ctkit.ranges import Int64s

X509_ENTRY = 0
PRECERT_ENTRY = 1
"""``LogEntryType`` of RFC 6962, section 3.1."""


@dataclass(frozen=True, eq=False)
class EntryBlock:
    """Entries of one log: one buffer of wire bytes, and arrays of offsets into it.

    Attributes
    ----------
    index
        int64[n]: position of each entry in its log, strictly ascending, not always consecutive.
    timestamp
        int64[n]: ``TimestampedEntry.timestamp``, milliseconds since the Unix epoch.
    entry_type
        uint16[n]: ``X509_ENTRY`` or ``PRECERT_ENTRY``.
    data
        The bytes that the offsets below point into.
    leaf
        int64[n, 2]: ``[start, end)`` in `data` of the ``TimestampedEntry`` (RFC 6962, section 3.4). The leaf hash is
        SHA-256 over ``00``, then ``00 00`` (v1, timestamped_entry), then these bytes.
    certificate
        int64[n, 2]: ``[start, end)`` in `data` of the DER certificate; of the full pre-certificate with its poison
        for a ``PRECERT_ENTRY``.
    chain_offsets
        int64[n + 1]: the chain of entry ``i`` is ``chain[chain_offsets[i]:chain_offsets[i + 1]]``, in the log's order.
    chain
        int64[m]: positions in `issuers`.
    issuers
        DER of each distinct chain certificate, once.
    missing_issuers
        Lowercase hex SHA-256 of issuers that the log names but does not have; they are left out of `chain`.
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
    missing_issuers: tuple[str, ...] = field(default=())

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
