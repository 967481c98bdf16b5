"""The demo: what a newcomer runs first."""

import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

import ctkit
from ctkit.demo import cycle
from ctkit.demo.server import LogServer
from ctkit.desk.gap_report import report_gaps
from ctkit.desk.parameters import read_parameters
from ctkit.desk.state_file import read_state
from ctkit.errors import ParameterError
from ctkit.lake.table import open_table
from ctkit.logs.log_list import read_log_list, read_public_key
from ctkit.logs.open import open_log

ROOT = Path(__file__).parent.parent


def plain(text):
    """Return what the demo says, without numbers and the folder it is in."""
    return re.sub(r"\d[\d,]*", "N", re.sub(r"\S*/ctkit-demo/main", "main", text))


def test_demo_runs_the_whole_cycle(tmp_path, capsys, caplog, monkeypatch):
    """The demo ends with a complete main table, no staging, and the record of each runbook; it can be run again."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with caplog.at_level("INFO", "ctkit"):
            assert cycle.run("ctkit-demo", entries=700) == 0

        said = capsys.readouterr().out
        assert "Main has 1,400 rows for the 1,400 entries of both logs: complete, without duplicates." in said
        assert said.count("0 gaps, 0 entries") == 1
        assert open_table("ctkit-demo/main").count() == 1400
        assert not Path("ctkit-demo/staging").exists()
        assert sorted(path.name for path in Path("ctkit-demo/runs").iterdir()) == [
            "backfill.html",
            "backfill.ipynb",
            "merge.html",
            "merge.ipynb",
            "preview.html",
            "preview.ipynb",
        ]
        # Numbers and the folder apart, that is what the README shows.
        shown = (ROOT / "README.md").read_text().partition("```text\nIssuing")[2].partition("```")[0]
        assert {*plain(f"Issuing{shown}").splitlines()} - {"..."} <= {*plain(said).splitlines()}
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    # The steps are not hidden among log lines.
    assert not [record for record in caplog.records if record.name.startswith("ctkit.desk")]


def test_demo_when_the_folder_holds_something_else(tmp_path):
    """A folder with other things in it is refused and left alone."""
    (tmp_path / "thesis.txt").write_text("mine")

    with pytest.raises(ParameterError):
        cycle.run(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["notebooks/mine.ipynb", "runs/backfill-20260301T000000Z.ipynb"])
def test_demo_when_somebody_keeps_notebooks_in_it(tmp_path, name):
    """What the demo has not written there is not removed."""
    demo = tmp_path / "demo"
    mine = demo / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    (demo / cycle._MARK).touch()
    (demo / "state.json").write_text("{}")

    with pytest.raises(ParameterError):
        cycle.run(demo)

    assert (mine.read_text(), (demo / "state.json").exists()) == ("mine", True)


@contextmanager
def kept_up(folder, **options):
    """Run a small demo that serves its logs, in a process of its own, until Ctrl+C; it ends with 0."""
    code = f"import sys; from ctkit.demo.cycle import run; sys.exit(run(sys.argv[1], serve=True, **{options}))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        said = []
        while not said or "jupyter lab" not in said[-1]:
            said.append(process.stdout.readline())
            assert said[-1], process.communicate()[1]
        yield "".join(said)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_demo_that_is_kept_up(tmp_path):
    """With --serve the logs have grown and stay up for the commands and notebooks that it names, until Ctrl+C."""
    with kept_up(tmp_path / "demo", entries=300):
        gap_report = report_gaps(read_parameters(tmp_path / "demo" / "parameters.yaml"))
        size = gap_report.logs[0].get_checkpoint().tree_size
        gap_report.close()
        with pytest.raises(ParameterError):
            cycle.run(tmp_path / "demo")

    assert size == 300 + cycle.NEW_ENTRIES
    staged = open_table(tmp_path / "demo" / "staging")
    main = open_table(tmp_path / "demo" / "main")
    assert gap_report.facts()["missing"] == 2 * size - cycle.ABOVE - staged.count() - (main.count() - cycle.ABOVE)
    assert 0 < staged.count() < gap_report.facts()["missing"]
    # An outage, holes of one entry, rows above the ceiling, several days, and names to look twice at.
    lengths = [gap["end"] - gap["start"] for gap in gap_report.gaps.to_pylist()]
    assert (max(lengths), min(lengths)) > (cycle.NEW_ENTRIES // 10 - 1, 0)
    assert lengths.count(1) > 100
    rows = ctkit.rows_of(main).select("cert_index", "source_url", "seen_date", "all_domains").to_pandas()
    static = gap_report.logs[1].url
    assert (rows[rows.source_url == static].cert_index >= size - cycle.ABOVE).sum() == cycle.ABOVE
    assert rows.seen_date.nunique() >= 3
    names = {name for names in rows.all_domains for name in names}
    assert names >= {name for names, _ in cycle.ODD for name in names}
    prepared = (tmp_path / "demo" / "notebooks" / "preview.ipynb").read_text()
    assert str(tmp_path / "demo" / "main") in prepared


def test_demo_whose_logs_grow(tmp_path, cache):
    """With --grow tree heads and the state file follow; the log list that it names is signed by the key beside it."""
    with kept_up(tmp_path / "demo", entries=300, grow=100) as said:
        (url,) = re.findall(r"http://\S+/log_list\.json", said)
        key = read_public_key(tmp_path / "demo" / "log_list.pem")
        listed = read_log_list(url, user_agent=cycle.USER_AGENT, key=key)
        with ExitStack() as logs:
            opened = [logs.enter_context(open_log(log.url, user_agent=cycle.USER_AGENT, key=log.key)) for log in listed]
            for log in opened:
                while log.get_checkpoint().tree_size < 300 + cycle.NEW_ENTRIES + 20:
                    pass
        # It is written after the logs have grown.
        while min(read_state(tmp_path / "demo" / "state.json").values()) <= 300 + cycle.NEW_ENTRIES:
            pass

    assert [log.protocol for log in listed] == ["rfc6962", "static-ct"]


@pytest.mark.parametrize("options", [{"grow": 5}, {"grow": -1, "serve": True}])
def test_demo_that_cannot_grow(tmp_path, options):
    """Logs that are not kept up do not grow, nor do logs shrink; nothing is written."""
    with pytest.raises(ParameterError):
        cycle.run(tmp_path / "demo", **options)
    assert not (tmp_path / "demo").exists()


def test_demo_parameters_are_those_of_the_example(tmp_path, monkeypatch):
    """parameters/demo.yaml says what the demo writes into its default folder, at its default port, but for the keys."""
    monkeypatch.chdir(tmp_path)
    example = yaml.safe_load((ROOT / "parameters" / "demo.yaml").read_text())
    paths = {
        key: os.path.normpath(tmp_path / "parameters" / example[key])
        for key in ("main_path", "staging_path", "state_file", "runs_path", "told_path")
    }
    logs = cycle.make_logs(0)
    with LogServer(*logs) as server:
        written = cycle.parameters_of(tmp_path / "ctkit-demo", logs, server)
        port = server.url(logs[0]).split(":")[2].split("/")[0]
    for log in written["logs"]:
        assert read_parameters(logs=[{"url": log["url"], "key": log.pop("key")}]).logs

    assert {**example, **paths} == yaml.safe_load(yaml.safe_dump(written).replace(port, str(cycle.SERVE_PORT)))
