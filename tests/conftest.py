"""Fixtures of the whole suite."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from blocks import LOG
from fakes import AGENT, FAST, FakeLog, Serve
from runbooks import World, make_world

from ctkit.demo.embedded import EmbeddedLog, Request
from ctkit.demo.server import LogServer
from ctkit.logs.log import Log
from ctkit.logs.open import open_log
from ctkit.wire.entries import decode_data_tile, decode_get_entries
from ctkit.wire.extra_data import find_faults
from ctkit.wire.rows import read_rows

# A shell that runs the tests in the background has them ignored, here and in all processes that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# How long an example takes depends on what else the machine does. The gate tries the same examples each time;
# `--hypothesis-profile explore` tries others.
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.register_profile("ctkit", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ctkit")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the suite."""
    parser.addoption("--kills", type=int, default=20, help="random instants at which tests/test_kills.py kills a run")
    parser.addoption("--inputs", type=int, default=10_000, help="damaged inputs that tests/fuzz/ tries in all")
    parser.addoption("--pictures", type=Path, help="folder for what tests/test_browser_*.py have seen")
    parser.addoption("--examples", type=int, default=12, help="histories that tests/test_machine.py tries")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is remembered of tables out of the user's cache, also in processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder below which things are remembered, in a test that looks at it: there is nothing in it."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("CTKIT_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def kills(pytestconfig: pytest.Config) -> int:
    """Return how many random instants are to be tried."""
    return int(pytestconfig.getoption("--kills"))


@pytest.fixture(scope="session")
def inputs(pytestconfig: pytest.Config) -> int:
    """Return how many damaged inputs are to be tried."""
    return int(pytestconfig.getoption("--inputs"))


@pytest.fixture(scope="session")
def examples(pytestconfig: pytest.Config) -> int:
    """Return how many histories are to be tried."""
    return int(pytestconfig.getoption("--examples"))


@pytest.fixture(scope="session")
def pictures(pytestconfig: pytest.Config) -> Path | None:
    """Return where pictures are to be kept; None if they need not be."""
    folder: Path | None = pytestconfig.getoption("--pictures")
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        return folder.absolute()
    return None


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> Iterator[None]:
    """Compile the kernels once, before a process that a test starts has to, and use them however few entries there are.

    Processes that tests start read few entries without them.
    """
    patch = pytest.MonkeyPatch()
    patch.setattr("ctkit.wire.volume.MANY", 0)
    log = FakeLog(size=1)
    block, fingerprints = decode_data_tile(log.read(0, 1)[0].tile_leaf, 0, 1, "")
    block = block.with_issuers(fingerprints, {})
    read_rows(block, LOG, source_name="")
    find_faults(block)
    decode_get_entries(log.respond(Request("ct/v1/get-entries", {"start": "0", "end": "0"})).body, 0, "", 1)
    yield
    patch.undo()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve logs until the test ends: ``serve(log)`` returns the log's URL."""
    logs: list[EmbeddedLog] = []
    with LogServer() as server:

        def add(log: EmbeddedLog) -> str:
            logs.append(log)
            return server.add(log)

        yield add
        for log in logs:
            if isinstance(log, FakeLog):
                log.wake()


@pytest.fixture
def world(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> World:
    """Work in the folder of a small world of two logs, whose main table has holes."""
    monkeypatch.chdir(tmp_path)
    return make_world(tmp_path, serve)


@pytest.fixture
def opened(serve: Serve) -> Iterator[Callable[..., Log]]:
    """Serve and open logs until the test ends: ``opened(log, protocol, **options)`` returns it, with name and key."""
    with ExitStack() as logs:

        def add(log: EmbeddedLog, protocol: str = "auto", **options: Any) -> Log:
            options = {"user_agent": AGENT, "name": log.name, "key": log.public_key, "patience": FAST} | options
            return logs.enter_context(open_log(serve(log), protocol=protocol, **options))

        yield add
