"""What people give, checked where it enters: keys of parameter files, and arguments of functions in Python."""

import difflib
import inspect
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from numbers import Integral
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, Field, PlainValidator, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from ctkit.errors import ParameterError

P = ParamSpec("P")
R = TypeVar("R")


def _as_int(value: object) -> object:
    # NumPy's and Arrow's whole numbers are as good as Python's; True is none.
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def _with_hyphen(value: object) -> object:
    return value.replace("_", "-") if isinstance(value, str) else value


WholeNumber = Annotated[int, BeforeValidator(_as_int)]
Index = Annotated[WholeNumber, Field(ge=0, lt=1 << 63)]
Count = Annotated[WholeNumber, Field(gt=0)]
# Longer than a lock can wait is no deadline.
Seconds = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Ceiling = Literal["state", "log"]
DerForm = Literal["binary", "text"]
Seen = Literal["log", "fetched"]
Rechecked = Literal["unproven", "all"]
Verify = Literal["off", "heads", "entries"]
"""What is verified: nothing, the signatures of tree heads, or also that each entry is in the tree that the log signed.

How parameters, flags and commits spell it.
"""
ProtocolChoice = Annotated[Literal["auto", "rfc6962", "static-ct"], BeforeValidator(_with_hyphen)]
"""How to read a log; ``static_ct`` is taken for ``static-ct``."""

_SOURCES = {
    "DeltaTable": "an open table, from ctkit.open_table",
    "MergePreview": "a preview, from ctkit.preview_merge",
    "Parameters": "what ctkit.read_parameters returned",
    "GapReport": "what ctkit.report_gaps returned",
    "str": "text",
}
"""What an argument of a class is, and where people get it."""


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments of each call by their annotations, as strictly as a parameter file, before it begins.

    Of a class of our own or of a library, an argument must be an instance.

    Raises
    ------
    ParameterError
        By the function that is returned; it names each argument that is wrong, and the words that there are.
    """
    signature = inspect.signature(function)

    @cache
    def adapters() -> dict[str, TypeAdapter[Any]]:
        hints = get_type_hints(function, include_extras=True)
        named = (each.name for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD)
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
    """Return a type in which pydantic asks for instances of classes, instead of looking into them."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        kinds = [each for each in inner if each is not NoneType]
        kind = _instances(kinds[0]) if len(kinds) == 1 else _instance_of(*kinds)
        return kind if len(kinds) == len(inner) else kind | None
    if origin in (Sequence, Mapping, tuple):
        return origin[tuple(_instances(each) for each in inner)]
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
    """Return one line about what pydantic found: where, what it should be, what it is.

    Parameters
    ----------
    origin
        Who gave it: a file, or a function that was called.
    place
        Key or argument, and what is wrong inside of it.
    known
        The keys that there are, for one that is not.
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
"""What pydantic says in words of Python, by the kind of problem."""


def check_header(text: str) -> str:
    """Return a text that an HTTP header can carry as it is, and every log reads the same.

    Raises
    ------
    ValueError
        It holds a control character, a line break for instance, or one that is not ASCII; the message shows the first.
    """
    if odd := next((each for each in text if not (each.isascii() and each.isprintable())), None):
        raise ValueError(f"it holds {odd!a}, which an HTTP header cannot carry; use ASCII without line breaks")
    return text


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return a question that names the word which is most like another, or nothing if none is."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else ""


def shown(value: object) -> str:
    """Return a value for a message, in short: by its aliases, a small file may hold a value without end."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python does not write out whole numbers of more than 4300 digits
        return "a number of thousands of digits"


_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = 200
