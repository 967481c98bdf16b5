"""Which stretch of each log is kept complete: what is said first, what the table remembers, and who agrees on it."""

import base64
import json
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from random import Random

import pytest
from fakes import FakeLog
from rows import indices_of, make_rows, make_table

from ctkit.cli import main as ctkit_main
from ctkit.demo.issuance import issue
from ctkit.desk.gap_report import report_gaps
from ctkit.desk.parameter_files import PATHS, read_parameter_file, without_overridden
from ctkit.desk.parameters import Parameters, read_parameters
from ctkit.desk.state_file import write_state
from ctkit.desk.verbs import audit_main, fill_gaps, merge_staged
from ctkit.errors import LogUnavailableError, ParameterError
from ctkit.lake.starts import bounds_in
from ctkit.lake.table import find_table, table_path
from ctkit.logs.since import first_since

AGENT = "ctkit tests, ct@example.org"


class Nights:
    """A log, two tables, and what is done with them every night."""

    def __init__(self, folder, serve, size=100):
        self.folder = folder
        self.log = FakeLog("Night", size, protocols=["rfc6962"])
        self.url = serve(self.log)

    def parameters(self, *, of_log=None, **words):
        """Return parameters; `of_log` is said of the log itself."""
        log = {"url": self.url, "protocol": "rfc6962", "name": "Night", **(of_log or {})}
        paths = {"main_path": str(self.folder / "main"), "staging_path": str(self.folder / "staging")}
        return read_parameters(**{**paths, "logs": [log], "user_agent": AGENT, **words})

    def gaps(self, **words):
        """Return the ranges that are missing."""
        with closing(report_gaps(self.parameters(**words))) as found:
            return [(gap["start"], gap["end"]) for gap in found.gaps.to_pylist()]

    def backfill(self, **words):
        """Fetch what is missing; return how much was written."""
        with closing(report_gaps(self.parameters(**words), verb="append")) as found:
            report = fill_gaps(found)
            report.check()
            found.check()
        return sum(report.written.values())

    def merge(self):
        """Merge what is staged."""
        return merge_staged(self.parameters()).inserted

    def audited(self, **words):
        """Return the stretch that an audit judges, and whether it passed."""
        report = audit_main(self.parameters(**words))
        (log,) = report.logs
        return log.start, log.end, report.passed

    @property
    def remembered(self):
        """What main remembers of the log."""
        return bounds_in(find_table(self.folder / "main")).get(self.url)


@pytest.fixture
def nights(tmp_path, serve):
    """Return them, with a log of a hundred entries."""
    return Nights(tmp_path, serve)


def test_last_means_the_same_start_every_night(nights):
    """However much the log grows, whatever is merged, and whoever asks: with the word, or without it."""
    last = {"of_log": {"last": 30}}
    assert nights.gaps(**last) == [(70, 100)]
    assert nights.backfill(**last) == 30
    assert (nights.gaps(**last), nights.gaps()) == ([], [])
    nights.log.grow(50)
    assert nights.gaps(**last) == nights.gaps() == [(100, 150)]
    assert nights.merge() == 30
    assert nights.gaps(**last) == nights.gaps() == [(100, 150)]
    assert nights.audited() == nights.audited(**last) == (70, 150, False)
    assert nights.backfill(**last) == 50
    nights.log.grow(40)
    assert nights.merge() == 50
    assert nights.gaps(last=10) == [(150, 190)]
    assert nights.backfill() == 40
    assert nights.merge() == 40

    assert nights.remembered == (70, None)
    assert nights.audited() == (70, 190, True)
    assert indices_of(find_table(nights.folder / "main"), nights.url) == [*range(70, 190)]


def test_a_start_outlives_the_rows(nights):
    """It is remembered when the first entries could not be fetched, and when the rows are gone."""
    nights.backfill(last=30)
    nights.merge()
    main = find_table(nights.folder / "main")
    main.delete("cert_index < 90")
    nights.log.grow(1)

    assert nights.gaps(last=30) == nights.gaps() == [(70, 90), (100, 101)]
    assert nights.audited() == (70, 101, False)


def test_an_index_is_a_window_unless_it_is_lower(nights):
    """A higher one does not move the start, a lower one does; so does an end, of the log itself only."""
    nights.backfill(from_index=50, of_log={"to": 60})
    nights.merge()
    assert nights.remembered == (50, 60)
    assert nights.gaps() == []
    assert nights.gaps(from_index=58, to_index=70) == [(60, 70)]
    assert nights.backfill(from_index=58, to_index=70) == 10
    nights.merge()
    assert (nights.remembered, nights.gaps()) == ((50, 60), [])
    assert nights.backfill(of_log={"from": 40, "to": 80}) == 20
    nights.merge()
    assert (nights.remembered, nights.gaps()) == ((40, 80), [])
    assert nights.audited() == (40, 80, True)


def test_an_index_above_the_first_row_is_not_remembered(nights):
    """Nothing is remembered of a table that another program began: its first row stays the start."""
    make_table(nights.folder / "main", make_rows([10], url=nights.url))
    nights.backfill(from_index=90)
    nights.merge()

    assert nights.remembered is None
    assert nights.gaps() == [(11, 90)]


@pytest.mark.parametrize(("rows", "start"), [([10], 10), ([95], 70)])
def test_last_of_a_log_that_has_rows(nights, rows, start):
    """The lower of the two starts counts, and is remembered."""
    make_table(nights.folder / "main", make_rows(rows, url=nights.url))
    nights.backfill(last=30)
    nights.merge()

    assert nights.remembered == (start, None)


def test_a_log_below_its_start(nights):
    """It is said, nothing is missing and nothing remembered, until the log has grown."""
    with closing(report_gaps(nights.parameters(from_index=100))) as found:
        found.check()
        assert (found.not_begun, found.gaps.num_rows) == ({nights.url: 100}, 0)
        assert nights.url in found.remark
    assert nights.backfill(from_index=100) == 0
    nights.log.grow(5)
    assert nights.backfill(from_index=100) == 5


@pytest.mark.parametrize(
    ("words", "start", "end"),
    [
        ({"last": 10, "to_index": 50}, 90, 50),
        ({"last": 10, "to_index": 90}, 90, 90),
        ({"of_log": {"since": "2999-01-01", "to": 50}}, 100, 50),
        ({"since": "2999-01-01", "to_index": 100}, 100, 100),
    ],
)
def test_a_log_that_starts_above_its_own_end(nights, serve, words, start, end):
    """It never begins, however much it grows: that is an error, not a log that has not begun; others are filled."""
    with closing(report_gaps(nights.parameters(**words), verb="append")) as found:
        assert (list(found.undone), found.not_begun, found.logs) == ([nights.url], {}, ())
        assert f" {start}," in found.undone[nights.url]
        assert f" {end};" in found.undone[nights.url]
        assert fill_gaps(found).written == {}
        with pytest.raises(ParameterError) as raised:
            found.check()
    assert raised.value.keys == ("logs",)
    other = serve(FakeLog("Other", 5, protocols=["rfc6962"]))
    of_log = words.pop("of_log", {})
    logs = [{"url": nights.url, **of_log}, {"url": other, "from": 0}]
    with closing(report_gaps(nights.parameters(logs=logs, **words))) as found:
        assert (list(found.undone), list(found.within)) == ([nights.url], [other])


def test_an_end_below_the_remembered_start(nights):
    """Gaps and audit say so, and what the table has stays as it is."""
    nights.backfill(last=10)
    nights.merge()
    assert ctkit_main(gaps := ["gaps", *flags_of(nights), "--to", "100"]) == 0
    assert ctkit_main([*gaps[:-1], "90"]) == 1
    with pytest.raises(LogUnavailableError) as raised:
        audit_main(nights.parameters(to_index=90)).check()
    assert raised.value.url == nights.url
    assert nights.remembered == (90, None)


def flags_of(nights):
    """Return the flags that name the log and main."""
    return ["--main-path", str(nights.folder / "main"), "--log-url", nights.url, "--user-agent", AGENT]


def test_last_of_a_log_that_is_empty_at_first(nights, serve):
    """Nothing is remembered without a row: it counts from the end of the night that writes the first."""
    nights.log = FakeLog("Empty", 0, protocols=["rfc6962"])
    nights.url = serve(nights.log)
    assert nights.backfill(last=5) == 0
    nights.log.grow(20)
    assert nights.backfill(last=5) == 5
    nights.merge()
    assert nights.remembered == (15, None)


def test_words_of_a_log_count_before_those_for_all(nights):
    """Each log without its own has those for all."""
    assert nights.gaps(from_index=5, to_index=20, of_log={"last": 30}) == []
    assert nights.gaps(from_index=5, to_index=20, of_log={"to": 9}) == [(5, 9)]
    assert nights.gaps(from_index=5, of_log={"from": 99}) == [(99, 100)]


def test_flags_override_the_words_of_a_log(tmp_path):
    """A start replaces every kind of start, an end every end; nothing else is touched."""
    (tmp_path / "ct.yaml").write_text("last: 5\nto_index: 9\nlogs: [{url: a.example, from: 3, to: 7}, b.example]")
    given = read_parameter_file(tmp_path / "ct.yaml")

    assert without_overridden(given, {"since": date(2026, 11, 1), "last": None}) == {
        "to_index": 9,
        "logs": [{"url": "a.example", "to": 7}, "b.example"],
    }
    assert without_overridden(given, {"to_index": 4})["logs"] == [{"url": "a.example", "from": 3}, "b.example"]
    assert without_overridden(given, {"deadline": 4}) == given


@pytest.mark.parametrize("words", [{}, {"state": True}], ids=["no start", "no ceiling"])
def test_a_named_log_that_is_not_done(nights, serve, words):
    """It is an error in the end, whatever the others came to."""
    other = serve(FakeLog("Other", 5, protocols=["rfc6962"]))
    logs = [{"url": nights.url, "protocol": "rfc6962"}, {"url": other, "protocol": "rfc6962"}]
    make_table(nights.folder / "main", make_rows([98, 99], url=nights.url))
    if words:
        write_state(nights.folder / "state.json", {nights.url: 100})
        words = {"state_file": str(nights.folder / "state.json"), "internal_only": False}
    parameters = nights.parameters(logs=logs, **words)

    with closing(report_gaps(parameters)) as found:
        assert list(found.undone) == [other]
        with pytest.raises(ParameterError) as raised:
            found.check()
    assert raised.value.keys == ("logs",)
    with pytest.raises(LogUnavailableError) as raised:
        audit_main(parameters).check()
    assert raised.value.url == other


def test_a_log_of_a_list_that_has_no_row_is_skipped(nights, serve):
    """It was not asked for by name."""
    other = FakeLog("Other", 5, protocols=["rfc6962"])
    keys = {nights.url: nights.log.public_key, serve(other): other.public_key}
    listed = [{"url": url, "key": base64.b64encode(key).decode(), "description": url} for url, key in keys.items()]
    (nights.folder / "list.json").write_text(json.dumps({"operators": [{"logs": listed}]}))
    make_table(nights.folder / "main", make_rows(range(98, 100), url=nights.url))
    parameters = nights.parameters(logs=None, log_list=nights.folder / "list.json")

    with closing(report_gaps(parameters)) as found:
        found.check()
        assert list(found.within) == [nights.url]
    assert [log.source_url for log in audit_main(parameters).logs] == [nights.url]


def test_an_audit_ends_where_a_backfill_does(nights):
    """At the state file's index, and at the last row if what follows is left to the live server."""
    make_table(nights.folder / "main", make_rows(range(10, 20), url=nights.url))
    write_state(nights.folder / "state.json", {nights.url: 30})
    state = {"state_file": str(nights.folder / "state.json")}

    assert nights.audited()[:2] == (10, 100)
    assert nights.audited(**state, internal_only=False)[:2] == (10, 30)
    assert nights.audited(**state)[:2] == (10, 20)
    assert nights.audited(**state, ceiling="log", internal_only=True)[:2] == (10, 20)


@pytest.mark.parametrize(
    ("words", "by_state"),
    [
        ({}, False),
        ({"state_file": "s.json"}, True),
        ({"state_file": "s.json", "ceiling": "log"}, False),
        ({"ceiling": "state"}, True),
    ],
)
def test_ceiling_by_default(words, by_state):
    """A state file has the ceilings, if one is named."""
    assert Parameters(**words).by_state == by_state


# Relative paths


def test_every_path_is_resolved():
    """Each key whose value is a path is one that a file may give relative to itself."""
    paths = [
        key for key in Parameters.model_fields if key.endswith(("_path", "_file", "_list", "_list_key", "_config"))
    ]

    assert sorted(PATHS) == sorted(paths)


def test_paths_in_a_file_mean_its_folder(tmp_path, monkeypatch):
    """Wherever it is read from; URLs and absolute paths stay as they are."""
    (tmp_path / "srv").mkdir()
    (tmp_path / "srv" / "ct.yaml").write_text(
        "main_path: data/main\nstaging_path: file://./data/st%20ag\nstate_file: /var/s.json\n"
        "log_list: https://list.example/v3.json\n"
    )
    monkeypatch.chdir(tmp_path)
    read = read_parameters("srv/ct.yaml", log_list_key="key.pem")

    assert read.main_path == str(tmp_path / "srv" / "data" / "main")
    assert read.staging_path == str(tmp_path / "srv" / "data" / "st ag")
    assert (read.state_file, read.log_list) == ("/var/s.json", "https://list.example/v3.json")
    assert read.log_list_key == "key.pem"


@pytest.mark.parametrize("path", ["~/data/main", "file://~/data/main"])
def test_the_home_folder_in_a_file(tmp_path, monkeypatch, path):
    """It stays the home folder, for every key; a folder of that name is written with ./ before it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "ct.yaml").write_text(f"main_path: {path}\nstaging_path: ./~/st\nstate_file: ~/s.json")
    read = read_parameters(tmp_path / "ct.yaml")

    assert table_path(read.main_path) == tmp_path / "home" / "data" / "main"
    assert read.staging_path == str(tmp_path / "~" / "st")
    assert read.state_file == str(tmp_path / "home" / "s.json")


def test_a_home_folder_that_does_not_exist(tmp_path):
    """That is an error, not a folder of that name."""
    (tmp_path / "ct.yaml").write_text("main_path: ~nobody-of-this-name/main")
    with pytest.raises(ParameterError):
        read_parameter_file(tmp_path / "ct.yaml")


def test_ctkit_run_resolves_paths(tmp_path, monkeypatch):
    """A notebook, which sees values only, gets absolute ones; words typed by hand override the file's."""
    (tmp_path / "srv").mkdir()
    file = "main_path: main\nlast: 5\nlogs: [{url: a.example, from: 3}]"
    (tmp_path / "srv" / "ct.yaml").write_text(file)
    seen = []
    monkeypatch.setattr("ctkit.desk.runbook.run_notebook", lambda *words, **more: seen.append((words, more)) or 0)
    monkeypatch.chdir(tmp_path)
    assert ctkit_main(["run", "backfill", "-f", "srv/ct.yaml", "-p", "since", "2026-11-01"]) == 0

    shared = {"main_path": str(tmp_path / "srv" / "main"), "logs": [{"url": "a.example"}]}
    ((words, more),) = seen
    assert words == ("backfill", {"since": "2026-11-01"})
    assert (more["shared"], more["runs"]) == (shared, str(tmp_path / "srv" / "runs"))


# Since


@pytest.fixture(params=["rfc6962", "static-ct"])
def dated(request, opened):
    """Return a log of ten days, a hundred entries a day, and its opened client."""
    start = datetime(2026, 11, 1, tzinfo=UTC)
    fake = FakeLog("Dated", 1000, protocols=[request.param], start=start, days=10)
    return fake, opened(fake, request.param)


def milliseconds(day):
    """Return the beginning of a day of November 2026."""
    return int(datetime(2026, 11, day, tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize("day", [1, 2, 5, 10, 11])
def test_first_since(dated, day):
    """The first entry of a day is found with few requests."""
    fake, log = dated
    expected = next((at for at, entry in enumerate(fake.entries) if entry.timestamp >= milliseconds(day)), 1000)
    log.get_checkpoint()
    before = len(fake.requests)

    assert first_since(log, milliseconds(day), 1000) == expected
    assert len(fake.requests) - before <= 2 * 10 + 4


def test_first_since_when_timestamps_are_out_of_order(opened):
    """An entry of the date that stands a little too early is found."""
    fake = FakeLog("Mixed", 0, protocols=["rfc6962"])
    for at in range(200):
        timestamp = milliseconds(5) + (at - 100) * 1000
        if at == 90:
            timestamp = milliseconds(5)
        fake.append(issue(Random(at), timestamp), timestamp)

    assert first_since(opened(fake), milliseconds(5), 200) == 90


def test_first_since_of_an_empty_log(dated):
    """There is nothing to ask for."""
    assert first_since(dated[1], 0, 0) == 0


def test_since_is_remembered_as_an_index(tmp_path, serve):
    """A night later it is the same entry, without another search."""
    nights = Nights(tmp_path, serve)
    start = datetime.fromtimestamp(nights.log.entries[0].timestamp / 1000, UTC).date()
    later = start + timedelta(days=1)
    moment = datetime.combine(later, datetime.min.time(), UTC).timestamp() * 1000
    first = next((at for at, entry in enumerate(nights.log.entries) if entry.timestamp >= moment), 100)
    assert nights.backfill(since=start) == 100
    nights.merge()
    assert nights.remembered == (0, None)
    assert nights.gaps(since=later) == []
    assert first > 0


def test_since_of_a_log_that_does_not_answer(nights):
    """It is named like any other that cannot be reached."""
    write_state(nights.folder / "state.json", {nights.url: 100})
    nights.log.down = True
    state = {"state_file": str(nights.folder / "state.json"), "internal_only": False, "deadline": 2}

    with closing(report_gaps(nights.parameters(since="2026-11-01", **state))) as found:
        assert [error.url for error in found.unavailable] == [nights.url]
        assert (dict(found.within), dict(found.undone)) == ({}, {})


def test_since_of_a_log_that_is_slow(nights, monkeypatch):
    """It gets the time that the search takes, as it answers; others do not wait for it."""
    monkeypatch.setattr("ctkit.desk.stretches.SECONDS_TO_SEARCH", 0.5)
    write_state(nights.folder / "state.json", {nights.url: 100})
    state = {"state_file": str(nights.folder / "state.json"), "internal_only": False, "deadline": 60}
    nights.log.latency = 0.15

    with closing(report_gaps(nights.parameters(since="2020-01-01", **state))) as found:
        assert (dict(found.within), found.unavailable) == ({nights.url: (0, 100)}, ())
