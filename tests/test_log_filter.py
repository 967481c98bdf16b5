"""Which logs `log_filter` keeps."""

import json

import pytest

from ctkit.desk.chosen_logs import choose_logs
from ctkit.desk.log_filter import matches
from ctkit.desk.parameters import Parameters, read_parameters
from ctkit.errors import ParameterError


@pytest.fixture
def listed(tmp_path):
    """Write a list of three logs of two operators, and return its path."""

    def log(name):
        return {"url": f"https://{name}.example", "key": "", "description": f"{name} log"}

    operators = [
        {"name": "Google", "logs": [log("argon2026"), log("argon2027")]},
        {"name": "Trust, Inc.", "logs": [log("google-like2026")]},
    ]
    (tmp_path / "list.json").write_text(json.dumps({"operators": operators}))
    return str(tmp_path / "list.json")


@pytest.mark.parametrize(
    ("log_filter", "chosen"),
    [
        (None, ["argon2026", "argon2027", "google-like2026"]),
        ("ARGON", ["argon2026", "argon2027"]),
        ("google", ["google-like2026"]),
        ("operator: google", ["argon2026", "argon2027"]),
        ({"operator": "Goo"}, ["argon2026", "argon2027"]),
        ("Operator:google,2026", ["argon2026"]),
        ("2026 , operator: trust", ["google-like2026"]),
        ("https://argon", ["argon2026", "argon2027"]),
    ],
)
def test_filters_of_a_log_list(listed, log_filter, chosen):
    """A text is looked for in name and URL, or in the operator; all conditions hold."""
    found = choose_logs(Parameters(log_list=listed, log_filter=log_filter)).logs

    assert [log.url for log in found] == [f"https://{name}.example" for name in chosen]


def test_a_log_of_no_known_operator_is_kept_by_no_operator(listed):
    """A log that only `logs` names has none; one that the list has too has the list's."""
    logs = [{"url": "https://operator-google.example"}, {"url": "argon2027.example"}]

    found = choose_logs(Parameters(logs=logs, log_list=listed, log_filter="operator: google")).logs

    assert [log.url for log in found] == ["argon2027.example", "https://argon2026.example"]
    assert not matches("operator: x", url="https://x.example", name="x", operator=None)


@pytest.mark.parametrize(
    "value",
    ["operator:", "operator: , 2026", "2026,", ",", {"operator": ""}, {"operator": 7}, {"operater": "x"}, {}, 7],
)
def test_filters_that_mean_nothing(value):
    """A filter without a text for each condition is a mistake, before any list is read."""
    with pytest.raises(ParameterError) as raised:
        read_parameters(log_filter=value, log_list="nowhere.json")
    assert raised.value.keys == ("log_filter",)


def test_a_filter_of_a_file(tmp_path):
    """In YAML the condition is a mapping, or text in quotes."""
    found = []
    for text in ("log_filter: {operator: Google}", 'log_filter: "operator: Google"'):
        (tmp_path / "ct.yaml").write_text(text)
        found.append(read_parameters(tmp_path / "ct.yaml").log_filter)

    assert found == ["operator: Google"] * 2
