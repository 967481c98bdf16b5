"""Ranges of one log become a stream of decoded entries, in order, with holes named."""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from ctkit.errors import LogError, LogProtocolError, LogUnavailableError
from ctkit.logs.http import NotAskedError, may_ask, stopping
from ctkit.logs.log import Log
from ctkit.ranges import END, RangeSet
from ctkit.wire.entries import EntryBlock

T = TypeVar("T")

_Page: TypeAlias = tuple[list[T | LogError], bool, RangeSet]
"""What came of one page, whether the log answered for any of it, and what was left when no more could be asked for."""

_STRIKES = 3
"""So many pages in a row without any answer, and the log is asked for entries further on; if in vain, it is left."""

_POLL = 0.1
"""Seconds between two looks at `stop`."""

_GRACE = 2.0
"""Seconds that requests under way have to end when the fetching is stopped; their waits end at once."""


def fetch_blocks(
    log: Log,
    wanted: RangeSet,
    *,
    workers: int = 32,
    ahead: Callable[[], int] | None = None,
    allowed: Callable[[], bool] | None = None,
    whole: bool = False,
    stop: threading.Event,
    decode: Callable[[EntryBlock, NDArray[np.bool_]], T],
) -> Generator[T | LogError, None, RangeSet]:
    """Fetch entries page by page, several pages at a time.

    Each page that holds a wanted index is asked for once, however many gaps it has; what was not wanted is dropped.

    Parameters
    ----------
    log
        Where to fetch from.
    wanted
        The indices to fetch.
    workers
        Pages to work on at a time, at the most; how many requests are under way is for the host's pace to say.
    ahead
        How many pages may be under way or wait to be taken, asked anew before each; at least one always may. Who
        fetches from many logs at once bounds their memory by it. Twice `workers` by default.
    allowed
        Asked before each request for entries, in worker threads. Once it says no, the iterator ends with what the
        requests under way bring; any number is allowed by default.
    whole
        Ask for what `ctkit.logs.log.Log.provable` says, which takes no more requests.
    stop
        When set, no new request starts, waits end, and the iterator ends with what has arrived.
    decode
        Makes the result of a block of consecutive entries, of which those are wanted that the array (bool[n]) says;
        called in worker threads.

    Yields
    ------
    T
        What `decode` made, in the order of the indices.
    LogError
        In the place of entries that cannot be had, as the log raised it: ``[start, end)`` runs from the first to the
        last wanted index that is missing, with nothing between them that could be had. What follows is fetched all
        the same, unless the log answers for no page any more, here or further on: then one `LogUnavailableError`
        stands for all the rest.

    Returns
    -------
    RangeSet
        What is in no block and no error, because of `allowed` or `stop`: another call can fetch it.
    """
    halt, spent = threading.Event(), threading.Event()

    def allows() -> bool:
        if allowed is None or allowed():
            return True
        spent.set()
        return False

    requests = wanted.pages(lambda: log.page_size)
    planned = strikes = 0
    pages: deque[tuple[RangeSet, Future[_Page[T]]]] = deque()
    left: list[RangeSet] = []
    reader = _PageReader(log, decode, whole, lambda: stop.is_set() or halt.is_set())
    threads = _Threads(workers, f"fetch {log.url}", halt, allows)

    def read_ahead() -> int:
        if spent.is_set():
            return 0
        # A log that just failed is asked for one page at a time until it answers.
        if strikes:
            return int(strikes < _STRIKES)
        return max(ahead(), 1) if ahead else 2 * workers

    try:
        while not stop.is_set():
            while len(pages) < read_ahead() and not stop.is_set() and (page := next(requests, None)):
                missing = wanted.between(page.start, page.end)
                pages.append((missing, threads.submit(reader.read, missing)))
                planned = page.end
            if pages:
                if not _come([pages[0][1]], stop):
                    break
                results, answered, unread = pages.popleft()[1].result()
                strikes = 0 if answered else strikes + 1
                if len(unread):
                    left.append(unread)
                yield from results
            elif spent.is_set():
                break
            else:
                rest = wanted.between(planned, END)
                if not len(rest):
                    return RangeSet.joined(left)
                probes = [threads.submit(reader.has, index) for index in _spread(rest, log.page_size)]
                if not _come(probes, stop):
                    break
                if not any(probe.result() for probe in probes) and not spent.is_set():
                    message = f"not asked for, because {strikes} pages in a row had no answer, nor any further on"
                    first, last = int(rest.starts[0]), int(rest.ends[-1])
                    yield LogUnavailableError(log.url, f"{message}; run again later", start=first, end=last)
                    return RangeSet.joined(left)
                strikes = 0
        halt.set()
        # An answer that has come is not thrown away.
        done, _ = wait([reading for _, reading in pages if not reading.cancel()], timeout=_GRACE)
        for missing, reading in pages:
            results, _, unread = reading.result() if reading in done else ([], False, missing)
            left.append(unread)
            yield from results
        return RangeSet.joined([*left, wanted.between(planned, END)])
    finally:
        halt.set()
        threads.end()


def ask(log: Log, question: Callable[[], T], stop: threading.Event) -> T:
    """Return what the log answers to a question; leave it alone as soon as `stop` is set.

    Raises
    ------
    LogUnavailableError
        `stop` was set first.
    """
    threads = _Threads(1, f"ask {log.url}", stop, lambda: True)
    try:
        answer = threads.submit(question)
        if _come([answer], stop) or answer.done():
            return answer.result()
        raise unanswered(log)
    finally:
        threads.end()


def unanswered(log: Log) -> LogUnavailableError:
    """Return the error of a log that was asked, and has not answered, when the run was stopped."""
    message = "the log was asked, and had not answered when the run was stopped; run again later"
    return LogUnavailableError(log.url, message)


def _spread(wanted: RangeSet, page_size: int) -> Iterable[int]:
    """Return a few wanted indices of different pages: the last one, and some between it and the first."""
    first, last = int(wanted.starts[0]), int(wanted.ends[-1]) - 1
    spread = [int(wanted.between(first + (last - first) * part // 4, END).starts[0]) for part in (4, 2, 1, 3)]
    return {index // page_size: index for index in spread}.values()


def _come(futures: Sequence[Future[Any]], stop: threading.Event) -> bool:
    """Wait until all have a result; tell whether they have, and had it before `stop` was set."""
    pending = set(futures)
    while pending and not stop.is_set():
        _, pending = wait(pending, timeout=_POLL)
    return not stop.is_set()


class _PageReader(Generic[T]):
    """Reads pages of one log, in several threads, and knows whether the log answers at all."""

    def __init__(
        self,
        log: Log,
        decode: Callable[[EntryBlock, NDArray[np.bool_]], T],
        whole: bool,
        is_stopped: Callable[[], bool],
    ) -> None:
        self._log = log
        self._decode = decode
        self._whole = whole
        self._is_stopped = is_stopped
        self._lock = threading.Lock()
        # How many answers have come. Threads may overwrite each other's count, but it never stays what it was.
        self._answers = 0
        self._answered_for: int | None = None
        self._silent_since = -1

    def read(self, missing: RangeSet) -> _Page[T]:
        """Fetch the entries `missing` from one page.

        An error that names no entries may be due to one of them: as long as the log has answers to something else, the
        request is halved until that entry is found, which takes about ``2 * log2(page size)`` requests.
        """
        results: list[T | LogError] = []
        answered = False
        end = int(missing.ends[-1])
        patience = 2 * (end - int(missing.starts[0])).bit_length()
        suspect = failures = 0
        whole = self._whole
        while len(missing) and not self._is_stopped():
            start = int(missing.starts[0])
            # Some entry before `suspect` cannot be had.
            stop = start + (suspect - start + 1) // 2 if start < suspect else end
            answers = self._answers
            # Only once: after an answer that ends early the rest is asked for, not the same again.
            asked = self._log.provable(start, stop) if whole else (start, stop)
            whole = False
            try:
                block = self._log.get_entries(*asked, missing)
            except NotAskedError:
                break
            except LogError as error:
                if self._is_stopped():
                    # It says no more than that.
                    break
                if error.end is not None and error.end <= start:
                    # It is of entries that nobody misses, which were asked for as part of the whole.
                    continue
                reach = stop if error.end is None else min(error.end, end)
                if isinstance(error, LogProtocolError) and error.end is not None:
                    answered = self._count_answer(start)
                else:
                    failures += 1
                    may_be_one = error.end is None and stop - start > 1
                    if may_be_one or reach < end:
                        if failures > patience or not self._answers_since(answers, (start, end - 1)):
                            reach = end
                        elif may_be_one:
                            suspect = stop
                            continue
                lost = missing.between(start, reach)
                error.start, error.end = int(lost.starts[0]), int(lost.ends[-1])
                results.append(error)
            else:
                reach = int(block.index[-1]) + 1
                failures = 0
                answered = self._count_answer(start)
                results.append(_DECODERS.submit(self._decode, block, missing.contains(block.index)).result())
            missing = missing.between(reach, end)
        return results, answered, missing

    def has(self, index: int) -> bool:
        """Tell whether the log answers for the entry at `index`, whether that can be read or not."""
        if self._is_stopped():
            return False
        try:
            self._log.get_entries(index, index + 1)
        except LogError as error:
            return isinstance(error, LogProtocolError) and error.end is not None and self._count_answer(index)
        return self._count_answer(index)

    def _count_answer(self, index: int) -> bool:
        self._answers += 1
        self._answered_for = index
        return True

    def _answers_since(self, answers: int, indices: Sequence[int]) -> bool:
        """Tell whether the log has answered since there were so many `answers`, or answers now.

        It is asked for an entry that it had before, if there is one, otherwise for `indices`.
        """
        with self._lock:
            # If it did not answer another thread, it is not asked again.
            if self._answers == answers != self._silent_since:
                probes = indices if self._answered_for is None else [self._answered_for]
                if not any(map(self.has, probes)):
                    self._silent_since = answers
        return self._answers != answers


class _Threads:
    """Threads that run calls.

    They do not hold up the end of the process as those of `concurrent.futures` do, and take calls even after the main
    thread has ended: a backfill in another thread goes on until it is done.
    """

    def __init__(self, limit: int, name: str, halt: threading.Event, allows: Callable[[], bool]) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._limit, self._name, self._halt, self._allows = limit, name, halt, allows
        self._lock = threading.Lock()

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Let a thread call the function; another one starts only if all have something to do."""
        future: Future[T] = Future()
        self._calls.put((future, partial(function, *arguments)))
        with self._lock:
            if not self._idle.acquire(blocking=False) and len(self._threads) < self._limit:
                self._threads.append(threading.Thread(target=self._run, name=self._name, daemon=True))
                self._threads[-1].start()
        return future

    def forget(self) -> None:
        """Begin anew in a forked child: the threads stayed with the parent, and one of them may have held the lock."""
        self._calls, self._threads, self._lock = SimpleQueue(), [], threading.Lock()

    def end(self) -> None:
        """Let the threads end after what they have been given; nobody needs to wait for them."""
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
                # Before: whoever waits for it may have another call at once.
                self._idle.release()
                finish()
                # What it made must not stay in memory until the next call.
                del finish
            else:
                self._idle.release()
            del future, call


_DECODERS = _Threads(os.cpu_count() or 1, "decode", threading.Event(), lambda: True)
"""They decode for all others: more than there are processors would take the interpreter's lock from each other, and
each keeps memory of its own."""

os.register_at_fork(after_in_child=_DECODERS.forget)
