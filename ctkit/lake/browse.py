"""A table to look into: how much of what it has, a search, and pages of rows, each read when it is asked for."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from ctkit.lake import questions
from ctkit.lake.files import data_files
from ctkit.lake.querying import define_rows, define_table, reading
from ctkit.lake.table import check_features
from ctkit.schema import row_schema

MOST_FOUND = 100_000
"""Rows of one search that can be turned to; all of them are counted."""

ORDERED = 100_000
"""Rows that are put in order at a time: it takes about as long as for one page."""

MOST_ISSUERS = 50
"""Issuers that are counted one by one."""

_MEMORY = "512MB"

_PLACE = ("file_index", "file_row_number")

SHOWN = [name for name in row_schema().names if name not in ("as_der", "chain")]
"""Columns of a page: all but the certificates."""


@dataclass(frozen=True, eq=False)
class Counts:
    """How much there is of what in a table.

    Attributes
    ----------
    dates, kinds
        By ``seen_date`` and by ``update_type``: rows of each, dates ascending.
    issuers
        By ``issuer_aggregated``, "" being none; those with the most rows first; `MOST_ISSUERS` at most.
    issuers_in_all
        How many issuers there are.
    unreadable
        Rows with a certificate that cannot be read.
    """

    dates: dict[str, int]
    kinds: dict[str, int]
    issuers: dict[str, int]
    issuers_in_all: int
    unreadable: int


class RowBrowser:
    """The rows of one version of a table, in the order of their keys; it holds no connection and few bytes.

    Parameters
    ----------
    table
        As it is now; later versions are not seen.

    Attributes
    ----------
    rows
        How many there are.

    Raises
    ------
    SchemaMismatchError
        The table demands of its readers what we do not do.
    TableError
        The table's log cannot be read.
    """

    def __init__(self, table: DeltaTable) -> None:
        check_features(table, "read")
        self._table = table
        files = data_files(table)
        self._files = [str(file.path) for file in files]
        self._dates = [file.partition or None for file in files]
        self.rows = sum(file.rows for file in files)
        # Keys and places of what was searched for; None for all rows.
        self._found: pa.Table | None = None
        # Of all rows, those of some pages, and how many come before; there are none yet.
        self._window: tuple[int, pa.Table] = (-ORDERED, _PLACES.empty_table())

    @contextmanager
    def _reading(self) -> Iterator[tuple[ibis.BaseBackend, ir.Table]]:
        with reading(self._table, memory_limit=_MEMORY) as connection:
            yield connection, define_rows(connection, "rows", self._files, dates=self._dates, numbered=True)

    def count(self) -> Counts:
        """Count all rows by date, kind and issuer, in one reading of a few narrow columns."""
        with self._reading() as (connection, rows):
            counts = connection.create_table("counts", questions.counts_of_kinds(rows))
            issuers = questions.rows_by(counts, "issuer_aggregated")
            return Counts(
                dict(sorted(_numbers(questions.rows_by(counts, "seen_date")).items())),
                _numbers(questions.rows_by(counts, "update_type")),
                _numbers(issuers.limit(MOST_ISSUERS)),
                issuers.count().to_pyarrow().as_py(),
                _numbers(questions.rows_by(counts, "is_unreadable")).get("True", 0),
            )

    def search(self, text: str = "", *, issuer: str | None = None) -> int:
        """Find the rows with `text` in a domain or the issuer; pages are of these from now on. Return how many.

        Of more than `MOST_FOUND`, the first can be turned to. An empty text stands for all rows. Or, if it is given,
        find those of exactly this `issuer`, as `count` has it.
        """
        if issuer is None and not text:
            self._found = None
            return self.rows
        if issuer is None and re.search("[\0\ud800-\udfff]", text):
            # No question can carry it.
            self._found = _PLACES.empty_table().append_column("cert_index", pa.array([], pa.int64()))
            return 0
        with self._reading() as (connection, rows):
            if issuer is None:
                wanted = questions.rows_about(rows, text)
            else:
                issuers = pa.table({"issuer_aggregated": [issuer]})
                wanted = questions.rows_of_issuers(rows, define_table(connection, "issuers", issuers))
            matches = connection.create_table("matches", wanted)
            count: int = matches.count().to_pyarrow().as_py()
            self._found = questions.places_in_order(matches, 0, MOST_FOUND).to_pyarrow()
            return count

    def page(self, start: int, count: int) -> pa.Table:
        """Return rows ``[start, start + count)`` of what was searched for: columns `SHOWN`, and the place of each."""
        with self._reading() as (connection, rows):
            return _read(connection, rows, self._places(rows, start, count), SHOWN)

    def _places(self, rows: ir.Table, start: int, count: int) -> pa.Table:
        """Return keys and places of a page; of all rows, many are kept, as it takes long to order them."""
        if self._found is not None:
            return self._found.slice(start, count)
        first, known = self._window
        if not first <= start <= start + count <= first + ORDERED:
            first = max(start - ORDERED // 2, 0)
            known = questions.places_in_order(rows, first, ORDERED).to_pyarrow()
            self._window = first, known
        return known.slice(start - first, count)

    def row(self, place: Mapping[str, Any]) -> dict[str, Any]:
        """Return one row in full, by its index and place, which rows of a page have too."""
        places = pa.Table.from_pylist([{name: place[name] for name in ("cert_index", *_PLACE)}])
        with self._reading() as (connection, rows):
            (row,) = _read(connection, rows, places, row_schema().names).drop_columns(list(_PLACE)).to_pylist()
            return dict(row)

    def places_of(self, url: str, index: int) -> list[dict[str, Any]]:
        """Return key and place of each row of one entry."""
        with self._reading() as (_, rows):
            found = questions.places_in_order(questions.rows_of_key(rows, url, index), 0, MOST_FOUND)
            places: list[dict[str, Any]] = found.to_pyarrow().to_pylist()
            return places


def _numbers(counts: ir.Table) -> dict[str, int]:
    """Return an answer of `questions.rows_by`, in its order."""
    return {str(name): rows for name, rows in zip(*counts.to_pyarrow().to_pydict().values(), strict=True)}


def _read(connection: ibis.BaseBackend, rows: ir.Table, places: pa.Table, names: list[str]) -> pa.Table:
    """Return columns of the rows at places, of which the index is given too."""
    indices = places["cert_index"].cast(pa.int64())
    # Where no row is wanted, none is near; one without an index may be anywhere.
    first, last = pc.min_max(indices).as_py().values() if len(indices) else (-1, -1)
    if indices.null_count:
        first = last = None
    wanted = define_table(connection, "places", places.select(list(_PLACE)).cast(_PLACES))
    return questions.rows_at(rows, wanted, names, first=first, last=last).to_pyarrow()


_PLACES = pa.schema([(name, pa.int64()) for name in _PLACE])
