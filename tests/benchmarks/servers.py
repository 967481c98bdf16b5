"""Logs in processes of their own, which answer at once: whatever is slow, they are not."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Answers what it was asked before without making it anew.
_LOG = """
import sys
from ctkit.demo.embedded import make_log
from ctkit.demo.server import LogServer
log = make_log("Benchmark", int(sys.argv[1]))
respond, known = log.respond, {}

def answer(request):
    key = request.path, *sorted(request.query.items())
    if key not in known:
        known[key] = respond(request)
    return known[key]

log.respond = answer
with LogServer(log) as server:
    print(server.url(log), log.public_key.hex(), flush=True)
    sys.stdin.read()
"""

# The same few entries again and again, each time with the index that the leaf must have.
_LONG_LOG = """
import sys
import numpy as np
from ctkit.demo.embedded import Response, make_log
from ctkit.wire.framing import read_tile
from ctkit.demo.server import LogServer
SIZE, OWN = int(sys.argv[1]), 12_800
log = make_log("Benchmark", OWN)
respond = log.respond
tiles = []
for start in range(0, OWN, 256):
    tile = b"".join(entry.tile_leaf for entry in log.read(start, start + 256))
    tiles.append((tile, read_tile(tile, start, start + 256, 256).leaf[:, 1]))

def answer(request):
    if request.path == "checkpoint":
        origin, _, rest = respond(request).body.split(b"\\n", 2)
        return Response(200, b"\\n".join([origin, b"%d" % SIZE, rest]), "text/plain")
    if not request.path.startswith("tile/data/"):
        return respond(request)
    number = int(request.path.removeprefix("tile/data/").replace("x", "").replace("/", ""))
    tile, ends = tiles[number % len(tiles)]
    data = np.frombuffer(tile, np.uint8).copy()
    index = np.arange(256 * number, 256 * number + 256)
    # The leaf ends in its leaf_index, five octets.
    for place in range(5):
        data[ends - 1 - place] = index >> 8 * place & 0xFF
    return Response(200, data.tobytes(), "application/octet-stream")

log.respond = answer
with LogServer(log) as server:
    print(server.url(log), log.public_key.hex(), flush=True)
    sys.stdin.read()
"""


@contextmanager
def _serving(code: str, size: int) -> Iterator[tuple[str, bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", code, str(size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        url, key = process.stdout.readline().split()
        yield url, bytes.fromhex(key)
        process.stdin.close()


def serving_log(size: int) -> Iterator[tuple[str, bytes]]:
    """Serve a log of `size` entries, in both protocols; yield its URL and key."""
    return _serving(_LOG, size)


def serving_long_log(size: int) -> Iterator[tuple[str, bytes]]:
    """Serve data tiles of a log of `size` entries, a multiple of 256, which nobody signed; yield its URL."""
    return _serving(_LONG_LOG, size)
