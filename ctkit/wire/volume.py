"""How many entries a process reads decides how: a few are read by plain Python, many by functions that are compiled.

Both read the same. Numba, which compiles and loads these functions, takes as long to start as it takes to read several
thousand entries without it, and the first time after an installation much longer.
"""

from pathlib import Path
from typing import Any, cast

from ctkit.visible import get_logger

logger = get_logger(__name__)

MANY = 8_192
"""Entries that a run plans to read, from which on it uses compiled functions; four times as many without a plan."""

_planned = _read = 0


def plan_to_read(entries: int) -> None:
    """Take note that so many entries will be read, which are many from the first on, or few to the last."""
    global _planned
    before, _planned = are_many(), _planned + entries
    if are_many() and not before:
        _say_if_not_compiled()


def count_read(entries: int) -> None:
    """Count entries whose certificates were read without compiled functions; to unpack a page is half the work."""
    global _read
    _read += entries


def are_many() -> bool:
    """Tell whether so many entries are read that compiled functions are worth their start."""
    return max(_planned, _read // 4) >= MANY


def _say_if_not_compiled() -> None:
    from ctkit.wire import kernels

    source = Path(kernels.__file__)
    folder = cast(Any, kernels._walk_all).stats.cache_path
    known = Path(folder).glob(f"{source.stem}.*.nbi") if folder else ()
    if not any(path.stat().st_mtime > source.stat().st_mtime for path in known):
        logger.info("compiling the functions that read many entries, which takes about ten seconds, once")
