"""Staging -> main: insert what main lacks, in one commit, and remove staging afterwards.

Rows never change, so a merge only ever inserts, and what it inserts is decided by the key alone:

1. plan: which staged rows main has already, or staging holds twice (`ctkit.lake.overlap`);
2. prepare: a staged file without such a row is linked into main's folder as it is; from the others, the rows that main
   lacks are written to files of their own inside main's folder (`ctkit.lake.scratch`), which are linked likewise. The
   links have names that no other file has, and are noted first, so that a run that dies leaves none behind;
3. commit: one commit adds all of them if main is still at the version that was read. If not, only the files that
   others have added are read, and the commit is tried again;
4. clean up: a commit takes the merged files out of staging, then they and an empty staging table are deleted.

Nothing before the commit shows in main, and main needs nothing after it. The next run finishes one that died.
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from deltalake import CommitProperties, DeltaTable

from ctkit.arguments import checked
from ctkit.errors import KeyConflictError, StalePreviewError, TableError
from ctkit.lake.commits import actions_since, files_left
from ctkit.lake.doubts import MERGED_FROM, check_doubts, doubts_of
from ctkit.lake.drop import Removal, orphans, retire
from ctkit.lake.files import DataFile, check_dates, data_files
from ctkit.lake.links import commit_files, confirm_files, link_files
from ctkit.lake.overlap import MEMORY, Overlap
from ctkit.lake.provenance import carried_over, metadata_of
from ctkit.lake.rewrite import adoptable_files, prepare_files
from ctkit.lake.scratch import clear_scratch, scratch_of
from ctkit.lake.starts import bounds_in, remember, transactions_of
from ctkit.lake.table import check_features, check_separate, folder_of, hold
from ctkit.ranges import LARGEST_TREE
from ctkit.report import ROWS, Frame, Report, frame_of
from ctkit.schema import KEY
from ctkit.visible import get_logger

logger = get_logger(__name__)

MERGED_ID = "ctkit.merged_id"
"""Commit metadata of main: the id of the staging table that the commit's rows came from."""

SAMPLE_ROWS = 20


@dataclass(frozen=True, repr=False)
class MergePreview(Report):
    """What a merge would do, and with which versions of the two tables.

    Attributes
    ----------
    staging, main
        The tables' folders.
    staging_version, main_version
        The versions that were looked at; None for a main that does not exist yet.
    staging_rows, inserted, skipped
        Rows of staging; how many of them main lacks, and how many it has or staging repeats. The two add up.
    conflicts
        Skipped rows that contradict: whose certificate differs from the one that main has under the same key, or from
        the first that staging has. Main's stays, or the first.
    summary
        By log and date: ``source_url, source_name, seen_date, first_index, last_index, rows, inserted, skipped``.
    sample
        Some of the rows that would be inserted, with the columns that say something.
    doubts
        What makes staging look like a main table. If there is anything, a merge must be confirmed.
    adopted
        Inserted rows whose files become main's as they are; the others are written to new files of main's.
    conflicting
        Some of the rows that contradict, as staging has them: ``source_url, cert_index, subject_aggregated, sha256``.
    staging_id, main_id
        Their ids in the Delta log, for another table may come to the same folder and version; None without a table.
    """

    staging: str
    main: str
    staging_version: int
    main_version: int | None
    staging_rows: int
    inserted: int
    skipped: int
    conflicts: int
    summary: Frame
    sample: Frame
    doubts: tuple[str, ...] = ()
    adopted: int = 0
    conflicting: Frame = field(default_factory=frame_of)
    staging_id: str | None = None
    main_id: str | None = None

    title = "merge preview"

    def check(self) -> None:
        """Raise if a staged row contradicts main, or another one.

        Raises
        ------
        KeyConflictError
            There are different certificates under one key; a merge would keep main's, or the first.
        """
        if self.conflicts:
            message = f"{self.conflicts} rows differ from the row of the same key in {self.main}, or in staging itself"
            raise KeyConflictError(self.staging, f"{message}. Compare the rows")

    def facts(self) -> dict[str, Any]:
        """Return the totals."""
        return {
            "staging": self.staging,
            "staging_version": self.staging_version,
            "main": self.main,
            "main_version": self.main_version,
            "staging_rows": self.staging_rows,
            "would_insert": self.inserted,
            "without_rewriting": self.adopted,
            "would_skip": self.skipped,
            "conflicts": self.conflicts,
        }

    def tables(self) -> dict[str, Frame]:
        """Return what makes staging look like a main table, what is staged by log and date, and some rows."""
        return {
            "look twice: is this the staging table?": frame_of({"because": doubt} for doubt in self.doubts),
            "staged rows that contradict the row that stays": self.conflicting,
            "by log and date": self.summary,
            "sample of what would be inserted": self.sample,
        }


@dataclass(frozen=True, repr=False)
class MergeReport(Report):
    """What a merge did.

    Attributes
    ----------
    main
        The folder that was merged into.
    version_before, version
        Main's version that the merge was committed on, and the one it made; equal if there was nothing to insert.
        `undo_merge` goes back to the former.
    staging_rows, inserted, skipped
        Rows of staging; how many of them went into main, and how many main had or staging repeated. The two add up.
    conflicts
        Skipped rows whose certificate differs from the one that main, or an earlier row, has under the same key.
    staging
        The folder that was merged from.
    staging_removed
        Whether it is gone.
    note
        Why it is still there although it was merged, and what to do; "" if it is gone, or never had a row.
    """

    main: str
    version_before: int
    version: int
    staging_rows: int
    inserted: int
    skipped: int
    conflicts: int
    staging: str
    staging_removed: bool
    note: str = ""

    title = "merge complete"

    def facts(self) -> dict[str, Any]:
        """Return the totals, under the names that the live server logs them with."""
        return {
            "total_inserted": self.inserted,
            "total_skipped": self.skipped,
            "total_staging_rows": self.staging_rows,
            "conflicts": self.conflicts,
            "main": self.main,
            "version_before": self.version_before,
            "version": self.version,
            "staging": self.staging,
            "staging_left": "nothing" if self.staging_removed else self.note or "an empty table",
        }


@checked
def preview_merge(staging: DeltaTable, main: DeltaTable | None) -> MergePreview:
    """Return what a merge would insert and skip; nothing is changed.

    Parameters
    ----------
    staging
        The table to merge from.
    main
        The table to merge into; None if it does not exist yet.

    Raises
    ------
    ParameterError
        One table is, or lies inside, the other.
    SchemaMismatchError
        Main demands of those who add to it what we do not do, or staging of those who take files out.
    TableError
        A table cannot be read.
    """
    folder = folder_of(staging)
    check_features(staging, "remove")
    if main:
        check_separate(folder, folder_of(main))
        check_features(main, "append")
    staged = data_files(staging)
    check_dates(staged)
    overlap = Overlap(staging, staged)
    if main:
        overlap.skip_present(main, overlap.may_be_in(main))
    from ctkit.lake import querying, questions  # ibis takes long to import

    with querying.reading(staging, memory_limit=MEMORY) as connection:
        dates = [file.partition or None for file in staged]
        rows = querying.define_rows(
            connection, "staged", [str(file.path) for file in staged], dates=dates, numbered=True
        )
        skipped = querying.define_table(connection, "skipped", overlap.skipped_rows())
        summary = questions.merge_summary(rows, skipped).to_pyarrow().to_pandas(use_threads=False)
        sample = questions.merge_sample(rows, skipped, SAMPLE_ROWS).to_pyarrow().to_pandas(use_threads=False)
        conflicting = frame_of()
        if overlap.conflicts:
            places = querying.define_table(connection, "conflicts", overlap.conflicting_rows())
            listed = questions.rows_at(rows, places, [*KEY, "subject_aggregated", "sha256"], first=0, last=LARGEST_TREE)
            listed = listed.drop("file_index", "file_row_number")
            conflicting = listed.to_pyarrow().to_pandas(use_threads=False)
            conflicting.attrs[ROWS] = overlap.conflicts
        return MergePreview(
            staging=folder,
            main=folder_of(main) if main else "",
            staging_version=staging.version(),
            main_version=main.version() if main else None,
            staging_rows=overlap.rows,
            inserted=overlap.kept,
            skipped=overlap.skipped,
            conflicts=overlap.conflicts,
            summary=summary,
            sample=sample,
            doubts=doubts_of(staging, main),
            adopted=_count_adopted(staging, staged, overlap, main or staging),
            conflicting=conflicting,
            staging_id=str(staging.metadata().id),
            main_id=str(main.metadata().id) if main else None,
        )


def _count_adopted(staging: DeltaTable, staged: Sequence[DataFile], overlap: Overlap, main: DeltaTable) -> int:
    """Return how many rows lie in files that main can have as they are."""
    try:
        return sum(file.rows for file in adoptable_files(staging, staged, overlap, main))
    except TableError:
        # The merge will name the file that is damaged; a preview shows all it can.
        return 0


@checked
def merge_staging(
    staging: DeltaTable, main: DeltaTable, *, expected: MergePreview | None = None, confirmed: bool = False
) -> MergeReport:
    """Insert into main the rows of staging that it lacks, in one commit; then remove staging.

    Readers of main see all of the merge or none of it. Where main has the key of a staged row, main's row stays; of
    rows with one key in staging, one is inserted. Interrupted or failed at any point, main is as before or fully
    merged, and the same call again ends with the same main.

    Parameters
    ----------
    staging
        The table to merge from.
    main
        The table to merge into.
    expected
        What was previewed: the merge happens only if both tables still have the versions that were shown.
    confirmed
        Whether to merge a staging table that looks like a main table.

    Raises
    ------
    ParameterError
        One table is, or lies inside, the other.
    StalePreviewError
        A table moved since the preview.
    UnconfirmedMergeError
        Staging looks like a main table (`MergePreview.doubts`). Nothing was changed.
    SchemaMismatchError
        As for `preview_merge`; nothing was changed.
    TableError
        A table cannot be read or written, or another run works on it. Staging is intact; main has nothing of it, unless
        the commit could not be read back.
    """
    check_separate(folder_of(staging), folder_of(main))
    with hold(main) as target, hold(staging) as source:
        check_features(target, "append")
        check_features(source, "remove")
        if expected:
            _check_expected(expected, source, target)
        if not confirmed:
            check_doubts(doubts_of(source, target), folder_of(source), folder_of(target))
        report = _merge(source, target, expected)
    main.update_incremental()
    return report


def _merge(staging: DeltaTable, main: DeltaTable, expected: MergePreview | None) -> MergeReport:
    """Merge two tables that are held."""
    staged, dead = data_files(staging), orphans(staging)
    check_dates(staged)
    overlap = Overlap(staging, staged)
    clear_scratch(staging)
    present = overlap.may_be_in(main)
    provenance, bounds = metadata_of(carried_over(staging)), bounds_in(staging)
    linked: list[DataFile] | None = None
    try:
        while True:
            if expected:
                _check_expected(expected, staging, main)
            before = main.version()
            if overlap.skip_present(main, present) or linked is None:
                linked = link_missing(staging, staged, overlap, main)
            inserted = overlap.kept
            properties = CommitProperties(
                {
                    MERGED_FROM: folder_of(staging),
                    MERGED_ID: str(staging.metadata().id),
                    "ctkit.inserted": str(inserted),
                    **provenance,
                },
                max_commit_retries=0,
                app_transactions=transactions_of(bounds, main),
            )
            if commit_files(linked, main, properties) if linked else _is_newest(main):
                break
            logger.info("main has a new version, checking what it added version=%d", main.version())
            check_features(main, "append")
            present = _added_since(main, before)
    except BaseException:
        # What cannot be removed now stays noted, for the next run.
        with suppress(TableError):
            clear_scratch(main)
        raise
    shutil.rmtree(scratch_of(main), ignore_errors=True)
    if linked:
        confirm_files(linked, main, before + 1)
    else:
        remember(bounds, main)
    # Not before: where a file is missing, this may be the one, under another name.
    for orphan in dead if staged else ():
        logger.warning("file of a run that died, in no commit, is removed with staging path=%s", orphan)
    removal = retire(staging, staged, dead) if staged else Removal(False)
    return MergeReport(
        main=folder_of(main),
        version_before=before,
        version=before + 1 if linked else before,
        staging_rows=overlap.rows,
        inserted=inserted,
        skipped=overlap.rows - inserted,
        conflicts=overlap.conflicts,
        staging=folder_of(staging),
        staging_removed=removal.removed,
        note=removal.note,
    )


def link_missing(source: DeltaTable, files: Sequence[DataFile], overlap: Overlap, target: DeltaTable) -> list[DataFile]:
    """Make files below the target's folder of exactly those rows that the overlap does not skip; nothing is committed.

    Parameters
    ----------
    files
        Those of `source`, in the order of the overlap.

    Raises
    ------
    TableError
        A file is damaged, or cannot be linked or written.
    """
    clear_scratch(target)
    linked = link_files(prepare_files(source, files, overlap, target, scratch_of(target)), target)
    if (rows := sum(file.rows for file in linked)) != overlap.kept:
        message = f"has {rows} rows to insert where {overlap.kept} were counted. Nothing was committed. Report this"
        raise TableError(folder_of(source), message)
    return linked


def _is_newest(main: DeltaTable) -> bool:
    """Tell whether main has no newer version; the handle moves on to the newest."""
    before = main.version()
    main.update_incremental()
    return main.version() == before


def _added_since(main: DeltaTable, version: int) -> list[str]:
    """Return the paths of the files that others have added since a version: only these must be read again."""
    actions = actions_since(main, version)
    if any(action.get("remove", {}).get("dataChange") for action in actions):
        # A key that main had before may be gone, and its row must not be left out then.
        message = "lost rows while this merge was being prepared. Nothing was committed. Run again"
        raise TableError(folder_of(main), message)
    return [f"{folder_of(main)}/{name}" for name in files_left(actions)]


def _check_expected(expected: MergePreview, staging: DeltaTable, main: DeltaTable) -> None:
    of_staging = staging, expected.staging, expected.staging_version, expected.staging_id
    of_main = main, expected.main, expected.main_version, expected.main_id
    for table, folder, version, table_id in (of_staging, of_main):
        if folder and folder != folder_of(table):
            raise StalePreviewError(folder_of(table), f"was not previewed, {folder} was. Preview again")
        if table.version() != (version or 0):
            message = f"was previewed at version {version} and is at {table.version()} now. Preview again"
            raise StalePreviewError(folder_of(table), message)
        if table_id not in (None, str(table.metadata().id)):
            raise StalePreviewError(folder_of(table), "is another table than was previewed. Preview again")
