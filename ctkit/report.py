"""Reports: what a verb found or did, as a value that a notebook shows and a machine reads."""

import html
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

RESULT_MIME_TYPE = "application/vnd.ctkit.result+json"
"""Output of a notebook cell that holds a report's facts; whoever runs the notebook reads it from there."""

# One line for each row, however long its texts; in a widget tables stand to the left, as elsewhere.
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
        return " ".join([self.title, *(f"{name}={value}" for name, value in self.facts().items())])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name.replace('_', ' '))}</th>"
            f"<td style='text-align:left'>{html.escape(_readable(value))}</td></tr>"
            for name, value in self.facts().items()
        )
        parts = [f"{_STYLE}<h4>{html.escape(self.title)}</h4><table>{cells}</table>"]
        for heading, table in self.tables().items():
            if len(table):
                parts.append(f"<h5>{html.escape(heading)}</h5>{table.to_html(index=False, border=0, max_rows=50)}")
        return "<div class='ctkit-report'>" + "\n".join(parts) + "</div>"

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        return {RESULT_MIME_TYPE: {"title": self.title, **self.facts()}}


def frame_of(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows as they are shown: whole numbers stay whole beside what is None, which is left blank.

    Examples
    --------
    >>> frame_of([{"tree_size": 7}, {"tree_size": None}])["tree_size"].to_list()
    [7, '']
    """
    shown = [{name: "" if value is None else value for name, value in row.items()} for row in rows]
    return pd.DataFrame(shown, dtype=object)


def _readable(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
