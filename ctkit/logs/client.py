"""What the clients of both protocols share: a name, a key, and tree heads that do not contradict each other."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Required, Self, TypedDict

import numpy as np
from numpy.typing import NDArray

from ctkit.errors import REPORT, CheckpointError, LogUnavailableError, ParameterError
from ctkit.logs.http import DEFAULT_PATIENCE, Client, HttpError, Patience
from ctkit.logs.pace import Pace
from ctkit.urls import canonical_url
from ctkit.wire.checkpoint import Checkpoint, read_key
from ctkit.wire.merkle import EMPTY_ROOT

OTHER_PROTOCOL = "check the URL, and protocol, which may be wrong: auto asks the log"
"""What to do about a log without that by which its protocol begins."""


class LogOptions(TypedDict, total=False):
    """What may be said of a log beside its URL; see `LogClient`."""

    user_agent: Required[str]
    name: str | None
    key: bytes | str | None
    patience: Patience


class LogClient(ABC):
    """A log that is asked over HTTP; see `ctkit.logs.log.Log`. May be used by many threads.

    Parameters
    ----------
    url
        The log's URL in any form; of a Static CT log, its monitoring prefix.
    user_agent
        Who asks, with a contact.
    name
        What to store as ``source_name``.
    key
        DER of the log's ``SubjectPublicKeyInfo``, bare or as base64; None if it is not known, and tree heads are not
        verified.
    patience
        When the log counts as unavailable.

    Raises
    ------
    ParameterError
        `user_agent` holds no contact, `url` is none, or `key` is none that a log may sign with.
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
        self._client = Client(self.url, user_agent=user_agent, patience=patience)
        self._lock = threading.Lock()
        self._entry_bytes = Mean()
        self._head: Checkpoint | None = None
        self._roots: dict[int, bytes] = {}

    @property
    def pace(self) -> Pace:
        """What is known of the log's host; to be read only."""
        return self._client.pace

    @property
    def in_trouble(self) -> bool:
        """Whether the log refused the last request that is over, or failed; see `ctkit.logs.log.Log.in_trouble`."""
        return self._client.in_trouble

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def entry_bytes(self) -> float | None:
        """Bytes of an answer for each entry in it, unpacked; None as long as the log was not asked for entries."""
        return self._entry_bytes.value

    def get_checkpoint(self) -> Checkpoint:
        """Ask the log for its current tree head; see `ctkit.logs.log.Log.get_checkpoint`."""
        try:
            head = self._ask_for_head()
        except HttpError as error:
            if error.status != 404:
                raise
            message = f"{error.message.removesuffix('; run again later')}; {OTHER_PROTOCOL}"
            raise HttpError(self.url, message, status=404) from error
        if self.key is not None:
            head = head.verify(self.key)
        with self._lock:
            if self._head is not None:
                _check_growth(*sorted((self._head, head), key=lambda each: each.timestamp))
            if self._roots.get(head.tree_size, head.root_hash) != head.root_hash:
                raise _two_roots(self.url, head.tree_size)
            self._roots[head.tree_size] = head.root_hash
            self._head = max(self._head or head, head, key=lambda each: (each.tree_size, each.timestamp))
            return self._head

    @property
    def _tree_size(self) -> int:
        """Size of the tree head in force, 0 before there is one."""
        return self._head.tree_size if self._head else 0

    def check_consistency(self, old: Checkpoint, new: Checkpoint) -> None:
        """Check that one tree is the beginning of another; see `ctkit.logs.log.Log.check_consistency`."""
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
        """Tell which entries are what the log signed; see `ctkit.logs.log.Log.prove`."""
        end = start + len(leaf_hashes)
        if end > head.tree_size:
            message = f"the tree head of {head.tree_size} entries proves nothing of entry {end - 1}; run again later"
            raise LogUnavailableError(self.url, message)
        return self._prove(start, leaf_hashes, head) if leaf_hashes else np.zeros(0, bool)

    def get_roots(self) -> frozenset[bytes] | None:
        """Return None: the log does not say which roots it accepts; see `ctkit.logs.log.Log.get_roots`."""
        return None

    def _inconsistent(self, old: Checkpoint, new: Checkpoint) -> CheckpointError:
        message = f"the tree of {new.tree_size} entries is not shown to begin with that of {old.tree_size}"
        return CheckpointError(self.url, f"{message}: believe neither, and {REPORT}")

    @abstractmethod
    def _ask_for_head(self) -> Checkpoint:
        """Ask the log for its current tree head, verified or not."""

    @abstractmethod
    def _prove_consistency(self, old: Checkpoint, new: Checkpoint) -> None:
        """As `check_consistency`, for two trees of which neither is empty and `new` is the larger one."""

    @abstractmethod
    def _prove(self, start: int, leaf_hashes: Sequence[bytes], head: Checkpoint) -> NDArray[np.bool_]:
        """As `prove`, for one entry at least, all of them in the tree."""


class Mean:
    """A mean of what many threads measure.

    Examples
    --------
    >>> mean = Mean()
    >>> mean.add(300, 2)
    >>> mean.value
    150.0
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = self._count = 0

    def add(self, total: int, count: int) -> None:
        """Count `total` for `count` things together."""
        with self._lock:
            self._total += total
            self._count += count

    @property
    def value(self) -> float | None:
        """The mean of one thing; None as long as nothing was measured."""
        with self._lock:
            return self._total / self._count if self._count else None


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
