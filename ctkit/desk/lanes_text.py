"""The lanes of gaps on a terminal."""

from collections.abc import Mapping

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ctkit.desk.lanes import ABOVE, COLOURS, Lane, Lanes, levels
from ctkit.desk.wording import in_percent
from ctkit.ranges import NOTHING, RangeSet

HEIGHTS = " ▁▂▃▄▅▆▇█"
"""How much of a column is missing: nothing, or from little to all."""

HELD, STAGED, LEFT_OUT, BEYOND = "─", "░", "▒", "»"
"""Colours alone tell nothing apart: a terminal may have none."""

_NARROWEST = 24
"""Columns of a lane on a terminal of 80; on a wider one it has the rest."""


def draw_lanes(lanes: Lanes, chosen: Mapping[str, RangeSet], *, width: int) -> list[RenderableType]:
    """Return what to print: a line for each log, with a lane, and a key to the signs.

    Parameters
    ----------
    chosen
        URL -> chosen gaps.
    width
        Columns of the terminal.
    """
    columns = max(width - 80, 0) + _NARROWEST
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("log", overflow="fold")
    table.add_column("from start to end", overflow="fold", min_width=columns)
    table.add_column("missing", justify="right", no_wrap=True)
    table.add_column("staged", justify="right", no_wrap=True)
    for lane in lanes.lanes:
        if not lane.size:
            table.add_row(Text(lane.name), Text(lane.why, "red" if lane.failed else "dim"))
            continue
        name = Text.assemble(lane.name, "\n", (f"{lane.start:,} to {lane.end:,}", "dim"))
        missing = f"{lane.missing.size:,}\n{in_percent(lane.missing.size, lane.size)}"
        bar = draw_lane(lane, chosen.get(lane.url, NOTHING), columns)
        table.add_row(name, bar, missing, f"{lane.staged.size:,}" if len(lane.staged) else "")
    signs = {HELD: "held", STAGED: "staged", HEIGHTS[1] + HEIGHTS[4] + HEIGHTS[8]: "missing, from little to all"}
    if any(chosen.get(lane.url, NOTHING).size < lane.missing.size for lane in lanes.lanes):
        signs[LEFT_OUT] = "missing, not all of it chosen"
    if any(lane.beyond for lane in lanes.lanes):
        signs[BEYOND] = "rows above the ceiling"
    key = "  ".join(f"{sign} {meaning}" for sign, meaning in signs.items())
    return [table, "", Text(key, "dim")] if lanes.lanes else []


def draw_lane(lane: Lane, chosen: RangeSet, columns: int) -> Text:
    """Return a lane in that many columns, or fewer for fewer entries; rows above its ceiling have a mark at its end."""
    bins = lane.bins(lane.start, lane.end, chosen, count=columns - bool(lane.beyond))
    drawn = Text()
    for ours, missing, staged in levels(bins, len(HEIGHTS) - 1).T.tolist():
        if missing and ours == missing:
            drawn.append(HEIGHTS[missing], COLOURS["missing"])
        elif missing:
            drawn.append(LEFT_OUT, COLOURS["not chosen"])
        elif staged:
            drawn.append(STAGED, COLOURS["staged"])
        else:
            drawn.append(HELD, COLOURS["held"])
    if lane.beyond:
        drawn.append(BEYOND, ABOVE)
    return drawn
