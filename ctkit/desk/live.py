"""Whether the live server is running, and what is left to it then."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from deltalake import DeltaTable

from ctkit.lake.coverage import find_covered, first_and_last
from ctkit.paths import local_path
from ctkit.ranges import NOTHING
from ctkit.visible import get_logger

logger = get_logger(__name__)

SECONDS_ALIVE = 300.0
"""A state file younger than this means that the server is running.

The server saves its state every 30 seconds if it has fetched anything, and its sink writes what was fetched every 30
seconds; ten times as long leaves room for slow disks, a long flush and another `flush_interval_secs`. An older file
means that the server has ended or has fetched nothing since: entries below its indices are in its table by now, or
lost.
"""


def is_alive(path: str | Path | None) -> bool:
    """Tell whether the live server is running, by the age of its state file (`SECONDS_ALIVE`); False without one.

    Clocks may differ by that much. A file from further in the future says nothing: its server may have ended long ago,
    and the file would seem young until that time has come. It counts as old, and a log line says so.
    """
    if path is None:
        return False
    try:
        age = time.time() - os.stat(local_path(str(path))).st_mtime
    except OSError:
        return False
    if age <= -SECONDS_ALIVE:
        logger.warning(
            "state file is from the future, taking its server to have ended; "
            "if it is running, give internal_only: true state_file=%s seconds_ahead=%d",
            path,
            -age,
        )
    return abs(age) < SECONDS_ALIVE


def leave_to_server(
    within: dict[str, tuple[int | None, int]],
    ceilings: Mapping[str, int],
    main: DeltaTable,
    staging: DeltaTable | None,
) -> dict[str, tuple[int, int]]:
    """Cut off from `within` what the live server may hold in memory, and return that.

    The server fetches each log in order and writes to main in that order, so it does not hold what is missing below the
    log's highest row in main. Rows at or above its `current_index` are not its own, nor are rows of staging. A log
    without a row in main is left to it entirely: the first row comes a few seconds after the server starts on a log.

    Parameters
    ----------
    within
        Canonical URL -> ``[start, end)``, None as start for catch-up; changed in place.
    ceilings
        The server's `current_index` of each log that it follows.
    """
    stretches = {url: (0, ceilings[url]) for url in within if url in ceilings}
    rows = find_covered(stretches, main)
    left = {}
    for url, stretch in stretches.items():
        start, end = within[url]
        covered = rows.get(url, NOTHING).between(*stretch)
        known = int(covered.ends[-1]) if len(covered) else 0
        if known < end:
            within[url] = (None if start is None else min(start, known), known)
            if start is None and not known:
                # Catch-up starts at staging's first row; without a row in either table it starts nowhere.
                start, _ = first_and_last([url], staging).get(url, (end, end))
            left[url] = (max(start or 0, known), end)
    return {url: (start, end) for url, (start, end) in left.items() if start < end}
