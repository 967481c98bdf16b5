"""Every question that ctkit asks a table, as an ibis expression over tables of rows.

An expression is lazy, and any backend of ibis can answer it: DuckDB, which ctkit brings (`ctkit.rows_of`), or the Spark
or Trino of a table that has outgrown one machine. Rows have the 20 columns of `ctkit.schema`, or as many of them as the
question names. Where it needs the place of a row, they also have ``file_index`` and ``file_row_number``, which
`ctkit.lake.querying.define_rows` adds.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add

import ibis
import ibis.expr.types as ir

from ctkit.schema import KEY, row_schema

_PLACE = ("file_index", "file_row_number")

# A preview shows no certificates.
_SAMPLED = [*KEY, "update_type", "seen", "all_domains", "issuer_aggregated"]

# When a row was seen, and how its log is called, is up to whoever wrote it.
_FREE = (*KEY, "seen", "seen_date", "source_name", "cert_link")
COMPARED = [name for name in row_schema().names if name not in _FREE]
"""The columns that a row and its log's entry must have in common."""

_NEVER_NULL = ("seen", "source_name")
"""Columns of which a row may have any value, but must have one."""


def _select(rows: ir.Table, *names: str) -> ir.Table:
    """Select columns of text and whole numbers, as such: some writers do not note what is text, which is bytes then."""
    rows = rows.select(*names)
    return rows.cast({name: "string" for name, kind in rows.schema().items() if kind.is_binary()})


def covered_runs(rows: ir.Table, stretches: Mapping[str, tuple[int, int]]) -> ir.Table:
    """Return which indices have a row: ``source_url, start, end``, half-open, ascending; no two runs touch.

    The engine works the runs out, and only they come back.

    Parameters
    ----------
    rows
        Any number of them under one key; a row without a key counts for nothing.
    stretches
        URL -> ``[start, end)`` that is asked about.

    Examples
    --------
    >>> rows = ibis.memtable({"source_url": ["u"] * 4, "cert_index": [7, 2, 3, 3]})
    >>> covered_runs(rows, {"u": (0, 7)}).to_pyarrow().to_pylist()
    [{'source_url': 'u', 'start': 2, 'end': 4}]
    """
    # Of no log, because a CASE must have a branch.
    asked = {"": (0, 0), **stretches}
    starts, ends = zip(*asked.values(), strict=True)
    keys = _select(rows, *KEY)
    keys = keys.filter(
        # By these an engine leaves out files and row groups, which it cannot by a CASE.
        keys.source_url.isin(list(asked)),
        keys.cert_index.between(min(starts), max(ends)),
        keys.cert_index >= keys.source_url.cases(*zip(asked, starts, strict=True)),
        keys.cert_index < keys.source_url.cases(*zip(asked, ends, strict=True)),
    )
    keys = keys.mutate(cert_index=keys.cert_index.cast("int64"))
    # From row to row of a run, the index and the number of indices before it grow alike ("gaps and islands").
    number = ibis.dense_rank().over(group_by=keys.source_url, order_by=keys.cert_index)
    keys = keys.mutate(run=keys.cert_index - number)
    runs = keys.group_by("source_url", "run").agg(start=keys.cert_index.min(), end=keys.cert_index.max() + 1)
    return runs.select("source_url", "start", "end").order_by("source_url", "start")


def known_keys(staged: ir.Table, main: ir.Table) -> ir.Table:
    """Return which staged keys main has already, each once: ``source_url, cert_index``.

    A merge would skip their rows.

    Examples
    --------
    >>> staged, main = (ibis.memtable({"source_url": "u", "cert_index": index}) for index in ([2, 3, 3], [3, 4]))
    >>> known_keys(staged, main).to_pyarrow().to_pylist()
    [{'source_url': 'u', 'cert_index': 3}]
    """
    return _select(staged, *KEY).distinct().semi_join(_select(main, *KEY), KEY)


def rows_by_log(rows: ir.Table) -> ir.Table:
    """Return how much of each log there is: ``source_url, rows, keys, first_index, last_index``, ascending by URL.

    Where there are more rows than keys, some are repeated.
    """
    keys = _select(rows, *KEY)
    counted = keys.group_by("source_url").agg(
        rows=keys.count(),
        keys=keys.cert_index.nunique(),
        first_index=keys.cert_index.min(),
        last_index=keys.cert_index.max(),
    )
    return counted.order_by("source_url")


def source_names(rows: ir.Table) -> ir.Table:
    """Return how logs are called that have a name other than their URL: ``source_url, name``."""
    named = _select(rows, "source_url", "source_name")
    named = named.filter(named.source_name != named.source_url)
    return named.group_by("source_url").agg(name=named.source_name.max())


def stretches_by_file(rows: ir.Table) -> ir.Table:
    """Return between which indices each file has rows of each log: ``source_url, start, end, rows``.

    Parameters
    ----------
    rows
        With their places.
    """
    rows = _select(rows, *KEY, "file_index")
    rows = rows.filter(rows.cert_index >= 0)
    found = rows.group_by("source_url", "file_index").agg(
        start=rows.cert_index.min(), end=rows.cert_index.max() + 1, rows=rows.count()
    )
    return found.drop("file_index")


def merge_summary(staged: ir.Table, skipped: ir.Table) -> ir.Table:
    """Return what a merge would do, by log and day, in their order.

    Parameters
    ----------
    staged
        Rows, with their places.
    skipped
        Places of the rows that would not be inserted, each once.

    Returns
    -------
    ibis.Table
        Columns ``source_url, source_name, seen_date, first_index, last_index, rows, inserted, skipped``.
    """
    rows = staged.select(*KEY, "source_name", "seen_date", *_PLACE).left_join(skipped.mutate(is_skipped=True), _PLACE)
    summary = rows.group_by("source_url", "source_name", "seen_date").agg(
        first_index=rows.cert_index.min(),
        last_index=rows.cert_index.max(),
        rows=rows.count(),
        inserted=rows.count() - rows.is_skipped.count(),
        skipped=rows.is_skipped.count(),
    )
    return summary.order_by("source_url", "seen_date", "source_name")


def merge_sample(staged: ir.Table, skipped: ir.Table, count: int) -> ir.Table:
    """Return the first rows by key that a merge would insert, without certificates; see `merge_summary`."""
    return staged.anti_join(skipped, _PLACE).select(_SAMPLED).order_by(*KEY).limit(count)


def differing_pairs(pairs: ir.Table, staged: ir.Table, others: ir.Table) -> ir.Table:
    """Return which pairs of rows are not of one certificate: ``pair``.

    Parameters
    ----------
    pairs
        A number, ``pair``; the place of its staged row, ``own, row``, and of the other, ``other, other_row``.
    staged, others
        Rows, with their places.
    """
    own, other = (_select(rows, *_PLACE, "sha256") for rows in (staged, others))
    own = own.rename(own="file_index", row="file_row_number", own_sha256="sha256")
    other = other.rename(other="file_index", other_row="file_row_number", other_sha256="sha256")
    both = pairs.join(own, ("own", "row")).join(other, ("other", "other_row"))
    return both.filter(both.own_sha256 != both.other_sha256).select("pair")


def differences(rows: ir.Table, expected: ir.Table, url: str, *, first: int, last: int) -> ir.Table:
    """Return by what rows of a log differ from its entries: ``cert_index, columns``, ascending; "" where by nothing.

    Parameters
    ----------
    rows
        Of a table.
    expected
        `COMPARED` and ``cert_index`` of rows as they should be, and what their ``cert_link`` may be:
        ``get_entries_url`` or ``data_tile_url``. Where the chain is null, any will do.
    url, first, last
        The log, and which of its indices are compared, both inclusive.
    """
    rows = rows.select(*KEY, *_NEVER_NULL, "cert_link", *COMPARED)
    rows = rows.filter(rows.source_url.cast("string") == url, rows.cert_index.between(first, last))
    # Text is compared as bytes where a writer did not note that it is text.
    types = {name: rows[name].type() for name in COMPARED}
    expected = expected.cast({name: type_ for name, type_ in types.items() if not type_.is_integer()})
    both = rows.join(expected.rename("expected_{name}"), rows.cert_index == expected.cert_index)
    differs = {name: ~both[name].identical_to(both[f"expected_{name}"]) for name in COMPARED}
    differs |= {name: both[name].isnull() for name in _NEVER_NULL}
    differs["chain"] &= both.expected_chain.notnull()
    differs["cert_link"] = ~both.cert_link.cast("string").isin(
        [both.expected_get_entries_url, both.expected_data_tile_url]
    )
    # Without the first comma.
    columns = reduce(add, (ibis.ifelse(each, f", {name}", "") for name, each in differs.items())).substr(2)
    return both.select("cert_index", columns=columns).order_by("cert_index")


def counts_of_kinds(rows: ir.Table) -> ir.Table:
    """Return how many rows are alike: ``seen_date, update_type, issuer_aggregated, is_unreadable, rows``.

    One reading of four narrow columns; `rows_by` asks the answer, which is small, for each of them.
    """
    kinds = _select(rows, "seen_date", "update_type", "issuer_aggregated", "signature_algorithm")
    # Other writers may have null where we have no text: to a reader both are one.
    kinds = kinds.mutate(**{name: kinds[name].cast("string").fill_null("") for name in kinds.columns})
    kinds = kinds.mutate(is_unreadable=kinds.signature_algorithm == "").drop("signature_algorithm")
    return kinds.group_by(kinds.columns).agg(rows=kinds.count())


def rows_by(counts: ir.Table, name: str) -> ir.Table:
    """Return a column of `counts_of_kinds` and its ``rows``, most rows first."""
    counted = counts.group_by(name).agg(rows=counts.rows.sum().cast("int64"))
    return counted.order_by(counted.rows.desc(), name)


def rows_about(rows: ir.Table, text: str) -> ir.Table:
    """Return keys and places of the rows with `text` in a domain or the issuer, whatever the case of its letters.

    Examples
    --------
    >>> rows = ibis.memtable({"source_url": "u", "cert_index": [2, 3], "file_index": 0, "file_row_number": [0, 1]})
    >>> rows = rows.mutate(all_domains=ibis.array(["a.example"]), issuer_aggregated=rows.cert_index.cast(str))
    >>> [rows_about(rows, text).count().to_pyarrow().as_py() for text in ("A.EXAM", "3")]
    [2, 1]
    """
    # One text, as a test of each element would be another function in every engine.
    domains = rows.all_domains.cast("array<string>").join("\n").lower()
    issuer = rows.issuer_aggregated.cast("string").lower()
    wanted = ibis.literal(text).lower()
    return _select(rows.filter(domains.contains(wanted) | issuer.contains(wanted)), *KEY, *_PLACE)


def rows_of_issuers(rows: ir.Table, issuers: ir.Table) -> ir.Table:
    """Return keys and places of the rows of exactly these issuers; "" stands for none, as in `counts_of_kinds`.

    Parameters
    ----------
    issuers
        ``issuer_aggregated``, each once: a table, as text that is part of a question cannot have every character.
    """
    rows = rows.mutate(issuer_aggregated=rows.issuer_aggregated.cast("string").fill_null(""))
    return _select(rows.semi_join(issuers, "issuer_aggregated"), *KEY, *_PLACE)


def places_in_order(rows: ir.Table, start: int, count: int) -> ir.Table:
    """Return keys and places of some rows, by the order of keys: ``source_url, cert_index`` and the place."""
    return _select(rows, *KEY, *_PLACE).order_by(*KEY, *_PLACE).limit(count, offset=start)


def rows_of_key(rows: ir.Table, url: str, index: int) -> ir.Table:
    """Return keys and places of the rows of one entry; there may be several, which need not agree."""
    return _select(rows.filter(rows.source_url.cast("string") == url, rows.cert_index == index), *KEY, *_PLACE)


def rows_at(rows: ir.Table, places: ir.Table, names: Sequence[str], *, first: int | None, last: int | None) -> ir.Table:
    """Return some columns of the rows at places, and where each is, by the order of keys.

    Parameters
    ----------
    places
        ``file_index, file_row_number``, each once.
    names
        The columns.
    first, last
        The lowest and the highest index at these places: by these an engine leaves out files and row groups. None if
        one of the rows has no index.
    """
    near = rows if first is None else rows.filter(rows.cert_index.between(first, last))
    near = near.select(*names, *_PLACE)
    return near.semi_join(places, _PLACE).order_by(*KEY, *_PLACE)
