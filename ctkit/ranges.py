"""Arithmetic of half-open index ranges, one at a time or by the million."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]

END = 1 << 62
"""Beyond all indices."""

LARGEST_TREE = 1 << 40
"""The largest size of a log: the index of an entry has 40 bits (Static CT API, "SCT Extension")."""

_RANGES_AT_ONCE = 1 << 20
"""Ranges compared at a time, so that intermediate arrays stay small next to 50 million ranges."""

_PAGES_AT_ONCE = 4096
"""Pages computed at a time: enough for NumPy, and little memory next to large sets of ranges."""


@dataclass(frozen=True, order=True, slots=True)
class IndexRange:
    """The indices ``start <= index < end`` of one log.

    Examples
    --------
    >>> len(IndexRange(10, 13))
    3
    >>> str(IndexRange(10, 13))
    '[10, 13)'
    """

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ValueError(f"[{self.start}, {self.end}) is not an index range: 0 <= start <= end does not hold")

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return f"[{self.start}, {self.end})"


@dataclass(frozen=True, eq=False, slots=True)
class RangeSet:
    """Ranges of one log as two arrays: ascending, none of them empty, no two touching.

    Attributes
    ----------
    starts, ends
        int64 arrays of one length; range ``i`` is ``[starts[i], ends[i])``.
    """

    starts: Int64s
    ends: Int64s

    @classmethod
    def of(cls, *ranges: tuple[int, int]) -> Self:
        """Return the set of the given ``(start, end)`` pairs, merged where they touch or overlap.

        Examples
        --------
        >>> list(RangeSet.of((5, 7), (0, 2), (7, 9)))
        [IndexRange(start=0, end=2), IndexRange(start=5, end=9)]
        """
        pairs = np.array(ranges, dtype=np.int64).reshape(-1, 2)
        return cls.merged(pairs[:, 0], pairs[:, 1])

    @classmethod
    def merged(cls, starts: Int64s, ends: Int64s) -> Self:
        """Return the set that covers the given ranges, in any order and overlap; empty ones are dropped.

        Ranges that are already in order are not copied.
        """
        starts, ends = np.asarray(starts, np.int64), np.asarray(ends, np.int64)
        if (starts < ends).all() and (ends[:-1] < starts[1:]).all():
            return cls(starts, ends)
        kept = ends > starts
        if not kept.all():
            starts, ends = starts[kept], ends[kept]
        if (starts[:-1] > starts[1:]).any():
            order = np.argsort(starts, kind="stable")
            starts, ends = starts[order], ends[order]
        reach = np.maximum.accumulate(ends)
        first = np.ones(len(starts), bool)
        first[1:] = starts[1:] > reach[:-1]
        # The last range before the next one begins: `first`, moved by one.
        return cls(starts[first], reach[np.append(first[1:], True)[: len(first)]])

    @classmethod
    def holding(cls, index: Int64s) -> Self:
        """Return the set of the given indices, in any order and however often.

        Examples
        --------
        >>> [str(each) for each in RangeSet.holding(np.array([7, 3, 4, 7]))]
        ['[3, 5)', '[7, 8)']
        """
        return cls.merged(*runs_of(index))

    @classmethod
    def joined(cls, sets: "Iterable[RangeSet]") -> Self:
        """Return the set that covers all the given ones."""
        parts = [part for part in sets if len(part)] or [cls.of()]
        if len(parts) == 1:
            return cls(parts[0].starts, parts[0].ends)
        return cls.merged(
            np.concatenate([part.starts for part in parts]), np.concatenate([part.ends for part in parts])
        )

    @classmethod
    def repeated(cls, starts: Int64s, ends: Int64s) -> Self:
        """Return the set of the indices that are in several of the given ranges, in any order.

        Examples
        --------
        >>> [str(each) for each in RangeSet.repeated(np.array([0, 3, 7, 8]), np.array([5, 7, 9, 9]))]
        ['[3, 5)', '[8, 9)']
        """
        edges = np.concatenate([starts, ends])
        steps = np.repeat([1, -1], [len(starts), len(ends)])
        # An end sorts before a start at the same edge: ranges that touch do not overlap.
        order = np.lexsort((steps, edges))
        several = np.flatnonzero(np.cumsum(steps[order]) > 1)
        return cls.merged(edges[order][several], edges[order][several + 1])

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[IndexRange]:
        for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True):
            yield IndexRange(start, end)

    @property
    def size(self) -> int:
        """The number of indices in all ranges together."""
        # Sums wrap around at 64 bits, and so does their difference, which fits.
        return int(self.ends.sum() - self.starts.sum())

    def below(self, index: Int64s) -> Int64s:
        """Return how many of the set's indices lie below each of the given ones, which ascend.

        Nothing as long as the set is made: there can be 50 million ranges.

        Examples
        --------
        >>> RangeSet.of((5, 7), (9, 12)).below(np.array([0, 6, 9, 11, 20])).tolist()
        [0, 1, 2, 4, 5]
        """
        begun = np.searchsorted(self.starts, index)
        cuts = np.unique(np.append(0, begun))
        firsts = cuts[cuts < len(self)]
        if not len(firsts):
            return np.zeros(len(index), np.int64)
        # Sums wrap around at 64 bits, and so does their difference, which fits.
        sizes = np.add.reduceat(self.ends, firsts) - np.add.reduceat(self.starts, firsts)
        before = np.append(0, np.cumsum(sizes))[np.searchsorted(cuts, begun)]
        return before - np.where(begun > 0, np.maximum(self.ends[begun - 1] - index, 0), 0)

    def between(self, start: int, end: int) -> Self:
        """Return the part of the set that lies in ``[start, end)``.

        Examples
        --------
        >>> list(RangeSet.of((5, 7), (9, 12)).between(6, 10))
        [IndexRange(start=6, end=7), IndexRange(start=9, end=10)]
        """
        if start >= end:
            return type(self)(self.starts[:0], self.ends[:0])
        near = slice(
            int(np.searchsorted(self.ends, start, side="right")), int(np.searchsorted(self.starts, end, side="left"))
        )
        starts, ends = self.starts[near], self.ends[near]
        # Only what is cut is copied: there can be 50 million ranges.
        if len(starts) and starts[0] < start:
            starts = starts.copy()
            starts[0] = start
        if len(ends) and ends[-1] > end:
            ends = ends.copy()
            ends[-1] = end
        return type(self)(starts, ends)

    def split(self, count: int) -> tuple[Self, Self]:
        """Return the set of the lowest `count` indices, and that of the others.

        Examples
        --------
        >>> [list(map(str, each)) for each in RangeSet.of((5, 7), (9, 12)).split(3)]
        [['[5, 7)', '[9, 10)'], ['[10, 12)']]
        """
        if count >= self.size:
            return self, self.between(0, 0)
        # Each range has an index at least, so that no more than `count` of them matter.
        reach = np.cumsum(self.ends[:count] - self.starts[:count])
        last = int(np.searchsorted(reach, count))
        cut = int(self.ends[last] - (reach[last] - count)) if count else 0
        return self.between(0, cut), self.between(cut, END)

    def contains(self, index: Int64s) -> NDArray[np.bool_]:
        """Tell for each index whether it lies in one of the ranges.

        Examples
        --------
        >>> RangeSet.of((5, 7), (9, 10)).contains(np.arange(4, 11)).tolist()
        [False, True, True, False, False, True, False]
        """
        number = np.searchsorted(self.ends, index, side="right")
        inside = number < len(self.ends)
        inside[inside] = self.starts[number[inside]] <= index[inside]
        return inside

    def intersect(self, other: "RangeSet") -> Self:
        """Return the indices that both sets have.

        Examples
        --------
        >>> [str(each) for each in RangeSet.of((0, 5), (7, 9)).intersect(RangeSet.of((3, 8)))]
        ['[3, 5)', '[7, 8)']
        """
        slices = (slice(first, first + _RANGES_AT_ONCE) for first in range(0, len(self), _RANGES_AT_ONCE))
        return self.joined([self._shared(other, part) for part in slices])

    def _shared(self, other: "RangeSet", part: slice) -> Self:
        """Return what a slice of the ranges shares with another set."""
        starts, ends = self.starts[part], self.ends[part]
        first = np.searchsorted(other.ends, starts, side="right")
        pairs = np.searchsorted(other.starts, ends, side="left") - first
        ours = np.repeat(np.arange(len(starts)), pairs)
        theirs = np.arange(len(ours)) + np.repeat(first - (np.cumsum(pairs) - pairs), pairs)
        return type(self)(np.maximum(starts[ours], other.starts[theirs]), np.minimum(ends[ours], other.ends[theirs]))

    def minus(self, other: "RangeSet") -> Self:
        """Return the indices that the other set does not have.

        Examples
        --------
        >>> [str(each) for each in RangeSet.of((0, 5), (7, 9)).minus(RangeSet.of((1, 2), (4, 8)))]
        ['[0, 1)', '[2, 4)', '[8, 9)']
        """
        beyond = np.iinfo(np.int64)
        return self.intersect(RangeSet.merged(np.append(beyond.min, other.ends), np.append(other.starts, beyond.max)))

    def missing(self, start: int, end: int) -> Self:
        """Return the indices of ``[start, end)`` that the set does not have.

        Examples
        --------
        >>> [str(each) for each in RangeSet.of((0, 5), (7, 9)).missing(3, 12)]
        ['[5, 7)', '[9, 12)']
        """
        inside = self.between(start, end)
        return self.merged(np.append(start, inside.ends), np.append(inside.starts, end))

    def pages(self, page_size: Callable[[], int]) -> Iterator[IndexRange]:
        """Yield the requests that cover the set, one by one; see `page_bounds`.

        Parameters
        ----------
        page_size
            Called before each request, because a log's page size is learned while it is read.

        Examples
        --------
        >>> [str(page) for page in RangeSet.of((5, 7), (9, 10), (300, 520)).pages(lambda: 256)]
        ['[5, 10)', '[300, 512)', '[512, 520)']
        """
        planned = 0
        while True:
            size = page_size()
            for start, end in self._pages_from(planned, size):
                yield IndexRange(start, end)
                planned = end
                if page_size() != size:
                    break
            else:
                return

    def _pages_from(self, start: int, page_size: int) -> Iterator[tuple[int, int]]:
        for starts, ends in self.page_bounds(page_size, start):
            yield from zip(starts.tolist(), ends.tolist(), strict=True)

    def page_totals(self, page_size: int) -> tuple[int, int]:
        """Return how many requests `pages` yields, and how many indices they span together.

        The time depends on the number of ranges, not of pages: a log may claim any number of entries.

        Examples
        --------
        >>> RangeSet.of((5, 7), (9, 10), (300, 520)).page_totals(256)
        (3, 225)
        """
        requests = between = 0
        for first in range(0, len(self), _RANGES_AT_ONCE):
            starts, ends = self.starts[first : first + _RANGES_AT_ONCE], self.ends[first : first + _RANGES_AT_ONCE]
            # A range may need the last page of the range before it: then what lies between them comes too.
            before = self.ends[first - 1 : first + len(starts) - 1] if first else np.append(0, ends[:-1])
            is_shared = (before - 1) // page_size == starts // page_size
            requests += int(((ends - 1) // page_size - starts // page_size + 1 - is_shared).sum())
            between += int((starts - before)[is_shared].sum())
        return requests, self.size + between

    def page_bounds(self, page_size: int, start: int = 0) -> Iterator[tuple[Int64s, Int64s]]:
        """Yield the requests that cover the set from `start` on, as arrays of their starts and ends.

        There is one for each page that holds a wanted index. Pages are the aligned stretches
        ``[k * page_size, (k + 1) * page_size)``; a request runs from the first to the last wanted index of its page.
        The arrays are short however many ranges there are: pages are looked up in the ranges, a few thousand at a time.

        Examples
        --------
        >>> [np.stack(bounds).tolist() for bounds in RangeSet.of((5, 7), (9, 10), (300, 520)).page_bounds(256)]
        [[[5, 300, 512], [10, 512, 520]]]
        """
        while (first := int(np.searchsorted(self.ends, start, side="right"))) < len(self):
            page = max(start, int(self.starts[first])) // page_size
            edges = (page + np.arange(_PAGES_AT_ONCE + 1)) * page_size
            lows, highs = np.maximum(edges[:-1], start), edges[1:]
            # For each page the first range that it touches, and the one after the last.
            firsts = np.searchsorted(self.ends, lows, side="right")
            stops = np.searchsorted(self.starts, highs, side="left")
            wanted = firsts < stops
            starts = np.maximum(lows[wanted], self.starts[firsts[wanted]])
            ends = np.minimum(highs[wanted], self.ends[stops[wanted] - 1])
            yield starts, ends
            start = int(edges[-1])


NOTHING = RangeSet.of()
"""No index at all."""


def runs_of(index: Int64s) -> tuple[Int64s, Int64s]:
    """Return the starts and ends of ranges that hold each index as often as it is given, in any order.

    Examples
    --------
    >>> [each.tolist() for each in runs_of(np.array([7, 3, 4, 4, 5]))]
    [[3, 4, 7], [5, 6, 8]]
    """
    if (index[:-1] > index[1:]).any():
        index = np.sort(index)
    last = np.flatnonzero(np.diff(index) != 1)
    count = len(index)
    return index[np.append(0, last + 1)[:count]], index[np.append(last, -1)[:count]] + 1
