"""Audit paths: which nodes of a tree are proven, and which path proves more."""

import binascii
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ctkit.errors import REPORT, LogProtocolError
from ctkit.logs.asking import TryAgain
from ctkit.wire.merkle import HASH_SIZE, hash_children, hash_leaf, hash_pairs

T = TypeVar("T")

Node = tuple[int, int]
"""``(height, index)``: the node over the leaves ``[index << height, (index + 1) << height)``, as far as there are such.

At the right edge a node may cover fewer leaves; one without a right child has the hash of its left child.
"""

_REMEMBERED = 1 << 15


class Stretch:
    """Consecutive leaves as they were received, to be compared with a tree.

    Parameters
    ----------
    start
        Index of the first leaf.
    leaf_hashes
        Hashes of the leaves, at least one.
    tree_size
        Size of the tree that should hold them; not smaller than `end`.

    Attributes
    ----------
    start, end
        The indices ``[start, end)``.
    """

    def __init__(self, start: int, leaf_hashes: Sequence[bytes], tree_size: int) -> None:
        self.start, self.end = start, start + len(leaf_hashes)
        # By height: index of the first node that lies within the stretch, and the hashes from it on.
        self._levels = [(start, list(leaf_hashes))]
        for _ in range(_height(tree_size)):
            first, nodes = self._levels[-1]
            nodes = nodes[first % 2 :]
            above = hash_pairs(nodes)
            if len(nodes) % 2 and self.end < tree_size:
                del above[-1]  # its sibling is outside the stretch
            self._levels.append(((first + 1) // 2, above))

    def hash(self, node: Node) -> bytes:
        """Return the hash of a node that lies within the stretch; a leaf is ``(0, index)``."""
        height, index = node
        first, nodes = self._levels[height]
        return nodes[index - first]


class ProvenTree:
    """A tree of known size and root, and those of its nodes that verified audit paths have shown.

    Only nodes that lead to the root are remembered. The `_REMEMBERED` nodes used last are kept, which takes about 8 MB;
    a forgotten node costs another path at worst. May be used by many threads.

    Parameters
    ----------
    tree_size, root_hash
        From a tree head; the size is not 0.

    Examples
    --------
    >>> from ctkit.wire.merkle import Tree, hash_leaf
    >>> tree = Tree([hash_leaf(bytes([number])) for number in range(13)])
    >>> proven = ProvenTree(tree.size, tree.root())
    >>> stretch = Stretch(8, [tree.leaf_hash(index) for index in range(8, 12)], tree.size)
    >>> proven.compare(stretch)
    (array([False, False, False, False]), 8)
    >>> proven.learn(8, tree.leaf_hash(8), tree.inclusion_proof(8, tree.size))
    True
    >>> proven.compare(stretch)
    (array([ True,  True,  True,  True]), None)
    """

    def __init__(self, tree_size: int, root_hash: bytes) -> None:
        self.tree_size = tree_size
        self.root_hash = root_hash
        self._proven: OrderedDict[Node, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def learn(self, index: int, leaf_hash: bytes, path: Sequence[bytes]) -> bool:
        """Remember all nodes of an audit path (RFC 6962, section 2.1.1), if it leads to the root.

        Parameters
        ----------
        index
            Index of the leaf.
        path
            From the leaf up.

        Returns
        -------
        bool
            Whether it does.
        """
        if not 0 <= index < self.tree_size:
            return False
        node, rest = leaf_hash, list(path)[::-1]
        shown = {(0, index): leaf_hash}
        for height in range(_height(self.tree_size)):
            sibling = index ^ 1
            if sibling << height < self.tree_size:
                if not rest:
                    return False
                shown[height, sibling] = other = rest.pop()
                node = hash_children(other, node) if index % 2 else hash_children(node, other)
            index //= 2
            shown[height + 1, index] = node
        if rest or node != self.root_hash:
            return False
        with self._lock:
            self._proven.update(shown)
            for known in shown:
                self._proven.move_to_end(known)
            while len(self._proven) > _REMEMBERED:
                self._proven.popitem(last=False)
        return True

    def compare(self, stretch: Stretch, lost: Collection[int] = ()) -> tuple[NDArray[np.bool_], int | None]:
        """Compare a stretch with what is proven of the tree.

        Parameters
        ----------
        lost
            Indices of leaves whose audit paths are not available.

        Returns
        -------
        ndarray of bool
            For each leaf of the stretch whether it is proven to be in the tree.
        int or None
            The leaf whose audit path is to be learned next; None if no path tells more. As long as nothing differs, one
            path is enough if the stretch shares an end with the smallest subtree around it, and two otherwise. After
            that it is a leaf of the largest subtree that differs.
        """
        proven = np.zeros(stretch.end - stretch.start, bool)
        differing: list[tuple[int, int]] = []
        following = None
        for height, index, node_hash in self._deepest(stretch):
            start, end = self._leaves(height, index)
            within = max(start, stretch.start), min(end, stretch.end)
            if within != (start, end):
                following = self._edge(*within, lost) if following is None else following
            elif stretch.hash((height, index)) == node_hash:
                proven[start - stretch.start : end - stretch.start] = True
            elif height:
                differing.append((start, end))
        if following is None:
            largest_first = sorted(differing, key=lambda leaves: leaves[0] - leaves[1])
            leaves = (leaf for leaves in largest_first for leaf in range(*leaves))
            following = next((leaf for leaf in leaves if leaf not in lost), None)
        return proven, following

    def _edge(self, start: int, end: int, lost: Collection[int]) -> int | None:
        """Return the leaf whose path ties ``[start, end)``, a part of a node, to that node, or comes closest to it."""
        while start < end and start in lost:
            start += 1
        while start < end and end - 1 in lost:
            end -= 1
        if start == end:
            return None
        # Below the node in which both ends meet, the path of the first leaf lacks the siblings to the right of the last
        # leaf, and the path of the last leaf those to the left of the first.
        height = (start ^ (end - 1)).bit_length()
        meeting_start, meeting_end = self._leaves(height, start >> height)
        return end - 1 if start == meeting_start and end != meeting_end else start

    def _leaves(self, height: int, index: int) -> tuple[int, int]:
        return index << height, min((index + 1) << height, self.tree_size)

    def _deepest(self, stretch: Stretch) -> list[tuple[int, int, bytes]]:
        """Return the lowest proven nodes that are needed to cover the stretch: height, index and hash of each."""
        found: list[tuple[int, int, bytes]] = []
        waiting = [(_height(self.tree_size), 0, self.root_hash)]
        with self._lock:
            while waiting:
                height, index, node_hash = waiting.pop()
                start, end = self._leaves(height, index)
                if end <= stretch.start or stretch.end <= start:
                    continue
                inside = stretch.start <= start and end <= stretch.end
                if not height or (inside and stretch.hash((height, index)) == node_hash):
                    found.append((height, index, node_hash))
                    continue
                left, right = (height - 1, 2 * index), (height - 1, 2 * index + 1)
                if right[1] << right[0] >= self.tree_size:
                    waiting.append((*left, node_hash))
                elif left in self._proven and right in self._proven:
                    for child in (right, left):
                        self._proven.move_to_end(child)
                        waiting.append((*child, self._proven[child]))
                else:
                    found.append((height, index, node_hash))
        return found


def _height(tree_size: int) -> int:
    """Return the height of the root of a non-empty tree."""
    return (tree_size - 1).bit_length()


def read_audit_path(data: bytes, url: str) -> tuple[int, list[bytes]]:
    """Read the answer of get-proof-by-hash (RFC 6962, section 4.5): the leaf's index and its audit path."""

    # {"leaf_index": number, "audit_path": [base64 of a hash, ...]}
    def read(answer: Any) -> tuple[int, list[bytes]]:
        if type(index := answer["leaf_index"]) is not int:
            raise TypeError("leaf_index is not a number")
        return index, _hashes(answer["audit_path"])

    return _read(read, data, "get-proof-by-hash", url)


def read_entry_and_proof(data: bytes, url: str) -> tuple[bytes, list[bytes]]:
    """Read the answer of get-entry-and-proof (RFC 6962, section 4.8): the leaf's hash and its audit path."""

    # {"leaf_input": base64 of a MerkleTreeLeaf, "extra_data": base64, "audit_path": [base64 of a hash, ...]}
    def read(answer: Any) -> tuple[bytes, list[bytes]]:
        (leaf,) = _decoded([answer["leaf_input"]])
        return hash_leaf(leaf), _hashes(answer["audit_path"])

    return _read(read, data, "get-entry-and-proof", url)


def read_consistency(data: bytes, url: str) -> list[bytes]:
    """Read the answer of get-sth-consistency (RFC 6962, section 4.4): the nodes of the proof."""
    # {"consistency": [base64 of a hash, ...]}
    return _read(lambda answer: _hashes(answer["consistency"]), data, "get-sth-consistency", url)


def read_roots(data: bytes, url: str) -> frozenset[bytes]:
    """Read the answer of get-roots (RFC 6962, section 4.7): the DER of each certificate."""
    # {"certificates": [base64 of a certificate, ...]}
    return _read(lambda answer: frozenset(_decoded(answer["certificates"])), data, "get-roots", url)


def _read(read: Callable[[Any], T], data: bytes, verb: str, url: str) -> T:
    """Return what `read` makes of the JSON of an answer; if that lacks something, another is asked for."""
    try:
        return read(json.loads(data))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        message = f"the answer of {verb} does not have the form of RFC 6962; {REPORT}"
        raise TryAgain(LogProtocolError(url, message)) from error


def _decoded(texts: Any) -> list[bytes]:
    if not isinstance(texts, list):
        raise TypeError("it is not a list")
    return [binascii.a2b_base64(text, strict_mode=True) for text in texts]


def _hashes(texts: Any) -> list[bytes]:
    hashes = _decoded(texts)
    if any(len(node) != HASH_SIZE for node in hashes):
        raise ValueError("a hash has another size")
    return hashes
