"""Paths on this machine, bare or as ``file://`` URIs."""

import re
from urllib.parse import unquote

# RFC 8089, sections 2 and 3: the host is empty or localhost, and file:/path is a shorter form of file:///path.
_FILE_URI = re.compile(r"file:(//(localhost(?=/))?|(?=/))", re.IGNORECASE)


def local_path(text: str) -> str:
    """Return the path that a text names: the text itself, or the decoded path of a ``file://`` URI.

    As in the live server's configuration, a URI may hold a relative path: ``file://./data/main``.

    Examples
    --------
    >>> local_path("file://localhost/srv/my%20state.json"), local_path("file://./data"), local_path("a%20b")
    ('/srv/my state.json', './data', 'a%20b')
    """
    uri = _FILE_URI.match(text)
    # Bytes that are not UTF-8 are decoded as Python decodes file names.
    return unquote(text[uri.end() :], errors="surrogateescape") if uri else text
