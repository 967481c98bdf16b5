"""Open a log by its URL, or many by a log list."""

import base64
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Protocol, get_args

import numpy as np
import pyarrow as pa
import pydantic
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from numpy.typing import NDArray

from ctkit.checkpoint import Checkpoint, check_public_key, verify_signature
from ctkit.entry import EntryBlock
from ctkit.errors import LogError, LogUnavailableError, ParameterError
from ctkit.http import DEFAULT_PATIENCE, Client, Patience
from ctkit.merkle import LARGEST_TREE
from ctkit.pace import Pace
from ctkit.ranges import Int64s, RangeSet
from ctkit.rfc6962 import Rfc6962Log
from ctkit.schema import canonical_url
from ctkit.static_ct import StaticCtLog

logger = logging.getLogger(__name__)

LogProtocol = Literal["rfc6962", "static-ct"]
"""The two ways to read a log, as spelled in parameters."""

_LIST_LIMIT = 64 << 20


class Log(Protocol):
    """One shard of a CT log, whichever protocol it speaks.

    Attributes
    ----------
    url
        Canonical form (`ctkit.schema.canonical_url`); stored as ``source_url``.
    name
        What to store as ``source_name``; None if nobody named the log.
    key
        DER of the log's ``SubjectPublicKeyInfo``; None if it is not known, and tree heads are not verified.
    page_size
        How many entries one request can bring at the most, as far as is known. Requests that do not cross a multiple
        of it cost one answer each. It may change while the log is read.
    page_size_known
        Whether the log has shown that; until then `page_size` is a guess.
    """

    url: str
    name: str | None
    key: bytes | None
    page_size: int
    page_size_known: bool

    @property
    def pace(self) -> Pace:
        """What is known of the pace of the log's host."""

    @property
    def in_trouble(self) -> bool:
        """Whether the last request that is over met trouble: 429, 5xx, no answer. False for a log that is just slow."""

    @property
    def protocol(self) -> LogProtocol:
        """How the log is read."""

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


def open_log(
    url: str,
    *,
    user_agent: str,
    protocol: Literal["auto", "rfc6962", "static-ct"] = "auto",
    name: str | None = None,
    key: bytes | None = None,
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
        DER of the log's ``SubjectPublicKeyInfo``: every tree head is verified with it. None if it is not known.
    patience
        When the log counts as unavailable.

    Returns
    -------
    Rfc6962Log or StaticCtLog
        A `Log`; also a context manager that closes its connections.

    Raises
    ------
    ParameterError
        `user_agent` holds no contact, or `protocol`, `url` or `key` is none.
    LogUnavailableError
        ``"auto"``, and the log gives neither tree head.
    """
    logs: dict[str, type[Rfc6962Log | StaticCtLog]] = {"static-ct": StaticCtLog, "rfc6962": Rfc6962Log}
    if protocol in logs:
        return logs[protocol](url, user_agent=user_agent, name=name, key=key, patience=patience)
    if protocol != "auto":
        raise ParameterError(f"protocol is {protocol!r}: give one of auto, {', '.join(get_args(LogProtocol))}")
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


@dataclass(frozen=True, slots=True)
class LogDescription:
    """What a log list says about one log.

    Attributes
    ----------
    name
        The log's description; its URL if the list gives none.
    url
        Canonical form; of a Static CT log, its monitoring prefix.
    protocol
        ``"rfc6962"`` or ``"static-ct"``.
    state
        Such as ``"usable"``, ``"readonly"``; None if the list gives none.
    key
        DER of the log's ``SubjectPublicKeyInfo``.
    final_tree_head
        What the list gives as the last tree head of a log that takes no entries any more; None if it gives none.
    """

    name: str
    url: str
    protocol: LogProtocol
    state: str | None
    key: bytes
    final_tree_head: Checkpoint | None = None


def read_log_list(
    source: str | Path, *, user_agent: str, key: bytes | None = None, patience: Patience = DEFAULT_PATIENCE
) -> list[LogDescription]:
    """Read a log list in version 3 of the format of Google's list, which Apple's has as well.

    Parameters
    ----------
    source
        Path, or ``http(s)://`` URL.
    user_agent
        Who asks, with a contact; used for a URL only.
    key
        DER of the ``SubjectPublicKeyInfo`` of the list's maker: its signature, which lies beside the list and ends in
        ``.sig`` instead of ``.json``, is verified before anything is believed.
    patience
        When a URL counts as unavailable.

    Returns
    -------
    list of LogDescription
        In the order of the list, without logs whose state is ``retired`` or ``rejected``.

    Raises
    ------
    ParameterError
        The list or its signature cannot be read, is no log list, is not signed by the key, or names no log that is
        left.
    LogUnavailableError
        The URL cannot be had.
    """
    source = str(source)
    text = _read_source(source, user_agent, patience)
    if key is not None:
        signature = _read_source(f"{source.removesuffix('.json')}.sig", user_agent, patience)
        if not verify_signature(key, signature, text):
            raise ParameterError(f"log list {source} is not signed by the key: get list, signature and key anew")
    try:
        operators = _LogList.model_validate_json(text).operators
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ParameterError(f"log list {source} is not of version 3: {where}: {first['msg']}; name another") from error
    described = []
    for log in (log for operator in operators for log in (*operator.logs, *operator.tiled_logs)):
        try:
            described.append(log.describe())
        except ParameterError as error:
            logger.warning("log list names a log that has no URL, skipping source=%s reason=%s", source, error)
    logs = [log for log in described if log.state not in ("retired", "rejected")]
    if not logs:
        raise ParameterError(f"log list {source} names {len(described)} logs, none of them in use: name another")
    return logs


def _read_source(source: str, user_agent: str, patience: Patience) -> bytes:
    if source.startswith(("http://", "https://")):
        client = Client(source, user_agent=user_agent, patience=patience)
        try:
            return client.get("", bytes, limit=_LIST_LIMIT)
        except LogError as error:
            # The list itself has no path below its URL.
            raise type(error)(source, error.message.removeprefix(": ")) from error
        finally:
            client.close()
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise ParameterError(f"log list {source} cannot be read ({error.strerror}): name another file") from error


def read_public_key(path: str | Path) -> bytes:
    """Read a public key in a file, PEM or DER, and return the DER of its ``SubjectPublicKeyInfo``.

    Raises
    ------
    ParameterError
        The file cannot be read, or holds no ECDSA P-256 or RSA key.
    """
    try:
        data = Path(path).read_bytes()
        if data.lstrip().startswith(b"-----BEGIN"):
            key = load_pem_public_key(data)
            data = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        check_public_key(data)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ParameterError(f"public key {path} cannot be read ({error}): name another file") from error
    return data


# {"operators": [{"logs":       [{"description", "key", "url",            "state": {"usable": ...}}, ...],
#                 "tiled_logs": [{"description", "key", "monitoring_url", "state": {"usable": ...}}, ...]}, ...]}
# A log of either kind may lack its description and its state. A state has the form
# {"readonly": {"timestamp": ..., "final_tree_head": {"sha256_root_hash": base64, "tree_size": 123}}}.


def _decode_base64(text: object) -> bytes:
    if not isinstance(text, str):
        raise ValueError("is no base64 text")
    return base64.b64decode(text, validate=True)


class _TreeHead(pydantic.BaseModel):
    tree_size: Annotated[int, pydantic.Field(ge=0, le=LARGEST_TREE)]
    sha256_root_hash: Annotated[
        bytes, pydantic.BeforeValidator(_decode_base64), pydantic.Field(min_length=32, max_length=32)
    ]


class _State(pydantic.BaseModel):
    final_tree_head: _TreeHead | None = None


class _ListedLog(pydantic.BaseModel):
    url: str
    key: Annotated[bytes, pydantic.BeforeValidator(_decode_base64)]
    description: str | None = None
    state: dict[str, _State] | None = None

    def describe(self) -> LogDescription:
        return self._describe("rfc6962")

    def _describe(self, protocol: LogProtocol) -> LogDescription:
        url = canonical_url(self.url)
        name, state = next(iter((self.state or {}).items()), (None, _State()))
        last = state.final_tree_head
        final = None if last is None else Checkpoint.remembered(url, last.tree_size, last.sha256_root_hash)
        return LogDescription(self.description or url, url, protocol, name, self.key, final)


class _TiledLog(_ListedLog):
    url: str = pydantic.Field(alias="monitoring_url")

    def describe(self) -> LogDescription:
        return self._describe("static-ct")


class _Operator(pydantic.BaseModel):
    logs: list[_ListedLog] = []
    tiled_logs: list[_TiledLog] = []


class _LogList(pydantic.BaseModel):
    operators: list[_Operator]
