"""Certificates and precertificates for the embedded log, thousands a second."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from random import Random

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, ExtensionOID, NameOID

from ctkit.wire.der import der

_PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

# How many DNS names a certificate has: two in the median, seven at the 95th percentile, twenty at the 99th.
_NAME_COUNTS = (1, 2, 3, 4, 5, 6, 7, 9, 12, 16, 20, 45)
_NAME_COUNT_WEIGHTS = (30, 45, 8, 6, 3, 2, 2, 1, 1, 0.6, 0.9, 0.5)
_PRECERT_SHARE = 0.61
_LIFETIME_DAYS = (90, 90, 90, 198, 365)
_TOP_LEVELS = ("com", "com", "net", "org", "de", "io", "co.uk", "example", "xn--p1ai")
_HOSTS = ("www", "mail", "api", "autodiscover", "cpanel", "webmail", "shop", "dev", "staging", "vpn", "*")
_SYLLABLES = ("ba", "co", "dun", "el", "far", "gri", "hol", "im", "jas", "kon", "lum", "mor", "nex", "or", "pel", "quo")
_SUBJECTS = (("GB", "London", "Greater London", "Acme Widgets Ltd"), ("DE", "München", "Bayern", "Müller & Söhne GmbH"))


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not is_ca,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


_CRITICAL = (x509.BasicConstraints, x509.KeyUsage, x509.PrecertPoison)
_CA_KEY_USAGE, _LEAF_KEY_USAGE = _key_usage(is_ca=True), _key_usage(is_ca=False)
_PURPOSES = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
_LEAF_CONSTRAINTS = x509.BasicConstraints(ca=False, path_length=None)
_DOMAIN_VALIDATED = x509.PolicyInformation(x509.ObjectIdentifier("2.23.140.1.2.1"), None)


@dataclass(frozen=True)
class Issued:
    """What is submitted to a log for one index.

    Attributes
    ----------
    certificate
        DER; of the full pre-certificate with its poison where `tbs` is not None.
    chain
        DER of the chain, from the issuer to the root.
    tbs
        For a precertificate, the ``TBSCertificate`` without the poison; None for a certificate.
    issuer_key_hash
        SHA-256 of the issuer's ``SubjectPublicKeyInfo``.
    """

    certificate: bytes
    chain: tuple[bytes, ...]
    tbs: bytes | None
    issuer_key_hash: bytes


class Authority:
    """One certificate authority that issues.

    Parameters
    ----------
    key
        Its private key: ECDSA P-256 or RSA.
    chain
        Its own certificate first, the root last.
    """

    def __init__(self, key: _PrivateKey, *chain: x509.Certificate) -> None:
        self.key = key
        self.chain = tuple(certificate.public_bytes(Encoding.DER) for certificate in chain)
        self.name = chain[0].subject
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.key_hash = sha256(spki).digest()
        (common_name,) = self.name.get_attributes_for_oid(NameOID.COMMON_NAME)
        location = f"http://{str(common_name.value).lower()}.public-trust.embedded-authority.example/"
        crl = x509.UniformResourceIdentifier(f"{location}server-authentication/partition-17.crl")
        practice = x509.PolicyInformation(x509.ObjectIdentifier("2.999.1"), [f"{location}practice-statement"])
        # They point from all that it issues back to it.
        self.extensions: list[x509.ExtensionType] = [
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()),
            _access(ocsp=f"{location}ocsp", ca_issuers=f"{location}server-authentication.cer"),
            x509.CRLDistributionPoints([x509.DistributionPoint([crl], None, None, None)]),
            x509.CertificatePolicies([_DOMAIN_VALIDATED, practice]),
        ]


def issue(random: Random, timestamp: int, *, names: Sequence[str] = (), organization: str = "") -> Issued:
    """Issue one certificate or precertificate of the kind that fills real logs.

    Parameters
    ----------
    random
        Decides everything but the signature: names, serial number, issuer, and which of the two it is.
    timestamp
        When it is issued, in milliseconds since the Unix epoch; its validity begins up to an hour before.
    names, organization
        What its subject is called, in place of names like those in real logs.
    """
    authority = random.choices(*_authorities())[0]
    names = names or _dns_names(random)
    start = datetime.fromtimestamp(timestamp // 1000 - random.randrange(3600), UTC)
    lifetime = timedelta(days=random.choice(_LIFETIME_DAYS), seconds=-1)
    key, key_id = random.choices(*_subject_keys())[0]
    # RFC 5280, section 4.1.2.2: positive, at most 20 octets.
    serial_number = random.getrandbits(random.choice((64, 128, 128, 159)))
    subject = _name(C="ZZ", O=organization, CN=names[0]) if organization else _subject(random, names[0])
    extensions: list[x509.ExtensionType] = [
        _LEAF_KEY_USAGE,
        _PURPOSES,
        _LEAF_CONSTRAINTS,
        key_id,
        *authority.extensions,
        x509.SubjectAlternativeName([x509.DNSName(name) for name in names]),
    ]

    def sign(*more: x509.ExtensionType) -> x509.Certificate:
        all_extensions = [*extensions, *more]
        return _sign(authority.name, authority.key, subject, key, serial_number, start, lifetime, all_extensions)

    if random.random() < _PRECERT_SHARE:
        certificate, tbs = sign(x509.PrecertPoison()), sign().tbs_certificate_bytes
    else:
        certificate, tbs = sign(_sct_list(random, timestamp)), None
    return Issued(certificate.public_bytes(Encoding.DER), authority.chain, tbs, authority.key_hash)


def _dns_names(random: Random) -> list[str]:
    domain = "".join(random.choices(_SYLLABLES, k=random.randint(2, 5))) + "." + random.choice(_TOP_LEVELS)
    hosts = [*random.sample(_HOSTS, len(_HOSTS)), *(f"host{number}" for number in range(1, 50))]
    count = random.choices(_NAME_COUNTS, _NAME_COUNT_WEIGHTS)[0]
    return [domain, *(f"{host}.{domain}" for host in hosts[: count - 1])]


def _subject(random: Random, name: str) -> x509.Name:
    kind = random.random()
    if kind < 0.80:
        return _name(CN=name)
    if kind < 0.85:
        # Short-lived certificates have begun to leave the common name out.
        return _name()
    country, locality, state, organization = random.choice(_SUBJECTS)
    return _name(C=country, ST=state, L=locality, O=organization, CN=name)


_ATTRIBUTES = {
    "C": NameOID.COUNTRY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "L": NameOID.LOCALITY_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "CN": NameOID.COMMON_NAME,
}


def _name(**texts: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(_ATTRIBUTES[attribute], text) for attribute, text in texts.items()])


def _access(**uris: str) -> x509.AuthorityInformationAccess:
    methods = ((getattr(AuthorityInformationAccessOID, method.upper()), uri) for method, uri in uris.items())
    return x509.AuthorityInformationAccess(
        [x509.AccessDescription(method, x509.UniformResourceIdentifier(uri)) for method, uri in methods]
    )


def _sct_list(random: Random, timestamp: int) -> x509.UnrecognizedExtension:
    # struct { Version sct_version; LogID id; uint64 timestamp; CtExtensions extensions; digitally-signed struct {...} }
    #     SignedCertificateTimestamp;                                       RFC 6962, section 3.2
    # opaque SerializedSCT<1..2^16-1>;
    # struct { SerializedSCT sct_list <1..2^16-1>; } SignedCertificateTimestampList;                     section 3.3
    scts = b""
    for log in (1, 2):
        # These logs' keys do not exist: the signatures have the right form and no more.
        signature = encode_dss_signature(random.getrandbits(255), random.getrandbits(255))
        head = b"\x00" + sha256(bytes([log])).digest() + timestamp.to_bytes(8) + b"\x00\x00"
        sct = head + b"\x04\x03" + len(signature).to_bytes(2) + signature
        scts += len(sct).to_bytes(2) + sct
    value = der(0x04, len(scts).to_bytes(2), scts)
    return x509.UnrecognizedExtension(ExtensionOID.PRECERT_SIGNED_CERTIFICATE_TIMESTAMPS, value)


@cache
def _subject_keys() -> tuple[list[tuple[_PublicKey, x509.SubjectKeyIdentifier]], list[int]]:
    """Return a few subject public keys with their key identifiers, and how often each is used."""
    random = Random("subject keys")
    keys: list[_PublicKey] = []
    for _ in range(4):
        keys.append(ec.derive_private_key(random.getrandbits(255), ec.SECP256R1()).public_key())
        # Nothing is ever signed with a subject's key, so any odd number will do as an RSA modulus.
        keys.append(rsa.RSAPublicNumbers(65537, random.getrandbits(2048) | 1 << 2047 | 1).public_key())
    return [(key, x509.SubjectKeyIdentifier.from_public_key(key)) for key in keys], [1, 4] * 4


@cache
def _authorities() -> tuple[list[Authority], list[int]]:
    """Return the issuing authorities and how often each is used: two roots, four intermediates, one cross-sign."""
    x1_key, x2_key = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
    x1 = _certify("Embedded Root X1", x1_key, "Embedded Root X1", x1_key)
    x2 = _certify("Embedded Root X2", x2_key, "Embedded Root X2", x2_key)
    x2_by_x1 = _certify("Embedded Root X2", x2_key, "Embedded Root X1", x1_key)
    e5, e6, d1 = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    r10 = rsa.generate_private_key(65537, 2048)
    authorities = [
        Authority(e5, _certify("E5", e5, "Embedded Root X2", x2_key), x2),
        Authority(e6, _certify("E6", e6, "Embedded Root X2", x2_key), x2_by_x1, x1),
        Authority(d1, _certify("D1", d1, "Embedded Root X1", x1_key), x1),
        Authority(r10, _certify("R10", r10, "Embedded Root X1", x1_key), x1),
    ]
    # RSA signatures are slow to make, so few are.
    return authorities, [40, 35, 13, 12]


def _certify(subject: str, key: _PrivateKey, issuer: str, issuer_key: _PrivateKey) -> x509.Certificate:
    """Issue the certificate of an authority."""
    is_root = subject.startswith("Embedded Root")
    extensions: list[x509.ExtensionType] = [
        x509.BasicConstraints(ca=True, path_length=None if is_root else 0),
        _CA_KEY_USAGE,
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
    ]
    if subject != issuer:
        extensions += [
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            _access(ca_issuers="http://anchor.embedded-authority.example/anchor.cer"),
            x509.CertificatePolicies([_DOMAIN_VALIDATED]),
        ]
    if not is_root:
        extensions.append(_PURPOSES)
    issuer_name, subject_name = (_name(C="US", O="Embedded Authority", CN=name) for name in (issuer, subject))
    start, lifetime = datetime(2020 if is_root else 2024, 3, 13, tzinfo=UTC), timedelta(9131 if is_root else 1826)
    serial_number = x509.random_serial_number()
    return _sign(issuer_name, issuer_key, subject_name, key.public_key(), serial_number, start, lifetime, extensions)


def _sign(
    issuer: x509.Name,
    issuer_key: _PrivateKey,
    subject: x509.Name,
    key: _PublicKey,
    serial_number: int,
    start: datetime,
    lifetime: timedelta,
    values: list[x509.ExtensionType],
) -> x509.Certificate:
    # All extensions at once: add_extension compares each with those before it.
    extensions = [x509.Extension(value.oid, isinstance(value, _CRITICAL), value) for value in values]
    builder = x509.CertificateBuilder(issuer, subject, key, serial_number, extensions=extensions)
    return builder.not_valid_before(start).not_valid_after(start + lifetime).sign(issuer_key, hashes.SHA256())
