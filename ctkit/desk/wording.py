"""Numbers in words, the same in widgets, pictures and terminals."""

import math
from datetime import timedelta


def in_bytes(count: float) -> str:
    """Return a number of bytes in decimal units.

    Examples
    --------
    >>> in_bytes(860), in_bytes(1_720_000), in_bytes(7.1e14)
    ('1 kB', '1.7 MB', '710.0 TB')
    """
    count, unit = max(count / 1000, 1.0), "kB"
    for larger in ("MB", "GB", "TB"):
        if count < 1000:
            break
        count, unit = count / 1000, larger
    return f"{count:,.0f} {unit}" if unit == "kB" else f"{count:,.1f} {unit}"


def in_time(seconds: float) -> str:
    """Return a duration, rounded up to whole seconds.

    Examples
    --------
    >>> in_time(0.2), in_time(90), in_time(200_000)
    ('1 s', '0:01:30', '2 days, 7:33:20')
    """
    # A log can claim more entries than a timedelta can count seconds for.
    whole = math.ceil(min(seconds, 1e13))
    return f"{whole} s" if whole < 60 else str(timedelta(seconds=whole))


def in_percent(part: int, whole: int) -> str:
    """Return a share; only nothing is 0 %, and only everything is 100 %.

    Examples
    --------
    >>> in_percent(1, 1_000_000), in_percent(360, 1000), in_percent(999_999, 1_000_000), in_percent(0, 0)
    ('< 0.1 %', '36.0 %', '> 99.9 %', '0 %')
    """
    if not part:
        return "0 %"
    if part == whole:
        return "100 %"
    percent = 100 * part / whole
    return "< 0.1 %" if percent < 0.1 else "> 99.9 %" if percent > 99.9 else f"{percent:.1f} %"


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with what it counts.

    Examples
    --------
    >>> counted(1, "log"), counted(1_328, "entry", "entries")
    ('1 log', '1,328 entries')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
