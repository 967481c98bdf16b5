"""One certificate: from DER to the fields of a row.

Nothing here raises. Certificates in real logs do not always follow RFC 5280, and one odd field must not cost the
others: a field that cannot be read is empty, and a list is read up to where its framing breaks. A certificate counts as
unreadable only if its outer structure is broken; the fields read until then are kept.

The encoding may be BER: some old certificates have lengths in more octets than needed, or of the indefinite form.
"""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from ctkit.wire.der import ABSENT, Element, contents, elements, first, header, members
from ctkit.wire.times import read_time

_BOOLEAN, _INTEGER, _BIT_STRING, _OCTET_STRING, _OBJECT_IDENTIFIER = 0x01, 0x02, 0x03, 0x04, 0x06
_OCTET_STRINGS, _SEQUENCE = 0x24, 0x30
_VERSION, _EXTENSIONS, _KEY_IDENTIFIER = 0xA0, 0xA3, 0x80

RFC822_NAME, DNS_NAME, URI, IP_ADDRESS = 0x81, 0x82, 0x86, 0x87
"""Identifier octets of general names (RFC 5280, section 4.2.1.6)."""

SUBJECT_KEY_IDENTIFIER = b"\x55\x1d\x0e"
KEY_USAGE = b"\x55\x1d\x0f"
SUBJECT_ALT_NAME = b"\x55\x1d\x11"
BASIC_CONSTRAINTS = b"\x55\x1d\x13"
CERTIFICATE_POLICIES = b"\x55\x1d\x20"
AUTHORITY_KEY_IDENTIFIER = b"\x55\x1d\x23"
EXTENDED_KEY_USAGE = b"\x55\x1d\x25"
AUTHORITY_INFO_ACCESS = b"\x2b\x06\x01\x05\x05\x07\x01\x01"
POISON = b"\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x03"
"""Object identifiers of extensions; the poison is that of RFC 6962, section 3.1."""

POISON_EXTENSION = b"\x30\x13\x06\x0a" + POISON + b"\x01\x01\xff\x04\x02\x05\x00"
"""The whole extension, as RFC 6962 defines it: critical, with ASN.1 NULL as its value."""

_ATTRIBUTES = {
    b"\x06\x03\x55\x04\x06": "C",
    b"\x06\x03\x55\x04\x03": "CN",
    b"\x06\x03\x55\x04\x07": "L",
    b"\x06\x03\x55\x04\x0a": "O",
    b"\x06\x03\x55\x04\x0b": "OU",
    b"\x06\x03\x55\x04\x08": "ST",
    b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x09\x01": "email_address",
}


_DEEPEST = 5
"""Nested constructed strings in an OCTET STRING; OpenSSL has the same limit."""


class Certificate(NamedTuple):
    """The fields of a certificate, empty where they cannot be read.

    Attributes
    ----------
    readable
        Whether the certificate and its ``TBSCertificate`` are complete.
    signature_algorithm
        Object identifier of the algorithm named outside the signed part.
    serial_number
        Big-endian two's complement as encoded: it may have superfluous leading zeros, or be negative.
    issuer, subject
        For `read_name`.
    not_before, not_after
        Seconds since the Unix epoch; 0 for a date that cannot be read.
    extensions
        The values of each object identifier, in the certificate's order, for the readers below.
    critical
        Object identifiers of the extensions that say they are critical.
    """

    readable: bool
    signature_algorithm: bytes
    serial_number: bytes
    issuer: bytes
    subject: bytes
    not_before: int
    not_after: int
    extensions: dict[bytes, list[bytes]]
    critical: frozenset[bytes]


# Certificate  ::=  SEQUENCE  {
#      tbsCertificate       TBSCertificate,
#      signatureAlgorithm   AlgorithmIdentifier,
#      signatureValue       BIT STRING  }
#
# TBSCertificate  ::=  SEQUENCE  {
#      version         [0]  EXPLICIT Version DEFAULT v1,
#      serialNumber         CertificateSerialNumber,
#      signature            AlgorithmIdentifier,
#      issuer               Name,
#      validity             Validity,
#      subject              Name,
#      subjectPublicKeyInfo SubjectPublicKeyInfo,
#      issuerUniqueID  [1]  IMPLICIT UniqueIdentifier OPTIONAL,
#      subjectUniqueID [2]  IMPLICIT UniqueIdentifier OPTIONAL,
#      extensions      [3]  EXPLICIT Extensions OPTIONAL  }
#
# Validity ::= SEQUENCE {
#      notBefore      Time,
#      notAfter       Time  }
#
# AlgorithmIdentifier  ::=  SEQUENCE  {
#      algorithm               OBJECT IDENTIFIER,
#      parameters              ANY DEFINED BY algorithm OPTIONAL  }
def read_certificate(der: bytes) -> Certificate:
    """Read one certificate (RFC 5280, section 4.1) from any bytes; bytes after it are ignored.

    Examples
    --------
    >>> read_certificate(b"no certificate").readable
    False
    """
    # The two outer elements may be cut short: then the rest is read, but the certificate is unreadable.
    outer_tag, start, outer_stop = header(der, 0, len(der))
    end = min(outer_stop, len(der))
    tbs_tag, start, tbs_stop = header(der, start, end)
    algorithm_tag, algorithm_start, algorithm_stop = header(der, tbs_stop, end)
    fields: list[Element] = []
    if outer_tag == tbs_tag == _SEQUENCE:
        fields += islice(elements(der, start, min(tbs_stop, end)), 11)
    if fields and fields[0][0] == _VERSION:
        del fields[0]
    readable = (
        len(fields) >= 6
        and fields[-1][2] == tbs_stop
        and algorithm_tag == _SEQUENCE
        and algorithm_stop <= end == outer_stop
    )
    serial_number, _, issuer, validity, subject, _ = (fields + [ABSENT] * 6)[:6]
    dates = elements(der, validity[1], validity[2])
    return Certificate(
        readable,
        contents(der, first(der, algorithm_start, algorithm_stop), _OBJECT_IDENTIFIER) if readable else b"",
        contents(der, serial_number, _INTEGER),
        contents(der, issuer, _SEQUENCE),
        contents(der, subject, _SEQUENCE),
        read_time(der, next(dates, ABSENT)),
        read_time(der, next(dates, ABSENT)),
        *_read_extensions(der, fields[6:]),
    )


# Extensions  ::=  SEQUENCE SIZE (1..MAX) OF Extension
#
# Extension  ::=  SEQUENCE  {
#      extnID      OBJECT IDENTIFIER,
#      critical    BOOLEAN DEFAULT FALSE,
#      extnValue   OCTET STRING  }
def _read_extensions(der: bytes, optional_fields: list[Element]) -> tuple[dict[bytes, list[bytes]], frozenset[bytes]]:
    values: dict[bytes, list[bytes]] = {}
    critical = set()
    for tag, start, stop in optional_fields:
        if tag != _EXTENSIONS:
            continue
        _, start, extensions_stop = header(der, start, stop)
        for _, at, end in elements(der, start, min(extensions_stop, stop)):
            _, id_start, id_stop = header(der, at, end)
            value_tag, start, stop = header(der, id_stop, end)
            if value_tag == _BOOLEAN:
                if any(der[start:stop]):
                    critical.add(der[id_start:id_stop])
                value_tag, start, stop = header(der, stop, end)
            value = _octets(der, (value_tag, start, stop)) if stop <= end else None
            if value is not None:
                values.setdefault(der[id_start:id_stop], []).append(value)
    return values, frozenset(critical)


def _octets(der: bytes, element: Element) -> bytes | None:
    """Return the octets of an OCTET STRING, which may consist of several in BER; None if it is something else."""
    tag, at, end = element
    if tag == _OCTET_STRING:
        return der[at:end]
    if tag != _OCTET_STRINGS:
        return None
    parts, depth = list[bytes](), 0
    while at < end:
        tag, start, stop = header(der, at, end)
        depth += tag == _OCTET_STRINGS
        # An empty element of tag 0 ends one of indefinite length.
        if stop > end or depth > _DEEPEST or (tag not in (_OCTET_STRING, _OCTET_STRINGS) and (tag or start < stop)):
            return None
        if tag == _OCTET_STRING:
            parts.append(der[start:stop])
        at = start if tag == _OCTET_STRINGS else stop
    return b"".join(parts)


# Name ::= CHOICE { rdnSequence  RDNSequence }
# RDNSequence ::= SEQUENCE OF RelativeDistinguishedName
# RelativeDistinguishedName ::= SET SIZE (1..MAX) OF AttributeTypeAndValue
# AttributeTypeAndValue ::= SEQUENCE {
#      type     AttributeType,
#      value    AttributeValue }
def read_name(name: bytes) -> dict[str, str]:
    """Return the attributes C, CN, L, O, OU, ST and email_address of a name; if a type is repeated, the last one.

    Values are read as UTF-8, whatever their string type; those that are not UTF-8 are left out.

    Examples
    --------
    >>> read_name(bytes.fromhex("310b 3009 0603550406 13025553  310b 3009 0603550406 13024742"))
    {'C': 'GB'}
    """
    texts: dict[str, str] = {}
    for _, set_start, set_stop in elements(name, 0, len(name)):
        for _, at, end in elements(name, set_start, set_stop):
            _, _, type_stop = header(name, at, end)
            attribute = _ATTRIBUTES.get(name[at:type_stop])
            _, start, stop = header(name, type_stop, end)
            if attribute and stop <= end:
                try:
                    texts[attribute] = name[start:stop].decode()
                except UnicodeDecodeError:
                    continue
    return texts


# BasicConstraints ::= SEQUENCE {
#      cA                      BOOLEAN DEFAULT FALSE,
#      pathLenConstraint       INTEGER (0..MAX) OPTIONAL }
def read_basic_constraints(value: bytes) -> bool | None:
    """Return cA (RFC 5280, section 4.2.1.9), where any octet but zero is true; None if `value` is something else."""
    if first(value, 0, len(value))[0] != _SEQUENCE:
        return None
    return any(contents(value, next(members(value), ABSENT), _BOOLEAN))


# KeyUsage ::= BIT STRING
def read_key_usage(value: bytes) -> list[int] | None:
    """Return the numbers of the bits that are set (RFC 5280, section 4.2.1.3); None if `value` is something else."""
    bits = contents(value, first(value, 0, len(value)), _BIT_STRING)
    if not bits:
        return None
    octets = bits[1:3].ljust(2, b"\0")  # The first octet of a bit string counts the unused bits of the last.
    return [bit for bit in range(9) if octets[bit // 8] & 0x80 >> bit % 8]


# ExtKeyUsageSyntax ::= SEQUENCE SIZE (1..MAX) OF KeyPurposeId
# KeyPurposeId ::= OBJECT IDENTIFIER
def read_key_purposes(value: bytes) -> list[bytes]:
    """Return the object identifiers of the purposes (RFC 5280, section 4.2.1.12)."""
    return [value[start:stop] for _, start, stop in members(value)]


# certificatePolicies ::= SEQUENCE SIZE (1..MAX) OF PolicyInformation
#
# PolicyInformation ::= SEQUENCE {
#      policyIdentifier   CertPolicyId,
#      policyQualifiers   SEQUENCE SIZE (1..MAX) OF PolicyQualifierInfo OPTIONAL }
def read_policies(value: bytes) -> list[bytes]:
    """Return the object identifiers of the policies (RFC 5280, section 4.2.1.4)."""
    return [contents(value, first(value, start, stop), _OBJECT_IDENTIFIER) for _, start, stop in members(value)]


# AuthorityKeyIdentifier ::= SEQUENCE {
#      keyIdentifier             [0] KeyIdentifier           OPTIONAL,
#      authorityCertIssuer       [1] GeneralNames            OPTIONAL,
#      authorityCertSerialNumber [2] CertificateSerialNumber OPTIONAL  }
#
# KeyIdentifier ::= OCTET STRING
def read_authority_key_identifier(value: bytes) -> bytes:
    """Return the key identifier (RFC 5280, section 4.2.1.1)."""
    return contents(value, next(members(value), ABSENT), _KEY_IDENTIFIER)


# SubjectKeyIdentifier ::= KeyIdentifier
def read_subject_key_identifier(value: bytes) -> bytes:
    """Return the key identifier (RFC 5280, section 4.2.1.2)."""
    return contents(value, first(value, 0, len(value)), _OCTET_STRING)


# AuthorityInfoAccessSyntax  ::= SEQUENCE SIZE (1..MAX) OF AccessDescription
#
# AccessDescription  ::=  SEQUENCE {
#      accessMethod          OBJECT IDENTIFIER,
#      accessLocation        GeneralName  }
def read_access_locations(value: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the general name under each access method (RFC 5280, section 4.2.2.1), as `read_general_names` does."""
    for _, start, end in members(value):
        _, _, method_stop = header(value, start, end)
        tag, start, stop = header(value, method_stop, end)
        if stop <= end:
            yield tag, value[start:stop]


# GeneralNames ::= SEQUENCE SIZE (1..MAX) OF GeneralName
#
# GeneralName ::= CHOICE {
#      otherName                       [0]     OtherName,
#      rfc822Name                      [1]     IA5String,
#      dNSName                         [2]     IA5String,
#      x400Address                     [3]     ORAddress,
#      directoryName                   [4]     Name,
#      ediPartyName                    [5]     EDIPartyName,
#      uniformResourceIdentifier       [6]     IA5String,
#      iPAddress                       [7]     OCTET STRING,
#      registeredID                    [8]     OBJECT IDENTIFIER }
def read_general_names(value: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield identifier octet and contents of each general name (RFC 5280, section 4.2.1.6)."""
    for tag, start, stop in members(value):
        yield tag, value[start:stop]


def ia5_text(contents: bytes) -> str:
    r"""Return the text of a general name.

    Names beyond ASCII occur as UTF-8. Invalid bytes become U+FFFD, so that no name is lost.

    Examples
    --------
    >>> ia5_text("bücher.example".encode()), ascii(ia5_text("bücher.example".encode("latin-1")))
    ('bücher.example', "'b\\ufffdcher.example'")
    """
    return contents.decode("utf-8", "replace")


_LONGEST_IDENTIFIER = 1024
"""Octets of the longest object identifier that is written out, which takes a hundred times as much memory."""


def dotted(identifier: bytes) -> str:
    """Return an object identifier as dotted decimals (X.690, section 8.19).

    It is "" if an arc takes more than 128 bits, or there are more octets than `_LONGEST_IDENTIFIER`.

    Examples
    --------
    >>> dotted(bytes.fromhex("67810c010201"))
    '2.23.140.1.2.1'
    """
    if len(identifier) > _LONGEST_IDENTIFIER:
        return ""
    arcs = []
    arc = 0
    for octet in identifier:
        arc = arc << 7 | octet & 0x7F
        if arc >> 128:
            return ""
        if octet < 0x80:
            arcs.append(arc)
            arc = 0
    # The first two arcs are one number: 40 times the first, which is at most 2, plus the second.
    roots = [min(arcs[0] // 40, 2), arcs[0] - 40 * min(arcs[0] // 40, 2)] if arcs else []
    return ".".join(map(str, roots + arcs[1:]))
