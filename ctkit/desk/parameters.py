"""One set of parameters for a notebook, papermill, the command line and a scheduler.

Relative paths are relative to the working directory of whoever asks, because papermill hands a notebook bare values
and not the file that they came from. Only what the live server's own ``config.yaml`` says is relative to that file's
folder, where the server is usually started.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from ctkit.arguments import (
    Ceiling,
    Count,
    DerForm,
    Index,
    ProtocolChoice,
    Rechecked,
    Seconds,
    Seen,
    Verify,
    check_header,
    checked,
    describe,
    shown,
)
from ctkit.errors import ParameterError
from ctkit.paths import local_path

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


def _as_text(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _check_path(value: object) -> str:
    # Not pydantic's text, which has no room for the surrogates in names of files that are not UTF-8.
    text = _as_text(value)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"it should be a path, but is {shown(value)}")
    return text.strip()


TablePath = Annotated[str, PlainValidator(_check_path)]
FilePath = Annotated[str, PlainValidator(lambda value: local_path(_check_path(value)))]


def _check_url(url: str) -> str:
    # httpx and pyarrow would be most of what `ctkit --help` has to import.
    from ctkit.urls import canonical_url, host_of

    if not _LOG_URL.fullmatch(url):
        raise ValueError(f"{shown(url)} is no URL of a log: give one like https://log.example/2026h2")
    host_of(canonical_url(url))
    return url


# The host may be an IPv6 address in brackets (RFC 3986, section 3.2.2).
_LOG_URL = re.compile(r"(https?://)?(\[[0-9A-Fa-f:.]+\]|[^:/\s]+)(:\d+)?(/\S*)?")

LogUrl = Annotated[Text, AfterValidator(_check_url)]
UserAgent = Annotated[Text, AfterValidator(check_header)]


_FLAGS = {"main_path": ", or as --main-path", "staging_path": ", or as --staging-path"}
"""Of what a verb needs, that for which the command line has a flag."""


def _read_key(key: object) -> bytes:
    from ctkit.wire.checkpoint import read_key

    return read_key(key)


LogKey = Annotated[bytes, BeforeValidator(_read_key)]


class _Checked(BaseModel):
    """A model that also raises our error where it is made by its name."""

    if not TYPE_CHECKING:

        def __init__(self, **values: object) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise ParameterError(*(_describe(problem, {}, type(self)) for problem in error.errors())) from None

        # As pydantic marks its own: model_validate() is not to go by way of it.
        __init__.__pydantic_base_init__ = True


class LogParameter(_Checked):
    """One log, as the parameter `logs` names it.

    Attributes
    ----------
    url
        With or without ``https://`` and trailing slash. For a Static CT log the monitoring prefix.
    name
        Stored as ``source_name``; None to use what the table already has for this URL.
    protocol
        ``auto`` asks the log.
    key
        DER of the log's ``SubjectPublicKeyInfo``, given so or as base64 as in a log list; None to believe tree heads
        without a signature.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    url: LogUrl
    name: Text | None = None
    protocol: ProtocolChoice = "auto"
    key: LogKey | None = None


class Parameters(_Checked):
    """What to do: which tables, which logs, which indices.

    None means "not given" for every key. What is needed depends on the verb, and is asked for there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    main_path: TablePath | None = Field(None, description="the main table: a folder, bare or as file://")
    staging_path: TablePath | None = Field(None, description="the staging table; not given: backfill writes to main")
    state_file: FilePath | None = Field(None, description="the live server's state file, for the ceilings")
    logs: Annotated[tuple[LogParameter, ...], Field(strict=False)] | None = Field(
        None, description="logs to read: a list of {name, url, protocol, key}"
    )
    log_list: FilePath | None = Field(None, description="log list of format v3, as file or URL; joined to logs")
    log_list_key: FilePath | None = Field(None, description="PEM or DER file of the key that signs the log list")
    log_filter: Text | None = Field(None, description="keep logs with this in their name or URL, in any case")
    from_index: Index | None = Field(None, description="first index wanted of every log; not given: catch-up")
    to_index: Index | None = Field(None, description="index to stop before; never above the ceiling")
    ceiling: Ceiling = Field("state", description="what bounds a log: state file, or its checkpoint")
    internal_only: bool | None = Field(
        None, description="leave what lies after a log's last row to the live server; not given: while that runs"
    )
    seen: Seen = Field("log", description="column seen: the entry's timestamp, or time of fetch")
    as_der: DerForm | None = Field(
        None, description="how a new table holds certificates: binary, or text for older live servers"
    )
    verify: Annotated[Verify, BeforeValidator(lambda value: "off" if value is False else value)] = Field(
        "heads", description="off, heads: tree heads, or entries: also that each is in the log's tree"
    )
    max_requests: Count | None = Field(
        None, description="requests for entries that a backfill may send, repeated ones included"
    )
    max_entries: Count | None = Field(None, description="entries that a backfill may write")
    deadline: Seconds | None = Field(
        None, description="seconds after which a backfill starts no request and ends those under way"
    )
    recheck: Rechecked | None = Field(
        None, description="audit: compare rows with the logs' entries again, those that are not proven, or all"
    )
    require_proof: bool = Field(False, description="audit: rows that are not proven make it fail")
    confirmed: bool = Field(False, description="merge a staging table even if it looks like a main table")
    create_main: bool | None = Field(
        None, description="merge: create the main table if there is none; not given: unless its path was typed by hand"
    )
    user_agent: UserAgent | None = Field(None, description="how to introduce yourself to logs, with a contact")
    server_config: FilePath | None = Field(None, description="the live server's config.yaml: fills what is not given")

    @model_validator(mode="after")
    def _check_stretch(self) -> Self:
        if self.from_index is not None and self.to_index is not None and self.from_index >= self.to_index:
            raise ValueError(f"from_index {self.from_index} is not below to_index {self.to_index}")
        return self

    @classmethod
    def of(cls, namespace: Mapping[str, object]) -> Self:
        """Return the parameters that `namespace` holds under their names: ``Parameters.of(globals())`` in a notebook.

        Raises
        ------
        ParameterError
            A value is of the wrong kind; the message names it.
        """
        return cls._from(("notebook", {key: namespace[key] for key in cls.model_fields if key in namespace}))

    @classmethod
    def _from(cls, *layers: tuple[str, Mapping[str, object]]) -> Self:
        """Return what the layers say, each called by its origin; the first that gives a key counts."""
        given = cls._validate(*layers)
        if given.server_config is None:
            return given
        server = read_server_config(given.server_config, needs_table=given.main_path is None)
        if given.logs is not None or given.log_list is not None:
            # Which logs is one question: the server's list must not widen the answer that somebody gave.
            del server["logs"], server["log_list"]
        return cls._validate(*layers, (given.server_config, server))

    @classmethod
    def _validate(cls, *layers: tuple[str, Mapping[str, object]]) -> Self:
        values: dict[str, object] = {}
        origins: dict[str, str] = {}
        for origin, layer in layers:
            new = {key: value for key, value in layer.items() if value is not None and key not in values}
            values |= new
            origins |= dict.fromkeys(new, origin)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ParameterError(*(_describe(problem, origins, cls) for problem in error.errors())) from None

    def need(self, key: str) -> str:
        """Return the text under `key`.

        Raises
        ------
        ParameterError
            It was not given.
        """
        value = getattr(self, key)
        if value is None:
            about = type(self).model_fields[key].description
            raise ParameterError(f"{key} is missing ({about}); give it in the parameter file{_FLAGS.get(key, '')}")
        return str(value)


@checked
def read_parameters(file: str | Path | None = None, **overrides: object) -> Parameters:
    """Return the parameters in a YAML file, with `overrides` in place of what it says.

    Parameters
    ----------
    file
        A YAML mapping, as papermill's ``-f`` takes it; None for `overrides` alone.
    **overrides
        By key; None leaves the file's value.

    Raises
    ------
    ParameterError
        The file cannot be read, or a key is unknown, or a value is of the wrong kind; the message names each.

    Examples
    --------
    >>> read_parameters(main_path="data/main", from_index=0).main_path
    'data/main'
    >>> read_parameters(form_index=0)
    Traceback (most recent call last):
    ctkit.errors.ParameterError: argument: form_index: unknown key; did you mean from_index?
    """
    layers: list[tuple[str, Mapping[str, object]]] = [("argument", overrides)]
    if file is not None:
        layers.append((str(file), read_yaml(file)))
    return Parameters._from(*layers)


def _describe(problem: ErrorDetails, origins: Mapping[str, str], model: type[BaseModel]) -> str:
    if not problem["loc"]:
        return f"{problem['msg'].removeprefix('Value error, ')}; correct one of them"
    key, *inner = problem["loc"]
    known = (LogParameter if inner else model).model_fields
    return describe(problem, origins.get(str(key), "parameters"), problem["loc"], list(known))


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
