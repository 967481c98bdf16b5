"""Embedded logs behind a real HTTP server on the loopback interface."""

import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl

from ctkit.demo.embedded import NOT_FOUND, EmbeddedLog, Request, Response
from ctkit.demo.listing import SignedList
from ctkit.visible import get_logger

logger = get_logger(__name__)


_LIST_FILES = ("log_list.json", "log_list.sig")


class LogServer:
    """An HTTP server on the loopback interface for any number of embedded logs, each under a path made of its name.

    It serves in threads of its own, from its creation until it is closed. It also serves a signed log list of them.

    Parameters
    ----------
    logs
        The logs to serve; `add` takes more. Their names must differ.
    port
        Where to listen; 0 lets the system choose.

    Attributes
    ----------
    listed
        The log list; its `SignedList.states` may be changed at any time.

    Examples
    --------
    >>> from urllib.request import urlopen
    >>> from ctkit.demo.embedded import make_log
    >>> log = make_log("Example 2026h1", 3)
    >>> with LogServer(log) as server, urlopen(server.url(log) + "/checkpoint") as answer:
    ...     answer.read().decode().splitlines()[:2]
    ['example-2026h1.log.example', '3']
    """

    def __init__(self, *logs: EmbeddedLog, port: int = 0) -> None:
        self._logs: dict[str, EmbeddedLog] = {}
        self._grown = 0
        self.listed = SignedList()
        for log in logs:
            self._register(log)
        self._server = _Server(("127.0.0.1", port), _handler(self._logs, self._list_file))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="log-server", daemon=True)
        self._thread.start()

    def add(self, log: EmbeddedLog) -> str:
        """Serve one more log and return its URL."""
        self._register(log)
        return self.url(log)

    def _register(self, log: EmbeddedLog) -> None:
        if self._logs.setdefault(log.slug, log) is not log:
            raise ValueError(f"another log is already served as {log.slug!r}: give this one another name")

    def url(self, log: EmbeddedLog) -> str:
        """Return the URL of a log, in canonical form."""
        return f"http://127.0.0.1:{self._server.server_port}/{log.slug}"

    @property
    def list_url(self) -> str:
        """URL of the log list; its signature ends in ``.sig`` instead of ``.json``."""
        return f"http://127.0.0.1:{self._server.server_port}/log_list.json"

    def grow(self, count: int, *, until: int | None = None, issued: int | None = None) -> None:
        """Append `count` entries to all logs together, in equal shares; logs that are at their end by the list stay.

        Parameters
        ----------
        count
            Number of entries. Calls with few entries add up to equal shares, too.
        until, issued
            For each log, as for `EmbeddedLog.grow`.
        """
        logs = [log for log in self._logs.values() if self.listed.accepts_entries(log)]
        before, self._grown = self._grown, self._grown + count
        for number, log in enumerate(logs):
            share = (self._grown + number) // len(logs) - (before + number) // len(logs)
            log.grow(share, until=until, issued=issued)

    def _list_file(self, name: str) -> Response:
        """Answer a request for the list, or for its signature."""
        text = self.listed.text({self.url(log): log for log in self._logs.values()})
        if name == "log_list.json":
            return Response(200, text, "application/json")
        return Response(200, self.listed.sign(text), "application/octet-stream")

    def close(self) -> None:
        """Stop serving and drop all connections."""
        self._server.shutdown()
        self._server.drop_connections()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    # server_close() waits for the threads of the connections, which drop_connections() has ended.
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def drop_connections(self) -> None:
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that disconnects in the middle of an answer is nothing to report.
        if not isinstance(sys.exception(), OSError):
            logger.exception("answer failed client=%s", client_address)


def _handler(logs: Mapping[str, EmbeddedLog], list_file: Callable[[str], Response]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1  # headers and body leave in one piece

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            slug, _, path = path.removeprefix("/").partition("/")
            headers = {name.lower(): value for name, value in self.headers.items()}
            if slug in _LIST_FILES:
                response = list_file(slug)
            elif log := logs.get(slug):
                response = log.respond(Request(path, dict(parse_qsl(query)), headers))
            else:
                response = NOT_FOUND
            self.send_response(response.status)
            fields = {"Content-Type": response.content_type, "Content-Length": str(len(response.body))}
            for name, value in {**fields, **response.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(response.body)

        def log_message(self, format: str, *args: object) -> None:
            logger.debug(format, *args)

    return Handler
