"""When the entries of a log came, as far as rows tell: what lays its lane along time.

A row that was seen on a day tells that the log had all entries up to its index by the end of that day. So a day ends at
the highest index that was seen on it, or before it; from one end to the next, time is taken to be even. Entries below
the first row and above the last one are dated by the mean pace of the others.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime

from deltalake import DeltaTable

from ctkit.desk.lanes import Lane
from ctkit.lake.coverage import find_days

Points = list[tuple[int, int]]
"""Indices, and milliseconds since the Unix epoch; both ascend."""

MOST_POINTS = 200
"""Points of a lane: it has about a thousand pixels."""

_DAY = 86_400_000
_OLDEST = int(datetime(2013, 3, 1, tzinfo=UTC).timestamp() * 1000)
"""No log is older."""


def date_lanes(lanes: Iterable[Lane], *tables: DeltaTable | None, now: int) -> dict[str, Points]:
    """Return when the entries of each lane came, by URL; lanes without a row are left out.

    Parameters
    ----------
    tables
        Whose rows tell; None for one that does not exist.
    now
        In milliseconds since the Unix epoch: no entry is younger.

    Raises
    ------
    TableError
        A file cannot be read.
    """
    stretches = {lane.url: (lane.start, lane.end) for lane in lanes if lane.size}
    days = find_days(stretches, *tables)
    return {url: date_stretch(*stretches[url], of_log, now=now) for url, of_log in days.items()}


def date_stretch(start: int, end: int, days: Mapping[date, tuple[int, int]], *, now: int) -> Points:
    """Return when the entries ``[start, end)`` came.

    Parameters
    ----------
    days
        Date -> the lowest index within the stretch that was seen on it, and the one behind the highest; one date at
        least.
    now
        See `date_lanes`.

    Examples
    --------
    >>> noon = _midnight(date(2026, 3, 3)) + _DAY // 2
    >>> points = date_stretch(0, 400, {date(2026, 3, 1): (100, 200), date(2026, 3, 2): (190, 300)}, now=noon)
    >>> [(index, f"{datetime.fromtimestamp(time / 1000, UTC):%d %H:%M}") for index, time in points]
    [(0, '28 00:00'), (100, '01 00:00'), (200, '02 00:00'), (300, '03 00:00'), (400, '03 12:00')]
    """
    first = min(first for first, _ in days.values())
    points = [(first, min(_midnight(min(days)), now - 1))]
    for day, (_, behind) in sorted(days.items()):
        # A later day that ends lower is one on which old entries were fetched.
        if behind > points[-1][0]:
            ends = min(_midnight(day) + _DAY, now)
            points = [*(point for point in points if point[1] < ends), (behind, ends)]
    (_, began), (last, ended) = points[0], points[-1]
    pace = (last - first) / (ended - began)
    if end > last:
        if ended == now:
            # The day has not ended yet.
            points.pop()
        points.append((end, min(ended + max(round((end - last) / pace), 1), now)))
    if start < first:
        points.insert(0, (start, min(max(began - round((first - start) / pace), _OLDEST), began - 1)))
    step = -(-len(points) // MOST_POINTS)
    return [*points[:-1:step], points[-1]]


def _midnight(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
