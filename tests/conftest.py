"""Fixtures of the whole suite."""

from collections.abc import Callable, Iterator

import pytest

from ctkit.embedded import EmbeddedLog
from ctkit.server import LogServer


@pytest.fixture
def serve() -> Iterator[Callable[[EmbeddedLog], str]]:
    """Serve logs until the test ends: ``serve(log)`` returns the log's URL."""
    with LogServer() as server:
        yield server.add
