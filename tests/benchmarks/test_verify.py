"""What it costs to prove that every entry is what the log signed."""

from pathlib import Path
from statistics import median

import pytest
from lake import timed
from servers import serving_log

import ctkit
from ctkit.lake.gaps import find_gaps
from ctkit.lake.table import open_table

ENTRIES = 51_200
ROUNDS = 5


@pytest.fixture(scope="module")
def served():
    """Serve a log; return its URL and key."""
    with serving_log(ENTRIES) as served:
        yield served


def fill(served: tuple[str, bytes], protocol: str, folder: Path, verify: str) -> float:
    """Return the entries per second of a backfill into a new table."""
    url, key = served
    with ctkit.open_log(url, user_agent="ctkit, nobody@example.org", protocol=protocol, name="B", key=key) as log:
        table = open_table(folder)
        gaps = find_gaps(None, within={log.url: (3, ENTRIES)})
        seconds = timed(lambda: ctkit.backfill([log], gaps, table, verify=verify))
    assert table.count() == ENTRIES - 3
    return ENTRIES / seconds


@pytest.mark.parametrize("protocol", ["static-ct", "rfc6962"])
def test_proving_costs_little(served, tmp_path, protocol):
    """With every entry proven, at least 0.8 of the entries per second that come without."""
    fill(served, protocol, tmp_path / "warm", "entries")
    rates: dict[str, list[float]] = {"off": [], "heads": [], "entries": []}
    for round_ in range(ROUNDS):
        for verify, found in rates.items():
            found.append(fill(served, protocol, tmp_path / f"{verify}{round_}", verify))
    off, heads, entries = (median(found) for found in rates.values())
    print(f"\n{protocol}: off {off:.0f} entries/s; heads {heads / off:.2f}, entries {entries / off:.2f} of that")

    assert entries / off >= 0.8
