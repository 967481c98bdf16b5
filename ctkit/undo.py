"""Main -> staging: take the last merge out of main, and put its rows back into staging."""

from pathlib import Path

from deltalake import CommitProperties, DeltaTable

from ctkit.adopt import check_removable, commit_files, confirm_files, link_files
from ctkit.arguments import checked
from ctkit.commits import commit_info, files_added, read_commit
from ctkit.datafile import data_files
from ctkit.doubts import MERGED_FROM, STAGED_FOR, UNDONE
from ctkit.errors import TableError
from ctkit.merge import MERGED_ID
from ctkit.provenance import records_in
from ctkit.table import (
    as_der_type,
    check_features,
    check_separate,
    files_of,
    find_table,
    folder_of,
    hold,
    open_table,
    table_path,
)

PUT_BACK = "ctkit.put_back_from"
"""Commit metadata of staging: the main table whose merge was undone."""


@checked
def undo_merge(main: DeltaTable, staging: str | Path | None = None) -> int:
    """Take the last merge out of main, as long as nothing was committed since, and stage its rows again.

    The rows are in staging before they leave main: wherever this is interrupted, none is lost, and the same call again
    ends it.

    Parameters
    ----------
    main
        The table.
    staging
        The folder of the staging table that takes the rows: a new one, or one that is there. None for the folder that
        they came from.

    Returns
    -------
    int
        Main's version, whose rows are those before the merge.

    Raises
    ------
    ParameterError
        Staging is, or lies inside, main, or the other way round.
    SchemaMismatchError
        Main is append-only, for instance; nothing was changed.
    TableError
        Main's last commit is not a merge, or its rows cannot be staged, or somebody commits just now; main was not
        changed.
    """
    with hold(main) as held:
        check_features(held, "remove")
        merged = held.version()
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
        with hold(_staging_of(held, info, staging)) as back:
            if str(back.metadata().id) != info.get(MERGED_ID) or not files_of(back):
                said = {PUT_BACK: folder_of(main), STAGED_FOR: str(held.metadata().id), **records_in(info)}
                linked = link_files(files, back, noted=False)
                commit_files(linked, back, CommitProperties(said))
                confirm_files(linked, back, back.version())
        properties = CommitProperties({UNDONE: str(merged)}, max_commit_retries=0)
        if not commit_files([], held, properties, removed=files):
            message = "was written while the merge was being undone. Its rows stay in main. Nothing was lost"
            raise TableError(folder_of(main), f"{message}: DeltaTable.restore() goes back over other commits too")
    main.update_incremental()
    return merged + 1


def _staging_of(main: DeltaTable, info: dict[str, str], staging: str | Path | None) -> DeltaTable:
    """Open the table that the rows go back to.

    Where main's log says that they came from may be a place of somebody else by now.
    """
    place = table_path(info[MERGED_FROM] if staging is None else staging)
    check_separate(place, folder_of(main))
    there = find_table(place)
    if staging is None:
        moved = f"its rows came from {info[MERGED_FROM]!r}"
        if there and str(there.metadata().id) != info.get(MERGED_ID):
            raise TableError(folder_of(main), f"{moved}, where another table is now; name a staging folder for them")
        if str(place) != info[MERGED_FROM] or not place.parent.is_dir():
            raise TableError(folder_of(main), f"{moved}, which is no folder here; name a staging folder for them")
    back = there or open_table(place, like=main)
    check_features(back, "append")
    if as_der_type(back) != as_der_type(main):
        message = f"has as_der in another form than main ({as_der_type(main)}); name another staging folder"
        raise TableError(str(place), message)
    return back
