"""The files that parameters are read from: our own YAML, and the live server's configuration."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ctkit.arguments import named_alike, shown
from ctkit.errors import ParameterError
from ctkit.logs.published_lists import PUBLISHED
from ctkit.paths import local_path

_DEEPEST = 50
"""Levels of a YAML file; PyYAML takes the square of their number in time, and parameters need three."""


class Loader(yaml.SafeLoader):
    """YAML in which a repeated key is an error, and a date stays text, as in papermill."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the next node; refuse one that is too deep."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.YAMLError(f"it has more than {_DEEPEST} levels")
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping; refuse a key that is given twice."""
        seen = set()
        for key, _ in node.value:
            # Keys other than texts and numbers are refused below.
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"key {key.value} is given twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Insert the members of merged mappings (``<<``), each key once: aliases can repeat them a million times."""
        super().flatten_mapping(node)
        members = {}
        for key, value in node.value:
            members[key.tag, key.value if isinstance(key, yaml.ScalarNode) else id(key)] = key, value
        node.value = list(members.values())


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


# A value that does not fit its tag, such as !!bool maybe, raises whatever PyYAML runs into.
NO_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)
"""What `Loader` raises for a text that is not YAML."""


def read_yaml(file: str | Path) -> dict[str, object]:
    """Return the mapping in a YAML file; an empty file is an empty mapping.

    Raises
    ------
    ParameterError
        The file cannot be read, is not YAML, repeats a key, or is not a mapping with text keys.
    """
    path = Path(local_path(str(file)))
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (OSError, UnicodeDecodeError) as error:
        alike = named_alike(path, Path.is_file) if isinstance(error, FileNotFoundError) else ""
        reason = error.strerror if isinstance(error, OSError) else error
        raise ParameterError(f"{path} cannot be read ({reason}); {alike or 'name another file'}") from error
    except NO_YAML as error:
        raise ParameterError(f"{path} is not YAML; correct it: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ParameterError(f"{path} is not a list of 'key: value' lines; correct it")
    return values


PATHS = (
    "main_path",
    "staging_path",
    "state_file",
    "log_list",
    "log_list_key",
    "server_config",
    "runs_path",
    "told_path",
)
"""Keys whose values are paths; that of a log list may also be a URL, or the name of one that is published."""

_PUBLISHED = [("log_list", name) for name in PUBLISHED]

STARTS = ("from_index", "last", "since")
"""Keys that say where logs start, each in its own way."""


def read_parameter_file(file: str | Path) -> dict[str, object]:
    """Return the parameters in a YAML file; paths that are relative to its folder or to ``~`` are made absolute.

    Raises
    ------
    ParameterError
        As for `read_yaml`, or a path begins with a home folder that does not exist.
    """
    folder = Path(local_path(str(file))).absolute().parent
    return {
        key: _resolved(value, folder) if key in PATHS and (key, value) not in _PUBLISHED else value
        for key, value in read_yaml(file).items()
    }


def runs_beside(file: str | Path) -> str:
    """Return the folder of the records of runs, unless a parameter file names another."""
    return str(Path(local_path(str(file))).absolute().parent / "runs")


def without_overridden(given: Mapping[str, object], overrides: Mapping[str, object]) -> dict[str, object]:
    """Return parameters without the starts and ends, of all logs and of single ones, that others override.

    Examples
    --------
    >>> without_overridden({"last": 9, "logs": [{"url": "a.example", "from": 5, "to": 8}]}, {"since": "2026-11-01"})
    {'logs': [{'url': 'a.example', 'to': 8}]}
    """
    given = dict(given)
    gone: set[str] = set()
    if any(overrides.get(key) is not None for key in STARTS):
        gone |= {"from", *STARTS}
    if overrides.get("to_index") is not None:
        gone |= {"to", "to_index"}
    logs = given.get("logs")
    if gone and isinstance(logs, list):
        # What is not a mapping is left for `Parameters` to refuse.
        given["logs"] = [
            {key: log[key] for key in log if key not in gone} if isinstance(log, dict) else log for log in logs
        ]
    return {key: value for key, value in given.items() if key not in gone}


def _resolved(value: object, folder: Path) -> object:
    """Return a path as seen from a folder; ``~`` is the home folder. What is not text, `Parameters` refuses."""
    if not isinstance(value, str) or not value.strip():
        return value
    # Not Path.expanduser(), for which ./~ is the home folder, too.
    bare = os.path.expanduser(local_path(value))
    if bare.startswith("~"):
        raise ParameterError(f"{shown(value)}: there is no such home folder; write the path out")
    return bare if "://" in bare else str(folder / bare)


def read_server_config(file: str | Path, *, needs_table: bool = True) -> dict[str, object]:
    """Return what the live server's ``config.yaml`` and its environment overrides say, as parameters.

    ``delta_sink.table_path``, or the ``table_path`` of the only one of its ``targets``, is `main_path`,
    ``ct_log.state_file`` `state_file`, ``ct_logs_url`` `log_list`, and ``custom_logs`` (RFC 6962) and ``static_logs``
    (Static CT) are `logs`. The server's built-in defaults are not assumed: a key that neither the file nor the
    environment sets is not given. Other keys are ignored.

    Parameters
    ----------
    file
        The configuration.
    needs_table
        Whether several targets are an error, because nothing tells which one is main.

    Raises
    ------
    ParameterError
        The file cannot be read, a section that is used is not of the server's form, or there are several targets.
    """
    config = _ServerConfig(Path(local_path(str(file))))
    environment = os.environ.get
    main_path = environment("CERTSTREAM_DELTA_SINK_TABLE_PATH") or config.path_under("delta_sink", "table_path")
    return {
        "main_path": main_path or config.target(needs_table=needs_table),
        "state_file": environment("CERTSTREAM_CT_LOG_STATE_FILE") or config.path_under("ct_log", "state_file"),
        "log_list": environment("CERTSTREAM_CT_LOGS_URL") or config.values.get("ct_logs_url") or None,
        "logs": [*config.logs("custom_logs", "rfc6962"), *config.logs("static_logs", "static-ct")] or None,
    }


class _ServerConfig:
    """The live server's configuration; sections of another type than the server's are refused."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self.values = read_yaml(path)
        except ParameterError as error:
            raise ParameterError(f"server_config: {error}") from error

    def logs(self, section: str, protocol: str) -> list[dict[str, object]]:
        """Return the logs of a section, as values of the parameter `logs`."""
        logs = self._section(section, list)
        for log in logs:
            if not isinstance(log, dict):
                raise ParameterError(f"{self._path}: {section}: each should be {{name, url}}, but one is {shown(log)}")
        return [{"name": log.get("name"), "url": log.get("url"), "protocol": protocol} for log in logs]

    def path_under(self, section: str, key: str) -> object:
        """Return a path that a section gives."""
        return _resolved(self._section(section, dict).get(key), self._path.parent) or None

    def target(self, *, needs_table: bool) -> object:
        """Return the table path of the only target; the environment overrides it."""
        targets = {}
        for name, target in self._section("targets", dict).items():
            if not isinstance(target, dict):
                raise ParameterError(f"{self._path}: targets.{name}: it should be a mapping, but is {shown(target)}")
            given = os.environ.get(f"CERTSTREAM_TARGETS_{str(name).upper()}_TABLE_PATH")
            targets[str(name)] = given or _resolved(target.get("table_path"), self._path.parent) or None
        if len(targets) > 1 and needs_table:
            named = ", ".join(targets)
            message = f"{self._path}: targets: main may be any of {named}; give its path as main_path"
            raise ParameterError(message, keys=("main_path",))
        return next(iter(targets.values()), None)

    def _section(self, name: str, kind: type) -> Any:
        value = self.values.get(name)
        if value is not None and not isinstance(value, kind):
            wanted = "mapping" if kind is dict else "list"
            raise ParameterError(f"{self._path}: {name}: it should be a {wanted}, but is {shown(value)}")
        return kind() if value is None else value
