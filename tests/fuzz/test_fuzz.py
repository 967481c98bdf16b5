"""Damaged inputs of every decoder: it answers, or raises what it documents, in little time and memory."""

import multiprocessing
import resource
import signal
import time
import traceback
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from types import FrameType
from typing import NamedTuple

import pytest
from mutation import mutate
from targets import Target, make_targets

SECONDS = 1.0
"""Processor time for one input at the most."""

MEMORY, MEMORY_PER_BYTE = 8 << 20, 100
"""Bytes that may be allocated for one input at the most: so many, and so many more for each byte of it."""

_ADDRESS_SPACE = 8 << 30
"""What a process may take to itself that is run because it may crash."""

NAMES = (
    *("certificate", "get_entries", "data_tile", "sth", "checkpoint", "proof", "hash_tile", "log_list", "public_key"),
    *("http", "retry_after", "url", "state", "parameters", "keys"),
)


class HangError(BaseException):
    """An input took more than its time; not an error that a decoder might catch."""


class Outcome(NamedTuple):
    """What came of one input: seconds, bytes that were allocated (0 where nobody looked), and the problem, if any."""

    number: int
    refused: bool
    seconds: float
    peak: int
    problem: str | None


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Target]]:
    """Return all decoders."""
    with make_targets(tmp_path_factory.mktemp("fuzz")) as targets:
        yield targets


def test_decoders_are_all_tried(targets: dict[str, Target]) -> None:
    """Each target has its test."""
    assert set(NAMES) == set(targets)


@pytest.mark.parametrize("name", NAMES)
def test_decoder_when_its_input_is_damaged(name: str, targets: dict[str, Target], inputs: int, tmp_path: Path) -> None:
    """The decoder returns what holds together, or raises what it documents, in bounded time and memory."""
    target = targets[name]
    numbers = range(max(1, inputs * target.share // sum(each.share for each in targets.values())))
    problems: dict[str, str] = {}
    outcomes = []
    for outcome in _try_apart(name, numbers, tmp_path) if target.isolated else _try(name, target, numbers):
        outcomes.append(outcome)
        if outcome.problem and outcome.problem not in problems:
            data = _make_input(name, target, outcome.number)
            path = tmp_path / f"{name}-{outcome.number}"
            path.write_bytes(data)
            problems[outcome.problem] = f"{path} {data[:200].hex()}"
    print(
        f"{name}: {len(outcomes)} inputs in {sum(outcome.seconds for outcome in outcomes):.1f} s,"
        f" {sum(outcome.refused for outcome in outcomes)} refused,"
        f" slowest {max(outcome.seconds for outcome in outcomes):.3f} s,"
        f" most memory {max(outcome.peak for outcome in outcomes) >> 10} KiB"
    )
    assert problems == {}


def _make_input(name: str, target: Target, number: int) -> bytes:
    return mutate(Random(f"{name}/{number}"), target.seeds, target.tokens, is_json=target.is_json)


def _try(name: str, target: Target, numbers: Iterable[int]) -> Iterator[Outcome]:
    """Try inputs one after the other."""
    signal.signal(signal.SIGPROF, _hang)
    for number in numbers:
        data = _make_input(name, target, number)
        # Looking at memory takes as much time as most inputs.
        traced = number % 8 == 0
        if traced:
            tracemalloc.start()
        problem, refused, peak = None, False, 0
        began = time.process_time()
        try:
            signal.setitimer(signal.ITIMER_PROF, SECONDS * (3 if traced else 1))
            try:
                target.read(data)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
        except target.errors:
            refused = True
        except (Exception, HangError) as error:
            problem = _describe(error)
        seconds = time.process_time() - began
        if traced:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            if peak > MEMORY + MEMORY_PER_BYTE * len(data):
                problem = problem or "too much memory"
        yield Outcome(number, refused, seconds, peak, problem)


def _hang(_: int, __: FrameType | None) -> None:
    raise HangError


def _describe(error: BaseException) -> str:
    """Return what happened and where: one text for one kind of problem."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).parent.name in ("ctkit", "fuzz")]
    places = {f"{Path(frame.filename).name}:{frame.lineno}" for frame in (ours[-1], frames[-1])}
    return f"{type(error).__name__} at {', '.join(sorted(places))}"


def _try_apart(name: str, numbers: range, folder: Path) -> Iterator[Outcome]:
    """Try inputs in a process that may crash, and the rest of them in another one if it does."""
    context = multiprocessing.get_context("spawn")
    while numbers:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(name, numbers, folder, theirs))
        process.start()
        theirs.close()
        with ours, suppress(EOFError):
            while numbers and ours.poll(60):
                outcome = ours.recv()
                numbers = numbers[1:]
                yield outcome
        process.join(1)
        process.kill()
        process.join()
        if numbers:
            yield Outcome(numbers[0], False, 0, 0, f"the process ended with {process.exitcode}")
            numbers = numbers[1:]


def _work(name: str, numbers: range, folder: Path, outcomes: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    with make_targets(folder) as targets:
        for outcome in _try(name, targets[name], numbers):
            outcomes.send(outcome)
