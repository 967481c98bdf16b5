"""Changes after which the framing still holds: other elements in a certificate, another spelling of a page."""

import base64
import json
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from ctkit.wire.der import der

_CONSTRUCTED, _OCTET_STRING = 0x20, 0x04

# Elements that stand where others are expected.
_STRANGE = (
    *(b"", b"\0", b"\1", b"\xff", b"\x80", b"\xc3\xbc", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"a" * 200, b"\0\0\x12"),
    *(b"260310120000Z", b"20260310120000Z", b"500229000000Z", b"20000229235959Z", b"00000101000000Z", b"991231235960Z"),
    *(bytes.fromhex(text) for text in ("550403", "55040a", "551d11", "551d13", "0603550403", "300101ff")),
)
_TAGS = (*range(1, 7), 0x0C, 0x13, 0x17, 0x18, 0x30, 0x31, 0x81, 0x82, 0x86, 0xA0, 0xA1, 0xA3)


def remake_certificate(random: Random, certificates: Sequence[bytes]) -> bytes:
    """Return a certificate of which some elements are others, are repeated, or are gone; all lengths fit."""
    nodes = _parse(random.choice(certificates))
    if nodes is None:
        return random.choice(certificates)
    for _ in range(random.choice((1, 1, 2, 3))):
        parents = [siblings for siblings in _siblings(nodes) if siblings]
        if not parents:
            break
        siblings, other = random.choice(parents), _copy(random.choice(random.choice(parents)))
        at = random.randrange(len(siblings))
        match random.randrange(7):
            case 0:
                del siblings[at]
            case 1:
                again = _copy(siblings[at])
                siblings[at:at] = [again] * (random.choice((1, 1, 2, 12, 140)) if len(again[1]) < 100 else 1)
            case 2:
                siblings.insert(at, other)
            case 3:
                siblings[at] = other
            case 4:
                siblings[at] = (random.choice(_TAGS), siblings[at][1])
            case 5:
                siblings[at] = (siblings[at][0], random.choice(_STRANGE))
            case 6:
                random.shuffle(siblings)
    return _encode(nodes)


_Node = tuple[int, Any]
"""Identifier octet, and contents: bytes, or the nodes that they are."""


def _parse(data: bytes) -> list[_Node] | None:
    """Return the elements that `data` consists of; None if it does not."""
    nodes: list[_Node] = []
    at = 0
    while at + 2 <= len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length >= 0x80:
            octets = length - 0x80
            length, at = int.from_bytes(data[at : at + octets]), at + octets
        contents, at = data[at : at + length], at + length
        inner = _parse(contents) if tag & _CONSTRUCTED or tag == _OCTET_STRING else None
        nodes.append((tag, contents if inner is None else inner))
    return nodes if at == len(data) else None


def _siblings(nodes: list[_Node]) -> Iterator[list[_Node]]:
    yield nodes
    for _, contents in nodes:
        if isinstance(contents, list):
            yield from _siblings(contents)


def _copy(node: _Node) -> _Node:
    """Return an element that has no part in others."""
    tag, contents = node
    return tag, _encode(contents) if isinstance(contents, list) else contents


def _encode(nodes: list[_Node]) -> bytes:
    return b"".join(der(*_copy(node)) for node in nodes)


def flip(random: Random, data: bytes) -> bytes:
    """Return the bytes with up to three bits changed."""
    changed = bytearray(data)
    for _ in range(random.choice((0, 1, 1, 1, 2, 3)) if data else 0):
        changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(changed)


def remake_page(random: Random, pages: Sequence[bytes]) -> bytes:
    """Return a page with few bits of its entries changed, and spelled in one of the ways that JSON and base64 allow."""

    def space() -> str:
        return random.choice(("", "", "", " ", "\n", "\t \r\n", "\v")[: 7 if random.random() < 0.02 else 6])

    def member(name: str, text: str) -> str:
        return f'{space()}"{name}"{space()}:{space()}{text}{space()}'

    odd = random.random()
    entries = []
    for entry in json.loads(random.choice(pages))["entries"]:
        members = []
        for name, text in entry.items():
            data = base64.b64decode(text)
            text = base64.b64encode(flip(random, data) if random.random() < 0.3 else data).decode()
            if odd < 0.1:
                text = _respell(random, text)
            members.append(member(name, f'"{text}"'))
        if 0.1 < odd < 0.2:
            members.reverse()
        if 0.2 < odd < 0.3:
            members.append(random.choice((*members, member("more", "null"), "")))
        entries.append(f"{space()}{{{','.join(members)}}}{space()}")
    if random.random() < 0.1:
        entries = entries * random.choice((0, 2))
    outer = [member("entries", f"[{space()}{','.join(entries)}{space()}]")]
    if 0.3 < odd < 0.4:
        outer.insert(random.randrange(2), random.choice((*outer, member("entries", "[]"), member("more", "{}"))))
    return f"{space()}{{{','.join(outer)}}}{space()}".encode()


def _respell(random: Random, text: str) -> str:
    """Spell a base64 text in another way, which may be a wrong one."""
    end = random.choice(("", "=", "==", "===", "A===", "QQ==", "QR==", "QUI=", "QUJ=", "Q=I=", "QQ", "Q", "QQ==QQ=="))
    return random.choice(
        (
            text.replace("/", "\\/"),
            text.replace("A", "\\u0041", 1),
            text.replace("+", "-").replace("/", "_"),
            text.rstrip("="),
            text + end,
            text[:-4] + end,
            text[:20] + random.choice((" ", "\\n", "=", "é", "\n")) + text[20:],
        )
    )
