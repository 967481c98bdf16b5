"""Finds the entries in pages and data tiles, with functions that Numba compiles; see `ctkit.wire.kernels`.

Anything unusual is left to `ctkit.wire.entries`, which describes what is wrong with it, and gives the same result where
both can read it. The structs are quoted in `ctkit.wire.leaf`.
"""

# To Numba an int is an int64, to mypy it is not.
# mypy: disable-error-code="assignment,return-value"

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ctkit.ranges import Int64s
from ctkit.wire.kernels import Bytes, compiled

_NONE = -1


class Frames(NamedTuple):
    """Where the entries are in the bytes of a page or tile, named as in `ctkit.wire.entries.EntryBlock`.

    Attributes
    ----------
    issuers
        int64[k, 2]: where each distinct certificate, or fingerprint, of the chains first occurs.
    """

    timestamp: Int64s
    entry_type: npt.NDArray[np.uint16]
    leaf: Int64s
    certificate: Int64s
    chain_offsets: Int64s
    chain: Int64s
    issuers: Int64s


MOST_ISSUERS = 256
"""A page with more distinct issuers is left to `ctkit.wire.entries`: each is compared with all before it."""

_LONGEST_COMMON_END = 8
"""So is one with different issuers of one length that share more bytes than these at their ends: signatures and
fingerprints only do where the comparison was meant to take long."""

_X509_ENTRY, _PRECERT_ENTRY = 0, 1


def _frames(count: int, chained: int) -> Frames:
    return Frames(
        np.zeros(count, np.int64),
        np.zeros(count, np.uint16),
        np.zeros((count, 2), np.int64),
        np.zeros((count, 2), np.int64),
        np.zeros(count + 1, np.int64),
        np.empty(chained, np.int64),
        np.empty((MOST_ISSUERS, 2), np.int64),
    )


def _cut(frames: Frames, count: int, issuers: int) -> Frames:
    return Frames(
        frames.timestamp[:count],
        frames.entry_type[:count],
        frames.leaf[:count],
        frames.certificate[:count],
        frames.chain_offsets[: count + 1],
        frames.chain[: frames.chain_offsets[count]],
        frames.issuers[:issuers],
    )


def read_tile(data: bytes, start: int, end: int, width: int) -> Frames | None:
    """Find the entries ``[start, end)`` in a data tile of at most `width` entries; None if it is not understood."""
    if start >= end:
        return None
    frames = _frames(end - start, len(data) // 32)
    issuers = _walk_tile(np.frombuffer(data, np.uint8), start - start % width, start, end, frames)
    return _cut(frames, end - start, issuers) if issuers >= 0 else None


@compiled
def _walk_tile(data: Bytes, first: int, start: int, end: int, frames: Frames) -> int:
    """Fill the frames from each ``TileLeaf``; return the number of issuers, -1 if something was not understood."""
    at = chained = issuers = 0
    for index in range(first, end):
        row = max(index - start, 0)
        entry = at
        entry_type, at = _walk_entry(data, at, len(data), index, row, frames)
        if entry_type == _PRECERT_ENTRY:
            begin, at = _opaque(data, at, len(data), 3)
            frames.certificate[row, 0], frames.certificate[row, 1] = begin, at
            if begin == at:
                return _NONE
        chain_start, chain_end = _opaque(data, at, len(data), 2)
        if entry_type == _NONE or at == _NONE or chain_end == _NONE or (chain_end - chain_start) % 32:
            return _NONE
        frames.leaf[row, 0] = entry
        at = chain_end
        if index < start:
            continue
        for place in range(chain_start, chain_end, 32):
            number = _issuer(data, place, place + 32, issuers, frames.issuers)
            if number == MOST_ISSUERS:
                return _NONE
            issuers = max(issuers, number + 1)
            frames.chain[chained] = number
            chained += 1
        frames.chain_offsets[row + 1] = chained
    return issuers


@compiled
def _walk_entry(data: Bytes, at: int, end: int, index: int, row: int, frames: Frames) -> tuple[int, int]:
    """Return type and end of the ``TimestampedEntry`` at `at`, both -1 if it is not understood."""
    if at < 0 or at + 10 > end:
        return _NONE, _NONE
    timestamp, entry_type = _number(data, at, 8), _number(data, at + 8, 2)
    if timestamp < 0 or entry_type > _PRECERT_ENTRY:
        return _NONE, _NONE
    start, stop = _opaque(data, at + 10 + 32 * entry_type, end, 3)
    extension, extension_end = _opaque(data, stop, end, 2)
    if extension_end == _NONE or start == stop:
        return _NONE, _NONE
    # The only extension that is understood is a leaf_index.
    if extension < extension_end and not (
        extension_end - extension == 8 and _number(data, extension, 3) == 5 and _number(data, extension + 3, 5) == index
    ):
        return _NONE, _NONE
    frames.timestamp[row], frames.entry_type[row] = timestamp, entry_type
    frames.certificate[row, 0], frames.certificate[row, 1] = start, stop
    frames.leaf[row, 1] = extension_end
    return entry_type, extension_end


@compiled
def _opaque(data: Bytes, at: int, end: int, prefix: int) -> tuple[int, int]:
    """Return where the variable-length vector at `at` begins and ends, both -1 if it does not fit before `end`."""
    if at < 0 or at + prefix > end:
        return _NONE, _NONE
    start = at + prefix
    stop = start + _number(data, at, prefix)
    return (start, stop) if stop <= end else (_NONE, _NONE)


@compiled
def _number(data: Bytes, at: int, size: int) -> int:
    number = np.int64(0)
    for place in range(at, at + size):
        number = number << 8 | np.int64(data[place])
    return number


@compiled
def _issuer(data: Bytes, start: int, stop: int, count: int, issuers: Int64s) -> int:
    """Return the number of the issuer ``data[start:stop]`` among the `count` known ones; a new one is added."""
    for number in range(count):
        other, end = issuers[number, 0], issuers[number, 1]
        # From the end, which is a signature: certificates of one issuer begin alike.
        if end - other == stop - start:
            left = stop - start
            while left and data[start + left - 1] == data[other + left - 1]:
                left -= 1
            if not left:
                return number
            if stop - start - left > _LONGEST_COMMON_END:
                return MOST_ISSUERS
    if count < len(issuers):
        issuers[count, 0], issuers[count, 1] = start, stop
    return count


def read_page(body: bytes, start: int, limit: int) -> tuple[Frames, bytes] | None:
    """Find the first `limit` entries in the answer of ``get-entries``; None if it is not understood.

    Returns
    -------
    Frames
        Of the entries ``[start, ...)``.
    bytes
        What they point into: for each entry the leaf input, then the extra data.
    """
    data = np.frombuffer(body, np.uint8)
    # An entry has at least 60 bytes of JSON, and a certificate in a chain 3 bytes for its length.
    frames = _frames(min(limit, len(body) // 40), len(body) // 4)
    unpacked = np.empty(len(body) * 3 // 4 + 3, np.uint8)
    count, size, issuers = _walk_page(data, start, limit, unpacked, frames)
    return (_cut(frames, count, issuers), unpacked[:size].tobytes()) if count >= 0 else None


_SIXTETS = np.full(256, 0xFF, np.uint8)
_SIXTETS[np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", np.uint8)] = np.arange(64)

_ENTRIES, _LEAF_INPUT, _EXTRA_DATA = (
    np.frombuffer(name, np.uint8).copy() for name in (b'"entries"', b'"leaf_input"', b'"extra_data"')
)


# { "entries": [ { "leaf_input": base64 MerkleTreeLeaf, "extra_data": base64 }, ... ] }      RFC 6962, section 4.6
@compiled
def _walk_page(data: Bytes, start: int, limit: int, unpacked: Bytes, frames: Frames) -> tuple[int, int, int]:
    """Fill the frames; return the number of entries, of bytes and of issuers; -1 each if it was not understood."""
    nothing = _NONE, _NONE, _NONE
    at = _after_name(data, _after(data, 0, 0x7B), _ENTRIES)
    at = _after(data, at, 0x5B)
    row = size = chained = issuers = 0
    if at > 0 and _after(data, at, 0x5D) > 0:
        at = _after(data, at, 0x5D)
    else:
        more = at > 0
        while more:
            at = _after_name(data, _after(data, at, 0x7B), _LEAF_INPUT)
            at, leaf_end = _unpack(data, at, unpacked, size)
            at = _after_name(data, _after(data, at, 0x2C), _EXTRA_DATA)
            at, end = _unpack(data, at, unpacked, leaf_end)
            at = _after(data, at, 0x7D)
            if at < 0:
                return nothing
            more = _after(data, at, 0x2C) > 0
            at = _after(data, at, 0x2C if more else 0x5D)
            if row == limit:
                continue
            if row == len(frames.timestamp):
                return nothing
            chained, issuers = _walk_leaf(unpacked, size, leaf_end, end, start + row, row, chained, issuers, frames)
            if chained < 0:
                return nothing
            row, size = row + 1, end
    at = _after(data, at, 0x7D)
    while 0 < at < len(data) and _is_space(data[at]):
        at += 1
    return (row, size, issuers) if at == len(data) else nothing


@compiled
def _is_space(letter: int) -> bool:
    return letter == 0x20 or letter == 0x0A or letter == 0x0D or letter == 0x09


@compiled
def _after(data: Bytes, at: int, letter: int) -> int:
    """Return where the text goes on after white space and one letter; -1 if there is another."""
    while 0 <= at < len(data) and _is_space(data[at]):
        at += 1
    return at + 1 if 0 <= at < len(data) and data[at] == letter else _NONE


@compiled
def _after_name(data: Bytes, at: int, name: Bytes) -> int:
    """Return where the text goes on after white space, the name of a member and its colon; -1 if it is another."""
    while 0 <= at < len(data) and _is_space(data[at]):
        at += 1
    if at < 0 or at + len(name) > len(data):
        return _NONE
    for place in range(len(name)):
        if data[at + place] != name[place]:
            return _NONE
    return _after(data, at + len(name), 0x3A)


@compiled
def _unpack(data: Bytes, at: int, unpacked: Bytes, size: int) -> tuple[int, int]:
    """Append the bytes of the base64 text in quotes at `at` (RFC 4648, section 4, with all padding).

    Returns
    -------
    tuple of int
        Where the text goes on, and how many bytes there are now; -1 each if it is not understood.
    """
    at = _after(data, at, 0x22)
    if at < 0:
        return _NONE, _NONE
    while at + 4 <= len(data):
        one, two = np.int64(_SIXTETS[data[at]]), np.int64(_SIXTETS[data[at + 1]])
        three, four = np.int64(_SIXTETS[data[at + 2]]), np.int64(_SIXTETS[data[at + 3]])
        if (one | two | three | four) >= 64:
            break
        three_bytes = one << 18 | two << 12 | three << 6 | four
        unpacked[size] = three_bytes >> 16
        unpacked[size + 1] = three_bytes >> 8 & 0xFF
        unpacked[size + 2] = three_bytes & 0xFF
        at += 4
        size += 3
    if at + 5 <= len(data) and data[at] != 0x22 and data[at + 3] == 0x3D:
        one, two = np.int64(_SIXTETS[data[at]]), np.int64(_SIXTETS[data[at + 1]])
        padding = 2 if data[at + 2] == 0x3D else 1
        three = np.int64(0) if padding == 2 else np.int64(_SIXTETS[data[at + 2]])
        if (one | two | three) >= 64:
            return _NONE, _NONE
        unpacked[size] = one << 2 | two >> 4
        if padding == 1:
            unpacked[size + 1] = (two & 0x0F) << 4 | three >> 2
        at += 4
        size += 3 - padding
    at = _after(data, at, 0x22) if at < len(data) and data[at] == 0x22 else _NONE
    return at, size if at > 0 else _NONE


@compiled
def _walk_leaf(
    data: Bytes, at: int, leaf_end: int, end: int, index: int, row: int, chained: int, issuers: int, frames: Frames
) -> tuple[int, int]:
    """Fill the frames of one entry; return the length of all chains, and the number of issuers; -1 each if not."""
    if leaf_end - at < 2 or data[at] or data[at + 1]:
        return _NONE, _NONE
    entry_type, stop = _walk_entry(data, at + 2, leaf_end, index, row, frames)
    if entry_type == _NONE or stop != leaf_end:
        return _NONE, _NONE
    frames.leaf[row, 0] = at + 2
    at = leaf_end
    if entry_type == _PRECERT_ENTRY:
        begin, at = _opaque(data, at, end, 3)
        frames.certificate[row, 0], frames.certificate[row, 1] = begin, at
        if begin == at:
            return _NONE, _NONE
    at, stop = _opaque(data, at, end, 3)
    if stop != end:
        return _NONE, _NONE
    while at < end:
        begin, at = _opaque(data, at, end, 3)
        if begin == at:
            return _NONE, _NONE
        number = _issuer(data, begin, at, issuers, frames.issuers)
        if number == MOST_ISSUERS:
            return _NONE, _NONE
        issuers = max(issuers, number + 1)
        frames.chain[chained] = number
        chained += 1
    frames.chain_offsets[row + 1] = chained
    return chained, issuers
