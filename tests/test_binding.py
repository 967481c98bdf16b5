"""What a log does not sign is held against what it does: pre-certificates, issuers and chains."""

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from random import Random
from typing import Any

import numpy as np
import pytest
from blocks import certify
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from numpy.typing import NDArray

from ctkit.demo.embedded import EmbeddedLog, Request, make_log
from ctkit.demo.issuance import Issued, issue
from ctkit.errors import LogProtocolError
from ctkit.wire import der as der_module
from ctkit.wire import extra_data, kernels
from ctkit.wire.der import der
from ctkit.wire.entries import PRECERT_ENTRY, EntryBlock, decode_data_tile, decode_get_entries
from ctkit.wire.extra_data import find_ends, find_faults
from ctkit.wire.roots import Roots

URL = "https://log.example"
RIGHT, CHAIN, ISSUER, PRE_CERTIFICATE, OPEN_END = range(5)
POISON = bytes.fromhex("3013060a2b06010401d6790204030101ff04020500")
SIGNS_PRE_CERTIFICATES = x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.4")])


def issued(*, precert: bool, chain: int | None = None) -> Issued:
    """Return what an authority issued: a precertificate or a certificate, with a chain of that length if given."""
    random = Random("issued")
    for _ in range(1000):
        each = issue(random, 1_773_144_000_123)
        if (each.tbs is not None) == precert and chain in (None, len(each.chain)):
            return each
    raise AssertionError


def faults_of(*entries: Issued) -> list[int]:
    """Return the faults of entries as an RFC 6962 log sends them."""
    log = EmbeddedLog("A log", protocols=["rfc6962"])
    for each in entries:
        log.append(each, 1_773_144_000_123)
    return find_faults(decode_get_entries(page_of(log), 0, URL, len(entries))).tolist()


def page_of(log: EmbeddedLog) -> bytes:
    """Return all entries of a log as get-entries sends them."""
    return log.respond(Request("ct/v1/get-entries", {"start": "0", "end": str(len(log.entries) - 1)})).body


def test_find_faults_of_a_certificate_that_cannot_be_read() -> None:
    """The log signed all of it, so that it is a row; who issued it cannot be told."""
    right = issued(precert=False)

    assert faults_of(replace(right, certificate=b"no certificate"), right) == [RIGHT, RIGHT]


def test_find_faults_when_a_length_is_indefinite(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of an element is looked for in the element around it, not in all that follows."""
    read, calls = der_module.header, list[int]()
    monkeypatch.setattr(der_module, "header", lambda *arguments: calls.append(arguments[1]) or read(*arguments))
    certificate = der(0x30, der(0x30, b"\x02\x80"))

    with pytest.raises(extra_data._OddError):
        extra_data._read_frame(certificate + b"\x30\x00" * 1000, 0, len(certificate))

    assert calls == []


def test_find_faults_of_what_authorities_issue() -> None:
    """Nothing is wrong with what a log has accepted, whichever kind it is and whichever chain it has."""
    log = make_log("A log", 300)

    block = decode_get_entries(page_of(log), 0, URL, 300)

    assert len(block) == 256
    assert find_faults(block).tolist() == [RIGHT] * 256


def test_find_faults_of_nothing() -> None:
    """A block without entries has no faults."""
    assert find_faults(decode_get_entries(b'{"entries": []}', 0, URL, 1)).tolist() == []


def test_find_faults_of_chains() -> None:
    """A chain begins with the issuer, and goes on from one signer to the next; where it ends is for its root to say."""
    three, two = issued(precert=False, chain=3), issued(precert=False, chain=2)
    own, middle, root = three.chain
    root_itself = Issued(root, (), None, b"")

    assert faults_of(three, two, root_itself) == [RIGHT] * 3
    assert (
        faults_of(
            replace(three, chain=(own, root)),
            replace(three, chain=(own, root, middle)),
            replace(three, chain=(own, own, middle, root)),
        )
        == [CHAIN] * 3
    )
    assert faults_of(replace(three, chain=(own, middle)), replace(three, chain=())) == [OPEN_END] * 2
    assert faults_of(replace(three, chain=two.chain), replace(two, chain=(root,))) == [ISSUER] * 2


def test_find_faults_of_pre_certificates() -> None:
    """A pre-certificate is the leaf's TBSCertificate, with the poison and a signature, and nothing else."""
    right = issued(precert=True)
    assert right.tbs
    odd = [
        right.certificate + b"\0",
        right.certificate[:-1],
        b"no certificate",
        der(0x30),
        issued(precert=False).certificate,
        der(0x30, right.tbs, right.certificate[-100:]),
    ]

    assert faults_of(right) == [RIGHT]
    assert faults_of(*(replace(right, certificate=each) for each in odd)) == [PRE_CERTIFICATE] * len(odd)
    assert faults_of(replace(right, issuer_key_hash=bytes(32)), replace(right, chain=())) == [ISSUER] * 2


def test_find_faults_when_the_poison_lies_elsewhere() -> None:
    """The poison is an extension of its own: within another one it would change what that says, such as a name."""
    right = issued(precert=True)
    certificate = x509.load_der_x509_certificate(right.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    before, _, after = right.certificate.partition(POISON)
    rest, inside = before + after, names.get_values_for_type(x509.DNSName)[-1].encode()[:4]

    def moved(at: int) -> Issued:
        return replace(right, certificate=rest[:at] + POISON + rest[at:])

    assert faults_of(moved(len(before)), moved(rest.rindex(inside) + 4)) == [RIGHT, PRE_CERTIFICATE]


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def _key_hash(key: Any) -> bytes:
    return sha256(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


@pytest.mark.parametrize("signing_has", [True, False])
@pytest.mark.parametrize("pre_has", [True, False])
def test_find_faults_behind_a_precertificate_signing_certificate(pre_has: bool, signing_has: bool) -> None:
    """The leaf names the final issuer: its name, its key, its key identifier; all the rest is compared as ever."""
    root_key, authority_key, signing_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(4))
    root = certify("Root", root_key, "Root", root_key)
    authority = certify("Authority", authority_key, "Root", root_key)
    of_authority = [x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())]
    of_signing = [x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key())]
    signing = certify(
        "Signing", signing_key, "Authority", authority_key, SIGNS_PRE_CERTIFICATES, *of_authority[: int(signing_has)]
    )
    names = x509.SubjectAlternativeName([x509.DNSName("www.example.org")])
    pre_certificate = certify(
        "www", key, "Signing", signing_key, *of_signing[: int(pre_has)], x509.PrecertPoison(), names
    )
    identifiers = of_authority[: int(signing_has)]
    ordered = [*identifiers, names] if pre_has else [names, *identifiers]
    final = certify("www", key, "Authority", authority_key, *ordered)
    chain = (_der(signing), _der(authority), _der(root))

    right = Issued(_der(pre_certificate), chain, final.tbs_certificate_bytes, _key_hash(authority_key))
    named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SIGNING", _type=_ASN1Type.PrintableString)])
    encoded = certify("www", key, named, signing_key, *of_signing[: int(pre_has)], x509.PrecertPoison(), names)
    others = [
        certify(subject, key, issuer, signing_key, *of_signing[: int(pre_has)], x509.PrecertPoison(), names)
        for subject, issuer in (("other", "Signing"), ("www", "Another"))
    ]

    assert faults_of(right, replace(right, certificate=_der(encoded))) == [RIGHT, RIGHT]
    assert faults_of(*(replace(right, certificate=_der(other)) for other in others)) == [PRE_CERTIFICATE] * 2
    assert faults_of(replace(right, issuer_key_hash=_key_hash(signing_key))) == [ISSUER]
    assert faults_of(replace(right, chain=chain[1:])) == [PRE_CERTIFICATE]
    alone = certify("Signing", signing_key, "Signing", signing_key, SIGNS_PRE_CERTIFICATES)
    assert faults_of(replace(right, chain=(_der(alone),))) == [ISSUER]


def test_find_faults_of_algorithms_that_are_not_verified() -> None:
    """Of a signature that cannot be verified only the names are compared."""
    root_key, other_key, key = ed25519.Ed25519PrivateKey.generate(), *(rsa.generate_private_key(65537, 2048),) * 2
    root, other = certify("Root", root_key, "Root", root_key), certify("Other", other_key, "Other", other_key)
    by_root, by_other = certify("CA", key, "Root", root_key), certify("CA", key, "Other", other_key)
    leaf = _der(certify("www", key, "CA", key))

    def fault(*chain: x509.Certificate) -> int:
        return faults_of(Issued(leaf, tuple(map(_der, chain)), None, b""))[0]

    assert (fault(by_root, root), fault(by_other, other)) == (RIGHT, RIGHT)
    assert (fault(by_root, other), fault(by_other, root), fault(by_root)) == (CHAIN, CHAIN, OPEN_END)


def test_find_faults_when_a_key_cannot_be_read() -> None:
    """Logs accept keys that others cannot read: then names count, but such a certificate does not sign itself."""
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    # 1.2.840.10045.3.1.7 with another last arc is no curve that anybody knows.
    root = _der(certify("Root", root_key, "Root", root_key))
    curve = bytes.fromhex("06082a8648ce3d030107")
    assert root.count(curve) == 1
    odd = root.replace(curve, curve[:-1] + b"\x7f")
    leaf, authority = _der(certify("www", key, "CA", key)), _der(certify("CA", key, "Root", root_key))
    stranger = _der(certify("CA", key, "Another", root_key))

    def fault(*chain: bytes) -> int:
        return faults_of(Issued(leaf, chain, None, b""))[0]

    assert (fault(authority, root), fault(authority, odd), fault(stranger, odd)) == (RIGHT, OPEN_END, CHAIN)


def _subject(tag: _ASN1Type, text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text, _type=tag)])


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        (_ASN1Type.PrintableString, "An Authority"),
        (_ASN1Type.UTF8String, "an  AUTHORITY "),
        (_ASN1Type.BMPString, "An Authority"),
        (_ASN1Type.T61String, "An Authority"),
    ],
)
def test_find_faults_when_names_are_encoded_in_other_ways(tag: _ASN1Type, text: str) -> None:
    """An issuer is named by what its name says, in certificates, chains and pre-certificates alike."""
    own, other, wrong = _subject(_ASN1Type.UTF8String, "An Authority"), _subject(tag, text), _subject(tag, text + "s")
    root_key, key, leaf_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    ed_key = ed25519.Ed25519PrivateKey.generate()

    def fault(issuer: x509.Name, *chain: x509.Certificate) -> int:
        leaf = _der(certify("www", leaf_key, issuer, key))
        return faults_of(Issued(leaf, tuple(map(_der, chain)), None, b""))[0]

    signed = certify(own, key, other, root_key), certify(own, root_key, own, root_key)
    assert (fault(other, *signed), fault(wrong, *signed)) == (RIGHT, ISSUER)
    # Of what cannot be verified, the names are compared.
    named = [(certify(own, key, issuer, ed_key), certify(own, ed_key, own, ed_key)) for issuer in (other, wrong)]
    assert [fault(own, *chain) for chain in named] == [RIGHT, CHAIN]


def test_find_faults_of_missing_issuers() -> None:
    """What is next to an issuer that the log does not have is not compared with it; all else is."""
    log = make_log("A log", 64)
    block, fingerprints, issuers = _tile_of(log)
    for missing in fingerprints:
        lacking = block.with_issuers(fingerprints, issuers | {missing: None})
        assert lacking.missing_issuers == (missing.hex(),)
        assert find_faults(lacking).tolist() == [RIGHT] * 64


def _tile_of(log: EmbeddedLog) -> tuple[EntryBlock, tuple[bytes, ...], dict[bytes, bytes | None]]:
    tile = b"".join(entry.tile_leaf for entry in log.entries)
    issuers: dict[bytes, bytes | None] = {bytes.fromhex(name): each for name, each in log.issuers.items()}
    return *decode_data_tile(tile, 0, len(log.entries), URL), issuers


def _few() -> EmbeddedLog:
    """Return a log of three entries: two precertificates of different issuers with a certificate between them."""
    few = EmbeddedLog("Few")
    for each in (issued(precert=True, chain=2), issued(precert=False, chain=3), issued(precert=True, chain=3)):
        few.append(each, 1_773_144_000_123)
    return few


def _flips(data: bytes, *bits: int) -> Iterator[tuple[int, bytes]]:
    for at in range(len(data)):
        for bit in bits:
            yield at, data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def _signatures(log: EmbeddedLog) -> list[tuple[int, int]]:
    """Return where in the certificate of each entry its signature is; nowhere if the leaf holds the certificate."""
    ranges = []
    for entry in log.entries:
        signature = x509.load_der_x509_certificate(entry.certificate).signature
        start = len(entry.certificate) - len(signature)
        ranges.append((start, start + len(signature)) if entry.entry_type == PRECERT_ENTRY else (start, start))
    return ranges


def _written(block: EntryBlock, log: EmbeddedLog, roots: Roots) -> dict[int, tuple[bytes, list[bytes | None]]]:
    """Return what ``verify: entries`` writes, by index: certificate and chain of what is in the tree and not at fault.

    The rest of a row is of the leaf.
    """
    found = {}
    offsets, chain, leaf_hashes = block.chain_offsets.tolist(), block.chain.tolist(), block.leaf_hashes()
    issuers = [*block.issuers, None]
    faults = find_faults(block)
    for row, last in find_ends(block, faults).items():
        faults[row] = RIGHT if roots.may_be_end(last) else OPEN_END
    for row, (index, fault, (start, end)) in enumerate(
        zip(block.index.tolist(), faults.tolist(), block.certificate.tolist(), strict=True)
    ):
        if leaf_hashes[row] == log.tree.leaf_hash(index) and not fault:
            positions = chain[offsets[row] : offsets[row + 1]]
            found[index] = block.data[start:end], [issuers[each] for each in positions]
    return found


def _without(data: bytes, start: int, end: int) -> tuple[bytes, bytes]:
    return data[:start], data[end:]


def test_flipped_bytes_of_a_page() -> None:
    """Whatever byte of a page flips: what is written is right, but for the signatures of pre-certificates."""
    log = _few()
    signatures, roots = _signatures(log), Roots({entry.chain[-1] for entry in log.entries})
    changed = 0

    for at, body in _flips(page_of(log), 0, 4):
        try:
            written = _written(decode_get_entries(body, 0, URL, 3), log, roots)
        except LogProtocolError:
            continue
        for index, (certificate, chain) in written.items():
            entry, signature = log.entries[index], signatures[index]
            assert chain == list(entry.chain), at
            assert _without(certificate, *signature) == _without(entry.certificate, *signature), at
            changed += certificate != entry.certificate

    # Each byte of a signature, in one character of base64 or more.
    assert changed >= sum(end - start for start, end in signatures)


def test_flipped_bytes_of_a_data_tile() -> None:
    """The bytes that may flip unnoticed are exactly the signatures of pre-certificates, and no chain has another."""
    log = _few()
    tile = b"".join(entry.tile_leaf for entry in log.entries)
    issuers = {bytes.fromhex(name): each for name, each in log.issuers.items()}
    unnoticed = set()

    for at, body in _flips(tile, *range(8)):
        try:
            block, fingerprints = decode_data_tile(body, 0, 3, URL)
        except LogProtocolError:
            continue
        block = block.with_issuers(fingerprints, {each: issuers.get(each) for each in fingerprints})
        for index, (certificate, chain) in _written(block, log, Roots(None)).items():
            entry = log.entries[index]
            if certificate != entry.certificate:
                unnoticed.add(at)
            # A fingerprint that has changed names an issuer that the log does not have, which the report says.
            known = [each for each in chain if each is not None]
            assert known == list(entry.chain) or (set(known) < set(entry.chain) and block.missing_issuers), at

    starts = [tile.index(entry.certificate) for entry in log.entries]
    signatures = _signatures(log)
    assert unnoticed == {
        position
        for at, (start, end) in zip(starts, signatures, strict=True)
        for position in range(at + start, at + end)
    }


@pytest.mark.parametrize("start", [0, 256])
def test_find_faults_without_the_kernel(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is damaged, entries that the kernel finds to match are those in which the reader finds no fault."""
    random = Random(start)
    log = make_log("A log", 512)
    entries = log.read(start, start + 256)
    tile = bytearray(b"".join(entry.tile_leaf for entry in entries))
    block, fingerprints = decode_data_tile(bytes(tile), start, start + 256, URL)
    issuers = {sha256(each).digest(): each for entry in entries for each in entry.chain}
    for begin, end in [*block.leaf.tolist(), *block.certificate.tolist()] * 2:
        # Not type and length of the entry.
        at = random.randrange(begin + 10 + 35, end)
        tile[at] = random.choice((tile[at] ^ 1 << random.randrange(8), random.randrange(256)))
        if random.random() < 0.3:
            tile[at : at + 4] = random.randbytes(4)
    damaged = replace(block, data=bytes(tile)).with_issuers(fingerprints, issuers)
    whole = block.with_issuers(fingerprints, issuers)

    shares = []

    def none(*arguments: Any) -> NDArray[np.bool_]:
        shares.append(find_matching(*arguments).mean())
        return np.zeros(len(arguments[2]), np.bool_)

    find_matching = kernels.find_matching
    found = [find_faults(each).tolist() for each in (whole, damaged)]
    monkeypatch.setattr(kernels, "find_matching", none)

    assert [find_faults(each).tolist() for each in (whole, damaged)] == found
    assert found[0] == [RIGHT] * 256
    assert len(set(found[1])) > 1
    assert shares[0] == 1
    assert 0.1 < shares[1] < 0.9
