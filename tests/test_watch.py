"""New names of watched domains and brands: all of them, each once, whatever happens in between."""

import json

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from rows import OTHER_LOG, make_rows, make_table

import ctkit
from ctkit.cli import main as run_command
from ctkit.errors import ParameterError, TableError


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
        ("Example.com.", "example.com", "name of the domain"),
        ("Example.com.", "www.example.com", "name of the domain"),
        ("example.com", "exarnple.com", "look-alike letters"),
    ]
    assert told(again) == []
    assert sorted(told(last)) == [
        ("Example.com.", "new.example.com", "name of the domain"),
        ("example.com", "example-login.com", "added words"),
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
    (run, *_) = ctkit.find_runs(tmp_path / "runs").runs
    assert (run.runbook, run.outcome) == ("watch", "complete")


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


@pytest.mark.parametrize("domain", [".", "a\0b"])
def test_domains_that_are_none(given, domain):
    """They are refused, and named."""
    for key in ("domains", "brands"):
        with pytest.raises(ParameterError, match=key):
            ctkit.watch(given.model_copy(update={key: (domain,)}))


def test_another_table_in_the_place_of_what_was_told(given, tmp_path):
    """Main, staging or any other table is left as it is; so is a folder with other things."""
    write_deltalake(tmp_path / "table", pa.table({"name": ["x"]}))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letter.txt").touch()
    for path in (given.main_path, tmp_path / "table", tmp_path / "folder", tmp_path / "folder" / "letter.txt"):
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
