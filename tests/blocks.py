"""Entries built by hand, for tests of what comes after their decoding."""

from collections.abc import Sequence
from itertools import accumulate
from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from ctkit.entry import EntryBlock
from ctkit.ranges import Int64s

TIMESTAMP = 1_773_144_000_123
"""2026-03-10T12:00:00.123Z"""


def block_of(
    certificates: Sequence[bytes],
    *,
    start: int = 0,
    timestamps: Sequence[int] | None = None,
    entry_types: Sequence[int] | None = None,
    chains: Sequence[Sequence[int]] | None = None,
    issuers: Sequence[bytes] = (),
) -> EntryBlock:
    """Return a block of the given certificates, at consecutive indices from `start` on."""
    count = len(certificates)
    chains = chains or [()] * count
    stops = np.cumsum([0, *map(len, certificates)])
    ranges = np.stack((stops[:-1], stops[1:]), axis=1)
    return EntryBlock(
        index=np.arange(start, start + count),
        timestamp=np.array(timestamps or [TIMESTAMP] * count, np.int64),
        entry_type=np.array(entry_types or [0] * count, np.uint16),
        data=b"".join(certificates),
        leaf=ranges,
        certificate=ranges,
        chain_offsets=np.array([0, *accumulate(map(len, chains))]),
        chain=np.array([position for chain in chains for position in chain], np.int64),
        issuers=tuple(issuers),
    )


def _entry_urls(index: Int64s) -> pa.StringArray:
    return pa.array([f"https://log.example/entry/{i}" for i in index.tolist()], pa.string())


LOG = SimpleNamespace(url="https://log.example", name="Example log", page_size=32, entry_urls=_entry_urls)
"""What rows need to know of a log."""
