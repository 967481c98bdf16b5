"""Log lists read from the disk or downloaded, and the last good copy of what was downloaded."""

import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Self

from ctkit.cache import cache_path, write_cached
from ctkit.errors import ParameterError
from ctkit.logs.asking import HttpError, Patience
from ctkit.paths import local_path
from ctkit.visible import get_logger

logger = get_logger(__name__)

_LIST_LIMIT = 64 << 20

_UNHURRIED = Patience(tries=5, longest_wait=8.0)
"""How long to wait for a list of which there is no copy: some fifteen seconds if its host refuses connections."""

_QUICK = Patience(tries=3, longest_wait=4, timeout=10, total=20)
"""For a list of which there is a copy."""


class SignedText(NamedTuple):
    """A list as it is published.

    Attributes
    ----------
    text
        The bytes that the signature is of.
    signature
        Empty if it was not asked for.
    """

    text: bytes
    signature: bytes

    @classmethod
    def read(cls, source: str, *, is_signed: bool) -> Self:
        """Read a list, and the signature next to it, from the disk.

        Raises
        ------
        ParameterError
            One of them cannot be read.
        """
        return cls(_read_file(source), _read_file(_signature_of(source)) if is_signed else b"")

    @classmethod
    def download(cls, url: str, *, is_signed: bool, user_agent: str, patience: Patience) -> Self:
        """Download a list, and the signature next to it.

        Raises
        ------
        ParameterError
            `user_agent` holds no contact, or `url` is not a URL.
        HttpError
            One of them is not available.
        PageError
            An HTML page came instead.
        """
        return cls(
            _download(url, user_agent, patience),
            _download(_signature_of(url), user_agent, patience) if is_signed else b"",
        )


def _signature_of(source: str) -> str:
    return f"{source.removesuffix('.json')}.sig"


def _read_file(source: str) -> bytes:
    try:
        return Path(local_path(source)).read_bytes()
    except (OSError, ValueError) as error:
        # A path with a NUL or a lone surrogate raises ValueError.
        problem = error.strerror if isinstance(error, OSError) else error
        raise ParameterError(f"log list {source} cannot be read ({problem}): name another file") from error


def _download(url: str, user_agent: str, patience: Patience) -> bytes:
    # httpx takes a while to import.
    from ctkit.logs.http import Client

    client = Client(url, user_agent=user_agent, patience=patience)
    try:
        return client.get("", bytes, limit=_LIST_LIMIT)
    except HttpError as error:
        message = f"the log list is not available: {error.message}, or download it and name the file as log_list"
        raise HttpError(url, message, status=error.status) from error
    finally:
        client.close()


class ListCopy(NamedTuple):
    """The last good copy of a list that was downloaded.

    Attributes
    ----------
    signed
        The list and its signature.
    age
        Seconds since it was downloaded.
    """

    signed: SignedText
    age: float

    @classmethod
    def find(cls, url: str) -> "ListCopy | None":
        """Return the copy of a list, if there is one."""
        with suppress(OSError, RuntimeError, ValueError):
            if path := cache_path(_FOLDER, url):
                stored, age = path.read_bytes(), time.time() - path.stat().st_mtime
                start = 2 + int.from_bytes(stored[:2])
                return cls(SignedText(stored[start:], stored[2:start]), max(age, 0.0))
        return None


_FOLDER = "log-lists"


def keep_copy(url: str, signed: SignedText) -> None:
    """Keep a list as the copy to be used if it is not available; nothing is done if that is not possible."""
    try:
        if path := cache_path(_FOLDER, url):
            size = len(signed.signature).to_bytes(2)
            write_cached(path, (size, signed.signature, signed.text))
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        logger.debug("log list not kept url=%s reason=%s", url, error)


def patience_with(copy: ListCopy | None, patience: Patience) -> Patience:
    """Return how long to wait for a list: some seconds, as everything else waits for it, or less if there is a copy."""
    longest = _UNHURRIED if copy is None else _QUICK
    limits = {name: min(getattr(patience, name), value) for name, value in vars(longest).items()}
    return replace(patience, **limits)
