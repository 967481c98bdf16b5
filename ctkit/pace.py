"""How fast one host is asked."""

from dataclasses import dataclass


@dataclass
class Pace:
    """What is known of the pace of one host.

    Attributes
    ----------
    concurrency
        Requests that may be under way at a time.
    rate
        Requests a second that the host is known to allow; None as long as it refused none.
    latency
        Seconds until an answer begins; None before the first one.
    bandwidth
        Bytes a second of all answers together; None before the first one.
    """

    concurrency: float = 8.0
    rate: float | None = None
    latency: float | None = None
    bandwidth: float | None = None
