"""The values that a notebook is given: those that its parameters cell declares, checked before anything is run."""

import logging
import os
import symtable
from collections.abc import Mapping
from pathlib import Path

import nbformat
import papermill
from IPython.core.inputtransformer2 import TransformerManager
from papermill.iorw import load_notebook_node
from papermill.utils import find_first_tagged_cell_index, nb_kernel_name, nb_language

from ctkit.arguments import did_you_mean, shown
from ctkit.desk.parameters import Parameters
from ctkit.desk.secrets import is_secret
from ctkit.desk.shipped import RUNBOOKS, find_runbook
from ctkit.errors import ParameterError


def values_for(
    notebook: Path, own: Mapping[str, object], shared: Mapping[str, object], *, runs: Path | None = None
) -> dict[str, object]:
    """Return the values to inject, by name.

    Parameters
    ----------
    notebook
        The file.
    own
        Values typed by hand; the notebook must declare each.
    shared
        Values that others use, too: a key of ctkit's that this notebook does not declare is left out.
    runs
        Folder of the records, for a notebook that declares `runs_path` and is not given it.

    Raises
    ------
    ParameterError
        The notebook cannot be read or does not declare a parameter; or a value cannot be written into it, or looks like
        a secret, or is none that the notebook's `ctkit.Parameters` will accept.
    """
    book = _read(notebook)
    declared = _declared_in(book, notebook)
    given = {**shared, **own}
    if not declared and given:
        message = f"no cell tagged parameters assigns any of {', '.join(given)}; tag the cell that does"
        raise ParameterError(f"notebook {notebook}: {message}", keys=tuple(given))
    for key in given:
        # Of a shared file, this notebook may not need every key.
        if key not in declared and (key in own or key not in Parameters.model_fields):
            hint = did_you_mean(key, declared) or f"it declares {', '.join(declared)}"
            raise ParameterError(f"notebook {notebook} has no parameter {key}; {hint}", keys=(key,))
    values = {key: _as_literal(key, value) for key, value in given.items() if key in declared}
    if own.get("main_path") is not None and "create_main" in declared and values.get("create_main") is None:
        # As in `ctkit merge`: a path typed by hand may be mistyped.
        values["create_main"] = False
    if runs is not None and "runs_path" in declared and values.get("runs_path") is None:
        values["runs_path"] = str(runs)
    for key, value in values.items():
        if is_secret(key, value):
            raise ParameterError(
                f"parameter {key} looks like a secret, which papermill would write into the output notebook; "
                "give it in the environment",
                keys=(key,),
            )
    if any("Parameters.of(" in cell.source for cell in book.cells if cell.cell_type == "code"):
        # What the notebook would say only after its kernel has started.
        layers = (("-p", own), ("parameter file", shared))
        ours = Parameters.of_layers(*((name, _within(layer, values)) for name, layer in layers))
        # The cell of a copy may have been edited to name it.
        is_ours = notebook.stem in RUNBOOKS and notebook == find_runbook(notebook.stem)
        if is_ours and "main_path" in declared and ours.main_path is None:
            message = "main_path is missing: give it in the parameter file (-f FILE), or as -p main_path PATH"
            raise ParameterError(message, keys=("main_path",))
    return values


def _within(given: Mapping[str, object], values: Mapping[str, object]) -> dict[str, object]:
    return {key: values[key] for key in given if key in values and key in Parameters.model_fields}


def _read(notebook: Path) -> nbformat.NotebookNode:
    if notebook.suffix not in (".ipynb", ".json"):
        # papermill would only warn.
        hint = did_you_mean(str(notebook), RUNBOOKS) or f"name one that does, or a runbook: {', '.join(RUNBOOKS)}"
        hint += "; a parameter file is given with -f" if notebook.suffix in (".yaml", ".yml") else ""
        raise ParameterError(f"{notebook} is not a notebook: its name does not end in .ipynb; {hint}")
    try:
        book: nbformat.NotebookNode = load_notebook_node(str(notebook.absolute()))
        nb_kernel_name(book)
        nb_language(book)
    except (OSError, ValueError, nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise ParameterError(f"notebook {notebook} cannot be read ({error}); name a notebook with a kernel") from error
    return book


def _declared_in(book: nbformat.NotebookNode, notebook: Path) -> list[str]:
    """Return the names that the parameters cell assigns; papermill's own inspection reads single lines only."""
    at = find_first_tagged_cell_index(book, "parameters")
    if at < 0:
        return []
    if nb_language(book).lower() not in ("python", "ipython"):
        return list(papermill.inspect_notebook(as_template(notebook)))
    try:
        code = TransformerManager().transform_cell(book.cells[at].source)  # type: ignore[no-untyped-call]
        names = symtable.symtable(code, "parameters", "exec").get_symbols()
    except (SyntaxError, ValueError) as error:
        message = f"the parameters cell of notebook {notebook} cannot be read ({error}); correct it"
        raise ParameterError(message) from error
    return [
        name.get_name() for name in names if name.is_assigned() and not name.is_imported() and not name.is_namespace()
    ]


def _as_literal(key: str, value: object) -> object:
    """Return a value that papermill can write into a notebook; of others it would write the text."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [_as_literal(key, element) for element in value]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: _as_literal(key, element) for name, element in value.items()}
    raise ParameterError(
        f"parameter {key} holds {shown(value)}, which a notebook cannot be given; give it as text", keys=(key,)
    )


def as_template(path: Path) -> str:
    """Return a path as papermill takes it."""
    # papermill formats paths with the parameters: escape braces.
    return str(path.absolute()).replace("{", "{{").replace("}", "}}")


# papermill's warnings about names that only `_declared_in` finds.
_UNTRUE = ("Passed unknown parameter", "Unable to parse line")
logging.getLogger("papermill").addFilter(lambda record: not record.getMessage().startswith(_UNTRUE))
