"""Tables typed for people: what `certificates` and `issuances` make of rows, and of odd ones."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import ibis
import pyarrow as pa
import pytest
from publicsuffixlist import PSLFILE, PublicSuffixList
from rows import LOG, OTHER_LOG, add_file, as_type, make_rows, make_table

import ctkit
from ctkit.ask.suffixes import registrable
from ctkit.schema import row_schema

ROWS = ibis.table(ibis.Schema.from_pyarrow(row_schema()), name="rows")


def changed(rows, **values):
    """Return one-row tables with other values, together."""
    for name, value in values.items():
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, rows.schema.field(at), pa.array([value] * len(rows), rows.schema.field(at).type))
    return rows


def found(rows):
    """Return what `certificates` makes of rows in Arrow, as Python has it."""
    return ctkit.certificates(ibis.memtable(rows)).to_pyarrow().to_pylist()


def test_an_entry(tmp_path):
    """Each column says what it is called, and the 20 columns are there as they were."""
    rows = changed(
        make_rows([4]),
        all_domains=["WWW.Example.co.uk.", "*.example.co.uk", "www.example.co.uk", "bücher.example"],
        not_before=1_767_225_600,
        not_after=1_767_225_600 + 90 * 86_400 - 1,
        subject_aggregated="/C=GB/CN=www.example.co.uk/OU=Web",
        issuer_aggregated="/C=US/CN=R10/L=A/B/O=Let's Encrypt",
    )
    (entry,) = ctkit.certificates(make_table(tmp_path / "main", rows)).to_pyarrow().to_pylist()
    raw = {name: entry.pop(name) for name in row_schema().names if name != "seen"}

    assert raw == {name: value for name, value in rows.to_pylist()[0].items() if name != "seen"}
    assert entry == {
        "key": f"{LOG}#4",
        "seen": datetime(2026, 3, 1, 12, tzinfo=UTC),
        "kind": "precertificate",
        "domains": ["*.example.co.uk", "bücher.example", "www.example.co.uk"],
        "registrable": ["bücher.example", "example.co.uk"],
        "subject_cn": "www.example.co.uk",
        "issuer_cn": "R10",
        "issuer_o": "Let's Encrypt",
        "valid_from": datetime(2026, 1, 1, tzinfo=UTC),
        "valid_until": datetime(2026, 3, 31, 23, 59, 59, tzinfo=UTC),
        "validity_days": 90.0,
        "link": raw["cert_link"],
    }


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("", [None, None]),
        ("/C=GB", [None, None]),
        ("/CN=", [None, None]),
        ("/CN=a/b=c", ["a/b=c", None]),
        ("/C=GB/CN=a\nb/L=Paris/O=C/D", ["a\nb", "C/D"]),
        ("/CN=a/O=/OU=b", ["a", None]),
        ("/O=CN=a/ST=b", [None, "CN=a"]),
        ("/CN=a/O=b/O=c", ["a", "b/O=c"]),
    ],
)
def test_attributes_of_a_name(name, values):
    """They are cut out where the next one begins; one that is missing or empty is null."""
    (entry,) = found(changed(make_rows([0]), issuer_aggregated=name))

    assert [entry["issuer_cn"], entry["issuer_o"]] == values


@pytest.mark.parametrize("seconds", [-(1 << 63), (1 << 63) - 1, -62_167_219_201, 253_402_300_800])
def test_no_date_at_all(seconds):
    """Numbers that no certificate can have become null, whatever the other one is."""
    (entry,) = found(changed(make_rows([0]), not_before=seconds, not_after=-seconds if seconds > -(1 << 63) else 0))

    assert entry["valid_from"] is None
    assert isinstance(entry["validity_days"], float)


def test_the_first_and_the_last_year():
    """Years 0000 and 9999 are dates; the first is none of Python's."""
    rows = ibis.memtable(changed(make_rows([0]), not_before=-62_167_219_200, not_after=253_402_300_799))
    dates = ctkit.certificates(rows).select("valid_from", "valid_until").to_pyarrow()

    assert [dates[name].cast(pa.int64())[0].as_py() // 1_000_000 for name in dates.column_names] == [
        -62_167_219_200,
        253_402_300_799,
    ]


def test_another_word_for_the_kind():
    """It stays as it is."""
    assert found(changed(make_rows([0]), update_type="other"))[0]["kind"] == "other"


def test_text_that_is_not_marked_as_such(tmp_path):
    """Some writers leave out that bytes are text: it is text all the same."""
    binary = dict.fromkeys(["update_type", "source_url", "issuer_aggregated"], pa.binary())
    rows = as_type(make_rows([1, 2]), **binary, all_domains=pa.list_(pa.binary()))
    add_file(tmp_path / "main", rows, store_schema=False)
    own = make_table(tmp_path / "own", make_rows([1, 2]))

    assert (
        ctkit.certificates(ctkit.open_table(tmp_path / "main"))
        .order_by("key")
        .to_pyarrow()
        .equals(ctkit.certificates(own).order_by("key").to_pyarrow())
    )


def test_registrable_domains_are_those_of_the_library():
    """For each rule of the list: of the suffix, and of one to three labels below it, in both forms."""
    lines = Path(PSLFILE).read_text(encoding="utf-8").splitlines()
    rules = [line.split()[0] for line in lines if line.strip() and not line.startswith("//")]
    suffixes = [rule.removeprefix("!").replace("*", "any") for rule in rules]
    suffixes += [each.encode("idna").decode() for each in suffixes if not each.isascii()]
    suffixes += ["no-such-suffix", "notco.uk", "co.uk.evil", "github.io.example", "xcom", "com.x-com"]
    names = [below + suffix for suffix in suffixes for below in ("", "x.", "*.x.y.", "a.b.x-y.")]
    table = ibis.memtable({"at": range(len(names)), "name": names})
    answers = table.select("at", it=registrable(table.name)).order_by("at").to_pyarrow()["it"].to_pylist()
    library = PublicSuffixList(lines)

    assert answers == [library.privatesuffix(name) for name in names]


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("", None),
        ("localhost", None),
        ("*.co.uk", None),
        ("*.com", None),
        ("a..com", None),
        (".com", None),
        ("192.0.2.1", None),
        ("Example Ltd.", None),
        ("x y.example.com", "example.com"),
        ("_dmarc.example.com", "example.com"),
        ("notexample.com", "notexample.com"),
        ("example.com.evil.org", "evil.org"),
        ("a\nb.example.com", "example.com"),
    ],
)
def test_what_is_no_host_name(name, domain):
    """It has a registrable domain only if its last labels can be one."""
    assert registrable(ibis.literal(name.lower())).to_pyarrow().as_py() == domain


def test_issuances(tmp_path):
    """Precertificate and certificate, and either in another log, are one; another serial number is another one."""
    same = {"issuer_aggregated": "/CN=CA", "not_before": 1, "not_after": 2, "subject_aggregated": "/CN=a.example"}
    unread = {"serial_number": "", "issuer_aggregated": "", "subject_aggregated": "", "not_before": 0, "not_after": 0}
    rows = make_rows(range(9))
    pick = [rows.slice(at, 1) for at in range(9)]
    table = make_table(
        tmp_path / "main",
        pa.concat_tables(
            [
                changed(pick[1], serial_number="AA", **same),
                changed(pick[0], serial_number="AA", **same, sha256="final"),
                changed(pick[2], serial_number="AA", **same, source_url=OTHER_LOG),
                changed(pick[3], serial_number="AA", **same, source_url=OTHER_LOG, sha256="final"),
                changed(pick[4], serial_number="AB", **same),
                changed(pick[5], serial_number="AA", **{**same, "issuer_aggregated": "/CN=Other CA"}),
                changed(pick[7], **unread),
                changed(pick[8], **unread),
            ]
        ),
    )
    issued = ctkit.issuances(table)
    names = ["serial_number", "issuer_cn", "entries", "logs", "precertificates"]
    counted = issued.select(names).to_pyarrow().to_pylist()

    assert sorted(tuple(each.values()) for each in counted if each["serial_number"]) == [
        ("AA", "CA", 4, 2, 2),
        ("AA", "Other CA", 1, 1, 1),
        ("AB", "CA", 1, 1, 1),
    ]
    assert [tuple(each.values()) for each in counted if not each["serial_number"]] == [("", None, 1, 1, 1)] * 2
    finals = issued.filter(issued.sha256.notnull(), issued.serial_number == "AA").select("sha256", "subject_cn")
    assert finals.to_pyarrow().to_pylist() == [{"sha256": "final", "subject_cn": "a.example"}]


@pytest.mark.parametrize("table", [ctkit.certificates, ctkit.issuances])
@pytest.mark.parametrize("dialect", ["duckdb", "pyspark", "trino", "databricks"])
def test_other_engines(table, dialect):
    """What they would be asked can be written down."""
    assert "regexp_extract" in ibis.to_sql(table(ROWS), dialect=dialect).lower()


WAYS = """
import sys, ibis, ctkit
certificates = ctkit.certificates(ctkit.open_table(sys.argv[1]))
print(len(certificates.limit(1).to_pandas()))
print(len(certificates.to_pyarrow()))
print(certificates.alias("certs").sql("SELECT count(*) AS rows FROM certs").to_pandas().rows[0])
relation = certificates.get_backend().con.sql(ibis.to_sql(certificates))
print(len(relation.to_arrow_table()), *relation.filter("kind = 'certificate'").limit(1).to_arrow_table()["kind"])
"""


def test_documented_ways_to_ask(tmp_path):
    """DataFrame, Arrow, SQL and DuckDB's own relation: each gives the rows, and the process ends well."""
    make_table(tmp_path / "main", make_rows(range(30)))
    command = [sys.executable, "-c", WAYS, tmp_path / "main"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["1", "30", "30", "30", "certificate"]
