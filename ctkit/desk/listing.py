"""The logs of a list, of parameters or of a table: state, size, and how much of each the table has."""

from dataclasses import dataclass
from typing import Any

from ctkit.arguments import checked
from ctkit.desk.ceilings import ask_sizes
from ctkit.desk.chosen_logs import ChosenLogs, choose_of, listed_logs
from ctkit.desk.gap_report import check_creation
from ctkit.desk.parameters import Parameters
from ctkit.desk.state_file import read_state
from ctkit.desk.wording import in_percent
from ctkit.errors import LogError, LogUnavailableError
from ctkit.lake.coverage import find_covered, logs_in, source_names
from ctkit.lake.table import find_table
from ctkit.ranges import END, NOTHING
from ctkit.report import Frame, Report, frame_of
from ctkit.urls import canonical_url


@dataclass(frozen=True)
class ListedLog:
    """What is known of one log.

    Attributes
    ----------
    name, url
        Its name, or its URL if it has none; its URL.
    operator, state
        What the log list says, such as ``"usable"``; "" without one.
    protocol
        ``"rfc6962"``, ``"static-ct"``, or ``"auto"`` if nobody says.
    size
        Its tree size: its own, else that of the state file or of the list; None if it is not known.
    held
        Entries below its ceiling that the table has, as in `ctkit.LogStatus`.
    beyond
        Rows at or above the ceiling.
    first, last
        The lowest and the highest index that the table has; None without any.
    """

    name: str
    url: str
    operator: str
    state: str
    protocol: str
    size: int | None
    held: int
    beyond: int
    first: int | None
    last: int | None

    @property
    def coverage(self) -> float | None:
        """The share of its entries that the table has, in percent; None if its size is not known.

        Rounded down: only what is complete is 100.
        """
        return 1000 * self.held // max(self.size, self.held) / 10 if self.size else None

    def line(self) -> dict[str, Any]:
        """Return the facts under short names, as JSON values; the URL at the end."""
        return {
            "log": self.name,
            "state": self.state,
            "protocol": self.protocol,
            "size": self.size,
            "held": self.held,
            "percent": self.coverage,
            "above": self.beyond,
            "first": self.first,
            "last": self.last,
            "operator": self.operator,
            "url": self.url,
        }


@dataclass(frozen=True, eq=False, repr=False)
class LogListing(Report):
    """The logs of a list, of parameters or of a table.

    Attributes
    ----------
    logs
        By operator and name.
    unavailable
        One error for each log that was asked for its size and did not give it.
    """

    logs: tuple[ListedLog, ...]
    unavailable: tuple[LogError, ...]

    title = "logs"

    def facts(self) -> dict[str, Any]:
        """Return the totals."""
        return {
            "logs": len(self.logs),
            "entries": sum(log.size or 0 for log in self.logs),
            "held": sum(log.held for log in self.logs),
            "unavailable": len(self.unavailable),
        }

    def tables(self) -> dict[str, Frame]:
        """Return a line for each log, and the logs that did not answer."""
        shares = [in_percent(log.held, max(log.size, log.held)) if log.size else None for log in self.logs]
        lines = ({**log.line(), "percent": share} for log, share in zip(self.logs, shares, strict=True))
        table = frame_of(lines)
        if not any(log.beyond for log in self.logs):
            table = table.drop(columns="above", errors="ignore")
        return {
            "logs": table,
            "did not answer": frame_of({"why": str(error)} for error in self.unavailable),
        }

    def check(self) -> None:
        """Raise unless every log that was asked has answered.

        Raises
        ------
        LogUnavailableError
            Names the others.
        """
        if self.unavailable:
            raise LogUnavailableError.of_several(self.unavailable, "its size is not known")

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values, for other programs."""
        unavailable = [{"log": error.url, "why": error.message} for error in self.unavailable]
        return {**self.facts(), "by_log": [log.line() for log in self.logs], "not_known": unavailable}


@checked
def list_logs(parameters: Parameters) -> LogListing:
    """List logs with their state, size and coverage; nothing is created or changed.

    Parameters
    ----------
    parameters
        Which logs: those of `logs` and `log_list` that match `log_filter`, and those of the main table. Coverage is
        told if `main_path` is given. Logs are asked for their sizes if `user_agent` is given; without it, sizes are
        those of the state file, and of the list for logs that have ended.

    Raises
    ------
    ParameterError
        No log is named, or none matches; or there is no main table, and `create_main` is False.
    LogUnavailableError
        The log list is not available.
    TableError
        The main table cannot be read.
    """
    main = None if parameters.main_path is None else find_table(parameters.main_path)
    if main is None and parameters.main_path is not None:
        check_creation(parameters)
    listed = listed_logs(parameters)
    held = logs_in(main)
    names = source_names(main) if held else {}
    choice = choose_of(parameters, listed, held, {url: names.get(url) for url in held})
    described = {log.url: log for log in listed}
    logs = ChosenLogs(choice, parameters)
    try:
        asked, unavailable = ask_sizes(logs.opened, parameters.deadline) if parameters.user_agent else ({}, ())
    finally:
        logs.close()
    state = {} if parameters.state_file is None else read_state(parameters.state_file)
    final = {url: head.tree_size for url, head in choice.final_heads.items()}
    sizes = {**final, **state, **asked}
    ceilings = sizes | state if parameters.by_state else sizes
    covered = find_covered(dict.fromkeys((canonical_url(log.url) for log in choice.logs), (0, END)), main)
    found = []
    for log in choice.logs:
        url = canonical_url(log.url)
        about, indices = described.get(url), covered.get(url, NOTHING)
        below = indices.between(0, ceilings.get(url, END)).size
        found.append(
            ListedLog(
                name=log.name or url,
                url=url,
                operator=(about and about.operator) or "",
                state=(about and about.state) or "",
                protocol=log.protocol,
                size=sizes.get(url),
                held=below,
                beyond=indices.size - below,
                first=int(indices.starts[0]) if len(indices) else None,
                last=int(indices.ends[-1]) - 1 if len(indices) else None,
            )
        )
    return LogListing(
        tuple(sorted(found, key=lambda log: (log.operator, log.name))),
        (*logs.failed, *(error for error in unavailable if error.url not in sizes)),
    )
