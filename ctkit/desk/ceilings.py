"""Where logs end: at the indices of the live server's state file, or at their own tree sizes."""

from collections.abc import Mapping, Sequence

from deltalake import DeltaTable

from ctkit.desk.chosen_logs import NAMED
from ctkit.desk.live import is_alive
from ctkit.desk.parameters import LogParameter, Parameters
from ctkit.desk.state_file import read_state
from ctkit.errors import LogError, ParameterError
from ctkit.logs.ask_each import SECONDS_TO_ANSWER, ask_alive
from ctkit.logs.log import Log
from ctkit.urls import canonical_url
from ctkit.visible import first_of, get_logger

logger = get_logger(__name__)


def read_served(parameters: Parameters, main: DeltaTable | None) -> tuple[dict[str, int], DeltaTable | None]:
    """Return the indices in the state file, if they are needed, and main if the live server is writing to it now."""
    state_file, by_state = parameters.state_file, parameters.by_state
    if by_state and state_file is None:
        message = "state_file is missing; give it, or ceiling: log to ask the logs themselves"
        raise ParameterError(message, keys=("state_file",))
    # A running server has created its table before it fetches anything.
    served = main if parameters.internal_only is None and is_alive(state_file) else None
    return (read_state(state_file) if state_file and (by_state or served) else {}), served


def with_ceiling(
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


def ask_sizes(logs: Sequence[Log], deadline: float | None) -> tuple[dict[str, int], tuple[LogError, ...]]:
    """Return the tree size of each log by its URL, and an error for each log that did not give it in time."""

    def ask(log: Log) -> int:
        return log.get_checkpoint().tree_size

    answers = ask_alive(ask, logs, seconds=SECONDS_TO_ANSWER, deadline=deadline)
    sizes = {log.url: size for log, size in answers.items() if not isinstance(size, LogError)}
    return sizes, tuple(error for error in answers.values() if isinstance(error, LogError))
