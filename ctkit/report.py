"""Reports: what a verb found or did, shown by notebooks and read by programs."""

import html
from collections.abc import Iterable, Mapping
from numbers import Number
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ctkit.visible import visible, with_end

if TYPE_CHECKING:
    import pandas as pd

Frame: TypeAlias = "pd.DataFrame"
"""A table for display. pandas takes long to import, so it is imported where the first one is made."""

RESULT_MIME_TYPE = "application/vnd.ctkit.result+json"
"""MIME type of a cell's output that holds a report's facts, for the program that runs the notebook."""

ROWS = "rows"
"""Attribute of a table that shows only a part: the number of rows of the whole."""

SHOWN = 50
"""Rows that a notebook shows of each table."""

IGNORED_BY_MATHJAX = "tex2jax_ignore mathjax_ignore"
"""Classes of an HTML element in which MathJax 2 and 3 leave dollar signs alone."""

LONG = 300
"""Characters of a cell from which on it is folded: its beginning is shown, and the whole where it is opened."""

_STYLE = (
    "<style>.ctkit-report {overflow-x: auto} .ctkit-report table {margin: 0} .ctkit-report td, .ctkit-report th "
    "{text-align: left; vertical-align: top; max-width: 50em; overflow-wrap: break-word} "
    ".ctkit-report th {white-space: nowrap} "
    ".ctkit-report td.number {text-align: right; white-space: nowrap}</style>"
)


class Report:
    """Base of the frozen dataclasses (``repr=False``) that verbs return.

    A report is text in a terminal (one line of facts), HTML in a notebook, and JSON in an executed notebook.
    """

    title: str

    shown = SHOWN
    """Rows that a notebook shows of each table."""

    exit_code = 0
    """What a run that did all it was asked for ends with: not 0 if a scheduler should hear of what it found."""

    def facts(self) -> dict[str, Any]:
        """Return what the report says in one line: short names, JSON values."""
        raise NotImplementedError

    def tables(self) -> dict[str, Frame]:
        """Return the details that a notebook shows below the facts, by heading."""
        return {}

    def __str__(self) -> str:
        facts = (f"{visible(name)}={visible(str(value))}" for name, value in self.facts().items())
        return " ".join([visible(self.title), *facts])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        facts = "".join(
            f"<tr><th style='text-align:left'>{to_html(name.replace('_', ' '))}</th>"
            f"<td style='text-align:left'>{_folded(_readable(value))}</td></tr>"
            for name, value in self.facts().items()
        )
        parts = [f"{_STYLE}<h4>{to_html(self.title)}</h4><table>{facts}</table>"]
        for heading, table in self.tables().items():
            if len(table):
                rows = table_html(table.head(self.shown))
                parts.append(f"<h5>{to_html(heading)}</h5>{rows}{to_html(left_out(table, self.shown))}")
        return f"<div class='ctkit-report {IGNORED_BY_MATHJAX}'>" + "\n".join(parts) + "</div>"

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        code = {"exit_code": self.exit_code} if self.exit_code else {}
        return {RESULT_MIME_TYPE: {"title": self.title, **self.facts(), **code}}


def frame_of(rows: Iterable[Mapping[str, Any]] = ()) -> Frame:
    """Return rows as a table for display: None is blank, and integers beside it stay integers.

    Examples
    --------
    >>> frame_of([{"tree_size": 7}, {"tree_size": None}])["tree_size"].to_list()
    [7, '']
    """
    import pandas as pd

    shown = [{name: "" if value is None else value for name, value in row.items()} for row in rows]
    return pd.DataFrame(shown, dtype=object)


def cell_text(value: object) -> str:
    """Return a cell of a table as text: numbers with separators, nothing for None, invisible characters made visible.

    Examples
    --------
    >>> cell_text(12_000), cell_text(0.25), cell_text(None), cell_text(True), cell_text(["a", "b"])
    ('12,000', '0.25', '', 'True', '[a, b]')
    """
    return visible(_cell_text(value))


def _cell_text(value: object) -> str:
    if isinstance(value, list | tuple | np.ndarray):
        return f"[{', '.join(map(str, value))}]"
    return "" if value is None or value != value else _readable(value)  # not a number


def table_html(table: Frame) -> str:
    """Return a table as HTML: every cell with its end, long ones folded, and very long ones without their middle."""
    head = "".join(f"<th style='text-align:left'>{to_html(str(name))}</th>" for name in table.columns)
    rows = "\n".join(f"<tr>{''.join(map(_cell_html, row))}</tr>" for row in table.itertuples(index=False, name=None))
    return (
        f"<table class='dataframe'><thead><tr style='text-align:left'>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _cell_html(value: object) -> str:
    is_number = isinstance(value, Number) and not isinstance(value, bool)
    kind, align = ("class='number' ", "right") if is_number else ("", "left")
    return f"<td {kind}style='text-align:{align}'>{_folded(_cell_text(value))}</td>"


def _folded(text: str) -> str:
    """Return text as HTML; of a long one the beginning, and the whole where it is opened."""
    text = with_end(text)
    if len(text) <= LONG:
        return f"<bdi>{to_html(text)}</bdi>" if not text.isascii() else to_html(text)
    return f"<details><summary><bdi>{to_html(text[: LONG // 3])}</bdi> \u2026</summary>{to_html(text)}</details>"


def left_out(table: Frame, shown: int) -> str:
    """Say how many rows follow the first `shown`; "" if none do."""
    rows = table.attrs.get(ROWS, len(table))
    return f"... and {rows - shown:,} more" if rows > shown else ""


def to_html(text: str) -> str:
    """Return text for use in HTML, between tags or within quotes, with invisible characters made visible."""
    return html.escape(visible(text))


def _readable(value: object) -> str:
    if isinstance(value, float | np.floating):
        return f"{round(float(value), 4):,}"
    return f"{value:,}" if isinstance(value, int | np.integer) and not isinstance(value, bool) else str(value)
