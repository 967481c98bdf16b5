"""The logs that parameters come to, with the keys that they are verified with."""

import base64
import json

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fakes import FakeLog

from ctkit.errors import CheckpointError, LogUnavailableError, ParameterError
from ctkit.parameters import Parameters
from ctkit.situation import choose_logs, open_logs

AGENT = "ctkit tests, ct@example.org"


@pytest.fixture(scope="module")
def fakes():
    """Return two logs with keys of their own."""
    return [FakeLog(name, 3, protocols=["rfc6962"]) for name in ("one", "two")]


@pytest.fixture
def write_list(tmp_path):
    """Write a log list and return its path: URL -> DER of the key."""

    def write(keys):
        logs = [{"url": url, "key": base64.b64encode(key).decode(), "description": url} for url, key in keys.items()]
        path = tmp_path / "list.json"
        path.write_text(json.dumps({"operators": [{"logs": logs}]}))
        return str(path)

    return write


def test_choose_logs_takes_keys_from_the_log_list(fakes, write_list):
    """A key that was given counts; one that was not is the list's; an empty one of the list is none."""
    one, two = (fake.public_key for fake in fakes)
    logs = [{"url": "a.example", "key": base64.b64encode(two).decode()}, {"url": "b.example", "name": "B"}]
    listed = write_list({"https://a.example/": one, "https://b.example/": one, "https://c.example/": b""})

    chosen = choose_logs(Parameters(logs=logs, log_list=listed, user_agent=AGENT))

    assert [(log.url, log.name, log.key) for log in chosen] == [
        ("a.example", None, two),
        ("b.example", "B", one),
        ("https://c.example", "https://c.example/", None),
    ]


def test_choose_logs_when_the_list_is_signed(write_list, tmp_path, fakes):
    """A list is believed if its signature is by the key that the parameters name."""
    key = rsa.generate_private_key(65537, 2048)
    listed = write_list({"https://a.example/": fakes[0].public_key})
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "list.pem").write_bytes(public)
    parameters = Parameters(log_list=listed, log_list_key=str(tmp_path / "list.pem"), user_agent=AGENT)

    text = (tmp_path / "list.json").read_bytes()
    (tmp_path / "list.sig").write_bytes(key.sign(text, padding.PKCS1v15(), hashes.SHA256()))
    assert [log.url for log in choose_logs(parameters)] == ["https://a.example"]
    (tmp_path / "list.json").write_bytes(text + b" ")
    with pytest.raises(ParameterError, match="is not signed by the key"):
        choose_logs(parameters)


def test_open_logs_gives_each_its_key(serve, fakes, write_list):
    """Tree heads are verified with the key of the list; a key that none can be verified with costs its log only."""
    urls = [serve(fake) for fake in fakes]
    keys = {urls[0]: fakes[0].public_key, urls[1]: fakes[0].public_key, "https://c.example": b"no key"}

    logs, failed = open_logs(choose_logs(Parameters(log_list=write_list(keys), user_agent=AGENT)), user_agent=AGENT)

    assert [log.url for log in logs] == urls
    assert logs[0].get_checkpoint().tree_size == 3
    with pytest.raises(CheckpointError, match="not signed by the log's key"):
        logs[1].get_checkpoint()
    assert [(type(error), error.url) for error in failed] == [(LogUnavailableError, "https://c.example")]
    assert "the log list gives a key that cannot be used" in str(failed[0])
    for log in logs:
        log.close()
