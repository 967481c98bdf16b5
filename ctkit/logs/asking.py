"""How logs are asked: with what patience, what ends a wait, and what can go wrong. Nothing here sends a request."""

import re
import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from ctkit.arguments import check_header
from ctkit.errors import LogError, LogProtocolError, LogUnavailableError, ParameterError

_NEVER = threading.Event()

stopping: ContextVar[threading.Event] = ContextVar("stopping", default=_NEVER)
"""An event that ends the waits and downloads of the thread that set this variable."""

may_ask: ContextVar[Callable[[], bool]] = ContextVar("may_ask", default=lambda: True)
"""Asked before each request for entries, retries included, in the thread that set it; if it says no, none is sent."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a log before it counts as unavailable.

    Attributes
    ----------
    tries
        Requests for one answer, the first included. After as many rounds of trouble without an answer to any request,
        all requests that wait for the host are given up.
    first_wait
        Longest wait before the second try, in seconds; doubled for each further one, with jitter.
    longest_wait
        Longest wait between two tries, in seconds. A log that asks for more in ``Retry-After`` is given up.
    timeout
        Seconds to connect, and between two pieces of an answer.
    total
        Seconds for one answer: no retry starts after them, and no download lasts longer.
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
    retry_after
        Seconds for which the log asks to be left alone, where they are more than a request waits; else None.
    """

    def __init__(
        self,
        url: str,
        message: str,
        *,
        status: int | None = None,
        too_large: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(url, message)
        self.status = status
        self.too_large = too_large
        self.retry_after = retry_after


class NotAskedError(HttpError):
    """A request was not sent because `may_ask` said no, which says nothing about the log."""


class PageError(LogProtocolError):
    """An HTML page came instead of an answer."""


class TryAgain(Exception):  # noqa: N818 - asks for another try, is not an error by itself
    """Raised while an answer is read: it cannot be used, but another may; `error` is raised if none can."""

    def __init__(self, error: LogError) -> None:
        super().__init__(str(error))
        self.error = error


def stopped() -> bool:
    """Tell whether this thread's `stopping` is set: failures then say nothing about the log."""
    return stopping.get().is_set()


def check_user_agent(user_agent: str) -> None:
    """Check that operators of logs can see from a ``User-Agent`` whom to write to.

    Raises
    ------
    ParameterError
        It holds no mail address and no URL, or what an HTTP header cannot carry.
    """
    has_contact = re.search(r"[^\s@]@[^\s@]|https?://[^\s/]", user_agent)
    try:
        check_header(user_agent)
    except ValueError as error:
        raise ParameterError(f"user_agent: {error}") from error
    if not has_contact:
        raise ParameterError(
            f"user_agent is {user_agent!r}: logs ask for a contact; give a mail address or a URL, "
            'for example user_agent="backfill of Example Org, ct@example.org"'
        )
