"""How long a user waits for nothing but imports."""

import subprocess
import sys
from statistics import median

import pytest
import yaml
from lake import make_keys, timed

import ctkit
from ctkit.desk.state_file import write_state

ROUNDS = 9


def seconds_of(*words: str) -> float:
    """Return the seconds of a fresh interpreter."""
    return timed(
        lambda: subprocess.run(
            [sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
        )
    )


@pytest.mark.parametrize(
    "words", [("-c", "import ctkit"), ("-m", "ctkit", "--help"), ("-m", "ctkit", "gaps", "--help")], ids=" ".join
)
def test_import(words):
    """Neither the package nor the help of the command takes as long as ``import pandas``."""
    rounds = [(seconds_of(*words), seconds_of("-c", "import pandas")) for _ in range(ROUNDS)]
    ours, pandas = (median(times) for times in zip(*rounds, strict=True))
    print(f"\n{' '.join(words)}: {ours:.3f} s; import pandas {pandas:.3f} s: {ours / pandas:.2f} of it")

    assert ours / pandas <= 1


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """Return the parameter file of a table that lacks nothing, and has nothing staged."""
    folder, url = tmp_path_factory.mktemp("complete"), "https://ct0.example.com/2026h2"
    make_keys(ctkit.open_table(folder / "main"), 10_000, logs=1, gaps=0)
    write_state(folder / "state.json", {url: 10_000})
    paths = {"main_path": "main", "staging_path": "staging", "state_file": "state.json"}
    logs = [{"url": url, "protocol": "static-ct"}]
    (folder / "ct.yaml").write_text(yaml.safe_dump(paths | {"logs": logs, "from_index": 0}))
    return str(folder / "ct.yaml")


@pytest.mark.parametrize("command", ["gaps", "merge"])
def test_nothing_to_do(complete, command):
    """A command that has nothing to do takes little longer than ``import pandas``, which it does not need."""
    words = ("-m", "ctkit", command, "-f", complete)
    rounds = [(seconds_of(*words), seconds_of("-c", "import pandas")) for _ in range(ROUNDS)]
    ours, pandas = (median(times) for times in zip(*rounds, strict=True))
    print(f"\n{command} with nothing to do: {ours:.3f} s; import pandas {pandas:.3f} s: {ours / pandas:.2f} of it")

    assert ours / pandas <= 1.8
