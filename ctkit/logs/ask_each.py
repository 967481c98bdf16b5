"""Many logs asked at once."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from ctkit.errors import LogError, LogUnavailableError
from ctkit.logs.asking import stopping
from ctkit.logs.deadline import Deadline
from ctkit.logs.log import Log
from ctkit.visible import get_logger

T = TypeVar("T")
R = TypeVar("R")

logger = get_logger(__name__)

AT_ONCE = 16
"""Logs asked at the same time; a log list names about a hundred."""

SECONDS_TO_ANSWER = 4.0
"""A plan waits no longer for a log, and makes do with what is known of it."""


def ask_each(ask: Callable[[T], R], targets: Sequence[T], *, seconds: float | None = None) -> list[R | LogError]:
    """Ask all logs at once; return the answers in the order of `targets`, an error where a log failed.

    An interrupt ends all waits for answers, and so do the `seconds` that each log has. Without `seconds`, a line says
    for how many logs the run still waits.
    """
    stop = threading.Event()

    def answer(target: T) -> R | LogError:
        stopping.set(stop if seconds is None else Deadline(seconds, stop))
        try:
            return ask(target)
        except LogError as error:
            return error

    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            asked = [pool.submit(answer, target) for target in targets]
            if seconds is None and (awaited := wait(asked, SECONDS_TO_ANSWER).not_done):
                logger.info("waiting for logs that have not answered yet logs=%d of=%d", len(awaited), len(asked))
            return [answered.result() for answered in asked]
        finally:
            stop.set()


def _is_limited(log: Log) -> bool:
    """Return whether a log's host limits its rate (429)."""
    return log.pace.limited


def ask_alive(
    ask: Callable[[Log], R],
    logs: Sequence[Log],
    *,
    seconds: float,
    deadline: float | None,
    is_alive: Callable[[Log], bool] = _is_limited,
) -> dict[Log, R | LogError]:
    """Ask all logs at once for so many seconds, so that one that fails or hangs delays no other for longer.

    Those that are alive and could not answer in time then get the time that they need, within the `deadline`: of a
    host that limits its rate (429), or as `is_alive` says.
    """
    answers = dict(zip(logs, ask_each(ask, logs, seconds=seconds), strict=True))
    waiting = [log for log, answer in answers.items() if isinstance(answer, LogUnavailableError) and is_alive(log)]
    return answers | dict(zip(waiting, ask_each(ask, waiting, seconds=deadline), strict=True))
