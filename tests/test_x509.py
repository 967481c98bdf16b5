"""Certificates encoded by hand, as they should be and as they should not."""

from datetime import UTC, datetime

import pytest
from blocks import ALGORITHM, DATES, FIELDS, KEY, NAME, SAN, certificate

from ctkit.wire import x509
from ctkit.wire.der import der

NULL = der(0x05)
WHOLE = x509.Certificate(
    readable=True,
    signature_algorithm=bytes.fromhex("2a8648ce3d040302"),
    serial_number=b"\x12\x34",
    issuer=NAME[2:],
    subject=NAME[2:],
    not_before=1773144000,
    not_after=1780919999,
    extensions={x509.SUBJECT_ALT_NAME: [der(0x30, der(0x82, b"example.org"))]},
    critical=frozenset(),
)
EMPTY = x509.Certificate(False, b"", b"", b"", b"", 0, 0, {}, frozenset())


def names(value: bytes) -> list[tuple[int, bytes]]:
    """Return the general names that can be read."""
    return list(x509.read_general_names(value))


def test_certificate_when_it_is_as_it_should_be() -> None:
    """Every field is read."""
    assert x509.read_certificate(certificate()) == WHOLE


@pytest.mark.parametrize("absent", ["version", "extensions"])
def test_certificate_without_an_optional_field(absent: str) -> None:
    """Version and extensions may be absent."""
    expected = WHOLE._replace(extensions={}) if absent == "extensions" else WHOLE
    assert x509.read_certificate(certificate(**{absent: b""})) == expected


def test_certificate_with_unique_identifiers() -> None:
    """All ten fields of a TBSCertificate are passed over."""
    assert x509.read_certificate(certificate(key=KEY + der(0x81, b"\0i") + der(0x82, b"\0s"))) == WHOLE


@pytest.mark.parametrize(
    ("field", "lost"),
    [
        ("serial_number", {"serial_number": b""}),
        ("signature", {}),
        ("issuer", {"issuer": b""}),
        ("validity", {"not_before": 0, "not_after": 0}),
        ("subject", {"subject": b""}),
        ("key", {}),
        ("extensions", {"extensions": {}}),
        ("algorithm", {"signature_algorithm": b""}),
    ],
)
def test_certificate_with_one_odd_field(field: str, lost: dict[str, object]) -> None:
    """A field of another type costs that field and no other."""
    odd = der(0x30, NULL) if field == "algorithm" else NULL
    assert x509.read_certificate(certificate(**{field: odd})) == WHOLE._replace(**lost)


def test_certificate_with_one_odd_date() -> None:
    """A date that is none is 0, the other one is kept."""
    odd = certificate(validity=der(0x30, der(0x17, b"260230120000Z"), DATES[1]))
    assert x509.read_certificate(odd) == WHOLE._replace(not_before=0)


def test_certificate_with_one_odd_extension() -> None:
    """An extension without a value, or whose framing is broken inside, costs none of the others."""
    odd = der(0x30, bytes.fromhex("0603551d13")) + der(0x30, b"\x06\x03\x55") + der(0x30)
    assert x509.read_certificate(certificate(extensions=der(0xA3, der(0x30, odd, SAN)))) == WHOLE


def test_certificate_with_one_extension_twice() -> None:
    """Both values are kept, in their order, critical or not."""
    critical = der(0x30, bytes.fromhex("0603551d11 0101ff 0402 3000"))
    read = x509.read_certificate(certificate(extensions=der(0xA3, der(0x30, critical, SAN))))
    assert read.extensions == {x509.SUBJECT_ALT_NAME: [b"\x30\0", *WHOLE.extensions[x509.SUBJECT_ALT_NAME]]}
    assert read.critical == {x509.SUBJECT_ALT_NAME}


def test_certificate_with_bytes_after_it() -> None:
    """What follows the certificate is not looked at."""
    assert x509.read_certificate(certificate() + b"\0more") == WHOLE


def test_certificate_with_lengths_in_too_many_octets() -> None:
    """Lengths with leading zeros are read as BER."""
    tbs = b"".join(FIELDS.values())
    long = b"\x30\x84" + len(tbs).to_bytes(4) + tbs + ALGORITHM + der(0x03, b"\0signature")
    assert x509.read_certificate(b"\x30\x88" + len(long).to_bytes(8) + long) == WHOLE


def test_certificate_with_indefinite_lengths() -> None:
    """Elements of indefinite length are read to their end-of-contents octets, also within each other."""
    end = b"\0\0"
    fields = FIELDS | {"validity": b"\x30\x80" + b"".join(DATES) + end}
    tbs = b"\x30\x80" + b"".join(fields.values()) + end
    assert x509.read_certificate(b"\x30\x80" + tbs + ALGORITHM + der(0x03, b"\0signature") + end) == WHOLE


def test_certificate_when_it_is_none() -> None:
    """Other bytes are unreadable, and every field is empty."""
    message = der(0x30, bytes.fromhex("06092a864886f70d010702"), der(0xA0, NULL))
    for other in (b"", b"\x30", b"\x30\x80", b"\x30\xff", b"\x30\0", b"no certificate", message, der(0x31, NAME)):
        assert x509.read_certificate(other) == EMPTY


def test_certificate_when_it_is_cut_short() -> None:
    """Wherever a certificate is cut, it is unreadable and what comes before the cut is kept."""
    whole = certificate()
    cuts = {x509.read_certificate(whole[:size]) == EMPTY for size in range(12)}
    assert cuts == {True}
    in_subject = x509.read_certificate(whole[: whole.rindex(b"example.org", 0, whole.index(KEY)) + 3])
    assert in_subject == WHOLE._replace(readable=False, signature_algorithm=b"", subject=b"", extensions={})
    in_signature = x509.read_certificate(whole[:-1])
    assert in_signature == WHOLE._replace(readable=False, signature_algorithm=b"")


def test_certificate_when_a_field_runs_over_the_end_of_the_signed_part() -> None:
    """A length beyond its container makes the certificate unreadable; the fields before are kept."""
    broken = x509.read_certificate(certificate(subject=b"\x30\x7f" + NAME[2:], key=b"", extensions=b""))
    assert broken == WHOLE._replace(readable=False, signature_algorithm=b"", subject=b"", extensions={})


def test_certificate_when_a_field_is_missing() -> None:
    """A TBSCertificate of fewer than six fields is unreadable."""
    assert not x509.read_certificate(certificate(key=b"", extensions=b"")).readable


@pytest.mark.parametrize("shape", [b"\x30\x80" * 500_000, b"\x30\x80" * 2 + b"\x30\x00" * 500_000, b"\x30" * 1_000_000])
def test_certificate_when_it_is_a_bomb(shape: bytes) -> None:
    """Deep nesting and endless lists are walked without recursion, each byte a few times at most."""
    assert x509.read_certificate(shape) == EMPTY


@pytest.mark.parametrize(
    ("tag", "text", "expected"),
    [
        (0x17, "700101000000Z", "1970-01-01T00:00:00"),
        (0x17, "691231235959Z", "1969-12-31T23:59:59"),
        (0x17, "500101000000Z", "1950-01-01T00:00:00"),
        (0x17, "491231235959Z", "2049-12-31T23:59:59"),
        (0x17, "0002291200Z", "2000-02-29T12:00:00"),
        (0x17, "260310120000+0130", "2026-03-10T10:30:00"),
        (0x17, "260310120000-0130", "2026-03-10T13:30:00"),
        (0x17, "2603101200+0000", "2026-03-10T12:00:00"),
        (0x18, "20500101000000Z", "2050-01-01T00:00:00"),
        (0x18, "19491231235959Z", "1949-12-31T23:59:59"),
        (0x18, "00010101000000Z", "0001-01-01T00:00:00"),
        (0x18, "99991231235959Z", "9999-12-31T23:59:59"),
        (0x18, "202603101200Z", "2026-03-10T12:00:00"),
        (0x18, "20260310120000.999Z", "2026-03-10T12:00:00"),
        (0x18, "20260310120000-1200", "2026-03-11T00:00:00"),
    ],
)
def test_time_when_it_is_one(tag: int, text: str, expected: str) -> None:
    """Both types are read, with the two-digit years of RFC 5280 and the variants that X.680 allows."""
    read = x509.read_certificate(certificate(validity=der(0x30, DATES[0], der(tag, text.encode()))))
    assert datetime.fromtimestamp(read.not_after, UTC) == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00000101000000Z", -62_167_219_200),
        ("00000229000000Z", -62_167_219_200 + 59 * 86_400),
        ("00001231235959Z", -62_135_596_801),
        ("00000101000000+0100", -62_167_222_800),
    ],
)
def test_time_in_the_year_0(text: str, seconds: int) -> None:
    """It is a leap year like any other, though no datetime can hold it."""
    read = x509.read_certificate(certificate(validity=der(0x30, der(0x18, text.encode()), DATES[1])))
    assert read == WHOLE._replace(not_before=seconds)


def indefinite(tag: int, *parts: bytes) -> bytes:
    """Return an element of indefinite length."""
    return bytes((tag, 0x80)) + b"".join(parts) + b"\0\0"


def nested(depth: int, value: bytes) -> bytes:
    """Return a string in a string, and so on."""
    string = der(0x04, value)
    for _ in range(depth):
        string = der(0x24, string)
    return string


VALUE = der(0x30, der(0x82, b"example.org"))


@pytest.mark.parametrize(
    "value",
    [
        der(0x24, der(0x04, VALUE[:3]), der(0x04, VALUE[3:])),
        der(0x24, der(0x04, VALUE[:3]), der(0x24, der(0x04, VALUE[3:5]), der(0x04)), der(0x04, VALUE[5:])),
        indefinite(0x24, der(0x04, VALUE[:3]), der(0x04, VALUE[3:])),
        indefinite(0x24, indefinite(0x24, der(0x04, VALUE))),
        nested(6, VALUE),
    ],
)
def test_extension_when_its_value_consists_of_parts(value: bytes) -> None:
    """BER allows to cut an octet string into several: the value is all of them."""
    extension = der(0x30, bytes.fromhex("0603551d11"), value)
    assert x509.read_certificate(certificate(extensions=der(0xA3, der(0x30, extension)))) == WHOLE


@pytest.mark.parametrize(
    "value",
    [
        der(0x24, der(0x04, VALUE), der(0x0C, b"x")),
        der(0x24, der(0x04, VALUE), b"\x04\x05x"),
        der(0x24, der(0x04, VALUE), b"\0\1x"),
        nested(7, VALUE),
        nested(10_000, VALUE),
    ],
)
def test_extension_when_its_value_consists_of_something_else(value: bytes) -> None:
    """What is no octet string, or has too many in each other, is no value."""
    extension = der(0x30, bytes.fromhex("0603551d11"), value)
    odd = certificate(extensions=der(0xA3, der(0x30, extension)))
    assert x509.read_certificate(odd) == WHOLE._replace(extensions={})


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        (0x17, ""),
        (0x17, "260310120000"),
        (0x17, "260310120000Z\0"),
        (0x17, "20260310120000Z"),
        (0x17, "261310120000Z"),
        (0x17, "260229120000Z"),
        (0x17, "260310240000Z"),
        (0x17, "260310120060Z"),
        (0x17, "260310120000.5Z"),
        (0x17, "2603101200é0Z"),
        (0x18, "2603101200Z"),
        (0x18, "00000230000000Z"),
        (0x18, "20260310120000.Z"),
        (0x18, "2026031012Z"),
        (0x0C, "260310120000Z"),
    ],
)
def test_time_when_it_is_none(tag: int, text: str) -> None:
    """What is no date, or no type of date, is 0."""
    odd = certificate(validity=der(0x30, DATES[0], der(tag, text.encode())))
    assert x509.read_certificate(odd) == WHOLE._replace(not_after=0)


def attribute(identifier: str, *value: bytes) -> bytes:
    """Return one AttributeTypeAndValue."""
    return der(0x30, bytes.fromhex(identifier), *value)


C, CN, O, EMAIL = "0603550406", "0603550403", "060355040a", "06092a864886f70d010901"  # noqa: E741


def test_name_with_every_attribute() -> None:
    """Seven attribute types are read, in one set or in several, and others passed over."""
    identifiers = [C, CN, "0603550407", O, "060355040b", "0603550408", EMAIL, "0603550405", "0602550a"]
    pairs = [attribute(identifier, der(0x13, b"%d" % at)) for at, identifier in enumerate(identifiers)]
    expected = {"C": "0", "CN": "1", "L": "2", "O": "3", "OU": "4", "ST": "5", "email_address": "6"}
    assert x509.read_name(b"".join(der(0x31, pair) for pair in pairs)) == expected
    assert x509.read_name(der(0x31, *pairs)) == expected


def test_name_with_a_repeated_attribute() -> None:
    """The last one that is text counts."""
    values = (der(0x0C, b"first"), der(0x0C, b"second"), der(0x14, "dr\xfc".encode("latin-1")))
    assert x509.read_name(b"".join(der(0x31, attribute(CN, value)) for value in values)) == {"CN": "second"}


def test_name_with_odd_values() -> None:
    """Contents that are UTF-8 are text in whichever type; an absent or broken value costs that attribute."""
    name = der(
        0x31,
        attribute(C, der(0x0C)),
        attribute(CN, der(0x1E, "Bö".encode("utf-16-be"))),
        attribute(O, der(0x1E, "Bo".encode("utf-16-be"))),
        attribute("0603550407"),
        attribute("060355040b", b"\x0c\x09cut"),
        attribute("0603550408", der(0x69, "Český".encode())),
    )
    assert x509.read_name(name) == {"C": "", "O": "\0B\0o", "ST": "Český"}


def test_name_when_its_framing_breaks() -> None:
    """The attributes before the break are kept."""
    name = der(0x31, attribute(O, der(0x0C, b"Example"))) + b"\x31\x7f" + attribute(CN, der(0x0C, b"lost"))
    assert x509.read_name(name) == {"O": "Example"}


def test_general_names_when_one_is_odd() -> None:
    """Names of other kinds and empty names cost nothing; a broken length costs what comes after it."""
    odd = der(0x82, b"a.example"), der(0xA0, b"\x06\x7f"), der(0x82), der(0x9E, b"?"), der(0x82, b"b.example")
    expected = [(0x82, b"a.example"), (0xA0, b"\x06\x7f"), (0x82, b""), (0x9E, b"?"), (0x82, b"b.example")]
    assert names(der(0x30, *odd)) == expected
    assert names(der(0x30, *odd[:1]) + b"trailing") == expected[:1]
    assert names(der(0x30, odd[0], b"\x82\x20lost")) == expected[:1]
    assert names(b"\x30\x40" + odd[0]) == expected[:1]


def test_general_names_when_there_are_none() -> None:
    """Another type is no list of names."""
    assert [names(value) for value in (b"", b"\x30", der(0x30), der(0x82, b"a.example"), NULL)] == [[]] * 5


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("3000", False),
        ("30030101ff", True),
        ("3003010101", True),
        ("3003010100", False),
        ("3006020101 0101ff", False),
        ("", None),
        ("0500", None),
        ("0101ff", None),
        ("3005 0101ff", None),
    ],
)
def test_basic_constraints(value: str, expected: bool | None) -> None:
    """A first BOOLEAN that is not zero makes a CA; what is no SEQUENCE says nothing."""
    assert x509.read_basic_constraints(bytes.fromhex(value)) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("03020780", [0]),
        ("03020106", [5, 6]),
        ("0303078080", [0, 8]),
        ("0303 00ffff", list(range(9))),
        ("030100", []),
        ("0300", None),
        ("", None),
        ("040106", None),
        ("03050106", None),
    ],
)
def test_key_usage(value: str, expected: list[int] | None) -> None:
    """Bits are numbered from the left; what is no BIT STRING says nothing."""
    assert x509.read_key_usage(bytes.fromhex(value)) == expected


def test_identifiers_of_policies_purposes_and_keys() -> None:
    """The small extensions are read where they hold up, and are empty where not."""
    assert x509.read_policies(bytes.fromhex("300d 3004 0602 2a03 3000 3003 0401 2a")) == [b"\x2a\x03", b"", b""]
    assert x509.read_key_purposes(bytes.fromhex("300a 0602 2a03 0604 551d2500")) == [b"\x2a\x03", b"\x55\x1d\x25\0"]
    assert x509.read_subject_key_identifier(bytes.fromhex("04020102")) == b"\1\2"
    assert x509.read_authority_key_identifier(bytes.fromhex("3007 80020102 820103")) == b"\1\2"
    assert x509.read_authority_key_identifier(bytes.fromhex("3003 820103")) == b""
    for read in (x509.read_policies, x509.read_key_purposes):
        assert read(NULL) == []
    for read_key in (x509.read_subject_key_identifier, x509.read_authority_key_identifier):
        assert read_key(NULL) == b""


def test_access_locations_when_one_is_odd() -> None:
    """A description without a location is passed over."""
    method = bytes.fromhex("06082b06010505073001")
    good = der(0x30, method, der(0x86, b"http://ocsp.example"))
    value = der(0x30, der(0x30, method), der(0x30, method, b"\x86\x7fcut"), der(0x30), good)
    assert list(x509.read_access_locations(value)) == [(x509.URI, b"http://ocsp.example")]


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ("551d2500", "2.5.29.37.0"),
        ("2a", "1.2"),
        ("00", "0.0"),
        ("78", "2.40"),
        ("8837", "2.999"),
        ("8001", "0.1"),
        ("", ""),
        ("2a83" + "ff" * 17 + "7f", f"1.2.{2**128 - 1}"),
        ("2a84" + "80" * 17 + "00", ""),
        ("2a80", "1.2"),
        ("01" * 1024, "0" + ".1" * 1024),
        ("01" * 1025, ""),
    ],
)
def test_dotted(contents: str, expected: str) -> None:
    """Arcs are base 128; those beyond 128 bits are not read, nor are identifiers beyond 1024 octets."""
    assert x509.dotted(bytes.fromhex(contents)) == expected
