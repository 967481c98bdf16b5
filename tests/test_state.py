"""State files: read leniently, written strictly, and what becomes of their ceilings."""

import json
import logging
import threading

import pytest

from ctkit.desk.state_file import read_state, write_state
from ctkit.errors import LogUnavailableError, ParameterError
from ctkit.logs.ask_each import ask_each
from ctkit.logs.asking import stopping

A, B = "https://a.example/2026h1", "https://b.example/2026h1"


def write(path, value):
    """Write a value as JSON and return the path."""
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_read_state_when_strict(tmp_path):
    """A file as the live server writes it gives current_index by URL."""
    entry = {"current_index": 7, "tree_size": 9, "last_success": 1_780_000_000}
    path = write(tmp_path / "state.json", {"version": 1, "logs": {A: entry, B: {**entry, "current_index": 0}}})

    assert read_state(path) == {A: 7, B: 0}


def test_read_state_when_sparse(tmp_path):
    """A file without version, with a trailing slash and with current_index alone is as good."""
    path = write(tmp_path / "state.json", {"logs": {f"{A}/": {"current_index": 1000}}})

    assert read_state(path) == {A: 1000}


def test_read_state_when_one_log_has_two_entries(tmp_path):
    """The lower ceiling counts."""
    path = write(tmp_path / "state.json", {"logs": {A: {"current_index": 9}, f"{A}//": {"current_index": 7}}})

    assert read_state(path) == {A: 7}


def test_read_state_when_it_has_a_byte_order_mark(tmp_path):
    """A file that a Windows editor has saved is read."""
    (tmp_path / "state.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"logs": {A: {"current_index": 5}}}).encode())

    assert read_state(tmp_path / "state.json") == {A: 5}


def test_read_state_up_to_the_highest_ceiling(tmp_path):
    """A ceiling is as high as a log can be large."""
    path = write(tmp_path / "state.json", {"logs": {A: {"current_index": 2**40}}})

    assert read_state(path) == {A: 2**40}


def test_read_state_when_a_url_is_empty(tmp_path, caplog):
    """An entry without a URL is skipped with a warning, the others are kept."""
    path = write(tmp_path / "state.json", {"logs": {"": {"current_index": 5}, B: {"current_index": 5}}})

    assert read_state(path) == {B: 5}
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("index", [-1, 1.5, "12", None, True, [1], 2**40 + 1, 10**30])
def test_read_state_when_one_entry_is_bad(tmp_path, caplog, index):
    """The bad entry is skipped with a warning that names it, the others are kept."""
    path = write(tmp_path / "state.json", {"logs": {A: {"current_index": index}, B: {"current_index": 5}}})

    assert read_state(path) == {B: 5}
    assert caplog.messages == [
        f"state file entry has no usable current_index, skipping path={path} url={A}",
    ]


def test_read_state_when_an_entry_is_no_object(tmp_path, caplog):
    """An entry that is a bare number is skipped with a warning."""
    path = write(tmp_path / "state.json", {"logs": {A: 12}})

    assert read_state(path) == {}
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "5", "{}", '{"logs": []}', '{"logs": null}', pytest.param("[" * 100_000, id="nested")],
)
def test_read_state_when_it_is_no_state_file(tmp_path, content):
    """What holds no object of logs is an error that names the file, not an empty state."""
    path = write(tmp_path / "state.json", content)

    with pytest.raises(ParameterError) as raised:
        read_state(path)
    assert raised.value.keys == ("state_file",)


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_read_state_when_it_cannot_be_opened(tmp_path, name):
    """A missing file and a folder are errors that name it."""
    with pytest.raises(ParameterError) as raised:
        read_state(tmp_path / name)
    assert raised.value.keys == ("state_file",)


def test_read_state_when_it_is_not_utf8(tmp_path):
    """Bytes that are no text are an error that names the file."""
    (tmp_path / "state.json").write_bytes(b"\xff\xfe{")

    with pytest.raises(ParameterError) as raised:
        read_state(tmp_path / "state.json")
    assert raised.value.keys == ("state_file",)


def test_write_state_is_the_strict_form(tmp_path):
    """The live server's own reader needs a version, and three whole numbers for each log."""
    write_state(tmp_path / "state.json", {f"{A}/": 12})
    state = json.loads((tmp_path / "state.json").read_text())

    assert state.keys() == {"version", "logs"}
    assert state["version"] == 1
    assert state["logs"].keys() == {A}
    assert {key: type(value) for key, value in state["logs"][A].items()} == {
        "current_index": int,
        "tree_size": int,
        "last_success": int,
    }
    assert read_state(tmp_path / "state.json") == {A: 12}


def test_write_state_when_it_fails_keeps_the_old_file(tmp_path):
    """A value that cannot be written leaves the old state in place."""
    write_state(tmp_path / "state.json", {A: 12})

    with pytest.raises(TypeError):
        write_state(tmp_path / "state.json", {A: object()})
    assert read_state(tmp_path / "state.json") == {A: 12}


def test_ask_each_keeps_order_and_errors():
    """One dead log never stops another: its error stands where its answer would."""
    error = LogUnavailableError(A, "is down; run again")

    def ask(number):
        if number == 1:
            raise error
        return number * 10

    assert ask_each(ask, [0, 1, 2]) == [0, error, 20]
    assert ask_each(ask, []) == []


def test_ask_each_asks_at_once():
    """Logs are asked side by side, so that a slow one does not add to the others."""
    everybody = threading.Barrier(8, timeout=60)

    assert len(ask_each(lambda _: everybody.wait(), range(8))) == 8


def test_ask_each_when_the_time_is_over():
    """Waits of a log that takes longer than it may end, and only those."""

    def ask(number):
        if number == 1 and stopping.get().wait(30):
            raise LogUnavailableError(A, "no answer; run again")
        return stopping.get().is_set()

    answers = ask_each(ask, [0, 1], seconds=0.2)
    assert (answers[0], type(answers[1])) == (False, LogUnavailableError)
    assert ask_each(ask, [0]) == [False]


def test_read_state_from_a_file_uri(tmp_path):
    """A URI of a file names it, percent-encoded."""
    write_state(tmp_path / "my state.json", {A: 12})

    assert read_state((tmp_path / "my state.json").as_uri()) == {A: 12}


def test_ask_each_says_that_it_waits(caplog, monkeypatch):
    """A log that is late is not waited for in silence."""
    monkeypatch.setattr("ctkit.logs.ask_each.SECONDS_TO_ANSWER", 0.0)
    caplog.set_level(logging.INFO, "ctkit")
    said = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda _: said.set()
    logging.getLogger("ctkit").addHandler(handler)
    try:
        assert ask_each(lambda _: said.wait(60), [0, 1]) == [True, True]
    finally:
        logging.getLogger("ctkit").removeHandler(handler)
    assert ["waiting" in record.message for record in caplog.records] == [True]


def test_ask_each_when_interrupted_ends_the_waits():
    """What interrupts the asking ends the waits of the log client in every thread."""
    ended = []
    everybody = threading.Barrier(3, timeout=60)

    def ask(number):
        everybody.wait()
        if number == 0:
            raise KeyboardInterrupt
        ended.append(stopping.get().wait(60))

    with pytest.raises(KeyboardInterrupt):
        ask_each(ask, [0, 1, 2])
    assert ended == [True, True]
