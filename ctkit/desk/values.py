"""The kinds of values that parameters have, beside those that Python arguments have too (`ctkit.arguments`)."""

import os
import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, StringConstraints

from ctkit.arguments import check_header, shown
from ctkit.paths import local_path

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


def _as_text(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _check_path(value: object) -> str:
    # Not pydantic's text, which refuses the surrogates that stand for bytes that are not UTF-8.
    text = _as_text(value)
    # Spaces at either end are part of the name; a NUL never is.
    if not isinstance(text, str) or not text.strip() or "\0" in local_path(text):
        raise ValueError(f"it should be a path, but is {shown(value)}")
    return text


TablePath = Annotated[str, PlainValidator(_check_path)]
FilePath = Annotated[str, PlainValidator(lambda value: local_path(_check_path(value)))]


def _check_url(url: str) -> str:
    # Imported here, because `ctkit --help` does not need httpx and pyarrow.
    from ctkit.urls import canonical_url, host_of

    if not _LOG_URL.fullmatch(url):
        raise ValueError(f"{shown(url)} is not the URL of a log: give one like https://log.example/2026h2")
    host_of(canonical_url(url))
    return url


# The host may be an IPv6 address in brackets (RFC 3986, section 3.2.2).
_LOG_URL = re.compile(r"(https?://)?(\[[0-9A-Fa-f:.]+\]|[^:/\s]+)(:\d+)?(/\S*)?")

LogUrl = Annotated[Text, AfterValidator(_check_url)]
UserAgent = Annotated[Text, AfterValidator(check_header)]


def _read_key(key: object) -> bytes:
    from ctkit.wire.signatures import read_key

    return read_key(key)


LogKey = Annotated[bytes, BeforeValidator(_read_key)]


Texts = Annotated[tuple[Text, ...], Field(strict=False)]
"""A list, as YAML has it."""
