"""Certificates and precertificates for the embedded log, made thousands a second.

Certificate authorities come from `cryptography`, once per process. What they issue is encoded by hand: everything
that does not change from one certificate to the next is encoded once, and a precertificate, its ``TBSCertificate``
and its final certificate are three arrangements of the same bytes.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha1, sha256
from random import Random

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

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


def der(tag: int, *parts: bytes) -> bytes:
    """Encode one DER element from its tag and the parts of its content.

    Examples
    --------
    >>> der(0x04, b"ab", b"c").hex()
    '0403616263'
    """
    content = b"".join(parts)
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(octets))) + octets + content


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
_SIGNATURE_ALGORITHMS = {
    "ecdsa": _sequence(_oid("1.2.840.10045.4.3.2")),
    "rsa": _sequence(_oid("1.2.840.113549.1.1.11"), b"\x05\x00"),
}


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


@dataclass(frozen=True, eq=False)
class Authority:
    """One certificate authority that issues.

    Attributes
    ----------
    key
        Its private key: ECDSA P-256 or RSA.
    chain
        Its own certificate first, the root last.
    """

    key: _PrivateKey
    chain: tuple[bytes, ...]
    name: bytes = field(init=False)
    key_hash: bytes = field(init=False)
    algorithm: bytes = field(init=False)
    extensions: bytes = field(init=False)

    def __post_init__(self) -> None:
        certificate = x509.load_der_x509_certificate(self.chain[0])
        key_id = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest
        (common_name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        location = f"http://{str(common_name.value).lower()}.public-trust.embedded-authority.example/".encode()
        methods = (("1.3.6.1.5.5.7.48.1", b"ocsp"), ("1.3.6.1.5.5.7.48.2", b"server-authentication.cer"))
        access = _sequence(*(_sequence(_oid(method), der(0x86, location + path)) for method, path in methods))
        crl = _sequence(
            _sequence(der(0xA0, der(0xA0, der(0x86, location + b"server-authentication/partition-17.crl"))))
        )
        practice = _sequence(_sequence(_oid("1.3.6.1.5.5.7.2.1"), der(0x16, location + b"practice-statement")))
        policies = _sequence(_sequence(_oid("2.23.140.1.2.1")), _sequence(_oid("2.999.1"), practice))
        parts = (
            _extension("2.5.29.35", _sequence(der(0x80, key_id))),
            _extension("1.3.6.1.5.5.7.1.1", access),
            _extension("2.5.29.31", crl),
            _extension("2.5.29.32", policies),
        )
        object.__setattr__(self, "name", certificate.subject.public_bytes())
        object.__setattr__(self, "key_hash", sha256(_spki(self.key)).digest())
        kind = "rsa" if isinstance(self.key, rsa.RSAPrivateKey) else "ecdsa"
        object.__setattr__(self, "algorithm", _SIGNATURE_ALGORITHMS[kind])
        object.__setattr__(self, "extensions", b"".join(parts))

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
        _integer(random.getrandbits(random.choice((63, 127, 127, 159)))),
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


def _spki(key: _PrivateKey) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.DER, form)


@cache
def _subject_keys() -> tuple[list[tuple[bytes, bytes]], list[int]]:
    """Return a few subject public keys with their key identifiers, and how often each is used."""
    random = Random("subject keys")
    ec_keys = [_spki(ec.derive_private_key(random.getrandbits(255) + 1, ec.SECP256R1())) for _ in range(4)]
    # Nothing is ever signed with a subject's key, so any odd number will do as an RSA modulus.
    moduli = [random.getrandbits(2048) | 1 << 2047 | 1 for _ in range(4)]
    rsa_keys = [
        rsa.RSAPublicNumbers(65537, n)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        for n in moduli
    ]
    keys = [(spki, sha1(spki).digest()) for spki in ec_keys + rsa_keys]
    return keys, [1] * 4 + [4] * 4


@cache
def _authorities() -> tuple[list[Authority], list[int]]:
    """Return the issuing authorities and how often each is used: two roots, four intermediates, one cross-sign."""
    e_root, r_root = ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)
    e_root_der = _certify("Embedded Root X2", e_root, "Embedded Root X2", e_root)
    r_root_der = _certify("Embedded Root X1", r_root, "Embedded Root X1", r_root)
    cross_der = _certify("Embedded Root X2", e_root, "Embedded Root X1", r_root)
    keys: list[_PrivateKey] = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
    keys.append(rsa.generate_private_key(65537, 2048))
    signers: tuple[tuple[str, _PrivateKey, tuple[bytes, ...]], ...] = (
        ("Embedded Root X2", e_root, (e_root_der,)),
        ("Embedded Root X2", e_root, (cross_der, r_root_der)),
        ("Embedded Root X1", r_root, (r_root_der,)),
        ("Embedded Root X1", r_root, (r_root_der,)),
    )
    authorities = [
        Authority(key, (_certify(name, key, signer, signer_key), *chain))
        for name, key, (signer, signer_key, chain) in zip(("E5", "E6", "D1", "R10"), keys, signers, strict=True)
    ]
    # RSA signatures are slow to make, so few are.
    return authorities, [40, 35, 13, 12]


def _certify(subject: str, key: _PrivateKey, issuer: str, issuer_key: _PrivateKey) -> bytes:
    start = datetime(2020, 9, 4, tzinfo=UTC)
    is_root = subject.startswith("Embedded Root")
    access = [
        x509.AccessDescription(method, x509.UniformResourceIdentifier(f"http://root.example/{path}"))
        for method, path in (
            (x509.oid.AuthorityInformationAccessOID.OCSP, "ocsp"),
            (x509.oid.AuthorityInformationAccessOID.CA_ISSUERS, "root.cer"),
        )
    ]
    builder = (
        x509.CertificateBuilder(_ca_name(issuer), _ca_name(subject), key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=3650 if is_root else 1826))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None if is_root else 0), critical=True)
        .add_extension(_CA_KEY_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if subject != issuer:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        policy = x509.PolicyInformation(x509.ObjectIdentifier("2.23.140.1.2.1"), None)
        server_auth = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH])
        for extension in (identifier, x509.AuthorityInformationAccess(access), x509.CertificatePolicies([policy])):
            builder = builder.add_extension(extension, critical=False)
        if not is_root:
            builder = builder.add_extension(server_auth, critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _ca_name(common_name: str) -> x509.Name:
    attributes = (
        (NameOID.COUNTRY_NAME, "US"),
        (NameOID.ORGANIZATION_NAME, "Embedded Authority"),
        (NameOID.COMMON_NAME, common_name),
    )
    return x509.Name([x509.NameAttribute(oid, text) for oid, text in attributes])
