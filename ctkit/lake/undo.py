"""Main -> staging: take the last merge out of main, and put its rows back into staging."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltalake import CommitProperties, DeltaTable

from ctkit.arguments import Index, checked
from ctkit.errors import KeyConflictError, StalePreviewError, TableError
from ctkit.lake.commits import commit_info, files_added, kept_commits, read_commit
from ctkit.lake.doubts import MERGED_FROM, STAGED_FOR
from ctkit.lake.files import DataFile, data_files
from ctkit.lake.links import check_removable, commit_files, confirm_files
from ctkit.lake.merge import MERGED_ID, link_missing
from ctkit.lake.overlap import Overlap
from ctkit.lake.provenance import records_in
from ctkit.lake.scratch import clear_scratch
from ctkit.lake.table import (
    as_der_type,
    check_features,
    check_separate,
    find_table,
    folder_of,
    hold,
    open_table,
    table_path,
)
from ctkit.report import Report

UNDONE = "ctkit.undone"
"""Commit metadata of main: the version whose merge the commit takes out."""

PUT_BACK = "ctkit.put_back_from"
"""Commit metadata of staging: the id of the main table, and the version of its merge that was undone."""


@dataclass(frozen=True, repr=False)
class UndoReport(Report):
    """What the undo of a merge did.

    Attributes
    ----------
    main
        The folder of the table.
    version
        Main's version, whose rows are those before the merge.
    rows
        Rows that were taken out of main; staging has them.
    staging
        The folder of the staging table.
    """

    main: str
    version: int
    rows: int
    staging: str

    title = "merge undone"

    def facts(self) -> dict[str, Any]:
        """Return what was done."""
        return {"main": self.main, "version": self.version, "rows": self.rows, "staging": self.staging}


@checked
def undo_merge(main: DeltaTable, staging: str | Path | None = None, *, version: Index | None = None) -> UndoReport:
    """Take the last merge out of main, as long as nothing was committed since, and stage its rows again.

    The rows are in staging before they leave main: wherever this is interrupted, none is lost, and the same call again
    completes it. Rows that staging still has are not put there again.

    Parameters
    ----------
    main
        The table.
    staging
        The folder of the staging table that takes the rows: a new one, or one that is there. None for the folder that
        they came from.
    version
        Main's version that the merge made, `MergeReport.version`: the undo happens only if main is still there. None
        for whichever merge was the last.

    Raises
    ------
    ParameterError
        Staging is, or lies inside, main, or the other way round.
    SchemaMismatchError
        Main is append-only, for instance; nothing was changed.
    StalePreviewError
        Main is no longer at `version`; nothing was changed.
    KeyConflictError
        Staging has other certificates under the same keys; nothing was changed.
    TableError
        Main's last commit is not a merge, or its rows cannot be staged, or somebody commits just now; main was not
        changed.
    """
    with hold(main) as held:
        check_features(held, "remove")
        merged = held.version()
        if version is not None and merged != version:
            message = (
                f"is at version {merged}, and the merge made version {version}: something else was committed since"
            )
            raise StalePreviewError(folder_of(main), f"{message}. DeltaTable.restore() goes back over all of it")
        actions = read_commit(held, merged)
        info = commit_info(actions)
        if UNDONE in info:
            message = f"version {merged} has already undone the merge of version {info[UNDONE]}; merge staging again"
            raise TableError(folder_of(main), message)
        if MERGED_FROM not in info:
            message = f"version {merged} was not made by a merge; DeltaTable.restore() goes back over other commits too"
            raise TableError(folder_of(main), message)
        names = files_added(actions)
        files = [file for file in data_files(held) if file.name in names]
        check_removable(files, held)
        mark = f"{held.metadata().id} {merged}"
        with hold(_staging_of(held, info, staging, mark)) as back:
            _put_back(files, held, back, {PUT_BACK: mark, STAGED_FOR: str(held.metadata().id), **records_in(info)})
            properties = CommitProperties({UNDONE: str(merged)}, max_commit_retries=0)
            if not commit_files([], held, properties, removed=files):
                message = (
                    f"was written while the merge was being undone. Its rows stay, and are in {folder_of(back)} too"
                )
                raise TableError(folder_of(main), f"{message}: a merge removes them there again")
    main.update_incremental()
    return UndoReport(folder_of(main), merged + 1, sum(file.rows for file in files), folder_of(back))


def _put_back(files: list[DataFile], main: DeltaTable, staging: DeltaTable, said: dict[str, str]) -> None:
    """Put those rows of main's files into staging that it lacks; they are on the disk when this returns.

    It has them where a merge died before it removed staging, or an undo before it took the rows out of main.
    """
    overlap = Overlap(main, files)
    overlap.skip_present(staging, overlap.may_be_in(staging))
    if overlap.conflicts:
        message = f"has other certificates under {overlap.conflicts} keys that {folder_of(main)} has"
        raise KeyConflictError(folder_of(staging), f"{message}. Nothing was changed. Name another staging folder")
    try:
        if linked := link_missing(main, files, overlap, staging):
            before = staging.version()
            while not commit_files(linked, staging, CommitProperties(said, max_commit_retries=0)):
                before = staging.version()
            confirm_files(linked, staging, before + 1)
    finally:
        # What cannot be removed now stays noted, for the next run.
        with suppress(TableError):
            clear_scratch(staging)


def _staging_of(main: DeltaTable, info: dict[str, str], staging: str | Path | None, mark: str) -> DeltaTable:
    """Open the table that the rows go back to.

    Where main's log says that they came from may be a place of somebody else by now.
    """
    if staging is None and not isinstance(info[MERGED_FROM], str):
        message = f"its rows came from {info[MERGED_FROM]!r}, which is not a folder; name a staging folder for them"
        raise TableError(folder_of(main), message)
    place = table_path(info[MERGED_FROM] if staging is None else staging)
    check_separate(place, folder_of(main))
    there = find_table(place)
    if staging is None:
        moved = f"its rows came from {info[MERGED_FROM]!r}"
        if there and not _is_place(there, info, mark):
            raise TableError(folder_of(main), f"{moved}, where another table is now; name a staging folder for them")
        if str(place) != info[MERGED_FROM] or not place.parent.is_dir():
            raise TableError(folder_of(main), f"{moved}, which is not a folder here; name a staging folder for them")
    back = there or open_table(place, like=main)
    check_features(back, "append")
    if as_der_type(back) != as_der_type(main):
        message = f"has as_der in another form than main ({as_der_type(main)}); name another staging folder"
        raise TableError(str(place), message)
    return back


def _is_place(table: DeltaTable, info: dict[str, str], mark: str) -> bool:
    """Tell whether a table is the one that was merged, or was made by an undo of the merge that died."""
    if str(table.metadata().id) == info.get(MERGED_ID) or table.version() == 0:
        return True
    return any(commit_info(actions).get(PUT_BACK) == mark for _, actions in kept_commits(table))
