"""A chain may end in any root that the log accepts, and in nothing that is known to be another one."""

import pytest
from blocks import certify
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ctkit.wire.roots import Roots

KEYS = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("Root", "Accepted", "CA", "Elsewhere")}


def certificate(subject: str, issuer: str, *, signer: str = "", ca: bool | None = True, serial: int = 1) -> bytes:
    """Return a certificate for the key of `subject`; None as `ca` for one without extensions."""
    extensions = [] if ca is None else [x509.BasicConstraints(ca=ca, path_length=None)]
    keys = KEYS[subject], KEYS[signer or issuer]
    return certify(subject, keys[0], issuer, keys[1], *extensions, serial_number=serial).public_bytes(Encoding.DER)


ROOT, ACCEPTED = certificate("Root", "Root"), certificate("Accepted", "Elsewhere")
ENDS = {
    "an accepted root that another has signed": (ACCEPTED, True, True),
    "a root that the log accepted before": (certificate("CA", "Elsewhere"), True, True),
    "such a root without extensions": (certificate("CA", "Elsewhere", ca=None), True, True),
    "a certificate whose root is missing": (certificate("CA", "Root"), False, True),
    "a certificate whose root, not signed by itself, is missing": (certificate("CA", "Accepted"), False, True),
    "another certificate of a root": (certificate("Accepted", "Elsewhere", serial=2), False, True),
    "a root that does not sign itself, and is not accepted": (certificate("CA", "CA", signer="Root"), False, True),
    "a certificate that must not issue": (certificate("CA", "Elsewhere", ca=False), False, False),
    "no certificate": (b"no certificate", False, False),
}


@pytest.mark.parametrize(("end", "known", "unknown"), ENDS.values(), ids=ENDS)
def test_may_be_end(end: bytes, known: bool, unknown: bool) -> None:
    """Where the log says what it accepts, more ends are known to be wrong than where it does not."""
    assert Roots([ROOT, ACCEPTED, b"odd"]).may_be_end(end) is known
    assert Roots(None).may_be_end(end) is unknown


def test_may_be_end_of_an_accepted_root_of_any_kind() -> None:
    """What the log accepts may be an end, whatever it is like."""
    odd = [b"no certificate", certificate("CA", "Root", ca=False), certificate("Root", "Root", signer="CA")]

    assert all(map(Roots([ROOT, *odd]).may_be_end, odd))
