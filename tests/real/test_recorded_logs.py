"""Recorded answers of public logs, served once more, become rows of a table through the public API."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pytest
from cryptography import x509
from rows import rows_of

import ctkit
from ctkit.wire.entries import PRECERT_ENTRY, X509_ENTRY, decode_data_tile, decode_get_entries

USER_AGENT = "ctkit tests, nobody@example.org"

Answer = Callable[[str, dict[str, list[str]]], bytes | None]


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """Serve what `answer` returns for a path and a query; 404 for None."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            body = answer(parts.path, parse_qs(parts.query))
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def page_server(pages: dict[int, list[dict[str, str]]], alignment: int) -> Answer:
    """Answer get-entries as the log did that the pages come from: never across a multiple of `alignment`."""
    entries = {start + at: entry for start, page in pages.items() for at, entry in enumerate(page)}

    def answer(path: str, query: dict[str, list[str]]) -> bytes | None:
        if not path.endswith("/ct/v1/get-entries"):
            return None
        start, end = int(query["start"][0]), int(query["end"][0])
        end = min(end, start - start % alignment + alignment - 1)
        found = [entries[index] for index in range(start, end + 1) if index in entries]
        return json.dumps({"entries": found}).encode() if start in entries else None

    return answer


def tile_server(folder: Path, size: int) -> Answer:
    """Answer as the Static CT log did whose files lie in `folder`; its tree head was not recorded, so make one up."""
    signature = base64.b64encode(bytes(12) + b"\x04\x03\x00\x02\x30\x00").decode()
    root = base64.b64encode(bytes(32)).decode()
    checkpoint = f"log.example\n{size}\n{root}\n\n\u2014 log.example {signature}\n".encode()

    def answer(path: str, _: dict[str, list[str]]) -> bytes | None:
        if path == "/checkpoint":
            return checkpoint
        file = folder / path.lstrip("/")
        return file.read_bytes() if re.match(r"/(tile/data|issuer)/", path) and file.is_file() else None

    return answer


def fill(tmp_path: Path, url: str, protocol: str, *ranges: tuple[int, int]) -> tuple[ctkit.BackfillReport, list[dict]]:
    """Backfill the ranges of one log into a new table; return the report and the rows."""
    with ctkit.open_log(url, user_agent=USER_AGENT, protocol=protocol, name="Recorded") as log:
        gaps = pa.table(
            {"source_url": [log.url] * len(ranges), "start": [a for a, _ in ranges], "end": [b for _, b in ranges]}
        )
        table = ctkit.open_table(tmp_path / "staging")
        report = ctkit.backfill([log], gaps, table, verify="off")
    return report, rows_of(table)


def colons(digest: bytes) -> str:
    """Return a hash as the columns have it."""
    return digest.hex(":").upper()


def check_rows(rows: list[dict], certificates: dict[int, tuple[int, int, bytes]]) -> None:
    """Compare rows with (entry type, timestamp, DER) by index, and names with what `cryptography` reads."""
    assert [row["cert_index"] for row in rows] == sorted(certificates)
    for row in rows:
        kind, timestamp, der = certificates[row["cert_index"]]
        assert row["as_der"] == der
        assert row["update_type"] == {X509_ENTRY: "X509LogEntry", PRECERT_ENTRY: "PrecertLogEntry"}[kind]
        assert row["sha256"] == colons(hashlib.sha256(der).digest())
        assert row["sha1"] == row["fingerprint"] == colons(hashlib.sha1(der).digest())
        assert int(row["seen"].timestamp() * 1000) == timestamp
        assert row["seen_date"] == row["seen"].date().isoformat()
        certificate = x509.load_der_x509_certificate(der)
        assert int(row["serial_number"], 16) == certificate.serial_number
        assert row["not_after"] == int(certificate.not_valid_after_utc.timestamp())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert set(names.get_values_for_type(x509.DNSName)) <= set(row["all_domains"])


def test_short_pages_of_xenon(tmp_path, real_data):
    """A log that ends each answer at a multiple of 32 gives every index exactly once, equal to the entry."""
    folder = real_data / "get_entries"
    manifest = [page for page in json.loads((folder / "manifest.json").read_bytes()) if "xenon" in page["file"]]
    pages = {page["start"]: json.loads((folder / page["file"]).read_bytes())["entries"] for page in manifest}
    ranges = [(page["start"], page["start"] + page["n_entries"]) for page in manifest]
    expected = {}
    for page in manifest:
        data = (folder / page["file"]).read_bytes()
        block = decode_get_entries(data, page["start"], "https://log.example", page["n_entries"])
        for index, kind, moment, (start, end) in zip(
            block.index.tolist(),
            block.entry_type.tolist(),
            block.timestamp.tolist(),
            block.certificate.tolist(),
            strict=True,
        ):
            expected[index] = kind, moment, block.data[start:end]

    with serving(page_server(pages, 32)) as url:
        report, rows = fill(tmp_path, f"{url}/logs/eu1/xenon2025h1/", "rfc6962", *ranges)

    assert report.complete
    assert report.unreadable == 0
    check_rows(rows, expected)
    assert {row["source_url"] for row in rows} == {f"{url}/logs/eu1/xenon2025h1"}
    assert rows[0]["cert_link"] == f"{url}/logs/eu1/xenon2025h1/ct/v1/get-entries?start=1500000&end=1500000"
    assert all(len(row["chain"]) >= 1 for row in rows)


@pytest.mark.parametrize("name", ["bad/no-common-name.json", "bad/failed*.json"])
def test_entries_that_broke_other_parsers(tmp_path, real_data, name):
    """Each becomes a row with its names and dates read."""
    (file,) = (real_data / "get_entries").glob(name)
    entries = json.loads(file.read_bytes())["entries"]

    with serving(page_server({7: entries}, 1000)) as url:
        report, rows = fill(tmp_path, url, "rfc6962", (7, 7 + len(entries)))

    assert (report.complete, report.unreadable) == (True, 0)
    assert len(rows) == len(entries)
    assert all(row["all_domains"] and row["not_after"] > row["not_before"] > 0 for row in rows)


def test_tile_of_tesseract_with_all_issuers(tmp_path, real_data):
    """256 precertificates with their full chains: each chain starts with the issuer that the entry's hash names."""
    folder = real_data / "static" / "tesseract_tile4"
    block, _ = decode_data_tile((folder / "tile/data/004").read_bytes(), 1024, 1280, "https://log.example")
    ders = {
        index: (PRECERT_ENTRY, moment, block.data[start:end])
        for index, moment, (start, end) in zip(
            block.index.tolist(), block.timestamp.tolist(), block.certificate.tolist(), strict=True
        )
    }

    with serving(tile_server(folder, 1280)) as url:
        report, rows = fill(tmp_path, url, "static-ct", (1024, 1280))

    assert (report.complete, report.missing_issuers) == (True, {})
    assert [row["cert_index"] for row in rows] == list(range(1024, 1280))
    issuers = {colons(hashlib.sha256(file.read_bytes()).digest()) for file in (folder / "issuer").iterdir()}
    for row in rows:
        assert row["as_der"] == ders[row["cert_index"]][2]
        chain = [json.loads(text) for text in row["chain"]]
        assert chain[0]["subject"]["aggregated"] == row["issuer_aggregated"]
        assert {link["sha256"] for link in chain} <= issuers
        assert row["cert_link"] == f"{url}/tile/data/004"


def test_tiles_of_navigli_with_most_issuers_missing(tmp_path, real_data):
    """A log that lost four of its five issuers still gives every row, and the report names the four."""
    folder = real_data / "static" / "navigli2025h2"
    info = json.loads((real_data / "static" / "info.json").read_bytes())["navigli2025h2"]

    with serving(tile_server(folder, 1024)) as url:
        report, rows = fill(tmp_path, url, "static-ct", (0, 3), (200, 700), (1000, 1024))

    assert (report.complete, report.unreadable) == (True, 0)
    assert [row["cert_index"] for row in rows] == [*range(3), *range(200, 700), *range(1000, 1024)]
    assert set(report.missing_issuers[url]) == set(info["issuers_missing"])
