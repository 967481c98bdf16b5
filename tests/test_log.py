"""Logs are opened by what they speak, log lists are read for what they are."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from fakes import AGENT, FAST, FakeLog, Serve
from raising import fails

from ctkit.demo.embedded import EmbeddedLog, Request, Response
from ctkit.errors import LogUnavailableError, ParameterError
from ctkit.logs.asking import HttpError
from ctkit.logs.log import OTHER_PROTOCOL
from ctkit.logs.log_list import LogDescription, read_log_list, read_public_key
from ctkit.logs.open import open_log
from ctkit.logs.published_lists import PUBLISHED, PublishedList
from ctkit.logs.rfc6962 import Rfc6962Log
from ctkit.logs.static_ct import StaticCtLog
from ctkit.urls import canonical_url

KEY = b"a key"
KEY_TEXT = base64.b64encode(KEY).decode()


@pytest.mark.parametrize(
    ("protocols", "kind"),
    [(["rfc6962"], Rfc6962Log), (["static-ct"], StaticCtLog), (["rfc6962", "static-ct"], StaticCtLog)],
)
def test_open_log_when_it_is_to_find_out(serve: Serve, protocols: list[str], kind: type) -> None:
    """A log is asked what it speaks; tiles are preferred where it speaks both."""
    url = serve(FakeLog(size=3, protocols=protocols))

    with open_log(url + "/", user_agent=AGENT, name="a log", patience=FAST) as log:
        assert (type(log), log.url, log.name) == (kind, url, "a log")
        assert len(log.get_entries(0, 3)) == 3


def test_open_log_asks_for_little(serve: Serve) -> None:
    """A log of RFC 6962 is known by three answers: no checkpoint, a tree head, no tile."""
    fake = FakeLog(size=300, protocols=["rfc6962"])

    with open_log(serve(fake), user_agent=AGENT, patience=FAST):
        assert fake.paths() == ["checkpoint", "ct/v1/get-sth", "tile/data/000"]


@pytest.mark.parametrize("size", [3, 300])
def test_open_log_when_it_is_a_hybrid(serve: Serve, size: int) -> None:
    """A log with tree heads and tiles but no checkpoints is read from its tiles, and its checkpoint asked for once."""
    fake = FakeLog(size=size)
    fake.absent = {"checkpoint"}

    with open_log(serve(fake), user_agent=AGENT, patience=FAST) as log:
        checkpoints = [log.get_checkpoint() for _ in range(2)]
        assert type(log) is StaticCtLog
        assert [checkpoint.tree_size for checkpoint in checkpoints] == [size] * 2
    assert len(fake.paths("checkpoint")) == 2
    assert len(fake.paths("ct/v1/get-entries")) == 0


@pytest.mark.parametrize(("protocol", "kind"), [("rfc6962", Rfc6962Log), ("static-ct", StaticCtLog)])
def test_open_log_when_the_protocol_is_given(serve: Serve, protocol: Any, kind: type) -> None:
    """A protocol that is given is not questioned: the log is not asked."""
    fake = FakeLog(size=3)

    with open_log(serve(fake), user_agent=AGENT, protocol=protocol) as log:
        assert type(log) is kind
    assert fake.requests == []


@pytest.mark.parametrize(("protocol", "other"), [("rfc6962", "static-ct"), ("static-ct", "rfc6962")])
def test_log_when_the_protocol_is_the_other_one(serve: Serve, protocol: Any, other: str) -> None:
    """What is not there says that the protocol may be wrong, and not that it comes later; `auto` needs no such hint."""
    url = serve(FakeLog(size=300, protocols=[other]))

    with (
        open_log(url, user_agent=AGENT, protocol=protocol, patience=FAST) as log,
        pytest.raises(LogUnavailableError) as refused,
    ):
        log.get_entries(0, log.get_checkpoint().tree_size)
    assert refused.value.message.endswith(OTHER_PROTOCOL)
    with pytest.raises(LogUnavailableError) as raised:
        open_log(f"{url}0", user_agent=AGENT, patience=FAST)
    reasons = str(raised.value).partition("run again later: ")[2]
    assert [reason.split()[:4] for reason in reasons.split(" | ")] == [
        ["/checkpoint:", "HTTP", "status", "404"],
        ["/ct/v1/get-sth:", "HTTP", "status", "404"],
    ]
    assert ";" not in reasons


def test_open_log_when_neither_protocol_answers(serve: Serve) -> None:
    """A log that gives no tree head is unavailable, for both reasons."""
    fake = FakeLog(size=3)
    fake.always = 503

    with pytest.raises(LogUnavailableError, match=r"/checkpoint: .*503.*/ct/v1/get-sth: .*503"):
        open_log(serve(fake), user_agent=AGENT, patience=FAST)


def test_open_log_when_an_address_answers_everything_with_html(serve: Serve) -> None:
    """A page for people under every path does not hide that the log speaks the other protocol."""
    fake = FakeLog(size=3, protocols=["rfc6962"])

    class Friendly(EmbeddedLog):
        def respond(self, request: Request) -> Response:
            response = fake.respond(request)
            return response if response.status == 200 else Response(200, b"<html>Hello", "text/html")

    with open_log(serve(Friendly("friendly")), user_agent=AGENT, patience=FAST) as log:
        assert type(log) is Rfc6962Log


@pytest.mark.parametrize("protocol", ["auto", "rfc6962", "static-ct"])
def test_open_log_without_a_contact(protocol: Any) -> None:
    """No log is asked anonymously."""
    with pytest.raises(ParameterError):
        open_log("https://log.example", user_agent="me", protocol=protocol)


def _log(url: str, state: str | None = "usable", **fields: Any) -> dict[str, Any]:
    timestamp = {"timestamp": "2026-01-01T00:00:00Z"}
    return {"description": f"log {url}", "url": url, "key": KEY_TEXT, "state": state and {state: timestamp}, **fields}


def _tiled_log(url: str, state: str | None = "usable", **fields: Any) -> dict[str, Any]:
    log = _log(url, state, **fields)
    del log["url"]
    return log | {"monitoring_url": url, "submission_url": "https://submit.example/"}


def _list(*logs: dict[str, Any], tiled: tuple[dict[str, Any], ...] = ()) -> bytes:
    operators = [{"name": "one", "email": [], "logs": list(logs), "tiled_logs": list(tiled)}, {"name": "none"}]
    return json.dumps({"version": "1.2", "operators": operators}).encode()


ENDLESS = {"readonly": {"final_tree_head": {"tree_size": (1 << 40) + 1, "sha256_root_hash": "A" * 43 + "="}}}
"""The state of a log with more entries than an index can count."""


def _read(path: Path, text: bytes) -> list[LogDescription]:
    path.write_bytes(text)
    return read_log_list(path, user_agent=AGENT)


def test_read_log_list_reads_logs_of_both_kinds(tmp_path: Path) -> None:
    """Logs come with canonical URL, protocol, state and key; a tiled log is read from its monitoring URL."""
    text = _list(_log("https://a.example/"), tiled=(_tiled_log("https://b.example/", "readonly"),))

    assert _read(tmp_path / "list.json", text) == [
        LogDescription("log https://a.example/", "https://a.example", "rfc6962", "usable", KEY, operator="one"),
        LogDescription("log https://b.example/", "https://b.example", "static-ct", "readonly", KEY, operator="one"),
    ]


def test_read_log_list_when_a_log_has_no_url(tmp_path: Path) -> None:
    """A log without a URL costs itself only."""
    text = _list(_log(""), _log("https://a.example"), tiled=(_tiled_log("/"),))

    assert [log.url for log in _read(tmp_path / "list.json", text)] == ["https://a.example"]


@pytest.mark.parametrize("source", ["a\0b", "\ud800", "file:///a%00b"])
def test_read_log_list_of_a_path_that_cannot_be(source: str) -> None:
    """It is a wrong parameter, like that of a file that is not there."""
    with pytest.raises(ParameterError):
        read_log_list(source, user_agent="")


@pytest.mark.parametrize("url", ["", " ", "/", "https://", "http:///", "https://a.example/\ud800"])
def test_canonical_url_of_nothing(url: str) -> None:
    """What names no log has no canonical form."""
    with pytest.raises(ParameterError):
        canonical_url(url)


def test_read_log_list_leaves_out_logs_that_are_gone(tmp_path: Path) -> None:
    """Retired and rejected logs are left out, unless they are asked for; others are kept, also without a state."""
    states = ["pending", "qualified", "usable", "readonly", "retired", "rejected", None]
    logs = [_log(f"https://{state}.example", state) for state in states]
    del logs[-1]["state"]

    found = _read(tmp_path / "list.json", _list(*logs))

    assert [log.state for log in found] == ["pending", "qualified", "usable", "readonly", None]
    everything = read_log_list(tmp_path / "list.json", user_agent="", in_use=False)
    assert [log.state or "none" for log in everything if not log.in_use] == ["retired", "rejected"]
    assert len(everything) == len(states)


def test_read_log_list_when_a_log_has_no_description(tmp_path: Path) -> None:
    """A log without a description is called by its URL."""
    log = _log("https://a.example/")
    del log["description"]

    assert [found.name for found in _read(tmp_path / "list.json", _list(log))] == ["https://a.example"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "the file: Invalid JSON"),
        (b"\xff", "the file: Invalid JSON"),
        (b"[]", "the file: "),
        (b"{}", "operators: Field required"),
        (b'{"operators": {}}', "operators: Input should be a valid (list|array)"),
        (_list(_log("https://a.example", key="no base64!")), r"operators\.0\.logs\.0\.key: "),
        (_list(_log("https://a.example", key=7)), r"operators\.0\.logs\.0\.key: "),
        (_list(_log("https://a.example") | {"url": None}), r"operators\.0\.logs\.0\.url: "),
        (_list(_log("https://a.example", description=7)), r"operators\.0\.logs\.0\.description: "),
        (_list(tiled=(_log("https://a.example"),)), r"operators\.0\.tiled_logs\.0\.monitoring_url: Field required"),
        (_list(_log("https://a.example") | {"state": ENDLESS}), r"final_tree_head\.tree_size: "),
        (_list(), "names 0 logs, none of them in use"),
        (b'{"operators": []}', "names 0 logs, none of them in use"),
        (_list(_log("https://a.example", "retired")), "names 1 logs, none of them in use"),
    ],
)
def test_read_log_list_when_it_is_none(tmp_path: Path, text: bytes, reason: str) -> None:
    """A file that is no log list, or has no log to read, is refused with its name and the place of the mistake."""
    path = tmp_path / "list.json"

    with pytest.raises(ParameterError, match=f"{re.escape(str(path))} .*{reason}"):
        _read(path, text)


def test_read_log_list_from_a_file_uri(tmp_path: Path) -> None:
    """List, signature and key may be named by URIs, percent-encoded."""
    (tmp_path / "my list.json").write_bytes(_list(_log("https://a.example")))
    key = EmbeddedLog("any").public_key
    (tmp_path / "my key").write_bytes(key)

    assert len(read_log_list((tmp_path / "my list.json").as_uri(), user_agent=AGENT)) == 1
    assert read_public_key((tmp_path / "my key").as_uri()) == key


def test_read_log_list_when_the_file_is_missing(tmp_path: Path) -> None:
    """A file that is not there is a wrong parameter."""
    with pytest.raises(ParameterError):
        read_log_list(tmp_path / "nowhere.json", user_agent=AGENT)


class ListServer(EmbeddedLog):
    """Serves a log list under every path."""

    status = 200

    def respond(self, request: Request) -> Response:
        """Answer with the list."""
        return Response(self.status, _list(_log("https://a.example")), "application/json")


def test_read_log_list_from_a_url(serve: Serve) -> None:
    """A list may be had over HTTP, politely."""
    url = serve(ListServer("lists")) + "/v3/list.json"

    assert [log.url for log in read_log_list(url, user_agent=AGENT)] == ["https://a.example"]
    with pytest.raises(ParameterError):
        read_log_list(url, user_agent="me")


def test_read_log_list_when_its_url_is_not_there(serve: Serve) -> None:
    """A list that is not there is unavailable; the error has its URL and status."""
    server = ListServer("lists")
    server.status = 404
    url = serve(server) + "/v3/list.json"

    with fails(HttpError, url=url, status=404):
        read_log_list(url, user_agent=AGENT, patience=FAST)


RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())


def _der(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_read_log_list_when_it_is_signed(tmp_path: Path) -> None:
    """A list signed by the key is read; one without a signature, with another's, or changed, is refused."""
    path, text = tmp_path / "list.json", _list(_log("https://a.example/"))
    path.write_bytes(text)

    with pytest.raises(ParameterError):
        read_log_list(path, user_agent=AGENT, key=_der(RSA))
    (tmp_path / "list.sig").write_bytes(RSA.sign(text, padding.PKCS1v15(), hashes.SHA256()))
    assert [log.url for log in read_log_list(path, user_agent=AGENT, key=_der(RSA))] == ["https://a.example"]
    with pytest.raises(ParameterError):
        read_log_list(path, user_agent=AGENT, key=_der(EC))
    path.write_bytes(text.replace(b"a.example", b"b.example"))
    with pytest.raises(ParameterError):
        read_log_list(path, user_agent=AGENT, key=_der(RSA))


def test_read_log_list_when_it_is_signed_behind_a_url(serve: Serve) -> None:
    """The signature is downloaded from next to the list."""
    signature = EC.sign(_list(_log("https://a.example")), ec.ECDSA(hashes.SHA256()))

    class SignedList(ListServer):
        def respond(self, request: Request) -> Response:
            return Response(200, signature) if request.path == "v3/list.sig" else super().respond(request)

    url = serve(SignedList("lists")) + "/v3/list.json"

    assert len(read_log_list(url, user_agent=AGENT, key=_der(EC))) == 1
    with pytest.raises(ParameterError):
        read_log_list(url, user_agent=AGENT, key=_der(RSA))


@pytest.mark.parametrize("encoding", [Encoding.DER, Encoding.PEM])
def test_read_public_key(tmp_path: Path, encoding: Encoding) -> None:
    """A key is read from PEM and DER."""
    path = tmp_path / "key"
    path.write_bytes(RSA.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo))

    assert read_public_key(path) == _der(RSA)


@pytest.mark.parametrize("data", [b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", b"\x30\x00"])
def test_read_public_key_when_it_is_none(tmp_path: Path, data: bytes) -> None:
    """A file that holds no key is refused."""
    path = tmp_path / "key"
    path.write_bytes(data)

    with pytest.raises(ParameterError):
        read_public_key(path)
    with pytest.raises(ParameterError):
        read_public_key(tmp_path / "nowhere")


# Lists by name, and copies of those that were downloaded


class PublishedLists(EmbeddedLog):
    """A host of lists that signs what it serves, and can be told to fail."""

    text = _list(_log("https://a.example"))
    status = 200

    def respond(self, request: Request) -> Response:
        """Answer with the list or its signature."""
        is_signature = request.path.endswith(".sig")
        body = EC.sign(self.text, ec.ECDSA(hashes.SHA256())) if is_signature else self.text
        return Response(self.status, body)


@pytest.fixture
def published(serve: Serve, monkeypatch: pytest.MonkeyPatch, cache: Path) -> PublishedLists:
    """Serve the list that is known as google; nothing is remembered."""
    host = PublishedLists("lists")
    monkeypatch.setitem(PUBLISHED, "google", PublishedList(f"{serve(host)}/v3/log_list.json", _der(EC)))
    return host


def _urls_of(source: str, **options: Any) -> list[str]:
    return [log.url for log in read_log_list(source, user_agent=AGENT, patience=FAST, **options)]


@pytest.mark.parametrize(("name", "signed"), [("google", True), ("apple", False)])
def test_lists_that_are_known_by_name(name: str, signed: bool) -> None:
    """They are where their publishers say, and Google's is signed with an RSA key of 4096 bits."""
    listed = PUBLISHED[name]

    assert listed.url.startswith("https://")
    assert (listed.key is not None) == signed
    if listed.key:
        key = load_der_public_key(listed.key)
        assert isinstance(key, rsa.RSAPublicKey)
        assert key.key_size == 4096


def test_read_log_list_by_name(published: PublishedLists) -> None:
    """The list is verified with the key that is known, or with one that is given instead."""
    assert _urls_of("google") == ["https://a.example"]
    with pytest.raises(ParameterError):
        _urls_of("google", key=_der(RSA))
    with pytest.raises(ParameterError):
        read_log_list("google", user_agent="me")


def test_read_log_list_that_cannot_be_had(published: PublishedLists, caplog: pytest.LogCaptureFixture) -> None:
    """The last copy is used, and its age said; without one, the error names the URL."""
    url = PUBLISHED["google"].url
    published.status = 404
    with fails(HttpError, url=url, status=404):
        _urls_of("google")
    published.status = 200
    _urls_of("google")

    published.status = 500

    assert _urls_of("google") == ["https://a.example"]
    assert [record.args[0] for record in caplog.records if "last copy" in record.msg and record.args] == [url]


@pytest.mark.parametrize("text", [b"<html>We will be back", b"{}", _list(_log("https://b.example", "retired"))])
def test_read_log_list_that_is_none_any_more(published: PublishedLists, text: bytes) -> None:
    """What a host sends in place of a list does not replace the copy."""
    _urls_of("google")
    published.text = text

    assert _urls_of("google") == _urls_of("google") == ["https://a.example"]


def test_a_list_without_a_log_in_use_does_not_replace_the_copy(published: PublishedLists) -> None:
    """It is read, where there are other logs, but more likely a mistake than the end of all logs."""
    _urls_of("google")
    published.text = _list()
    assert _urls_of("google", in_use=False) == []
    published.status = 404

    assert _urls_of("google") == ["https://a.example"]


def test_the_copy_of_a_list_is_verified(published: PublishedLists, cache: Path) -> None:
    """A copy that has been changed, or that another key signed, is not used."""
    _urls_of("google")
    published.status = 404
    with pytest.raises(HttpError):
        _urls_of("google", key=_der(RSA))

    (copy,) = cache.glob("log-lists/*")
    copy.write_bytes(copy.read_bytes().replace(b"a.example", b"b.example"))

    with pytest.raises(HttpError):
        _urls_of("google")


def test_a_list_that_was_read_without_its_signature(published: PublishedLists) -> None:
    """Its copy does not pass for a signed one."""
    url = PUBLISHED["google"].url
    assert _urls_of(url) == ["https://a.example"]
    published.status = 404

    assert _urls_of(url) == ["https://a.example"]
    with pytest.raises(HttpError):
        _urls_of("google")


@pytest.mark.parametrize("folder", ["", "/dev/null"])
def test_no_copy_without_a_cache(published: PublishedLists, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    """Where nothing can be remembered, a list is read all the same."""
    monkeypatch.setenv("CTKIT_CACHE", folder)
    assert _urls_of("google") == ["https://a.example"]
    published.status = 404

    with pytest.raises(HttpError):
        _urls_of("google")


def test_a_damaged_copy_counts_as_none(published: PublishedLists, cache: Path) -> None:
    """Half a file, or an empty one, is no list."""
    _urls_of("google")
    published.status = 404
    for kept in (b"", b"\x00\x40abc"):
        (copy,) = cache.glob("log-lists/*")
        copy.write_bytes(kept)

        with pytest.raises(HttpError):
            _urls_of("google")
