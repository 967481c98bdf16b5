"""What an audit found out: how complete a table is, and what of it is proven to be the log's."""

import base64
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Literal

import pandas as pd

from ctkit.arguments import Verify
from ctkit.errors import CheckpointError, LogError, LogProtocolError, LogUnavailableError, TableError
from ctkit.lake.digests import MEND
from ctkit.ranges import RangeSet
from ctkit.report import ROWS, Report, frame_of
from ctkit.wire.checkpoint import Checkpoint

SHOWN = 1000
"""So many ranges of each kind are shown to people for a log; all count, and all are in JSON."""

_PIECE = 65_536
"""Ranges that are written together."""

NAMED = 5
"""So many of them are named in an error."""

MEANING = (
    "The table alone tells which entries have a row, and whether the bytes of each certificate have the SHA-256 that "
    "stands beside them.",
    "A row holds neither leaf hash nor timestamped entry, so only the log can tell whether it is the log's. Proven is "
    "what a commit of this table says it has compared with the log's tree, as long as its files are byte for byte as "
    "it wrote them (ctkit puts their SHA-256 into their names) and its tree head is the beginning of the log's tree of "
    "now.",
    "Files of other writers have no such name. Their rows are not proven; of bytes that have changed in them an audit "
    "finds what makes a column unreadable, what does not fit a page checksum, where the writer has set one, and "
    "certificates that do not have the SHA-256 beside them.",
    "Not proven is not wrong: rows of the live server, rows written without proof, rows that a compaction has "
    "rewritten, and those whose commit is no longer in the table's log. A recheck compares them with the log again.",
    "Rows of logs that were not asked for are not looked at.",
    "What logs sign is the certificate, or the TBSCertificate of a precertificate, with type and timestamp; the "
    "signature of a precertificate and the chain are the log's word only.",
)


RANGES = ("complete", "missing", "repeated", "proven", "not proven", "altered", "differing")

_HEADINGS = (
    "problems",
    *RANGES,
    "differing columns",
    "tree heads of commits",
)


TreeHead = Literal["signed", "unsigned", "listed", "not known"]


@dataclass(frozen=True)
class RememberedHead:
    """A tree head that commits name.

    Attributes
    ----------
    tree_size, root_hash
        As a commit has them.
    verified
        The most that was verified with it.
    signed
        Whether its signature was verified then.
    consistent
        Whether its tree is the beginning of the log's tree of now; None if that could not be found out.
    """

    tree_size: int
    root_hash: bytes
    verified: Verify
    signed: bool
    consistent: bool | None


@dataclass(frozen=True, eq=False)
class LogAudit:
    """What was found out about one log and its rows.

    Attributes
    ----------
    source_url
        The log.
    head
        The log's own tree head of now, else the final one that a log list gives; None if there is neither.
    tree_head
        Which it is: the log's, its signature verified (``"signed"``) or its key unknown (``"unsigned"``); the log
        list's (``"listed"``); none (``"not known"``).
    final
        Whether the log list says that the tree never grows beyond `head`.
    start, end
        The stretch ``[start, end)`` that was looked at. Without a `head` it ends with the last row.
    rows, beyond
        Rows in that stretch, and at or above the size of every tree that the log has shown.
    missing, proven, unproven
        Entries without a row; entries with a row that is proven, or is not. Together they are the stretch.
    repeated
        Entries of the stretch with several rows.
    proven_under
        Size of the largest tree that rows were proven with, and that the log does not contradict; 0 without one.
    altered
        Rows, of the whole log, whose certificate does not have the SHA-256 beside it.
    differing, columns
        Rows that a recheck found to differ from the log's entries; index -> names of the columns, of the first ones.
    heads
        The tree heads that commits name, ascending.
    problems
        What the log contradicts, or could not be asked.
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
        """The last word: ``"complete"``, and ``"complete for good"`` for all of a log that never grows again."""
        if any(isinstance(problem, CheckpointError) for problem in self.problems):
            return "contradicted"
        if self.beyond or len(self.altered) or len(self.differing):
            return "contradicted"
        if self.head is None:
            return "not known"
        if len(self.missing):
            return "incomplete"
        whole = (self.start, self.end) == (0, self.head.tree_size)
        return "complete for good" if self.final and whole else "complete"

    @property
    def ranges(self) -> dict[str, RangeSet]:
        """What is listed range by range, by heading."""
        covered = RangeSet.joined((self.proven, self.unproven))
        kinds = (covered, self.missing, self.repeated, self.proven, self.unproven, self.altered, self.differing)
        return dict(zip(RANGES, kinds, strict=True))

    def flaws(self, *, require_proof: bool) -> list[tuple[str, str]]:
        """Return what is wrong with the rows, in words, each with what to do about it."""
        backfill, look = "backfill what is missing", "look at what contradicts"
        found = [
            (self.missing, "entries are missing", backfill),
            (self.repeated, "entries have several rows", "remove those that repeat another (ctkit repair)"),
            (self.altered, "rows hold a certificate without its SHA-256", look),
            (self.differing, "rows differ from the log's entries", look),
            (self.unproven if require_proof else RangeSet.of(), "rows are not proven", "recheck them (--recheck)"),
        ]
        flaws = [(f"{ranges.size} {what}: {first_of(ranges)}", advice) for ranges, what, advice in found if len(ranges)]
        return flaws + ([(f"{self.beyond} rows lie beyond the tree of now", look)] if self.beyond else [])

    def line(self) -> dict[str, Any]:
        """Return what is said in one line: short names, JSON values."""
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

    def details(self, limit: int | None = None) -> dict[str, Any]:
        """Return what takes many lines, by heading: JSON values; of ranges the first `limit` of each kind."""
        root_hashes = [base64.b64encode(head.root_hash).decode() for head in self.heads]
        return {
            "log": self.source_url,
            "problems": [
                {"start": problem.start, "end": problem.end, "why": problem.message} for problem in self.problems
            ],
            **{heading: _listed(ranges, limit) for heading, ranges in self.ranges.items()},
            "differing columns": [{"index": index, "columns": names} for index, names in self.columns.items()],
            "tree heads of commits": [
                {**asdict(head), "root_hash": root_hash}
                for head, root_hash in zip(self.heads, root_hashes, strict=True)
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
        The version that was looked at.
    logs
        One for each log that was asked for, by URL.
    damaged
        Name of each file, of those that can hold rows of these logs, that is not what was written or cannot be read
        whole -> why. None of its rows is proven, and those whose keys cannot be read are missing.
    forgotten
        Versions whose commits the table's log no longer has: if they called rows proven, nobody knows.
    require_proof
        Whether rows that are not proven make it fail.
    """

    main: str
    version: int
    logs: tuple[LogAudit, ...]
    damaged: dict[str, str]
    forgotten: RangeSet
    require_proof: bool = False

    @property
    def title(self) -> str:  # type: ignore[override]
        """What it comes to."""
        return "audit passed" if self.passed else "audit failed"

    @property
    def passed(self) -> bool:
        """Whether all that was asked for is complete, and proven where that is required, and nothing contradicts."""
        flawed = any(log.problems or log.flaws(require_proof=self.require_proof) for log in self.logs)
        return not (flawed or self.damaged)

    def check(self) -> None:
        """Raise unless the audit passed.

        Raises
        ------
        CheckpointError
            A log contradicts itself, or its log list: believe nothing of it.
        TableError
            A file is damaged; entries are missing or have several rows; rows contradict their log, or are not proven
            where that is required.
        LogUnavailableError, LogProtocolError
            A log could not be asked: something is not known.
        """
        problems = [problem for log in self.logs for problem in log.problems]
        flaws = [
            (f"of {log.source_url} {flaw}", advice)
            for log in self.logs
            for flaw, advice in log.flaws(require_proof=self.require_proof)
        ]
        if self.damaged:
            names = [f"{name} ({why})" for name, why in islice(self.damaged.items(), NAMED)]
            others = f" and {len(self.damaged) - NAMED} more" if len(self.damaged) > NAMED else ""
            flaws.insert(0, (f"{len(self.damaged)} files are damaged: {', '.join(names)}{others}", MEND))
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

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the line of each log, its problems, ranges and tree heads, and what all this tells."""
        details = [log.details(SHOWN) for log in self.logs]

        def table_of(heading: str) -> pd.DataFrame:
            table = frame_of({"log": each["log"], **row} for each in details for row in each[heading])
            if heading in RANGES:
                table.attrs[ROWS] = sum(len(log.ranges[heading]) for log in self.logs)
            return table

        return {
            "logs": frame_of(log.line() for log in self.logs),
            "damaged files": frame_of({"file": name, "why": why} for name, why in self.damaged.items()),
            **{heading: table_of(heading) for heading in _HEADINGS},
            "what this tells": pd.DataFrame({"": [*MEANING, *self._forgetting()]}),
        }

    def _forgetting(self) -> list[str]:
        if not len(self.forgotten):
            return []
        return [
            f"The table's log no longer has the commits of versions {first_of(self.forgotten)}: a checkpoint has "
            "cleaned them up, as it does with those older than delta.logRetentionDuration (30 days where the table "
            "does not say otherwise). Rows that they called proven are not proven any more; recheck them (--recheck). "
            f"To keep commits longer: DeltaTable({self.main!r}).alter.set_table_properties("
            "{'delta.logRetentionDuration': 'interval 36500 days'})"
        ]

    def _json_head(self) -> dict[str, Any]:
        forgotten = _listed(self.forgotten, None)
        return {
            "passed": self.passed,
            **self.facts(),
            "damaged_files": dict(self.damaged),
            "forgotten_versions": forgotten,
        }

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values, for other programs."""
        return {**self._json_head(), "details": [{**log.line(), **log.details()} for log in self.logs]}

    def json_pieces(self) -> Iterator[str]:
        """Yield the text of `to_json`, piece by piece: there can be more ranges than Python objects have room."""
        yield json.dumps(self._json_head())[:-1] + ', "details": ['
        for number, log in enumerate(self.logs):
            listed = {**log.line(), **log.details(0)}
            yield ",\n" * (number > 0) + json.dumps({name: listed[name] for name in listed if name not in RANGES})[:-1]
            for heading, ranges in log.ranges.items():
                yield f', "{heading}": ['
                for at in range(0, len(ranges), _PIECE):
                    starts, ends = (each[at : at + _PIECE].tolist() for each in (ranges.starts, ranges.ends))
                    pairs = zip(starts, ends, strict=True)
                    yield ",\n" * (at > 0) + ",\n".join(f'{{"start": {start}, "end": {end}}}' for start, end in pairs)
                yield "]"
            yield "}"
        yield "]}"


def _listed(ranges: RangeSet, limit: int | None) -> list[dict[str, int]]:
    return [asdict(each) for each in islice(ranges, limit)]


def _where(problem: LogError) -> str:
    return "" if problem.start is None else f"[{problem.start}, {problem.end}) "


def first_of(ranges: RangeSet) -> str:
    """Return the first `NAMED` ranges as text, and how many more there are."""
    more = f" and {len(ranges) - NAMED} more" if len(ranges) > NAMED else ""
    return ", ".join(map(str, islice(ranges, NAMED))) + more
