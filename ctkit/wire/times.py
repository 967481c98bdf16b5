"""Times in certificates."""

import re
from datetime import datetime

from ctkit.wire.der import Element

_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18


# Time ::= CHOICE {
#      utcTime        UTCTime,
#      generalTime    GeneralizedTime }
#
# RFC 5280, section 4.1.2.5, requires YYMMDDHHMMSSZ and YYYYMMDDHHMMSSZ. X.680 also allows times without seconds or with
# fractions of them, and the offset of a time zone instead of Z; such certificates exist.
_TIME_FORMS = {
    _UTC_TIME: rb"(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)?(?:Z|([+-])(\d\d)(\d\d))",
    _GENERALIZED_TIME: rb"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(?:(\d\d)(?:\.\d+)?)?(?:Z|([+-])(\d\d)(\d\d))",
}
_TIMES = {tag: re.compile(form) for tag, form in _TIME_FORMS.items()}
_EPOCH = datetime(1970, 1, 1)


def read_time(der: bytes, element: Element) -> int:
    """Return an element, given as identifier octet and range, in seconds since the Unix epoch; 0 if it is not a time.

    Examples
    --------
    >>> read_time(b"00000101000000Z", (0x18, 0, 15))
    -62167219200
    """
    tag, start, stop = element
    match = _TIMES[tag].fullmatch(der, start, stop) if tag in _TIMES else None
    if match is None:
        return 0
    year, month, day, hour, minute, second = map(int, match.groups("0")[:6])
    if tag == _UTC_TIME:
        year += 1900 if year >= 50 else 2000
    # datetime has no year 0; the calendar repeats after 400 years.
    cycles = 0 if year else 1
    try:
        since_epoch = datetime(year + 400 * cycles, month, day, hour, minute, second) - _EPOCH
    except ValueError:
        return 0
    seconds = (since_epoch.days - 146_097 * cycles) * 86_400 + since_epoch.seconds
    if match[7]:
        ahead = int(match[8]) * 3600 + int(match[9]) * 60
        seconds -= ahead if match[7] == b"+" else -ahead
    return seconds
