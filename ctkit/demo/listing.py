"""A log list of embedded logs, signed as Google signs its own."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ctkit.demo.embedded import EmbeddedLog

_SINCE = "2026-01-01T00:00:00Z"


class SignedList:
    """A list of embedded logs in version 3 of Google's format.

    Attributes
    ----------
    states
        What it says of a log, by the log's slug: a state such as ``"usable"``, which is the default, or None to leave
        the log out.
    public_key
        PEM of the ``SubjectPublicKeyInfo`` of the ECDSA P-256 key that signs it.
    """

    def __init__(self) -> None:
        self.states: dict[str, str | None] = {}
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.public_key = self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def accepts_entries(self, log: EmbeddedLog) -> bool:
        """Return whether a log still grows, by its state."""
        return self._state_of(log) not in ("readonly", "retired", "rejected")

    def text(self, logs: Mapping[str, EmbeddedLog]) -> bytes:
        """Return the list of logs, by their URLs."""
        operators: dict[str, dict[str, Any]] = {}
        for url, log in logs.items():
            if self._state_of(log) is None:
                continue
            about = {"name": log.operator, "email": ["nobody@example.org"], "logs": [], "tiled_logs": []}
            operator = operators.setdefault(log.operator, about)
            kind, key = ("logs", "url") if "rfc6962" in log.protocols else ("tiled_logs", "monitoring_url")
            operator[kind].append(
                {"description": log.name, "key": _text(log.public_key), key: f"{url}/", "state": self._described(log)}
            )
        listed = {"version": "1.0", "log_list_timestamp": _SINCE, "operators": list(operators.values())}
        return json.dumps(listed, indent=2).encode()

    def sign(self, text: bytes) -> bytes:
        """Return the signature of a list."""
        return self._key.sign(text, ec.ECDSA(hashes.SHA256()))

    def _state_of(self, log: EmbeddedLog) -> str | None:
        return self.states.get(log.slug, "usable")

    def _described(self, log: EmbeddedLog) -> dict[str, Any]:
        state = self._state_of(log)
        said: dict[str, Any] = {"timestamp": _SINCE}
        if state == "readonly":
            head = {"tree_size": log.tree_size, "sha256_root_hash": _text(log.tree.root(log.tree_size))}
            said["final_tree_head"] = head
        return {str(state): said}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
