"""Which rows of staging a merge must skip: keys that main has, and repetitions."""

from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from ibis.util import gen_name

from ctkit.schema import KEY
from ctkit.table import files_of, read_files

ROW = ("filename", "file_row_number")
"""What names one row of staging, whatever its key."""


class Overlap:
    """The staged rows that a merge must skip: keys that main has, and repetitions.

    Attributes
    ----------
    staged
        ibis table of staging's rows with ``filename`` and ``file_row_number``, which name a row.
    skipped
        ibis table (``filename, file_row_number``), in DuckDB; it grows when main does.
    """

    def __init__(self, connection: ibis.BaseBackend, files: list[str]) -> None:
        self._connection = connection
        self.staged = read_files(connection, files, filename=True, file_row_number=True)
        self.rows = int(self.staged.count().execute())
        keys = self.staged.group_by(*KEY).agg(copies=ibis._.count())
        repeated = self.staged.semi_join(keys.filter(keys.copies > 1), KEY)
        nth = ibis.row_number().over(
            group_by=[repeated[column] for column in KEY], order_by=[repeated[column] for column in ROW]
        )
        repetitions = repeated.mutate(nth=nth).filter(ibis._.nth > 0)
        self.skipped = connection.create_table("skipped", repetitions.select(*ROW))
        bounds = self.staged.group_by("source_url").agg(low=ibis._.cert_index.min(), high=ibis._.cert_index.max())
        self._bounds = bounds.to_pyarrow().to_pylist()
        self.conflicts = 0

    def skip_present(self, main: DeltaTable, looked_at: set[str]) -> bool:
        """Skip the rows whose key is in a file of main that was not looked at before; tell whether there are any."""
        files = [file for file in _overlapping(main, self._bounds) if file not in looked_at]
        if not files:
            return False
        present = read_files(self._connection, files)
        present = present.filter(present.source_url.isin([bound["source_url"] for bound in self._bounds]))
        found = self.staged.semi_join(present, KEY)
        found = found.anti_join(self.skipped, ROW)
        found = self._connection.create_table(gen_name("found"), found.select(*ROW, *KEY, "sha256"))
        count = int(found.count().execute())
        if count:
            theirs = present.semi_join(found, KEY).select(*KEY, theirs="sha256")
            differing = found.join(theirs, KEY).filter(ibis._.sha256 != ibis._.theirs)
            self.conflicts += int(differing.select(*ROW).distinct().count().execute())
            self._connection.insert("skipped", found.select(*ROW))
        return count > 0

    def skipped_by_file(self) -> dict[str, int]:
        """Return path -> number of skipped rows, of each staged file that has any."""
        counts = self.skipped.group_by("filename").agg(rows=ibis._.count()).to_pyarrow()
        return dict(zip(counts["filename"].to_pylist(), counts["rows"].to_pylist(), strict=True))

    def missing(self, files: list[str] | None = None) -> ir.Table:
        """Return the staged rows that are to be inserted: all, or those of some files."""
        rows = self.staged if files is None else self.staged.filter(self.staged.filename.isin(files))
        return rows.anti_join(self.skipped, ROW)


def _overlapping(main: DeltaTable, bounds: list[dict[str, Any]]) -> list[str]:
    """Return main's files that can hold an index between a log's bounds, going by the statistics of main's log."""
    actions = pa.table(main.get_add_actions(flatten=True))
    files = files_of(main)
    statistics = ("min.source_url", "max.source_url", "min.cert_index", "max.cert_index")
    if any(name not in actions.column_names for name in statistics):
        return files
    low_url, high_url, low, high = (actions[name] for name in statistics)
    hit = pc.is_null(low)
    for bound in bounds:
        url = bound["source_url"]
        of_log = pc.and_(pc.less_equal(low_url, url), pc.greater_equal(high_url, url))
        in_range = pc.and_(pc.less_equal(low, bound["high"]), pc.greater_equal(high, bound["low"]))
        hit = pc.or_(hit, pc.fill_null(pc.and_(of_log, in_range), True))
    return [file for file, may_hold in zip(files, hit.to_pylist(), strict=True) if may_hold]
