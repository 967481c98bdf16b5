"""The README: what it lists is what there is."""

import argparse
import ast
import re
from pathlib import Path

import pytest

import ctkit
from ctkit.cli import _parser
from ctkit.desk.parameters import Parameters

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
    """The lines of a command name its flags, and no others."""
    lines = re.findall(rf"^ctkit {name} .*", section("Commands"), re.MULTILINE)
    words = set(re.findall(r"(?<=[ \[])--?[a-z-]+", " ".join(lines)))
    flags = {flag for action in commands()[name]._actions for flag in action.option_strings} - {"-h", "--help"}

    assert flags == words


def test_readme_lists_every_parameter():
    """The table of parameters has each key, and no other."""
    assert sorted(first_cells("Parameters")) == sorted(Parameters.model_fields)


def test_readme_lists_every_runbook():
    """The table of runbooks has each notebook, and no other."""
    notebooks = (Path(__file__).parents[1] / "notebooks").glob("*.ipynb")

    assert sorted(first_cells("Runbooks")) == sorted(f"notebooks/{path.name}" for path in notebooks)


def test_readme_api_exists():
    """The Python of the README is Python, and uses names of ctkit that exist."""
    (block,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    used = {
        node.attr
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ctkit"
    }

    assert used
    assert used <= set(ctkit.__all__)
