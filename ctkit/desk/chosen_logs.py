"""Which logs parameters name: those given by hand, those of a log list, or both; none of them is asked."""

from collections.abc import Iterable, Sequence
from typing import Any

from ctkit.desk.parameters import LogParameter, Parameters
from ctkit.errors import LogError, LogUnavailableError, ParameterError
from ctkit.logs.log_list import LogDescription, read_log_list, read_public_key
from ctkit.urls import canonical_url, host_of
from ctkit.visible import get_logger
from ctkit.wire.checkpoint import check_public_key

logger = get_logger(__name__)

SHOWN = 20
"""How many logs a message lists."""


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
    return choose_of(parameters, listed_logs(parameters))


def listed_logs(parameters: Parameters) -> list[LogDescription]:
    """Return the logs of the log list, if one is named."""
    if parameters.log_list is None:
        return []
    key = None if parameters.log_list_key is None else read_public_key(parameters.log_list_key)
    # A file is read by nobody who would have to know.
    asks = parameters.log_list.startswith(("http://", "https://"))
    user_agent = parameters.need("user_agent") if asks else ""
    # The live server takes an empty list beside logs of its own.
    return read_log_list(parameters.log_list, user_agent=user_agent, key=key, may_be_empty=bool(parameters.logs))


def choose_of(parameters: Parameters, listed: Sequence[LogDescription]) -> list[LogParameter]:
    """Return what `choose_logs` does, of a log list that is read."""
    by_url = _united(parameters.logs or ())
    of_list: set[str] = set()
    for log in listed:
        if log.url in of_list:
            logger.warning("log is in the log list twice, reading it as it comes first url=%s", log.url)
        of_list.add(log.url)
        # model_construct: whatever URL and key a list gives is the list's business.
        key = log.key or None
        given = LogParameter.model_construct(url=log.url, name=log.name, protocol=log.protocol, key=key)
        first = by_url.setdefault(log.url, given)
        if first.key is None:
            by_url[log.url] = first.model_copy(update={"key": key})
    if not by_url:
        raise ParameterError("no log is named; give logs, log_list or server_config in the parameter file")
    wanted = (parameters.log_filter or "").casefold()
    chosen = [log for url, log in by_url.items() if wanted in url.casefold() or wanted in (log.name or "").casefold()]
    if not chosen:
        known = [f"{log.name or 'no name'} ({url})" for url, log in by_url.items()]
        raise ParameterError(
            f"no logs matched the filter log_filter={parameters.log_filter!r}; there are {first_of(known)}"
        )
    return chosen


def _united(logs: Iterable[LogParameter]) -> dict[str, LogParameter]:
    """Return logs by their canonical URL, with all that is said of each.

    Raises
    ------
    ParameterError
        Different things are said of one.
    """
    by_url: dict[str, LogParameter] = {}
    for log in logs:
        url = canonical_url(log.url)
        if (first := by_url.setdefault(url, log)) is log:
            continue
        logger.warning("log is named twice, reading it once url=%s", url)
        known, said = _said(first), _said(log)
        if different := [key for key in known.keys() & said.keys() if known[key] != said[key]]:
            raise ParameterError(f"{url} is named twice in logs, with another {' and '.join(different)}; name it once")
        by_url[url] = first.model_copy(update=said)
    return by_url


def _said(log: LogParameter) -> dict[str, Any]:
    """Return what is said of a log beside its URL."""
    said = {"name": log.name, "protocol": None if log.protocol == "auto" else log.protocol, "key": log.key}
    return {key: value for key, value in said.items() if value is not None}


def why_unusable(log: LogParameter) -> LogError | None:
    """Return what is wrong with a log whose URL or key cannot be used, which costs that log only.

    Such a log comes from a log list: those of `logs` were checked when read.
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


def first_of(names: Sequence[str]) -> str:
    """Return the first names as text, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
