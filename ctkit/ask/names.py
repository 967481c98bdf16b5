"""Names in certificates as DNS compares them, and turned round so that a domain and all below it stand together."""

import ibis.expr.types as ir
import idna
import pyarrow as pa
import pyarrow.compute as pc


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
