"""Signatures with RSA or ECDSA, and the keys that logs may sign with."""

import base64

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_public_key

RSA, ECDSA = 1, 3
"""``SignatureAlgorithm`` of RFC 5246, section 7.4.1.4.1, as far as logs may use it."""


def algorithm_of(key: PublicKeyTypes) -> int | None:
    """Return how a log signs with this key; None if it may not (RFC 6962, section 2.1.4)."""
    match key:
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1()):
            return ECDSA
        case rsa.RSAPublicKey():
            return RSA
    return None


def check_public_key(public_key: bytes) -> None:
    """Check that a log may sign with a key (RFC 6962, section 2.1.4).

    Parameters
    ----------
    public_key
        DER of a ``SubjectPublicKeyInfo``.

    Raises
    ------
    ValueError
        It cannot be read, or is neither ECDSA P-256 nor RSA.
    """
    try:
        key = load_der_public_key(public_key)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("it is not a public key (SubjectPublicKeyInfo); copy the key from the log list") from error
    if algorithm_of(key) is None:
        raise ValueError("it is neither ECDSA P-256 nor RSA, which logs sign with; take the key of the log list")


def read_key(key: object) -> bytes:
    """Return the DER of a log's key, given as DER or as the base64 text of a log list.

    Raises
    ------
    ValueError
        It is neither, or no key that a log may sign with.
    """
    if isinstance(key, str):
        try:
            key = base64.b64decode(key, validate=True)
        except ValueError:
            raise ValueError("it is not base64; copy the key from the log list") from None
    if not isinstance(key, bytes):
        raise ValueError("it should be base64 text, as in a log list, or the bytes of its DER")
    check_public_key(key)
    return key


def verify_signature(public_key: bytes, signature: bytes, signed: bytes) -> bool:
    """Tell whether a signature with SHA-256 holds, by a key that `check_public_key` accepts."""
    return signature_holds(load_der_public_key(public_key), signature, signed)


def signature_holds(
    key: PublicKeyTypes, signature: bytes, signed: bytes, algorithm: hashes.HashAlgorithm | None = None
) -> bool:
    """Tell whether a signature by RSA with PKCS #1 v1.5 or by ECDSA holds; one by any other key does not.

    Parameters
    ----------
    algorithm
        How `signed` is hashed; SHA-256 by default.

    Raises
    ------
    UnsupportedAlgorithm
        The library refuses `algorithm`.
    """
    algorithm = algorithm or hashes.SHA256()
    try:
        match key:
            case ec.EllipticCurvePublicKey():
                key.verify(signature, signed, ec.ECDSA(algorithm))
            case rsa.RSAPublicKey():
                key.verify(signature, signed, padding.PKCS1v15(), algorithm)
            case _:
                return False
    except InvalidSignature:
        return False
    return True
