"""Open a log by its URL, or many by a log list."""

from typing import Protocol

import pyarrow as pa

from ctkit.checkpoint import Checkpoint
from ctkit.entry import EntryBlock
from ctkit.ranges import Int64s


class Log(Protocol):
    """One shard of a CT log, whichever protocol it speaks.

    Attributes
    ----------
    url
        Canonical form (`ctkit.schema.canonical_url`); stored as ``source_url``.
    name
        What to store as ``source_name``; None if nobody named the log.
    page_size
        How many entries one request can bring at the most, as far as is known. Requests that do not cross a multiple
        of it cost one answer each. It may change while the log is read.
    """

    url: str
    name: str | None
    page_size: int

    def get_checkpoint(self) -> Checkpoint:
        """Ask the log for its current tree head."""

    def get_entries(self, start: int, end: int) -> EntryBlock:
        """Ask for the entries ``[start, end)``, in one request for the data.

        Returns
        -------
        EntryBlock
            Consecutive entries from `start` on: at least one, never `end` or beyond, possibly fewer than asked for.

        Raises
        ------
        LogUnavailableError
            After all retries; also when the log does not have index `start` yet.
        LogProtocolError
            The answer cannot be read from `start` on; the error's ``[start, end)`` says which indices that costs.
        """

    def entry_urls(self, index: Int64s) -> pa.StringArray:
        """Return the URL of each index, as stored in ``cert_link``."""
