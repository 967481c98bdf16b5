"""The fields of many certificates at once, read by functions that Numba compiles.

They understand nearly all certificates, and leave the others to `ctkit.wire.x509`, which knows every oddity, and quotes
the ASN.1; where both understand one, the results are the same. Numba checks no bounds: every read here follows a
comparison with the end of what may be read.

Import this module where it is used, not at the top of another: Numba takes a quarter of a second.
"""

# To Numba an int is an int64, to mypy it is not.
# mypy: disable-error-code="assignment,return-value"

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

from ctkit.ranges import Int64s
from ctkit.wire.x509 import POISON_EXTENSION

Bytes = npt.NDArray[np.uint8]
Int32s = npt.NDArray[np.int32]

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function, and cache the machine code next to the module, or in the user's cache folder.

    Numba compares the cache with the source of the same module only, so no kernel may call one of another module.
    """
    options: dict[str, Any] = {"nogil": True, "cache": True}
    try:
        kernel = njit(**options)(function)
    except RuntimeError:
        # No folder is writable: every process compiles for itself.
        kernel = njit(**options | {"cache": False})(function)
    return cast(Function, kernel)


MOST_NAMES = 128
"""A certificate with more DNS names is left to `ctkit.wire.x509`: each is compared with all before it."""

_NONE = -1
_BOOLEAN, _INTEGER, _BIT_STRING, _OCTET_STRING, _OBJECT_IDENTIFIER = 0x01, 0x02, 0x03, 0x04, 0x06
_UTC_TIME, _GENERALIZED_TIME, _SEQUENCE, _SET = 0x17, 0x18, 0x30, 0x31
_VERSION, _EXTENSIONS, _DNS_NAME = 0xA0, 0xA3, 0x82
_SUBJECT_ALT_NAME, _BASIC_CONSTRAINTS = 0x11, 0x13
_MOST_FIELDS = 11


class Texts(NamedTuple):
    """Texts in one buffer, as in Arrow: number ``i`` is ``text[offsets[i]:offsets[i + 1]]``."""

    text: Bytes
    offsets: Int32s


class Fields(NamedTuple):
    """What `read_certificates` finds; element ``i`` is that of certificate ``i``, empty if it is not understood.

    Attributes
    ----------
    understood
        bool[n].
    serial_number, subject, issuer
        As in the columns ``serial_number``, ``subject_aggregated`` and ``issuer_aggregated``.
    not_before, not_after
        Seconds since the Unix epoch.
    is_ca
        bool[n].
    algorithm
        int32[n]: position among the given algorithms; their number for any other.
    domains
        Those of all certificates; certificate ``i`` has ``[first_domain[i], first_domain[i + 1])``.
    first_domain
        int32[n + 1].
    """

    understood: npt.NDArray[np.bool_]
    serial_number: Texts
    subject: Texts
    issuer: Texts
    not_before: Int64s
    not_after: Int64s
    is_ca: npt.NDArray[np.bool_]
    algorithm: Int32s
    domains: Texts
    first_domain: Int32s


def read_certificates(data: bytes, spans: Int64s, algorithms: list[bytes]) -> Fields:
    """Walk the certificates ``data[start:end]``, one for each row of `spans`.

    Parameters
    ----------
    data
        Any bytes.
    spans
        int64[n, 2], within `data`.
    algorithms
        Contents of object identifiers.
    """
    count, size = len(spans), int((spans[:, 1] - spans[:, 0]).sum())
    if 2 * size > np.iinfo(np.int32).max:
        # Offsets of texts would not fit into 32 bits: nothing is understood.
        spans, size = spans[:0], 0

    def texts(bound: int, number: int = count) -> Texts:
        return Texts(np.empty(bound, np.uint8), np.zeros(number + 1, np.int32))

    fields = Fields(
        understood=np.zeros(count, np.bool_),
        serial_number=texts(2 * size),
        # A label such as /CN= is no longer than the header bytes around a value.
        subject=texts(size),
        issuer=texts(size),
        not_before=np.zeros(count, np.int64),
        not_after=np.zeros(count, np.int64),
        is_ca=np.zeros(count, np.bool_),
        algorithm=np.zeros(count, np.int32),
        domains=texts(size, count * (MOST_NAMES + 1)),
        first_domain=np.zeros(count + 1, np.int32),
    )
    known = np.zeros((len(algorithms), 16), np.uint8)
    lengths = np.array([len(identifier) for identifier in algorithms], np.int64)
    for row, identifier in zip(known, algorithms, strict=True):
        row[: len(identifier)] = list(identifier)
    _walk_all(np.frombuffer(data, np.uint8), spans, known, lengths, fields)
    domains = fields.domains._replace(offsets=fields.domains.offsets[: fields.first_domain[-1] + 1])
    return fields._replace(domains=domains)


@compiled
def _walk_all(data: Bytes, spans: Int64s, known: Bytes, lengths: Int64s, fields: Fields) -> None:
    for row in range(len(spans)):
        fields.understood[row] = _walk_certificate(data, spans[row, 0], spans[row, 1], row, known, lengths, fields)
        if not fields.understood[row]:
            fields.not_before[row] = fields.not_after[row] = fields.algorithm[row] = 0
            fields.is_ca[row] = False
            for texts in (fields.serial_number, fields.subject, fields.issuer):
                texts.offsets[row + 1] = texts.offsets[row]
            fields.first_domain[row + 1] = fields.first_domain[row]


# Identifier octet, length octets, contents octets (X.690, section 8.1); the length is definite.
@compiled
def _header(data: Bytes, at: int, end: int) -> tuple[int, int, int]:
    """Return identifier octet and ``[start, stop)`` of the contents of the element at `at`; -1 if none fits there."""
    start = at + 2
    if start > end:
        return _NONE, end, end
    length = np.int64(data[at + 1])
    if length >= 0x80:
        octets = length - 0x80
        if octets == 0 or octets > 4 or start + octets > end:
            return _NONE, end, end
        length = 0
        for place in range(start, start + octets):
            length = length << 8 | np.int64(data[place])
        start += octets
    if start + length > end:
        return _NONE, end, end
    return np.int64(data[at]), start, start + length


@compiled
def _walk_certificate(  # noqa: C901 - a branch for each field of a TBSCertificate; parts would share all of this state
    data: Bytes, at: int, end: int, row: int, known: Bytes, lengths: Int64s, fields: Fields
) -> bool:
    """Read one certificate; tell whether it was understood."""
    tag, at, end = _header(data, at, end)
    tbs_tag, at, tbs_end = _header(data, at, end)
    algorithm_tag, algorithm_at, algorithm_end = _header(data, tbs_end, end)
    if tag != _SEQUENCE or tbs_tag != _SEQUENCE or algorithm_tag != _SEQUENCE:
        return False
    fields.algorithm[row] = _algorithm(data, algorithm_at, algorithm_end, known, lengths)
    if fields.algorithm[row] == _NONE:
        return False

    elements = 0
    # From the extensions: cA, the number of BasicConstraints, and where the alternative names are.
    is_ca, constraints, names_at, names_end = False, 0, 0, 0
    common_at = common_end = 0
    field = -1
    while at < tbs_end:
        tag, start, stop = _header(data, at, tbs_end)
        elements += 1
        if tag == _NONE or elements > _MOST_FIELDS:
            return False
        at = stop
        if elements == 1 and tag == _VERSION:
            continue
        field += 1
        if field == 0:
            if tag != _INTEGER:
                return False
            _put_hex(data, start, stop, fields.serial_number, row)
        elif field == 2 or field == 4:
            if tag != _SEQUENCE:
                return False
            texts = fields.issuer if field == 2 else fields.subject
            understood, common_at, common_end = _put_name(data, start, stop, texts, row)
            if not understood:
                return False
        elif field == 3:
            if tag != _SEQUENCE:
                return False
            has_start, fields.not_before[row], start = _time(data, start, stop)
            has_end, fields.not_after[row], start = _time(data, start, stop)
            if not (has_start and has_end):
                return False
        elif field >= 6 and tag == _EXTENSIONS:
            understood, is_ca, count, first, last = _walk_extensions(data, start, stop)
            if not understood or constraints or names_end:
                # A second field of extensions.
                return False
            constraints, names_at, names_end = count, first, last
    if field < 5:
        return False
    fields.is_ca[row] = is_ca = is_ca and constraints == 1
    if is_ca:
        common_end = common_at
    return _put_domains(data, common_at, common_end, names_at, names_end, row, fields)


@compiled
def _algorithm(data: Bytes, at: int, end: int, known: Bytes, lengths: Int64s) -> int:
    """Return the position of the algorithm among the known ones; -1 if this is not an object identifier."""
    tag, start, stop = _header(data, at, end)
    if tag != _OBJECT_IDENTIFIER:
        return _NONE
    for number in range(len(known)):
        if _is_same(data, start, stop, known[number], 0, lengths[number]):
            return number
    return len(known)


@compiled
def _is_same(data: Bytes, start: int, stop: int, other: Bytes, first: int, last: int) -> bool:
    if stop - start != last - first:
        return False
    same = True
    for place in range(stop - start):
        same &= data[start + place] == other[first + place]
    return same


_DIGITS = np.frombuffer(b"0123456789ABCDEF", np.uint8).copy()


@compiled
def _put_hex(data: Bytes, start: int, stop: int, texts: Texts, row: int) -> None:
    """Append the octets as upper-case hex without leading zeros; one zero octet if there is nothing else."""
    size, first = texts.offsets[row], start
    while first < stop and data[first] == 0:
        first += 1
    if first == stop:
        first, stop = start, min(start + 1, stop)
    for place in range(first, stop):
        texts.text[size] = _DIGITS[data[place] >> 4]
        texts.text[size + 1] = _DIGITS[data[place] & 0x0F]
        size += 2
    texts.offsets[row + 1] = size


# The attributes that are shown are 2.5.4.x, in DER 06 03 55 04 x.
_SHOWN = np.array([6, 3, 7, 10, 11, 8], np.uint8)
_LABELS = np.frombuffer(b"/C= /CN=/L= /O= /OU=/ST=", np.uint8).reshape(6, 4).copy()
_COMMON_NAME = 1


@compiled
def _put_name(data: Bytes, at: int, end: int, texts: Texts, row: int) -> tuple[bool, int, int]:
    """Append ``/C=.../CN=...`` of a name; return whether it is understood, and where the common name is."""
    starts, stops = np.full(6, -1, np.int64), np.zeros(6, np.int64)
    while at < end:
        tag, set_at, set_end = _header(data, at, end)
        if tag == _NONE or not _find_attributes(data, set_at, set_end, starts, stops):
            return False, 0, 0
        at = set_end
    size = texts.offsets[row]
    for number in range(6):
        if starts[number] >= 0:
            for letter in _LABELS[number]:
                if letter != 0x20:
                    texts.text[size] = letter
                    size += 1
            size = _copy(data, starts[number], stops[number], texts.text, size)
    texts.offsets[row + 1] = size
    return True, starts[_COMMON_NAME], stops[_COMMON_NAME] if starts[_COMMON_NAME] >= 0 else -1


@compiled
def _find_attributes(data: Bytes, at: int, end: int, starts: Int64s, stops: Int64s) -> bool:
    """Note where in one ``RelativeDistinguishedName`` the values are that are shown; tell whether it is understood."""
    while at < end:
        tag, pair_at, pair_end = _header(data, at, end)
        type_tag, type_start, type_stop = _header(data, pair_at, pair_end)
        value_tag, start, stop = _header(data, type_stop, pair_end)
        if tag == _NONE or type_tag == _NONE or value_tag == _NONE:
            return False
        at = pair_end
        if not (type_tag == _OBJECT_IDENTIFIER and type_start == pair_at + 2 and type_stop == type_start + 3):
            continue
        if not (data[type_start] == 0x55 and data[type_start + 1] == 4):
            continue
        for number in range(6):
            if data[type_start + 2] == _SHOWN[number]:
                if not _is_utf8(data, start, stop):
                    return False
                # The last one counts.
                starts[number], stops[number] = start, stop
    return True


# RFC 3629, section 3: the shortest form of each character, no surrogates.
@compiled
def _is_utf8(data: Bytes, at: int, end: int) -> bool:
    while at < end:
        first = np.int64(data[at])
        at += 1
        if first < 0x80:
            continue
        more = 1 if first < 0xE0 else 2 if first < 0xF0 else 3
        if first < 0xC2 or first > 0xF4 or at + more > end:
            return False
        character = first & (0x3F >> more)
        for place in range(at, at + more):
            if data[place] & 0xC0 != 0x80:
                return False
            character = character << 6 | np.int64(data[place] & 0x3F)
        at += more
        if more == 2 and (character < 0x800 or 0xD800 <= character <= 0xDFFF):
            return False
        if more == 3 and (character < 0x1_0000 or character > 0x10_FFFF):
            return False
    return True


@compiled
def _copy(data: Bytes, start: int, stop: int, text: Bytes, size: int) -> int:
    for place in range(start, stop):
        text[size + place - start] = data[place]
    return size + stop - start


# YYMMDDHHMMSSZ or YYYYMMDDHHMMSSZ (RFC 5280, section 4.1.2.5)
_DAYS = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])


@compiled
def _time(data: Bytes, at: int, end: int) -> tuple[bool, int, int]:
    """Return whether the time at `at` is understood, its seconds since the Unix epoch, and where it ends."""
    tag, start, stop = _header(data, at, end)
    years = 4 if tag == _GENERALIZED_TIME else 2
    if tag not in (_UTC_TIME, _GENERALIZED_TIME) or stop - start != years + 11 or data[stop - 1] != 0x5A:
        return False, 0, stop
    for place in range(start, stop - 1):
        if data[place] < 48 or data[place] > 57:
            return False, 0, stop
    year = _pair(data, start)
    if years == 2:
        year += 1900 if year >= 50 else 2000
    else:
        year = 100 * year + _pair(data, start + 2)
    at = start + years
    month, day, hour = _pair(data, at), _pair(data, at + 2), _pair(data, at + 4)
    minute, second = _pair(data, at + 6), _pair(data, at + 8)
    if not _is_date(year, month, day) or hour > 23 or minute > 59 or second > 59:
        return False, 0, stop
    # Days since the first of March of the year 0, of which the leap day is the last of its year.
    shifted = year - (1 if month <= 2 else 0)
    days = 365 * shifted + shifted // 4 - shifted // 100 + shifted // 400
    days += (153 * ((month + 9) % 12) + 2) // 5 + day - 1 - 719_468
    return True, 86_400 * days + 3600 * hour + 60 * minute + second, stop


@compiled
def _is_date(year: int, month: int, day: int) -> bool:
    if year < 1 or month < 1 or month > 12:
        return False
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return bool(1 <= day <= _DAYS[month - 1] + (1 if is_leap and month == 2 else 0))


@compiled
def _pair(data: Bytes, at: int) -> int:
    """Return the number that two digits are."""
    return 10 * np.int64(data[at]) + np.int64(data[at + 1]) - 528


@compiled
def _walk_extensions(data: Bytes, at: int, end: int) -> tuple[bool, bool, int, int, int]:
    """Return whether all is understood, cA, the number of BasicConstraints, and where the alternative names are."""
    is_ca, constraints, names_at, names_end = False, 0, 0, 0
    nothing = False, False, 0, 0, 0
    tag, at, stop = _header(data, at, end)
    if tag != _SEQUENCE or stop != end:
        return nothing
    while at < end:
        tag, id_at, extension_end = _header(data, at, end)
        id_tag, id_start, id_stop = _header(data, id_at, extension_end)
        value_tag, start, stop = _header(data, id_stop, extension_end)
        if tag == _NONE or id_tag == _NONE:
            return nothing
        if value_tag == _BOOLEAN:
            value_tag, start, stop = _header(data, stop, extension_end)
        if value_tag != _OCTET_STRING:
            return nothing
        at = extension_end
        # id-ce is 2.5.29, in DER 55 1D.
        if id_stop - id_start != 3 or data[id_start] != 0x55 or data[id_start + 1] != 0x1D:
            continue
        if data[id_start + 2] == _SUBJECT_ALT_NAME:
            tag, names_start, names_stop = _header(data, start, stop)
            if tag != _SEQUENCE or names_end:
                return nothing
            names_at, names_end = names_start, names_stop
        elif data[id_start + 2] == _BASIC_CONSTRAINTS:
            constraints += 1
            understood, says_ca = _constraints(data, start, stop)
            if not understood:
                return nothing
            is_ca |= says_ca
    return True, is_ca, constraints, names_at, names_end


@compiled
def _constraints(data: Bytes, at: int, end: int) -> tuple[bool, bool]:
    """Return whether BasicConstraints are understood, and cA."""
    tag, at, end = _header(data, at, end)
    if tag != _SEQUENCE:
        return False, False
    if at == end:
        return True, False
    tag, start, stop = _header(data, at, end)
    is_ca = False
    if tag == _BOOLEAN:
        for place in range(start, stop):
            is_ca |= data[place] != 0
    return tag != _NONE, is_ca


@compiled
def _put_domains(data: Bytes, common_at: int, common_end: int, at: int, end: int, row: int, fields: Fields) -> bool:
    """Append the distinct names: the common name, unless it is empty, and the DNS names in ``[at, end)``."""
    first = count = fields.first_domain[row]
    if common_at < common_end:
        count = _put_domain(data, common_at, common_end, first, count, fields.domains)
    names = 0
    while at < end:
        tag, start, stop = _header(data, at, end)
        if tag == _NONE:
            return False
        at = stop
        if tag == _DNS_NAME:
            names += 1
            if names > MOST_NAMES or not _is_utf8(data, start, stop):
                return False
            count = _put_domain(data, start, stop, first, count, fields.domains)
    fields.first_domain[row + 1] = count
    return True


@compiled
def _put_domain(data: Bytes, start: int, stop: int, first: int, count: int, domains: Texts) -> int:
    """Append a name unless it is among those from number `first` on; return how many names there are then."""
    for number in range(first, count):
        if _is_same(data, start, stop, domains.text, domains.offsets[number], domains.offsets[number + 1]):
            return count
    domains.offsets[count + 1] = _copy(data, start, stop, domains.text, domains.offsets[count])
    return count + 1


def find_matching(
    data: bytes,
    leaves: Int64s,
    spans: Int64s,
    is_precert: npt.NDArray[np.bool_],
    chain: Int64s,
    issuers: Sequence[tuple[bytes, bytes]],
) -> npt.NDArray[np.bool_]:
    """Tell for each entry whether it matches its leaf and its issuer, as nearly all do.

    `ctkit.wire.extra_data.find_faults` examines the others.

    Parameters
    ----------
    data, leaves, spans
        The bytes, and where in them each ``TimestampedEntry`` and each certificate is; int64[n, 2].
    is_precert
        bool[n].
    chain
        int64[n]: number of the entry's issuer in `issuers`.
    issuers
        For each the DER of its ``subject``, and the SHA-256 of its ``SubjectPublicKeyInfo``; both empty for one that
        nothing shall match.
    """
    subjects = np.frombuffer(b"".join(subject for subject, _ in issuers), np.uint8)
    edges = np.cumsum([0, *(len(subject) for subject, _ in issuers)])
    key_hashes = np.frombuffer(b"".join(key_hash.ljust(32, b"\0") for _, key_hash in issuers), np.uint8)
    matching = np.zeros(len(spans), np.bool_)
    _match_all(np.frombuffer(data, np.uint8), leaves, spans, is_precert, chain, subjects, edges, key_hashes, matching)
    return matching


@compiled
def _match_all(
    data: Bytes,
    leaves: Int64s,
    spans: Int64s,
    is_precert: npt.NDArray[np.bool_],
    chain: Int64s,
    subjects: Bytes,
    edges: Int64s,
    key_hashes: Bytes,
    matching: npt.NDArray[np.bool_],
) -> None:
    for row in range(len(spans)):
        first, last = edges[chain[row]], edges[chain[row] + 1]
        if first == last:
            continue
        at, end = spans[row, 0], spans[row, 1]
        if is_precert[row]:
            matching[row] = _matches_leaf(data, at, end, leaves[row, 0], leaves[row, 1], key_hashes, 32 * chain[row])
        else:
            issuer, issuer_end = _issuer_of(data, at, end)
            matching[row] = _is_same(data, issuer, issuer_end, subjects, first, last)


@compiled
def _issuer_of(data: Bytes, at: int, end: int) -> tuple[int, int]:
    """Return where the issuer of a certificate begins and ends, header included; 0 each if it is not understood."""
    _, at, end = _header(data, at, end)
    _, at, end = _header(data, at, end)
    tag, _, stop = _header(data, at, end)
    if tag == _VERSION:
        tag, _, stop = _header(data, stop, end)
    _, _, algorithm_end = _header(data, stop, end)
    tag, _, stop = _header(data, algorithm_end, end)
    return (algorithm_end, stop) if tag == _SEQUENCE else (0, 0)


# TimestampedEntry (quoted in `ctkit.wire.leaf`): 8 bytes of timestamp, 2 of entry_type, 32 of issuer_key_hash, then the
# TBSCertificate of the pre-certificate without the poison; all lengths around that are adapted (RFC 6962, section 3.2).
_POISON = np.frombuffer(POISON_EXTENSION, np.uint8).copy()
_POISON_SIZE = len(_POISON)


@compiled
def _matches_leaf(data: Bytes, at: int, end: int, leaf: int, leaf_end: int, key_hashes: Bytes, key_hash: int) -> bool:
    """Tell whether the leaf holds this hash of a key, and the ``TBSCertificate`` of the pre-certificate."""
    if leaf + 45 > leaf_end or not _is_same(data, leaf + 10, leaf + 42, key_hashes, key_hash, key_hash + 32):
        return False
    tag, at, stop = _header(data, at, end)
    tbs_tag, fields, tbs_end = _header(data, at, stop)
    if tag != _SEQUENCE or tbs_tag != _SEQUENCE or stop != end:
        return False
    algorithm, algorithm_end, extensions = _find_extensions(data, fields, tbs_end)
    if extensions == _NONE or not _is_signed_with(data, tbs_end, end, algorithm, algorithm_end):
        return False
    _, first, stop = _header(data, extensions, tbs_end)
    tag, first, last = _header(data, first, stop)
    if tag != _SEQUENCE or stop != tbs_end or last != tbs_end:
        return False
    poison = _find_poison(data, first, tbs_end)
    return poison != _NONE and _holds_tbs(data, leaf + 42, leaf_end, fields, extensions, first, poison, tbs_end)


@compiled
def _find_extensions(data: Bytes, fields: int, end: int) -> tuple[int, int, int]:
    """Return where in a ``TBSCertificate`` the algorithm is, and where the extensions begin; -1 each if nowhere."""
    at, field = fields, 0
    algorithm, algorithm_end = _NONE, _NONE
    while at < end:
        tag, _, stop = _header(data, at, end)
        if tag == _NONE:
            break
        if tag == _EXTENSIONS:
            return (algorithm, algorithm_end, at) if field >= 6 else (_NONE, _NONE, _NONE)
        if tag != _VERSION or at != fields:
            field += 1
            if field == 2:
                algorithm, algorithm_end = at, stop
        at = stop
    return _NONE, _NONE, _NONE


@compiled
def _is_signed_with(data: Bytes, at: int, end: int, algorithm: int, algorithm_end: int) -> bool:
    """Tell whether that algorithm stands at `at` too, then a signature without unused bits, up to `end`."""
    signature = at + algorithm_end - algorithm
    if signature > end or not _is_same(data, at, signature, data, algorithm, algorithm_end):
        return False
    tag, start, stop = _header(data, signature, end)
    return tag == _BIT_STRING and stop == end and start < stop and data[start] == 0


@compiled
def _find_poison(data: Bytes, at: int, end: int) -> int:
    """Return where the poison is among extensions; -1 if nowhere."""
    while at < end:
        if _is_same(data, at, min(at + _POISON_SIZE, end), _POISON, 0, _POISON_SIZE):
            return at
        tag, _, at = _header(data, at, end)
        if tag != _SEQUENCE:
            return _NONE
    return _NONE


@compiled
def _holds_tbs(
    data: Bytes, at: int, end: int, fields: int, extensions: int, first: int, poison: int, tbs_end: int
) -> bool:
    """Tell whether the vector at `at` is a ``TBSCertificate``, as it is without the poison.

    Parameters
    ----------
    fields, extensions, first, poison, tbs_end
        Where in the pre-certificate its fields begin, the last of them, the first extension and the poison; and where
        all of them end.
    """
    after = poison + _POISON_SIZE
    # Every length on the way to the extensions is shorter by that of the poison.
    length = tbs_end - first - _POISON_SIZE
    sequence = length + _header_size(length)
    tbs = extensions - fields + sequence + _header_size(sequence)
    size = tbs + _header_size(tbs)
    if at + 3 + size > end:
        return False
    for place in range(3):
        if data[at + place] != size >> 16 - 8 * place & 0xFF:
            return False
    at = _after_header(data, at + 3, _SEQUENCE, tbs)
    if at == _NONE or not _is_same(data, fields, extensions, data, at, at + extensions - fields):
        return False
    at = _after_header(data, at + extensions - fields, _EXTENSIONS, sequence)
    at = _after_header(data, at, _SEQUENCE, length) if at != _NONE else _NONE
    return (
        at != _NONE
        and _is_same(data, first, poison, data, at, at + poison - first)
        and _is_same(data, after, tbs_end, data, at + poison - first, at + length)
    )


@compiled
def _header_size(length: int) -> int:
    """Return how many octets identifier and length take."""
    return 2 if length < 0x80 else 3 if length < 0x100 else 4 if length < 0x1_0000 else 5


@compiled
def _after_header(data: Bytes, at: int, tag: int, length: int) -> int:
    """Return where the contents begin if the element at `at` has this identifier octet and length; -1 if not."""
    size = _header_size(length)
    if data[at] != tag or (size > 2 and data[at + 1] != 0x80 + size - 2):
        return _NONE
    for place in range(size - 2 if size > 2 else 1):
        if data[at + size - 1 - place] != length >> 8 * place & 0xFF:
            return _NONE
    return at + size
