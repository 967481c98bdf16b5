"""A record of each run of a command, so that `ctkit status` and `ctkit runs` know of it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from ctkit.desk.parameters import Parameters
from ctkit.desk.records import Outcome, Run, append_run, as_utc
from ctkit.desk.secrets import is_secret, without_logins
from ctkit.errors import CtkitError, ParameterError
from ctkit.report import Report
from ctkit.visible import get_logger

logger = get_logger(__name__)


@contextmanager
def recording(command: str, parameters: Parameters) -> Iterator[list[Report]]:
    """Append a line to the records when the context ends, however it ends; yield a list for the run's reports.

    Without a parameter file nothing is recorded, unless `runs_path` is given; nor is a run that ends with a
    `ParameterError`, before it has done anything. A folder that cannot be written is a log line, and no reason to fail.
    """
    began = datetime.now(UTC)
    reports: list[Report] = []
    outcome: Outcome = "failed"
    problem, refused = "", False
    try:
        yield reports
        outcome = "complete"
    except KeyboardInterrupt:
        outcome = "stopped"
        raise
    except BaseException as error:
        refused = isinstance(error, ParameterError)
        problem = str(error) if isinstance(error, CtkitError) else f"{type(error).__name__}: {error}"
        raise
    finally:
        if parameters.runs_path is not None and not refused:
            run = Run(
                command,
                as_utc(began),
                as_utc(datetime.now(UTC)),
                outcome,
                max((report.exit_code for report in reports), default=0) if outcome == "complete" else 1,
                error=without_logins(problem),
                parameters=_given(parameters),
                results=tuple({"title": report.title, **_shareable(report.facts())} for report in reports),
            )
            try:
                append_run(parameters.runs, run, keep=parameters.keep_runs)
            except OSError as error:
                logger.warning("the run is not recorded runs_path=%s error=%s", parameters.runs, error)


def _given(parameters: Parameters) -> dict[str, object]:
    """Return what was given as JSON values, without what looks like a secret."""
    # Keys of logs are bytes.
    given = parameters.model_dump(exclude_defaults=True, by_alias=True)
    values = {key: json.loads(json.dumps(value, default=str)) for key, value in given.items() if key != "runs_path"}
    return {key: value for key, value in values.items() if not is_secret(key, value)}


def _shareable(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: without_logins(value) if isinstance(value, str) else value for name, value in facts.items()}
