"""Proof of what arrives: rows are held back until the log's Merkle tree shows that they are what it signed."""

import threading
import time
from collections.abc import Generator, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ctkit.errors import REPORT, CheckpointError, LogError, LogProtocolError, LogUnavailableError
from ctkit.logs.fetch import ask
from ctkit.logs.log import Log
from ctkit.ranges import Int64s, RangeSet
from ctkit.visible import get_logger
from ctkit.wire.checkpoint import Checkpoint
from ctkit.wire.entries import EntryBlock
from ctkit.wire.extra_data import FAULTS, OPEN_END, find_ends, find_faults
from ctkit.wire.roots import Roots
from ctkit.wire.rows import read_rows

logger = get_logger(__name__)

PAGES_AT_ONCE = 64
"""Pages that are proven together: a long stretch needs no more proofs than a short one."""

SECONDS_AT_ONCE = 10.0
"""Rows of a slow log are held back for no longer than this."""

_FAILED_PROOFS = 3
"""Consecutive proofs that failed, after which stretches are no longer halved to find the entry to blame."""


@dataclass(frozen=True, eq=False)
class Arrival:
    """Rows of a page, or of a part of it.

    Attributes
    ----------
    source_url
        The log.
    rows
        Those that are wanted.
    missing_issuers
        As in `ctkit.wire.entries.EntryBlock`.
    start
        Index of the first entry that the log sent.
    leaf_hashes
        Of all entries that the log sent, wanted or not; empty if no proof is wanted.
    faults
        uint8, the fault of each row (`ctkit.wire.extra_data.find_faults`); empty if no proof is wanted.
    ends
        Row -> the certificate in which its chain ends (`ctkit.wire.extra_data.find_ends`).
    """

    source_url: str
    rows: pa.RecordBatch
    missing_issuers: tuple[str, ...]
    start: int
    leaf_hashes: list[bytes] = field(default_factory=list, repr=False)
    faults: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8), repr=False)
    ends: Mapping[int, bytes] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, log: Log, block: EntryBlock, wanted: NDArray[np.bool_], *, proves: bool = True, **options: Any) -> Self:
        """Return the wanted entries of what a log sent, with `options` of `ctkit.wire.rows.read_rows`.

        `proves` tells whether they are to be proven.
        """
        kept, start = block.take(wanted), int(block.index[0])
        rows = read_rows(kept, log, **options)
        if not proves:
            return cls(log.url, rows, block.missing_issuers, start)
        faults = find_faults(kept)
        ends = find_ends(kept, faults)
        return cls(log.url, rows, block.missing_issuers, start, block.leaf_hashes(), faults, ends)

    @property
    def end(self) -> int:
        """The index after the last entry that the log sent."""
        return self.start + len(self.leaf_hashes)


def prove_arrivals(
    log: Log,
    heads: MutableMapping[str, Checkpoint],
    arrivals: Generator[Arrival | LogError | None, None, RangeSet],
    *,
    stop: threading.Event,
) -> Generator[Arrival | LogError, None, RangeSet]:
    """Pass on the rows that are proven to be in the log's tree.

    Parameters
    ----------
    log
        The log that the entries are from.
    heads
        The log's tree head, by its URL. If entries lie beyond it, the log's newest one replaces it, once it is shown to
        be of the same tree.
    arrivals
        In the order of their indices, as from `ctkit.logs.fetch.fetch_blocks`, and None now and then while nothing
        comes, so that rows are held back for no longer than `SECONDS_AT_ONCE`.
    stop
        When set, the log is not asked any more, and what is not proven by then is not passed on.

    Yields
    ------
    Arrival
        As it arrived, without rows that have a fault or are not what the log signed.
    LogError
        As it arrived, or for rows ``[start, end)`` that are not passed on: a `LogProtocolError` if the tree differs or
        the row has a fault, another one if no proof could be fetched.

    Returns
    -------
    RangeSet
        What `arrivals` return, and what was not proven because of `stop`.
    """
    prover = _Prover(log, heads, stop)
    waiting: list[Arrival] = []
    since = time.monotonic()
    while True:
        try:
            arrival = next(arrivals)
        except StopIteration as end:
            yield from prover.prove(waiting)
            return RangeSet.joined([end.value, *prover.left])
        if isinstance(arrival, LogError) or (arrival and not len(arrival.rows)):
            yield arrival
        elif arrival:
            since = since if waiting else time.monotonic()
            waiting.append(arrival)
        if len(waiting) >= PAGES_AT_ONCE or (waiting and time.monotonic() - since >= SECONDS_AT_ONCE):
            yield from prover.prove(waiting)
            waiting = []


class _Prover:
    """Proves pages of one log.

    Attributes
    ----------
    left
        Indices of rows that were not proven because the run was stopped.
    """

    def __init__(self, log: Log, heads: MutableMapping[str, Checkpoint], stop: threading.Event) -> None:
        self._log, self._heads, self._stop = log, heads, stop
        self._failures = 0
        self._roots: Roots | None = None
        self.left: list[RangeSet] = []

    def prove(self, pages: Sequence[Arrival]) -> Iterator[Arrival | LogError]:
        """Prove pages, adjacent ones together."""
        cuts = [number for number, (one, next_) in enumerate(pairwise(pages), 1) if one.end != next_.start]
        for first, last in pairwise([0, *cuts, len(pages)]):
            if first < last:
                yield from self._prove_stretch(pages[first:last])

    def _prove_stretch(self, pages: Sequence[Arrival]) -> Iterator[Arrival | LogError]:
        """Prove adjacent pages together; if that fails, each half by itself."""
        try:
            proven = ask(self._log, partial(self._compare, pages), self._stop)
            found = [self._judge_ends(page) for page in pages]
            self._failures = 0
        except LogError as error:
            if self._stop.is_set():
                self.left += [RangeSet.holding(page.rows["cert_index"].to_numpy()) for page in pages]
                return
            self._failures += 1
            if len(pages) > 1 and self._failures < _FAILED_PROOFS:
                yield from self._prove_stretch(pages[: len(pages) // 2])
                yield from self._prove_stretch(pages[len(pages) // 2 :])
                return
            kinds = (CheckpointError, LogProtocolError, LogUnavailableError)
            kind = next(kind for kind in kinds if isinstance(error, kind))
            for page in pages:
                yield from self._lost(page.rows["cert_index"].to_numpy(), kind, f"not proven: {error.message}")
            return
        size = self._heads[self._log.url].tree_size
        for page, faults in zip(pages, found, strict=True):
            index = page.rows["cert_index"].to_numpy()
            signed, beyond = proven[index - pages[0].start], index >= size
            right = signed & (faults == 0)
            yield page if right.all() else replace(page, rows=page.rows.filter(pa.array(right)))
            differing = f"not what the log's tree of {size} entries holds there; {REPORT}"
            yield from self._lost(index[~signed & ~beyond], LogProtocolError, differing)
            early = f"the log has signed {size} entries, but not this one yet; run again later"
            yield from self._lost(index[beyond], LogUnavailableError, early)
            for fault in np.unique(faults[signed & (faults > 0)]).tolist():
                of_fault = index[signed & (faults == fault)]
                yield from self._lost(of_fault, LogProtocolError, f"{FAULTS[fault]}; {REPORT}")

    def _judge_ends(self, page: Arrival) -> NDArray[np.uint8]:
        """Return the faults of a page; ask the log which roots it accepts if that matters."""
        if not page.ends:
            return page.faults
        if self._roots is None:
            self._roots = Roots(self._ask_for_roots())
        faults = page.faults.copy()
        for row, end in page.ends.items():
            faults[row] = 0 if self._roots.may_be_end(end) else OPEN_END
        return faults

    def _ask_for_roots(self) -> frozenset[bytes] | None:
        try:
            return ask(self._log, self._log.get_roots, self._stop)
        except LogError as error:
            if self._stop.is_set():
                raise
            # The log may never say which roots it accepts, and its entries are what it signed in any case.
            logger.warning("accepted roots are not known, ends of chains are not verified reason=%s", error)
            return None

    def _compare(self, pages: Sequence[Arrival]) -> NDArray[np.bool_]:
        """Return, for each entry of the pages, whether it is what the log signed."""
        start, end = pages[0].start, pages[-1].end
        last = int(pages[-1].rows["cert_index"][-1].as_py())
        head = self._heads[self._log.url]
        if last >= head.tree_size:
            newer = self._log.get_checkpoint()
            self._log.check_consistency(head, newer)
            self._heads[self._log.url] = head = newer
        # Entries beyond the newest tree head are left to another run.
        covered = max(min(end, head.tree_size) - start, 0)
        hashes = [leaf_hash for page in pages for leaf_hash in page.leaf_hashes][:covered]
        proven = np.zeros(end - start, bool)
        if covered:
            proven[:covered] = self._log.prove(start, hashes, head)
        return proven

    def _lost(self, index: Int64s, kind: type[LogError], message: str) -> Iterator[LogError]:
        """Yield an error for each stretch of indices."""
        for stretch in RangeSet.holding(index):
            yield kind(self._log.url, message, start=stretch.start, end=stretch.end)
