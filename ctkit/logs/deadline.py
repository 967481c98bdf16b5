"""How long threads wait."""

import threading
import time

POLL = 0.1
"""Seconds between two looks at an event, where a thread waits for something else."""


class Deadline(threading.Event):
    """An event for `ctkit.logs.http.stopping` that is set as soon as another one is, or after some seconds.

    Requests of a thread that has one wait no longer, neither for a connection nor for an answer.
    """

    def __init__(self, seconds: float, stop: threading.Event) -> None:
        super().__init__()
        self._end = time.monotonic() + seconds
        self._stop = stop

    @property
    def left(self) -> float:
        """Seconds until then; never 0, which some libraries take for no limit."""
        return max(self._end - time.monotonic(), 0.001)

    def is_set(self) -> bool:
        """Tell whether it is set, or the time is over."""
        return self._stop.is_set() or time.monotonic() >= self._end

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, or the time is over."""
        self._stop.wait(self.left if timeout is None else min(timeout, self.left))
        return self.is_set()
