"""The house: what may import what, public names, size and documentation of modules."""

import ast
import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ctkit

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ctkit"
PATHS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if not path.stem.startswith("__")
}
WINGS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def wing_of(module):
    """Return the wing of a module, "" for the ground and the command line."""
    return module.split(".")[1] if module.count(".") > 1 else ""


def lint(root):
    """Check the contracts of ``pyproject.toml`` for the package in `root`."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def test_imports_keep_the_contracts():
    """Wings import downwards, nothing in circles."""
    done = lint(ROOT)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("lake/table", "from ctkit.wire import merkle"),
        ("logs/http", "import ctkit.lake.table"),
        ("wire/der", "def late():\n    from ctkit.logs.log import Log"),
        ("wire/der", "from ctkit.wire.x509 import read_name"),
        ("errors", "import ctkit.desk.terminal"),
        ("jobs/plan", "import httpx"),
        ("desk/widget", "import duckdb"),
        ("jobs/plan", "from ctkit import cli"),
    ],
)
def test_contracts_can_be_broken(tmp_path, module, line):
    """One import against the rules, wherever in a module, and the check fails."""
    shutil.copytree(PACKAGE, tmp_path / "ctkit", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "ctkit" / f"{module}.py").open("a") as file:
        file.write(f"\n\n{line}\n")

    assert lint(tmp_path).returncode == 1


@pytest.mark.parametrize("module", PATHS)
def test_no_private_name_crosses_a_wing(module):
    """What begins with an underscore is used in its own wing only."""
    crossing = [
        f"{node.module}.{name.name}"
        for node in ast.walk(ast.parse(PATHS[module].read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ctkit")
        for name in node.names
        if name.name.startswith("_") and wing_of(f"{node.module}.{name.name}") != wing_of(module)
    ]

    assert crossing == []


@pytest.mark.parametrize("module", PATHS)
def test_module_tells_only_what_is_visible(module):
    """Its logger is one that makes visible what comes from outside."""
    loggers = [
        node
        for node in ast.walk(ast.parse(PATHS[module].read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "getLogger"
    ]
    named = [getattr(call.args[0], "id", None) for call in loggers if call.args]

    assert "__name__" not in named


def test_modules_are_small():
    """No module of the package has many more than 400 lines."""
    lengths = {module: len(path.read_text().splitlines()) for module, path in PATHS.items()}
    # Numba does not see that a function of another module has changed, so that the kernels stay together.
    limits = {"ctkit.wire.kernels": 700, "ctkit.lake.files": 430}

    assert {name: length for name, length in lengths.items() if length > limits.get(name, 420)} == {}


def test_all_is_true():
    """``ctkit.__all__`` is sorted, each name in it exists and is shown by ``dir``, and none is that of a module."""
    assert ctkit.__all__ == sorted(set(ctkit.__all__)) == dir(ctkit)
    assert set(ctkit.__all__) & {module.split(".")[1] for module in PATHS} == set()


def test_type_checkers_see_what_is_there():
    """The stub exports each name under its own name, which is where `ctkit.__getattr__` reads it from."""
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    names = [name for node in stub.body if isinstance(node, ast.ImportFrom) for name in node.names]

    assert {name.name: name.asname for name in names} == {name: name for name in ctkit.__all__}


@pytest.mark.parametrize("name", ctkit.__all__)
def test_public_name_is_documented(name):
    """Each public name has a docstring, and is defined in ctkit."""
    value = getattr(ctkit, name)

    assert value.__doc__
    assert value.__module__.startswith("ctkit.")


@pytest.mark.parametrize("module", [*PATHS, *(f"ctkit.{wing}" for wing in WINGS)])
def test_module_is_documented(module):
    """Each module has a docstring of which the first line is a sentence."""
    first = (importlib.import_module(module).__doc__ or "").splitlines()[0]

    assert first.endswith((".", "?"))
