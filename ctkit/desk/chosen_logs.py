"""Which logs the parameters name: in `logs`, in a log list, or in both; opened without a request to any of them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

from deltalake import DeltaTable

from ctkit.desk.log_filter import matches
from ctkit.desk.parameters import LogParameter, Parameters
from ctkit.errors import LogError, LogUnavailableError, ParameterError
from ctkit.lake.coverage import logs_in, source_names
from ctkit.lake.starts import remembered
from ctkit.logs.ask_each import ask_each
from ctkit.logs.auto import AutoLog
from ctkit.logs.log import Log
from ctkit.logs.log_list import LogDescription, read_log_list, read_public_key
from ctkit.logs.open import open_log
from ctkit.logs.published_lists import is_downloaded
from ctkit.urls import canonical_url, host_of
from ctkit.visible import first_of, get_logger
from ctkit.wire.checkpoint import Checkpoint
from ctkit.wire.signatures import check_public_key

logger = get_logger(__name__)

NAMED = 20
"""Logs that a message lists."""


@dataclass(frozen=True)
class NamedLogs:
    """The logs that parameters come to.

    Attributes
    ----------
    logs
        Each once.
    begun
        Canonical URLs of the listed ones of which no table has a row yet.
    retired
        Canonical URL -> what the log list says of a log that has rows and comes to its end: ``"readonly"``,
        ``"retired"``, ``"rejected"``, or ``"not listed"``.
    final_heads
        By canonical URL, the last tree head of a log that accepts no more entries, where the list gives it.
    """

    logs: tuple[LogParameter, ...]
    begun: tuple[str, ...] = ()
    retired: Mapping[str, str] = field(default_factory=dict)
    final_heads: Mapping[str, Checkpoint] = field(default_factory=dict)

    def without_gone(self, errors: Iterable[LogError]) -> tuple[LogError, ...]:
        """Return errors without those of retired logs that are gone for good; what the table has of these is kept."""
        found = []
        for error in errors:
            if self.retired.get(error.url, "readonly") == "readonly":
                found.append(error)
            else:
                logger.warning("retired log no longer answers, its rows are kept url=%s reason=%s", error.url, error)
        return tuple(found)


def choose_logs(parameters: Parameters, *tables: DeltaTable | None) -> NamedLogs:
    """Return the logs that the parameters name; no request is sent to any of them.

    Those of `logs` come first, and override a log of `log_list` with the same URL; only a missing key is taken from the
    list. Logs that the list calls retired or rejected are left out, as in the live server, unless a table has rows of
    them: then they are to be finished, and so are logs that the list does not name, if a table remembers their start,
    whatever operator `log_filter` asks for. Name one in `logs` to read it anyway.

    Parameters
    ----------
    parameters
        Which logs.
    tables
        Those whose logs are known; None for one that does not exist.

    Raises
    ------
    ParameterError
        No log is named, or none matches `log_filter`; the message lists the logs that there are.
    """
    if parameters.log_list is None:
        return choose_of(parameters, [])
    listed = listed_logs(parameters)
    urls = {log.url for log in listed}
    held = logs_in(*tables) | remembered(urls, *tables).keys()
    # Others are those of another program, such as the live server.
    kept = remembered(sorted(held - urls), *tables)
    names = source_names(*tables) if kept else {}
    named = choose_of(parameters, listed, held, {url: names.get(url) for url in kept})
    for what, found in (("new", named.begun), ("retired", tuple(named.retired))):
        if held and found:
            logger.info("logs are %s, by the log list count=%d %s", what, len(found), first_of(found, NAMED))
    return named


def listed_logs(parameters: Parameters) -> list[LogDescription]:
    """Return the logs of the log list, in use or not, if a list is named."""
    if parameters.log_list is None:
        return []
    # Only a host needs to know who asks.
    user_agent = parameters.need("user_agent") if is_downloaded(parameters.log_list) else ""
    try:
        key = None if parameters.log_list_key is None else read_public_key(parameters.log_list_key)
        listed = read_log_list(parameters.log_list, user_agent=user_agent, key=key, in_use=False)
    except ParameterError as error:
        raise ParameterError(*error.args, keys=("log_list",)) from error
    # The live server accepts an empty list if its configuration names logs.
    if not parameters.logs and not any(log.in_use for log in listed):
        message = f"log list {parameters.log_list} names {len(listed)} logs, none of them in use: name another"
        raise ParameterError(message, keys=("log_list",))
    return listed


def choose_of(
    parameters: Parameters,
    listed: Sequence[LogDescription],
    held: Collection[str] = (),
    unlisted: Mapping[str, str | None] = MappingProxyType({}),
) -> NamedLogs:
    """Return what `choose_logs` returns, from a log list that has been read.

    Parameters
    ----------
    listed
        The list.
    held
        Canonical URLs of the logs that have rows.
    unlisted
        URL -> name, of those that are not in the list, if there is one.
    """
    by_url = _united(parameters.logs or ())
    named = {*by_url}
    described: dict[str, LogDescription] = {}
    for log in listed:
        if described.setdefault(log.url, log) is not log:
            logger.warning("log is in the log list twice, using its first entry url=%s", log.url)
    for url, log in described.items():
        # model_construct: a bad URL or key in a list costs that log only (`why_unusable`).
        key = log.key or None
        given = LogParameter.model_construct(url=url, name=log.name, protocol=log.protocol, key=key)
        if log.in_use or url in held:
            by_url.setdefault(url, given)
        if url in by_url and by_url[url].key is None:
            by_url[url] = by_url[url].model_copy(update={"key": key})
    for url, name in unlisted.items():
        by_url.setdefault(url, LogParameter.model_construct(url=url, name=name))
    if not by_url:
        message = "no log is named; give logs, log_list or server_config in the parameter file"
        raise ParameterError(message, keys=("logs", "log_list"))
    log_filter = parameters.log_filter
    operators = {url: log.operator for url, log in described.items()}
    # Whose it was, a list that has dropped a log no longer says.
    dropped = unlisted.keys() - described.keys() if described else ()
    chosen = {
        url: log
        for url, log in by_url.items()
        if matches(log_filter, url=url, name=log.name, operator=operators.get(url), anybodys=url in dropped)
    }
    if not chosen:
        known = [f"{log.name or 'no name'} ({url})" for url, log in by_url.items()]
        raise ParameterError(
            f"no logs matched the filter log_filter={log_filter!r}; there are {first_of(known, NAMED)}",
            keys=("log_filter",),
        )
    states = {url: log.state for url, log in described.items()} | dict.fromkeys(unlisted, "not listed")
    return NamedLogs(
        tuple(chosen.values()),
        tuple(url for url in chosen if url in described and url not in held),
        {url: state for url in chosen if url in held and url not in named and (state := states.get(url)) in _ENDS},
        {url: head for url in chosen if url in described and (head := described[url].final_tree_head)},
    )


_ENDS = ("readonly", "retired", "rejected", "not listed")
"""States of a log that takes no more entries, or is gone."""


def _united(logs: Iterable[LogParameter]) -> dict[str, LogParameter]:
    """Return logs by their canonical URL, with everything that is given for each.

    Raises
    ------
    ParameterError
        A log is given twice, with different values.
    """
    by_url: dict[str, LogParameter] = {}
    for number, log in enumerate(logs):
        url = canonical_url(log.url)
        if (first := by_url.setdefault(url, log)) is log:
            continue
        logger.warning("log is named twice, reading it once url=%s", url)
        known, new = _given(first), _given(log)
        if different := sorted(key for key in known.keys() & new.keys() if known[key] != new[key]):
            message = f"{url} is named twice in logs, with a different {' and '.join(different)}; name it once"
            raise ParameterError(message, keys=tuple(f"logs.{number}.{key}" for key in different))
        # Not model_copy(): together they may say too much of where the log starts.
        by_url[url] = LogParameter(url=first.url, **(known | new))
    return by_url


def _given(log: LogParameter) -> dict[str, Any]:
    """Return the values that are given for a log, apart from its URL."""
    values = log.model_dump(by_alias=True, exclude={"url"}, exclude_none=True)
    return {key: value for key, value in values.items() if (key, value) != ("protocol", "auto")}


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
    begun
        URLs of the logs without a row yet.
    retired
        URL -> what the log list says of a log that has rows and comes to its end (`NamedLogs.retired`).
    """

    def __init__(self, named: NamedLogs, parameters: Parameters) -> None:
        checked = [(log, why_unusable(log)) for log in named.logs]
        self.failed = tuple(error for _, error in checked if error)
        self._chosen, self._parameters = [log for log, error in checked if not error], parameters
        self.urls = [canonical_url(log.url) for log in self._chosen]
        self.names = {canonical_url(log.url): log.name for log in self._chosen if log.name}
        self.begun = tuple(url for url in self.urls if url in named.begun)
        self.retired = {url: named.retired[url] for url in self.urls if url in named.retired}

    @property
    def parameters(self) -> Sequence[LogParameter]:
        """What is said of each log of `urls`."""
        return tuple(self._chosen)

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


def why_unusable(log: LogParameter) -> LogError | None:
    """Return what is wrong with the URL or key that a log list gives for a log, if anything is.

    The logs of `logs` were checked when they were read.
    """
    url = canonical_url(log.url)
    try:
        host_of(url)
    except ParameterError as error:
        return LogUnavailableError(url, f"the log list gives a URL that cannot be asked: {error}")
    try:
        if log.key is not None:
            check_public_key(log.key)
    except ValueError as error:
        return LogUnavailableError(url, f"the log list gives a key that cannot be used: {error}")
    return None
