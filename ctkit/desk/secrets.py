"""What looks like a secret, and goes into no record."""

import re

_KEY = re.compile(r"passw|secret|token|credential|(api|access|private|account)_?key|connection_string", re.I)
_LOGIN = re.compile(r"://[^/\s@]+:[^/\s@]+@")
_VALUE = re.compile(rf"{_LOGIN.pattern}|-----BEGIN [A-Z ]*PRIVATE KEY", re.I)


def is_secret(key: str, value: object) -> bool:
    """Return whether a parameter looks like a secret, by its name or its value.

    Examples
    --------
    >>> is_secret("api_key", "x"), is_secret("log_list", "https://me:word@a.example/list.json"), is_secret("last", 5)
    (True, True, False)
    """
    return bool(_KEY.search(key) or _VALUE.search(str(value)))


def without_logins(text: str) -> str:
    """Return text without the names and passwords of the URLs in it.

    Examples
    --------
    >>> without_logins("https://me:word@a.example/list.json: no answer")
    'https://...@a.example/list.json: no answer'
    """
    return _LOGIN.sub("://...@", text)
