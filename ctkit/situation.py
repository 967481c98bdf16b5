"""What parameters come to: the logs, the tables and the gaps, the same for notebooks and commands."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from ctkit.auditing import audit
from ctkit.backfilling import backfill
from ctkit.checkpoint import check_public_key
from ctkit.coverage import find_covered
from ctkit.errors import LogError, LogUnavailableError, ParameterError, TableError
from ctkit.findings import AuditReport
from ctkit.gap import find_gaps
from ctkit.http import host_of
from ctkit.log import Log, LogDescription, open_log, read_log_list, read_public_key
from ctkit.outcome import BackfillReport, Progress
from ctkit.parameters import LogParameter, Parameters
from ctkit.plan import Plan, plan_backfill
from ctkit.ranges import END
from ctkit.report import Report
from ctkit.schema import GAP_SCHEMA, canonical_url
from ctkit.state import ask_each, find_within, read_state
from ctkit.table import check_separate, find_table, open_table

T = TypeVar("T")

logger = logging.getLogger(__name__)

SHOWN = 20
"""How many logs a message lists."""


@dataclass(frozen=True, eq=False, repr=False)
class Situation(Report):
    """What is there, and what is missing.

    Attributes
    ----------
    parameters
        What was asked.
    logs
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
    """

    parameters: Parameters
    logs: tuple[Log, ...]
    main: DeltaTable | None
    staging: DeltaTable | None
    within: Mapping[str, tuple[int | None, int]]
    gaps: pa.Table
    unavailable: tuple[LogError, ...] = ()

    title = "situation"

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
        bounds = _first_and_last(self.main, self.staging, list(self.within))
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
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the line of each log, and the logs that could not be asked."""
        found = {"logs": self.summary()}
        if self.unavailable:
            found["not known"] = pd.DataFrame({"why": [str(error) for error in self.unavailable]})
        return found

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
        for log in self.logs:
            log.close()


def choose_logs(parameters: Parameters) -> list[LogParameter]:
    """Return the logs that the parameters name, each once, without asking any of them.

    Those of `logs` come first and count where a log of `log_list` has the same URL; only a key that they lack is taken
    from there. Logs that the list calls retired or rejected are left out, as by the live server; name one in `logs` to
    read it all the same.

    Raises
    ------
    ParameterError
        No log is named, or none matches `log_filter`; the message lists what there is.
    """
    return _choose(parameters, _listed(parameters))


def _listed(parameters: Parameters) -> list[LogDescription]:
    """Return the logs of the log list, if one is named."""
    if parameters.log_list is None:
        return []
    key = None if parameters.log_list_key is None else read_public_key(parameters.log_list_key)
    return read_log_list(parameters.log_list, user_agent=parameters.need("user_agent"), key=key)


def _choose(parameters: Parameters, listed: Sequence[LogDescription]) -> list[LogParameter]:
    # model_construct: whatever URL and key a list gives is the list's business.
    named = [
        *(parameters.logs or ()),
        *(
            LogParameter.model_construct(url=log.url, name=log.name, protocol=log.protocol, key=log.key or None)
            for log in listed
        ),
    ]
    by_url: dict[str, LogParameter] = {}
    for log in named:
        first = by_url.setdefault(canonical_url(log.url), log)
        if first.key is None:
            by_url[canonical_url(log.url)] = first.model_copy(update={"key": log.key})
    if not by_url:
        raise ParameterError("no log is named; give logs, log_list or server_config in the parameter file")
    wanted = (parameters.log_filter or "").casefold()
    chosen = [log for url, log in by_url.items() if wanted in url.casefold() or wanted in (log.name or "").casefold()]
    if not chosen:
        known = [f"{log.name or 'no name'} ({url})" for url, log in by_url.items()]
        raise ParameterError(
            f"no logs matched the filter log_filter={parameters.log_filter!r}; there are {_first_of(known)}"
        )
    return chosen


def open_logs(chosen: Sequence[LogParameter], *, user_agent: str) -> tuple[tuple[Log, ...], tuple[LogError, ...]]:
    """Open logs at once; return them, and the errors of those that could not be opened.

    A URL or key that cannot be used costs that log only. It comes from a log list: those of `logs` were checked when
    read.
    """

    def open_one(log: LogParameter) -> Log:
        url = canonical_url(log.url)
        try:
            host_of(url)
        except ParameterError as error:
            raise LogUnavailableError(url, f"the log list gives a URL that cannot be asked: {error}") from error
        try:
            if log.key is not None:
                check_public_key(log.key)
        except ValueError as error:
            raise LogUnavailableError(url, f"the log list gives a key that cannot be used: {error}") from error
        return open_log(log.url, user_agent=user_agent, protocol=log.protocol, name=log.name, key=log.key)

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
    main_path = parameters.need("main_path")
    if parameters.staging_path is None:
        return find_table(main_path), None
    check_separate(parameters.staging_path, main_path)
    return find_table(main_path), find_table(parameters.staging_path)


def find_situation(parameters: Parameters) -> Situation:
    """Find out what the parameters come to; nothing is created or changed.

    Raises
    ------
    ParameterError
        Something is missing or contradicts itself, or no log is left that has a ceiling.
    TableError
        A table is not one of ours, or cannot be opened.
    """
    main, staging = find_tables(parameters)
    if main is None:
        logger.warning("main table does not exist main_path=%s", parameters.main_path)
    stretch = {"from_index": parameters.from_index, "to_index": parameters.to_index}
    if parameters.ceiling == "state":
        if parameters.state_file is None:
            raise ParameterError("state_file is missing; give it, or ceiling: log to ask the logs themselves")
        state = read_state(parameters.state_file)
        chosen = choose_logs(parameters)
        others = sorted(state.keys() - {canonical_url(log.url) for log in chosen})
        if others and parameters.log_filter is None:
            # As where the live server follows its built-in list, which its configuration does not name.
            logger.warning(
                "logs of the state file that nobody named, skipping count=%d %s", len(others), _first_of(others)
            )
        within = find_within([canonical_url(log.url) for log in chosen], state, **stretch)
        if not within:
            raise ParameterError(
                f"no logs have ceiling values from state file {parameters.state_file}; compare its URLs with those of "
                "the logs, or give ceiling: log"
            )
        bounded = [log for log in chosen if canonical_url(log.url) in within]
        logs, unavailable = open_logs(bounded, user_agent=parameters.need("user_agent"))
    else:
        logs, unavailable = open_logs(choose_logs(parameters), user_agent=parameters.need("user_agent"))
        sizes, silent = _split(ask_each(lambda log: (log.url, log.get_checkpoint().tree_size), logs))
        unavailable += silent
        within = find_within([url for url, _ in sizes], dict(sizes), **stretch)
        logs = tuple(log for log in logs if log.url in within)
    within = {log.url: within[log.url] for log in logs}
    gaps = GAP_SCHEMA.empty_table()
    if within:
        gaps = find_gaps(main, staging, within=within, internal_only=parameters.internal_only)
        with_gaps = set(gaps["source_url"].unique().to_pylist())
        startless = [url for url, (start, _) in within.items() if start is None and url not in with_gaps]
        for url in sorted(set(startless) - _first_and_last(main, staging, startless).keys()):
            logger.warning("log has no row in either table, skipping (catch-up) url=%s", url)
            del within[url]
        if not within and not unavailable:
            raise ParameterError(
                f"no log has a row in main_path {parameters.main_path}, nor in staging: catch-up has nowhere to start; "
                "check main_path, or give from_index"
            )
    return Situation(parameters, logs, main, staging, within, gaps, unavailable)


def fill_gaps(
    situation: Situation, gaps: pa.Table | None = None, *, on_progress: Callable[[Progress], None] | None = None
) -> BackfillReport:
    """Backfill into staging, or into main where no staging is named; nothing is created if nothing is missing.

    Parameters
    ----------
    situation
        From `find_situation`.
    gaps
        What to fill, as chosen from the situation's gaps; None for all of them.
    on_progress
        Called after each commit.
    """
    parameters = situation.parameters
    gaps = situation.gaps if gaps is None else gaps
    path = parameters.staging_path or parameters.need("main_path")
    if not gaps.num_rows:
        logger.info("no gaps detected, nothing to backfill")
        table = find_table(path)
        version = None if table is None else table.version()
        return BackfillReport.of_nothing(path, version, parameters.verify)
    table = open_table(path, like=situation.main)
    return backfill(
        situation.logs,
        gaps,
        table,
        main=situation.main,
        seen=parameters.seen,
        verify=parameters.verify,
        max_requests=parameters.max_requests,
        max_entries=parameters.max_entries,
        deadline=parameters.deadline,
        on_progress=on_progress,
    )


def plan_gaps(situation: Situation, gaps: pa.Table | None = None) -> Plan:
    """Tell what `fill_gaps` will ask for; nothing is created or changed.

    A log of which it is not known how many entries a page has is asked for one page.

    Parameters
    ----------
    situation
        From `find_situation`.
    gaps
        What to fill, as chosen from the situation's gaps; None for all of them.
    """
    return plan_backfill(situation.logs, situation.gaps if gaps is None else gaps)


def audit_main(parameters: Parameters) -> AuditReport:
    """Tell how complete the main table is up to the tree head of each log, and what of it is proven.

    With `recheck`, rows are compared with the logs' entries again. Nothing is changed.

    Raises
    ------
    ParameterError
        Something is missing, or no log is named, or one has no entry at `from_index` or after it.
    TableError
        There is no main table, or it cannot be read.
    """
    main_path = parameters.need("main_path")
    main = find_table(main_path)
    if main is None:
        raise TableError(main_path, "there is no table there; name the main table")
    listed = _listed(parameters)
    logs, unavailable = open_logs(_choose(parameters, listed), user_agent=parameters.need("user_agent"))
    try:
        return audit(
            logs,
            main,
            from_index=parameters.from_index or 0,
            to_index=parameters.to_index,
            final_heads={log.url: log.final_tree_head for log in listed if log.final_tree_head},
            unavailable=unavailable,
            recheck=parameters.recheck,
            require_proof=parameters.require_proof,
        )
    finally:
        for log in logs:
            log.close()


def _first_and_last(
    main: DeltaTable | None, staging: DeltaTable | None, urls: Sequence[str]
) -> dict[str, tuple[int, int]]:
    """Return the lowest and the highest index of each log that has a row in either table."""
    covered = find_covered(dict.fromkeys(urls, (0, END)), main, staging)
    return {url: (int(each.starts[0]), int(each.ends[-1]) - 1) for url, each in covered.items() if len(each)}


def _first_of(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _split(answers: Iterable[T | LogError]) -> tuple[tuple[T, ...], tuple[LogError, ...]]:
    good, bad = [], []
    for answer in answers:
        if isinstance(answer, LogError):
            bad.append(answer)
        else:
            good.append(answer)
    return tuple(good), tuple(bad)
