"""The bytes of entries: get-entries answers and data tiles become blocks, or our errors."""

import hashlib
import json
from dataclasses import fields

import numpy as np
import pytest
from blocks import certificates_of, chains_of
from hypothesis import given
from hypothesis import strategies as st
from raising import fails
from wire import make_chain, make_entry, make_leaf_index, make_page, make_tile_leaf, make_timestamped_entry, opaque

from ctkit.errors import LogProtocolError
from ctkit.wire.entries import PRECERT_ENTRY, X509_ENTRY, EntryBlock, decode_data_tile, decode_get_entries
from ctkit.wire.merkle import hash_leaf

URL = "https://log.example"
ROOT, ISSUER = b"root certificate", b"issuer"


def _spans(block: EntryBlock, offsets: np.ndarray) -> list[bytes]:
    return [block.data[start:end] for start, end in offsets.tolist()]


LEAVES = [
    make_entry(b"zero", ISSUER, ROOT),
    make_entry(b"one", ISSUER, ROOT, precert=True, timestamp=5),
    make_entry(b"two", ROOT),
]
TILE = b"".join(
    [
        make_tile_leaf(b"zero", ISSUER, ROOT),
        make_tile_leaf(b"one", ISSUER, ROOT, precert=True, timestamp=5),
        make_tile_leaf(b"two"),
    ]
)
BROKEN = {
    "a leaf that is cut": (LEAVES[0][0][:-1], LEAVES[0][1]),
    "a leaf that is too long": (LEAVES[0][0] + b"\0", LEAVES[0][1]),
    "a leaf without a type": (LEAVES[0][0][:11], LEAVES[0][1]),
    "another version": (b"\1" + LEAVES[0][0][1:], LEAVES[0][1]),
    "another leaf type": (b"\0\1" + LEAVES[0][0][2:], LEAVES[0][1]),
    "an unknown entry type": (LEAVES[0][0][:10] + b"\x80\0" + LEAVES[0][0][12:], LEAVES[0][1]),
    "an empty certificate": make_entry(b""),
    "a pre-certificate that is cut": (LEAVES[1][0], LEAVES[1][1][:5]),
    "another leaf_index": make_entry(b"zero", extensions=make_leaf_index(9)),
}
ODD_CHAINS = {
    "a chain that is cut": (LEAVES[0][1][:-1], [ISSUER]),
    "a chain that is too long": (LEAVES[0][1] + b"\0", [ISSUER, ROOT]),
    "another vector after the chain": (LEAVES[0][1] + make_chain(b"other"), [ISSUER, ROOT]),
    "an issuer that is cut": (opaque(opaque(ISSUER, 3) + opaque(ROOT, 3)[:-1], 3), [ISSUER]),
    "an issuer that reaches beyond its chain": (opaque(opaque(ISSUER, 3)[:-1], 3) + b"x", []),
    "an empty issuer": (make_chain(ISSUER, b"", ROOT), [ISSUER]),
    "half a length": (b"\0", []),
    "no chain": (b"", []),
}


def test_decode_get_entries_reads_every_field() -> None:
    """An answer of three entries becomes three columns of each field, in order."""
    block = decode_get_entries(make_page(*LEAVES), 7, URL, 3)

    assert block.index.tolist() == [7, 8, 9]
    assert block.timestamp.tolist() == [1_700_000_000_000, 5, 1_700_000_000_000]
    assert block.entry_type.tolist() == [X509_ENTRY, PRECERT_ENTRY, X509_ENTRY]
    assert certificates_of(block) == [b"zero", b"one", b"two"]
    assert _spans(block, block.leaf) == [leaf[2:] for leaf, _ in LEAVES]
    assert chains_of(block) == [[ISSUER, ROOT], [ISSUER, ROOT], [ROOT]]
    assert block.issuers == (ISSUER, ROOT)
    assert block.missing_issuers == ()


def test_decode_get_entries_when_more_came_than_asked_for() -> None:
    """What the log sends beyond the entries asked for is ignored, even if it is broken."""
    block = decode_get_entries(make_page(*LEAVES[:2], (b"", b"")), 0, URL, 2)

    assert block.index.tolist() == [0, 1]


def test_decode_get_entries_when_there_are_none() -> None:
    """An answer without entries becomes an empty block whose columns have their shapes."""
    block = decode_get_entries(b'{"entries": []}', 7, URL, 3)

    assert {f.name: np.shape(getattr(block, f.name)) for f in fields(block) if f.name not in ("data", "cut")} == {
        "index": (0,),
        "timestamp": (0,),
        "entry_type": (0,),
        "leaf": (0, 2),
        "certificate": (0, 2),
        "chain_offsets": (1,),
        "chain": (0,),
        "issuers": (0,),
        "missing_issuers": (0,),
        "odd_chains": (0,),
    }


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_decode_get_entries_when_the_first_entry_is_broken(broken: tuple[bytes, bytes]) -> None:
    """A first entry that breaks its framing raises an error that names it and its index, and no other index."""
    with fails(LogProtocolError, url=URL, start=7, end=8):
        decode_get_entries(make_page(broken, LEAVES[1]), 7, URL, 3)


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_decode_get_entries_when_a_later_entry_is_broken(broken: tuple[bytes, bytes]) -> None:
    """The entries before a broken one come as a short answer."""
    block = decode_get_entries(make_page(LEAVES[1], broken, LEAVES[2]), 7, URL, 3)

    assert certificates_of(block) == [b"one"]


@pytest.mark.parametrize("precert", [False, True])
@pytest.mark.parametrize(("chain", "expected"), ODD_CHAINS.values(), ids=ODD_CHAINS)
def test_decode_get_entries_when_a_chain_is_odd(chain: bytes, expected: list[bytes], precert: bool) -> None:
    """An entry whose leaf is sound is kept, with as much of its chain as can be read."""
    leaf, extra_data = make_entry(b"one", precert=precert)
    odd = (leaf, extra_data[:-3] + chain)

    block = decode_get_entries(make_page(odd, LEAVES[2]), 7, URL, 2)

    assert certificates_of(block) == [b"one", b"two"]
    assert chains_of(block) == [expected, [ROOT]]
    assert block.odd_chains == (7,)


def test_decoders_when_a_timestamp_is_beyond_int64() -> None:
    """A timestamp that no time can be is kept as the largest number; the bytes of the leaf say what it was."""
    options = {"timestamp": (1 << 64) - 1}
    block = decode_get_entries(make_page(make_entry(b"zero", **options)), 0, URL, 1)
    tiled, _ = decode_data_tile(make_tile_leaf(b"zero", **options), 0, 1, URL)

    assert block.timestamp.tolist() == tiled.timestamp.tolist() == [(1 << 63) - 1]
    assert _spans(block, block.leaf) == _spans(tiled, tiled.leaf) == [make_timestamped_entry(b"zero", **options)]


def test_decode_get_entries_tells_why_it_ends() -> None:
    """A block is cut where the next entry cannot be read, not where the answer ends."""
    broken = next(iter(BROKEN.values()))

    assert [
        decode_get_entries(make_page(*entries), 7, URL, limit).cut
        for entries, limit in [(LEAVES, 3), (LEAVES[:2], 3), ((*LEAVES, broken), 3), ((*LEAVES, broken), 4)]
    ] == [False, False, False, True]


def test_decode_get_entries_when_several_first_entries_are_broken() -> None:
    """The error covers all broken entries up to the first that can be read, so that each is asked for once."""
    with fails(LogProtocolError, start=7, end=9):
        decode_get_entries(make_page((b"", b""), (b"", b""), *LEAVES), 7, URL, 5)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"7", b"{}", b'{"entries": {}}', b'{"entries": null}', b"\xff\xfe", b"[" * 100_000],
)
def test_decode_get_entries_when_the_answer_is_something_else(body: bytes) -> None:
    """A body that is no JSON object with entries raises an error that blames no entry in particular."""
    with fails(LogProtocolError, start=None, end=None):
        decode_get_entries(body, 7, URL, 3)


@pytest.mark.parametrize(
    "element",
    [None, 7, "text", [], {}, {"leaf_input": 7, "extra_data": ""}, {"leaf_input": "é", "extra_data": ""}]
    + [{"leaf_input": text, "extra_data": ""} for text in ("A", "AAA", "AA==\n", "A-_A")],
)
def test_decode_get_entries_when_an_entry_is_no_base64(element: object) -> None:
    """An entry that is not an object with two strict base64 texts is a broken entry."""
    with fails(LogProtocolError, start=7, end=8):
        decode_get_entries(json.dumps({"entries": [element]}).encode(), 7, URL, 3)


@pytest.mark.parametrize(
    "extensions", [make_leaf_index(7), b"\1\0\1x" + make_leaf_index(7), b"anything", b"\0\0\4abcd"]
)
def test_decode_get_entries_when_extensions_do_not_contradict(extensions: bytes) -> None:
    """Extensions with the right leaf_index, without one, or of another form are no reason to refuse an entry."""
    block = decode_get_entries(make_page(make_entry(b"zero", extensions=extensions)), 7, URL, 1)

    assert certificates_of(block) == [b"zero"]


def test_decode_data_tile_reads_every_field() -> None:
    """A partial tile becomes the same columns, with chains as positions of fingerprints."""
    block, fingerprints = decode_data_tile(TILE, 512, 515, URL)

    assert block.index.tolist() == [512, 513, 514]
    assert block.timestamp.tolist() == [1_700_000_000_000, 5, 1_700_000_000_000]
    assert block.entry_type.tolist() == [X509_ENTRY, PRECERT_ENTRY, X509_ENTRY]
    assert certificates_of(block) == [b"zero", b"one", b"two"]
    assert _spans(block, block.leaf) == [leaf[2:] for leaf, _ in LEAVES]
    assert fingerprints == tuple(hashlib.sha256(der).digest() for der in (ISSUER, ROOT))
    assert block.chain_offsets.tolist() == [0, 2, 4, 4]
    assert block.chain.tolist() == [0, 1, 0, 1]


def test_decode_data_tile_when_a_part_is_wanted() -> None:
    """Only the wanted entries of a tile are kept, with the fingerprints that they name."""
    block, fingerprints = decode_data_tile(TILE, 514, 515, URL)

    assert (block.index.tolist(), certificates_of(block), fingerprints) == ([514], [b"two"], ())


@pytest.mark.parametrize("position", [0, 1, 255])
def test_decode_data_tile_when_its_leaf_index_is_right(position: int) -> None:
    """The leaf_index extension is compared with the position in the log, up to 40 bits of it."""
    first = (1 << 40) - 256
    tile = b"".join(make_tile_leaf(b"der", extensions=make_leaf_index(first + i)) for i in range(256))

    block, _ = decode_data_tile(tile, first + position, first + 256, URL)

    assert block.index.tolist() == list(range(first + position, first + 256))


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(b"", id="the end"),
        pytest.param(make_tile_leaf(b"three")[:20], id="a cut leaf"),
        pytest.param(make_tile_leaf(b"three", ROOT)[:-1], id="a cut chain"),
        pytest.param(make_tile_leaf(b"three", precert=True)[:-5], id="a cut pre-certificate"),
    ],
)
def test_decode_data_tile_when_an_entry_is_broken(broken: bytes) -> None:
    """What comes before a broken entry is a short answer; from it on, nothing in the tile can be found."""
    tile = TILE + broken

    block, _ = decode_data_tile(tile, 512, 768, URL)
    with fails(LogProtocolError, start=515, end=768):
        decode_data_tile(tile, 515, 768, URL)
    with fails(LogProtocolError, start=600, end=768):
        decode_data_tile(tile, 600, 601, URL)

    assert block.index.tolist() == [512, 513, 514]


def test_decode_data_tile_when_entries_are_of_other_indices() -> None:
    """Entries that say that they are of other indices cost themselves only: the tile can be read on."""
    say = [512, 7, 514, 515, 7, 8]
    tile = b"".join(make_tile_leaf(b"%d" % index, extensions=make_leaf_index(index)) for index in say)

    blocks = [decode_data_tile(tile, start, 518, URL)[0] for start in (512, 514)]
    for start, end in ((513, 514), (516, 518)):
        with fails(LogProtocolError, start=start, end=end):
            decode_data_tile(tile, start, 518, URL)

    assert [block.index.tolist() for block in blocks] == [[512], [514, 515]]
    assert [certificates_of(block) for block in blocks] == [[b"512"], [b"514", b"515"]]


def test_decode_data_tile_when_a_fingerprint_is_cut() -> None:
    """A chain whose length is odd keeps the fingerprints that are whole; the tile can be read on."""
    odd = make_tile_leaf(b"three")[:-2] + opaque(bytes(32) + b"half", 2)

    block, fingerprints = decode_data_tile(TILE + odd + make_tile_leaf(b"four"), 515, 517, URL)

    assert certificates_of(block) == [b"three", b"four"]
    assert (fingerprints, block.chain_offsets.tolist()) == ((bytes(32),), [0, 1, 1])


def test_with_issuers_when_one_is_missing() -> None:
    """An issuer that the log does not have leaves its place in all chains empty, and is named."""
    block, (issuer, root) = decode_data_tile(TILE, 512, 515, URL)

    resolved = block.with_issuers((issuer, root), {issuer: None, root: ROOT})

    assert chains_of(resolved) == [[ROOT], [ROOT], []]
    assert (resolved.chain_offsets.tolist(), resolved.chain.tolist()) == ([0, 2, 4, 4], [-1, 0, -1, 0])
    assert resolved.issuers == (ROOT,)
    assert resolved.missing_issuers == (hashlib.sha256(ISSUER).hexdigest(),)


def test_with_issuers_when_all_are_there() -> None:
    """Chains that are resolved equal those of the same entries in a get-entries answer."""
    block, fingerprints = decode_data_tile(TILE, 512, 515, URL)

    resolved = block.with_issuers(fingerprints, dict(zip(fingerprints, (ISSUER, ROOT), strict=True)))

    assert chains_of(resolved) == [[ISSUER, ROOT], [ISSUER, ROOT], []]


def test_leaf_hashes_of_both_decoders() -> None:
    """The leaf hash is that of the MerkleTreeLeaf, whichever way the entry came, and also for a part of a block."""
    page = decode_get_entries(make_page(*LEAVES), 7, URL, 3)
    tile, _ = decode_data_tile(TILE, 0, 3, URL)
    expected = [hash_leaf(leaf) for leaf, _ in LEAVES]

    assert page.leaf_hashes() == tile.leaf_hashes() == expected
    assert page.take(np.array([True, False, True])).leaf_hashes() == [expected[0], expected[2]]
    assert page.take(np.zeros(3, bool)).leaf_hashes() == []


def test_take_keeps_chains_with_their_entries() -> None:
    """Taking some entries of a block keeps each one's own bytes and chain."""
    taken = decode_get_entries(make_page(*LEAVES), 7, URL, 3).take(np.array([False, True, True]))

    assert taken.index.tolist() == [8, 9]
    assert certificates_of(taken) == [b"one", b"two"]
    assert chains_of(taken) == [[ISSUER, ROOT], [ROOT]]


certificates = st.binary(min_size=1, max_size=40)
entries = st.lists(
    st.tuples(certificates, st.lists(certificates, max_size=3), st.booleans(), st.integers(0, 2**63 - 1)), max_size=5
)


@given(entries, st.integers(0, 2**40))
def test_both_decoders_read_what_was_encoded(encoded: list[tuple[bytes, list[bytes], bool, int]], tile: int) -> None:
    """Any entries come back equal from both encodings."""
    start = tile * 256
    options = [{"precert": precert, "timestamp": timestamp} for _, _, precert, timestamp in encoded]
    body = make_page(*(make_entry(e[0], *e[1], **o) for e, o in zip(encoded, options, strict=True)))
    leaves = b"".join(make_tile_leaf(e[0], *e[1], **o) for e, o in zip(encoded, options, strict=True))
    issuers = {hashlib.sha256(issuer).digest(): issuer for e in encoded for issuer in e[1]}

    blocks = [decode_get_entries(body, start, URL, 256)]
    if encoded:
        block, fingerprints = decode_data_tile(leaves, start, start + len(encoded), URL)
        blocks.append(block.with_issuers(fingerprints, issuers))

    for block in blocks:
        assert block.index.tolist() == list(range(start, start + len(encoded)))
        assert certificates_of(block) == [e[0] for e in encoded]
        assert chains_of(block) == [e[1] for e in encoded]
        assert block.timestamp.tolist() == [e[3] for e in encoded]
        assert block.entry_type.tolist() == [int(e[2]) for e in encoded]
