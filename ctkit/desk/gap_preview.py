"""The widget that shows what is missing, and lets the analyst choose from it."""

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import traitlets

from ctkit.desk.choice import ChosenLog, GapChoice, log_label
from ctkit.desk.chosen_gaps import SHOWN, ChosenGaps, save_choice
from ctkit.desk.gap_report import GapReport, find_tables, report_gaps
from ctkit.desk.lanes import ABOVE, COLOURS, Lane, Lanes, levels
from ctkit.desk.parameters import Parameters
from ctkit.desk.times import Points, date_lanes
from ctkit.desk.widget import LiveWidget
from ctkit.errors import CtkitError, ParameterError
from ctkit.jobs.plan import Plan
from ctkit.lake.gaps import check_gaps, gaps_of
from ctkit.ranges import NOTHING, RangeSet
from ctkit.visible import visible

HEIGHT = 24
"""Pixels of a lane on the screen."""

_STALE = "the tables may have changed since; look again"


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
    axis : str
        What lanes are drawn along: ``"index"``, or ``"time"``, as far as the days of rows tell it; may be set.

    Examples
    --------
    >>> gaps = pa.table({"source_url": ["https://a.example"] * 2, "start": [0, 50], "end": [10, 53]})
    >>> preview = GapPreview(gaps)
    >>> preview.spec = "a.example: 0-5"
    >>> preview.value.to_pylist()
    [{'source_url': 'https://a.example', 'start': 0, 'end': 5}]
    """

    front = "gap_preview"
    modules = ("lane",)

    axis = traitlets.Enum(("index", "time"), "index").tag(sync=True)
    spec = traitlets.Unicode("all").tag(sync=True)
    verdict = traitlets.Unicode().tag(sync=True)
    failed = traitlets.List(traitlets.Unicode()).tag(sync=True)
    lanes = traitlets.List(traitlets.Dict()).tag(sync=True)
    settings = traitlets.Dict().tag(sync=True)

    def __init__(self, gaps: GapReport | pa.Table) -> None:
        self._gap_report = gaps if isinstance(gaps, GapReport) else None
        self._gaps = gaps.gaps if isinstance(gaps, GapReport) else check_gaps(gaps)
        self._model = _lanes_of(gaps) if isinstance(gaps, GapReport) else Lanes.of_gaps(self._gaps, {})
        self._zoom: dict[str, tuple[int, int]] = {}
        self._times: Mapping[str, Points] = {}
        self._choice = GapChoice()
        self._chosen: Mapping[str, RangeSet] = {}
        self._plan: Plan | None = None
        dated = self._gap_report is not None
        super().__init__(
            settings={"height": HEIGHT, "shown": SHOWN, "colours": COLOURS, "above": ABOVE, "dated": dated}
        )
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
        if self.state == "stale":
            self.note = _STALE
        else:
            self.note = "" if self._model.missing else "nothing is missing"
        self.spec = str(choice)
        self._show()

    def refresh(self) -> None:
        """Look at the tables and logs again; the choice is kept.

        Raises
        ------
        CtkitError
            As for `ctkit.report_gaps`; or the choice does not fit the logs any more. What was shown still is.
        """
        if self._gap_report is not None:
            self.state = "loading"
            try:
                found, model, times = self._look(self._gap_report.parameters)
            except BaseException:
                # Ctrl+C too: nothing is on its way any more.
                self._become_stale()
                raise
            self._gap_report.close()
            self._gap_report, self._gaps, self._model, self._times = found, found.gaps, model, times
            self._zoom = {}
        self.choose(self._choice)

    def check(self) -> None:
        """Find out whether a table has changed; if so, the state becomes ``stale``."""
        if self._gap_report is not None and self.state in ("ready", "empty"):
            seen = [None if table is None else table.version() for table in self._tables()]
            now = [None if table is None else table.version() for table in find_tables(self._gap_report.parameters)]
            if seen != now:
                self._become_stale()

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

    @traitlets.validate("axis")
    def _check_axis(self, proposal: dict[str, Any]) -> str:
        axis: str = proposal["value"]
        # Before anything changes: it may be that files cannot be read any more.
        self._times = self._times_of(self._gap_report, self._model, axis)
        return axis

    @traitlets.observe("axis")
    def _turn_axis(self, _: dict[str, Any]) -> None:
        self._show()

    @staticmethod
    def _times_of(report: GapReport | None, model: Lanes, axis: str) -> Mapping[str, Points]:
        if report is None or axis == "index":
            return {}
        return date_lanes(model.lanes, report.main, report.staging, now=time.time_ns() // 1_000_000)

    def _tables(self) -> tuple[Any, Any]:
        assert self._gap_report is not None
        return self._gap_report.main, self._gap_report.staging

    def _look(self, parameters: Parameters) -> tuple[GapReport, Lanes, Mapping[str, Points]]:
        """Return what there is now, if the choice fits it."""
        found = report_gaps(parameters)
        try:
            model = _lanes_of(found)
            model.choose(self._choice)
            times = self._times_of(found, model, self.axis)
        except BaseException:
            found.close()
            raise
        return found, model, times

    def _become_stale(self) -> None:
        self.state, self.note = "stale", _STALE
        self.record()

    def _do(self, content: dict[str, Any]) -> None:
        match content:
            case {"do": "refresh"}:
                self.refresh()
            case {"do": "axis", "axis": axis}:
                self.axis = axis
            case {"do": "save", "path": path, "spec": spec}:
                # What is typed is meant, also if it was not chosen before.
                if spec != self.spec:
                    self.choose(GapChoice.parse(spec))
                self.note = visible(
                    f"saved in {self.save(path).absolute()}; next: ctkit backfill -f {shlex.quote(path)}"
                )
                self.record()
            case {"do": "choose", "spec": spec}:
                self.choose(GapChoice.parse(spec))
            case {"do": "size", "smallest": smallest}:
                self.choose(GapChoice(self._choice.logs, max(int(smallest), 1), self._choice.largest))
            case {"do": "toggle"}:
                self._toggle(self._lane(content).url)
            case {"do": "range"}:
                self._choose_range(self._lane(content), content)
            case {"do": "zoom"}:
                self._zoom_in(self._lane(content), int(content["start"]), int(content["end"]))
            case _:
                raise ParameterError(f"unknown message: {content}")

    def _zoom_in(self, lane: Lane, start: int, end: int) -> None:
        start, end = max(start, lane.start), min(end, lane.end)
        self._zoom[lane.url] = (start, end) if start < end else (lane.start, lane.end)
        # The record has the whole stretch, and stays as it is; so do the other lanes.
        shown = self._lane_shown(lane, self.report, self._ranges())
        self.send({"what": "lane", "lane": shown}, buffers=[shown.pop("levels")])

    def _lane(self, content: dict[str, Any]) -> Lane:
        for lane in self._model.lanes:
            if lane.url == content["url"]:
                return lane
        raise ParameterError(f"{content['url']} is not among the logs any more; choose from those shown")

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
            if not ranges.get(lane.url):
                return  # the lane has no ranges to reset
            ranges[lane.url] = ()
        else:
            start, end = max(int(content["start"]), lane.start), min(int(content["end"]), lane.end)
            if start >= end:
                return  # nothing of the lane; no range at all would be all of it
            known = ranges.get(lane.url, ()) if content.get("add") else ()
            ranges[lane.url] = (*known, (start, end))
        self._choose_logs(ranges)

    def _show(self) -> None:
        """Tell the front end, and the record."""
        report, ranges = self.report, self._ranges()
        self.verdict = report.verdict
        self.failed = [f"{lane.name}: {lane.why}" for lane in self._model.lanes if lane.failed]
        self.lanes = [self._lane_shown(lane, report, ranges) for lane in self._model.lanes]
        # What is chosen of a stale picture leaves it stale.
        if self.state != "stale":
            self.state = "ready" if self._model.missing else "empty"
        self.record()

    def _lane_shown(
        self, lane: Lane, report: ChosenGaps, ranges: Mapping[str, tuple[tuple[int, int | None], ...]]
    ) -> dict[str, Any]:
        start, end = self._zoom.get(lane.url, (lane.start, lane.end))
        bins = lane.bins(start, end, self._chosen.get(lane.url, NOTHING))
        return {
            **report.line_of(lane),
            # Which log it is, as the front end gives it back; it shows the title.
            "url": lane.url,
            "title": f"{lane.name} {visible(lane.url)}",
            "start": lane.start,
            "end": lane.end,
            "from": start,
            "to": end,
            "levels": levels(bins, HEIGHT).tobytes(),
            "beyond": lane.beyond,
            # None where no row tells when its entries came.
            "times": self._times.get(lane.url),
            "chosen": lane.url in ranges,
            "ranges": [[first, lane.end if last is None else last] for first, last in ranges.get(lane.url, ())],
        }


def _lanes_of(report: GapReport) -> Lanes:
    """Return the lanes of a report, with plans that name the numbers that a backfill will."""
    lanes = Lanes.of_report(report)
    lanes.learn_page_sizes()
    return lanes
