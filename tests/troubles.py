"""Troubles that are over some time: knobs of logs, and what stops a run."""

import itertools
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import pytest
from fakes import FakeLog

from ctkit.demo.embedded import Request
from ctkit.errors import TableError
from ctkit.jobs.progress import Progress
from ctkit.lake import write

EVER = 1 << 30

KNOBS: list[dict[str, Any]] = [
    {"page_size": 20},
    {"page_alignment": 32},
    {"surplus": 7},
    {"too_many": 20},
    {"too_many": 0, "too_many_status": 403},
    {"busy": [429, 503, 429]},
    {"busy": [429, 429], "busy_body": b"<p>Slowly", "retry_after": "0.01"},
    {"busy": [502, 504, 500, 500, 500]},
    {"always": 429},
    {"always": 500, "busy_body": b""},
    {"limit": (4, 0.02)},
    {"limit": (3, 0.05), "limit_names_a_time": True},
    {"html_bodies": 2},
    {"html_bodies": EVER},
    {"cut_bodies": 2},
    {"cut_bodies": EVER, "packs_pages": True},
    {"broken_bodies": 2},
    {"broken_bodies": EVER},
    {"empty_pages": 3},
    {"empty_pages": EVER},
    {"redirect": "http://elsewhere.example/"},
    {"grow_by": 3},
    {"lag": 50},
    {"data_lag": 50},
    {"data_lag": 90, "tip_status": 500},
    {"missing_tiles": {0}},
    {"missing_full_tiles": {0, 1}},
    {"missing_partial_tiles": True},
    {"broken_leaves": {3, 40, 41, 200}},
    {"absent": {"ct/v1/get-proof-by-hash"}},
    {"absent": {"ct/v1/get-proof-by-hash", "ct/v1/get-entry-and-proof", "tile/0/000", "tile/0/000.p/256"}},
    {"absent": {"checkpoint", "ct/v1/get-sth"}},
    {"issuer_status": 500},
    {"wrong_issuers": True},
    {"latency": 0.02},
    {"down": True},
]
"""What is over as soon as the knobs are as they were. An issuer that is gone (404) is not: it stays out of the rows."""

STOPS = {"after commit": KeyboardInterrupt, "at request": KeyboardInterrupt, "disk full at commit": TableError}
"""What can stop a backfill, and what it raises then."""


class TroubledLog(FakeLog):
    """A log whose knobs are turned back together."""

    def __init__(self, name: str, size: int, **options: Any) -> None:
        super().__init__(name, size, **options)
        self._well = {name: deepcopy(vars(self)[name]) for knobs in KNOBS for name in knobs}

    def misbehave(self, knobs: dict[str, Any]) -> None:
        """Turn some more knobs."""
        issuer = min(self.issuers)
        of_issuer = {"issuer_status": {issuer: 500}, "wrong_issuers": {issuer}}
        vars(self).update(deepcopy({name: of_issuer.get(name, value) for name, value in knobs.items()}))

    def behave(self) -> None:
        """Turn all knobs back."""
        vars(self).update(deepcopy(self._well))


def interrupt() -> None:
    """Press Ctrl+C."""
    raise KeyboardInterrupt


def first_call(patch: pytest.MonkeyPatch, owner: Any, name: str, happens: Callable[[], None]) -> None:
    """Let something happen just before a function is called for the first time."""
    function, calls = getattr(owner, name), itertools.count()

    def call(*arguments: Any, **options: Any) -> Any:
        if next(calls) == 0:
            happens()
        return function(*arguments, **options)

    patch.setattr(owner, name, call)


@contextmanager
def stopping(stop: tuple[str, int] | None, fakes: Sequence[TroubledLog]) -> Iterator[Callable[[Progress], None]]:
    """Stop a backfill: after a commit, at a request, or by a disk that is full; yield its `on_progress`."""
    (how, at), written = stop or ("", 0), 0
    count = itertools.count(1)
    main_thread = threading.main_thread().ident
    assert main_thread is not None

    def count_commit(progress: Progress) -> None:
        nonlocal written
        if how == "after commit" and progress.written > written:
            written = progress.written
            if next(count) == at:
                raise KeyboardInterrupt

    def count_request(_: Request) -> None:
        if next(count) == at:
            signal.pthread_kill(main_thread, signal.SIGINT)

    def count_files(*arguments: Any) -> Any:
        if next(count) == at:
            raise OSError(28, "No space left on device")
        return write_files(*arguments)

    write_files = write.write_files
    with pytest.MonkeyPatch.context() as patch:
        if how == "at request":
            for fake in fakes:
                patch.setattr(fake, "on_request", count_request)
        if how == "disk full at commit":
            patch.setattr(write, "write_files", count_files)
        yield count_commit
