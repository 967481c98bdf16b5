"""The choice of gaps as text: what it means, what it refuses, and that it travels."""

import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rows import LOG, OTHER_LOG

from ctkit.desk.choice import ChosenLog, GapChoice, log_label
from ctkit.desk.chosen_gaps import save_choice
from ctkit.desk.parameters import Parameters, read_parameters
from ctkit.errors import ParameterError
from ctkit.lake.gaps import find_gaps
from ctkit.schema import GAP_SCHEMA

NAMES = {LOG: "Argon 2026h2", OTHER_LOG: "Willow"}


def make_gaps(*gaps):
    """Return the given ``(source_url, start, end)`` as a table of gaps."""
    return pa.Table.from_pylist([dict(zip(GAP_SCHEMA.names, gap, strict=True)) for gap in gaps], schema=GAP_SCHEMA)


GAPS = make_gaps((LOG, 0, 10), (LOG, 20, 21), (OTHER_LOG, 5, 8), (OTHER_LOG, 100, 200))


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("willow", [(OTHER_LOG, 5, 8), (OTHER_LOG, 100, 200)]),
        ("WILLOW; argon: 20-", [(LOG, 20, 21), (OTHER_LOG, 5, 8), (OTHER_LOG, 100, 200)]),
        (f"{LOG}: -5, 8-20", [(LOG, 0, 5), (LOG, 8, 10)]),
        ("ct.example.org", [(OTHER_LOG, 5, 8), (OTHER_LOG, 100, 200)]),
        ("argon: 0-2; argon: 1-3, 3-4", [(LOG, 0, 4)]),
        ("argon, 2026h2: 3-4", [(LOG, 3, 4)]),
        ("size>=4", [(LOG, 0, 10), (OTHER_LOG, 100, 200)]),
        ("size <= 3", [(LOG, 20, 21), (OTHER_LOG, 5, 8)]),
        ("size=1", [(LOG, 20, 21)]),
        ("size>3", [(LOG, 0, 10), (OTHER_LOG, 100, 200)]),
        ("size<2; size==1", [(LOG, 20, 21)]),
        ("argon; size>=2; size<=10", [(LOG, 0, 10)]),
        # The size is that of the whole gap, also where only a part of it is chosen.
        ("willow: 199-; size>=100", [(OTHER_LOG, 199, 200)]),
        ("willow: 8-100", []),
        ("none", []),
    ],
)
def test_what_a_choice_chooses(text, chosen):
    """By log, index and size, in any order; a gap is cut where it reaches beyond a range."""
    found = GapChoice.parse(text).apply(GAPS, NAMES)

    assert found.to_pylist() == make_gaps(*chosen).to_pylist()
    assert found.schema == GAP_SCHEMA


@pytest.mark.parametrize("text", ["", " ; ", "all", "ALL", "size>=1"])
def test_a_choice_of_everything(text):
    """Everything is chosen if nothing is left out; the table is the same."""
    assert GapChoice.parse(text).apply(GAPS, NAMES) is GAPS


@pytest.mark.parametrize(
    "text",
    [
        "argon: 5-3",
        "argon: 5-5",
        "argon:",
        "argon: 5",
        "argon: 1099511627777-",
        "argon: " + "9" * 5000 + "-",
        "size>=3; size<=2",
        "all; argon",
        "none; size>=2",
        "argon,",
        "operator:",
    ],
)
def test_what_is_no_choice(text):
    """It is refused when it is read, before any table is opened, and the key is named."""
    with pytest.raises(ParameterError) as raised:
        Parameters(choice=text)

    assert raised.value.keys == ("choice",)


@pytest.mark.parametrize(
    ("text", "named"), [("birch", ["Argon 2026h2", "Willow"]), ("ct.example", [LOG, OTHER_LOG]), ("wilow", ["Willow"])]
)
def test_a_log_that_is_unknown_or_ambiguous(text, named):
    """The error names the logs that may be meant."""
    with pytest.raises(ParameterError) as raised:
        GapChoice.parse(text).apply(GAPS, NAMES)

    assert all(name in str(raised.value) for name in named)
    assert raised.value.keys == ("choice",)


def test_a_whole_name_goes_before_its_parts():
    """One log's name may be a part of another's."""
    names = {LOG: "Argon", OTHER_LOG: "Argon 2"}

    assert GapChoice.parse("argon").apply(GAPS, names)["source_url"].unique().to_pylist() == [LOG]
    assert log_label(LOG, names) == "Argon"


@pytest.mark.parametrize("name", ["a; b", "x: 3-4", "size>=3", "all", "None", "a,,b", "Willow", "", " Argon", None])
def test_a_name_that_a_choice_cannot_hold(name):
    """The log is named by its URL."""
    names = {LOG: name, OTHER_LOG: "Willow"}

    assert log_label(LOG, names) == LOG
    assert GapChoice((ChosenLog(log_label(LOG, names)),)).resolve(names).keys() == {LOG}


INDEX = st.integers(0, 300)
RANGES = st.lists(
    st.tuples(INDEX, st.one_of(st.none(), INDEX)).map(
        lambda pair: pair if pair[1] is None else (min(pair), max(pair) + 1)
    ),
    max_size=3,
).map(tuple)
CHOICES = st.builds(
    lambda logs, smallest, larger: GapChoice(logs, smallest, None if larger is None else smallest + larger),
    st.one_of(
        st.none(),
        st.lists(st.builds(ChosenLog, st.sampled_from([*NAMES, *NAMES.values()]), RANGES), max_size=3).map(tuple),
    ),
    st.integers(1, 20),
    st.one_of(st.none(), st.integers(0, 20)),
)


@given(CHOICES)
def test_a_choice_travels_as_text(choice):
    """Written and read again, it is the same, and chooses the same gaps."""
    again = GapChoice.parse(str(choice))

    assert str(again) == str(choice)
    assert again.apply(GAPS, NAMES).to_pylist() == choice.apply(GAPS, NAMES).to_pylist()


def test_a_choice_keeps_what_the_gaps_were_found_in():
    """A backfill reads the table again only if it has changed since."""
    gaps = find_gaps(None, within={LOG: (0, 9)})

    assert GapChoice.parse("size>=1; ct.example.com").apply(gaps, {}).schema.metadata == gaps.schema.metadata


def test_a_choice_as_a_parameter_file(tmp_path, monkeypatch):
    """The file says all that the parameters said, with paths that hold anywhere, and the choice."""
    monkeypatch.chdir(tmp_path)
    logs = [{"url": LOG, "name": "Argon", "key": KEY, "since": "2026-11-01"}, {"url": OTHER_LOG, "from": 5}]
    given = read_parameters(main_path="main", log_list="google", logs=logs, user_agent="me@example.org", verify="off")

    file = save_choice(GapChoice.parse("argon: 3-4"), "choice.yaml", given)
    monkeypatch.chdir("/")

    places = {"main_path": str(tmp_path / "main"), "runs_path": str(tmp_path / "runs")}
    wanted = given.model_copy(update={**places, "choice": "argon: 3-4"})
    assert read_parameters(tmp_path / file) == wanted
    monkeypatch.chdir(tmp_path)
    save_choice(GapChoice(), file, given)
    assert yaml.safe_load(file.read_text())["choice"] == "all"


def test_a_parameter_file_is_not_replaced(tmp_path):
    """What the analyst wrote stays."""
    file = tmp_path / "ct.yaml"
    file.write_text("main_path: main\n")

    with pytest.raises(ParameterError):
        save_choice(GapChoice(), file, Parameters())
    assert file.read_text() == "main_path: main\n"


KEY = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEKjpni/66DIYrSlGK6Rf+e6F2c/28ZUvDJ79N81+gyimAESAyeNZ++TRgjHWg9TVQnKHTSU0T1TtqDupFnS"
    "QTIg=="
)


def test_sizes_that_no_gap_has():
    """They are refused when a choice is made, and not only when its text is read."""
    with pytest.raises(ParameterError) as raised:
        GapChoice(smallest=10, largest=5)

    assert raised.value.keys == ("choice",)
    assert GapChoice(smallest=5, largest=5) == GapChoice.parse("size=5")
