"""Which logs the parameters name: in `logs`, in a log list, or in both. No request is sent to any of them."""

from collections.abc import Iterable, Sequence
from typing import Any

from ctkit.desk.log_filter import matches
from ctkit.desk.parameters import LogParameter, Parameters
from ctkit.errors import LogError, LogUnavailableError, ParameterError
from ctkit.logs.log_list import LogDescription, read_log_list, read_public_key
from ctkit.logs.published_lists import is_downloaded
from ctkit.urls import canonical_url, host_of
from ctkit.visible import first_of, get_logger
from ctkit.wire.signatures import check_public_key

logger = get_logger(__name__)

NAMED = 20
"""Logs that a message lists."""


def choose_logs(parameters: Parameters) -> list[LogParameter]:
    """Return the logs that the parameters name, each once; no request is sent to any of them.

    Those of `logs` come first, and override a log of `log_list` with the same URL; only a missing key is taken from the
    list. Logs that the list calls retired or rejected are left out, as in the live server; name one in `logs` to read
    it anyway.

    Raises
    ------
    ParameterError
        No log is named, or none matches `log_filter`; the message lists the logs that there are.
    """
    return choose_of(parameters, listed_logs(parameters))


def listed_logs(parameters: Parameters) -> list[LogDescription]:
    """Return the logs of the log list that are in use, if a list is named."""
    if parameters.log_list is None:
        return []
    key = None if parameters.log_list_key is None else read_public_key(parameters.log_list_key)
    # Only a host needs to know who asks.
    user_agent = parameters.need("user_agent") if is_downloaded(parameters.log_list) else ""
    # The live server accepts an empty list if its configuration names logs.
    listed = read_log_list(parameters.log_list, user_agent=user_agent, key=key, in_use=not parameters.logs)
    return [log for log in listed if log.in_use]


def choose_of(parameters: Parameters, listed: Sequence[LogDescription]) -> list[LogParameter]:
    """Return what `choose_logs` returns, from a log list that has been read."""
    by_url = _united(parameters.logs or ())
    operators: dict[str, str | None] = {}
    for log in listed:
        if log.url in operators:
            logger.warning("log is in the log list twice, using its first entry url=%s", log.url)
        operators.setdefault(log.url, log.operator)
        # model_construct: a bad URL or key in a list costs that log only (`why_unusable`).
        key = log.key or None
        given = LogParameter.model_construct(url=log.url, name=log.name, protocol=log.protocol, key=key)
        first = by_url.setdefault(log.url, given)
        if first.key is None:
            by_url[log.url] = first.model_copy(update={"key": key})
    if not by_url:
        message = "no log is named; give logs, log_list or server_config in the parameter file"
        raise ParameterError(message, keys=("logs", "log_list"))
    log_filter = parameters.log_filter
    chosen = [
        log for url, log in by_url.items() if matches(log_filter, url=url, name=log.name, operator=operators.get(url))
    ]
    if not chosen:
        known = [f"{log.name or 'no name'} ({url})" for url, log in by_url.items()]
        raise ParameterError(
            f"no logs matched the filter log_filter={log_filter!r}; there are {first_of(known, NAMED)}",
            keys=("log_filter",),
        )
    return chosen


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
