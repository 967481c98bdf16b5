"""Parameters: one file for notebooks and the command line, and errors that name what is wrong."""

import base64
import os
import re
from datetime import date
from pathlib import Path
from urllib.parse import quote

import pytest

from ctkit.demo.embedded import EmbeddedLog
from ctkit.desk.parameter_files import read_server_config, read_yaml
from ctkit.desk.parameters import LogParameter, Parameters, read_parameters
from ctkit.errors import ParameterError
from ctkit.lake.table import table_path

KEY = EmbeddedLog("any").public_key
FILES = sorted((Path(__file__).parent.parent / "parameters").glob("*.yaml"))


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    """Keep the live server's variables of whoever runs the tests away."""
    for name in ("DELTA_SINK_TABLE_PATH", "CT_LOG_STATE_FILE", "CT_LOGS_URL"):
        monkeypatch.delenv(f"CERTSTREAM_{name}", raising=False)


@pytest.fixture
def write(tmp_path):
    """Write a file and return its path."""

    def write(text, name="run.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_example_file_is_read(file):
    """Every file in parameters/ is understood and names its table, and its logs and a contact unless it asks none."""
    # The live server's configuration is not on this machine.
    values = {key: value for key, value in read_yaml(file).items() if key != "server_config"}
    parameters = read_parameters(**values)

    assert parameters.domains or "@" in parameters.need("user_agent")
    assert parameters.main_path or "server_config" in read_yaml(file)
    assert parameters.domains or parameters.logs or parameters.log_list or "server_config" in read_yaml(file)


def test_example_files_are_there():
    """There is a file for the demo, for public logs of both protocols, and for catch-up with a live server."""
    assert {file.stem for file in FILES} >= {"demo", "public-rfc6962", "public-static-ct", "catch-up"}


def test_read_parameters_every_key(write):
    """Every key of a file arrives as it is written."""
    file = write(
        """
        main_path: data/main
        staging_path: file://data/staging
        state_file: file:///var/state.json
        logs:
          - {name: A, url: https://a.example/2026h1, protocol: static-ct, key: KEY, from: 7, to: 9}
          - {url: b.example}
          - {url: c.example, last: 500}
          - {url: d.example, since: 2026-11-01}
        log_list: https://list.example/v3.json
        log_list_key: file:///etc/list.pem
        log_filter: example
        from_index: 5
        to_index: 1_000
        last: null
        since: null
        choice: "argon: 3600-4801; size>=2"
        ceiling: log
        internal_only: true
        seen: fetched
        as_der: text
        verify: off
        max_requests: 35
        max_entries: 1_000_000
        deadline: 3300
        recheck: all
        require_proof: true
        confirmed: true
        create_main: true
        keep_runs: 90
        runs_path: records
        domain: example.com
        domains: [example.com, example.org]
        brands: [example.net]
        told_path: data/told
        user_agent: ct@example.org
        """.replace("KEY", base64.b64encode(KEY).decode())
    )

    unsaid = {"name": None, "protocol": "auto", "key": None, "from": None, "last": None, "since": None, "to": None}
    assert read_parameters(file).model_dump(by_alias=True) == {
        "main_path": str(file.parent / "data/main"),
        "staging_path": str(file.parent / "data/staging"),
        "state_file": "/var/state.json",
        "logs": (
            {**unsaid, "url": "https://a.example/2026h1", "name": "A", "protocol": "static-ct", "key": KEY}
            | {"from": 7, "to": 9},
            {**unsaid, "url": "b.example"},
            {**unsaid, "url": "c.example", "last": 500},
            {**unsaid, "url": "d.example", "since": date(2026, 11, 1)},
        ),
        "log_list": "https://list.example/v3.json",
        "log_list_key": "/etc/list.pem",
        "log_filter": "example",
        "from_index": 5,
        "to_index": 1000,
        "last": None,
        "since": None,
        "choice": "argon: 3600-4801; size>=2",
        "ceiling": "log",
        "internal_only": True,
        "seen": "fetched",
        "as_der": "text",
        "verify": "off",
        "max_requests": 35,
        "max_entries": 1_000_000,
        "deadline": 3300,
        "recheck": "all",
        "require_proof": True,
        "confirmed": True,
        "create_main": True,
        "keep_runs": 90,
        "runs_path": str(file.parent / "records"),
        "domain": "example.com",
        "domains": ("example.com", "example.org"),
        "brands": ("example.net",),
        "told_path": str(file.parent / "data/told"),
        "user_agent": "ct@example.org",
        "server_config": None,
    }


def test_read_parameters_when_empty(write):
    """An empty file, a null and a missing key all mean that nothing was given."""
    empty, null = read_parameters(write("")), read_parameters(write("main_path: null"))

    assert empty == null
    # The records of runs lie beside the file.
    assert empty.model_copy(update={"runs_path": None}) == read_parameters() == Parameters()


def test_read_parameters_overrides(write):
    """A flag counts before the file; a flag that was not given does not."""
    parameters = read_parameters(write("main_path: a\nfrom_index: 5"), main_path="b", from_index=None, to_index=9)

    assert (parameters.main_path, parameters.from_index, parameters.to_index) == ("b", 5, 9)


def test_parameters_of_a_notebook():
    """The known names are picked from the notebook's variables; the others are its own business."""
    variables = {"main_path": "data/main", "from_index": None, "internal_only": True, "np": object(), "_": 1}

    assert Parameters.of(variables) == Parameters(main_path="data/main", internal_only=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("form_index: 5", "form_index: unknown key; did you mean from_index?"),
        ("zzz: 5", "zzz: unknown key; known are main_path, staging_path, "),
        ("from_index: five", "from_index: it should be a whole number, but is 'five'"),
        ("from_index: '5'", "from_index: it should be a whole number, but is '5'"),
        ("from_index: true", "from_index: it should be a whole number, but is True"),
        ("from_index: 1.0", "from_index: it should be a whole number, but is 1.0"),
        ("from_index: -1", "from_index: it should be greater than or equal to 0, but is -1"),
        ("max_requests: 0", "max_requests: it should be greater than 0, but is 0"),
        ("max_entries: 1.5", "max_entries: it should be a whole number, but is 1.5"),
        ("deadline: -1.5", "deadline: it should be greater than 0, but is -1.5"),
        ("deadline: .inf", "deadline: it should be a finite number, but is inf"),
        ("deadline: 2026-08-01T00:00:00Z", "deadline: it should be a number, but is '2026-08-01T00:00:00Z'"),
        ("internal_only: 1", "internal_only: it should be true or false, but is 1"),
        ("main_path: 5", "main_path: it should be a path, but is 5"),
        ("main_path: ''", "main_path: it should be a path, but is ''"),
        ("staging_path: '  '", "staging_path: it should be a path, but is '  '"),
        ("state_file: [a]", "state_file: it should be a path, but is ['a']"),
        ("ceiling: sth", "ceiling: it should be 'state' or 'log', but is 'sth'"),
        ("seen: today", "seen: it should be 'log' or 'fetched', but is 'today'"),
        ("logs: https://a.example", "logs: it should be a list, but is 'https://a.example'"),
        ("logs: [{name: A}]", "logs.0.url: missing; add it"),
        (
            "logs: [{url: a.example, kind: x}]",
            "logs.0.kind: unknown key; known are url, name, protocol, key, from, last, since, to",
        ),
        ("logs: [{url: a.example, from: 5, last: 5}]", "logs.0: from and last say where to start; give one of them"),
        ("logs: [{url: a.example, from: 5, to: 5}]", "logs.0: from 5 is not below to 5"),
        ("logs: [{url: a.example, from: x}]", "logs.0.from: it should be a whole number, but is 'x'"),
        ("logs: [{url: a.example, last: 0}]", "logs.0.last: it should be greater than 0, but is 0"),
        ("last: 5\nsince: 2026-11-01", "last and since say where to start; give one of them"),
        ("since: 2026-11-31", "since: "),
        ("since: 2026-11-01T12:00:00Z", "since: it should be a date like 2026-11-01, but is '2026-11-01T12:00:00Z'"),
        ("since: 20261101", "since: it should be a date like 2026-11-01, but is 20261101"),
        ("logs: [{url: a.example, key: no base64!}]", "logs.0.key: it is not base64; copy the key from the log list"),
        ("logs: [{url: a.example, key: AAAA}]", "logs.0.key: it is not a public key (SubjectPublicKeyInfo); copy"),
        ("logs: [{url: a.example, key: 7}]", "logs.0.key: it should be base64 text, as in a log list"),
        ("logs: [{url: a.example, protcol: auto}]", "logs.0.protcol: unknown key; did you mean protocol?"),
        ("logs: [{url: a.example, protocol: rfc9162}]", "logs.0.protocol: it should be 'auto', 'rfc6962' or"),
        ("logs: [{url: 'ftp://a.example'}]", "is not the URL of a log"),
        ("logs: [{url: 'https://a.example:port/'}]", "is not the URL of a log"),
        ("logs: [{url: a.example}, {url: a..example}]", "logs.1.url: 'https://a..example' is not a URL"),
        ("logs: [{url: 'a.example:65536'}]", "logs.0.url: 'https://a.example:65536' names no host, or a port above"),
        (f"logs: [{{url: 'https://{'a' * 64}.example/'}}]", f"logs.0.url: 'https://{'a' * 64}.example' is not a URL"),
        (
            "logs: [a.example]",
            "logs.0: it should be a mapping {url, name, protocol, key, from, last, since, to}, but is 'a.example'",
        ),
        ("from_index: 5\nto_index: 5", "from_index 5 is not below to_index 5"),
    ],
)
def test_read_parameters_when_wrong(write, text, message):
    """A wrong key or value is an error with the file, the key, what it is and what it should be."""
    file = write(text)

    with pytest.raises(ParameterError) as raised:
        read_parameters(file)
    assert message in str(raised.value)
    assert str(file) in str(raised.value) or "from_index 5" in message or "last and since" in message


def test_read_parameters_names_every_problem(write):
    """All problems are listed, each with where it came from."""
    file = write("main_path: 5\nform_index: 1")

    with pytest.raises(ParameterError) as raised:
        read_parameters(file, ceiling="no")
    assert str(raised.value).splitlines() == [
        f"{file}: main_path: it should be a path, but is 5",
        "argument: ceiling: it should be 'state' or 'log', but is 'no'",
        f"{file}: form_index: unknown key; did you mean from_index?",
    ]


def test_parameters_of_a_notebook_when_wrong():
    """A notebook's wrong value is an error that names the variable."""
    with pytest.raises(ParameterError) as raised:
        Parameters.of({"from_index": "0"})
    assert raised.value.keys == ("from_index",)


def test_read_parameters_when_a_log_has_an_ipv6_address(write):
    """An address in brackets is the URL of a log like any other."""
    parameters = read_parameters(write("logs: [{url: 'http://[::1]:8080/log'}]"))

    assert parameters.logs == (LogParameter(url="http://[::1]:8080/log"),)


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "a: b: c",
        "- main_path",
        "5: x",
        "just words",
        "\t",
        "? [a, b]\n: 1",
        "? {a: b}\n: 1",
        "a: !!int b",
        pytest.param("[" * 10_000, id="nested"),
        "a: !!bool maybe",
        "a: !!int ''",
        "a: !!timestamp soon",
        "a: !!map [b]",
    ],
)
def test_read_yaml_when_it_is_no_mapping(write, text):
    """What is no list of keys and values is an error that names the file."""
    file = write(text)

    with pytest.raises(ParameterError) as raised:
        read_yaml(file)
    assert str(file) in str(raised.value)


def test_read_yaml_when_it_is_deep(write):
    """Deep values are read up to a bound, since reading them takes the square of their depth."""
    assert "a" in read_yaml(write(f"a: {'[' * 40}{']' * 40}"))
    with pytest.raises(ParameterError):
        read_yaml(write(f"a: {'[' * 60}{']' * 60}"))


def test_read_yaml_when_a_key_is_given_twice(write):
    """The second of two equal keys does not silently win."""
    with pytest.raises(ParameterError) as raised:
        read_yaml(write("main_path: a\nmain_path: b"))
    assert "main_path" in str(raised.value)


def test_read_yaml_when_a_merged_key_is_given_again(write):
    """A key from a merged mapping may be overridden, wherever the mapping is merged."""
    text = "outer:\n  inner: &inner {<<: {key: 1, other: 2}, key: 3}\nagain: {<<: *inner}"

    inner = {"key": 3, "other": 2}
    assert read_yaml(write(text)) == {"outer": {"inner": inner}, "again": inner}


def test_read_yaml_when_merges_multiply(write):
    """A mapping that is merged four times in each of forty levels has its keys once."""
    levels = [f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 4)}]}}" for level in range(1, 41)]

    assert read_yaml(write("\n".join(["a0: &a0 {key: 1}", *levels])))["a40"] == {"key": 1}


@pytest.mark.parametrize("key", ["logs", "custom_logs", "main_path"])
def test_message_when_aliases_multiply(write, key):
    """A value of a billion elements by way of aliases is shown in short."""
    levels = [f"- &a{level} [{', '.join([f'*a{level - 1}'] * 8)}]" for level in range(1, 11)]
    text = "\n".join([f"{key}:", "- &a0 x", *levels])

    with pytest.raises(ParameterError) as raised:
        read_parameters(write(text)) if key != "custom_logs" else read_server_config(write(text))
    assert key in str(raised.value)

    assert len(str(raised.value)) < 5000


def test_message_when_a_number_is_without_end(write):
    """A number that Python does not write out is refused like any other."""
    with pytest.raises(ParameterError) as raised:
        read_parameters(write(f"main_path: 0x{'f' * 5000}"))
    assert raised.value.keys == ("main_path",)


def test_read_yaml_when_missing(tmp_path):
    """A file that is not there is an error that names it, and one that is called alike."""
    (tmp_path / "parameters.yaml").touch()
    with pytest.raises(ParameterError, match=r"did you mean parameters\.yaml"):
        read_yaml(tmp_path / "paramters.yaml")


def test_read_yaml_dates_stay_text(write):
    """A date is text, as in papermill."""
    assert read_yaml(write("day: 2026-01-01\ncount: 3\nyes_: true")) == {"day": "2026-01-01", "count": 3, "yes_": True}


def test_need_when_missing():
    """A missing key that a verb needs is an error that names it."""
    with pytest.raises(ParameterError) as raised:
        Parameters().need("main_path")
    assert raised.value.keys == ("main_path",)


SERVER = """
server: {port: 8080}
ct_logs_url: https://list.example/v3.json
custom_logs:
  - {name: Custom, url: https://custom.example/2026}
static_logs:
  - {name: Static, url: https://static.example/2026/}
ct_log: {state_file: state.json, batch_size: 256}
delta_sink: {enabled: true, table_path: file://./data/certstream}
"""


def test_server_config_fills_what_is_not_given(write):
    """Table, state file and logs come from the live server's file; its relative paths are relative to that file."""
    config = write(SERVER, "server/config.yaml")
    parameters = read_parameters(server_config=str(config), user_agent="ct@example.org")

    assert parameters == Parameters(
        main_path=str(config.parent / "data/certstream"),
        state_file=str(config.parent / "state.json"),
        log_list="https://list.example/v3.json",
        logs=(
            LogParameter(name="Custom", url="https://custom.example/2026", protocol="rfc6962"),
            LogParameter(name="Static", url="https://static.example/2026/", protocol="static-ct"),
        ),
        user_agent="ct@example.org",
        server_config=str(config),
    )


def test_server_config_does_not_replace_what_is_given(write):
    """A key of the parameter file counts before the live server's file."""
    config = write(SERVER, "config.yaml")
    file = write(f"server_config: {config}\nmain_path: mine\nlogs: [{{url: a.example}}]")
    parameters = read_parameters(file)

    assert parameters.main_path == str(file.parent / "mine")
    assert parameters.state_file == str(config.parent / "state.json")
    assert (parameters.logs, parameters.log_list) == ((LogParameter(url="a.example"),), None)


def test_server_config_environment(write, monkeypatch):
    """The live server's environment overrides count before its file, as they do for itself."""
    monkeypatch.setenv("CERTSTREAM_DELTA_SINK_TABLE_PATH", "file:///srv/table")
    monkeypatch.setenv("CERTSTREAM_CT_LOG_STATE_FILE", "/srv/state.json")
    monkeypatch.setenv("CERTSTREAM_CT_LOGS_URL", "https://other.example/list.json")
    parameters = read_parameters(server_config=str(write(SERVER, "config.yaml")))

    assert parameters.main_path == "file:///srv/table"
    assert parameters.state_file == "/srv/state.json"
    assert parameters.log_list == "https://other.example/list.json"


def test_server_environment_without_server_config(monkeypatch):
    """The live server's environment counts only together with its configuration."""
    monkeypatch.setenv("CERTSTREAM_DELTA_SINK_TABLE_PATH", "/srv/table")

    assert read_parameters() == Parameters()


def test_server_config_when_it_says_nothing(write):
    """No default of the live server is assumed for what its file leaves out."""
    given = {"main_path": None, "state_file": None, "log_list": None, "logs": None}

    assert read_server_config(write("ct_log: {state_file: null}\ndelta_sink:\n", "config.yaml")) == given


@pytest.mark.parametrize(
    ("text", "main_path"),
    [
        ("targets: {main: {table_path: 'file://./data/a'}}", "data/a"),
        ("targets: {any: {table_path: data/my table, storage: {}}}", "data/my table"),
        ("delta_sink: {table_path: data/own}\ntargets: {a: {table_path: x}, b: {table_path: y}}", "data/own"),
        ("delta_sink: {enabled: true}\ntargets: {a: {table_path: 'file://./my%20table'}}", "my table"),
    ],
)
def test_server_config_with_targets(write, text, main_path):
    """The newer configuration names tables as targets; the only one is main, if the sink has none of its own."""
    config = write(text, "server/config.yaml")

    assert read_server_config(config)["main_path"] == str(config.parent / main_path)


def test_server_config_with_targets_of_the_environment(write, monkeypatch):
    """A target's path in the environment counts before the one in the file, as for the server."""
    monkeypatch.setenv("CERTSTREAM_TARGETS_LIVE_TABLE_PATH", "/srv/table")

    assert read_server_config(write("targets: {live: {table_path: x}}", "config.yaml"))["main_path"] == "/srv/table"


def test_server_config_with_several_targets(write):
    """Which of them is main has to be said, and nothing else."""
    config = write("targets: {one: {table_path: a}, two: {table_path: b}}", "config.yaml")

    with pytest.raises(ParameterError) as raised:
        read_parameters(server_config=config)
    assert raised.value.keys == ("main_path",)
    assert read_parameters(server_config=config, main_path="a").main_path == "a"


@pytest.mark.parametrize("key", ["state_file", "log_list", "log_list_key", "server_config"])
@pytest.mark.parametrize(
    "form", ["{path}", "file://{quoted}", "file://localhost{quoted}", "file:{quoted}", "FILE://{quoted}"]
)
def test_files_in_every_spelling(write, key, form):
    """A bare path, any form of a file URI, percent-encoded, and a pathlib.Path name one file."""
    file = write("", "my 100% #1.yaml")
    text = form.format(path=file, quoted=quote(str(file)))

    assert getattr(read_parameters(**{key: text}), key) == str(file)
    assert getattr(read_parameters(**{key: file}), key) == str(file)
    assert read_yaml(text) == {}


@pytest.mark.parametrize("key", ["main_path", "state_file"])
def test_spaces_at_the_ends_of_a_path(key):
    """They are part of its name: without them it is that of another folder."""
    assert getattr(read_parameters(**{key: " my main "}), key) == " my main "


@pytest.mark.parametrize("key", ["main_path", "state_file", "log_list", "server_config"])
@pytest.mark.parametrize("text", ["a\0b", "file:///a%00b", " ", ""])
def test_paths_that_cannot_be(key, text):
    """No file system has a path with a NUL in it."""
    with pytest.raises(ParameterError):
        read_parameters(**{key: text})


@pytest.mark.parametrize("key", ["main_path", "staging_path"])
def test_tables_as_paths(tmp_path, key):
    """A table may be given as pathlib.Path."""
    assert getattr(read_parameters(**{key: tmp_path / "a%20b"}), key) == str(tmp_path / "a%20b")
    assert getattr(Parameters.of({key: tmp_path}), key) == str(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("delta_sink: [1]", "delta_sink: it should be a mapping"),
        ("custom_logs: {}", "custom_logs: it should be a list"),
        ("custom_logs: [a.example]", "custom_logs: each should be {name, url}"),
        ("static_logs: [{name: A}]", "logs.0.url"),
        ("targets: [a]", "targets: it should be a mapping"),
        ("targets: {a: data/main}", "targets.a: it should be a mapping, but is 'data/main'"),
        ("delta_sink: {table_path: 5}", "main_path: it should be a path, but is 5"),
        ("delta_sink: {table_path: 5", "is not YAML"),
    ],
)
def test_server_config_when_wrong(write, text, message):
    """A live server's file that cannot be understood is an error that names it; nothing falls through to defaults."""
    config = write(text, "config.yaml")

    with pytest.raises(ParameterError) as raised:
        read_parameters(server_config=str(config))
    assert message in str(raised.value)
    assert str(config) in str(raised.value)


@pytest.mark.parametrize(
    ("given", "place", "words"),
    [
        ({"logs": "a.example"}, "logs", "a list"),
        ({"logs": {"url": "a.example"}}, "logs", "a list"),
        ({"logs": ["a.example"]}, "logs.0", "a mapping {url, name, protocol, key, from, last, since, to}"),
        ({"logs": [{"url": "a b"}]}, "logs.0.url", "not the URL of a log"),
        ({"logs": [{"url": "ftp://a.example"}]}, "logs.0.url", "not the URL of a log"),
        ({"log_filter": 5}, "log_filter", "text"),
        ({"user_agent": " "}, "user_agent", "empty"),
        ({"main_path": 3}, "main_path", "a path"),
        ({"state_file": ["x"]}, "state_file", "a path"),
        ({"from_index": "5"}, "from_index", "a whole number"),
        ({"deadline": "5"}, "deadline", "a number"),
        ({"require_proof": 1}, "require_proof", "true or false"),
        ({"user_agent": "a@b.example\r\nCookie: x"}, "user_agent", "HTTP header"),
        ({"user_agent": "a@b.example\x7f"}, "user_agent", "HTTP header"),
        ({"user_agent": "jos\xe9@b.example"}, "user_agent", "HTTP header"),
    ],
)
def test_kinds_are_said_in_plain_words(given, place, words):
    """Whoever reads YAML knows neither tuples, nor our classes, nor regular expressions; it is one error everywhere."""
    for read in (read_parameters, Parameters):
        with pytest.raises(ParameterError) as raised:
            read(**given)
        said = str(raised.value)
        assert f" {place}: " in said
        assert words in said
        assert not re.search(r"tuple|instance|LogParameter|string|dictionary|\^\(", said)


def test_a_model_that_is_made_by_name_raises_our_error():
    """As read_parameters() does; each thing that is wrong has a line, and what is wrong between keys too."""
    with pytest.raises(ParameterError) as raised:
        Parameters(form_index=5, logs=[{"url": 5}])
    assert len(raised.value.args) == 2
    with pytest.raises(ParameterError):
        Parameters(from_index=5, to_index=5)
    with pytest.raises(ParameterError):
        LogParameter(url=5)


def test_a_file_whose_name_is_not_utf_8(tmp_path):
    """It may be named by its path or its URI."""
    path = tmp_path / os.fsdecode(b"st\xffte.yaml")
    path.write_text("from_index: 5")

    assert "%FF" in path.as_uri()
    for named in (path, path.as_uri()):
        assert read_parameters(state_file=named).state_file == str(path)
        assert read_parameters(named).from_index == 5
    with pytest.raises(ParameterError):
        table_path(read_parameters(main_path=path).need("main_path"))


@pytest.mark.parametrize("key", ["from", "to"])
def test_keys_of_a_log_given_for_all(write, key):
    """The key that holds for all logs is called otherwise, and is named."""
    with pytest.raises(ParameterError, match=rf"did you mean {key}_index\?"):
        read_parameters(write(f"{key}: 5"))
