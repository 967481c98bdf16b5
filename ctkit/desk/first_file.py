"""The first parameter file, written with comments from what logs say of themselves."""

import base64
import os
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

from ctkit.desk.chosen_logs import NAMED
from ctkit.desk.parameters import Parameters
from ctkit.desk.survey import LogSurvey, Survey, survey_logs
from ctkit.errors import ParameterError
from ctkit.logs.published_lists import is_downloaded
from ctkit.visible import visible

DEFAULT_LIST = "google"


def write_first_file(path: str | Path, parameters: Parameters) -> Survey:
    """Ask logs how large they are and how fast they grow, and write a parameter file for them.

    Parameters
    ----------
    path
        The file to write.
    parameters
        Which logs, as for `ctkit.desk.survey.survey_logs`; by default those of Google's list. `user_agent` is needed.
        `last` or `since` say where they are to start. By default, single logs start about a day before their end, and
        those of a list at 00:00 UTC of yesterday, one to two days before it.

    Returns
    -------
    Survey
        What the logs said. The file has all of them, also those that did not answer.

    Raises
    ------
    ParameterError
        The file exists, before any log is asked, or cannot be written; or as `survey_logs`.
    LogUnavailableError
        As `survey_logs`; nothing is written.
    """
    path = Path(path)
    if os.path.lexists(path):
        raise ParameterError(f"{path} is there already, and is not overwritten; name another file, or remove it")
    if not path.absolute().parent.is_dir():
        raise ParameterError(f"{path} cannot be written, because its folder does not exist; create the folder")
    if parameters.logs is None and parameters.log_list is None:
        parameters = parameters.model_copy(update={"log_list": DEFAULT_LIST})
    survey = survey_logs(parameters)
    text = _text_of(path, survey, parameters)
    try:
        with path.open("x", encoding="utf-8") as file:
            try:
                file.write(text)
                file.flush()
            except BaseException:
                path.unlink()
                raise
    except OSError as error:
        raise ParameterError(f"{path} cannot be written ({error}); name another file") from error
    return survey


def next_steps(path: str | Path) -> list[str]:
    """Return the commands to type next, each with what it does."""
    file = shlex.quote(str(path))
    steps = {
        f"ctkit gaps -f {file}": "what is missing",
        f"ctkit backfill -f {file} --dry-run": "what it takes to fetch it",
        f"ctkit update -f {file}": "fetch, merge and check it; for every night",
        f"ctkit status -f {file}": "the state of the table, and what to do next",
    }
    width = max(map(len, steps))
    return [f"  {command:{width}}  {about}" for command, about in steps.items()]


def _text_of(path: Path, survey: Survey, parameters: Parameters) -> str:
    now = datetime.now(UTC)
    lines = [
        f"# Written by `ctkit init` on {now:%Y-%m-%d}. The README lists all keys, in its section Parameters.",
        "",
        "main_path: data/main          # the table that you query; paths are relative to this file's folder",
        "staging_path: data/staging    # what a backfill writes to, until it is merged into main",
        "",
        *(_of_list(survey, parameters) if parameters.logs is None else _of_logs(survey, parameters)),
        "",
    ]
    since = parameters.since
    if parameters.last is not None:
        lines.append(
            f"last: {parameters.last}    # a log starts this many entries before its end, when it is first seen"
        )
    elif since is not None or parameters.logs is None:
        yesterday = (now - timedelta(days=1)).date()
        about = "" if since else "; by default yesterday, one to two days ago"
        about = f"a log starts at its first entry of this UTC date or later{about}"
        lines.append(f"since: {since or yesterday}    # {about}")
    lines += [
        "verify: entries    # only entries that are proven to be in the log's tree are written",
        f"user_agent: {_scalar(parameters.need('user_agent'))}    # log operators want to know who reads",
        "",
        "# Next:",
        *(f"# {step}" for step in next_steps(path.name)),
    ]
    return "\n".join(lines) + "\n"


def _of_list(survey: Survey, parameters: Parameters) -> list[str]:
    """Return the lines that name a log list."""
    lines = [f"log_list: {_scalar(_as_seen_from_anywhere(parameters.need('log_list')))}    # the logs follow the list"]
    if parameters.log_list_key is not None:
        lines.append(f"log_list_key: {_scalar(os.path.abspath(parameters.log_list_key))}")
    if parameters.log_filter is not None:
        lines.append(f"log_filter: {_scalar(parameters.log_filter)}")
    lines.append(f"# {len(survey.logs)} logs today:")
    lines += [f"#   {_about(log)}" for log in survey.logs[:NAMED]]
    if len(survey.logs) > NAMED:
        lines.append(f"#   and {len(survey.logs) - NAMED} more")
    return list(map(visible, lines))


def _of_logs(survey: Survey, parameters: Parameters) -> list[str]:
    """Return the lines that name single logs."""
    lines = ["logs:"]
    for log in survey.logs:
        said = log.parameter
        lines += [f"  # {visible(_about(log))}", f"  - url: {_scalar(said.url)}"]
        if said.name is not None:
            lines.append(f"    name: {_scalar(said.name)}")
        lines.append(f"    protocol: {said.protocol}")
        if said.key is not None:
            lines.append(f"    key: {base64.b64encode(said.key).decode()}    # verifies its tree heads")
        else:
            lines.append("    # key: base64, as in a log list; without it, tree heads are not verified")
        if parameters.last is None and parameters.since is None:
            lines.append(_start_of(log))
    return lines


def _start_of(log: LogSurvey) -> str:
    if log.size == 0:
        return "    from: 0    # it has no entries yet"
    if log.last_day is None:
        return "    # last: 1000    # its last day is not known: say how many entries to start with"
    return f"    last: {log.last_day}    # start as many entries before its end as it had on its last day"


def _about(log: LogSurvey) -> str:
    size = "did not answer" if log.size is None else f"{log.size:,} entries"
    growth = "" if log.last_day is None else f", {log.last_day:,} of its last day"
    return f"{log.name}: {size}{growth}"


def _as_seen_from_anywhere(log_list: str) -> str:
    """Return a log list as a file names it that may lie in another folder."""
    return log_list if is_downloaded(log_list) else os.path.abspath(log_list)


def _scalar(value: str) -> str:
    r"""Return a text as a YAML scalar on one line, in quotes if it must be.

    Examples
    --------
    >>> print(_scalar("ctkit, me@example.org"), _scalar("operator: Google"), _scalar("two\nlines"))
    ctkit, me@example.org 'operator: Google' "two\nlines"
    """
    is_plain = visible(value) == value
    text = yaml.safe_dump(value, width=1 << 20, allow_unicode=is_plain, default_style=None if is_plain else '"')
    return text.removesuffix("...\n").rstrip("\n")
