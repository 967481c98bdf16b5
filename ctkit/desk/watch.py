"""New names of the domains and brands that somebody watches, each told once."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pyarrow as pa

from ctkit.arguments import checked
from ctkit.ask.news import find_news
from ctkit.ask.told import TIME, TOLD, find_told, remember
from ctkit.desk.gap_report import find_main
from ctkit.desk.parameters import Parameters
from ctkit.errors import ParameterError
from ctkit.report import Report


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
        How many names it has.
    """

    names: pa.Table
    told_path: str
    told_before: int

    title = "watch"

    def facts(self) -> dict[str, Any]:
        """Return how many names are new, of each domain and brand."""
        return {"new": len(self.names), "told_before": self.told_before, "told_path": self.told_path}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the new names, by domain or brand."""
        columns = ["watched", "name", "reason", "first_seen", "issuers", "certificates"]
        return {"new names": self.names.select(columns).to_pandas()}

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the new names as JSON values."""
        for row in self.names.to_pylist():
            yield {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}

    def remember(self) -> None:
        """Write down that these names were told: they are not told again.

        Raises
        ------
        TableError
            The table of what was told cannot be written.
        """
        if len(self.names):
            now = pa.repeat(pa.scalar(datetime.now(UTC), TIME), len(self.names))
            remember(self.told_path, self.names.append_column("told", now).select(TOLD.names))


@checked
def watch(parameters: Parameters) -> WatchReport:
    """Find the names of the watched domains, and the look-alikes of the watched brands, that were not told yet.

    They count as told when `WatchReport.remember` is called: so a name may be told twice, but none is lost. The first
    time, all that there are are told.

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
    parameters.need("main_path")
    told_path = parameters.need("told_path")
    if not (parameters.domains or parameters.brands):
        message = "there is nothing to watch; give domains or brands in the parameter file, or --domain or --brand"
        raise ParameterError(message, keys=("domains", "brands"))
    main, told = find_main(parameters), find_told(told_path)
    names = find_news(main, parameters.domains or (), parameters.brands or (), told)
    return WatchReport(names, told_path, told.count() if told else 0)
