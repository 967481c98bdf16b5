"""The registrable domain of a name, as an expression that any engine works out.

What may be registered lies one label below a public suffix, by the rules of https://publicsuffix.org/list/. The rules
become regular expressions over reversed names, because a join would be made for every question, also where nobody asks
for the column, and a function in Python would take the place of the engine.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache, reduce
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
from publicsuffixlist import PSLFILE

_LONGEST = 30_000
"""Characters of one expression. RE2, which DuckDB uses, is a hundred times slower with twice as many or more."""

_LABEL = r"[^.*\s]"
_TLD = rf"{_LABEL}*[^.*\s\d]{_LABEL}*"
"""The last label of a name: not of digits only, which an IPv4 address ends with."""

_Tree = dict[str, Any]
"""Label -> the tree of what stands to its left; "" where a rule ends."""


def registrable(name: ir.StringValue) -> ir.StringValue:
    """Return the registrable domain of a name in lower case, without a trailing dot; null where it has none.

    Private suffixes, such as ``github.io``, count like those of registries. The list is the one that
    ``publicsuffixlist`` brings; upgrade it for a newer one.

    Examples
    --------
    >>> import ibis
    >>> names = ["www.example.co.uk", "example.com", "a.b.example.github.io", "co.uk", "192.0.2.1"]
    >>> [registrable(ibis.literal(name)).to_pyarrow().as_py() for name in names]
    ['example.co.uk', 'example.com', 'example.github.io', None, None]
    """
    # With a dot at its end, so that a public suffix itself is told from a name below it: nothing follows its dot.
    turned = name.reverse() + "."
    found = reduce(
        lambda found, pattern: found.coalesce(turned.re_extract(pattern, 1).nullif("")),
        _patterns()[1:],
        turned.re_extract(_patterns()[0], 1).nullif(""),
    )
    below_suffix = found.re_extract(r"(?s)^.*[^.]$", 0).nullif("")
    # Reversed twice, marks of some scripts would stand elsewhere.
    return name.right(below_suffix.length())


@cache
def _patterns() -> tuple[str, ...]:
    """Return expressions to be tried one after another, whose first group is a reversed registrable domain."""
    tree: _Tree = {}
    exceptions = []
    for rule in _rules():
        if rule.startswith("!"):
            exceptions.append(_reversed(rule[1:]))
        elif "." in rule:
            reduce(lambda node, label: node.setdefault(label, {}), reversed(rule.split(".")), tree)[""] = {}
    groups = [""]
    for label, below in tree.items():
        pattern = _pattern({label: below})
        if len(groups[-1]) + len(pattern) > _LONGEST:
            groups.append("")
        groups[-1] = "|".join(filter(None, [groups[-1], pattern]))
    return (
        rf"^({'|'.join(exceptions)})\.",
        *(rf"^((?:{group})\.{_LABEL}*)" for group in groups),
        # Rules of one label are not needed: what no rule knows is taken for one (the list's own default, "*").
        rf"^({_TLD}\.{_LABEL}*)",
    )


def _rules() -> Iterator[str]:
    """Yield the rules, those with letters other than ASCII in both forms."""
    for line in Path(PSLFILE).read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("//"):
            rule = line.split()[0]
            yield rule
            if not rule.isascii():
                yield ".".join(_a_label(label) for label in rule.split("."))


def _a_label(label: str) -> str:
    return label if label.isascii() else f"xn--{label.encode('punycode').decode()}"


def _pattern(tree: _Tree) -> str:
    """Return an expression for the reversed rules of a tree: the longest rule that fits wins."""
    # A wildcard is tried after the labels that have rules of their own.
    parts = []
    for label in sorted(tree.keys() - {""}, key=lambda label: (label == "*", label)):
        below = _pattern(tree[label])
        more = rf"(?:\.{below}){'?' if '' in tree[label] else ''}" if below else ""
        parts.append((rf"{_LABEL}+" if label == "*" else _reversed(label)) + more)
    return f"(?:{'|'.join(parts)})" if len(parts) > 1 else "".join(parts)


def _reversed(text: str) -> str:
    # As DuckDB does it, which leaves marks behind the letter that they belong to.
    letters: list[str] = []
    for letter in text:
        if letters and unicodedata.category(letter).startswith("M"):
            letters[-1] += letter
        else:
            letters.append(letter)
    return re.escape("".join(reversed(letters)))
