"""A chain may end in any root that the log accepts, and in nothing that is known to be another one."""

from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ctkit.wire.roots import Roots

KEYS = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("Root", "Accepted", "CA", "Elsewhere")}


def certify(subject: str, issuer: str, *, signer: str | None = None, ca: bool | None = True, serial: int = 1) -> bytes:
    """Return a certificate for the key of `subject`; None as `ca` for one without extensions."""

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    key: Any = KEYS.get(subject, KEYS["CA"])
    dates = datetime(2026, 3, 10, tzinfo=UTC), datetime(2036, 3, 10, tzinfo=UTC)
    builder = x509.CertificateBuilder(name(issuer), name(subject), key.public_key(), serial, *dates)
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    signed = builder.sign(KEYS[signer or issuer], hashes.SHA256())
    return signed.public_bytes(Encoding.DER)


ROOT, ACCEPTED = certify("Root", "Root"), certify("Accepted", "Elsewhere")
ENDS = {
    "an accepted root that another has signed": (ACCEPTED, True, True),
    "a root that the log accepted before": (certify("CA", "Elsewhere"), True, True),
    "such a root without extensions": (certify("CA", "Elsewhere", ca=None), True, True),
    "a certificate whose root is missing": (certify("CA", "Root"), False, True),
    "a certificate whose root, not signed by itself, is missing": (certify("CA", "Accepted"), False, True),
    "another certificate of a root": (certify("Accepted", "Elsewhere", serial=2), False, True),
    "a root that does not sign itself, and is not accepted": (certify("CA", "CA", signer="Root"), False, True),
    "a certificate that must not issue": (certify("CA", "Elsewhere", ca=False), False, False),
    "no certificate": (b"no certificate", False, False),
}


@pytest.mark.parametrize(("end", "known", "unknown"), ENDS.values(), ids=ENDS)
def test_may_be_end(end: bytes, known: bool, unknown: bool) -> None:
    """Where the log says what it accepts, more ends are known to be wrong than where it does not."""
    assert Roots([ROOT, ACCEPTED, b"odd"]).may_be_end(end) is known
    assert Roots(None).may_be_end(end) is unknown


def test_may_be_end_of_an_accepted_root_of_any_kind() -> None:
    """What the log accepts may be an end, whatever it is like."""
    odd = [b"no certificate", certify("CA", "Root", ca=False), certify("Root", "Root", signer="CA")]

    assert all(map(Roots([ROOT, *odd]).may_be_end, odd))
