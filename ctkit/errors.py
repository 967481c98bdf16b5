"""Errors, arranged by what the reader should do about them.

::

    CtkitError
    |-- LogError(url)
    |   |-- LogUnavailableError   the log is not available just now: run again
    |   |-- LogProtocolError      the log broke its protocol: report it
    |   `-- CheckpointError       a tree head is false or contradicts another: do not trust the log
    |-- TableError(uri)
    |   |-- TableBusyError        another run is writing to the table: wait until it has ended
    |   |-- SchemaMismatchError   the table is not one of ours, or needs features that ctkit lacks: name another
    |   |-- UnconfirmedMergeError staging looks like a main table: check both paths, then confirm
    |   |-- KeyConflictError      rows with one key hold different certificates: compare them
    |   `-- StalePreviewError     a table has changed since the preview: preview again
    |-- UpdateError(problems)     a run of several steps could not do all of them: see each problem
    `-- ParameterError            a parameter is wrong: correct it (also a ValueError)

A certificate that cannot be read is data, not an error. Errors of httpx, deltalake, struct and the like are turned
into these where they enter the package.
"""

import re
from collections.abc import Sequence
from typing import Self

from ctkit.visible import with_end

_NEXT = re.compile(r"[;.] (?!.*[;.] )")
"""What stands before the last part of a message, which says what to do."""

NAMED = 5
"""Logs that an error about many names."""

REPORT = "report this to the log's operator"
"""What to do about a log that breaks its protocol."""


class CtkitError(Exception):
    """Base of every error that ctkit raises on purpose.

    Its text has one line for each argument, made safe to show (`ctkit.visible`), each with its end, which says what to
    do; attributes are left as they are.
    """

    def __str__(self) -> str:
        return "\n".join(with_end(str(line)) for line in self.args)

    def _render_traceback_(self) -> list[str]:
        """Return what a notebook shows instead of a traceback: what happened, and below it what to do next."""
        kind = type(self).__name__
        return [
            part for line in str(self).splitlines() for part in _NEXT.sub(r"\nNext: ", f"{kind}: {line}").splitlines()
        ]


class LogError(CtkitError):
    """Base of errors about one log.

    Parameters
    ----------
    url
        The log's URL in canonical form.
    message
        What happened, ending with what to do next.
    start, end
        The indices ``[start, end)`` that are lost because of it, where that is known.
    """

    def __init__(self, url: str, message: str, *, start: int | None = None, end: int | None = None) -> None:
        super().__init__(f"{url}: {message}")
        self.url = url
        self.message = message
        self.start = start
        self.end = end


class LogUnavailableError(LogError):
    """The log is not available just now; a later run may succeed."""

    @classmethod
    def of_several(cls, errors: Sequence[LogError], about: str) -> Self:
        """Return one error in the name of the first log that tells all `errors`, after what they come to."""
        url = errors[0].url
        named = "; ".join(map(str, errors[:NAMED])).removeprefix(f"{url}: ")
        more = len(errors) - NAMED
        return cls(url, f"{about}: {named}" + (f"; and {more} more logs likewise; run again later" if more > 0 else ""))


class LogProtocolError(LogError):
    """The log gave an answer that its protocol does not allow."""


class CheckpointError(LogError):
    """A tree head is malformed, not signed by the log, or contradicts another one."""


class TableError(CtkitError):
    """Base of errors about one Delta table.

    Parameters
    ----------
    uri
        The table's location.
    message
        What happened, ending with what to do next.
    """

    def __init__(self, uri: str, message: str) -> None:
        super().__init__(f"{uri}: {message}")
        self.uri = uri
        self.message = message


class TableBusyError(TableError):
    """Another run of ctkit is writing to the table, or taking the steps of an update of it."""


class SchemaMismatchError(TableError):
    """The table is not one that ctkit can read, or write.

    Its schema or partitioning is not that of a table of CT entries, or its protocol or configuration needs what ctkit
    does not support.

    Parameters
    ----------
    uri, message
        As for `TableError`.
    features
        The table features that are not supported, by their names in the Delta protocol.
    """

    def __init__(self, uri: str, message: str, features: tuple[str, ...] = ()) -> None:
        super().__init__(uri, message)
        self.features = features


class UnconfirmedMergeError(TableError):
    """A staging table looks like a main table: the two may have been swapped.

    Parameters
    ----------
    uri
        The staging table's location.
    main
        The location of the table to merge into.
    doubts
        The reasons for the suspicion.
    """

    def __init__(self, uri: str, main: str, doubts: tuple[str, ...]) -> None:
        message = (
            f"looks like a main table: {'; '.join(doubts)}. A merge into {main} would remove it. Nothing was changed"
        )
        super().__init__(
            uri,
            f"{message}. If the paths are not swapped, confirm the merge (--yes, confirmed: true, or confirmed=True)",
        )
        self.main = main
        self.doubts = doubts


class KeyConflictError(TableError):
    """Rows of one table or two hold different certificates under one ``(source_url, cert_index)``."""


class StalePreviewError(TableError):
    """A table has changed since the preview that was to be acted on."""


class UpdateError(CtkitError):
    """An update could not do everything; what it could do is done.

    Parameters
    ----------
    problems
        What stood in the way, in the order of the steps.
    """

    def __init__(self, problems: tuple[CtkitError, ...]) -> None:
        # Two steps may fail for one reason.
        super().__init__(*dict.fromkeys(str(problem) for problem in problems))
        self.problems = problems


class ParameterError(CtkitError, ValueError):
    """A parameter is missing, unknown, of the wrong type, or contradicts another.

    Parameters
    ----------
    *messages
        What is wrong, a line for each.
    keys
        The parameters or arguments, as dotted paths such as ``logs.0.url``; empty where none is known to be wrong by
        itself.
    """

    def __init__(self, *messages: str, keys: tuple[str, ...] = ()) -> None:
        super().__init__(*messages)
        self.keys = keys
