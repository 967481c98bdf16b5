"""Threads that ask logs, and threads that decode their answers."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from ctkit.logs.asking import may_ask, stopping

T = TypeVar("T")


class Threads:
    """Threads that run calls.

    Unlike those of `concurrent.futures` they do not delay the end of the process, and they take calls even after the
    main thread has ended: a backfill in another thread goes on until it is done.
    """

    def __init__(self, limit: int, name: str, halt: threading.Event, allows: Callable[[], bool]) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._limit, self._name, self._halt, self._allows = limit, name, halt, allows
        self._lock = threading.Lock()

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Let a thread call the function; a new one starts only if all others are busy."""
        future: Future[T] = Future()
        self._calls.put((future, partial(function, *arguments)))
        with self._lock:
            if not self._idle.acquire(blocking=False) and len(self._threads) < self._limit:
                self._threads.append(threading.Thread(target=self._run, name=self._name, daemon=True))
                self._threads[-1].start()
        return future

    def forget(self) -> None:
        """Start afresh in a forked child: the threads stayed with the parent, and one may have held the lock."""
        self._calls, self._threads, self._lock = SimpleQueue(), [], threading.Lock()

    def end(self) -> None:
        """Let the threads end after the calls they have been given; there is no need to wait for them."""
        for _ in self._threads:
            self._calls.put(None)

    def _run(self) -> None:
        stopping.set(self._halt)
        may_ask.set(self._allows)
        for future, call in iter(self._calls.get, None):
            if future.set_running_or_notify_cancel():
                try:
                    finish = partial(future.set_result, call())
                except BaseException as error:
                    finish = partial(future.set_exception, error)
                # Before the result is there: whoever waits for it may have another call at once.
                self._idle.release()
                finish()
                # The result must not stay in memory until the next call.
                del finish
            else:
                self._idle.release()
            del future, call


DECODERS = Threads(os.cpu_count() or 1, "decode", threading.Event(), lambda: True)
"""They decode for all fetches: more of them than processors would only compete for the interpreter's lock, and each
has memory of its own."""

os.register_at_fork(after_in_child=DECODERS.forget)
