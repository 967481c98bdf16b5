"""The audit of a table against its logs: how complete it is, and which rows are proven to be the logs' own."""

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from deltalake import DeltaTable

from ctkit.arguments import Rechecked, Verify, checked
from ctkit.errors import REPORT, CheckpointError, LogError, LogUnavailableError
from ctkit.jobs.audit_report import AuditReport, LogAudit, RememberedHead, TreeHead
from ctkit.lake.evidence import Rows, read_evidence
from ctkit.lake.gaps import Within, stretches_by_log
from ctkit.lake.provenance import Provenance, Statement, known_versions, read_statements
from ctkit.lake.table import check_features, folder_of
from ctkit.logs.ask_each import ask_each
from ctkit.logs.log import Log, Logs
from ctkit.ranges import END, RangeSet
from ctkit.wire.checkpoint import Checkpoint, UnreadableHeadError

if TYPE_CHECKING:
    from ctkit.jobs.recheck import Recheck

LOGS_AT_ONCE = 4
"""Logs that are rechecked at a time; each holds some ten thousand entries in memory."""

SECONDS_TO_PROVE = 30.0
"""How long `check_heads` waits for a log."""


@checked
def audit(
    logs: Logs,
    main: DeltaTable,
    *,
    within: Within | None = None,
    final_heads: Mapping[str, Checkpoint] | None = None,
    unavailable: Sequence[LogError] = (),
    recheck: Rechecked | None = None,
    require_proof: bool = False,
) -> AuditReport:
    """Report which entries have a row, and which rows are proven, up to each log's current tree head.

    Nothing is changed. Every tree head that a commit of the table names is compared with the current one: rows that
    were proven with a head that the current tree does not extend are not proven. Every file that can hold a row of
    these logs is read to its last byte, and the certificates of all their rows are hashed.

    Parameters
    ----------
    logs
        The logs to ask; rows of other logs are ignored.
    main
        The table, at the version to audit.
    within
        URL -> ``(start, end)``, half-open: the stretch of a log that is audited, up to its tree size, as for
        `ctkit.find_gaps`. With None as start it begins at the log's first row, and is empty if there is none. Of a log
        that is not named, everything is audited.
    final_heads
        By canonical URL, the tree head that a log list calls final, of a log that no longer grows.
    unavailable
        One error for each log that could not be opened; the report names it like a log that does not answer.
    recheck
        Fetch entries again, prove them, and compare them with their rows column by column: the entries of unproven
        rows, or of all rows in the stretch.
    require_proof
        Whether unproven rows make the audit fail.

    Raises
    ------
    ParameterError
        An argument is of the wrong kind, a stretch of `within` cannot be of a log, or two of its URLs name one log.
    TableError
        The table's log cannot be read, or another table has taken its place.
    """
    stretches = stretches_by_log(within or {})
    folder = folder_of(main)
    check_features(main, "read")
    statements = read_statements(main)
    records = _by_log(statements)
    finals = final_heads or {}
    answers = [*unavailable, *ask_each(lambda log: _look(log, records[log.url], finals.get(log.url)), logs)]
    looks = [
        _unseen(answer, records[answer.url], finals.get(answer.url)) if isinstance(answer, LogError) else answer
        for answer in answers
    ]
    rows, damaged = read_evidence(main, {look.url for look in looks}, _believed(statements, looks))
    audits = [_look_at_rows(look, rows[look.url], *stretches.get(look.url, (0, END))) for look in looks]
    if recheck:
        audits = _recheck(main, {log.url: log for log in logs}, looks, audits, recheck, damaged)
    audits = sorted(audits, key=lambda audit: audit.source_url)
    forgotten = known_versions(statements).missing(0, main.version() + 1)
    return AuditReport(folder, main.version(), tuple(audits), damaged, forgotten, require_proof)


def check_heads(logs: Logs, main: DeltaTable) -> dict[str, Checkpoint | LogError]:
    """Ask each log for its tree head, and for a proof that it extends the largest one that a commit of the table names.

    Returns
    -------
    dict
        Canonical URL -> the tree head, or what is wrong. A log without a key whose tree head cannot be read is left
        out: a backfill goes on without it, too.

    Raises
    ------
    TableError
        The table's log cannot be read.
    """
    records = _by_log(read_statements(main))

    def look(log: Log) -> Checkpoint:
        head = log.get_checkpoint()
        known = max(records[log.url], key=lambda record: record.tree_size, default=None)
        if known is not None and known.tree_size:
            log.check_consistency(Checkpoint.remembered(log.url, known.tree_size, known.root_hash), head)
        return head

    answers = zip(logs, ask_each(look, logs, seconds=SECONDS_TO_PROVE), strict=True)
    return {log.url: each for log, each in answers if log.key or not isinstance(each, UnreadableHeadError)}


def _by_log(statements: Iterable[Statement]) -> defaultdict[str, list[Provenance]]:
    """Return the records of each log, by canonical URL."""
    found: defaultdict[str, list[Provenance]] = defaultdict(list)
    for record in (record for statement in statements for record in statement.records):
        found[record.source_url].append(record)
    return found


@dataclass(frozen=True, eq=False)
class _Look:
    """What one log answered: its current tree head, if it gave one, and whether that extends the remembered ones."""

    url: str
    current: Checkpoint | None
    final: Checkpoint | None
    signed: bool
    heads: tuple[RememberedHead, ...]
    problems: tuple[LogError, ...]


def _unseen(error: LogError, records: Sequence[Provenance], final: Checkpoint | None) -> _Look:
    return _Look(error.url, None, final, False, tuple(_heads_of(records)), (error,))


def _look(log: Log, records: Sequence[Provenance], final: Checkpoint | None) -> _Look:
    """Ask for the current tree head, and for proofs that it extends the others."""
    current = log.get_checkpoint()
    problems: list[LogError] = []

    def is_beginning(old: Checkpoint) -> bool | None:
        if any(isinstance(problem, LogUnavailableError) for problem in problems):
            return None  # the next proof would fail, too
        try:
            log.check_consistency(old, current)
        except CheckpointError as error:
            problems.append(error)
            return False
        except LogError as error:
            problems.append(error)
            return None
        return True

    if final and is_beginning(final) and current.tree_size > final.tree_size:
        message = f"the log list calls the tree of {final.tree_size} entries final, and it now has {current.tree_size}"
        problems.append(CheckpointError(log.url, f"{message}: download the list again, and {REPORT}"))
    heads = tuple(
        replace(head, consistent=is_beginning(Checkpoint.remembered(log.url, head.tree_size, head.root_hash)))
        for head in _heads_of(records)
    )
    return _Look(log.url, current, final, log.key is not None, heads, tuple(problems))


def _heads_of(records: Sequence[Provenance]) -> Iterator[RememberedHead]:
    """Yield each tree head that the records of one log name, once, in ascending order."""
    naming: dict[tuple[int, bytes], list[Provenance]] = defaultdict(list)
    for record in records:
        if record.tree_size:
            naming[record.tree_size, record.root_hash].append(record)
    for (tree_size, root_hash), of_head in sorted(naming.items()):
        verified = max((record.verified for record in of_head), key=get_args(Verify).index)
        signed = any(record.signed for record in of_head)
        yield RememberedHead(tree_size, root_hash, verified, signed, consistent=None)


def _look_at_rows(look: _Look, rows: Rows, start: int | None, end: int) -> LogAudit:
    """Compare the table's rows of one log with what the log answered, in the stretch ``[start, end)``."""
    head, present = look.final or look.current, rows.present
    size = head.tree_size if head else int(present.ends[-1]) if len(present) else 0
    # A backend that lags behind does not contradict rows under a larger tree that the log has shown before.
    larger = [] if look.final else [head.tree_size for head in look.heads if head.consistent is not False]
    limit = max([size, *larger])
    end = min(end, size)
    first = int(present.starts[0]) if len(present) else end
    start = min(first if start is None else start, end)
    present = present.between(start, end)
    proven = rows.proven.intersect(present).minus(rows.altered)
    sizes_proven = [
        head.tree_size for head in look.heads if head.verified == "entries" and head.consistent is not False
    ]
    return LogAudit(
        source_url=look.url,
        head=head,
        tree_head=_kind_of_head(look),
        final=look.final is not None,
        start=start,
        end=end,
        rows=rows.count(start, end),
        beyond=rows.count(limit, END),
        missing=present.missing(start, end),
        repeated=rows.repeated.between(start, end),
        proven=proven,
        unproven=present.minus(proven),
        proven_under=max(sizes_proven, default=0) if len(proven) else 0,
        altered=rows.altered.between(start, end),
        differing=RangeSet.of(),
        columns={},
        heads=look.heads,
        problems=look.problems,
    )


def _kind_of_head(look: _Look) -> TreeHead:
    if look.current is None:
        return "not known" if look.final is None else "listed"
    return "signed" if look.signed else "unsigned"


def _believed(statements: Iterable[Statement], looks: Sequence[_Look]) -> Iterator[Statement]:
    """Yield the statements; records under a tree head that the log contradicts prove nothing."""
    wrong = {
        (look.url, head.tree_size, head.root_hash) for look in looks for head in look.heads if head.consistent is False
    }
    for statement in statements:
        records = tuple(
            replace(record, verified="off")
            if (record.source_url, record.tree_size, record.root_hash) in wrong
            else record
            for record in statement.records
        )
        yield statement._replace(records=records)


def _recheck(
    main: DeltaTable,
    logs: Mapping[str, Log],
    looks: Sequence[_Look],
    audits: Sequence[LogAudit],
    which: Literal["unproven", "all"],
    damaged: Mapping[str, str],
) -> list[LogAudit]:
    """Compare rows with their logs, several logs at a time; skip logs without a tree head, and damaged files."""
    # It asks through ibis, which takes long to import.
    from ctkit.jobs.recheck import recheck_rows

    stop = threading.Event()

    def recheck(pair: tuple[_Look, LogAudit]) -> LogAudit:
        look, found = pair
        if which == "all":
            # What commits say of the rows does not count.
            found = replace(found, proven=RangeSet.of(), unproven=found.present, proven_under=0)
        if look.current is None:
            return found
        rechecked = recheck_rows(logs[look.url], look.current, found.unproven, main, stop, without=damaged)
        return _with(found, look.current, rechecked)

    with ThreadPoolExecutor(LOGS_AT_ONCE, "recheck") as pool:
        try:
            return list(pool.map(recheck, zip(looks, audits, strict=True)))
        finally:
            stop.set()


def _with(found: LogAudit, current: Checkpoint, rechecked: "Recheck") -> LogAudit:
    """Add the result of a recheck."""
    proven = RangeSet.joined((found.proven, rechecked.equal)).minus(rechecked.differing)
    return replace(
        found,
        proven=proven,
        unproven=found.present.minus(proven),
        proven_under=current.tree_size if len(rechecked.equal) else found.proven_under,
        differing=rechecked.differing,
        columns=rechecked.columns,
        problems=(*found.problems, *rechecked.errors),
    )
