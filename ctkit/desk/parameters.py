"""One set of parameters for a notebook, papermill, the command line and a scheduler.

Relative paths are relative to the working directory of whoever asks, because papermill hands a notebook bare values
and not the file that they came from. Only what the live server's own ``config.yaml`` says is relative to that file's
folder, where the server is usually started.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, Self

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
    dotted,
    shown,
)
from ctkit.desk.parameter_files import read_server_config, read_yaml
from ctkit.errors import ParameterError
from ctkit.paths import local_path

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


def _as_text(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _check_path(value: object) -> str:
    # Not pydantic's text, which has no room for the surrogates in names of files that are not UTF-8.
    text = _as_text(value)
    # What is at its ends is part of a name, too; a NUL is of none.
    if not isinstance(text, str) or not text.strip() or "\0" in local_path(text):
        raise ValueError(f"it should be a path, but is {shown(value)}")
    return text


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


class Flag(NamedTuple):
    """What the command line makes of a key: a flag of some commands.

    Attributes
    ----------
    commands
        Their names, separated by spaces.
    metavar
        What stands for its value in help; a number is ``N`` or ``SECONDS``, and words speak for themselves.
    name
        As it is typed; empty for the key with hyphens.
    about
        What it is, where that differs from the key.
    """

    commands: str
    metavar: str = ""
    name: str = ""
    about: str = ""


_GAPS, _LOGS, _ALL = "gaps backfill", "gaps backfill audit", "gaps backfill merge audit repair"


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
                raise _error_of(error, {}, type(self)) from None

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

    main_path: Annotated[TablePath | None, Flag(_ALL, "PATH")] = Field(
        None, description="the main table: a folder, bare or as file://"
    )
    staging_path: Annotated[TablePath | None, Flag("gaps backfill merge", "PATH")] = Field(
        None, description="the staging table: backfill writes to it, merge removes it"
    )
    state_file: Annotated[FilePath | None, Flag(_GAPS, "FILE")] = Field(
        None, description="the live server's state file, for the ceilings"
    )
    logs: Annotated[
        Annotated[tuple[LogParameter, ...], Field(strict=False)] | None,
        Flag(_LOGS, "URL", "--log-url", about="a log to read, by its URL; once for each log"),
    ] = Field(None, description="logs to read: a list of {name, url, protocol, key}")
    log_list: Annotated[FilePath | None, Flag(_LOGS, "FILE")] = Field(
        None, description="log list of format v3, as file or URL; joined to logs"
    )
    log_list_key: Annotated[FilePath | None, Flag(_LOGS, "FILE")] = Field(
        None, description="PEM or DER file of the key that signs the log list"
    )
    log_filter: Annotated[Text | None, Flag(_LOGS, "SUBSTRING", name="--logs")] = Field(
        None, description="keep logs with this in their name or URL, in any case"
    )
    from_index: Annotated[Index | None, Flag(_LOGS, "N", name="--from")] = Field(
        None, description="first index wanted of every log; not given: catch-up"
    )
    to_index: Annotated[Index | None, Flag(_LOGS, "N", name="--to")] = Field(
        None, description="index to stop before; never above the ceiling"
    )
    ceiling: Annotated[Ceiling, Flag(_GAPS)] = Field(
        "state", description="what bounds a log: state file, or its checkpoint"
    )
    internal_only: Annotated[bool | None, Flag(_GAPS)] = Field(
        None, description="leave what lies after a log's last row to the live server; not given: while that runs"
    )
    seen: Annotated[Seen, Flag("backfill")] = Field(
        "log", description="column seen: the entry's timestamp, or time of fetch"
    )
    as_der: Annotated[DerForm | None, Flag("backfill")] = Field(
        None, description="how a new table holds certificates: binary, or text for older live servers"
    )
    verify: Annotated[
        Annotated[Verify, BeforeValidator(lambda value: "off" if value is False else value)], Flag("backfill")
    ] = Field(
        "heads",
        description="what to verify: off, heads (signatures) or entries (also inclusion)",
    )
    max_requests: Annotated[Count | None, Flag("backfill", "N")] = Field(
        None, description="requests for entries that a backfill may send, repeated ones included"
    )
    max_entries: Annotated[Count | None, Flag("backfill", "N")] = Field(
        None, description="entries that a backfill may write"
    )
    deadline: Annotated[Seconds | None, Flag("backfill", "SECONDS")] = Field(
        None, description="seconds after which a backfill starts no request and ends those under way"
    )
    recheck: Annotated[Rechecked | None, Flag("audit")] = Field(
        None, description="audit: compare rows with the logs' entries again, those that are not proven, or all"
    )
    require_proof: Annotated[bool, Flag("audit")] = Field(
        False, description="audit: rows that are not proven make it fail"
    )
    confirmed: Annotated[bool, Flag("merge", name="--yes")] = Field(
        False, description="merge a staging table even if it looks like a main table"
    )
    create_main: Annotated[bool | None, Flag("merge", name="--create")] = Field(
        None, description="merge: create the main table if there is none; not given: unless its path was typed by hand"
    )
    user_agent: Annotated[UserAgent | None, Flag(_LOGS, "TEXT")] = Field(
        None, description="how to introduce yourself to logs, with a contact"
    )
    server_config: Annotated[FilePath | None, Flag(_ALL, "FILE")] = Field(
        None, description="the live server's config.yaml: fills what is not given"
    )

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
            raise _error_of(error, origins, cls) from None

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
            flag = "--" + key.replace("_", "-")
            raise ParameterError(
                f"{key} is missing ({about}); give it in the parameter file, or as {flag}", keys=(key,)
            )
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


def _error_of(error: ValidationError, origins: Mapping[str, str], model: type[BaseModel]) -> ParameterError:
    problems = error.errors()
    keys = tuple(dotted(problem["loc"]) for problem in problems if problem["loc"])
    return ParameterError(*(_describe(problem, origins, model) for problem in problems), keys=keys)


def _describe(problem: ErrorDetails, origins: Mapping[str, str], model: type[BaseModel]) -> str:
    if not problem["loc"]:
        return f"{problem['msg'].removeprefix('Value error, ')}; correct one of them"
    key, *inner = problem["loc"]
    known = (LogParameter if inner else model).model_fields
    return describe(problem, origins.get(str(key), "parameters"), problem["loc"], list(known))
