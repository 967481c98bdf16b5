"""What was verified of rows, remembered in the metadata of the commit that wrote them."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from deltalake import DeltaTable

from ctkit.commits import added_by, commit_info, kept_commits
from ctkit.errors import TableError
from ctkit.merkle import HASH_SIZE
from ctkit.overlap import MEMORY
from ctkit.querying import define_rows, querying
from ctkit.table import files_of, folder_of

Verified = Literal["off", "heads", "entries"]
"""Nothing was verified · the tree head was · every entry is proven to be under the tree head's root."""


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
    verified: Verified
    signed: bool

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end or self.rows < 1 or self.tree_size < 0:
            raise ValueError(f"[{self.start}, {self.end}) with {self.rows} rows of {self.tree_size} cannot be")
        if self.verified not in ("off", "heads", "entries"):
            raise ValueError(f"verified is {self.verified!r}")
        if len(self.root_hash) != (HASH_SIZE if self.tree_size else 0):
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


def read_provenance(table: DeltaTable) -> list[tuple[int, Provenance]]:
    """Return the records of all commits that the table's log still has, each with the commit's version, ascending.

    Commits that say nothing, such as those of others, are passed over.

    Raises
    ------
    TableError
        A commit has records that cannot be read.
    """
    found = []
    for version, actions in kept_commits(table):
        info = commit_info(actions)
        if _KEYS.values() & info.keys():
            try:
                found += [(version, record) for record in _decode(info)]
            except (KeyError, ValueError, TypeError) as error:
                message = f"version {version} has ctkit.* metadata that cannot be read ({error!r})"
                raise TableError(
                    folder_of(table), f"{message}: look at its _delta_log, and report who wrote it"
                ) from error
    return found


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


def carried_over(staging: DeltaTable) -> list[Provenance]:
    """Return what a merge has to say of staging's rows: what the commits said that wrote them, in few records.

    Neighbours of one log of which the same is said become one. Rows of which no commit says anything are ``"off"``, as
    long as something is said of others.

    Raises
    ------
    TableError
        The records, or the files of which nothing is said, cannot be read.
    """
    unsaid = set(files_of(staging))
    records = []
    for version, of_version in _by_version(read_provenance(staging)):
        wrote = added_by(staging, version)
        if not wrote.isdisjoint(unsaid):
            records += of_version
            unsaid -= wrote
    return joined(records + _off(staging, sorted(unsaid))) if records else []


def joined(records: Iterable[Provenance]) -> list[Provenance]:
    """Return the records by log and start, neighbours of which the same is said as one.

    No row is proven by the result that was not by the records; where proven rows lie among others, some may not be any
    more.

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


def _by_version(records: Iterable[tuple[int, Provenance]]) -> Iterable[tuple[int, list[Provenance]]]:
    versions: dict[int, list[Provenance]] = {}
    for version, record in records:
        versions.setdefault(version, []).append(record)
    return versions.items()


def _off(table: DeltaTable, files: list[str]) -> list[Provenance]:
    """Return that nothing was verified of the rows in some files: a record for each file and log."""
    with querying(table, memory_limit=MEMORY) as connection:
        define_rows(connection, "unsaid", files, numbered=True)
        stretches = connection.execute(
            "SELECT source_url, min(cert_index), max(cert_index) + 1, count(*) FROM unsaid "
            "WHERE cert_index >= 0 GROUP BY source_url, file_index"
        ).fetchall()
    return [Provenance(url, start, end, rows, 0, b"", "off", signed=False) for url, start, end, rows in stretches]
