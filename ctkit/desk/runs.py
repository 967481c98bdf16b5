"""The runs of a folder of records: when, which, how each ended, and what changed since the one before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctkit.arguments import checked
from ctkit.desk.records import Run, read_records
from ctkit.paths import local_path
from ctkit.report import Frame, Report, frame_of

COMPARED = ("logs", "complete", "held", "staged", "missing", "repeated", "proven", "unavailable", "undone", "problems")
"""Facts of reports whose change from one run to the next is told."""


@dataclass(frozen=True, eq=False, repr=False)
class RunsReport(Report):
    """The runs of which a folder has records.

    Attributes
    ----------
    folder
        Where the records are.
    runs
        The newest first.
    unreadable
        Path -> why, of what may be a record and cannot be read.
    others
        Number of notebooks in the folder that are no records.
    """

    folder: str
    runs: tuple[Run, ...]
    unreadable: Mapping[str, str]
    others: int

    title = "runs"

    def facts(self) -> dict[str, Any]:
        """Return how many there are, and how the last one ended."""
        found: dict[str, Any] = {
            "folder": self.folder,
            "runs": len(self.runs),
            **{
                outcome: count
                for outcome in ("complete", "failed", "stopped", "running", "died")
                if (count := sum(run.outcome == outcome for run in self.runs))
            },
            **({"unreadable": len(self.unreadable)} if self.unreadable else {}),
            **({"other_notebooks": self.others} if self.others else {}),
        }
        if self.runs:
            found |= {"last_run": self.runs[0].runbook, "started": self.runs[0].started}
        return found

    def tables(self) -> dict[str, Frame]:
        """Return a line for each run, and what cannot be read."""
        lines = [
            {
                "started": run.started,
                "run": run.runbook,
                "outcome": run.outcome,
                "rows": run.rows,
                "seconds": run.seconds,
                "changed": changed,
                "error": run.error,
            }
            for run, changed in zip(self.runs, self.changes(), strict=True)
        ]
        return {
            "runs": frame_of(lines),
            "not readable": frame_of({"record": name, "why": why} for name, why in self.unreadable.items()),
        }

    def changes(self) -> list[str]:
        """Return, for each run, what changed since the one before of the same runbook or command; "" if nothing did."""
        before: dict[str, Run] = {}
        found = []
        for run in reversed(self.runs):
            found.append(_changed(before[run.runbook], run) if run.runbook in before else "")
            if run.ended is not None:
                before[run.runbook] = run
        return found[::-1]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values, for other programs."""
        return {
            **self.facts(),
            "by_run": [
                {**run.to_json(), "seconds": run.seconds, "changed": changed}
                for run, changed in zip(self.runs, self.changes(), strict=True)
            ],
            "not_readable": [{"record": path, "why": why} for path, why in self.unreadable.items()],
        }


@checked
def find_runs(folder: str | Path = "runs") -> RunsReport:
    """Tell of which runs a folder has records, and what they say; nothing is changed.

    Records are notebooks that ``ctkit run`` executed, and the lines that commands leave in ``runs.jsonl``. Damaged and
    half-written ones are named, and other notebooks are counted.

    Parameters
    ----------
    folder
        Where the records are. One that does not exist has none.

    Examples
    --------
    >>> find_runs("no such folder").facts()
    {'folder': 'no such folder', 'runs': 0}
    """
    folder = local_path(str(folder))
    return RunsReport(folder, *read_records(Path(folder)))


def _changed(before: Run, run: Run) -> str:
    changes: list[tuple[str, object, object]] = []
    if run.outcome != before.outcome and run.ended is not None:
        changes.append(("outcome", before.outcome, run.outcome))
    old, new = _state_of(before.results), _state_of(run.results)
    changes += [(key, old[key], new[key]) for key in COMPARED if key in old and key in new and old[key] != new[key]]
    old, new = dict(before.parameters), dict(run.parameters)
    changes += [(key, old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)]
    return ", ".join(f"{key} {_readable(was)} -> {_readable(now)}" for key, was, now in changes)


def _state_of(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the facts of all reports of a run; the last one that tells a fact counts."""
    return {key: value for result in results for key, value in result.items()}


def _readable(value: object) -> str:
    if value is None:
        return "not given"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
