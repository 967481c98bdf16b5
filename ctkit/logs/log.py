"""What all logs share, whichever protocol they speak."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Literal, Required, Self, TypedDict

import numpy as np
import pyarrow as pa
import pydantic
from numpy.typing import NDArray

from ctkit.arguments import LogProtocol, shown
from ctkit.errors import REPORT, CheckpointError, LogUnavailableError, ParameterError
from ctkit.logs.asking import DEFAULT_PATIENCE, HttpError, Patience
from ctkit.logs.pace import Pace
from ctkit.logs.trouble import Trouble
from ctkit.ranges import Int64s, RangeSet
from ctkit.urls import canonical_url
from ctkit.wire.checkpoint import Checkpoint, read_sth
from ctkit.wire.entries import EntryBlock
from ctkit.wire.merkle import EMPTY_ROOT
from ctkit.wire.signatures import read_key

OTHER_PROTOCOL = "check the URL, and the protocol, which may be wrong: auto asks the log"
"""What to do about a log that lacks what every log of its protocol has."""

_HEAD_LIMIT = 1 << 20


class LogOptions(TypedDict, total=False):
    """The parameters of a `Log`, except for its URL."""

    user_agent: Required[str]
    name: str | None
    key: bytes | str | None
    patience: Patience


class Log(ABC):
    """One shard of a CT log, asked over HTTP. May be used by many threads.

    It is a context manager that closes its connections.

    Parameters
    ----------
    url
        The log's URL in any form; the monitoring prefix of a Static CT log.
    user_agent
        Who asks, with a contact.
    name
        What to store as ``source_name``.
    key
        DER of the log's ``SubjectPublicKeyInfo``, bare or as base64. None if it is not known: then tree heads are not
        verified.
    patience
        When the log counts as unavailable.

    Attributes
    ----------
    url
        Canonical form (`ctkit.urls.canonical_url`); stored as ``source_url``.
    name, key
        As given, the key as DER.

    Raises
    ------
    ParameterError
        `user_agent` holds no contact, `url` is not a URL, or `key` is not a key that a log may sign with.
    """

    def __init__(
        self,
        url: str,
        *,
        user_agent: str,
        name: str | None = None,
        key: bytes | str | None = None,
        patience: Patience = DEFAULT_PATIENCE,
    ) -> None:
        self.url = canonical_url(url)
        self.name = name
        try:
            self.key = None if key is None else read_key(key)
        except ValueError as error:
            raise ParameterError(f"{self.url}: the log's key cannot be used: {error}") from error
        # httpx takes a while to import.
        from ctkit.logs.http import Client

        self._client = Client(self.url, user_agent=user_agent, patience=patience)
        self._lock = threading.Lock()
        # Bytes of all answers with entries together, and the number of their entries.
        self._measured = 0, 0
        self._head: Checkpoint | None = None
        self._roots: dict[int, bytes] = {}

    @property
    @abstractmethod
    def protocol(self) -> LogProtocol | Literal["auto"]:
        """How the log is read; ``"auto"`` until it has been asked what it speaks."""

    @property
    @abstractmethod
    def page_size(self) -> int:
        """The largest number of entries that one request can bring, as far as is known.

        Requests that do not cross a multiple of it cost one answer each. It may change while the log is read.
        """

    @property
    @abstractmethod
    def page_size_known(self) -> bool:
        """Whether the log has shown its page size; until then `page_size` is a guess."""

    @property
    def pace(self) -> Pace:
        """What is known of the pace of the log's host; read only."""
        return self._client.pace

    @property
    def in_trouble(self) -> bool:
        """Whether something that was asked for has met nothing but trouble: 429, 5xx, or what cannot be read.

        False for a log that is merely slow.
        """
        return self._client.in_trouble

    @property
    def trouble(self) -> Trouble | None:
        """What the log must overcome before it gives the next answer; None while it answers, or is merely slow."""
        trouble = self._client.trouble
        return trouble and replace(trouble, resumes=max(trouble.resumes, self.pace.resumes))

    @property
    def entry_bytes(self) -> float | None:
        """Mean bytes of an answer for each of its entries, unpacked; None before the log is asked for entries."""
        size, entries = self._measured
        return size / entries if entries else None

    @property
    def _tree_size(self) -> int:
        """Size of the tree head in force, 0 before there is one."""
        return self._head.tree_size if self._head else 0

    def close(self) -> None:
        """Close all connections; the log is not asked any more."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def learn_page_size(self) -> None:
        """Ask for one page, if `page_size` cannot be known otherwise."""

    def get_checkpoint(self) -> Checkpoint:
        """Ask the log for its current tree head.

        A head that is not newer and has fewer entries comes from a backend that is behind: then the largest known one
        is returned.

        Raises
        ------
        LogUnavailableError
            After all retries.
        CheckpointError
            The answer is not a tree head or, where the key is known, not signed by it; or it contradicts an earlier
            one: it is newer and has fewer entries, or another root hash for the same number of entries.
        """
        head = self._ask_for_head()
        if self.key is not None:
            head = head.verify(self.key)
        with self._lock:
            if self._head is not None:
                _check_growth(*sorted((self._head, head), key=lambda head: head.timestamp))
            if self._roots.get(head.tree_size, head.root_hash) != head.root_hash:
                raise _two_roots(self.url, head.tree_size)
            self._roots[head.tree_size] = head.root_hash
            self._head = max(self._head or head, head, key=lambda head: (head.tree_size, head.timestamp))
            return self._head

    def check_consistency(self, old: Checkpoint, new: Checkpoint) -> None:
        """Check that the tree of one tree head is the beginning of the other's; neither need be the newest.

        Raises
        ------
        CheckpointError
            It is not, or the log's proof does not show it.
        LogUnavailableError
            The proof is not available just now.
        LogProtocolError
            The proof cannot be read, or contradicts itself.
        """
        old, new = sorted((old, new), key=lambda head: head.tree_size)
        if old.tree_size == new.tree_size:
            if old.root_hash != new.root_hash:
                raise _two_roots(self.url, old.tree_size)
        elif old.tree_size == 0:
            if old.root_hash != EMPTY_ROOT:
                raise self._inconsistent(old, new)
        else:
            self._prove_consistency(old, new)

    def prove(self, start: int, leaf_hashes: Sequence[bytes], head: Checkpoint) -> NDArray[np.bool_]:
        """Tell for each of the consecutive entries from `start` on whether the tree of `head` holds it there.

        It takes few requests: where nothing differs, two audit paths for any number of entries (RFC 6962), or the hash
        tiles of level 1 and above (Static CT API), less what an earlier proof has shown. Entries that differ are
        searched for, in about ``2 * log2(n)`` requests for each wrong one of n entries.

        Parameters
        ----------
        leaf_hashes
            `EntryBlock.leaf_hashes`, 32 bytes each.
        head
            Believed: everything is compared with its root hash.

        Returns
        -------
        ndarray of bool
            False for an entry that differs. Where an RFC 6962 log has more differing entries than 64 audit paths can
            find, also for their neighbours that no path has cleared.

        Raises
        ------
        LogUnavailableError
            The proofs are not available just now, or `head` has too few entries.
        LogProtocolError
            The log's own proofs contradict `head`, or cannot be read.
        """
        end = start + len(leaf_hashes)
        if end > head.tree_size:
            message = f"the tree head of {head.tree_size} entries does not cover entry {end - 1}; run again later"
            raise LogUnavailableError(self.url, message, start=max(start, head.tree_size), end=end)
        return self._prove(start, leaf_hashes, head) if leaf_hashes else np.zeros(0, bool)

    def get_roots(self) -> frozenset[bytes] | None:
        """Return the DER of the root certificates that the log accepts, in which its chains end.

        The log is asked once. None if it does not say: a monitoring prefix has no such request.

        Raises
        ------
        LogUnavailableError
            They are not available just now.
        LogProtocolError
            The answer cannot be read.
        """
        return None

    @abstractmethod
    def get_entries(self, start: int, end: int, wanted: RangeSet | None = None) -> EntryBlock:
        """Ask for the entries ``[start, end)``, in one request for the data.

        Parameters
        ----------
        start, end
            Half-open.
        wanted
            The entries that need a chain; further requests are sent for these only. All by default.

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

        The error's ``[start, end)`` says which indices are lost. If it names none, a request for fewer entries may
        succeed.
        """

    @abstractmethod
    def provable(self, start: int, end: int) -> tuple[int, int]:
        """Return the stretch around ``[start, end)``, which lies in one page, that is cheapest to prove.

        It takes no more requests for entries than ``[start, end)`` itself.
        """

    @abstractmethod
    def entry_urls(self, index: Int64s) -> pa.StringArray:
        """Return the URL of each index, as stored in ``cert_link``."""

    @abstractmethod
    def _ask_for_head(self) -> Checkpoint:
        """Ask the log for its current tree head, verified or not."""

    @abstractmethod
    def _prove_consistency(self, old: Checkpoint, new: Checkpoint) -> None:
        """As `check_consistency`, for two trees that are not empty; `new` is the larger one."""

    @abstractmethod
    def _prove(self, start: int, leaf_hashes: Sequence[bytes], head: Checkpoint) -> NDArray[np.bool_]:
        """As `prove`, for at least one entry, all of them in the tree."""

    def _measure(self, size: int, entries: int) -> None:
        """Count the bytes of an answer, and its entries."""
        with self._lock:
            self._measured = self._measured[0] + size, self._measured[1] + entries

    def _get_sth(self) -> Checkpoint:
        # RFC 6962, section 4.3.
        return self._get_head("/ct/v1/get-sth", read_sth)

    def _get_head(self, path: str, read: Callable[[bytes, str], Checkpoint]) -> Checkpoint:
        try:
            return self._client.get(path, lambda body: read(body, self.url), limit=_HEAD_LIMIT)
        except HttpError as error:
            if error.status != 404:
                raise
            message = f"{error.message.removesuffix('; run again later')}; {OTHER_PROTOCOL}"
            raise HttpError(self.url, message, status=404) from error

    def _inconsistent(self, old: Checkpoint, new: Checkpoint) -> CheckpointError:
        message = f"the tree of {new.tree_size} entries is not shown to begin with that of {old.tree_size}"
        return CheckpointError(self.url, f"{message}: believe neither, and {REPORT}")


def _check_log(log: object) -> object:
    # Whatever can be read like a log is one; a log list's description of one cannot.
    if not (hasattr(log, "url") and hasattr(log, "page_size")):
        raise ValueError(f"it should be a log, from ctkit.open_log, but is {shown(log)}")
    return log


Logs = Sequence[Annotated[Log, pydantic.PlainValidator(_check_log)]]


def _check_growth(older: Checkpoint, newer: Checkpoint) -> None:
    """Raise if a tree head of a later time has fewer entries; at one time, a backend may be behind."""
    if newer.timestamp > older.timestamp and newer.tree_size < older.tree_size:
        # Unlike a datetime it goes beyond the year 9999: some log may count in other units than milliseconds.
        times = [np.datetime64(head.timestamp, "ms") for head in (older, newer)]
        message = f"the tree shrank from {older.tree_size} entries ({times[0]}) to {newer.tree_size} ({times[1]})"
        raise CheckpointError(newer.url, f"{message}: believe neither tree head, and {REPORT}")


def _two_roots(url: str, tree_size: int) -> CheckpointError:
    message = f"there are two root hashes for the tree of {tree_size} entries: believe neither, and {REPORT}"
    return CheckpointError(url, message)
