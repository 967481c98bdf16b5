"""Look into a table of entries: what is in it, a search, pages of rows, and one certificate in full."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import traitlets
from deltalake import DeltaTable

from ctkit.desk.certificate_view import OpenCertificate, read_row, shortened, to_json
from ctkit.desk.parameters import Parameters
from ctkit.desk.widget import LiveWidget
from ctkit.errors import TableError
from ctkit.lake.browse import MOST_FOUND, Counts, RowBrowser
from ctkit.lake.table import find_table, folder_of, table_path
from ctkit.report import ROWS, Report
from ctkit.visible import visible

ROWS_PER_PAGE = 20

NAMES_PER_PAGE = 50

MOST_BARS = 62
"""Dates that are drawn one by one; more of them are drawn by month, or by year."""

_KINDS = {"PrecertLogEntry": "precertificate", "X509LogEntry": "certificate"}


@dataclass(frozen=True, repr=False, eq=False)
class StagingReport(Report):
    """What was looked at in a table.

    Attributes
    ----------
    table
        Its folder.
    version
        The version that was looked at; None if there is no table.
    rows
        How many it has.
    counts
        How much there is of what; None if nothing could be counted.
    search
        What was searched for; "" for all rows.
    issuer
        The one whose rows were asked for; None for those of all.
    matches
        How many rows match.
    start
        How many of them come before the page.
    page
        The rows that were shown, as they are in the table, without certificates.
    certificate
        The one that was opened.
    """

    table: str
    version: int | None
    rows: int
    counts: Counts | None
    search: str
    issuer: str | None
    matches: int
    start: int
    page: tuple[Mapping[str, Any], ...]
    certificate: OpenCertificate | None = None

    title = "staged rows"

    def facts(self) -> dict[str, Any]:
        """Return how much there is, and what was looked for."""
        facts: dict[str, Any] = {"table": self.table, "version": self.version, "rows": self.rows}
        if self.counts is not None:
            facts |= {"issuers": self.counts.issuers_in_all, "unreadable": self.counts.unreadable}
        if self.search:
            facts |= {"search": shortened(self.search), "matches": self.matches}
        if self.issuer is not None:
            facts |= {"issuer": shortened(self.issuer), "matches": self.matches}
        if self.page:
            facts["shown"] = f"{self.start + 1:,} to {self.start + len(self.page):,}"
        if self.certificate is not None:
            facts["opened"] = self.certificate.cert_index
        return facts

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the counts, and the rows that were shown."""
        tables = {}
        if self.counts is not None:
            issuers = _counted("issuer", self.counts.issuers)
            issuers.attrs[ROWS] = self.counts.issuers_in_all
            tables = {
                "by date": _counted("date", self.counts.dates),
                "by kind": _counted("kind", _named(self.counts.kinds)),
                "by issuer": issuers,
            }
        return {**tables, "rows": pd.DataFrame(map(_shown, self.page))}

    def _repr_html_(self) -> str:
        opened = "" if self.certificate is None else self.certificate._repr_html_()
        return super()._repr_html_() + opened


class StagingPreview(LiveWidget):
    """Looks into the staging table, or any table of entries: charts, a search, pages of rows, one certificate in full.

    Rows are read when they are asked for; nothing is changed.

    Parameters
    ----------
    table
        The table or its folder; or parameters, for their `staging_path`.

    Attributes
    ----------
    state : str
        ``empty`` where there is no row; ``stale`` where the table has changed since it was looked at: `refresh` looks
        again.

    Raises
    ------
    ParameterError
        The parameters have no `staging_path`.
    TableError
        There is a table that cannot be opened, or the folder holds other things.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     preview = StagingPreview(f"{folder}/staging")
    >>> preview.state, preview.report.rows
    ('empty', 0)
    """

    front = "staging_preview"

    charts = traitlets.Instance(dict, allow_none=True).tag(sync=True)
    page = traitlets.Dict().tag(sync=True)
    certificate = traitlets.Instance(dict, allow_none=True).tag(sync=True)
    names = traitlets.Dict().tag(sync=True)

    def __init__(self, table: DeltaTable | Parameters | str | Path) -> None:
        super().__init__()
        if isinstance(table, Parameters):
            table = table.need("staging_path")
        self._folder = folder_of(table) if isinstance(table, DeltaTable) else str(table_path(table))
        self.refresh()

    @property
    def report(self) -> StagingReport:
        """What is shown now, and the counts of all rows."""
        if self.state == "loading":
            self._count()
        return StagingReport(
            self._folder,
            None if self._table is None else self._table.version(),
            0 if self._browser is None else self._browser.rows,
            self._counts,
            self._search,
            self._issuer,
            self._matches,
            self._start,
            tuple(self._rows),
            self._opened,
        )

    def refresh(self) -> None:
        """Look at the table as it is now, from its first row on."""
        self._table = find_table(self._folder)
        self._browser = None if self._table is None else RowBrowser(self._table)
        self._counts: Counts | None = None
        self._opened: OpenCertificate | None = None
        self._rows: list[dict[str, Any]] = []
        self.charts = self.certificate = None
        self.search("")

    def search(self, text: str = "", *, issuer: str | None = None) -> None:
        """Show the rows that have `text` in a domain or the issuer, in any case of letters; all rows if it is empty.

        Or, if it is given, those of exactly this `issuer`, "" being none.
        """
        self.state = "running"
        text = text.strip() if issuer is None else ""
        try:
            matches = 0 if self._browser is None else self._browser.search(text, issuer=issuer)
        except BaseException:
            # What is shown is still that of the last search.
            self._settle()
            raise
        # All at once: whatever fails from here on, the record tells of one search only.
        self._search, self._issuer, self._matches, self._start, self._rows = text, issuer, matches, 0, []
        self.turn(0)
        self._settle()
        self.record()

    def turn(self, start: int) -> None:
        """Show the rows from `start` on, of those that were searched for."""
        within = self._matches if not self._search and self._issuer is None else min(self._matches, MOST_FOUND)
        start = max(min(start, (within - 1) // ROWS_PER_PAGE * ROWS_PER_PAGE), 0)
        page = None if self._browser is None else self._browser.page(start, ROWS_PER_PAGE)
        self._start, self._rows = start, [] if page is None else page.to_pylist()
        self.page = {
            # By this a click says which page it was made on.
            "number": self.page.get("number", 0) + 1,
            "start": self._start,
            "size": ROWS_PER_PAGE,
            "search": visible(self._search),
            "issuer": None if self._issuer is None else shortened(self._issuer, 200),
            "matches": self._matches,
            "within": within,
            "rows": 0 if self._browser is None else self._browser.rows,
            "items": [_shown(row) for row in self._rows],
        }

    def open_certificate(self, row: int) -> OpenCertificate:
        """Open the certificate of a row of the page, 0 being the first, in full."""
        place = self._rows[row]
        assert self._browser is not None, "a page has rows"
        if place["cert_index"] is None:
            raise TableError(self._folder, "the row has no index, so that it is no entry's. Remove it before a merge")
        copies = len(self._browser.places_of(place["source_url"], place["cert_index"]))
        self._opened = read_row(self._browser.row(place), copies=copies)
        self._turn_names(0)
        self.certificate = {**to_json(self._opened), "row": row}
        self.record()
        return self._opened

    def close_certificate(self) -> None:
        """Show the rows only."""
        self._opened = None
        self.certificate = None
        self.record()

    def on_message(self, content: dict[str, Any]) -> None:
        """Do what the front end asks for, and see whether the table has changed."""
        if self.state == "failed":
            self._settle()
        try:
            self._do(content)
        except TableError:
            # A merge removes the files of staging, for instance.
            if not self._has_changed():
                raise
        if self._has_changed():
            self._become_stale()

    def check(self) -> None:
        """Find out whether the table has changed; if so, the state becomes ``stale``."""
        if self.state in ("loading", "ready", "empty") and self._has_changed():
            self._become_stale()

    def _become_stale(self) -> None:
        self.note = visible(f"{self._folder} has changed; what is shown is older: look again")
        self.state = "stale"
        self.record()

    def _do(self, content: dict[str, Any]) -> None:
        match content["do"]:
            case "search":
                self.search(content["text"])
            case "issuer":
                self.search(issuer=self._issuer_at(content["place"], content["name"]))
            case "turn":
                self.turn(content["start"])
                self.record()
            case "open":
                if content["page"] != self.page["number"]:
                    raise TableError(self._folder, "another page was shown before this row was opened. Open it again")
                self.open_certificate(content["row"])
            case "names":
                self._turn_names(content["start"])
            case "close":
                self.close_certificate()
            case "refresh":
                self.refresh()

    def _issuer_at(self, place: int, name: str) -> str:
        """Return an issuer of the charts as the table has it; `name` is how it was shown."""
        shown = self.charts["issuers"] if self.charts else []
        if self._counts is None or [known for known, *_ in shown[place : place + 1]] != [name]:
            raise TableError(self._folder, "other issuers were shown before this one was chosen. Choose it again")
        return list(self._counts.issuers)[place]

    def _settle(self) -> None:
        """Set the state to what there is to see."""
        is_empty = self._browser is None or not self._browser.rows
        self.note = visible(f"nothing is staged in {self._folder}; run a backfill") if is_empty else ""
        self.state = "empty" if is_empty else "loading" if self._counts is None else "ready"

    def _has_changed(self) -> bool:
        return _version(find_table(self._folder)) != _version(self._table)

    def _count(self) -> None:
        """Count what there is: it needs all rows, so that the first page is shown before."""
        assert self._browser is not None, "an empty table is not counted"
        try:
            self._counts = self._browser.count()
        except Exception as error:
            self.fail(error)
        else:
            self.charts = _charts(self._counts)
            self.state = "ready"

    def _turn_names(self, start: int) -> None:
        names = () if self._opened is None else self._opened.names
        start = max(min(start, (len(names) - 1) // NAMES_PER_PAGE * NAMES_PER_PAGE), 0)
        items = [shortened(name, 500) for name in names[start : start + NAMES_PER_PAGE]]
        self.names = {"start": start, "size": NAMES_PER_PAGE, "total": len(names), "items": items}


def _version(table: DeltaTable | None) -> tuple[str, int] | None:
    """Return what tells a version of a table from others, and from those of a table in its place."""
    return None if table is None else (str(table.metadata().id), table.version())


def _counted(name: str, counts: Mapping[str, int]) -> pd.DataFrame:
    return pd.DataFrame({name: list(counts), "rows": list(counts.values())})


def _named(kinds: Mapping[str, int]) -> dict[str, int]:
    return {_KINDS.get(kind, kind): count for kind, count in kinds.items()}


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as a page shows it, in text that is safe to show."""
    domains = row["all_domains"] or []
    first = _text(domains[0] if domains else row["subject_aggregated"])
    more = f" +{len(domains) - 1:,}" if len(domains) > 1 else ""
    kind = _KINDS.get(_text(row["update_type"]), _text(row["update_type"]))
    return {
        "log": shortened(_text(row["source_name"] or row["source_url"]), 100),
        "index": "none" if pd.isna(row["cert_index"]) else str(row["cert_index"]),
        "seen": "" if pd.isna(row["seen"]) else f"{row['seen']:%Y-%m-%d %H:%M}",
        "domains": shortened(first, 100) + more,
        "issuer": shortened(_short_name(_text(row["issuer_aggregated"])), 200),
        "issuer_in_full": shortened(_text(row["issuer_aggregated"]), 200),
        "valid": f"{_day(row['not_before'])} to {_day(row['not_after'])}",
        "kind": shortened(kind if row["signature_algorithm"] else f"{kind}, unreadable", 100),
        "entry": visible(_text(row["cert_link"])),
    }


def _short_name(name: str) -> str:
    """Return common name and organization of an aggregated name, or all of it if it has neither.

    >>> _short_name("/C=US/CN=E1/O=Let's Encrypt"), _short_name("/O=Example/OU=CN=none"), _short_name("/ST=Example")
    ("E1, Let's Encrypt", 'Example', '/ST=Example')
    """
    values: dict[str, str] = {}
    for part in re.split(r"/(?=(?:C|CN|L|O|OU|ST)=)", name):
        attribute, _, value = part.partition("=")
        values.setdefault(attribute, value)
    return ", ".join(dict.fromkeys(values[each] for each in ("CN", "O") if values.get(each))) or name


def _text(value: Any) -> str:
    """Return text of a column, in which other writers may have null."""
    return "" if value is None else str(value)


def _day(seconds: Any) -> str:
    """Return a date of a certificate; some have none, or one that `datetime` does not know."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}" if seconds else "?"
    except (OverflowError, OSError, ValueError, TypeError):
        return "?"


def _charts(counts: Counts) -> dict[str, Any]:
    """Return the bars of the charts; all rows are in each of them."""
    dates, unit = counts.dates, "date"
    for size, coarser in ((7, "month"), (4, "year")):
        if len(dates) > MOST_BARS:
            unit, dates = coarser, _by_beginning(counts.dates, size)
    rows = sum(counts.kinds.values())
    issuers = [
        [shortened(_short_name(issuer), 200), count, shortened(issuer, 200)] for issuer, count in counts.issuers.items()
    ]
    return {
        "unit": unit,
        "dates": [[visible(date), count] for date, count in dates.items()],
        "kinds": [[shortened(kind, 200), count] for kind, count in _named(counts.kinds).items()],
        "issuers": issuers,
        "others": [counts.issuers_in_all - len(issuers), rows - sum(counts.issuers.values())],
        "unreadable": counts.unreadable,
        "rows": rows,
    }


def _by_beginning(counts: Mapping[str, int], size: int) -> dict[str, int]:
    sums: dict[str, int] = {}
    for date, count in counts.items():
        sums[date[:size]] = sums.get(date[:size], 0) + count
    return sums
