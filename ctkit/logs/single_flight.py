"""Answers of a log that many threads need and only one of them asks for."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future
from typing import Generic, TypeVar

from ctkit.errors import CheckpointError, LogError, LogProtocolError, LogUnavailableError
from ctkit.logs.asking import stopped
from ctkit.wire.checkpoint import UnreadableHeadError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Shared(Generic[K, V]):
    """Answers of one log by key.

    Parameters
    ----------
    limit
        How many answers are kept: those used last.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._answers: OrderedDict[K, Future[V]] = OrderedDict()

    def get(self, key: K, ask: Callable[[], V]) -> V:
        """Return the answer under `key`; if there is none yet, the first thread to need it asks, and others wait.

        Raises
        ------
        LogError
            Whatever `ask` raised, for every thread that waits. The next one to need the answer asks again.
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
                # A new one for each thread that waits: each notes in it which entries it lost.
                kinds = (LogProtocolError, UnreadableHeadError, CheckpointError)
                kind = next((kind for kind in kinds if isinstance(error, kind)), LogUnavailableError)
                raise kind(error.url, error.message) from error

    def _ask(self, key: K, ask: Callable[[], V], answer: "Future[V]") -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:
            with self._lock:
                if self._answers.get(key) is answer:
                    del self._answers[key]
            if not isinstance(error, LogError) or stopped():
                # That says nothing about the log: threads that wait ask again, unless they are stopped too.
                answer.cancel()
                raise
            answer.set_exception(error)
