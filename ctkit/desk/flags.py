"""Command-line flags, made from the keys of a parameter file."""

import argparse
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args, get_origin

import yaml

from ctkit.desk.parameter_files import NO_YAML, Loader
from ctkit.desk.parameters import Flag, Parameters, flag_name, flag_of, read_parameters
from ctkit.errors import ParameterError


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``-f``, and a flag for each key that the parser's command uses, as ``ctkit.desk.parameters.Flag`` says."""
    command = parser.prog.split()[-1]
    group = parser.add_argument_group("parameters", "also keys of the parameter file")
    group.add_argument("-f", dest="file", metavar="FILE", help="parameter file (YAML); flags override it")
    for key, field in Parameters.model_fields.items():
        flag = flag_of(key)
        if command in flag.commands:
            about = flag.about or (field.description or "").removeprefix(f"{command}: ")
            added = group.add_argument(flag_name(key), dest=key, help=about, **_kind(key, flag))
            if words := _words(field.annotation):
                complete(added, words)


def complete(action: argparse.Action, words: Sequence[str]) -> None:
    """Have the completion of a shell offer `words` for an argument, and files where none of them fits."""

    def fitting(prefix: str, **_: object) -> Iterable[str]:
        from argcomplete.completers import FilesCompleter

        found = [word for word in words if word.startswith(prefix)]
        return found or FilesCompleter()(prefix)

    # argcomplete looks for this attribute, which argparse does not know.
    vars(action)["completer"] = fitting


def read_flags(arguments: argparse.Namespace) -> Parameters:
    """Return the parameters from the flags and from the file that ``-f`` names.

    Raises
    ------
    ParameterError
        As for `ctkit.read_parameters`; flags are named as they are typed.
    """
    given = {key: value for key, value in vars(arguments).items() if key in Parameters.model_fields}
    try:
        return read_parameters(arguments.file, **given)
    except ParameterError as error:
        named = (re.sub(r"^argument: (\w+)", lambda key: f"argument {flag_name(key[1])}", line) for line in error.args)
        raise ParameterError(*named, keys=error.keys) from None


def literal(text: str) -> object:
    """Return the value of a YAML text; the text itself if it is not YAML."""
    try:
        return yaml.load(text, Loader)
    except NO_YAML:
        return text


def _kind(key: str, flag: Flag) -> dict[str, Any]:
    """Return how argparse reads a flag. `Parameters` checks its value, as it checks a file's."""
    kind = Parameters.model_fields[key].annotation
    words = "|".join(_words(kind))
    if kind is bool:
        return {"action": "store_const", "const": True}
    if bool in get_args(kind):
        return {"action": argparse.BooleanOptionalAction}
    if key == "logs":
        return {"action": "append", "type": lambda url: {"url": url}, "metavar": flag.metavar}
    if key == "recheck":
        return {"nargs": "?", "const": "unproven", "metavar": words}
    return (
        {"metavar": words} if words else {"metavar": flag.metavar, "type": literal if flag.metavar in _NUMBERS else str}
    )


_NUMBERS = ("N", "SECONDS", "DAYS")


def _words(kind: Any) -> list[str]:
    """Return the words of the Literals inside a type."""
    words = get_args(kind)
    return list(words) if get_origin(kind) is Literal else [word for inner in words for word in _words(inner)]
