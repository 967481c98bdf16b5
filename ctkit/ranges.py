"""Arithmetic of half-open index ranges, one at a time and by the million."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]


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
            raise ValueError(f"[{self.start}, {self.end}) is no index range: 0 <= start <= end does not hold")

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return f"[{self.start}, {self.end})"


@dataclass(frozen=True, eq=False, slots=True)
class RangeSet:
    """Ranges of one log as two arrays: ascending, not empty, not touching.

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
        """Return the set that covers the given ranges, whatever their order and overlap; empty ones are dropped."""
        starts, ends = np.asarray(starts, np.int64), np.asarray(ends, np.int64)
        kept = ends > starts
        starts, ends = starts[kept], ends[kept]
        order = np.argsort(starts, kind="stable")
        starts, reach = starts[order], np.maximum.accumulate(ends[order])
        first = np.ones(len(starts), bool)
        first[1:] = starts[1:] > reach[:-1]
        return cls(starts[first], reach[np.append(np.flatnonzero(first)[1:] - 1, -1)] if len(starts) else reach)

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[IndexRange]:
        for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True):
            yield IndexRange(start, end)

    @property
    def size(self) -> int:
        """The number of indices in all ranges together."""
        return int((self.ends - self.starts).sum())

    def between(self, start: int, end: int) -> Self:
        """Return the part of the set that lies in ``[start, end)``.

        Examples
        --------
        >>> list(RangeSet.of((5, 7), (9, 12)).between(6, 10))
        [IndexRange(start=6, end=7), IndexRange(start=9, end=10)]
        """
        near = slice(
            int(np.searchsorted(self.ends, start, side="right")), int(np.searchsorted(self.starts, end, side="left"))
        )
        starts, ends = np.maximum(self.starts[near], start), np.minimum(self.ends[near], end)
        kept = starts < ends
        return type(self)(starts[kept], ends[kept])

    def contains(self, index: Int64s) -> NDArray[np.bool_]:
        """Tell for each index whether it lies in one of the ranges.

        Examples
        --------
        >>> RangeSet.of((5, 7), (9, 10)).contains(np.arange(4, 11)).tolist()
        [False, True, True, False, False, True, False]
        """
        at = np.searchsorted(self.ends, index, side="right")
        inside = at < len(self.ends)
        inside[inside] = self.starts[at[inside]] <= index[inside]
        return inside

    def intersect(self, other: "RangeSet") -> Self:
        """Return the indices that both sets have.

        Examples
        --------
        >>> [str(each) for each in RangeSet.of((0, 5), (7, 9)).intersect(RangeSet.of((3, 8)))]
        ['[3, 5)', '[7, 8)']
        """
        points = np.concatenate((self.starts, other.starts, self.ends, other.ends))
        steps = np.repeat(np.array([1, -1]), len(self) + len(other))
        # Where one range ends and another begins the end comes first: touching is not sharing.
        order = np.lexsort((steps, points))
        shared = np.flatnonzero(np.cumsum(steps[order]) == 2)
        return type(self)(points[order][shared], points[order][shared + 1])

    def pages(self, page_size: Callable[[], int]) -> Iterator[IndexRange]:
        """Yield the requests that cover the set: at most one for each page that holds a wanted index.

        Pages are the aligned stretches ``[k * page_size, (k + 1) * page_size)``; a request runs from the first to the
        last wanted index of its page.

        Parameters
        ----------
        page_size
            Asked anew before each request, because a log's page size is learned while it is read.

        Examples
        --------
        >>> [str(page) for page in RangeSet.of((5, 7), (9, 10), (300, 520)).pages(lambda: 256)]
        ['[5, 10)', '[300, 512)', '[512, 520)']
        """
        at = int(self.starts[0]) if len(self) else 0
        while True:
            first = int(np.searchsorted(self.ends, at, side="right"))
            if first == len(self):
                return
            start = max(at, int(self.starts[first]))
            size = page_size()
            page_end = (start // size + 1) * size
            last = int(np.searchsorted(self.starts, page_end, side="left")) - 1
            at = min(page_end, int(self.ends[last]))
            yield IndexRange(start, at)
