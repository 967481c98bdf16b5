"""Answers of public logs decode to what their manifest says."""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from blocks import certificates_of, chains_of
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ctkit.errors import LogProtocolError
from ctkit.logs.log_list import LogDescription, read_log_list
from ctkit.wire.entries import PRECERT_ENTRY, EntryBlock, decode_data_tile, decode_get_entries

URL = "https://log.example"
KINDS = {0: "x509", 1: "precert"}


def _kinds(block: EntryBlock) -> Counter[str]:
    return Counter(KINDS[kind] for kind in block.entry_type.tolist())


def _is_der_certificate(der: bytes) -> bool:
    """Tell whether the bytes are one SEQUENCE of the length that they have."""
    return der[:2] == b"\x30\x82" and int.from_bytes(der[2:4]) == len(der) - 4


def test_get_entries_decode_to_what_the_manifest_says(real_data: Path) -> None:
    """Every page has the entries, indices and kinds of the manifest, and every certificate in it is DER."""
    folder = real_data / "get_entries"
    for page in json.loads((folder / "manifest.json").read_bytes()):
        asked = page["requested_end"] + 1 - page["start"]

        block = decode_get_entries((folder / page["file"]).read_bytes(), page["start"], URL, asked)

        assert block.index.tolist() == list(range(page["start"], page["start"] + page["n_entries"])), page["file"]
        assert _kinds(block) == page["kinds"], page["file"]
        assert all(map(_is_der_certificate, [*certificates_of(block), *block.issuers])), page["file"]
        assert len(set(block.issuers)) == len(block.issuers)


def test_entries_that_broke_other_parsers_decode(real_data: Path) -> None:
    """Odd certificates are no concern of framing: each page of them decodes."""
    pages = sorted((real_data / "get_entries" / "bad").iterdir())
    for path in pages:
        body = path.read_bytes()

        block = decode_get_entries(body, 7, URL, 1024)

        assert len(block) == len(json.loads(body)["entries"]), path.name
        assert all(map(_is_der_certificate, certificates_of(block))), path.name
    assert pages


def test_entry_with_a_proof_has_its_leaf_hash(real_data: Path) -> None:
    """The leaf of an entry of a public log hashes to what its inclusion proof was asked with."""
    proof = json.loads((real_data / "get_entries" / "argon2020_10000_full_proof.json").read_bytes())
    body = json.dumps({"entries": [proof["entry"]]}).encode()

    block = decode_get_entries(body, proof["entry_index"], URL, 1)

    assert block.index.tolist() == [proof["entry_index"]]
    assert block.leaf_hashes() == [base64.b64decode(proof["leaf_hash"])]


def _full_tiles(folder: Path) -> list[tuple[int, bytes]]:
    return [(int(path.name), path.read_bytes()) for path in sorted((folder / "tile" / "data").glob("[0-9]" * 3))]


def test_leaf_hashes_of_tiles_equal_the_hash_tiles(real_data: Path) -> None:
    """All data tiles of a public log decode to entries whose leaf hashes are its level-0 hash tiles."""
    folder = real_data / "static" / "navigli2025h2"
    info = json.loads((real_data / "static" / "info.json").read_bytes())["navigli2025h2"]
    fingerprints: set[bytes] = set()
    tiles = _full_tiles(folder)
    for number, tile in tiles:
        block, named = decode_data_tile(tile, number * 256, (number + 1) * 256, URL)

        assert block.index.tolist() == list(range(number * 256, (number + 1) * 256))
        assert b"".join(block.leaf_hashes()) == (folder / "tile" / "0" / f"{number:03}").read_bytes()
        assert all(map(_is_der_certificate, certificates_of(block)))
        fingerprints.update(named)
    assert len(tiles) * 256 == info["entries"]
    assert len(fingerprints) == info["distinct_issuers"]


def test_a_partial_tile_is_the_beginning_of_the_full_one(real_data: Path) -> None:
    """A partial tile decodes to its width of entries, and holds none beyond."""
    folder = real_data / "static" / "navigli2025h2" / "tile"
    [partial] = (folder / "data").glob("*.p/*")
    width, start = int(partial.name), int(partial.parent.name.removesuffix(".p")) * 256

    block, _ = decode_data_tile(partial.read_bytes(), start, start + 256, URL)
    with pytest.raises(LogProtocolError) as raised:
        decode_data_tile(partial.read_bytes(), start + width, start + 256, URL)

    assert block.index.tolist() == list(range(start, start + width))
    assert b"".join(block.leaf_hashes()) == (folder / "0" / partial.parent.name / partial.name).read_bytes()
    assert (raised.value.start, raised.value.end) == (start + width, start + 256)


def test_a_tile_with_all_its_issuers_has_full_chains(real_data: Path) -> None:
    """The issuer key hash of every precertificate of a tile is that of the first certificate of its chain."""
    folder = real_data / "static" / "tesseract_tile4"
    issuers = {bytes.fromhex(path.name): path.read_bytes() for path in (folder / "issuer").iterdir()}
    [(number, tile)] = _full_tiles(folder)

    block, fingerprints = decode_data_tile(tile, number * 256, (number + 1) * 256, URL)
    resolved = block.with_issuers(fingerprints, issuers)

    assert set(fingerprints) == set(issuers)
    assert _kinds(resolved) == {"precert": 256}
    assert all(hashlib.sha256(chain[0]).digest() in issuers for chain in chains_of(resolved))
    assert resolved.missing_issuers == ()
    assert _check_issuer_key_hashes(resolved) == 256


def _check_issuer_key_hashes(block: EntryBlock) -> int:
    """Compare the issuer_key_hash of each precertificate with its chain, and return how many were compared."""
    compared = 0
    for kind, (start, _), chain in zip(block.entry_type.tolist(), block.leaf.tolist(), chains_of(block), strict=True):
        if kind == PRECERT_ENTRY and chain:
            key = x509.load_der_x509_certificate(chain[0]).public_key()
            info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            assert block.data[start + 10 : start + 42] == hashlib.sha256(info).digest()
            compared += 1
    return compared


@pytest.mark.parametrize("name", ["gstatic_v3_all_logs_list.json", "apple_current_log_list.json"])
def test_log_lists_name_logs_of_both_protocols(real_data: Path, name: str) -> None:
    """A public list names each log that is neither retired nor rejected, under the URL that it is read from."""
    path = real_data / "loglists" / name
    operators = json.loads(path.read_bytes())["operators"]
    listed = [log for operator in operators for log in operator["logs"] + operator["tiled_logs"]]
    kept = [log for log in listed if not {"retired", "rejected"} & set(log.get("state") or ())]

    logs = read_log_list(path, user_agent="ct@example.org")

    assert Counter(log.url for log in logs) == Counter(
        (log.get("url") or log["monitoring_url"]).rstrip("/") for log in kept
    )
    assert {log.protocol for log in logs} <= {"rfc6962", "static-ct"}
    assert all(base64.b64decode(old["log_id"]) == hashlib.sha256(new.key).digest() for old, new in _by_url(kept, logs))


def _by_url(old: list[dict[str, str]], new: list[LogDescription]) -> Iterator[tuple[dict[str, str], LogDescription]]:
    described = {log.url: log for log in new}
    return ((log, described[(log.get("url") or log["monitoring_url"]).rstrip("/")]) for log in old)
