"""The fields of certificates: the kernel reads what `ctkit.wire.x509` reads, or says that it does not understand."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from agreement import differing_certificates, understood
from blocks import ALGORITHM, DATES, FIELDS, NAME, SAN, certificate

import ctkit
from ctkit.wire.der import der
from ctkit.wire.extra_data import _find_in_pre_certificate
from ctkit.wire.kernels import MOST_NAMES, find_matching, read_certificates

CN, ORG, UNIT = (bytes.fromhex(text) for text in ("0603550403", "060355040a", "060355040b"))
EMAIL = bytes.fromhex("06092a864886f70d010901")


def _pair(attribute: bytes, value: bytes, tag: int = 0x0C) -> bytes:
    return der(0x30, attribute, der(tag, value))


def _name(*pairs: bytes) -> bytes:
    return der(0x30, *(der(0x31, pair) for pair in pairs))


def _extension(last: int, *words: bytes) -> bytes:
    return der(0x30, der(0x06, bytes((0x55, 0x1D, last))), *words)


def _names(*names: bytes) -> bytes:
    return _extension(0x11, der(0x04, der(0x30, *(der(0x82, name) for name in names))))


def _constraints(*words: bytes) -> bytes:
    return _extension(0x13, der(0x04, der(0x30, *words)))


def _extensions(*extensions: bytes) -> bytes:
    return der(0xA3, der(0x30, *extensions))


def _with(*extensions: bytes, **fields: bytes) -> bytes:
    return certificate(extensions=_extensions(*extensions), **fields)


def _valid(not_before: bytes, not_after: bytes = DATES[1]) -> bytes:
    return certificate(validity=der(0x30, not_before, not_after))


TRUE, ZERO = der(0x01, b"\xff"), der(0x01, b"\0")
MANY = [b"%d.example" % number for number in range(MOST_NAMES)]
OTHER_FIELDS = der(0x81, b"\0") + der(0x82, b"\0")

NO_UTF8 = ["80", "c1bf", "c3", "e09fbf", "eda080", "f08fbfbf", "f4908080", "f5808080", "ff", "e282", "c361", "f09f9861"]
NO_DATES = (
    b" Z 2603101200Z 260310120000+0100 260310120000z 26031012000aZ 2603101200000 2603101200/0Z 2603101200:0Z"
    b" 260230120000Z 260431120000Z 230229120000Z 260010120000Z 261310120000Z 260300120000Z 260310240000Z 260310126000Z"
    b" 260310120060Z 00000310120000Z 21000229000000Z 20260310120000.5Z"
).split(b" ")
UNDERSTOOD = {
    "an ordinary one": certificate(),
    "bytes after it": certificate() + b"anything",
    "no version and no extensions": certificate(version=b"", extensions=b""),
    "unique identifiers": certificate(extensions=OTHER_FIELDS + FIELDS["extensions"]),
    "extensions that come too early": certificate(key=FIELDS["extensions"] + FIELDS["key"]),
    "an extension field in place of the key": certificate(key=FIELDS["extensions"], extensions=b""),
    "two fields of extensions, of which one says nothing": certificate(
        extensions=_extensions(_extension(0x0F, der(0x04, b"\3\2\7\x80"))) + FIELDS["extensions"]
    ),
    "lengths in more octets than they need": certificate(subject=b"\x30\x84\0\0\0" + NAME[1:]),
    "serial number 0": certificate(serial_number=der(0x02, b"\0")),
    "a serial number of zeros": certificate(serial_number=der(0x02, b"\0\0\0")),
    "a serial number with leading zeros": certificate(serial_number=der(0x02, b"\0\0\x80\x0a")),
    "a negative serial number": certificate(serial_number=der(0x02, b"\xff\xfe")),
    "an empty serial number": certificate(serial_number=der(0x02, b"")),
    "a long serial number": certificate(serial_number=der(0x02, bytes(range(1, 256)) * 9)),
    "an unknown algorithm": certificate(algorithm=der(0x30, der(0x06, b"\x2a\x03"))),
    "an algorithm that a known one begins with": certificate(algorithm=der(0x30, der(0x06, ALGORITHM[4:-1]))),
    "an algorithm with parameters": certificate(algorithm=der(0x30, ALGORITHM[2:], der(0x05))),
    "a long algorithm": certificate(algorithm=der(0x30, der(0x06, bytes(300)))),
    "an empty algorithm": certificate(algorithm=der(0x30, der(0x06, b""))),
    "empty names": certificate(subject=_name(), issuer=_name(), extensions=b""),
    "an empty common name": certificate(subject=_name(_pair(CN, b""))),
    "all attributes, in another order": certificate(
        subject=_name(*(_pair(bytes((6, 3, 0x55, 4, last)), b"%d" % last) for last in range(256)))
    ),
    "a repeated attribute": certificate(subject=_name(_pair(CN, b"a"), _pair(ORG, b"b"), _pair(CN, b"c"))),
    "two attributes in one set": certificate(subject=der(0x30, der(0x31, _pair(ORG, b"a"), _pair(UNIT, b"b")))),
    "an attribute that is not shown": certificate(subject=_name(_pair(EMAIL, b"\xff"), _pair(CN, b"a"))),
    "an attribute with a long form of its length": certificate(subject=_name(_pair(b"\6\x81\3" + CN[2:], b"a"))),
    "names beyond ASCII": certificate(
        subject=_name(_pair(CN, "ÿ\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff".encode()))
    ),
    "a common name that is one of the domains": _with(_names(b"www.example.org", b"example.org", b"www.example.org")),
    "an empty domain, twice": _with(_names(b"", b"a", b"")),
    "domains of which one begins with the other": _with(_names(b"a.example", b"a", b"a.example.org")),
    "other kinds of names": _with(_extension(0x11, der(0x04, der(0x30, der(0x86, b"\xff"), der(0x82, b"a"))))),
    "as many domains as are compared": _with(_names(*MANY)),
    "no domains": _with(_names()),
    "a CA": _with(SAN, _constraints(TRUE)),
    "a CA, critical, with a path length": _with(_extension(0x13, TRUE, der(0x04, der(0x30, TRUE, der(0x02, b"\0"))))),
    "a CA by two octets": _with(_constraints(der(0x01, b"\0\1"))),
    "no CA by a path length alone": _with(_constraints(der(0x02, b"\0"))),
    "no CA, in words": _with(_constraints(ZERO)),
    "no CA, by no octet": _with(_constraints(der(0x01, b""))),
    "no CA, without words": _with(_constraints()),
    "twice a CA": _with(_constraints(TRUE), _constraints(TRUE)),
    "no extension": _with(),
    "short and long identifiers of extensions": _with(
        *(der(0x30, der(0x06, bytes(size)), der(0x04, b"")) for size in (0, 1, 2, 3, 4)), SAN
    ),
    "the last second of a leap year": _valid(der(0x17, b"001231235959Z")),
    "a leap day": _valid(der(0x17, b"000229000000Z"), der(0x18, b"24000229000000Z")),
    "the years of two digits": _valid(der(0x17, b"500101000000Z"), der(0x17, b"491231235959Z")),
    "the first and the last date": _valid(der(0x18, b"00010101000000Z"), der(0x18, b"99991231235959Z")),
    "something after the dates": certificate(validity=der(0x30, *DATES, der(0x05))),
}
NOT_UNDERSTOOD = {
    "nothing": b"",
    "one octet": b"\x30",
    "text": b"no certificate",
    "another tag": b"\x31" + certificate()[1:],
    "an indefinite length": b"\x30\x80" + certificate()[4:] + b"\0\0",
    "a length in five octets": b"\x30\x85\0\0\0" + certificate()[2:4] + certificate()[4:],
    "a length of 4 GiB": b"\x30\x84\xff\xff\xff\xff" + certificate()[4:],
    "a TBSCertificate of another tag": der(0x30, der(0x31, *FIELDS.values()), ALGORITHM),
    "no algorithm": der(0x30, der(0x30, *FIELDS.values())),
    "an algorithm of another tag": certificate(algorithm=der(0x31, ALGORITHM[2:])),
    "an algorithm that is no object identifier": certificate(algorithm=der(0x30, der(0x05))),
    "five fields": certificate(subject=b"", key=b"", extensions=b""),
    "twelve fields": certificate(extensions=der(0x81) * 5),
    "two versions": certificate(version=FIELDS["version"] * 2),
    "a serial number of another tag": certificate(serial_number=der(0x0A, b"\1")),
    "an issuer of another tag": certificate(issuer=b"\x31" + NAME[1:]),
    "dates of another tag": certificate(validity=der(0x31, *DATES)),
    "no dates": certificate(validity=der(0x30)),
    "one date": certificate(validity=der(0x30, DATES[0])),
    "a common name in Latin-1": certificate(subject=_name(_pair(CN, b"b\xfccher"))),
    "an issuer in Latin-1, next to a good one": certificate(issuer=_name(_pair(ORG, b"a"), _pair(ORG, b"\xfc"))),
    "an attribute without value": certificate(subject=_name(der(0x30, CN))),
    "an attribute without anything": certificate(subject=_name(der(0x30))),
    "a name that is cut": certificate(subject=der(0x30, NAME[2:-1])),
    "a domain in Latin-1": _with(_names(b"b\xfccher.example")),
    "a domain that is UTF-8 only with what follows it": _with(_names(b"a\xc3", b"")),
    "one domain too many": _with(_names(*MANY, b"more.example")),
    "one domain too often": _with(_names(*MANY, MANY[0])),
    "domains twice": _with(SAN, SAN),
    "domains in two fields": certificate(extensions=FIELDS["extensions"] * 2),
    "domains of another tag": _with(_extension(0x11, der(0x04, der(0x31, der(0x82, b"a"))))),
    "domains that are cut": _with(_extension(0x11, der(0x04, der(0x30, der(0x82, b"a"), b"\x82\2a")))),
    "constraints of another tag": _with(_extension(0x13, der(0x04, TRUE))),
    "constraints that are cut": _with(_constraints(b"\1\1")),
    "an extension without a value": _with(_extension(0x0F)),
    "an extension whose value has parts": _with(_extension(0x13, der(0x24, der(0x04, b"\x30\3"), der(0x04, TRUE)))),
    "an extension with only a BOOLEAN": _with(_extension(0x0F, TRUE)),
    "extensions of another tag": certificate(extensions=der(0xA3, der(0x31, SAN))),
    "extensions with something behind": certificate(extensions=der(0xA3, der(0x30, SAN), b"\0")),
    "an empty field of extensions": certificate(extensions=der(0xA3)),
    **{f"not UTF-8: {text}": certificate(subject=_name(_pair(CN, b"a" + bytes.fromhex(text)))) for text in NO_UTF8},
    **{f"no date: {date.decode()}": _valid(der(0x18 if len(date) > 13 else 0x17, date)) for date in NO_DATES},
}


@pytest.mark.parametrize("case", UNDERSTOOD)
def test_certificate_when_it_is_understood(case: str) -> None:
    """The kernel reads it, and nothing in it in another way."""
    assert understood([UNDERSTOOD[case]]) == [True]
    assert differing_certificates([UNDERSTOOD[case]]) == []


@pytest.mark.parametrize("case", NOT_UNDERSTOOD)
def test_certificate_when_it_is_not_understood(case: str) -> None:
    """The kernel leaves it to the other reader."""
    assert understood([NOT_UNDERSTOOD[case]]) == [False]
    assert differing_certificates([NOT_UNDERSTOOD[case]]) == []


def test_certificates_when_all_are_in_one_block() -> None:
    """What is left of a certificate that was not understood shows in no other."""
    every = [*UNDERSTOOD.values(), *NOT_UNDERSTOOD.values()]
    mixed = [der for pair in zip(every, reversed(every), strict=True) for der in pair]

    assert understood(mixed).count(True) == 2 * len(UNDERSTOOD)
    assert differing_certificates(mixed) == []


FULL = _with(SAN, _constraints(TRUE))


def test_certificate_when_a_bit_is_flipped() -> None:
    """Whichever bit it is, both readers agree."""
    flipped = [(int.from_bytes(FULL) ^ 1 << bit).to_bytes(len(FULL)) for bit in range(8 * len(FULL))]

    assert differing_certificates(flipped) == []
    assert 0.1 < sum(understood(flipped)) / len(flipped) < 0.9


def test_certificate_when_it_is_cut() -> None:
    """Wherever it ends, both readers agree, and what follows in the buffer is not read as if it belonged to it."""
    cuts = [FULL[:end] for end in range(len(FULL))]
    spans = np.array([(0, end) for end in range(len(FULL) + 1)])

    fields = read_certificates(FULL, spans, [])

    assert differing_certificates(cuts) == []
    assert fields.understood.tolist() == [*(understood([cut])[0] for cut in cuts), True]


def test_certificate_when_an_octet_is_any() -> None:
    """Each octet of the framing of a small certificate, with each value that it can have: both readers agree."""
    fields = {"issuer": _name(), "subject": _name(_pair(CN, b"b")), "key": der(0x30)}
    small = _with(_names(b"a"), **fields)
    changed = [small[:at] + bytes((value,)) + small[at + 1 :] for at in range(len(small)) for value in range(256)]

    assert differing_certificates(changed) == []


POISON = der(0x30, bytes.fromhex("060a2b06010401d679020403 0101ff 04020500"))
KEY_HASH = bytes(range(32))
ISSUER = SimpleNamespace(key_hash=KEY_HASH, signs_pre_certificates=False)
LATE = {"key": der(0x30, der(0x30, SAN, POISON)), "extensions": b""}
VERSIONS = {"version": FIELDS["version"] * 2}


@pytest.mark.parametrize(
    ("pre_certificate", "tbs_fields", "is_matching"),
    [
        (_with(SAN, POISON), FIELDS, True),
        (_with(POISON, SAN), FIELDS, True),
        (_with(SAN, POISON)[:-1], FIELDS, False),
        (_with(SAN), FIELDS, False),
        (_with(SAN, POISON, version=b""), FIELDS, False),
        (_with(SAN, POISON, **VERSIONS), FIELDS | VERSIONS, False),
        (certificate(**LATE), FIELDS | LATE | {"extensions": FIELDS["extensions"]}, False),
    ],
    ids=["ordinary", "poison first", "cut", "no poison", "other fields", "two versions", "a key with the poison"],
)
def test_pre_certificate_and_its_leaf(pre_certificate: bytes, tbs_fields: dict[str, bytes], is_matching: bool) -> None:
    """The kernel finds that they match where the reader that names faults finds none."""
    tbs = der(0x30, *tbs_fields.values())
    leaf = bytes(8) + b"\0\1" + KEY_HASH + len(tbs).to_bytes(3) + tbs + bytes(2)
    data, start, end = leaf + pre_certificate, len(leaf), len(leaf) + len(pre_certificate)
    leaves, spans = np.array([(0, start)]), np.array([(start, end)])

    found = find_matching(data, leaves, spans, np.array([True]), np.array([0]), [(b"issuer", KEY_HASH)])

    assert found.tolist() == [is_matching]
    assert (_find_in_pre_certificate(data, 0, start, end, [ISSUER]) == 0) == is_matching


def test_no_certificates() -> None:
    """Nothing is read from nothing."""
    fields = read_certificates(b"", np.zeros((0, 2), np.int64), [])

    assert len(fields.understood) == len(fields.domains.text) == 0
    assert fields.first_domain.tolist() == [0]


def test_certificates_when_they_are_more_than_offsets_can_count() -> None:
    """A GiB in one block is left to the other reader, before anything is allocated for it."""
    data = certificate(extensions=der(0xA3, der(0x30, _extension(0x0F, der(0x04, bytes(1 << 20))))))
    count = (1 << 30) // len(data) + 1

    fields = read_certificates(data, np.array([(0, len(data))] * count), [])

    assert understood([data]) == [True]
    assert fields.understood.tolist() == [False] * count
    assert len(fields.serial_number.text) == 0


_READ = """
import sys
sys.path.insert(0, sys.argv[1])
from ctkit.wire import framing
assert framing.__file__.startswith(sys.argv[1])
leaf = bytes(10) + b"\\0\\0\\1c" + bytes(2) + bytes(2)
print(framing.read_tile(leaf, 0, 1, 256).certificate.tolist())
"""


def test_kernels_when_no_folder_can_be_written(tmp_path: Path) -> None:
    """Without a writable cache functions are compiled all the same, and nothing is left behind."""
    package = tmp_path / "ctkit"
    shutil.copytree(Path(ctkit.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    # Not even root can make a folder of these files.
    for file in (package / "__pycache__", package / "wire" / "__pycache__", tmp_path / "cache"):
        file.write_bytes(b"")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path / "cache")}
    before = sorted(tmp_path.rglob("*"))

    done = subprocess.run(
        [sys.executable, "-c", _READ, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )

    assert (done.stdout, done.stderr) == ("[[13, 14]]\n", "")
    assert sorted(tmp_path.rglob("*")) == before
