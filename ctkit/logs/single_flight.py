"""Answers of a log that many threads need, and one of them asks for."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future
from typing import Generic, TypeVar

from ctkit.errors import CheckpointError, LogError, LogProtocolError, LogUnavailableError
from ctkit.logs.http import stopped

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Shared(Generic[K, V]):
    """Answers of one log by key.

    Parameters
    ----------
    url
        The log, for errors.
    limit
        How many answers are kept, those that were used last.
    """

    def __init__(self, url: str, limit: int) -> None:
        self._url = url
        self._limit = limit
        self._lock = threading.Lock()
        self._answers: OrderedDict[K, Future[V]] = OrderedDict()

    def get(self, key: K, ask: Callable[[], V]) -> V:
        """Return the answer under `key`; if there is none yet, the first thread that needs it asks, the others wait.

        Raises
        ------
        LogError
            As `ask` raised it, to all who wait. The next to need the answer asks again.
        """
        while True:
            with self._lock:
                known = self._answers.get(key)
                answer = known or self._answers.setdefault(key, Future())
                self._answers.move_to_end(key)
                if len(self._answers) > self._limit:
                    self._answers.popitem(last=False)
            if known is None:
                self._ask(key, ask, answer)
            try:
                return answer.result()
            except CancelledError:
                continue
            except LogError as error:
                # The error is shared by all who wait, what it costs is not.
                kinds = (kind for kind in (LogProtocolError, CheckpointError) if isinstance(error, kind))
                raise next(kinds, LogUnavailableError)(self._url, error.message) from error

    def _ask(self, key: K, ask: Callable[[], V], answer: "Future[V]") -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:
            with self._lock:
                if self._answers.get(key) is answer:
                    del self._answers[key]
            if not isinstance(error, LogError) or stopped():
                # That says nothing about the log: whoever waits asks again, for as long as it is not stopped.
                answer.cancel()
                raise
            answer.set_exception(error)
