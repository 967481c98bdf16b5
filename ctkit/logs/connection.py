"""Connections to a host, by the proxies and certificates that the environment names; every read has an end."""

import os
import re
import ssl
import threading
import time
import urllib.request
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from ipaddress import ip_address, ip_network
from itertools import chain
from typing import Any

import httpcore
import httpx

from ctkit.errors import ParameterError
from ctkit.logs.deadline import POLL

ending: ContextVar[tuple[threading.Event, float]] = ContextVar("ending", default=(threading.Event(), float("inf")))
"""An event, and a time on the monotonic clock: whichever comes first ends the reads of the thread that set them."""

_PORTS = {"http": 80, "https": 443}
_GZIP = b"\x1f\x8b"
_STEP = 1 << 20
"""Bytes unpacked at a time."""


def open_transports(url: httpx.URL) -> tuple[httpx.BaseTransport, Mapping[str, httpx.BaseTransport]]:
    """Return the transports to the host of a URL: the direct one, and by scheme those through a proxy.

    The environment decides: ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``, in either case, and
    ``SSL_CERT_FILE``, ``SSL_CERT_DIR`` and ``SSLKEYLOGFILE``. Reads end as `ending` says.

    Raises
    ------
    ParameterError
        One of these variables cannot be used; the message names it.
    """
    context, proxies = _tls_context(), urllib.request.getproxies()
    through: dict[str, httpx.BaseTransport] = {}
    if not is_exempt(url, proxies.get("no", "")):
        # A host may redirect from http to https.
        for scheme in {"https", url.scheme}:
            variable = next((name for name in (scheme, "all") if proxies.get(name)), None)
            if variable is None:
                continue
            proxy = proxies[variable]
            try:
                through[f"{scheme}://"] = _transport(context, proxy if "://" in proxy else f"http://{proxy}")
            except (ImportError, ValueError, httpx.InvalidURL) as error:
                message = f"the environment names a proxy that cannot be used ({error})"
                raise ParameterError(f"{message}: correct or unset {variable.upper()}_PROXY") from error
    return _transport(context, None), through


def is_exempt(url: httpx.URL, no_proxy: str) -> bool:
    """Tell whether ``NO_PROXY`` names the host of a URL.

    Parameters
    ----------
    no_proxy
        Names, addresses and networks, separated by commas. A name covers its subdomains too, with or without a leading
        dot or ``*.``; an IPv6 address may be in brackets; a port or a scheme narrows an entry down; ``*`` is any host.

    Examples
    --------
    >>> url = httpx.URL("https://[fd07::1]:8443/log")
    >>> [is_exempt(url, text) for text in ("fd07::/64", "[fd07::1]", "[fd07::]/64:8443", "*", "fd08::/64, ::1")]
    [True, True, True, True, False]
    """
    return any(_names(entry, url) for entry in re.split(r"[\s,]+", no_proxy.lower()) if entry)


def _names(entry: str, url: httpx.URL) -> bool:
    scheme, _, entry = entry.rpartition("://")
    if scheme not in ("", "all", url.scheme):
        return False
    if bracketed := re.fullmatch(r"\[(.*)\](/\d+)?(?::(\d+))?", entry):
        name, port = bracketed[1] + (bracketed[2] or ""), bracketed[3]
    else:
        # More than one colon is an IPv6 address.
        name, _, port = entry.partition(":") if entry.count(":") == 1 else (entry, "", "")
    if port and port != str(url.port or _PORTS.get(url.scheme)):
        return False
    with suppress(ValueError):
        return ip_address(url.host) in ip_network(name, strict=False)
    name = name.strip("*.")
    return entry == "*" or (bool(name) and f".{url.host}".endswith(f".{name}"))


def _tls_context() -> ssl.SSLContext:
    folders = os.environ.get("SSL_CERT_DIR")
    if folders and not os.environ.get("SSL_CERT_FILE") and not any(map(os.path.isdir, folders.split(os.pathsep))):
        # OpenSSL would take it for a folder without certificates, and trust no host.
        raise ParameterError(f"SSL_CERT_DIR is {folders!r}, which is not a folder: correct or unset it")
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        names = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE") if os.environ.get(name)]
        named = " and ".join(f"{name}={os.environ[name]}" for name in names)
        raise ParameterError(f"TLS cannot be used with {named} ({error}): correct or unset it") from error


def _transport(context: ssl.SSLContext, proxy: str | None) -> httpx.HTTPTransport:
    limits = httpx.Limits(max_keepalive_connections=None)
    transport = httpx.HTTPTransport(verify=context, limits=limits, proxy=proxy)
    # httpcore has a parameter for this, but httpx does not pass it on.
    transport._pool._network_backend = _Network()
    return transport


class _Network(httpcore.SyncBackend):
    """Stops connecting when `ending` says so, even while a name is being resolved or a dead host times out."""

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *arguments: Any, **options: Any
    ) -> httpcore.NetworkStream:
        connected: Future[httpcore.NetworkStream] = Future()
        connect = partial(super().connect_tcp, host, port, timeout, *arguments, **options)

        def run() -> None:
            try:
                connected.set_result(connect())
            except BaseException as error:
                connected.set_exception(error)

        threading.Thread(target=run, name=f"connect {host}", daemon=True).start()
        for seconds in _waits(timeout):
            with suppress(TimeoutError):
                return _Stream(connected.result(seconds))
        connected.add_done_callback(_close)
        raise httpcore.ConnectTimeout("no time left to connect")


def _close(connected: Future[httpcore.NetworkStream]) -> None:
    if not connected.exception():
        connected.result().close()


def _waits(timeout: float | None) -> Iterator[float]:
    """Yield how long to wait at a time, until `ending` or the timeout puts an end to it."""
    stop, deadline = ending.get()
    until = min(deadline, time.monotonic() + (float("inf") if timeout is None else timeout))
    while not stop.is_set() and (remaining := until - time.monotonic()) > 0:
        yield min(remaining, POLL)


class _Stream(httpcore.NetworkStream):
    """A connection whose reads end when `ending` says so.

    A read timeout only limits the pauses between bytes: a host that sends one now and then could hold a thread for
    days, especially in the header of an answer.
    """

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        for seconds in _waits(timeout):
            with suppress(httpcore.ReadTimeout):
                return self._stream.read(max_bytes, seconds)
        raise httpcore.ReadTimeout("no time left for the rest of the answer")

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, *arguments: Any, **options: Any) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(*arguments, **options))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class OversizeError(Exception):
    """A body exceeds its limit."""


def unpacked(pieces: Iterator[bytes], limit: int, *, any_bytes: bool) -> bytes:
    """Return the body without gzip.

    Gzip is recognised by its first bytes, because some stores serve packed tiles without a header that says so; with
    `any_bytes` these prove nothing. The body is unpacked as it arrives: no more than `limit` is ever in memory, and no
    more than twice as much is read of one that unpacks to nothing, as empty gzip members do.
    """
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= len(_GZIP):
            break
    unpacked: list[bytes] = []
    room, packed = limit, 2 * limit
    member = zlib.decompressobj(zlib.MAX_WBITS | 16) if head.startswith(_GZIP) and not any_bytes else None
    for piece in chain([head], pieces):
        packed -= len(piece)
        while piece:
            if member is None:
                part, piece = piece, b""
            else:
                if member.eof:
                    member = zlib.decompressobj(zlib.MAX_WBITS | 16)
                part = member.decompress(piece, min(_STEP, room + 1))
                piece = member.unconsumed_tail or member.unused_data.lstrip(b"\0")
            room -= len(part)
            if room < 0 or packed < 0:
                raise OversizeError
            unpacked.append(part)
    if member and not member.eof:
        raise EOFError("the gzip stream has no end")
    return b"".join(unpacked)
