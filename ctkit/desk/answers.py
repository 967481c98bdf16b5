"""Answers to questions as notebooks show them: the first rows as a table, and counts over time as a picture."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable
from matplotlib.ticker import MaxNLocator

from ctkit.arguments import Count, checked
from ctkit.ask.asked import Question
from ctkit.desk.certificate_view import OpenCertificate, open_certificate
from ctkit.desk.plots import TEXT, Picture
from ctkit.errors import ParameterError
from ctkit.report import Report
from ctkit.visible import visible

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
"""Of the groups with the most, by Okabe and Ito, who chose them so that all people can tell them apart."""
_OTHERS = "#999999"

_LONGEST = 38
"""Letters of a group's name in a picture."""

_TICKS = 8
"""Dates below a picture."""


@dataclass(frozen=True, repr=False, eq=False)
class Answer(Report):
    """The first rows of an answer, and how many it has.

    Attributes
    ----------
    title
        What was asked.
    table
        The first rows; times are text, in UTC.
    rows
        How many rows there are.
    """

    title: str
    table: pd.DataFrame
    rows: int

    def facts(self) -> dict[str, Any]:
        """Return how many rows there are."""
        return {"rows": self.rows}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the first rows."""
        shown = self.table.rename(columns=lambda name: name.replace("_", " "))
        part = f"the first {len(shown):,} of {self.rows:,} rows"
        return {part if len(shown) < self.rows else "rows": shown}

    def first(self, column: str, default: str) -> str:
        """Return what the first row has in a column, or `default` if there is no row."""
        return str(self.table[column].iloc[0]) if len(self.table) else default

    def open(self, main: DeltaTable, row: int = 0) -> OpenCertificate | None:
        """Open the certificate that the column ``key`` of a row names; None if there is no such row.

        Raises
        ------
        ParameterError
            The answer has no such column.
        TableError
            As `ctkit.open_certificate`.
        """
        if "key" not in self.table:
            raise ParameterError(f"{self.title}: no column key; ask for it, too", keys=("key",))
        return open_certificate(main, self.table["key"].iloc[row]) if 0 <= row < len(self.table) else None


@checked
def show(question: Question, title: str = "answer", *, first: Count = 10) -> Answer:
    """Ask a question, and return the first rows of its answer for a notebook, as text that is harmless to show.

    Parameters
    ----------
    question
        Any ibis table, such as what `ctkit.look_alikes` returned.
    title
        What stands above the answer.
    first
        How many rows; a notebook shows 50 at most.

    Examples
    --------
    >>> import tempfile, ctkit
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(ctkit.show(ctkit.name_history(ctkit.open_table(folder)), "names"))
    names rows=0
    """
    found = question.limit(first + 1).to_pyarrow()
    rows = len(found) if len(found) <= first else question.count().to_pyarrow().as_py()
    shown = found.slice(0, first)
    columns = [_as_shown(column) for column in shown.columns]
    # Columns of one name would be one.
    table = pd.DataFrame(dict(enumerate(columns)), dtype=object)
    table.columns = pd.Index(shown.column_names)
    return Answer(title, table, rows)


def _as_shown(column: pa.ChunkedArray) -> list[object]:
    if pa.types.is_timestamp(column.type):
        # As text of Arrow's: Python has no year 0, and pandas none of many others.
        column = column.cast(pa.timestamp("us"), safe=False).cast(pa.timestamp("s"), safe=False).cast(pa.string())
    values = column.to_pylist()
    return [", ".join(map(str, value)) if isinstance(value, list) else value for value in values]


@checked
def plot_over_time(counts: Question, title: str = "") -> Picture:
    """Draw counts over time, as `ctkit.issued_over_time` returns them: the largest groups in colours of their own.

    Parameters
    ----------
    counts
        An ibis table with the columns ``date`` and ``certificates``, and with or without one more between them.
    title
        What stands above the picture.

    Raises
    ------
    ParameterError
        `counts` has other columns.

    Examples
    --------
    >>> import tempfile, ctkit
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     picture = ctkit.plot_over_time(ctkit.issued_over_time(ctkit.open_table(folder)), "certificates a day")
    >>> [text.get_text() for text in picture.texts]
    ['certificates a day', 'nothing to show']
    """
    first, *by, last = counts.columns if len(counts.columns) > 1 else ("", "")
    if (first, last) != ("date", "certificates") or len(by) > 1:
        message = f"plot_over_time: counts: it has the columns {', '.join(counts.columns)}"
        raise ParameterError(f"{message}; give what ctkit.issued_over_time returned", keys=("counts",))
    rows = counts.to_pyarrow()
    # As numbers since 1970: other writers have days that Python lacks.
    days = rows["date"].cast(pa.date32()).cast(pa.int32()).to_pylist()
    places = {day: at for at, day in enumerate(sorted(set(days)))}
    groups = [_name_of(value) for value in (rows[by[0]].to_pylist() if by else ["all"] * len(rows))]
    series: dict[str, np.ndarray[Any, np.dtype[np.int64]]] = {}
    for day, group, count in zip(days, groups, rows["certificates"].to_pylist(), strict=True):
        series.setdefault(group, np.zeros(len(places), np.int64))[places[day]] += count
    return _draw(title, [*places], series)


def _name_of(value: object) -> str:
    return "none given" if value is None else visible(str(value))


def _draw(title: str, days: list[int], series: dict[str, Any]) -> Picture:
    picture = Picture(figsize=(10, 3), dpi=100)
    plain: dict[str, Any] = {"parse_math": False, "usetex": False, "color": TEXT}
    picture.text(0.06, 0.93, visible(title), size=10, va="center", **plain)
    if not days:
        picture.text(0.5, 0.5, "nothing to show", size=9, ha="center", va="center", **plain)
        return picture
    ordered = sorted(series.items(), key=lambda item: (-item[1].sum(), item[0]))
    shown, others = ordered[: len(COLOURS)], ordered[len(COLOURS) :]
    coloured = list(zip((name for name, _ in shown), (values for _, values in shown), COLOURS, strict=False))
    if others:
        coloured.append((f"{len(others):,} more", sum(values for _, values in others), _OTHERS))
    axes = picture.add_axes((0.06, 0.16, 0.58, 0.68))
    edges, places = _edges(days)
    below = np.zeros(len(edges) - 1)
    for row, (name, values, colour) in enumerate(coloured):
        heights = np.zeros(len(edges) - 1)
        heights[places] = values
        axes.stairs(below + heights, edges, baseline=below, fill=True, color=colour, linewidth=0)
        below = below + heights
        height = 0.8 - 0.085 * row
        picture.text(0.665, height, "\u25a0", size=11, va="center", **{**plain, "color": colour})
        label = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}\u2026"
        picture.text(0.685, height, label, size=8, va="center", **plain)
        picture.text(0.995, height, f"{int(values.sum()):,}", size=8, va="center", ha="right", **plain)
    ticks = [days[int(at)] for at in np.unique(np.linspace(0, len(days) - 1, min(_TICKS, len(days))).round())]
    axes.set_xticks([day + _step(days) / 2 for day in ticks], [str(np.datetime64(day, "D")) for day in ticks])
    axes.set_xlim(edges[0], edges[-1])
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.tick_params(colors=TEXT, labelsize=7, length=2)
    axes.grid(axis="y", color=TEXT, alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(TEXT)
    return picture


def _step(days: list[int]) -> int:
    """Return the days of a period."""
    return min(later - earlier for earlier, later in pairwise(days)) if days[1:] else 1


def _edges(days: list[int]) -> tuple[list[int], list[int]]:
    """Return where steps begin and end, and which of them are those of the days."""
    step, edges, places = _step(days), [days[0]], []
    for day, following in zip(days, [*days[1:], None], strict=True):
        places.append(len(edges) - 1)
        if following is not None and following <= day + 1.2 * step:
            # Months and years are not all of one length.
            edges.append(following)
        else:
            edges += [day + step, *([] if following is None else [following])]
    return edges, places
