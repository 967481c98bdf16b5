"""The polite HTTP client: the only place where ctkit touches the network."""

import contextvars
import email.utils
import gzip
import io
import logging
import random
import re
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from typing import TypeVar

import httpx
import tenacity

from ctkit.entry import REPORT
from ctkit.errors import LogError, LogProtocolError, LogUnavailableError, ParameterError

T = TypeVar("T")

logger = logging.getLogger(__name__)

stopping: contextvars.ContextVar[threading.Event] = contextvars.ContextVar("stopping")
"""Ends the waits and downloads of the thread that set it, as soon as the event is set."""

may_ask: contextvars.ContextVar[Callable[[], bool]] = contextvars.ContextVar("may_ask")
"""Asked before each request for entries of the thread that set it, each try included; none is sent if it says no."""

_NEVER = threading.Event()
_REDIRECTS = 5
# Not "exceeded": a deadline or a rate limit may be that, too, and asking for less does not help there.
_TOO_LARGE = re.compile(rb"larger than max|too (large|big|many entries)|size limit|exceeds? (the )?max", re.IGNORECASE)


@dataclass(frozen=True)
class Patience:
    """How long to wait for a log before it counts as unavailable.

    Attributes
    ----------
    tries
        Requests for one answer, the first included.
    first_wait
        Seconds before the second try at the most; doubled for each further one, with jitter.
    longest_wait
        Seconds between two tries at the most. A log that asks for more in ``Retry-After`` is given up until then.
    timeout
        Seconds to connect, and between two pieces of an answer.
    total
        Seconds for one answer with all its tries; no try is started, and no download goes on, beyond.
    """

    tries: int = 8
    first_wait: float = 1.0
    longest_wait: float = 120.0
    timeout: float = 30.0
    total: float = 600.0


DEFAULT_PATIENCE = Patience()


class HttpError(LogUnavailableError):
    """A request brought no usable answer.

    Attributes
    ----------
    status
        HTTP status of the last answer; None where there was none.
    too_large
        The answer was refused, by the log or here, because it would be too large: ask for less.
    """

    def __init__(self, url: str, message: str, *, status: int | None = None, too_large: bool = False) -> None:
        super().__init__(url, message)
        self.status = status
        self.too_large = too_large


class NotAskedError(HttpError):
    """A request was not sent, because `may_ask` said no: that says nothing about the log."""


class TryAgain(Exception):  # noqa: N818 - asks for another try, is no error by itself
    """Raised while an answer is read: it is no use, another try may help; `error` is what to raise if none does."""

    def __init__(self, error: LogError) -> None:
        super().__init__(str(error))
        self.error = error


class Client:
    """GET requests below one URL, by any number of threads.

    Parameters
    ----------
    url
        What paths are appended to; also the `url` of errors.
    user_agent
        Who asks: must hold a mail address or a URL where the log's operator can reach you.
    patience
        When to give up.

    Raises
    ------
    ParameterError
        `user_agent` holds no contact, or `url` is not one.
    """

    def __init__(self, url: str, *, user_agent: str, patience: Patience = DEFAULT_PATIENCE) -> None:
        _check_user_agent(user_agent)
        self.url = url
        self._patience = patience
        # When the log names a time to come back, all threads keep to it, and to the latest if it names several.
        self._resume_at = 0.0
        self._lock = threading.Lock()
        self._host = host_of(url)
        try:
            self._http = httpx.Client(
                headers={"User-Agent": user_agent, "Accept-Encoding": "gzip"},
                timeout=patience.timeout,
                limits=httpx.Limits(max_keepalive_connections=None),
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            message = f"the environment names a proxy that cannot be used ({error}): correct HTTPS_PROXY or ALL_PROXY"
            raise ParameterError(message) from error

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def get(
        self, path: str, read: Callable[[bytes], T], *, limit: int, binary: bool = False, entries: bool = False
    ) -> T:
        """Ask for `path` until an answer can be read, as long as patience lasts.

        Parameters
        ----------
        path
            Appended to the client's URL.
        read
            Makes a value of the unpacked body; may raise `TryAgain`.
        limit
            Bytes of the body at the most, packed and unpacked.
        binary
            The body may begin with any bytes, also by chance with those of gzip or HTML; only its header tells.
        entries
            Whether this asks for entries, for which `may_ask` must be asked.

        Raises
        ------
        NotAskedError
            `may_ask` said no.
        HttpError
            No answer, or one with another status than 200.
        LogProtocolError
            Nothing but HTML pages.
        """
        stop = stopping.get(_NEVER)
        deadline = time.monotonic() + self._patience.total
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TryAgain),
            stop=tenacity.stop_after_attempt(self._patience.tries) | tenacity.stop_before_delay(self._patience.total),
            wait=tenacity.wait_random_exponential(self._patience.first_wait, self._patience.longest_wait),
            sleep=tenacity.sleep_using_event(stop),
            before_sleep=_log_retry,
            reraise=True,
        )

        def ask() -> T:
            if entries and not may_ask.get(_always)():
                raise NotAskedError(self.url, f"{path}: not asked for, because no more requests may be sent; run again")
            return read(self._body(path, limit, deadline, stop, binary))

        try:
            return retrying(ask)
        except TryAgain as problem:
            raise problem.error from problem.__cause__

    def _body(self, path: str, limit: int, deadline: float, stop: threading.Event, binary: bool) -> bytes:
        """Return the unpacked body of one answer with status 200."""
        self._wait_for_turn(deadline, stop)
        try:
            response, body = self._send(path, limit, deadline, stop)
            if not binary or "Content-Encoding" in response.headers:
                body = _unpack(body, limit)
        except _OversizeError:
            message = f"{path}: the answer is larger than the {limit} bytes that are read at most; {REPORT}"
            raise HttpError(self.url, message, too_large=True) from None
        except (httpx.RequestError, EOFError, OSError, zlib.error) as error:
            reason = f"{path}: {type(error).__name__} {error}".rstrip()
            raise TryAgain(HttpError(self.url, f"{reason}; run again later")) from error
        status = response.status_code
        if status == 200:
            if body.lstrip()[:1] == b"<" and not binary:
                raise TryAgain(LogProtocolError(self.url, f"{path}: an HTML page; look at it in a browser"))
            return body
        excerpt = re.sub(rb"[^!-~]+", b" ", body[:200]).decode()
        refusal = HttpError(
            self.url,
            f"{path}: HTTP status {status} ({excerpt}); run again later",
            status=status,
            too_large=status == 413 or (status in (400, 403, 500) and bool(_TOO_LARGE.search(body))),
        )
        if refusal.too_large or not (status == 429 or status >= 500):
            raise refusal
        wait = retry_after(response.headers.get("Retry-After", ""), time.time())
        if wait is not None:
            with self._lock:
                self._resume_at = max(self._resume_at, time.monotonic() + wait)
            self._seconds_to_turn(deadline)
        raise TryAgain(refusal)

    def _wait_for_turn(self, deadline: float, stop: threading.Event) -> None:
        """Wait until the time that the log named in ``Retry-After``, and a little longer, each thread its own."""
        seconds = self._seconds_to_turn(deadline)
        if seconds > 0:
            stop.wait(seconds + random.uniform(0, self._patience.first_wait))
        if stop.is_set():
            raise HttpError(self.url, "stopped before the log answered; run again")

    def _seconds_to_turn(self, deadline: float) -> float:
        """Return how long to wait for the time that the log named; nothing is asked before, so give up if it is far."""
        seconds = self._resume_at - time.monotonic()
        if seconds > self._patience.longest_wait or self._resume_at > deadline:
            message = f"the log asks to be left alone for another {seconds:.6g} seconds; run again after that"
            raise HttpError(self.url, message, status=429)
        return seconds

    def _send(self, path: str, limit: int, deadline: float, stop: threading.Event) -> tuple[httpx.Response, bytes]:
        """Return the answer and its body as sent, after redirects within the host."""
        request = self._http.build_request("GET", self.url + path)
        for _ in range(_REDIRECTS):
            response = self._http.send(request, stream=True)
            try:
                if response.next_request is None:
                    return response, _download(response, limit, deadline, stop)
            finally:
                response.close()
            target = response.next_request.url
            if target.host != self._host or request.url.scheme != target.scheme != "https":
                raise HttpError(self.url, f"{path}: redirected to {target}; if that is the log, name it as its URL")
            request = response.next_request
        raise HttpError(self.url, f"{path}: more than {_REDIRECTS} redirects; run again later")


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


def _always() -> bool:
    return True


def stopped() -> bool:
    """Tell whether this thread's `stopping` is set: what fails then says nothing about the log."""
    return stopping.get(_NEVER).is_set()


def host_of(url: str) -> str:
    """Return the host that requests to a URL go to.

    Raises
    ------
    ParameterError
        No request can be sent to `url`.

    Examples
    --------
    >>> host_of("http://[::1]:8080/log")
    '::1'
    """
    try:
        parts = httpx.URL(url)
        parts.host.encode("idna")  # as the resolver will: a label may not be empty or too long
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ParameterError(f"{url!r} is no URL ({error}): correct it") from error
    if not parts.host or (parts.port or 0) >= 1 << 16:  # a socket would take the port modulo 2**16
        raise ParameterError(
            f"{url!r} names no host, or a port above 65535: give a URL like https://log.example/2026h2"
        )
    return parts.host


def retry_after(value: str, now: float) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks to wait, None where it cannot be read.

    Parameters
    ----------
    value
        Seconds, whole or with a fraction, or an HTTP date (RFC 9110, section 10.2.3), also with ``UTC`` for ``GMT``.
    now
        Seconds since the Unix epoch.

    Examples
    --------
    >>> retry_after("1.5", 0), retry_after("Thu, 01 Jan 1970 00:01:00 UTC", 0), retry_after("soon", 0)
    (1.5, 60.0, None)
    """
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        seconds = date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now
    return max(seconds, 0.0) if seconds < float("inf") else None


class _OversizeError(Exception):
    """A body is larger than it may be."""


def _download(response: httpx.Response, limit: int, deadline: float, stop: threading.Event) -> bytes:
    """Return the body as sent; a stop or the deadline ends it between two pieces."""
    body = bytearray()
    for piece in response.iter_raw():
        body += piece
        if len(body) > limit:
            raise _OversizeError
        if stop.is_set() or time.monotonic() > deadline:
            raise httpx.ReadTimeout("no time left for the rest of the answer")
    return bytes(body)


def _unpack(body: bytes, limit: int) -> bytes:
    """Return the body without gzip: by its first bytes, because tiles are also stored packed and served as they are."""
    if not body.startswith(b"\x1f\x8b"):
        return body
    unpacked = gzip.GzipFile(fileobj=io.BytesIO(body)).read(limit + 1)
    if len(unpacked) > limit:
        raise _OversizeError
    return unpacked


def _log_retry(state: tenacity.RetryCallState) -> None:
    if state.outcome and state.next_action:
        reason, seconds = state.outcome.exception(), state.next_action.sleep
        logger.info("trying again try=%d seconds=%.1f reason=%s", state.attempt_number + 1, seconds, reason)


def _check_user_agent(user_agent: str) -> None:
    has_contact = re.search(r"[^\s@]@[^\s@]|https?://[^\s/]", user_agent)
    if not (has_contact and user_agent.isascii() and user_agent.isprintable()):
        raise ParameterError(
            f"user_agent is {user_agent!r}: logs ask for a contact, give a mail address or a URL, "
            'for example user_agent="backfill of Example Org, ct@example.org"'
        )
