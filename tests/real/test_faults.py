"""What real logs do not sign belongs to what they sign, and nothing that differs from it by a byte does."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509

from ctkit.errors import LogProtocolError
from ctkit.wire.entries import PRECERT_ENTRY, EntryBlock, decode_data_tile, decode_get_entries
from ctkit.wire.extra_data import find_faults

URL = "https://log.example"


def pages_of(folder: Path) -> Iterator[bytes]:
    """Yield all answers of get-entries."""
    for path in sorted(folder.glob("*.json")) + sorted((folder / "bad").iterdir()):
        answer = json.loads(path.read_bytes())
        if "entry" in answer:
            yield json.dumps({"entries": [answer["entry"]]}).encode()
        elif "entries" in answer:
            yield path.read_bytes()


def tiles_of(folder: Path) -> Iterator[EntryBlock]:
    """Yield all full data tiles of one log, with the issuers that are there."""
    issuers = {bytes.fromhex(path.name): path.read_bytes() for path in (folder / "issuer").iterdir()}
    for path in sorted((folder / "tile" / "data").glob("[0-9]" * 3)):
        start = int(path.name) * 256
        block, fingerprints = decode_data_tile(path.read_bytes(), start, start + 256, URL)
        yield block.with_issuers(fingerprints, {each: issuers.get(each) for each in fingerprints})


def test_no_entry_of_a_real_log_has_a_fault(real_data: Path) -> None:
    """Pre-certificates and chains of public logs, odd ones included, are what their leaves say."""
    blocks = [decode_get_entries(page, 0, URL, 1000) for page in pages_of(real_data / "get_entries")]
    for name in ("navigli2025h2", "tesseract_tile4"):
        blocks += tiles_of(real_data / "static" / name)

    found = Counter(fault for block in blocks for fault in find_faults(block).tolist())

    assert found == {0: sum(map(len, blocks))}
    assert any(PRECERT_ENTRY in block.entry_type for block in blocks)


def written(block: EntryBlock) -> dict[bytes, tuple[bytes, list[bytes]]]:
    """Return certificate and chain by leaf hash of each entry without a fault."""
    faults, chain = find_faults(block), block.chain.tolist()
    offsets, certificates = block.chain_offsets.tolist(), block.certificate.tolist()
    return {
        leaf_hash: (
            block.data[slice(*certificates[row])],
            [block.issuers[each] for each in chain[offsets[row] : offsets[row + 1]]],
        )
        for row, leaf_hash in enumerate(block.leaf_hashes())
        if not faults[row]
    }


def without_signature(certificate: bytes) -> bytes:
    """Return what comes before the signature."""
    return certificate.removesuffix(x509.load_der_x509_certificate(certificate).signature)


def test_flipped_bytes_of_real_pages(real_data: Path) -> None:
    """Whatever byte of a page flips: what is written is right, but for the signatures of pre-certificates."""
    pages = [page for page in pages_of(real_data / "get_entries") if len(json.loads(page)["entries"]) in (1, 4)]
    for page in pages:
        expected = written(decode_get_entries(page, 0, URL, 1000))
        signed = {leaf_hash: without_signature(certificate) for leaf_hash, (certificate, _) in expected.items()}
        for at in range(len(page)):
            flipped = page[:at] + bytes([page[at] ^ 1 << at % 6]) + page[at + 1 :]
            try:
                block = decode_get_entries(flipped, 0, URL, 1000)
            except LogProtocolError:
                continue
            for leaf_hash, (certificate, chain) in written(block).items():
                if leaf_hash in expected and (certificate, chain) != expected[leaf_hash]:
                    assert chain == expected[leaf_hash][1], at
                    assert len(certificate) == len(expected[leaf_hash][0]), at
                    assert certificate.startswith(signed[leaf_hash]), at
    assert pages
