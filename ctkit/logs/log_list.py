"""Log lists in version 3 of Google's format: read, and checked against their publisher's signature."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pydantic
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from ctkit.arguments import LogProtocol, checked
from ctkit.errors import LogError, ParameterError
from ctkit.logs.asking import DEFAULT_PATIENCE, Patience, check_user_agent
from ctkit.logs.list_source import ListCopy, SignedText, keep_copy, patience_with
from ctkit.logs.published_lists import PUBLISHED, is_downloaded
from ctkit.paths import local_path
from ctkit.ranges import LARGEST_TREE
from ctkit.urls import canonical_url
from ctkit.visible import get_logger
from ctkit.wire.checkpoint import Checkpoint
from ctkit.wire.signatures import check_public_key, read_key, verify_signature

logger = get_logger(__name__)


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
        Such as ``"usable"`` or ``"readonly"``; None if the list gives none.
    key
        DER of the log's ``SubjectPublicKeyInfo``.
    final_tree_head
        The last tree head of a log that accepts no more entries; None if the list gives none.
    operator
        Who runs the log; None if the list does not say.
    """

    name: str
    url: str
    protocol: LogProtocol
    state: str | None
    key: bytes
    final_tree_head: Checkpoint | None = None
    operator: str | None = None

    @property
    def in_use(self) -> bool:
        """Whether the log can be read, as far as the list knows: it is neither retired nor rejected."""
        return self.state not in ("retired", "rejected")


@checked
def read_log_list(
    source: str | Path,
    *,
    user_agent: str,
    key: bytes | str | None = None,
    patience: Patience = DEFAULT_PATIENCE,
    in_use: bool = True,
) -> list[LogDescription]:
    """Read a log list in version 3 of Google's format, which Apple's list has too.

    Parameters
    ----------
    source
        ``"google"`` or ``"apple"`` for the list that is published, a path, bare or as ``file://`` URI, or an
        ``http(s)://`` URL.
    user_agent
        Who asks, with a contact; only used if the list is downloaded.
    key
        DER of the publisher's ``SubjectPublicKeyInfo``, bare or as base64: the signature, a file next to the list
        that ends in ``.sig`` instead of ``.json``, is verified before anything else. The key of Google's list is
        known; Apple does not sign its list.
    patience
        When a host counts as unavailable. If there is a copy, it waits 20 seconds at most.
    in_use
        Whether to leave out logs whose state is ``retired`` or ``rejected``.

    Returns
    -------
    list of LogDescription
        In the order of the list. If a list cannot be downloaded, or is not what it should be, those of the last good
        copy, which is kept in the user's cache (`ctkit.cache`) and verified like the list; a warning says how old it
        is.

    Raises
    ------
    ParameterError
        The list or its signature cannot be read, is not a log list, is not signed by the key, or names no log in use
        although `in_use`.
    LogUnavailableError
        The list is not available, and there is no copy.
    """
    try:
        key = None if key is None else read_key(key)
    except ValueError as error:
        raise ParameterError(f"the key of log list {source} cannot be used: {error}") from error
    source = str(source)
    if not is_downloaded(source):
        return _parse(SignedText.read(source, is_signed=key is not None), source, key, in_use)
    if published := PUBLISHED.get(source):
        source, key = published.url, key or published.key
    check_user_agent(user_agent)
    copy = ListCopy.find(source)
    try:
        waits = patience_with(copy, patience)
        signed = SignedText.download(source, is_signed=key is not None, user_agent=user_agent, patience=waits)
        logs = _parse(signed, source, key, in_use)
    except (LogError, ParameterError) as reason:
        if copy is None:
            raise
        try:
            logs = _parse(copy.signed, source, key, in_use)
        except ParameterError:
            raise reason from None
        text = "log list is not available, using the last copy url=%s age_hours=%.1f reason=%s"
        logger.warning(text, source, copy.age / 3600, reason)
    else:
        # A list without a log in use is more likely a mistake than the end of all logs.
        if any(log.in_use for log in logs):
            keep_copy(source, signed)
    return logs


def _parse(signed: SignedText, source: str, key: bytes | None, in_use: bool) -> list[LogDescription]:
    """Return the logs of a list, whose signature is verified if there is a key."""
    if key is not None and not verify_signature(key, signed.signature, signed.text):
        raise ParameterError(f"log list {source} is not signed by the key: download list, signature and key again")
    try:
        operators = _LogList.model_validate_json(signed.text).operators
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ParameterError(f"log list {source} is not of version 3: {where}: {first['msg']}; name another") from error
    described = []
    for operator in operators:
        for log in (*operator.logs, *operator.tiled_logs):
            try:
                described.append(log.describe(operator.name))
            except ParameterError as error:
                logger.warning("log list names a log that has no URL, skipping source=%s reason=%s", source, error)
    if not in_use:
        return described
    logs = [log for log in described if log.in_use]
    if not logs:
        raise ParameterError(f"log list {source} names {len(described)} logs, none of them in use: name another")
    return logs


def read_public_key(path: str | Path) -> bytes:
    """Read a public key file, PEM or DER, and return the DER of its ``SubjectPublicKeyInfo``.

    Raises
    ------
    ParameterError
        The file cannot be read, or holds no ECDSA P-256 or RSA key.
    """
    try:
        data = Path(local_path(str(path))).read_bytes()
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
        raise ValueError("is not base64 text")
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

    def describe(self, operator: str | None) -> LogDescription:
        return self._describe("rfc6962", operator)

    def _describe(self, protocol: LogProtocol, operator: str | None) -> LogDescription:
        url = canonical_url(self.url)
        name, state = next(iter((self.state or {}).items()), (None, _State()))
        last = state.final_tree_head
        final = None if last is None else Checkpoint.remembered(url, last.tree_size, last.sha256_root_hash)
        return LogDescription(self.description or url, url, protocol, name, self.key, final, operator)


class _TiledLog(_ListedLog):
    url: str = pydantic.Field(alias="monitoring_url")

    def describe(self, operator: str | None) -> LogDescription:
        return self._describe("static-ct", operator)


class _Operator(pydantic.BaseModel):
    name: str | None = None
    logs: list[_ListedLog] = []
    tiled_logs: list[_TiledLog] = []


class _LogList(pydantic.BaseModel):
    operators: list[_Operator]
