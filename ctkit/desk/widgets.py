"""Widgets for notebooks: watch a backfill."""

import time

from IPython.display import DisplayHandle, display
from tqdm import tqdm

from ctkit.jobs.backfill_report import Progress
from ctkit.report import to_html


class ProgressBar:
    """Shows the progress of a backfill, in one output that is redrawn after each commit.

    Unlike a widget, it stays in an executed notebook: ``backfill(..., on_progress=ProgressBar())``.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._done = Progress(0, 0, 0)
        self._handle: DisplayHandle | None = None

    def __call__(self, done: Progress) -> None:
        """Show `done`."""
        self._done = done
        if self._handle is None:
            self._handle = display(self, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(self)  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:
        done, seconds = self._done, time.monotonic() - self._began
        meter = tqdm.format_meter(
            done.written, done.wanted, seconds, unit=" entries", unit_scale=True, bar_format=_METER
        )
        return f"{meter} version={done.version}"

    def _repr_html_(self) -> str:
        done = self._done
        bar = f"<progress value='{done.written}' max='{done.wanted}' style='width:20em'></progress>"
        return f"{bar} <code>{to_html(repr(self))}</code>"


_METER = "{percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
