"""Checks of what users give: the keys of parameter files, and the arguments of functions."""

import difflib
import inspect
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import date
from functools import cache, wraps
from numbers import Integral
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, Field, PlainValidator, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from ctkit.errors import ParameterError

P = ParamSpec("P")
R = TypeVar("R")


def _as_int(value: object) -> object:
    # NumPy's and Arrow's integers are accepted like Python's; booleans are not.
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def _with_hyphen(value: object) -> object:
    return value.replace("_", "-") if isinstance(value, str) else value


def _as_date(value: object) -> object:
    # Of the forms that Python reads as dates, one: it is what papermill and YAML leave of a date.
    if not isinstance(value, date) and not (isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value)):
        raise ValueError(f"it should be a date like 2026-11-01, but is {shown(value)}")
    return date.fromisoformat(value) if isinstance(value, str) else value


WholeNumber = Annotated[int, BeforeValidator(_as_int)]
Index = Annotated[WholeNumber, Field(ge=0, lt=1 << 63)]
Count = Annotated[WholeNumber, Field(gt=0, lt=1 << 62)]
# Locks cannot wait longer than this.
Seconds = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Day = Annotated[date, BeforeValidator(_as_date)]
Ceiling = Literal["state", "log"]
DerForm = Literal["binary", "text"]
Seen = Literal["log", "fetched"]
Rechecked = Literal["unproven", "all"]
Verify = Literal["off", "heads", "entries"]
"""What is verified: nothing, the signatures of tree heads, or also that each entry is in the tree that the log signed.

Parameters, flags and commits use these words.
"""
LogProtocol = Literal["rfc6962", "static-ct"]
"""The two ways to read a log."""
ProtocolChoice = Annotated[Literal["auto", LogProtocol], BeforeValidator(_with_hyphen)]
"""The protocol of a log; ``static_ct`` means ``static-ct``."""

_SOURCES = {
    "DeltaTable": "an open table, from ctkit.open_table",
    "Table": "an ibis table",
    "MergePreview": "a preview, from ctkit.preview_merge",
    "Parameters": "what ctkit.read_parameters returned",
    "GapReport": "what ctkit.report_gaps returned",
    "str": "text",
}
"""Class of an argument -> what it is, and where it comes from."""


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments of each call by their annotations, as strictly as a parameter file, before it begins.

    Where the annotation is a class, the argument must be an instance of it.

    Raises
    ------
    ParameterError
        Raised by the function that is returned; it names each wrong argument, and the words that are allowed.
    """
    signature = inspect.signature(function)

    @cache
    def adapters() -> dict[str, TypeAdapter[Any]]:
        hints = get_type_hints(function, include_extras=True)
        named = (value.name for value in signature.parameters.values() if value.kind is not value.VAR_KEYWORD)
        return {name: TypeAdapter(_instances(hints[name])) for name in named}

    @wraps(function)
    def check(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs)
        problems: dict[str, str] = {}
        for name in adapters().keys() & given.arguments.keys():
            try:
                given.arguments[name] = adapters()[name].validate_python(given.arguments[name], strict=True)
            except ValidationError as error:
                problem = error.errors(include_url=False)[0]
                place = (name, *problem["loc"])
                problems[dotted(place)] = describe(problem, function.__name__, place)
        if problems:
            raise ParameterError(*(problems[key] for key in sorted(problems)), keys=tuple(sorted(problems)))
        return function(*given.args, **given.kwargs)

    return check


def _instances(hint: Any) -> Any:
    """Return a type for which pydantic checks that objects are instances, and does not look into them."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        kinds = [kind for kind in inner if kind is not NoneType]
        kind = _instances(kinds[0]) if len(kinds) == 1 else _instance_of(*kinds)
        return kind if len(kinds) == len(inner) else kind | None
    if origin in (Sequence, Mapping, tuple):
        return origin[tuple(map(_instances, inner))]
    if isinstance(hint, type) and hint.__module__ != "builtins":
        return _instance_of(hint)
    return hint


def _instance_of(*kinds: type) -> Any:
    wanted = " or ".join(_SOURCES.get(kind.__name__, kind.__name__) for kind in kinds)

    def check(value: object) -> object:
        if not isinstance(value, kinds):
            raise ValueError(f"it should be {wanted}, but is {shown(value)}")
        return value

    return Annotated[Any, PlainValidator(check)]


def describe(problem: ErrorDetails, origin: str, place: Sequence[int | str], known: Sequence[str] = ()) -> str:
    """Return one line about a problem that pydantic found: where it is, what is expected, what was given.

    Parameters
    ----------
    origin
        Where the value comes from: a file, or the function that was called.
    place
        The key or argument, and the path to what is wrong inside it.
    known
        The keys that exist, for a suggestion if a key is unknown.
    """
    named, kind, context = f"{origin}: {dotted(place)}", problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{named}: unknown key; {did_you_mean(str(place[-1]), known) or 'known are ' + ', '.join(known)}"
    if kind == "missing":
        return f"{named}: missing; add it"
    if kind == "value_error":
        return f"{named}: {context['error']}"
    given, message = problem["input"], problem["msg"][0].lower() + problem["msg"][1:]
    if kind == "sequence_str" or context.get("class") == "Sequence":
        message = "it should be a list"
    elif kind.startswith("model_"):
        message = f"it should be a mapping {{{', '.join(known)}}}"
    message = _WORDS.get(kind, message)
    said = f"{named}: {message.replace('input should', 'it should')}, but is {shown(given)}"
    words = re.findall("'([^']*)'", context["expected"]) if kind == "literal_error" and isinstance(given, str) else []
    return "; ".join(filter(None, [said, did_you_mean(str(given), words) if words else ""]))


def dotted(place: Sequence[int | str]) -> str:
    """Return a place in nested values as text.

    Examples
    --------
    >>> dotted(("logs", 0, "url"))
    'logs.0.url'
    """
    return ".".join(map(str, place))


_WORDS = {
    "bool_type": "it should be true or false",
    "callable_type": "it should be a function",
    "dict_type": "it should be a mapping",
    "float_type": "it should be a number",
    "int_from_float": "it should be a whole number",
    "int_type": "it should be a whole number",
    "list_type": "it should be a list",
    "mapping_type": "it should be a mapping",
    "string_too_short": "it should not be empty",
    "string_type": "it should be text",
    "string_unicode": "it should be text",
    "tuple_type": "it should be a list",
}
"""Plain words in place of pydantic's, by the kind of problem."""


def check_header(text: str) -> str:
    """Return a text if an HTTP header can carry it unchanged.

    Raises
    ------
    ValueError
        It holds a control character, such as a line break, or is not ASCII; the message shows the first such character.
    """
    if odd := next((character for character in text if not (character.isascii() and character.isprintable())), None):
        raise ValueError(f"it holds {odd!a}, which an HTTP header cannot carry; use ASCII without line breaks")
    return text


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return a question that suggests the most similar known word; "" if none is similar."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else ""


def named_alike(path: Path, is_one: Callable[[Path], bool]) -> str:
    """Return a question that suggests what lies beside a path that does not exist; "" if nothing is called alike.

    Parameters
    ----------
    is_one
        Whether something is of the kind that is wanted, such as `pathlib.Path.is_dir`.
    """
    # Where nobody may look, there is nothing to suggest.
    with suppress(OSError):
        return did_you_mean(path.name, sorted(each.name for each in path.absolute().parent.iterdir() if is_one(each)))
    return ""


def shown(value: object) -> str:
    """Return a value for a message, shortened: through aliases, a small file can hold an enormous value."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python does not convert integers of more than 4300 digits
        return "a number of thousands of digits"


_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = 200
