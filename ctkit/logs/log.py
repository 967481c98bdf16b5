"""Open a log by its URL, or many by a log list."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal, Protocol

import numpy as np
import pyarrow as pa
import pydantic
from numpy.typing import NDArray

from ctkit.arguments import ProtocolChoice, checked, shown
from ctkit.errors import LogError, LogUnavailableError
from ctkit.logs.http import DEFAULT_PATIENCE, Patience
from ctkit.logs.pace import Pace
from ctkit.logs.rfc6962 import Rfc6962Log
from ctkit.logs.static_ct import StaticCtLog
from ctkit.ranges import Int64s, RangeSet
from ctkit.urls import canonical_url
from ctkit.visible import get_logger
from ctkit.wire.checkpoint import Checkpoint
from ctkit.wire.entries import EntryBlock

logger = get_logger(__name__)

LogProtocol = Literal["rfc6962", "static-ct"]
"""The two ways to read a log, as spelled in parameters."""

_LIST_LIMIT = 64 << 20


class Log(Protocol):
    """One shard of a CT log, whichever protocol it speaks.

    Attributes
    ----------
    url
        Canonical form (`ctkit.urls.canonical_url`); stored as ``source_url``.
    name
        What to store as ``source_name``; None if nobody named the log.
    key
        DER of the log's ``SubjectPublicKeyInfo``; None if it is not known, and tree heads are not verified.
    """

    url: str
    name: str | None
    key: bytes | None

    @property
    def page_size(self) -> int:
        """How many entries one request can bring at the most, as far as is known.

        Requests that do not cross a multiple of it cost one answer each. It may change while the log is read.
        """

    @property
    def page_size_known(self) -> bool:
        """Whether the log has shown that; until then `page_size` is a guess."""

    @property
    def pace(self) -> Pace:
        """What is known of the pace of the log's host."""

    @property
    def in_trouble(self) -> bool:
        """Whether the last request that is over met trouble: 429, 5xx, no answer, or one that nobody can read.

        False for a log that is just slow.
        """

    @property
    def protocol(self) -> LogProtocol | Literal["auto"]:
        """How the log is read; ``"auto"`` where the log has to be asked for that first."""

    @property
    def entry_bytes(self) -> float | None:
        """Bytes of an answer for each entry in it, unpacked; None as long as the log was not asked for entries."""

    def learn_page_size(self) -> None:
        """Ask for one page, if that is what it takes to know `page_size`."""

    def get_checkpoint(self) -> Checkpoint:
        """Ask the log for its current tree head.

        A head that is not newer and has fewer entries comes from a backend that is behind: then the largest one that is
        known is returned.

        Raises
        ------
        LogUnavailableError
            After all retries.
        CheckpointError
            The answer is no tree head or, where the key is known, not signed by it; or it contradicts an earlier one:
            it is newer and has fewer entries, or another root hash for as many.
        """

    def check_consistency(self, old: Checkpoint, new: Checkpoint) -> None:
        """Check that the tree of one tree head is the beginning of that of another, of which none need be the newest.

        Raises
        ------
        CheckpointError
            It is not, or the log's proof does not show it.
        LogUnavailableError
            The proof cannot be had just now.
        LogProtocolError
            The proof cannot be read, or does not hang together.
        """

    def prove(self, start: int, leaf_hashes: Sequence[bytes], head: Checkpoint) -> NDArray[np.bool_]:
        """Tell for each of the consecutive entries from `start` on whether it is what the tree of `head` holds there.

        It takes few requests: where nothing differs, two audit paths for any number of entries (RFC 6962), or the hash
        tiles of level 1 and above (Static CT API), less what an earlier proof has shown. Where something differs, it is
        looked for, in about ``2 * log2(n)`` requests for each wrong one of n entries.

        Parameters
        ----------
        leaf_hashes
            `EntryBlock.leaf_hashes`, 32 bytes each.
        head
            Believed: its root hash is what everything is compared with.

        Returns
        -------
        ndarray of bool
            False for an entry that differs. Where an RFC 6962 log holds so many others that 64 audit paths do not find
            them all, also for entries beside them that were not told apart.

        Raises
        ------
        LogUnavailableError
            The proofs cannot be had just now, or `head` has too few entries.
        LogProtocolError
            The log's own proofs contradict `head`, or cannot be read.
        """

    def get_roots(self) -> frozenset[bytes] | None:
        """Return the DER of the root certificates that the log accepts, in which its chains end.

        It is asked once. None if it does not say: there is no such request behind a monitoring prefix.

        Raises
        ------
        LogUnavailableError
            They cannot be had just now.
        LogProtocolError
            The answer cannot be read.
        """

    def get_entries(self, start: int, end: int, wanted: RangeSet | None = None) -> EntryBlock:
        """Ask for the entries ``[start, end)``, in one request for the data.

        Parameters
        ----------
        start, end
            Half-open.
        wanted
            Which of them need a chain; what else it takes is asked for these only. All by default.

        Returns
        -------
        EntryBlock
            Consecutive entries from `start` on: at least one, never `end` or beyond, possibly fewer than asked for.

        Raises
        ------
        LogUnavailableError
            After all retries; also when the log does not have index `start` yet.
        LogProtocolError
            The answer cannot be read from `start` on, or is not the log's at all.

        The error's ``[start, end)`` says which indices that costs. If it names none, fewer entries may be had.
        """

    def provable(self, start: int, end: int) -> tuple[int, int]:
        """Return the stretch around ``[start, end)``, which lies in one page, that `prove` needs the least for.

        It takes no more requests for entries than ``[start, end)`` itself.
        """

    def entry_urls(self, index: Int64s) -> pa.StringArray:
        """Return the URL of each index, as stored in ``cert_link``."""

    def close(self) -> None:
        """Close all connections; the log is not asked any more."""


def _check_log(log: object) -> object:
    # Whatever can be read like a log is one; a log list's description of one cannot.
    if not (hasattr(log, "url") and hasattr(log, "page_size")):
        raise ValueError(f"it should be a log, from ctkit.open_log, but is {shown(log)}")
    return log


Logs = Sequence[Annotated[Log, pydantic.PlainValidator(_check_log)]]


@checked
def open_log(
    url: str,
    *,
    user_agent: str,
    protocol: ProtocolChoice = "auto",
    name: str | None = None,
    key: bytes | str | None = None,
    patience: Patience = DEFAULT_PATIENCE,
) -> Rfc6962Log | StaticCtLog:
    """Open a log for reading.

    Parameters
    ----------
    url
        The log's URL; the monitoring prefix of a Static CT log.
    user_agent
        Who asks: must hold a mail address or a URL where the log's operator can reach you.
    protocol
        ``"auto"`` asks the log: for a checkpoint first, because tiles are the cheaper way to read a log that speaks
        both, then for a signed tree head; and whether there are tiles all the same. The others ask nothing.
    name
        What to store as ``source_name``.
    key
        DER of the log's ``SubjectPublicKeyInfo``, bare or as base64 text as in a log list: every tree head is verified
        with it. None if it is not known.
    patience
        When the log counts as unavailable.

    Returns
    -------
    Rfc6962Log or StaticCtLog
        A `Log`; also a context manager that closes its connections.

    Raises
    ------
    ParameterError
        `user_agent` holds no contact, or `protocol`, `url` or `key` is none, or an argument of another kind.
    LogUnavailableError
        ``"auto"``, and the log gives neither tree head.
    """
    logs: dict[str, type[Rfc6962Log | StaticCtLog]] = {"static-ct": StaticCtLog, "rfc6962": Rfc6962Log}
    if protocol in logs:
        return logs[protocol](url, user_agent=user_agent, name=name, key=key, patience=patience)
    reasons = []
    for log_class in logs.values():
        # An address that does not know a protocol may answer anything: do not insist.
        with log_class(url, user_agent=user_agent, patience=replace(patience, tries=min(patience.tries, 2))) as log:
            try:
                log.get_checkpoint()
            except LogError as error:
                reasons.append(error.message.rpartition("; ")[0] or error.message)
                continue
            if isinstance(log, StaticCtLog) and not log.has_tiles():
                log_class = Rfc6962Log
            return log_class(url, user_agent=user_agent, name=name, key=key, patience=patience)
    message = f"gives no tree head of either protocol; check the URL, or run again later: {' | '.join(reasons)}"
    raise LogUnavailableError(canonical_url(url), message)
