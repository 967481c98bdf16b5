"""Entries are proven to be what a log signed: by audit paths and by hash tiles, with few requests."""

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from fakes import AGENT, FAST, FakeLog, Serve, each_protocol
from raising import fails

from ctkit.demo.embedded import NOT_FOUND, EmbeddedLog, Request, Response
from ctkit.errors import CheckpointError, LogError, LogProtocolError, LogUnavailableError
from ctkit.logs.asking import HttpError, TryAgain
from ctkit.logs.hash_tiles import HashTiles
from ctkit.logs.log import Log
from ctkit.logs.open import open_log
from ctkit.logs.rfc6962 import Rfc6962Log
from ctkit.logs.static_ct import StaticCtLog
from ctkit.wire.checkpoint import Checkpoint, read_checkpoint
from ctkit.wire.entries import decode_data_tile, decode_get_entries
from ctkit.wire.merkle import Tree, hash_leaf

OTHER = hash_leaf(b"another")
BY_HASH, BY_INDEX = "ct/v1/get-proof-by-hash", "ct/v1/get-entry-and-proof"


class Bare(EmbeddedLog):
    """A log of leaves without entries, which serves proofs, hash tiles and tree heads, and can be made to misbehave.

    Attributes
    ----------
    requests
        Path and query of each, in order.
    change
        What becomes of each answer.
    gone
        Prefixes of paths that are not there.
    """

    def __init__(self, size: int) -> None:
        super().__init__("bare")
        self.requests: list[str] = []
        self.gone: tuple[str, ...] = ()
        self.change: Callable[[Request, Response], Response] = lambda request, response: response
        self.extend(size)

    def extend(self, size: int) -> None:
        """Append this many leaves."""
        for number in range(self.tree.size, self.tree.size + size):
            leaf_hash = hash_leaf(number.to_bytes(4))
            self._index_by_leaf_hash[leaf_hash] = number
            self.tree.append(leaf_hash)

    @property
    def tree_size(self) -> int:
        """Number of leaves."""
        return self.tree.size

    def tree_head(self, tree_size: int) -> tuple[int, bytes]:
        """Return a tree head whose time grows with its size, without a signature."""
        return self.start + tree_size, b"\4\3\0\1\0"

    def hashes(self, start: int, end: int) -> list[bytes]:
        """Return the hashes of the leaves ``[start, end)``."""
        return [self.tree.leaf_hash(index) for index in range(start, end)]

    def respond(self, request: Request) -> Response:
        """Answer one request, and remember it."""
        self.requests.append(request.path)
        if request.path.startswith(self.gone):
            return NOT_FOUND
        if request.path == BY_INDEX:
            index, size = int(request.query["leaf_index"]), int(request.query["tree_size"])
            leaf = {"leaf_input": base64.b64encode(index.to_bytes(4)).decode(), "extra_data": ""}
            path = [base64.b64encode(node).decode() for node in self.tree.inclusion_proof(index, size)]
            response = Response(200, json.dumps({**leaf, "audit_path": path}).encode(), "application/json")
        else:
            response = super().respond(request)
        return self.change(request, response)


def _open(protocol: Any, url: str, **options: Any) -> Rfc6962Log | StaticCtLog:
    return open_log(url, user_agent=AGENT, protocol=protocol, **{"patience": FAST, **options})


def _prove(log: Log, start: int, leaf_hashes: Sequence[bytes], head: Checkpoint) -> list[bool]:
    return log.prove(start, leaf_hashes, head).tolist()


def _with(leaf_hashes: Sequence[bytes], start: int, wrong: Sequence[int]) -> list[bytes]:
    return [OTHER if index in wrong else leaf_hash for index, leaf_hash in enumerate(leaf_hashes, start)]


@each_protocol
@pytest.mark.parametrize(("start", "end"), [(0, 600), (0, 1), (17, 18), (255, 257), (256, 512), (300, 600), (599, 600)])
def test_prove_entries_of_a_log(serve: Serve, protocol: str, start: int, end: int) -> None:
    """What a well-behaved log sends is what it signed; an entry at another index is not."""
    fake = FakeLog(size=600, protocols=[protocol])

    with _open(protocol, serve(fake), key=fake.public_key) as log:
        head = log.get_checkpoint()
        hashes = []
        while len(hashes) < end - start:
            hashes += log.get_entries(start + len(hashes), end).leaf_hashes()

        assert _prove(log, start, hashes, head) == [True] * (end - start)
        assert _prove(log, (start + 1) % 600, hashes[:1], head) == [False]
        assert _prove(log, start, [], head) == []


@each_protocol
def test_prove_when_entries_differ(serve: Serve, protocol: str) -> None:
    """Exactly the wrong entries are named, at the ends, next to each other, or in the last tile."""
    bare = Bare(3000)
    hashes = bare.hashes(10, 3000)

    with _open(protocol, serve(bare)) as log:
        head = log.get_checkpoint()
        for wrong in ([10], [2999], [511, 512], [10, 300, 301, 2047, 2999]):
            with _open(protocol, log.url) as fresh:
                result = _prove(fresh, 10, _with(hashes, 10, wrong), head)
            assert [index for index, right in enumerate(result, 10) if not right] == wrong


def test_prove_takes_two_audit_paths_for_many_pages(serve: Serve) -> None:
    """64 consecutive pages anywhere in a tree take two requests, aligned ones one, and a neighbour may take none."""
    bare = Bare(20_000)

    with _open("rfc6962", serve(bare)) as log:
        head = log.get_checkpoint()
        for start, requests in [(1003, 2), (4096, 1), (6144, 0), (16_384, 1)]:
            bare.requests.clear()

            assert all(_prove(log, start, bare.hashes(start, start + 64 * 32), head))
            assert bare.requests == [BY_HASH] * requests


def test_prove_takes_few_requests_for_a_wrong_entry(serve: Serve) -> None:
    """A wrong entry among 2048 is found with no more than twice as many requests as the tree is high."""
    bare = Bare(5000)
    url = serve(bare)

    for wrong in (100, 1000, 1001, 2147):
        with _open("rfc6962", url) as log:
            head = log.get_checkpoint()
            bare.requests.clear()
            result = _prove(log, 100, _with(bare.hashes(100, 2148), 100, [wrong]), head)

        assert [index for index, right in enumerate(result, 100) if not right] == [wrong]
        assert len(bare.requests) <= 2 * 11 + 4


def test_prove_takes_hash_tiles_above_the_data_only(serve: Serve) -> None:
    """300 whole data tiles take the tiles of level 1 and above, each once, and the partial one that the root needs."""
    bare = Bare(300 * 256 + 7)

    with _open("static-ct", serve(bare)) as log:
        head = log.get_checkpoint()
        bare.requests.clear()
        for start in range(0, 300 * 256, 100 * 256):
            assert all(_prove(log, start, bare.hashes(start, start + 100 * 256), head))

    assert sorted(bare.requests) == ["tile/0/300.p/7", "tile/1/000", "tile/1/001.p/44", "tile/2/000.p/1"]


def test_prove_asks_for_leaf_tiles_where_it_must(serve: Serve) -> None:
    """A tile of level 0 is asked for where a data tile is not whole, or differs."""
    bare = Bare(1024)

    with _open("static-ct", serve(bare)) as log:
        head = log.get_checkpoint()
        bare.requests.clear()
        assert _prove(log, 5, bare.hashes(5, 256), head) == [True] * 251
        assert _prove(log, 256, bare.hashes(256, 512), head) == [True] * 256
        assert _prove(log, 512, _with(bare.hashes(512, 1024), 512, [600]), head).count(False) == 1
        assert _prove(log, 5, bare.hashes(5, 9), head) == [True] * 4

    assert bare.requests == ["tile/1/000.p/4", "tile/0/000", "tile/0/002"]


def test_prove_when_get_proof_by_hash_is_not_offered(serve: Serve) -> None:
    """Audit paths are then asked for by index."""
    bare = Bare(100)
    bare.gone = (BY_HASH,)

    with _open("rfc6962", serve(bare)) as log:
        assert _prove(log, 3, _with(bare.hashes(3, 90), 3, [44]), log.get_checkpoint()).count(False) == 1


def test_prove_when_get_entry_and_proof_is_not_offered(serve: Serve) -> None:
    """A wrong entry is found by the hashes of the others, also at an end."""
    bare = Bare(100)
    bare.gone = (BY_INDEX,)

    with _open("rfc6962", serve(bare)) as log:
        head = log.get_checkpoint()
        for wrong in ([44], [4], [4, 5, 89]):
            result = _prove(log, 4, _with(bare.hashes(4, 90), 4, wrong), head)
            assert [index for index, right in enumerate(result, 4) if not right] == wrong


def test_prove_when_a_leaf_is_there_twice(serve: Serve) -> None:
    """Where the log knows the leaf under another index, the entry is asked for by its own."""
    bare = Bare(100)
    bare.change = lambda request, response: (
        replace(response, body=response.body.replace(b'"leaf_index":', b'"leaf_index":9'))
        if request.path == BY_HASH
        else response
    )

    with _open("rfc6962", serve(bare)) as log:
        head = log.get_checkpoint()
        bare.requests.clear()
        assert _prove(log, 3, bare.hashes(3, 90), head) == [True] * 87
    assert bare.requests == [BY_HASH, BY_INDEX] * 2


def test_prove_when_the_log_gives_no_paths(serve: Serve) -> None:
    """Without audit paths nothing is called wrong, and the requests for them come to an end."""
    bare = Bare(100)
    bare.gone = (BY_HASH, BY_INDEX)

    with _open("rfc6962", serve(bare)) as log:
        head = log.get_checkpoint()
        bare.requests.clear()
        for end in (4, 90):
            with fails(LogUnavailableError, start=3, end=4):
                log.prove(3, bare.hashes(3, end), head)
    assert len(bare.requests) == 2 * (1 + 4)


def test_prove_when_many_entries_differ(serve: Serve) -> None:
    """The search has an end and takes large subtrees first; what it has not reached is not proven."""
    bare = Bare(5000)
    wrong = [*range(200, 1200), 2500]

    with _open("rfc6962", serve(bare)) as log:
        head = log.get_checkpoint()
        bare.requests.clear()
        result = _prove(log, 0, _with(bare.hashes(0, 3000), 0, wrong), head)

    assert len(bare.requests) <= 2 * 64
    assert not any(result[200:1200])
    lost = [index for index in range(2048, 3000) if not result[index]]
    assert 2500 in lost
    assert len(lost) <= 16


@each_protocol
def test_prove_beyond_the_tree_head(serve: Serve, protocol: str) -> None:
    """A tree head says nothing of entries that came after it."""
    bare = Bare(100)

    with _open(protocol, serve(bare)) as log, fails(LogUnavailableError, start=100, end=101):
        log.prove(90, [*bare.hashes(90, 100), OTHER], log.get_checkpoint())


@each_protocol
@pytest.mark.parametrize("what", ["an empty body", "half", "twice as much", "one bit"])
def test_prove_when_proofs_are_broken(serve: Serve, protocol: str, what: str) -> None:
    """What cannot be read or does not lead to the root is asked for again, then named; good answers are used."""
    bare = Bare(1000)
    broken = 2

    def spoil(request: Request, response: Response) -> Response:
        nonlocal broken
        if request.path.startswith((BY_HASH, "tile/")) and broken:
            broken -= 1
            body = {
                "an empty body": b"",
                "half": response.body[: len(response.body) // 2],
                "twice as much": response.body * 2,
                "one bit": response.body[:-32] + bytes([response.body[-32] ^ 1]) + response.body[-31:],
            }[what]
            return replace(response, body=body)
        return response

    bare.change = spoil
    with _open(protocol, serve(bare)) as log:
        head = log.get_checkpoint()
        assert _prove(log, 256, bare.hashes(256, 512), head) == [True] * 256
    assert broken == 0
    broken = -1
    with _open(protocol, log.url) as log, pytest.raises(LogProtocolError):
        log.prove(256, bare.hashes(256, 512), head)


def test_prove_when_partial_hash_tiles_are_gone(serve: Serve) -> None:
    """The full tile is read where the log has grown, and the newest partial one where that is not there either."""
    bare = Bare(1000)

    with _open("static-ct", serve(bare)) as log:
        head = log.get_checkpoint()
        bare.extend(20)
        bare.gone = ("tile/0/003.p/232",)
        bare.requests.clear()
        assert _prove(log, 990, bare.hashes(990, 1000), head) == [True] * 10
    assert bare.requests == ["tile/1/000.p/3", "tile/0/003.p/232", "tile/0/003", "checkpoint", "tile/0/003.p/252"]
    bare.extend(65536)
    bare.gone = ("tile/0/003.p", "tile/1/000.p")
    bare.requests.clear()
    with _open("static-ct", log.url) as log:
        assert _prove(log, 768, bare.hashes(768, 1000), head) == [True] * 232
    assert bare.requests == ["tile/1/000.p/3", "tile/1/000", "tile/0/003.p/232", "tile/0/003"]


def test_prove_when_a_hash_tile_is_not_there(serve: Serve) -> None:
    """A tile that the log does not serve just now leaves the entries unproven, not wrong."""
    bare = Bare(1000)
    bare.gone = ("tile/0/001",)

    with _open("static-ct", serve(bare)) as log, pytest.raises(LogUnavailableError):
        log.prove(300, bare.hashes(300, 310), log.get_checkpoint())


def test_hash_tiles_that_look_like_something_else(serve: Serve) -> None:
    """A hash may begin with any bytes, also with those of a gzip file or a page of HTML."""
    for begin in (b"<", b" \n<", b"\x1f\x8b"):
        bare = EmbeddedLog("looks", protocols=["static-ct"])
        bare.slug += begin.hex()
        leaf_hash = begin + bytes(32 - len(begin))
        bare.tree = Tree([leaf_hash] * 2)
        root = bare.tree.root()
        with _open("static-ct", serve(bare)) as log:
            head = Checkpoint(log.url, "", 2, root, 0, b"")

            assert _prove(log, 1, [leaf_hash], head) == [True]


@each_protocol
@pytest.mark.parametrize(("old_size", "new_size"), [(0, 700), (1, 700), (256, 700), (513, 700), (699, 700), (700, 700)])
def test_check_consistency(serve: Serve, protocol: str, old_size: int, new_size: int) -> None:
    """A tree that has only grown passes, whichever is named first; another root for either of them does not."""
    bare = Bare(new_size)

    with _open(protocol, serve(bare)) as log:
        old, new = (Checkpoint(log.url, "", size, bare.tree.root(size), 0, b"") for size in (old_size, new_size))
        log.check_consistency(old, new)
        log.check_consistency(new, old)
        with pytest.raises(CheckpointError):
            log.check_consistency(replace(old, root_hash=OTHER), new)
        with pytest.raises((CheckpointError, LogProtocolError) if old_size else CheckpointError):
            # Nothing needs to be proven of an empty tree.
            log.check_consistency(old if old_size else replace(old, root_hash=OTHER), replace(new, root_hash=OTHER))


def test_check_consistency_when_the_proof_cannot_be_had(serve: Serve) -> None:
    """A log that gives no proof is not said to be inconsistent."""
    bare = Bare(100)
    bare.gone = ("ct/v1/get-sth-consistency",)

    with _open("rfc6962", serve(bare)) as log:
        new = log.get_checkpoint()
        with fails(HttpError, status=404):
            log.check_consistency(replace(new, tree_size=50), new)


def _flipped(data: bytes) -> Iterator[bytes]:
    for at in range(len(data)):
        yield data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]


@each_protocol
def test_every_byte_of_an_answer_with_entries(serve: Serve, protocol: str) -> None:
    """Whatever byte of it is changed: an entry is proven if, and only if, its leaf is what the log signed."""
    fake = FakeLog(size=5, protocols=[protocol])
    signed = [entry.timestamped_entry for entry in fake.entries]
    if protocol == "rfc6962":
        body = fake.respond(Request("ct/v1/get-entries", {"start": "0", "end": "4"})).body
    else:
        body = b"".join(entry.tile_leaf for entry in fake.entries)
    unread = wrong = 0

    with _open(protocol, serve(fake)) as log:
        head = log.get_checkpoint()
        for changed in _flipped(body):
            try:
                if protocol == "rfc6962":
                    block = decode_get_entries(changed, 0, log.url, 5)
                else:
                    block, _ = decode_data_tile(changed, 0, 5, log.url)
            except LogError:
                unread += 1
                continue
            leaves = [block.data[start:end] for start, end in block.leaf.tolist()]
            proven = _prove(log, 0, block.leaf_hashes(), head)
            assert proven == [leaf == right for leaf, right in zip(leaves, signed, strict=False)]
            wrong += not all(proven) or len(proven) < 5
    assert wrong > 1000
    # The rest of a pre-certificate and the fingerprints of its chain are not in the tree.
    assert unread + wrong >= sum(map(len, signed))


def test_every_byte_of_the_hash_tiles() -> None:
    """A changed byte in any hash tile that a proof needs makes it fail: in a full one, and in each at the edge."""
    bare = Bare(260)
    tiles = {(0, 0): bare.tree.tile(0, 0), (0, 1): bare.tree.tile(0, 1, 4), (1, 0): bare.tree.tile(1, 0, 1)}
    tried = 0

    def hash_tiles(served: dict[tuple[int, int], bytes]) -> HashTiles:
        def fetch(level: int, index: int, width: int, check: Callable[[bytes], None]) -> bytes:
            check(served[level, index])
            return served[level, index]

        return HashTiles("https://log.example", 260, bare.tree.root(), fetch)

    assert hash_tiles(tiles).compare(3, bare.hashes(3, 260)).all()
    for tile, body in tiles.items():
        for changed in _flipped(body):
            with pytest.raises(TryAgain) as raised:
                hash_tiles({**tiles, tile: changed}).compare(3, bare.hashes(3, 260))
            assert isinstance(raised.value.error, LogProtocolError)
            tried += 1
    assert tried == 32 * 261


def test_every_byte_of_an_audit_path(serve: Serve) -> None:
    """A changed byte in a proof makes it fail, or leaves what it says as it was."""
    bare = Bare(13)
    bare.gone = (BY_INDEX,)
    head = read_checkpoint(bare.checkpoint(), "https://log.example")
    body = bare.respond(
        Request(BY_HASH, {"hash": base64.b64encode(bare.tree.leaf_hash(5)).decode(), "tree_size": "13"})
    ).body
    same = json.loads(body)

    url = serve(bare)
    once = replace(FAST, tries=1)
    for changed in _flipped(body):
        bare.change = lambda request, response, changed=changed: replace(response, body=changed)
        with _open("rfc6962", url, patience=once) as log:
            try:
                proven = _prove(log, 5, bare.hashes(5, 6), head)
            except LogError:
                continue
        said = json.loads(changed)
        assert proven == [True]
        assert said["leaf_index"] == 5
        assert [base64.b64decode(node) for node in said["audit_path"]] == [
            base64.b64decode(node) for node in same["audit_path"]
        ]


@each_protocol
def test_prove_is_the_same_whatever_the_order(serve: Serve, protocol: str) -> None:
    """Stretches of any length, one after the other with one client, are all distinguished from wrong ones."""
    bare = Bare(777)
    random = Random(7)

    with _open(protocol, serve(bare)) as log:
        head = log.get_checkpoint()
        for _ in range(40):
            start, end = sorted(random.sample(range(778), 2))
            wrong = random.choices(range(start, end), k=random.randrange(3))
            result = _prove(log, start, _with(bare.hashes(start, end), start, wrong), head)
            assert result == [index not in wrong for index in range(start, end)]
