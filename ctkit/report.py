"""Reports: what a verb found or did, shown by notebooks and read by programs."""

import html
from collections.abc import Iterable, Mapping
from datetime import date
from numbers import Number
from typing import Any

import numpy as np
import pandas as pd

from ctkit.visible import visible

RESULT_MIME_TYPE = "application/vnd.ctkit.result+json"
"""MIME type of a cell's output that holds a report's facts, for the program that runs the notebook."""

ROWS = "rows"
"""Attribute of a table that shows only a part: the number of rows of the whole."""

SHOWN = 50
"""Rows that a notebook shows of each table."""

IGNORED_BY_MATHJAX = "tex2jax_ignore mathjax_ignore"
"""Classes of an HTML element in which MathJax 2 and 3 leave dollar signs alone."""

# One line for each row, however long its texts; tables are left-aligned in widgets too.
_STYLE = (
    "<style>.ctkit-report {overflow-x: auto} .ctkit-report table {margin: 0} .ctkit-report td "
    "{white-space: nowrap !important; max-width: 30em; overflow: hidden; text-overflow: ellipsis}</style>"
)


class Report:
    """Base of the frozen dataclasses (``repr=False``) that verbs return.

    A report is text in a terminal (one line of facts), HTML in a notebook, and JSON in an executed notebook.
    """

    title: str

    def facts(self) -> dict[str, Any]:
        """Return what the report says in one line: short names, JSON values."""
        raise NotImplementedError

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the details that a notebook shows below the facts, by heading."""
        return {}

    def __str__(self) -> str:
        return visible(" ".join([self.title, *(f"{name}={value}" for name, value in self.facts().items())]))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th style='text-align:left'>{to_html(name.replace('_', ' '))}</th>"
            f"<td style='text-align:left'>{to_html(_readable(value))}</td></tr>"
            for name, value in self.facts().items()
        )
        parts = [f"{_STYLE}<h4>{to_html(self.title)}</h4><table>{cells}</table>"]
        for heading, table in self.tables().items():
            if len(table):
                rows = visible_table(table.head(SHOWN)).to_html(index=False, border=0)
                parts.append(f"<h5>{to_html(heading)}</h5>{rows}{to_html(left_out(table, SHOWN))}")
        return f"<div class='ctkit-report {IGNORED_BY_MATHJAX}'>" + "\n".join(parts) + "</div>"

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        return {RESULT_MIME_TYPE: {"title": self.title, **self.facts()}}


def frame_of(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows as a table for display: None is blank, and integers beside it stay integers.

    Examples
    --------
    >>> frame_of([{"tree_size": 7}, {"tree_size": None}])["tree_size"].to_list()
    [7, '']
    """
    shown = [{name: "" if value is None else value for name, value in row.items()} for row in rows]
    return pd.DataFrame(shown, dtype=object)


def visible_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table for display, with invisible characters in column names and cells made visible."""
    return table.rename(columns=lambda name: visible(str(name))).map(_visible_cell)


def left_out(table: pd.DataFrame, shown: int) -> str:
    """Say how many rows follow the first `shown`; "" if none do."""
    rows = table.attrs.get(ROWS, len(table))
    return f"... and {rows - shown:,} more" if rows > shown else ""


def to_html(text: str) -> str:
    """Return text for use in HTML, between tags or within quotes, with invisible characters made visible."""
    return html.escape(visible(text))


def _visible_cell(value: object) -> object:
    if value is None or isinstance(value, Number | date):
        return value
    if isinstance(value, list | tuple | np.ndarray):
        return visible(f"[{', '.join(map(str, value))}]")
    return visible(str(value))


def _readable(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
