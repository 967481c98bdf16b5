"""Open a log by its URL."""

from dataclasses import replace

from ctkit.arguments import ProtocolChoice, checked
from ctkit.errors import LogError, LogUnavailableError
from ctkit.logs.asking import DEFAULT_PATIENCE, Patience
from ctkit.logs.rfc6962 import Rfc6962Log
from ctkit.logs.static_ct import StaticCtLog
from ctkit.urls import canonical_url


@checked
def open_log(
    url: str,
    *,
    user_agent: str,
    protocol: ProtocolChoice = "auto",
    name: str | None = None,
    key: bytes | str | None = None,
    patience: Patience = DEFAULT_PATIENCE,
) -> Rfc6962Log | StaticCtLog:
    """Open a log for reading.

    Parameters
    ----------
    url
        The log's URL; the monitoring prefix of a Static CT log.
    user_agent
        Who asks: must contain a mail address or a URL where the log's operator can reach you.
    protocol
        ``"auto"`` asks the log: first for a checkpoint, because tiles are the cheaper way to read a log that speaks
        both protocols, then for a signed tree head, and then whether there are tiles all the same. The others ask
        nothing.
    name
        What to store as ``source_name``.
    key
        DER of the log's ``SubjectPublicKeyInfo``, bare or as base64 text as in a log list: every tree head is verified
        with it. None if it is not known.
    patience
        When the log counts as unavailable.

    Returns
    -------
    Rfc6962Log or StaticCtLog
        A `Log`; also a context manager that closes its connections.

    Raises
    ------
    ParameterError
        `user_agent` holds no contact, or another argument is invalid.
    LogUnavailableError
        ``"auto"``, and the log gives no tree head of either protocol.
    """
    logs: dict[str, type[Rfc6962Log | StaticCtLog]] = {"static-ct": StaticCtLog, "rfc6962": Rfc6962Log}
    if protocol in logs:
        return logs[protocol](url, user_agent=user_agent, name=name, key=key, patience=patience)
    reasons = []
    for log_class in logs.values():
        # A host that does not know a protocol may answer anything: do not insist.
        with log_class(url, user_agent=user_agent, patience=replace(patience, tries=min(patience.tries, 2))) as log:
            try:
                log.get_checkpoint()
            except LogError as error:
                reasons.append(error.message.rpartition("; ")[0] or error.message)
                continue
            if isinstance(log, StaticCtLog) and not log.has_tiles():
                log_class = Rfc6962Log
            return log_class(url, user_agent=user_agent, name=name, key=key, patience=patience)
    message = f"gives no tree head of either protocol; check the URL, or run again later: {' | '.join(reasons)}"
    raise LogUnavailableError(canonical_url(url), message)
