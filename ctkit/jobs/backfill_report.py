"""The report of a backfill."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from ctkit.arguments import Verify
from ctkit.errors import NAMED, CheckpointError, LogError, LogProtocolError, LogUnavailableError
from ctkit.jobs.plan import Plan
from ctkit.report import Frame, Report, frame_of
from ctkit.visible import first_of
from ctkit.wire.checkpoint import Checkpoint

_RUN_AGAIN = re.compile(r"; run again( later)?$")


@dataclass(frozen=True, order=True)
class Hole:
    """Indices ``[start, end)`` of one log that a run planned to fill and did not, and why.

    Attributes
    ----------
    lasting
        Whether running again is unlikely to help, because the log broke its protocol there.
    """

    source_url: str
    start: int
    end: int
    reason: str
    lasting: bool

    @classmethod
    def of(cls, error: LogError) -> Self:
        """Return the hole that an error of the log leaves; raise an error that names no entries."""
        if error.start is None or error.end is None:
            raise error
        lasting = isinstance(error, LogProtocolError | CheckpointError)
        return cls(error.url, error.start, error.end, error.message, lasting)


@dataclass(frozen=True, repr=False)
class BackfillReport(Report):
    """What a backfill did.

    Attributes
    ----------
    table
        The folder that was written to.
    version
        The table's version afterwards; None if there is no table, because there was nothing to write.
    wanted, written
        Source URL -> entries planned, entries committed.
    holes
        Entries that were planned and not written.
    unreadable
        Rows whose certificate could not be parsed: bytes and hashes are there, the parsed columns are empty.
    missing_issuers
        Source URL -> hex SHA-256 of the issuers that the log names but does not have; `chain` lacks them.
    seconds
        Duration.
    stopped_by
        Limits of the budget that were reached: ``"max_entries"``, ``"max_requests"``, ``"deadline"``; ``"stop"`` if
        somebody stopped it, by the caller's event or by Ctrl+C.
    left
        What it takes to fetch the entries that were left because of these, in another run.
    verify
        What was verified: ``"off"``, ``"heads"`` or ``"entries"``.
    heads
        Source URL -> the tree head that was verified, or that entries were proven with.
    unsigned
        Logs whose tree heads have no verified signature, because their keys are not known.
    unavailable
        One error for each log whose gaps are not known, because it could not be reached.
    left_to_server
        Source URL -> ``[start, end)`` that was left to the live server, which is running.
    """

    table: str
    version: int | None
    wanted: dict[str, int]
    written: dict[str, int]
    holes: tuple[Hole, ...]
    unreadable: int
    missing_issuers: dict[str, tuple[str, ...]]
    seconds: float
    stopped_by: tuple[str, ...]
    left: Plan
    verify: Verify
    heads: dict[str, Checkpoint]
    unsigned: tuple[str, ...]
    unavailable: tuple[LogError, ...] = ()
    left_to_server: dict[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of_nothing(cls, table: str, version: int | None, verify: Verify) -> Self:
        """Return the report of a run that had nothing to do."""
        return cls(table, version, {}, {}, (), 0, {}, 0.0, (), Plan(()), verify, {}, ())

    @property
    def title(self) -> str:  # type: ignore[override]
        """Whether the run is complete."""
        if self.complete:
            return "backfill complete"
        return "backfill incomplete" if self._missing() or self.unavailable else "backfill stopped"

    @property
    def complete(self) -> bool:
        """Whether every planned entry was written, and the gaps of every log are known."""
        return self.written == self.wanted and not self.unavailable

    def check(self) -> None:
        """Raise unless every planned entry was written, or left because of the budget.

        Raises
        ------
        LogUnavailableError
            Names the holes. What was fetched is in the table; another run fetches only the rest.
        LogProtocolError
            Likewise, if the logs broke their protocol in every hole, so that another run is unlikely to help.
        """
        missing = self._missing()
        if not missing:
            return
        lasting = all(hole.lasting for hole in self.holes)
        error, advice = (
            (LogProtocolError, "report them to the log's operator")
            if lasting
            else (LogUnavailableError, "run again to fetch them")
        )
        more = [f"{len(missing) - NAMED} more logs"] if len(missing) > NAMED else []
        url, _, message = "; and of ".join([*missing[:NAMED], *more]).partition(": ")
        raise error(url, f"{message}; {advice}")

    def _missing(self) -> list[str]:
        """Return, for each log, what is missing for other reasons than the budget, and why."""
        left = {log.source_url: log.wanted for log in self.left.logs}
        lines = []
        for url, wanted in self.wanted.items():
            missing = wanted - self.written[url] - left.get(url, 0)
            holes = [hole for hole in self.holes if hole.source_url == url]
            # Whether to run again is said once, for all of them.
            named = [f"[{hole.start}, {hole.end}) {_RUN_AGAIN.sub('', hole.reason)}" for hole in holes]
            if missing:
                lines.append(f"{url}: {missing} entries are still missing: {first_of(named, NAMED)}")
        return lines

    def facts(self) -> dict[str, Any]:
        """Return the totals."""
        wanted, written, limits = sum(self.wanted.values()), sum(self.written.values()), ", ".join(self.stopped_by)
        return {
            "table": self.table,
            **({} if self.version is None else {"version": self.version}),
            "wanted": wanted,
            "written": written,
            "missing": wanted - written,
            "unreadable": self.unreadable,
            "missing_issuers": sum(map(len, self.missing_issuers.values())),
            "verify": self.verify,
            **({"unsigned": len(self.unsigned)} if self.unsigned else {}),
            **({"unavailable": len(self.unavailable)} if self.unavailable else {}),
            **left_facts(self.left_to_server),
            "seconds": round(self.seconds, 1),
            **({"stopped_by": limits, "left": self.left.wanted, "left_requests": self.left.requests} if limits else {}),
        }

    def tables(self) -> dict[str, Frame]:
        """Return the counts of each log, the holes, and what was left and why."""
        counts = [
            {
                "log": url,
                "wanted": self.wanted[url],
                "written": self.written[url],
                "tree size": self.heads[url].tree_size if url in self.heads else None,
                "signed": url in self.heads and url not in self.unsigned,
            }
            for url in self.wanted
        ]
        found = {"logs": frame_of(counts)} if counts else {}
        if self.holes:
            found["holes"] = frame_of(map(asdict, self.holes))
        if self.unavailable:
            found["not known"] = frame_of({"why": str(error)} for error in self.unavailable)
        found |= left_tables(self.left_to_server)
        if self.stopped_by:
            found[f"left because of {', '.join(self.stopped_by)}: run again to go on"] = self.left.table()
        if self.missing_issuers:
            found["missing issuers"] = frame_of(
                {"log": url, "sha256": issuer} for url, issuers in self.missing_issuers.items() for issuer in issuers
            )
        return found


def left_facts(left: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """Return the number of entries that were left to the live server, if any were."""
    return {"left_to_server": sum(end - start for start, end in left.values())} if left else {}


def left_tables(left: Mapping[str, tuple[int, int]]) -> dict[str, Frame]:
    """Return what was left to the live server, by log, if anything was."""
    lines = [{"log": url, "from": start, "to": end, "entries": end - start} for url, (start, end) in left.items()]
    return (
        {"left to the live server, which is running (internal_only: false fetches it)": frame_of(lines)}
        if lines
        else {}
    )
