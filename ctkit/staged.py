"""What parameters come to for a merge: look at what is staged, merge it, take it out again."""

from dataclasses import replace

import pandas as pd

from ctkit.doubts import check_doubts, doubts_of
from ctkit.errors import ParameterError, StalePreviewError, TableError
from ctkit.merge import MergePreview, MergeReport, merge_staging, preview_merge
from ctkit.parameters import Parameters
from ctkit.retire import finish_retiring
from ctkit.situation import find_tables
from ctkit.table import check_features, files_of, find_table, open_table, table_path
from ctkit.undo import undo_merge
from ctkit.visible import get_logger

logger = get_logger(__name__)


def preview_staged(parameters: Parameters) -> MergePreview:
    """Tell what a merge of the staging table into main would do; nothing is created or changed.

    A staging table that does not exist is shown as one without rows, at version -1.

    Raises
    ------
    ParameterError
        `staging_path` or `main_path` is missing, or one of the two tables is or lies inside the other.
    TableError
        A table is not one of ours, or cannot be read.
    """
    staging_path = str(table_path(parameters.need("staging_path")))
    main_path = str(table_path(parameters.need("main_path")))
    main, staging = find_tables(parameters)
    if staging is None:
        version = None if main is None else main.version()
        return MergePreview(staging_path, main_path, -1, version, 0, 0, 0, 0, pd.DataFrame(), pd.DataFrame())
    # A main that does not exist has no name of its own.
    return replace(preview_merge(staging, main), main=main_path)


def merge_staged(parameters: Parameters, *, expected: MergePreview | None = None) -> MergeReport:
    """Merge the staging table into main; nothing is created if nothing is staged.

    What an earlier merge left of a staging table that it had merged is removed.

    Parameters
    ----------
    parameters
        `staging_path`, `main_path`, `confirmed` and `create_main` count. Where `create_main` is not given, a main table
        that is not there is created.
    expected
        From `preview_staged`: merge only if both tables are as they were then.

    Raises
    ------
    ParameterError
        `staging_path` or `main_path` is missing, or one of the two tables is or lies inside the other; or there is no
        main table, and none is to be created.
    StalePreviewError
        A table moved since the preview.
    UnconfirmedMergeError
        Staging looks like a main table.
    TableError
        As `ctkit.merge_staging`: main has nothing of staging, staging is intact.
    """
    staging_path = str(table_path(parameters.need("staging_path")))
    main_path = str(table_path(parameters.need("main_path")))
    main, staging = find_tables(parameters)
    version = -1 if staging is None else staging.version()
    if expected and version != expected.staging_version:
        now = f"at {version}" if staging else "gone"
        message = f"was previewed at version {expected.staging_version} and is {now} now; preview again"
        raise StalePreviewError(staging_path, message)
    if staging is not None and files_of(staging):
        if main is None:
            if parameters.create_main is False:
                message = f"there is no main table at {main_path}; correct main_path"
                raise ParameterError(f"{message}, or have one created (--create, or create_main: true)")
            check_features(staging, "remove")
            if not parameters.confirmed:
                check_doubts(doubts_of(staging, None), staging_path, main_path)
            logger.warning("main table does not exist, creating it main_path=%s", parameters.main_path)
            main = open_table(main_path, like=staging)
        return merge_staging(staging, main, expected=expected, confirmed=parameters.confirmed)
    if staging is None:
        logger.warning("staging table does not exist, nothing to merge staging_path=%s", parameters.staging_path)
    else:
        logger.info("staging table is empty, nothing to merge staging_path=%s", parameters.staging_path)
    left = finish_retiring(staging_path, staging)
    version = -1 if main is None else main.version()
    return MergeReport(main_path, version, version, 0, 0, 0, 0, staging_path, left)


def undo_staged(parameters: Parameters) -> int:
    """Take the last merge out of main again, and stage its rows: in `staging_path`, or where they came from.

    Returns main's version.

    Raises
    ------
    ParameterError
        `main_path` is missing.
    TableError
        There is no main table, or its last commit is not a merge, or its rows cannot be staged.
    """
    main_path = parameters.need("main_path")
    main = find_table(main_path)
    if main is None:
        raise TableError(main_path, "there is no table there; name the main table")
    return undo_merge(main, parameters.staging_path)
