"""Ranges of one log become a stream of decoded entries, in order, with holes named."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ctkit.errors import LogError, LogProtocolError, LogUnavailableError
from ctkit.logs.asking import NotAskedError
from ctkit.logs.deadline import POLL
from ctkit.logs.log import Log
from ctkit.logs.threads import DECODERS, Threads
from ctkit.ranges import END, RangeSet
from ctkit.wire.entries import EntryBlock

T = TypeVar("T")

_SILENT_PAGES = 3
"""Consecutive unanswered pages before a few further on are probed; if none answers, the log is given up."""

_GRACE = 2.0
"""Seconds for requests under way to end when the fetching is stopped; their waits end at once."""


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
) -> Generator[T | LogError | None, None, RangeSet]:
    """Fetch entries page by page, several pages at a time.

    Each page that holds a wanted index is asked for once, however many gaps it has; unwanted entries are dropped.

    Parameters
    ----------
    log
        Where to fetch from.
    wanted
        The indices to fetch.
    workers
        Largest number of pages to work on at a time; the host's pace decides how many requests are under way.
    ahead
        How many pages may be under way or wait to be taken, asked before each; at least one always may. It bounds the
        memory of those who fetch from many logs at once. Twice `workers` by default.
    allowed
        Asked before each request for entries, in worker threads. Once it says no, the iterator ends after the requests
        under way. By default any number is allowed.
    whole
        Ask for the stretch that `ctkit.logs.log.Log.provable` returns, which takes no more requests.
    stop
        When set, no new request starts, waits end, and the iterator ends with what has arrived.
    decode
        Called in worker threads with a block of consecutive entries, and an array (bool[n]) of those that are wanted.

    Yields
    ------
    T
        What `decode` returned, in the order of the indices.
    LogError
        In the place of entries that are lost, as the log raised it: ``[start, end)`` runs from the first to the last
        wanted index that is missing, and no wanted index between them could be fetched. What follows is fetched all
        the same, unless the log no longer answers for any page, here or further on: then one `LogUnavailableError`
        stands for all the rest.
    None
        Every `POLL` seconds while nothing comes.

    Returns
    -------
    RangeSet
        What neither a block nor an error covers, because of `allowed` or `stop`: another call can fetch it.
    """
    halt, spent = threading.Event(), threading.Event()

    def allows() -> bool:
        if allowed is None or allowed():
            return True
        spent.set()
        return False

    threads = Threads(workers, f"fetch {log.url}", halt, allows)
    reader = _PageReader(log, decode, whole, lambda: stop.is_set() or halt.is_set())
    fetching = _Fetching(log, wanted, reader, threads, ahead or (lambda: 2 * workers), stop, spent)
    try:
        yield from fetching.results()
        halt.set()
        return (yield from fetching.last_results())
    finally:
        halt.set()
        threads.end()


class _Fetching(Generic[T]):
    """The pages of one log that are under way, in order.

    Parameters
    ----------
    ahead
        How many pages may be under way or wait to be taken, asked before each; one always may.
    stop, spent
        Set when no more requests shall, or may, be sent.
    """

    def __init__(
        self,
        log: Log,
        wanted: RangeSet,
        reader: "_PageReader[T]",
        threads: Threads,
        ahead: Callable[[], int],
        stop: threading.Event,
        spent: threading.Event,
    ) -> None:
        self._log, self._wanted, self._reader, self._threads, self._ahead = log, wanted, reader, threads, ahead
        self._stop, self._spent = stop, spent
        self._requests = wanted.pages(lambda: log.page_size)
        self._pages: deque[tuple[RangeSet, Future[_Page[T]]]] = deque()
        # What lies at or beyond this index has not been asked for.
        self._planned = 0
        self._silent_pages = 0
        self._unread: list[RangeSet] = []

    def results(self) -> Iterator[T | LogError | None]:
        """Yield what comes, or None, until all has come, no more requests may be sent, or the log is given up."""
        while not self._stop.is_set():
            self._read_ahead()
            if self._pages:
                if not (yield from _wait_for([self._pages[0][1]], self._stop)):
                    return
                page = self._pages.popleft()[1].result()
                self._silent_pages = 0 if page.answered else self._silent_pages + 1
                self._leave(page.unread)
                yield from page.results
            elif self._spent.is_set() or not len(rest := self._wanted.between(self._planned, END)):
                return
            elif (yield from self._is_silent(rest)):
                pages = f"{self._silent_pages} pages in a row had no answer, and none further on had one"
                first, last = int(rest.starts[0]), int(rest.ends[-1])
                yield LogUnavailableError(
                    self._log.url, f"not asked for, because {pages}; run again later", start=first, end=last
                )
                self._planned = END
                return
            else:
                self._silent_pages = 0

    def last_results(self) -> Generator[T | LogError, None, RangeSet]:
        """Yield what has come of the pages that are under way; return what is in no result."""
        done, _ = wait([reading for _, reading in self._pages if not reading.cancel()], timeout=_GRACE)
        for wanted, reading in self._pages:
            page = reading.result() if reading in done else _Page(wanted)
            self._leave(page.unread)
            yield from page.results
        return RangeSet.joined([*self._unread, self._wanted.between(self._planned, END)])

    def _leave(self, unread: RangeSet) -> None:
        # There are millions of pages, and few of which anything is left.
        if len(unread):
            self._unread.append(unread)

    def _read_ahead(self) -> None:
        while len(self._pages) < self._limit() and not self._stop.is_set() and (page := next(self._requests, None)):
            wanted = self._wanted.between(page.start, page.end)
            self._pages.append((wanted, self._threads.submit(self._reader.read, wanted)))
            self._planned = page.end

    def _limit(self) -> int:
        if self._spent.is_set():
            return 0
        # A log that just failed is asked for one page at a time until it answers.
        if self._silent_pages:
            return int(self._silent_pages < _SILENT_PAGES)
        return max(self._ahead(), 1)

    def _is_silent(self, rest: RangeSet) -> Generator[None, None, bool]:
        """Tell whether the log answers for none of a few entries further on, although it may be asked."""
        probes = [self._threads.submit(self._reader.has, index) for index in _spread(rest, self._log.page_size)]
        answers = (yield from _wait_for(probes, self._stop)) and any(probe.result() for probe in probes)
        return not (answers or self._stop.is_set() or self._spent.is_set())


def ask(log: Log, question: Callable[[], T], stop: threading.Event) -> T:
    """Return the log's answer to a question; give up as soon as `stop` is set.

    Raises
    ------
    LogUnavailableError
        `stop` was set first.
    """
    threads = Threads(1, f"ask {log.url}", stop, lambda: True)
    try:
        answer = threads.submit(question)
        for _ in _wait_for([answer], stop):
            pass
        if answer.done():
            return answer.result()
        raise unanswered(log)
    finally:
        threads.end()


def unanswered(log: Log) -> LogUnavailableError:
    """Return the error of a log that had not answered when the run was stopped."""
    message = "the log had not answered when the run was stopped; run again later"
    return LogUnavailableError(log.url, message)


def _spread(wanted: RangeSet, page_size: int) -> Iterable[int]:
    """Return a few wanted indices of different pages: the last one, and some between it and the first."""
    first, last = int(wanted.starts[0]), int(wanted.ends[-1]) - 1
    spread = [int(wanted.between(first + (last - first) * part // 4, END).starts[0]) for part in (4, 2, 1, 3)]
    return {index // page_size: index for index in spread}.values()


def _wait_for(futures: Sequence[Future[Any]], stop: threading.Event) -> Generator[None, None, bool]:
    """Wait until all have a result, yielding every `POLL` seconds; return whether they had one before a stop."""
    while not stop.is_set() and wait(futures, timeout=POLL).not_done:
        yield
    return not stop.is_set()


class _Page(Generic[T]):
    """What has come of one page so far.

    Attributes
    ----------
    unread
        What is in no result yet.
    results
        In the order of the indices.
    answered
        Whether the log answered for any of it.
    failures, patience
        Requests in a row that failed, and how many may until the whole page is given up.
    suspect
        Some entry before this index spoils every answer that it is part of.
    """

    def __init__(self, wanted: RangeSet) -> None:
        self.unread = wanted
        self.results: list[T | LogError] = []
        self.answered = False
        self.end = int(wanted.ends[-1])
        self.failures, self.patience = 0, 2 * (self.end - int(wanted.starts[0])).bit_length()
        self.suspect = 0

    def request(self) -> tuple[int, int]:
        """Return what to ask for next: all that is unread, or half of what is suspect."""
        start = int(self.unread.starts[0])
        return start, start + (self.suspect - start + 1) // 2 if start < self.suspect else self.end

    def add(self, result: T | LogError, end: int) -> None:
        """Add the result for all that is unread before `end`."""
        self.results.append(result)
        self.unread = self.unread.between(end, self.end)


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

    def read(self, wanted: RangeSet) -> _Page[T]:
        """Fetch the entries `wanted` from one page.

        An error that names no entries may be due to one of them: as long as the log answers for others, the request is
        halved until that entry is found, which takes about ``2 * log2(page size)`` requests.
        """
        page: _Page[T] = _Page(wanted)
        whole = self._whole
        while len(page.unread) and not self._is_stopped():
            start, end = page.request()
            answers = self._answers
            # Only once: after an answer that ends early the rest is asked for, not the same again.
            asked = self._log.provable(start, end) if whole else (start, end)
            whole = False
            try:
                block = self._log.get_entries(*asked, page.unread)
            except NotAskedError:
                break
            except LogError as error:
                if self._is_stopped():
                    # The error may be due to that.
                    break
                # An error may be of unwanted entries, which were asked for as part of the whole.
                if error.end is None or error.end > start:
                    self._fail(page, error, start, end, answers)
            else:
                page.failures = 0
                page.answered = self._count_answer(start)
                result = DECODERS.submit(self._decode, block, page.unread.contains(block.index)).result()
                page.add(result, int(block.index[-1]) + 1)
        return page

    def _fail(self, page: _Page[T], error: LogError, start: int, end: int, answers: int) -> None:
        """Note that the request ``[start, end)`` failed: it is halved, or entries are lost, up to all of the page."""
        lost_end = end if error.end is None else min(error.end, page.end)
        if _is_answer(error):
            page.answered = self._count_answer(start)
        else:
            page.failures += 1
            may_be_one = error.end is None and end - start > 1
            if may_be_one or lost_end < page.end:
                if page.failures > page.patience or not self._answers_since(answers, (start, page.end - 1)):
                    lost_end = page.end
                elif may_be_one:
                    page.suspect = end
                    return
        lost = page.unread.between(start, lost_end)
        error.start, error.end = int(lost.starts[0]), int(lost.ends[-1])
        page.add(error, lost_end)

    def has(self, index: int) -> bool:
        """Tell whether the log answers for the entry at `index`, readable or not."""
        if self._is_stopped():
            return False
        try:
            self._log.get_entries(index, index + 1)
        except LogError as error:
            return _is_answer(error) and self._count_answer(index)
        return self._count_answer(index)

    def _count_answer(self, index: int) -> bool:
        self._answers += 1
        self._answered_for = index
        return True

    def _answers_since(self, answers: int, indices: Sequence[int]) -> bool:
        """Tell whether the log has given more than `answers`, or gives one now.

        It is asked for an entry that it had before if there is one, otherwise for `indices`.
        """
        with self._lock:
            # If another thread has just had no answer, the log is not asked again.
            if self._answers == answers != self._silent_since:
                probes = indices if self._answered_for is None else [self._answered_for]
                if not any(map(self.has, probes)):
                    self._silent_since = answers
        return self._answers != answers


def _is_answer(error: LogError) -> bool:
    """Tell whether the log has answered, with entries that cannot be read."""
    return isinstance(error, LogProtocolError) and error.end is not None
