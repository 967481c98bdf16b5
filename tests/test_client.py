"""Tree heads are signed by the log's key where it is known, and never contradict each other."""

from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fakes import AGENT, FAST, FakeLog, Serve, each_protocol
from raising import fails

from ctkit.demo.embedded import EmbeddedLog
from ctkit.errors import CheckpointError, LogError, LogProtocolError, LogUnavailableError, ParameterError
from ctkit.logs.open import open_log
from ctkit.logs.rfc6962 import Rfc6962Log
from ctkit.logs.single_flight import Shared
from ctkit.logs.static_ct import StaticCtLog
from ctkit.wire.checkpoint import tree_head_to_sign
from ctkit.wire.merkle import Tree, hash_leaf

P384 = (
    ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
)


class Heads(EmbeddedLog):
    """Gives the tree head that is set: its size, its time, and the tree."""

    def __init__(self) -> None:
        super().__init__("heads")
        self.trees = [Tree([hash_leaf(bytes([which, number])) for number in range(30)]) for which in range(2)]
        self.set(0, 0)

    def set(self, size: int, time: int, which: int = 0) -> None:
        """Set size and time of the next tree heads, and of which of two trees they are."""
        self.size, self.time, self.tree = size, time, self.trees[which]

    @property
    def tree_size(self) -> int:
        """The size of the tree head."""
        return self.size

    def tree_head(self, tree_size: int) -> tuple[int, bytes]:
        """Return the time of the tree head and the log's signature of it."""
        signed = tree_head_to_sign(self.time, tree_size, self.tree.root(tree_size))
        signature = self._key.sign(signed, ec.ECDSA(hashes.SHA256()))
        return self.time, b"\4\3" + len(signature).to_bytes(2) + signature


def _open(protocol: Any, url: str, key: bytes | None = None) -> Rfc6962Log | StaticCtLog:
    return open_log(url, user_agent=AGENT, protocol=protocol, key=key, patience=FAST)


@each_protocol
@pytest.mark.parametrize("first", ["given", "auto"])
def test_get_checkpoint_when_the_key_is_known(serve: Serve, protocol: str, first: str) -> None:
    """A tree head by the log's key is taken, whether the protocol was given or asked for; one by another is not."""
    fake, other = FakeLog(size=5, protocols=[protocol]), FakeLog("other", size=0)
    url = serve(fake)

    how = protocol if first == "given" else "auto"

    with _open(how, url, fake.public_key) as log:
        assert (log.key, log.get_checkpoint().tree_size) == (fake.public_key, 5)
    with _open(how, url, other.public_key) as log, pytest.raises(CheckpointError):
        log.get_checkpoint()


@each_protocol
def test_get_checkpoint_when_the_key_is_not_known(serve: Serve, protocol: str) -> None:
    """A log without a key is believed."""
    with _open(protocol, serve(FakeLog(size=5, protocols=[protocol]))) as log:
        assert (log.key, log.get_checkpoint().tree_size) == (None, 5)


@pytest.mark.parametrize("key", [b"", b"no key", P384])
def test_open_log_when_the_key_is_none(key: bytes) -> None:
    """A key that no log may sign with is a wrong parameter."""
    for protocol in ("rfc6962", "static-ct"):
        with pytest.raises(ParameterError):
            _open(protocol, "https://log.example", key)


@each_protocol
def test_get_checkpoint_when_the_tree_grows_or_a_backend_is_behind(serve: Serve, protocol: str) -> None:
    """The largest tree head, and of those the newest, stays in force when one that is not newer has fewer entries."""
    heads = Heads()
    found = []

    with _open(protocol, serve(heads), heads.public_key) as log:
        for size, time in [(0, 0), (10, 10), (8, 8), (8, 10), (10, 9), (10, 20), (12, 20), (0, 0), (30, 30), (10, 20)]:
            heads.set(size, time)
            checkpoint = log.get_checkpoint()
            found.append((checkpoint.tree_size, checkpoint.timestamp))

    assert found == [(0, 0), *[(10, 10)] * 4, (10, 20), *[(12, 20)] * 2, *[(30, 30)] * 2]


@each_protocol
@pytest.mark.parametrize(
    ("known", "seen"), [((10, 10), (8, 11)), ((8, 11), (10, 10)), ((10, 10), (0, 11)), ((10, 10), (8, (1 << 63) - 1))]
)
def test_get_checkpoint_when_the_tree_shrinks(
    serve: Serve, protocol: str, known: tuple[int, int], seen: tuple[int, int]
) -> None:
    """A newer tree head with fewer entries contradicts the older one, whichever was seen first; the known one stays."""
    heads = Heads()

    with _open(protocol, serve(heads)) as log:
        heads.set(*known)
        before = log.get_checkpoint()
        heads.set(*seen)
        with pytest.raises(CheckpointError):
            log.get_checkpoint()
        heads.set(*known)
        assert log.get_checkpoint().tree_size == before.tree_size


@each_protocol
@pytest.mark.parametrize("between", [(), ((20, 20),)])
def test_get_checkpoint_when_one_size_has_two_roots(
    serve: Serve, protocol: str, between: tuple[tuple[int, int], ...]
) -> None:
    """Two roots for one number of entries contradict each other, also when the tree has grown in between."""
    heads = Heads()

    with _open(protocol, serve(heads)) as log:
        for size, time in [(10, 10), *between]:
            heads.set(size, time)
            log.get_checkpoint()
        heads.set(10, 10, which=1)
        with pytest.raises(CheckpointError):
            log.get_checkpoint()


def test_shared_answers_are_bounded() -> None:
    """Of many answers those that were used last are kept, the others asked for again."""
    shared: Shared[int, int] = Shared(2)
    asked = []

    def ask(key: int) -> int:
        asked.append(key)
        return -key

    assert [shared.get(key, lambda key=key: ask(key)) for key in (1, 2, 1, 3, 1, 2)] == [-1, -2, -1, -3, -1, -2]
    assert asked == [1, 2, 3, 2]


@pytest.mark.parametrize("kind", [CheckpointError, LogUnavailableError, LogProtocolError])
def test_shared_errors_keep_their_kind(kind: type[LogError]) -> None:
    """Each who waits gets an error of its own, and what failed is asked for again."""
    shared: Shared[int, int] = Shared(2)
    error = kind("https://log.example", "no", start=3, end=4)

    def fail() -> int:
        raise error

    with fails(kind, url=error.url, message="no", start=None):
        shared.get(1, fail)
    assert shared.get(1, lambda: 7) == 7


@pytest.mark.parametrize("protocol", ["rfc6962", "static-ct", "auto"])
def test_log_when_it_was_closed(serve: Serve, protocol: Any) -> None:
    """It says so, and asks for nothing any more."""
    fake = FakeLog(size=3)
    log = _open(protocol, serve(fake))
    log.close()
    fake.requests.clear()

    for question in (log.get_checkpoint, lambda: log.get_entries(0, 3)):
        with pytest.raises(ParameterError):
            question()
    assert fake.requests == []
