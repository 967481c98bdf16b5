"""How fast a log grows, sampled from the timestamps of a few entries."""

import math
from dataclasses import dataclass

from ctkit.logs.log import Log
from ctkit.ranges import RangeSet
from ctkit.wire.checkpoint import Checkpoint

_DAY = 86_400_000
"""Milliseconds."""

_FIRST = 100_000
"""Entries that the first sample is back from the end: an hour to a week of most logs."""

_SAMPLES = 4

_CLOSE = 0.8, 1.25
"""Days between which a sample counts as one of a day ago."""

_NO_CHAIN = RangeSet.of()


@dataclass(frozen=True)
class Growth:
    """How fast a log grows, in the end.

    Attributes
    ----------
    per_day
        Entries a day.
    over
        Days before the tree head over which that was measured; 0.0 for a log without entries.
    """

    per_day: float
    over: float

    @property
    def last_day(self) -> int:
        """Entries of the last day, at least 1; more than the log has if it is younger."""
        return max(1, math.ceil(self.per_day))


def measure_growth(log: Log, head: Checkpoint) -> Growth:
    """Return how fast a log has grown over the day before a tree head.

    The entry that is a day old is looked for among the last ones: each sample tells about how far back it is, so that
    two or three requests do.

    Parameters
    ----------
    log
        Asked for one entry at a time, without its chain.
    head
        Its tree head.

    Raises
    ------
    LogError
        The log does not give an entry.
    """
    back = min(head.tree_size, _FIRST)
    growth = Growth(0.0, 0.0)
    for _ in range(_SAMPLES if back else 0):
        index = head.tree_size - back
        logged = int(log.get_entries(index, index + 1, _NO_CHAIN).timestamp[0])
        # An entry may be as new as the tree head, or newer; a second is enough to tell a fast log.
        days = max(head.timestamp - logged, 1000) / _DAY
        growth = Growth(back / days, days)
        if _CLOSE[0] <= days <= _CLOSE[1] or back == (nearer := min(head.tree_size, growth.last_day)):
            break
        back = nearer
    return growth
