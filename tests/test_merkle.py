"""The Merkle tree: roots, proofs and tiles against the recursive definitions of RFC 6962."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctkit.wire.merkle import (
    EMPTY_ROOT,
    TILE_WIDTH,
    Tree,
    hash_children,
    hash_leaf,
    verify_consistency,
)

# The test vectors that implementations of RFC 6962 share: these leaves, and the roots of their first 1 to 8.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
HASHES = [hash_leaf(number.to_bytes(2)) for number in range(700)]
TREE = Tree(HASHES)
SIZES = st.one_of(st.integers(0, len(HASHES)), st.sampled_from([0, 1, 2, 255, 256, 257, 511, 512, 513, len(HASHES)]))


def split(length):
    """Return the largest power of two smaller than `length`, as the RFC puts it."""
    power = 1
    while power * 2 < length:
        power *= 2
    return power


def mth(hashes):
    """Return MTH(D[n]) of RFC 6962, section 2.1, over leaf hashes."""
    if len(hashes) < 2:
        return hashes[0] if hashes else EMPTY_ROOT
    k = split(len(hashes))
    return hash_children(mth(hashes[:k]), mth(hashes[k:]))


def path(m, hashes):
    """Return PATH(m, D[n]) of RFC 6962, section 2.1.1."""
    if len(hashes) == 1:
        return []
    k = split(len(hashes))
    return [*path(m, hashes[:k]), mth(hashes[k:])] if m < k else [*path(m - k, hashes[k:]), mth(hashes[:k])]


def subproof(m, hashes, complete):
    """Return SUBPROOF(m, D[n], b) of RFC 6962, section 2.1.2."""
    if m == len(hashes):
        return [] if complete else [mth(hashes)]
    k = split(len(hashes))
    if m <= k:
        return [*subproof(m, hashes[:k], complete), mth(hashes[k:])]
    return [*subproof(m - k, hashes[k:], False), mth(hashes[:k])]


def changed(data, proof):
    """Return `proof` with one hash changed, left out or added."""
    how = data.draw(st.sampled_from(["change", "drop", "add"] if proof else ["add"]))
    at = data.draw(st.integers(0, len(proof) - (how != "add")))
    if how == "change":
        return [*proof[:at], hash_leaf(proof[at]), *proof[at + 1 :]]
    return proof[:at] + proof[at + 1 :] if how == "drop" else [*proof[:at], HASHES[0], *proof[at:]]


def test_root_of_the_shared_vectors():
    """The empty tree and the first eight have the roots that every implementation knows."""
    tree = Tree()
    roots = [tree.root().hex()]
    for leaf in LEAVES:
        tree.append(hash_leaf(leaf))
        roots.append(tree.root().hex())

    assert roots == ["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", *ROOTS]


@given(SIZES)
def test_root_of_any_earlier_size(size):
    """A tree gives the root of each of its earlier sizes as the RFC defines it."""
    assert TREE.root(size) == mth(HASHES[:size])


@given(st.data(), SIZES.filter(bool))
def test_inclusion_proof(data, size):
    """An audit path is the one of the RFC."""
    index = data.draw(st.integers(0, size - 1))

    assert TREE.inclusion_proof(index, size) == path(index, HASHES[:size])


@given(st.data(), SIZES)
def test_consistency_proof_holds_for_its_sizes_only(data, size):
    """A consistency proof is the one of the RFC, and verifies for its two roots and for no others."""
    old_size = data.draw(st.integers(0, size))
    proof, old_root, root = TREE.consistency_proof(old_size, size), TREE.root(old_size), TREE.root(size)

    assert proof == (subproof(old_size, HASHES[:size], True) if old_size else [])
    assert verify_consistency(old_size, old_root, size, root, proof)
    assert not verify_consistency(old_size, hash_leaf(b"another"), size, root, proof)
    assert not verify_consistency(old_size, old_root, size, root, changed(data, proof))
    if old_size:
        assert not verify_consistency(old_size, old_root, size, hash_leaf(b"another"), proof)


@pytest.mark.parametrize(("old_size", "size"), [(-1, 3), (4, 3)])
def test_consistency_of_impossible_sizes(old_size, size):
    """A tree never shrinks."""
    assert not verify_consistency(old_size, TREE.root(3), size, TREE.root(3), [])
    with pytest.raises(ValueError, match="cannot grow"):
        TREE.consistency_proof(old_size, size)


@pytest.mark.parametrize("index", [-1, 3])
def test_leaf_outside_of_the_tree(index):
    """There is no leaf hash and no proof for an index that the tree does not have."""
    with pytest.raises(ValueError, match="not in a tree of 3"):
        Tree(HASHES[:3]).leaf_hash(index)
    with pytest.raises(ValueError, match="not in a tree of 3"):
        TREE.inclusion_proof(index, 3)


@pytest.mark.parametrize("size", [-1, len(HASHES) + 1])
def test_size_that_the_tree_never_had(size):
    """There is no root of a size that was never reached."""
    with pytest.raises(ValueError, match=f"there are {len(HASHES)} leaves"):
        TREE.root(size)


def test_leaf_hash_of_each_leaf():
    """The hashes that were appended can be had back."""
    assert [TREE.leaf_hash(index) for index in range(TREE.size)] == HASHES


def test_tiles_hold_every_level():
    """Tiles of level 0 hold leaf hashes, those of level 1 the roots of 256 leaves each."""
    assert TREE.tile(0, 1) == b"".join(HASHES[256:512])
    assert TREE.tile(0, 2, 188) == b"".join(HASHES[512:])
    assert TREE.tile(1, 0, 2) == mth(HASHES[:256]) + mth(HASHES[256:512])


@pytest.mark.parametrize(
    ("level", "index", "width"),
    [(0, 2, 189), (0, 2, TILE_WIDTH), (0, 0, 0), (0, 0, 257), (0, -1, 1), (-1, 0, 1), (1, 0, 3), (2, 0, 1), (7, 0, 1)],
)
def test_tile_that_is_not_there(level, index, width):
    """A tile is there only once all its hashes are final."""
    with pytest.raises(
        ValueError, match=f"a tree of {len(HASHES)} leaves has no tile {level}/{index} of width {width}"
    ):
        TREE.tile(level, index, width)
