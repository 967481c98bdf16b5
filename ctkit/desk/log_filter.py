"""The little language of the parameter `log_filter`: which logs of many are meant."""

import re
from collections.abc import Mapping

from ctkit.arguments import did_you_mean, shown

_OPERATOR = re.compile(r"operator\s*:\s*(.*)", re.IGNORECASE)


def read_filter(value: object) -> object:
    """Return a filter as text; a mapping ``{operator: Google}`` means ``"operator: Google"``.

    Raises
    ------
    ValueError
        A mapping has another key than `operator`, or a condition is empty.

    Examples
    --------
    >>> read_filter({"operator": "Google"})
    'operator: Google'
    """
    if isinstance(value, Mapping):
        if unknown := [key for key in value if key != "operator"]:
            hint = did_you_mean(str(unknown[0]), ["operator"]) or "known is operator"
            raise ValueError(f"{shown(unknown[0])}: unknown key; {hint}")
        if not isinstance(text := value.get("operator"), str):
            raise ValueError(f"operator: it should be text, but is {shown(text)}")
        value = f"operator: {text}"
    if isinstance(value, str) and not all(text for _, text in _conditions(value)):
        raise ValueError(f"{shown(value)} has an empty condition; give a text, operator: NAME, or several with commas")
    return value


def matches(
    log_filter: str | None, *, url: str, name: str | None, operator: str | None, anybodys: bool = False
) -> bool:
    """Tell whether a log is meant; without a filter, each one is.

    Parameters
    ----------
    log_filter
        Conditions with commas between them, all of which must hold; case does not matter. ``operator: TEXT`` looks for
        the text in the operator's name, any other text is looked for in name and URL.
    url, name, operator
        What is known of the log. A log without an operator is meant by no filter that asks for one.
    anybodys
        Whether it may be any operator's; only the other conditions count then.

    Examples
    --------
    >>> log = {"url": "https://ct.example/argon2026h2", "name": "Argon2026h2", "operator": "Google"}
    >>> matches("argon", **log), matches("operator: google, 2026", **log), matches("operator: argon", **log)
    (True, True, False)
    """
    fields = {"operator": [operator], "": [url, name]}
    return all(
        (anybodys and field == "operator") or any(text in (value or "").casefold() for value in fields[field])
        for field, text in (_conditions(log_filter) if log_filter else ())
    )


def _conditions(log_filter: str) -> list[tuple[str, str]]:
    """Return ``(field, text)`` of each condition: ``"operator"``, or "" for name and URL."""
    found = []
    for condition in log_filter.casefold().split(","):
        operator = _OPERATOR.fullmatch(condition.strip())
        found.append(("operator", operator[1]) if operator else ("", condition.strip()))
    return found
