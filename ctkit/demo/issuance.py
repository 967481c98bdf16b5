"""Certificates and precertificates for the embedded log, made thousands a second.

Certificate authorities come from ``cryptography``, once per process. What they issue is encoded by hand: everything
that does not change from one certificate to the next is encoded once, and a precertificate, its ``TBSCertificate``
and its final certificate are three arrangements of the same bytes.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha1, sha256
from random import Random

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from ctkit.wire.der import der

_PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

# How many DNS names a certificate has: two at the median, seven at the 95th percentile, twenty at the 99th.
_NAME_COUNTS = (1, 2, 3, 4, 5, 6, 7, 9, 12, 16, 20, 45)
_NAME_COUNT_WEIGHTS = (30, 45, 8, 6, 3, 2, 2, 1, 1, 0.6, 0.9, 0.5)
_PRECERT_SHARE = 0.61
_LIFETIME_DAYS = (90, 90, 90, 198, 365)
_TOP_LEVELS = ("com", "com", "net", "org", "de", "io", "co.uk", "example", "xn--p1ai")
_HOSTS = ("www", "mail", "api", "autodiscover", "cpanel", "webmail", "shop", "dev", "staging", "vpn", "*")
_SYLLABLES = ("ba", "co", "dun", "el", "far", "gri", "hol", "im", "jas", "kon", "lum", "mor", "nex", "or", "pel", "quo")
_SUBJECTS = (("GB", "London", "Greater London", "Acme Widgets Ltd"), ("DE", "München", "Bayern", "Müller & Söhne GmbH"))


@cache
def _oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    content = bytearray()
    for arc in (40 * first + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | arc & 0x7F)
        content += bytes(reversed(groups))
    return der(0x06, bytes(content))


def _integer(number: int) -> bytes:
    return der(0x02, number.to_bytes(number.bit_length() // 8 + 1))


def _sequence(*parts: bytes) -> bytes:
    return der(0x30, *parts)


def _extension(dotted: str, value: bytes, *, critical: bool = False) -> bytes:
    return _sequence(_oid(dotted), der(0x01, b"\xff") if critical else b"", der(0x04, value))


def _attribute(dotted: str, text: str, tag: int = 0x0C) -> bytes:
    return der(0x31, _sequence(_oid(dotted), der(tag, text.encode())))


def _time(seconds: int) -> bytes:
    # RFC 5280, section 4.1.2.5: UTCTime through 2049, GeneralizedTime from 2050 on.
    moment = datetime.fromtimestamp(seconds, UTC)
    if moment.year < 2050:
        return der(0x17, f"{moment:%y%m%d%H%M%SZ}".encode())
    return der(0x18, f"{moment:%Y%m%d%H%M%SZ}".encode())


_VERSION_3 = der(0xA0, _integer(2))
_LEAF_CONSTRAINTS = _extension("2.5.29.19", _sequence(), critical=True)
_KEY_USAGE = _extension("2.5.29.15", der(0x03, b"\x05\xa0"), critical=True)
_EXTENDED_KEY_USAGE = _extension("2.5.29.37", _sequence(_oid("1.3.6.1.5.5.7.3.1"), _oid("1.3.6.1.5.5.7.3.2")))
# RFC 6962, section 3.1: a critical extension whose value is ASN.1 NULL.
_POISON = _extension("1.3.6.1.4.1.11129.2.4.3", b"\x05\x00", critical=True)
_ECDSA_WITH_SHA256 = _sequence(_oid("1.2.840.10045.4.3.2"))
_SHA256_WITH_RSA = _sequence(_oid("1.2.840.113549.1.1.11"), b"\x05\x00")
_CA_KEY_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True)
class Issued:
    """What a log is given to hold at one index.

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

    Attributes
    ----------
    key_hash
        SHA-256 of its ``SubjectPublicKeyInfo``.
    name, algorithm, extensions
        What is the same in all certificates that it issues: the DER of ``issuer``, of ``signature``, and of the
        extensions that point back to it.
    """

    def __init__(self, key: _PrivateKey, chain: tuple[bytes, ...]) -> None:
        certificate = x509.load_der_x509_certificate(chain[0])
        self.key = key
        self.chain = chain
        self.key_hash = sha256(_spki(key.public_key())).digest()
        self.name = certificate.subject.public_bytes()
        self.algorithm = _SHA256_WITH_RSA if isinstance(key, rsa.RSAPrivateKey) else _ECDSA_WITH_SHA256
        key_id = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest
        (common_name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        location = f"http://{str(common_name.value).lower()}.public-trust.embedded-authority.example/".encode()
        crl = der(0xA0, der(0xA0, der(0x86, location + b"server-authentication/partition-17.crl")))
        practice = _sequence(_oid("1.3.6.1.5.5.7.2.1"), der(0x16, location + b"practice-statement"))
        methods = (("1.3.6.1.5.5.7.48.1", b"ocsp"), ("1.3.6.1.5.5.7.48.2", b"server-authentication.cer"))
        access = (_sequence(_oid(method), der(0x86, location + path)) for method, path in methods)
        policies = (_sequence(_oid("2.23.140.1.2.1")), _sequence(_oid("2.999.1"), _sequence(practice)))
        self.extensions = (
            _extension("2.5.29.35", _sequence(der(0x80, key_id)))
            + _extension("1.3.6.1.5.5.7.1.1", _sequence(*access))
            + _extension("2.5.29.31", _sequence(_sequence(crl)))
            + _extension("2.5.29.32", _sequence(*policies))
        )

    def sign(self, tbs: bytes) -> bytes:
        """Return the certificate that signing this ``TBSCertificate`` makes."""
        if isinstance(self.key, rsa.RSAPrivateKey):
            signature = self.key.sign(tbs, padding.PKCS1v15(), hashes.SHA256())
        else:
            signature = self.key.sign(tbs, ec.ECDSA(hashes.SHA256()))
        return _sequence(tbs, self.algorithm, der(0x03, b"\x00", signature))


def issue(random: Random, timestamp: int) -> Issued:
    """Issue one certificate or precertificate of the kind that fills real logs.

    Parameters
    ----------
    random
        Decides everything but the signature: names, serial number, issuer, which of the two it is.
    timestamp
        When, in milliseconds since the Unix epoch; its validity begins up to an hour before.
    """
    authority = random.choices(*_authorities())[0]
    names = _dns_names(random)
    not_before = timestamp // 1000 - random.randrange(3600)
    not_after = not_before + random.choice(_LIFETIME_DAYS) * 86_400 - 1
    key, key_id = random.choices(*_subject_keys())[0]
    before_extensions = (
        _VERSION_3,
        # RFC 5280, section 4.1.2.2: positive, at most 20 octets.
        _integer(random.getrandbits(random.choice((64, 128, 128, 159)))),
        authority.algorithm,
        authority.name,
        _sequence(_time(not_before), _time(not_after)),
        _subject(random, names[0]),
        key,
    )
    extensions = (
        _KEY_USAGE
        + _EXTENDED_KEY_USAGE
        + _LEAF_CONSTRAINTS
        + _extension("2.5.29.14", der(0x04, key_id))
        + authority.extensions
        + _extension("2.5.29.17", _sequence(*(der(0x82, name.encode()) for name in names)))
    )

    def tbs(last_extension: bytes) -> bytes:
        return _sequence(*before_extensions, der(0xA3, _sequence(extensions, last_extension)))

    if random.random() < _PRECERT_SHARE:
        return Issued(authority.sign(tbs(_POISON)), authority.chain, tbs(b""), authority.key_hash)
    return Issued(authority.sign(tbs(_sct_list(random, timestamp))), authority.chain, None, authority.key_hash)


def _dns_names(random: Random) -> list[str]:
    domain = "".join(random.choices(_SYLLABLES, k=random.randint(2, 5))) + "." + random.choice(_TOP_LEVELS)
    hosts = [*random.sample(_HOSTS, len(_HOSTS)), *(f"host{number}" for number in range(1, 50))]
    count = random.choices(_NAME_COUNTS, _NAME_COUNT_WEIGHTS)[0]
    return [domain, *(f"{host}.{domain}" for host in hosts[: count - 1])]


def _subject(random: Random, name: str) -> bytes:
    common_name = _attribute("2.5.4.3", name)
    kind = random.random()
    if kind < 0.80:
        return _sequence(common_name)
    if kind < 0.85:
        # Short-lived certificates have begun to leave the common name out.
        return _sequence()
    country, locality, state, organization = random.choice(_SUBJECTS)
    return _sequence(
        _attribute("2.5.4.6", country, 0x13),
        _attribute("2.5.4.8", state),
        _attribute("2.5.4.7", locality),
        _attribute("2.5.4.10", organization),
        common_name,
    )


def _sct_list(random: Random, timestamp: int) -> bytes:
    # struct { Version sct_version; LogID id; uint64 timestamp; CtExtensions extensions; digitally-signed struct {...} }
    #     SignedCertificateTimestamp;                                       RFC 6962, section 3.2
    # opaque SerializedSCT<1..2^16-1>;
    # struct { SerializedSCT sct_list <1..2^16-1>; } SignedCertificateTimestampList;                     section 3.3
    scts = b""
    for log in (1, 2):
        # Nobody here has these logs' keys: the signatures have the right form and no more.
        signature = _sequence(*(_integer(random.getrandbits(255)) for _ in "rs"))
        head = b"\x00" + sha256(bytes([log])).digest() + timestamp.to_bytes(8) + b"\x00\x00"
        sct = head + b"\x04\x03" + len(signature).to_bytes(2) + signature
        scts += len(sct).to_bytes(2) + sct
    return _extension("1.3.6.1.4.1.11129.2.4.2", der(0x04, len(scts).to_bytes(2), scts))


def _spki(key: _PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@cache
def _subject_keys() -> tuple[list[tuple[bytes, bytes]], list[int]]:
    """Return a few subject public keys with their key identifiers, and how often each is used."""
    random = Random("subject keys")
    keys: list[_PublicKey] = []
    for _ in range(4):
        keys.append(ec.derive_private_key(random.getrandbits(255), ec.SECP256R1()).public_key())
        # Nothing is ever signed with a subject's key, so any odd number will do as an RSA modulus.
        keys.append(rsa.RSAPublicNumbers(65537, random.getrandbits(2048) | 1 << 2047 | 1).public_key())
    encoded = [_spki(key) for key in keys]
    return [(spki, sha1(spki).digest()) for spki in encoded], [1, 4] * 4


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
        Authority(e5, (_certify("E5", e5, "Embedded Root X2", x2_key), x2)),
        Authority(e6, (_certify("E6", e6, "Embedded Root X2", x2_key), x2_by_x1, x1)),
        Authority(d1, (_certify("D1", d1, "Embedded Root X1", x1_key), x1)),
        Authority(r10, (_certify("R10", r10, "Embedded Root X1", x1_key), x1)),
    ]
    # RSA signatures are slow to make, so few are.
    return authorities, [40, 35, 13, 12]


def _certify(subject: str, key: _PrivateKey, issuer: str, issuer_key: _PrivateKey) -> bytes:
    is_root = subject.startswith("Embedded Root")
    start = datetime(2020 if is_root else 2024, 3, 13, tzinfo=UTC)
    builder = (
        x509.CertificateBuilder(_ca_name(issuer), _ca_name(subject), key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=9131 if is_root else 1826))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None if is_root else 0), critical=True)
        .add_extension(_CA_KEY_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if subject != issuer:
        authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        location = x509.UniformResourceIdentifier("http://anchor.embedded-authority.example/anchor.cer")
        access = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, location)
        policy = x509.PolicyInformation(x509.ObjectIdentifier("2.23.140.1.2.1"), None)
        builder = (
            builder.add_extension(authority_key, critical=False)
            .add_extension(x509.AuthorityInformationAccess([access]), critical=False)
            .add_extension(x509.CertificatePolicies([policy]), critical=False)
        )
    if not is_root:
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(purposes, critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _ca_name(common_name: str) -> x509.Name:
    attributes = (
        (NameOID.COUNTRY_NAME, "US"),
        (NameOID.ORGANIZATION_NAME, "Embedded Authority"),
        (NameOID.COMMON_NAME, common_name),
    )
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in attributes])
