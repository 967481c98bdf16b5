"""The parser of the command line, and its flags, made from the keys of a parameter file."""

import argparse
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NoReturn, get_args, get_origin

import yaml

from ctkit.arguments import did_you_mean
from ctkit.desk.parameter_files import NO_YAML, Loader
from ctkit.desk.parameters import Flag, Parameters, flag_name, flag_of, read_parameters
from ctkit.desk.terminal import fail, print_lines, write
from ctkit.errors import ParameterError
from ctkit.logs.published_lists import PUBLISHED
from ctkit.visible import visible


class Parser(argparse.ArgumentParser):
    """Usage errors end with exit code 1, like every other error."""

    def error(self, message: str) -> NoReturn:
        """End with the usage and the error."""
        raise SystemExit(fail(f"{self.format_usage()}Error: {visible(message)}"))

    def print_help(self, file: object = None) -> None:
        """Print to stdout as `ctkit.desk.terminal.write` does."""
        write(self.format_help())

    def _check_value(self, action: argparse.Action, value: str) -> None:
        choices = list(action.choices or ())
        if choices and value not in choices:
            hint = did_you_mean(value, choices) or f"choose from {', '.join(choices)}"
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}; {hint}")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the examples, and wraps text at 80 columns."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=min(shutil.get_terminal_size().columns, 80) - 2)


class Version(argparse.Action):
    """Prints the version; finding it takes a while, so only when asked."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Print it and end."""
        from importlib.metadata import version

        print_lines(f"ctkit {version('ctkit')}")
        parser.exit()


def add_flags(parser: argparse.ArgumentParser, *, file: bool = True) -> None:
    """Add a flag for each key that the parser's command uses, as ``ctkit.desk.parameters.Flag`` says, and ``-f``.

    Parameters
    ----------
    file
        Whether the command reads a parameter file, and has ``-f``.
    """
    command = parser.prog.split()[-1]
    group = parser.add_argument_group("parameters", "also keys of the parameter file")
    if file:
        group.add_argument("-f", dest="file", metavar="FILE", help="parameter file (YAML); flags override it")
    else:
        parser.set_defaults(file=None)
    for key, field in Parameters.model_fields.items():
        flag = flag_of(key)
        if command in flag.commands:
            about = flag.about or (field.description or "").removeprefix(f"{command}: ")
            added = group.add_argument(flag_name(key), dest=key, help=about, **_kind(key, flag))
            if words := [*PUBLISHED] if key == "log_list" else _words(field.annotation):
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

    No main table is to be created where the flags name it, unless they, or the file, say so.

    Raises
    ------
    ParameterError
        As for `ctkit.read_parameters`; flags are named as they are typed.
    """
    given = {key: value for key, value in vars(arguments).items() if key in Parameters.model_fields}
    try:
        parameters = read_parameters(arguments.file, **given)
    except ParameterError as error:
        named = (re.sub(r"^argument: (\w+)", lambda key: f"argument {flag_name(key[1])}", line) for line in error.args)
        raise ParameterError(*named, keys=error.keys) from None
    if parameters.main_path is not None:
        _spare_pandas()
    # A path that was typed by hand may be mistyped; the one in a file is known.
    if parameters.create_main is None and given.get("main_path") is not None:
        return parameters.model_copy(update={"create_main": False})
    return parameters


def _spare_pandas() -> None:
    """Keep Arrow from importing pandas, a third of the start of a command, until a table is converted to show it.

    Arrow tries to import it with the first array, to recognise pandas' own types, and does without if it fails; when a
    table is converted, it tries again.
    """
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    sys.meta_path.insert(0, _WithoutPandas)
    try:
        pa.array([])
    finally:
        sys.meta_path.remove(_WithoutPandas)


class _WithoutPandas:
    """Finds no pandas."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


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
    if key in _LISTS:
        return {"action": "append", "type": _LISTS[key], "metavar": flag.metavar}
    if key == "recheck":
        return {"nargs": "?", "const": "unproven", "metavar": words}
    return (
        {"metavar": words} if words else {"metavar": flag.metavar, "type": literal if flag.metavar in _NUMBERS else str}
    )


_LISTS: dict[str, Callable[[str], object]] = {"logs": lambda url: {"url": url}, "domains": str, "brands": str}
"""Keys whose flag is given once for each item, and what an item is made of what was typed."""

_NUMBERS = ("N", "SECONDS", "DAYS")


def _words(kind: Any) -> list[str]:
    """Return the words of the Literals inside a type."""
    words = get_args(kind)
    return list(words) if get_origin(kind) is Literal else [word for inner in words for word in _words(inner)]
