"""From parameters to logs, tables and gaps, the same for notebooks and commands."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from ctkit.arguments import checked, named_alike
from ctkit.desk.ceilings import ask_sizes, read_served, with_ceiling
from ctkit.desk.choice import GapChoice
from ctkit.desk.chosen_logs import ChosenLogs, choose_logs
from ctkit.desk.live import leave_to_server
from ctkit.desk.parameters import Parameters
from ctkit.desk.stretches import find_stretches, no_start, skip_startless, undone_of
from ctkit.errors import CtkitError, LogError, LogUnavailableError, ParameterError, SchemaMismatchError, TableError
from ctkit.jobs.backfill_report import left_facts, left_tables
from ctkit.lake.coverage import count_from, find_staged, first_and_last
from ctkit.lake.features import Verb
from ctkit.lake.gaps import find_gaps, ranges_by_log, size_of
from ctkit.lake.starts import Bounds
from ctkit.lake.table import check_as_der, check_features, check_separate, find_table, table_path
from ctkit.logs.log import Log
from ctkit.paths import local_path
from ctkit.ranges import NOTHING, RangeSet
from ctkit.report import Frame, Report, frame_of
from ctkit.urls import canonical_url
from ctkit.visible import get_logger, visible

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
    names
        Canonical URL -> name of all logs that the parameters name; None for one without.
    staged
        Canonical URL -> indices of its stretch that have a row in staging and none in main, of logs with any.
    beyond
        Canonical URL -> number of rows at or above the log's ceiling, of logs with any.
    bounds
        Canonical URL -> start and end that the table is to remember with the first commit (`ctkit.backfill`).
    ends
        Canonical URL -> the index to stop before, of logs that are not followed to their ceilings.
    not_begun
        Canonical URL -> start, of logs that have not grown beyond it yet: there is nothing to do.
    undone
        Canonical URL -> why, of logs that start at or above their own end, and of those of the parameter `logs` that
        have no start or no ceiling.
    unavailable
        One error for each chosen log that could not be reached: its gaps are not known.
    left_to_server
        Canonical URL -> ``[start, end)`` above the log's last row in main. It is left to the live server, which is
        running and may hold these entries in memory. `within` ends there.
    """

    parameters: Parameters
    chosen: ChosenLogs
    main: DeltaTable | None
    staging: DeltaTable | None
    within: Mapping[str, tuple[int | None, int]]
    gaps: pa.Table
    names: Mapping[str, str | None] = field(default_factory=dict)
    staged: Mapping[str, RangeSet] = field(default_factory=dict)
    beyond: Mapping[str, int] = field(default_factory=dict)
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    ends: Mapping[str, int] = field(default_factory=dict)
    not_begun: Mapping[str, int] = field(default_factory=dict)
    undone: Mapping[str, str] = field(default_factory=dict)
    unavailable: tuple[LogError, ...] = ()
    left_to_server: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    title = "gap report"

    @property
    def logs(self) -> tuple[Log, ...]:
        """The logs of `within`, opened without sending a request; needs `user_agent`."""
        return tuple(log for log in self.chosen.opened if log.url in self.within)

    @cached_property
    def missing(self) -> Mapping[str, RangeSet]:
        """The gaps of each log of `within`."""
        return dict.fromkeys(self.within, NOTHING) | ranges_by_log(self.gaps)

    @cached_property
    def wanted(self) -> pa.Table:
        """The gaps that the parameter `choice` leaves, which a backfill fills; all of them without it."""
        return GapChoice.parse(self.parameters.choice or "").apply(self.gaps, self.names)

    def summary(self) -> Frame:
        """Return a line for each log: the stretch searched, the number of gaps, the numbers of missing and staged."""
        import pandas as pd

        return pd.DataFrame(
            {
                "log": list(self.within),
                "from": ["first row" if start is None else str(start) for start, _ in self.within.values()],
                "to": [end for _, end in self.within.values()],
                "gaps": [len(self.missing[url]) for url in self.within],
                "missing": [self.missing[url].size for url in self.within],
                "staged": [self.staged.get(url, NOTHING).size for url in self.within],
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
            "missing": size_of(self.gaps),
            "staged": sum(indices.size for indices in self.staged.values()),
            **({} if self.wanted is self.gaps else {"chosen": size_of(self.wanted)}),
            "unavailable": len(self.unavailable),
            **left_facts(self.left_to_server),
        }

    def tables(self) -> dict[str, Frame]:
        """Return a line for each log, what was left to the live server, and the logs that could not be reached."""
        logs = self.summary().rename(columns={"log": "url"})
        logs.insert(0, "log", [visible(self.names.get(url) or url) for url in logs["url"]])
        found = {"logs": logs[[*logs.columns.drop("url"), "url"]], **left_tables(self.left_to_server)}
        if self.unavailable:
            found["not known"] = frame_of({"why": str(error)} for error in self.unavailable)
        if self.undone:
            found["not done"] = frame_of({"log": url, "why": why} for url, why in self.undone.items())
        return found

    @property
    def remark(self) -> str:
        """What was left to the live server, and which logs have not reached their start, in words; "" if none."""
        said = []
        if self.left_to_server:
            named = f"logs={len(self.left_to_server)} entries={left_facts(self.left_to_server)['left_to_server']}"
            said.append(f"left to the live server, which is running (internal_only: false fetches it too) {named}")
        for url, start in self.not_begun.items():
            said.append(f"log has not grown beyond its start, nothing to do yet url={url} start={start}")
        return "\n".join(said)

    def problems(self) -> list[CtkitError]:
        """Return what `check` finds wrong: an error for the logs that could not be reached, and one for the undone."""
        found: list[CtkitError] = []
        if self.main is None:
            try:
                check_creation(self.parameters)
            except ParameterError as error:
                found.append(error)
        if self.unavailable:
            found.append(LogUnavailableError.of_several(self.unavailable, "its gaps are not known"))
        if self.undone:
            found.append(ParameterError(*(f"{url} {why}" for url, why in self.undone.items()), keys=("logs",)))
        return found

    def check(self) -> None:
        """Raise unless every chosen log could be reached, and none is undone.

        Raises
        ------
        LogUnavailableError
            Names the logs that could not be reached, and what to do about each.
        ParameterError
            Names the logs that are undone, and what to do about each.
        """
        for problem in self.problems():
            raise problem

    def close(self) -> None:
        """Close the connections to the logs."""
        self.chosen.close()


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


@checked
def find_main(parameters: Parameters) -> DeltaTable:
    """Return the main table of some parameters.

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
        if verb == "append":
            check_creation(parameters)
        hint = _named_alike(parameters.need("main_path"))
        logger.warning("main table does not exist main_path=%s%s", parameters.main_path, hint and f" {hint}")
    by_state = parameters.by_state
    state, served = read_served(parameters, main)
    named = choose_logs(parameters, main, staging)
    chosen = named.logs
    names = {canonical_url(log.url): log.name for log in chosen}
    # Before any log is asked.
    GapChoice.parse(parameters.choice or "").resolve(names)
    bounded = with_ceiling(chosen, state, parameters) if by_state else chosen
    logs = ChosenLogs(replace(named, logs=tuple(bounded)), parameters)
    try:
        silent: tuple[LogError, ...] = ()
        if by_state:
            ceilings = {url: state[url] for url in logs.urls}
        else:
            # A log that has come to its end by the list may have fallen silent, too, or may have more all the same.
            final = {url: named.final_heads[url].tree_size for url in logs.urls if url in named.final_heads}
            sizes, silent = ask_sizes(logs.opened, parameters.deadline)
            ceilings = {url: max(final.get(url, 0), sizes.get(url, 0)) for url in (*final, *sizes)}
            silent = tuple(error for error in named.without_gone(silent) if error.url not in final)
        unavailable = (*logs.failed, *silent)
        found = find_stretches(logs.parameters, ceilings, parameters, (main, staging), lambda: logs.opened)
        unavailable, within = (*unavailable, *found.failed), found.within
        left = leave_to_server(within, state, served, staging) if served else {}
        gaps = _find_gaps(parameters, main, staging, within)
        beyond = count_from(ceilings, main, staging)
        if not within and not unavailable and not found.undone:
            raise no_start(parameters)
    except BaseException:
        logs.close()
        raise
    # A log that the server has just begun on is left to it.
    done = {*within, *found.undone, *(error.url for error in unavailable), *(state if served else ())}
    report = GapReport(
        parameters,
        logs,
        main,
        staging,
        within,
        gaps,
        names,
        {},
        beyond,
        found.bounds,
        found.ends,
        found.not_begun,
        found.undone | undone_of(chosen, done, ceilings, parameters),
        unavailable,
        {url: stretch for url, stretch in left.items() if url in within},
    )
    return replace(report, staged=find_staged(report.stretches(), main, staging))


def check_creation(parameters: Parameters) -> None:
    """Refuse to go on without the main table, which is missing, if it was not asked for to create it.

    Raises
    ------
    ParameterError
        `create_main` is False.
    """
    if parameters.create_main is False:
        path = parameters.need("main_path")
        hint = _named_alike(path)
        message = f"there is no main table at {table_path(path)}{hint and f' {hint}'}; correct main_path"
        raise ParameterError(f"{message}, or have one created (--create, or create_main: true)", keys=("main_path",))


def _named_alike(path: str) -> str:
    """Suggest a folder beside a path that does not exist, or say that the one above it does not."""
    wanted = Path(local_path(path)).absolute()
    if not wanted.parent.is_dir():
        return f"(nor does the folder {wanted.parent})"
    # The folder may be there, without a table yet.
    alike = "" if wanted.is_dir() else named_alike(wanted, Path.is_dir)
    return f"({alike})" if alike else ""


def _find_gaps(
    parameters: Parameters,
    main: DeltaTable | None,
    staging: DeltaTable | None,
    within: dict[str, tuple[int | None, int]],
) -> pa.Table:
    """Find the gaps; remove logs without a row from `within` in catch-up."""
    gaps = find_gaps(main, staging, within=within, internal_only=bool(parameters.internal_only))
    with_gaps = set(gaps["source_url"].unique().to_pylist())
    skip_startless(within, with_gaps, main, staging)
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
