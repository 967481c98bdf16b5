"""URLs of logs."""

import re

from ctkit.errors import ParameterError


def canonical_url(url: str) -> str:
    """Return the form of a log's URL that is stored as ``source_url``.

    ``https://`` is put before a URL without a scheme and every trailing slash is dropped. Nothing is lower-cased:
    the live server does not, and the column is compared byte by byte.

    Raises
    ------
    ParameterError
        There is nothing but white space, slashes or a scheme, or there is a lone surrogate.

    Examples
    --------
    >>> canonical_url("ct.example.com/2026h2//")
    'https://ct.example.com/2026h2'
    >>> canonical_url(" https://ct.example.com/2026h2 / ")
    'https://ct.example.com/2026h2'
    """
    given, url = url, url.strip()
    if not url.startswith(("http://", "https://")):
        url = f"https://{url}"
    # Spaces between the slashes go too: a canonical URL must not change again.
    end = len(url)
    while url[end - 1 : end] == "/" or url[end - 1 : end].isspace():
        end -= 1
    # No table and no request can carry a lone surrogate.
    if url[:end] in ("http:", "https:") or re.search("[\ud800-\udfff]", url):
        raise ParameterError(f"{given!r} is not the URL of a log: give one like https://log.example/2026h2")
    return url[:end]


def host_of(url: str) -> str:
    """Return the host that requests to a URL go to.

    Raises
    ------
    ParameterError
        No request can be sent to `url`.

    Examples
    --------
    >>> host_of("http://[::1]:8080/log")
    '::1'
    """
    try:
        host, port = _host_and_port(url)
        host.encode("idna")  # as the resolver will: a label may not be empty or too long
    except ValueError as error:
        raise ParameterError(f"{url!r} is not a URL ({error}): correct it") from error
    if not host or port >= 1 << 16:  # a socket would take the port modulo 2**16
        raise ParameterError(
            f"{url!r} names no host, or a port above 65535: give a URL like https://log.example/2026h2"
        )
    return host


def _host_and_port(url: str) -> tuple[str, int]:
    if plain := _PLAIN.fullmatch(url):
        return plain["host"].lower(), int(plain["port"] or 0)
    # Whatever is odd is left to httpx, which takes a while to import.
    import httpx

    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(error) from error
    return parts.host, parts.port or 0


_NUMBER = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_PLAIN = re.compile(
    rf"https?://(?P<host>({_NUMBER}\.){{3}}{_NUMBER}|[A-Za-z0-9.-]*[A-Za-z])(:(?P<port>[0-9]{{1,5}}))?(/[!-~]*)?"
)
"""A URL whose host is a name that does not end in a digit, or an IPv4 address."""
