"""What was verified of rows, remembered in the metadata of the commit that wrote them."""

import base64
import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
from deltalake import DeltaTable

from ctkit.arguments import Verify
from ctkit.lake.commits import commit_info, files_added, kept_commits
from ctkit.lake.digests import digest_in
from ctkit.lake.overlap import MEMORY
from ctkit.lake.table import files_of, folder_of
from ctkit.ranges import LARGEST_TREE, NOTHING, Int64s, RangeSet
from ctkit.visible import get_logger

logger = get_logger(__name__)

_HASH_SIZE = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Provenance:
    """What one commit says of the rows of one log that it wrote.

    It speaks of those rows only, not of everything in ``[start, end)``. Where several records of a commit span an
    index, all of them speak of its row: it is proven if each of them says so.

    Attributes
    ----------
    source_url
        The log.
    start, end
        The indices of the rows lie in ``[start, end)``.
    rows
        How many rows were written so. A merge takes over what staging's commits say; the rows that it leaves out,
        because main has them or staging repeats them, still count.
    tree_size, root_hash
        The tree head that counted then; 0 and ``b""`` if none did.
    verified
        ``"entries"``: every row is proven to be under that root; ``"heads"``: only the tree head itself was verified;
        ``"off"``: nothing was.
    signed
        Whether the tree head's signature held; False also where the log's key was not known.

    Raises
    ------
    ValueError
        The parts do not go together.
    """

    source_url: str
    start: int
    end: int
    rows: int
    tree_size: int
    root_hash: bytes
    verified: Verify
    signed: bool

    def __post_init__(self) -> None:
        numbers = (self.end, self.rows, self.tree_size)
        if not 0 <= self.start < self.end or self.rows < 1 or self.tree_size < 0 or max(numbers) > LARGEST_TREE:
            raise ValueError(f"[{self.start}, {self.end}) with {self.rows} rows of {self.tree_size} cannot be")
        if self.verified not in ("off", "heads", "entries"):
            raise ValueError(f"verified is {self.verified!r}")
        if len(self.root_hash) != (_HASH_SIZE if self.tree_size else 0):
            raise ValueError(f"a root hash of {len(self.root_hash)} bytes with a tree of {self.tree_size} entries")
        if self.tree_size < {"off": 0, "heads": 1, "entries": self.end}[self.verified]:
            raise ValueError(f"a tree of {self.tree_size} entries proves nothing up to {self.end}")


# Commit metadata: one JSON list under each key, with one element for each record; root_hash in base64.
_KEYS = {field.name: f"ctkit.{field.name}" for field in fields(Provenance)}
_JSON_TYPES = {
    "source_url": str,
    "start": int,
    "end": int,
    "rows": int,
    "tree_size": int,
    "root_hash": str,
    "verified": str,
    "signed": bool,
}


def metadata_of(records: Sequence[Provenance]) -> dict[str, str]:
    """Return records as the metadata of a commit, for ``deltalake.CommitProperties``; nothing for none.

    Examples
    --------
    >>> record = Provenance("https://ct.example.com/2026h2", 5, 9, 3, 100, bytes(32), "heads", signed=True)
    >>> metadata = metadata_of([record, record])
    >>> metadata["ctkit.source_url"], metadata["ctkit.start"], metadata["ctkit.signed"]
    ('["https://ct.example.com/2026h2", "https://ct.example.com/2026h2"]', '[5, 5]', '[true, true]')
    """
    if not records:
        return {}
    columns = {name: [getattr(record, name) for record in records] for name in _KEYS}
    columns["root_hash"] = [base64.b64encode(root_hash).decode() for root_hash in columns["root_hash"]]
    return {_KEYS[name]: json.dumps(values) for name, values in columns.items()}


class Statement(NamedTuple):
    """What one commit says of the rows that it wrote.

    Attributes
    ----------
    version
        The commit's.
    records
        What it says; nothing, if it is somebody else's.
    files
        Absolute paths of the files that the commit added; later commits may have taken some out again. Where the commit
        is gone, and a later one repeats what it said, those that the table had then.
    known
        Versions ``[start, end)`` of commits that this one repeats, as far as they spoke of files that the table had.
    """

    version: int
    records: tuple[Provenance, ...]
    files: frozenset[str]
    known: tuple[tuple[int, int], ...] = ()


def read_statements(table: DeltaTable, about: Collection[str] | None = None) -> list[Statement]:
    """Return what each commit says that the table's log still has, or a later one repeats, by version, ascending.

    A commit whose records cannot be read says nothing, and a warning names it: commits cannot be repaired, and the rows
    that it wrote are merely not proven.

    Parameters
    ----------
    about
        Paths of files, if no others matter: no more commits are read, from the newest one back, than speak of them.

    Raises
    ------
    TableError
        A commit cannot be read at all, or the table is another one by now.
    """
    folder = folder_of(table)
    unsaid = None if about is None else set(filter(digest_in, about))
    found: dict[int, Statement] = {}
    for version, actions in kept_commits(table, newest_first=about is not None):
        if unsaid is not None and not unsaid:
            break
        info = commit_info(actions)
        records: Sequence[Provenance] = ()
        repeated: Sequence[Statement] = ()
        known: tuple[tuple[int, int], ...] = ()
        try:
            records = _decode(info) if _KEYS.values() & info.keys() else ()
            if REPEATED in info:
                known, repeated = _read_repeated(info[REPEATED], folder)
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            logger.warning(
                "commit has ctkit.* metadata that cannot be read, its rows are not proven "
                "table=%s version=%d reason=%r",
                folder,
                version,
                error,
            )
        files = frozenset(f"{folder}/{name}" for name in files_added(actions))
        for said in (Statement(version, tuple(records), files, known), *repeated):
            if said.version in found:
                said = said._replace(files=said.files | found[said.version].files)
            found[said.version] = said
            if unsaid is not None and said.records:
                unsaid -= said.files
    return sorted(found.values())


REPEATED = "ctkit.repeated"
"""Commit metadata: what earlier commits said, as JSON; app transaction: up to which version that goes."""


def repeat(statements: Sequence[Statement], table: DeltaTable) -> dict[str, str]:
    """Return what commits said of the files that a table has, as the metadata of a commit that outlives them.

    Parameters
    ----------
    statements
        All of them.
    """
    folder, files = folder_of(table), set(filter(digest_in, files_of(table)))
    said = [
        {
            "version": statement.version,
            "files": sorted(file.removeprefix(f"{folder}/") for file in statement.files & files),
            **metadata_of(statement.records),
        }
        for statement in statements
        if statement.records and not files.isdisjoint(statement.files)
    ]
    known = [(each.start, each.end) for each in known_versions(statements)]
    return {REPEATED: json.dumps({"known": known, "said": said})}


def known_versions(statements: Iterable[Statement]) -> RangeSet:
    """Return the versions whose commits are there, or were repeated while they were."""
    return RangeSet.of(*(pair for each in statements for pair in ((each.version, each.version + 1), *each.known)))


def _read_repeated(text: str, folder: str) -> tuple[tuple[tuple[int, int], ...], list[Statement]]:
    found = json.loads(text)
    said = [
        Statement(int(each["version"]), tuple(_decode(each)), frozenset(f"{folder}/{name}" for name in each["files"]))
        for each in found["said"]
    ]
    return tuple((int(start), int(end)) for start, end in found["known"]), said


def records_in(info: Mapping[str, str]) -> dict[str, str]:
    """Return the part of a commit's metadata that is its records, to be repeated in another commit of its rows."""
    return {key: info[key] for key in _KEYS.values() if key in info}


def _decode(commit: dict[str, Any]) -> list[Provenance]:
    columns = [json.loads(commit[key]) for key in _KEYS.values()]
    records = [dict(zip(_KEYS, values, strict=True)) for values in zip(*columns, strict=True)]
    for record in records:
        for name, value in record.items():
            if type(value) is not _JSON_TYPES[name]:
                raise ValueError(f"{name} is {value!r}")
        record["root_hash"] = base64.b64decode(record["root_hash"], validate=True)
    return [Provenance(**record) for record in records]


def proven_in(statements: Iterable[Statement]) -> dict[str, dict[str, RangeSet]]:
    """Return where rows are proven: path -> URL -> indices, if the file is still what the commit wrote.

    Only files whose names tell that count (`ctkit.lake.digests`): no commit speaks of a file that was rewritten under
    the same name.
    """
    found: dict[str, dict[str, RangeSet]] = defaultdict(dict)
    for statement in statements:
        proven = _proven_stretches(statement.records)
        for file in filter(digest_in, statement.files):
            for url, stretches in proven.items():
                found[file][url] = RangeSet.joined([stretches, found[file].get(url, NOTHING)])
    return found


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


def carried_over(staging: DeltaTable) -> list[Provenance]:
    """Return what a merge has to say of staging's rows: what the commits that wrote them said, in few records.

    Neighbours of one log that say the same become one record. Rows of which no commit says anything are ``"off"``, as
    long as something is said of others.

    Raises
    ------
    TableError
        The commits, or the files of which nothing is said, cannot be read.
    """
    unsaid = set(files_of(staging))
    records: list[Provenance] = []
    for statement in read_statements(staging):
        # The merge may rewrite files of other writers, under names that would make what is said of them count.
        wrote = set(filter(digest_in, statement.files))
        if statement.records and not wrote.isdisjoint(unsaid):
            records += statement.records
            unsaid -= wrote
    return joined(records + _off(staging, sorted(unsaid))) if records else []


def carried_rows(statements: Iterable[Statement], rows: Iterable[tuple[str, str, Int64s]]) -> list[Provenance]:
    """Return what a commit has to say of rows that it takes over from other files, row by row as it was said.

    Of two rows of one key, of which one is not proven, none is.

    Parameters
    ----------
    rows
        Path of the file that has them now, URL and indices. The file is as it was written.
    """
    of_files: dict[str, list[Statement]] = defaultdict(list)
    for statement in statements:
        for file in statement.files:
            of_files[file].append(statement._replace(files=frozenset([file])))
    proofs: list[Provenance] = []
    numbers: dict[tuple[object, ...], int] = {}
    parts: dict[str, list[tuple[Int64s, Int64s]]] = defaultdict(list)
    for file, url, index in rows:
        index = index[(index >= 0) & (index < LARGEST_TREE)]
        # Of each row: the number of what proves it; 0 for nothing, also where another record contradicts.
        said = np.zeros(len(index), np.int64)
        open_ = proven_in(of_files[file]).get(file, {}).get(url, NOTHING).contains(index)
        for record in (record for statement in of_files[file] for record in statement.records):
            if record.source_url == url and record.verified == "entries":
                if (number := numbers.setdefault(_said(record), len(numbers) + 1)) > len(proofs):
                    proofs.append(record)
                here = open_ & (record.start <= index) & (index < record.end)
                said[here] = number
                open_ &= ~here
        parts[url].append((index, said))
    records = [
        replace(proofs[number - 1], start=start, end=end, rows=count) if number else _unverified(url, start, end, count)
        for url, of_log in sorted(parts.items())
        for start, end, count, number in _runs_of(*map(np.concatenate, zip(*of_log, strict=True)))
    ]
    return records if any(record.verified == "entries" for record in records) else []


def _runs_of(index: Int64s, said: Int64s) -> Iterator[tuple[int, int, int, int]]:
    """Yield runs of rows of which the same is said, by index: start, end, number of rows, and what; 0 prevails."""
    if not len(index):
        return
    order = np.lexsort((said, index))
    index, said = index[order], said[order]
    keys = np.flatnonzero(np.diff(index, prepend=-1))
    counts = np.diff(np.append(keys, len(index)))
    index, said = index[keys], said[keys]
    first = np.flatnonzero(np.diff(said, prepend=-1))
    last = np.append(first[1:], len(said)) - 1
    columns = (index[first], index[last] + 1, np.add.reduceat(counts, first), said[first])
    yield from zip(*(column.tolist() for column in columns), strict=True)


def _unverified(url: str, start: int = 0, end: int = 1, rows: int = 1) -> Provenance:
    return Provenance(url, start, end, rows, 0, b"", "off", signed=False)


def joined(records: Iterable[Provenance]) -> list[Provenance]:
    """Return the records by log and start, with neighbours that say the same joined.

    The result proves no row that the records do not prove. Where proven rows lie among others, it may prove fewer.

    Examples
    --------
    >>> one = Provenance("https://ct.example.com/2026h2", 5, 9, 3, 0, b"", "off", signed=False)
    >>> [(record.start, record.end, record.rows) for record in joined([replace(one, start=8, end=20), one])]
    [(5, 20, 6)]
    """
    found: list[Provenance] = []
    for record in sorted(records, key=lambda each: (each.source_url, each.start, each.end)):
        if found and _said(found[-1]) == _said(record):
            last = found.pop()
            record = replace(last, end=max(last.end, record.end), rows=last.rows + record.rows)
        found.append(record)
    return found


def _said(record: Provenance) -> tuple[object, ...]:
    return record.source_url, record.tree_size, record.root_hash, record.verified, record.signed


def _off(table: DeltaTable, files: list[str]) -> list[Provenance]:
    """Return that nothing was verified of the rows in some files: a record for each file and log."""
    from ctkit.lake import questions
    from ctkit.lake.querying import define_rows, reading

    with reading(table, memory_limit=MEMORY) as connection:
        rows = define_rows(connection, "unsaid", files, numbered=True)
        stretches = questions.stretches_by_file(rows).to_pyarrow().to_pylist()
    return [_unverified(*stretch.values()) for stretch in stretches]
