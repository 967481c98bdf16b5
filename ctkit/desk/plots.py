"""Pictures of gaps, as SVG and PNG, one of which every viewer of an executed notebook shows."""

import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Annotated, Any

import matplotlib
import pyarrow as pa
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from pydantic import PlainValidator

from ctkit.arguments import checked
from ctkit.desk.chosen_gaps import ChosenGaps
from ctkit.desk.gap_report import GapReport
from ctkit.desk.lanes import ABOVE, COLOURS, Lane, Lanes, paint
from ctkit.desk.wording import counted
from ctkit.errors import ParameterError
from ctkit.lake.gaps import Within, check_gaps, ranges_by_log
from ctkit.ranges import NOTHING, RangeSet
from ctkit.urls import canonical_url

MOST_LOGS = 100
"""Most lanes in a picture; of more logs, those that miss most are shown."""

_WIDTH = 1000
"""Width of the picture in pixels; bars run from `_LEFT` to `_RIGHT`, as fractions of it."""
_LEFT, _RIGHT = 0.24, 0.56
_PIXELS = round(_WIDTH * (_RIGHT - _LEFT))
_HEIGHT = 16
"""Pixels of a bar."""
_LONGEST_NAME, _LONGEST_CAPTION = 34, 46

TEXT = "#767676"
"""Can be read on white and on black: the picture has no background."""


class Picture(Figure):
    """A matplotlib figure that a notebook shows without pyplot, which keeps every figure in memory."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        # The picture has few colours, and the notebook keeps it.
        with Image.open(BytesIO(self._saved("png"))) as drawn:
            small = BytesIO()
            drawn.quantize(16, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(small, "png")
            return small.getvalue(), {"width": drawn.width, "height": drawn.height}

    def _repr_svg_(self) -> str:
        # Texts stay texts, and the same picture is the same file.
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ctkit"}):
            return self._saved("svg", metadata={"Date": None}).decode()

    def _saved(self, form: str, **options: Any) -> bytes:
        saved = BytesIO()
        with warnings.catch_warnings():
            # Of letters that the font lacks: a box is drawn.
            warnings.filterwarnings("ignore", "Glyph")
            self.savefig(saved, format=form, transparent=True, **options)
        return saved.getvalue()


def _check(gaps: object) -> object:
    return gaps if isinstance(gaps, GapReport | ChosenGaps) else check_gaps(gaps)


ReportOrGaps = Annotated[GapReport | ChosenGaps | pa.Table, PlainValidator(_check)]


@checked
def plot_gaps(gaps: ReportOrGaps, within: Within | None = None) -> Picture:
    """Draw a lane for each log, over the indices that were searched for gaps.

    The share that is missing is the height of the fill; however little is missing, it has a pixel.

    Parameters
    ----------
    gaps
        A gap report, the report of a `ctkit.GapPreview`, or gaps: anything with an Arrow stream and the columns
        ``source_url, start, end``. What a choice leaves out is drawn in another colour.
    within
        URL -> ``[start, end)`` of its bar, as given to `ctkit.find_gaps`, if `gaps` are gaps alone. Without it, a bar
        runs from the log's first gap to its last one.

    Raises
    ------
    ParameterError
        An argument is of the wrong kind, or `within` is given with a report.

    Examples
    --------
    >>> gaps = pa.table({"source_url": ["https://a.example"], "start": [10], "end": [20]})
    >>> picture = plot_gaps(gaps, {"https://a.example": (0, 100)})
    >>> [text.get_text() for text in picture.axes[0].texts[:3]]
    ['a.example', '0 to 100', '10 missing (10.0 %)']
    """
    if within is not None and not isinstance(gaps, pa.Table):
        raise ParameterError("a report knows where its logs were searched; leave out within", keys=("within",))
    if isinstance(gaps, ChosenGaps):
        return _draw(gaps.lanes, gaps.chosen)
    if isinstance(gaps, GapReport):
        return _draw(Lanes.of_report(gaps), ranges_by_log(gaps.wanted))
    lanes = Lanes.of_gaps(gaps, {canonical_url(url): stretch for url, stretch in (within or {}).items()})
    return _draw(lanes, lanes.missing)


def _draw(lanes: Lanes, chosen: Mapping[str, RangeSet]) -> Picture:
    shown, left_out = lanes.lanes[:MOST_LOGS], lanes.lanes[MOST_LOGS:]
    rows = max(len(shown), 1)
    picture = Picture(figsize=(_WIDTH / 100, 0.3 * rows + 0.35), dpi=100)
    # One axes for all: a row is one unit high, rows go down, and x runs from the left edge to the right one.
    axes = picture.add_axes((0, 0, 1, 1))
    # Dollar signs in a name do not start a formula.
    plain: dict[str, Any] = {"va": "center", "parse_math": False, "usetex": False, "color": TEXT}
    for row, lane in enumerate(shown):
        middle = row + 0.5
        axes.text(0.005, middle, _shortened(lane.name, _LONGEST_NAME), size=9, **plain)
        if lane.size:
            _draw_bar(axes, row, lane, chosen.get(lane.url, NOTHING))
            axes.text(0.995, middle, f"{lane.start:,} to {lane.end:,}", size=8, ha="right", **plain)
        axes.text(_RIGHT + 0.01, middle, _shortened(lane.caption(), _LONGEST_CAPTION), size=8, **plain)
    if not shown:
        axes.text(0.5, 0.5, "no log to show", ha="center", size=9, **plain)
    marks = {"above the ceiling": ABOVE} if any(lane.beyond for lane in shown) else {}
    for number, (part, colour) in enumerate((COLOURS | marks).items()):
        place = _LEFT + 0.1 * number
        axes.scatter(place + 0.005, rows + 0.6, marker="s", s=30, color=colour)
        axes.text(place + 0.015, rows + 0.6, part, size=7, **plain)
    if left_out:
        axes.text(0.995, rows + 0.6, _not_shown(left_out), ha="right", size=7, **plain)
    # After the images, which move the limits.
    axes.set(xlim=(0, 1), ylim=(rows + 1.15, 0))
    axes.set_axis_off()
    return picture


def _not_shown(lanes: Sequence[Lane]) -> str:
    """Return what is to be said of the lanes for which there is no place."""
    searched, failed = sum(bool(lane.size) for lane in lanes), sum(lane.failed for lane in lanes)
    kinds = {"miss less": searched, "failed": failed, "not searched": len(lanes) - searched - failed}
    said = ", ".join(f"{number} {kind}" for kind, number in kinds.items() if number)
    return f"{counted(len(lanes), 'more log')}: {said}; GapPreview and ctkit gaps show all"


def _draw_bar(axes: Any, row: int, lane: Lane, chosen: RangeSet) -> None:
    bins = lane.bins(lane.start, lane.end, chosen, count=_PIXELS)
    place = (_LEFT, _RIGHT, row + 0.88, row + 0.12)
    axes.imshow(paint(bins, _HEIGHT), extent=place, aspect="auto", interpolation="none")
    if lane.beyond:
        axes.add_patch(Rectangle((_RIGHT + 0.002, row + 0.12), 0.005, 0.76, color=ABOVE, linewidth=0))


def _shortened(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    # Shards differ at the end of their URLs.
    return f"{text[: longest // 2 - 1]}\u2026{text[-longest // 2 :]}"
