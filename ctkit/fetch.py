"""Ranges of one log become a stream of decoded entries, in order, with holes named."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from ctkit.entry import EntryBlock
from ctkit.errors import LogError, LogProtocolError, LogUnavailableError
from ctkit.http import stopping
from ctkit.log import Log
from ctkit.ranges import IndexRange, RangeSet

T = TypeVar("T")

_STRIKES = 3
"""So many pages in a row without any answer, and the log is left alone."""

_POLL = 0.1
"""Seconds between two looks at `stop`."""

_GRACE = 2.0
"""Seconds that requests under way have to end when the fetching is stopped; their waits end at once."""


def fetch_blocks(
    log: Log,
    wanted: RangeSet,
    *,
    workers: int = 8,
    stop: threading.Event,
    decode: Callable[[EntryBlock], T],
) -> Iterator[T | LogError]:
    """Fetch entries page by page, several pages at a time.

    Each page that holds a wanted index is asked for once, however many gaps it has; what was not wanted is dropped.

    Parameters
    ----------
    log
        Where to fetch from.
    wanted
        The indices to fetch.
    workers
        Requests under way at a time; about twice as many pages are read ahead.
    stop
        When set, no new request starts, waits end, and the iterator ends with what has arrived.
    decode
        Makes the result of a block of wanted entries; called in worker threads.

    Yields
    ------
    T
        What `decode` made, in the order of the indices.
    LogError
        In the place of entries that cannot be had: ``[start, end)`` runs from the first to the last wanted index that
        is missing, with nothing between them that could be had. What follows is fetched all the same, until the log
        does not answer for several pages: then one error stands for all the rest.
    """
    halt = threading.Event()
    plan = wanted.pages(lambda: log.page_size)
    pages: deque[Future[tuple[list[T | LogError], bool]]] = deque()
    strikes = 0

    def fetch(page: IndexRange) -> tuple[list[T | LogError], bool]:
        return _fetch_page(log, wanted.between(page.start, page.end), lambda: stop.is_set() or halt.is_set(), decode)

    pool = ThreadPoolExecutor(workers, f"fetch {log.url}", initializer=stopping.set, initargs=(halt,))
    try:
        while True:
            # A log that just failed is asked for one page at a time until it answers.
            ahead = 2 * workers if strikes == 0 else int(strikes < _STRIKES)
            while len(pages) < ahead and not stop.is_set() and (page := next(plan, None)):
                pages.append(pool.submit(fetch, page))
            if not pages:
                break
            while not pages[0].done():
                if stop.is_set():
                    halt.set()
                    yield from _arrived(pages)
                    return
                wait([pages[0]], timeout=_POLL)
            results, answered = pages.popleft().result()
            strikes = 0 if answered else strikes + 1
            yield from results
        if not stop.is_set() and (page := next(plan, None)):
            message = f"not asked for, because {strikes} pages in a row had no answer; run again later"
            yield LogUnavailableError(log.url, message, start=page.start, end=int(wanted.ends[-1]))
    finally:
        halt.set()
        # A request that still runs ends by its timeout at the latest; nobody needs to wait for it.
        pool.shutdown(wait=not pages, cancel_futures=True)


def _arrived(pages: Iterable[Future[tuple[list[T | LogError], bool]]]) -> Iterator[T | LogError]:
    """Yield what the pages under way have brought: an answer that has come is not thrown away."""
    started = [page for page in pages if not page.cancel()]
    done, _ = wait(started, timeout=_GRACE)
    for page in started:
        if page in done:
            # Errors say no more here than that the fetching was stopped.
            yield from (result for result in page.result()[0] if not isinstance(result, LogError))


def _fetch_page(
    log: Log, missing: RangeSet, stopped: Callable[[], bool], decode: Callable[[EntryBlock], T]
) -> tuple[list[T | LogError], bool]:
    """Fetch the entries `missing` from one page; tell also whether the log answered for any, readable or not."""
    results: list[T | LogError] = []
    answered = False
    end = int(missing.ends[-1])
    while len(missing) and not stopped():
        start = reach = int(missing.starts[0])
        try:
            block = log.get_entries(start, end)
        except LogError as error:
            if isinstance(error, LogProtocolError) and error.end is not None:
                reach = min(error.end, end)
                answered = True
            # An error about no entry in particular costs the page.
            reach = reach if reach > start else end
            lost = missing.between(start, reach)
            error.start, error.end = int(lost.starts[0]), int(lost.ends[-1])
            results.append(error)
        else:
            reach = int(block.index[-1]) + 1
            answered = True
            results.append(decode(block.take(missing.contains(block.index))))
        missing = missing.between(reach, end)
    return results, answered
