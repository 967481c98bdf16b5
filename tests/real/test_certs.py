"""Certificates of the real world, against what the command line of OpenSSL 3.0 reads from each."""

import json
import re
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from blocks import LOG, block_of
from cryptography import x509
from oracle import shown

from ctkit.wire.der import der
from ctkit.wire.rows import read_rows

# Last octet of the object identifier 2.5.4.x, in the order of the columns.
ATTRIBUTES = {"C": 6, "CN": 3, "L": 7, "O": 10, "OU": 11, "ST": 8}

Row = dict[str, Any]


@pytest.fixture(scope="module")
def pairs(real_data: Path) -> list[tuple[Row, Row]]:
    """Return our row of each certificate beside what OpenSSL says of it."""
    given = pq.read_table(real_data / "certs" / "certs.parquet", columns=["sha256", "der"])
    said = {row["sha256"]: row for row in pq.read_table(real_data / "certs" / "openssl_oracle.parquet").to_pylist()}
    rows = read_rows(block_of(given["der"].to_pylist()), LOG, source_name=LOG.name)
    rows.validate(full=True)
    return [(row, said[key]) for row, key in zip(rows.to_pylist(), given["sha256"].to_pylist(), strict=True)]


def disagreements(
    pairs: list[tuple[Row, Row]], column: str, expect: Callable[[Row, bytes], Any]
) -> list[tuple[Any, ...]]:
    """Return key, our value and the expected one, wherever they differ on a certificate that OpenSSL reads."""
    expected = [(row, said["sha256"], expect(said, row["as_der"])) for row, said in pairs if said["openssl_ok"]]
    assert expected
    return [(key, row[column], value) for row, key, value in expected if row[column] != value]


def test_every_certificate_is_a_row_with_its_bytes_and_hash(pairs: list[tuple[Row, Row]]) -> None:
    """The hash of each row is that of the certificate, whether it can be read or not."""
    assert [row["sha256"].replace(":", "").lower() for row, _ in pairs] == [said["sha256"] for _, said in pairs]


def test_no_certificate_is_unreadable_that_openssl_reads(pairs: list[tuple[Row, Row]]) -> None:
    """What OpenSSL reads is readable to us."""
    assert [said["sha256"] for row, said in pairs if said["openssl_ok"] and row["signature_algorithm"] == ""] == []


def test_serial_numbers_are_those_of_openssl(pairs: list[tuple[Row, Row]]) -> None:
    """Serial numbers agree; of a negative one, which OpenSSL shows with a sign, we show the two's complement."""

    def expect(said: Row, _: bytes) -> str:
        if not said["serial_hex"].startswith("-"):
            return said["serial_hex"]
        number = int(said["serial_hex"], 16)
        return number.to_bytes((number + 1).bit_length() // 8 + 1, signed=True).hex().upper()

    assert disagreements(pairs, "serial_number", expect) == []


@pytest.mark.parametrize("column", ["not_before", "not_after"])
def test_dates_are_those_of_openssl(pairs: list[tuple[Row, Row]], column: str) -> None:
    """Dates agree; one that is none is 0."""

    def expect(said: Row, _: bytes) -> int:
        if said[column] == "Bad time value":
            return 0
        year, *rest = map(int, re.findall(r"\d+", said[column]))
        return (datetime(year, *rest, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)

    assert disagreements(pairs, column, expect) == []


def test_is_ca_is_that_of_openssl(pairs: list[tuple[Row, Row]]) -> None:
    """BasicConstraints agree."""
    assert disagreements(pairs, "is_ca", lambda said, _: said["is_ca"]) == []


@pytest.mark.parametrize(
    ("column", "names"), [("subject_aggregated", "subject_rdns"), ("issuer_aggregated", "issuer_rdns")]
)
def test_names_are_those_of_openssl(pairs: list[tuple[Row, Row]], column: str, names: str) -> None:
    """Names agree, up to the difference that `attributes` makes good."""

    def expect(said: Row, certificate: bytes) -> str:
        name = attributes(said[names], certificate)
        return "".join(f"/{attribute}={name[attribute]}" for attribute in ATTRIBUTES if attribute in name)

    assert disagreements(pairs, column, expect) == []


def test_domains_are_those_of_openssl(pairs: list[tuple[Row, Row]]) -> None:
    """The common name of what is no CA, and the DNS names, each once."""

    def expect(said: Row, certificate: bytes) -> list[str]:
        common_name = "" if said["is_ca"] else attributes(said["subject_rdns"], certificate).get("CN", "")
        return list(dict.fromkeys([common_name] * bool(common_name) + said["dns_names"]))

    assert disagreements(pairs, "all_domains", expect) == []


def test_extensions_are_those_of_cryptography(real_data: Path) -> None:
    """What a chain says of extensions agrees on every certificate of which `cryptography` reads all of them."""
    ders = pq.read_table(real_data / "certs" / "certs.parquet", columns=["der"])["der"].to_pylist()
    expected = {}
    for certificate in ders:
        with warnings.catch_warnings(action="ignore"):
            try:
                extensions = x509.load_der_x509_certificate(certificate).extensions
            except Exception:  # It refuses in many ways.
                continue
        expected[certificate] = {key: text for extension in extensions for key, text in shown(extension.value)}
    assert expected
    block = block_of([b""] * len(expected), chains=[[at] for at in range(len(expected))], issuers=list(expected))
    chains = read_rows(block, LOG, source_name=LOG.name)["chain"].to_pylist()
    read = [json.loads(text)["extensions"] for (text,) in chains]
    assert [pair for pair in zip(read, expected.values(), strict=True) if pair[0] != pair[1]] == []


def attributes(rdns: list[str], certificate: bytes) -> dict[str, str]:
    """Return the attributes of a name that OpenSSL shows, with the text that a row has for them.

    OpenSSL decodes a BMPString, a UniversalString or a T61String by its type. A row has the contents as UTF-8, or not
    at all if they are not UTF-8. So the contents that OpenSSL decoded are looked for in the certificate.
    """
    name: dict[str, str] = {}
    for rdn in rdns:
        for pair in re.split(r" \+ (?=[A-Za-z0-9.]+=)", rdn):
            attribute, text = pair.split("=", 1)
            if attribute not in ATTRIBUTES:
                continue
            attribute_type = der(0x06, bytes((0x55, 4, ATTRIBUTES[attribute])))
            found = []
            for encoding in ("utf-8", "latin-1", "utf-16-be", "utf-32-be"):
                contents = text.encode(encoding, "ignore")
                form = re.escape(attribute_type) + b"." + re.escape(der(0, contents)[1:])
                found += [contents] * bool(re.search(form, certificate, re.DOTALL))
            try:
                name[attribute] = found[0].decode()
            except UnicodeDecodeError:
                continue
    return name
