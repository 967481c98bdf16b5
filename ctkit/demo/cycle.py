"""The whole cycle on embedded logs: find the gaps of a table, fill them, preview, merge, and find none."""

import base64
import fcntl
import logging
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import NoReturn

import numpy as np
import pyarrow as pa
import yaml

from ctkit.demo.embedded import EmbeddedLog, make_log
from ctkit.demo.issuance import issue
from ctkit.demo.server import LogServer
from ctkit.desk.runbook import prepare_notebook, run_notebook
from ctkit.desk.shipped import RUNBOOKS, find_runbook
from ctkit.desk.state_file import write_state
from ctkit.desk.terminal import write
from ctkit.errors import ParameterError
from ctkit.jobs.backfill import backfill
from ctkit.lake.gaps import find_gaps, ranges_by_log
from ctkit.lake.table import find_table, open_table
from ctkit.logs.log import Log
from ctkit.logs.open import open_log
from ctkit.ranges import RangeSet
from ctkit.schema import GAP_SCHEMA

ENTRIES = 12_000
"""Entries of each of the two logs."""

NEW_ENTRIES = 6_000
"""Entries by which each log grows when it is served, so that there is something to do in JupyterLab."""

ABOVE = 120
"""Entries of the second log that a live service has written after it saved its state for the last time."""

ODD = (
    (("*.shop.example", "shop.example"), ""),
    (("xn--mnchen-3ya.example", "xn--bcher-kva.example"), "B\u00fccher & S\u00f6hne"),
    (("many.example", *(f"host{number}.many.example" for number in range(1, 250))), ""),
    (("<script>alert(1)</script>.evil.example", "$\\frac{1}{0}$.evil.example"), "\u202enoitazinagrO \x1b[31m"),
)
"""DNS names and organizations such as real logs have now and then; each log ends with certificates for them."""

SERVE_PORT = 8962
"""Port of the logs that are served, unless it is taken; ``parameters/demo.yaml`` names it."""

DAYS = 3
USER_AGENT = "ctkit demo, nobody@example.org"

_MARK = ".ctkit-demo"
_OURS = ("main", "staging", "told", "state.json", "parameters.yaml", "log_list.pem", "notebooks", "runs")

_TICK = 1.0
"""Seconds between two appends to logs that grow."""

_ISSUED = 20
"""Certificates that are issued for each log at a time; issuing one takes about a millisecond."""

_REPEATED = 600
"""Certificates that are issued for the `NEW_ENTRIES` of each log; the other entries repeat them."""


def run(folder: str | Path, *, serve: bool = False, grow: int = 0, entries: int = ENTRIES) -> int:
    """Run the cycle through the runbooks, and describe it.

    Parameters
    ----------
    folder
        Where the tables, the parameter file and the output notebooks go. A demo in it starts again from the beginning.
    serve
        Serve the logs afterwards, until Ctrl+C.
    grow
        Entries a second by which the logs then grow together.
    entries
        Size of each of the two logs.

    Returns
    -------
    int
        0 if the table is complete in the end, 1 otherwise.

    Raises
    ------
    ParameterError
        The folder holds something else, or `grow` is negative or given without `serve`.
    """
    if grow < 0:
        raise ParameterError(f"--grow is {grow}; give the number of entries a second, above 0")
    if grow and not serve:
        raise ParameterError("--grow needs --serve; give both")
    folder = Path(folder).absolute()
    with _hold(folder):
        return _run(folder, serve=serve, grow=grow, entries=entries)


def _run(folder: Path, *, serve: bool, grow: int, entries: int) -> int:
    _clear(folder)
    # The output of the cells is in the output notebooks.
    logging.getLogger("papermill").setLevel(logging.WARNING)
    _tell(f"Issuing {2 * entries:,} certificates and precertificates for two logs ...")
    logs = make_logs(entries)
    with _serve(logs, port=SERVE_PORT if serve else 0) as server:
        demo = _Demo(folder, logs, server)
        with _without_log_lines("ctkit.desk"):
            code = demo.run_cycle()
        if serve and code == 0:
            demo.serve(grow)
    return code


def make_logs(entries: int) -> list[EmbeddedLog]:
    """Return one log for each protocol, of `entries` entries over the last days."""
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=DAYS)
    usual = max(entries - len(ODD), 0)
    logs = [
        make_log("Demo RFC 6962", usual, seed=1, protocols=["rfc6962"], start=start, days=DAYS),
        make_log("Demo Static CT", usual, seed=2, protocols=["static-ct"], start=start, days=DAYS),
    ]
    for log in logs:
        _append_odd(log, entries - usual)
    return logs


def _append_odd(log: EmbeddedLog, count: int = len(ODD)) -> None:
    random = Random(log.tree_size)
    for names, organization in ODD[:count]:
        timestamp = log.entries[-1].timestamp if log.entries else log.start
        log.append(issue(random, timestamp, names=names, organization=organization), timestamp)


def parameters_of(folder: Path, logs: list[EmbeddedLog], server: LogServer) -> dict[str, object]:
    """Return the parameters of a demo in `folder`."""
    return {
        "main_path": str(folder / "main"),
        "staging_path": str(folder / "staging"),
        "state_file": str(folder / "state.json"),
        "runs_path": str(folder / "runs"),
        "logs": [
            {
                "name": log.name,
                "url": server.url(log),
                "protocol": log.protocols[0],
                "key": base64.b64encode(log.public_key).decode(),
            }
            for log in logs
        ],
        "from_index": 0,
        # No live server will write the entries above the last row, however new the state file is.
        "internal_only": False,
        "verify": "entries",
        # The domains of the demo are made up, and the same in each.
        "domains": ["co.uk"],
        "told_path": str(folder / "told"),
        "user_agent": USER_AGENT,
    }


def _serve(logs: list[EmbeddedLog], *, port: int) -> LogServer:
    try:
        return LogServer(*logs, port=port)
    except OSError:
        return LogServer(*logs)


@contextmanager
def _without_log_lines(name: str) -> Iterator[None]:
    """Keep what a logger tells of each step off the screen, where it would hide the steps; the records have it."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _hold(folder: Path) -> Iterator[None]:
    """Create the folder, and keep other demos out of it."""
    try:
        if folder.exists() and any(folder.iterdir()) and not (folder / _MARK).exists():
            raise ParameterError(f"{folder} holds something other than a demo; name an empty or a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        mark = (folder / _MARK).open("w")
    except OSError as error:
        raise ParameterError(f"{folder} cannot be used for a demo ({error}); name another folder") from error
    with mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ParameterError(f"a demo is running in {folder}; stop it, or name another folder") from None
        yield


def _clear(folder: Path) -> None:
    """Remove what the last demo left; refuse where somebody put notebooks or records of their own among its files."""
    written = {f"{name}{suffix}" for name in RUNBOOKS for suffix in (".ipynb", ".html")}
    # Of commands that were tried on it.
    written.add("runs.jsonl")
    for path in (path for name in ("notebooks", "runs") for path in sorted(folder.glob(f"{name}/[!.]*"))):
        if path.name not in written:
            raise ParameterError(f"{path} is not the demo's and would be removed; move it, or name another folder")
    for path in (folder / name for name in _OURS):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@dataclass
class _Demo:
    folder: Path
    logs: list[EmbeddedLog]
    server: LogServer

    def run_cycle(self) -> int:
        """Fill main, with holes, then find, fetch, preview, merge, and find none."""
        self._write_files()
        rows = self._fill_main([0] * len(self.logs))
        _tell(f"A live service filled main, and missed some entries: {rows:,} rows in {self.folder / 'main'}\n")
        self._tell_gaps("1. Gaps: what the logs have and the table lacks")
        steps = [
            ("2. Backfill: fetch exactly those entries into staging", "backfill"),
            ("3. Preview: look at gaps and staging; nothing changes", "preview"),
            ("4. Merge: staging into main, in one commit", "merge"),
        ]
        for title, name in steps:
            _tell(f"{title}\n   ctkit run {name} -f {self._shown('parameters.yaml')}")
            record = self.folder / "runs" / f"{name}.ipynb"
            if code := run_notebook(name, {}, shared=self._parameters, output=record):
                _tell(f"   failed; see {record}")
                return code
            _tell(f"   record: {self._shown(f'runs/{name}.ipynb')}\n")
        missing = self._tell_gaps("5. Gaps again")
        main = find_table(self.folder / "main")
        rows, entries = main.count() if main else 0, sum(log.tree_size for log in self.logs)
        complete = not missing and rows == entries
        verdict = "complete, without duplicates" if complete else "NOT complete"
        _tell(f"Main has {rows:,} rows for the {entries:,} entries of both logs: {verdict}.")
        _tell(f"Tables and output notebooks are in {self._shown('')}; to try it yourself: ctkit demo --serve")
        return 0 if complete else 1

    def serve(self, grow: int) -> None:
        """Let the logs grow, prepare the runbooks for JupyterLab, and wait for Ctrl+C."""
        self._go_on()
        for name in RUNBOOKS:
            prepare_notebook(find_runbook(name), self._parameters, self.folder / "notebooks" / f"{name}.ipynb")
        key = self.folder / "log_list.pem"
        key.write_bytes(self.server.listed.public_key)
        pace = f", grow by {grow:,} entries a second together" if grow else ""
        _tell(
            f"\nBoth logs have grown by {NEW_ENTRIES:,} entries{pace}, and stay up until you press Ctrl+C.\n"
            "The live service missed some of them again, and a backfill was stopped half way:\n"
            + "".join(f"   {self.server.url(log)}  ({log.name})\n" for log in self.logs)
            + f"   {self.server.list_url}  (log list of both; its key is {self._shown(key.name)})\n"
            "In another terminal:\n"
            f"   ctkit gaps -f {self._shown('parameters.yaml')}\n"
            f"   jupyter lab {self._shown('notebooks')}   (the runbooks, with this demo's parameters filled in)",
        )
        try:
            self._grow(grow) if grow else threading.Event().wait()
        except KeyboardInterrupt:
            _tell("\nThe logs are down.")

    def _go_on(self) -> None:
        """Let the logs grow, the live service write most of what came, and a backfill stage a part of the rest."""
        before = [log.tree_size for log in self.logs]
        for log in self.logs:
            log.grow(NEW_ENTRIES - len(ODD), until=_now(), issued=_REPEATED)
            _append_odd(log)
        self._write_files(above=ABOVE)
        self._fill_main(before, to_the_end=self.logs[-1])
        main, within = find_table(self.folder / "main"), (before[0], before[0] + NEW_ENTRIES // 2)
        with self._opened() as (client, *_):
            gaps = find_gaps(main, within={client.url: within})
            backfill([client], gaps, open_table(self.folder / "staging", like=main), verify="entries").check()

    def _grow(self, grow: int) -> NoReturn:
        began, grown = time.monotonic(), 0
        while True:
            time.sleep(_TICK)
            due = int((time.monotonic() - began) * grow)
            self.server.grow(due - grown, until=_now(), issued=_ISSUED)
            grown = due
            self._write_state()

    @property
    def _parameters(self) -> dict[str, object]:
        return parameters_of(self.folder, self.logs, self.server)

    def _write_state(self, *, above: int = 0) -> None:
        """Write where the live service is; of the last log, it was that many entries behind when it saved its state."""
        ceilings = {self.server.url(log): log.tree_size for log in self.logs}
        ceilings[self.server.url(self.logs[-1])] -= above
        write_state(self.folder / "state.json", ceilings)

    def _write_files(self, *, above: int = 0) -> None:
        self._write_state(above=above)
        text = "# Written by `ctkit demo`; the logs are up while `ctkit demo --serve` runs.\n"
        (self.folder / "parameters.yaml").write_text(text + yaml.safe_dump(self._parameters, sort_keys=False))

    @contextmanager
    def _opened(self) -> Iterator[Sequence[Log]]:
        clients = [
            open_log(self.server.url(log), user_agent=USER_AGENT, name=log.name, key=log.public_key)
            for log in self.logs
        ]
        yield clients
        for client in clients:
            client.close()

    def _fill_main(self, first: Sequence[int], *, to_the_end: EmbeddedLog | None = None) -> int:
        """Write what a live service would have written from `first` of each log on: everything but the holes."""
        main = open_table(self.folder / "main")
        with self._opened() as clients:
            present = pa.concat_tables(
                _as_gaps(client.url, _seen(start, log.tree_size, newest=log is to_the_end))
                for client, log, start in zip(clients, self.logs, first, strict=True)
            )
            # A live service verifies nothing.
            report = backfill(clients, present, main, verify="off")
        report.check()
        return sum(report.written.values())

    def _tell_gaps(self, title: str) -> int:
        within = {self.server.url(log): (0, log.tree_size) for log in self.logs}
        gaps = find_gaps(find_table(self.folder / "main"), find_table(self.folder / "staging"), within=within)
        missing = sum(ranges.size for ranges in ranges_by_log(gaps).values())
        _tell(f"{title}\n   ctkit gaps -f {self._shown('parameters.yaml')}")
        _tell(f"   {gaps.num_rows:,} gaps, {missing:,} entries\n")
        return missing

    def _shown(self, name: str) -> str:
        """Return a path as it would be typed in the current folder."""
        path = self.folder / name
        return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _now() -> int:
    """Return the time in milliseconds since the Unix epoch, as logs count it."""
    return time.time_ns() // 1_000_000


def _tell(text: str) -> None:
    write(f"{text}\n", flush=True)


def _seen(first: int, end: int, *, newest: bool) -> RangeSet:
    """Return the indices in ``[first, end)`` of a log that the live service of the demo wrote.

    It missed an outage, certificates that it knew from other logs (holes of one entry everywhere), and the newest
    entries, unless it has `newest`.
    """
    size = end - first
    index = np.arange(size)
    outage = (index >= size * 3 // 10) & (index < size * 4 // 10)
    seen_elsewhere = np.random.default_rng(size).random(size) < 0.15
    latest = index >= size * 95 // 100
    missed = outage | (seen_elsewhere & ~latest) if newest else outage | seen_elsewhere | latest
    missed[:1] = False
    return RangeSet.holding(first + index[~missed])


def _as_gaps(url: str, ranges: RangeSet) -> pa.Table:
    return pa.table({"source_url": [url] * len(ranges), "start": ranges.starts, "end": ranges.ends}, schema=GAP_SCHEMA)
