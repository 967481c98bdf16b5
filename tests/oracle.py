"""What `cryptography` reads from a certificate, in the words of our rows: an oracle where both can read it."""

from collections.abc import Iterator
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

PURPOSES = {
    f"1.3.6.1.5.5.7.3.{last}": text
    for last, text in [
        (1, "serverAuth"),
        (2, "clientAuth"),
        (3, "codeSigning"),
        (4, "emailProtection"),
        (8, "timeStamping"),
        (9, "OCSPSigning"),
    ]
} | {"2.5.29.37.0": "anyExtendedKeyUsage"}
USAGES = {
    "digital_signature": "Digital Signature",
    "content_commitment": "Content Commitment",
    "key_encipherment": "Key Encipherment",
    "data_encipherment": "Data Encipherment",
    "key_agreement": "Key Agreement",
    "key_cert_sign": "Certificate Signing",
    "crl_sign": "CRL Signing",
    "encipher_only": "Encipher Only",
    "decipher_only": "Decipher Only",
}
ATTRIBUTES = {
    NameOID.COUNTRY_NAME: "C",
    NameOID.COMMON_NAME: "CN",
    NameOID.LOCALITY_NAME: "L",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
}
"""In the order in which names show them."""

NAMES = {x509.DNSName: "DNS", x509.RFC822Name: "email", x509.IPAddress: "IP Address"}


def is_ca(certificate: x509.Certificate) -> bool:
    """Return what BasicConstraints say; nothing is no."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def shown(value: x509.ExtensionType) -> Iterator[tuple[str, Any]]:
    """Yield key and value of an extension in the JSON text of a chain, if it is shown there."""
    match value:
        case x509.AuthorityInformationAccess():
            locations = [access.access_location for access in value]
            uris = [f"URI:{name.value}" for name in locations if isinstance(name, x509.UniformResourceIdentifier)]
            if uris:
                yield "authorityInfoAccess", ", ".join(uris)
        case x509.AuthorityKeyIdentifier(key_identifier=bytes(key)):
            yield "authorityKeyIdentifier", f"keyid:{key.hex(':')}"
        case x509.SubjectKeyIdentifier(digest=key):
            yield "subjectKeyIdentifier", f"keyid:{key.hex(':')}"
        case x509.BasicConstraints(ca=ca):
            yield "basicConstraints", "CA:TRUE" if ca else "CA:FALSE"
        case x509.CertificatePolicies():
            if texts := [f"Policy: {policy.policy_identifier.dotted_string}\n" for policy in value]:
                yield "certificatePolicies", "".join(texts)
        case x509.ExtendedKeyUsage():
            purposes = {purpose.dotted_string for purpose in value}
            yield "extendedKeyUsage", ", ".join(text for purpose, text in PURPOSES.items() if purpose in purposes)
        case x509.KeyUsage(key_agreement=agreement):
            # Without key agreement, `cryptography` does not say what the last two are.
            usages = list(USAGES)[: 9 if agreement else 7]
            yield "keyUsage", ", ".join(USAGES[usage] for usage in usages if getattr(value, usage))
        case x509.SubjectAlternativeName():
            if texts := [f"{NAMES[type(name)]}:{name.value}" for name in value if type(name) in NAMES]:
                yield "subjectAltName", ", ".join(texts)
        case x509.PrecertPoison():
            yield "ctlPoisonByte", True
