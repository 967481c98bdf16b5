"""One set of parameters for notebooks, papermill, the command line and schedulers.

Relative paths in a parameter file mean that file's folder, others the current directory: papermill gives a notebook
bare values, and not the file that they came from, so that ``ctkit run`` resolves them first. Those in the live server's
``config.yaml`` are relative to that file's folder, where the server is usually started.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from ctkit.arguments import (
    Ceiling,
    Count,
    Day,
    DerForm,
    Index,
    ProtocolChoice,
    Rechecked,
    Seconds,
    Seen,
    Verify,
    checked,
    describe,
    dotted,
)
from ctkit.desk.choice import check_choice
from ctkit.desk.log_filter import read_filter
from ctkit.desk.parameter_files import (
    STARTS,
    read_parameter_file,
    read_server_config,
    runs_beside,
    without_overridden,
)
from ctkit.desk.values import FilePath, LogKey, LogUrl, TablePath, Text, Texts, UserAgent
from ctkit.errors import ParameterError
from ctkit.paths import local_path


class Flag(NamedTuple):
    """The command-line flag of a key.

    Attributes
    ----------
    commands
        The commands that take it, separated by spaces; none if only runbooks have the key.
    metavar
        Its value in help: ``N`` or ``SECONDS`` for a number; empty if the help lists the values.
    name
        As it is typed; empty for the key with hyphens.
    about
        Its help, if that differs from the key's description.
    """

    commands: str
    metavar: str = ""
    name: str = ""
    about: str = ""


_KEEP = "update follow"
_BUDGET, _FILL, _MERGE, _TIDY = "backfill update", f"backfill {_KEEP}", f"merge {_KEEP}", f"tidy {_KEEP}"
_GAPS, _LOGS = f"gaps backfill {_KEEP} status", f"gaps backfill audit {_KEEP} status"
_NAMES, _ALL = f"{_LOGS} logs init", f"logs gaps backfill merge audit repair tidy {_KEEP} status watch"


class _Checked(BaseModel):
    """A model whose constructor raises our own error."""

    if not TYPE_CHECKING:

        def __init__(self, **values: object) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise _error_of(error, {}, type(self)) from None

        # As pydantic marks its own constructor: model_validate() then bypasses this one.
        __init__.__pydantic_base_init__ = True


def _check_stretch(given: "LogParameter | Parameters") -> None:
    """Raise ValueError if there are several starts, or a start that is not below the end."""
    # As they are written: `from` of a log, `from_index` of all.
    names = {name: type(given).model_fields[name].alias or name for name in (*STARTS, "to_index")}
    if len(several := [names[name] for name in STARTS if getattr(given, name) is not None]) > 1:
        raise ValueError(f"{' and '.join(several)} say where to start; give one of them")
    if given.from_index is not None and given.to_index is not None and given.from_index >= given.to_index:
        start, end = names["from_index"], names["to_index"]
        raise ValueError(f"{start} {given.from_index} is not below {end} {given.to_index}")


class LogParameter(_Checked):
    """A log in the parameter `logs`.

    Attributes
    ----------
    url
        With or without ``https://`` and trailing slash. For a Static CT log the monitoring prefix.
    name
        Stored as ``source_name``; None for the name that the table already has for this URL.
    protocol
        ``auto`` asks the log.
    key
        DER of the log's ``SubjectPublicKeyInfo``, given as bytes or as base64, as in a log list; None to accept tree
        heads without verifying their signature.
    from_index, last, since
        Where the log starts, one of them at most; None for the parameters of the same names. `from_index` is written
        ``from``.
    to_index
        Index to stop before, written ``to``; None for the parameter of that name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    url: LogUrl
    name: Text | None = None
    protocol: ProtocolChoice = "auto"
    key: LogKey | None = None
    from_index: Index | None = Field(None, alias="from")
    last: Count | None = None
    since: Day | None = None
    to_index: Index | None = Field(None, alias="to")

    @model_validator(mode="after")
    def _check_own_stretch(self) -> Self:
        _check_stretch(self)
        return self


class Parameters(_Checked):
    """Which tables, which logs, which indices, and how.

    None means "not given" for every key. Each verb raises an error for a key that it needs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    main_path: Annotated[TablePath | None, Flag(_ALL, "PATH")] = Field(
        None, description="the main table: a folder, bare or as file://"
    )
    staging_path: Annotated[TablePath | None, Flag(f"{_GAPS} merge", "PATH")] = Field(
        None, description="the staging table: backfill writes to it, merge removes it"
    )
    state_file: Annotated[FilePath | None, Flag(f"{_LOGS} logs", "FILE")] = Field(
        None, description="the live server's state file, for the ceilings"
    )
    logs: Annotated[
        Annotated[tuple[LogParameter, ...], Field(strict=False)] | None,
        Flag(_NAMES, "URL", "--log-url", about="a log to read, by its URL; once for each log"),
    ] = Field(None, description="logs to read: list of {name, url, protocol, key, from, last, since, to}")
    log_list: Annotated[FilePath | None, Flag(_NAMES, "LIST")] = Field(
        None, description="log list (v3 JSON): google, apple, file or URL; added to logs"
    )
    log_list_key: Annotated[FilePath | None, Flag(_NAMES, "FILE")] = Field(
        None, description="PEM or DER file of the key that signs the log list"
    )
    log_filter: Annotated[
        Annotated[Text | None, BeforeValidator(read_filter)], Flag(_NAMES, "FILTER", name="--logs")
    ] = Field(None, description="keep logs with this text in name or URL; 'operator: TEXT' looks at the operator")
    from_index: Annotated[Index | None, Flag(_LOGS, "N", name="--from")] = Field(
        None, description="first index to fetch of logs without their own from"
    )
    last: Annotated[Count | None, Flag(f"{_LOGS} init", "N")] = Field(
        None, description="start this many entries before where a log ends when it is first seen"
    )
    since: Annotated[Day | None, Flag(f"{_LOGS} init", "DATE")] = Field(
        None, description="start at the first entry of this UTC date or later: 2026-11-01"
    )
    to_index: Annotated[Index | None, Flag(_LOGS, "N", name="--to")] = Field(
        None, description="index to stop before; never above the ceiling"
    )
    choice: Annotated[Annotated[str, AfterValidator(check_choice)] | None, Flag("gaps backfill", "CHOICE")] = Field(
        None, description="which gaps to fill: 'argon: 3600-4801, 9000-; willow'; not given: all"
    )
    ceiling: Annotated[Ceiling | None, Flag("gaps backfill audit update status")] = Field(
        None, description="where a log ends: state (the default with a state file) or log (its own tree size)"
    )
    internal_only: Annotated[bool | None, Flag(_LOGS)] = Field(
        None, description="leave entries after a log's last row to the live server; not given: while it is running"
    )
    seen: Annotated[Seen, Flag(_FILL)] = Field(
        "log", description="column seen: log (the entry's timestamp) or fetched (time of download)"
    )
    as_der: Annotated[DerForm | None, Flag(_FILL)] = Field(
        None, description="how a new table stores certificates: binary, or text for older live servers"
    )
    verify: Annotated[
        Annotated[Verify, BeforeValidator(lambda value: "off" if value is False else value)], Flag(_FILL)
    ] = Field("heads", description="what to verify: off, heads (signatures) or entries (also inclusion)")
    max_requests: Annotated[Count | None, Flag(_BUDGET, "N")] = Field(
        None, description="requests for entries that a backfill may send, retries included"
    )
    max_entries: Annotated[Count | None, Flag(_BUDGET, "N")] = Field(
        None, description="entries that a backfill may write"
    )
    deadline: Annotated[Seconds | None, Flag(_BUDGET, "SECONDS")] = Field(
        None, description="seconds after which a backfill starts no request and ends those under way"
    )
    recheck: Annotated[Rechecked | None, Flag("audit")] = Field(
        None, description="audit: compare rows with the logs' entries again: unproven or all"
    )
    require_proof: Annotated[bool, Flag("audit")] = Field(False, description="audit: fail if rows are not proven")
    confirmed: Annotated[bool, Flag(_MERGE, name="--yes")] = Field(
        False, description="merge a staging table even if it looks like a main table"
    )
    create_main: Annotated[bool | None, Flag(f"backfill {_MERGE}", name="--create")] = Field(
        None, description="go on without a main table, which is created; not given: unless its path was typed by hand"
    )
    keep_runs: Annotated[Count | None, Flag(_TIDY, "DAYS")] = Field(
        None, description="tidy: days for which the records of runs are kept; not given: forever"
    )
    runs_path: Annotated[TablePath | None, Flag(f"{_TIDY} backfill merge status runs watch", "DIR")] = Field(
        None, description="folder of the records of runs; not given: runs/ beside the parameter file"
    )
    domain: Annotated[Text | None, Flag("")] = Field(
        None, description="explore: the domain to ask about; not given: the one with the most certificates"
    )
    domains: Annotated[
        Texts | None,
        Flag("watch", "DOMAIN", "--domain", about="a domain to watch; once for each"),
    ] = Field(None, description="watch: list of domains of which new names are told, with all below them")
    brands: Annotated[
        Texts | None,
        Flag("watch", "DOMAIN", "--brand", about="a domain whose look-alikes are told; once for each"),
    ] = Field(None, description="watch: list of domains of which new look-alikes are told")
    told_path: Annotated[TablePath | None, Flag("watch", "PATH")] = Field(
        None, description="watch: the table of what was told, so that each name is told once"
    )
    user_agent: Annotated[UserAgent | None, Flag(_NAMES, "TEXT")] = Field(
        None, description="how to introduce yourself to logs, with a mail address or URL"
    )
    server_config: Annotated[FilePath | None, Flag(_ALL, "FILE")] = Field(
        None, description="the live server's config.yaml: supplies what is not given"
    )

    @model_validator(mode="after")
    def _check_own_stretch(self) -> Self:
        _check_stretch(self)
        return self

    @property
    def by_state(self) -> bool:
        """Whether logs end where the live server is: if a state file is named, unless `ceiling` says otherwise."""
        return self.state_file is not None if self.ceiling is None else self.ceiling == "state"

    @classmethod
    def of(cls, namespace: Mapping[str, object]) -> Self:
        """Return the parameters among the names in `namespace`: ``Parameters.of(globals())`` in a notebook.

        Raises
        ------
        ParameterError
            A value is of the wrong kind; `ctkit.ParameterError.keys` names it.
        """
        return cls.of_layers(("notebook", {key: namespace[key] for key in cls.model_fields if key in namespace}))

    @classmethod
    def of_layers(cls, *layers: tuple[str, Mapping[str, object]]) -> Self:
        """Return the parameters from several layers, each named by its origin; earlier ones override later ones.

        Raises
        ------
        ParameterError
            As for `of`.
        """
        given = cls._validate(*layers)
        if given.server_config is None:
            return given
        server = read_server_config(given.server_config, needs_table=given.main_path is None)
        if given.logs is not None or given.log_list is not None:
            # The server's list must not add to the logs that were given.
            del server["logs"], server["log_list"]
        return cls._validate(*layers, (given.server_config, server))

    @classmethod
    def _validate(cls, *layers: tuple[str, Mapping[str, object]]) -> Self:
        values: dict[str, object] = {}
        origins: dict[str, str] = {}
        for origin, layer in layers:
            layer = without_overridden(layer, values)
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
        self.check_given(key)
        return str(getattr(self, key))

    def check_given(self, *keys: str) -> None:
        """Raise if one of these keys was not given.

        Raises
        ------
        ParameterError
            It names all that are missing.
        """
        missing = tuple(key for key in keys if getattr(self, key) is None)
        lines = (
            f"{key} is missing ({type(self).model_fields[key].description}); give it in the parameter file, or as "
            f"{flag_name(key)}"
            for key in missing
        )
        if missing:
            raise ParameterError(*lines, keys=missing)

    @property
    def runs(self) -> Path:
        """The folder of the records of runs."""
        return Path(local_path(self.runs_path or "runs"))


def flag_of(key: str) -> Flag:
    """Return the flag of a key."""
    return next(item for item in Parameters.model_fields[key].metadata if isinstance(item, Flag))


def flag_name(key: str) -> str:
    """Return the flag of a key as it is typed."""
    return flag_of(key).name or "--" + key.replace("_", "-")


@checked
def read_parameters(file: str | Path | None = None, **overrides: object) -> Parameters:
    """Return the parameters in a YAML file, with `overrides`.

    Parameters
    ----------
    file
        A YAML mapping, as for papermill's ``-f``; None for `overrides` alone. Relative paths in it mean its folder.
    **overrides
        By key; None keeps the file's value. A start (`from_index`, `last`, `since`) also overrides the starts of single
        logs in the file, and `to_index` their ends.

    Raises
    ------
    ParameterError
        The file cannot be read, a key is unknown, or a value is of the wrong kind; the message names each.

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
        layers.append((str(file), read_parameter_file(file)))
        layers.append((str(file), {"runs_path": runs_beside(file)}))
    return Parameters.of_layers(*layers)


def _error_of(error: ValidationError, origins: Mapping[str, str], model: type[BaseModel]) -> ParameterError:
    problems = error.errors()
    keys = tuple(dotted(problem["loc"]) for problem in problems if problem["loc"])
    return ParameterError(*(_describe(problem, origins, model) for problem in problems), keys=keys)


def _describe(problem: ErrorDetails, origins: Mapping[str, str], model: type[BaseModel]) -> str:
    if not problem["loc"]:
        return f"{problem['msg'].removeprefix('Value error, ')}; correct one of them"
    key, *inner = problem["loc"]
    known = (LogParameter if inner else model).model_fields
    names = [field.alias or name for name, field in known.items()]
    if problem["type"] == "extra_forbidden" and key in ("from", "to") and not inner:
        # What each log of `logs` calls them.
        return f"{origins.get(str(key), 'parameters')}: {key}: unknown key; did you mean {key}_index?"
    return describe(problem, origins.get(str(key), "parameters"), problem["loc"], names)
