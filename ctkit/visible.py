"""Text from logs, certificates, files, tables and the environment, made safe to show."""

import logging
import re
import unicodedata
from collections.abc import Iterator
from itertools import accumulate, islice
from numbers import Number
from typing import Any, Protocol

# Unicode's Default_Ignorable_Code_Point has letters and marks too, which `str.isprintable` lets pass; U+2800 is blank.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


LONGEST = 4_000
"""Characters of a text that are shown; a name that is longer means no good."""

_MARKS = 4
"""Marks in a row that a letter may carry; more of them are piled up over the lines above and below."""


def visible(text: str) -> str:
    r"""Return `text` on one line, with Python's escapes in place of what cannot be seen.

    Escaped are control characters, which include line ends and terminal escapes; characters that change the direction
    of text or have no width; spaces other than the plain one; lone surrogates; code points without a character; and
    marks that pile up over one letter. Everything else stays, so that text made visible once does not change again. Of
    more than `LONGEST` characters the first ones are shown, and how many follow.

    Examples
    --------
    >>> print(visible("log \x1b[2J\n\u202emoc.elpmaxe"))
    log \x1b[2J\n\u202emoc.elpmaxe
    >>> len(visible("a" * 64_000)), visible("a" * 64_000)[-30:]
    (3978, 'aa ... and 60,050 more letters')
    """
    if len(text) <= LONGEST and len(shown := escaped(text)) <= LONGEST:
        return shown
    letters = _fitting(text[:_KEPT], _KEPT)
    return f"{''.join(letters)} ... and {len(text) - len(letters):,} more letters"


def with_end(text: str) -> str:
    """Return `text` made visible; of one that is too long, the end is shown too, which says what to do.

    Examples
    --------
    >>> shown = with_end("a" * 64_000 + "; run again")
    >>> len(shown), shown[3440:3490], shown[-15:]
    (3973, 'aaaaaaaaaa [60,061 more letters] aaaaaaaaaaaaaaaaa', 'aaaa; run again')
    """
    if len(text) <= LONGEST and len(shown := escaped(text)) <= LONGEST:
        return shown
    most = _KEPT - _END
    first, last = _fitting(text[:most], most), _fitting(text[-_END:], _END, from_end=True)
    return f"{''.join(first)} [{len(text) - len(first) - len(last):,} more letters] {''.join(last)}"


_KEPT = LONGEST - 50
"""Characters that are shown of a text that is too long, with room for the number of the others."""

_END = 500
"""Characters of these that are its end, where the end is shown."""


def _fitting(text: str, most: int, *, from_end: bool = False) -> list[str]:
    """Return the first letters of a text, or the last ones, that fit when made visible: no escape is cut in two."""
    # The rest is not looked at, as it may be a whole book.
    letters = list(_letters_of(text))
    lengths = map(len, reversed(letters) if from_end else letters)
    kept = sum(length <= most for length in accumulate(lengths))
    return letters[len(letters) - kept :] if from_end else letters[:kept]


def escaped(text: str) -> str:
    """Return `text` made visible, however long it is."""
    return text if text.isascii() and text.isprintable() else "".join(_letters_of(text))


def _letters_of(text: str) -> Iterator[str]:
    marks = 0
    for letter in text:
        marks = marks + 1 if unicodedata.category(letter) in ("Mn", "Me") else 0
        plain = letter.isprintable() and not _INVISIBLE.match(letter) and marks <= _MARKS
        yield letter if plain else letter.encode("unicode_escape").decode()


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
