"""Every verb, one after the other, over one log and two tables."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from rows import indices_of

import ctkit
from ctkit.schema import GAP_SCHEMA

SIZE = 60
"""Entries of the log."""


def run_cycle(log: ctkit.Log, main: Path, staging: Path, prepare: Callable[[Path], object] = Path.exists) -> None:
    """Fill main, stage what it lacks, look at it, merge it, audit and undo; after each verb main has what it should.

    Parameters
    ----------
    log
        Has `SIZE` entries, and a key.
    main, staging
        Folders in which there is nothing yet.
    prepare
        Called with the folder of each table when that is new.
    """

    def fill(folder: Path, start: int, end: int) -> None:
        if not folder.exists():
            ctkit.open_table(folder)
            prepare(folder)
        gaps = pa.Table.from_pylist([{"source_url": log.url, "start": start, "end": end}], schema=GAP_SCHEMA)
        ctkit.backfill([log], gaps, ctkit.open_table(folder), verify="entries").check()

    def indices() -> list[int]:
        return indices_of(ctkit.find_table(main), log.url)

    fill(main, 0, 30)
    assert indices() == list(range(30))
    # Of one file main has some rows already, of the other none.
    fill(staging, 25, 40)
    fill(staging, 40, SIZE - 1)
    gaps = ctkit.find_gaps(ctkit.find_table(main), ctkit.find_table(staging), within={log.url: (0, SIZE)})
    assert gaps.to_pylist() == [{"source_url": log.url, "start": SIZE - 1, "end": SIZE}]
    fill(staging, SIZE - 1, SIZE)
    preview = ctkit.preview_merge(ctkit.find_table(staging), ctkit.find_table(main))
    assert (preview.inserted, preview.skipped, preview.conflicts) == (30, 5, 0)
    report = ctkit.merge_staging(ctkit.find_table(staging), ctkit.find_table(main), expected=preview)
    assert (report.inserted, report.staging_removed, staging.exists()) == (30, True, False)
    assert indices() == list(range(SIZE))
    assert ctkit.audit([log], ctkit.find_table(main), require_proof=True).passed
    assert ctkit.audit([log], ctkit.find_table(main), recheck="all").passed
    ctkit.undo_merge(ctkit.find_table(main))
    assert indices() == list(range(30))
