"""A run shows itself: what is counted, in which state each log is, what is shown of it, and how a stop ends it."""

import logging
import os
import pty
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes import FakeLog, check_table
from rich.console import Console
from test_backfill import gaps_of

from ctkit.desk import progress_lines
from ctkit.desk.progress import SHOWN, ProgressBar
from ctkit.desk.progress_lines import log_lines, render, show_progress
from ctkit.errors import TableError
from ctkit.jobs import fetching, progress
from ctkit.jobs.backfill import backfill
from ctkit.jobs.progress import LogProgress, Progress, Tally
from ctkit.lake import write
from ctkit.lake.gaps import find_gaps
from ctkit.lake.table import open_table
from ctkit.logs.asking import Patience
from ctkit.logs.trouble import Trouble

URL, OTHER = "https://a.example", "https://b.example"
HOSTILE = "a\u202eb <script>$x$ [bold]\x1b[2J"
ANY_TIME = 30


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that a test turns."""
    now = SimpleNamespace(time=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.time))
    return now


@pytest.fixture
def logs():
    """Return two logs that answer."""
    return {url: SimpleNamespace(name=name, trouble=None) for url, name in ((URL, "A"), (OTHER, None))}


def states(of):
    """Return the state of each log in words."""
    return [log.status for log in of.logs]


def test_total_has_a_state_in_words():
    """Also where all logs wait."""
    waiting = [LogProgress(url, url, 9, 0, 0, "waiting", "503, try 3") for url in (URL, OTHER)]
    assert Progress(tuple(waiting), None, 1.0).total.status == "waiting"


def some(count, **options):
    """Return the progress of so many logs, every third of which is done."""
    return Progress(
        tuple(
            LogProgress(f"https://{at}.example", f"Log {at}", 100, 50, 20, "done" if at % 3 == 0 else "fetching")
            for at in range(count)
        ),
        1,
        5.0,
        **options,
    )


def test_tally_counts_each_log(clock, logs):
    """States, rates and times of logs, from the first look to the last."""
    tally = Tally(logs, {URL: 1000, OTHER: 10})
    assert states(tally.snapshot()) == ["queued", "queued"]
    assert [log.name for log in tally.snapshot().logs] == ["A", OTHER]

    tally.begin(URL)
    assert states(tally.snapshot()) == ["asking", "queued"]
    tally.fetch(URL, 100)
    clock.time += 2
    of = tally.snapshot()
    assert (of.logs[0].status, of.logs[0].rate, of.logs[0].seconds_left) == ("fetching", 50.0, 18.0)
    assert (of.wanted, of.fetched, of.written, of.version, of.ended) == (1010, 100, 0, None, False)

    tally.write({URL: 100}, 7)
    tally.begin(OTHER)
    tally.fetch(OTHER, 10)
    tally.end(OTHER)
    of = tally.snapshot()
    assert (of.written, of.version, tally.commits, states(of)) == (100, 7, 1, ["fetching", "writing"])
    assert of.logs[1].rate is None

    tally.write({OTHER: 10}, 8)
    tally.lose(URL, "gone; run again")
    tally.end(URL)
    tally.close()
    of = tally.snapshot()
    assert (states(of), of.ended, of.total.state) == (["failed: gone; run again", "done"], True, "failed")


def test_rate_is_that_of_the_last_seconds(clock, logs):
    """A log that has stopped sending has a rate of 0, and no time at which it is done."""
    tally = Tally(logs, {URL: 1000})
    tally.begin(URL)
    tally.snapshot()
    tally.fetch(URL, 500)
    for _ in range(40):
        clock.time += 1
        of = tally.snapshot().logs[0]

    assert (of.rate, of.seconds_left) == (0.0, None)


def test_time_left_is_that_of_the_budget(clock, logs):
    """A log of which only a part may be fetched is done with that part."""
    tally = Tally(logs, {URL: 1000})
    tally.plan({URL: 1000}, {URL: 200})
    tally.begin(URL)
    tally.snapshot()
    tally.fetch(URL, 100)
    clock.time += 1

    assert tally.snapshot().logs[0].seconds_left == 1.0


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (Trouble("429", 2, 141.2), "waiting 41 s for 429"),
        (Trouble("503", 3, 100.2), "503, try 3"),
        (Trouble("ConnectError", 2, 0.0), "ConnectError, try 2"),
    ],
)
def test_trouble_in_words(clock, logs, trouble, words):
    """What a log waits for, or what it is asked again for."""
    tally = Tally(logs, {URL: 1000})
    tally.begin(URL)
    logs[URL].trouble = trouble

    of = tally.snapshot()
    assert (of.logs[0].state, of.logs[0].status) == ("waiting", words)
    assert of.facts()["troubled"] == f"A ({words})"


@pytest.mark.parametrize(("knobs", "what"), [({"always": 503}, "503"), ({"always": 429, "retry_after": "9"}, "429")])
def test_trouble_of_a_log(tmp_path, opened, knobs, what):
    """While a log refuses, the run says so; a stop ends its waits, and what the other gave is written."""
    bad, good = FakeLog("Bad", 50, protocols=["rfc6962"]), FakeLog("Good", 50, protocols=["rfc6962"])
    vars(bad).update(knobs)
    patience = Patience(tries=9, first_wait=0.01, longest_wait=60)
    asked = [opened(fake, "rfc6962", patience=patience) for fake in (bad, good)]
    stop, heard = threading.Event(), []

    def listen(of):
        heard.append(of)
        if any(log.state == "waiting" for log in of.logs):
            stop.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctkit.jobs.backfill.SECONDS_PER_PROGRESS", 0.02)
        gaps = gaps_of(*((log.url, 0, 50) for log in asked))
        report = backfill(asked, gaps, open_table(tmp_path / "staging"), on_progress=listen, stop=stop)

    waited = next(log for of in heard for log in of.logs if log.state == "waiting")
    assert (waited.name, what in waited.why) == ("Bad", True)
    assert heard[-1].ended
    assert {log.source_url: log.written for log in heard[-1].logs} == report.written


def test_trouble_is_over_with_an_answer(opened):
    """A log that answers again is in no trouble."""
    fake = FakeLog("Bad", 5, protocols=["rfc6962"])
    log = opened(fake, "rfc6962")
    fake.busy = [503, 503]
    seen = []
    fake.on_request = lambda _: seen.append(log.trouble and (log.trouble.what, log.trouble.attempt))
    log.get_checkpoint()

    assert (seen, log.trouble) == ([None, ("503", 2), ("503", 3)], None)


STOPS = ["event", "interrupt", "entries", "requests", "deadline", "hole", "error", "disk full", "none"]


@pytest.mark.parametrize("how", STOPS)
def test_progress_at_the_end_is_what_is_written(tmp_path, opened, monkeypatch, how):
    """However a run ends, the last progress, the report and the table say the same."""
    monkeypatch.setattr(write, "ROWS_PER_COMMIT", 100)
    fakes = [FakeLog(name, 400, protocols=["rfc6962"], page_size=50) for name in ("One", "Two")]
    logs = [opened(fake, "rfc6962") for fake in fakes]
    options = {"entries": {"max_entries": 150}, "requests": {"max_requests": 5}, "deadline": {"deadline": 0.3}}
    if how in ("event", "interrupt", "deadline", "error"):
        fakes[1].on_request = lambda request: go_on.wait(ANY_TIME) if request.query.get("start", "0") > "0" else None
    if how == "hole":
        fakes[1].broken_leaves = {7}
    if how == "disk full":
        write_files, calls = write.write_files, []

        def fail(*arguments):
            calls.append(arguments)
            if len(calls) > 2:
                raise OSError(28, "No space left on device")
            return write_files(*arguments)

        monkeypatch.setattr(write, "write_files", fail)
    go_on, stop, heard = threading.Event(), threading.Event(), []

    def listen(of):
        heard.append(of)
        if of.written and not of.ended and not stop.is_set() and how in ("event", "interrupt", "error"):
            stop.set()
            if how != "event":
                raise KeyboardInterrupt if how == "interrupt" else ZeroDivisionError

    table, gaps = open_table(tmp_path / "staging"), gaps_of(*((log.url, 0, 400) for log in logs))
    report = None
    with suppress(ZeroDivisionError, TableError):
        event = stop if how == "event" else None
        report = backfill(logs, gaps, table, on_progress=listen, stop=event, **options.get(how, {}))
    go_on.set()
    table = open_table(tmp_path / "staging")

    assert (heard[-1].ended, heard[-1].written, heard[-1].version) == (True, table.count(), table.version() or None)
    assert (report is None) == (how in ("error", "disk full"))
    if report:
        assert ({log.source_url: log.written for log in heard[-1].logs}, heard[-1].wanted) == (report.written, 800)
        reasons = {"event": "stop", "interrupt": "stop", "entries": "max_entries", "requests": "max_requests"} | {
            "deadline": how
        }
        assert report.stopped_by == ((reasons[how],) if how in reasons else ())
        assert report.left.wanted == 800 - table.count() - (how == "hole")
        assert {log.state for log in heard[-1].logs} <= {"done", "failed" if how == "hole" else "left"}


def test_stop_before_the_start(tmp_path, opened):
    """A run that is stopped before it begins asks for nothing, and leaves everything."""
    fake = FakeLog("Log", 50, protocols=["rfc6962"])
    log, stop = opened(fake, "rfc6962"), threading.Event()
    stop.set()
    fake.latency = ANY_TIME
    table = open_table(tmp_path / "staging")
    report = backfill([log], find_gaps(None, within={log.url: (0, 50)}), table, stop=stop)

    assert (report.written, report.left.wanted, report.stopped_by) == ({log.url: 0}, 50, ("stop",))
    assert (report.title, report.holes) == ("backfill stopped", ())
    report.check()
    fake.wake()
    assert backfill([log], find_gaps(None, within={log.url: (0, 50)}), table).complete
    check_table(table, {log.url: fake}, {log.url: (0, 50)})


def test_a_failing_log_delays_no_other(tmp_path, opened, monkeypatch):
    """The rows of one log are committed while another still refuses."""
    monkeypatch.setattr(write, "SECONDS_PER_COMMIT", 0.05)
    bad, good = FakeLog("Bad", 50, protocols=["rfc6962"]), FakeLog("Good", 50, protocols=["static-ct"])
    bad.always = 503
    logs = [
        opened(bad, "rfc6962", patience=Patience(tries=1000, first_wait=0.01, longest_wait=0.05)),
        opened(good, "static-ct"),
    ]

    def listen(of):
        if of.written >= 50:
            bad.always = None

    gaps = gaps_of(*((log.url, 0, 50) for log in logs))
    report = backfill(logs, gaps, open_table(tmp_path / "staging"), on_progress=listen)

    assert report.complete


def test_first_progress_does_not_wait_for_a_log(tmp_path, opened, monkeypatch):
    """Something is shown while no log has been asked for anything yet."""
    fake = FakeLog("Log", 50, protocols=["rfc6962"])
    log, heard, go_on = opened(fake, "rfc6962"), [], threading.Event()
    fetch_blocks = fetching.fetch_blocks

    def wait_first(*arguments, **options):
        go_on.wait(ANY_TIME)
        return fetch_blocks(*arguments, **options)

    monkeypatch.setattr(fetching, "fetch_blocks", wait_first)

    def listen(of):
        heard.append(of)
        go_on.set()

    backfill([log], gaps_of((log.url, 0, 50)), open_table(tmp_path / "staging"), verify="off", on_progress=listen)

    assert (heard[0].wanted, heard[0].written, heard[0].ended) == (50, 0, False)


def test_log_file_has_a_line_a_minute(monkeypatch, caplog):
    """In a file: the first, the last, and one a minute between them."""
    caplog.set_level(logging.INFO, "ctkit")
    now = SimpleNamespace(time=0.0)
    monkeypatch.setattr(progress_lines, "time", SimpleNamespace(monotonic=lambda: now.time))
    say = log_lines()
    for second in range(200):
        now.time = float(second)
        say(some(2))
    say(some(2, ended=True))

    assert len(caplog.messages) == 5
    assert caplog.messages[0] == "progress wanted=200 fetched=100 written=40 version=1 logs_done=1/2"


def test_what_is_no_terminal_gets_lines(monkeypatch, caplog):
    """Redirected, nothing is redrawn."""
    caplog.set_level(logging.INFO, "ctkit")
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    with show_progress() as show:
        show(some(1))

    assert len(caplog.messages) == 1


def shown(of, **options):
    """Return the lines that a terminal shows."""
    console = Console(**{"width": 80, "height": 24, "force_terminal": True, "color_system": None} | options)
    with console.capture() as capture:
        console.print(render(of, console))
    return capture.get().splitlines()


def test_terminal_has_a_line_for_each_log():
    """Totals first, then logs; numbers beside bars."""
    lines = shown(some(2))

    assert [line.split()[0] for line in lines] == ["2", "Log", "Log"]
    assert lines[1].split()[2:] == ["██▒▒▒▒······", "50", "of", "100", "fetching"]


def test_terminal_has_no_more_lines_than_fit():
    """What does not fit is counted, by state; those that need attention come first."""
    lines = shown(some(60), height=10)

    assert (len(lines), lines[-1].strip()) == (8, "and 54 more: 34 fetching, 20 done")
    assert max(map(len, lines)) <= 80


def test_names_are_no_markup():
    """Names from outside are shown as they are, with what cannot be seen as escapes."""
    of = Progress((LogProgress(URL, HOSTILE, 9, 0, 0, "failed", HOSTILE),), None, 1.0, ended=True)
    text = "".join(shown(of, width=200))

    assert "[bold]" in text
    assert not {"\u202e", "\x1b"} & {*text}


def test_colours_are_for_terminals_that_want_them(monkeypatch):
    """With NO_COLOR there is none."""
    options = {"color_system": "standard"}
    assert "\x1b[" in "".join(shown(some(2), **options))
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in "".join(shown(some(2), **options))


def test_bar_keeps_its_last_picture(monkeypatch):
    """One record that is redrawn; it has each log, and what it says is escaped."""
    records = []
    handle = SimpleNamespace(update=lambda record: records.append(record._repr_html_()))
    monkeypatch.setattr("ctkit.desk.widget.display", lambda *_, **options: handle if "display_id" in options else None)
    bar = ProgressBar()
    bar(some(2 * SHOWN))
    assert (bar.state, len(bar.rows), bar.more) == ("running", 1 + SHOWN, "and 12 more: 4 fetching, 8 done")
    bar(some(2 * SHOWN, ended=True))

    assert (bar.state, len(bar.rows), bar.more) == ("ready", 1 + 2 * SHOWN, "")
    assert (len(records), records[-1].count("<tr>")) == (2, 2 * SHOWN + 3)
    assert "50 of 100" in records[-1]
    assert "<style" not in records[-1].split("</style>")[-1]
    bar(Progress((LogProgress(URL, HOSTILE, 9, 0, 0, "failed", HOSTILE),), None, 1.0, ended=True))
    assert (bar.state, "<script" in records[-1], "\u202e" in records[-1]) == ("failed", False, False)
    assert "\u202e" not in bar.rows[0]["name"] + bar.rows[0]["status"]


def test_button_stops_the_run():
    """The front end's message sets the event that a backfill heeds."""
    bar = ProgressBar()
    bar.report = some(1)
    bar._received({"do": "stop"})

    assert (bar.stop.is_set(), bool(bar.note)) == (True, True)
    bar.report = some(1, ended=True)
    assert bar.note == ""


WATCHED = """
from ctkit.desk.progress_lines import show_progress
from ctkit.desk.terminal import log_to_stderr
from ctkit.visible import get_logger
from test_progress import some
with log_to_stderr(), show_progress() as show:
    show(some(2))
    get_logger("ctkit.told").warning("said meanwhile")
    show(some(2, ended=True))
"""


@pytest.mark.parametrize("kind", ["xterm", "dumb"])
def test_lines_of_a_real_terminal(kind):
    """They are redrawn below what is logged; where nothing can be redrawn, lines are logged."""
    here, there = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "TERM": kind}
    with subprocess.Popen([sys.executable, "-c", WATCHED], stderr=there, env=environment) as process:
        os.close(there)
        text = b""
        # A terminal without a writer has an end on macOS, and is an error on Linux.
        with suppress(OSError):
            while piece := os.read(here, 65536):
                text += piece
    os.close(here)

    assert process.returncode == 0
    assert text.count(b"said meanwhile") == 1
    assert (b"\x1b[2K" in text) == (kind == "xterm")
    assert text.count(b"progress wanted=200") == (0 if kind == "xterm" else 2)
