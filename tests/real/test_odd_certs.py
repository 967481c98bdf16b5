"""Certificates that are odd in one way each, and read by OpenSSL."""

from pathlib import Path

import pytest
from agreement import differing_certificates

from ctkit.wire import x509


@pytest.mark.parametrize(
    ("name", "not_before", "not_after", "is_ca", "count"),
    [
        ("35392e953f83", -62_167_219_199, 253_402_300_799, False, 5),
        ("8ed71789378e", 946_684_800, 4_102_444_800, True, 1),
    ],
    ids=["a date in the year 0", "an extension value in parts"],
)
def test_odd_certificate(real_data: Path, name: str, not_before: int, not_after: int, is_ca: bool, count: int) -> None:
    """Both readers read what OpenSSL reads."""
    certificate = (real_data / "certs" / "odd" / f"{name}.der").read_bytes()

    read = x509.read_certificate(certificate)

    (constraints,) = read.extensions[x509.BASIC_CONSTRAINTS]
    assert (read.readable, read.not_before, read.not_after) == (True, not_before, not_after)
    assert (x509.read_basic_constraints(constraints), len(read.extensions)) == (is_ca, count)
    assert differing_certificates([certificate]) == []
