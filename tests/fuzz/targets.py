"""What eats bytes from outside: every decoder, and what must hold whatever comes."""

import hashlib
import json
import math
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import seeds
from blocks import LOG, block_of
from seeds import START

from ctkit.desk.parameter_files import read_server_config, read_yaml
from ctkit.desk.parameters import read_parameters
from ctkit.desk.state_file import read_state
from ctkit.errors import CheckpointError, LogProtocolError, LogUnavailableError, ParameterError, TableError
from ctkit.lake.keys import SortedKeys, read_keys
from ctkit.logs.asking import HttpError, Patience, TryAgain
from ctkit.logs.audit_paths import ProvenTree, Stretch, read_audit_path, read_consistency, read_entry_and_proof
from ctkit.logs.hash_tiles import HashTiles
from ctkit.logs.http import Client, retry_after
from ctkit.logs.log_list import read_log_list, read_public_key
from ctkit.urls import canonical_url, host_of
from ctkit.wire.checkpoint import Checkpoint, read_checkpoint, read_sth
from ctkit.wire.entries import EntryBlock, decode_data_tile, decode_get_entries
from ctkit.wire.extra_data import FAULTS, find_faults
from ctkit.wire.merkle import HASH_SIZE, TILE_WIDTH, verify_consistency
from ctkit.wire.rows import count_unreadable, read_rows
from ctkit.wire.signatures import check_public_key, verify_signature

URL = "https://log.example"
AGENT = "ctkit tests, ct@example.org"

_LIMIT = 1000
"""How many entries a page is asked for."""

_JSON = [*b'"entries" [ ] { } , : " null 1e999 NaN \\ud800 \\u0000'.split(), b"\xef\xbb\xbf"]
_NOTE = ["\u2014 ".encode(), "\u2028".encode(), "\u0663".encode(), b"\n", b"\n\n", b"\r", b" ", b"=", b"0", b"9" * 30]
_HTTP = (
    b"\r\n|\n|\r\n\r\n|:| |Location: |Retry-After: |Content-Encoding: gzip\r\n|Transfer-Encoding: chunked\r\n"
    b"|Set-Cookie: |200|301|429|//[|http://|https:|?|#|@|xn--|%00|%zz|\xc3\xbc|1e999|-1|nan|\x1f\x8b\x08\x1c"
).split(b"|")
_DATES = [*b", : - + GMT Thu Jan ( \\ 0 nan inf e9 _".split(), b" ", b"9" * 20]
_YAML = (
    b"&a @*a@*sink@<<: @? @- @: @\n@\n  @\t@|\n@>-@!x @[@]@{@}@'@\"@---\n@%YAML 9.9\n@#@0x@1:1:1@.inf@\\x@!!bool "
    b"@!!int @!!float @!!timestamp @!!binary @!!set @!!omap @!!pairs @!!null @!!map @!!seq @!!python/name:os.system "
).split(b"@")
"""Words of the formats."""


@dataclass(frozen=True)
class Target:
    """One decoder.

    Attributes
    ----------
    read
        Decodes one input, and checks what must hold of the value.
    errors
        What it may raise.
    seeds
        Inputs to damage.
    share
        Of all inputs, relative to other targets.
    tokens, is_json
        As in `mutation.mutate`.
    isolated
        To be run in a process of its own, because it is not ours to keep it from crashing.
    """

    read: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    seeds: Sequence[bytes]
    share: int = 1
    tokens: Sequence[bytes] = ()
    is_json: bool = False
    isolated: bool = False


@contextmanager
def make_targets(folder: Path) -> Iterator[dict[str, Target]]:
    """Yield the decoders by name; `folder` is for the files that some of them read."""
    file, head = folder / "input", (CheckpointError,)

    def of_file(read: Callable[[Path], object]) -> Callable[[bytes], object]:
        def read_bytes(data: bytes) -> object:
            file.write_bytes(data)
            return read(file)

        return read_bytes

    with _wire() as get:
        yield {
            "certificate": Target(_certificate, (), seeds.certificates(), 420),
            "get_entries": Target(_get_entries, (LogProtocolError,), seeds.pages(), 120, _JSON, is_json=True),
            "data_tile": Target(_data_tile, (LogProtocolError,), seeds.data_tiles(), 120),
            "sth": Target(partial(_tree_head, read_sth), head, seeds.tree_heads(), 50, _JSON, is_json=True),
            "checkpoint": Target(partial(_tree_head, read_checkpoint), head, seeds.checkpoints(), 50, _NOTE),
            "proof": Target(_proof, (LogProtocolError,), seeds.proofs(), 50, _JSON, is_json=True),
            "hash_tile": Target(_hash_tile, (LogProtocolError,), seeds.hash_tiles(), 20),
            "log_list": Target(of_file(_log_list), (ParameterError,), seeds.log_lists(), 40, _JSON, is_json=True),
            "public_key": Target(of_file(_public_key), (ParameterError,), seeds.public_keys(), 30),
            "http": Target(get, (LogUnavailableError, LogProtocolError), seeds.responses(), 15, _HTTP),
            "retry_after": Target(_retry_after, (), seeds.WAITS, 20, _DATES),
            "url": Target(_url, (ParameterError,), seeds.URLS, 10, _HTTP),
            "state": Target(of_file(_state), (ParameterError,), seeds.STATES, 30, _JSON, is_json=True),
            "parameters": Target(of_file(_parameters), (ParameterError,), seeds.PARAMETERS, 25, _YAML),
            "keys": Target(of_file(_keys), (TableError,), seeds.parquet_files(), 25, isolated=True),
        }


def _colons(digest: bytes) -> str:
    return digest.hex(":").upper()


def _check_rows(block: EntryBlock) -> None:
    """Check that each entry is a row with its bytes and hashes, and has a fault or none."""
    faults = find_faults(block)
    assert len(faults) == len(block)
    assert max(faults, default=0) < len(FAULTS)
    ders = [block.data[start:end] for start, end in block.certificate.tolist()]
    rows = read_rows(block, LOG, source_name=LOG.name)
    rows.validate(full=True)
    sha1s = [_colons(hashlib.sha1(der).digest()) for der in ders]
    assert rows["as_der"].to_pylist() == ders
    assert rows["sha256"].to_pylist() == [_colons(hashlib.sha256(der).digest()) for der in ders]
    assert rows["sha1"].to_pylist() == rows["fingerprint"].to_pylist() == sha1s
    assert rows["cert_index"].to_pylist() == block.index.tolist()
    assert 0 <= count_unreadable(rows) <= len(block)
    for chain in rows["chain"].to_pylist():
        for text in chain:
            assert "aggregated" in json.loads(text)["subject"]


def _certificate(data: bytes) -> None:
    """Read a certificate that is also its own chain, of an entry with any timestamp."""
    moment = int.from_bytes(data[-8:]) >> 1
    _check_rows(block_of([data, b""], timestamps=[moment, 0], chains=[[0], []], issuers=[data]))


def _check_block(block: EntryBlock, start: int, issuers: int) -> None:
    """Check that a block hangs together: consecutive from `start` on, and nothing points out of it."""
    count = len(block)
    assert block.index.tolist() == list(range(start, start + count))
    for spans in (block.leaf, block.certificate):
        assert spans.shape == (count, 2)
        assert ((spans[:, 0] >= 0) & (spans[:, 0] < spans[:, 1]) & (spans[:, 1] <= len(block.data))).all()
    assert (block.timestamp >= 0).all()
    assert set(block.entry_type.tolist()) <= {0, 1}
    assert block.chain_offsets[0] == 0
    assert (np.diff(block.chain_offsets) >= 0).all()
    assert block.chain_offsets[-1] == len(block.chain)
    assert set(block.chain.tolist()) <= set(range(-1 if block.missing_issuers else 0, issuers))
    hashes = block.leaf_hashes()
    odd = block.take(block.index % 2 == 1)
    assert (odd.index % 2 == 1).all()
    assert odd.leaf_hashes() == [leaf for index, leaf in zip(block.index.tolist(), hashes, strict=True) if index % 2]


@contextmanager
def _checked_error(start: int, stop: int) -> Iterator[None]:
    """Check that an error names a stretch from `start` on, if it names any, and none beyond `stop`."""
    try:
        yield
    except LogProtocolError as error:
        if error.end is not None and not (error.start == start < error.end <= stop):
            raise AssertionError(f"the error names [{error.start}, {error.end})") from error
        raise


def _get_entries(data: bytes) -> None:
    with _checked_error(START, START + _LIMIT):
        block = decode_get_entries(data, START, URL, _LIMIT)
    assert len(block) <= _LIMIT
    _check_block(block, START, len(block.issuers))
    _check_rows(block)
    _check_rows(block.take(block.index % 2 == 1))


def _data_tile(data: bytes) -> None:
    start, end = START + len(data) % 2, START + TILE_WIDTH
    with _checked_error(start, end):
        block, fingerprints = decode_data_tile(data, start, end, URL)
    assert 0 < len(block) <= TILE_WIDTH
    _check_block(block, start, len(fingerprints))
    log = seeds.embedded_log()
    resolved = block.with_issuers(fingerprints, {each: log.issuers.get(each.hex()) for each in fingerprints})
    _check_block(resolved, start, len(resolved.issuers))
    assert len(resolved.issuers) + len(resolved.missing_issuers) == len(fingerprints)
    _check_rows(resolved)


@cache
def _signed() -> set[tuple[int, bytes, int]]:
    """Return size, root hash and timestamp of every tree head that some log has signed."""
    heads = [read_sth(data, URL) for data in seeds.tree_heads()] + [
        read_checkpoint(data, URL) for data in seeds.checkpoints()
    ]
    return {(head.tree_size, head.root_hash, head.timestamp) for head in heads}


def _tree_head(read: Callable[[bytes, str], Checkpoint], data: bytes) -> None:
    """Read a tree head; whatever signature still holds, it holds for what was signed."""
    head = read(data, URL)
    for key in seeds.log_keys():
        with suppress(CheckpointError):
            verified = head.verify(key)
            assert (verified.tree_size, verified.root_hash, verified.timestamp) in _signed()


def _proof(data: bytes) -> None:
    """Read each kind of proof; one of the leaf is taken only if it shows what is in the tree."""
    tree = seeds.embedded_log().tree
    root, leaf_hash = tree.root(), tree.leaf_hash(START)
    refused = []
    for read in (_audit_path, _entry_and_proof, _consistency):
        try:
            read(data, root, leaf_hash)
        except TryAgain as problem:
            refused.append(problem.error)
    if len(refused) == 3:
        raise refused[0]


def _audit_path(data: bytes, root: bytes, leaf_hash: bytes) -> None:
    index, path = read_audit_path(data, URL)
    _learn(index, leaf_hash, path)


def _entry_and_proof(data: bytes, root: bytes, leaf_hash: bytes) -> None:
    found, path = read_entry_and_proof(data, URL)
    _learn(START, found, path)


def _learn(index: int, leaf_hash: bytes, path: list[bytes]) -> None:
    tree = seeds.embedded_log().tree
    proven = ProvenTree(tree.size, tree.root())
    learned = proven.learn(index, leaf_hash, path)
    right = (index, leaf_hash, path) == (START, tree.leaf_hash(START), tree.inclusion_proof(START, tree.size))
    assert learned == right
    assert proven.compare(Stretch(START, [leaf_hash], tree.size))[0].all() == learned


def _consistency(data: bytes, root: bytes, leaf_hash: bytes) -> None:
    proof = read_consistency(data, URL)
    tree = seeds.embedded_log().tree
    holds = verify_consistency(START, tree.root(START), tree.size, root, proof)
    assert holds == (proof == tree.consistency_proof(START, tree.size))


def _hash_tile(data: bytes) -> None:
    """Prove the entries of a tree of which one tile, each in turn, is the input: only the right ones are proven."""
    tree = seeds.embedded_log().tree
    leaves = [tree.leaf_hash(index) for index in range(tree.size)]

    def fetch(damaged: tuple[int, int], level: int, index: int, width: int, check: Callable[[bytes], None]) -> bytes:
        tile = data if (level, index) == damaged else seeds.hash_tile(tree, level, index)
        if len(tile) != width * HASH_SIZE:
            raise LogProtocolError(URL, "refused by its length")
        try:
            check(tile)
        except TryAgain as problem:
            raise problem.error from None
        return tile

    refused = []
    for damaged in ((0, 1), (0, 2), (1, 0)):
        tiles = HashTiles(URL, tree.size, tree.root(), partial(fetch, damaged))
        try:
            # Leaves of a part of a tile take the tile of level 0, too.
            assert tiles.compare(START - 40, leaves[START - 40 :]).all()
            assert tiles.root(START) == tree.root(START)
        except LogProtocolError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def _log_list(file: Path) -> None:
    for log in read_log_list(file, user_agent=AGENT):
        assert log.name
        assert log.protocol in ("rfc6962", "static-ct")
        with suppress(ValueError):  # of which ParameterError is one; these logs are left out
            assert host_of(log.url)
            assert log.url == canonical_url(log.url)
            check_public_key(log.key)
            assert not verify_signature(log.key, log.key, b"anything")


def _public_key(file: Path) -> None:
    key = read_public_key(file)
    assert not verify_signature(key, key[:71], b"anything")
    with suppress(CheckpointError):
        read_sth(seeds.tree_heads()[0], URL).verify(key)


class _Server:
    """Answers whatever it is asked with `answer`, byte by byte; `client` asks it."""

    def __init__(self) -> None:
        self.answer = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        patience = Patience(tries=1, first_wait=0, longest_wait=0, timeout=2, total=5)
        url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.client = Client(url, user_agent=AGENT, patience=patience)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.recv(1 << 16)
                connection.sendall(self.answer)

    def close(self) -> None:
        self.client.close()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@contextmanager
def _wire() -> Iterator[Callable[[bytes], object]]:
    """Yield what asks a server that answers with the input."""
    servers: list[_Server] = []

    def get(data: bytes) -> None:
        if not servers:
            servers.append(_Server())
        servers[0].answer = data
        try:
            assert len(servers[0].client.get("/x", bytes, limit=1 << 16, binary=len(data) % 2 == 1)) <= 1 << 16
        except HttpError as error:
            if error.status is not None:  # a host that refuses is asked less often from then on
                servers.pop().close()
            raise

    try:
        yield get
    finally:
        for server in servers:
            server.close()


def _retry_after(data: bytes) -> None:
    wait = retry_after(data.decode("latin-1"), 0)
    assert wait is None or (wait >= 0 and math.isfinite(wait))


def _url(data: bytes) -> None:
    url = canonical_url(data.decode("utf-8", "replace"))
    assert host_of(url)
    assert canonical_url(url) == url


def _state(file: Path) -> None:
    assert all(type(index) is int and 0 <= index < 1 << 63 for index in read_state(file).values())


def _parameters(file: Path) -> None:
    """Read a file as parameters, and as configuration of the live server."""
    config = read_yaml(file)
    assert all(isinstance(key, str) for key in config)
    for read in (read_server_config, read_parameters, lambda file: read_parameters(server_config=str(file))):
        with suppress(ParameterError):
            read(file)


def _keys(file: Path) -> None:
    keys = read_keys(str(file))
    numbers = keys.numbered({"https://ct.example.com/2026h2": 0, "https://ct.example.org/2026h2": 1})
    assert len(numbers) == len(keys.log) == len(keys.index)
    ordered = SortedKeys([numbers], [np.arange(len(numbers))])
    assert (np.diff(ordered.keys) >= 0).all()
    ordered.repeated()
