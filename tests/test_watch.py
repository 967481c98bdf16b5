"""New names of watched domains and brands: all of them, each once, whatever happens in between."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from rows import OTHER_LOG, add_file, make_rows, make_table

import ctkit
from ctkit.cli import main as run_command
from ctkit.desk import watch as watch_module
from ctkit.errors import ParameterError, TableError
from ctkit.lake.locks import lock_steps


def rows_with(*names, start=0, **options):
    """Return rows with these names, a list for each row."""
    rows = make_rows(range(start, start + len(names)), **options)
    at = rows.schema.get_field_index("all_domains")
    return rows.set_column(at, rows.schema.field(at), pa.array(names, rows.schema.field(at).type))


@pytest.fixture
def given(tmp_path):
    """Return parameters that watch a domain and a brand in a table that has names of both."""
    first = rows_with(["example.com", "www.example.com"], ["exarnple.com"], ["other.org"])
    make_table(tmp_path / "main", first)
    return ctkit.Parameters(
        main_path=str(tmp_path / "main"),
        told_path=str(tmp_path / "told"),
        domains=["Example.com."],
        brands=["example.com"],
    )


def told(report):
    """Return what a report tells."""
    return [(row["watched"], row["name"], row["reason"]) for row in report.names.to_pylist()]


def test_each_name_is_told_once(given):
    """All at first, then what is new, also in old entries that come late; a certificate of known names is no news."""
    first = ctkit.watch(given)
    # Nothing is remembered unless it was told.
    assert told(ctkit.watch(given)) == told(first)
    first.remember()
    again = ctkit.watch(given)
    again.remember()
    make_table(given.main_path, rows_with(["WWW.example.com"], ["new.example.com"], start=-9, url=OTHER_LOG, day=0))
    make_table(given.main_path, rows_with(["example-login.com"], start=5, day=2))
    last = ctkit.watch(given)

    assert sorted(told(first)) == [
        ("example.com", "example.com", "name of the domain"),
        ("example.com", "exarnple.com", "look-alike letters"),
        ("example.com", "www.example.com", "name of the domain"),
    ]
    assert told(again) == []
    assert sorted(told(last)) == [
        ("example.com", "example-login.com", "added words"),
        ("example.com", "new.example.com", "name of the domain"),
    ]
    assert (last.facts()["new"], last.told_before) == (2, 3)
    # Nothing is written when there is nothing to tell.
    assert DeltaTable(given.told_path).version() == 0


def test_another_domain_is_watched(given):
    """What is added to the list is told from its beginning, and what was told of others stays told."""
    ctkit.watch(given).remember()
    more = given.model_copy(update={"domains": (*given.domains, "other.org", "none.org")})

    assert told(ctkit.watch(more)) == [("other.org", "other.org", "name of the domain")]


def test_command(given, tmp_path, capsys):
    """The exit code is 3 if there is news; each name is a line of JSON; parameters come from a file."""
    (tmp_path / "watch.yaml").write_text("main_path: main\ntold_path: told\ndomains: [example.com]\n")
    codes, lines = [], []
    for arguments in (["--json"], ["--json"], ["--brand", "example.com"], []):
        codes.append(run_command(["watch", "-f", str(tmp_path / "watch.yaml"), *arguments]))
        lines.append(capsys.readouterr().out)

    assert codes == [3, 0, 3, 0]
    assert [json.loads(line)["name"] for line in lines[0].splitlines()] == ["example.com", "www.example.com"]
    assert lines[1] == ""
    assert "exarnple.com" in lines[2]
    runs = ctkit.find_runs(tmp_path / "runs").runs
    assert {(run.runbook, run.outcome) for run in runs} == {("watch", "complete")}
    assert sorted(run.exit_code for run in runs) == sorted(codes)


def test_runbook(given, tmp_path, capsys):
    """The notebook ends as the command does, and so says its record."""
    (tmp_path / "watch.yaml").write_text("main_path: main\ntold_path: told\ndomains: [example.com]\n")
    codes = [run_command(["run", "watch", "-f", str(tmp_path / "watch.yaml")]) for _ in range(2)]

    assert codes == [3, 0]
    assert [json.loads(line)["exit_code"] for line in capsys.readouterr().out.splitlines()] == codes


def test_command_that_cannot_print(given, tmp_path, monkeypatch):
    """What could not be printed is told by the next one."""

    def refuse(*_, **__):
        raise BrokenPipeError

    (tmp_path / "watch.yaml").write_text("main_path: main\ntold_path: told\ndomains: [example.com]\n")
    with monkeypatch.context() as patch:
        patch.setattr("ctkit.desk.terminal.write", refuse)
        assert run_command(["watch", "-f", str(tmp_path / "watch.yaml")]) == 1
    assert not (tmp_path / "told").exists()


@pytest.mark.parametrize("wrong", [{"domains": None, "brands": None}, {"told_path": None}, {"main_path": None}])
def test_what_is_missing_is_named(given, wrong):
    """Nothing is written then."""
    with pytest.raises(ParameterError) as raised:
        ctkit.watch(given.model_copy(update=wrong))
    assert raised.value.keys == tuple(wrong)


@pytest.mark.parametrize(
    "domain",
    [
        "https://example.com",
        "example.com/",
        "example.com:443",
        "me@example.com",
        "example com",
        ".example.com",
        "a..example.com",
        "*.example.com",
        "a" * 64 + ".com",
    ],
)
def test_domains_that_are_none(given, domain):
    """Nothing would ever be told of them; they are refused, and named."""
    for key in ("domains", "brands"):
        with pytest.raises(ParameterError) as raised:
            ctkit.watch(given.model_copy(update={key: (domain,)}))
        assert raised.value.keys == (key,)


def test_all_that_is_told_is_shown(given, tmp_path, capsys, monkeypatch):
    """On a terminal and in a notebook, however much it is; what is too much for one run is told by the next."""
    make_table(given.main_path, rows_with(*([f"n{at}.example.com"] for at in range(100)), start=50))
    (tmp_path / "watch.yaml").write_text("main_path: main\ntold_path: told\ndomains: [example.com]\n")
    html = ctkit.watch(given)._repr_html_()
    monkeypatch.setattr(watch_module, "MOST", 60)
    printed = []
    for _ in range(3):
        run_command(["watch", "-f", str(tmp_path / "watch.yaml")])
        printed += [capsys.readouterr().out]

    for at in range(100):
        assert f"n{at}.example.com" in html
        assert sum(f"n{at}.example.com" in text for text in printed) == 1
    assert printed[2] == ""
    assert ctkit.watch(given).told_before == 102


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_command_when_the_disk_is_full(given, tmp_path, arguments):
    """What was not written in the end was not told."""
    (tmp_path / "watch.yaml").write_text("main_path: main\ntold_path: told\ndomains: [example.com]\n")
    command = [sys.executable, "-m", "ctkit", "watch", "-f", str(tmp_path / "watch.yaml"), *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)

    assert done.returncode == 1
    assert not (tmp_path / "told").exists()


def test_two_watches_at_once(given, tmp_path):
    """The second one tells nothing, and says so."""
    (tmp_path / "watch.yaml").write_text("main_path: main\ntold_path: told\ndomains: [example.com]\n")
    with lock_steps(given.told_path):
        assert run_command(["watch", "-f", str(tmp_path / "watch.yaml")]) == 1
    assert run_command(["watch", "-f", str(tmp_path / "watch.yaml")]) == 3


def test_domains_are_written_in_any_way(given):
    """They are the same as before, and told once."""
    ctkit.watch(given).remember()
    again = given.model_copy(update={"domains": ("EXAMPLE.com", "example.com."), "brands": ("eXample.com",)})

    assert told(ctkit.watch(again)) == []


def test_damaged_tables(given):
    """What was told, and main: each is named."""
    ctkit.watch(given).remember()
    for path in (given.told_path, given.main_path):
        (file,) = DeltaTable(path).file_uris()
        file = Path(file.removeprefix("file://"))
        content = file.read_bytes()
        file.write_bytes(b"PAR1" + bytes(len(content) - 8) + b"PAR1")
        with pytest.raises(TableError) as raised:
            ctkit.watch(given)
        assert raised.value.uri == path
        file.write_bytes(content)


def test_times_that_python_lacks(given):
    """Other writers have them; they stop no watch."""
    rows = rows_with(["far.example.com"], start=90)
    far = pa.array([253_402_300_800_000_000 + 10**15], pa.timestamp("us", tz="UTC"))
    rows = rows.set_column(rows.schema.get_field_index("seen"), rows.schema.field("seen"), far)
    add_file(Path(given.main_path), rows)
    report = ctkit.watch(given)

    assert any(line["name"] == "far.example.com" for line in report.lines())
    assert "far.example.com" in report._repr_html_()
    report.remember()
    assert told(ctkit.watch(given)) == []


def test_another_table_in_the_place_of_what_was_told(given, tmp_path):
    """Main, staging or any other table is left as it is; so is a folder with other things."""
    write_deltalake(tmp_path / "table", pa.table({"name": ["x"]}))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letter.txt").touch()
    inside = f"{given.main_path}/told"
    for path in (given.main_path, inside, tmp_path / "table", tmp_path / "folder", tmp_path / "folder" / "letter.txt"):
        with pytest.raises(ParameterError) as raised:
            ctkit.watch(given.model_copy(update={"told_path": str(path)}))
        assert raised.value.keys == ("told_path",)


def test_told_that_cannot_be_written(given, tmp_path, monkeypatch):
    """The error names the table."""
    report = ctkit.watch(given)
    (tmp_path / "told").write_text("in the way")
    with pytest.raises(TableError) as raised:
        report.remember()
    assert raised.value.uri == given.told_path
