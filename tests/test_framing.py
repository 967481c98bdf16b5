"""Pages and data tiles: the kernels frame what `ctkit.wire.entries` frames, or say that they do not understand."""

import base64
import json

import pytest
from agreement import page_outcomes, tile_outcomes
from wire import make_chain, make_entry, make_leaf_index, make_page, make_tile_leaf, opaque

from ctkit.demo.embedded import Request, make_log
from ctkit.wire.framing import MOST_ISSUERS

START = 512
SPACE = " \t\r\n"

Entry = tuple[bytes, bytes]

ORDINARY = make_entry(b"zero", b"issuer", b"root certificate")
PRECERT = make_entry(b"one", b"issuer", b"root certificate", precert=True, timestamp=5)
PAGE = make_page(ORDINARY, PRECERT)
LEAF, EXTRA = (base64.b64encode(part).decode() for part in ORDINARY)
ISSUERS = [b"%d." % number + bytes(number) for number in range(MOST_ISSUERS + 1)]


def _text(entry: str, rest: str = "") -> bytes:
    return f'{{"entries":[{entry}{rest}]}}'.encode()


def _spelled(leaf_input: str, extra_data: str = EXTRA) -> bytes:
    return _text(f'{{"leaf_input":"{leaf_input}","extra_data":"{extra_data}"}}')


def _padded(length: int) -> str:
    """Return base64 of extra data that ends in `length` bytes of a chain."""
    return base64.b64encode(make_chain(bytes(length))).decode()


def _first_bit(text: str) -> str:
    """Set a bit of base64 that stands for nothing."""
    digits = text.rstrip("=")
    return digits[:-1] + chr(ord(digits[-1]) + 1) + text[len(digits) :]


def _one_of(entry: Entry, **others: Entry) -> bytes:
    return make_page(others.get("before", ORDINARY), entry, PRECERT)


ENTRY = f'{{"leaf_input":"{LEAF}","extra_data":"{EXTRA}"}}'
PAGES = {
    "two entries": PAGE,
    "no white space": json.dumps(json.loads(PAGE), separators=(",", ":")).encode(),
    "much white space": json.dumps(json.loads(PAGE), indent=4, separators=(" ,\r\n", "\t: ")).encode() + b"\n",
    "white space around all": SPACE.join(["", "{", '"entries"', ":", "[", "]", "}", ""]).encode(),
    "no entries": b'{"entries":[]}',
    "one padding character": _spelled(LEAF, _padded(2)),
    "two padding characters": _spelled(LEAF, _padded(1)),
    "no padding": _spelled(LEAF, _padded(3)),
    "one padding character, and bits that stand for nothing": _spelled(LEAF, _first_bit(_padded(2))),
    "two padding characters, and bits that stand for nothing": _spelled(LEAF, _first_bit(_padded(1))),
    "the right leaf_index": make_page(make_entry(b"a", extensions=make_leaf_index(START))),
    "the largest timestamp": make_page(make_entry(b"a", timestamp=(1 << 63) - 1)),
    "no chain": make_page(make_entry(b"a"), make_entry(b"b", precert=True)),
    "chains that repeat": make_page(make_entry(b"a", b"x", b"yy", b"x"), make_entry(b"b", b"yy"), make_entry(b"c")),
    "as many issuers as are compared": make_page(make_entry(b"a", *ISSUERS[1:]), make_entry(b"b", *ISSUERS[1:])),
}
ODD_PAGES = {
    "nothing": b"",
    "white space": b" ",
    "an empty object": b"{}",
    "a list": b"[]",
    "text": b"<html>",
    "entries that are no list": b'{"entries":{}}',
    "another name": PAGE.replace(b'"entries"', b'"ENTRIES"'),
    "a name in escapes": PAGE.replace(b'"entries"', b'"entr\\u0069es"'),
    "another key order": _text(f'{{"extra_data":"{EXTRA}","leaf_input":"{LEAF}"}}'),
    "another key order, later": _text(ENTRY, f',{{"extra_data":"{EXTRA}","leaf_input":"{LEAF}"}}'),
    "a key twice": _text(f'{{"leaf_input":"","leaf_input":"{LEAF}","extra_data":"{EXTRA}"}}'),
    "a key too many": _text(f'{{"leaf_input":"{LEAF}","extra_data":"{EXTRA}","sct":""}}'),
    "a key too few": _text(f'{{"leaf_input":"{LEAF}"}}'),
    "entries twice": PAGE[:-1] + b',"entries":[]}',
    "another member than entries": PAGE[:-1] + b',"more":1}',
    "something before the entries": b'{"more":1,' + PAGE[1:],
    "something behind all": PAGE + b"x",
    "a comma at the end": _text(ENTRY, ","),
    "a comma in front": _text("," + ENTRY),
    "no comma": _text(ENTRY, ENTRY),
    "an entry that is null": _text("null", "," + ENTRY),
    "a text that is null": PAGE.replace(f'"{EXTRA}"'.encode(), b"null"),
    "space of another kind": PAGE.replace(b" ", b"\v"),
    "a byte order mark": b"\xef\xbb\xbf" + PAGE,
    "UTF-16": PAGE.decode().encode("utf-16"),
    "UTF-32": PAGE.decode().encode("utf-32-le"),
    "NUL behind all": PAGE + b"\0",
    "escaped slashes": _spelled(base64.b64encode(make_entry(b"\xff" * 30)[0]).decode().replace("/", "\\/")),
    "an escaped letter": _spelled(LEAF.replace("A", "\\u0041", 1)),
    "white space in base64": _spelled(LEAF[:8] + "\n" + LEAF[8:]),
    "a space after base64": _spelled(LEAF + " "),
    "the URL-safe alphabet": _spelled("_" + LEAF[1:]),
    "no padding where it belongs": _spelled(LEAF, _padded(1).rstrip("=")),
    "too much padding": _spelled(LEAF, _padded(1) + "="),
    "only padding": _spelled("===="),
    "padding in between": _spelled(LEAF, _padded(1) + _padded(1)),
    "one letter and padding": _spelled(LEAF, "A==="),
    "padding that is broken": _spelled(LEAF, _padded(3)[:-4] + "Q=I="),
    "empty texts": _spelled("", ""),
    "letters beyond ASCII": _spelled("é" + LEAF),
    "a leaf of another version": _one_of((b"\1" + ORDINARY[0][1:], ORDINARY[1])),
    "a leaf of another type": _one_of((b"\0\1" + ORDINARY[0][2:], ORDINARY[1])),
    "a leaf that is cut": _one_of((ORDINARY[0][:-1], ORDINARY[1])),
    "a leaf that is too long": _one_of((ORDINARY[0] + b"\0", ORDINARY[1])),
    "a leaf of one byte": _one_of((b"\0", ORDINARY[1])),
    "an unknown entry type": _one_of((ORDINARY[0][:10] + b"\0\2" + ORDINARY[0][12:], ORDINARY[1])),
    "an entry type beyond": _one_of((ORDINARY[0][:10] + b"\x80\0" + ORDINARY[0][12:], ORDINARY[1])),
    "an empty certificate": _one_of(make_entry(b"")),
    "an empty pre-certificate": _one_of((PRECERT[0], opaque(b"", 3) + make_chain())),
    "a pre-certificate that is cut": _one_of((PRECERT[0], PRECERT[1][:5])),
    "a certificate that is too long": _one_of((ORDINARY[0][:12] + b"\xff\xff\xff" + ORDINARY[0][15:], ORDINARY[1])),
    "another leaf_index": _one_of(make_entry(b"a", extensions=make_leaf_index(START))),
    "another leaf_index, first": make_page(make_entry(b"a", extensions=make_leaf_index(7)), PRECERT),
    "several extensions": _one_of(make_entry(b"a", extensions=b"\1\0\1x" + make_leaf_index(START + 1))),
    "an extension of another type": _one_of(make_entry(b"a", extensions=b"\1\0\5" + bytes(5))),
    "an extension that is cut": _one_of(make_entry(b"a", extensions=make_leaf_index(START + 1)[:-1])),
    "a timestamp of 64 bits": _one_of(make_entry(b"a", timestamp=1 << 63)),
    "the last timestamp": _one_of(make_entry(b"a", timestamp=(1 << 64) - 1)),
    "an empty certificate in a chain": _one_of(make_entry(b"a", b"x", b"", b"y")),
    "a chain that is cut": _one_of((ORDINARY[0], ORDINARY[1][:-1])),
    "a chain whose last certificate is too long": _one_of((ORDINARY[0], opaque(b"\0\0\2x", 3))),
    "bytes after a chain": _one_of((ORDINARY[0], ORDINARY[1] + b"\0")),
    "no chain at all": _one_of((ORDINARY[0], b"")),
    "one issuer too many": make_page(make_entry(b"a", *ISSUERS)),
    "issuers that differ where one has to look long": make_page(make_entry(b"a", b"0 is the end", b"1 is the end")),
}


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
@pytest.mark.parametrize("case", PAGES)
def test_page_when_it_is_understood(case: str, limit: int) -> None:
    """The kernel reads it, and nothing in it in another way, whether it was asked for less or for more."""
    understood, ours, slow = page_outcomes(PAGES[case], START, limit)

    assert understood
    assert ours == slow


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
@pytest.mark.parametrize("case", ODD_PAGES)
def test_page_when_it_is_not_understood(case: str, limit: int) -> None:
    """The kernel leaves it to the other reader, unless what it does not understand lies beyond what was asked for."""
    understood, ours, slow = page_outcomes(ODD_PAGES[case], START, limit)

    assert ours == slow
    assert not understood or limit == 1


def test_page_when_it_is_cut() -> None:
    """Wherever it ends, both readers say the same, and only the whole one is a page."""
    outcomes = [page_outcomes(PAGE[:end], START, 2) for end in range(len(PAGE) + 1)]

    assert [understood for understood, _, _ in outcomes] == [False] * len(PAGE) + [True]
    assert all(ours == slow for _, ours, slow in outcomes)


def test_page_when_a_letter_is_another() -> None:
    """Each letter of a page, replaced by each of those that mean something: both readers say the same."""
    body = _spelled(LEAF)
    for at in range(len(body)):
        for letter in b'"{}[]:,=\\/A\x80 ':
            _, ours, slow = page_outcomes(body[:at] + bytes((letter,)) + body[at + 1 :], START, 9)
            assert ours == slow, (at, letter)


def _tile(*leaves: bytes) -> bytes:
    return b"".join(leaves)


LEAVES = [
    make_tile_leaf(b"zero", b"issuer", b"root", extensions=make_leaf_index(START)),
    make_tile_leaf(b"one", b"issuer", b"root", precert=True, timestamp=5),
    make_tile_leaf(b"two", b"root", extensions=make_leaf_index(START + 2)),
]
X509, TBS = LEAVES[0], LEAVES[1]
TILES = {
    "three entries": (_tile(*LEAVES), START, START + 3),
    "more entries than were asked for": (_tile(*LEAVES) + b"anything", START, START + 3),
    "the first entry": (_tile(*LEAVES), START, START + 1),
    "from its middle on": (_tile(*LEAVES), START + 1, START + 3),
    "the last entry": (_tile(*LEAVES), START + 2, START + 3),
    "no chain": (make_tile_leaf(b"a"), START, START + 1),
    "the largest timestamp": (make_tile_leaf(b"a", timestamp=(1 << 63) - 1), START, START + 1),
    "as many issuers as are compared": (make_tile_leaf(b"a", *ISSUERS[1:]), START, START + 1),
    "an issuer too many, before the start": (make_tile_leaf(b"a", *ISSUERS) + TBS, START + 1, START + 2),
    "issuers of entries before the start": (make_tile_leaf(b"a", b"x") + TBS, START + 1, START + 2),
}
ODD_TILES = {
    "nothing": (b"", START, START + 1),
    "no entry asked for": (X509, START, START),
    "a partial tile": (_tile(*LEAVES), START, START + 256),
    "a partial tile, and a start beyond": (_tile(*LEAVES), START + 3, START + 256),
    "an unknown entry type": (X509[:8] + b"\0\2" + X509[10:], START, START + 1),
    "an unknown entry type, second": (X509 + X509[:8] + b"\xff\0" + X509[10:], START, START + 2),
    "an unknown entry type, before the start": (X509[:9] + b"\2" + X509[10:] + TBS, START + 1, START + 2),
    "another leaf_index": (X509, START + 1, START + 2),
    "another leaf_index, second": (X509 + X509, START, START + 2),
    "another leaf_index, before the start": (LEAVES[2] + TBS, START + 1, START + 2),
    "several extensions": (
        make_tile_leaf(b"a", extensions=b"\1\0\1x" + make_leaf_index(START)), START, START + 1
    ),
    "an extension of another type": (make_tile_leaf(b"a", extensions=b"\1\0\5" + bytes(5)), START, START + 1),
    "an empty certificate": (make_tile_leaf(b""), START, START + 1),
    "an empty pre-certificate": (TBS[: -(3 + 3 + 2 + 64)] + opaque(b"", 3) + opaque(b"", 2), START, START + 1),
    "a timestamp of 64 bits": (make_tile_leaf(b"a", timestamp=1 << 63), START, START + 1),
    "half a fingerprint": (make_tile_leaf(b"a")[:-2] + opaque(bytes(48), 2), START, START + 1),
    "one issuer too many": (make_tile_leaf(b"a", *ISSUERS), START, START + 1),
    "issuers that differ where one has to look long": (
        make_tile_leaf(b"a")[:-2] + opaque(b"0" + bytes(31) + b"1" + bytes(31), 2), START, START + 1
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TILES)
def test_tile_when_it_is_understood(case: str) -> None:
    """The kernel reads it, and nothing in it in another way."""
    understood, ours, slow = tile_outcomes(*TILES[case])

    assert understood
    assert ours == slow


@pytest.mark.parametrize("case", ODD_TILES)
def test_tile_when_it_is_not_understood(case: str) -> None:
    """The kernel leaves it to the other reader."""
    understood, ours, slow = tile_outcomes(*ODD_TILES[case])

    assert not understood
    assert ours == slow


@pytest.mark.parametrize("start", [START, START + 1, START + 2])
def test_tile_when_it_is_cut(start: int) -> None:
    """Wherever it ends, both readers say the same, and only the whole one is understood."""
    tile = _tile(*LEAVES)
    outcomes = [tile_outcomes(tile[:end], start, START + 3) for end in range(len(tile) + 1)]

    assert [understood for understood, _, _ in outcomes] == [False] * len(tile) + [True]
    assert all(ours == slow for _, ours, slow in outcomes)


def test_tile_when_a_bit_is_flipped() -> None:
    """Whichever bit it is, both readers say the same."""
    tile = _tile(*LEAVES)
    flipped = [(int.from_bytes(tile) ^ 1 << bit).to_bytes(len(tile)) for bit in range(8 * len(tile))]
    outcomes = [tile_outcomes(data, START + bit % 2, START + 3) for bit, data in enumerate(flipped)]

    assert all(ours == slow for _, ours, slow in outcomes)
    assert 0.1 < sum(understood for understood, _, _ in outcomes) / len(outcomes) < 0.9


def test_whole_pages_and_tiles_of_a_log() -> None:
    """Answers of an embedded log are understood, from their first entry on and from one in the middle."""
    log = make_log("Framed 2026h1", 600)
    page = log.respond(Request("ct/v1/get-entries", {"start": "256", "end": "511"})).body
    tile = b"".join(entry.tile_leaf for entry in log.entries[256:512])
    outcomes = [
        page_outcomes(page, 256, 256),
        page_outcomes(page, 256, 100),
        *(tile_outcomes(tile, start, end) for start, end in ((256, 512), (300, 512), (300, 301), (511, 512))),
    ]

    assert all(understood for understood, _, _ in outcomes)
    assert all(ours == slow for _, ours, slow in outcomes)
