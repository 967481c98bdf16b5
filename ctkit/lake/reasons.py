"""What libraries say in their errors, in one line."""

import re

_NO_LINKS = re.compile(r"Unable to rename file: .*\(os error (1|38|95)\)")
"""What deltalake says where the file system has no hard links, with which it commits: EPERM, ENOSYS, EOPNOTSUPP."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def first_line(error: Exception) -> str:
    r"""Return the first line of an error's message, without the colours that deltalake puts into it.

    The causes that deltalake puts below that line are part of it.

    Examples
    --------
    >>> first_line(OSError("Generic error\n \x1b[31m↳\x1b[0m Permission denied\n"))
    'Generic error: Permission denied'
    """
    line, *more = (_COLOUR.sub("", str(error)).strip() or type(error).__name__).splitlines()
    told = ": ".join([line, *(cause[1:].strip() for cause in map(str.strip, more) if cause.startswith("↳"))])
    return f"{told}: deltalake needs a file system with hard links" if _NO_LINKS.search(told) else told
