"""Tree heads: signed tree heads of RFC 6962 and checkpoints of the Static CT API, as one type."""

import base64
import json
import re
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ctkit.errors import CheckpointError
from ctkit.ranges import LARGEST_TREE
from ctkit.wire.merkle import HASH_SIZE
from ctkit.wire.signatures import ECDSA, RSA, algorithm_of, signature_holds

_LATEST = (1 << 63) - 1
"""Latest timestamp of a tree head, in milliseconds since the Unix epoch."""
_SHA256 = 4
"""``HashAlgorithm`` of RFC 5246, section 7.4.1.4.1."""


_NOTE_SIGNATURE_TYPE = b"\x05"
"""Signature type of an RFC 6962 tree head in a signed note."""


class UnreadableHeadError(CheckpointError):
    """The answer of a log is not a tree head."""


@dataclass(frozen=True)
class Checkpoint:
    """The state of a log's tree, as the log states it.

    Attributes
    ----------
    url
        The log that was asked, canonical form.
    origin
        The first line of a Static CT checkpoint; the log's canonical URL for a signed tree head, which has none.
    tree_size
        Number of entries; the indices are ``[0, tree_size)``.
    root_hash
        32 bytes, the Merkle tree hash of RFC 6962, section 2.1.
    timestamp
        Milliseconds since the Unix epoch.
    signature
        The ``digitally-signed`` struct over ``TreeHeadSignature`` (RFC 6962, section 3.5), as the log sent it.
    note_signatures
        All signatures of a Static CT checkpoint that may be the log's: each is the key id (4 bytes) followed by the
        ``RFC6962NoteSignature``. `timestamp` and `signature` are those of the first. Empty for a signed tree head.
    """

    url: str
    origin: str
    tree_size: int
    root_hash: bytes
    timestamp: int
    signature: bytes
    note_signatures: tuple[bytes, ...] = ()

    @classmethod
    def remembered(cls, url: str, tree_size: int, root_hash: bytes) -> Self:
        """Return a tree head noted earlier, without time and signature, for comparison with others."""
        return cls(url, url, tree_size, root_hash, timestamp=0, signature=b"")

    def verify(self, public_key: bytes) -> Self:
        """Check the log's signature.

        Parameters
        ----------
        public_key
            DER of the log's ``SubjectPublicKeyInfo``: ECDSA P-256 or RSA (RFC 6962, section 2.1.4).

        Returns
        -------
        Checkpoint
            This one; of several signatures on a note, that of `public_key` and its timestamp are in the fields.

        Raises
        ------
        CheckpointError
            There is no signature by this key, or it is false.
        """
        try:
            key = load_der_public_key(public_key)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise CheckpointError(
                self.url,
                f"the log's public key cannot be read ({error}): take the one of the log list, base64 of a"
                " SubjectPublicKeyInfo",
            ) from error
        candidates = [self]
        if self.note_signatures:
            key_id = note_key_id(self.origin, public_key)
            candidates = [self._signed_by(signature) for signature in self.note_signatures if signature[:4] == key_id]
        for candidate in candidates:
            if candidate._holds(key):
                return candidate
        raise CheckpointError(
            self.url,
            f"the tree head of {self.tree_size} entries is not signed by the log's key: check that the key is this"
            " log's; if it is, report the log",
        )

    def _signed_by(self, note_signature: bytes) -> Self:
        return replace(self, timestamp=int.from_bytes(note_signature[4:12]), signature=note_signature[12:])

    def _holds(self, key: PublicKeyTypes) -> bool:
        algorithm, signature = self.signature[1], self.signature[4:]
        signed = tree_head_to_sign(self.timestamp, self.tree_size, self.root_hash)
        return algorithm == algorithm_of(key) and signature_holds(key, signature, signed)


def tree_head_to_sign(timestamp: int, tree_size: int, root_hash: bytes) -> bytes:
    """Return the ``TreeHeadSignature`` that a log signs, whichever protocol it speaks (RFC 6962, section 3.5)."""
    # digitally-signed struct {
    #     Version version;                        v1(0)
    #     SignatureType signature_type;           tree_hash(1)
    #     uint64 timestamp;
    #     uint64 tree_size;
    #     opaque sha256_root_hash[32];
    # } TreeHeadSignature;
    return b"\x00\x01" + timestamp.to_bytes(8) + tree_size.to_bytes(8) + root_hash


def note_key_id(origin: str, public_key: bytes) -> bytes:
    """Return the key id of a log: the first 4 bytes of its signatures in checkpoints.

    Parameters
    ----------
    origin
        The log's origin, which is also the name of its key.
    public_key
        DER of the log's ``SubjectPublicKeyInfo``; its SHA-256 is the log's id (RFC 6962, section 3.2).
    """
    # key id = SHA-256(key name || 0x0A || signature type || public key)[:4]; signed note format
    return sha256(origin.encode() + b"\n" + _NOTE_SIGNATURE_TYPE + sha256(public_key).digest()).digest()[:4]


def read_sth(data: bytes, url: str) -> Checkpoint:
    """Read the answer of get-sth (RFC 6962, section 4.3).

    Parameters
    ----------
    data
        The JSON text as the log sent it.
    url
        The log's canonical URL.

    Raises
    ------
    UnreadableHeadError
        `data` is not a signed tree head.
    """
    try:
        # json.loads raises RecursionError on deep nesting.
        answer = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _malformed(url, f"it is not JSON ({error})") from error
    if not isinstance(answer, dict):
        raise _malformed(url, "it is not a JSON object")
    root_hash = _root_hash(_text(answer, "sha256_root_hash", url), url)
    signature = _base64(_text(answer, "tree_head_signature", url), "tree_head_signature", url)
    if not _is_digitally_signed(signature):
        raise _malformed(url, "tree_head_signature is not a digitally-signed struct of SHA-256 with ECDSA or RSA")
    tree_size, timestamp = _number(answer, "tree_size", LARGEST_TREE, url), _number(answer, "timestamp", _LATEST, url)
    return Checkpoint(url, url, tree_size, root_hash, timestamp, signature)


def read_checkpoint(data: bytes, url: str) -> Checkpoint:
    """Read a checkpoint of the Static CT API: a signed note with the tree head in it.

    Signatures by others, such as witnesses, are ignored.

    Parameters
    ----------
    data
        The note as the log sent it.
    url
        The log's canonical URL.

    Raises
    ------
    UnreadableHeadError
        `data` is not a checkpoint, or carries no signature of the log.
    """
    # <origin>\n<tree size in decimal>\n<root hash in base64>\n
    # \n
    # \u2014 <key name> <base64 of key id and signature>\n      one line or more
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise _malformed(url, "it is not UTF-8 text") from error
    body, blank, signatures = text.partition("\n\n")
    lines = body.split("\n")
    if not blank or not signatures.endswith("\n"):
        raise _malformed(url, "a blank line and signature lines are missing")
    if len(lines) != 3:
        # The log's signature would not cover extension lines, so the Static CT API allows none.
        raise _malformed(url, f"there are {len(lines)} lines of text instead of origin, tree size and root hash")
    origin, size, root = lines
    if not origin or not origin.isprintable():
        raise _malformed(url, "the origin is empty or not printable")
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", size) or int(size) > LARGEST_TREE:
        raise _malformed(url, f"the tree size {size[:40]!r} is not a decimal number up to {LARGEST_TREE}")
    root_hash = _root_hash(root, url)
    candidates = []
    for line in signatures[:-1].split("\n"):
        dash, _, name_and_signature = line.partition(" ")
        name, space, encoded = name_and_signature.rpartition(" ")
        if dash != "\u2014" or not space:
            raise _malformed(url, f"{line[:80]!r} is not a signature line")
        if name != origin:
            continue
        signature = _base64(encoded, "a signature of the log", url)
        # struct { uint64 timestamp; digitally-signed TreeHeadSignature; } RFC6962NoteSignature, after the key id.
        # Under the same name the log may also sign with keys of other types.
        if _is_digitally_signed(signature[12:]) and int.from_bytes(signature[4:12]) <= _LATEST:
            candidates.append(signature)
    if not candidates:
        raise _malformed(url, f"there is no RFC 6962 signature by {origin!r}")
    timestamp, signature = int.from_bytes(candidates[0][4:12]), candidates[0][12:]
    return Checkpoint(url, origin, int(size), root_hash, timestamp, signature, tuple(candidates))


def _malformed(url: str, what: str) -> CheckpointError:
    return UnreadableHeadError(
        url, f"the tree head cannot be read, {what}: check the URL, and report the log if it is right"
    )


def _is_digitally_signed(data: bytes) -> bool:
    # struct { SignatureAndHashAlgorithm algorithm; opaque signature<0..2^16-1>; } DigitallySigned;  RFC 5246, 4.7
    return (
        len(data) > 4 and data[0] == _SHA256 and data[1] in (RSA, ECDSA) and int.from_bytes(data[2:4]) == len(data) - 4
    )


def _base64(text: str, what: str, url: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise _malformed(url, f"{what} is not base64") from error
    if base64.b64encode(data).decode() != text:
        # A value has only one text: trailing bits must be zero.
        raise _malformed(url, f"{what} is not canonical base64")
    return data


def _root_hash(text: str, url: str) -> bytes:
    root_hash = _base64(text, "the root hash", url)
    if len(root_hash) != HASH_SIZE:
        raise _malformed(url, f"the root hash has {len(root_hash)} bytes instead of {HASH_SIZE}")
    return root_hash


def _text(answer: dict[str, Any], key: str, url: str) -> str:
    if not isinstance(value := answer.get(key), str):
        raise _malformed(url, f"{key} is missing or no string")
    return value


def _number(answer: dict[str, Any], key: str, largest: int, url: str) -> int:
    value = answer.get(key)
    if type(value) is not int or not 0 <= value <= largest:
        raise _malformed(url, f"{key} is missing or no number from 0 to {largest}")
    return value
