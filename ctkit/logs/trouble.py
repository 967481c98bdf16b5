"""What keeps a log from answering, for those who watch a run."""

from dataclasses import dataclass
from typing import Self

from ctkit.errors import LogError


@dataclass(frozen=True)
class Trouble:
    """A request of a log that brought no usable answer, and has none yet.

    Attributes
    ----------
    what
        The HTTP status, or the kind of error.
    attempt
        Number of the next try.
    resumes
        When that is, at the earliest, on the monotonic clock.
    """

    what: str
    attempt: int
    resumes: float

    @classmethod
    def of(cls, error: LogError, cause: BaseException | None, attempt: int, resumes: float) -> Self:
        """Return what an error comes to.

        Examples
        --------
        >>> Trouble.of(LogError("https://log.example", "no answer"), TimeoutError(), 2, 0.0).what
        'TimeoutError'
        """
        kind = "no usable answer" if cause is None else type(cause).__name__
        return cls(str(getattr(error, "status", None) or kind), attempt, resumes)
