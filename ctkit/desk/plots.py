"""Pictures of gaps, as PNG, which every viewer of an executed notebook shows."""

from dataclasses import dataclass
from io import BytesIO
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import PlainValidator

from ctkit.arguments import checked
from ctkit.desk.gap_report import GapReport
from ctkit.lake.gaps import Within, check_gaps, ranges_by_log
from ctkit.ranges import RangeSet
from ctkit.urls import canonical_url
from ctkit.visible import visible

MOST_LOGS = 40
"""Most bars in a picture; of more logs, those with the most missing entries are shown."""

_WIDTH = 1000
"""Width of the picture in pixels; bars run from `_LEFT` to `_RIGHT`, as fractions of it."""
_LEFT, _RIGHT = 0.32, 0.78
_PIXELS = round(_WIDTH * (_RIGHT - _LEFT))
_LONGEST_NAME = 42

_KEY = {"present": "#d3e0e8", "partly missing": "#ef8f57", "missing": "#b42318"}
_TEXT, _SMALL_TEXT = "#24323d", "#62727f"


class Picture(Figure):
    """A matplotlib figure that a notebook shows without pyplot, which keeps every figure in memory."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        width, height = self.get_size_inches() * self.dpi
        png = BytesIO()
        # Twice the pixels, for high-resolution screens.
        self.savefig(png, format="png", dpi=2 * self.dpi)
        return png.getvalue(), {"width": int(width), "height": int(height)}


def _check(gaps: object) -> object:
    return gaps if isinstance(gaps, GapReport) else check_gaps(gaps)


ReportOrGaps = Annotated[GapReport | pa.Table, PlainValidator(_check)]


@checked
def plot_gaps(gaps: ReportOrGaps, within: Within | None = None) -> Picture:
    """Draw a bar for each log, over the indices that were searched for gaps; what is missing is red.

    Even the smallest gap is visible: a pixel with any missing index is tinted, and darker the more are missing.

    Parameters
    ----------
    gaps
        A gap report, or gaps: anything with an Arrow stream and the columns ``source_url, start, end``.
    within
        URL -> ``[start, end)`` of its bar, as given to `ctkit.find_gaps`; a gap report knows it. Without it, a bar runs
        from the log's first gap to its last one.

    Examples
    --------
    >>> gaps = pa.table({"source_url": ["https://a.example"], "start": [10], "end": [20]})
    >>> picture = plot_gaps(gaps, {"https://a.example": (0, 100)})
    >>> [text.get_text() for text in picture.axes[0].texts[:4]]
    ['a.example', '[0, 100)', '1 gap', '10 missing (10.0 %)']
    """
    names: dict[str, str] = {}
    if isinstance(gaps, GapReport):
        within = gaps.stretches() if within is None else within
        names = gaps.chosen.names
        gaps = gaps.gaps
    missing = ranges_by_log(gaps)
    given = {canonical_url(url): stretch for url, stretch in (within or {}).items()}
    bars = [_bar(names.get(url, url), missing.get(url, RangeSet.of()), given.get(url)) for url in {**given, **missing}]
    bars = [bar for bar in bars if bar.start < bar.end]
    shown = sorted(sorted(bars, key=lambda bar: -bar.missing.size)[:MOST_LOGS], key=bars.index)
    return _draw(shown, left_out=len(bars) - len(shown))


@dataclass(frozen=True, eq=False)
class _Bar:
    """A log, and what is missing in ``[start, end)``."""

    name: str
    start: int
    end: int
    missing: RangeSet

    def shares(self) -> NDArray[np.float64]:
        """Return the missing share of each pixel."""
        edges = np.linspace(self.start, self.end, _PIXELS + 1)
        return np.diff(_missing_below(self.missing, edges)) / ((self.end - self.start) / _PIXELS)

    def captions(self) -> tuple[str, str]:
        """Return the number of gaps, and of missing entries."""
        gaps, missing = len(self.missing), self.missing.size
        if not gaps:
            return "no gap", "complete"
        percent = 100 * missing / (self.end - self.start)
        share = f"{percent:.1f} %" if percent >= 0.1 else "< 0.1 %"
        return f"{gaps:,} {'gap' if gaps == 1 else 'gaps'}", f"{missing:,} missing ({share})"


def _bar(name: str, missing: RangeSet, stretch: tuple[int | None, int] | None) -> _Bar:
    first, last = (int(missing.starts[0]), int(missing.ends[-1])) if len(missing) else (0, 0)
    start, end = stretch or (first, last)
    if start is None:
        # The log's first row is not known; its first gap comes after it.
        start = first if len(missing) else end
    return _Bar(name, start, end, missing.between(start, end))


def _missing_below(missing: RangeSet, index: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the number of missing indices below each of the given ones, fractions of an index included."""
    before = np.concatenate([[0], np.cumsum(missing.ends - missing.starts)])
    begun = np.searchsorted(missing.starts, index, side="right")
    ends = np.concatenate([[-np.inf], missing.ends])
    return before[begun] - np.maximum(ends[begun] - index, 0)


def _draw(bars: list[_Bar], *, left_out: int) -> Picture:
    rows = max(len(bars), 1)
    picture = Picture(figsize=(_WIDTH / 100, 0.5 * rows + 0.4), dpi=100, facecolor="white")
    # One axes for all: a row is one unit high, rows go down, and x runs from the left edge to the right one.
    axes = picture.add_axes((0, 0, 1, 1))
    # Dollar signs in a name do not start a formula.
    plain: dict[str, Any] = {"va": "center", "parse_math": False, "usetex": False}
    head: dict[str, Any] = {**plain, "size": 9, "color": _TEXT}
    small: dict[str, Any] = {**plain, "size": 7, "color": _SMALL_TEXT}
    for row, bar in enumerate(bars):
        place = (_LEFT, _RIGHT, row + 0.84, row + 0.34)
        axes.imshow(_colours(bar.shares()), extent=place, aspect="auto", interpolation="nearest")
        gaps, missing = bar.captions()
        axes.text(_LEFT - 0.01, row + 0.44, _shortened(bar.name), ha="right", **head)
        axes.text(_LEFT - 0.01, row + 0.76, f"[{bar.start:,}, {bar.end:,})", ha="right", **small)
        axes.text(_RIGHT + 0.01, row + 0.44, gaps, **head)
        axes.text(_RIGHT + 0.01, row + 0.76, missing, **small)
    if not bars:
        axes.text(0.5, 0.5, "no log to show", ha="center", **head)
    for offset, (label, colour) in zip((0, 0.09, 0.22), _KEY.items(), strict=True):
        axes.scatter(_LEFT + offset + 0.005, rows + 0.36, marker="s", s=36, color=colour)
        axes.text(_LEFT + offset + 0.015, rows + 0.36, label, **small)
    if left_out:
        axes.text(_RIGHT + 0.01, rows + 0.36, f"{left_out} more logs, with fewer missing entries", **small)
    # After the images, which move the limits.
    axes.set(xlim=(0, 1), ylim=(rows + 0.8, 0))
    axes.set_axis_off()
    return picture


def _colours(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shares as one row of pixels, shaped ``(1, pixels, 3)``."""
    present, little, all_ = (np.array(to_rgb(colour)) for colour in _KEY.values())
    # Rounding leaves shares slightly above zero; one index in a log of a trillion is more than this.
    missing = shares[:, None] > 1e-10
    return np.where(missing, little + shares[:, None] * (all_ - little), present)[None].clip(0, 1)


def _shortened(name: str) -> str:
    name = visible(name).removeprefix("https://").removeprefix("http://")
    if len(name) <= _LONGEST_NAME:
        return name
    # Shards differ at the end of their URLs.
    return f"{name[: _LONGEST_NAME // 2 - 1]}\u2026{name[-_LONGEST_NAME // 2 :]}"
