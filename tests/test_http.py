"""The client is polite, patient, and cannot be made to swallow more than it wants."""

import email.utils
import gzip
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace

import httpx
import pytest
from fakes import AGENT, FAST, Serve, get_once, setting
from raising import fails

from ctkit.demo.embedded import EmbeddedLog, Request, Response
from ctkit.errors import LogProtocolError, LogUnavailableError, ParameterError
from ctkit.logs.asking import HttpError, NotAskedError, PageError, Patience, TryAgain, may_ask, stopping
from ctkit.logs.http import Client, retry_after

OK = Response(200, b"hello")


class ScriptedLog(EmbeddedLog):
    """Gives the answers of a list, and then repeats the last one; None drops the connection."""

    def __init__(self, *answers: Response | None) -> None:
        super().__init__("scripted")
        self.answers = list(answers)
        self.requests: list[Request] = []

    def respond(self, request: Request) -> Response:
        """Answer with the next of the list."""
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            raise ConnectionAbortedError
        return answer


Connect = Callable[..., Client]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Return a function that opens a client, which is closed after the test."""
    with ExitStack() as stack:

        def open_client(url: str, patience: Patience = FAST, user_agent: str = AGENT) -> Client:
            return stack.enter_context(closing(Client(url, user_agent=user_agent, patience=patience)))

        yield open_client


def test_get_when_the_log_sets_a_cookie(serve: Serve, connect: Connect) -> None:
    """No cookie is sent back, least of all one that cannot be sent at all."""
    log = ScriptedLog(Response(200, b"hello", headers={"Set-Cookie": "name=\u00fc"}), OK)
    client = connect(serve(log))

    assert [client.get("/x", bytes, limit=1000) for _ in range(2)] == [b"hello", b"hello"]
    assert [request.headers.get("cookie") for request in log.requests] == [None, None]


@pytest.mark.parametrize(
    "user_agent", ["", "ctkit", "ctkit/1.0", "@", "http://", "https:// x", "me@é.org", "a@b\nX: y"]
)
def test_client_when_the_user_agent_has_no_contact(user_agent: str) -> None:
    """A user agent without a contact, or one that cannot be sent, is refused with an example."""
    with pytest.raises(ParameterError):
        Client("https://log.example", user_agent=user_agent)


@pytest.mark.parametrize("user_agent", ["ct@example.org", "ctkit (+https://example.org/ct)", "ctkit; http://[::1]"])
def test_client_sends_the_user_agent(serve: Serve, connect: Connect, user_agent: str) -> None:
    """A mail address or a URL is a contact, and the log sees it."""
    log = ScriptedLog(OK)

    connect(serve(log), user_agent=user_agent).get("/x", bytes, limit=9)

    assert log.requests[0].headers["user-agent"] == user_agent


@pytest.mark.parametrize(
    "url",
    [
        "https://",
        "https://log.example:port",
        "https://log.example:65536",
        "http:///x",
        f"https://{'a' * 64}.example",
        "https://log..example",
    ],
)
def test_client_when_the_url_is_none(url: str) -> None:
    """A URL that cannot be asked is a wrong parameter."""
    with pytest.raises(ParameterError):
        Client(url, user_agent=AGENT)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_get_when_the_log_is_busy(serve: Serve, status: int) -> None:
    """A log that is busy is asked again until it answers."""
    log = ScriptedLog(Response(status, b"later"), Response(status, b"later"), OK)

    assert get_once(serve(log)) == b"hello"
    assert len(log.requests) == 3


def test_get_when_the_connection_drops(serve: Serve) -> None:
    """A dropped connection is tried again."""
    log = ScriptedLog(None, OK)

    assert get_once(serve(log)) == b"hello"


def test_get_when_a_body_is_cut(serve: Serve) -> None:
    """A body that is shorter than announced is tried again, and so is a gzip stream without its end."""
    cut = Response(200, b"hel", headers={"Content-Length": "5", "Connection": "close"})
    log = ScriptedLog(cut, Response(200, gzip.compress(b"hello" * 9)[:-9]), OK)

    assert get_once(serve(log)) == b"hello"
    assert len(log.requests) == 3


@pytest.mark.parametrize("status", [429, 503])
def test_get_when_the_log_stays_busy(serve: Serve, status: int) -> None:
    """After all tries the error carries the last status, and an excerpt without what a terminal obeys."""
    log = ScriptedLog(Response(status, b"come back\x1b[31m later"))
    url = serve(log)

    with pytest.raises(HttpError, match=r"\(come back \[31m later\)") as raised:
        get_once(url)

    assert (len(log.requests), raised.value.url) == (3, url)
    assert (raised.value.status, raised.value.too_large, raised.value.retry_after) == (status, False, None)
    assert isinstance(raised.value, LogUnavailableError)


def test_get_when_there_is_no_server() -> None:
    """An address without a server is unavailable after all tries."""
    with pytest.raises(HttpError) as raised:
        get_once("http://127.0.0.1:9")

    assert raised.value.status is None
    assert isinstance(raised.value.__cause__, httpx.ConnectError)


@pytest.mark.parametrize(
    ("status", "body", "requests", "too_large"),
    [
        *((status, b"no", 1, False) for status in (400, 401, 403, 404, 410)),
        (413, b"", 1, True),
        (403, b"too many entries", 1, True),
        (400, b"requested range exceeds maximum", 1, True),
        (500, b"rpc error: code = ResourceExhausted desc = received message larger than max (1 vs. 2)", 1, True),
        # These are limits of rate and time, not of size.
        (403, b"rate limit exceeded", 1, False),
        (429, b"too many requests", 3, False),
        (500, b"deadline exceeded", 3, False),
    ],
)
def test_get_when_the_request_is_refused(
    serve: Serve, status: int, body: bytes, requests: int, too_large: bool
) -> None:
    """A refusal is final: it is not asked again; a size error is marked, so that the caller can ask for less."""
    log = ScriptedLog(Response(status, body))

    with fails(HttpError, status=status, too_large=too_large):
        get_once(serve(log))

    assert len(log.requests) == requests


def test_get_logs_why_it_tries_again(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Each further try is logged with its reason."""
    with caplog.at_level("INFO", "ctkit.logs.http"):
        get_once(serve(ScriptedLog(Response(503, b"later"), OK)))

    assert re.fullmatch(
        r"retrying attempt=2 seconds=0\.\d suppressed=0 reason=.*/x: HTTP status 503 .*", caplog.messages[0]
    )


@pytest.mark.parametrize(
    "body",
    [b"x" * 1001, gzip.compress(b"x" * 1001), gzip.compress(bytes(50_000_000)), gzip.compress(b"") * 200],
    ids=["bare", "packed", "a bomb", "empty members"],
)
def test_get_when_the_body_is_larger_than_allowed(serve: Serve, body: bytes) -> None:
    """A body beyond the limit is refused, packed or not, and one of empty gzip members without end."""
    log = ScriptedLog(Response(200, body, headers={"Content-Encoding": "gzip"}))

    with fails(HttpError, status=None, too_large=True):
        get_once(serve(log))

    assert len(log.requests) == 1


@pytest.mark.parametrize("headers", [{}, {"Content-Encoding": "gzip"}])
def test_get_when_the_body_is_packed(serve: Serve, headers: dict[str, str]) -> None:
    """A gzip body is unpacked, whether the header says so or not, up to exactly the limit."""
    log = ScriptedLog(Response(200, gzip.compress(b"x" * 1000), headers=headers))

    assert get_once(serve(log)) == b"x" * 1000
    assert log.requests[0].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize("body", [b"<html", b" \n<", b"\x1f\x8b\x08 no gzip"])
def test_get_when_the_body_may_be_any_bytes(serve: Serve, connect: Connect, body: bytes) -> None:
    """A binary body is taken as it is, and unpacked only if its header says so."""
    packed = Response(200, gzip.compress(body), headers={"Content-Encoding": "gzip"})
    client = connect(serve(ScriptedLog(Response(200, body), packed)))

    assert [client.get("/x", bytes, limit=1000, binary=True) for _ in range(2)] == [body, body]


def test_get_when_the_body_is_packed_in_parts(serve: Serve) -> None:
    """A gzip body of several members, padded with zeros, is unpacked as a whole, however far a piece of it expands."""
    parts = [b"x" * 3_000_000, b"", b"y" * 10]
    log = ScriptedLog(Response(200, b"".join(map(gzip.compress, parts)) + bytes(7)))

    assert get_once(serve(log), limit=3_000_010) == b"".join(parts)


def test_get_when_the_log_answers_with_html(serve: Serve) -> None:
    """A page for people under status 200 is tried again, and in the end a protocol error that blames no entry."""
    log = ScriptedLog(Response(200, b"\n<!doctype html><p>We will be back", "text/html"))

    with fails(PageError, start=None, end=None):
        get_once(serve(log))

    assert len(log.requests) == 3


def test_get_when_answers_stay_useless(serve: Serve) -> None:
    """What breaks the protocol is asked for again a few times only, with however much patience for a busy log."""
    log = ScriptedLog(Response(200, b"<p>Not found"))

    with pytest.raises(PageError):
        get_once(serve(log), replace(FAST, tries=100))

    assert len(log.requests) == 4


def test_get_when_the_reader_wants_another_try(serve: Serve) -> None:
    """A reader may ask for another answer, and its error is raised in the end."""
    log = ScriptedLog(OK)

    error = LogProtocolError("u", "is useless")

    def read(body: bytes) -> bytes:
        assert body == b"hello"
        raise TryAgain(error)

    with pytest.raises(LogProtocolError) as raised:
        get_once(serve(log), read=read)
    assert (len(log.requests), raised.value) == (3, error)


def test_get_follows_redirects_within_the_host(serve: Serve) -> None:
    """A redirect within the log's host is followed, relative or not."""
    log = ScriptedLog(Response(302, b"", headers={"Location": "/scripted/y"}), OK)

    assert get_once(serve(log)) == b"hello"
    assert [request.path for request in log.requests] == ["x", "y"]


def test_get_when_a_redirect_may_not_be_followed(serve: Serve, connect: Connect) -> None:
    """Each request counts, one that follows a redirect as well: if `may_ask` says no, it is not tried again."""
    log = ScriptedLog(Response(302, b"", headers={"Location": "/scripted/y"}), OK)
    client, allowed = connect(serve(log)), iter([True])
    with setting(may_ask, lambda: next(allowed, False)), pytest.raises(NotAskedError):
        client.get("/x", bytes, limit=9, entries=True)

    assert [request.path for request in log.requests] == ["x"]


@pytest.mark.parametrize(
    ("location", "requests"),
    [("http://localhost:9/", 1), ("scheme: x", 3), ("/scripted/x", 5)],
    ids=["another host", "no URL", "a loop"],
)
def test_get_when_a_redirect_leads_nowhere(serve: Serve, location: str, requests: int) -> None:
    """A redirect to another host is refused, and no request is sent there; one to no URL is useless; a loop ends."""
    log = ScriptedLog(Response(302, b"", headers={"Location": location}))

    with pytest.raises(HttpError) as raised:
        get_once(serve(log))
    assert len(log.requests) == requests
    assert not isinstance(raised.value.__cause__, httpx.ConnectError)


def test_get_when_the_log_names_a_time(serve: Serve, connect: Connect) -> None:
    """The next request waits for as long as Retry-After says, also that of another thread."""
    log = ScriptedLog(Response(429, b"", headers={"Retry-After": "0.5"}), OK)
    client = connect(serve(log), replace(FAST, longest_wait=5))
    began = time.monotonic()

    with ThreadPoolExecutor() as pool:
        first = pool.submit(client.get, "/x", bytes, limit=9)
        while not log.requests:
            time.sleep(0.01)
        time.sleep(0.1)
        client.get("/y", bytes, limit=9)
        waited = time.monotonic() - began

    assert (waited >= 0.5, first.result()) == (True, b"hello")


def test_get_when_the_log_names_an_earlier_time_later(serve: Serve, connect: Connect) -> None:
    """A shorter Retry-After that arrives after a longer one does not end the longer wait."""
    log = ScriptedLog(
        Response(429, b"", headers={"Retry-After": "0.6"}), Response(429, b"", headers={"Retry-After": "0"}), OK
    )
    times: list[float] = []
    together = threading.Barrier(2)

    class Recorded(EmbeddedLog):
        """Notes when it is asked, and gives its second answer late."""

        def respond(self, request: Request) -> Response:
            times.append(time.monotonic())
            response = log.respond(request)
            if len(log.requests) <= 2:
                together.wait(60)
            if response.headers.get("Retry-After") == "0":
                time.sleep(0.1)
            return response

    client = connect(serve(Recorded("recorded")), replace(FAST, longest_wait=5))
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda _: client.get("/x", bytes, limit=9), range(2)))

    assert len(times) == 4
    assert min(times[2:]) - max(times[:2]) >= 0.6


def test_get_when_the_log_names_a_far_time(serve: Serve, connect: Connect) -> None:
    """Nothing is asked before the time that the log named, by no thread: where it is too far, the log is given up."""
    log = ScriptedLog(Response(503, b"", headers={"Retry-After": "86400"}), OK)
    client = connect(serve(log), replace(FAST, first_wait=30, longest_wait=60, total=1e6))

    for path in ("/x", "/y"):
        with pytest.raises(HttpError) as raised:
            client.get(path, bytes, limit=9)
        assert raised.value.status == 429
        assert 86_000 < raised.value.retry_after <= 86_430

    assert len(log.requests) == 1


def test_get_when_patience_ends_before_the_named_time(serve: Serve) -> None:
    """A log whose time comes after all patience is given up, however long a wait may be."""
    log = ScriptedLog(Response(503, b"", headers={"Retry-After": "20"}), OK)

    with pytest.raises(HttpError) as raised:
        get_once(serve(log), replace(FAST, longest_wait=30, total=2))
    assert len(log.requests) == 1
    assert 15 < raised.value.retry_after <= 20.01


def test_get_when_time_is_over(serve: Serve) -> None:
    """No try begins after the total time, however many tries there may be."""
    log = ScriptedLog(Response(503, b""))

    with fails(HttpError, status=503):
        get_once(serve(log), Patience(tries=300, first_wait=0.05, longest_wait=0.05, total=0.5))

    assert len(log.requests) < 150


def test_get_when_stopped_while_it_waits(serve: Serve) -> None:
    """Setting the event of its thread ends a wait at once, without another request."""
    stop = threading.Event()

    class Stopping(ScriptedLog):
        def respond(self, request: Request) -> Response:
            threading.Timer(0.3, stop.set).start()
            return super().respond(request)

    log = Stopping(Response(503, b"", headers={"Retry-After": "110"}))
    with setting(stopping, stop), pytest.raises(LogUnavailableError):
        get_once(serve(log), Patience())
    assert len(log.requests) == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("7", 7),
        (" 7 ", 7),
        ("1.5", 1.5),
        ("-3", 0),
        (email.utils.formatdate(1060, usegmt=True), 60),
        (email.utils.formatdate(1060, usegmt=True).replace("GMT", "UTC"), 60),
        (email.utils.formatdate(1060), 60),
        (email.utils.formatdate(940, usegmt=True), 0),
        ("Thursday, 01-Jan-70 00:17:40 GMT", 60),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("Thu, 99 Foo 1970 00:17:40 GMT", None),
        (f"Thu, 01 Jan {9**20} 00:17:40 GMT", None),
    ],
)
def test_retry_after_in_all_its_forms(value: str, seconds: float | None) -> None:
    """Seconds, fractions and dates are read; anything else is no wait that was asked for."""
    assert retry_after(value, 1000) == seconds


def test_get_when_no_more_requests_for_entries_may_be_sent(serve: Serve, connect: Connect) -> None:
    """Each try for entries is asked about before it is sent; what is not for entries is not counted."""
    log = ScriptedLog(OK, Response(503, b""))
    client = connect(serve(log), replace(FAST, tries=9))
    allowed = iter([True] * 3)
    with setting(may_ask, lambda: next(allowed, False)):
        client.get("/checkpoint", bytes, limit=9)
        with pytest.raises(NotAskedError):
            client.get("/page", bytes, limit=9, entries=True)

    assert [request.path for request in log.requests] == ["checkpoint", *["page"] * 3]
