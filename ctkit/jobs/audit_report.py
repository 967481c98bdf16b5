"""The report of an audit: how complete a table is, and which rows are proven to be the logs' own."""

import base64
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Literal

from ctkit.arguments import Verify
from ctkit.errors import CheckpointError, LogError, LogProtocolError, LogUnavailableError, TableError
from ctkit.lake.digests import RESTORE
from ctkit.ranges import RangeSet
from ctkit.report import ROWS, Frame, Report, frame_of
from ctkit.visible import first_of
from ctkit.wire.checkpoint import Checkpoint

SHOWN = 1000
"""Ranges of each kind that are shown for a log; all count, and JSON has all."""

_PIECE = 65_536
"""Ranges that are written to JSON at a time."""

NAMED = 5
"""Ranges, files or problems that an error names."""

MEANING = (
    "The table alone shows which entries have a row, and whether each certificate has the SHA-256 in its row.",
    "A row holds neither leaf hash nor timestamped entry, so only the log can tell whether it is the log's. A row is "
    "proven if a commit of this table records that it was compared with the log's tree, its file is byte for byte as "
    "written (ctkit puts the SHA-256 of a file into its name), and the log's current tree extends the recorded one. "
    "Whoever can write the table's _delta_log can forge such records; --recheck all asks the logs again.",
    "Files of other writers have no such name. Their rows are not proven; of changed bytes in them, an audit finds "
    "those that make a column unreadable, break a page checksum (if the writer sets them), or leave a certificate "
    "without its SHA-256.",
    "Not proven does not mean wrong: such are rows of the live server, rows written without proof, rows that a "
    "compaction has rewritten, and rows whose commit is no longer in the table's log. A recheck compares them with the "
    "log again.",
    "Rows of logs that you do not name are ignored.",
    "Logs sign the certificate, or the TBSCertificate of a precertificate, with its type and timestamp; they do not "
    "sign the signature of a precertificate, nor the chain.",
)


RANGES = ("complete", "missing", "repeated", "proven", "not proven", "altered", "differing")

TreeHead = Literal["signed", "unsigned", "listed", "not known"]


@dataclass(frozen=True)
class RememberedHead:
    """A tree head that commits name.

    Attributes
    ----------
    tree_size, root_hash
        As in the commit.
    verified
        The most that was verified with it.
    signed
        Whether its signature was verified then.
    consistent
        Whether the log's current tree extends it; None if the log gave no proof.
    """

    tree_size: int
    root_hash: bytes
    verified: Verify
    signed: bool
    consistent: bool | None


@dataclass(frozen=True, eq=False)
class LogAudit:
    """The audit of one log and its rows.

    Attributes
    ----------
    source_url
        The log.
    head
        The final tree head that a log list gives, else the log's current one; None if there is neither.
    tree_head
        Where the log's current head stands: its signature verified (``"signed"``) or its key not known
        (``"unsigned"``). Without one: the log list's (``"listed"``), or none (``"not known"``).
    final
        Whether the log list says that the tree never grows beyond `head`.
    start, end
        The audited stretch ``[start, end)``. Without a `head` it ends with the last row.
    rows, beyond
        Rows in that stretch, and rows beyond every tree that the log has shown.
    missing, proven, unproven
        Entries without a row; with a proven row; with a row that is not proven. Together they are the stretch.
    repeated
        Entries of the stretch with several rows.
    proven_under
        Size of the largest tree that rows were proven with and that the log does not contradict; 0 without one.
    altered
        Entries of the stretch whose row has a certificate without the SHA-256 in the row.
    differing, columns
        Rows that a recheck found to differ from the log's entries; index -> names of the columns, of the first rows.
    heads
        The tree heads that commits name, in ascending order.
    problems
        What the log contradicts, or did not answer.
    """

    source_url: str
    head: Checkpoint | None
    tree_head: TreeHead
    final: bool
    start: int
    end: int
    rows: int
    beyond: int
    missing: RangeSet
    repeated: RangeSet
    proven: RangeSet
    unproven: RangeSet
    proven_under: int
    altered: RangeSet
    differing: RangeSet
    columns: dict[int, str]
    heads: tuple[RememberedHead, ...]
    problems: tuple[LogError, ...]

    @property
    def verdict(self) -> str:
        """The result in a word.

        ``"complete for good"`` is all of a log that no longer grows; ``"not begun"``, of a log that has not grown
        beyond the start of the stretch yet.
        """
        if any(isinstance(problem, CheckpointError) for problem in self.problems):
            return "contradicted"
        if self.beyond or len(self.altered) or len(self.differing):
            return "contradicted"
        if self.head is None:
            return "not known"
        if len(self.missing):
            return "incomplete"
        if self.start == self.end > 0:
            return "not begun"
        whole = (self.start, self.end) == (0, self.head.tree_size)
        return "complete for good" if self.final and whole else "complete"

    @property
    def present(self) -> RangeSet:
        """Entries with a row, proven or not."""
        return RangeSet.joined((self.proven, self.unproven))

    @property
    def ranges(self) -> dict[str, RangeSet]:
        """The ranges of each kind, by heading."""
        kinds = (self.present, self.missing, self.repeated, self.proven, self.unproven, self.altered, self.differing)
        return dict(zip(RANGES, kinds, strict=True))

    def flaws(self, *, require_proof: bool) -> list[tuple[str, str]]:
        """Return what is wrong with the rows, each with what to do about it."""
        backfill, look = "backfill what is missing", "look at the rows that contradict the log"
        found = [
            (self.missing, "entries are missing", backfill),
            (self.repeated, "entries have several rows", "remove the repeated rows (ctkit repair)"),
            (self.altered, "rows hold a certificate without its SHA-256", look),
            (self.differing, "rows differ from the log's entries", look),
            (self.unproven if require_proof else RangeSet.of(), "rows are not proven", "recheck them (--recheck)"),
        ]
        flaws = [
            (f"{ranges.size} {what}: {first_of(ranges, NAMED)}", advice)
            for ranges, what, advice in found
            if len(ranges)
        ]
        return flaws + ([(f"{self.beyond} rows lie beyond the log's tree", look)] if self.beyond else [])

    def line(self) -> dict[str, Any]:
        """Return the facts that fit in one line: short names, JSON values."""
        return {
            "log": self.source_url,
            "verdict": self.verdict,
            "tree_size": None if self.head is None else self.head.tree_size,
            "tree_head": self.tree_head,
            "from": self.start,
            "to": self.end,
            "rows": self.rows,
            "repeated": self.rows - self.proven.size - self.unproven.size,
            "missing": self.missing.size,
            "proven": self.proven.size,
            "not_proven": self.unproven.size,
            "proven_under": self.proven_under,
            "altered": self.altered.size,
            "differing": self.differing.size,
        }

    def details(self, limit: int) -> dict[str, Any]:
        """Return the details by heading, as JSON values; of ranges, the first `limit` of each kind."""
        return {
            "log": self.source_url,
            "problems": [
                {"start": problem.start, "end": problem.end, "why": problem.message} for problem in self.problems
            ],
            **{heading: _listed(ranges, limit) for heading, ranges in self.ranges.items()},
            "differing columns": [{"index": index, "columns": names} for index, names in self.columns.items()],
            "tree heads of commits": [
                {**asdict(head), "root_hash": base64.b64encode(head.root_hash).decode()} for head in self.heads
            ],
        }


@dataclass(frozen=True, eq=False, repr=False)
class AuditReport(Report):
    """What is complete and what is proven, for each log.

    Attributes
    ----------
    main
        The table's folder.
    version
        The version that was audited.
    logs
        The audit of each log, by URL.
    damaged
        Name -> problem, of each file that can hold rows of these logs and is not as it was written, or cannot be read
        to its end. None of its rows is proven, and rows whose keys cannot be read are missing.
    forgotten
        Versions whose commits the table's log no longer has: what they had proven is not known.
    require_proof
        Whether unproven rows make the audit fail.
    """

    main: str
    version: int
    logs: tuple[LogAudit, ...]
    damaged: dict[str, str]
    forgotten: RangeSet
    require_proof: bool = False

    @property
    def title(self) -> str:  # type: ignore[override]
        """The result."""
        return "audit passed" if self.passed else "audit failed"

    @property
    def passed(self) -> bool:
        """Whether everything is complete, and proven if that is required, and nothing contradicts the logs."""
        flawed = any(log.problems or log.flaws(require_proof=self.require_proof) for log in self.logs)
        return not (flawed or self.damaged)

    def check(self) -> None:
        """Raise unless the audit passed.

        Raises
        ------
        CheckpointError
            A log contradicts itself or its log list: do not trust it.
        TableError
            A file is damaged; entries are missing or have several rows; rows contradict their log, or are not proven
            though that is required.
        LogUnavailableError, LogProtocolError
            A log did not answer, so the result is not known.
        """
        problems = [problem for log in self.logs for problem in log.problems]
        flaws = [
            (f"of {log.source_url} {flaw}", advice)
            for log in self.logs
            for flaw, advice in log.flaws(require_proof=self.require_proof)
        ]
        if self.damaged:
            names = [f"{name} ({why})" for name, why in self.damaged.items()]
            flaws.insert(0, (f"{len(names)} files are damaged: {first_of(names, NAMED)}", RESTORE))
        named = [f"{problem.url}: {_where(problem)}{problem.message}" for problem in problems[:NAMED]]
        more = [f"and {len(problems) - NAMED} more like these"] if len(problems) > NAMED else []
        message = "; ".join([*named, *more, *(flaw for flaw, _ in flaws)])

        def raise_first(kind: type[LogError]) -> None:
            for problem in problems:
                if isinstance(problem, kind):
                    raise kind(problem.url, message.removeprefix(f"{problem.url}: "))

        raise_first(CheckpointError)
        if flaws:
            raise TableError(self.main, f"{message}; {' and '.join(dict.fromkeys(advice for _, advice in flaws))}")
        raise_first(LogProtocolError)
        raise_first(LogUnavailableError)

    def facts(self) -> dict[str, Any]:
        """Return the totals."""
        lines = [log.line() for log in self.logs]
        totals = ("rows", "repeated", "missing", "proven", "not_proven", "altered", "differing")
        return {
            "main": self.main,
            "version": self.version,
            "logs": len(lines),
            "complete": sum(line["verdict"].startswith("complete") for line in lines),
            **{name: sum(line[name] for line in lines) for name in totals},
            "problems": sum(len(log.problems) for log in self.logs),
            "damaged": len(self.damaged),
            "forgotten": self.forgotten.size,
        }

    def tables(self) -> dict[str, Frame]:
        """Return a line for each log, its problems, ranges and tree heads, and what the audit can and cannot tell."""
        details = [log.details(SHOWN) for log in self.logs]

        def table_of(heading: str) -> Frame:
            table = frame_of({"log": each["log"], **row} for each in details for row in each[heading])
            if heading in RANGES:
                table.attrs[ROWS] = sum(len(log.ranges[heading]) for log in self.logs)
            return table

        return {
            "logs": frame_of(log.line() for log in self.logs),
            "damaged files": frame_of({"file": name, "why": why} for name, why in self.damaged.items()),
            **{
                heading: table_of(heading)
                for heading in ("problems", *RANGES, "differing columns", "tree heads of commits")
            },
            "what this tells": frame_of({"": text} for text in [*MEANING, *self._forgetting()]),
        }

    def _forgetting(self) -> list[str]:
        if not len(self.forgotten):
            return []
        return [
            f"The table's log no longer has the commits of versions {first_of(self.forgotten, NAMED)}: a checkpoint "
            "has removed them, as it does with commits older than delta.logRetentionDuration (30 days by default). "
            "Rows that they had proven are no longer proven; recheck them (--recheck). "
            f"To keep commits longer: DeltaTable({self.main!r}).alter.set_table_properties("
            "{'delta.logRetentionDuration': 'interval 36500 days'})"
        ]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values, for other programs."""
        values: dict[str, Any] = json.loads("".join(self.json_pieces()))
        return values

    def json_pieces(self) -> Iterator[str]:
        """Yield the text of `to_json` in pieces: there can be more ranges than fit in memory as Python objects."""
        head = {
            "passed": self.passed,
            **self.facts(),
            "damaged_files": dict(self.damaged),
            "forgotten_versions": _listed(self.forgotten, None),
        }
        yield json.dumps(head)[:-1] + ', "details": ['
        for number, log in enumerate(self.logs):
            listed = {**log.line(), **log.details(0)}
            yield ",\n" * (number > 0) + json.dumps({name: listed[name] for name in listed if name not in RANGES})[:-1]
            for heading, ranges in log.ranges.items():
                yield f', "{heading}": ['
                for first in range(0, len(ranges), _PIECE):
                    piece = slice(first, first + _PIECE)
                    pairs = zip(ranges.starts[piece].tolist(), ranges.ends[piece].tolist(), strict=True)
                    yield ",\n" * (first > 0) + ",\n".join(
                        f'{{"start": {start}, "end": {end}}}' for start, end in pairs
                    )
                yield "]"
            yield "}"
        yield "]}"


def _listed(ranges: RangeSet, limit: int | None) -> list[dict[str, int]]:
    return [asdict(stretch) for stretch in islice(ranges, limit)]


def _where(problem: LogError) -> str:
    return "" if problem.start is None else f"[{problem.start}, {problem.end}) "
