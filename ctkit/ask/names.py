"""Names in certificates as DNS compares them, and turned round so that a domain and all below it stand together."""

from contextlib import suppress

import ibis.expr.types as ir
import idna
import pyarrow as pa
import pyarrow.compute as pc

from ctkit.errors import ParameterError

LONGEST_LABEL = 63
"""Letters of a label in DNS."""


def folded(name: str) -> str:
    r"""Return a name as DNS compares it: in lower case, international labels as A-labels, no dot at the end.

    What is no host name stays, as far as that goes.

    Examples
    --------
    >>> folded("WWW.Bücher.example."), folded("*.Example.COM"), folded("Example Ltd")
    ('www.xn--bcher-kva.example', '*.example.com', 'example ltd')
    """
    if not name.isascii():
        try:
            name = idna.uts46_remap(name, std3_rules=False)
        except idna.IDNAError:
            name = name.lower()
        # Without the rules of IDNA 2008 for what may be registered: certificates are older, and others obey none.
        labels = (label if label.isascii() else f"xn--{label.encode('punycode').decode()}" for label in name.split("."))
        name = ".".join(labels)
    return name.lower().rstrip(".")


def spellings(argument: str, domain: str) -> list[str]:
    """Return a domain as it is compared, and with its international labels in letters if that is something else.

    Parameters
    ----------
    argument
        Where the domain comes from, for the error.

    Raises
    ------
    ParameterError
        It holds a NUL character, or names the root.

    Examples
    --------
    >>> spellings("find: domain", "Example.COM."), spellings("find: domain", "www.xn--bcher-kva.example")
    (['example.com'], ['www.xn--bcher-kva.example', 'www.bücher.example'])
    """
    check_text(argument, domain)
    name = folded(domain)
    if not name:
        raise ParameterError(f"{argument}: it names the root, below which are all names; give a domain")
    return list(dict.fromkeys([name, ".".join(map(in_letters, name.split(".")))]))


def check_text(argument: str, text: str) -> None:
    """Refuse a text that no question can carry.

    Raises
    ------
    ParameterError
        It holds a NUL character.
    """
    # DuckDB takes a question as text, which ends there.
    if "\0" in text:
        raise ParameterError(f"{argument}: it holds a NUL character; search_names finds such names with ? in its place")


def in_letters(label: str) -> str:
    """Return an A-label in the letters that it stands for; any other label, and one that stands for none, as it is.

    Examples
    --------
    >>> in_letters("xn--bcher-kva"), in_letters("bucher"), in_letters("xn--99999999")
    ('bücher', 'bucher', 'xn--99999999')
    """
    # DNS has none that is longer, and to decode it would take the square of its length.
    if label.startswith("xn--") and len(label) <= LONGEST_LABEL:
        with suppress(UnicodeError):
            letters = label[4:].encode("ascii").decode("punycode")
            return letters if letters.isprintable() else label
    return label


def turned(name: str) -> str:
    """Return a folded name as the index has it: reversed, with a dot at its end.

    So the names of a domain, and none else, begin like it.

    Examples
    --------
    >>> turned("example.com"), turned("www.example.com")
    ('moc.elpmaxe.', 'moc.elpmaxe.www.')
    """
    return f".{name}"[::-1]


def turned_back(names: ir.StringColumn) -> ir.StringColumn:
    """Return what `turned` was given."""
    return names.reverse().substr(1)


def turn(names: pa.Array) -> pa.Array:
    """Return names of certificates folded and turned round.

    Examples
    --------
    >>> turn(pa.array(["Example.COM.", "bücher.example"])).to_pylist()
    ['moc.elpmaxe.', 'elpmaxe.avk-rehcb--nx.']
    """
    names = names.cast(pa.string())
    is_odd = pc.invert(pc.string_is_ascii(names))
    if pc.any(is_odd).as_py():
        odd = pa.array([folded(name) for name in names.filter(is_odd).to_pylist()], pa.string())
        names = pc.replace_with_mask(names, is_odd, odd)
    plain = pc.ascii_rtrim(pc.ascii_lower(names), characters=".")
    whole = pc.binary_join_element_wise("", plain, ".")
    return pc.binary_reverse(whole.cast(pa.binary())).cast(pa.string())
