"""The terminal of a command: its output, its log, and the signals that come from it."""

import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import StringIO
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from ctkit.visible import get_logger

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

    from ctkit.report import Report

logger = get_logger(__name__)

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that interrupt a run."""


def in_main_thread() -> bool:
    """Return whether this is the thread that handles the signals of the process."""
    return threading.current_thread() is threading.main_thread()


def is_watched() -> bool:
    """Return whether stderr is a terminal; Python has none if the caller closed it."""
    return sys.stderr is not None and sys.stderr.isatty()


class OutputError(Exception):
    """The output of a command cannot be written."""


def write(text: str, *, flush: bool = False) -> None:
    """Print to stdout; without `flush`, the error may come at a later write.

    Raises
    ------
    OutputError
        The caller has closed stdout, or it cannot be written.
    """
    if sys.stdout is None:
        if text:
            raise OutputError("Error: there is no stdout to print to; open it, then run the same command again")
        return
    try:
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        if flush:
            sys.stdout.flush()
    except (OSError, ValueError) as error:
        with suppress(OSError, ValueError):
            # So that the interpreter does not try again when it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        message = f"Error: stdout cannot be written ({error}); write it elsewhere, then run the same command again"
        raise OutputError(message) from error


def columns() -> int:
    """Return the width of the terminal; 80 where stdout is none."""
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else 80


def text_of(table: "pd.DataFrame", names: Mapping[str, str | None] | None = None) -> str:
    """Return a table as text that fits the terminal, in colours if it is one and NO_COLOR is not set.

    Parameters
    ----------
    names
        URL -> name of logs: names stand before URLs.
    """
    from ctkit.desk.tables import draw_table, with_names

    return _draw(draw_table(with_names(table, names or {}), columns()), soft_wrap=True)


def _draw(*drawn: "RenderableType", soft_wrap: bool = False) -> str:
    """Return as text what rich draws for stdout."""
    from rich.console import Console

    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    lines = StringIO()
    console = Console(
        file=lines, force_terminal=is_terminal, width=columns(), highlight=False, markup=False, emoji=False
    )
    for each in drawn:
        console.print(each, soft_wrap=soft_wrap)
    return lines.getvalue().removesuffix("\n")


def print_lines(*lines: object) -> None:
    """Print lines to stdout; see `write`."""
    write("".join(f"{line}\n" for line in lines))


SHOWN = 20
"""Rows of a table that a terminal shows."""


def print_tables(
    report: "Report",
    *,
    advice: str = "",
    without: Collection[str] = (),
    names: Mapping[str, str | None] | None = None,
    shown: int = SHOWN,
) -> None:
    """Print the first rows of each table of a report.

    Parameters
    ----------
    advice
        How to see the others.
    without
        Tables and columns that are left out.
    names
        URL -> name of logs.
    shown
        How many rows.
    """
    from ctkit.report import left_out

    for heading, whole in report.tables().items():
        if len(whole) and heading not in without:
            table = whole[[name for name in whole if name not in without]]
            more = left_out(table, shown)
            # A table without a heading is text.
            rows = "\n".join(table[""]) if "" in table else text_of(table.head(shown), names)
            print_lines(heading, rows, *([more + advice] if more else []), "")


def print_drawn(*drawn: "RenderableType") -> None:
    """Print what rich draws, with colours on a terminal, unless NO_COLOR is set."""
    text = _draw(*drawn)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = text.translate(_PLAIN)
    # Blanks at the ends of lines are nothing to see, and wrap where a terminal has become narrower.
    write("".join(f"{line.rstrip()}\n" for line in text.splitlines()))


_PLAIN = str.maketrans("─░▁▂▃▄▅▆▇█·", "-+12345678-")
"""What stands for the signs of a drawing where stdout cannot have them."""


def fail(message: object) -> int:
    """Print an error to stderr, if that is open; return the exit code."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(message, file=sys.stderr)
    return 1


class _ToStderr(logging.StreamHandler[Any]):
    """Writes to what stderr is just then: while live lines are shown, that is the place above them."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Write ``time level message key=value ...`` to stderr."""
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler = _ToStderr()
    handler.setFormatter(formatter)
    ours = logging.getLogger("ctkit")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        ours.removeHandler(handler)


@contextmanager
def signals_to(
    handler: Callable[[int, FrameType | None], None] | signal.Handlers, *, restore: bool = True
) -> Iterator[None]:
    """Handle the signals that stop a run, even if a shell started us in the background.

    A SIGHUP that is ignored on purpose (nohup) stays ignored. Outside the main thread, nothing is done.
    """
    if not in_main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPS}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, known in before.items() if restore else ():
            signal.signal(number, known)


def interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    """Handle a signal like Ctrl+C."""
    # A closing terminal sends SIGHUP twice: from the shell and from the kernel.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise KeyboardInterrupt


def let_finish() -> None:
    """Ignore interrupts from here on: the work is done, only its result remains to be printed."""
    if in_main_thread():
        for number in STOPS:
            signal.signal(number, signal.SIG_IGN)
