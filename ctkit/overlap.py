"""Which rows of staging a merge must skip: keys that main has, and repetitions.

The questions are asked in SQL, because DuckDB's enums, which ibis does not know, make them cheap: a URL of 50 bytes in
each of a hundred million keys becomes one byte.
"""

from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from deltalake import DeltaTable

from ctkit.gap import ranges_by_log
from ctkit.ranges import Int64s, RangeSet
from ctkit.table import define_rows, files_of

KEYS_AT_ONCE = 250_000
"""So many keys are compared with each other at a time, so that a staging table of any size takes the same memory."""


class Overlap:
    """The staged rows that a merge must skip.

    In the connection there are then the view ``staged`` (rows of staging, with ``filename`` and ``file_row_number``)
    and the tables ``keys`` and ``skipped``.

    Parameters
    ----------
    connection
        DuckDB, for this merge only.
    files
        Paths of staging's files.

    Attributes
    ----------
    rows
        Number of staged rows.
    conflicts
        Skipped rows whose certificate differs from the one that main has under the same key.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, files: list[str]) -> None:
        self._connection = connection
        define_rows(connection, "staged", files, numbered=True)
        # An enum has at least one value, and staging may have no row.
        connection.execute(
            """
            CREATE TYPE log AS ENUM (SELECT DISTINCT source_url FROM staged UNION SELECT '');
            CREATE TYPE file AS ENUM (SELECT DISTINCT filename FROM staged UNION SELECT '');
            CREATE TABLE keys AS
                SELECT source_url::log AS log, cert_index, filename::file AS file, file_row_number::UINTEGER AS row
                FROM staged;
            CREATE TABLE skipped (file file, row UINTEGER);
            """
        )
        self.rows: int = self._value("SELECT count(*) FROM keys")
        parts = -(-self.rows // KEYS_AT_ONCE)
        for part in range(parts):
            connection.execute(
                """
                INSERT INTO skipped SELECT file, row FROM (
                    SELECT file, row, row_number() OVER (PARTITION BY log, cert_index ORDER BY file, row) AS nth
                    FROM keys SEMI JOIN (
                        SELECT log, cert_index FROM keys WHERE cert_index % $parts = $part
                        GROUP BY ALL HAVING count(*) > 1
                    ) USING (log, cert_index)
                ) WHERE nth > 1
                """,
                {"parts": parts, "part": part},
            )
        self.conflicts = 0
        bounds = connection.execute(
            "SELECT log::VARCHAR AS source_url, min(cert_index) AS start, max(cert_index) + 1 AS end "
            "FROM keys GROUP BY log, file"
        )
        self._ranges = ranges_by_log(bounds.to_arrow_table())

    def skip_present(self, main: DeltaTable, looked_at: set[str]) -> bool:
        """Skip the rows whose key is in a file of main that was not looked at before; tell whether there are any."""
        files = [file for file in _overlapping(main, self._ranges) if file not in looked_at]
        if not files:
            return False
        define_rows(self._connection, "present", files)
        self._connection.execute(
            """
            CREATE OR REPLACE TABLE found AS
                SELECT * FROM keys
                SEMI JOIN (SELECT TRY_CAST(source_url AS log) AS log, cert_index FROM present) USING (log, cert_index)
                ANTI JOIN skipped USING (file, row);
            INSERT INTO skipped SELECT file, row FROM found;
            """
        )
        found: int = self._value("SELECT count(*) FROM found")
        if found:
            self.conflicts += self._value(
                """
                SELECT count(DISTINCT (found.file, found.row)) FROM found
                JOIN staged ON staged.filename = found.file::VARCHAR AND staged.file_row_number = found.row
                JOIN present ON present.source_url = staged.source_url AND present.cert_index = staged.cert_index
                WHERE staged.sha256 <> present.sha256
                """
            )
        return found > 0

    @property
    def skipped(self) -> int:
        """Number of staged rows that must not be inserted."""
        return int(self._value("SELECT count(*) FROM skipped"))

    def skipped_by_file(self) -> dict[str, int]:
        """Return path -> number of skipped rows, of each staged file that has any."""
        return dict(self._connection.execute("SELECT file::VARCHAR, count(*) FROM skipped GROUP BY ALL").fetchall())

    def skipped_rows(self, file: str) -> Int64s:
        """Return the positions of the skipped rows in a staged file, ascending."""
        query = "SELECT row FROM skipped WHERE file::VARCHAR = $file ORDER BY row"
        rows: Int64s = self._connection.execute(query, {"file": file}).to_arrow_table()["row"].to_numpy()
        return rows

    def _value(self, query: str) -> Any:
        (row,) = self._connection.execute(query).fetchall()
        return row[0]


def _overlapping(main: DeltaTable, ranges: dict[str, RangeSet]) -> list[str]:
    """Return main's files that can hold an index of the ranges, going by the statistics of main's log."""
    actions = pa.table(main.get_add_actions(flatten=True))
    files = np.array(files_of(main), object)
    names = ("min.source_url", "max.source_url", "min.cert_index", "max.cert_index")
    if any(name not in actions.column_names or actions[name].null_count for name in names):
        return list(files)
    first_url, last_url = (actions[name].to_numpy(zero_copy_only=False) for name in names[:2])
    low, high = (actions[name].to_numpy() for name in names[2:])
    hit = np.zeros(len(files), bool)
    for url, of_log in ranges.items():
        hit |= (first_url <= url) & (last_url >= url) & _meets(of_log, low, high)
    return list(files[hit])


def _meets(ranges: RangeSet, low: Int64s, high: Int64s) -> Any:
    """Tell for each stretch, both ends included, whether one of the ranges lies in it at least in part."""
    at = np.searchsorted(ranges.ends, low, side="right")
    return (at < len(ranges)) & (ranges.starts[np.minimum(at, len(ranges) - 1)] <= high)
