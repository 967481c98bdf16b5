"""The command line from the keys of a parameter file: every key is a flag, and means the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ctkit.cli import _parser, main
from ctkit.desk.flags import read_flags
from ctkit.desk.parameter_files import PATHS
from ctkit.desk.parameters import Parameters, flag_name, flag_of, read_parameters
from ctkit.errors import ParameterError

COMMANDS = next(action for action in _parser()._actions if action.dest == "COMMAND" or action.choices).choices
WORDS = {
    "main_path": ("data/main", "data/main"),
    "staging_path": ("12", "12"),
    "state_file": ("state.json", "state.json"),
    "logs": ("https://ct.example.com/2026h2", [{"url": "https://ct.example.com/2026h2"}]),
    "log_list": ("list.json", "list.json"),
    "log_list_key": ("key.pem", "key.pem"),
    "log_filter": ("2026", "2026"),
    "from_index": ("5", 5),
    "last": ("1_000", 1000),
    "since": ("2026-11-01", "2026-11-01"),
    "to_index": ("7", 7),
    "domains": ("example.com", ["example.com"]),
    "brands": ("example.com", ["example.com"]),
    "told_path": ("data/told", "data/told"),
    "choice": ("argon: 5-; size>=2", "argon: 5-; size>=2"),
    "ceiling": ("log", "log"),
    "internal_only": (None, True),
    "seen": ("fetched", "fetched"),
    "as_der": ("text", "text"),
    "verify": ("off", "off"),
    "max_requests": ("3", 3),
    "max_entries": ("1_000", 1000),
    "deadline": ("2.5", 2.5),
    "recheck": ("all", "all"),
    "require_proof": (None, True),
    "confirmed": (None, True),
    "create_main": (None, True),
    "keep_runs": ("90", 90),
    "runs_path": ("records", "records"),
    "domain": (None, "example.com"),
    "user_agent": ("ctkit, me@example.org", "ctkit, me@example.org"),
    "server_config": ("config.yaml", "config.yaml"),
}


@pytest.mark.parametrize("key", Parameters.model_fields)
def test_a_flag_means_what_its_key_does(tmp_path, monkeypatch, key):
    """Typed for each command that has it, a flag comes to the same parameters as the key in a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "config.yaml").write_text("ct_log: {state_file: state.json}")
    word, value = WORDS[key]
    (tmp_path / "files" / "ct.yaml").write_text(yaml.safe_dump({key: value}))
    commands = flag_of(key).commands.split()

    for command in commands:
        # A path in the file means the file's folder, which is not the current one.
        word = str(tmp_path / "files" / word) if key in PATHS else word
        arguments = _parser().parse_args([command, flag_name(key), *([] if word is None else [word])])
        given = read_parameters("files/ct.yaml")
        # Only a file has a folder in which its records lie.
        own = {} if key == "runs_path" else {"runs_path": None}
        # Only a path that was typed may be mistyped.
        own |= {"create_main": False} if key == "main_path" else {}
        assert read_flags(arguments) == given.model_copy(update=own)
    # A key of runbooks alone is given with -p.
    assert commands or key == "domain"
    assert set(commands) <= set(COMMANDS)


def test_a_switch_that_may_be_left_open_can_be_turned_off():
    """Of what is true, false or not given, all three can be said."""
    said = [read_flags(_parser().parse_args(["gaps", *words])).internal_only for words in ([], ["--no-internal-only"])]

    assert said == [None, False]


def test_logs_are_named_one_by_one():
    """The flag of a log is given once for each."""
    arguments = _parser().parse_args(["gaps", "--log-url", "a.example", "--log-url", "b.example"])

    assert [log.url for log in read_flags(arguments).logs] == ["a.example", "b.example"]


def test_errors_name_flags_as_they_are_flag_name():
    """On the command line, what is wrong is a flag; each has a line of its own."""
    arguments = _parser().parse_args(["backfill", "--from", "x", "--verify", "all", "--log-url", "https://"])

    with pytest.raises(ParameterError) as raised:
        read_flags(arguments)

    flags = [line.removeprefix("argument ").split(":")[0] for line in str(raised.value).splitlines()]
    assert [flag.partition(".")[0] for flag in flags] == ["--log-url", "--from", "--verify"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_two_examples_that_are_right(capsys, command):
    """Help fits 80 columns, and its examples can be typed."""
    assert main([command, "--help"]) == 0

    said = capsys.readouterr().out
    examples = [line.split() for line in said.partition("examples:\n")[2].splitlines()]
    assert len(examples) == 2
    for _, *words in examples:
        _parser().parse_args(words[: words.index(">")] if ">" in words else words)
    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(capsys, shell):
    """Each shell gets a script of its own."""
    assert main(["completion", shell]) == 0
    assert "ctkit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("backfill --max-r", ["--max-requests"]),
        ("gaps --ceiling ", ["log", "state"]),
        ("backfill --verify e", ["entries"]),
        ("audit --log-list go", ["google"]),
        ("run back", ["backfill"]),
        ("run own", ["own.ipynb"]),
    ],
)
def test_completion_in_bash(tmp_path, typed, found):
    """The script completes commands, flags, words of a flag, and runbooks."""
    (tmp_path / "own.ipynb").touch()
    words = " ".join(repr(word) for word in ["ctkit", *typed.split(" ")])
    script = (
        f'source <(ctkit completion bash); COMP_LINE="ctkit {typed}"; COMP_POINT=${{#COMP_LINE}}; COMP_TYPE=9;'
        f" COMP_WORDS=({words}); COMP_CWORD={len(typed.split(' '))}; _python_argcomplete ctkit; echo ${{COMPREPLY[@]}}"
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env={"PATH": path}, capture_output=True, text=True, check=False
    )

    assert sorted(done.stdout.split()) == found
