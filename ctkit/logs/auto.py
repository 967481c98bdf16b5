"""A log of which nobody said what it speaks: it is found out when the log is first asked for something."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ctkit.logs.http import Client
from ctkit.logs.log import Log, LogProtocol
from ctkit.logs.pace import Pace
from ctkit.logs.rfc6962 import LARGEST_PAGE
from ctkit.logs.single_flight import Shared
from ctkit.ranges import Int64s, RangeSet
from ctkit.urls import canonical_url
from ctkit.wire.checkpoint import Checkpoint
from ctkit.wire.entries import EntryBlock


class AutoLog:
    """A log that is opened when it is first asked; see `ctkit.logs.log.Log`. May be used by many threads.

    So a log that is down holds up nobody who asks others, and nobody who asks for nothing.

    Parameters
    ----------
    url, user_agent, name, key
        As for `ctkit.logs.log.open_log`.
    open
        Opens the log, which takes a few requests.

    Raises
    ------
    ParameterError
        `user_agent` holds no contact, or `url` is none.
    """

    def __init__(
        self, url: str, *, user_agent: str, name: str | None = None, key: bytes | None = None, open: Callable[[], Log]
    ) -> None:
        self.url = canonical_url(url)
        self.name = name
        self.key = key
        # Knows the pace of the host before anybody asks.
        self._client = Client(self.url, user_agent=user_agent)
        self._open = open
        self._shared: Shared[str, Log] = Shared(self.url, 1)
        self._log: Log | None = None

    def _opened(self) -> Log:
        self._client.check_open()
        return self._log or self._shared.get(self.url, self._ask)

    def _ask(self) -> Log:
        self._log = self._open()
        return self._log

    @property
    def pace(self) -> Pace:
        """What is known of the log's host."""
        return self._client.pace

    @property
    def in_trouble(self) -> bool:
        """Whether the last request that is over met trouble; see `ctkit.logs.log.Log.in_trouble`."""
        return self._client.in_trouble

    @property
    def protocol(self) -> LogProtocol | Literal["auto"]:
        """How the log is read; ``"auto"`` as long as it was not asked."""
        return "auto" if self._log is None else self._log.protocol

    @property
    def page_size(self) -> int:
        """How many entries one request can bring at the most, as far as is known."""
        return LARGEST_PAGE if self._log is None else self._log.page_size

    @property
    def page_size_known(self) -> bool:
        """Whether the log has shown that."""
        return self._log is not None and self._log.page_size_known

    @property
    def entry_bytes(self) -> float | None:
        """Bytes of an answer for each entry in it; None as long as the log was not asked for entries."""
        return None if self._log is None else self._log.entry_bytes

    def learn_page_size(self) -> None:
        """Ask for what it takes to know `page_size`."""
        self._opened().learn_page_size()

    def get_checkpoint(self) -> Checkpoint:
        """Ask for the tree head; see `ctkit.logs.log.Log.get_checkpoint`."""
        return self._opened().get_checkpoint()

    def check_consistency(self, old: Checkpoint, new: Checkpoint) -> None:
        """Check that one tree is the beginning of another; see `ctkit.logs.log.Log.check_consistency`."""
        self._opened().check_consistency(old, new)

    def prove(self, start: int, leaf_hashes: Sequence[bytes], head: Checkpoint) -> NDArray[np.bool_]:
        """Tell which entries are what the log signed; see `ctkit.logs.log.Log.prove`."""
        return self._opened().prove(start, leaf_hashes, head)

    def get_roots(self) -> frozenset[bytes] | None:
        """Return the roots that the log accepts; see `ctkit.logs.log.Log.get_roots`."""
        return self._opened().get_roots()

    def get_entries(self, start: int, end: int, wanted: RangeSet | None = None) -> EntryBlock:
        """Ask for entries; see `ctkit.logs.log.Log.get_entries`."""
        return self._opened().get_entries(start, end, wanted)

    def provable(self, start: int, end: int) -> tuple[int, int]:
        """Return what `prove` needs the least for; see `ctkit.logs.log.Log.provable`."""
        return (start, end) if self._log is None else self._log.provable(start, end)

    def entry_urls(self, index: Int64s) -> pa.StringArray:
        """Return the URL of each index; see `ctkit.logs.log.Log.entry_urls`."""
        return self._opened().entry_urls(index)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()
        if self._log is not None:
            self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
