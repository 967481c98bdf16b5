"""The progress of a run on a terminal, as lines that are redrawn, and in a log file, as a line a minute."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ctkit.desk.terminal import is_watched
from ctkit.visible import get_logger, visible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from ctkit.jobs.progress import LogProgress, Progress

# Commands import rich, like everything slow, only once there is something to show.

logger = get_logger(__name__)

SECONDS_PER_LINE = 60.0
"""In a log file, a line this often shows that a run is alive."""

_BAR = 12
"""Characters of a bar."""

_STATE = 20
"""Characters that a state has at least, if names can be cut."""

_NUMBERS = 2, 3, 4
"""Columns with numbers."""


@contextmanager
def show_progress() -> Iterator["Callable[[Progress], None]"]:
    """Show progress as live lines on a terminal; elsewhere as a line at the start, each minute, and at the end."""
    if not is_watched():
        yield log_lines()
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    if console.is_dumb_terminal:
        yield log_lines()
        return
    with Live(console=console, auto_refresh=False, redirect_stdout=False) as live:
        yield lambda progress: live.update(render(progress, console), refresh=True)


def log_lines() -> "Callable[[Progress], None]":
    """Return what logs a line for the first progress, for one a minute, and for the last."""
    said_at = float("-inf")

    def say(progress: "Progress") -> None:
        nonlocal said_at
        now = time.monotonic()
        if progress.ended or now - said_at >= SECONDS_PER_LINE:
            said_at = now
            logger.info("%s", progress)

    return say


def render(progress: "Progress", console: "Console") -> "RenderableType":
    """Return the lines of a terminal: the totals, then as many logs as there is room for, and how many more."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    logs, more = progress.most_urgent(max(console.height - 4, 1))
    shown = (progress.total, *logs) if len(progress.logs) > 1 else logs
    rows = [_row(log, unicode=console.encoding.startswith("utf")) for log in shown]
    numbers = [max((len(row[at]) for row in rows), default=0) for at in _NUMBERS]
    # Numbers are never cut; names and states share what is left.
    left = console.width - sum(numbers) - _BAR - len(_NUMBERS) - 2
    name = min(max((len(row[0]) for row in rows), default=0), max(left - _STATE, 8))
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, width=name, overflow="ellipsis")
    table.add_column(no_wrap=True, width=_BAR)
    for width in numbers:
        table.add_column(no_wrap=True, width=width, justify="right")
    table.add_column(no_wrap=True, max_width=max(left - name, 8), overflow="ellipsis")
    for row in rows:
        table.add_row(*row)
    return Group(table, Text(more)) if more else table


def _row(log: "LogProgress", *, unicode: bool) -> "list[Text]":
    from rich.text import Text

    style = {"failed": "bold red", "waiting": "yellow", "done": "green"}.get(log.state, "")
    return [
        Text(visible(log.name)),
        _bar(log, "█▒·" if unicode else "#=."),
        Text(log.counts),
        Text(log.pace),
        Text(log.time),
        Text(visible(log.status), style=style),
    ]


def _bar(log: "LogProgress", marks: str) -> "Text":
    """Return what is written, what has arrived, and what is missing."""
    from rich.text import Text

    # Rounded down: only what is complete fills the bar.
    written, fetched = (_BAR * count // max(log.wanted, 1) for count in (log.written, log.fetched))
    return Text.assemble(
        (marks[0] * written, "blue"), (marks[1] * (fetched - written), "cyan"), (marks[2] * (_BAR - fetched), "dim")
    )
