"""The 20 columns, their key and their partition."""

from typing import Literal

import pyarrow as pa

AsDer = Literal["binary", "string"]

KEY = ("source_url", "cert_index")
PARTITION = "seen_date"


def row_schema(as_der: AsDer = "binary") -> pa.Schema:
    """Return the Arrow schema of rows, in the order in which tables are created.

    Parameters
    ----------
    as_der
        ``"binary"`` for raw DER, as in tables that ctkit creates; ``"string"`` for the standard base64 text of older
        tables of the live server.

    Examples
    --------
    >>> row_schema().names[:2]
    ['cert_index', 'update_type']
    >>> row_schema("string").field("as_der").type
    DataType(string)
    """
    text, texts = pa.string(), pa.list_(pa.field("element", pa.string()))
    columns: list[tuple[str, pa.DataType]] = [
        ("cert_index", pa.int64()),
        ("update_type", text),
        ("seen", pa.timestamp("us", tz="UTC")),
        (PARTITION, text),
        ("source_name", text),
        ("source_url", text),
        ("cert_link", text),
        ("serial_number", text),
        ("fingerprint", text),
        ("sha256", text),
        ("sha1", text),
        ("not_before", pa.int64()),
        ("not_after", pa.int64()),
        ("is_ca", pa.bool_()),
        ("signature_algorithm", text),
        ("subject_aggregated", text),
        ("issuer_aggregated", text),
        ("all_domains", texts),
        ("as_der", pa.binary() if as_der == "binary" else text),
        ("chain", texts),
    ]
    return pa.schema([pa.field(name, type_, nullable=False) for name, type_ in columns])


REPEATING = ("update_type", "source_name", "source_url", "signature_algorithm", "issuer_aggregated", "chain")
"""Columns of few values that repeat often. In the others nearly all values differ: a dictionary would cost time, and
space."""


def encoded_schema(as_der: AsDer = "binary") -> pa.Schema:
    """Return the schema of rows in flight: `row_schema` with dictionaries for texts that repeat.

    Examples
    --------
    >>> encoded_schema().field("source_url").type
    DictionaryType(dictionary<values=string, indices=int32, ordered=0>)
    """
    encoded = pa.dictionary(pa.int32(), pa.string())
    types = {field.name: field.type for field in row_schema(as_der)}
    for name in REPEATING:
        is_list = pa.types.is_list(types[name])
        types[name] = pa.list_(types[name].value_field.with_type(encoded)) if is_list else encoded
    return pa.schema([pa.field(name, type_, nullable=False) for name, type_ in types.items()])


GAP_SCHEMA = pa.schema(
    [
        # A dictionary, because the URLs of 50 million gaps would take gigabytes.
        pa.field("source_url", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
    ]
)
"""Gaps in flight: ``[start, end)`` of one log, ascending by ``source_url`` and ``start``; no two touch."""
