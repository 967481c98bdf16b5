"""Damaged certificates, pages and tiles: the kernels read what the readers that know every oddity read."""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

import pytest
import seeds
from agreement import Outcome, differing_certificates, page_outcomes, tile_outcomes, understood
from mutation import mutate
from remaking import flip, remake_certificate, remake_page

from ctkit.wire.merkle import TILE_WIDTH

_BATCH = 500
"""Certificates that are read at once: what is left of one must not show in another."""

_TOKENS = [*b'"entries" "leaf_input" "extra_data" [ ] { } , : " \\/ \\u0041 ='.split(), b"\xef\xbb\xbf"]


def _certificate(number: int) -> bytes:
    random = Random(f"agreement/{number}")
    match number % 4:
        case 0:
            return mutate(random, seeds.certificates())
        case 1:
            return flip(random, random.choice(seeds.certificates()))
        case _:
            return remake_certificate(random, seeds.certificates())


def test_certificates_when_damaged(inputs: int) -> None:
    """All columns are the same, and the kernel reads enough of them for that to mean something."""
    count = 2 * inputs
    differences, read = [], 0
    for start in range(0, count, _BATCH):
        ders = [_certificate(number) for number in range(start, min(start + _BATCH, count))]
        differences += differing_certificates(ders)
        read += sum(understood(ders))
    print(f"{count} certificates, the kernel reads {read}")

    assert differences == []
    assert read > count // 3


def _check(tried: Iterable[tuple[bytes, tuple[bool, Outcome, Outcome]]]) -> None:
    """Check that both outcomes are the same each time, and that the kernel reads a part of the inputs."""
    differing, read = [], []
    for data, (is_read, ours, slow) in tried:
        read.append(is_read)
        if ours != slow:
            differing.append(data.hex())
    print(f"{len(read)} inputs, the kernel reads {sum(read)}")

    assert differing == []
    assert sum(read) > len(read) // 5


def _try_pages(count: int) -> Iterator[tuple[bytes, tuple[bool, Outcome, Outcome]]]:
    pages = seeds.pages()
    for number in range(count):
        random = Random(f"agreement of pages/{number}")
        is_damaged = number % 3 == 0
        body = mutate(random, pages, _TOKENS, is_json=True) if is_damaged else remake_page(random, pages)
        yield body, page_outcomes(body, seeds.START, random.choice((1, 2, 3, 1000)))


def test_pages_when_damaged(inputs: int) -> None:
    """The blocks are the same in each attribute, and so are the errors."""
    _check(_try_pages(max(inputs // 2, 5)))


def _try_tiles(count: int) -> Iterator[tuple[bytes, tuple[bool, Outcome, Outcome]]]:
    tiles = seeds.data_tiles()
    for number in range(count):
        random = Random(f"agreement of tiles/{number}")
        tile = mutate(random, tiles) if number % 3 == 0 else flip(random, random.choice(tiles))
        start = seeds.START + random.choice((0, 0, 1, 2, 5))
        end = min(start + random.choice((1, 1, 2, 3, TILE_WIDTH)), seeds.START + TILE_WIDTH)
        yield tile, tile_outcomes(tile, start, end)


def test_tiles_when_damaged(inputs: int) -> None:
    """The blocks are the same in each attribute, and so are the fingerprints and the errors."""
    _check(_try_tiles(max(inputs, 5)))


_WITHIN_BOUNDS = """
import sys
import numpy as np
import pytest
from ctkit.wire.kernels import _pair
with pytest.raises(IndexError):
    _pair(np.zeros(1, np.uint8), 1)
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.skipif("NUMBA_BOUNDSCHECK" in os.environ, reason="this is the run with bounds checks")
def test_kernels_when_bounds_are_checked(inputs: int, tmp_path: Path) -> None:
    """Kernels that are compiled with bounds checks read the same inputs, and never beyond an array."""
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    files = [__file__, *(str(Path(__file__).parents[1] / f"test_{module}.py") for module in ("kernel", "framing"))]
    options = ["-q", "-k", "not folder", "-p", "no:cacheprovider", "--inputs", str(inputs // 4)]
    words = [sys.executable, "-c", _WITHIN_BOUNDS, *files, *options]

    done = subprocess.run(words, env=environment, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
