"""The extensions of one certificate, decoded as far as possible."""

import warnings
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import pandas as pd
from cryptography import x509 as library
from cryptography.x509.oid import ExtensionOID, ObjectIdentifier

from ctkit.wire import x509

Value = TypeVar("Value")


class Problems:
    """What cannot be decoded, in the order in which it was found."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, problem: str) -> None:
        """Note one."""
        self.found.append(problem)

    def of(self, what: str, read: Callable[[], Value], otherwise: Value) -> Value:
        """Return what `read` does; if it fails, say so."""
        try:
            with _silent():
                return read()
        # The library raises ValueError, TypeError, UnsupportedAlgorithm and more, as certificates of logs are odd.
        except Exception as error:
            self.add(f"{what} cannot be decoded in full ({' '.join(str(error).split()) or type(error).__name__})")
            return otherwise


@contextmanager
def _silent() -> Iterator[None]:
    """Keep quiet what the library warns of: negative serial numbers, for instance, which are shown as they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


_EXTENSION_NAMES = {
    oid.dotted_string: name.replace("_", " ").lower()
    for name, oid in vars(ExtensionOID).items()
    if isinstance(oid, ObjectIdentifier)
}

_TEXTS = {
    x509.AUTHORITY_INFO_ACCESS: "authorityInfoAccess",
    x509.AUTHORITY_KEY_IDENTIFIER: "authorityKeyIdentifier",
    x509.BASIC_CONSTRAINTS: "basicConstraints",
    x509.CERTIFICATE_POLICIES: "certificatePolicies",
    x509.EXTENDED_KEY_USAGE: "extendedKeyUsage",
    x509.KEY_USAGE: "keyUsage",
    x509.SUBJECT_KEY_IDENTIFIER: "subjectKeyIdentifier",
}
"""Extensions that are read, and what rows call them."""


def describe_extensions(certificate: x509.Certificate, texts: Mapping[str, Any], lists: str) -> pd.DataFrame:
    """Return each extension with what it says, in hex if we do not read it."""
    rows = []
    for identifier, values in certificate.extensions.items():
        dotted = x509.dotted(identifier) or identifier.hex(" ")
        raw = "; ".join(value.hex(" ") for value in values)
        if identifier == x509.SUBJECT_ALT_NAME:
            text = "see the names"
        elif identifier == x509.POISON:
            text = "this is a precertificate: no client accepts it"
        elif dotted == ExtensionOID.CRL_DISTRIBUTION_POINTS.dotted_string:
            text = lists
        else:
            text = str(texts.get(_TEXTS.get(identifier, ""), "")).strip().replace("\n", ", ")
        name = _EXTENSION_NAMES.get(dotted)
        rows.append(
            {
                "extension": f"{name} ({dotted})" if name else dotted,
                "critical": "yes" if identifier in certificate.critical else "",
                "value": text or raw,
            }
        )
    return pd.DataFrame(rows, columns=["extension", "critical", "value"])


def parse_extensions(parsed: library.Certificate | None, problems: Problems) -> list[library.ExtensionType]:
    """Return the extensions as the library reads them; none if one of them is odd."""
    if parsed is None:
        return []
    return problems.of("its extensions", lambda: [extension.value for extension in parsed.extensions], [])


def revocation_lists(extensions: list[library.ExtensionType]) -> str:
    """Return where the revocation lists are."""
    points = (point for value in extensions if isinstance(value, library.CRLDistributionPoints) for point in value)
    return ", ".join(f"URI:{name.value}" for point in points for name in point.full_name or ())


def embedded_timestamps(extensions: list[library.ExtensionType]) -> pd.DataFrame:
    """Return the signed certificate timestamps that a certificate carries (RFC 6962 3.3)."""
    rows = [
        (b64encode(sct.log_id).decode(), f"{sct.timestamp:%Y-%m-%d %H:%M:%S}", sct.version.name)
        for value in extensions
        if isinstance(value, library.PrecertificateSignedCertificateTimestamps)
        for sct in value
    ]
    return pd.DataFrame(rows, columns=["log_id", "time", "version"])
