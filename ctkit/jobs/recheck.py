"""The comparison of a table's rows with the log's entries: fetched again, proven, and compared column by column."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from ctkit.errors import LogError
from ctkit.jobs.prove import Arrival, prove_arrivals
from ctkit.lake import questions
from ctkit.lake.evidence import FilesOf
from ctkit.lake.files import cast_column, plain_type
from ctkit.lake.querying import define_rows, define_table, reading
from ctkit.lake.table import as_der_type
from ctkit.logs.fetch import fetch_blocks
from ctkit.logs.log import Log
from ctkit.logs.rfc6962 import get_entries_urls
from ctkit.logs.static_ct import data_tile_urls
from ctkit.ranges import RangeSet
from ctkit.visible import get_logger
from ctkit.wire.checkpoint import Checkpoint
from ctkit.wire.volume import plan_to_read

logger = get_logger(__name__)

MEMORY = "1GB"
"""Memory for DuckDB: each of its threads holds the certificates of a row group, which the live server makes large."""

ROWS_AT_ONCE = 16_384
BYTES_AT_ONCE = 64 << 20
"""Rows that are compared at a time, whichever limit is reached first."""

SHOWN = 1000
"""Differing rows of which the columns are named; of the others, only the index is."""


@dataclass(frozen=True, eq=False)
class Recheck:
    """The result of comparing rows of one log with its entries.

    Attributes
    ----------
    equal
        Rows that equal the log's entries, which are proven to be under the tree head.
    differing
        Rows that differ.
    columns
        Index -> names of the differing columns, of the first `SHOWN` rows of `differing`.
    errors
        Entries that could not be fetched or proven, each with its ``[start, end)``.
    """

    equal: RangeSet
    differing: RangeSet
    columns: dict[int, str]
    errors: tuple[LogError, ...]


def recheck_rows(
    log: Log,
    head: Checkpoint,
    wanted: RangeSet,
    table: DeltaTable,
    stop: threading.Event,
    *,
    without: Mapping[str, object],
) -> Recheck:
    """Fetch entries again, prove them, and compare their rows.

    Parameters
    ----------
    head
        The tree head to prove the entries with.
    wanted
        The rows to compare. Rows that are in none of the files are neither equal nor differing.
    stop
        When set, only entries that have arrived are compared.
    without
        Names of damaged files, which are skipped.
    """
    plan_to_read(wanted.size)
    errors: list[LogError] = []
    comparison = _Comparison(table, log, without)
    read = partial(Arrival.of, log, source_name="", as_der=as_der_type(table))
    arrivals = fetch_blocks(log, wanted, whole=True, stop=stop, decode=read)
    for arrival in prove_arrivals(log, {log.url: head}, arrivals, stop=stop):
        if isinstance(arrival, LogError):
            errors.append(arrival)
        else:
            comparison.add(arrival)
    comparison.compare()
    differing = RangeSet.joined(comparison.differing)
    return Recheck(
        equal=RangeSet.joined(comparison.equal).minus(differing),
        differing=differing,
        columns=comparison.columns,
        errors=tuple(errors),
    )


class _Comparison:
    """Compares the expected rows of one log with those of a table.

    Attributes
    ----------
    equal, differing
        Indices of rows that are as expected, and of rows that are not.
    columns
        Index -> names of the differing columns, of the first `SHOWN` rows.
    """

    def __init__(self, table: DeltaTable, log: Log, without: Mapping[str, object]) -> None:
        self.equal: list[RangeSet] = []
        self.differing: list[RangeSet] = []
        self.columns: dict[int, str] = {}
        self._table, self._url = table, log.url
        self._files = FilesOf(table, log.url, without)
        self._waiting: list[pa.Table] = []
        self._rows = self._bytes = 0

    def add(self, arrival: Arrival) -> None:
        """Take expected rows, to be compared soon."""
        rows = arrival.rows
        columns = {
            name: cast_column(rows[name], plain_type(rows[name].type)) for name in ("cert_index", *questions.COMPARED)
        }
        if arrival.missing_issuers:
            # The log may have had them when the row was written.
            columns["chain"] = pa.nulls(len(rows), columns["chain"].type)
        # A log that speaks both protocols may have been read through either.
        index = rows["cert_index"].to_numpy()
        columns["get_entries_url"] = get_entries_urls(self._url, index)
        columns["data_tile_url"] = data_tile_urls(self._url, index)
        self._waiting.append(pa.table(columns))
        self._rows += len(rows)
        self._bytes += rows.nbytes
        if self._rows >= ROWS_AT_ONCE or self._bytes >= BYTES_AT_ONCE:
            self.compare()

    def compare(self) -> None:
        """Compare the rows that have been taken."""
        if not self._rows:
            return
        rows = pa.concat_tables(self._waiting)
        self._waiting, self._rows, self._bytes = [], 0, 0
        index = rows["cert_index"].to_numpy()
        first, last = int(index.min()), int(index.max())
        with reading(self._table, memory_limit=MEMORY) as connection:
            found = questions.differences(
                define_rows(connection, "entries", self._files.between(first, last)),
                define_table(connection, "expected", rows),
                self._url,
                first=first,
                last=last,
            ).to_pyarrow()
        differs = pc.not_equal(found["columns"], "")
        # Only rows that were found: a missing row is not equal.
        self.equal.append(RangeSet.holding(found["cert_index"].filter(pc.invert(differs)).to_numpy()))
        found = found.filter(differs)
        self.differing.append(RangeSet.holding(found["cert_index"].to_numpy()))
        shown = found.slice(0, SHOWN - len(self.columns)).to_pylist()
        self.columns.update((row["cert_index"], row["columns"]) for row in shown)
        logger.info("rows compared source_url=%s rows=%d differing=%d", self._url, rows.num_rows, found.num_rows)
