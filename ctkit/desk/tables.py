"""Tables on a terminal: in columns where they fit, else a few lines for each row; nothing is cut off."""

from collections.abc import Mapping, Sequence
from numbers import Number

from rich.cells import cell_len, chop_cells
from rich.text import Text

from ctkit.report import Frame, cell_text
from ctkit.visible import visible

_BETWEEN = "  "

_LONGEST = 1_000
"""Characters of a cell that a terminal shows; --json has them all."""

_GOOD, _BAD = ("complete", "running"), ("incomplete", "contradicted", "failed", "died", "not known")


def draw_table(table: Frame, width: int) -> Text:
    """Return a table as text of at most `width` columns.

    Where a row does not fit, its first cell is a line, and the others follow as ``name=value``.

    Examples
    --------
    >>> from ctkit.report import frame_of
    >>> print(draw_table(frame_of([{"log": "Argon", "held": 12000, "missing": 0}]), 80))
    log      held  missing
    Argon  12,000        0
    >>> print(draw_table(frame_of([{"log": "Argon", "held": 12000, "missing": 0}]), 16))
    Argon
      held=12,000
      missing=0
    """
    names = [visible(str(name)) for name in table.columns]
    rows = [list(map(_shortened, row)) for row in table.itertuples(index=False, name=None)]
    widths = [max(map(cell_len, column)) for column in zip(names, *rows, strict=True)]
    if sum(widths) + len(_BETWEEN) * (len(widths) - 1) > width:
        return Text("\n").join(_block(names, row, width) for row in rows)
    columns = zip(zip(*rows, strict=True), zip(*table.itertuples(index=False, name=None), strict=True), strict=True)
    right = [all(not cell or isinstance(value, Number) for cell, value in zip(*each, strict=True)) for each in columns]
    right = right or [False] * len(names)
    lines = [_line(names, widths, right, style="bold"), *(_line(row, widths, right) for row in rows)]
    return Text("\n").join(lines)


def with_names(table: Frame, names: Mapping[str, str | None]) -> Frame:
    """Return a table with the names of logs in place of their URLs, which are its last column then.

    Examples
    --------
    >>> from ctkit.report import frame_of
    >>> table = frame_of([{"log": "https://a.example", "missing": 0}, {"log": "https://b.example", "missing": 5}])
    >>> print(draw_table(with_names(table, {"https://a.example": "Argon"}), 80))
    log                missing  url
    Argon                    0  https://a.example
    https://b.example        5  https://b.example
    """
    if "log" not in table or not any(names.get(url) for url in table["log"]):
        return table
    return table.assign(log=[names.get(url) or url for url in table["log"]], url=table["log"])


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool], style: str = "") -> Text:
    line = Text()
    for number, (cell, width, is_number) in enumerate(zip(cells, widths, right, strict=True)):
        blank = " " * (width - cell_len(cell))
        last = number == len(cells) - 1
        line.append(blank + cell if is_number else cell if last else cell + blank, style or _style_of(cell))
        line.append("" if last else _BETWEEN)
    line.rstrip()
    return line


def _block(names: Sequence[str], row: Sequence[str], width: int) -> Text:
    block = Text("\n").join(Text(line, "bold") for line in chop_cells(row[0], width) or [""])
    taken = width
    for name, cell in zip(names[1:], row[1:], strict=True):
        if not cell:
            continue
        fact = f"{name}={cell}"
        if taken + len(_BETWEEN) + cell_len(fact) > width:
            block.append("\n")
            taken = 0
        lines = _wrapped(fact, width - len(_BETWEEN))
        for number, line in enumerate(lines):
            block.append(f"\n{_BETWEEN}" if number else _BETWEEN)
            block.append(line, _style_of(cell))
        taken += len(_BETWEEN) + cell_len(lines[-1])
    return block


def _wrapped(text: str, width: int) -> list[str]:
    """Return a text in lines that fit, broken at blanks, or anywhere where there are none."""
    lines, line = [], ""
    for word in text.split(" "):
        if line and cell_len(f"{line} {word}") > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
        *full, line = chop_cells(line, width) or [""]
        lines += full
    return [*lines, line]


def _shortened(value: object) -> str:
    text = cell_text(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text):,} characters)"


def _style_of(cell: str) -> str:
    return "green" if cell in _GOOD else "red" if cell in _BAD else ""
