"""Tree heads: what is read, what is refused, and whose signature holds."""

import base64
import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from raising import fails

from ctkit.demo.embedded import Request, make_log
from ctkit.errors import CheckpointError
from ctkit.wire.checkpoint import (
    Checkpoint,
    UnreadableHeadError,
    note_key_id,
    read_checkpoint,
    read_sth,
    tree_head_to_sign,
)

URL = "https://log.example/2026h1"
LOG = make_log("Heads 2026h1", 5)
STH = LOG.respond(Request("ct/v1/get-sth")).body
NOTE = LOG.respond(Request("checkpoint")).body
NOTHING = object()
ODD_BASE64 = "A" * 42 + "B="
"""32 bytes, and bits beyond them that are not zero."""


def sth(**changes):
    """Return the log's signed tree head with members changed, or left out."""
    return json.dumps(
        {name: value for name, value in (json.loads(STH) | changes).items() if value is not NOTHING}
    ).encode()


def text(data):
    """Return base64."""
    return base64.b64encode(data).decode()


def der(key):
    """Return the SubjectPublicKeyInfo of a private key."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def digitally_signed(signature, algorithm=3):
    """Return a DigitallySigned struct."""
    return bytes([4, algorithm]) + len(signature).to_bytes(2) + signature


def note_signature(key, timestamp, origin=LOG.origin):
    """Return a signature line over the log's tree head, by any ECDSA key."""
    signed = tree_head_to_sign(timestamp, 5, LOG.tree.root())
    signature = digitally_signed(key.sign(signed, ec.ECDSA(hashes.SHA256())))
    return f"\u2014 {origin} {text(note_key_id(origin, der(key)) + timestamp.to_bytes(8) + signature)}\n".encode()


def test_read_sth_of_a_log():
    """A signed tree head is read whole, and its signature holds."""
    members = json.loads(STH)

    checkpoint = read_sth(STH, URL)

    assert checkpoint == Checkpoint(
        url=URL,
        origin=URL,
        tree_size=5,
        root_hash=LOG.tree.root(),
        timestamp=LOG.entries[-1].timestamp,
        signature=base64.b64decode(members["tree_head_signature"]),
    )
    assert checkpoint.verify(LOG.public_key) == checkpoint


def test_read_checkpoint_of_a_log():
    """A signed note is read whole, and its signature holds."""
    signature = base64.b64decode(NOTE.split()[-1])

    checkpoint = read_checkpoint(NOTE, URL)

    assert checkpoint == Checkpoint(
        url=URL,
        origin="heads-2026h1.log.example",
        tree_size=5,
        root_hash=LOG.tree.root(),
        timestamp=LOG.entries[-1].timestamp,
        signature=signature[12:],
        note_signatures=(signature,),
    )
    assert checkpoint.verify(LOG.public_key) == checkpoint


def test_tree_head_of_an_empty_log():
    """A log that has just begun has a tree head of size zero in both protocols."""
    log = make_log("Empty", 0)

    heads = [read_sth(log.respond(Request("ct/v1/get-sth")).body, URL), read_checkpoint(log.checkpoint(), URL)]

    assert [head.verify(log.public_key).tree_size for head in heads] == [0, 0]


def test_verify_with_an_rsa_key():
    """Logs may sign with RSA."""
    key = rsa.generate_private_key(65537, 2048)
    signature = key.sign(tree_head_to_sign(7, 5, bytes(32)), padding.PKCS1v15(), hashes.SHA256())
    head = Checkpoint(URL, URL, 5, bytes(32), 7, digitally_signed(signature, algorithm=1))

    assert head.verify(der(key)) == head
    with pytest.raises(CheckpointError):
        replace(head, tree_size=6).verify(der(key))


@pytest.mark.parametrize("head", [read_sth(STH, URL), read_checkpoint(NOTE, URL)], ids=["sth", "note"])
def test_verify_with_another_key(head):
    """Another key does not verify, be it of the right kind, of another, or none at all."""
    p256, p384 = der(ec.generate_private_key(ec.SECP256R1())), der(ec.generate_private_key(ec.SECP384R1()))
    for key in (p256, p384, der(rsa.generate_private_key(65537, 2048))):
        with pytest.raises(CheckpointError):
            head.verify(key)
    with pytest.raises(CheckpointError):
        head.verify(b"no key")


def test_verify_with_a_key_on_another_curve():
    """A log's ECDSA key is on P-256, even if a signature by another would hold."""
    key = ec.generate_private_key(ec.SECP384R1())
    signature = key.sign(tree_head_to_sign(7, 5, bytes(32)), ec.ECDSA(hashes.SHA256()))

    with pytest.raises(CheckpointError):
        Checkpoint(URL, URL, 5, bytes(32), 7, digitally_signed(signature)).verify(der(key))


@pytest.mark.parametrize("change", [{"tree_size": 6}, {"timestamp": 1}, {"root_hash": bytes(32)}], ids=str)
def test_verify_of_a_changed_tree_head(change):
    """The signature covers size, time and root."""
    with fails(CheckpointError, url=URL):
        replace(read_sth(STH, URL), **change).verify(LOG.public_key)


def test_verify_finds_the_signature_of_the_key_when_there_are_several():
    """Of several signatures under the log's name that of the key counts, and so does its timestamp."""
    new, old = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    body = NOTE[: NOTE.index(b"\n\n") + 2]

    head = read_checkpoint(body + note_signature(old, 1000) + note_signature(new, 2000), URL)

    assert (head.timestamp, len(head.note_signatures)) == (1000, 2)
    assert head.verify(der(old)) == head
    assert head.verify(der(new)).timestamp == 2000


def test_read_checkpoint_leaves_other_signatures_aside():
    """Witnesses sign too, and the log itself with keys of other types."""
    witness = note_signature(ec.generate_private_key(ec.SECP256R1()), 1, origin="witness.example")
    ed25519 = f"\u2014 {LOG.origin} {text(bytes(68))}\n".encode()
    start = NOTE.index(b"\n\n") + 2

    assert read_checkpoint(NOTE[:start] + witness + ed25519 + NOTE[start:], URL) == read_checkpoint(NOTE, URL)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe\xff",
        b"[" * 100_000,
        b"[]",
        b'{"tree_size":' + b"9" * 5000 + b"}",
        *(sth(tree_size=size) for size in (NOTHING, "5", 5.0, True, -1, 2**40 + 1, 2**62)),
        *(sth(timestamp=timestamp) for timestamp in (None, 2**63)),
        *(
            sth(sha256_root_hash=root)
            for root in (NOTHING, "no base64!", "\u00fc\ud800", text(bytes(31)), "A" * 42 + "B=")
        ),
        *(sth(tree_head_signature=signature) for signature in (7, "")),
        *(sth(tree_head_signature=text(head + b"abcd")) for head in (b"\4\3\0\5", b"\4\2\0\4", b"\5\3\0\4")),
    ],
)
def test_read_sth_of_something_else(data):
    """What is no signed tree head is refused."""
    with fails(UnreadableHeadError, url=URL):
        read_sth(data, URL)


def test_read_sth_accepts_the_largest_size():
    """A log has at most 2**40 entries, because an index has 40 bits."""
    assert read_sth(sth(tree_size=2**40), URL).tree_size == 2**40


LAST_WORD = NOTE[NOTE.rindex(b" ") :]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (NOTE, b""),
        (NOTE, b"\xff"),
        (b"\n\n", b"\n"),
        (NOTE[-40:], NOTE[-40:-1]),
        (b"\n5\n", b"\n"),
        (b"\n\n", b"\nextension\n\n"),
        *((b"\n5\n", f"\n{size}\n".encode()) for size in ("05", "+5", "\u0665", 2**40 + 1, 2**62)),
        *((LOG.origin.encode() + b"\n", origin) for origin in (b"\n", b"log\x00.example\n", b"other.example\n")),
        (b"=\n\n", b"\n\n"),
        (text(LOG.tree.root()).encode(), text(bytes(33)).encode()),
        ("\u2014".encode(), b"-"),
        (b"\n\n", b"\n\n\n"),
        (LAST_WORD, b" AAAA!\n"),
        (LAST_WORD, f" {text(bytes(7))}\n".encode()),
        (LAST_WORD, f" {text(bytes(4) + bytes([255] * 8) + digitally_signed(b'ab'))}\n".encode()),
    ],
    # The log's key is another in each run.
    ids=[str(number) for number in range(21)],
)
def test_read_checkpoint_of_something_else(old, new):
    """What is no checkpoint is refused."""
    assert old in NOTE

    with fails(UnreadableHeadError, url=URL):
        read_checkpoint(NOTE.replace(old, new, 1), URL)


def verified(read, data):
    """Return the tree head if it can be read and its signature holds, None if not."""
    try:
        return read(data, URL).verify(LOG.public_key)
    except CheckpointError:
        return None


@pytest.mark.parametrize(("read", "data"), [(read_sth, STH), (read_checkpoint, NOTE)], ids=["sth", "note"])
def test_every_changed_byte_is_noticed(read, data):
    """No byte of a tree head can be changed into one that says something else and still verifies."""
    changed = [data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] for at in range(len(data)) for bit in range(8)]

    assert {verified(read, text) for text in changed} <= {None, verified(read, data)}
    if read is read_checkpoint:
        assert {verified(read, text) for text in changed} == {None}
