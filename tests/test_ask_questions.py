"""Questions of analysts: answers that were worked out by hand, hostile names, and engines other than DuckDB."""

import inspect
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta

import ibis
import pyarrow as pa
import pytest
from rows import LOG, OTHER_LOG, make_rows, make_table
from test_foreign import HOSTILE

import ctkit
from ctkit.ask import look_alikes, questions, smells
from ctkit.ask.look_alikes import in_ascii
from ctkit.errors import ParameterError
from ctkit.schema import row_schema

ROWS = ibis.table(ibis.Schema.from_pyarrow(row_schema()), name="rows")
ASKED = {
    "busiest_domains": {},
    "issued_over_time": {"by": "issuer_o", "every": "week"},
    "name_history": {"domain": "example.com", "new_since": "2026-11-01"},
    "related_names": {"domain": "example.com"},
    "broad_certificates": {"names": 3},
    "expiring_names": {"days": 30, "as_of": "2026-11-27"},
    "issuance_smells": {},
    "look_alikes": {"domain": "example.com", "own": ["example.net"]},
}
each_question = pytest.mark.parametrize("name", ASKED)


class SparkOptions(ibis.config.Config):
    """What ibis has where PySpark is installed."""

    treat_nan_as_null: bool = False


def when(text):
    """Return a time in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def entry(index, names, *, seen="2026-11-20", start=None, days=90, url=LOG, precert=False, **values):
    """Return a row; its certificate is valid for whole days, from the day on which it was seen by default."""
    begins = int(when(start or seen[:10]).timestamp())
    (row,) = make_rows([index], url=url).to_pylist()
    return row | {
        "all_domains": names,
        "seen": when(seen),
        "seen_date": seen[:10],
        "update_type": "PrecertLogEntry" if precert else "X509LogEntry",
        "not_before": begins,
        "not_after": begins + round(days * 86_400) - 1,
        "serial_number": f"{index:04X}",
        "issuer_aggregated": "/C=US/CN=R1/O=Good CA",
        "subject_aggregated": f"/CN={names[0] if names else ''}",
        **values,
    }


def table_of(*rows):
    """Return rows as an ibis table, as any engine has them."""
    return ibis.memtable(pa.Table.from_pylist(rows, row_schema()))


def answer(question, *columns):
    """Return the rows of an answer as tuples, of some columns."""
    return [tuple(row.values()) for row in question.select(columns).to_pyarrow().to_pylist()]


def twice(index, names, **options):
    """Return the precertificate and the certificate of one issuance, in two logs each."""
    return [
        entry(4 * index + at, names, url=url, precert=precert, serial_number=f"N{index}", **options)
        for at, (url, precert) in enumerate([(LOG, True), (OTHER_LOG, True), (LOG, False), (OTHER_LOG, False)])
    ]


# What each counts


def test_busiest_domains():
    """A certificate counts once for each of its domains, however many names and entries it has."""
    rows = [
        *twice(1, ["a.example.com", "b.example.com", "example.net"]),
        entry(1, ["example.com"], seen="2026-11-02"),
        entry(2, ["localhost"]),
    ]

    assert answer(ctkit.busiest_domains(table_of(*rows)), "registrable", "certificates", "first_seen", "last_seen") == [
        ("example.com", 2, when("2026-11-02"), when("2026-11-20")),
        ("example.net", 1, when("2026-11-20"), when("2026-11-20")),
    ]


OVER_TIME = [
    *twice(1, ["a.example"], seen="2026-11-20T23:59:59"),
    entry(1, ["b.example"], seen="2026-11-21T00:00:00", issuer_aggregated="/CN=R9", days=47.5),
    # Of the first one, in another log and a month later.
    *twice(1, ["a.example"], seen="2026-12-21T00:00:00", start="2026-11-20")[:1],
    entry(2, ["c.example"], seen="2026-11-23", days=10, issuer_aggregated="/CN=R9"),
]


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({"by": None}, [("2026-11-20", 1), ("2026-11-21", 1), ("2026-11-23", 1)]),
        ({"by": None, "every": "week"}, [("2026-11-16", 2), ("2026-11-23", 1)]),
        ({"by": None, "every": "year"}, [("2026-01-01", 3)]),
        (
            {"by": "issuer_cn", "every": "month"},
            [("2026-11-01", "R1", 1), ("2026-11-01", "R9", 2)],
        ),
        ({"by": "issuer_o", "every": "month"}, [("2026-11-01", "Good CA", 1), ("2026-11-01", None, 2)]),
        (
            {"by": "validity", "every": "month"},
            [("2026-11-01", "0 to 10 days", 1), ("2026-11-01", "48 to 100 days", 2)],
        ),
        # Each log has it, and it is both.
        (
            {"by": "kind", "every": "month"},
            [("2026-11-01", "certificate", 3), ("2026-11-01", "precertificate", 1)],
        ),
        ({"by": "signature_algorithm", "every": "month"}, [("2026-11-01", "ecdsa, sha256", 3)]),
    ],
)
def test_issued_over_time(options, counts):
    """An issuance counts once for each value, when the first entry with it was seen, in UTC."""
    found = ctkit.issued_over_time(table_of(*OVER_TIME), **options).to_pyarrow()

    assert found.column_names == ["date", *filter(None, [options["by"]]), "certificates"]
    assert [tuple(row.values()) for row in found.to_pylist()] == [
        (date.fromisoformat(day), *rest) for day, *rest in counts
    ]


def test_issued_over_time_by_log():
    """Each log that has it counts it."""
    rows = [*twice(1, ["a.example"]), entry(1, ["b.example"], source_name="Other")]
    found = ctkit.issued_over_time(table_of(*rows), by="source_name")

    assert answer(found, "source_name", "certificates") == [("Example 2026h2", 1), ("Other", 1)]


def test_name_history():
    """Names of a domain in all spellings, each with its certificates, and the newest first."""
    rows = [
        *twice(1, ["WWW.Example.com.", "notexample.com"], seen="2026-11-01", days=10),
        entry(1, ["www.example.com", "*.example.com"], seen="2026-11-03", issuer_aggregated="/CN=R9", days=20),
        entry(2, ["example.com.evil.org"], seen="2026-11-03"),
    ]
    columns = ("name", "first_seen", "last_seen", "certificates", "issuers", "valid_until")
    until = when("2026-11-22T23:59:59")
    history = [
        ("*.example.com", when("2026-11-03"), when("2026-11-03"), 1, ["R9"], until),
        ("www.example.com", when("2026-11-01"), when("2026-11-03"), 2, ["Good CA: R1", "R9"], until),
    ]

    assert answer(ctkit.name_history(table_of(*rows), "EXAMPLE.com."), *columns) == history
    assert answer(ctkit.name_history(table_of(*rows), "example.com", new_since="2026-11-02"), *columns) == history[:1]
    assert answer(ctkit.name_history(table_of(*rows), "example.com", new_since="2026-11-03"), *columns) == history[:1]
    assert ctkit.name_history(table_of(*rows)).count().to_pyarrow().as_py() == 4


@pytest.mark.parametrize("domain", ["bücher.example", "xn--bcher-kva.example", "BÜCHER.example"])
def test_names_in_both_forms(domain):
    """An international domain has the names of either form, as certificates have them."""
    rows = [entry(1, ["www.bücher.example"]), entry(2, ["xn--bcher-kva.example"]), entry(3, ["bucher.example"])]

    found = answer(ctkit.name_history(table_of(*rows), domain), "name")
    assert sorted(found) == [("www.bücher.example",), ("xn--bcher-kva.example",)]


def test_related_names():
    """Names of other domains that share certificates; with `exact`, all others of certificates for the very name."""
    rows = [
        *twice(1, ["www.example.com", "example.com", "b.example.net"]),
        entry(1, ["example.com", "b.example.net", "a.example.org"]),
        entry(2, ["www.example.com", "c.example.net"]),
        entry(3, ["b.example.net", "unrelated.example"]),
    ]
    columns = ("name", "registrable", "certificates")

    assert answer(ctkit.related_names(table_of(*rows), "example.com"), *columns) == [
        ("b.example.net", "example.net", 2),
        ("a.example.org", "example.org", 1),
        ("c.example.net", "example.net", 1),
    ]
    assert answer(ctkit.related_names(table_of(*rows), "example.com", exact=True), *columns) == [
        ("b.example.net", "example.net", 2),
        ("a.example.org", "example.org", 1),
        ("www.example.com", "example.com", 1),
    ]


def test_broad_certificates():
    """Those with wildcards, and those with as many names as were asked for; the same name twice is one."""
    rows = [
        *twice(1, ["a.example", "*.a.example"]),
        entry(1, ["b.example", "B.example", "c.example"]),
        entry(2, ["x.example", "y.example", "z.example"]),
    ]
    found = ctkit.broad_certificates(table_of(*rows), names=3)

    assert answer(found, "subject_cn", "names", "wildcards", "entries") == [
        ("x.example", 3, 0, 1),
        ("a.example", 2, 1, 4),
    ]


def test_expiring_names():
    """A later certificate for the name is a successor, and so is one of a wildcard, but only for one label."""
    rows = [
        *twice(1, ["ends.example", "renewed.example", "www.wild.example", "a.www.wild.example"], days=30),
        *twice(2, ["*.wild.example", "wild.example"], days=300),
        entry(1, ["renewed.example"], seen="2026-11-25"),
        entry(2, ["ended.example"], seen="2026-10-01", days=10),
        entry(3, ["later.example"], days=38),
        entry(4, ["ca.example"], days=30, is_ca=True),
        entry(5, ["sooner.example", "ends.example"], days=20, issuer_aggregated="/CN=R9"),
        entry(6, ["not-yet.example"], start="2026-12-05", days=6),
    ]
    found = ctkit.expiring_names(table_of(*rows), days=30, as_of="2026-11-27")

    assert answer(found, "name", "registrable", "valid_until", "issuer", "key") == [
        ("sooner.example", "sooner.example", when("2026-12-09T23:59:59"), "R9", f"{LOG}#5"),
        ("a.www.wild.example", "wild.example", when("2026-12-19T23:59:59"), "Good CA: R1", f"{LOG}#4"),
        ("ends.example", "ends.example", when("2026-12-19T23:59:59"), "Good CA: R1", f"{LOG}#4"),
    ]


@pytest.mark.parametrize("days", [10**7, (1 << 62) - 1])
def test_expiring_names_for_ever(days):
    """Any number of days is one that the calendar ends."""
    rows = [entry(0, ["a.example"], seen="9990-01-01", days=3000)]

    assert answer(ctkit.expiring_names(table_of(*rows), days=days, as_of="9990-11-27"), "name") == [("a.example",)]


def test_expiring_names_from_now_on():
    """Without a date, what counts is the time of asking."""
    now = datetime.now(UTC)
    starts = [f"{now - timedelta(days=89.5 + more):%Y-%m-%dT%H:%M:%S}" for more in (0, 1, -40)]
    rows = [entry(at, [f"{at}.example"], start=start) for at, start in enumerate(starts)]

    assert answer(ctkit.expiring_names(table_of(*rows)), "name") == [("0.example",)]


@pytest.mark.parametrize(
    ("start", "days", "limit", "smells"),
    [
        ("2020-08-31", 825, None, False),
        ("2020-09-01", 398, 398, False),
        ("2020-09-01", 398 + 1 / 86_400, 398, True),
        ("2026-03-14", 398, 398, False),
        ("2026-03-15", 201, 200, True),
        ("2027-03-15", 100, 100, False),
        ("2029-03-14", 101, 100, True),
        ("2029-03-15", 48, 47, True),
    ],
)
def test_valid_too_long(start, days, limit, smells):
    """What is allowed depends on the first day; CAs are not judged."""
    rows = table_of(entry(1, ["a.example"], start=start, days=days), entry(2, [], start=start, days=9000, is_ca=True))
    found = ctkit.issuance_smells(rows, ["valid too long"])

    assert answer(found, "key", "limit_days") == ([(f"{LOG}#1", limit)] if smells else [])


def test_other_smells():
    """Backdated is what is valid long before the first precertificate was seen; a certificate is missed in all logs."""
    rows = [
        *twice(1, ["good.example"], seen="2026-11-20"),
        *twice(2, ["early.example"], seen="2026-11-20T00:00:01", start="2026-11-18"),
        *twice(3, ["late.example"], seen="2026-11-21", start="2026-11-19"),
        # Logs may be given a certificate at any time.
        entry(1, ["final.example"], start="2026-01-01"),
        *twice(4, ["promised.example"])[:2],
    ]
    found = ctkit.issuance_smells(table_of(*rows))

    assert sorted(answer(found, "smell", "subject_cn", "entries")) == [
        ("backdated", "early.example", 4),
        ("no certificate", "promised.example", 2),
    ]
    assert answer(ctkit.issuance_smells(table_of(*rows), ["backdated"]), "backdated_days") == [(2 + 1 / 86_400,)]


ALIKE = {
    "example.net": "another suffix",
    "login.example.co.uk": "another suffix",
    "examp1e.com": "look-alike letters",
    "ex-ample.com": "look-alike letters",
    "www.xn--exmple-4nf.com": "look-alike letters",
    "ex\u0430mple.org": "look-alike letters",
    "xn--e1awd7f.com": None,
    "éxample.com": "look-alike letters",
    "exmaple.com": "swapped letters",
    "exampla.com": "similar spelling",
    "examle.com": "similar spelling",
    "exxample.com": "similar spelling",
    "exampll.com": "similar spelling",
    "exxxample.com": None,
    "example-login.com": "added words",
    "myexarnple.com": "added words",
    "example.com.evil.org": "in a subdomain",
    "login-example.evil.org": "in a subdomain",
    "examp\u0142e.com": "similar spelling",
    "xn--exampe-7db.com": "similar spelling",
    "exa\u043cple.com": "similar spelling",
    "\U0001d404\U0001d417\U0001d400\U0001d40c\U0001d40f\U0001d40b\U0001d404.com": "look-alike letters",
    "exmaple.evil.org": "in a subdomain",
    "example": "in a subdomain",
    "example.com": None,
    "www.example.com": None,
    "www.example.shop": None,
    "sample.com": None,
    "evil.org": None,
    "": None,
}


def test_look_alikes():
    """Each reason, and what is not alike or the brand's own; certificates count once."""
    rows = [row for at, name in enumerate(ALIKE) for row in twice(at, [name, "evil.org"])]
    found = answer(ctkit.look_alikes(table_of(*rows), "example.com", own=["example.shop"]), "name", "reason")
    (known,) = answer(
        ctkit.look_alikes(table_of(*rows[:4]), "Example.COM."), "registrable", "certificates", "issuers", "key"
    )

    assert sorted(found) == sorted((name, reason) for name, reason in ALIKE.items() if reason)
    assert known == ("example.net", 1, ["Good CA: R1"], f"{LOG}#0")


@pytest.mark.parametrize(
    ("domain", "alike", "other"),
    [
        ("xn--bcher-kva.example", "bucher.com", "buch.com"),
        ("bücher.example", "xn--bcher-kva.com", "bu.com"),
        ("modern.example", "modem.com", "mod.com"),
        ("ab.example", "ab.net", "abc.net"),
        ("ab.example", "a-b.net", "xab.net"),
        ("ab.co.uk", "ab.uk", "co.uk"),
        ("brand", "brand.com", "bra.com"),
        ("longbrand.example", "longbrapp.com", "lngbrdx.com"),
        ("ing.com", "ing.com.evil.org", "ing.evil.org"),
        ("ing.com", "ing.com.evil.org", "ing.ing.comb.org"),
    ],
)
def test_look_alikes_of_other_brands(domain, alike, other):
    """International ones in both forms, short ones, those below a suffix of two labels, and a label alone."""
    rows = [entry(at, [name]) for at, name in enumerate([domain, alike, other])]

    assert [name for (name,) in answer(ctkit.look_alikes(table_of(*rows), domain), "name")] == [alike]


@pytest.mark.parametrize("label", ["xn--" + "9" * 8, "xn--\u00fc", "xn--" + "a" * 50_000, "xn--ib9c", "", "xn--"])
def test_labels_that_stand_for_nothing(label):
    """They stay, and take no time."""
    assert in_ascii(f"{label}.example").endswith(".example")


# What all have in common


def test_every_question_is_here():
    """Each public function of the modules is among those that are tried."""
    modules = (questions, smells, look_alikes)
    functions = [
        name
        for module in modules
        for name, each in inspect.getmembers(module, inspect.isfunction)
        if inspect.getmodule(each) is module and name in ctkit.__all__
    ]

    assert sorted(functions) == sorted(ASKED)


@pytest.mark.parametrize("dialect", ["pyspark", "trino"])
@each_question
def test_question_compiles(name, dialect, monkeypatch):
    """Other engines can be asked."""
    monkeypatch.setattr(ibis.options, "pyspark", SparkOptions())
    asked = getattr(ctkit, name)(ctkit.certificates(ROWS), **ASKED[name])

    assert all(column in ibis.to_sql(asked, dialect=dialect) for column in asked.columns)


@each_question
def test_ways_to_give_a_table(tmp_path, name):
    """An open table, its rows as any engine has them, and what was made of them give the same answer."""
    names = [name for name in ALIKE if name]
    rows = pa.Table.from_pylist(
        [row for at in range(6) for row in twice(at, names[at::6], start="2026-05-30", days=201)], row_schema()
    )
    main = make_table(tmp_path / "main", rows)
    ways = [main, ibis.memtable(rows), ctkit.certificates(main)]
    answers = [getattr(ctkit, name)(way, **ASKED[name]).to_pyarrow() for way in ways]

    assert len(answers[0])
    assert all(each.to_pylist() == answers[0].to_pylist() for each in answers)


@each_question
def test_no_rows(tmp_path, name):
    """An empty table has an empty answer with the same columns."""
    found = getattr(ctkit, name)(ctkit.open_table(tmp_path / "main"), **ASKED[name]).to_pyarrow()
    asked = getattr(ctkit, name)(ctkit.certificates(ROWS), **ASKED[name])

    assert (len(found), found.column_names) == (0, list(asked.columns))


@each_question
def test_hostile_names(name):
    """Whatever names and issuers are, every question has an answer, and no name is changed."""
    texts = [text.encode("utf-8", "replace").decode() for text in HOSTILE.values()]
    rows = [
        entry(at, [text, f"{text}.example.com", f"example.com.{text}"], issuer_aggregated=f"/CN={text}", precert=True)
        for at, text in enumerate(texts)
    ]
    found = getattr(ctkit, name)(table_of(*rows), **ASKED[name]).to_pyarrow()

    if name == "name_history":
        assert {f"{text}.example.com".lower() for text in texts} <= set(found["name"].to_pylist())
    assert found.column_names


@pytest.mark.parametrize("name", ["name_history", "related_names", "look_alikes"])
def test_hostile_domains(name):
    """What is asked for is text and no more."""
    table = table_of(entry(1, ["example.com", "example.org"]))
    for domain in list(HOSTILE.values())[::5]:
        with suppress(ParameterError):
            assert len(getattr(ctkit, name)(table, domain).to_pyarrow()) <= 2


def test_a_table_of_something_else():
    """It is refused, with what it lacks."""
    for name, options in ASKED.items():
        with pytest.raises(ParameterError, match="as_der"):
            getattr(ctkit, name)(ROWS.drop("as_der"), **options)


ALL = """
import sys, ctkit
main = ctkit.open_table(sys.argv[1])
for _ in range(3):
    print(len(ctkit.look_alikes(main, "example.com").to_pandas()))
"""


def test_a_process_that_asks_ends_well(tmp_path):
    """DuckDB calls Python for it, from threads of its own."""
    rows = [entry(at, [f"b\u00fccher{at}.example", "xn--exmple-4nf.com"]) for at in range(300)]
    make_table(tmp_path / "main", pa.Table.from_pylist(rows, row_schema()))
    done = subprocess.run(
        [sys.executable, "-c", ALL, tmp_path / "main"], capture_output=True, text=True, check=False, timeout=120
    )

    assert (done.returncode, done.stderr, done.stdout.split()) == (0, "", ["1", "1", "1"])
