"""How long a user waits for nothing but imports."""

import subprocess
import sys
from statistics import median

import pytest
from lake import timed

ROUNDS = 9


def seconds_of(*words: str) -> float:
    """Return the seconds of a fresh interpreter."""
    return timed(lambda: subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True))


@pytest.mark.parametrize(
    "words", [("-c", "import ctkit"), ("-m", "ctkit", "--help"), ("-m", "ctkit", "gaps", "--help")], ids=" ".join
)
def test_import(words):
    """Neither the package nor the help of the command takes as long as ``import pandas``."""
    rounds = [(seconds_of(*words), seconds_of("-c", "import pandas")) for _ in range(ROUNDS)]
    ours, pandas = (median(times) for times in zip(*rounds, strict=True))
    print(f"\n{' '.join(words)}: {ours:.3f} s; import pandas {pandas:.3f} s: {ours / pandas:.2f} of it")

    assert ours / pandas <= 1
