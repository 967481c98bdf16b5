"""Few entries are read without compiled functions, and read the same."""

import subprocess
import sys
from os import environ

import pytest
from fakes import FakeLog
from rows import rows_of

from ctkit.jobs.backfill import backfill
from ctkit.lake.gaps import find_gaps
from ctkit.lake.table import open_table
from ctkit.wire import volume

SIZE = 600

COMPILED = ("kernels.read_certificates", "kernels.find_matching", "framing.read_page", "framing.read_tile")


@pytest.fixture
def few(monkeypatch):
    """Return what makes the entries that follow few, or many."""

    def make(are_few):
        monkeypatch.setattr(volume, "_planned", 0)
        monkeypatch.setattr(volume, "_read", 0)
        monkeypatch.setattr(volume, "MANY", 2 * SIZE if are_few else 0)

    return make


@pytest.mark.parametrize("protocol", ["rfc6962", "static-ct"])
def test_few_entries_are_read_as_many_are(tmp_path, opened, few, protocol, monkeypatch):
    """Rows and proofs are the same, and the compiled functions are not called."""
    log = opened(FakeLog("Volume", SIZE, protocols=[protocol]), protocol)
    gaps = find_gaps(None, within={log.url: (0, SIZE)})
    tables = []
    for are_few in (False, True):
        few(are_few)
        table = open_table(tmp_path / str(are_few))
        if are_few:
            for compiled in COMPILED:
                monkeypatch.setattr(f"ctkit.wire.{compiled}", None)
        report = backfill([log], gaps, table, verify="entries")
        assert (report.complete, report.facts()["written"], report.unreadable) == (True, SIZE, 0)
        tables.append(sorted(rows_of(table), key=lambda row: row["cert_index"]))

    assert tables[0] == tables[1]


def test_entries_become_many(few):
    """What is planned counts at once, what is read without a plan as it comes, and neither twice."""
    few(are_few=True)
    volume.count_read(8 * SIZE - 1)
    volume.plan_to_read(2 * SIZE - 1)
    assert not volume.are_many()

    volume.count_read(1)
    assert volume.are_many()

    few(are_few=True)
    volume.plan_to_read(2 * SIZE)
    assert volume.are_many()


@pytest.mark.parametrize("is_compiled", [False, True])
def test_nobody_waits_for_the_compiler_in_silence(tmp_path, is_compiled):
    """A line says so before it begins, where nothing was compiled before."""
    code = """
import logging, sys
logging.basicConfig(level="INFO", stream=sys.stdout, format="%(name)s")
from ctkit.wire import volume
volume.plan_to_read(volume.MANY)
volume.plan_to_read(volume.MANY)
"""
    cache = {} if is_compiled else {"NUMBA_CACHE_DIR": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", code], env=environ | cache, capture_output=True, text=True, check=True)

    assert said.stdout.splitlines() == ([] if is_compiled else ["ctkit.wire.volume"])
