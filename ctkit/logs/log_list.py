"""Log lists in version 3 of Google's format: read, and checked against their publisher's signature."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pydantic
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from ctkit.arguments import LogProtocol, checked
from ctkit.errors import ParameterError
from ctkit.logs.http import DEFAULT_PATIENCE, Client, Patience
from ctkit.paths import local_path
from ctkit.ranges import LARGEST_TREE
from ctkit.urls import canonical_url
from ctkit.visible import get_logger
from ctkit.wire.checkpoint import Checkpoint
from ctkit.wire.signatures import check_public_key, read_key, verify_signature

logger = get_logger(__name__)

_LIST_LIMIT = 64 << 20


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
    """

    name: str
    url: str
    protocol: LogProtocol
    state: str | None
    key: bytes
    final_tree_head: Checkpoint | None = None


@checked
def read_log_list(
    source: str | Path,
    *,
    user_agent: str,
    key: bytes | str | None = None,
    patience: Patience = DEFAULT_PATIENCE,
    may_be_empty: bool = False,
) -> list[LogDescription]:
    """Read a log list in version 3 of Google's format, which Apple's list has too.

    Parameters
    ----------
    source
        Path, bare or as ``file://`` URI, or ``http(s)://`` URL.
    user_agent
        Who asks, with a contact; only used for a URL.
    key
        DER of the publisher's ``SubjectPublicKeyInfo``, bare or as base64: the signature, a file next to the list
        that ends in ``.sig`` instead of ``.json``, is verified before anything else.
    patience
        When a URL counts as unavailable.
    may_be_empty
        Whether a list that names no log in use is accepted, because there are other logs.

    Returns
    -------
    list of LogDescription
        In the order of the list, without logs whose state is ``retired`` or ``rejected``.

    Raises
    ------
    ParameterError
        The list or its signature cannot be read, is not a log list, is not signed by the key, or names no log in use.
    LogUnavailableError
        The URL is not available.
    """
    try:
        key = None if key is None else read_key(key)
    except ValueError as error:
        raise ParameterError(f"the key of log list {source} cannot be used: {error}") from error
    source = str(source)
    text = _read_source(source, user_agent, patience)
    if key is not None:
        signature = _read_source(f"{source.removesuffix('.json')}.sig", user_agent, patience)
        if not verify_signature(key, signature, text):
            raise ParameterError(f"log list {source} is not signed by the key: download list, signature and key again")
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
    if not logs and not may_be_empty:
        raise ParameterError(f"log list {source} names {len(described)} logs, none of them in use: name another")
    return logs


def _read_source(source: str, user_agent: str, patience: Patience) -> bytes:
    if source.startswith(("http://", "https://")):
        client = Client(source, user_agent=user_agent, patience=patience)
        try:
            return client.get("", bytes, limit=_LIST_LIMIT)
        finally:
            client.close()
    try:
        return Path(local_path(source)).read_bytes()
    except (OSError, ValueError) as error:
        # A path with a NUL or a lone surrogate raises ValueError.
        problem = error.strerror if isinstance(error, OSError) else error
        raise ParameterError(f"log list {source} cannot be read ({problem}): name another file") from error


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
