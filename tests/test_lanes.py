"""Lanes: what each bin has, what is drawn of it, and what is said."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import LOG, OTHER_LOG, make_rows, make_table

from ctkit.desk.choice import GapChoice
from ctkit.desk.chosen_gaps import ChosenGaps
from ctkit.desk.gap_report import report_gaps
from ctkit.desk.lanes import ABOVE, COLOURS, Bins, Lane, Lanes, levels, paint
from ctkit.desk.lanes_text import HEIGHTS, draw_lane, draw_lanes
from ctkit.desk.parameters import Parameters
from ctkit.desk.plots import plot_gaps
from ctkit.desk.state_file import write_state
from ctkit.ranges import RangeSet

NEW_LOG = "https://new.example/2027h1"

SETS = st.lists(st.integers(0, 199)).map(lambda index: RangeSet.holding(np.array(index, np.int64)))


@given(SETS, SETS, st.integers(0, 199), st.integers(1, 200), st.integers(1, 30))
def test_bins(missing, chosen, start, size, count):
    """Every entry of the part is in one bin, and is counted there as what it is."""
    staged = missing.missing(0, 200).intersect(RangeSet.of((50, 120)))
    chosen = chosen.intersect(missing)
    end = min(start + size, 200)
    bins = Lane(LOG, "a", 0, 200, missing, staged).bins(start, end, chosen, count=count)

    assert (int(bins.edges[0]), int(bins.edges[-1])) == (start, end)
    assert len(bins.sizes) == min(count, end - start)
    assert bins.sizes.min() >= 1
    for counted, ranges in ((bins.missing, missing), (bins.staged, staged), (bins.chosen, chosen)):
        inside = [ranges.contains(np.arange(*pair)).sum() for pair in zip(bins.edges, bins.edges[1:], strict=False)]
        assert counted.tolist() == inside
    assert (bins.held >= 0).all()


def make_bins(size, missing, staged=0, chosen=None):
    """Return one bin."""
    counts = (missing, staged, missing if chosen is None else chosen)
    return Bins(np.array([0, size]), *(np.array([each]) for each in counts))


@pytest.mark.parametrize(
    ("bins", "tops"),
    [
        (make_bins(10**9, 0), [0, 0, 0]),
        (make_bins(10**9, 1), [1, 1, 1]),
        (make_bins(100, 50), [12, 12, 12]),
        (make_bins(10**9, 10**9 - 1), [23, 23, 23]),
        (make_bins(100, 100), [24, 24, 24]),
        (make_bins(100, 50, 25), [12, 12, 18]),
        (make_bins(10**6, 10**6 - 1, 1), [23, 23, 24]),
        (make_bins(100, 50, chosen=0), [0, 12, 12]),
        (make_bins(10**6, 500_000, chosen=1), [1, 12, 12]),
        (make_bins(10**6, 500_000, chosen=499_999), [12, 13, 13]),
        (make_bins(1000, 1000, chosen=999), [23, 24, 24]),
        (make_bins(10**9, 10**9 - 1, chosen=10**9 - 2), [22, 23, 23]),
        (make_bins(1, 1), [24, 24, 24]),
    ],
)
def test_levels(bins, tops):
    """Shares are heights; the least that is missing, staged or chosen can be seen, and only what is full is full."""
    assert levels(bins, 24)[:, 0].tolist() == tops


def test_paint():
    """From the bottom up: missing, not chosen, staged, held."""
    column = paint(make_bins(8, 4, 2, chosen=2), 8)[:, 0]
    colours = ["#" + bytes(pixel.tolist()).hex().upper() for pixel in column]

    expected = ["held"] * 2 + ["staged"] * 2 + ["not chosen"] * 2 + ["missing"] * 2
    assert colours == [COLOURS[part] for part in expected]


def test_a_lane_on_a_terminal():
    """Blocks are what is missing, however little; what is staged and held has signs of its own."""
    lane = Lane(LOG, "a", 0, 8000, RangeSet.of((0, 1000), (1000, 1001), (2000, 2500)), RangeSet.of((3000, 3001)))

    assert draw_lane(lane, lane.missing, 8).plain == HEIGHTS[8] + HEIGHTS[1] + HEIGHTS[4] + "░────"


def test_a_choice_on_a_terminal():
    """What is not chosen has a sign of its own, which the key names: colours do not tell it."""
    lane = Lane(LOG, "a", 0, 8000, RangeSet.of((0, 1000), (2000, 2500)))
    lanes = Lanes((lane,), {LOG: None})
    key = draw_lanes(lanes, {LOG: RangeSet.of((0, 1000))}, width=80)[-1].plain

    assert draw_lane(lane, RangeSet.of((0, 1000)), 8).plain == HEIGHTS[8] + "─▒─────"
    assert draw_lane(lane, RangeSet.of((0, 999)), 8).plain == "▒─▒─────"
    assert "▒" in key
    assert "▒" not in draw_lanes(lanes, {LOG: lane.missing}, width=80)[-1].plain


def test_what_is_left_to_the_live_server(report):
    """It is said where nothing else is missing, and of logs in which nothing was searched."""
    lanes = Lanes.of_report(replace(report, gaps=report.gaps[:0], left_to_server={LOG: (20, 59), NEW_LOG: (3, 7)}))

    assert lanes.verdict({}, None).startswith("nothing missing")
    assert "43 left to the live server" in lanes.verdict({}, None)
    assert {lane.url: lane.left for lane in lanes.lanes if lane.left} == {LOG: 39, NEW_LOG: 4}
    assert all(f"{lane.left} left" in lane.caption() for lane in lanes.lanes if lane.left)


@pytest.fixture
def report(tmp_path):
    """Return a report of a log with rows in both tables and above its ceiling, one without a row, and one not begun."""
    make_table(tmp_path / "main", make_rows([4, 5, 6, 10, 20, 23]))
    make_table(tmp_path / "staging", make_rows([6, 7, 8, 21]))
    write_state(tmp_path / "state.json", {LOG: 20, OTHER_LOG: 30, NEW_LOG: 0})
    logs = [{"url": LOG, "name": "One\u202e"}, {"url": OTHER_LOG}, {"url": NEW_LOG, "name": "New", "from": 3}]
    parameters = Parameters(
        main_path=str(tmp_path / "main"),
        staging_path=str(tmp_path / "staging"),
        state_file=str(tmp_path / "state.json"),
        internal_only=False,
        logs=[{**log, "protocol": "rfc6962"} for log in logs],
    )
    with closing(report_gaps(parameters)) as found:
        yield found


def test_lanes_of_a_report(report):
    """Staged is not held; what lies above the ceiling is counted; the log that misses most comes first."""
    first, *others = Lanes.of_report(report).lanes

    assert (first.name, first.start, first.end) == ("One\\u202e", 4, 20)
    assert list(map(str, first.missing)) == ["[9, 10)", "[11, 20)"]
    assert list(map(str, first.staged)) == ["[7, 9)"]
    assert first.beyond == 3
    bins = first.bins(4, 20)
    assert (bins.held.sum(), bins.staged.sum(), bins.missing.sum()) == (4, 2, 10)
    assert {lane.url: (lane.failed, bool(lane.why)) for lane in others} == {
        OTHER_LOG: (True, True),
        NEW_LOG: (False, True),
    }


def test_the_verdict(report):
    """Report, verdict and lanes say the same numbers."""
    lanes = Lanes.of_report(report)
    chosen = lanes.choose(GapChoice.parse("one: 12-14"))

    assert (report.facts()["missing"], report.facts()["staged"]) == (10, 2)
    everything = lanes.verdict(lanes.missing, None)
    assert everything == "62.5 % of 1 log missing · 1 log failed · 2 staged · 3 above the ceiling · 10 to fetch"
    assert lanes.verdict(chosen, None).endswith("2 of 10 chosen to fetch")
    record = ChosenGaps(lanes, GapChoice.parse("one: 12-14"), chosen)
    assert "2 of 10 chosen to fetch" in record._repr_html_()
    assert record.facts()["entries_chosen"] == 2


def test_rows_above_the_ceiling(report):
    """They have a mark behind the end of the lane, which the key names: on a terminal, in a picture and in a record."""
    lanes = Lanes.of_report(report)
    without = replace(lanes, lanes=tuple(replace(lane, beyond=0) for lane in lanes.lanes))
    lane = lanes.lanes[0]

    assert draw_lane(lane, lane.missing, 9).plain == draw_lane(without.lanes[0], lane.missing, 8).plain + "»"
    for drawn, marked in ((lanes, True), (without, False)):
        assert ("»" in draw_lanes(drawn, drawn.missing, width=80)[-1].plain) == marked
        record = ChosenGaps(drawn, GapChoice(), drawn.missing)
        assert record._repr_html_().count(ABOVE) == 2 * marked
        assert plot_gaps(record)._repr_svg_().upper().count(ABOVE) >= 2 * marked
    assert ABOVE not in plot_gaps(ChosenGaps(without, GapChoice(), without.missing))._repr_svg_().upper()
