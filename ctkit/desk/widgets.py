"""Widgets for notebooks: choose gaps, preview a merge and run it.

Widgets are a convenience, reports are the record: each widget shows a report, which an executed notebook keeps as HTML
where no widget can be drawn, and none ever waits for a click.
"""

from dataclasses import dataclass
from typing import Any

import ipywidgets
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import traitlets
from deltalake import DeltaTable

from ctkit.desk.gap_report import GapReport
from ctkit.desk.parameters import Parameters, read_parameters
from ctkit.desk.verbs import merge_staged, preview_staged
from ctkit.errors import CtkitError, StalePreviewError, UnconfirmedMergeError
from ctkit.jobs.plan import Plan, plan_backfill
from ctkit.lake.merge import MergePreview, MergeReport, preview_merge
from ctkit.report import IGNORED_BY_MATHJAX, Report, to_html
from ctkit.schema import GAP_SCHEMA
from ctkit.visible import get_logger, visible

logger = get_logger(__name__)

LARGEST = 8
"""Gaps that are listed one by one; there may be 50 million."""


@dataclass(frozen=True, eq=False, repr=False)
class ChosenGaps(Report):
    """Which of the gaps are chosen.

    Attributes
    ----------
    found, chosen
        Columns ``source_url, start, end``, half-open.
    names
        Source URL -> name of the log.
    plan
        What it takes to fill the chosen gaps; None if the logs are not known.
    """

    found: pa.Table
    chosen: pa.Table
    names: dict[str, str]
    plan: Plan | None = None

    title = "gaps chosen"

    def facts(self) -> dict[str, Any]:
        """Return the totals, in gaps and in missing entries."""
        return {
            "gaps_chosen": self.chosen.num_rows,
            "gaps_found": self.found.num_rows,
            "entries_chosen": _size(self.chosen),
            "entries_missing": _size(self.found),
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return what is chosen in each log, and the largest of the chosen gaps."""
        if not self.found.num_rows:
            return {}
        found, of_chosen = _count_by_log(self.found), _count_by_log(self.chosen)
        logs = found.add_suffix(" found").join(of_chosen.add_suffix(" chosen")).fillna(0).astype(int).reset_index()
        chosen = _with_missing(self.chosen)
        if len(chosen):  # Arrow 21 cannot select from an empty table
            chosen = chosen.take(pc.select_k_unstable(chosen, LARGEST, [("missing", "descending")]))
        shown = chosen.to_pandas(use_threads=False)
        tables = {"by log": logs, f"the largest {len(shown)}": shown}
        for table in tables.values():
            table.insert(0, "log", table.pop("source_url").map(lambda url: visible(self.names.get(url) or url)))
        return tables if self.plan is None else {**tables, "what that takes": self.plan.table()}


class GapPreview(ipywidgets.VBox):  # type: ignore[misc]
    """Shows gaps, and lets the analyst choose among them by log, size and index.

    Parameters
    ----------
    gaps
        A gap report, or its gaps: anything with an Arrow stream and the columns ``source_url, start, end``.

    Attributes
    ----------
    value : pyarrow.Table
        The chosen gaps ``[start, end)``, to be passed to `ctkit.backfill`; all of them at first.
    logs : ipywidgets.SelectMultiple
        Source URLs whose gaps are chosen.
    smallest, largest : ipywidgets.BoundedIntText
        Fewest and most missing entries of a chosen gap.
    start, end : ipywidgets.BoundedIntText
        Gaps are chosen within ``[start, end)``, and cut there if they reach beyond.

    Examples
    --------
    >>> gaps = pa.table({"source_url": ["https://a.example"] * 2, "start": [0, 50], "end": [10, 53]})
    >>> preview = GapPreview(gaps)
    >>> preview.end.value = 5
    >>> preview.value.to_pylist()
    [{'source_url': 'https://a.example', 'start': 0, 'end': 5}]
    """

    value = traitlets.Instance(pa.Table)

    def __init__(self, gaps: GapReport | pa.Table) -> None:
        names = gaps.chosen.names if isinstance(gaps, GapReport) else {}
        table = gaps.gaps if isinstance(gaps, GapReport) else gaps
        self._found = pa.table(table).select(GAP_SCHEMA.names).cast(GAP_SCHEMA)
        self._names: dict[str, str] = names
        self._logs = gaps.logs if isinstance(gaps, GapReport) and gaps.parameters.user_agent else None
        counts = _count_by_log(self._found)
        options = [
            (f"{visible(names.get(url, url))} (gaps: {gaps:,}, entries: {missing:,})", url)
            for url, gaps, missing in zip(counts.index, counts["gaps"], counts["missing"], strict=True)
        ]
        largest = pc.max(_missing(self._found)).as_py() or 1
        end = pc.max(self._found["end"]).as_py() or 0
        wide = ipywidgets.Layout(width="auto")
        self.logs = ipywidgets.SelectMultiple(
            options=options, value=tuple(counts.index), rows=min(max(len(options), 2), 10), layout=wide
        )
        self.smallest = _number(1, largest, 1, "at least", "missing entries of a chosen gap")
        self.largest = _number(1, largest, largest, "at most", "missing entries of a chosen gap")
        self.start = _number(0, end, 0, "from index", "first index to choose")
        self.end = _number(0, end, end, "to index", "index to stop before")
        self._shown = ipywidgets.HTML()
        super().__init__(
            [
                ipywidgets.HTML("<b>Logs</b> (Ctrl+click for several, Ctrl+A for all)"),
                self.logs,
                ipywidgets.HBox([ipywidgets.HTML("<b>Size</b>"), self.smallest, self.largest]),
                ipywidgets.HBox([ipywidgets.HTML("<b>Where</b>"), self.start, self.end]),
                self._shown,
            ]
        )
        for control in (self.logs, self.smallest, self.largest, self.start, self.end):
            control.observe(self._choose, "value")
        self._choose()

    @property
    def report(self) -> ChosenGaps:
        """The current choice."""
        plan = None if self._logs is None else plan_backfill(self._logs, self.value, ask=False)
        return ChosenGaps(self._found, self.value, self._names, plan)

    def _choose(self, _: object = None) -> None:
        found = self._found
        start = pc.max_element_wise(found["start"], self.start.value)
        end = pc.min_element_wise(found["end"], self.end.value)
        size = _missing(found)
        kept = pc.is_in(found["source_url"], pa.array(self.logs.value, pa.string()))
        kept = pc.and_(kept, pc.greater_equal(size, self.smallest.value))
        kept = pc.and_(kept, pc.less_equal(size, self.largest.value))
        kept = pc.and_(kept, pc.less(start, end))
        self.value = pa.table([found["source_url"], start, end], schema=GAP_SCHEMA).filter(kept)
        self._shown.value = _framed(self.report)

    def __repr__(self) -> str:
        return str(self.report)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return {**super()._repr_mimebundle_(**kwargs), **_as_text(self.report)}


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


def _missing(gaps: pa.Table) -> pa.ChunkedArray:
    return pc.subtract(gaps["end"], gaps["start"])


def _with_missing(gaps: pa.Table) -> pa.Table:
    return gaps.append_column("missing", _missing(gaps))


def _size(gaps: pa.Table) -> int:
    return pc.sum(_missing(gaps)).as_py() or 0


def _count_by_log(gaps: pa.Table) -> pd.DataFrame:
    """Return the columns ``gaps, missing`` by ``source_url``."""
    by_log = _with_missing(gaps).group_by("source_url", use_threads=False)
    counts = by_log.aggregate([("missing", "count"), ("missing", "sum")])
    frame: pd.DataFrame = counts.to_pandas(use_threads=False).set_index("source_url").sort_index()
    return frame.rename(columns={"missing_count": "gaps", "missing_sum": "missing"})


def _number(low: int, high: int, value: int, about: str, tooltip: str) -> ipywidgets.BoundedIntText:
    return ipywidgets.BoundedIntText(value, min=low, max=high, description=about, tooltip=tooltip)


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
