"""The README: what it lists is what there is."""

import argparse
import ast
import re
import subprocess
import sys
from pathlib import Path

import ibis
import pytest

import ctkit
from ctkit.cli import _parser
from ctkit.demo import cycle
from ctkit.desk.parameters import Parameters, flag_of, read_parameters
from ctkit.schema import row_schema

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def section(heading):
    """Return what stands under a heading."""
    return re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)[1]


def first_cells(heading):
    """Return what the first column of the section's table names."""
    return [name for line in section(heading).splitlines() for name in re.findall(r"^\| `([^|]*)` \|", line)]


def commands():
    """Return the parser of each command by its name."""
    (found,) = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return found.choices


def test_readme_lists_every_command():
    """The list of commands names each one, and no other."""
    listed = re.findall(r"^ctkit (\w+)", section("Commands"), re.MULTILINE)

    assert list(dict.fromkeys(listed)) == list(commands())


@pytest.mark.parametrize("name", commands())
def test_readme_lists_every_flag(name):
    """The lines of a command name its flags, but for parameters, and no others."""
    lines = re.findall(rf"^ctkit {name} .*", section("Commands"), re.MULTILINE)
    words = set(re.findall(r"(?<=[ \[])--?[a-z-]+", " ".join(lines)))
    flags = {
        flag
        for action in commands()[name]._actions
        if action.dest not in Parameters.model_fields and not (action.dest == "file" and name != "run")
        for flag in action.option_strings
    }

    assert flags - {"-h", "--help"} == words


@pytest.mark.parametrize("key", Parameters.model_fields)
def test_readme_names_flags_that_are_not_like_their_key(key):
    """The table of parameters says how a flag is typed that is not the key with hyphens."""
    (row,) = re.findall(rf"^\| `{key}` \|.*", section("Parameters"), re.MULTILINE)

    assert flag_of(key).name in row


def test_readme_lists_every_parameter():
    """The table of parameters has each key, and no other."""
    assert sorted(first_cells("Parameters")) == sorted(Parameters.model_fields)


def test_readme_lists_every_runbook():
    """The table of runbooks has each notebook, and no other."""
    notebooks = (Path(__file__).parents[1] / "notebooks").glob("*.ipynb")

    assert sorted(first_cells("Runbooks and schedules")) == sorted(path.stem for path in notebooks)


def blocks(heading, language):
    """Return what a section shows in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", section(heading), re.MULTILINE | re.DOTALL)


def test_readme_in_python_has_types(tmp_path):
    """Whoever writes what the README shows has it checked, and it is right."""
    (block,) = blocks("In Python, step by step", "python")
    (tmp_path / "reader.py").write_text(block + "reveal_type(report)\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "reader.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert [line for line in done.stdout.splitlines() if line.startswith("reader.py") and "note:" not in line] == []
    assert "BackfillReport" in done.stdout


def test_readme_questions_have_answers(tmp_path, monkeypatch):
    """Each question that the README asks the demo's table is answered."""
    monkeypatch.chdir(tmp_path)
    assert cycle.run("ctkit-demo", entries=300) == 0
    block = "".join(blocks("Ask the table", "python"))
    answers = []
    names = {}
    for statement in ast.parse(block).body:
        if isinstance(statement, ast.Expr):
            answers.append(eval(compile(ast.Expression(statement.value), "README.md", "eval"), names))
        else:
            exec(compile(ast.Module([statement], []), "README.md", "exec"), names)

    issuers, of_domain, entries, alike, in_sql, relation, per_day, per_log, opened, *week = answers
    assert per_log["rows"].tolist() == [300, 300]
    assert list(of_domain) == list(alike) == ["name", "kind", "seen_date", "source_url", "cert_index"]
    assert list(entries) == ["domains", "valid_from", "issuer_o", "link"]
    assert issuers["issued"].tolist() == in_sql["issued"].tolist() == sorted(issuers["issued"], reverse=True)
    assert relation["validity_days"].to_pylist() == [
        days for days in relation["validity_days"].to_pylist() if days > 200
    ]
    assert per_day["entries"].sum() == 600
    assert (opened.cert_index, opened.problems) == (5, ())
    of_domain, alike, opened = week
    assert list(of_domain.table) == ["domains", "seen", "issuer_o", "issuer_cn", "kind", "key"]
    assert list(alike.table)[:3] == ["name", "registrable", "reason"]
    assert (opened is not None) == (alike.rows > 0)


def test_readme_questions_are_there():
    """Each line of the table of questions can be asked as it stands."""
    asked = re.findall(r"^\| `((\w+)\(main.*?\))` \|", section("Ask the table"), re.MULTILINE)
    main = ctkit.certificates(ibis.table(ibis.Schema.from_pyarrow(row_schema()), name="rows"))

    of_modules = {f"ctkit.ask.{module}" for module in ("questions", "look_alikes", "smells")}
    there = {name: getattr(ctkit, name) for name in ctkit.__all__}
    assert {name for _, name in asked} == {name for name, each in there.items() if each.__module__ in of_modules}
    assert all(eval(call, there | {"main": main}).columns for call, _ in asked)


def test_readme_parameters_are_read(tmp_path):
    """The parameter file that the README begins with is one."""
    (block,) = blocks("Your own logs in ten minutes", "yaml")
    (tmp_path / "ct.yaml").write_text(block)

    assert read_parameters(tmp_path / "ct.yaml").verify == "entries"


def test_pictures_are_there_and_described():
    """Each picture of the tests is shown, with words for who does not see it; none is shown that is not there."""
    shown = dict(re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", README))
    root = Path(__file__).parents[1]

    assert {root / path for path in shown.values()} == {*(root / "tests" / "pictures").iterdir()}
    assert min(map(len, shown)) > 40
