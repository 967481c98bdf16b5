"""Arguments in Python: checked as strictly as parameter files, before anything is fetched or written."""

import base64
import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from fakes import FakeLog

import ctkit
from ctkit.desk.parameters import Parameters
from ctkit.errors import ParameterError
from ctkit.schema import GAP_SCHEMA

GAPS = GAP_SCHEMA.empty_table()
AGENT = "ctkit tests, nobody@example.org"
LOG = "https://log.example"

WRONG = {
    "backfill": [
        {"logs": "a.example"},
        {"logs": ["a.example"]},
        {"logs": [None]},
        {"logs": None},
        {"logs": {LOG: 5}},
        {"gaps": None},
        {"gaps": "gaps"},
        {"gaps": [(LOG, 0, 5)]},
        {"gaps": {"source_url": [LOG], "start": [0]}},
        {"gaps": pd.DataFrame({"source_url": [LOG], "start": ["a"], "end": [3]})},
        {"gaps": {"source_url": [LOG], "start": [0], "end": [1 << 70]}},
        {"gaps": pa.table({"source_url": [LOG], "start": [-1], "end": [3]})},
        {"gaps": pa.table({"source_url": [None], "start": [1], "end": [3]})},
        {"table": "staging"},
        {"table": Path("staging")},
        {"table": None},
        {"main": "main"},
        {"seen": "now"},
        {"seen": None},
        {"verify": "entires"},
        {"verify": True},
        {"max_requests": "3"},
        {"max_requests": True},
        {"max_requests": 0},
        {"max_entries": -1},
        {"max_entries": 1.5},
        {"deadline": float("nan")},
        {"deadline": float("inf")},
        {"deadline": 1e300},
        {"deadline": "60"},
        {"deadline": 0},
        {"on_progress": "print"},
        {"stop": True},
    ],
    "plan_backfill": [{"logs": "a.example"}, {"gaps": 5}, {"ask": "no"}, {"ask": 1}],
    "audit": [
        {"logs": "a.example"},
        {"main": "main"},
        {"main": None},
        {"within": 5},
        {"within": {LOG: 5}},
        {"within": {LOG: (0, None)}},
        {"within": {LOG: ("0", 5)}},
        {"within": {LOG: (True, 5)}},
        {"within": {LOG: (-1, 5)}},
        {"within": {LOG: (0, 1 << 70)}},
        {"within": {LOG: (0, 1 << 50)}},
        {"final_heads": {LOG: 5}},
        {"unavailable": ["down"]},
        {"recheck": "al"},
        {"recheck": True},
        {"require_proof": "yes"},
    ],
    "find_gaps": [
        {"main": "main"},
        {"staging": 5},
        {"within": None},
        {"within": [(LOG, (0, 5))]},
        {"within": {LOG: 5}},
        {"within": {LOG: (5,)}},
        {"within": {LOG: (0, 5, 9)}},
        {"within": {LOG: (0, None)}},
        {"within": {LOG: ("0", 5)}},
        {"within": {LOG: (True, 5)}},
        {"within": {LOG: (-1, 5)}},
        {"within": {LOG: (0, -5)}},
        {"within": {LOG: (0, 1 << 70)}},
        {"within": {5: (0, 5)}},
        {"internal_only": 1},
    ],
    "rows_of": [{"table": "main"}, {"table": None}],
    "open_certificate": [
        {"table": "main"},
        {"table": None},
        {"source_url": 5},
        {"cert_index": "7"},
        {"cert_index": True},
        {"cert_index": -1},
        {"cert_index": None},
    ],
    "certificates": [{"main": "main"}, {"main": None}, {"names": "example.com"}],
    "find_names": [
        {"main": "main"},
        {"domain": 5},
        {"domain": ""},
        {"domain": "a\0b"},
        {"domain": "."},
        {"exact": "yes"},
        {"within": "2026-11-01"},
        {"within": ("yesterday", None)},
        {"within": (None,)},
        {"kind": "precert"},
        {"limit": -1},
        {"limit": "5"},
        {"index_path": 5},
        {"index_path": "table"},
        {"index_path": "table/names"},
    ],
    "search_names": [{"main": None}, {"pattern": 5}, {"pattern": "*b\u00fccher*"}, {"kind": "all"}],
    "index_names": [{"main": "main"}, {"index_path": 5}],
    "issuances": [{"main": "main"}, {"main": None}],
    "busiest_domains": [{"certificates": "main"}, {"certificates": None}],
    "issued_over_time": [{"certificates": 5}, {"by": "issuer"}, {"every": "hour"}],
    "name_history": [{"certificates": None}, {"domain": 5}, {"domain": "."}, {"new_since": "yesterday"}],
    "related_names": [{"certificates": None}, {"domain": ""}, {"domain": "a\0b"}, {"exact": 1}],
    "broad_certificates": [{"certificates": None}, {"names": 0}, {"names": "many"}],
    "expiring_names": [{"certificates": None}, {"days": 0}, {"as_of": 5}],
    "issuance_smells": [{"certificates": None}, {"smells": "backdated"}, {"smells": ["old"]}, {"smells": []}],
    "look_alikes": [
        {"certificates": None},
        {"domain": "."},
        {"domain": "a" * 64},
        {"own": "example.net"},
        {"own": [""]},
    ],
    "show": [{"question": "main"}, {"question": None}, {"title": 5}, {"first": 0}],
    "plot_over_time": [{"counts": None}, {"counts": ibis.memtable({"counts": [5]})}, {"title": None}],
    "find_main": [{"parameters": "main"}, {"parameters": None}],
    "find_table": [{"uri": 5}, {"uri": None}, {"uri": b"main"}],
    "open_table": [{"uri": 5}, {"create": "no"}, {"like": "main"}],
    "preview_merge": [{"staging": "staging"}, {"staging": None}, {"main": "main"}],
    "merge_staging": [{"staging": "staging"}, {"main": "main"}, {"main": None}, {"expected": 3}, {"confirmed": "yes"}],
    "undo_merge": [{"main": "main"}, {"main": None}, {"staging": 5}, {"version": "7"}, {"version": -1}],
    "repair": [{"main": "main"}, {"main": None}, {"dry_run": "no"}],
    "tidy": [{"main": "main"}, {"main": None}, {"dry_run": "no"}],
    "open_log": [
        {"url": 5},
        {"url": None},
        {"user_agent": 5},
        {"protocol": "rfc9162"},
        {"protocol": None},
        {"name": 5},
        {"key": 5},
        {"key": "no base64!"},
        {"key": b"no key"},
        {"key": "AAAA"},
        {"patience": 5},
    ],
    "read_log_list": [{"source": 5}, {"user_agent": None}, {"key": "AAAA"}, {"key": 7}],
    "read_parameters": [{"file": 5}, {"verify": "entires"}, {"form_index": 5}],
    "report_gaps": [{"parameters": {"main_path": "main"}}, {"parameters": None}],
    "audit_main": [{"parameters": "main"}],
    "fill_gaps": [{"gap_report": None}, {"gaps": "all"}, {"on_progress": 5}, {"stop": "now"}],
    "plan_gaps": [{"gap_report": None}, {"gaps": "all"}],
    "plot_gaps": [{"gaps": "all"}, {"gaps": None}, {"within": 5}],
    "preview_staged": [{"parameters": "main"}, {"parameters": None}],
    "merge_staged": [{"parameters": "main"}, {"expected": 3}],
    "undo_staged": [{"parameters": "main"}, {"version": "7"}],
    "tidy_main": [{"parameters": "main"}, {"dry_run": "no"}],
    "watch": [{"parameters": "watch.yaml"}, {"parameters": None}],
    "update": [{"parameters": "main"}, {"on_progress": 5}, {"stop": 1}],
    "follow": [{"parameters": "main"}, {"lag": "long"}, {"on_round": 5}],
    "find_status": [{"parameters": "main"}],
    "list_logs": [{"parameters": "main"}],
    "find_runs": [{"folder": 5}, {"folder": None}],
}


@pytest.fixture
def right(tmp_path, monkeypatch):
    """Return right arguments for each function; nothing of them may be asked or written."""
    monkeypatch.chdir(tmp_path)
    table = ctkit.open_table(tmp_path / "table")
    log = ctkit.open_log(LOG, user_agent=AGENT, protocol="rfc6962")
    gap_report = ctkit.GapReport(Parameters(), (log,), None, None, {}, GAPS)
    named = {
        "backfill": {"logs": [log], "gaps": GAPS, "table": table},
        "plan_backfill": {"logs": [log], "gaps": GAPS},
        "audit": {"logs": [log], "main": table},
        "find_gaps": {"main": None, "within": {}},
        "rows_of": {"table": table},
        "open_certificate": {"table": table, "source_url": LOG, "cert_index": 7},
        "certificates": {"main": table},
        "find_names": {"main": table, "domain": "example.com"},
        "search_names": {"main": table, "pattern": "*example*"},
        "index_names": {"main": table},
        "issuances": {"main": table},
        "busiest_domains": {"certificates": table},
        "issued_over_time": {"certificates": table},
        "name_history": {"certificates": table},
        "related_names": {"certificates": table, "domain": "example.com"},
        "broad_certificates": {"certificates": table},
        "expiring_names": {"certificates": table},
        "issuance_smells": {"certificates": table},
        "look_alikes": {"certificates": table, "domain": "example.com"},
        "show": {"question": ibis.memtable({"rows": [1]})},
        "plot_over_time": {"counts": ctkit.issued_over_time(table)},
        "find_main": {"parameters": Parameters()},
        "find_table": {"uri": "nowhere"},
        "open_table": {"uri": "nowhere"},
        "preview_merge": {"staging": table, "main": None},
        "merge_staging": {"staging": table, "main": table},
        "undo_merge": {"main": table},
        "repair": {"main": table},
        "tidy": {"main": table},
        "open_log": {"url": LOG, "user_agent": AGENT, "protocol": "rfc6962"},
        "read_log_list": {"source": "nowhere", "user_agent": AGENT},
        "read_parameters": {},
        "report_gaps": {"parameters": Parameters()},
        "audit_main": {"parameters": Parameters()},
        "fill_gaps": {"gap_report": gap_report},
        "plan_gaps": {"gap_report": gap_report},
        "plot_gaps": {"gaps": GAPS},
        "preview_staged": {"parameters": Parameters()},
        "merge_staged": {"parameters": Parameters()},
        "undo_staged": {"parameters": Parameters()},
        "tidy_main": {"parameters": Parameters()},
        "update": {"parameters": Parameters()},
        "watch": {"parameters": Parameters()},
        "follow": {"parameters": Parameters()},
        "find_status": {"parameters": Parameters()},
        "list_logs": {"parameters": Parameters()},
        "find_runs": {"folder": "nowhere"},
    }
    yield named
    log.close()


def test_every_public_function_is_here():
    """Each function of the package is among those that are tried."""
    functions = {name for name in ctkit.__all__ if inspect.isfunction(getattr(ctkit, name))}

    assert functions == WRONG.keys()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [(name, wrong) for name, each in WRONG.items() for wrong in each],
    ids=lambda each: str(each)[:40],
)
def test_wrong_argument(right, tmp_path, name, wrong):
    """It is a `ParameterError` that names it, and nothing is asked or written."""
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(ParameterError) as raised:
        getattr(ctkit, name)(**{**right[name], **wrong})

    assert any(key.rstrip("s") in str(raised.value) for key in wrong)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "wrong", "word"),
    [
        ("backfill", {"verify": "entires"}, "entries"),
        ("backfill", {"seen": "fetcht"}, "fetched"),
        ("audit", {"recheck": "al"}, "all"),
        ("open_log", {"protocol": "rfc692"}, "rfc6962"),
        ("read_parameters", {"ceiling": "stat"}, "state"),
        ("read_parameters", {"form_index": 5}, "from_index"),
    ],
)
def test_wrong_word(right, name, wrong, word):
    """The error says which word was meant, in Python as for a parameter file."""
    with pytest.raises(ParameterError, match=rf"did you mean {word}\?"):
        getattr(ctkit, name)(**{**right[name], **wrong})


def test_several_wrong_arguments(right):
    """Each is named, on a line of its own."""
    with pytest.raises(ParameterError) as raised:
        ctkit.backfill(**{**right["backfill"], "seen": "now", "verify": "all"})

    assert [line.split(":")[:2] for line in str(raised.value).splitlines()] == [
        ["backfill", " seen"],
        ["backfill", " verify"],
    ]


def test_numbers_of_numpy_and_lists():
    """Whole numbers of NumPy, and a list in place of a pair, are what they say."""
    found = ctkit.find_gaps(None, within={LOG: [np.int64(2), np.uint8(5)]})

    assert found.to_pylist() == [{"source_url": LOG, "start": 2, "end": 5}]


@pytest.mark.parametrize("protocol", ["static-ct", "static_ct"])
def test_both_spellings_of_a_protocol(protocol):
    """It is spelled with a hyphen or as the module is called, in parameters and in Python."""
    with ctkit.open_log(LOG, user_agent=AGENT, protocol=protocol) as log:
        assert log.protocol == "static-ct"
    (named,) = ctkit.read_parameters(logs=[{"url": LOG, "protocol": protocol}]).logs or ()
    assert named.protocol == "static-ct"


def test_both_spellings_of_a_key():
    """It is base64 text, as in a log list, or the bytes of its DER, in parameters and in Python."""
    der = FakeLog("any", 1).public_key
    for key in (der, base64.b64encode(der).decode()):
        with ctkit.open_log(LOG, user_agent=AGENT, protocol="rfc6962", key=key) as log:
            assert log.key == der
        (named,) = ctkit.read_parameters(logs=[{"url": LOG, "key": key}]).logs or ()
        assert named.key == der


@pytest.mark.parametrize("name", sorted(WRONG))
def test_documentation_of_a_checked_function(name):
    """Its signature and its docstring are there, and its examples hold."""
    function = getattr(ctkit, name)
    inner = inspect.unwrap(function)
    runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    for test in doctest.DocTestFinder().find(inner, name, globs={**inner.__globals__, name: function}):
        runner.run(test)

    assert function.__doc__ == inner.__doc__
    assert inspect.signature(function) == inspect.signature(inner)
    assert runner.failures == 0


CONSUMER = """
import ctkit

log = ctkit.open_log("https://log.example", user_agent="me@example.org")
main = ctkit.open_table("main")
gaps = ctkit.find_gaps(main, within={log.url: (0, log.get_checkpoint().tree_size)})
report = ctkit.backfill([log], gaps, main, verify="entries", max_requests=5)
reveal_type(report)
ctkit.backfill([log], gaps, main, verify="entires")
ctkit.audit([log], "main")
ctkit.opne_log
"""


def test_type_checkers_see_the_types(tmp_path):
    """Who uses the package has its types checked, as it has `py.typed`."""
    (tmp_path / "consumer.py").write_text(CONSUMER)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "consumer.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("consumer.py")]

    assert [(int(line.split(":")[1]), line.rpartition("[")[2].rstrip("]")) for line in lines if "error" in line] == [
        (9, "arg-type"),
        (10, "arg-type"),
        (11, "attr-defined"),
    ]
    assert any('Revealed type is "ctkit.jobs.backfill_report.BackfillReport"' in line for line in lines)
