"""The first entry of a log since a moment, found by asking for few entries."""

import numpy as np

from ctkit.logs.log import Log
from ctkit.ranges import NOTHING, Int64s


def first_since(log: Log, moment: int, size: int) -> int:
    """Return the index of the first entry whose timestamp is at or after a moment, by a binary search.

    Timestamps are only nearly in the order of indices: an entry is to be merged within the log's maximum merge delay of
    its timestamp (RFC 6962, section 3.4), which is a day for most logs and some seconds in fact. So the page before
    what the search finds is read, too, and the one before that, until one has no entry since the moment. Entries that
    are more than a page out of order may be missed.

    Parameters
    ----------
    log
        Asked for about ``log2(size) + 1`` single entries or pages, without their chains.
    moment
        Milliseconds since the Unix epoch.
    size
        Entries from here on are not asked for.

    Returns
    -------
    int
        `size` if all entries are older.

    Raises
    ------
    LogError
        The log does not give an entry.
    """
    first, end = 0, size
    while first < end:
        middle = (first + end) // 2
        if log.get_entries(middle, middle + 1, NOTHING).timestamp[0] < moment:
            first = middle + 1
        else:
            end = middle
    while first:
        page = max(0, first - log.page_size) // log.page_size * log.page_size
        late = np.flatnonzero(_timestamps(log, page, first) >= moment)
        if not len(late):
            break
        first = page + int(late[0])
    return first


def _timestamps(log: Log, start: int, end: int) -> Int64s:
    """Return the timestamps of the entries ``[start, end)``."""
    parts = []
    while start < end:
        parts.append(log.get_entries(start, end, NOTHING).timestamp)
        start += len(parts[-1])
    return np.concatenate(parts)
