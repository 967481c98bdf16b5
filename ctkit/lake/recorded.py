"""What the commits of a table record of its rows, told without reading its files."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from deltalake import DeltaTable

from ctkit.lake.commits import commit_info, commit_path, read_commit
from ctkit.lake.coverage import runs_by_file
from ctkit.lake.doubts import MERGED_FROM
from ctkit.lake.provenance import Statement, proven_in
from ctkit.lake.tidy import COMPACTED
from ctkit.lake.write import WRITTEN
from ctkit.ranges import RangeSet

_KINDS = {MERGED_FROM: "merge", WRITTEN: "backfill", COMPACTED: "tidy"}


def find_recorded(
    stretches: Mapping[str, tuple[int, int]], table: DeltaTable, statements: Iterable[Statement]
) -> dict[str, RangeSet]:
    """Return the indices of each log, within its stretch, whose rows are proven by what commits say of their files.

    An audit also reads the files, and asks the logs whether their trees still extend the recorded tree heads.

    Raises
    ------
    TableError
        A file cannot be read.
    """
    proven, found = proven_in(statements), defaultdict(list)
    for path, url, rows in runs_by_file(stretches, table):
        if recorded := proven.get(path, {}).get(url):
            found[url].append(rows.intersect(recorded).between(*stretches[url]))
    return {url: RangeSet.joined(sets) for url, sets in found.items()}


def heads_by_time(table: DeltaTable, statements: Iterable[Statement]) -> dict[str, list[tuple[float, int]]]:
    """Return the tree sizes that commits recorded: URL -> Unix seconds and size, ascending."""
    found: dict[str, set[tuple[float, int]]] = defaultdict(set)
    for statement in statements:
        try:
            seconds = commit_path(table, statement.version).stat().st_mtime
        except OSError:
            # A later commit repeats what it said, and nobody when.
            continue
        for record in statement.records:
            if record.tree_size:
                found[record.source_url].add((seconds, record.tree_size))
    return {url: sorted(heads) for url, heads in found.items()}


class LastCommit(NamedTuple):
    """The newest commit of a table.

    Attributes
    ----------
    version
        The version that it made.
    seconds
        When, in Unix seconds.
    kind
        ``"merge"``, ``"backfill"`` or ``"tidy"``; for another, what its writer calls it.
    """

    version: int
    seconds: float
    kind: str


def last_commit(table: DeltaTable) -> LastCommit:
    """Return the commit that made a table's version.

    Raises
    ------
    TableError
        It cannot be read.
    """
    info = commit_info(read_commit(table, table.version()))
    kind = next((kind for key, kind in _KINDS.items() if key in info), str(info.get("operation", "")))
    return LastCommit(table.version(), commit_path(table, table.version()).stat().st_mtime, kind)
