"""Delta tables at rest: opened, created, read as one ibis table, and held by one writer at a time."""

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from ctkit.errors import ParameterError, SchemaMismatchError, TableError
from ctkit.schema import PARTITION, AsDer, row_schema

_UNUSABLE = re.compile(r"[\[\]^|\\]|%[0-9A-Fa-f]{2}")
"""What deltalake 1.6 cannot have in the path of a local table: it panics, or looks for another folder."""

_processes: set[int] = set()
"""This process, if it has used deltalake, and those that did so before it was forked from them."""

_NO_LINKS = re.compile(r"Unable to rename file: .*\(os error (1|38|95)\)")
"""What deltalake says where the file system has no hard links, with which it commits: EPERM, ENOSYS, EOPNOTSUPP."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def table_path(uri: str | Path) -> Path:
    """Return the absolute folder that a bare path or a ``file://`` URI names; symbolic links are followed.

    Raises
    ------
    ParameterError
        The URI is of another scheme, or there can be no such path, or it holds characters that deltalake cannot use.

    Examples
    --------
    >>> table_path("file:///data/main/").as_posix()
    '/data/main'
    """
    return _resolved(_named_path(uri))


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        # A circle of symbolic links, a NUL.
        raise ParameterError(f"table {str(path)!r}: there can be no such path ({error}); correct it") from error


def _named_path(uri: str | Path) -> Path:
    text = os.fspath(uri)
    if text.startswith("file://"):
        parts = urlsplit(text)
        # The live server's configuration has relative paths in this form: file://./data/main.
        text = unquote((parts.netloc if parts.netloc != "localhost" else "") + parts.path)
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise ParameterError(f"table {text!r}: only local tables are supported; give a path or a file:// URI")
    if not text.strip():
        raise ParameterError("a table's path is empty; give the path of a folder")
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise ParameterError(f"table {text!r}: {error}; write the home folder out") from error
    if found := _UNUSABLE.search(str(_resolved(path))):
        raise ParameterError(f"table {text!r}: deltalake cannot use a path with {found[0]!r} in it; rename the folder")
    return path


def check_separate(staging: str | Path, main: str | Path) -> None:
    """Refuse a staging table that is main, or where one of the two lies inside the other.

    A staging path that is a symbolic link is refused too: a merge deletes staging, and never through a link.

    Raises
    ------
    ParameterError
        Under whatever spelling (relative, ``..``, symbolic link, ``file://``, letter case where the file system
        ignores it) the two share a folder.
    """
    below, above = table_path(staging), table_path(main)
    for inner, outer in ((below, above), (above, below)):
        for folder in (inner, *inner.parents):
            if folder == outer or (folder.exists() and outer.exists() and folder.samefile(outer)):
                relation = "is main itself" if inner == outer or folder == inner else "and main lie inside each other"
                raise ParameterError(
                    f"staging {str(staging)!r} {relation} (main is {str(main)!r}); "
                    "give staging_path a folder of its own, outside of main"
                )
    if _named_path(staging).is_symlink():
        raise ParameterError(f"staging {str(staging)!r} is a symbolic link; name the folder itself: {below}")


def find_table(uri: str | Path) -> DeltaTable | None:
    """Open the Delta table of CT entries at `uri`, or return None where there is none.

    Raises
    ------
    SchemaMismatchError
        The table there is not one of ours.
    TableError
        There is a table that cannot be opened, or the folder holds other things.
    """
    path = table_path(uri)
    try:
        _check_process(path)
        if path.exists() and not path.is_dir():
            raise TableError(str(path), "is a file, not the folder of a table; name a folder")
        if not DeltaTable.is_deltatable(path.as_uri()):
            if path.exists() and any(not name.startswith(("_delta_log", ".")) for name in os.listdir(path)):
                message = "is not a Delta table but holds other files; name a table, or an empty or a new folder"
                raise TableError(str(path), message)
            return None
        table = DeltaTable(path.as_uri())
    except (DeltaError, OSError) as error:
        raise TableError(
            str(path),
            f"cannot be opened as a Delta table ({first_line(error)}); look at its _delta_log, and at its rights",
        ) from error
    check_schema(table)
    return table


def open_table(uri: str | Path, *, like: DeltaTable | None = None) -> DeltaTable:
    """Open the Delta table of CT entries at `uri`; create it, and its folder, where there is none.

    Parameters
    ----------
    uri
        A path, bare or as ``file://`` URI.
    like
        A table whose `as_der` type a new one takes; raw bytes otherwise.

    Raises
    ------
    SchemaMismatchError
        The table there is not one of ours.
    TableError
        There is a table that cannot be opened, or the folder holds other things.
    """
    if table := find_table(uri):
        return table
    path = table_path(uri)
    try:
        schema = row_schema(as_der_type(like) if like else "binary")
        return DeltaTable.create(path.as_uri(), schema, mode="ignore", partition_by=[PARTITION])
    except (DeltaError, OSError) as error:
        raise TableError(
            str(path), f"cannot be created ({first_line(error)}); check the path and its rights"
        ) from error


def check_schema(table: DeltaTable) -> None:
    """Refuse a table that does not hold the 20 columns, partitioned by ``seen_date``, or needs newer reader features.

    Raises
    ------
    SchemaMismatchError
        Lists everything that differs.
    """
    have = {field.name: field.type for field in pa.schema(table.schema())}
    want = {field.name: field.type for field in row_schema("string" if have.get("as_der") == pa.string() else "binary")}
    wrong = [f"column {name} is missing" for name in want.keys() - have.keys()]
    wrong += [f"column {name} is not ours" for name in have.keys() - want.keys()]
    both = want.keys() & have.keys()
    wrong += [f"column {name} is {have[name]}, not {want[name]}" for name in both if have[name] != want[name]]
    wrong.sort()
    if (partition := table.metadata().partition_columns) != [PARTITION]:
        wrong.append(f"it is partitioned by {partition}, not by ['{PARTITION}']")
    protocol = table.protocol()
    if protocol.min_reader_version > 1:
        features = f" with the features {sorted(protocol.reader_features)}" if protocol.reader_features else ""
        wrong.append(f"it needs readers of version {protocol.min_reader_version}{features}")
    if wrong:
        raise SchemaMismatchError(
            folder_of(table), f"is not a table of CT entries: {'; '.join(wrong)}; name another table"
        )


def as_der_type(table: DeltaTable) -> AsDer:
    """Return how the table holds DER: ``"binary"`` raw, ``"string"`` as base64 text."""
    return "string" if pa.schema(table.schema()).field("as_der").type == pa.string() else "binary"


def folder_of(table: DeltaTable) -> str:
    """Return the table's absolute folder, as it is shown to people.

    Raises
    ------
    ParameterError
        It is no table, but perhaps the path of one. Every verb asks for the folder of its tables.
    TableError
        This process was forked from one that has used tables.
    """
    if not isinstance(table, DeltaTable):
        raise ParameterError(f"{table!r} is not an open table: give ctkit.open_table({table!r})")
    folder = table_path(table.table_uri)
    _check_process(folder)
    return str(folder)


def _check_process(folder: Path) -> None:
    """Refuse to go on in a forked child: deltalake's threads stayed with its parent, and it would panic."""
    _processes.add(os.getpid())
    if len(_processes) > 1:
        message = "cannot be used in a process that was forked from one which has used tables; start it with the method"
        raise TableError(str(folder), f"{message} 'spawn' or 'forkserver' of multiprocessing")


def files_of(table: DeltaTable) -> list[str]:
    """Return the absolute paths of the Parquet files of the table's version.

    ``DeltaTable.file_uris`` is not used: it percent-encodes the table's own folder, so that the files of a table
    below ``my tables/`` are not found under the paths that it returns.

    Raises
    ------
    TableError
        As `add_actions`.
    """
    folder = folder_of(table)
    return [f"{folder}/{name}" for name in add_actions(table)["path"].to_pylist()]


def add_actions(table: DeltaTable, *, flatten: bool = False) -> pa.Table:
    """Return `DeltaTable.get_add_actions` of the table's version, the paths as they are on the disk.

    Raises
    ------
    TableError
        The table's log names a file outside of its folder, as that of a shallow clone does.
    """
    folder = Path(folder_of(table))
    actions = pa.table(table.get_add_actions(flatten=flatten))
    names = [unquote(path) for path in actions["path"].to_pylist()]
    for parent in {os.path.dirname(name) for name in names}:
        if not (folder / parent).resolve().is_relative_to(folder):
            message = f"names files outside of its folder ({parent}); copy it to a table of its own"
            raise TableError(str(folder), message)
    return actions.set_column(actions.column_names.index("path"), "path", pa.array(names, pa.string()))


@contextmanager
def reading(*tables: DeltaTable | None) -> Iterator[ibis.BaseBackend]:
    """Connect ibis to a DuckDB of our own, to ask the given tables; see `querying`."""
    with querying(*tables) as connection:
        yield ibis.duckdb.from_connection(connection)


@contextmanager
def querying(*tables: DeltaTable | None, **settings: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """Connect to a DuckDB of our own, to read the given tables; it lives in memory and spills to a temporary folder.

    Parameters
    ----------
    tables
        Whom errors of reading are about; None stands for a table that does not exist.
    settings
        DuckDB's, such as ``memory_limit="512MB"``.

    Raises
    ------
    TableError
        A file of the tables cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="ctkit-") as spill:
        # DuckDB would make a folder .tmp below the current directory, which a scheduler may not be allowed to write.
        connection = duckdb.connect(config={"temp_directory": spill, **settings})
        try:
            yield connection
        except RuntimeError as error:
            # What DuckDB makes of Ctrl+C.
            if "interrupted" in str(error).lower():
                raise KeyboardInterrupt from error
            raise
        except duckdb.Error as error:
            folders = [folder_of(table) for table in tables if table]
            named = next((folder for folder in folders if folder in str(error)), " or ".join(folders))
            message = f"a file of it cannot be read ({first_line(error)}); nothing was changed: mend it and run again"
            raise TableError(named, message) from error
        finally:
            connection.close()


def read_tables(connection: ibis.BaseBackend, *tables: DeltaTable | None) -> ir.Table:
    """Return the rows of all given tables, together, as one lazy ibis table; None stands for a table without rows.

    Columns of different type (`as_der`) are not reconciled: select what is asked before it is executed.
    """
    files = [file for table in tables if table for file in files_of(table)]
    name = ibis.util.gen_name("rows")
    define_rows(connection.con, name, files)
    return connection.table(name)


def define_rows(connection: duckdb.DuckDBPyConnection, view: str, files: list[str], *, numbered: bool = False) -> None:
    """Define a view of the rows in Parquet files of our tables.

    Parameters
    ----------
    view
        Its name; one that is there is replaced.
    files
        Their paths; without any the view has no rows.
    numbered
        Add the columns ``file_index``, the position in `files`, and ``file_row_number``, which together name a row.
    """
    if not files:
        rows = row_schema().empty_table()
        for name in ("file_index", "file_row_number") if numbered else ():
            rows = rows.append_column(name, pa.array([], pa.int64()))
        connection.register(view, rows)
        return
    # DuckDB takes each path for a pattern. A variable takes a hundred thousand of them where SQL text would not.
    patterns = [re.sub(r"[*?]", r"[\g<0>]", file) for file in files]
    connection.execute(f"SET VARIABLE files_of_{view} = $files", {"files": patterns})
    # Not hive_partitioning: it would also take folders above the table, such as env=prod, for columns.
    date = rf"regexp_extract(filename, '{PARTITION}=([^/]*)/[^/]*$', 1) AS {PARTITION}"
    connection.execute(
        f"CREATE OR REPLACE VIEW {view} AS SELECT * EXCLUDE (filename), {date}{', file_index' if numbered else ''} "
        f"FROM read_parquet(getvariable('files_of_{view}'), hive_partitioning = false, filename = true, "
        f"file_row_number = {numbered})"
    )


def source_names(*tables: DeltaTable | None) -> dict[str, str]:
    """Return source URL -> ``source_name`` as the tables have it, for every log that has a name other than its URL."""
    with reading(*tables) as connection:
        rows = read_tables(connection, *tables)
        rows = rows.filter(rows.source_name != rows.source_url)
        names = rows.group_by("source_url").agg(name=rows.source_name.max()).to_pyarrow()
    return dict(zip(names["source_url"].to_pylist(), names["name"].to_pylist(), strict=True))


@contextmanager
def hold(table: DeltaTable) -> Iterator[DeltaTable]:
    """Hold the table against other runs of ctkit for as long as the context lasts; readers are not kept out.

    The lock lies on the folder itself and dies with its process, so nothing is left to clean up. What is yielded is the
    table as it is on the disk now: the handle may be of a time long ago.

    Raises
    ------
    SchemaMismatchError
        The table has become one that is not ours.
    TableError
        Another run holds it, or it is gone, or another table is in its place.
    """
    folder = folder_of(table)
    gone = TableError(folder, "is not the table any more that was opened; a merge may have removed it: open it anew")
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise gone from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = "is being written by another run of ctkit; wait until that has ended, then run again"
            raise TableError(folder, message) from None
        except OSError as error:
            message = (
                f"cannot be locked: its file system refuses flock() of a folder ({error.strerror}); keep it on another"
            )
            raise TableError(folder, message) from error
        held = find_table(folder)
        if (
            held is None
            or held.metadata().id != table.metadata().id
            or not os.path.samestat(os.fstat(descriptor), os.stat(folder))
        ):
            raise gone
        yield held
    finally:
        os.close(descriptor)


def first_line(error: Exception) -> str:
    r"""Return the first line of an error's message, without the colours that deltalake puts into it.

    The causes that deltalake puts below that line are part of it.

    Examples
    --------
    >>> first_line(OSError("Generic error\n \x1b[31m↳\x1b[0m Permission denied\n"))
    'Generic error: Permission denied'
    """
    line, *more = (_COLOUR.sub("", str(error)).strip() or type(error).__name__).splitlines()
    told = ": ".join([line, *(cause[1:].strip() for cause in map(str.strip, more) if cause.startswith("↳"))])
    return f"{told}: deltalake needs a file system with hard links" if _NO_LINKS.search(told) else told
