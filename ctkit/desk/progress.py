"""The progress of a run in a notebook: bars that are redrawn, and stay in the record as they were last."""

import threading
from collections.abc import Sequence
from typing import Any

import traitlets

from ctkit.desk.widget import LiveWidget
from ctkit.jobs.progress import LogProgress, Progress
from ctkit.report import to_html
from ctkit.visible import visible

SHOWN = 12
"""Logs that are shown while a run goes on; the last picture has all of them."""

STOPPING = "what has arrived is written first"

# What is not trusted may have no style sheet: each element of the record has its style.
_CELL = "padding:1px 8px; text-align:left; white-space:nowrap"
_NUMBER = "padding:1px 8px; text-align:right; white-space:nowrap"
_BAR = "display:flex; width:12em; height:0.7em; background:rgba(128,128,128,0.3)"
_COLOURS = "#0072B2", "#56B4E9"


class ProgressBar(LiveWidget):
    """Shows the progress of a backfill, with a bar for each log, and a button that stops it.

    Give a new one to each run: ``bar = ProgressBar()``, then ``fill_gaps(..., on_progress=bar, stop=bar.stop)``.

    Attributes
    ----------
    stop : threading.Event
        Ends the run once it is set, as the button does.

    Examples
    --------
    >>> bar = ProgressBar()
    >>> log = LogProgress("https://log.example", "Example", 2000, 700, 500, "waiting", "503, try 3")
    >>> bar.report = Progress((log,), version=4, seconds=1.5)
    >>> bar
    progress wanted=2000 fetched=700 written=500 version=4 logs_done=0/1 troubled=Example (503, try 3)
    """

    front = "progress"

    rows: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    more = traitlets.Unicode("").tag(sync=True)

    def __init__(self) -> None:
        super().__init__(state="loading")
        self.stop = threading.Event()
        self._progress = Progress((), None, 0.0)
        self._shown = False

    def __call__(self, progress: Progress) -> None:
        """Show `progress`."""
        self.report = progress
        if not self._shown:
            self._shown = True
            self._ipython_display_()
        self.record()

    @property
    def report(self) -> "_Picture":
        """The progress that is shown."""
        return _Picture(self._progress)

    @report.setter
    def report(self, progress: Progress) -> None:
        self._progress = progress
        logs, more = progress.most_urgent(len(progress.logs) if progress.ended else SHOWN)
        with self.hold_sync():
            self.rows = [_line(log) for log in _with_total(progress, logs)]
            self.more = more
            self.note = STOPPING if self.stop.is_set() and not progress.ended else ""
            self.state = _state_of(progress)

    def on_message(self, content: dict[str, Any]) -> None:
        """Stop the run."""
        # It may be read only after the run: a kernel that runs a cell reads no messages.
        if content.get("do") == "stop" and self.state == "running":
            self.note = STOPPING
            self.stop.set()


def _state_of(progress: Progress) -> str:
    if not progress.ended:
        return "running"
    states = {log.state for log in progress.logs}
    return "failed" if "failed" in states else "stopped" if "left" in states else "ready"


def _with_total(progress: Progress, logs: Sequence[LogProgress]) -> list[LogProgress]:
    return [*([progress.total] if len(progress.logs) > 1 else []), *logs]


def _shares(log: LogProgress) -> tuple[float, float]:
    """Return what part is written, and what part has arrived besides, in percent."""
    # Rounded down: only what is complete fills the bar.
    written, fetched = (1000 * count // max(log.wanted, 1) / 10 for count in (log.written, log.fetched))
    return written, fetched - written


def _line(log: LogProgress) -> dict[str, Any]:
    """Return what the front end shows of a log."""
    written, fetched = _shares(log)
    return {
        "name": visible(log.name),
        "url": visible(log.source_url),
        "shares": [written, fetched],
        "cells": [log.counts, f"{log.written:,}", log.pace, log.time],
        "state": log.state,
        "status": visible(log.status),
    }


class _Picture:
    """Bars as HTML, for the record."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __repr__(self) -> str:
        return str(self._progress)

    def _repr_html_(self) -> str:
        progress = self._progress
        logs, more = progress.most_urgent(SHOWN)
        rest = to_html(more)
        if more and progress.ended:
            others, _ = progress.most_urgent(len(progress.logs))
            rest = f"<details><summary>{rest}</summary>{_table(others[SHOWN:])}</details>"
        return f"<div style='overflow-x:auto'>{_table(_with_total(progress, logs))}{rest}</div>"


def _table(logs: Sequence[LogProgress]) -> str:
    names = ("log", "progress", "fetched", "written", "rate", "time", "state")
    styles = (_CELL, _CELL, *[_NUMBER] * 4, _CELL)
    head = "".join(f"<th scope='col' style='{style}'>{name}</th>" for name, style in zip(names, styles, strict=True))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(map(_row, logs))}</tbody></table>"


def _row(log: LogProgress) -> str:
    line = _line(log)
    bar = "".join(
        f"<span style='width:{share:.1f}%; background:{colour}'></span>"
        for share, colour in zip(line["shares"], _COLOURS, strict=True)
    )
    cells = [
        (_CELL, f"<abbr title='{to_html(log.source_url)}' style='text-decoration:none'>{to_html(log.name)}</abbr>"),
        (_CELL, f"<span style='{_BAR}'>{bar}</span>"),
        *((_NUMBER, cell) for cell in line["cells"]),
        (_CELL, to_html(log.status)),
    ]
    return "<tr>" + "".join(f"<td style='{style}'>{cell}</td>" for style, cell in cells) + "</tr>"
