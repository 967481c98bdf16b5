"""Whether the compiled readers and the others, which know every oddity, read the same."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from blocks import block_of

from ctkit.errors import LogProtocolError
from ctkit.wire.entries import EntryBlock, _decode_any_page, _decode_any_tile, decode_data_tile, decode_get_entries
from ctkit.wire.fields import SIGNATURE_ALGORITHMS, _read_fields, read_fields
from ctkit.wire.framing import read_page, read_tile
from ctkit.wire.kernels import read_certificates
from ctkit.wire.merkle import TILE_WIDTH

URL = "https://log.example"


def understood(ders: Sequence[bytes]) -> list[bool]:
    """Return for each certificate whether the kernel reads it."""
    block = block_of(ders)
    return read_certificates(block.data, block.certificate, list(SIGNATURE_ALGORITHMS)).understood.tolist()


def differing_certificates(ders: Sequence[bytes]) -> list[tuple[str, str, Any, Any]]:
    """Return hex, column, value and the slow reader's value, wherever these differ; types of Arrow must hold, too."""
    columns = read_fields(block_of(ders))
    for column in columns.values():
        column.validate(full=True)
    slow = _read_fields(list(ders))
    assert columns.keys() == slow.keys()
    return [
        (ders[row].hex(), name, found, expected)
        for name, column in columns.items()
        for row, (found, expected) in enumerate(zip(column.to_pylist(), slow[name], strict=True))
        if found != expected
    ]


Outcome = dict[str, Any] | tuple[Any, ...]


def _content(block: EntryBlock) -> dict[str, Any]:
    """Return the attributes of a block, arrays with their types and shapes."""
    values = {field.name: getattr(block, field.name) for field in fields(block)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    return values | {name: (value.dtype, value.shape, value.tolist()) for name, value in arrays.items()}


def _outcome(decode: Callable[[], tuple[EntryBlock, tuple[bytes, ...]]]) -> Outcome:
    try:
        block, fingerprints = decode()
    except LogProtocolError as error:
        return str(error), error.url, error.start, error.end
    return _content(block) | {"fingerprints": fingerprints}


def page_outcomes(body: bytes, start: int, limit: int) -> tuple[bool, Outcome, Outcome]:
    """Return whether the kernel reads a page; what comes of the page; what comes of it without kernel."""
    ours = _outcome(lambda: (decode_get_entries(body, start, URL, limit), ()))
    slow = _outcome(lambda: (_decode_any_page(body, start, URL, limit), ()))
    return read_page(body, start, limit) is not None, ours, slow


def tile_outcomes(data: bytes, start: int, end: int) -> tuple[bool, Outcome, Outcome]:
    """Return the same of the entries ``[start, end)`` of a tile."""
    ours = _outcome(lambda: decode_data_tile(data, start, end, URL))
    slow = _outcome(lambda: _decode_any_tile(data, start, end, URL))
    return read_tile(data, start, end, TILE_WIDTH) is not None, ours, slow
