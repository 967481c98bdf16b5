"""Rows from blocks of entries, of certificates that `cryptography` makes."""

import datetime as dt
import hashlib
import ipaddress
import json
from typing import Any

import numpy as np
import pytest
from blocks import LOG, TIMESTAMP, block_of, certificate
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from ctkit.schema import encoded_schema
from ctkit.wire.der import der
from ctkit.wire.rows import count_unreadable, read_rows

NOT_BEFORE = dt.datetime(2026, 3, 10, 12)
NOT_AFTER = dt.datetime(2026, 6, 8, 11, 59, 59)
ED25519_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
"""Its signatures are always the same, and so are the hashes of what it signs."""


def name(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    """Return a name with one set for each attribute."""
    return x509.Name([x509.NameAttribute(*attribute) for attribute in attributes])


SUBJECT = name(
    (NameOID.STATE_OR_PROVINCE_NAME, "Bayern"),
    (NameOID.COUNTRY_NAME, "DE"),
    (NameOID.SERIAL_NUMBER, "HRB 1"),
    (NameOID.ORGANIZATIONAL_UNIT_NAME, "Web"),
    (NameOID.ORGANIZATION_NAME, 'Müller / "Söhne" =株'),
    (NameOID.LOCALITY_NAME, "München"),
    (NameOID.EMAIL_ADDRESS, "ca@example.org"),
    (NameOID.COMMON_NAME, "www.example.org"),
)
ISSUER = name((NameOID.ORGANIZATION_NAME, "Example CA"), (NameOID.COUNTRY_NAME, "GB"))


def make(*extensions: x509.ExtensionType, subject: x509.Name = SUBJECT, serial_number: int = 0x0406CAFE) -> bytes:
    """Return the DER of a certificate by `ISSUER`."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ISSUER)
        .public_key(ED25519_KEY.public_key())
        .serial_number(serial_number)
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
    return builder.sign(ED25519_KEY, None).public_bytes(serialization.Encoding.DER)


SAN = x509.SubjectAlternativeName(
    [
        x509.DNSName("www.example.org"),
        x509.DNSName("*.Example.org"),
        x509.RFC822Name("post@example.org"),
        x509.UniformResourceIdentifier("https://example.org"),
        x509.IPAddress(ipaddress.ip_address("192.0.2.1")),
        x509.IPAddress(ipaddress.ip_address("2001:db8::1:0:0:1")),
        x509.IPAddress(ipaddress.ip_address("::ffff:192.0.2.1")),
        x509.DirectoryName(ISSUER),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
        x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x0c\x01x"),
        x509.DNSName("xn--mnchen-3ya.example"),
        x509.DNSName("www.example.org"),
    ]
)
CA = x509.BasicConstraints(ca=True, path_length=3)


def pairs(digest: bytes) -> str:
    """Return the form in which a digest is stored."""
    return ":".join(f"{octet:02X}" for octet in digest)


def rows_of(*certificates: bytes, **options: Any) -> list[dict[str, Any]]:
    """Return the rows of a block of these certificates."""
    rows = read_rows(block_of(certificates), LOG, source_name="Example log", **options)
    rows.validate(full=True)
    return rows.to_pylist()


def chain_of(*issuers: bytes) -> list[str]:
    """Return the chain of an entry that has these issuers."""
    block = block_of([b""], chains=[range(len(issuers))], issuers=issuers)
    return read_rows(block, LOG, source_name="Example log")["chain"].to_pylist()[0]


def extensions_of(*extensions: x509.ExtensionType) -> dict[str, Any]:
    """Return what the chain says of the extensions of an issuer."""
    (text,) = chain_of(make(*extensions))
    return json.loads(text)["extensions"]


def raw_extensions(*extensions: tuple[str, str]) -> bytes:
    """Return the field of these extensions, each an object identifier and a value, both in hex."""
    elements = [(der(0x06, bytes.fromhex(key)), der(0x04, bytes.fromhex(value))) for key, value in extensions]
    return der(0xA3, der(0x30, *[der(0x30, *element) for element in elements]))


UNREADABLE = {
    "cert_index": 1,
    "update_type": "X509LogEntry",
    "seen": dt.datetime(2026, 3, 10, 12, 0, 0, 123000, dt.UTC),
    "seen_date": "2026-03-10",
    "source_name": "Example log",
    "source_url": "https://log.example",
    "cert_link": "https://log.example/entry/1",
    "serial_number": "",
    "fingerprint": "2A:6A:50:1E:58:58:4D:09:E5:23:B2:25:09:AB:A9:D9:18:56:1D:9D",
    "sha256": "DE:82:6F:9E:5A:CB:A2:2F:80:B9:5E:44:7F:9A:1A:29:DB:24:41:D3:F8:DE:E9:D8:3D:FB:B0:E5:23:70:DF:C0",
    "sha1": "2A:6A:50:1E:58:58:4D:09:E5:23:B2:25:09:AB:A9:D9:18:56:1D:9D",
    "not_before": 0,
    "not_after": 0,
    "is_ca": False,
    "signature_algorithm": "",
    "subject_aggregated": "",
    "issuer_aggregated": "",
    "all_domains": [],
    "as_der": b"no certificate",
    "chain": [],
}


def test_rows_when_one_certificate_cannot_be_read() -> None:
    """A precertificate with a chain, and bytes that are no certificate: two rows with every field."""
    leaf, issuer = make(SAN, x509.PrecertPoison()), make(CA, subject=ISSUER)
    block = block_of([leaf, b"no certificate"], start=7, entry_types=[1, 0], chains=[[0], []], issuers=[issuer])
    rows = read_rows(block, LOG, source_name="Example log")
    rows.validate(full=True)
    assert rows.schema == encoded_schema()
    sha1, sha256 = pairs(hashlib.sha1(issuer).digest()), pairs(hashlib.sha256(issuer).digest())
    assert rows.to_pylist() == [
        {
            "cert_index": 7,
            "update_type": "PrecertLogEntry",
            "seen": dt.datetime(2026, 3, 10, 12, 0, 0, 123000, dt.UTC),
            "seen_date": "2026-03-10",
            "source_name": "Example log",
            "source_url": "https://log.example",
            "cert_link": "https://log.example/entry/7",
            "serial_number": "0406CAFE",
            "fingerprint": pairs(hashlib.sha1(leaf).digest()),
            "sha256": pairs(hashlib.sha256(leaf).digest()),
            "sha1": pairs(hashlib.sha1(leaf).digest()),
            "not_before": 1773144000,
            "not_after": 1780919999,
            "is_ca": False,
            "signature_algorithm": "ed25519",
            "subject_aggregated": '/C=DE/CN=www.example.org/L=München/O=Müller / "Söhne" =株/OU=Web/ST=Bayern',
            "issuer_aggregated": "/C=GB/O=Example CA",
            "all_domains": ["www.example.org", "*.Example.org", "xn--mnchen-3ya.example"],
            "as_der": leaf,
            "chain": [
                '{"subject":{"C":"GB","O":"Example CA","aggregated":"/C=GB/O=Example CA"},'
                '"issuer":{"C":"GB","O":"Example CA","aggregated":"/C=GB/O=Example CA"},'
                '"serial_number":"0406CAFE","not_before":1773144000,"not_after":1780919999,'
                f'"fingerprint":"{sha1}","sha1":"{sha1}","sha256":"{sha256}",'
                '"signature_algorithm":"ed25519","is_ca":true,"extensions":{"basicConstraints":"CA:TRUE"}}'
            ],
        },
        UNREADABLE | {"cert_index": 8, "cert_link": "https://log.example/entry/8"},
    ]
    assert count_unreadable(rows) == 1


def test_rows_when_there_are_none() -> None:
    """An empty block becomes no rows, of the same schema."""
    for as_der in ("binary", "string"):
        rows = read_rows(block_of([]), LOG, source_name="Example log", as_der=as_der)
        assert (rows.schema, rows.num_rows, count_unreadable(rows)) == (encoded_schema(as_der), 0, 0)


def test_rows_of_an_older_table() -> None:
    """Certificates are standard base64 text there."""
    rows = read_rows(block_of([b"\xfb\xff\xfe", b"a"]), LOG, source_name="Example log", as_der="string")
    assert rows.schema == encoded_schema("string")
    assert rows["as_der"].to_pylist() == ["+//+", "YQ=="]


@pytest.mark.parametrize(
    ("milliseconds", "seen", "seen_date"),
    [
        (0, "1970-01-01T00:00:00.000+00:00", "1970-01-01"),
        (1773187199999, "2026-03-10T23:59:59.999+00:00", "2026-03-10"),
        (1773187200000, "2026-03-11T00:00:00.000+00:00", "2026-03-11"),
        (253402300799999, "9999-12-31T23:59:59.999+00:00", "9999-12-31"),
        (253402300800000, "1970-01-01T00:00:00.000+00:00", "1970-01-01"),
        (-1, "1970-01-01T00:00:00.000+00:00", "1970-01-01"),
        (2**63 - 1, "1970-01-01T00:00:00.000+00:00", "1970-01-01"),
        (-(2**63), "1970-01-01T00:00:00.000+00:00", "1970-01-01"),
    ],
)
def test_seen_when_a_date_can_say_it_and_when_not(milliseconds: int, seen: str, seen_date: str) -> None:
    """The log's timestamp, to the millisecond; one that no date can say is the epoch."""
    rows = read_rows(block_of([b"", b""], timestamps=[milliseconds, TIMESTAMP]), LOG, source_name="")
    assert rows["seen"].to_pylist()[0] == dt.datetime.fromisoformat(seen)
    assert rows["seen_date"].to_pylist() == [seen_date, "2026-03-10"]


def test_seen_when_it_is_the_time_of_the_request() -> None:
    """The given moment counts for every row."""
    rows = rows_of(b"", b"", seen=1773187200001)
    moment = dt.datetime(2026, 3, 11, 0, 0, 0, 1000, dt.UTC)
    assert [(row["seen"], row["seen_date"]) for row in rows] == [(moment, "2026-03-11")] * 2


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ("00", "00"),
        ("0000", "00"),
        ("01", "01"),
        ("00deadbeef", "DEADBEEF"),
        ("00000406cafe", "0406CAFE"),
        ("80", "80"),
        ("ffff", "FFFF"),
        ("", ""),
        ("7f" * 40, "7F" * 40),
    ],
)
def test_serial_number(contents: str, expected: str) -> None:
    """Whole octets in upper case without leading zeros, of any sign and size."""
    (row,) = rows_of(certificate(serial_number=der(0x02, bytes.fromhex(contents))))
    assert row["serial_number"] == expected


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        ("2a864886f70d010102", "md2, rsa"),
        ("2a864886f70d010104", "md5, rsa"),
        ("2a864886f70d010105", "sha1, rsa"),
        ("2a864886f70d01010b", "sha256, rsa"),
        ("2a864886f70d01010c", "sha384, rsa"),
        ("2a864886f70d01010d", "sha512, rsa"),
        ("2a864886f70d01010a", "sha256, rsa-pss"),
        ("2a8648ce380403", "dsa, sha1"),
        ("608648016503040302", "dsa, sha256"),
        ("2a8648ce3d0401", "ecdsa, sha1"),
        ("2a8648ce3d040302", "ecdsa, sha256"),
        ("2a8648ce3d040303", "ecdsa, sha384"),
        ("2a8648ce3d040304", "ecdsa, sha512"),
        ("2b6570", "ed25519"),
        ("2b6571", "unknown"),
        ("", "unknown"),
    ],
)
def test_signature_algorithm(identifier: str, expected: str) -> None:
    """The texts of the live server; of any other algorithm, that it is unknown."""
    (row,) = rows_of(certificate(algorithm=der(0x30, der(0x06, bytes.fromhex(identifier)), der(0x05))))
    assert row["signature_algorithm"] == expected


def test_signature_algorithm_when_there_is_none() -> None:
    """A certificate whose algorithm is odd is readable; one without an algorithm is not, but keeps its other fields."""
    odd, without = rows_of(certificate(algorithm=der(0x30, der(0x05))), certificate(algorithm=b""))
    assert (odd["signature_algorithm"], without["signature_algorithm"]) == ("unknown", "")
    assert odd["all_domains"] == without["all_domains"] == ["example.org"]
    assert without["not_after"] == 1780919999


@pytest.mark.parametrize(
    ("constraints", "expected"),
    [
        ([], False),
        (["3000"], False),
        (["30030101ff"], True),
        (["30060101ff020100"], True),
        (["0500"], False),
        (["30030101ff", "30030101ff"], False),
    ],
)
def test_is_ca(constraints: list[str], expected: bool) -> None:
    """Only one BasicConstraints extension that says so makes a CA, and a CA's common name is no domain."""
    (row,) = rows_of(certificate(extensions=raw_extensions(*(("551d13", value) for value in constraints))))
    assert (row["is_ca"], row["all_domains"]) == (expected, [] if expected else ["example.org"])


def test_all_domains_of_a_ca() -> None:
    """The common name of a CA is no domain, its DNS names are."""
    (row,) = rows_of(make(CA, x509.SubjectAlternativeName([x509.DNSName("ca.example.org")])))
    assert (row["is_ca"], row["all_domains"]) == (True, ["ca.example.org"])


def test_all_domains_when_there_is_no_name_at_all() -> None:
    """An empty subject, and an empty common name, give no domain."""
    blank_name = der(0x30, der(0x31, der(0x30, bytes.fromhex("0603550403"), der(0x0C))))
    empty, blank = rows_of(make(subject=x509.Name([])), certificate(subject=blank_name, extensions=b""))
    assert [(row["subject_aggregated"], row["all_domains"]) for row in (empty, blank)] == [("", []), ("/CN=", [])]


def test_all_domains_when_names_are_odd() -> None:
    """Every DNS name of every SubjectAltName extension counts, as it is; what is not UTF-8 becomes U+FFFD."""
    names = [
        b"A.example",
        b"a.example",
        "bücher.example".encode(),
        b"nul\0.example",
        b"\xff.example",
        b"",
        b"a.example",
    ]
    first, second = (der(0x30, *[der(0x82, name) for name in part]).hex() for part in (names[:2], names[2:]))
    broken = "30408205" + b"found".hex() + "8220" + b"lost".hex()
    extensions = raw_extensions(("551d11", first), ("551d11", "0500"), ("551d11", second), ("551d11", broken))
    (row,) = rows_of(certificate(extensions=extensions))
    assert row["all_domains"] == [
        "example.org",
        "A.example",
        "a.example",
        "bücher.example",
        "nul\0.example",
        "\ufffd.example",
        "",
        "found",
    ]


def test_all_domains_when_there_are_ten_thousand() -> None:
    """Every name counts, once."""
    names = [f"host-{number}.example.org" for number in range(10_000)]
    (row,) = rows_of(make(x509.SubjectAlternativeName([x509.DNSName(name) for name in names + names[:100]])))
    assert row["all_domains"] == ["www.example.org", *names]


def test_row_of_the_largest_certificate() -> None:
    """A certificate of 16 MiB less one octet, the most that an entry can hold, is read like any other."""
    around = len(certificate(extensions=raw_extensions(("2a", "00" * 2**23)))) - 2**23
    largest = certificate(extensions=raw_extensions(("2a", "00" * (2**24 - 1 - around))))
    assert len(largest) == 2**24 - 1
    (row,) = rows_of(largest)
    assert row["as_der"] == largest
    assert row["sha256"] == pairs(hashlib.sha256(largest).digest())
    assert (row["serial_number"], row["signature_algorithm"]) == ("1234", "ecdsa, sha256")


def test_rows_when_the_entries_are_some_of_a_block() -> None:
    """Only the entries that were taken become rows, each with its own chain."""
    issuers = [make(serial_number=number) for number in (1, 2, 3)]
    leaves = [make(serial_number=number) for number in (0x10, 0x11, 0x12, 0x13)]
    block = block_of(leaves, start=100, chains=[[0], [1, 2], [], [2, 0, 1]], issuers=issuers)
    rows = read_rows(block.take(np.array([False, True, True, True])), LOG, source_name="Example log").to_pylist()
    serials = [[json.loads(text)["serial_number"] for text in row["chain"]] for row in rows]
    assert [(row["cert_index"], row["serial_number"]) for row in rows] == [(101, "11"), (102, "12"), (103, "13")]
    assert serials == [["02", "03"], [], ["03", "01", "02"]]


def test_chain_when_an_issuer_cannot_be_read() -> None:
    """It is left out of all chains that name it, and costs no other certificate."""
    good = make()
    block = block_of([b"", b"", b""], chains=[[1], [0, 1, 0], [1, 1]], issuers=[good, b"no certificate"])
    chains = read_rows(block, LOG, source_name="Example log")["chain"].to_pylist()
    assert chains == [[], chain_of(good) * 2, []]


def test_chain_when_its_text_is_without_end() -> None:
    """A tile can name one issuer thousands of times for each entry: 1 MiB of text is kept of each chain."""
    large = certificate(subject=der(0x30, der(0x31, der(0x30, bytes.fromhex("0603550403"), der(0x0C, b"x" * 100_000)))))
    small = certificate()
    block = block_of([b""] * 256, chains=[[0, 1] * 2047] * 255 + [[1]], issuers=[large, small])
    chains = read_rows(block, LOG, source_name="Example log")["chain"]
    assert len(chains) == 256
    assert chains[0].as_py() == chain_of(large, small) * 5
    assert chains[255].as_py() == chain_of(small)


def test_chain_with_every_extension() -> None:
    """All extensions that are shown, in the live server's order and words."""
    access = [
        (AuthorityInformationAccessOID.OCSP, "http://ocsp.example.org"),
        (AuthorityInformationAccessOID.CA_ISSUERS, "http://ca.example.org/ca.cer"),
    ]
    purposes = [
        ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
        ExtendedKeyUsageOID.OCSP_SIGNING,
        ExtendedKeyUsageOID.TIME_STAMPING,
        ExtendedKeyUsageOID.EMAIL_PROTECTION,
        ExtendedKeyUsageOID.CODE_SIGNING,
        ExtendedKeyUsageOID.SMARTCARD_LOGON,
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.SERVER_AUTH,
    ]
    issuer = make(
        x509.SubjectKeyIdentifier(b"\x01\xab"),
        SAN,
        x509.KeyUsage(*[True] * 9),
        x509.ExtendedKeyUsage(purposes),
        x509.CertificatePolicies(
            [
                x509.PolicyInformation(x509.ObjectIdentifier("2.23.140.1.2.1"), ["https://example.org/cps"]),
                x509.PolicyInformation(x509.ObjectIdentifier("1.3.6.1.4.1.44947.1.1.1"), None),
            ]
        ),
        CA,
        x509.AuthorityKeyIdentifier(b"\x00\xff", None, None),
        x509.AuthorityInformationAccess(
            [x509.AccessDescription(method, x509.UniformResourceIdentifier(uri)) for method, uri in access]
            + [x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, x509.DirectoryName(ISSUER))]
        ),
        x509.PrecertPoison(),
        x509.OCSPNoCheck(),
    )
    (text,) = chain_of(issuer)
    sha1, sha256 = pairs(hashlib.sha1(issuer).digest()), pairs(hashlib.sha256(issuer).digest())
    assert text == (
        '{"subject":{"C":"DE","CN":"www.example.org","L":"München","O":"Müller / \\"Söhne\\" =株",'
        '"OU":"Web","ST":"Bayern",'
        '"aggregated":"/C=DE/CN=www.example.org/L=München/O=Müller / \\"Söhne\\" =株/OU=Web/ST=Bayern",'
        '"email_address":"ca@example.org"},'
        '"issuer":{"C":"GB","O":"Example CA","aggregated":"/C=GB/O=Example CA"},'
        '"serial_number":"0406CAFE","not_before":1773144000,"not_after":1780919999,'
        f'"fingerprint":"{sha1}","sha1":"{sha1}","sha256":"{sha256}",'
        '"signature_algorithm":"ed25519","is_ca":true,"extensions":{'
        '"authorityInfoAccess":"URI:http://ocsp.example.org, URI:http://ca.example.org/ca.cer",'
        '"authorityKeyIdentifier":"keyid:00:ff",'
        '"basicConstraints":"CA:TRUE",'
        '"certificatePolicies":"Policy: 2.23.140.1.2.1\\nPolicy: 1.3.6.1.4.1.44947.1.1.1\\n",'
        '"extendedKeyUsage":"serverAuth, clientAuth, codeSigning, emailProtection, timeStamping, OCSPSigning, '
        'anyExtendedKeyUsage",'
        '"keyUsage":"Digital Signature, Content Commitment, Key Encipherment, Data Encipherment, Key Agreement, '
        'Certificate Signing, CRL Signing, Encipher Only, Decipher Only",'
        '"subjectAltName":"DNS:www.example.org, DNS:*.Example.org, email:post@example.org, IP Address:192.0.2.1, '
        "IP Address:2001:db8::1:0:0:1, IP Address:::ffff:192.0.2.1, DNS:xn--mnchen-3ya.example, "
        'DNS:www.example.org",'
        '"subjectKeyIdentifier":"keyid:01:ab",'
        '"ctlPoisonByte":true}}'
    )


def test_chain_without_names_and_extensions() -> None:
    """Absent keys are left out; the objects and the aggregated names are always there."""
    (text,) = chain_of(make(subject=x509.Name([])))
    read = json.loads(text)
    assert (read["subject"], read["extensions"]) == ({"aggregated": ""}, {})


def test_chain_when_extensions_say_little() -> None:
    """An extension that holds nothing to show has no key, but unknown purposes and no usages are shown as nothing."""
    assert extensions_of(
        x509.BasicConstraints(ca=False, path_length=None),
        x509.SubjectAlternativeName([x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))]),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SMARTCARD_LOGON]),
        x509.KeyUsage(*[False] * 9),
        x509.AuthorityKeyIdentifier(None, [x509.DirectoryName(ISSUER)], 1),
        x509.AuthorityInformationAccess(
            [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.DNSName("ocsp.example.org"))]
        ),
    ) == {"basicConstraints": "CA:FALSE", "extendedKeyUsage": "", "keyUsage": ""}


def test_chain_when_extensions_are_odd() -> None:
    """What cannot be read has no key; of a repeated extension the last that can counts, of names all."""
    odd = [(key, "0500") for key in ("551d0e", "551d0f", "551d11", "551d13", "551d20", "551d23", "551d25")]
    repeated = [
        ("551d0f", "03020780"),
        ("551d0f", "03020640"),
        ("551d11", "30038201 61"),
        ("551d11", "3008 820162 8703010203"),
    ]
    shown = [("551d20", "300f 3004 06022a03 3007 0605 2affffff00"), ("2b06010505070101", "0500")]
    (text,) = chain_of(certificate(extensions=raw_extensions(*repeated, *odd, *shown)))
    assert json.loads(text)["extensions"] == {
        "certificatePolicies": "Policy: 1.2.3\nPolicy: 1.2.268435328\n",
        "keyUsage": "Content Commitment",
        "subjectAltName": "DNS:a, DNS:b",
    }


def test_chain_with_control_characters() -> None:
    """JSON escapes are those of the live server."""
    subject = der(0x30, der(0x31, der(0x30, bytes.fromhex("0603550403"), der(0x0C, b'\0\x1f\n"\\/\x7f'))))
    (text,) = chain_of(certificate(subject=subject))
    assert text.startswith('{"subject":{"CN":"\\u0000\\u001f\\n\\"\\\\/\x7f","aggregated":')
