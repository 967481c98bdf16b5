"""Names that look like those of a brand."""

import unicodedata
from bisect import bisect
from collections.abc import Sequence
from functools import cache, reduce
from operator import or_
from typing import Any

import ibis
import ibis.expr.types as ir
from confusable_homoglyphs.confusables import confusables_data
from publicsuffixlist import PublicSuffixList

from ctkit.arguments import checked
from ctkit.ask.asked import Asked, by_name, entries_of, is_below, issuer_of
from ctkit.ask.certificates import issuance_key
from ctkit.ask.names import LONGEST_LABEL, folded, in_letters, spellings
from ctkit.ask.suffixes import registrable
from ctkit.errors import ParameterError

_READ_AS = {"rn": "m", "vv": "w", "0": "o", "1": "l", "-": ""}
"""What is read as something else in a name of ASCII; hyphens are overlooked."""

_LENGTHS = (4, 8)
"""Letters of a label from which on one, and two, may differ."""

_ASCII = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


@checked
def look_alikes(certificates: Asked, domain: str, *, own: Sequence[str] = ()) -> ir.Table:
    """Return the names that look like a domain and are not below it, each with the reason, and who issued for it.

    What is looked for is the label that was registered, such as ``example`` of ``example.com``. Of these reasons, a
    name has the first that holds for the label that was registered for it, or else the last:

    ======================= ============================================================================================
    ``another suffix``      the same label, ``example.net``
    ``look-alike letters``  characters that look the same, in any script: ``examp1e.com``, ``exarnple.com``, and the
                            label with Cyrillic letters; hyphens do not count
    ``swapped letters``     two neighbours are swapped: ``exmaple.com``
    ``similar spelling``    one letter is added, missing or another, in eight or more letters two: ``exampla.com``
    ``added words``         the label, or one that looks the same, with more around it: ``example-login.com``
    ``in a subdomain``      one of all these, but below another domain: ``example.com.evil.org``
    ======================= ============================================================================================

    Labels of less than four letters must look the same, and are not looked for within others; in a subdomain, they
    count with their suffix only, as in ``ing.com.evil.org``.

    ``SELECT name, reason, count(*) FROM issuances, unnest(domains) WHERE levenshtein(label, 'example') <= 1 OR
    skeleton(label) = 'example' OR contains(label, 'example') ... GROUP BY name``

    Parameters
    ----------
    certificates
        From `ctkit.open_table`; or what `ctkit.certificates` returned. All of its names are looked at, so filter it if
        only some days are of interest. International labels are read by a function in Python, which DuckDB and Spark
        can call.
    domain
        The brand's domain. Case, a dot at its end and the form of international labels do not matter.
    own
        Other domains of the brand, which are left out with all below them.

    Returns
    -------
    ibis.Table
        ``name, registrable, reason, first_seen, last_seen, certificates, issuers, key``, the newest name first.
        Certificates are issuances, as `ctkit.issuances` has them; `key` names an entry for `ctkit.open_certificate`.

    Raises
    ------
    ParameterError
        The table lacks columns of `ctkit.certificates`, or `domain` or one of `own` is none.
    SchemaMismatchError, TableError
        As `ctkit.certificates`.

    Examples
    --------
    >>> import tempfile, ctkit
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = ctkit.look_alikes(ctkit.open_table(folder), "example.com", own=["example.net"])
    ...     print(found.to_pandas().empty)
    True
    """
    ours = [
        spelling
        for argument, each in [("domain", domain), *(("own", each) for each in own)]
        for spelling in spellings(f"look_alikes: {argument}", each)
    ]
    brand = _Brand(folded(domain))
    entries = entries_of(certificates)
    key = issuance_key(entries)
    named = entries.select(
        **key, seen=entries.seen, issuer=issuer_of(entries), key=entries.key, name=entries.domains.unnest()
    )
    named = named.filter(~is_below(named.name, ours), brand.is_alike_in(named.name))
    issued = named.group_by("name", *key).agg(
        first_seen=named.seen.min(), last_seen=named.seen.max(), issuer=named.issuer.max(), key=named.key.min()
    )
    found = by_name(issued, key=issued.key.min())
    found = found.mutate(registrable=registrable(found.name))
    found = found.mutate(reason=brand.reason(found.name, found.registrable))
    columns = ("name", "registrable", "reason", "first_seen", "last_seen", "certificates", "issuers", "key")
    return found.filter(found.reason.notnull()).select(columns).order_by(ibis.desc("first_seen"), "name")


class _Brand:
    """The label that a brand registered, and what is like it."""

    def __init__(self, domain: str) -> None:
        label = (PublicSuffixList().privatesuffix(domain) or domain).split(".")[0]
        if len(label) > LONGEST_LABEL:
            raise ParameterError(f"look_alikes: domain: a label of it has {len(label):,} letters; give a domain of DNS")
        self._domain = domain
        self._spellings = [label, in_letters(label)]
        self._looks = _read_as(in_ascii(label))
        self._distance = bisect(_LENGTHS, len(self._looks))
        pairs = (self._looks[at : at + 2][::-1] for at in range(len(self._looks) - 1))
        self._swapped = [f"{self._looks[:at]}{pair}{self._looks[at + 2 :]}" for at, pair in enumerate(pairs)]

    def _reasons(self, looks: ir.StringValue) -> dict[str, ir.BooleanValue]:
        """Tell of what a label looks like why it is like the brand's."""
        reasons = {"look-alike letters": looks == self._looks}
        if self._distance:
            # DuckDB counts bytes, of which a letter that is left of another script has several.
            letters = looks.re_replace(r"[^ -~]", "?") if self._looks.isascii() else looks
            reasons |= {
                "swapped letters": looks.isin(self._swapped),
                "similar spelling": letters.levenshtein(self._looks) <= self._distance,
                "added words": looks.contains(self._looks),
            }
        return reasons

    def is_alike_in(self, name: ir.StringValue) -> ir.BooleanValue:
        """Tell whether a label of a name is like the brand's."""

        def is_alike(label: ir.StringValue) -> ir.BooleanValue:
            return reduce(or_, self._reasons(label).values())

        return _looks(name).split(".").filter(is_alike).length() > 0

    def reason(self, name: ir.StringValue, registered: ir.StringValue) -> ir.StringValue:
        """Return why a name is like the brand's; null if it is not."""
        label = registered.split(".")[0]
        # Of a name that nobody could register, all labels.
        below = name.left(ibis.greatest(name.length() - registered.length().fill_null(-1) - 1, 0))
        whole = ibis.literal(".") + below + "."
        reasons = {
            "another suffix": label.isin(self._spellings),
            **self._reasons(_looks(label)),
            # Too many hosts have a short label, such as `api`.
            "in a subdomain": self.is_alike_in(below) if self._distance else whole.contains(f".{self._domain}."),
        }
        return ibis.cases(*((holds, reason) for reason, holds in reasons.items()))


def _looks(name: ir.StringValue) -> ir.StringValue:
    """Return what a name looks like."""
    return _read_as(name.re_search(r"[^ -~]|(^|\.)xn--").ifelse(_in_ascii(name), name))


def _read_as(name: Any) -> Any:
    """Return a name of ASCII as it is read, whether it is a text or an expression for one."""
    return reduce(lambda name, pair: name.replace(*pair), _READ_AS.items(), name)


def in_ascii(text: str) -> str:
    """Return a name with letters of ASCII in place of those that look like them.

    Examples
    --------
    >>> in_ascii("www.\u0440\u0430ypal.example"), in_ascii("xn--pypal-4ve.example"), in_ascii("b\u00fccher")
    ('www.paypal.example', 'paypal.example', 'bucher')
    """
    letters = unicodedata.normalize("NFKD", ".".join(map(in_letters, text.split(".")))).lower()
    return "".join(_letters().get(letter, letter) for letter in letters if unicodedata.category(letter) != "Mn")


# An expression cannot: whether names look alike depends on all letters of an A-label.
_in_ascii = ibis.udf.scalar.python(in_ascii, name="ctkit_in_ascii", signature=(("string",), "string"))


@cache
def _letters() -> dict[str, str]:
    """Return letters that look like some of ASCII, with those."""
    pairs = ((letter, alike["c"].lower()) for letter, all_alike in confusables_data.items() for alike in all_alike)
    # In the order of the list, in which what a letter is confused with first comes first.
    return {letter: alike for letter, alike in reversed([*pairs]) if not letter.isascii() and _ASCII.issuperset(alike)}
