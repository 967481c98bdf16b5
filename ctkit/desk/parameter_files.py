"""Files that parameters come from: YAML of ours, and the live server's configuration."""

import os
from pathlib import Path
from typing import Any

import yaml

from ctkit.arguments import shown
from ctkit.errors import ParameterError
from ctkit.paths import local_path


class Loader(yaml.SafeLoader):
    """YAML in which a key given twice is an error, and a date stays the text that it is, as in papermill."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping; refuse a key that is given twice."""
        seen = set()
        for key, _ in node.value:
            # Other keys than texts and numbers are refused below.
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"key {key.value} is given twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put in the members of merged mappings (``<<``), each key once: aliases may bring them a million times."""
        super().flatten_mapping(node)
        members = {}
        for key, value in node.value:
            members[key.tag, key.value if isinstance(key, yaml.ScalarNode) else id(key)] = key, value
        node.value = list(members.values())


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


# A value that is not what its tag says, such as !!bool maybe, ends in whatever PyYAML stumbles over.
NO_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)
"""What `Loader` raises on a text that is no YAML."""


def read_yaml(file: str | Path) -> dict[str, object]:
    """Return the mapping in a YAML file; an empty file is an empty mapping.

    Raises
    ------
    ParameterError
        The file cannot be read, is no YAML, gives a key twice, or is no mapping with text keys.
    """
    path = Path(local_path(str(file)))
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} cannot be read ({error}); name another file") from error
    except NO_YAML as error:
        raise ParameterError(f"{path} is no YAML; correct it: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ParameterError(f"{path} is no list of 'key: value' lines; correct it")
    return values


def read_server_config(file: str | Path, *, needs_table: bool = True) -> dict[str, object]:
    """Return what the live server's ``config.yaml`` and its environment overrides say, as parameters.

    ``delta_sink.table_path``, or the ``table_path`` of the only one of its ``targets``, is `main_path`,
    ``ct_log.state_file`` `state_file`, ``ct_logs_url`` `log_list`, and ``custom_logs`` (RFC 6962) and ``static_logs``
    (Static CT) are `logs`. The server's built-in defaults are not assumed: what neither the file nor the environment
    says is not given. Other keys are the server's business.

    Parameters
    ----------
    file
        The configuration.
    needs_table
        Whether it is an error that there are several targets and nothing tells which of them is main.

    Raises
    ------
    ParameterError
        The file cannot be read, or a section that is used has another shape than the server's, or there are several
        targets.
    """
    path = Path(local_path(str(file)))
    try:
        config = read_yaml(path)
    except ParameterError as error:
        raise ParameterError(f"server_config: {error}") from error

    def section(name: str, kind: type) -> Any:
        value = config.get(name)
        if value is not None and not isinstance(value, kind):
            raise ParameterError(f"{path}: {name}: it should be a {kind.__name__}, but is {shown(value)}")
        return kind() if value is None else value

    def beside(value: object) -> object:
        if not isinstance(value, str) or not value:
            return value or None
        bare = local_path(value)
        return bare if "://" in bare else str(path.parent / bare)

    logs = []
    for name, protocol in [("custom_logs", "rfc6962"), ("static_logs", "static-ct")]:
        for log in section(name, list):
            if not isinstance(log, dict):
                raise ParameterError(f"{path}: {name}: each should be {{name, url}}, but one is {shown(log)}")
            logs.append({"name": log.get("name"), "url": log.get("url"), "protocol": protocol})
    environment = os.environ.get
    main_path = environment("CERTSTREAM_DELTA_SINK_TABLE_PATH") or beside(section("delta_sink", dict).get("table_path"))
    if not main_path:
        targets = {}
        for name, target in section("targets", dict).items():
            if not isinstance(target, dict):
                raise ParameterError(f"{path}: targets.{name}: it should be a dict, but is {shown(target)}")
            given = environment(f"CERTSTREAM_TARGETS_{str(name).upper()}_TABLE_PATH")
            targets[str(name)] = given or beside(target.get("table_path"))
        if len(targets) > 1 and needs_table:
            raise ParameterError(
                f"{path}: targets: main may be any of {', '.join(targets)}; give its path as main_path"
            )
        main_path = next(iter(targets.values()), None)
    return {
        "main_path": main_path,
        "state_file": environment("CERTSTREAM_CT_LOG_STATE_FILE") or beside(section("ct_log", dict).get("state_file")),
        "log_list": environment("CERTSTREAM_CT_LOGS_URL") or config.get("ct_logs_url") or None,
        "logs": logs or None,
    }
