"""From parameters to logs, tables and gaps, the same for notebooks and commands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from ctkit.arguments import checked
from ctkit.desk.chosen_logs import NAMED, choose_logs, why_unusable
from ctkit.desk.live import is_alive, leave_to_server
from ctkit.desk.parameters import LogParameter, Parameters
from ctkit.desk.state_file import find_within, read_state
from ctkit.errors import LogError, LogUnavailableError, ParameterError, SchemaMismatchError, TableError
from ctkit.jobs.backfill_report import left_facts, left_tables
from ctkit.lake.coverage import first_and_last
from ctkit.lake.features import Verb
from ctkit.lake.gaps import find_gaps
from ctkit.lake.table import check_as_der, check_features, check_separate, find_table
from ctkit.logs.ask_each import SECONDS_TO_ANSWER, ask_each
from ctkit.logs.auto import AutoLog
from ctkit.logs.log import Log
from ctkit.logs.open import open_log
from ctkit.report import Report
from ctkit.urls import canonical_url
from ctkit.visible import first_of, get_logger

logger = get_logger(__name__)


@dataclass(frozen=True, eq=False, repr=False)
class GapReport(Report):
    """Which entries are missing, of which logs and tables.

    Attributes
    ----------
    parameters
        What was asked for.
    chosen
        The chosen logs that have a ceiling.
    main, staging
        The tables; None for one that does not exist or was not named.
    within
        Canonical URL -> ``[start, end)`` that was searched for gaps; None as start for catch-up. Logs that catch-up
        skips, because neither table has a row of them, are not included.
    gaps
        Columns ``source_url, start, end``, half-open, ascending.
    unavailable
        One error for each chosen log that could not be reached: its gaps are not known.
    left_to_server
        Canonical URL -> ``[start, end)`` above the log's last row in main. It is left to the live server, which is
        running and may hold these entries in memory. `within` ends there.
    """

    parameters: Parameters
    chosen: "ChosenLogs"
    main: DeltaTable | None
    staging: DeltaTable | None
    within: Mapping[str, tuple[int | None, int]]
    gaps: pa.Table
    unavailable: tuple[LogError, ...] = ()
    left_to_server: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    title = "gap report"

    @property
    def logs(self) -> tuple[Log, ...]:
        """The logs of `within`, opened without sending a request; needs `user_agent`."""
        return tuple(log for log in self.chosen.opened if log.url in self.within)

    def summary(self) -> pd.DataFrame:
        """Return a line for each log: the stretch searched, the number of gaps, the number of missing entries."""
        length = pc.subtract(self.gaps["end"], self.gaps["start"])
        totals = self.gaps.append_column("missing", length).group_by("source_url", use_threads=False)
        counts = totals.aggregate([("missing", "count"), ("missing", "sum")])
        found = counts.to_pandas(use_threads=False).set_index("source_url")
        found = found.reindex(list(self.within), fill_value=0)
        return pd.DataFrame(
            {
                "log": list(self.within),
                "from": ["first row" if start is None else str(start) for start, _ in self.within.values()],
                "to": [end for _, end in self.within.values()],
                "gaps": found["missing_count"].to_list(),
                "missing": found["missing_sum"].to_list(),
            }
        )

    def stretches(self) -> dict[str, tuple[int, int]]:
        """Return ``[start, end)`` of each log as `find_gaps` took it, with its first and last row filled in.

        A log without rows is left out if its start depends on one.
        """
        bounds = first_and_last(self.within, self.main, self.staging)
        found = {}
        for url, (start, end) in self.within.items():
            # Without a row, catch-up has no start and internal_only leaves nothing.
            lowest, highest = bounds.get(url, (end, -1))
            start = lowest if start is None else start
            end = min(end, highest + 1) if self.parameters.internal_only else end
            if start < end:
                found[url] = (start, end)
        return found

    def facts(self) -> dict[str, Any]:
        """Return the totals."""
        return {
            "logs": len(self.within),
            "gaps": self.gaps.num_rows,
            "missing": int(self.summary()["missing"].sum()),
            "unavailable": len(self.unavailable),
            **left_facts(self.left_to_server),
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return a line for each log, what was left to the live server, and the logs that could not be reached."""
        found = {"logs": self.summary(), **left_tables(self.left_to_server)}
        if self.unavailable:
            found["not known"] = pd.DataFrame({"why": [str(error) for error in self.unavailable]})
        return found

    @property
    def remark(self) -> str:
        """What was left to the live server, in words; "" if nothing was."""
        if not self.left_to_server:
            return ""
        named = f"logs={len(self.left_to_server)} entries={left_facts(self.left_to_server)['left_to_server']}"
        return f"left to the live server, which is running (internal_only: false fetches it too) {named}"

    def check(self) -> None:
        """Raise unless every chosen log could be reached.

        Raises
        ------
        LogUnavailableError
            Names the logs that could not be reached, and what to do about each.
        """
        if self.unavailable:
            url = self.unavailable[0].url
            named = "; ".join(str(error) for error in self.unavailable).removeprefix(f"{url}: ")
            raise LogUnavailableError(url, f"its gaps are not known: {named}")

    def close(self) -> None:
        """Close the connections to the logs."""
        self.chosen.close()


class ChosenLogs:
    """The logs that parameters name; they are opened at the first need.

    Attributes
    ----------
    failed
        One error for each log that cannot be opened at all.
    urls
        Canonical URLs of the others.
    names
        Canonical URL -> name, of the logs that have one.
    """

    def __init__(self, chosen: Sequence[LogParameter], parameters: Parameters) -> None:
        checked = [(log, why_unusable(log)) for log in chosen]
        self.failed = tuple(error for _, error in checked if error)
        self._chosen, self._parameters = [log for log, error in checked if not error], parameters
        self.urls = [canonical_url(log.url) for log in self._chosen]
        self.names = {canonical_url(log.url): log.name for log in self._chosen if log.name}

    @cached_property
    def opened(self) -> tuple[Log, ...]:
        """The logs of `urls`; opening sends no request."""
        return open_logs(self._chosen, user_agent=self._parameters.need("user_agent"))[0]

    def close(self) -> None:
        """Close the connections of open logs."""
        for log in vars(self).pop("opened", ()):
            log.close()


def open_logs(chosen: Sequence[LogParameter], *, user_agent: str) -> tuple[tuple[Log, ...], tuple[LogError, ...]]:
    """Open logs without sending a request; return them, and an error for each that cannot be opened."""

    def open_one(log: LogParameter) -> Log:
        if error := why_unusable(log):
            raise error

        def open_it() -> Log:
            return open_log(log.url, user_agent=user_agent, protocol=log.protocol, name=log.name, key=log.key)

        if log.protocol == "auto":
            return AutoLog(log.url, user_agent=user_agent, name=log.name, key=log.key, open=open_it)
        return open_it()

    answers = ask_each(open_one, chosen)
    opened = tuple(answer for answer in answers if not isinstance(answer, LogError))
    return opened, tuple(answer for answer in answers if isinstance(answer, LogError))


def find_tables(parameters: Parameters) -> tuple[DeltaTable | None, DeltaTable | None]:
    """Return ``(main, staging)``; None for a table that does not exist, or for staging if it is not named.

    Raises
    ------
    ParameterError
        `main_path` is missing, or the two tables are one, or one lies inside the other.
    TableError
        One of them is not a table of CT entries, or cannot be opened.
    """
    main_path, staging_path = parameters.need("main_path"), parameters.staging_path
    if staging_path is not None:
        check_separate(staging_path, main_path)
    tables = find_table(main_path), None if staging_path is None else find_table(staging_path)
    check_as_der(parameters.as_der, *tables)
    return tables


def find_main(parameters: Parameters) -> DeltaTable:
    """Return the main table.

    Raises
    ------
    ParameterError
        `main_path` is missing.
    TableError
        There is no table, or it cannot be opened.
    """
    main_path = parameters.need("main_path")
    main = find_table(main_path)
    if main is None:
        raise TableError(
            main_path, "there is no table yet; the first merge creates it (ctkit merge), or correct main_path"
        )
    return main


@checked
def report_gaps(parameters: Parameters, *, verb: Verb = "read") -> GapReport:
    """Find the gaps that the parameters ask for; nothing is created or changed.

    Parameters
    ----------
    parameters
        Which tables, logs and indices.
    verb
        ``"append"`` if the gaps are to be filled next: checks that the table can be written to before any log is
        asked.

    Raises
    ------
    ParameterError
        Something is missing or contradictory, or no log has a ceiling.
    SchemaMismatchError
        A table is not one of CT entries, or requires a feature that ctkit lacks.
    TableError
        A table cannot be opened.
    """
    main, staging = find_tables(parameters)
    if verb == "append":
        _check_target(main, staging, parameters)
    if main is None:
        logger.warning("main table does not exist main_path=%s", parameters.main_path)
    by_state = parameters.ceiling == "state"
    state, served = _read_state(parameters, main)
    chosen = choose_logs(parameters)
    logs = ChosenLogs(_with_ceiling(chosen, state, parameters) if by_state else chosen, parameters)
    try:
        silent: tuple[LogError, ...] = ()
        if by_state:
            ceilings = {url: state[url] for url in logs.urls}
        else:
            ceilings, silent = _ask_sizes(logs.opened, parameters.deadline)
        unavailable = (*logs.failed, *silent)
        within = find_within(ceilings, from_index=parameters.from_index, to_index=parameters.to_index)
        left = leave_to_server(within, state, served, staging) if served else {}
        gaps = _find_gaps(parameters, main, staging, within)
        if not within and not unavailable:
            raise ParameterError(
                f"no log has a row in main_path {parameters.main_path}, nor in staging: catch-up has nowhere to start; "
                "check main_path, or give from_index",
                keys=("main_path", "from_index"),
            )
    except BaseException:
        logs.close()
        raise
    left = {url: stretch for url, stretch in left.items() if url in within}
    return GapReport(parameters, logs, main, staging, within, gaps, unavailable, left)


def _read_state(parameters: Parameters, main: DeltaTable | None) -> tuple[dict[str, int], DeltaTable | None]:
    """Return the indices in the state file, if they are needed, and main if the live server is writing to it now."""
    state_file, by_state = parameters.state_file, parameters.ceiling == "state"
    if by_state and state_file is None:
        message = "state_file is missing; give it, or ceiling: log to ask the logs themselves"
        raise ParameterError(message, keys=("state_file",))
    # A running server has created its table before it fetches anything.
    served = main if parameters.internal_only is None and is_alive(state_file) else None
    return (read_state(state_file) if state_file and (by_state or served) else {}), served


def _with_ceiling(
    chosen: Sequence[LogParameter], state: Mapping[str, int], parameters: Parameters
) -> list[LogParameter]:
    """Return the chosen logs that the state file lists; warn of the others, and of logs that only the file lists.

    Raises
    ------
    ParameterError
        It lists none of them.
    """
    by_url = {canonical_url(log.url): log for log in chosen}
    for url in by_url:
        if url not in state:
            logger.warning("log not in state file, skipping (no ceiling reference) url=%s", url)
    others = sorted(state.keys() - by_url.keys())
    if others and parameters.log_filter is None:
        # The live server follows its built-in list where its configuration names none.
        named = first_of(others, NAMED)
        logger.warning("the state file lists logs that no parameter names, skipping count=%d %s", len(others), named)
    found = [log for url, log in by_url.items() if url in state]
    if not found:
        raise ParameterError(
            f"no logs have ceiling values from state file {parameters.state_file}; compare its URLs with those of the "
            "logs, or give ceiling: log",
            keys=("state_file",),
        )
    return found


def _ask_sizes(logs: Sequence[Log], deadline: float | None) -> tuple[dict[str, int], tuple[LogError, ...]]:
    """Return the tree size of each log by its URL, and an error for each log that did not give it in time."""

    def ask(log: Log) -> int:
        return log.get_checkpoint().tree_size

    answers = dict(zip(logs, ask_each(ask, logs, seconds=SECONDS_TO_ANSWER), strict=True))
    # A host that limits its rate (429) is alive: its logs get the time that they need, within the budget.
    waiting = [log for log, size in answers.items() if isinstance(size, LogUnavailableError) and log.pace.limited]
    answers.update(zip(waiting, ask_each(ask, waiting, seconds=deadline), strict=True))
    sizes = {log.url: size for log, size in answers.items() if not isinstance(size, LogError)}
    return sizes, tuple(error for error in answers.values() if isinstance(error, LogError))


def _find_gaps(
    parameters: Parameters,
    main: DeltaTable | None,
    staging: DeltaTable | None,
    within: dict[str, tuple[int | None, int]],
) -> pa.Table:
    """Find the gaps; remove logs without a row from `within` in catch-up."""
    gaps = find_gaps(main, staging, within=within, internal_only=bool(parameters.internal_only))
    with_gaps = set(gaps["source_url"].unique().to_pylist())
    startless = [url for url, (start, _) in within.items() if start is None and url not in with_gaps]
    for url in sorted(set(startless) - first_and_last(startless, main, staging).keys()):
        logger.warning("log has no row in either table, skipping (catch-up) url=%s", url)
        del within[url]
    return gaps


def _check_target(main: DeltaTable | None, staging: DeltaTable | None, parameters: Parameters) -> None:
    """Refuse a table that we cannot write to; warn if staging could not be merged into main."""
    if staging:
        check_features(staging, "append")
    try:
        if main:
            check_features(main, "append")
    except SchemaMismatchError as error:
        if parameters.staging_path is None:
            raise
        logger.warning("staging cannot be merged into main as it is now: %s", error)
