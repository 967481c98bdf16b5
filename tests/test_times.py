"""When entries came, as far as rows tell: days of rows, and the lanes that are laid along them."""

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import LOG, OTHER_LOG, make_rows, make_table

from ctkit.desk.lanes import Lane
from ctkit.desk.times import MOST_POINTS, date_lanes, date_stretch
from ctkit.lake.coverage import find_days

MARCH = [date(2026, 3, day) for day in range(1, 29)]


def at(day, hour=0):
    """Return a time of March, in milliseconds."""
    return int(datetime(2026, 3, day, hour, tzinfo=UTC).timestamp() * 1000)


def test_days_of_rows(tmp_path):
    """They are told by log, from both tables, within the stretch that is asked about."""
    main = make_table(tmp_path / "main", make_rows(range(10, 20)), make_rows([5, 25, 40], day=2))
    staging = make_table(tmp_path / "staging", make_rows([7, 8], url=OTHER_LOG), make_rows([22, 30], day=2))

    assert find_days({LOG: (6, 40), OTHER_LOG: (0, 99)}, main, None, staging) == {
        LOG: {MARCH[0]: (10, 20), MARCH[1]: (22, 31)},
        OTHER_LOG: {MARCH[0]: (7, 9)},
    }
    lanes = [Lane(LOG, "a", 0, 40), Lane(OTHER_LOG, "b", 0, 99), Lane("https://none.example", "c")]
    found = date_lanes(lanes, main, staging, now=at(4))
    assert found.keys() == {LOG, OTHER_LOG}
    assert found[LOG][1:] == [(5, at(1)), (20, at(2)), (31, at(3)), (40, at(3) + round(9 / 26 * (at(3) - at(1))))]
    assert date_lanes(lanes, main, now=at(4)).keys() == {LOG}


@pytest.mark.parametrize(
    ("days", "points"),
    [
        # What was fetched late is no sign of when it came.
        ({1: (0, 10), 2: (10, 20), 9: (3, 4)}, [(0, at(1)), (10, at(2)), (20, at(3))]),
        # Today has not ended, whether it has all entries or not.
        ({9: (10, 20), 10: (0, 30)}, [(0, at(9)), (20, at(10)), (30, at(10, 6))]),
        ({9: (0, 10), 10: (10, 20)}, [(0, at(9)), (10, at(10)), (30, at(10, 6))]),
        # A clock that goes wrong makes no entry of tomorrow.
        ({10: (0, 10), 12: (10, 20), 13: (20, 30)}, [(0, at(10)), (30, at(10, 6))]),
    ],
)
def test_when_entries_came(days, points):
    """A day ends behind the highest index that was seen until then."""
    days = {MARCH[day - 1]: indices for day, indices in days.items()}
    end = points[-1][0]

    assert date_stretch(0, end, days, now=at(10, 6)) == points


NUMBERS = st.integers(0, 10**12)


@given(NUMBERS, NUMBERS, st.dictionaries(st.dates(), st.tuples(NUMBERS, NUMBERS), min_size=1), st.integers(0, 10**13))
def test_time_goes_on(start, size, days, now):
    """Whatever rows tell: from the start of the stretch to its end indices and times ascend, and a browser has them."""
    end = start + size + 1
    within = {
        day: (start + first % (end - start), start + max(first % (end - start), last % (end - start)) + 1)
        for day, (first, last) in days.items()
    }
    points = date_stretch(start, end, within, now=now)
    indices, times = zip(*points, strict=True)

    assert (indices[0], indices[-1]) == (start, end)
    assert times[-1] <= now
    assert list(indices) == sorted(set(indices))
    assert list(times) == sorted(set(times))
    assert times[0] >= -(10**14)


def test_a_long_time():
    """A log of years has as many points as a lane can show."""
    days = {date.fromordinal(MARCH[0].toordinal() + day): (day, day + 1) for day in range(5000)}
    points = date_stretch(0, 5000, days, now=at(1) * 10)

    assert (points[0][0], points[-1][0]) == (0, 5000)
    assert len(points) <= MOST_POINTS + 1
