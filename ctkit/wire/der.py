"""Elements of DER: headers read, of BER too, and written (X.690, section 8.1)."""

from collections.abc import Iterator

SEQUENCE = 0x30

# Identifier octet, length octets, contents octets (X.690, section 8.1). No element of a certificate has several
# identifier octets.
Element = tuple[int, int, int]
"""Identifier octet, and the range ``[start, stop)`` of the contents."""

ABSENT: Element = (-1, 0, 0)


def header(der: bytes, at: int, end: int) -> Element:
    """Return the element whose header is at `at`. It may end beyond `end`, and does if its header does not fit."""
    start = at + 2
    if start > end:
        return -1, end, end + 1
    length = der[at + 1]
    if length == 0x80:
        return der[at], start, _indefinite_stop(der, start, end)
    if length > 0x80:
        octets = length - 0x80
        length = int.from_bytes(der[start : start + octets])
        start += octets
        if start > end:
            return -1, end, end + 1
    return der[at], start, start + length


def _indefinite_stop(der: bytes, at: int, end: int) -> int:
    """Return where an element of indefinite length ends whose contents begin at `at` (X.690, section 8.1.3.6).

    That is after its end-of-contents octets ``00 00``, which count as an empty element at the end of the contents.
    """
    depth = 1
    while depth and at + 2 <= end:
        if der[at : at + 2] == b"\0\0":
            depth -= 1
            at += 2
        elif der[at + 1] == 0x80:
            depth += 1
            at += 2
        else:
            at = header(der, at, end)[2]
    return end + 1 if depth else at


def elements(der: bytes, at: int, end: int) -> Iterator[Element]:
    """Yield the elements in ``[at, end)``, up to the first that does not fit."""
    while at < end:
        element = header(der, at, end)
        at = element[2]
        if at > end:
            return
        yield element


def first(der: bytes, at: int, end: int) -> Element:
    """Return the first element in ``[at, end)``, `ABSENT` if none fits."""
    return next(elements(der, at, end), ABSENT)


def members(value: bytes) -> Iterator[Element]:
    """Yield the elements of the sequence `value`, up to the first that does not fit."""
    tag, start, stop = header(value, 0, len(value))
    return elements(value, start, min(stop, len(value))) if tag == SEQUENCE else iter(())


def contents(der: bytes, element: Element, tag: int) -> bytes:
    """Return the contents of an element with the identifier octet `tag`; nothing if it has another."""
    return der[element[1] : element[2]] if element[0] == tag else b""


def der(tag: int, *parts: bytes) -> bytes:
    """Encode one DER element from its tag and the parts of its content.

    Examples
    --------
    >>> der(0x04, b"ab", b"c").hex()
    '0403616263'
    """
    content = b"".join(parts)
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(octets))) + octets + content
