"""Logs that speak RFC 6962: get-sth, get-entries, and proofs."""

import base64
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Literal, Unpack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ctkit.errors import REPORT, LogError, LogProtocolError, LogUnavailableError
from ctkit.logs.asking import HttpError, TryAgain
from ctkit.logs.audit_paths import (
    ProvenTree,
    Stretch,
    read_audit_path,
    read_consistency,
    read_entry_and_proof,
    read_roots,
)
from ctkit.logs.log import Log, LogOptions
from ctkit.logs.single_flight import Shared
from ctkit.ranges import Int64s, RangeSet
from ctkit.wire.checkpoint import Checkpoint
from ctkit.wire.entries import EntryBlock, decode_get_entries
from ctkit.wire.merkle import verify_consistency

_PAGE_LIMIT = 64 << 20
_PROOF_LIMIT = 1 << 20
LARGEST_PAGE = 1024
_SMALLEST_PAGE = 32
"""Smallest page size that is learned: one stretch of large entries says little about the log."""

_FAILURES = 2
"""Answers with status 5xx to a request for several entries, after which fewer are asked for."""

_PATHS = 64
"""Largest number of audit paths for one stretch: two are enough where nothing differs."""

_REFUSALS = 4
"""Leaves of a stretch without an audit path, before any with one, after which the log counts as unavailable."""

_NOT_OFFERED = (400, 403, 404, 405, 410, 501)
"""Statuses by which logs say that they do not know a hash, or do not support a request at all."""

_Shown = tuple[int, bytes, list[bytes]]
"""Index of a leaf, its hash, and its audit path."""


class _NoPathError(LogUnavailableError):
    """The log does not give the audit path of an entry."""


class Rfc6962Log(Log):
    """A log behind ``<url>/ct/v1/``; its parameters are those of `Log`."""

    protocol: Literal["rfc6962"] = "rfc6962"
    page_size = LARGEST_PAGE
    page_size_known = False

    def __init__(self, url: str, **options: Unpack[LogOptions]) -> None:
        super().__init__(url, **options)
        self._known_size = 0
        self._short_stops: set[int] = set()
        self._tree: ProvenTree | None = None
        self._accepted: Shared[None, frozenset[bytes]] = Shared(1)

    def _ask_for_head(self) -> Checkpoint:
        return self._get_sth()

    def learn_page_size(self) -> None:
        """Ask for the first page, unless the page size is known."""
        if not self.page_size_known:
            if not self._tree_size:
                self.get_checkpoint()
            if self._tree_size and not self.get_entries(0, LARGEST_PAGE).cut:
                # A page, or the whole tree where that is smaller.
                self.page_size_known = True

    def get_entries(self, start: int, end: int, wanted: RangeSet | None = None) -> EntryBlock:
        """Ask for the entries ``[start, end)`` (RFC 6962, section 4.6); see `Log.get_entries`."""
        asked, known_size = min(end - start, self.page_size), max(self._known_size, self._tree_size)
        while True:
            try:
                block = self._ask(start, start + asked)
            except HttpError as error:
                if error.too_large and asked > 1:
                    asked //= 2
                    self._learn(page_size=asked)
                    continue
                if error.too_large:
                    error.start, error.end = start, start + 1
                elif error.status in (400, 404):
                    raise self._not_yet(start, end, f"HTTP status {error.status}") from error
                elif error.status == 429:
                    error.start, error.end = start, end
                raise
            stop = start + len(block)
            self._learn(known_size=stop)
            if len(block) == LARGEST_PAGE:
                self._learn(page_size=LARGEST_PAGE)
            elif len(block) < asked and not block.cut:
                self._learn_from_short_answer(start, stop, known_size)
            return block

    def _ask(self, start: int, end: int) -> EntryBlock:
        def read(body: bytes) -> EntryBlock:
            try:
                block = decode_get_entries(body, start, self.url, end - start)
            except LogProtocolError as error:
                if error.start is None:
                    raise TryAgain(error) from error
                raise
            if not len(block):
                raise TryAgain(self._not_yet(start, end, "get-entries brought none"))
            if not block.cut:
                self._measure(len(body), len(block))
            return block

        # The only place where an end is inclusive: "end: 0-based index of last entry to retrieve".
        path = f"/ct/v1/get-entries?start={start}&end={end - 1}"
        # One entry may spoil every answer that it is part of: it is found by asking for fewer, not by asking again.
        failures = _FAILURES if end - start > 1 else None
        return self._client.get(path, read, limit=_PAGE_LIMIT, entries=True, failures=failures)

    def _not_yet(self, start: int, end: int, reason: str) -> LogUnavailableError:
        message = f"the log does not have entry {start} yet ({reason}); run again later"
        return LogUnavailableError(self.url, message, start=start, end=end)

    def _learn_from_short_answer(self, start: int, stop: int, known_size: int) -> None:
        """Take the length of the short answer ``[start, stop)`` for the log's page size, if nothing else explains it.

        Logs cut their answers after a number of entries, which some count from index 0 instead of the first one asked
        for: so only an answer that starts at 0, or where a short one stopped, shows a whole page. Nor may the answer
        end at the tip of the tree: `known_size` is the largest size known before the request.
        """
        with self._lock:
            follows = start == 0 or start in self._short_stops
            self._short_stops.discard(start)
            self._short_stops.add(stop)
        if follows and stop < known_size:
            self._learn(page_size=stop - start)

    def _learn(self, *, known_size: int = 0, page_size: int | None = None) -> None:
        """Note that the tree has at least `known_size` entries, and that no answer brings more than `page_size`."""
        with self._lock:
            self._known_size = max(self._known_size, known_size)
            if page_size is not None:
                self.page_size = min(self.page_size, max(page_size, _SMALLEST_PAGE))
                self.page_size_known = True

    def get_roots(self) -> frozenset[bytes]:
        """Ask once which roots the log accepts; see `Log.get_roots`."""

        def ask() -> frozenset[bytes]:
            # RFC 6962, section 4.7.
            return self._client.get("/ct/v1/get-roots", lambda body: read_roots(body, self.url), limit=_PAGE_LIMIT)

        return self._accepted.get(None, ask)

    def provable(self, start: int, end: int) -> tuple[int, int]:
        """Return ``[start, end)`` extended to the end of the subtree that holds it, where one audit path is enough."""
        height = (start ^ (end - 1)).bit_length()
        page_end = (start // self.page_size + 1) * self.page_size
        return start, max(end, min(((start >> height) + 1) << height, page_end, self._tree_size))

    def entry_urls(self, index: Int64s) -> pa.StringArray:
        """Return the get-entries URL of each index."""
        return get_entries_urls(self.url, index)

    def _prove(self, start: int, leaf_hashes: Sequence[bytes], head: Checkpoint) -> NDArray[np.bool_]:
        tree, stretch = self._tree_of(head), Stretch(start, leaf_hashes, head.tree_size)
        lost: dict[int, LogError] = {}
        has_path = False
        for _ in range(_PATHS):
            _, index = tree.compare(stretch, lost)
            if index is None or (len(lost) == _REFUSALS and not has_path):
                break
            try:
                self._learn_path(tree, index, stretch.hash((0, index)))
                has_path = True
            except (LogProtocolError, _NoPathError) as error:
                # That may be due to this entry alone: the others are proven all the same.
                lost[index] = error
        if lost and not has_path:
            raise lost[min(lost)]
        return tree.compare(stretch)[0]

    def _tree_of(self, head: Checkpoint) -> ProvenTree:
        """Return what is proven of a tree; only the last tree is remembered."""
        with self._lock:
            tree = self._tree
            if tree is None or (tree.tree_size, tree.root_hash) != (head.tree_size, head.root_hash):
                tree = self._tree = ProvenTree(head.tree_size, head.root_hash)
            return tree

    def _learn_path(self, tree: ProvenTree, index: int, leaf_hash: bytes) -> None:
        """Ask for the audit path of an entry that was received with this hash.

        Asking by hash costs less, but brings no answer where the entry differs, and another index where the log holds
        the leaf twice: then the log is asked by index.
        """

        def by_hash(body: bytes) -> _Shown:
            found, path = read_audit_path(body, self.url)
            return found, leaf_hash, path

        def by_index(body: bytes) -> _Shown:
            return index, *read_entry_and_proof(body, self.url)

        # RFC 6962, sections 4.5 and 4.8.
        text = urllib.parse.quote(base64.b64encode(leaf_hash), safe="")
        queries = {f"get-proof-by-hash?hash={text}": by_hash, f"get-entry-and-proof?leaf_index={index}": by_index}
        if not any(self._ask_for_path(query, read, index, tree) for query, read in queries.items()):
            message = f"the log gives no audit path for entry {index} in the tree of {tree.tree_size} entries"
            raise _NoPathError(self.url, f"{message}; run again later", start=index, end=index + 1)

    def _ask_for_path(self, query: str, read: Callable[[bytes], _Shown], index: int, tree: ProvenTree) -> bool:
        def learn(body: bytes) -> bool:
            found, leaf_hash, path = read(body)
            if found == index and not tree.learn(index, leaf_hash, path):
                message = f"the audit path of entry {index} does not lead to the root hash of {tree.tree_size} entries"
                raise LogProtocolError(self.url, f"{message}; {REPORT}")
            return found == index

        try:
            return self._client.get(f"/ct/v1/{query}&tree_size={tree.tree_size}", learn, limit=_PAGE_LIMIT)
        except HttpError as error:
            if error.status in _NOT_OFFERED:
                return False
            raise

    def _prove_consistency(self, old: Checkpoint, new: Checkpoint) -> None:
        def check(body: bytes) -> None:
            proof = read_consistency(body, self.url)
            if not verify_consistency(old.tree_size, old.root_hash, new.tree_size, new.root_hash, proof):
                raise TryAgain(self._inconsistent(old, new))

        # RFC 6962, section 4.4.
        query = f"get-sth-consistency?first={old.tree_size}&second={new.tree_size}"
        self._client.get(f"/ct/v1/{query}", check, limit=_PROOF_LIMIT)


def get_entries_urls(url: str, index: Int64s) -> pa.StringArray:
    """Return the get-entries URL of each index of the log at a canonical URL.

    Examples
    --------
    >>> get_entries_urls("https://log.example", np.array([7]))[0].as_py()
    'https://log.example/ct/v1/get-entries?start=7&end=7'
    """
    text = pc.cast(pa.array(index), pa.string())
    return pc.binary_join_element_wise(f"{url}/ct/v1/get-entries?start=", text, "&end=", text, "")
