"""Logs that speak the Static CT API: a checkpoint, tiles and issuers behind a monitoring prefix."""

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa

from ctkit.checkpoint import Checkpoint, read_checkpoint
from ctkit.entry import REPORT, EntryBlock, decode_data_tile
from ctkit.errors import LogError, LogProtocolError, LogUnavailableError
from ctkit.http import DEFAULT_PATIENCE, Client, HttpError, Patience, TryAgain, stopped
from ctkit.merkle import TILE_WIDTH
from ctkit.ranges import Int64s
from ctkit.schema import canonical_url

_TILE_LIMIT = 64 << 20
_BODY_LIMIT = 16 << 20


class StaticCtLog(AbstractContextManager["StaticCtLog"]):
    """A log behind a monitoring prefix; see `ctkit.log.Log`. May be used by many threads.

    Parameters
    ----------
    url
        The log's monitoring prefix, in any form.
    user_agent
        Who asks, with a contact.
    name
        What to store as ``source_name``.
    patience
        When the log counts as unavailable.
    """

    page_size = TILE_WIDTH

    def __init__(
        self, url: str, *, user_agent: str, name: str | None = None, patience: Patience = DEFAULT_PATIENCE
    ) -> None:
        self.url = canonical_url(url)
        self.name = name
        self._client = Client(self.url, user_agent=user_agent, patience=patience)
        self._lock = threading.Lock()
        self._tree_size = 0
        self._issuers: dict[bytes, Future[bytes | None]] = {}

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def __exit__(self, *_: Any) -> None:
        self.close()

    def get_checkpoint(self) -> Checkpoint:
        """Ask the log for its current checkpoint (Static CT API, "Checkpoints")."""
        checkpoint = self._client.get("/checkpoint", lambda body: read_checkpoint(body, self.url), limit=_BODY_LIMIT)
        self._tree_size = max(self._tree_size, checkpoint.tree_size)
        return checkpoint

    def get_entries(self, start: int, end: int) -> EntryBlock:
        """Read the entries ``[start, end)`` from the tile that holds `start`; see `ctkit.log.Log.get_entries`."""
        try:
            tile, stop = self._get_tile(start)
            block, fingerprints = decode_data_tile(tile, start, min(end, stop), self.url)
            issuers = {fingerprint: self._get_issuer(fingerprint) for fingerprint in fingerprints}
        except LogError as error:
            if error.end is None:
                # Fewer entries would take the same tile.
                error.start, error.end = start, end
            raise
        return block.with_issuers(fingerprints, issuers)

    def _get_tile(self, start: int) -> tuple[bytes, int]:
        """Return the data tile that holds `start`, and the index at which its entries stop."""
        path = f"/tile/data/{tile_path(start // TILE_WIDTH)}"
        first = start - start % TILE_WIDTH
        # The second round knows a newer checkpoint, should the first one have found neither tile.
        for ask in (start >= self._tree_size, True):
            if ask:
                self.get_checkpoint()
            if start >= self._tree_size:
                break
            width = min(self._tree_size - first, TILE_WIDTH)
            if width < TILE_WIDTH and (tile := self._get_or_none(f"{path}.p/{width}", bytes, _TILE_LIMIT)) is not None:
                return tile, first + width
            # Logs may remove a partial tile as soon as the full one exists, which an older checkpoint does not tell.
            if (tile := self._get_or_none(path, bytes, _TILE_LIMIT)) is not None:
                return tile, first + TILE_WIDTH
        message = f"the log has no data tile with entry {start} yet (tree size {self._tree_size}); run again later"
        raise LogUnavailableError(self.url, message)

    def _get_issuer(self, fingerprint: bytes) -> bytes | None:
        """Return the certificate with this SHA-256, None if the log does not have it; threads ask for it once."""
        while True:
            with self._lock:
                known = self._issuers.get(fingerprint)
                future = known or self._issuers.setdefault(fingerprint, Future())
            if known is None:
                self._ask_for_issuer(fingerprint, future)
            try:
                return future.result()
            except CancelledError:
                continue
            except LogError as error:
                # The error is shared by all who wait for the issuer, what it costs is not.
                kind = LogProtocolError if isinstance(error, LogProtocolError) else LogUnavailableError
                raise kind(self.url, error.message) from error

    def _ask_for_issuer(self, fingerprint: bytes, future: "Future[bytes | None]") -> None:
        try:
            future.set_result(self._get_or_none(f"/issuer/{fingerprint.hex()}", partial(self._check, fingerprint)))
        except BaseException as error:
            with self._lock:
                del self._issuers[fingerprint]
            if not isinstance(error, LogError) or stopped():
                # That says nothing about the issuer: whoever waits for it asks again, for as long as it is not stopped.
                future.cancel()
                raise
            future.set_exception(error)

    def _check(self, fingerprint: bytes, certificate: bytes) -> bytes:
        if sha256(certificate).digest() != fingerprint:
            message = f"issuer/{fingerprint.hex()} is not the certificate with this SHA-256; {REPORT}"
            raise TryAgain(LogProtocolError(self.url, message))
        return certificate

    def _get_or_none(self, path: str, read: Callable[[bytes], bytes], limit: int = _BODY_LIMIT) -> bytes | None:
        try:
            return self._client.get(path, read, limit=limit)
        except HttpError as error:
            if error.status == 404:
                return None
            raise

    def entry_urls(self, index: Int64s) -> pa.StringArray:
        """Return the URL of each index's full tile, whether the log already has it or not."""
        tiles, position = np.unique(index // TILE_WIDTH, return_inverse=True)
        urls = pa.array([f"{self.url}/tile/data/{tile_path(tile)}" for tile in tiles.tolist()], pa.string())
        return urls.take(pa.array(position))


def tile_path(number: int) -> str:
    """Return the number of a tile as it stands in its path (Static CT API, "Merkle Tree").

    Examples
    --------
    >>> tile_path(0), tile_path(1234067)
    ('000', 'x001/x234/067')
    """
    path = f"{number % 1000:03}"
    while number := number // 1000:
        path = f"x{number % 1000:03}/{path}"
    return path
