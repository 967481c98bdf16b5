"""Chains that end in the roots that public logs accept, whether those sign themselves or not."""

import base64
import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ctkit.demo.embedded import EmbeddedLog, Request
from ctkit.demo.issuance import Issued
from ctkit.wire.entries import EntryBlock, decode_get_entries
from ctkit.wire.extra_data import _final_tbs, _read_frame, find_ends, find_faults
from ctkit.wire.roots import Roots


def block_of(*entries: Issued) -> EntryBlock:
    """Return entries as an RFC 6962 log sends them."""
    log = EmbeddedLog("A log", protocols=["rfc6962"])
    for each in entries:
        log.append(each, 1_773_144_000_123)
    query = {"start": "0", "end": str(len(entries) - 1)}
    return decode_get_entries(log.respond(Request("ct/v1/get-entries", query)).body, 0, "", len(entries))


def roots_of(folder: Path) -> dict[str, list[bytes]]:
    """Return the roots that sign themselves and those that do not."""
    kinds = ("self_signed", "not_self_signed")
    found = json.loads((folder / "roots" / "accepted_roots.json").read_bytes())
    return {kind: [base64.b64decode(each["der"]) for each in found[kind]] for kind in kinds}


def test_roots_logged_by_themselves(real_data: Path) -> None:
    """A root that was logged itself, without a chain, is right; the log is asked about those that do not sign it."""
    roots = roots_of(real_data)
    every = roots["self_signed"] + roots["not_self_signed"]

    block = block_of(*(Issued(root, (), None, b"") for root in every))
    ends = find_ends(block, find_faults(block))

    assert [every[row] for row in ends] == roots["not_self_signed"]
    for accepted in (Roots(every), Roots(None)):
        assert all(map(accepted.may_be_end, ends.values()))


def test_precertificate_under_a_root_that_does_not_sign_itself(real_data: Path) -> None:
    """The real pre-certificate is right under the root that its log accepts, and under no other."""
    found = json.loads((real_data / "roots" / "accepted_roots.json").read_bytes())
    found = found["real_precertificate_under_an_accepted_intermediate"]
    precertificate, root = (base64.b64decode(found[name]) for name in ("precertificate", "accepted_root"))
    key = x509.load_der_x509_certificate(root).public_key()
    key_hash = sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    tbs = _final_tbs(precertificate, _read_frame(precertificate, 0, len(precertificate)), None)
    issued = Issued(precertificate, (root,), tbs, key_hash)
    (other, *_) = roots_of(real_data)["self_signed"]

    block = block_of(issued, issued)
    ends = find_ends(block, find_faults(block))

    assert list(ends.values()) == [root, root]
    assert Roots([root]).may_be_end(root)
    wrong = block_of(replace(issued, chain=(other,)))
    assert find_faults(wrong).tolist() != [0]
    assert find_ends(wrong, find_faults(wrong)) == {}
