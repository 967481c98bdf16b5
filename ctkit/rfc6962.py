"""Logs that speak RFC 6962: get-sth and get-entries."""

import threading
from contextlib import AbstractContextManager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ctkit.checkpoint import Checkpoint, read_sth
from ctkit.entry import EntryBlock, decode_get_entries
from ctkit.errors import LogProtocolError, LogUnavailableError
from ctkit.http import DEFAULT_PATIENCE, Client, HttpError, Patience, TryAgain
from ctkit.ranges import Int64s
from ctkit.schema import canonical_url

_PAGE_LIMIT = 64 << 20
_STH_LIMIT = 1 << 20
_LARGEST_PAGE = 1024
_SMALLEST_PAGE = 32
"""Pages are never taken to be smaller than this: one stretch of large entries says little about the log."""


class Rfc6962Log(AbstractContextManager["Rfc6962Log"]):
    """A log behind ``<url>/ct/v1/``; see `ctkit.log.Log`. May be used by many threads.

    Parameters
    ----------
    url
        The log's URL, in any form.
    user_agent
        Who asks, with a contact.
    name
        What to store as ``source_name``.
    patience
        When the log counts as unavailable.
    """

    def __init__(
        self, url: str, *, user_agent: str, name: str | None = None, patience: Patience = DEFAULT_PATIENCE
    ) -> None:
        self.url = canonical_url(url)
        self.name = name
        self.page_size = _LARGEST_PAGE
        self._client = Client(self.url, user_agent=user_agent, patience=patience)
        self._lock = threading.Lock()
        self._known_size = 0
        self._short_stops: set[int] = set()

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def __exit__(self, *_: Any) -> None:
        self.close()

    def get_checkpoint(self) -> Checkpoint:
        """Ask the log for its current signed tree head (RFC 6962, section 4.3)."""
        checkpoint = self._client.get("/ct/v1/get-sth", lambda body: read_sth(body, self.url), limit=_STH_LIMIT)
        self._learn(known_size=checkpoint.tree_size)
        return checkpoint

    def get_entries(self, start: int, end: int) -> EntryBlock:
        """Ask for the entries ``[start, end)`` (RFC 6962, section 4.6); see `ctkit.log.Log.get_entries`."""
        asked, known_size = min(end - start, self.page_size), self._known_size
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
            if len(block) < asked and not block.cut:
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
            return block

        # The only place where an end is inclusive: "end: 0-based index of last entry to retrieve".
        return self._client.get(f"/ct/v1/get-entries?start={start}&end={end - 1}", read, limit=_PAGE_LIMIT)

    def _not_yet(self, start: int, end: int, reason: str) -> LogUnavailableError:
        message = f"the log does not have entry {start} yet ({reason}); run again later"
        return LogUnavailableError(self.url, message, start=start, end=end)

    def _learn_from_short_answer(self, start: int, stop: int, known_size: int) -> None:
        """Take the length of the short answer ``[start, stop)`` for the log's page size, if it can be nothing else.

        Logs cut their answers at a number of entries, some of them counted from 0, not from the first one asked for:
        so only an answer that starts where a short one stopped shows a whole page. And it must not be the tip of the
        tree that cut it: `known_size` is what was known of it before the log was asked.
        """
        with self._lock:
            follows = start in self._short_stops
            self._short_stops.discard(start)
            self._short_stops.add(stop)
        if follows and stop < known_size:
            self._learn(page_size=stop - start)

    def _learn(self, *, known_size: int = 0, page_size: int = _LARGEST_PAGE) -> None:
        """Note that the tree has at least `known_size` entries, and that no answer brings more than `page_size`."""
        with self._lock:
            self._known_size = max(self._known_size, known_size)
            self.page_size = min(self.page_size, max(page_size, _SMALLEST_PAGE))

    def entry_urls(self, index: Int64s) -> pa.StringArray:
        """Return the get-entries URL of each index."""
        text = pc.cast(pa.array(index), pa.string())
        return pc.binary_join_element_wise(f"{self.url}/ct/v1/get-entries?start=", text, "&end=", text, "")
