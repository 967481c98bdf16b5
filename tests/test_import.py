"""What is imported when: nothing before it is used."""

import subprocess
import sys

import pytest

import ctkit

HEAVY = {
    *("IPython", "deltalake", "duckdb", "httpx", "ibis", "ipywidgets", "matplotlib", "numba", "numpy", "pandas"),
    *("papermill", "pyarrow", "rich"),
}


def run(code, *words):
    """Run code in a fresh interpreter, `words` being ``sys.argv[1:]``."""
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)


def test_import_ctkit_imports_nothing_else():
    """Apart from Python's own modules, ``import ctkit`` imports the package and what makes it lazy."""
    done = run("import sys; had = {*sys.modules}; import ctkit; print(*sys.modules.keys() - had)")
    modules = {name for name in done.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names}

    assert modules == {"ctkit", "lazy_loader"}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["gaps", "--help"], 0),
        (["gasp"], 1),
        (["gaps", "--form", "5"], 1),
        (["gaps", "--from", "-1"], 1),
        (["gaps", "-f", "nowhere.yaml"], 1),
        (["backfill", "-f", "nowhere.yaml"], 1),
        (["merge", "-f", "nowhere.yaml"], 1),
        (["merge"], 1),
        (["audit", "-f", "nowhere.yaml"], 1),
    ],
)
def test_help_and_mistakes_import_little(words, code):
    """Help, and what is wrong with the words or the parameter file, come before anything that takes long to import."""
    done = run("import sys; from ctkit.cli import main; code = main(); print(code, *sys.modules)", *words)
    last, *modules = done.stdout.splitlines()[-1].split()

    assert int(last) == code
    assert HEAVY & set(modules) == set()


@pytest.mark.parametrize("words", [["gaps", "--from", "100", "--to", "110"], ["gaps", "--json"], ["merge"]])
def test_commands_import_no_more_than_they_need(world, words):
    """Where no table is shown, no entry fetched and nothing asked through ibis, what does that is not imported."""
    heavy = HEAVY - {"deltalake", "httpx", "numpy", "pyarrow", "rich"}
    done = run("import sys; from ctkit.cli import main; main(); print(*sys.modules)", *words, "-f", "demo.yaml")

    assert heavy & set(done.stdout.splitlines()[-1].split()) == set()


def test_a_small_backfill_compiles_nothing(world):
    """A night that brings few entries does not wait for Numba."""
    done = run("import sys; from ctkit.cli import main; main(); print(*sys.modules)", "backfill", "-f", "demo.yaml")

    assert "written=301 " in done.stderr
    assert {"ibis", "numba", "pandas"} & set(done.stdout.splitlines()[-1].split()) == set()


def test_a_command_shows_tables(world):
    """Arrow has looked for pandas in vain, and finds it when a table is converted."""
    code = "import sys; from ctkit.cli import main; sys.exit(main())"
    done = run(code, "logs", "-f", "demo.yaml")

    assert done.returncode == 0
    assert all(f"url={url}" in done.stdout for url in world.logs)


def test_names_when_submodules_were_imported_first():
    """A public name stands for the same thing whatever was imported before."""
    code = """
import importlib, pkgutil, ctkit
for module in pkgutil.walk_packages(ctkit.__path__, "ctkit."):
    "__" in module.name or importlib.import_module(module.name)
from ctkit import *
from ctkit import audit, backfill
print(callable(audit), callable(backfill), ctkit.backfill is backfill, open_table.__name__)
"""

    assert run(code).stdout == "True True True open_table\n"


def test_a_name_that_is_not_there():
    """A misspelt name is an `AttributeError`."""
    with pytest.raises(AttributeError):
        _ = ctkit.opne_log


def test_interrupt_while_a_command_imports(tmp_path):
    """Ctrl+C in the first second, in which modules are imported, is an interrupt like any other."""
    code = """
import os, signal, sys
class Finder:
    def find_spec(name, path, target=None):
        if name == "deltalake":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder)
from ctkit.cli import main
sys.exit(main())
"""
    done = run(code, "gaps", "--main-path", str(tmp_path / "main"))

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Interrupted. Nothing is half done: run the same command to go on.\n"
