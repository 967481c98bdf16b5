"""Certificates of the real world, opened in full."""

from pathlib import Path

import pyarrow.parquet as pq
from blocks import LOG, block_of

from ctkit.desk.certificate_view import read_row
from ctkit.wire.rows import read_rows


def test_every_certificate_is_opened(real_data: Path) -> None:
    """None is refused, however odd; of what OpenSSL reads, names and dates are there."""
    encoded = pq.read_table(real_data / "certs" / "certs.parquet", columns=["der"])["der"].to_pylist()
    encoded += [path.read_bytes() for path in (real_data / "certs" / "odd").glob("*.der")]
    rows = read_rows(block_of(encoded), LOG, source_name=LOG.name).to_pylist()
    opened = [read_row(row) for row in rows]

    assert [each.der for each in opened] == encoded
    assert [each.is_ca for each in opened] == [row["is_ca"] for row in rows]
    assert sum(bool(each.problems) for each in opened) < len(opened) / 10
    assert all(str(each) for each in opened)
