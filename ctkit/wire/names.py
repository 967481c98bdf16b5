"""Names in certificates, compared by meaning, not by encoding."""

import unicodedata
from collections.abc import Hashable, Iterator
from functools import lru_cache

from ctkit.wire.der import header

_ENCODINGS = {
    0x0C: "utf-8",  # UTF8String
    0x13: "latin-1",  # PrintableString
    0x14: "latin-1",  # TeletexString
    0x16: "latin-1",  # IA5String
    0x1A: "latin-1",  # VisibleString
    0x1C: "utf-32-be",  # UniversalString
    0x1E: "utf-16-be",  # BMPString
}


@lru_cache(maxsize=1024)
def canonical_name(name: bytes) -> Hashable:
    """Return a value that is equal for names (quoted in `ctkit.wire.x509`) that match by RFC 5280, section 7.1.

    String types, case and the number of spaces do not matter. A name that cannot be read only matches the same bytes.

    Parameters
    ----------
    name
        The element, header included.

    Examples
    --------
    >>> printable, utf8 = (bytes.fromhex("300d310b3009060355040a" + text) for text in ("13024361", "0c024341"))
    >>> canonical_name(printable) == canonical_name(utf8)
    True
    """
    try:
        ((_, start, stop),) = _elements(name, 0, len(name))
        return tuple(frozenset(_attributes(name, at, end)) for _, at, end in _elements(name, start, stop))
    except ValueError:
        return name


def _attributes(name: bytes, at: int, end: int) -> Iterator[tuple[bytes, Hashable]]:
    for _, start, stop in _elements(name, at, end):
        (_, _, type_end), (tag, value, value_end) = _elements(name, start, stop)
        yield name[start:type_end], _text(tag, name[value:value_end])


def _text(tag: int, contents: bytes) -> Hashable:
    if tag not in _ENCODINGS:
        return tag, contents
    text = unicodedata.normalize("NFKC", contents.decode(_ENCODINGS[tag]))
    return " ".join(text.casefold().split())


def _elements(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the elements in ``[at, end)``, which they must fill."""
    while at < end:
        element = header(data, at, end)
        at = element[2]
        if at > end:
            raise ValueError("an element does not fit")
        yield element
