"""Where each log starts and ends in a table, remembered by the table itself.

Both are application transactions (Delta protocol, "Transaction Identifiers"): ``ctkit.start <source_url>`` has the
first index of the log that the table keeps complete as its version, ``ctkit.end <source_url>`` the index before which
that ends. Checkpoints repeat them, and no clean-up of the table's log removes them. They only ever widen: a start never
moves up, an end never down.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from deltalake import CommitProperties, DeltaTable, Transaction

from ctkit.arguments import Index
from ctkit.lake.commits import kept_commits
from ctkit.lake.links import commit_files

_START, _END = "ctkit.start", "ctkit.end"


class Bounds(NamedTuple):
    """What a table remembers of a log: the stretch ``[start, end)``.

    Attributes
    ----------
    start
        The first index; None for the log's first row.
    end
        The index to stop before; None if the log is followed to its own end.
    """

    start: int | None = None
    end: int | None = None


BoundsByLog = Mapping[str, tuple[Index | None, Index | None]]
"""Canonical URL of a log -> its `Bounds`."""


def remembered(urls: Iterable[str], *tables: DeltaTable | None) -> dict[str, Bounds]:
    """Return what tables remember of logs; nothing of a log of which no table remembers anything.

    Where several remember different bounds, the wider ones count: staging may have been begun before main.

    Parameters
    ----------
    urls
        Canonical URLs.
    tables
        None for one that does not exist.
    """
    found = {}
    for url in urls:
        known = [Bounds(_version(table, _START, url), _version(table, _END, url)) for table in tables if table]
        starts = [each.start for each in known if each.start is not None]
        ends = [each.end for each in known if each.end is not None]
        if starts or ends:
            found[url] = Bounds(min(starts, default=None), max(ends, default=None))
    return found


def transactions_of(bounds: BoundsByLog, table: DeltaTable) -> list[Transaction]:
    """Return the application transactions of those bounds that are wider than what the table remembers."""
    found = []
    known = remembered(bounds, table)
    for url, (start, end) in bounds.items():
        old = known.get(url, Bounds())
        if start is not None and (old.start is None or start < old.start):
            found.append(Transaction(f"{_START} {url}", start))
        if end is not None and (old.end is None or end > old.end):
            found.append(Transaction(f"{_END} {url}", end))
    return found


def bounds_in(table: DeltaTable) -> dict[str, Bounds]:
    """Return what a table remembers of all logs of which a commit that it still has tells.

    Raises
    ------
    TableError
        A commit cannot be read.
    """
    urls = set()
    for _, actions in kept_commits(table):
        for action in actions:
            kind, _, url = str(action.get("txn", {}).get("appId")).partition(" ")
            if kind in (_START, _END):
                urls.add(url)
    return remembered(sorted(urls), table)


def remember(bounds: BoundsByLog, table: DeltaTable) -> None:
    """Make the table remember bounds that are wider than those that it knows; it is held, and commits nothing else.

    Raises
    ------
    TableError
        The commit failed.
    """
    # Somebody else's commit without files may be taken for ours: only the table itself tells whether it was.
    while new := transactions_of(bounds, table):
        commit_files([], table, CommitProperties(max_commit_retries=0, app_transactions=new))


def _version(table: DeltaTable, kind: str, url: str) -> int | None:
    version: int | None = table.transaction_version(f"{kind} {url}")
    return version
