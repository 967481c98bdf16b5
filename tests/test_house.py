"""The house: floors, public names, size and documentation of modules."""

import ast
import importlib
from pathlib import Path

import pytest

import ctkit

PACKAGE = Path(__file__).parents[1] / "ctkit"

# In this order: a module imports only what stands above it.
FLOORS = {
    "visible": 0,
    "errors": 0,
    "arguments": 0,
    "ranges": 0,
    "paths": 0,
    "schema": 0,
    "report": 0,
    "features": 0,
    "merkle": 1,
    "times": 1,
    "x509": 1,
    "names": 1,
    "kernel": 1,
    "framing": 1,
    "leaf": 1,
    "entry": 1,
    "checkpoint": 1,
    "proof": 1,
    "issuance": 1,
    "embedded": 1,
    "binding": 1,
    "roots": 1,
    "deadline": 2,
    "pace": 2,
    "connection": 2,
    "http": 2,
    "shared": 2,
    "client": 2,
    "hash_tile": 2,
    "rfc6962": 2,
    "static_ct": 2,
    "log": 2,
    "log_list": 2,
    "auto": 2,
    "certificate": 2,
    "locks": 2,
    "table": 2,
    "querying": 2,
    "commits": 2,
    "digests": 2,
    "datafile": 2,
    "keys": 2,
    "remembered": 2,
    "server": 2,
    "state": 3,
    "fetch": 3,
    "verify": 3,
    "coverage": 3,
    "gap": 3,
    "budget": 3,
    "plan": 3,
    "scratch": 3,
    "adopt": 3,
    "write": 3,
    "overlap": 3,
    "provenance": 3,
    "evidence": 3,
    "doubts": 3,
    "retire": 3,
    "rewrite": 3,
    "merge": 3,
    "undo": 3,
    "repairing": 3,
    "outcome": 4,
    "backfilling": 4,
    "recheck": 4,
    "findings": 4,
    "auditing": 4,
    "parameters": 5,
    "chosen_logs": 5,
    "live": 5,
    "situation": 5,
    "verbs": 5,
    "staged": 5,
    "plots": 5,
    "widgets": 5,
    "terminal": 5,
    "runbook": 5,
    "demo": 5,
    "cli": 5,
}
LOG_SIDE = {
    "leaf",
    "entry",
    "checkpoint",
    "proof",
    "binding",
    "deadline",
    "pace",
    "connection",
    "http",
    "shared",
    "client",
    "hash_tile",
    "rfc6962",
    "static_ct",
    "log",
    "auto",
    "fetch",
}
LAKE_SIDE = {
    "features",
    "table",
    "querying",
    "commits",
    "digests",
    "datafile",
    "keys",
    "remembered",
    "coverage",
    "write",
    "gap",
    "scratch",
    "adopt",
    "overlap",
    "provenance",
    "evidence",
    "doubts",
    "retire",
    "rewrite",
    "merge",
    "undo",
    "repairing",
}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__"))


def imports_of(module):
    """Return the modules of ctkit that a module imports, wherever in its text."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
            assert node.level == 0, f"{module} has a relative import"
        elif isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("ctkit.")} & set(MODULES)
    return found


def reach_of(modules):
    """Return everything that modules import, directly or by others."""
    reached, new = set(), set(modules)
    while new:
        reached |= new
        new = set().union(*map(imports_of, new)) - reached
    return reached


def test_every_module_has_a_floor():
    """The floors name each module of the package, and nothing else."""
    assert sorted(FLOORS) == MODULES


def test_floors_are_listed_upwards():
    """The list of modules is also the list of floors."""
    assert list(FLOORS.values()) == sorted(FLOORS.values())


@pytest.mark.parametrize("module", FLOORS)
def test_module_imports_downwards_only(module):
    """A module imports only modules that are listed above it, so of lower floors, or of its own in one direction."""
    above = list(FLOORS)[: list(FLOORS).index(module)]

    assert imports_of(module) - set(above) == set()


def test_log_side_and_lake_side_are_apart():
    """Neither side imports the other, not even by way of a third module."""
    assert reach_of(LOG_SIDE) & LAKE_SIDE == set()
    assert reach_of(LAKE_SIDE) & LOG_SIDE == set()


@pytest.mark.parametrize("module", MODULES)
def test_module_tells_only_what_is_visible(module):
    """Its logger is one that makes visible what comes from outside."""
    loggers = [
        node
        for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "getLogger"
    ]
    named = [getattr(call.args[0], "id", None) for call in loggers if call.args]

    assert "__name__" not in named


def test_modules_are_small():
    """No module of the package has many more than 400 lines."""
    lengths = {path.stem: len(path.read_text().splitlines()) for path in PACKAGE.glob("*.py")}
    # Numba does not see that a function of another module has changed, so that the kernels stay together.
    limits = {"kernel": 700, "datafile": 430}

    assert {name: length for name, length in lengths.items() if length > limits.get(name, 420)} == {}


def test_all_is_true():
    """``ctkit.__all__`` is sorted, each name in it exists and is shown by ``dir``, and none is that of a module."""
    assert ctkit.__all__ == sorted(set(ctkit.__all__)) == dir(ctkit)
    assert set(ctkit.__all__) & set(MODULES) == set()


def test_type_checkers_see_what_is_there():
    """The stub imports each public name, and no other, from where it comes from."""
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    seen = {name.asname: (node.module, name.name) for node in imports for name in node.names}

    assert sorted(seen) == ctkit.__all__
    for name, (module, attribute) in seen.items():
        assert getattr(ctkit, name) is getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("name", ctkit.__all__)
def test_public_name_is_documented(name):
    """Each public name has a docstring, and is defined in ctkit."""
    value = getattr(ctkit, name)

    assert value.__doc__
    assert value.__module__.startswith("ctkit.")


@pytest.mark.parametrize("module", MODULES)
def test_module_is_documented(module):
    """Each module has a docstring of which the first line is a sentence."""
    first = (importlib.import_module(f"ctkit.{module}").__doc__ or "").splitlines()[0]

    assert first.endswith((".", "?"))
