"""What audit paths prove of a tree, and how few of them it takes."""

import base64
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctkit.errors import LogProtocolError
from ctkit.logs import audit_paths
from ctkit.logs.asking import TryAgain
from ctkit.logs.audit_paths import ProvenTree, Stretch, read_audit_path, read_consistency, read_entry_and_proof
from ctkit.wire.merkle import Tree, hash_leaf, hash_pairs, hash_subtree

HASHES = [hash_leaf(number.to_bytes(2)) for number in range(300)]
TREE = Tree(HASHES)
OTHER = hash_leaf(b"another")
URL = "https://log.example"

sizes = st.one_of(st.integers(1, len(HASHES)), st.sampled_from([1, 2, 3, 4, 5, 64, 65, 255, 256, 257]))


def prove(proven, size, start, leaf_hashes, *, without=(), limit=1000):
    """Ask for audit paths until nothing is left to ask; return what is proven, and the leaves that were asked for."""
    stretch, asked, lost = Stretch(start, leaf_hashes, size), [], set()
    for _ in range(limit):
        result, index = proven.compare(stretch, lost)
        if index is None:
            return result.tolist(), asked
        asked.append(index)
        if index in without:
            lost.add(index)
        else:
            assert proven.learn(index, HASHES[index], TREE.inclusion_proof(index, size))
    raise AssertionError("there is no end to the paths that are asked for")


def minimum(start, end, size):
    """Return the largest number of audit paths for ``[start, end)``: by the subtree where both ends meet."""
    height = (start ^ (end - 1)).bit_length()
    first = start >> height << height
    return 1 if start == first or end == min(first + (1 << height), size) else 2


@given(sizes)
def test_hash_subtree_is_the_root(size):
    """Hashing pairs level by level gives the root of RFC 6962, whatever the size."""
    assert hash_subtree(HASHES[:size]) == TREE.root(size)
    assert hash_subtree(hash_pairs(HASHES[:size])) == TREE.root(size)


@given(st.data(), sizes)
def test_stretches_of_a_tree_are_proven_with_few_paths(data, size):
    """Any stretches in any order are proven, each with no more paths than it takes without what is known already."""
    proven = ProvenTree(size, TREE.root(size))
    for _ in range(4):
        start = data.draw(st.integers(0, size - 1))
        end = data.draw(st.integers(start + 1, size))

        result, asked = prove(proven, size, start, HASHES[start:end])

        assert result == [True] * (end - start)
        assert len(asked) <= minimum(start, end, size)
        assert prove(proven, size, start, HASHES[start:end])[1] == []


@given(st.data(), sizes)
def test_entries_that_differ_are_named_exactly(data, size):
    """However many leaves are others than the tree's, those and no others are not proven."""
    start = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(start + 1, size))
    wrong = data.draw(st.sets(st.integers(start, end - 1), max_size=5))
    leaf_hashes = [OTHER if index in wrong else HASHES[index] for index in range(start, end)]

    result, asked = prove(ProvenTree(size, TREE.root(size)), size, start, leaf_hashes)

    assert result == [index not in wrong for index in range(start, end)]
    assert len(asked) <= 2 + len(wrong) * (end - start).bit_length()


@given(st.data(), sizes)
def test_nothing_that_differs_is_proven_when_paths_cannot_be_had(data, size):
    """Leaves without paths of their own are proven by those of others, or not at all; the search ends."""
    start = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(start + 1, size))
    wrong = data.draw(st.sets(st.integers(start, end - 1), max_size=5))
    without = wrong | data.draw(st.sets(st.integers(start, end - 1), max_size=5))
    leaf_hashes = [OTHER if index in wrong else HASHES[index] for index in range(start, end)]

    result, _ = prove(ProvenTree(size, TREE.root(size)), size, start, leaf_hashes, without=without)

    assert not any(result[index - start] for index in wrong)


def test_stretch_whose_subtree_was_a_sibling():
    """The path of one page also proves the next page."""
    proven = ProvenTree(256, TREE.root(256))

    assert prove(proven, 256, 64, HASHES[64:96]) == ([True] * 32, [64])
    assert prove(proven, 256, 96, HASHES[96:128]) == ([True] * 32, [])


def test_the_whole_tree_needs_no_path():
    """All leaves give the root themselves; a tree of one leaf is that leaf."""
    assert prove(ProvenTree(300, TREE.root(300)), 300, 0, HASHES) == ([True] * 300, [])
    assert prove(ProvenTree(1, HASHES[0]), 1, 0, HASHES[:1]) == ([True], [])
    assert prove(ProvenTree(1, HASHES[0]), 1, 0, [OTHER]) == ([False], [])


@given(st.data(), sizes)
def test_paths_that_do_not_lead_to_the_root_teach_nothing(data, size):
    """A path with a hash changed, left out or added, or for another leaf or index, is refused and not remembered."""
    index = data.draw(st.integers(0, size - 1))
    path = TREE.inclusion_proof(index, size)
    at = data.draw(st.integers(0, len(path)))
    proven = ProvenTree(size, TREE.root(size))
    stretch = Stretch(index, [HASHES[index]], size)
    before = proven.compare(stretch)
    wrong = [
        (index, OTHER, path),
        (-1, HASHES[index], path),
        (size, HASHES[index], path),
        (index, HASHES[index], [*path[:at], OTHER, *path[at:]]),
    ]
    if path:
        wrong.append((index, HASHES[index], [*path[:at], OTHER, *path[at + 1 :]] if at < len(path) else path[:-1]))
        wrong.append((index ^ 1, HASHES[index], path))

    assert [proven.learn(*each) for each in wrong] == [False] * len(wrong)
    after = proven.compare(stretch)
    assert (after[0].tolist(), after[1]) == (before[0].tolist(), before[1])


def test_memory_is_bounded(monkeypatch):
    """Of many paths the nodes used last are kept; what was forgotten is proven by asking again."""
    monkeypatch.setattr(audit_paths, "_REMEMBERED", 20)
    proven = ProvenTree(256, TREE.root(256))

    for start in (0, 64, 128, 192, 0):
        assert prove(proven, 256, start, HASHES[start : start + 2]) == ([True, True], [start])
    assert len(proven._proven) == 20


def test_stretch_in_the_middle_of_its_subtree():
    """A stretch in the middle needs the paths of both of its ends, one after the other."""
    proven = ProvenTree(16, TREE.root(16))
    stretch = Stretch(3, HASHES[3:13], 16)

    assert proven.compare(stretch)[1] == 3
    proven.learn(3, HASHES[3], TREE.inclusion_proof(3, 16))
    result, following = proven.compare(stretch)

    assert following == 12
    np.testing.assert_array_equal(result, [True] * 5 + [False] * 5)


def texts(hashes):
    """Return hashes as they stand in JSON."""
    return [base64.b64encode(node).decode() for node in hashes]


def test_answers_with_proofs_are_read():
    """The three answers of RFC 6962 give index, leaf hash and nodes."""
    leaf = base64.b64encode(b"\0\0leaf").decode()
    path = {"audit_path": texts(HASHES[:2])}

    assert read_audit_path(json.dumps({"leaf_index": 7, **path}).encode(), URL) == (7, HASHES[:2])
    assert read_entry_and_proof(json.dumps({"leaf_input": leaf, "extra_data": "", **path}).encode(), URL) == (
        hash_leaf(b"\0\0leaf"),
        HASHES[:2],
    )
    assert read_consistency(b'{"consistency": []}', URL) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b"[]",
        b"{}",
        b'{"leaf_index": "7", "audit_path": [], "leaf_input": 7, "consistency": {}}',
        b'{"leaf_index": true, "audit_path": {}, "leaf_input": "AA=", "consistency": null}',
        b'{"leaf_index": true, "audit_path": []}',
        b'{"leaf_index": 7, "audit_path": ["AAAA"], "leaf_input": "AAAA", "consistency": ["AAAA"]}',
        b'{"leaf_index": 7, "audit_path": [7], "leaf_input": "AAAA", "consistency": [7]}',
        b'{"leaf_index": 7, "audit_path": ["\\u00e9"], "leaf_input": "AAAA", "consistency": ["\\u00e9"]}',
    ],
)
def test_answers_that_hold_no_proof(body):
    """An answer of another form breaks the protocol."""
    for read in (read_audit_path, read_entry_and_proof, read_consistency):
        with pytest.raises(TryAgain) as raised:
            read(body, URL)
        assert isinstance(raised.value.error, LogProtocolError)
