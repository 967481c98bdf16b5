"""Hash tiles of the Static CT API, each verified up to the root hash of a tree before it is used."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ctkit.errors import REPORT, LogProtocolError
from ctkit.logs.asking import TryAgain
from ctkit.logs.single_flight import Shared
from ctkit.wire.merkle import HASH_SIZE, TILE_HEIGHT, TILE_WIDTH, hash_subtree

_KEPT = 256
"""Tiles kept in memory: 2 MiB."""

Check = Callable[[bytes], None]
Fetch = Callable[[int, int, int, Check], bytes]
"""``fetch(level, index, width, check)`` returns the first `width` hashes of a tile; `check` raises `TryAgain` on wrong
ones."""


class HashTiles:
    """The hash tiles of one tree (Static CT API, "Merkle Tree"), each asked for once. May be used by many threads.

    A full tile is verified by its slot in the tile above it. The partial tiles at the right edge of the tree, at most
    one of each level, are verified together by the root.

    Parameters
    ----------
    url
        The log, for errors.
    tree_size, root_hash
        From a tree head; the size is not 0.
    fetch
        Asks the log for a tile.
    """

    def __init__(self, url: str, tree_size: int, root_hash: bytes, fetch: Fetch) -> None:
        self.tree_size = tree_size
        self.root_hash = root_hash
        self._url = url
        self._fetch = fetch
        self._full: Shared[tuple[int, int], bytes] = Shared(_KEPT)
        self._partial: Shared[None, Mapping[int, bytes]] = Shared(1)

    def compare(self, start: int, leaf_hashes: Sequence[bytes]) -> NDArray[np.bool_]:
        """Tell for each of the consecutive leaves from `start` on whether it is in the tree.

        The hash over the leaves of a whole data tile is a slot in a tile of level 1, so tiles of level 0 are asked for
        only where the leaves do not fill one, or differ.
        """
        end = start + len(leaf_hashes)
        proven = np.zeros(len(leaf_hashes), bool)
        for tile in range(start // TILE_WIDTH, (end - 1) // TILE_WIDTH + 1):
            first, last = max(start, tile * TILE_WIDTH), min(end, (tile + 1) * TILE_WIDTH)
            leaves = leaf_hashes[first - start : last - start]
            if len(leaves) < TILE_WIDTH or hash_subtree(leaves) != self._slot(1, tile):
                slots = _hashes(self._tile(0, tile))[first % TILE_WIDTH :]
                proven[first - start : last - start] = [leaf == slot for leaf, slot in zip(leaves, slots, strict=False)]
            else:
                proven[first - start : last - start] = True
        return proven

    def root(self, tree_size: int) -> bytes:
        """Return the root hash over the first `tree_size` entries of this tree, at least one."""
        widths = _edge(tree_size)
        tiles = {level: self._tile(level, index)[: width * HASH_SIZE] for level, (index, width) in widths.items()}
        return _root_of_edge(tiles)

    def _slot(self, level: int, index: int) -> bytes:
        """Return the hash of the complete subtree number `index` of ``256**level`` leaves."""
        offset = index % TILE_WIDTH * HASH_SIZE
        return self._tile(level, index // TILE_WIDTH)[offset : offset + HASH_SIZE]

    def _tile(self, level: int, index: int) -> bytes:
        """Return the hashes of a tile as far as the tree goes, verified."""
        if (index + 1) * TILE_WIDTH > self.tree_size >> level * TILE_HEIGHT:
            return self._partial.get(None, self._fetch_edge)[level]
        return self._full.get((level, index), lambda: self._fetch_full(level, index))

    def _fetch_full(self, level: int, index: int) -> bytes:
        slot = self._slot(level + 1, index)

        def check(tile: bytes) -> None:
            if hash_subtree(_hashes(tile)) != slot:
                raise self._wrong(f"hash tile {index} of level {level} differs from the hash in the tile above it")

        return self._fetch(level, index, TILE_WIDTH, check)

    def _fetch_edge(self) -> Mapping[int, bytes]:
        edge = _edge(self.tree_size)
        top = max(edge)
        tiles: dict[int, bytes] = {}

        # There is no telling which of them is wrong: another try asks for all.
        def check(top_tile: bytes) -> None:
            for level, (index, width) in edge.items():
                tiles[level] = top_tile if level == top else self._fetch(level, index, width, lambda _: None)
            if _root_of_edge(tiles) != self.root_hash:
                raise self._wrong("its last hash tiles do not give the root hash")

        self._fetch(top, *edge[top], check)
        return tiles

    def _wrong(self, what: str) -> TryAgain:
        message = f"tree head of {self.tree_size} entries: {what}; {REPORT}"
        return TryAgain(LogProtocolError(self._url, message))


def _hashes(tile: bytes) -> list[bytes]:
    return [tile[offset : offset + HASH_SIZE] for offset in range(0, len(tile), HASH_SIZE)]


def _edge(tree_size: int) -> dict[int, tuple[int, int]]:
    """Return the index and width of the partial tile of each level that has one.

    Examples
    --------
    >>> _edge(70_000)  # 273 full tiles and 112 leaves; 1 full tile and 17 hashes; 1 hash
    {0: (273, 112), 1: (1, 17), 2: (0, 1)}
    """
    edge = {}
    level = 0
    while nodes := tree_size >> level * TILE_HEIGHT:
        if width := nodes % TILE_WIDTH:
            edge[level] = nodes // TILE_WIDTH, width
        level += 1
    return edge


def _root_of_edge(tiles: Mapping[int, bytes]) -> bytes:
    """Return the root hash of a tree from its partial tiles, by level."""
    # The tiles of lower levels add one more node, an incomplete one, to the right of the nodes of a tile.
    below: list[bytes] = []
    for level in sorted(tiles):
        below = [hash_subtree(_hashes(tiles[level]) + below)]
    return below[0]
