"""Figures of a table that follows its logs, for Prometheus."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Gauge, start_http_server

from ctkit.desk.follow import FollowReport
from ctkit.errors import ParameterError
from ctkit.visible import get_logger

logger = get_logger(__name__)


@contextmanager
def serve_metrics(address: str) -> Iterator[Callable[[FollowReport], None]]:
    """Serve figures over HTTP for as long as the context lasts; yield what takes a new report.

    Parameters
    ----------
    address
        ``PORT`` of this machine's loopback interface, or ``HOST:PORT``; the host ``0.0.0.0`` stands for all interfaces.

    Raises
    ------
    ParameterError
        It is not an address, or nothing can listen there.
    """
    host, _, port = address.rpartition(":")
    registry = CollectorRegistry()
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        message = f"--metrics should be [HOST:]PORT with a port below 65536, such as 9464, but is {address!r}"
        raise ParameterError(message, keys=("metrics",))
    try:
        server, thread = start_http_server(int(port), host.strip("[]") or "127.0.0.1", registry)
    except (ValueError, OSError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is no host"
        message = f"metrics cannot be served at {address!r} ({problem}); give another [HOST:]PORT"
        raise ParameterError(message, keys=("metrics",)) from error
    logger.info("figures are served at http://%s:%d/metrics", *server.server_address[:2])
    try:
        yield _gauges(registry)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _gauges(registry: CollectorRegistry) -> Callable[[FollowReport], None]:
    def of_log(name: str, about: str) -> Gauge:
        return Gauge(f"ctkit_{name}", about, ["log"], registry=registry)

    def of_table(name: str, about: str) -> Gauge:
        return Gauge(f"ctkit_{name}", about, registry=registry)

    by_log = (
        of_log("held_entries", "Entries that the main table has"),
        of_log("missing_entries", "Entries that the main table lacks, up to the newest tree head"),
        of_log("lag_seconds", "Seconds since the main table had every entry of a log"),
        of_log("failures", "Failures in a row"),
    )
    version = of_table("table_version", "Version of the main table: commits so far")
    files = of_table("table_files", "Data files of the main table")
    unavailable = of_table("unavailable_logs", "Logs that could not be asked")
    problems = of_table("problems", "Problems in the last round and the last look at everything")
    success = of_table("last_success_timestamp_seconds", "When a round last ended without a problem")

    followed: set[str] = set()

    def take(report: FollowReport) -> None:
        for url in followed - report.logs.keys():
            for gauge in by_log:
                gauge.remove(url)
        followed.intersection_update(report.logs)
        followed.update(report.logs)
        for url, values in report.logs.items():
            for gauge, value in zip(by_log, values, strict=True):
                gauge.labels(url).set(value)
        version.set(report.version or 0)
        files.set(report.files or 0)
        unavailable.set(len(report.unavailable))
        problems.set(len(report.problems))
        if not report.problems:
            success.set(time.time())

    return take
