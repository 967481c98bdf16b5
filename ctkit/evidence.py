"""What a table says by itself: how many rows it has, which of them its commits call proven, which were altered."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pyarrow as pa
from deltalake import DeltaTable

from ctkit.commits import added_by
from ctkit.datafile import FileBounds
from ctkit.keys import read_keys
from ctkit.provenance import Provenance
from ctkit.querying import define_rows, querying
from ctkit.ranges import RangeSet
from ctkit.table import as_der_type, files_of

MEMORY = "1GB"
"""For DuckDB, where it reads certificates; a row group of the live server's takes some of it in each thread."""


def proven_rows(table: DeltaTable, records: Iterable[tuple[int, Provenance]]) -> dict[str, RangeSet]:
    """Return the indices of each log whose rows lie in files as they were written, by commits that call them proven.

    A file that was rewritten since, by compaction for instance, is another file, and no commit speaks of its rows.

    Parameters
    ----------
    records
        As `ctkit.provenance.read_provenance` returns them; one that is not believed as ``"off"``.
    """
    present = set(files_of(table))
    by_version: dict[int, list[Provenance]] = defaultdict(list)
    for version, record in records:
        by_version[version].append(record)
    found: dict[str, list[RangeSet]] = defaultdict(list)
    for version, of_version in by_version.items():
        proven = {url: ranges for url, ranges in _proven_stretches(of_version).items() if len(ranges)}
        for file in sorted(added_by(table, version) & present) if proven else ():
            keys = read_keys(file)
            for url in proven.keys() & set(keys.urls):
                index = keys.index[keys.log == keys.urls.index(url)]
                index = index[proven[url].contains(index)]
                found[url].append(RangeSet.holding(index))
    return {url: RangeSet.joined(ranges) for url, ranges in found.items()}


def _proven_stretches(records: Iterable[Provenance]) -> dict[str, RangeSet]:
    """Return where rows of one commit are proven: every record that spans them must say so."""
    spans: dict[tuple[str, bool], list[tuple[int, int]]] = defaultdict(list)
    for record in records:
        spans[record.source_url, record.verified == "entries"].append((record.start, record.end))
    return {
        url: RangeSet.of(*ranges).minus(RangeSet.of(*spans.get((url, False), ())))
        for (url, proven), ranges in spans.items()
        if proven
    }


class RowCount(NamedTuple):
    """How many rows of one log there are: in the stretch that was asked for, and at or above the tree's size."""

    within: int
    beyond: int


def count_rows(table: DeltaTable, bounds: Mapping[str, tuple[int, int, int]]) -> dict[str, RowCount]:
    """Count the rows of logs: of each URL, ``(start, end, tree_size)``."""
    logs = pa.table(
        {
            "url": pa.array(bounds, pa.string()),
            **{
                name: pa.array([each[at] for each in bounds.values()], pa.int64())
                for at, name in enumerate(("start", "stop", "tree_size"))
            },
        }
    )
    with querying(table, memory_limit=MEMORY) as connection:
        define_rows(connection, "entries", files_of(table))
        connection.register("logs", logs.__arrow_c_stream__())
        counted = connection.execute(
            """
            SELECT url, count(*) FILTER (WHERE cert_index >= start AND cert_index < stop),
                count(*) FILTER (WHERE cert_index >= tree_size)
            FROM logs LEFT JOIN entries ON source_url = url GROUP BY url
            """
        ).fetchall()
    return {url: RowCount(within, beyond) for url, within, beyond in counted}


def highest_rows(table: DeltaTable, urls: Iterable[str]) -> dict[str, int]:
    """Return the highest index of each log that has a row."""
    with querying(table, memory_limit=MEMORY) as connection:
        define_rows(connection, "entries", files_of(table))
        return dict(
            connection.execute(
                "SELECT source_url, max(cert_index) FROM entries "
                "WHERE list_contains($urls::VARCHAR[], source_url) GROUP BY source_url",
                {"urls": list(urls)},
            ).fetchall()
        )


def altered_rows(table: DeltaTable, urls: Iterable[str]) -> dict[str, RangeSet]:
    """Return the indices of each log whose certificate does not have the SHA-256 that its row gives.

    All certificates are read and hashed once, a few at a time.
    """
    der = "as_der" if as_der_type(table) == "binary" else "TRY(from_base64(as_der))"
    with querying(table, memory_limit=MEMORY) as connection:
        define_rows(connection, "entries", files_of(table))
        found = connection.execute(
            f"""
            SELECT source_url, cert_index FROM entries
            WHERE list_contains($urls::VARCHAR[], source_url)
                AND sha256({der}) IS DISTINCT FROM lower(replace(sha256, ':', ''))
            """,
            {"urls": list(urls)},
        ).to_arrow_table()
    altered: dict[str, RangeSet] = {}
    for url in found["source_url"].unique().to_pylist():
        index = found.filter(pa.compute.equal(found["source_url"], url))["cert_index"].to_numpy()
        altered[url] = RangeSet.holding(index)
    return altered


class FilesOf:
    """The files of a table, to be chosen by what the statistics of its log say of them.

    Parameters
    ----------
    table
        At the version that counts.
    url
        The log whose rows are asked for.
    """

    def __init__(self, table: DeltaTable, url: str) -> None:
        bounds = FileBounds(table)
        of_log = bounds.may_hold(url)
        self._files, self._lowest, self._highest = (
            each[of_log] for each in (bounds.files, bounds.lowest, bounds.highest)
        )

    def between(self, first: int, last: int) -> list[str]:
        """Return the paths of the files that can hold a row of the log from index `first` to `last`, inclusive."""
        return list(self._files[(self._lowest <= last) & (self._highest >= first)])
