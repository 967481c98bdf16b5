"""A small world for runbooks: two logs, one of each protocol, a main table with holes, a state file, parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import yaml
from fakes import FakeLog

from ctkit.desk.parameters import Parameters, read_parameters
from ctkit.desk.state_file import write_state
from ctkit.desk.status import LogStatus, StatusReport
from ctkit.desk.update_report import LogUpdate, UpdateReport
from ctkit.jobs.backfill import backfill
from ctkit.lake.table import open_table
from ctkit.logs.open import open_log
from ctkit.schema import GAP_SCHEMA

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SIZE = 600
HOLES = {"rfc6962": [(0, 40), (300, 301), (590, 600)], "static-ct": [(100, 350)]}
MISSING = 301


@dataclass(frozen=True)
class World:
    """Where everything is; paths in `parameters` are relative to `folder`.

    Attributes
    ----------
    folder
        Holds ``main``, ``state.json``, ``demo.yaml`` and, after a backfill, ``staging``.
    logs
        The logs by URL.
    parameters
        What ``demo.yaml`` says.
    """

    folder: Path
    logs: dict[str, FakeLog]
    parameters: dict[str, object]

    @property
    def within(self) -> dict[str, tuple[int, int]]:
        """Everything that the logs hold."""
        return dict.fromkeys(self.logs, (0, SIZE))


def make_world(folder: Path, serve: Callable[[FakeLog], str]) -> World:
    """Build the world in `folder`, with logs that `serve` puts behind a URL."""
    logs, gaps, chosen = {}, [], []
    for protocol, holes in HOLES.items():
        log = FakeLog(f"Small {protocol}", SIZE, protocols=(protocol,))
        url = serve(log)
        logs[url] = log
        chosen.append({"name": log.name, "url": url, "protocol": protocol})
        edges = [0, *(edge for hole in holes for edge in hole), SIZE]
        gaps += [
            {"source_url": url, "start": start, "end": end}
            for start, end in zip(edges[::2], edges[1::2], strict=True)
            if start < end
        ]
    opened = [
        open_log(url, user_agent="test@example.org", protocol=log.protocols[0], name=log.name)
        for url, log in logs.items()
    ]
    backfill(opened, pa.Table.from_pylist(gaps, schema=GAP_SCHEMA), open_table(folder / "main")).check()
    for log in opened:
        log.close()
    write_state(folder / "state.json", dict.fromkeys(logs, SIZE))
    parameters = {
        "main_path": "main",
        "staging_path": "staging",
        "state_file": "state.json",
        "logs": chosen,
        "from_index": 0,
        "internal_only": False,
        "user_agent": "test@example.org",
    }
    (folder / "demo.yaml").write_text(yaml.safe_dump(parameters))
    return World(folder, logs, parameters)


def parameters_of(world: World, **others: object) -> Parameters:
    """Return the world's parameters, with others in their place."""
    return read_parameters(world.folder / "demo.yaml", **others)


def lines_of(report: UpdateReport | StatusReport) -> dict[str, LogUpdate | LogStatus]:
    """Return what a report says of each log."""
    return {log.source_url: log for log in report.logs}
