"""Tree heads, proofs and tiles of real logs hold, and nothing that differs from them by a byte does."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ctkit.errors import CheckpointError, ParameterError
from ctkit.logs.audit_paths import ProvenTree, Stretch
from ctkit.logs.hash_tiles import HashTiles
from ctkit.logs.log_list import read_log_list, read_public_key
from ctkit.logs.published_lists import PUBLISHED
from ctkit.wire.checkpoint import Checkpoint, note_key_id, read_checkpoint, read_sth
from ctkit.wire.entries import decode_data_tile, decode_get_entries
from ctkit.wire.merkle import HASH_SIZE, Tree, hash_leaf, verify_consistency
from ctkit.wire.signatures import check_public_key, verify_signature

URL = "https://log.example"


def holds(read, data: bytes, key: bytes) -> bool:
    """Tell whether a tree head can be read and is signed by the key."""
    try:
        read(data, URL).verify(key)
    except CheckpointError:
        return False
    return True


def flipped(data: bytes) -> Iterator[bytes]:
    """Yield `data` with one byte changed, for each byte in turn."""
    for at in range(len(data)):
        yield data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]


def decoded(texts: list[str]) -> list[bytes]:
    """Return the bytes of base64 texts."""
    return [base64.b64decode(text) for text in texts]


def test_signed_tree_heads_verify_as_marked(real_data: Path):
    """The signature of each tree head holds or does not hold, as is known of it."""
    heads = json.loads((real_data / "sth" / "sths.json").read_text())
    keys = {base64.b64decode(head["key"]) for head in heads if "key" in head}

    found = {}
    for head in heads:
        # Where nobody knows the log, none of the other logs' keys may do.
        own = {base64.b64decode(head["key"])} if "key" in head else keys
        found[head["name"]] = any(holds(read_sth, json.dumps(head["sth"]).encode(), key) for key in own)
        assert not any(holds(read_sth, json.dumps(head["sth"]).encode(), key) for key in keys - own)

    assert found == {head["name"]: head["signature_valid"] for head in heads}
    assert {True, False} == set(found.values())


def test_signed_tree_heads_with_a_changed_byte(real_data: Path):
    """No byte of signature, root, size or time can change."""
    for head in json.loads((real_data / "sth" / "sths.json").read_text()):
        if not head["signature_valid"]:
            continue
        key, sth = base64.b64decode(head["key"]), head["sth"]
        changes = [
            {name: base64.b64encode(changed).decode()}
            for name in ("tree_head_signature", "sha256_root_hash")
            for changed in flipped(base64.b64decode(sth[name]))
        ]
        changes += [
            {name: int.from_bytes(changed)}
            for name in ("tree_size", "timestamp")
            for changed in flipped(sth[name].to_bytes(8))
        ]

        assert [change for change in changes if holds(read_sth, json.dumps(sth | change).encode(), key)] == []


def test_checkpoints_verify(real_data: Path):
    """Real checkpoints are read, and their signatures hold."""
    for known in json.loads((real_data / "checkpoints" / "checkpoints.json").read_text()):
        note, key = (real_data / "checkpoints" / known["file"]).read_bytes(), base64.b64decode(known["key"])
        checkpoint = read_checkpoint(note, URL)

        assert (checkpoint.origin, checkpoint.tree_size) == (known["origin"], known["size"])
        assert base64.b64encode(checkpoint.root_hash).decode() == known["root"]
        assert checkpoint.timestamp == known["timestamp_ms"]
        assert (checkpoint.note_signatures[0][:4] == note_key_id(checkpoint.origin, key)) == known["key_id_ok"]
        assert holds(read_checkpoint, note, key) == known["sig_ok"]


def test_checkpoints_with_a_changed_byte(real_data: Path):
    """No byte of a note can change, its spelling included."""
    for known in json.loads((real_data / "checkpoints" / "checkpoints.json").read_text()):
        note, key = (real_data / "checkpoints" / known["file"]).read_bytes(), base64.b64decode(known["key"])

        assert [changed for changed in flipped(note) if holds(read_checkpoint, changed, key)] == []


def test_real_proofs_hold(real_data: Path):
    """An entry of a log of 962 million entries is in its tree, and an earlier tree is its beginning."""
    proof = json.loads((real_data / "get_entries" / "argon2020_10000_full_proof.json").read_text())
    head: Checkpoint = read_sth(json.dumps(proof["sth"]).encode(), proof["log_url"])
    head.verify(base64.b64decode(proof["key"]))
    leaf_hash = hash_leaf(base64.b64decode(proof["entry"]["leaf_input"]))
    index, path = proof["inclusion"]["leaf_index"], decoded(proof["inclusion"]["audit_path"])
    consistency = proof["consistency"]
    first, second, nodes = consistency["first"], consistency["second"], decoded(consistency["consistency"])
    first_root = base64.b64decode(consistency["derived_first_root"])

    assert leaf_hash == base64.b64decode(proof["leaf_hash"])
    tree = ProvenTree(head.tree_size, head.root_hash)
    assert tree.learn(index, leaf_hash, path)
    assert not tree.learn(index + 1, leaf_hash, path)
    assert second == head.tree_size
    assert verify_consistency(first, first_root, second, head.root_hash, nodes)
    assert not verify_consistency(first - 1, first_root, second, head.root_hash, nodes)
    for at in range(len(path)):
        changed = [*path[:at], bytes(HASH_SIZE), *path[at + 1 :]]
        assert not tree.learn(index, leaf_hash, changed)
    for at in range(len(nodes)):
        changed = [*nodes[:at], bytes(HASH_SIZE), *nodes[at + 1 :]]
        assert not verify_consistency(first, first_root, second, head.root_hash, changed)


def leaf_hashes(tile: bytes, start: int) -> list[bytes]:
    """Return the leaf hashes of a full data tile whose first entry has the index `start`."""
    block, _ = decode_data_tile(tile, start, start + 256, URL)
    return block.leaf_hashes()


def test_real_tiles_hang_together(real_data: Path):
    """Leaf hashes of data tiles are the slots of the hash tiles, and their roots are the known ones."""
    tiles = real_data / "static" / "navigli2025h2" / "tile"
    known = json.loads((real_data / "static" / "info.json").read_text())["navigli2025h2"]
    numbers = [f"{number:03}" for number in range(known["entries"] // 256)]

    tree = Tree(
        [leaf for number in numbers for leaf in leaf_hashes((tiles / "data" / number).read_bytes(), int(number) * 256)]
    )

    assert tree.size == known["entries"]
    assert [tree.tile(0, int(number)) for number in numbers] == [
        (tiles / "0" / number).read_bytes() for number in numbers
    ]
    assert tree.tile(0, 3, 10) == (tiles / "0" / "003.p" / "10").read_bytes()
    roots = {size: base64.b64encode(tree.root(size)).decode() for size in (256, 778, 1024)}
    assert roots == {size: known[f"root_of_first_{size}"] for size in roots}


def test_real_tiles_are_proven(real_data: Path):
    """A client that reads data tiles and hash tiles of a public log proves all entries, and names a changed one."""
    folder = real_data / "static" / "navigli2025h2"
    known = json.loads((real_data / "static" / "info.json").read_text())["navigli2025h2"]
    numbers = [f"{number:03}" for number in range(4)]
    tiles = [(int(number), (folder / "tile/data" / number).read_bytes()) for number in numbers]
    tree = Tree([leaf for number, tile in tiles for leaf in leaf_hashes(tile, number * 256)])

    def fetch(level: int, index: int, width: int, check: Callable[[bytes], None]) -> bytes:
        # The hash tile of level 1 was not recorded.
        tile = (folder / f"tile/0/{index:03}").read_bytes() if level == 0 else tree.tile(level, index, width)
        check(tile[: width * HASH_SIZE])
        return tile[: width * HASH_SIZE]

    for size in (256, 778, 1024):
        hash_tiles = HashTiles(URL, size, base64.b64decode(known[f"root_of_first_{size}"]), fetch)
        hashes = [tree.leaf_hash(index) for index in range(size)]
        hashes[77] = bytes(HASH_SIZE)

        assert [index for index, right in enumerate(hash_tiles.compare(0, hashes)) if not right] == [77]
        assert hash_tiles.root(256) == base64.b64decode(known["root_of_first_256"])


def test_real_audit_path_proves_its_entry(real_data: Path):
    """One path proves the entry to be in a tree of 962 million; a changed byte of leaf or path proves nothing."""
    proof = json.loads((real_data / "get_entries" / "argon2020_10000_full_proof.json").read_text())
    head = read_sth(json.dumps(proof["sth"]).encode(), proof["log_url"])
    index, path = proof["inclusion"]["leaf_index"], decoded(proof["inclusion"]["audit_path"])
    block = decode_get_entries(json.dumps({"entries": [proof["entry"]]}).encode(), index, URL, 1)
    (leaf_hash,) = block.leaf_hashes()
    stretch = Stretch(index, [leaf_hash], head.tree_size)
    tree = ProvenTree(head.tree_size, head.root_hash)

    assert tree.compare(stretch)[1] == index
    for changed in flipped(b"".join(path)):
        assert not tree.learn(index, leaf_hash, [changed[at : at + 32] for at in range(0, len(changed), 32)])
    assert not any(tree.learn(index, changed, path) for changed in flipped(leaf_hash))
    assert not tree.compare(stretch)[0]
    assert tree.learn(index, leaf_hash, path)
    assert tree.compare(stretch) == ([True], None)


def test_log_list_with_its_signature(real_data: Path, tmp_path: Path):
    """Google's log list is signed by its key; no byte of the signature can change, and none of the list."""
    folder = real_data / "loglists"
    text, signature = ((folder / f"gstatic_v3_all_logs_list.{suffix}").read_bytes() for suffix in ("json", "sig"))
    key = read_public_key(folder / "gstatic_log_list_pubkey.pem")
    path = tmp_path / "list.json"

    assert key == PUBLISHED["google"].key
    assert len(read_log_list(folder / "gstatic_v3_all_logs_list.json", user_agent="ct@example.org", key=key)) > 50
    assert not any(verify_signature(key, changed, text) for changed in flipped(signature))
    for at in range(0, len(text), 97):
        path.write_bytes(text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :])
        path.with_suffix(".sig").write_bytes(signature)
        with pytest.raises(ParameterError, match="is not signed by the key"):
            read_log_list(path, user_agent="ct@example.org", key=key)


def test_keys_of_a_real_log_list_can_be_used(real_data: Path):
    """Every key that a public list names is one that tree heads can be verified with."""
    for name in ("gstatic_v3_all_logs_list.json", "apple_current_log_list.json"):
        for log in read_log_list(real_data / "loglists" / name, user_agent="ct@example.org"):
            check_public_key(log.key)


def test_real_tile_in_the_middle_of_a_log(real_data: Path):
    """The subtree of one data tile has the known hash."""
    tile = (real_data / "static" / "tesseract_tile4" / "tile" / "data" / "004").read_bytes()
    known = json.loads((real_data / "static" / "info.json").read_text())["tesseract_tile4"]

    assert base64.b64encode(Tree(leaf_hashes(tile, 1024)).root()).decode() == known["subtree_root"]
