"""Certificates by name, from an index of names."""

import re
from pathlib import Path
from typing import Literal

import ibis.expr.types as ir
from deltalake import DeltaTable

from ctkit.arguments import Count, Day, checked
from ctkit.ask.asking import KEYS, ask_index, names_between
from ctkit.ask.index import update_index
from ctkit.ask.names import check_text, folded, spellings, turned, turned_back
from ctkit.errors import ParameterError
from ctkit.lake.table import check_features

Kind = Literal["certificate", "precertificate"]


@checked
def find_names(
    main: DeltaTable,
    domain: str,
    *,
    exact: bool = False,
    within: tuple[Day | None, Day | None] | None = None,
    kind: Kind | None = None,
    limit: Count | None = None,
    index_path: str | Path | None = None,
) -> ir.Table:
    """Return the names of a domain that certificates have: its own, those below it, and wildcards.

    The answer comes from an index of names, and not from the table: it takes milliseconds, whatever the size of the
    table. Entries that the index lacks are read first: all of them the first time, which takes a minute for some ten
    million entries, afterwards those that are new. ``ctkit.certificates(main, names)`` has the entries in full.

    Parameters
    ----------
    main
        From `ctkit.open_table`; its version counts.
    domain
        As people write it: case, a dot at the end, and whether international labels are A-labels (``xn--...``) or not
        do not matter.
    exact
        Only this name: not those below it. A wildcard is a name of its own, ``*.example.com``.
    within
        Dates ``(first, end)``, `end` exclusive, between which the entry was seen (``seen_date``); None for no bound.
    kind
        ``"certificate"`` or ``"precertificate"``; both by default.
    limit
        At most this many rows, the first ones. By default all are read, which for ``"com"`` is half of the table.
    index_path
        Folder of the index, which several people and tables can share; by default it is in the user's cache, as
        ``CTKIT_CACHE`` says. It can be removed at any time.

    Returns
    -------
    ibis.Table
        A row for each name of each entry: ``name`` (in lower case, international labels as A-labels, without a dot at
        its end), ``kind``, ``seen_date``, ``source_url`` and ``cert_index``; the names of a domain stand together.

    Raises
    ------
    ParameterError
        The domain is empty, or the index can be nowhere.
    SchemaMismatchError
        The table is not one of ours, or demands of its readers what we do not do.
    TableError
        A file of the table cannot be read, or the index cannot be written.

    Examples
    --------
    >>> import tempfile, ctkit
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     main = ctkit.open_table(f"{folder}/main")
    ...     names = ctkit.find_names(main, "example.com", within=("2026-11-01", None), index_path=f"{folder}/names")
    ...     names.count().to_pyarrow().as_py()
    0
    """
    check_features(main, "read")
    first = turned(spellings("find_names: domain", domain)[0])
    end = f"{first}\0" if exact else _after(first)
    return names_between(main, index_path, first, end, within=within, kind=kind, limit=limit)


@checked
def search_names(
    main: DeltaTable,
    pattern: str,
    *,
    within: tuple[Day | None, Day | None] | None = None,
    kind: Kind | None = None,
    index_path: str | Path | None = None,
) -> ir.Table:
    """Return the names like a pattern that certificates have.

    All names of the index are looked at, or those that end like the pattern: ``*-login.example.com`` takes less time
    than ``*login*``.

    Parameters
    ----------
    main, within, kind, index_path
        As for `find_names`.
    pattern
        A name with ``*`` for any characters, dots too, or none, and ``?`` for one; without them, exactly that name. In
        a label with either of them, write international characters as they are in its A-label.

    Returns
    -------
    ibis.Table
        As from `find_names`.

    Raises
    ------
    ParameterError, SchemaMismatchError, TableError
        As `find_names`.

    Examples
    --------
    >>> import tempfile, ctkit
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     main = ctkit.open_table(f"{folder}/main")
    ...     ctkit.search_names(main, "*paypa?*", index_path=f"{folder}/names").count().to_pyarrow().as_py()
    0
    """
    check_features(main, "read")
    check_text("search_names: pattern", pattern)
    if mixed := [label for label in pattern.split(".") if not label.isascii() and re.search("[*?]", label)]:
        message = f"search_names: pattern: {mixed[0]!r} has both a wildcard and characters that are not ASCII"
        raise ParameterError(f"{message}; write the label as an A-label (xn--...)")
    literal, *rest = re.split("([*?])", turned(folded(pattern)))
    expression = re.escape(literal) + "".join({"*": ".*", "?": "."}.get(each, re.escape(each)) for each in rest)

    def like_pattern(names: ir.Table) -> ir.Table:
        alike = names.name.re_search(f"(?s)^{expression}$")
        names = names.filter(_begins(names.name, literal), alike) if literal else names.filter(alike)
        return _answer(names if kind is None else names.filter(names.kind == kind))

    return ask_index(main, index_path, like_pattern, within)


@checked
def index_names(main: DeltaTable, *, index_path: str | Path | None = None) -> int:
    """Bring the index of names up to date, so that the next `find_names` need not; return how many names it has.

    It reads the names of the entries that are new; what it has done stays if it is interrupted.

    Parameters
    ----------
    main, index_path
        As for `find_names`.

    Raises
    ------
    ParameterError, SchemaMismatchError, TableError
        As `find_names`.

    Examples
    --------
    >>> import tempfile, ctkit
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ctkit.index_names(ctkit.open_table(f"{folder}/main"), index_path=f"{folder}/names")
    0
    """
    check_features(main, "read")
    return sum(sum(run.names) for run in update_index(main, index_path))


def _begins(name: ir.StringColumn, text: str) -> ir.BooleanColumn:
    """Tell of names whether they begin like a text of ASCII, by a range, for which files are skipped."""
    return (name >= text) & (name < _after(text))


def _after(text: str) -> str:
    """Return the first text after all that begin like a text of ASCII."""
    return text[:-1] + chr(ord(text[-1]) + 1)


def _answer(names: ir.Table) -> ir.Table:
    # An entry may have the same name in several spellings.
    names = names.select("name", "kind", "seen_date", "source_url", "cert_index").distinct().order_by(KEYS)
    return names.mutate(name=turned_back(names.name))
