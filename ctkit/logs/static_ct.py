"""Logs that speak the Static CT API: a checkpoint, tiles and issuers behind a monitoring prefix."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from typing import Literal, Unpack

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ctkit.errors import REPORT, LogError, LogProtocolError, LogUnavailableError
from ctkit.logs.asking import HttpError, PageError, TryAgain
from ctkit.logs.hash_tiles import Check, HashTiles
from ctkit.logs.log import OTHER_PROTOCOL, Log, LogOptions
from ctkit.logs.single_flight import Shared
from ctkit.ranges import Int64s, RangeSet
from ctkit.wire.checkpoint import Checkpoint, UnreadableHeadError, read_checkpoint
from ctkit.wire.entries import EntryBlock, decode_data_tile
from ctkit.wire.merkle import HASH_SIZE, TILE_HEIGHT, TILE_WIDTH

_TILE_LIMIT = 64 << 20
_BODY_LIMIT = 16 << 20
_ISSUERS = 1 << 16
"""Issuer certificates kept in memory; no log has as many."""


class StaticCtLog(Log):
    """A log behind a monitoring prefix; its parameters are those of `Log`.

    So is a hybrid log, which has data tiles, but signed tree heads instead of checkpoints.
    """

    protocol: Literal["static-ct"] = "static-ct"
    page_size = TILE_WIDTH
    page_size_known = True

    def __init__(self, url: str, **options: Unpack[LogOptions]) -> None:
        super().__init__(url, **options)
        self._issuers: Shared[bytes, bytes | None] = Shared(_ISSUERS)
        self._first_head: Shared[None, Checkpoint] = Shared(1)
        self._hash_tiles: HashTiles | None = None
        self._is_hybrid = False
        # By number of a data tile, its entries in the tree head that it was the last tile of.
        self._partial_tiles: dict[int, int] = {}

    def _ask_for_head(self) -> Checkpoint:
        head = self._get_sth() if self._is_hybrid else self._ask_for_checkpoint()
        number, width = divmod(head.tree_size, TILE_WIDTH)
        # A backend that is behind may show a smaller one.
        self._partial_tiles[number] = max(width, self._partial_tiles.get(number, 0))
        return head

    def _ask_for_checkpoint(self) -> Checkpoint:
        try:
            # Static CT API, "Checkpoints".
            return self._get_head("/checkpoint", read_checkpoint)
        except (HttpError, PageError) as error:
            if not _is_refused(error):
                raise
            try:
                head = self._get_sth()
            except LogError:
                raise error from None
            self._is_hybrid = True
            return head

    def has_tiles(self) -> bool:
        """Tell whether the log has data tiles: one with checkpoints does, any other is asked for the first tile."""
        if not self._is_hybrid:
            return True
        suffix = f".p/{self._tree_size}" if self._tree_size < TILE_WIDTH else ""
        try:
            tile = self._client.get(f"/tile/data/{tile_path(0)}{suffix}", bytes, limit=_TILE_LIMIT)
            decode_data_tile(tile, 0, 1, self.url)
        except LogError:
            return False
        return True

    def learn_page_size(self) -> None:
        """Do nothing: a page is a tile, and tiles have one width."""

    def get_entries(self, start: int, end: int, wanted: RangeSet | None = None) -> EntryBlock:
        """Read the entries ``[start, end)`` from the tile that holds `start`; see `Log.get_entries`."""
        try:
            tile, stop = self._get_tile(start)
            self._measure(len(tile), (stop - 1) % TILE_WIDTH + 1)
            block, fingerprints = decode_data_tile(tile, start, min(end, stop), self.url)
            chained = block if wanted is None else block.take(wanted.contains(block.index))
            named = [fingerprints[position] for position in np.unique(chained.chain).tolist()]
            issuers = {fingerprint: self._get_issuer(fingerprint) for fingerprint in named}
        except LogError as error:
            if error.end is None:
                # A request for fewer entries would need the same tile.
                error.start, error.end = start, end
            raise
        return block.with_issuers(fingerprints, issuers)

    def _get_tile(self, start: int) -> tuple[bytes, int]:
        """Return the data tile that holds `start`, and the index at which its entries stop."""
        path, reason = f"/tile/data/{tile_path(start // TILE_WIDTH)}", ""
        first = start - start % TILE_WIDTH

        def read(body: bytes) -> bytes:
            if not body:
                raise TryAgain(LogProtocolError(self.url, f"{path} is empty; {REPORT}"))
            return body

        # The second round knows a newer checkpoint, in case the first finds no tile.
        for ask in (start >= self._tree_size, True):
            has_head = True
            if ask:
                try:
                    # Many threads begin without a head; one of them asks.
                    if self._head is None:
                        self._first_head.get(None, self.get_checkpoint)
                    else:
                        self.get_checkpoint()
                except UnreadableHeadError:
                    # A full tile may be there all the same; whether to believe it is decided elsewhere.
                    has_head = False
            if has_head and start >= self._tree_size:
                break
            # Logs may remove a partial tile as soon as the full one exists, which an older checkpoint does not show;
            # and another backend may not yet have the full tile that a newer checkpoint promises.
            partial = self._partial_tiles.get(start // TILE_WIDTH, 0)
            widths = [TILE_WIDTH, partial] if self._tree_size >= first + TILE_WIDTH else [partial, TILE_WIDTH]
            for width in [width for width in widths if start < first + width]:
                suffix = "" if width == TILE_WIDTH else f".p/{width}"
                try:
                    return self._client.get(path + suffix, read, limit=_TILE_LIMIT, entries=True), first + width
                except (HttpError, PageError) as error:
                    if not self._is_absent(error):
                        raise
                    reason = reason or f", {error.message.removesuffix('; run again later')}"
        message = f"the log has no data tile with entry {start} yet (tree size {self._tree_size}{reason})"
        message += "; run again later"
        if self._is_hybrid:
            message = f"the log has neither a checkpoint nor a data tile with entry {start}; {OTHER_PROTOCOL}"
        raise LogUnavailableError(self.url, message)

    def _get_issuer(self, fingerprint: bytes) -> bytes | None:
        """Return the certificate with this SHA-256, None if the log does not have it; it is asked for once."""
        path = f"/issuer/{fingerprint.hex()}"
        return self._issuers.get(fingerprint, lambda: self._get_or_none(path, partial(self._check, fingerprint)))

    def _check(self, fingerprint: bytes, certificate: bytes) -> bytes:
        if sha256(certificate).digest() != fingerprint:
            message = f"issuer/{fingerprint.hex()} is not the certificate with this SHA-256; {REPORT}"
            # Anything but a certificate is a message of the store.
            kind = LogProtocolError if certificate.startswith(b"\x30") else PageError
            raise TryAgain(kind(self.url, message))
        return certificate

    def _get_or_none(self, path: str, read: Callable[[bytes], bytes], *, binary: bool = False) -> bytes | None:
        try:
            return self._client.get(path, read, limit=_BODY_LIMIT, binary=binary)
        except (HttpError, PageError) as error:
            if self._is_absent(error):
                return None
            raise

    def _is_absent(self, error: HttpError | PageError) -> bool:
        """Tell whether an error means that the log does not have what it was asked for.

        Not every store says so by 404: one that may not list its objects answers 403 for a missing one, another shows
        an HTML page. These mean the same as long as the log answers for what it does have.
        """
        if isinstance(error, HttpError) and error.status in (404, 410):
            return True
        if not _is_refused(error):
            return False
        try:
            self.get_checkpoint()
        except LogError:
            return False
        return True

    def _prove(self, start: int, leaf_hashes: Sequence[bytes], head: Checkpoint) -> NDArray[np.bool_]:
        return self._tiles_of(head).compare(start, leaf_hashes)

    def _prove_consistency(self, old: Checkpoint, new: Checkpoint) -> None:
        if self._tiles_of(new).root(old.tree_size) != old.root_hash:
            raise self._inconsistent(old, new)

    def _tiles_of(self, head: Checkpoint) -> HashTiles:
        """Return the hash tiles of a tree; only those of the last tree are remembered."""
        with self._lock:
            tiles = self._hash_tiles
            if tiles is None or (tiles.tree_size, tiles.root_hash) != (head.tree_size, head.root_hash):
                tiles = self._hash_tiles = HashTiles(self.url, head.tree_size, head.root_hash, self._get_hashes)
            return tiles

    def _get_hashes(self, level: int, index: int, width: int, check: Check) -> bytes:
        """Return the first `width` hashes of a tile, from whichever tile with them the log has."""
        tile = f"/tile/{level}/{tile_path(index)}"

        def read(asked: int, body: bytes) -> bytes:
            if len(body) != asked * HASH_SIZE:
                message = f"{tile} is {len(body)} bytes long instead of {asked} hashes; {REPORT}"
                kind = PageError if body.lstrip()[:1] == b"<" else LogProtocolError
                raise TryAgain(kind(self.url, message))
            hashes = body[: width * HASH_SIZE]
            check(hashes)
            return hashes

        for asked in self._widths(level, index, width):
            path = tile if asked == TILE_WIDTH else f"{tile}.p/{asked}"
            if (hashes := self._get_or_none(path, partial(read, asked), binary=True)) is not None:
                return hashes
        raise LogUnavailableError(self.url, f"{tile} is not there with {width} hashes; run again later")

    def _widths(self, level: int, index: int, width: int) -> Iterator[int]:
        """Yield the widths that a tile may have by now: logs may remove partial tiles that have grown since."""
        yield width
        if width < TILE_WIDTH:
            yield TILE_WIDTH
            newest = (self.get_checkpoint().tree_size >> level * TILE_HEIGHT) - index * TILE_WIDTH
            if width < newest < TILE_WIDTH:
                yield newest

    def provable(self, start: int, end: int) -> tuple[int, int]:
        """Return the whole tile around ``[start, end)``: it is one answer, and the tile above has the hash over it."""
        tile = start // TILE_WIDTH
        return tile * TILE_WIDTH, (tile + 1) * TILE_WIDTH

    def entry_urls(self, index: Int64s) -> pa.StringArray:
        """Return the URL of each index's full tile, whether the log already has it or not."""
        return data_tile_urls(self.url, index)


def _is_refused(error: HttpError | PageError) -> bool:
    """Tell whether a request was refused for what it asks for, not for its timing."""
    if isinstance(error, PageError):
        return True
    return error.status is not None and 400 <= error.status < 500 and error.status not in (408, 413, 429)


def data_tile_urls(url: str, index: Int64s) -> pa.StringArray:
    """Return the URL of each index's full data tile, of the log at a canonical URL.

    Examples
    --------
    >>> data_tile_urls("https://log.example", np.array([300]))[0].as_py()
    'https://log.example/tile/data/001'
    """
    tiles, position = np.unique(index // TILE_WIDTH, return_inverse=True)
    urls = pa.array([f"{url}/tile/data/{tile_path(tile)}" for tile in tiles.tolist()], pa.string())
    return urls.take(pa.array(position))


def tile_path(number: int) -> str:
    """Return the number of a tile as written in its path (Static CT API, "Merkle Tree").

    Examples
    --------
    >>> tile_path(0), tile_path(1234067)
    ('000', 'x001/x234/067')
    """
    path = f"{number % 1000:03}"
    while number := number // 1000:
        path = f"x{number % 1000:03}/{path}"
    return path
