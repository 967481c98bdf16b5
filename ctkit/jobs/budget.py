"""The budget of a run, and how logs share it."""

import threading
from collections.abc import Mapping
from typing import NamedTuple


class Budget(NamedTuple):
    """The limits of a run, as `ctkit.jobs.backfill.backfill` has them; None for no limit."""

    max_requests: int | None
    max_entries: int | None
    deadline: float | None


def share(total: int, needs: Mapping[str, int]) -> dict[str, int]:
    """Divide `total` fairly: nobody gets more than they need, and what they do not need goes to the others.

    Examples
    --------
    >>> share(100, {"a": 500, "b": 10, "c": 600})
    {'b': 10, 'a': 45, 'c': 45}
    """
    shares = {}
    for served, (name, need) in enumerate(sorted(needs.items(), key=lambda item: (item[1], item[0]))):
        shares[name] = min(need, total // (len(needs) - served))
        total -= shares[name]
    return shares


class Requests:
    """Counts the requests of many logs, in many threads, and says when no more may be sent.

    Each log has its share of `limit`. Requests that no share needs, or that a log has left at its end, go to any log
    that needs more.

    Parameters
    ----------
    limit
        Requests that may be sent; None for any number.
    needs
        By log, the requests that it is expected to need.

    Attributes
    ----------
    refused
        Whether a request was not sent because of `limit`.
    """

    def __init__(self, limit: int | None, needs: Mapping[str, int]) -> None:
        self._lock = threading.Lock()
        self._limit = limit
        self._left = share(limit or 0, needs)
        self._spare = (limit or 0) - sum(self._left.values())
        self.refused = False

    def has_any(self, url: str) -> bool:
        """Tell whether another request may be sent to a log, without counting it."""
        with self._lock:
            if self._limit is None or self._left[url] or self._spare:
                return True
            self.refused = True
            return False

    def take(self, url: str) -> bool:
        """Tell whether another request may be sent to a log, and count it."""
        with self._lock:
            if self._limit is None:
                return True
            if self._left[url]:
                self._left[url] -= 1
            elif self._spare:
                self._spare -= 1
            else:
                self.refused = True
                return False
            return True

    def finish(self, url: str) -> None:
        """Leave to other logs the requests that this one did not need."""
        with self._lock:
            self._spare += self._left[url]
            self._left[url] = 0
