"""The Merkle tree of RFC 6962: hashes, proofs, and a tree that grows by appending."""

from collections.abc import Sequence
from hashlib import sha256

HASH_SIZE = 32
EMPTY_ROOT = sha256().digest()
"""Root of the tree without leaves (RFC 6962, section 2.1)."""

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
"""Hashes in a full tile of the Static CT API."""


def hash_leaf(leaf: bytes) -> bytes:
    """Return the hash of a leaf: SHA-256 over ``00`` and the ``MerkleTreeLeaf`` (RFC 6962, section 2.1)."""
    return sha256(b"\x00" + leaf).digest()


def hash_children(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node: SHA-256 over ``01`` and the hashes of its two children."""
    return sha256(b"\x01" + left + right).digest()


def hash_pairs(nodes: Sequence[bytes]) -> list[bytes]:
    """Return the parents of consecutive nodes at one height, the first of which is a left child.

    A last node without a sibling rises unchanged, as at the right edge of a tree; it may be the hash of an incomplete
    subtree.
    """
    above = list(map(hash_children, nodes[::2], nodes[1::2]))
    return [*above, nodes[-1]] if len(nodes) % 2 else above


def hash_subtree(nodes: Sequence[bytes]) -> bytes:
    """Return the hash of the tree over one or more nodes at one height, the last of which may be incomplete.

    Examples
    --------
    >>> leaves = [hash_leaf(leaf) for leaf in (b"a", b"b", b"c")]
    >>> hash_subtree(leaves) == Tree(leaves).root()
    True
    """
    while len(nodes) > 1:
        nodes = hash_pairs(nodes)
    return nodes[0]


class Tree:
    """An append-only Merkle tree that remembers the hash of every complete subtree.

    Appending costs two hashes per leaf on average and 64 bytes of memory; a root or a proof of any earlier size costs
    ``O(log n)`` hashes.

    Examples
    --------
    >>> tree = Tree()
    >>> for leaf in (b"a", b"b", b"c"):
    ...     tree.append(hash_leaf(leaf))
    >>> tree.size
    3
    >>> tree.inclusion_proof(2, 3) == [hash_children(hash_leaf(b"a"), hash_leaf(b"b"))]
    True
    """

    def __init__(self, leaf_hashes: Sequence[bytes] = ()) -> None:
        # _levels[k] holds, one after another, the hashes of the complete subtrees of 2**k leaves.
        self._levels = [bytearray()]
        for leaf_hash in leaf_hashes:
            self.append(leaf_hash)

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._levels[0]) // HASH_SIZE

    def append(self, leaf_hash: bytes) -> None:
        """Add one leaf, given its hash of 32 bytes."""
        node, index = leaf_hash, self.size
        for level in self._levels:
            level += node
            if index % 2 == 0:
                return
            node = hash_children(bytes(level[-2 * HASH_SIZE : -HASH_SIZE]), node)
            index //= 2
        self._levels.append(bytearray(node))

    def leaf_hash(self, index: int) -> bytes:
        """Return the hash of the leaf at `index`, in ``[0, size)``."""
        if not 0 <= index < self.size:
            raise ValueError(f"leaf {index} is not in a tree of {self.size} leaves")
        return self._node(0, index)

    def root(self, tree_size: int | None = None) -> bytes:
        """Return the Merkle tree hash of the first `tree_size` leaves; of all by default."""
        tree_size = self.size if tree_size is None else self._checked(tree_size)
        return self._subtree(0, tree_size) if tree_size else EMPTY_ROOT

    def inclusion_proof(self, index: int, tree_size: int) -> list[bytes]:
        """Return the audit path of the leaf at `index` in the tree of `tree_size` leaves (RFC 6962, section 2.1.1)."""
        if not 0 <= index < self._checked(tree_size):
            raise ValueError(f"leaf {index} is not in a tree of {tree_size} leaves")
        start, end, path = 0, tree_size, []
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._subtree(middle, end))
                end = middle
            else:
                path.append(self._subtree(start, middle))
                start = middle
        return path[::-1]

    def consistency_proof(self, old_size: int, tree_size: int) -> list[bytes]:
        """Return the proof that the first `tree_size` leaves begin with the first `old_size` (RFC 6962, section 2.1.2).

        It is empty where there is nothing to prove: for an empty old tree, and between trees of the same size.
        """
        if not 0 <= old_size <= self._checked(tree_size):
            raise ValueError(f"a tree of {old_size} leaves cannot grow into one of {tree_size}")
        if old_size in (0, tree_size):
            return []
        start, end, proof = 0, tree_size, []
        while end != old_size:
            middle = start + _split(end - start)
            if old_size <= middle:
                proof.append(self._subtree(middle, end))
                end = middle
            else:
                proof.append(self._subtree(start, middle))
                start = middle
        if start:
            # The verifier already knows a complete left edge: it is the old root itself.
            proof.append(self._subtree(start, end))
        return proof[::-1]

    def tile(self, level: int, index: int, width: int = TILE_WIDTH) -> bytes:
        """Return the hashes of one tile, joined (Static CT API, Merkle tree).

        Parameters
        ----------
        level
            Level of the tile: its hashes are those of complete subtrees of ``256**level`` leaves.
        index
            Position of the tile in its level; its first hash is number ``256 * index`` of the level.
        width
            Number of hashes, 1 to 256.

        Raises
        ------
        ValueError
            The tree is too small for the tile, or no tree has such a tile.
        """
        height, start = level * TILE_HEIGHT, index * TILE_WIDTH
        if not (level >= 0 and index >= 0 and 1 <= width <= TILE_WIDTH and start + width <= self.size >> height):
            raise ValueError(f"a tree of {self.size} leaves has no tile {level}/{index} of width {width}")
        return bytes(self._levels[height][start * HASH_SIZE : (start + width) * HASH_SIZE])

    def _checked(self, tree_size: int) -> int:
        if not 0 <= tree_size <= self.size:
            raise ValueError(f"there are {self.size} leaves, not {tree_size}")
        return tree_size

    def _node(self, height: int, index: int) -> bytes:
        return bytes(self._levels[height][index * HASH_SIZE : (index + 1) * HASH_SIZE])

    def _subtree(self, start: int, end: int) -> bytes:
        """Return MTH(D[start:end]); `start` is a multiple of every power of two below the length, as in all proofs."""
        length = end - start
        if length & (length - 1) == 0:
            height = length.bit_length() - 1
            return self._node(height, start >> height)
        middle = start + _split(length)
        return hash_children(self._subtree(start, middle), self._subtree(middle, end))


def verify_consistency(old_size: int, old_root: bytes, tree_size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    """Tell whether `proof` shows that the tree of `old_size` leaves is the beginning of the one of `tree_size`.

    Parameters
    ----------
    proof
        As in `Tree.consistency_proof`.
    """
    if not 0 <= old_size <= tree_size:
        return False
    if old_size == 0:
        return old_root == EMPTY_ROOT and not proof
    if old_size == tree_size:
        return old_root == root and not proof
    nodes = list(proof)
    index, last = old_size - 1, tree_size - 1
    while index % 2:
        index, last = index // 2, last // 2
    if index == 0:
        # The old tree is one complete subtree of the new one, so the proof leaves its hash out.
        nodes.insert(0, old_root)
    if not nodes:
        return False
    old = new = nodes[0]
    for sibling in nodes[1:]:
        if last == 0:
            return False
        if index % 2 or index == last:
            old, new = hash_children(sibling, old), hash_children(sibling, new)
            # A node at the right edge without a sibling rises unchanged until it has one on its left.
            while index and index % 2 == 0:
                index, last = index // 2, last // 2
        else:
            new = hash_children(new, sibling)
        index, last = index // 2, last // 2
    return last == 0 and old == old_root and new == root


def _split(length: int) -> int:
    """Return the largest power of two below `length`: where RFC 6962 divides a tree."""
    return 1 << (length - 1).bit_length() - 1
