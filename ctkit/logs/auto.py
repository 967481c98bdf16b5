"""A log whose protocol is not known: it is found out when the log is first asked for something."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ctkit.arguments import LogProtocol
from ctkit.logs.log import Log
from ctkit.logs.rfc6962 import LARGEST_PAGE
from ctkit.logs.single_flight import Shared
from ctkit.ranges import Int64s, RangeSet
from ctkit.wire.checkpoint import Checkpoint
from ctkit.wire.entries import EntryBlock


class AutoLog(Log):
    """A log that is opened when it is first asked, so that one that is down delays only those who need it.

    Parameters
    ----------
    url, user_agent, name, key
        As for `Log`.
    open
        Opens the log, which takes a few requests.
    """

    def __init__(
        self, url: str, *, user_agent: str, name: str | None = None, key: bytes | None = None, open: Callable[[], Log]
    ) -> None:
        # Its client sends nothing; it knows the pace of the host before the log is opened.
        super().__init__(url, user_agent=user_agent, name=name, key=key)
        self._open = open
        self._shared: Shared[None, Log] = Shared(1)
        self._log: Log | None = None

    def _opened(self) -> Log:
        self._client.check_open()
        self._log = self._shared.get(None, self._open)
        return self._log

    @property
    def protocol(self) -> LogProtocol | Literal["auto"]:
        """How the log is read; ``"auto"`` until it is opened."""
        return "auto" if self._log is None else self._log.protocol

    @property
    def page_size(self) -> int:
        """That of the opened log; before, the largest page there is."""
        return LARGEST_PAGE if self._log is None else self._log.page_size

    @property
    def page_size_known(self) -> bool:
        """Whether the log has been opened, and has shown its page size."""
        return self._log is not None and self._log.page_size_known

    @property
    def entry_bytes(self) -> float | None:
        """That of the opened log."""
        return None if self._log is None else self._log.entry_bytes

    def learn_page_size(self) -> None:
        """Open the log, and let it learn its page size."""
        self._opened().learn_page_size()

    def get_roots(self) -> frozenset[bytes] | None:
        """Open the log, and return the roots that it accepts."""
        return self._opened().get_roots()

    def get_entries(self, start: int, end: int, wanted: RangeSet | None = None) -> EntryBlock:
        """Open the log, and ask it for entries; see `Log.get_entries`."""
        return self._opened().get_entries(start, end, wanted)

    def provable(self, start: int, end: int) -> tuple[int, int]:
        """Return what the opened log says; before, ``[start, end)`` itself."""
        return (start, end) if self._log is None else self._log.provable(start, end)

    def entry_urls(self, index: Int64s) -> pa.StringArray:
        """Open the log, and return the URL of each index."""
        return self._opened().entry_urls(index)

    def close(self) -> None:
        """Close all connections."""
        super().close()
        if self._log is not None:
            self._log.close()

    def _ask_for_head(self) -> Checkpoint:
        return self._opened().get_checkpoint()

    def _prove_consistency(self, old: Checkpoint, new: Checkpoint) -> None:
        self._opened().check_consistency(old, new)

    def _prove(self, start: int, leaf_hashes: Sequence[bytes], head: Checkpoint) -> NDArray[np.bool_]:
        return self._opened().prove(start, leaf_hashes, head)
