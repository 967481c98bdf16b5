"""Half-open ranges behave like the sets of indices that they stand for."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctkit.ranges import LARGEST_TREE, IndexRange, RangeSet

LAST = 1 << 40
indices = st.integers(0, 120)
pairs = st.lists(st.tuples(indices, indices), max_size=12)


def _indices(ranges: RangeSet) -> set[int]:
    return {index for stretch in ranges for index in range(stretch.start, stretch.end)}


def _expected(pairs: list[tuple[int, int]]) -> set[int]:
    return {index for start, end in pairs for index in range(start, end)}


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (3, 2)])
def test_index_range_when_it_is_none(start: int, end: int) -> None:
    """A negative start and an end before the start are refused, with the range in the message."""
    with pytest.raises(ValueError, match=rf"\[{start}, {end}\)"):
        IndexRange(start, end)


def test_index_range_when_empty() -> None:
    """An empty range is one, with length 0."""
    assert len(IndexRange(7, 7)) == 0


@given(pairs)
def test_range_set_covers_what_was_given(pairs: list[tuple[int, int]]) -> None:
    """A set covers exactly the indices of the ranges that it was made of, whatever their order and overlap."""
    ranges = RangeSet.of(*pairs)

    assert _indices(ranges) == _expected(pairs)
    assert ranges.size == len(_expected(pairs))


@given(pairs)
def test_range_set_is_in_normal_form(pairs: list[tuple[int, int]]) -> None:
    """Ranges of a set ascend, are not empty and do not touch."""
    ranges = RangeSet.of(*pairs)

    assert (ranges.starts < ranges.ends).all()
    assert all(a.end < b.start for a, b in pairwise(ranges))
    assert ranges.starts.dtype == ranges.ends.dtype == np.int64


def test_range_set_when_a_range_lies_in_a_longer_one() -> None:
    """A range within an earlier, longer one does not cut it short."""
    assert list(RangeSet.of((0, 100), (10, 20), (50, 60), (200, 201))) == [IndexRange(0, 100), IndexRange(200, 201)]


def test_range_set_when_empty() -> None:
    """The empty set has no ranges, no indices and no pages."""
    ranges = RangeSet.of()

    assert (len(ranges), ranges.size, list(ranges), list(ranges.pages(lambda: 256))) == (0, 0, [], [])
    assert ranges.contains(np.array([0, 1])).tolist() == [False, False]


@given(pairs, st.lists(indices))
def test_contains_when_asked_for_any_indices(pairs: list[tuple[int, int]], asked: list[int]) -> None:
    """Membership is that of the indices, in the order and number in which they were asked for."""
    found = RangeSet.of(*pairs).contains(np.array(asked, np.int64))

    assert found.tolist() == [index in _expected(pairs) for index in asked]


@given(pairs, indices, indices)
def test_between_cuts_at_both_ends(pairs: list[tuple[int, int]], start: int, end: int) -> None:
    """The part of a set in a stretch has the indices that both have, in normal form."""
    part = RangeSet.of(*pairs).between(start, end)

    assert _indices(part) == _expected(pairs) & set(range(start, end))
    assert (part.starts < part.ends).all()


@given(pairs, st.integers(1, 40))
def test_pages_cover_each_index_once(pairs: list[tuple[int, int]], page_size: int) -> None:
    """Requests hold every wanted index exactly once, never cross a page, and there is at most one for each page."""
    ranges = RangeSet.of(*pairs)
    wanted = _expected(pairs)

    pages = list(ranges.pages(lambda: page_size))

    covered = [index for page in pages for index in range(page.start, page.end)]
    assert len(covered) == len(set(covered))
    assert wanted <= set(covered)
    assert [page.start // page_size for page in pages] == sorted({index // page_size for index in wanted})
    assert all((page.end - 1) // page_size == page.start // page_size for page in pages)


@given(pairs, st.integers(1, 40))
def test_pages_begin_and_end_with_a_wanted_index(pairs: list[tuple[int, int]], page_size: int) -> None:
    """No request is longer than it must be."""
    ranges = RangeSet.of(*pairs)

    ends = [index for page in ranges.pages(lambda: page_size) for index in (page.start, page.end - 1)]

    assert ranges.contains(np.array(ends, np.int64)).all()


@given(pairs, st.lists(st.integers(1, 40), min_size=1))
def test_pages_when_their_size_changes(pairs: list[tuple[int, int]], sizes: list[int]) -> None:
    """A page size that is learned on the way loses no index and asks for none twice."""
    remaining = iter([*sizes, *[sizes[-1]] * 500])

    pages = list(RangeSet.of(*pairs).pages(lambda: next(remaining)))

    assert all(a.end <= b.start for a, b in pairwise(pages))
    assert _expected(pairs) <= {index for page in pages for index in range(page.start, page.end)}


def test_pages_at_large_indices() -> None:
    """Indices of 40 bits are no different."""
    pages = RangeSet.of((LAST - 1, LAST + 1), (LAST + 256, LAST + 257)).pages(lambda: 256)

    assert list(pages) == [IndexRange(LAST - 1, LAST), IndexRange(LAST, LAST + 1), IndexRange(LAST + 256, LAST + 257)]


@given(pairs, pairs)
def test_intersect_equals_set_intersection(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    """Whatever the two sets, what they share is what the sets of their indices share."""
    ours, theirs = RangeSet.of(*some), RangeSet.of(*others)

    shared = ours.intersect(theirs)

    assert _indices(shared) == _indices(ours) & _indices(theirs)
    assert list(shared) == list(RangeSet.of(*((each.start, each.end) for each in shared)))


@given(pairs, indices)
def test_split_when_some_are_enough(pairs: list[tuple[int, int]], count: int) -> None:
    """The lowest indices and the others are the whole set, each in normal form."""
    ranges, every = RangeSet.of(*pairs), sorted(_expected(pairs))

    first, rest = ranges.split(count)

    assert (sorted(_indices(first)), sorted(_indices(rest))) == (every[:count], every[count:])
    assert all(a.end < b.start for part in (first, rest) for a, b in pairwise(part))


@given(st.lists(pairs))
def test_joined_covers_all_sets(several: list[list[tuple[int, int]]]) -> None:
    """Sets are joined to the one that was made of all their ranges."""
    joined = RangeSet.joined(RangeSet.of(*pairs) for pairs in several)

    assert list(joined) == list(RangeSet.of(*(pair for pairs in several for pair in pairs)))


@given(pairs, st.integers(1, 40), indices)
def test_page_bounds_are_those_of_the_pages(pairs: list[tuple[int, int]], page_size: int, start: int) -> None:
    """The arrays hold the same requests as the iterator, from any start on."""
    ranges = RangeSet.of(*pairs)

    bounds = [pair for both in ranges.page_bounds(page_size, start) for pair in zip(*map(list, both), strict=True)]

    pages = ranges.between(start, LAST).pages(lambda: page_size)
    assert bounds == [(page.start, page.end) for page in pages]


@pytest.mark.parametrize("at_once", [1, 3, 1 << 20])
@given(pairs, st.integers(1, 40))
def test_page_totals_are_those_of_the_pages(at_once: int, pairs: list[tuple[int, int]], page_size: int) -> None:
    """Requests and indices are counted as the iterator yields them, however few ranges are looked at together."""
    ranges = RangeSet.of(*pairs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctkit.ranges._RANGES_AT_ONCE", at_once)
        totals = ranges.page_totals(page_size)

    pages = list(ranges.pages(lambda: page_size))
    assert totals == (len(pages), sum(map(len, pages)))


def test_page_totals_of_as_many_pages_as_a_log_can_claim() -> None:
    """They are counted without a walk through them."""
    assert RangeSet.of((5, LARGEST_TREE)).page_totals(32) == (1 << 35, LARGEST_TREE - 5)


def test_page_bounds_when_there_are_many_pages() -> None:
    """Pages that do not fit into one array, with a long stretch of nothing between them, are all there."""
    ranges = RangeSet.of((3, 10_000 * 8 + 1), (LAST, LAST + 1))

    starts, ends = map(np.concatenate, zip(*ranges.page_bounds(8), strict=True))

    assert starts.tolist() == [3, *range(8, 10_000 * 8 + 1, 8), LAST]
    assert ends.tolist() == [*range(8, 10_000 * 8 + 1, 8), 10_000 * 8 + 1, LAST + 1]


def test_merged_when_the_ranges_are_in_order() -> None:
    """Ranges that are in order are taken as they are: no copy."""
    starts, ends = np.array([1, 5]), np.array([3, 9])

    ranges = RangeSet.merged(starts, ends)

    assert ranges.starts is starts
    assert ranges.ends is ends


@given(pairs, st.lists(indices), indices, indices)
def test_missing_equals_set_difference(pairs: list[tuple[int, int]], index: list[int], start: int, end: int) -> None:
    """What a stretch lacks is what no range covers and no index is, as maximal ranges."""
    held = RangeSet.holding(np.array(index, np.int64))

    missing = RangeSet.joined([RangeSet.of(*pairs), held]).missing(start, end)

    assert _indices(held) == set(index)
    assert _indices(missing) == set(range(start, end)) - _expected(pairs) - set(index)
    for ranges in (held, missing):
        assert all(a.end < b.start for a, b in pairwise(ranges))


def test_between_when_nothing_is_cut() -> None:
    """What lies within the bounds as a whole is not copied, and what was cut leaves the set as it was."""
    ranges = RangeSet.of((1, 3), (5, 9))

    assert np.shares_memory(ranges.between(0, 20).starts, ranges.starts)
    assert list(ranges.between(2, 8)) == [IndexRange(2, 3), IndexRange(5, 8)]
    assert list(ranges) == [IndexRange(1, 3), IndexRange(5, 9)]


def test_size_when_indices_are_large() -> None:
    """The sizes of ranges add up though their indices do not fit into 64 bits together."""
    starts = np.arange(4, dtype=np.int64) + (1 << 61)

    assert RangeSet(starts, starts + 1).size == 4
