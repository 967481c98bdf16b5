"""What a Delta table demands of those who read and write it, and what each demand means for us.

Source: Delta protocol, "Table Features", "Requirements for Writers", "Requirements for Readers", "Column Metadata".
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

Verb = Literal["read", "append", "remove"]
"""What is done to a table: its rows are read; files are added to it; whole files are taken out of it."""

Meaning = Literal["kept", "harmless", "refused", "barred"]
"""What a feature means for a verb.

kept
    What it demands holds for what we do.
harmless
    It demands nothing.
refused
    We do not do what it demands: a table that uses it is refused.
barred
    deltalake 1.6 does not open, or does not commit to, a table that lists it, even where nothing uses it.
"""


class Feature(NamedTuple):
    """What a feature means for each verb.

    Attributes
    ----------
    used_by
        The property, of the table or of a column's metadata, that uses it, unless it is ``false`` or ``none``. One that
        ends with a dot is the beginning of several.
    """

    read: Meaning
    append: Meaning
    remove: Meaning
    used_by: str = ""

    def is_used_by(self, key: str, value: str) -> bool:
        """Tell whether a property uses the feature."""
        if self.used_by.endswith("."):
            return key.startswith(self.used_by)
        return key == self.used_by and value.lower() not in ("false", "none")


READABLE = Feature("harmless", "barred", "barred")
UNREADABLE = Feature("barred", "barred", "barred")

FEATURES = {
    "allowColumnDefaults": READABLE,
    "appendOnly": Feature("harmless", "kept", "refused", "delta.appendOnly"),
    # Where a commit has no CDC files, its added rows count as inserted and its removed rows as deleted.
    "changeDataFeed": Feature("harmless", "kept", "kept"),
    # Add actions bypass deltalake's writer, which would evaluate the expression.
    "checkConstraints": Feature("harmless", "refused", "harmless", "delta.constraints."),
    "checkpointProtection": READABLE,
    "clustering": READABLE,
    # Until they are published, or for good, commits are elsewhere than in _delta_log.
    "catalogManaged": UNREADABLE,
    "catalogOwned-preview": UNREADABLE,
    "coordinatedCommits": Feature("refused", "barred", "barred", "delta.coordinatedCommits."),
    "coordinatedCommits-preview": Feature("refused", "barred", "barred", "delta.coordinatedCommits."),
    # The files have other column names than the table, and we read files.
    "columnMapping": Feature("refused", "refused", "refused", "delta.columnMapping.mode"),
    # The files have rows that the table does not have, and we read files.
    "deletionVectors": Feature("refused", "refused", "refused", "delta.enableDeletionVectors"),
    "domainMetadata": READABLE,
    "generatedColumns": Feature("harmless", "refused", "harmless", "delta.generationExpression"),
    "icebergCompatV1": READABLE,
    "icebergCompatV2": READABLE,
    "icebergCompatV3": READABLE,
    "identityColumns": READABLE,
    "inCommitTimestamp": READABLE,
    "inCommitTimestamp-preview": READABLE,
    "invariants": Feature("harmless", "refused", "harmless", "delta.invariants"),
    "liquid": READABLE,
    "materializePartitionColumns": READABLE,
    "rowTracking": READABLE,
    # No column of ours is of this type.
    "timestampNtz": Feature("harmless", "harmless", "harmless"),
    # Older files have narrower types than the table.
    "typeWidening": Feature("refused", "barred", "barred", "delta.typeChanges"),
    "typeWidening-preview": Feature("refused", "barred", "barred", "delta.typeChanges"),
    "v2Checkpoint": Feature("harmless", "harmless", "harmless"),
    "vacuumProtocolCheck": READABLE,
    # No column of ours is of these types.
    "variantShredding": READABLE,
    "variantShredding-preview": READABLE,
    "variantType": Feature("harmless", "harmless", "harmless"),
    "variantType-preview": Feature("harmless", "harmless", "harmless"),
}
"""What is not here is `UNREADABLE` if the protocol asks readers to know it, and `READABLE` if only writers."""


def refused_features(table: DeltaTable, verb: Verb) -> dict[str, list[str]]:
    """Return the features because of which a table is refused for a verb, each with what shows that it has it."""
    protocol = table.protocol()
    for_readers = set(protocol.reader_features or ())
    listed = for_readers.union(protocol.writer_features or ())
    # Versions before 7 stand for features. Of those, only this one matters where nothing uses it.
    if protocol.min_writer_version == 6:
        listed.add("identityColumns")
    if protocol.min_writer_version > 7:
        listed.add(f"writer version {protocol.min_writer_version}")
    known = {name: UNREADABLE if name in for_readers else READABLE for name in sorted(listed)} | FEATURES
    found = {name: ["listed in its protocol"] for name in sorted(listed) if getattr(known[name], verb) == "barred"}
    for key, value, where in _properties(table):
        for name in [*sorted(listed), *FEATURES]:
            if getattr(known[name], verb) == "refused" and known[name].is_used_by(key, value):
                found.setdefault(name, []).append(f"{key}{where}")
                break
    # A table keeps those that it has when the property is set to false.
    if "deletionVectors" in listed - found.keys() and _has_deletion_vectors(table):
        found["deletionVectors"] = ["a file has one"]
    return found


def unreadable_features(folder: Path) -> list[str]:
    """Return the features because of which deltalake does not open the table in a folder, as its log names them.

    Nothing where the log cannot be read, which has another reason then.
    """
    protocol = _last_protocol(folder / "_delta_log")
    by_kind = [protocol.get(kind) for kind in ("readerFeatures", "writerFeatures")]
    for_readers, for_writers = (
        {str(each) for each in names} if isinstance(names, list) else set() for names in by_kind
    )
    known = dict.fromkeys(for_writers, READABLE) | dict.fromkeys(for_readers, UNREADABLE) | FEATURES
    return sorted(name for name in for_readers | for_writers if known[name].read == "barred")


def _last_protocol(log: Path) -> dict[str, Any]:
    """Return the newest protocol that a commit names, or else a checkpoint."""
    with suppress(OSError, ValueError, TypeError, AttributeError, LookupError, pa.ArrowException):
        for commit in sorted(filter(Path.is_file, log.glob("[0-9]*[0-9].json")), reverse=True):
            for line in reversed(commit.read_text().splitlines()):
                if protocol := json.loads(line).get("protocol"):
                    return dict(protocol)
        for checkpoint in sorted(filter(Path.is_file, log.glob("*.checkpoint*.parquet")), reverse=True):
            with pq.ParquetFile(checkpoint, pre_buffer=False) as parquet:
                rows = parquet.read(["protocol"], use_threads=False)
            for protocol in filter(None, rows["protocol"].to_pylist()):
                return dict(protocol)
    return {}


def _properties(table: DeltaTable) -> Iterator[tuple[str, str, str]]:
    """Yield key, value and place of the properties of the table and of its columns."""
    for key, value in table.metadata().configuration.items():
        yield key, str(value), ""
    for column in table.schema().fields:
        for key, value in column.metadata.items():
            yield key, str(value), f" of {column.name}"


def _has_deletion_vectors(table: DeltaTable) -> bool:
    try:
        return any(batch.num_rows for batch in table.deletion_vectors())
    except DeltaError:
        # One that cannot be read.
        return True
