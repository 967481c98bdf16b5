"""New names of the domains and brands that somebody watches, each told once."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ctkit.arguments import checked
from ctkit.ask.news import find_news
from ctkit.ask.told import TIME, TOLD, append_told, find_told
from ctkit.desk.gap_report import find_main
from ctkit.desk.parameters import Parameters
from ctkit.errors import ParameterError
from ctkit.lake.table import folder_of, table_path
from ctkit.report import Frame, Report

MOST = 10_000
"""Names that a watch tells at most, so that all can be looked at; what is left is told by the next one."""


@dataclass(frozen=True, eq=False, repr=False)
class WatchReport(Report):
    """Names that were not told yet.

    Attributes
    ----------
    names
        ``watched, name, reason, first_seen, last_seen, certificates, issuers, key``: the domain or brand
        of the parameters, a name, what it is or what is alike, when its first and its last entry was seen, how many
        certificates have it and who issued them, and the key of an entry for `ctkit.open_certificate`.
    told_path
        The table of what was told.
    told_before
        How many rows it has.
    """

    names: pa.Table
    told_path: str
    told_before: int

    title = "watch"
    shown = MOST

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        """3 if there are new names: neither an error nor nothing."""
        return 3 if len(self.names) else 0

    def facts(self) -> dict[str, Any]:
        """Return how many names are new, and how many were told before."""
        return {"new": len(self.names), "told_before": self.told_before, "told_path": self.told_path}

    def tables(self) -> dict[str, Frame]:
        """Return the new names of each domain or brand."""
        shown = _with_text(self.names, "%Y-%m-%dT%H:%MZ").to_pandas(use_threads=False)
        shown["issuers"] = shown["issuers"].map(", ".join)
        columns = ["name", "reason", "first_seen", "issuers", "key"]
        return {f"new for {watched}": names[columns] for watched, names in shown.groupby("watched")}

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the new names as JSON values."""
        yield from _with_text(self.names, "%Y-%m-%dT%H:%M:%SZ").to_pylist()

    def remember(self) -> None:
        """Write down that these names were told: they are not told again.

        Raises
        ------
        TableError
            The table of what was told cannot be written.
        """
        if len(self.names):
            now = pa.repeat(pa.scalar(datetime.now(UTC), TIME), len(self.names))
            append_told(self.told_path, self.names.append_column("told", now).select(TOLD.names))


def _with_text(names: pa.Table, form: str) -> pa.Table:
    """Return names with times as text: other writers have some that Python lacks."""
    for at, field in enumerate(names.schema):
        if pa.types.is_timestamp(field.type):
            names = names.set_column(at, field.name, pc.strftime(names[field.name], form))
    return names


@checked
def watch(parameters: Parameters) -> WatchReport:
    """Find the names of the watched domains, and the look-alikes of the watched brands, that were not told yet.

    They count as told when `WatchReport.remember` is called: so a name may be told twice, but none is lost. The first
    time, all that there are are told, 10,000 at a time.

    Parameters
    ----------
    parameters
        `main_path`, `told_path`, and `domains` or `brands`.

    Raises
    ------
    ParameterError
        One of these is missing, or is wrong.
    SchemaMismatchError, TableError
        A table cannot be read, or main is not there.

    Examples
    --------
    >>> import tempfile, ctkit
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     main = ctkit.open_table(f"{folder}/main")
    ...     given = ctkit.Parameters(main_path=f"{folder}/main", told_path=f"{folder}/told", domains=["example.com"])
    ...     print(len(ctkit.watch(given).names))
    0
    """
    parameters.check_given("main_path", "told_path")
    told_path = parameters.need("told_path")
    if not (parameters.domains or parameters.brands):
        message = "there is nothing to watch; give domains or brands in the parameter file, or --domain or --brand"
        raise ParameterError(message, keys=("domains", "brands"))
    main, told = find_main(parameters), find_told(told_path)
    if table_path(told_path).resolve().is_relative_to(folder_of(main)):
        raise ParameterError(f"told_path {told_path!r} is inside of main; name a folder elsewhere", keys=("told_path",))
    names = find_news(main, parameters.domains or (), parameters.brands or (), told, MOST)
    return WatchReport(names, told_path, told.count() if told else 0)
