"""Text from logs, certificates, files, tables and the environment, made safe to show."""

import logging
import re
from collections.abc import Iterator
from itertools import islice
from numbers import Number
from typing import Any, Protocol

# Unicode's Default_Ignorable_Code_Point has letters and marks too, which `str.isprintable` lets pass; U+2800 is blank.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def visible(text: str) -> str:
    r"""Return `text` on one line, with Python's escapes in place of what cannot be seen.

    Escaped are control characters, which include line ends and terminal escapes; characters that change the direction
    of text or have no width; spaces other than the plain one; lone surrogates; and code points without a character.
    Everything else stays, so that text made visible once does not change again.

    Examples
    --------
    >>> print(visible("log \x1b[2J\n\u202emoc.elpmaxe"))
    log \x1b[2J\n\u202emoc.elpmaxe
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() and not _INVISIBLE.match(letter) else letter.encode("unicode_escape").decode()
        for letter in text
    )


class _Items(Protocol):
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[object]: ...


def first_of(items: _Items, most: int) -> str:
    """Return the first `most` items as text, and how many more there are.

    Examples
    --------
    >>> first_of("abcde", 3)
    'a, b, c and 2 more'
    """
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, islice(items, most))) + more


class _VisibleArguments(logging.Filter):
    """Makes the arguments of log messages visible; numbers stay numbers."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(map(_shown, record.args))
        return True


def _shown(value: Any) -> Any:
    return value if isinstance(value, Number) else visible(str(value))


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module of ctkit: each of its messages is one line, whatever the handler.

    Messages are format strings of ours; text from outside is always an argument.
    """
    logger = logging.getLogger(name)
    logger.addFilter(_VISIBLE)
    return logger


_VISIBLE = _VisibleArguments()
