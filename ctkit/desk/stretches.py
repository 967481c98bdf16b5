"""Which stretch of each log a table keeps complete: the same for gaps, backfill and audit.

A log starts where the table remembers (`ctkit.lake.starts`), else at its first row; where it is to start the first time
is said by parameters. An index that they give is a window for this run, unless it is lower than what is remembered:
then it is remembered from now on. So no start ever moves up.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time

from deltalake import DeltaTable

from ctkit.desk.parameter_files import STARTS
from ctkit.desk.parameters import LogParameter, Parameters
from ctkit.errors import LogError, ParameterError
from ctkit.lake.coverage import first_and_last
from ctkit.lake.starts import Bounds, remembered
from ctkit.logs.ask_each import ask_alive
from ctkit.logs.log import Log
from ctkit.logs.since import first_since
from ctkit.urls import canonical_url
from ctkit.visible import get_logger

logger = get_logger(__name__)

SECONDS_TO_SEARCH = 20.0
"""How long a log is asked for its first entry since a date, which takes some 30 requests; others wait for it.

One that gives entries all the time, only slowly, is then asked again within the deadline.
"""


@dataclass(frozen=True)
class Stretches:
    """Where each log starts and ends.

    Attributes
    ----------
    within
        Canonical URL -> ``[start, end)``, as for `ctkit.find_gaps`: None as start for the log's first row.
    bounds
        What is not remembered yet, and is to be: see `ctkit.backfill`.
    ends
        Canonical URL -> the index to stop before, of logs that are not followed to their ceilings.
    not_begun
        Canonical URL -> start, of logs that have not grown beyond it yet; their stretch is empty.
    undone
        Canonical URL -> why, of logs that start at or above their own end, however much they grow: they have no
        stretch.
    failed
        One error for each log that was to be asked for its first entry since a date, and did not answer.
    """

    within: dict[str, tuple[int | None, int]] = field(default_factory=dict)
    bounds: dict[str, Bounds] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    not_begun: dict[str, int] = field(default_factory=dict)
    undone: dict[str, str] = field(default_factory=dict)
    failed: tuple[LogError, ...] = ()


def find_stretches(
    chosen: Sequence[LogParameter],
    ceilings: Mapping[str, int],
    parameters: Parameters,
    tables: Sequence[DeltaTable | None],
    open_logs: Callable[[], Sequence[Log]] | None = None,
) -> Stretches:
    """Return the stretch of each log that has a ceiling.

    Parameters
    ----------
    chosen
        The logs, with what is said of each.
    ceilings
        The first index that must not be asked for, by canonical URL.
    parameters
        What is said of logs of which nothing is said.
    tables
        Those that may remember, and have rows; None for one that does not exist.
    open_logs
        Called only if a log must be asked for its first entry since a date. None to keep to what has begun: `last` and
        `since` count only where they are remembered.
    """
    known = remembered(ceilings, *tables)
    said = {url: _said(log, parameters) for log in chosen if (url := canonical_url(log.url)) in ceilings}
    if open_logs is None:
        said = {url: replace(log, last=None, since=None) for url, log in said.items()}
    dated = {
        url: moment
        for url, log in said.items()
        if (moment := log.since) is not None and known.get(url, Bounds()).start is None
    }
    firsts, failed = _ask_since(dated, ceilings, open_logs, parameters.deadline) if open_logs and dated else ({}, ())
    rows = first_and_last([url for url, log in said.items() if log.says_anything], *tables)
    found = Stretches(failed=failed)
    for url, log in said.items():
        if url in dated and url not in firsts:
            continue
        ceiling, old = ceilings[url], known.get(url, Bounds())
        lowest, _ = rows.get(url, (None, None))
        asked = firsts.get(url, log.from_index if log.last is None else max(ceiling - log.last, 0))
        start, new_start = _start_of(log.from_index, asked, old.start, lowest)
        end = old.end if log.end is None else log.end
        if start is not None and end is not None and start >= end:
            found.undone[url] = f"starts at {start}, at or above its end {end}; correct last, since, from or to"
            continue
        if end is not None:
            found.ends[url] = end
        end = ceiling if end is None else min(end, ceiling)
        if start is not None and start >= end:
            found.not_begun[url] = start
        found.within[url] = (None if start is None else min(start, end), end)
        is_new = old.start is None and lowest is None
        new_end = log.own_end if old.end is not None or is_new else None
        # A start that the log has not reached is one of a later run: `since` may come to another by then.
        if url not in found.not_begun and (new_start, new_end) != (None, None):
            found.bounds[url] = Bounds(new_start, new_end)
    return found


def why_not_begun(start: int, end: int) -> str:
    """Return why there is nothing to do yet for a log, whose stretch would start at or above its end."""
    if end == 0:
        return "is empty; where it starts is settled by the run that finds its first entries"
    return f"has not grown beyond its start {start:,} yet"


def skip_startless(
    within: dict[str, tuple[int | None, int]], begun: Collection[str], *tables: DeltaTable | None
) -> None:
    """Take logs out of `within` that start at their first row and have none.

    Parameters
    ----------
    begun
        Logs that are known to have a row.
    """
    startless = [url for url, (start, _) in within.items() if start is None and url not in begun]
    for url in sorted({*startless} - first_and_last(startless, *tables).keys()):
        logger.warning("log has no row in either table, skipping (catch-up) url=%s", url)
        del within[url]


def undone_of(
    chosen: Sequence[LogParameter], done: Collection[str], ceilings: Collection[str], parameters: Parameters
) -> dict[str, str]:
    """Return why each log that the parameter `logs` names is not done: its start or its ceiling is not known."""
    named = {canonical_url(log.url) for log in parameters.logs or ()}

    def why(url: str, log: LogParameter) -> str:
        if url not in ceilings:
            return _NO_CEILING
        said = _said(log, parameters)
        return _NO_START if said.last is None and said.since is None else _NOT_BEGUN

    wanted = ((canonical_url(log.url), log) for log in chosen)
    return {url: why(url, log) for url, log in wanted if url in named and url not in done}


_NOT_BEGUN = "is not begun: it has no rows yet; the first update or backfill begins it"
_NO_START = "has no rows yet and no start; give last, since or from"
_NO_CEILING = "is not in the state file, so that nothing says where it ends; compare the URLs, or give ceiling: log"


def no_start(parameters: Parameters) -> ParameterError:
    """Return the error for a run in which no log has a start."""
    return ParameterError(
        f"no log has a row in main_path {parameters.main_path}, nor in staging: catch-up has nowhere to start; "
        "check main_path, or say where the logs start (last, since or from)",
        keys=("main_path", "from_index"),
    )


@dataclass(frozen=True)
class _Said:
    """What parameters say of a log."""

    from_index: int | None
    last: int | None
    since: date | None
    end: int | None
    own_end: int | None

    @property
    def says_anything(self) -> bool:
        return (self.from_index, self.last, self.since, self.own_end) != (None, None, None, None)


def _said(log: LogParameter, parameters: Parameters) -> _Said:
    """Return what is said of a log, or of all that have no start or end of their own."""
    source = log if any(getattr(log, key) is not None for key in STARTS) else parameters
    end = parameters.to_index if log.to_index is None else log.to_index
    return _Said(source.from_index, source.last, source.since, end, log.to_index)


def _start_of(
    index: int | None, asked: int | None, known: int | None, lowest: int | None
) -> tuple[int | None, int | None]:
    """Return where a log starts in this run, None for its first row, and what is to be remembered.

    Parameters
    ----------
    index
        The index that is asked for, if one is.
    asked
        That, or what `last` or `since` come to.
    known
        What is remembered.
    lowest
        The log's first row.
    """
    if index is not None:
        # An index is a window, unless it widens what the table has.
        promised = lowest if known is None else known
        return index, index if promised is None or index < promised else None
    if known is not None:
        return known, None
    if asked is None:
        return None, None
    start = asked if lowest is None else min(asked, lowest)
    return start, start


def _ask_since(
    dated: Mapping[str, date],
    ceilings: Mapping[str, int],
    open_logs: Callable[[], Sequence[Log]],
    deadline: float | None,
) -> tuple[dict[str, int], tuple[LogError, ...]]:
    """Ask logs for their first entry since a date; return its index by URL, and an error for each that fails."""

    def ask(log: Log) -> int:
        moment = datetime.combine(dated[log.url], time(), UTC)
        return first_since(log, int(moment.timestamp() * 1000), ceilings[log.url])

    def is_alive(log: Log) -> bool:
        # One that gives entries, however slowly, is.
        return log.pace.limited or (log.entry_bytes is not None and not log.in_trouble)

    logs = [log for log in open_logs() if log.url in dated]
    seconds = SECONDS_TO_SEARCH if deadline is None else min(SECONDS_TO_SEARCH, deadline)
    answers = ask_alive(ask, logs, seconds=seconds, deadline=deadline, is_alive=is_alive)
    found = {log.url: index for log, index in answers.items() if not isinstance(index, LogError)}
    return found, tuple(answer for answer in answers.values() if isinstance(answer, LogError))
