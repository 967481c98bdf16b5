"""One certificate opened in full, from its row: decoded as far as possible, and as it is."""

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from textwrap import wrap
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from cryptography import x509 as library
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from deltalake import DeltaTable

from ctkit.arguments import Index, checked
from ctkit.desk.extensions import (
    Problems,
    describe_extensions,
    embedded_timestamps,
    parse_extensions,
    revocation_lists,
)
from ctkit.errors import ParameterError, TableError
from ctkit.lake.browse import RowBrowser
from ctkit.lake.table import folder_of
from ctkit.report import IGNORED_BY_MATHJAX, Report, to_html
from ctkit.visible import visible
from ctkit.wire import x509
from ctkit.wire.rows import alternative_names, describe_certificate

MOST_HEX = 1 << 14
"""Bytes of a certificate that a report writes out; one may have 16 MiB."""

MOST_LISTED = 100
"""Extensions, timestamps and issuers that a front end shows of a certificate."""

Value = TypeVar("Value")


@dataclass(frozen=True, repr=False, eq=False)
class OpenCertificate(Report):
    """A certificate as its row has it. What cannot be decoded is said in `problems`; `der` is always there.

    Attributes
    ----------
    source_url, source_name, cert_index, seen, link
        The entry: its log, the log's name, its index, when it was seen, and where the log serves it.
    kind
        ``certificate`` or ``precertificate``, by the entry's type.
    copies
        How many rows the table has of this entry; this is one of them.
    der
        The bytes.
    subject, issuer
        In the order of the certificate.
    not_before, not_after
        UTC, both inclusive; "" if the date cannot be read.
    serial_number
        Upper-case hex.
    key, signature_algorithm
        What it certifies, and how it is signed.
    is_ca
        Whether it may sign certificates.
    sha256
        Of `der`, upper-case hex.
    names
        Its alternative names, each with its kind.
    extensions
        Columns ``extension, critical, value``.
    timestamps
        Its signed certificate timestamps: ``log_id, time, version``.
    chain
        Its issuers, from the nearest on: ``subject, issuer, not_before, not_after, serial_number, sha256``.
    problems
        What cannot be decoded, or contradicts the row.
    """

    source_url: str
    source_name: str
    cert_index: int
    seen: str
    link: str
    kind: str
    copies: int
    der: bytes
    subject: str
    issuer: str
    not_before: str
    not_after: str
    serial_number: str
    key: str
    signature_algorithm: str
    is_ca: bool
    sha256: str
    names: tuple[str, ...]
    extensions: pd.DataFrame
    timestamps: pd.DataFrame
    chain: pd.DataFrame
    problems: tuple[str, ...] = ()

    title = "certificate"

    @property
    def pem(self) -> str:
        """The certificate as PEM."""
        lines = "\n".join(wrap(b64encode(self.der).decode(), 64))
        return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"

    def hex(self, most: int = MOST_HEX) -> str:
        """Return the first bytes as lines of hex, each with the position of its first byte."""
        shown = self.der[:most]
        return "\n".join(f"{at:06x}  {shown[at : at + 16].hex(' ')}" for at in range(0, len(shown), 16))

    def facts(self) -> dict[str, Any]:
        """Return what the certificate says of itself, and where it is from."""
        return {
            "log": self.source_name or self.source_url,
            "index": self.cert_index,
            "kind": self.kind,
            "subject": self.subject,
            "issuer": self.issuer,
            "not_before": self.not_before,
            "not_after": self.not_after,
            "serial_number": self.serial_number,
            "key": self.key,
            "signature_algorithm": self.signature_algorithm,
            "is_ca": self.is_ca,
            "names": len(self.names),
            "sha256": self.sha256,
            "seen": self.seen,
            "entry": self.link,
            "bytes": len(self.der),
            "rows": self.copies,
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return what cannot be decoded, and the lists of the certificate."""
        return {
            "not as it should be": pd.DataFrame({"problem": self.problems}),
            "names": pd.DataFrame({"name": self.names}),
            "extensions": self.extensions,
            "signed certificate timestamps": self.timestamps,
            "chain": self.chain,
        }

    def _repr_html_(self) -> str:
        more = len(self.der) - MOST_HEX
        note = f" (the first {MOST_HEX:,} of {len(self.der):,} bytes)" if more > 0 else ""
        texts = {f"hex{note}": self.hex(), **({} if more > 0 else {"PEM": self.pem})}
        # Line by line, as `to_html` makes of a line end what can be seen.
        lines = {name: "\n".join(map(to_html, text.splitlines())) for name, text in texts.items()}
        shown = "".join(
            f"<details><summary>{name}</summary><pre>{text}</pre></details>" for name, text in lines.items()
        )
        return f"{super()._repr_html_()}<div class='{IGNORED_BY_MATHJAX}'>{shown}</div>"


def shortened(text: str, most: int = 2000) -> str:
    """Return text on one line, made visible; of a long one the beginning, and how long it is.

    Examples
    --------
    >>> shortened("a" * 5000, 3)
    'aaa… (5,000 characters)'
    """
    return visible(text) if len(text) <= most else f"{visible(text[:most])}… ({len(text):,} characters)"


def to_json(opened: OpenCertificate) -> dict[str, Any]:
    """Return a certificate for a front end, which shows it as text; its names are sent in pages."""
    facts = {"log": opened.source_url, **{name: value for name, value in opened.facts().items() if name != "names"}}
    lists = {name: table for name, table in opened.tables().items() if name != "names" and len(table)}
    return {
        "title": f"{opened.kind} {opened.cert_index:,} of {shortened(opened.source_name or opened.source_url, 200)}",
        "facts": [
            [name.replace("_", " "), f"{value:,}" if type(value) is int else shortened(str(value))]
            for name, value in facts.items()
        ],
        "lists": [
            {
                "title": title,
                "columns": [name.replace("_", " ") for name in table.columns],
                "rows": [list(map(shortened, row)) for row in table.head(MOST_LISTED).astype(str).to_numpy()],
                "left": max(len(table) - MOST_LISTED, 0),
            }
            for title, table in lists.items()
        ],
        "hex": opened.hex(),
        "pem": opened.pem if len(opened.der) <= MOST_HEX else "",
        "left": max(len(opened.der) - MOST_HEX, 0),
    }


@checked
def open_certificate(table: DeltaTable, source_url: str, cert_index: Index | None = None) -> OpenCertificate:
    """Open the certificate of one entry in full.

    However odd it is, this does not fail: what cannot be decoded is said.

    Parameters
    ----------
    table
        A table of entries, such as staging or main.
    source_url
        The log; or the ``key`` that an answer has, which names both, such as ``https://log.example#7``.
    cert_index
        The entry's position in the log; None with a key.

    Returns
    -------
    OpenCertificate
        If the table has several rows of the entry, of the first.

    Raises
    ------
    ParameterError
        There is no index, and `source_url` is no key.
    TableError
        The table has no such entry, or cannot be read.

    Examples
    --------
    >>> import tempfile, ctkit
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     try:
    ...         ctkit.open_certificate(ctkit.open_table(folder), "https://log.example", 7)
    ...     except ctkit.TableError as error:
    ...         print(error.message)
    has no entry 7 of https://log.example; find_gaps tells which entries are missing
    """
    if cert_index is None:
        source_url, _, index = source_url.rpartition("#")
        if not re.fullmatch("[0-9]{1,19}", index):
            message = "open_certificate: cert_index: missing, and source_url is no key, such as https://log.example#7"
            raise ParameterError(f"{message}; give the index, or a key", keys=("cert_index",))
        cert_index = int(index)
    browser = RowBrowser(table)
    places = browser.places_of(source_url, cert_index)
    if not places:
        message = f"has no entry {cert_index} of {source_url}; find_gaps tells which entries are missing"
        raise TableError(folder_of(table), message)
    return read_row(browser.row(places[0]), copies=len(places))


def read_row(row: Mapping[str, Any], *, copies: int = 1) -> OpenCertificate:
    """Decode the certificate of a row, with all of the 20 columns; see `open_certificate`."""
    problems = Problems()
    der = _der_of(row["as_der"], problems)
    own = x509.read_certificate(der)
    said = describe_certificate(own, der)
    if not own.readable:
        problems.add("the certificate is cut short or is none: only what comes before that could be decoded")
    if (digest := sha256(der).hexdigest().upper()) != str(row["sha256"]).replace(":", ""):
        problems.add("its SHA-256 is not the one that its row gives: one of the two was altered")
    parsed = problems.of("the certificate", lambda: library.load_der_x509_certificate(der), None)
    extensions = parse_extensions(parsed, problems)
    return OpenCertificate(
        source_url=_text(row["source_url"]),
        source_name=_text(row["source_name"]),
        cert_index=int(row["cert_index"]),
        seen=_time(row["seen"]),
        link=_text(row["cert_link"]),
        kind="precertificate" if row["update_type"] == "PrecertLogEntry" else "certificate",
        copies=copies,
        der=der,
        subject=_name(parsed, "subject", said["subject"]["aggregated"], problems),
        issuer=_name(parsed, "issuer", said["issuer"]["aggregated"], problems),
        not_before=_date(own.not_before, problems, "its first day"),
        not_after=_date(own.not_after, problems, "its last day"),
        serial_number=said["serial_number"],
        key="" if parsed is None else problems.of("its key", lambda: _key(parsed), ""),
        signature_algorithm=_algorithm(said["signature_algorithm"], x509.dotted(own.signature_algorithm)),
        is_ca=said["is_ca"],
        sha256=digest,
        names=_names(own),
        extensions=describe_extensions(own, said["extensions"], revocation_lists(extensions)),
        timestamps=embedded_timestamps(extensions),
        chain=_chain(row["chain"], problems),
        problems=tuple(problems.found),
    )


def _der_of(stored: Any, problems: Problems) -> bytes:
    """Return the bytes of ``as_der``, which is raw or base64 text."""
    if isinstance(stored, bytes):
        return stored
    text = str(stored or "")
    return problems.of("as_der", lambda: b64decode(text, validate=True), text.encode("utf-8", "replace"))


def _time(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}" if isinstance(moment, datetime) and not pd.isna(moment) else ""


def _date(seconds: int, problems: Problems, what: str) -> str:
    """Return a date that may be before the year 1, which `datetime` has not."""
    if not seconds:
        problems.add(f"{what} cannot be decoded, or is 1970-01-01 00:00:00")
        return ""
    return _moment(seconds)


def _moment(seconds: int) -> str:
    return str(np.datetime64(seconds, "s")).replace("T", " ")


def _name(parsed: library.Certificate | None, which: str, aggregated: str, problems: Problems) -> str:
    """Return all attributes of a name in their order; without the library those that a row has."""

    def read() -> str:
        name: library.Name = getattr(parsed, which)
        return ", ".join(f"{part.rfc4514_attribute_name}={_text(part.value)}" for part in name)

    return aggregated if parsed is None else problems.of(f"its {which}", read, aggregated)


def _text(value: str | bytes | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""


def _key(parsed: library.Certificate) -> str:
    key = parsed.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA, {key.key_size} bits, exponent {key.public_numbers().e}"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"ECDSA, {key.curve.name}"
    if isinstance(key, dsa.DSAPublicKey):
        return f"DSA, {key.key_size} bits"
    return type(key).__name__.removesuffix("PublicKey").strip("_")


def _algorithm(text: str, identifier: str) -> str:
    return f"{text} ({identifier})" if identifier else text


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    values = certificate.extensions.get(x509.SUBJECT_ALT_NAME, [])
    return tuple(name for value in values for name in alternative_names(value))


_CHAIN = ["subject", "issuer", "not_before", "not_after", "serial_number", "sha256"]


def _chain(texts: Any, problems: Problems) -> pd.DataFrame:
    """Return the chain that a row has as JSON texts; a table of another writer may have anything there."""
    found: list[dict[str, str]] = [
        problems.of(f"certificate {number} of its chain", partial(_chain_row, text, number, problems), dict[str, str]())
        for number, text in enumerate(() if texts is None else texts, 1)
    ]
    return pd.DataFrame(found, columns=_CHAIN, dtype=object).fillna("")


def _chain_row(text: str, number: int, problems: Problems) -> dict[str, str]:
    content = json.loads(text)
    said = {name: content.get(name, "") for name in _CHAIN}
    for name in ("subject", "issuer"):
        said[name] = said[name]["aggregated"]
    for name, day in (("not_before", "first"), ("not_after", "last")):
        said[name] = _date(said[name], problems, f"the {day} day of certificate {number} of its chain")
    return {name: str(value) for name, value in said.items()}
