"""Delta tables at rest: opened, created, checked, and held by one writer at a time."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from ctkit.arguments import DerForm, checked, named_alike
from ctkit.errors import ParameterError, SchemaMismatchError, TableError
from ctkit.lake.features import Verb, refused_features, unreadable_features
from ctkit.lake.locks import check_lockable, lock_folder
from ctkit.lake.reasons import first_line
from ctkit.paths import local_path
from ctkit.schema import PARTITION, AsDer, row_schema

_UNUSABLE = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]|%[0-9A-Fa-f]{2}|(?<=/)_delta_log(?![^/])")
"""What deltalake 1.6 cannot handle in the path of a local table: it refuses it, looks for another folder, or cannot
read what it has written there. Surrogates stand for bytes that are not UTF-8.
"""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
"""How a URI begins that is not relative (RFC 3986, section 3.1)."""

_processes: set[int] = set()
"""This process, if it has used deltalake, and those that did so before it was forked from them."""

_HARMLESS = {"_delta_log", "lost+found", ".DS_Store", ".gitignore", ".gitkeep", ".ipynb_checkpoints"}
"""What a folder may hold and be as good as empty; other hidden files may be those of somebody's home."""


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
        raise ParameterError(f"table {str(path)!r}: no such path can exist ({error}); correct it") from error


def _named_path(uri: str | Path) -> Path:
    text = local_path(os.fspath(uri))
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
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


@checked
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
            if path.exists() and not _HARMLESS.issuperset(os.listdir(path)):
                message = "is not a Delta table but holds other files; name a table, or an empty or a new folder"
                raise TableError(str(path), message)
            return None
        table = DeltaTable(path.as_uri())
    except (DeltaError, OSError, ValueError) as error:
        _refuse(str(path), {name: ["listed in its protocol"] for name in unreadable_features(path)}, "read")
        raise TableError(
            str(path),
            f"cannot be opened as a Delta table ({first_line(error)}); check its _delta_log, rights and features",
        ) from error
    check_features(table, "read")
    return table


@checked
def open_table(
    uri: str | Path, *, create: bool = True, like: DeltaTable | None = None, as_der: DerForm | None = None
) -> DeltaTable:
    """Open the Delta table of CT entries at `uri`; create it, and its folder, where there is none.

    Parameters
    ----------
    uri
        A path, bare or as ``file://`` URI.
    create
        False if a table that is not there is an error, because the path may be mistyped.
    like
        A table whose `as_der` type a new one takes.
    as_der
        How the table holds certificates: ``"binary"``, raw bytes, or ``"text"``, base64, which is all that older
        versions of the live server write. By default as `like`, and raw bytes without one.

    Raises
    ------
    ParameterError
        `as_der` is another word.
    SchemaMismatchError
        The table there is not one of ours, or it, or `like`, holds certificates otherwise than `as_der` says.
    TableError
        There is a table that cannot be opened, or none and `create` is False, or the folder holds other things, or its
        file system has no locks, so that none could write to it; nothing is created then.
    """
    found = find_table(uri)
    check_as_der(as_der, found, like)
    if like is not None:
        check_features(like, "read")
    if found:
        return found
    path = table_path(uri)
    if not create:
        raise TableError(str(path), f"does not exist; {named_alike(path, Path.is_dir) or 'check the path'}")
    check_lockable(path)
    try:
        schema = row_schema(as_der_type(like) if like else _AS_DER[as_der or "binary"])
        return DeltaTable.create(
            path.as_uri(),
            schema,
            mode="ignore",
            partition_by=[PARTITION],
            configuration={"delta.logRetentionDuration": LOG_RETENTION},
        )
    except (DeltaError, OSError) as error:
        raise TableError(
            str(path), f"cannot be created ({first_line(error)}); check the path and its rights"
        ) from error


LOG_RETENTION = "interval 36500 days"
"""Commits tell which rows are proven; by default, a checkpoint removes those that are older than 30 days.

`ctkit.lake.history` removes old ones after it has repeated what they say. Until then, each is a file of 1 to 3 kB in
_delta_log, and opening the table lists it: about a microsecond. deltalake knows no unit above a week, and falls back to
its default in silence.
"""


def check_schema(table: DeltaTable) -> None:
    """Refuse a table that does not hold the 20 columns, partitioned by ``seen_date``.

    Their order does not matter, nor whether they or the elements of their lists may be null: what we write never is.

    Raises
    ------
    SchemaMismatchError
        Lists everything that differs.
    """
    have = {field.name: _with_nulls(field.type) for field in pa.schema(table.schema())}
    ours = row_schema("string" if have.get("as_der") == pa.string() else "binary")
    want = {field.name: _with_nulls(field.type) for field in ours}
    wrong = [f"column {name} is missing" for name in want.keys() - have.keys()]
    wrong += [f"column {name} is not ours" for name in have.keys() - want.keys()]
    both = want.keys() & have.keys()
    wrong += [f"column {name} is {have[name]}, not {want[name]}" for name in both if have[name] != want[name]]
    wrong.sort()
    if (partition := table.metadata().partition_columns) != [PARTITION]:
        wrong.append(f"it is partitioned by {partition}, not by ['{PARTITION}']")
    if wrong:
        raise SchemaMismatchError(
            folder_of(table), f"is not a table of CT entries: {'; '.join(wrong)}; name another table"
        )


_AS_DER: dict[str, AsDer] = {"binary": "binary", "text": "string"}
"""How tables hold certificates: as parameters call it -> as Arrow does."""


def check_as_der(as_der: DerForm | None, *tables: DeltaTable | None) -> None:
    """Refuse tables that hold certificates otherwise than `as_der` says, if it says anything.

    Raises
    ------
    ParameterError
        `as_der` is another word.
    SchemaMismatchError
        Names the first table that does, and what to do.
    """
    if as_der is None:
        return
    if as_der not in _AS_DER:
        raise ParameterError(f"as_der is {as_der!r}: give 'binary' or 'text'")
    for table in filter(None, tables):
        if as_der_type(table) != _AS_DER[as_der]:
            message = f"does not hold certificates as as_der says ({as_der}); leave as_der out, or name another table"
            raise SchemaMismatchError(folder_of(table), message)


def _with_nulls(type_: pa.DataType) -> pa.DataType:
    return pa.list_(type_.value_type) if pa.types.is_list(type_) else type_


_DOINGS = {"read": "read it", "append": "append to it", "remove": "take files out of it"}


def check_features(table: DeltaTable, verb: Verb) -> None:
    """Refuse a table that is not one of ours, or demands what we do not do; see `ctkit.lake.features`.

    `find_table` and `hold` check that it can be read; a handle may also come from deltalake itself.

    Raises
    ------
    SchemaMismatchError
        As `check_schema`; or names the features.
    """
    check_schema(table)
    _refuse(folder_of(table), refused_features(table, verb), verb)


def _refuse(folder: str, found: dict[str, list[str]], verb: Verb) -> None:
    if found:
        named = "; ".join(f"{name} ({', '.join(shown)})" for name, shown in found.items())
        message = f"ctkit cannot {_DOINGS[verb]} because of {named}. Nothing was changed. Drop the feature"
        raise SchemaMismatchError(folder, f"{message}, or name another table", tuple(found))


def as_der_type(table: DeltaTable) -> AsDer:
    """Return how the table holds DER: ``"binary"`` raw, ``"string"`` as base64 text."""
    return "string" if pa.schema(table.schema()).field("as_der").type == pa.string() else "binary"


def folder_of(table: DeltaTable) -> str:
    """Return the table's absolute folder, as it is shown to people.

    Raises
    ------
    ParameterError
        It is not a table, but perhaps the path of one. Every verb asks for the folder of its tables.
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
        The table's log names a file outside of its folder, as that of a shallow clone does, or a pipe or a device.
    """
    folder = Path(folder_of(table))
    actions = pa.table(table.get_add_actions(flatten=flatten))
    outside = "Copy it to a table of its own, with deltalake"
    try:
        names = [file_name(path) for path in actions["path"].to_pylist()]
    except ValueError as error:
        raise TableError(str(folder), f"{error}. {outside}") from error
    for parent in {os.path.dirname(name) for name in names}:
        if not (folder / parent).resolve().is_relative_to(folder):
            raise TableError(str(folder), f"has files outside of its folder, by way of {parent!r}. {outside}")
        # What is missing, whoever reads it will tell.
        with suppress(FileNotFoundError), os.scandir(folder / parent) as entries:
            if odd := {os.path.join(parent, each.name) for each in entries if not each.is_file()}.intersection(names):
                message = f"has {min(odd)!r}, which is not a regular file: reading it might never end. Remove it"
                raise TableError(str(folder), message)
    return actions.set_column(actions.column_names.index("path"), "path", pa.array(names, pa.string()))


def make_folder(folder: Path) -> None:
    """Make a folder below that of a table, if it is not there.

    Raises
    ------
    OSError
        It cannot be made, or is reached by a symbolic link: what is written there would lie outside of the table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if folder.resolve() != folder:
        raise OSError(errno.ELOOP, f"a symbolic link leads to {folder.resolve()}", str(folder))


def file_name(path: str) -> str:
    """Return where the file of an action lies: a path relative to the table's folder and below it, as on the disk.

    The one way from a path in a table's log to the file system (Delta protocol, "Add File and Remove File": a URI,
    relative and percent-encoded). Absolute ones, as those of a shallow clone, are not followed.

    Raises
    ------
    ValueError
        It leads out of the table's folder, into its log, or nowhere.

    Examples
    --------
    >>> file_name("seen_date=2026-03-01/part%20one.parquet")
    'seen_date=2026-03-01/part one.parquet'
    >>> file_name("%2E%2E/precious.parquet")
    Traceback (most recent call last):
    ValueError: its log names the file '%2E%2E/precious.parquet', outside of its folder
    """
    name = PurePosixPath(unquote(path, errors="surrogateescape"))
    strange = _SCHEME.match(path) or name.is_absolute() or ".." in name.parts or "\0" in str(name)
    if strange or not name.parts or name.parts[0] == "_delta_log":
        raise ValueError(f"its log names the file {path!r}, outside of its folder")
    return str(name)


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
    gone = TableError(folder, "is no longer the table you opened; a merge may have removed it. Open it again")
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise gone from error
    try:
        lock_folder(descriptor, folder)
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
