"""The widget that shows what is missing, and lets the analyst choose from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import traitlets

from ctkit.desk.choice import ChosenLog, GapChoice, log_label
from ctkit.desk.chosen_gaps import SHOWN, ChosenGaps, save_choice
from ctkit.desk.gap_report import GapReport, find_tables, report_gaps
from ctkit.desk.lanes import ABOVE, COLOURS, Lane, Lanes, levels
from ctkit.desk.widget import LiveWidget
from ctkit.errors import CtkitError, ParameterError
from ctkit.jobs.plan import Plan
from ctkit.lake.gaps import check_gaps, gaps_of
from ctkit.ranges import RangeSet
from ctkit.visible import visible

HEIGHT = 24
"""Pixels of a lane on the screen."""

_NOTHING = RangeSet.of()


class GapPreview(LiveWidget):
    """Shows a verdict, and each log as a lane; lets the analyst choose gaps by log, index and size.

    Drag over a lane to choose a range of it, with Shift to add one; + and - zoom, and so does the wheel over the lane
    that has the focus. Arrows move, with Shift they choose. Space chooses a log or leaves it out, Ctrl+A chooses all
    logs, Esc resets the lane. The choice can be typed, too.

    Parameters
    ----------
    gaps
        A gap report, or its gaps: anything with an Arrow stream and the columns ``source_url, start, end``.

    Attributes
    ----------
    spec : str
        What is chosen, as text (see `ctkit.GapChoice`); may be set. At first it is the parameter `choice` of the
        report; without that, all.

    Examples
    --------
    >>> gaps = pa.table({"source_url": ["https://a.example"] * 2, "start": [0, 50], "end": [10, 53]})
    >>> preview = GapPreview(gaps)
    >>> preview.spec = "a.example: 0-5"
    >>> preview.value.to_pylist()
    [{'source_url': 'https://a.example', 'start': 0, 'end': 5}]
    """

    front = "gap_preview"

    spec = traitlets.Unicode("all").tag(sync=True)
    verdict = traitlets.Unicode().tag(sync=True)
    failed = traitlets.List(traitlets.Unicode()).tag(sync=True)
    lanes = traitlets.List(traitlets.Dict()).tag(sync=True)
    settings = traitlets.Dict().tag(sync=True)

    def __init__(self, gaps: GapReport | pa.Table) -> None:
        self._gap_report = gaps if isinstance(gaps, GapReport) else None
        self._gaps = gaps.gaps if isinstance(gaps, GapReport) else check_gaps(gaps)
        self._zoom: dict[str, tuple[int, int]] = {}
        self._choice = GapChoice()
        self._chosen: Mapping[str, RangeSet] = {}
        self._plan: Plan | None = None
        self._look()
        super().__init__(settings={"height": HEIGHT, "shown": SHOWN, "colours": COLOURS, "above": ABOVE})
        given = self._gap_report.parameters.choice if self._gap_report else None
        self.choose(GapChoice.parse(given or ""))

    @property
    def gap_report(self) -> GapReport | None:
        """The report that is shown, which `refresh` replaces; None if there are gaps alone."""
        return self._gap_report

    @property
    def choice(self) -> GapChoice:
        """What is chosen."""
        return self._choice

    @property
    def value(self) -> pa.Table:
        """The chosen gaps ``[start, end)``, to be passed to `ctkit.fill_gaps` or `ctkit.backfill`."""
        if self._choice == GapChoice():
            return self._gaps
        return gaps_of(dict(sorted(self._chosen.items())), self._gaps.schema.metadata)

    @property
    def report(self) -> ChosenGaps:
        """What is chosen, and what it takes."""
        return ChosenGaps(self._model, self._choice, self._chosen, self._plan)

    def save(self, path: str | Path = "choice.yaml") -> Path:
        """Write a parameter file that fetches what is chosen: ``ctkit backfill -f choice.yaml``.

        Raises
        ------
        ParameterError
            The widget was made of gaps alone; or the file cannot be written, or is another one.
        """
        if self._gap_report is None:
            raise ParameterError("gaps alone have no parameters to save; make GapPreview of report_gaps(...)")
        return save_choice(self._choice, path, self._gap_report.parameters)

    def choose(self, choice: GapChoice) -> None:
        """Choose something else.

        Raises
        ------
        ParameterError
            It does not fit the logs.
        """
        self._chosen = self._model.choose(choice)
        self._choice = choice
        self._plan = self._model.plan(self._chosen)
        self.note = "" if self._model.missing else "nothing is missing"
        self.spec = str(choice)
        self._show()

    def refresh(self) -> None:
        """Look at the tables and logs again; the choice is kept.

        Raises
        ------
        CtkitError
            As for `ctkit.report_gaps`.
        """
        if self._gap_report is not None:
            self.state = "loading"
            try:
                found = report_gaps(self._gap_report.parameters)
            except CtkitError:
                self.state = "stale"
                raise
            self._gap_report.close()
            self._gap_report, self._gaps = found, found.gaps
            self._look()
        self.choose(self._choice)

    def check(self) -> None:
        """Find out whether a table has changed; if so, the state is ``stale``."""
        if self._gap_report is not None and self.state in ("ready", "empty"):
            seen = [None if table is None else table.version() for table in self._tables()]
            now = [None if table is None else table.version() for table in find_tables(self._gap_report.parameters)]
            if seen != now:
                self.state = "stale"

    def on_message(self, content: dict[str, Any]) -> None:
        """Do what the front end asks for."""
        try:
            self._do(content)
        except CtkitError as error:
            # What was typed is wrong: what was chosen before still is.
            self.note = visible(str(error))

    @traitlets.observe("spec")
    def _read_spec(self, change: dict[str, Any]) -> None:
        if change["new"] != str(self._choice):
            try:
                self.choose(GapChoice.parse(change["new"]))
            except ParameterError:
                self.spec = str(self._choice)
                raise

    def _tables(self) -> tuple[Any, Any]:
        assert self._gap_report is not None
        return self._gap_report.main, self._gap_report.staging

    def _look(self) -> None:
        report = self._gap_report
        self._model = Lanes.of_gaps(self._gaps, {}) if report is None else Lanes.of_report(report)
        self._zoom = {}

    def _do(self, content: dict[str, Any]) -> None:
        what = content["do"]
        if what == "check":
            self.check()
        elif what == "refresh":
            self.refresh()
        elif what == "save":
            self.note = visible(f"saved in {self.save(content['path']).absolute()}; next: ctkit backfill -f FILE")
        elif what == "choose":
            self.choose(GapChoice.parse(content["spec"]))
        elif what == "size":
            smallest = max(int(content["smallest"]), 1)
            self.choose(GapChoice(self._choice.logs, smallest, self._choice.largest))
        elif what == "toggle":
            self._toggle(self._lane(content).url)
        elif what == "range":
            self._choose_range(self._lane(content), content)
        elif what == "zoom":
            lane = self._lane(content)
            start, end = max(int(content["start"]), lane.start), min(int(content["end"]), lane.end)
            self._zoom[lane.url] = (start, end) if start < end else (lane.start, lane.end)
            # The record has the whole stretch, and stays as it is.
            self._show_lanes()
        else:
            raise ParameterError(f"unknown message: {what}")

    def _lane(self, content: dict[str, Any]) -> Lane:
        return self._model.lanes[int(content["lane"])]

    def _ranges(self) -> dict[str, tuple[tuple[int, int | None], ...]]:
        """Return the ranges of each log that is chosen from, by URL."""
        if self._choice.logs is None:
            return {lane.url: () for lane in self._model.lanes if lane.size}
        names = self._model.names
        found: dict[str, tuple[tuple[int, int | None], ...]] = {}
        for log in self._choice.logs:
            (url,) = GapChoice((log,)).resolve(names)
            found[url] = found.get(url, ()) + log.ranges
        return found

    def _choose_logs(self, ranges: Mapping[str, tuple[tuple[int, int | None], ...]]) -> None:
        """Choose ranges of logs; every log without a range is the same as no log named."""
        names, searched = self._model.names, {lane.url for lane in self._model.lanes if lane.size}
        logs = tuple(ChosenLog(log_label(url, names), each) for url, each in ranges.items())
        everything = ranges.keys() >= searched and not any(ranges.values())
        self.choose(GapChoice(None if everything else logs, self._choice.smallest, self._choice.largest))

    def _toggle(self, url: str) -> None:
        ranges = self._ranges()
        if url in ranges:
            del ranges[url]
        else:
            ranges[url] = ()
        self._choose_logs(ranges)

    def _choose_range(self, lane: Lane, content: dict[str, Any]) -> None:
        """Choose a range of a lane; where everything was chosen, it is that range alone."""
        ranges = {} if self._choice.logs is None else self._ranges()
        if content["start"] is None:
            ranges[lane.url] = ()
        else:
            start, end = max(int(content["start"]), lane.start), min(int(content["end"]), lane.end)
            known = ranges.get(lane.url, ()) if content.get("add") else ()
            ranges[lane.url] = (*known, (start, end)) if start < end else known
        self._choose_logs(ranges)

    def _show(self) -> None:
        """Tell the front end, and the record."""
        self.verdict = self.report.verdict
        self.failed = [f"{lane.name}: {lane.why}" for lane in self._model.lanes if lane.failed]
        self._show_lanes()
        self.state = "ready" if self._model.missing else "empty"
        self.record()

    def _show_lanes(self) -> None:
        report, ranges = self.report, self._ranges()
        self.lanes = [self._lane_shown(lane, report, ranges) for lane in self._model.lanes]

    def _lane_shown(
        self, lane: Lane, report: ChosenGaps, ranges: Mapping[str, tuple[tuple[int, int | None], ...]]
    ) -> dict[str, Any]:
        start, end = self._zoom.get(lane.url, (lane.start, lane.end))
        bins = lane.bins(start, end, self._chosen.get(lane.url, _NOTHING))
        return {
            **report.line_of(lane),
            "url": visible(lane.url),
            "start": lane.start,
            "end": lane.end,
            "from": start,
            "to": end,
            "levels": levels(bins, HEIGHT).tobytes(),
            "beyond": lane.beyond,
            "failed": lane.failed,
            "chosen": lane.url in ranges,
            "ranges": [[first, lane.end if last is None else last] for first, last in ranges.get(lane.url, ())],
        }
