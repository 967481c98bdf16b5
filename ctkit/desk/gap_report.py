"""What parameters come to: the logs, the tables and the gaps, the same for notebooks and commands."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from ctkit.arguments import checked
from ctkit.desk.chosen_logs import choose_logs, first_of, why_unusable
from ctkit.desk.live import is_alive, leave_to_server
from ctkit.desk.parameters import LogParameter, Parameters
from ctkit.desk.state_file import find_within, read_state
from ctkit.errors import LogError, LogUnavailableError, ParameterError, SchemaMismatchError
from ctkit.jobs.backfill_report import left_facts, left_tables
from ctkit.lake.coverage import first_and_last
from ctkit.lake.features import Verb
from ctkit.lake.gaps import find_gaps
from ctkit.lake.table import check_as_der, check_features, check_separate, find_table
from ctkit.logs.ask_each import SECONDS_TO_ANSWER, ask_each
from ctkit.logs.auto import AutoLog
from ctkit.logs.log import Log, open_log
from ctkit.report import Report
from ctkit.schema import GAP_SCHEMA
from ctkit.urls import canonical_url
from ctkit.visible import get_logger

T = TypeVar("T")

logger = get_logger(__name__)


@dataclass(frozen=True, eq=False, repr=False)
class GapReport(Report):
    """What is there, and what is missing.

    Attributes
    ----------
    parameters
        What was asked.
    chosen
        The chosen logs that have a ceiling.
    main, staging
        The tables; None for one that does not exist, or was not named.
    within
        Canonical URL -> ``[start, end)`` in which gaps were looked for; None as start for catch-up. A log that catch-up
        skips, because neither table has a row of it, is not there.
    gaps
        Columns ``source_url, start, end``, half-open, ascending.
    unavailable
        One error for each chosen log that could not be asked: nothing is known about its gaps.
    left_to_server
        Canonical URL -> ``[start, end)`` above the log's last row in main, which was left to the live server because
        that runs: what it has fetched it may not have written yet. `within` ends there.
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
        """The logs of `within`, opened, which asks none of them; needs `user_agent`."""
        return tuple(log for log in self.chosen.opened if log.url in self.within)

    def summary(self) -> pd.DataFrame:
        """Return a line for each log: where gaps were looked for, how many there are, how many entries they miss."""
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
        """Return ``[start, end)`` of each log with its first and last row filled in, as `find_gaps` took them.

        A log without any row is left out where its start depends on one.
        """
        bounds = first_and_last(self.within, self.main, self.staging)
        found = {}
        for url, (start, end) in self.within.items():
            # Without a row there is no first one to start from, and nothing is internal.
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
        """Return the line of each log, what was left to the live server, and the logs that could not be asked."""
        found = {"logs": self.summary(), **left_tables(self.left_to_server)}
        if self.unavailable:
            found["not known"] = pd.DataFrame({"why": [str(error) for error in self.unavailable]})
        return found

    @property
    def remark(self) -> str:
        """What to say beside the gaps; "" if there is nothing."""
        if not self.left_to_server:
            return ""
        named = f"logs={len(self.left_to_server)} entries={left_facts(self.left_to_server)['left_to_server']}"
        return f"left to the live server, which runs by its state file (internal_only: false fetches it too) {named}"

    def check(self) -> None:
        """Raise unless every chosen log could be asked.

        Raises
        ------
        LogUnavailableError
            Names the logs that could not, and what to do about each.
        """
        if self.unavailable:
            url = self.unavailable[0].url
            named = "; ".join(str(error) for error in self.unavailable).removeprefix(f"{url}: ")
            raise LogUnavailableError(url, f"its gaps are not known: {named}")

    def close(self) -> None:
        """Close the connections to the logs."""
        self.chosen.close()


class ChosenLogs:
    """Logs that parameters name, opened when somebody is to ask them.

    Attributes
    ----------
    failed
        One error for each that cannot be opened at all.
    urls
        The canonical URLs of the others.
    names
        Canonical URL -> what to call the log, of those that have a name.
    """

    def __init__(self, chosen: Sequence[LogParameter], parameters: Parameters) -> None:
        checked = [(log, why_unusable(log)) for log in chosen]
        self.failed = tuple(error for _, error in checked if error)
        self._chosen, self._parameters = [log for log, error in checked if not error], parameters
        self.urls = [canonical_url(log.url) for log in self._chosen]
        self.names = {canonical_url(log.url): log.name for log in self._chosen if log.name}

    @cached_property
    def opened(self) -> tuple[Log, ...]:
        """The others, which have not been asked for anything by that."""
        return open_logs(self._chosen, user_agent=self._parameters.need("user_agent"))[0]

    def close(self) -> None:
        """Close the connections of those that are open."""
        for log in vars(self).pop("opened", ()):
            log.close()


def open_logs(chosen: Sequence[LogParameter], *, user_agent: str) -> tuple[tuple[Log, ...], tuple[LogError, ...]]:
    """Open logs, which asks none of them; return them, and the errors of those that cannot be opened."""

    def open_one(log: LogParameter) -> Log:
        if error := why_unusable(log):
            raise error

        def open_it() -> Log:
            return open_log(log.url, user_agent=user_agent, protocol=log.protocol, name=log.name, key=log.key)

        if log.protocol == "auto":
            return AutoLog(log.url, user_agent=user_agent, name=log.name, key=log.key, open=open_it)
        return open_it()

    return _split(ask_each(open_one, chosen))


def find_tables(parameters: Parameters) -> tuple[DeltaTable | None, DeltaTable | None]:
    """Return ``(main, staging)``; None for a table that does not exist, or is not named (staging only).

    Raises
    ------
    ParameterError
        `main_path` is missing, or one of the two tables is or lies inside the other.
    TableError
        One of them is not a table of ours, or cannot be opened.
    """
    main_path, staging_path = parameters.need("main_path"), parameters.staging_path
    if staging_path is not None:
        check_separate(staging_path, main_path)
    tables = find_table(main_path), None if staging_path is None else find_table(staging_path)
    check_as_der(parameters.as_der, *tables)
    return tables


@checked
def report_gaps(parameters: Parameters, *, verb: Verb = "read") -> GapReport:
    """Find out what the parameters come to; nothing is created or changed.

    Parameters
    ----------
    parameters
        What is asked.
    verb
        ``"append"`` where the gaps are to be filled then: the table to write to is checked for that before any log is
        asked.

    Raises
    ------
    ParameterError
        Something is missing or contradicts itself, or no log is left that has a ceiling.
    SchemaMismatchError
        A table is not one of ours, or demands what we do not do.
    TableError
        A table cannot be opened.
    """
    main, staging = find_tables(parameters)
    if verb == "append":
        _check_target(main, staging, parameters)
    if main is None:
        logger.warning("main table does not exist main_path=%s", parameters.main_path)
    state_file, stretch = parameters.state_file, {"from_index": parameters.from_index, "to_index": parameters.to_index}
    if parameters.ceiling == "state" and state_file is None:
        raise ParameterError("state_file is missing; give it, or ceiling: log to ask the logs themselves")
    # A server that runs has created its table before it fetched anything.
    served = main if parameters.internal_only is None and is_alive(state_file) else None
    state = read_state(state_file) if state_file and (parameters.ceiling == "state" or served) else {}
    chosen = choose_logs(parameters)
    if parameters.ceiling == "state":
        others = sorted(state.keys() - {canonical_url(log.url) for log in chosen})
        if others and parameters.log_filter is None:
            # As where the live server follows its built-in list, which its configuration does not name.
            logger.warning(
                "logs of the state file that nobody named, skipping count=%d %s", len(others), first_of(others)
            )
        within = find_within([canonical_url(log.url) for log in chosen], state, **stretch)
        if not within:
            raise ParameterError(
                f"no logs have ceiling values from state file {state_file}; compare its URLs with those of the logs, "
                "or give ceiling: log"
            )
        chosen = [log for log in chosen if canonical_url(log.url) in within]
    logs = ChosenLogs(chosen, parameters)
    try:
        unavailable = logs.failed
        if parameters.ceiling == "log":
            sizes, silent = _ask_sizes(logs.opened)
            unavailable += silent
            within = find_within(sizes, sizes, **stretch)
        within = {url: within[url] for url in logs.urls if url in within}
        left = leave_to_server(within, state, served, staging) if served else {}
        gaps = _find_gaps(parameters, main, staging, within) if within else GAP_SCHEMA.empty_table()
        left = {url: stretch for url, stretch in left.items() if url in within}
        if not within and not unavailable:
            raise ParameterError(
                f"no log has a row in main_path {parameters.main_path}, nor in staging: catch-up has nowhere to start; "
                "check main_path, or give from_index"
            )
    except BaseException:
        logs.close()
        raise
    return GapReport(parameters, logs, main, staging, within, gaps, unavailable, left)


def _ask_sizes(logs: Sequence[Log]) -> tuple[dict[str, int], tuple[LogError, ...]]:
    """Return the tree size of each log by its URL, and the errors of those that did not give it in time."""

    def ask(log: Log) -> int:
        return log.get_checkpoint().tree_size

    answers = dict(zip(logs, ask_each(ask, logs, seconds=SECONDS_TO_ANSWER), strict=True))
    # A host that counts requests is not dead: whoever is on it waits for a turn.
    waiting = [log for log, size in answers.items() if isinstance(size, LogUnavailableError) and log.pace.limited]
    answers.update(zip(waiting, ask_each(ask, waiting), strict=True))
    sizes = {log.url: size for log, size in answers.items() if not isinstance(size, LogError)}
    return sizes, tuple(error for error in answers.values() if isinstance(error, LogError))


def _find_gaps(
    parameters: Parameters,
    main: DeltaTable | None,
    staging: DeltaTable | None,
    within: dict[str, tuple[int | None, int]],
) -> pa.Table:
    """Find the gaps, and take logs out of `within` that catch-up skips."""
    gaps = find_gaps(main, staging, within=within, internal_only=bool(parameters.internal_only))
    with_gaps = set(gaps["source_url"].unique().to_pylist())
    startless = [url for url, (start, _) in within.items() if start is None and url not in with_gaps]
    for url in sorted(set(startless) - first_and_last(startless, main, staging).keys()):
        logger.warning("log has no row in either table, skipping (catch-up) url=%s", url)
        del within[url]
    return gaps


def _check_target(main: DeltaTable | None, staging: DeltaTable | None, parameters: Parameters) -> None:
    """Refuse a table to write to that demands what we do not do; warn of a main that staging cannot be merged into."""
    if staging:
        check_features(staging, "append")
    try:
        if main:
            check_features(main, "append")
    except SchemaMismatchError as error:
        if parameters.staging_path is None:
            raise
        logger.warning("what is staged cannot be merged as main is now: %s", error)


def _split(answers: Iterable[T | LogError]) -> tuple[tuple[T, ...], tuple[LogError, ...]]:
    good, bad = [], []
    for answer in answers:
        if isinstance(answer, LogError):
            bad.append(answer)
        else:
            good.append(answer)
    return tuple(good), tuple(bad)
