"""What was chosen of the gaps: the record of a choice, and the parameter file that carries it to a backfill."""

import base64
import html
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from ctkit.desk.choice import GapChoice
from ctkit.desk.lanes import ABOVE, COLOURS, Lane, Lanes, paint
from ctkit.desk.parameter_files import PATHS
from ctkit.desk.parameters import Parameters
from ctkit.desk.wording import counted, in_time
from ctkit.errors import ParameterError
from ctkit.jobs.plan import LogPlan, Plan
from ctkit.logs.published_lists import PUBLISHED
from ctkit.ranges import NOTHING, RangeSet
from ctkit.report import IGNORED_BY_MATHJAX, Frame, Report, frame_of, to_html

_WIDTH, _HEIGHT = 320, 20
"""Pixels of a bar in the record: they are in the notebook, for up to hundreds of logs."""

SHOWN = 12
"""Lanes that stand open; the others can be opened."""


@dataclass(frozen=True, eq=False, repr=False)
class ChosenGaps(Report):
    """Which of the gaps are chosen, and what it takes to fetch them.

    Attributes
    ----------
    lanes
        The logs.
    choice
        What was chosen of them.
    chosen
        URL -> chosen gaps, of logs with any.
    plan
        What it takes to fetch these; None if the logs are not known.
    """

    lanes: Lanes
    choice: GapChoice
    chosen: Mapping[str, RangeSet]
    plan: Plan | None = None

    title = "gaps chosen"

    @property
    def verdict(self) -> str:
        """One line: what is missing, staged and chosen, and what it takes to fetch that."""
        return self.lanes.verdict(self.chosen, self.plan)

    def facts(self) -> dict[str, Any]:
        """Return the totals, in gaps and in missing entries, and the choice as text."""
        lanes, chosen = self.lanes.lanes, self.chosen.values()
        return {
            "choice": str(self.choice),
            "gaps_chosen": sum(map(len, chosen)),
            "gaps_found": sum(len(lane.missing) for lane in lanes),
            "entries_chosen": sum(ranges.size for ranges in chosen),
            "entries_missing": sum(lane.missing.size for lane in lanes),
        }

    def tables(self) -> dict[str, Frame]:
        """Return a line for each log."""
        return {"logs": frame_of(map(self.line_of, self.lanes.lanes))}

    @cached_property
    def _plans(self) -> dict[str, LogPlan]:
        return {log.source_url: log for log in self.plan.logs} if self.plan else {}

    def line_of(self, lane: Lane) -> dict[str, str]:
        """Return what is to be said of a log."""
        chosen, plan = self.chosen.get(lane.url, NOTHING), self._plans.get(lane.url)
        return {
            "log": lane.name,
            "indices": f"{lane.start:,} to {lane.end:,}" if lane.size else "",
            "state": lane.caption(),
            "entries": f"{chosen.size:,}",
            "requests": "" if plan is None else f"{plan.requests:,}",
            "time": "" if plan is None else in_time(plan.seconds),
        }

    def _repr_html_(self) -> str:
        rows = [self._row_of(lane) for lane in self.lanes.lanes]
        first, more = rows[:SHOWN], rows[SHOWN:]
        failed = [lane for lane in self.lanes.lanes if lane.failed]
        marks = {"above the ceiling": ABOVE} if any(lane.beyond for lane in self.lanes.lanes) else {}
        key = "".join(
            f"<span style='background:{colour};display:inline-block;width:0.8em;height:0.8em;margin:0 0.3em 0 1em'>"
            f"</span>{part}"
            for part, colour in (COLOURS | marks).items()
        )
        parts = [
            f"<p><b>{to_html(self.verdict)}</b></p>",
            "".join(f"<p>{to_html(f'{lane.name}: {lane.why}')}</p>" for lane in failed),
            f"<p>Chosen: <code>{to_html(str(self.choice))}</code>{key}</p>" if rows else "<p>no log to show</p>",
            _table_of(first) if first else "",
        ]
        if more:
            parts.append(f"<details><summary>{counted(len(more), 'more log')}</summary>{_table_of(more)}</details>")
        return f"<div class='ctkit-report {IGNORED_BY_MATHJAX}'>{''.join(parts)}</div>"

    def _row_of(self, lane: Lane) -> str:
        line = {name: to_html(text) for name, text in self.line_of(lane).items()}
        # Of the whole stretch, wherever the analyst has zoomed to.
        bar = ""
        if lane.size:
            bins = lane.bins(lane.start, lane.end, self.chosen.get(lane.url, NOTHING), count=_WIDTH)
            mark = f"border-right:5px solid {ABOVE};" if lane.beyond else ""
            bar = (
                f"<img style='{mark}width:{_WIDTH}px;max-width:none;height:{_HEIGHT}px' "
                f"alt='{html.escape(lane.caption())}' "
                f"src='data:image/png;base64,{_png_of(paint(bins, _HEIGHT))}'>"
            )
        cells = [line["log"], bar, line["indices"], line["state"], line["entries"], line["requests"], line["time"]]
        return "".join(f"<td style='text-align:left'>{cell}</td>" for cell in cells)


_HEADS = ("log", "from start to end", "indices", "state", "entries to fetch", "requests", "time")


def _table_of(rows: list[str]) -> str:
    heads = "".join(f"<th style='text-align:left'>{head}</th>" for head in _HEADS)
    return f"<table><tr>{heads}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _png_of(picture: Any) -> str:
    png = BytesIO()
    Image.fromarray(picture).quantize(len(COLOURS)).save(png, format="png", optimize=True)
    return base64.b64encode(png.getvalue()).decode("ascii")


_WRITTEN = "# Written by ctkit: the parameters of a preview, and what was chosen there.\n"


def save_choice(choice: GapChoice, path: str | Path, parameters: Parameters) -> Path:
    """Write a parameter file that fetches what is chosen: ``ctkit backfill -f FILE``.

    Parameters
    ----------
    choice
        What is chosen.
    path
        The file; one that this function wrote earlier is replaced.
    parameters
        What else the file says; paths are made absolute.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    ParameterError
        The file is there, and not from here; or it cannot be written.
    """
    file = Path(path)
    try:
        if file.exists() and not file.read_text(encoding="utf-8", errors="replace").startswith(_WRITTEN):
            raise ParameterError(f"{file} is there already, and is no choice; name another file", keys=("path",))
        values = _written(parameters) | {"choice": str(choice)}
        file.write_text(_WRITTEN + yaml.safe_dump(values, allow_unicode=True, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise ParameterError(f"{file} cannot be written ({error}); name another file", keys=("path",)) from error
    return file


def _written(parameters: Parameters) -> dict[str, Any]:
    """Return parameters as a file says them."""
    values = parameters.model_dump(exclude_defaults=True, exclude={"logs"})
    for key in PATHS:
        value = values.get(key)
        if value is not None and "://" not in value and (key, value) not in [("log_list", name) for name in PUBLISHED]:
            values[key] = os.path.abspath(value)
    if parameters.since is not None:
        values["since"] = parameters.since.isoformat()
    if parameters.logs is not None:
        values["logs"] = [log.model_dump(by_alias=True, exclude_defaults=True) for log in parameters.logs]
    for log in values.get("logs", ()):
        if "key" in log:
            log["key"] = base64.b64encode(log["key"]).decode("ascii")
        if "since" in log:
            log["since"] = log["since"].isoformat()
    return values
