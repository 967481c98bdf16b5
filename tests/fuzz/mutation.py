"""Damage, of every kind that decoders are known to stumble over, and always the same for the same `Random`."""

import base64
import copy
import json
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

LARGEST = 1 << 18
"""Bytes of an input at the most, unless its seed has more."""

_NUMBERS = (
    *(0, 1, 2, 3, 0x7F, 0x80, 0x81, 0x82, 0x84, 0xFE, 0xFF),
    *(0x7FFF, 0x8000, 0xFFFF, 0xFFFFFF, 1 << 31, (1 << 64) - 1),
)
_WIDTHS = (1, 1, 2, 3, 4, 8)

# An identifier octet that certificates have, and a length after it.
_IDENTIFIER = re.compile(rb"[\x02-\x06\x0c\x13\x17\x18\x30\x31\x82\xa0\xa3](?=.)", re.DOTALL)

_NESTS = (b"\x30\x80", b"\xa0\x80", b"\x31\x82\xff\xff", b"\x24\x80", b"[", b'{"a":', b"- ", b"? ", b"\x00\x00")

_VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 255, 1 << 31, (1 << 63) - 1, 1 << 63, 1 << 64, 10**400, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), "", "A", "AAAA", "====", "\0", "\ud800", "é", "\u2028", "x" * 5000, [], {}, [[]]),
    *([None], {"": None}, {"entries": []}, [0] * 2000),
)


def mutate(random: Random, seeds: Sequence[bytes], tokens: Sequence[bytes] = (), *, is_json: bool = False) -> bytes:
    """Return a seed with one to eight changes.

    Parameters
    ----------
    tokens
        Words of the format, which are put in now and then.
    is_json
        Whether seeds are JSON texts: then half of the inputs are, too, and differ in structure, values, or the bytes
        that their base64 texts stand for.
    """
    data = bytearray(random.choice(seeds))
    if is_json and random.random() < 0.5:
        return _mutate_json(random, bytes(data))
    for _ in range(min(8, 1 + int(random.expovariate(0.7)))):
        if tokens and random.random() < 0.4:
            at = _position(random, data)
            data[at : at + random.choice((0, 0, 1, 8))] = random.choice(tokens)
        else:
            random.choice(_CHANGES)(random, data, seeds)
    return bytes(data[:LARGEST]) if len(data) > LARGEST and len(data) > max(map(len, seeds)) else bytes(data)


def _position(random: Random, data: bytearray) -> int:
    """Return a position, often near the beginning or the end, where the structure of most formats is."""
    where = random.random()
    near = min(len(data), 64)
    if where < 0.4:
        return random.randrange(near + 1)
    return random.randrange(len(data) - near if where < 0.55 else 0, len(data) + 1)


def _flip_bit(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        data[min(_position(random, data), len(data) - 1)] ^= 1 << random.randrange(8)


def _set_byte(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        data[min(_position(random, data), len(data) - 1)] = random.randrange(256)


def _set_number(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    at, width = _position(random, data), random.choice(_WIDTHS)
    number = random.choice(_NUMBERS) + random.randrange(-2, 3)
    data[at : at + width] = (number % (1 << 8 * width)).to_bytes(width)


def _set_der_length(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    """Change the length of an element, found by the identifier octet of a likely one."""
    start = _position(random, data)
    place = _IDENTIFIER.search(data, start) or _IDENTIFIER.search(data)
    if not place:
        return
    at = place.end()
    form = random.randrange(4)
    if form == 0:
        data[at] = (data[at] + random.choice((-2, -1, 1, 2))) % 256
    elif form == 1:
        data[at] = random.choice((0, 1, 0x7F, 0x80, 0x81, 0x82, 0x84, 0xFE, 0xFF))
    elif form == 2:  # the same length, in more octets than it needs
        data[at : at + 1] = b"\x84\0\0\0" + data[at : at + 1]
    else:  # indefinite, and the end of the contents somewhere
        data[at] = 0x80
        end = random.randrange(at, len(data) + 1)
        data[end:end] = b"\0\0"


def _truncate(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    del data[_position(random, data) :]


def _insert(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = _position(random, data)
    data[at:at] = random.randbytes(random.choice((1, 2, 3, 4, 16, 64)))


def _delete(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = _position(random, data)
    del data[at : at + random.choice((1, 2, 3, 4, 16, 64, 1024))]


def _duplicate(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    start, at = _position(random, data), _position(random, data)
    piece = bytes(data[start : start + random.choice((1, 2, 8, 32, 128, 2048))])
    data[at:at] = piece * min(random.choice((1, 1, 2, 3, 100)), LARGEST // (len(piece) + 1))


def _splice(random: Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    other = random.choice(seeds)
    start = random.randrange(len(other) + 1)
    end = random.choice((len(other), min(len(other), start + random.randrange(300))))
    at = _position(random, data)
    data[at : random.choice((at, at + end - start, len(data)))] = other[start:end]


def _nest(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = _position(random, data)
    data[at:at] = random.choice(_NESTS) * random.choice((2, 10, 100, 1000, 20_000))


def _replace(random: Random, data: bytearray, _: Sequence[bytes]) -> None:
    """Leave nothing of the seed; rarely, because little comes of it."""
    if random.random() < 0.1:
        data[:] = random.randbytes(random.choice((0, 1, 2, 10, 100)))


Change = Callable[[Random, bytearray, Sequence[bytes]], None]
_CHANGES: tuple[Change, ...] = (
    *(_flip_bit, _flip_bit, _set_byte, _set_byte, _set_number, _set_number, _set_der_length, _set_der_length),
    *(_truncate, _insert, _delete, _duplicate, _splice, _nest, _replace),
)


def _mutate_json(random: Random, seed: bytes) -> bytes:
    value = json.loads(seed)
    for _ in range(random.choice((1, 1, 2, 4))):
        value = _change_within(random, value)
    data = json.dumps(value, ensure_ascii=random.random() < 0.9).encode("utf-8", "surrogatepass")
    return data if random.random() < 0.98 else data.decode("utf-8", "surrogatepass").encode("utf-16", "surrogatepass")


def _change_within(random: Random, value: Any) -> Any:
    """Return the value with something changed at its top, or below."""
    if isinstance(value, dict | list) and value and random.random() < 0.85:
        places = list(value) if isinstance(value, dict) else range(len(value))
        at = random.choice(places)
        what = random.randrange(12)
        if what == 0:
            del value[at]
        elif what == 1 and isinstance(value, dict):
            value[random.choice(("", "a", "entries", "logs", "key", "\ud800", at + "x"))] = value.pop(at)
        elif what == 1:
            short = isinstance(value[at], str | int | float | None) and len(str(value[at])) < 1000
            value[at:at] = [value[at]] * random.choice((1, 2, 300 if short else 1))
        else:
            value[at] = _change_within(random, value[at])
        return value
    if isinstance(value, str) and random.random() < 0.8:
        return _mutate_text(random, value)
    if type(value) is int and random.random() < 0.5:
        return value + random.choice((-1, 1, 1 << 32, -value * 2))
    nested = value
    if random.random() < 0.1:
        for _ in range(random.choice((10, 150))):
            nested = [nested] if random.random() < 0.5 else {"a": nested}
        return nested
    return copy.deepcopy(random.choice(_VALUES))


def _mutate_text(random: Random, text: str) -> str:
    """Change the bytes that a base64 text stands for, as a rule, and the text itself otherwise."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        data = b""
    if len(data) > 8 and random.random() < 0.9:
        return base64.b64encode(mutate(random, [data])).decode()
    return mutate(random, [text.encode("utf-8", "surrogatepass")]).decode("utf-8", "replace")
