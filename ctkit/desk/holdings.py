"""What the tables have of each log, told from the indices that each file has, without reading its rows."""

from typing import NamedTuple

from ctkit.desk.gap_report import GapReport
from ctkit.lake.coverage import find_covered, find_repeated
from ctkit.ranges import NOTHING, RangeSet


class Holding(NamedTuple):
    """What the tables have of one log.

    Attributes
    ----------
    start, end
        The stretch ``[start, end)`` that is to be complete.
    held
        Entries of it that have a row in main.
    staged
        Entries that have one in staging only.
    missing
        Entries that have none.
    repeated
        Entries that several files of main have.
    """

    start: int
    end: int
    held: RangeSet
    staged: RangeSet
    missing: RangeSet
    repeated: RangeSet


def find_holdings(report: GapReport) -> dict[str, Holding]:
    """Return what a report's tables have of each of its logs, by canonical URL.

    Logs without a row are left out in catch-up, which has no start for them.

    Raises
    ------
    TableError
        A file cannot be read.
    """
    stretches = report.stretches()
    main, staging = (find_covered(stretches, table) for table in (report.main, report.staging))
    repeated = {} if report.main is None else find_repeated(stretches, report.main)
    found = {}
    for url, (start, end) in stretches.items():
        held, staged = (covered.get(url, NOTHING).between(start, end) for covered in (main, staging))
        missing = RangeSet.joined((held, staged)).missing(start, end)
        found[url] = Holding(start, end, held, staged.minus(held), missing, repeated.get(url, NOTHING))
    return found
