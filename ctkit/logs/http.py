"""The polite HTTP client: the only place where ctkit touches the network."""

import email.utils
import random
import re
import ssl
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar

import httpx

from ctkit.errors import REPORT, LogError, LogProtocolError, ParameterError
from ctkit.logs.asking import (
    DEFAULT_PATIENCE,
    HttpError,
    NotAskedError,
    PageError,
    Patience,
    TryAgain,
    check_user_agent,
    may_ask,
    stopped,
    stopping,
)
from ctkit.logs.connection import OversizeError, ending, open_transports, unpacked
from ctkit.logs.deadline import Deadline
from ctkit.logs.pace import NoTurnError, Pace, Turn, gate_of
from ctkit.logs.trouble import Trouble
from ctkit.urls import host_of
from ctkit.visible import get_logger

T = TypeVar("T")

logger = get_logger(__name__)

_USELESS = 4
"""Tries for answers that break the protocol, such as the page that a store shows instead of a missing object."""
_REDIRECTS = 5
# Not "exceeded": that may be a deadline or a rate limit, where asking for less does not help.
_TOO_LARGE = re.compile(rb"larger than max|too (large|big|many entries)|size limit|exceeds? (the )?max", re.IGNORECASE)


class Client:
    """Sends GET requests below one URL, from any number of threads, at the pace that all clients of its host share.

    Parameters
    ----------
    url
        Paths are appended to it; also the `url` of errors.
    user_agent
        Who asks: must contain a mail address or a URL where the log's operator can reach you.
    patience
        When to give up.

    Raises
    ------
    ParameterError
        `user_agent` holds no contact, `url` is not a URL, or the environment names a proxy or certificates that cannot
        be used.
    """

    def __init__(self, url: str, *, user_agent: str, patience: Patience = DEFAULT_PATIENCE) -> None:
        check_user_agent(user_agent)
        self.url = url
        self._whole_patience = patience
        self._unanswered: set[str] = set()
        self._host = host_of(url)
        self._gate = gate_of(httpx.URL(url).netloc.decode())
        direct, through = open_transports(httpx.URL(url))
        self._http = httpx.Client(
            headers={"User-Agent": user_agent, "Accept-Encoding": "gzip"},
            timeout=patience.timeout,
            transport=direct,
            mounts=through,
            # Answers do not depend on cookies, and one that is not ASCII could not be sent back.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        )

    @property
    def _patience(self) -> Patience:
        """How long this thread waits."""
        stop, patience = stopping.get(), self._whole_patience
        if not isinstance(stop, Deadline):
            return patience
        return replace(patience, timeout=min(patience.timeout, stop.left), total=min(patience.total, stop.left))

    @property
    def pace(self) -> Pace:
        """What is known of the host's pace; read only."""
        return self._gate.pace

    @property
    def in_trouble(self) -> bool:
        """Whether something that was asked for was refused, or could not be read, each time so far."""
        return bool(self._unanswered)

    @property
    def trouble(self) -> Trouble | None:
        """What keeps the log from answering, whichever client asked it."""
        return self._gate.troubles.get(self.url)

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def check_open(self) -> None:
        """Refuse to go on after `close`.

        Raises
        ------
        ParameterError
            The client is closed.
        """
        if self._http.is_closed:
            raise ParameterError(f"{self.url}: this log was closed; open it again, with ctkit.open_log")

    def get(
        self,
        path: str,
        read: Callable[[bytes], T],
        *,
        limit: int,
        binary: bool = False,
        entries: bool = False,
        failures: int | None = None,
    ) -> T:
        """Ask for `path` until an answer can be read, or patience runs out.

        Parameters
        ----------
        path
            Appended to the client's URL.
        read
            Makes a value of the unpacked body; may raise `TryAgain`.
        limit
            Largest size of the body, in bytes, packed and unpacked.
        binary
            The body may begin with any bytes, by chance with those of gzip or HTML: only the header tells.
        entries
            Whether this asks for entries: then `may_ask` is consulted before each request, including those that follow
            a redirect. Other requests go first, since entries that have arrived may wait for them.
        failures
            Number of answers with status 5xx after which to give up; by default the tries of `patience`.

        Raises
        ------
        NotAskedError
            `may_ask` said no.
        ParameterError
            The client is closed.
        HttpError
            No answer, or one with another status than 200.
        PageError
            Nothing but HTML pages.
        """
        self.check_open()
        stop, patience = stopping.get(), self._patience
        deadline = time.monotonic() + patience.total
        attempt, longest = 1, patience.first_wait
        while True:
            try:
                answer = read(self._body(path, limit, binary, entries, stop))
                self._unanswered.discard(path)
                self._gate.troubles.pop(self.url, None)
                return answer
            except TryAgain as problem:
                # What a stop cut short says nothing about the log.
                if not stop.is_set():
                    self._unanswered.add(path)
                wait = random.uniform(0, min(longest, patience.longest_wait))
                is_over = self.pace.troubles >= patience.tries or time.monotonic() + wait >= deadline
                if is_over or attempt >= _tries(problem.error, patience.tries, failures):
                    raise problem.error from problem.__cause__
                attempt, longest = attempt + 1, 2 * longest
                trouble = Trouble.of(problem.error, problem.__cause__, attempt, time.monotonic() + wait)
                self._gate.troubles[self.url] = trouble
                self._log_retry(attempt, wait, problem.error)
                stop.wait(wait)
                if stop.is_set():
                    # What went wrong tells more than that there was no time for another try.
                    raise problem.error from problem.__cause__

    def _body(self, path: str, limit: int, binary: bool, entries: bool, stop: threading.Event) -> bytes:
        """Return the unpacked body of one answer with status 200, after redirects within the host."""
        request = self._http.build_request("GET", self.url + path)
        for _ in range(_REDIRECTS):
            if entries and not may_ask.get()():
                raise NotAskedError(self.url, _at(path, "no more requests may be sent; run again"))
            body, following = self._ask(request, path, limit, binary, not entries, stop)
            if following is None:
                return body
            target = following.url
            if target.host != self._host or request.url.scheme != target.scheme != "https":
                raise self._error(path, f"redirected to {target}; if that is the log, give it as the log's URL")
            request = following
        raise self._error(path, f"more than {_REDIRECTS} redirects; run again later")

    def _ask(
        self, request: httpx.Request, path: str, limit: int, binary: bool, urgent: bool, stop: threading.Event
    ) -> tuple[bytes, httpx.Request | None]:
        """Return the unpacked body of one answer with status 200, or the request that it redirects to."""
        patience = self._patience
        tries, pause, longest = patience.tries, patience.first_wait, min(patience.longest_wait, patience.total)
        try:
            with self._gate.turn(self.url, stop, tries=tries, pause=pause, longest=longest, urgent=urgent) as turn:
                # Nothing more is read after a stop or the deadline, not even the header of a slow answer.
                ending.set((stop, turn.sent + patience.total))
                response, body = self._send(request, limit, binary, turn, stop)
                refusal = self._refusal(path, response.status_code, body)
                if response.status_code == 429 or (response.status_code >= 500 and not refusal.too_large):
                    turn.trouble = refusal.message
                    turn.wait = self._wait_asked_for(response)
            if turn.trouble:
                self._gate.check(longest)
        except NoTurnError as reason:
            raise self._error(path, str(reason), status=reason.status, retry_after=reason.retry_after) from None
        except OversizeError:
            message = f"the answer is larger than the {limit} bytes allowed; {REPORT}"
            raise self._error(path, message, too_large=True) from None
        except (httpx.RequestError, httpx.InvalidURL, EOFError, OSError, zlib.error) as error:
            what = f"{type(error).__name__} {error}".rstrip()
            if isinstance(error.__cause__ and error.__cause__.__context__, ssl.SSLCertVerificationError):
                advice = "check the URL, and the certificates that SSL_CERT_FILE or SSL_CERT_DIR names"
                raise self._error(path, f"{what}; {advice}") from error
            raise TryAgain(self._error(path, f"{what}; run again later")) from error
        if response.next_request is not None:
            return b"", response.next_request
        if turn.trouble:
            raise TryAgain(refusal)
        if response.status_code != 200:
            raise refusal
        if body.lstrip()[:1] == b"<" and not binary:
            raise TryAgain(PageError(self.url, _at(path, "an HTML page; look at it in a browser")))
        return body, None

    def _send(
        self, request: httpx.Request, limit: int, binary: bool, turn: Turn, stop: threading.Event
    ) -> tuple[httpx.Response, bytes]:
        """Return one answer and its unpacked body, empty for a redirect; note in `turn` how it came."""
        request.extensions["timeout"] = httpx.Timeout(self._patience.timeout).as_dict()
        try:
            response = self._http.send(request, stream=True)
            try:
                turn.latency = time.monotonic() - turn.sent
                pieces = iter(()) if response.next_request else response.iter_raw()
                body = unpacked(pieces, limit, any_bytes=binary and "Content-Encoding" not in response.headers)
            finally:
                response.close()
        except (httpx.RequestError, httpx.InvalidURL, OSError) as error:
            if not stop.is_set():
                turn.trouble = f"{type(error).__name__} {error}; run again later"
            raise
        turn.status, turn.size = response.status_code, len(body)
        return response, body

    def _refusal(self, path: str, status: int, body: bytes) -> HttpError:
        """Return the error for an answer with another status than 200."""
        excerpt = re.sub(rb"[^!-~]+", b" ", body[:200]).decode()
        too_large = status == 413 or (status in (400, 403, 500) and bool(_TOO_LARGE.search(body)))
        message = f"HTTP status {status} ({excerpt}); run again later"
        return self._error(path, message, status=status, too_large=too_large)

    def _error(self, path: str, message: str, **facts: Any) -> HttpError:
        return HttpError(self.url, _at(path, message), **facts)

    def _wait_asked_for(self, response: httpx.Response) -> float | None:
        """Return the seconds that ``Retry-After`` asks to wait, and a little more so that not all come back at once."""
        seconds = retry_after(response.headers.get("Retry-After", ""), time.time())
        return None if seconds is None else seconds + random.uniform(0, self._patience.first_wait)

    def _log_retry(self, attempt: int, seconds: float, reason: LogError) -> None:
        if not stopped() and (times := self._gate.news()):
            text = "retrying attempt=%d seconds=%.1f suppressed=%d reason=%s"
            logger.info(text, attempt, seconds, times - 1, reason)


def _tries(error: LogError, tries: int, failures: int | None) -> int:
    """Return how many of the tries there are for an answer that ended in this error."""
    if isinstance(error, LogProtocolError):
        return min(tries, _USELESS)
    if failures and isinstance(error, HttpError) and (error.status or 0) >= 500:
        return min(tries, failures)
    return tries


def _at(path: str, message: str) -> str:
    return f"{path}: {message}" if path else message


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
