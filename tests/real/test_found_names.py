"""Names of real certificates: found as OpenSSL reads them."""

import random
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
from blocks import LOG, block_of
from rows import make_table

import ctkit
from ctkit.ask.names import folded
from ctkit.wire.rows import read_rows

DOMAINS = ["com", "org", "co.uk", "de", "google.com", "example.com", "localhost"]


def test_names_are_those_of_openssl(real_data: Path, tmp_path: Path) -> None:
    """For some hundred names and their parents: the certificates that have them, or a name below, by OpenSSL."""
    given = pq.read_table(real_data / "certs" / "certs.parquet", columns=["sha256", "der"])
    said = {row["sha256"]: row for row in pq.read_table(real_data / "certs" / "openssl_oracle.parquet").to_pylist()}
    # What OpenSSL cannot read is no oracle.
    known = [at for at, key in enumerate(given["sha256"].to_pylist()) if said[key]["openssl_ok"]]
    given = given.take(known)
    table = make_table(tmp_path / "main", read_rows(block_of(given["der"].to_pylist()), LOG, source_name=LOG.name))
    certificates = ctkit.certificates(table)
    own = {
        row["key"]: row
        for row in certificates.select("key", "cert_index", "subject_cn", "is_ca").to_pyarrow().to_pylist()
    }
    expected: defaultdict[str, set[tuple[str, int]]] = defaultdict(set)
    keys = given["sha256"].to_pylist()
    for row in own.values():
        names = set(said[keys[row["cert_index"]]]["dns_names"])
        # Common names are compared with OpenSSL's elsewhere.
        names |= {row["subject_cn"]} if row["subject_cn"] and not row["is_ca"] else set()
        for name in map(folded, names):
            labels = name.split(".")
            for at in range(len(labels)):
                expected[".".join(labels[at:])].add((name, row["cert_index"]))
    asked = random.Random(1).sample(sorted(filter(None, expected)), 60)
    for domain in [*DOMAINS, *asked]:
        found = ctkit.find_names(table, domain, index_path=tmp_path / "names").select("name", "cert_index").to_pyarrow()
        assert {tuple(row.values()) for row in found.to_pylist()} == expected[folded(domain)], domain
