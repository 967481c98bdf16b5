"""Following: a table stays close behind logs that grow, on a clock of the test's own."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from fakes import HEADS, FakeLog, check_table
from rows import commits_of, keys_of
from runbooks import SIZE, parameters_of

import ctkit
from ctkit.cli import main as run_command
from ctkit.desk.follow import ROUNDS_PER_TIDY, FollowReport
from ctkit.desk.metrics import serve_metrics
from ctkit.errors import CheckpointError, ParameterError, TableBusyError
from ctkit.lake.table import files_of, find_table, hold

COMMAND = Path(sys.executable).with_name("ctkit")


class Clock:
    """Time that passes only where the loop sleeps; the logs grow meanwhile.

    Parameters
    ----------
    rates
        Log -> entries per second.
    end
        When the loop is interrupted.
    events
        Time -> what happens then.
    """

    def __init__(self, rates, end, events=()):
        self.now, self.rates, self.end, self.events = 0.0, rates, end, dict(events)
        self.reports: list[tuple[float, FollowReport]] = []
        self._owed = Counter()

    def time(self):
        """Return the seconds since the start."""
        return self.now

    def sleep(self, seconds):
        """Let the time pass, and the logs grow."""
        assert seconds >= 0
        self.now += max(seconds, 0.001)
        for log, rate in self.rates.items():
            self._owed[log] += rate * max(seconds, 0.001)
            log.grow(int(self._owed[log]))
            self._owed[log] -= int(self._owed[log])
        for due in [due for due in self.events if due <= self.now]:
            self.events.pop(due)()
        if self.now >= self.end:
            raise KeyboardInterrupt

    def follow(self, parameters, lag=60):
        """Follow until the end."""
        with pytest.raises(KeyboardInterrupt):
            ctkit.follow(parameters, lag=lag, on_round=self.take, clock=self.time, sleep=self.sleep)

    def take(self, report):
        """Keep a report."""
        self.reports.append((self.now, report))


def test_follow_logs_that_grow(world):
    """After each round main is complete, no log is behind for longer than the lag, and commits and files are few."""
    clock = Clock(dict.fromkeys(world.logs.values(), 1.0), end=600)
    clock.follow(parameters_of(world))

    assert {report.facts()["missing"] for _, report in clock.reports} == {0}
    assert {report.problems for _, report in clock.reports} == {()}
    times = [moment for moment, _ in clock.reports]
    assert max(later - earlier for earlier, later in zip(times, [*times[1:], 600], strict=True)) <= 60
    rows = Counter(url for url, _ in keys_of(find_table("main")))
    assert all(log.tree_size - rows[url] <= 60 for url, log in world.logs.items())
    check_table(find_table("main"), world.logs, {url: (0, rows[url]) for url in world.logs})
    # A round at most every half of the lag.
    assert len(commits_of(Path("main"))) <= 3 + 600 / 30 + 600 / 30 / ROUNDS_PER_TIDY * 3
    assert not Path("staging").exists()


def test_follow_keeps_to_the_stretch_of_each_log(world):
    """A log that has not grown to its start begins there, and one with an end stops there."""
    rfc, static = world.logs
    starts = {rfc: {"from": SIZE + 50}, static: {"from": SIZE - 10, "to": SIZE + 30}}
    logs = [{**log, **starts[log["url"]]} for log in world.parameters["logs"]]
    parameters = parameters_of(world, main_path="new", logs=logs).model_copy(update={"from_index": None})
    clock = Clock(dict.fromkeys(world.logs.values(), 1.0), end=200)
    clock.follow(parameters)

    found = keys_of(find_table("new"))
    assert sorted(index for url, index in found if url == static) == [*range(SIZE - 10, SIZE + 30)]
    of_rfc = sorted(index for url, index in found if url == rfc)
    assert of_rfc == [*range(SIZE + 50, SIZE + 50 + len(of_rfc))]
    assert len(of_rfc) > 50


def test_follow_when_a_log_becomes_another(world):
    """Nothing of the other tree comes into the table, now or after the next look; the other log goes on."""
    rfc, static = world.logs.values()
    other = FakeLog("Other", SIZE + 300, seed=7, protocols=("rfc6962",))
    had = []

    def become_another():
        had.extend(key for key in keys_of(find_table("main")) if key[0] == next(iter(world.logs)))
        rfc.tree, rfc.entries = other.tree, other.entries

    clock = Clock({rfc: 1.0, static: 1.0}, end=1500, events={100: become_another})
    clock.follow(parameters_of(world))

    url, alive = world.logs
    found = keys_of(find_table("main"))
    assert [key for key in found if key[0] == url] == had
    assert sum(key[0] == alive for key in found) > SIZE + 1000
    assert {type(problem) for problem in clock.reports[-1][1].problems} == {CheckpointError}


def test_follow_when_a_log_is_itself_again(world):
    """One that has contradicted itself is fetched again once it shows the tree that the table knows."""
    url, rfc = next(iter(world.logs.items()))
    known = rfc.tree, rfc.entries
    other = FakeLog("Other", SIZE + 300, seed=7, protocols=("rfc6962",))

    def show(tree, entries):
        rfc.tree, rfc.entries = tree, entries

    events = {100: lambda: show(other.tree, other.entries), 200: lambda: (show(*known), rfc.grow(20))}
    clock = Clock({}, end=1500, events=events)
    clock.follow(parameters_of(world))

    assert sum(key[0] == url for key in keys_of(find_table("main"))) == SIZE + 20
    assert clock.reports[-1][1].problems == ()


def test_follow_tells_of_logs_that_fail(world):
    """Where nothing comes, the lag still grows in what is told."""
    ctkit.update(parameters_of(world)).check()
    rfc = next(iter(world.logs.values()))
    clock = Clock({}, end=500, events={100: lambda: vars(rfc).update(always=404)})
    clock.follow(parameters_of(world))

    url, alive = world.logs
    moment, report = clock.reports[-1]
    held, missing, lag, failures = report.logs[url]
    assert (held, missing) == (SIZE, 0)
    assert (lag > 250, failures > 3) == (True, True)
    assert report.logs[alive] == (SIZE, 0, 0.0, 0)
    assert moment > 300


def test_follow_does_not_wait_for_what_has_not_begun(world):
    """A log that has not grown to its start is not behind, and no round is made for it."""
    logs = [{**log, "from": SIZE + 5000} for log in world.parameters["logs"]]
    parameters = parameters_of(world, main_path="new", logs=logs).model_copy(update={"from_index": None})
    clock = Clock({}, end=900)
    clock.follow(parameters)

    assert {report.facts()["lag_seconds"] for _, report in clock.reports} == {0.0}
    assert len(clock.reports) <= 3


def test_follow_creates_no_table_that_may_be_mistyped(world):
    """A missing main table is an error where it was not to be created."""
    with pytest.raises(ParameterError) as raised:
        ctkit.follow(parameters_of(world, main_path="typo", create_main=False))
    assert raised.value.keys == ("main_path",)
    assert not Path("typo").exists()


def test_follow_keeps_files_few(world, monkeypatch):
    """However many rounds there are, there is no more in the table, on the disk and in its log than after a few."""
    kept = 300
    monkeypatch.setattr("ctkit.desk.follow.ROUNDS_PER_TIDY", 4)
    monkeypatch.setattr("ctkit.lake.history.LONGER", kept)
    # Checkpoints leave out at once what has been taken out, so that no VACUUM finds it.
    monkeypatch.setattr("ctkit.lake.history.WEEK", 0)
    properties = {"delta.deletedFileRetentionDuration": "interval 0 days", "delta.checkpointInterval": "5"}
    find_table("main").alter.set_table_properties(properties)
    clock = Clock(dict.fromkeys(world.logs.values(), 0.5), end=1500)
    files, on_disk, commits = [], [], []

    def look():
        clock.events[clock.now + 30] = look
        for path in Path("main/_delta_log").glob("[0-9]*"):
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 30))
        files.append(len(files_of(find_table("main"))))
        on_disk.append(len([*Path("main").glob("seen_date=*/*.parquet")]))
        commits.append(len(commits_of(Path("main"))))

    clock.events[30] = look
    clock.follow(parameters_of(world))

    assert clock.reports[-1][1].rounds > 45
    assert max(files) < 40
    assert on_disk == files
    assert max(commits) <= 2 * kept / 30 + 10


def test_follow_up_to_an_end(world):
    """A log is followed to where its parameters say, and one that has not grown to its start is not begun."""
    first, second = ({**log} for log in world.parameters["logs"])
    first["to"] = SIZE + 20
    second["from"] = SIZE + 10_000
    clock = Clock(dict.fromkeys(world.logs.values(), 1.0), end=200)
    clock.follow(parameters_of(world, logs=[first, second]))

    rows = Counter(url for url, _ in keys_of(find_table("main")))
    assert rows[first["url"]] == SIZE + 20
    assert rows[second["url"]] == SIZE - 250
    assert clock.reports[-1][1].facts()["missing"] == 0


def test_follow_asks_seldom_where_nothing_grows(world):
    """A log that does not grow is asked less and less often, and nothing is committed."""
    ctkit.update(parameters_of(world, ceiling="log")).check()
    for log in world.logs.values():
        log.requests.clear()
    version = find_table("main").version()
    Clock({}, end=550).follow(parameters_of(world))

    assert find_table("main").version() == version
    for log in world.logs.values():
        heads = sum(len(log.paths(head)) for head in HEADS)
        assert 550 / 15 - 2 <= heads <= 550 / 15 + 12


def test_follow_when_a_log_is_dead(world):
    """The other log goes on; the dead one is asked ever more seldom, and completed when it is back."""
    rfc, static = world.logs.values()
    alive = next(iter(world.logs))

    def die():
        static.always = 404
        static.requests.clear()

    def rise():
        asked.append(len(static.requests))
        static.always = None

    asked = []
    clock = Clock({rfc: 1.0, static: 1.0}, end=900, events={50: die, 450: rise})
    clock.follow(parameters_of(world))

    meanwhile = [report for moment, report in clock.reports if 100 < moment < 450]
    assert len(meanwhile) > 5
    assert {(report.facts()["failing"], report.logs[alive][1]) for report in meanwhile} == {(1, 0)}
    assert asked[0] < 20
    last = clock.reports[-1][1].facts()
    assert (last["failing"], last["missing"]) == (0, 0)
    rows = Counter(url for url, _ in keys_of(find_table("main")))
    assert all(log.tree_size - rows[url] <= 60 for url, log in world.logs.items())


def test_follow_heeds_retry_after(world):
    """A log that asks to be left alone is not asked before it said."""
    ctkit.update(parameters_of(world, ceiling="log")).check()
    rfc, _ = world.logs.values()
    asked = []

    def refuse():
        rfc.always, rfc.retry_after = 429, "300"
        rfc.requests.clear()

    def look():
        asked.append(len(rfc.requests))

    clock = Clock({}, end=400, events={50: refuse, 100: look, 340: look})
    clock.follow(parameters_of(world))

    assert asked[0] > 0
    assert asked[0] == asked[1]


def test_follow_asks_seldom_for_an_entry_that_a_log_cannot_give(world):
    """What is broken is asked for at each look at everything, not in every round; what grows comes meanwhile."""
    rfc, _ = world.logs.values()
    url = next(iter(world.logs))
    broken = SIZE + 20
    rfc.broken_leaves = {broken}

    clock = Clock({rfc: 1.0}, end=1100)
    clock.follow(parameters_of(world))

    asked = [query for path, query, _ in rfc.requests if path == "ct/v1/get-entries"]
    in_vain = [query for query in asked if int(query["start"]) <= broken <= int(query["end"])]
    assert len(clock.reports) > 20
    assert 1 <= len(in_vain) <= 4
    assert clock.reports[-1][1].logs[url][1] == 1
    assert Counter(url for url, _ in keys_of(find_table("main")))[url] > rfc.tree_size - 61


def test_follow_when_a_log_is_dead_at_the_start(world):
    """It is asked again, and completed when it answers."""
    rfc, static = world.logs.values()
    static.always = 404

    def rise():
        static.always = None

    clock = Clock({rfc: 1.0}, end=400, events={100: rise})
    clock.follow(parameters_of(world))

    assert [error.url for error in clock.reports[0][1].unavailable] == [list(world.logs)[1]]
    assert clock.reports[-1][1].unavailable == ()
    assert Counter(url for url, _ in keys_of(find_table("main")))[list(world.logs)[1]] == SIZE


def test_follow_when_a_log_contradicts_an_earlier_tree_head(world, caplog):
    """That is told at the start."""
    ctkit.update(parameters_of(world, ceiling="log")).check()
    url, rfc = next(iter(world.logs.items()))
    other = FakeLog("Other", SIZE, seed=7, protocols=("rfc6962",))
    rfc.tree, rfc.entries = other.tree, other.entries
    Clock({}, end=10).follow(parameters_of(world))

    assert any(record.levelname == "ERROR" and url in record.getMessage() for record in caplog.records)


def test_follow_goes_on_with_what_is_staged(world):
    """What a loop that was killed has staged is merged first, and not fetched again."""
    gap_report = ctkit.report_gaps(parameters_of(world, ceiling="log"))
    ctkit.fill_gaps(gap_report).check()
    gap_report.close()
    for log in world.logs.values():
        log.requests.clear()
    Clock({}, end=20).follow(parameters_of(world))

    check_table(find_table("main"), world.logs, world.within)
    assert [log.data_requests for log in world.logs.values()] == [0, 0]
    assert not Path("staging").exists()


@pytest.mark.parametrize("name", ["commit_files", "link_missing"])
def test_follow_when_the_disk_is_full_for_a_while(world, monkeypatch, name):
    """Rounds fail and are told; once there is room, the loop goes on."""

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"ctkit.lake.merge.{name}", fail)
        clock = Clock(dict.fromkeys(world.logs.values(), 1.0), end=300, events={100: patch.undo})
        clock.follow(parameters_of(world))

    assert clock.reports[0][1].problems
    assert clock.reports[-1][1].problems == ()
    assert clock.reports[-1][1].facts()["missing"] == 0


def test_follow_beside_another_run(world):
    """While another run writes to the table, rounds say so; then they go on."""
    held = hold(find_table("main"))
    held.__enter__()
    clock = Clock({}, end=100, events={40: lambda: held.__exit__(None, None, None)})
    clock.follow(parameters_of(world))

    assert TableBusyError in {type(problem) for problem in clock.reports[0][1].problems}
    check_table(find_table("main"), world.logs, world.within)


def test_follow_without_staging(world):
    """Main is filled directly."""
    clock = Clock({}, end=20)
    clock.follow(parameters_of(world).model_copy(update={"staging_path": None}))

    check_table(find_table("main"), world.logs, world.within)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_follow_as_a_command(world, signum):
    """A signal ends it with 0; what was committed is whole, and figures are served until then."""
    text = (world.folder / "demo.yaml").read_text()
    (world.folder / "demo.yaml").write_text(text.replace("state_file: state.json\n", ""))
    command = [COMMAND, "follow", "-f", "demo.yaml", "--lag", "4", "--metrics", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = [next(process.stderr), next(process.stderr)]
        for line in process.stderr:
            if "following main=" in line and "missing=0" in line:
                break
        process.send_signal(signum)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()

    assert (process.returncode, "nothing is half done" in errors) == (0, True), errors
    assert "http://127.0.0.1:" in said[0]
    assert all(word in said[1] for word in ("main ", "Small rfc6962, Small static-ct", "lag_seconds=4"))
    check_table(find_table("main"), world.logs, world.within)
    assert len(files_of(find_table("main"))) < 10


@pytest.mark.parametrize(
    ("words", "key"), [(["--lag", "0"], "lag"), (["--lag", "soon"], "lag"), (["--metrics", "no:port"], "metrics")]
)
def test_follow_when_a_flag_is_wrong(world, capsys, words, key):
    """It is an error that names it, before anything is asked."""
    for log in world.logs.values():
        log.requests.clear()
    assert run_command(["follow", "-f", "demo.yaml", *words]) == 1
    assert key in capsys.readouterr().err
    assert [log.requests for log in world.logs.values()] == [[], []]


def test_metrics():
    """Prometheus reads what the last report says, and nothing of logs that are gone."""
    for wrong in ("127.0.0.1:x", "70000", "", "-1", "no such host:0"):
        with pytest.raises(ParameterError), serve_metrics(wrong):
            pass
    first = FollowReport("main", 3, 2, 1, {"https://gone.example": (1, 2, 3.0, 4)}, (), ())
    port = free_port()
    with serve_metrics(f"{port}") as take:
        take(first)
        take(FollowReport("main", 7, 5, 2, {"https://a.example": (10, 4, 1.5, 0)}, (), ()))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text = answer.read().decode()
    found = dict(re.findall(r"^(ctkit_\S+) (\S+)$", text, re.MULTILINE))
    success = float(found.pop("ctkit_last_success_timestamp_seconds"))

    assert found == {
        'ctkit_held_entries{log="https://a.example"}': "10.0",
        'ctkit_missing_entries{log="https://a.example"}': "4.0",
        'ctkit_lag_seconds{log="https://a.example"}': "1.5",
        'ctkit_failures{log="https://a.example"}': "0.0",
        "ctkit_table_version": "7.0",
        "ctkit_table_files": "5.0",
        "ctkit_unavailable_logs": "0.0",
        "ctkit_problems": "0.0",
    }
    assert success <= time.time()


def free_port():
    """Return a port of the loopback interface that nothing listens on."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
