"""Thirty nights of a table: logs die, end and begin, machines are killed, disks are full; all is told."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import yaml
from fakes import FakeLog, check_table
from rows import commits_of, keys_of

import ctkit
from ctkit.errors import LogError, UpdateError
from ctkit.lake.table import files_of, find_table
from ctkit.lake.tidy import FILES
from ctkit.logs.http import HttpError

COMMAND = Path(sys.executable).with_name("ctkit")
NIGHTS = 30
PER_NIGHT = 37


class Logs:
    """Logs that grow from night to night, and the list that names them.

    Attributes
    ----------
    by_name
        Name -> log.
    urls
        Name -> URL.
    """

    def __init__(self, serve):
        self._serve = serve
        self.by_name: dict[str, FakeLog] = {}
        self.urls: dict[str, str] = {}
        self._ended: set[str] = set()

    def begin(self, name, protocol):
        """Start a log."""
        self.by_name[name] = FakeLog(name, PER_NIGHT, protocols=(protocol,))
        self.urls[name] = self._serve(self.by_name[name])

    def end(self, name):
        """Let a log grow no more."""
        self._ended.add(name)

    def grow(self):
        """Let the day pass."""
        for name, log in self.by_name.items():
            if name not in self._ended:
                log.grow(PER_NIGHT)

    def write_list(self, retired=()):
        """Write the log list, as it names the logs now."""
        entries = [
            {
                "description": name,
                "url": self.urls[name],
                "key": base64.b64encode(log.public_key).decode(),
                "state": {"retired" if name in retired else "usable": {"timestamp": "2026-01-01T00:00:00Z"}},
            }
            for name, log in self.by_name.items()
        ]
        kinds = {
            "rfc6962": [entry for entry in entries if "rfc6962" in self.by_name[entry["description"]].protocols],
            "static-ct": [
                {**{key: entry[key] for key in entry if key != "url"}, "monitoring_url": entry["url"]}
                for entry in entries
                if "static-ct" in self.by_name[entry["description"]].protocols
            ],
        }
        operators = [{"logs": kinds["rfc6962"], "tiled_logs": kinds["static-ct"]}]
        Path("list.json").write_text(json.dumps({"operators": operators}))


def kill_a_night(log):
    """Start an update and kill it once it fetches entries."""
    log.latency = 0.2
    log.requests.clear()
    process = subprocess.Popen([COMMAND, "update", "-f", "ct.yaml"], stderr=subprocess.DEVNULL)
    while process.poll() is None and not log.data_requests:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    log.latency = 0
    assert process.returncode == -signal.SIGKILL


def run_a_night(**others):
    """Run an update; return its report, and the problems that its check names."""
    report = ctkit.update(ctkit.read_parameters("ct.yaml", **others))
    try:
        report.check()
    except UpdateError as error:
        return report, error.problems
    return report, ()


def test_thirty_nights(tmp_path, monkeypatch, serve):
    """After the last night the table equals the logs; nothing was fetched twice, files and commits are few."""
    monkeypatch.chdir(tmp_path)
    logs = Logs(serve)
    for name, protocol in (("one", "rfc6962"), ("two", "static-ct"), ("old", "rfc6962")):
        logs.begin(name, protocol)
    parameters = {
        "main_path": "main",
        "staging_path": "staging",
        "log_list": "list.json",
        "ceiling": "log",
        "from_index": 0,
        "verify": "entries",
        "user_agent": "test@example.org",
    }
    Path("ct.yaml").write_text(yaml.safe_dump(parameters))
    gone = FakeLog("Gone", 1)
    gone.always = 404
    dead = serve(gone)
    retired: list[str] = []
    for night in range(NIGHTS):
        expected: set[str] = set()
        one, two = logs.by_name["one"], logs.by_name["two"]
        two.always = 404 if 5 <= night < 8 else None
        one.limit = (4, 1.0) if night == 12 else None
        if night == 10:
            logs.end("old")
        if night == 15:
            retired.append("old")
        if night in (11, 19):
            logs.begin(f"new-{night}", "static-ct" if night == 11 else "rfc6962")
        logs.write_list(retired)
        if night in (9, 21):
            kill_a_night(one)
        if 5 <= night < 8:
            expected.add(logs.urls["two"])
        with monkeypatch.context() as patch:
            if night == 17:
                patch.setattr("ctkit.lake.merge.commit_files", raise_full)
            report, problems = run_a_night(log_list=f"{dead}/list.json" if night == 23 else None)
        logs.grow()
        pass_a_day()

        if night == 23:
            # No log is known, which is wrong.
            assert (report.logs, [type(problem) for problem in problems]) == ((), [HttpError])
            continue
        urls = {logs.urls[name] for name in logs.by_name if name not in retired}
        assert {log.source_url for log in report.logs} == urls, night
        assert {problem.url for problem in problems if isinstance(problem, LogError)} == expected, night
        if night == 17:
            assert problems
            assert {log.outcome for log in report.logs} == {"incomplete"}
        else:
            assert bool(problems) == bool(expected), (night, problems)
            assert {log.source_url for log in report.logs if log.outcome != "complete"} == expected, night
            # Nothing was fetched twice.
            assert report.merge.skipped == 0

    report, problems = run_a_night()
    assert problems == ()
    check_table(find_table("main"), {logs.urls[name]: log for name, log in logs.by_name.items()}, ends_of(logs))
    keys = keys_of(find_table("main"))
    assert len(keys) == len(set(keys))
    by_date = Counter(Path(file).parent for file in files_of(find_table("main")))
    assert max(by_date.values()) < 2 * FILES
    assert len(commits_of(Path("main"))) < 3 * NIGHTS
    assert not Path("staging").exists()
    assert ctkit.audit_main(ctkit.read_parameters("ct.yaml", require_proof=True)).passed


def raise_full(*_, **__):
    """Fail as a full disk does."""
    raise OSError(28, "No space left on device")


def ends_of(logs):
    """Return everything that the logs hold."""
    return {logs.urls[name]: (0, log.tree_size) for name, log in logs.by_name.items()}


def pass_a_day():
    """Make everything that the table's log says a day older."""
    for path in Path("main/_delta_log").iterdir():
        status = path.stat()
        os.utime(path, (status.st_atime - 86_400, status.st_mtime - 86_400))
