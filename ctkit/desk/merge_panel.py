"""Merge what was previewed, after a confirmation, and take it back."""

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import pandas as pd
import traitlets
from deltalake import DeltaTable

from ctkit.desk.certificate_view import shortened
from ctkit.desk.gap_report import find_tables
from ctkit.desk.parameters import Parameters, read_parameters
from ctkit.desk.verbs import merge_staged, preview_staged, undo_staged
from ctkit.desk.widget import LiveWidget, told
from ctkit.errors import CtkitError, StalePreviewError, UnconfirmedMergeError
from ctkit.lake.merge import MergePreview, MergeReport, preview_merge
from ctkit.report import Report
from ctkit.visible import get_logger, visible

logger = get_logger(__name__)

MOST_LISTED = 20
"""Conflicts, and logs by date, that are listed one by one; the report has more."""


@dataclass(frozen=True, repr=False)
class UndoneMerge(Report):
    """A merge that was taken back.

    Attributes
    ----------
    merge
        What it had done.
    version
        Main's version now; its rows are those of ``merge.version_before``.
    preview
        What the same merge would do now.
    """

    merge: MergeReport
    version: int
    preview: MergePreview

    title = "merge undone"

    def facts(self) -> dict[str, Any]:
        """Return what went back, and what is staged now."""
        return {
            "rows_staged_again": self.merge.inserted,
            "main": self.merge.main,
            "version": self.version,
            "rows_as_in_version": self.merge.version_before,
            "staging": self.merge.staging,
            "staging_rows": self.preview.staging_rows,
            "would_insert": self.preview.inserted,
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return what is staged now."""
        return self.preview.tables()


class MergePreviewPanel(LiveWidget):
    """Shows what a merge would do, does exactly that once it is confirmed, and takes it back.

    Parameters
    ----------
    staging
        A preview; or the table to merge from, which is previewed now.
    main
        The table to merge into, if `staging` is a table.

    Attributes
    ----------
    value : MergeReport or None
        What the merge did; None before it, and after it was undone. Observe it to follow both.
    preview : MergePreview
        What is shown, and what is merged. If a table has changed since, nothing is merged, and a new preview is shown.
    confirmed : bool
        Must be true to merge a staging table that looks like a main table; a box that is shown then sets it.
    create_main : bool
        Must be true to create a main table that is missing; likewise.
    state : str
        ``running`` while a merge or an undo runs, ``stale`` where a table had changed, ``empty`` if nothing is staged.
    """

    front = "merge_panel"

    value = traitlets.Instance(MergeReport, allow_none=True)
    preview = traitlets.Instance(MergePreview)
    confirmed = traitlets.Bool(False).tag(sync=True)
    create_main = traitlets.Bool(False).tag(sync=True)
    shown = traitlets.Dict().tag(sync=True)
    outcome = traitlets.Instance(dict, allow_none=True).tag(sync=True)

    def __init__(self, staging: MergePreview | DeltaTable, main: DeltaTable | None = None) -> None:
        if isinstance(staging, DeltaTable) and main is not None:
            preview = preview_merge(staging, main)
        elif isinstance(staging, MergePreview) and main is None:
            preview = staging
        else:
            raise TypeError("give a MergePreview, or the two tables: staging and main")
        super().__init__()
        self._undone: UndoneMerge | None = None
        self._show(preview)

    @property
    def report(self) -> MergePreview | MergeReport | UndoneMerge:
        """The report of the merge; before it the preview, and after an undo what that did."""
        return self.value or self._undone or self.preview

    @property
    def ready(self) -> bool:
        """Whether there is something to merge, and each box that is shown is ticked."""
        settled = all(getattr(self, box) for box, asks in self._asked().items() if asks)
        return self.value is None and self.state != "running" and self.preview.staging_rows > 0 and settled

    def merge(self) -> None:
        """Merge what is shown, if `ready`; an error is shown, not raised."""
        # Another confirmation may arrive before the front end has learned of the first.
        if not self.ready:
            return
        self._begin("a merge")
        try:
            value = merge_staged(self._parameters, expected=self.preview)
        except StalePreviewError:
            self._preview_again(note="Nothing was merged: a table had changed. This is what a merge would do now")
        except UnconfirmedMergeError as error:
            self._preview_again(note=told(error))
        except Exception as error:
            self._fail(error, "merge")
        else:
            self._undone, self.note, self.state = None, "", "ready"
            self.outcome = _outcome(value, merged=True, undo=_cost(value), rows=value.inserted)
            self._set_value(value)
        self.record()

    def undo(self) -> None:
        """Take the merge back, as long as main has no later commit; an error is shown, not raised."""
        merged = self.value
        if merged is None or not _cost(merged) or self.state == "running":
            return
        self._begin("an undo")
        try:
            undone = undo_staged(self._parameters, version=merged.version)
        except Exception as error:
            self._fail(error, "undo")
        else:
            self._preview_again()
            self._undone = UndoneMerge(merged, undone.version, self.preview)
            self.outcome = _outcome(self._undone, merged=False, undo="", rows=merged.inserted)
            self._set_value(None)
        self.record()

    def refresh(self) -> None:
        """Preview again, unless the merge was made; an undo before that is told no longer."""
        if self.value is None:
            self._undone, self.outcome = None, None
            self._preview_again()
            self.record()

    def check(self) -> None:
        """Find out whether a table has changed since the preview; if so, the state becomes ``stale``."""
        if self.state in ("ready", "empty") and self.value is None:
            staging, main = find_tables(self._parameters)
            now = (-1 if staging is None else staging.version(), None if main is None else main.version())
            if now != (self.preview.staging_version, self.preview.main_version):
                self.note, self.state = "a table has changed since; look again", "stale"
                self.record()

    def on_message(self, content: dict[str, Any]) -> None:
        """Do what was confirmed in the front end."""
        match content["do"]:
            case "merge" if content["versions"] == self.shown["versions"]:
                self.merge()
            case "merge" if self.value is None and self.state != "running":
                self._preview_again(note="The preview changed before this was confirmed. Look at it and confirm again")
                self.record()
            case "undo":
                self.undo()
            case "refresh":
                self.refresh()

    @property
    def _parameters(self) -> Parameters:
        return read_parameters(
            staging_path=self.preview.staging,
            main_path=self.preview.main,
            confirmed=self.confirmed,
            create_main=self.create_main,
        )

    def _asked(self) -> dict[str, bool]:
        """Return, for each box, whether it must be ticked."""
        return {
            "confirmed": bool(self.preview.doubts),
            "create_main": self.preview.main_version is None and self.preview.staging_rows > 0,
        }

    def _begin(self, what: str) -> None:
        """Say in the record, before anything is done, where to ask if the kernel ends before that is."""
        self.note, self.state = f"{what} was begun; if its end is not shown, see ctkit status", "running"
        self.record()

    def _set_value(self, value: MergeReport | None) -> None:
        """Tell observers; that one of them fails does not mean that the merge did."""
        try:
            self.value = value
        except Exception as error:
            self.note = f"The tables are as shown here; what observes them failed: {told(error)}"

    def _show(self, preview: MergePreview) -> None:
        self.preview = preview
        self.confirmed = self.create_main = False
        asked = self._asked()
        self.shown = {
            "staging": visible(preview.staging),
            "main": visible(preview.main),
            # By these a confirmation says what it is about.
            "versions": [preview.staging_version, preview.main_version],
            "rows": preview.staging_rows,
            "inserted": preview.inserted,
            "adopted": preview.adopted,
            "skipped": preview.skipped,
            "conflicts": preview.conflicts,
            "conflicting": _rows(preview.conflicting),
            "logs": _rows(preview.summary),
            "left": max(len(preview.summary) - MOST_LISTED, 0),
            "doubts": [visible(doubt) for doubt in preview.doubts],
            "asks": [box for box in asked if asked[box]],
        }
        self.note = "" if preview.staging_rows else visible(f"nothing is staged in {preview.staging}; run a backfill")
        self.state = "ready" if preview.staging_rows else "empty"

    def _preview_again(self, *, note: str = "") -> None:
        """Show what a merge would do now; a note says why what was shown before does not hold."""
        try:
            self._show(preview_staged(self._parameters))
        except CtkitError as error:
            self.note, self.state = told(error), "failed"
        else:
            if note:
                self.note, self.state = note, "stale"

    def _fail(self, error: Exception, what: str) -> None:
        """Show an error: a front end does not show what a click raises."""
        self.note, self.state = told(error), "failed"
        if not isinstance(error, CtkitError):
            logger.exception("%s failed staging=%s main=%s", what, self.preview.staging, self.preview.main)


def _cost(merged: MergeReport) -> str:
    """Say what an undo would do; "" where there is nothing to undo."""
    if merged.version == merged.version_before:
        return ""
    back = f"Undo takes these {merged.inserted:,} rows out of main and puts them into {merged.staging} again"
    lost = f" The {merged.skipped:,} skipped rows do not come back." if merged.skipped else ""
    return visible(f"{back}; nothing is fetched.{lost} It works until something else is committed to main.")


def _outcome(report: Report, *, merged: bool, undo: str, rows: int) -> dict[str, Any]:
    """Return what was done for the front end, and what an undo of it would do."""
    facts = [[name.replace("_", " "), _cell(value)] for name, value in report.facts().items()]
    return {"title": report.title, "facts": facts, "merged": merged, "undo": undo, "rows": rows}


def _rows(table: pd.DataFrame) -> dict[str, Any]:
    """Return the first rows of a table for a front end."""
    return {
        "columns": [name.replace("_", " ") for name in table.columns],
        "rows": [[_cell(value) for value in row] for row in table.head(MOST_LISTED).itertuples(index=False)],
    }


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, Integral) else shortened(str(value), 1000)
