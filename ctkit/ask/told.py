"""What a watch has told: a small Delta table, so that each name is told once."""

import ibis.expr.types as ir
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError

from ctkit.errors import ParameterError, TableError
from ctkit.lake.querying import define_table
from ctkit.lake.reasons import first_line
from ctkit.lake.table import folder_of, table_path

TIME = pa.timestamp("us", tz="UTC")
TOLD = pa.schema(
    [
        ("watched", pa.string()),
        ("name", pa.string()),
        ("reason", pa.string()),
        ("first_seen", TIME),
        ("key", pa.string()),
        ("told", TIME),
    ]
)
"""A row for each name of each domain or brand that was told."""


def find_told(path: str) -> DeltaTable | None:
    """Open the table of what was told, or return None where there is none.

    Raises
    ------
    ParameterError
        There is another table, or other things.
    TableError
        There is one that cannot be opened.
    """
    folder = table_path(path)
    try:
        if folder.is_file() or not DeltaTable.is_deltatable(folder.as_uri()):
            # Its lock is there before the table is.
            others = folder.is_file() or (folder.exists() and {path.name for path in folder.iterdir()} - {"_delta_log"})
            if others:
                message = f"told_path {str(folder)!r} is there and is no table; name an empty or a new folder"
                raise ParameterError(message, keys=("told_path",))
            return None
        table = DeltaTable(folder.as_uri())
    except (DeltaError, OSError) as error:
        raise TableError(str(folder), f"cannot be opened as a Delta table ({first_line(error)}); check it") from error
    if {field.name: field.type for field in pa.schema(table.schema())} != dict(
        zip(TOLD.names, TOLD.types, strict=True)
    ):
        message = f"told_path {str(folder)!r} is another table, not one of what was told; name a new folder"
        raise ParameterError(message, keys=("told_path",))
    return table


def without_told(names: ir.Table, told: DeltaTable | None) -> ir.Table:
    """Return the rows of names that were not told yet, by ``watched`` and ``name``.

    Raises
    ------
    TableError
        What was told cannot be read.
    """
    if told is None:
        return names
    try:
        known = pa.table(told.scan()).select(["watched", "name"])
    except (DeltaError, OSError, pa.ArrowException) as error:
        message = f"cannot be read ({first_line(error)}); restore it, or remove it: then everything is told again"
        raise TableError(folder_of(told), message) from error
    return names.anti_join(define_table(names.get_backend(), "told", known), ("watched", "name"))


def append_told(path: str, rows: pa.Table) -> None:
    """Append rows of `TOLD` to the table.

    Raises
    ------
    TableError
        It cannot be written.
    """
    folder = table_path(path)
    try:
        write_deltalake(folder.as_uri(), rows.cast(TOLD), mode="append")
    except (DeltaError, OSError) as error:
        message = f"what was told cannot be written ({first_line(error)}); it will be told again"
        raise TableError(str(folder), message) from error
