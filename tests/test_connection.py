"""Connections follow the environment, or say what is wrong with it, and their waits end."""

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from fakes import AGENT, FAST, get_once, setting

from ctkit.errors import ParameterError
from ctkit.logs.asking import HttpError, Patience, stopping
from ctkit.logs.connection import is_exempt
from ctkit.logs.http import Client

ONCE = Patience(tries=1, timeout=5, total=0.5)

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def serving(answer: Answer, certificate: Path | None = None) -> Iterator[str]:
    """Serve what `answer` writes to each request, over TLS if there is a certificate; yield the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(OSError):
                answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
        server.shutdown()


def hello(request: BaseHTTPRequestHandler) -> None:
    """Answer well."""
    request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Take out what the environment says of proxies and certificates."""
    for name in [name for name in os.environ if name.upper().endswith("_PROXY") or name.startswith("SSL")]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a PEM file with a key, and a certificate for 127.0.0.1 that only itself vouches for."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1).add_extension(address, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    dated = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + dated.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    )
    return path


@pytest.mark.parametrize(
    ("url", "no_proxy"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1"),
        ("http://127.0.0.1:8080", "localhost, 127.0.0.1:8080"),
        ("http://127.0.0.1", "10.0.0.0/8,127.0.0.0/8"),
        ("http://127.0.0.1", "127.0.0.1,[::1]"),
        ("http://127.0.0.1", "fd07:b51a:cc66:f0::/64 127.0.0.1"),
        ("http://[::1]:8080", "::1"),
        ("http://[::1]:8080", "[::1]:8080"),
        ("http://[::1]", "[::1]"),
        ("https://[fd07:b51a:cc66:f0::5]", "fd07:b51a:cc66:f0::/64"),
        ("https://[fd07:b51a:cc66:f0::5]", "[fd07:b51a:cc66:f0::]/64"),
        ("https://[fe80::1]", "FE80::/10"),
        ("https://log.example", "log.example"),
        ("https://log.example", "LOG.example:443"),
        ("https://log.example", "https://log.example"),
        ("https://a.log.example", "log.example"),
        ("https://a.log.example", ".log.example"),
        ("https://a.log.example", "*.log.example"),
        ("https://log.example", "other.example,*"),
    ],
)
def test_is_exempt_when_no_proxy_names_the_host(url: str, no_proxy: str) -> None:
    """Names, addresses and networks are understood in every way in which they are written."""
    assert is_exempt(httpx.URL(url), no_proxy)


@pytest.mark.parametrize(
    ("url", "no_proxy"),
    [
        ("http://127.0.0.1", ""),
        ("http://127.0.0.1:8080", "127.0.0.1:80"),
        ("http://127.0.0.1", "fd07::/64,fe80::/10,[::1],10.0.0.0/8"),
        ("http://127.0.0.1", "127.0.0.0/99,[::1,:,/,fe80::/x,]["),
        ("http://[::1]:8080", "[::1]:80"),
        ("https://[fd08::5]", "fd07::/64"),
        ("https://log.example", "og.example,log.exampl,a.log.example,,."),
        ("https://log.example", "http://log.example"),
    ],
)
def test_is_exempt_when_no_proxy_names_others(url: str, no_proxy: str) -> None:
    """Others, and what is no name at all, do not count."""
    assert not is_exempt(httpx.URL(url), no_proxy)


@pytest.mark.parametrize("no_proxy", ["localhost,127.0.0.1,fd07:b51a:cc66:f0::/64", "127.0.0.1,[::1]", "127.0.0.0/8"])
def test_get_when_no_proxy_names_the_host(environment: pytest.MonkeyPatch, no_proxy: str) -> None:
    """A host that needs no proxy is asked without one, even if the proxy cannot be used."""
    environment.setenv("HTTP_PROXY", "ftp://127.0.0.1:port")
    environment.setenv("NO_PROXY", no_proxy)

    with serving(hello) as url:
        assert get_once(url) == b"hello"


def test_get_through_a_proxy(environment: pytest.MonkeyPatch) -> None:
    """Others are asked through the proxy, which need not have a scheme, whatever else NO_PROXY names."""
    asked = []

    def note(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.path)
        hello(request)

    environment.setenv("NO_PROXY", "127.0.0.1,fd07::/64,[::1]")
    with serving(note) as url:
        environment.setenv("http_proxy", url.removeprefix("http://"))
        assert get_once("http://log.example/2026h2") == b"hello"

    assert asked == ["http://log.example/2026h2/x"]


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY", "https_proxy"])
@pytest.mark.parametrize("value", ["http://127.0.0.1:port", "ftp://127.0.0.1:1", "socks5://127.0.0.1:1", "::1"])
def test_client_when_a_proxy_cannot_be_used(environment: pytest.MonkeyPatch, variable: str, value: str) -> None:
    """The error names the variable."""
    environment.setenv(variable, value)

    with pytest.raises(ParameterError, match=variable.upper()):
        Client("https://log.example", user_agent=AGENT)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"])
def test_client_when_tls_cannot_be_set_up(environment: pytest.MonkeyPatch, tmp_path: Path, variable: str) -> None:
    """The error names the variable, where what it names is not there."""
    environment.setenv(variable, str(tmp_path / "missing" / "it"))

    with pytest.raises(ParameterError, match=variable):
        Client("https://log.example", user_agent=AGENT)


def test_client_when_a_file_of_certificates_holds_none(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error names the variable."""
    (tmp_path / "empty.pem").write_text("nothing")
    environment.setenv("SSL_CERT_FILE", str(tmp_path / "empty.pem"))

    with pytest.raises(ParameterError, match="SSL_CERT_FILE"):
        Client("https://log.example", user_agent=AGENT)


def test_get_over_tls(environment: pytest.MonkeyPatch, certificate: Path) -> None:
    """A host whose certificate SSL_CERT_FILE vouches for is asked."""
    environment.setenv("SSL_CERT_FILE", str(certificate))

    with serving(hello, certificate) as url:
        assert get_once(url) == b"hello"


def test_get_when_the_certificate_is_not_trusted(environment: pytest.MonkeyPatch, certificate: Path) -> None:
    """It is not asked again, and the error says where trust comes from."""
    with serving(hello, certificate) as url, pytest.raises(HttpError, match="SSL_CERT_FILE"):
        get_once(url)


def test_get_when_redirected_from_https_to_http(environment: pytest.MonkeyPatch, certificate: Path) -> None:
    """What was asked for over TLS is not asked for without, on the same host either."""
    asked = []

    def note(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.path)
        hello(request)

    environment.setenv("SSL_CERT_FILE", str(certificate))
    with serving(note) as plain:

        def redirect(request: BaseHTTPRequestHandler) -> None:
            request.wfile.write(f"HTTP/1.1 302 Found\r\nLocation: {plain}/y\r\nContent-Length: 0\r\n\r\n".encode())

        with serving(redirect, certificate) as url, pytest.raises(HttpError):
            get_once(url)

    assert asked == []


HEADER, BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n", b"x" * 40


def drip(fast: bytes, slow: bytes) -> Answer:
    """Return what writes some bytes at once, and some one by one."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(fast)
        for octet in slow:
            time.sleep(0.1)
            request.wfile.write(bytes([octet]))

    return answer


slow_answers = pytest.mark.parametrize("answer", [drip(b"", HEADER + BODY), drip(HEADER, BODY)], ids=["header", "body"])


@slow_answers
@pytest.mark.parametrize("tls", [False, True])
def test_get_when_an_answer_comes_byte_by_byte(
    environment: pytest.MonkeyPatch, certificate: Path, answer: Answer, tls: bool
) -> None:
    """An answer that never pauses for long, and takes too long as a whole, is left."""
    environment.setenv("SSL_CERT_FILE", str(certificate))
    with serving(answer, certificate if tls else None) as url, pytest.raises(HttpError) as raised:
        get_once(url, ONCE)
    assert isinstance(raised.value.__cause__, httpx.ReadTimeout)


def test_get_when_stopped_while_a_host_does_not_answer_at_all(environment: pytest.MonkeyPatch) -> None:
    """A stop ends the wait for a connection: a host that drops all packets would hold it for long."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as others:
        # Those that wait to be accepted are all that the backlog holds: the next one gets no answer.
        for _ in range(3):
            other = others.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(server.getsockname())
        threading.Timer(0.3, stop.set).start()
        with setting(stopping, stop), pytest.raises(HttpError, match="no time left to connect"):
            get_once(f"http://127.0.0.1:{server.getsockname()[1]}", replace(FAST, tries=1))


@slow_answers
def test_get_when_stopped_amid_a_slow_answer(environment: pytest.MonkeyPatch, answer: Answer) -> None:
    """A stop ends the reading at once, be it of the header or of the body."""
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    with serving(answer) as url, setting(stopping, stop), pytest.raises(HttpError):
        get_once(url)
