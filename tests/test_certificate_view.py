"""One certificate in full: decoded as its bytes say, however odd they are, and as text, HTML and PEM."""

import base64
import json
import re
from itertools import count

import pandas as pd
import pytest
from blocks import DATES, LOG, NAME, block_of, certificate, certify
from cryptography import x509 as library
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from rows import make_rows, make_table

import ctkit
from ctkit.desk.certificate_view import MOST_HEX, read_row
from ctkit.errors import ParameterError, TableError
from ctkit.schema import row_schema
from ctkit.wire.der import der
from ctkit.wire.rows import read_rows

KEY = ec.generate_private_key(ec.SECP256R1())
HOSTILE = [
    "",
    r"$\href{javascript:alert(1)}{click}$",
    "<script>alert(1)</script>",
    "moc.elpmaxe\u202e",
    "\x1b[2Jescape",
    "\x1b]8;;http://evil\x07link\x1b]8;;\x07",
    "a" * 65_536,
    "'\"&amp;",
    "\u200bwide",
]


def row_of(encoded, **options):
    """Return the row of a certificate."""
    return read_rows(block_of([encoded], **options), LOG, source_name=LOG.name).to_pylist()[0]


def issued(*extensions, subject="leaf.example", issuer="Example CA", key=KEY):
    """Return the bytes of a certificate."""
    return certify(subject, key, issuer, key, *extensions).public_bytes(ctkit_der())


def ctkit_der():
    """Return the name of the encoding."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.DER


def extension_values(opened):
    """Return what each extension says, by its name."""
    return {
        name.split(" (")[0]: (critical, value) for name, critical, value in opened.extensions.itertuples(index=False)
    }


def test_certificate_in_full():
    """All that it says is there."""
    names = [library.DNSName(f"{number}.example") for number in range(3)]
    encoded = issued(
        library.SubjectAlternativeName(names),
        library.BasicConstraints(ca=False, path_length=None),
        library.CRLDistributionPoints(
            [library.DistributionPoint([library.UniformResourceIdentifier("http://crl.example/a")], None, None, None)]
        ),
        library.PrecertPoison(),
    )
    opened = read_row(row_of(encoded, entry_types=[1]), copies=2)

    assert (opened.subject, opened.issuer, opened.serial_number) == ("CN=leaf.example", "CN=Example CA", "11")
    assert (opened.not_before, opened.not_after) == ("2026-03-10 00:00:00", "2026-06-10 00:00:00")
    assert (opened.kind, opened.key, opened.is_ca) == ("precertificate", "ECDSA, secp256r1", False)
    assert opened.signature_algorithm == "ecdsa, sha256 (1.2.840.10045.4.3.2)"
    assert opened.names == ("DNS:0.example", "DNS:1.example", "DNS:2.example")
    assert extension_values(opened) == {
        "subject alternative name": ("", "see the names"),
        "basic constraints": ("", "CA:FALSE"),
        "crl distribution points": ("", "URI:http://crl.example/a"),
        "precert poison": ("yes", "this is a precertificate: no client accepts it"),
    }
    assert (opened.problems, opened.copies, opened.der) == ((), 2, encoded)
    assert opened.link == "https://log.example/entry/0"
    assert library.load_pem_x509_certificate(opened.pem.encode()).public_bytes(ctkit_der()) == encoded
    assert bytes.fromhex("".join(line[8:] for line in opened.hex().splitlines())) == encoded


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
        (rsa.generate_private_key(65537, 2048), "RSA, 2048 bits, exponent 65537"),
    ],
)
def test_keys(key, said):
    """What is certified is said."""
    assert read_row(row_of(issued(key=key))).key == said


def test_names_in_their_order():
    """A name has all of its attributes, repeated ones too."""
    attributes = [(NameOID.COMMON_NAME, "a"), (NameOID.STREET_ADDRESS, "road 1"), (NameOID.COMMON_NAME, "b")]
    subject = library.Name([library.NameAttribute(oid, text) for oid, text in attributes])

    assert read_row(row_of(issued(subject=subject))).subject == "CN=a, STREET=road 1, CN=b"


def test_chain():
    """The chain has what the row says of each issuer."""
    issuer = issued(subject="Example CA", issuer="Root")
    opened = read_row(row_of(issued(), issuers=[issuer], chains=[[0]]))

    (said,) = opened.chain.to_dict("records")
    assert (said["subject"], said["issuer"], said["not_after"]) == ("/CN=Example CA", "/CN=Root", "2026-06-10 00:00:00")


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"no certificate",
        b"\x30\x80",
        certificate(key=b"", extensions=b""),
        certificate(subject=b"\x30\x7f" + NAME[2:]),
        certificate(validity=der(0x30, DATES[0], der(0x17, b"never"))),
        certificate(extensions=der(0xA3, der(0x30, der(0x30, b"\x06\x03\x55\x1d\x11", der(0x04, b"\x30\x7f"))))),
        certificate(serial_number=der(0x02, b"\xff\x00")),
        issued()[:200],
        issued() + b"more",
        b"\xff" * 70_000,
    ],
    # Some are random.
    ids=count(),
)
def test_odd_certificate(odd):
    """What cannot be decoded is said, its bytes are shown, and nothing is raised."""
    opened = read_row(row_of(odd))

    assert opened.der == odd
    assert opened.problems
    assert bytes.fromhex("".join(line[8:] for line in opened.hex().splitlines())) == odd[:MOST_HEX]
    assert opened.problems[0] in str(opened.tables()["not as it should be"].iloc[0, 0])
    assert ("PEM" in opened._repr_html_()) == (len(odd) <= MOST_HEX)


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda text: ascii(text[:12]))
def test_hostile_names(hostile):
    """A name in a certificate is text: no markup, no typesetting, no reversed letters, no escape."""
    rows = make_rows([0]).to_pylist()[0]
    text = {"subject": {"aggregated": hostile}, "issuer": {"aggregated": hostile}}
    others = {"source_name": hostile, "cert_link": hostile, "chain": [json.dumps(text)], "as_der": issued()}
    opened = read_row({**rows, **others})
    html, line = opened._repr_html_(), str(opened)

    assert "<script>" not in html
    assert not set("\x1b\u202e\u200b\x07") & set(html + line)
    assert html.count("<div class='ctkit-report tex2jax_ignore") == 1


def test_ten_thousand_names():
    """All names are there, and a record has some of them with their number."""
    names = [library.DNSName(f"{number}.example") for number in range(10_000)]
    opened = read_row(row_of(issued(library.SubjectAlternativeName(names))))

    assert len(opened.names) == 10_000
    assert "... and 9,950 more" in opened._repr_html_()
    assert len(opened._repr_html_()) < 200_000


def test_dates_of_a_chain_that_cannot_be_read():
    """They are no dates of 1970, as those of the certificate itself."""
    odd = certificate(validity=der(0x30, DATES[0], der(0x17, b"never")))
    opened = read_row(row_of(issued(), issuers=[odd], chains=[[0]]))

    (said,) = opened.chain.to_dict("records")
    assert said["not_before"] != said["not_after"] == ""
    assert len(opened.problems) == 1


@pytest.mark.parametrize("chain", [None, ["no json"], ["[]"], ['{"not_before": "soon"}'], ['{"not_before": 1e400}']])
def test_chain_of_another_writer(chain):
    """Whatever a chain's texts are, the certificate is opened."""
    opened = read_row({**row_of(issued()), "chain": chain})

    assert len(opened.problems) == len(chain or ())


def test_rows_of_another_writer():
    """Nulls, text that is none, and base64 that is none: what is there is shown."""
    nothing = {**dict.fromkeys(row_schema().names), "cert_index": 3}
    opened = read_row(nothing)

    assert (opened.der, opened.seen, opened.source_url) == (b"", "", "")
    assert read_row({**nothing, "as_der": "not base64!"}).der == b"not base64!"
    assert read_row({**nothing, "seen": pd.NaT}).seen == ""


def test_altered_certificate():
    """A row whose certificate is not the one of its hash says so."""
    row = row_of(issued())

    assert read_row(row).problems == ()
    assert len(read_row({**row, "as_der": issued(subject="other.example")}).problems) == 1


@pytest.mark.parametrize("as_der", ["binary", "string"])
def test_open_certificate(tmp_path, as_der):
    """It is opened from a table, whichever way that stores it; an entry that is not there is an error."""
    row = row_of(issued())
    row["as_der"] = row["as_der"] if as_der == "binary" else base64.b64encode(row["as_der"]).decode()
    table = ctkit.open_table(tmp_path / "table", as_der="binary" if as_der == "binary" else "text")
    rows = make_rows([0], as_der=as_der).schema.empty_table().from_pylist([row, row], schema=row_schema(as_der))
    make_table(tmp_path / "table", rows)
    table.update_incremental()

    opened = ctkit.open_certificate(table, LOG.url, 0)
    assert (opened.subject, opened.copies, opened.problems) == ("CN=leaf.example", 2, ())
    assert re.search(r"index=0 kind=certificate subject=CN=leaf\.example", str(opened))
    with pytest.raises(TableError):
        ctkit.open_certificate(table, LOG.url, 1)


def test_open_by_key(tmp_path):
    """The key of an answer names log and index; of another text it is said what is missing."""
    main = make_table(tmp_path / "main", make_rows([5, 7]))
    (key,) = ctkit.issuances(main).filter(lambda issued: issued.serial_number == f"{7:016X}").key.to_pyarrow()

    assert ctkit.open_certificate(main, key.as_py()).cert_index == 7
    for text in ("https://log.example", "https://log.example#", "#x", "https://log.example#-1"):
        with pytest.raises(ParameterError):
            ctkit.open_certificate(main, text)
