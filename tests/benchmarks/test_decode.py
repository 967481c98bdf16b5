"""How fast the bytes of a log become rows."""

import json
import os
from collections.abc import Callable
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import naive
import pyarrow as pa
import pytest
from blocks import LOG
from lake import timed

from ctkit.demo.embedded import Request, make_log
from ctkit.wire.entries import decode_data_tile, decode_get_entries
from ctkit.wire.rows import read_rows

ENTRIES = 256
ROUNDS = 15

# Some roots have the serial number 0.
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")

Decode = Callable[[], pa.RecordBatch]


@pytest.fixture(scope="module", params=["embedded", "real"])
def answers(request: pytest.FixtureRequest) -> SimpleNamespace:
    """Return a tile with its issuers and a page, 256 entries each."""
    if request.param == "embedded":
        log = make_log("Benchmark", ENTRIES)
        page = log.respond(Request("ct/v1/get-entries", {"start": "0", "end": f"{ENTRIES - 1}"})).body
        tile = b"".join(entry.tile_leaf for entry in log.entries)
        issuers = {bytes.fromhex(fingerprint): der for fingerprint, der in log.issuers.items()}
        return SimpleNamespace(name="embedded log", page=page, tile=tile, start=0, issuers=issuers)
    if "CTKIT_REAL_DATA" not in os.environ:
        pytest.skip("CTKIT_REAL_DATA names no folder of real data")
    folder = Path(os.environ["CTKIT_REAL_DATA"])
    static = folder / "static" / "tesseract_tile4"
    pages = sorted((folder / "get_entries").glob("nimbus*.json")) + sorted((folder / "get_entries").glob("xenon*.json"))
    entries = [entry for path in pages for entry in json.loads(path.read_bytes())["entries"]]
    entries = (entries * 3)[:ENTRIES]
    ders = [path.read_bytes() for path in (static / "issuer").iterdir()]
    return SimpleNamespace(
        name="public logs",
        page=json.dumps({"entries": entries}, separators=(",", ":")).encode(),
        tile=(static / "tile" / "data" / "004").read_bytes(),
        start=1024,
        issuers={sha256(der).digest(): der for der in ders},
    )


def _compare(what: str, ours: Decode, baseline: Callable[[Callable[[bytes], str]], pa.RecordBatch], times: int) -> None:
    """Check that columns are equal, and that ours come so many times as fast as from the baseline.

    A baseline that reads each chain certificate only once, as we do, is shown beside.
    """
    cached = lru_cache(maxsize=None)(naive.chain_text)
    ways = {"ours": ours, "plain": partial(baseline, naive.chain_text), "cached": partial(baseline, cached)}
    rows = {name: decode().to_pylist() for name, decode in ways.items()}
    assert rows["ours"] == rows["plain"] == rows["cached"]
    assert len(rows["ours"]) == ENTRIES

    found = [{name: timed(decode) for name, decode in ways.items()} for _ in range(ROUNDS)]

    seconds, plain, each_once = (median(each[name] for each in found) for name in ways)
    print(f"\n{what}: {seconds * 1000:.1f} ms, {seconds / ENTRIES * 1e6:.1f} microseconds an entry;", end=" ")
    print(f"through cryptography {plain * 1000:.0f} ms = {plain / seconds:.1f} times;", end=" ")
    print(f"with each chain certificate read once {each_once * 1000:.0f} ms = {each_once / seconds:.1f} times")
    assert plain / seconds >= times


def test_static_tile(answers):
    """Make the 20 columns of a tile at least 15 times as fast as one certificate after the other."""
    start, end = answers.start, answers.start + ENTRIES

    def ours() -> pa.RecordBatch:
        block, fingerprints = decode_data_tile(answers.tile, start, end, LOG.url)
        return read_rows(block.with_issuers(fingerprints, answers.issuers), LOG, source_name=LOG.name)

    def baseline(chain_text: Callable[[bytes], str]) -> pa.RecordBatch:
        entries = naive.read_tile(answers.tile, answers.issuers)
        return naive.read_rows(entries, start, LOG, chain_text)

    _compare(f"tile of {answers.name}", ours, baseline, 15)


def test_rfc6962_page(answers):
    """Make the 20 columns of a page at least 8 times as fast as with `json`, `base64`, one certificate at a time."""

    def ours() -> pa.RecordBatch:
        return read_rows(decode_get_entries(answers.page, 0, LOG.url, ENTRIES), LOG, source_name=LOG.name)

    def baseline(chain_text: Callable[[bytes], str]) -> pa.RecordBatch:
        return naive.read_rows(naive.read_page(answers.page), 0, LOG, chain_text)

    _compare(f"page of {answers.name}", ours, baseline, 8)
