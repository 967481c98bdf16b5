"""Ceilings, the first index of each log that must not be asked for; the live server's state file holds them."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from ctkit.errors import ParameterError
from ctkit.paths import local_path
from ctkit.ranges import LARGEST_TREE
from ctkit.urls import canonical_url
from ctkit.visible import get_logger

logger = get_logger(__name__)


def read_state(path: str | Path) -> dict[str, int]:
    """Return ``current_index`` of each log in a state file of the live server.

    ``current_index`` is the next index that the server will fetch: an exclusive ceiling. Reading is lenient where
    the server is strict: a byte order mark, a trailing slash, a missing ``version`` and other missing fields do no
    harm, and an unusable entry is skipped with a warning. Of two entries for one log the lower ceiling counts.

    Raises
    ------
    ParameterError
        The file cannot be read, or is not a JSON object with an object ``logs``.
    """
    try:
        state = json.loads(Path(local_path(str(path))).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        message = f"state_file {path} cannot be read ({error}); name the live server's state file"
        raise ParameterError(message, keys=("state_file",)) from error
    logs = state.get("logs") if isinstance(state, dict) else None
    if not isinstance(logs, dict):
        message = f'state_file {path} holds no object "logs"; name the live server\'s state file'
        raise ParameterError(message, keys=("state_file",))
    ceilings: dict[str, int] = {}
    for url, entry in logs.items():
        index = entry.get("current_index") if isinstance(entry, dict) else None
        if type(index) is not int or not 0 <= index <= LARGEST_TREE:  # type(): True is an int to isinstance
            logger.warning("state file entry has no usable current_index, skipping path=%s url=%s", path, url)
            continue
        try:
            url = canonical_url(url)
        except ParameterError as error:
            logger.warning("state file entry has no usable URL, skipping path=%s reason=%s", path, error)
            continue
        ceilings[url] = min(ceilings.get(url, index), index)
    return ceilings


def write_state(path: str | Path, ceilings: Mapping[str, int]) -> None:
    """Write a state file in the strict form that the live server reads, atomically.

    Parameters
    ----------
    path
        Replaced if it exists; readers see either the old file or the new one.
    ceilings
        ``current_index`` by the log's URL; it is also written as ``tree_size``.
    """
    now = int(time.time())
    logs = {
        canonical_url(url): {"current_index": index, "tree_size": index, "last_success": now}
        for url, index in ceilings.items()
    }
    partial = Path(f"{path}.tmp")
    with partial.open("w", encoding="utf-8") as file:
        json.dump({"version": 1, "logs": logs}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
