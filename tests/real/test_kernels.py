"""How much of the real world the kernels understand, and that they read it as the other readers do."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
from agreement import differing_certificates, page_outcomes, tile_outcomes, understood

from ctkit.wire.entries import decode_data_tile, decode_get_entries
from ctkit.wire.merkle import TILE_WIDTH

URL = "https://log.example"


def _pages(folder: Path) -> list[tuple[str, bytes, int]]:
    manifest = json.loads((folder / "get_entries" / "manifest.json").read_bytes())
    return [(page["file"], (folder / "get_entries" / page["file"]).read_bytes(), page["start"]) for page in manifest]


def _tiles(folder: Path) -> list[tuple[bytes, int, int]]:
    """Return each data tile with the range that it has, partial ones as well."""
    tiles = []
    for path in sorted(folder.glob("static/*/tile/data/**/*")):
        if path.is_file():
            is_partial = path.parent.suffix == ".p"
            start = int(path.parent.stem if is_partial else path.name) * TILE_WIDTH
            tiles.append((path.read_bytes(), start, start + (int(path.name) if is_partial else TILE_WIDTH)))
    return tiles


def test_certificates_of_all_kinds(real_data: Path) -> None:
    """Both readers agree on every certificate; of the corpora of oddities, too, the kernel reads nearly all."""
    found = pq.read_table(real_data / "certs" / "certs.parquet", columns=["der", "category"])
    ders = found["der"].to_pylist()

    assert differing_certificates(ders) == []

    by_category = Counter(zip(found["category"].to_pylist(), understood(ders), strict=True))
    print(*sorted(by_category.items()), sep="\n")
    assert sum(understood(ders)) / len(ders) >= 0.95


def test_certificates_of_logs(real_data: Path) -> None:
    """Of certificates and chains that public logs hold, the kernel reads nearly all."""
    ders: set[bytes] = set()
    for _, body, start in _pages(real_data):
        block = decode_get_entries(body, start, URL, 1024)
        ders |= {block.data[begin:end] for begin, end in block.certificate.tolist()} | set(block.issuers)
    for data, start, end in _tiles(real_data):
        block, _ = decode_data_tile(data, start, end, URL)
        ders |= {block.data[begin:end] for begin, end in block.certificate.tolist()}
    read = understood(certificates := sorted(ders))
    print(f"the kernel reads {sum(read)} of {len(read)} certificates of logs")

    assert differing_certificates(certificates) == []
    assert sum(read) / len(read) >= 0.95


def test_pages_of_logs(real_data: Path) -> None:
    """Every page is understood, asked for less than it has as well; those that broke other parsers are read alike."""
    pages = _pages(real_data)
    for file, body, start in pages:
        for limit in (1, 6, 1024):
            is_read, ours, slow = page_outcomes(body, start, limit)
            assert is_read, file
            assert ours == slow, file
    for path in sorted((real_data / "get_entries" / "bad").iterdir()):
        is_read, ours, slow = page_outcomes(path.read_bytes(), 7, 1024)
        print(path.name, is_read)
        assert ours == slow, path.name
    assert pages


def test_tiles_of_logs(real_data: Path) -> None:
    """Every tile is understood, from its middle on as well."""
    tiles = _tiles(real_data)
    for data, start, end in tiles:
        for wanted in ((start, end), ((start + end) // 2, end), (start, start + 1)):
            is_read, ours, slow = tile_outcomes(data, *wanted)
            assert is_read, wanted
            assert ours == slow, wanted
    assert tiles
