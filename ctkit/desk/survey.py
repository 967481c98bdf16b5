"""Which logs there are, how large they are, how fast they grow, and what their entries would take."""

from dataclasses import dataclass, replace
from typing import Any

from ctkit.desk.chosen_logs import ChosenLogs, choose_of, listed_logs
from ctkit.desk.parameters import LogParameter, Parameters
from ctkit.desk.wording import in_bytes
from ctkit.errors import LogError, LogUnavailableError, ParameterError
from ctkit.jobs.plan import LogPlan, plan_ranges
from ctkit.logs.ask_each import SECONDS_TO_ANSWER, ask_each
from ctkit.logs.growth import Growth, measure_growth
from ctkit.logs.log import Log
from ctkit.logs.log_list import LogDescription
from ctkit.ranges import RangeSet
from ctkit.report import Frame, Report, frame_of
from ctkit.urls import canonical_url
from ctkit.wire.checkpoint import Checkpoint

ROW_BYTES = 860
"""Bytes of a row on the disk, as measured with entries of real size."""

SECONDS_TO_SAMPLE = 30.0
"""How long the samples of a log may take."""


@dataclass(frozen=True)
class LogSurvey:
    """What one log has, and what that would take; only its name is known if it did not answer.

    Attributes
    ----------
    parameter
        How a parameter file names it, with its protocol.
    size
        Its tree size; None if it did not answer.
    growth
        None if it gave no entries to measure it from.
    day, whole
        What it takes to fetch its last day, and all of it; None for nothing, or if that is not known.
    """

    parameter: LogParameter
    size: int | None = None
    growth: Growth | None = None
    day: LogPlan | None = None
    whole: LogPlan | None = None

    @property
    def name(self) -> str:
        """Its name, or else its URL."""
        return self.parameter.name or self.parameter.url

    @property
    def last_day(self) -> int | None:
        """Entries of its last day; None if that is not known."""
        return None if self.growth is None else min(self.size or 0, self.growth.last_day)


@dataclass(frozen=True, eq=False, repr=False)
class Survey(Report):
    """What the chosen logs have, and what that would take.

    Attributes
    ----------
    logs
        The chosen logs.
    unavailable
        One error for each log that did not answer.
    """

    logs: tuple[LogSurvey, ...]
    unavailable: tuple[LogError, ...]

    title = "survey"

    def facts(self) -> dict[str, Any]:
        """Return the totals."""
        return {
            "logs": len(self.logs),
            "entries": sum(log.size or 0 for log in self.logs),
            "entries_of_last_day": sum(log.last_day or 0 for log in self.logs),
            "unavailable": len(self.unavailable),
        }

    def tables(self) -> dict[str, Frame]:
        """Return a line for each log, with what its last day and all of it would take, and the logs without an answer.

        Hours are those of a log alone; logs of one host share its pace.
        """
        found = {"logs": frame_of(_line_of(log) for log in self.logs if log.size is not None)}
        if self.unavailable:
            found["did not answer"] = frame_of({"why": str(error)} for error in self.unavailable)
        return found

    @property
    def remark(self) -> str:
        """What was measured, and what was assumed, in words."""
        assumed = {name for log in self.logs if log.whole for name in log.whole.assumed}
        words = [f"{ROW_BYTES} bytes a row on disk"]
        words += [_ASSUMED[name] for name in _ASSUMED if name in assumed]
        return (
            "Measured: tree sizes, and entries a day from the timestamps of a few entries. "
            f"Assumed: {', '.join(words)}."
        )

    def check(self) -> None:
        """Raise unless every log answered.

        Raises
        ------
        LogUnavailableError
            Names the others.
        """
        if self.unavailable:
            raise LogUnavailableError.of_several(self.unavailable, "its size is not known")


# The names that `ctkit.jobs.plan.LogPlan.assumed` has.
_ASSUMED = {
    "page size": "the page size of some logs",
    "bytes of an entry": "the bytes of an entry of some logs",
    "rate": "hosts that limit no rate",
    "latency": "the latency of some hosts",
    "bandwidth": "10 MB a second from some hosts",
}


def survey_logs(parameters: Parameters) -> Survey:
    """Ask logs how large they are and how fast they grow; nothing is created or changed.

    Parameters
    ----------
    parameters
        Which logs: those of `logs`, whose names, protocols and keys are taken from `log_list` if that is given, too; or
        else those of `log_list` that match `log_filter`. `user_agent` is needed.

    Raises
    ------
    ParameterError
        `user_agent` is missing, or there are no such logs, or none of `logs` matches `log_filter`.
    LogUnavailableError
        The log list is not available, or no log has answered.
    """
    parameters.need("user_agent")
    listed = listed_logs(parameters)
    choice = choose_of(parameters, listed)
    by_url = {canonical_url(log.url): log for log in choice.logs}
    if parameters.logs is not None:
        named = {canonical_url(log.url) for log in parameters.logs}
        known = {log.url: log for log in listed}
        by_url = {url: _described(log, known.get(url)) for url, log in by_url.items() if url in named}
        if not by_url:
            message = f"none of logs matches the filter log_filter={parameters.log_filter!r}; leave out one of the two"
            raise ParameterError(message, keys=("logs", "log_filter"))
    logs = ChosenLogs(replace(choice, logs=tuple(by_url.values())), parameters)
    try:
        heads = dict(
            zip(logs.opened, ask_each(Log.get_checkpoint, logs.opened, seconds=SECONDS_TO_ANSWER), strict=True)
        )
        answered = [(log, head) for log, head in heads.items() if isinstance(head, Checkpoint)]
        unavailable = (*logs.failed, *(error for error in heads.values() if isinstance(error, LogError)))
        if not answered:
            raise LogUnavailableError.of_several(unavailable, "no log has answered")
        growths = ask_each(_sample, answered, seconds=SECONDS_TO_SAMPLE)
        found = {
            log.url: _survey(by_url[log.url], log, head.tree_size, growth)
            for (log, head), growth in zip(answered, growths, strict=True)
        }
    finally:
        logs.close()
    return Survey(tuple(found.get(url, LogSurvey(log)) for url, log in by_url.items()), unavailable)


def _described(log: LogParameter, listed: LogDescription | None) -> LogParameter:
    """Return a log with the name and the protocol that the list gives, where it has none of its own."""
    if listed is None:
        return log
    protocol = listed.protocol if log.protocol == "auto" else log.protocol
    return log.model_copy(update={"name": log.name or listed.name, "protocol": protocol})


def _sample(asked: tuple[Log, Checkpoint]) -> Growth:
    log, head = asked
    growth = measure_growth(log, head)
    log.learn_page_size()
    return growth


def _survey(parameter: LogParameter, log: Log, size: int, growth: Growth | LogError) -> LogSurvey:
    known = None if isinstance(growth, LogError) else growth
    first = None if known is None else max(0, size - known.last_day)
    day, whole = (_plan(log, start, size) for start in (first, 0))
    return LogSurvey(parameter.model_copy(update={"protocol": log.protocol}), size, known, day, whole)


def _plan(log: Log, start: int | None, end: int) -> LogPlan | None:
    if start is None or start >= end:
        return None
    (plan,) = plan_ranges({log.url: log}, {log.url: RangeSet.of((start, end))}).logs
    return plan


def _line_of(log: LogSurvey) -> dict[str, str]:
    line = {
        "log": log.name,
        "entries": f"{log.size:,}",
        "a day": "?" if log.last_day is None else f"{log.last_day:,}",
    }
    for heading, plan in (("day", log.day), ("all", log.whole)):
        line[f"{heading}: disk"] = "?" if plan is None else in_bytes(plan.wanted * ROW_BYTES)
        line[f"{heading}: requests"] = "?" if plan is None else f"{plan.requests:,}"
        line[f"{heading}: hours"] = "?" if plan is None else f"{plan.seconds / 3600:,.1f}"
    return line
