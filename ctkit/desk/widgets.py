"""Widgets for notebooks: preview a merge and run it, watch a backfill.

Widgets are a convenience, reports are the record: each widget shows a report, which an executed notebook keeps as HTML
where no widget can be drawn, and none ever waits for a click.
"""

import time
from typing import Any

import ipywidgets
import traitlets
from deltalake import DeltaTable
from IPython.display import DisplayHandle, display
from tqdm import tqdm

from ctkit.desk.parameters import Parameters, read_parameters
from ctkit.desk.verbs import merge_staged, preview_staged
from ctkit.errors import CtkitError, StalePreviewError, UnconfirmedMergeError
from ctkit.jobs.backfill_report import Progress
from ctkit.lake.merge import MergePreview, MergeReport, preview_merge
from ctkit.report import IGNORED_BY_MATHJAX, Report, to_html
from ctkit.visible import get_logger, visible

logger = get_logger(__name__)


class MergePreviewPanel(ipywidgets.VBox):  # type: ignore[misc]
    """Shows what a merge would do, and a button that does exactly that.

    Parameters
    ----------
    staging
        A preview; or the table to merge from, which is previewed now.
    main
        The table to merge into, if `staging` is a table.

    Attributes
    ----------
    value : MergeReport or None
        What the merge did; None before it.
    preview : MergePreview
        What is shown, and what the button merges. If a table has changed since, nothing is merged, and a new preview is
        shown.
    button : ipywidgets.Button
        Disabled while a merge runs and after it, if nothing is staged, and while a box that is shown is not ticked.
    confirmed : ipywidgets.Checkbox
        Shown if the staging table looks like a main table; must be ticked to merge it.
    create_main : ipywidgets.Checkbox
        Shown if there is no main table; must be ticked to create one.
    """

    value = traitlets.Instance(MergeReport, allow_none=True)
    preview = traitlets.Instance(MergePreview)

    def __init__(self, staging: MergePreview | DeltaTable, main: DeltaTable | None = None) -> None:
        if isinstance(staging, DeltaTable) and main is not None:
            preview = preview_merge(staging, main)
        elif isinstance(staging, MergePreview) and main is None:
            preview = staging
        else:
            raise TypeError("give a MergePreview, or the two tables: staging and main")
        self.button = ipywidgets.Button(description="Merge", button_style="primary", icon="check")
        self.button.on_click(self._merge)
        self.confirmed = ipywidgets.Checkbox(
            description="These are not swapped: merge anyway", indent=False, layout={"width": "auto"}
        )
        self.create_main = ipywidgets.Checkbox(indent=False, layout={"width": "auto"})
        for box in (self.confirmed, self.create_main):
            box.observe(self._enable, "value")
        self._shown, self._outcome = ipywidgets.HTML(), ipywidgets.HTML()
        super().__init__([self._shown, self.confirmed, self.create_main, self.button, self._outcome])
        self._show(preview)

    @property
    def report(self) -> MergePreview | MergeReport:
        """The report of the merge; before it, the preview."""
        return self.value or self.preview

    @property
    def _parameters(self) -> Parameters:
        return read_parameters(
            staging_path=self.preview.staging,
            main_path=self.preview.main,
            confirmed=self.confirmed.value,
            create_main=self.create_main.value,
        )

    def _show(self, preview: MergePreview) -> None:
        self.preview = preview
        self._shown.value = _framed(preview)
        for box, asks in self._asked().items():
            box.value = False
            box.layout.display = None if asks else "none"
        self.create_main.description = visible(f"There is no main table at {preview.main}: create it")
        self._enable()
        self.button.tooltip = visible(f"insert {preview.inserted:,} rows into {preview.main}")

    def _merge(self, _: object) -> None:
        # A second click may arrive before the front end has disabled the button.
        if self.button.disabled:
            return
        self.button.disabled = True
        self.button.description = "Merging"
        self._outcome.value = ""
        try:
            self.value = merge_staged(self._parameters, expected=self.preview)
            self._outcome.value = _framed(self.value)
        except (StalePreviewError, UnconfirmedMergeError) as error:
            self._outcome.value = _problem(error)
            self._preview_again()
        except Exception as error:
            # A front end does not show what a click raises.
            self._outcome.value = _problem(error)
            if not isinstance(error, CtkitError):
                logger.exception("merge failed staging=%s main=%s", self.preview.staging, self.preview.main)
        finally:
            self.button.description = "Merge" if self.value is None else "Merged"
            self._enable()

    def _enable(self, _: object = None) -> None:
        """Enable the button if there is something to merge and every box that is shown is ticked."""
        settled = all(box.value or not asks for box, asks in self._asked().items())
        self.button.disabled = self.value is not None or not self.preview.staging_rows or not settled

    def _asked(self) -> dict[ipywidgets.Checkbox, bool]:
        """Return, for each box, whether it must be ticked."""
        return {
            self.confirmed: bool(self.preview.doubts),
            self.create_main: self.preview.main_version is None and self.preview.staging_rows > 0,
        }

    def _preview_again(self) -> None:
        try:
            self._show(preview_staged(self._parameters))
        except CtkitError as error:
            self._outcome.value += _problem(error)

    def __repr__(self) -> str:
        return str(self.report)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return {**super()._repr_mimebundle_(**kwargs), **_as_text(self.report)}


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


def _framed(report: Report) -> str:
    """Return the report as HTML that looks like an ordinary output."""
    return f"<div class='jp-RenderedHTMLCommon'>{report._repr_html_()}</div>"


def _problem(error: Exception) -> str:
    text = to_html(f"{type(error).__name__}: {error}")
    style = "color:var(--jp-error-color1, firebrick); white-space:pre-wrap"
    return f"<div class='{IGNORED_BY_MATHJAX}' style='{style}'>{text}</div>"


def _as_text(report: Report) -> dict[str, str]:
    """Return what viewers that cannot draw widgets show instead."""
    return {"text/html": report._repr_html_(), "text/plain": str(report)}
