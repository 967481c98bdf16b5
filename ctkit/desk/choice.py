"""A choice of gaps as text, which travels: from a widget to a parameter file, a flag or a colleague."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from ctkit.arguments import did_you_mean, shown
from ctkit.desk.log_filter import matches, read_filter
from ctkit.errors import ParameterError
from ctkit.visible import first_of

# Read before the slow modules, as parameters are.
if TYPE_CHECKING:
    import pyarrow as pa

    from ctkit.ranges import RangeSet

_NUMBER = r"\d(?:_?\d)*"
_RANGE = rf"(?:{_NUMBER}\s*-\s*(?:{_NUMBER})?|-\s*{_NUMBER})"
_LOG = re.compile(rf"(.+?)\s*:\s*({_RANGE}(?:\s*,\s*{_RANGE})*)", re.DOTALL)
_SIZE = re.compile(rf"size\s*(>=|<=|==?|>|<)\s*({_NUMBER})", re.IGNORECASE)

_HINT = "write a choice like 'argon: 3600-4801, 9000-; willow; size>=2'"
_NAMED = 8
"""Logs that a message lists."""


@dataclass(frozen=True)
class ChosenLog:
    """A log of a choice.

    Attributes
    ----------
    text
        Its name, its URL, or a part of either that no other log has, as in the parameter `log_filter`.
    ranges
        The indices ``[start, end)`` to choose from, None as end for all from `start` on; empty for the whole log.
    """

    text: str
    ranges: tuple[tuple[int, int | None], ...] = ()

    def __str__(self) -> str:
        ranges = ", ".join(f"{start}-{'' if end is None else end}" for start, end in self.ranges)
        return f"{self.text}: {ranges}" if ranges else self.text


@dataclass(frozen=True)
class GapChoice:
    """Which gaps are chosen: by log, index and size.

    As text, a choice is a list of conditions with semicolons between them, in any order:

    - ``NAME`` chooses all gaps of a log, and ``NAME: RANGES`` those within ranges of indices. Of several logs, the gaps
      of each are chosen; if no log is named, those of all. A name is looked for in names and URLs, in any case, as in
      the parameter `log_filter`; it must fit one log.
    - Ranges have commas between them. ``3600-4801`` are the indices from 3600 on, before 4801; ``9000-`` and ``-4801``
      are open at one end. A gap that reaches beyond a range is cut there.
    - ``size>=N``, ``size>N``, ``size<=N``, ``size<N`` and ``size=N`` choose gaps by the entries that are missing in the
      whole gap.
    - ``all``, or an empty text, chooses everything, ``none`` nothing.

    Attributes
    ----------
    logs
        The logs to choose from; None for all.
    smallest, largest
        Fewest and most missing entries of a chosen gap.

    Raises
    ------
    ParameterError
        No gap is as large as `smallest` and as small as `largest`.

    Examples
    --------
    >>> choice = GapChoice.parse("argon: 3600-4801, 9000-; willow; size>=2")
    >>> choice.logs[0].ranges, choice.smallest
    (((3600, 4801), (9000, None)), 2)
    >>> str(choice)
    'argon: 3600-4801, 9000-; willow; size>=2'
    """

    logs: tuple[ChosenLog, ...] | None = None
    smallest: int = 1
    largest: int | None = None

    def __post_init__(self) -> None:
        if self.largest is not None and self.smallest > self.largest:
            raise _error(f"no gap has at least {self.smallest} and at most {self.largest} entries; correct the sizes")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the choice that a text says.

        Raises
        ------
        ParameterError
            It is no choice, or a range or size of it can have nothing.
        """
        parts = [part for part in map(str.strip, text.split(";")) if part]
        logs, sizes = [], []
        for part in parts:
            if size := _SIZE.fullmatch(part):
                sign, number = size[1], _index(size[2], part)
                sizes.append({">": (">=", number + 1), "<": ("<=", number - 1)}.get(sign, (sign, number)))
            elif part.casefold() not in ("all", "none"):
                logs.append(_read_log(part))
            elif len(parts) > 1:
                raise _error(f"{shown(part)} stands for itself; leave out the rest, or leave it out")
        smallest = max([1, *(size for sign, size in sizes if sign != "<=")])
        largest = min((size for sign, size in sizes if sign != ">="), default=None)
        nothing = [part.casefold() for part in parts] == ["none"]
        return cls(tuple(logs) if logs or nothing else None, smallest, largest)

    def __str__(self) -> str:
        if self.logs == ():
            return "none"
        sizes = [f"size>={self.smallest}"] if self.smallest > 1 else []
        if self.largest is not None:
            sizes = [f"size={self.largest}"] if self.smallest == self.largest else [*sizes, f"size<={self.largest}"]
        return "; ".join([*map(str, self.logs or ()), *sizes]) or "all"

    def resolve(self, names: Mapping[str, str | None]) -> "dict[str, RangeSet]":
        """Return the indices that are chosen from each log.

        Parameters
        ----------
        names
            URL -> name, of all logs that there are; None for one without.

        Raises
        ------
        ParameterError
            A text fits no log, or several.
        """
        from ctkit.ranges import LARGEST_TREE, RangeSet

        if self.logs is None:
            return dict.fromkeys(names, RangeSet.of((0, LARGEST_TREE)))
        found: dict[str, list[RangeSet]] = {}
        for log in self.logs:
            ranges = log.ranges or ((0, None),)
            chosen = RangeSet.of(*((start, LARGEST_TREE if end is None else end) for start, end in ranges))
            found.setdefault(_find_log(log.text, names), []).append(chosen)
        return {url: RangeSet.joined(sets) for url, sets in found.items()}

    def apply(self, gaps: "pa.Table", names: Mapping[str, str | None]) -> "pa.Table":
        """Return the chosen gaps.

        Parameters
        ----------
        gaps
            As `ctkit.find_gaps` returns them.
        names
            As for `resolve`; logs that only `gaps` names count, too.

        Raises
        ------
        ParameterError
            As for `resolve`.
        """
        from ctkit.lake.gaps import gaps_of, ranges_by_log

        return gaps if self == GapChoice() else gaps_of(self.choose(ranges_by_log(gaps), names), gaps.schema.metadata)

    def choose(self, missing: "Mapping[str, RangeSet]", names: Mapping[str, str | None]) -> "dict[str, RangeSet]":
        """Return the chosen gaps of each log that has any, from those that `ctkit.lake.gaps.ranges_by_log` returns.

        Raises
        ------
        ParameterError
            As for `resolve`.
        """
        from ctkit.ranges import RangeSet

        chosen = self.resolve({**dict.fromkeys(missing), **names})
        found = {}
        for url in sorted(missing.keys() & chosen.keys()):
            gaps = self._of_size(missing[url])
            # Each range by itself: nothing is copied of what lies within one.
            found[url] = RangeSet.joined([gaps.between(part.start, part.end) for part in chosen[url]])
        return {url: ranges for url, ranges in found.items() if len(ranges)}

    def _of_size(self, gaps: "RangeSet") -> "RangeSet":
        if self.smallest == 1 and self.largest is None:
            return gaps
        sizes = gaps.ends - gaps.starts
        kept = (sizes >= self.smallest) & (True if self.largest is None else sizes <= self.largest)
        return type(gaps)(gaps.starts[kept], gaps.ends[kept])


def check_choice(text: str) -> str:
    """Return the text of a choice, after checking it.

    Raises
    ------
    ParameterError
        As for `GapChoice.parse`.
    """
    GapChoice.parse(text)
    return text


def refuse_choice(text: str | None) -> None:
    """Refuse a choice where everything is to be kept complete.

    Raises
    ------
    ParameterError
        There is one.
    """
    if text is not None:
        raise _error("choice fetches a part of what is missing, which only a backfill does; leave it out, or backfill")


def log_label(url: str, names: Mapping[str, str | None]) -> str:
    """Return the text that chooses a log: its name, if no other log has it and a choice can hold it; else its URL.

    Examples
    --------
    >>> log_label("https://a.example/1", {"https://a.example/1": "Argon", "https://b.example": "Birch"})
    'Argon'
    >>> log_label("https://a.example/1", {"https://a.example/1": "size>=2", "https://b.example": "Birch"})
    'https://a.example/1'
    """
    name = names.get(url)
    try:
        if name and GapChoice.parse(name).logs == (ChosenLog(name),) and _find_log(name, names) == url:
            return name
    except ParameterError:
        pass
    return url


def _read_log(part: str) -> ChosenLog:
    """Return a log, with its ranges if it has any."""
    found = _LOG.fullmatch(part)
    text, ranges = (found[1], found[2].split(",")) if found else (part, [])
    if not found and re.search(r":\s+[\d-]|:\s*$", part):
        raise _error(f"{shown(part)} has no ranges that can be read; {_HINT}")
    try:
        read_filter(text)
    except ValueError as error:
        raise _error(str(error)) from None
    return ChosenLog(text, tuple(_read_range(each, part) for each in ranges))


def _read_range(text: str, part: str) -> tuple[int, int | None]:
    first, last = text.split("-")
    start = _index(first, part) if first.strip() else 0
    end = _index(last, part) if last.strip() else None
    if end is not None and start >= end:
        raise _error(f"{shown(part)}: there is no index from {start} on and before {end}; swap or correct them")
    return start, end


def _index(text: str, part: str) -> int:
    from ctkit.ranges import LARGEST_TREE

    digits = text.strip().replace("_", "").lstrip("0") or "0"
    if len(digits) > 13 or int(digits) > LARGEST_TREE:
        raise _error(f"{shown(part)}: no log has that many entries; give numbers from 0 to {LARGEST_TREE}")
    return int(digits)


def _find_log(text: str, names: Mapping[str, str | None]) -> str:
    """Return the URL of the only log that a text fits; one whose name or URL it is goes before all others."""
    whole = [url for url, name in names.items() if text.casefold() in (url.casefold(), (name or "").casefold())]
    found = whole or [url for url, name in names.items() if matches(text, url=url, name=name, operator=None)]
    if len(found) == 1:
        return found[0]
    known = [f"{name} ({url})" if name else url for url, name in names.items() if not found or url in found]
    if found:
        raise _error(f"{shown(text)} fits {len(found)} logs, {first_of(known, _NAMED)}; give more of a name or URL")
    hint = did_you_mean(text, [name or url for url, name in names.items()])
    raise _error(f"no log is like {shown(text)}; {hint or 'there are ' + first_of(known, _NAMED)}")


def _error(message: str) -> ParameterError:
    return ParameterError(message, keys=("choice",))
