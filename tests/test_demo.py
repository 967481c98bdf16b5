"""The demo: what a newcomer runs first."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ctkit.demo import cycle
from ctkit.demo.server import LogServer
from ctkit.desk.gap_report import report_gaps
from ctkit.desk.parameters import read_parameters
from ctkit.errors import ParameterError
from ctkit.lake.table import open_table

ROOT = Path(__file__).parent.parent


def test_demo_runs_the_whole_cycle(tmp_path, capsys, caplog, monkeypatch):
    """The demo ends with a complete main table, no staging, and the record of each runbook; it can be run again."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert cycle.run("demo", entries=700) == 0

        said = capsys.readouterr().out
        assert "Main has 1,400 rows for the 1,400 entries of both logs: complete, without duplicates." in said
        assert said.count("0 gaps, 0 entries") == 1
        assert open_table("demo/main").count() == 1400
        assert not Path("demo/staging").exists()
        assert sorted(path.name for path in Path("demo/runs").iterdir()) == [
            "backfill.ipynb",
            "merge.ipynb",
            "preview.ipynb",
        ]
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


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


def test_demo_that_is_kept_up(tmp_path):
    """With --serve the logs have grown and stay up for the commands and notebooks that it names, until Ctrl+C."""
    code = "import sys; from ctkit.demo.cycle import run; sys.exit(run(sys.argv[1], serve=True, entries=300))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        said = []
        while not said or "jupyter lab" not in said[-1]:
            said.append(process.stdout.readline())
            assert said[-1], process.communicate()[1]
        gap_report = report_gaps(read_parameters(tmp_path / "demo" / "parameters.yaml"))
        size = gap_report.logs[0].get_checkpoint().tree_size
        gap_report.close()
        with pytest.raises(ParameterError):
            cycle.run(tmp_path / "demo")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)

    assert process.returncode == 0
    assert size == 300 + cycle.NEW_ENTRIES
    assert gap_report.facts()["missing"] == 2 * cycle.NEW_ENTRIES
    prepared = (tmp_path / "demo" / "notebooks" / "preview.ipynb").read_text()
    assert str(tmp_path / "demo" / "main") in prepared


def test_demo_parameters_are_those_of_the_example(tmp_path, monkeypatch):
    """parameters/demo.yaml says what the demo writes into its default folder, at its default port, but for the keys."""
    monkeypatch.chdir(tmp_path)
    example = yaml.safe_load((ROOT / "parameters" / "demo.yaml").read_text())
    paths = {key: str(tmp_path / example[key]) for key in ("main_path", "staging_path", "state_file")}
    logs = cycle.make_logs(0)
    with LogServer(*logs) as server:
        written = cycle.parameters_of(tmp_path / "ctkit-demo", logs, server)
        port = server.url(logs[0]).split(":")[2].split("/")[0]
    for log in written["logs"]:
        assert read_parameters(logs=[{"url": log["url"], "key": log.pop("key")}]).logs

    assert {**example, **paths} == yaml.safe_load(yaml.safe_dump(written).replace(port, str(cycle.SERVE_PORT)))
