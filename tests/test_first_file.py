"""The first parameter file, and what it is written from."""

import base64
import os
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from fakes import AGENT, FakeLog, each_protocol

from ctkit.cli import main
from ctkit.demo.embedded import EmbeddedLog
from ctkit.demo.server import LogServer
from ctkit.desk.first_file import write_first_file
from ctkit.desk.parameters import Parameters, read_parameters
from ctkit.errors import LogUnavailableError, ParameterError
from ctkit.lake.coverage import first_and_last
from ctkit.lake.table import find_table
from ctkit.logs.growth import measure_growth
from ctkit.logs.published_lists import PUBLISHED, PublishedList

YESTERDAY = timedelta(days=1)


@pytest.fixture
def fakes():
    """Return a log of 600 entries in three days for each protocol, of two operators, and one without entries."""
    logs = [
        FakeLog("Pages 2026h2", 600, protocols=["rfc6962"]),
        FakeLog("Tiles 2026h2", 900, protocols=["static-ct"]),
        FakeLog("Empty 2027h1", 0, protocols=["static-ct"]),
    ]
    logs[0].operator = "Google"
    return logs


@pytest.fixture
def server(fakes, monkeypatch, tmp_path, cache):
    """Serve these logs and their list, which is known as google; work in an empty folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with LogServer(*fakes) as server:
        (tmp_path / "list.pem").write_bytes(server.listed.public_key)
        monkeypatch.setitem(PUBLISHED, "google", PublishedList(server.list_url, None))
        yield server


def written(*words):
    """Write a file with the command, which ends with 0, and return what is in it."""
    assert main(["init", *map(str, words), "--user-agent", AGENT]) == 0
    with open("ct.yaml") as file:
        return yaml.safe_load(file)


COMMON = {
    "main_path": "data/main",
    "staging_path": "data/staging",
    "verify": "entries",
    "user_agent": AGENT,
}


# How fast a log grows


def growth_of(opened, log, **head):
    """Return what is measured of a log, and the number of requests for entries that this took."""
    client = opened(log, log.protocols[0])
    found = measure_growth(client, replace(client.get_checkpoint(), **head))
    return found, log.data_requests


@each_protocol
@pytest.mark.parametrize(("days", "per_day"), [(3, 200), (0.5, 1200), (40, 15)])
def test_growth_of_a_log(opened, protocol, days, per_day):
    """A few entries tell how many a day there are, whether the log is younger than a day or much older."""
    growth, requests = growth_of(opened, FakeLog(size=600, days=days, protocols=[protocol]))

    assert growth.per_day == pytest.approx(per_day, rel=0.3)
    assert requests <= 3
    assert growth.last_day >= growth.per_day


def test_growth_of_a_log_that_has_become_faster(opened):
    """The last day counts, not the mean of all."""
    log = FakeLog(size=300, days=300, protocols=["rfc6962"])
    log.grow(1000, until=log.entries[-1].timestamp + 86_400_000)

    growth, requests = growth_of(opened, log)

    assert growth.per_day == pytest.approx(1000, rel=0.3)
    assert requests <= 4


def test_growth_of_a_log_that_has_come_to_its_end(opened):
    """Its tree head is newer than its entries: there are few a day, and one at least to start with."""
    log = FakeLog(size=600, days=3, protocols=["rfc6962"])
    later = log.entries[-1].timestamp + 1000 * 86_400_000

    growth, requests = growth_of(opened, log, timestamp=later)

    assert growth.per_day < 1
    assert (growth.last_day, requests) == (1, 2)


def test_growth_of_a_log_whose_entries_are_newer_than_its_head(opened):
    """Clocks differ: that is no error, nor a negative number."""
    log = FakeLog(size=600, days=3, protocols=["rfc6962"])

    assert growth_of(opened, log, timestamp=log.start)[0].per_day > 0


def test_growth_of_an_empty_log(opened):
    """There is nothing to ask for."""
    growth, requests = growth_of(opened, FakeLog(size=0, protocols=["static-ct"]))

    assert (growth.per_day, growth.over, requests) == (0, 0, 0)


def test_chains_are_not_asked_for(opened):
    """Of a Static CT log, the samples need no issuers."""
    log = FakeLog(size=600, protocols=["static-ct"])
    growth_of(opened, log)

    assert log.paths("issuer/") == []


# What is written


def test_init_by_a_list(server, capsys):
    """By default the logs are those of Google's list, which the file names, from yesterday on."""
    before = datetime.now(UTC) - YESTERDAY
    found = written()

    since = found.pop("since")
    assert found == {**COMMON, "log_list": "google"}
    assert before.date() <= since <= (datetime.now(UTC) - YESTERDAY).date()
    out = capsys.readouterr().out
    assert "Pages 2026h2" in out
    assert "ctkit backfill -f ct.yaml" in out


def test_init_with_a_filter_and_a_list_of_another_folder(server, tmp_path, capsys):
    """List and key are named as seen from anywhere; the filter is a text that is read again."""
    with closing(open_text(server)) as text:
        (tmp_path / "list.json").write_bytes(text.read())
    words = ["--log-list", "../list.json", "--logs", "operator: google, 2026", "--last", "50"]
    found = written(*words)

    assert found == {
        **COMMON,
        "log_list": str(tmp_path / "list.json"),
        "log_filter": "operator: google, 2026",
        "last": 50,
    }
    assert "Tiles" not in capsys.readouterr().out


def open_text(server):
    """Open the log list of a server."""
    from urllib.request import urlopen

    return urlopen(server.list_url)


def test_init_by_urls(server, fakes):
    """Each log is written with the name, protocol and key of the list, and as many entries as its last day had."""
    urls = [server.url(log) for log in fakes]
    found = written(
        *(word for url in urls for word in ("--log-url", url)),
        *("--log-list", server.list_url, "--log-list-key", "../list.pem"),
    )

    logs = found.pop("logs")
    assert found == COMMON
    lasts = [log.pop("last", None) for log in logs]
    assert [log.pop("from", None) for log in logs] == [None, None, 0]
    assert logs == [
        {
            "url": url,
            "name": log.name,
            "protocol": log.protocols[0],
            "key": base64.b64encode(log.public_key).decode(),
        }
        for url, log in zip(urls, fakes, strict=True)
    ]
    assert lasts[:2] == [pytest.approx(200, rel=0.3), pytest.approx(300, rel=0.3)]
    assert lasts[2] is None


def test_init_by_urls_alone(server, fakes):
    """Without a list no list is asked: the protocol is found out, the key is not known."""
    found = written("--log-url", server.url(fakes[1]), "--last", "7")

    assert found == {**COMMON, "last": 7, "logs": [{"url": server.url(fakes[1]), "protocol": "static-ct"}]}


@pytest.mark.parametrize("name", ["it's\nlast: 9", "a # b", "\u202egol", "- x: {y", "Größe"])
def test_names_cannot_write_into_the_file(server, fakes, name):
    """Whatever the list calls a log is its name, and nothing else."""
    fakes[1].name = name
    url = server.url(fakes[1])
    found = written("--log-url", url, "--log-list", "google")

    assert {key for key in found if key not in COMMON} == {"logs"}
    assert [(log["name"], log["url"]) for log in found["logs"]] == [(name, url)]
    os.remove("ct.yaml")
    assert {key for key in written() if key not in COMMON} == {"log_list", "since"}


def test_many_logs_are_not_listed_one_by_one(server):
    """A list of many logs leaves a file that can be read."""
    for number in range(40):
        server.add(EmbeddedLog(f"Shard {number}"))
    written()

    with open("ct.yaml") as file:
        lines = file.read().splitlines()
    assert "# 43 logs today:" in lines
    assert len(lines) < 60


# What goes wrong


def test_init_when_the_file_is_there(server, fakes, capsys):
    """It is never overwritten, and nothing is asked."""
    for path in ("ct.yaml", "nowhere/ct.yaml"):
        if path == "ct.yaml":
            os.symlink("nothing", path)
        assert main(["init", path, "--user-agent", AGENT]) == 1
        assert path in capsys.readouterr().err
    assert os.listdir() == ["ct.yaml"]
    assert [log.requests for log in fakes] == [[]] * 3


@pytest.mark.parametrize(
    "values",
    [
        {"user_agent": None},
        {"user_agent": "me"},
        {"log_filter": "nothing of this kind"},
        {"log_list": "nowhere.json"},
    ],
)
def test_init_with_parameters_that_cannot_be(server, values):
    """The error comes before anything is written."""
    with pytest.raises(ParameterError):
        write_first_file("ct.yaml", Parameters(**{"user_agent": AGENT, **values}))
    assert os.listdir() == []


def test_init_by_urls_that_the_filter_leaves_out(server, fakes):
    """Logs of the list that match do not take their place."""
    urls = {"logs": [{"url": server.url(fakes[0])}], "log_list": "google"}
    with pytest.raises(ParameterError) as raised:
        write_first_file("ct.yaml", Parameters(user_agent=AGENT, log_filter="Tiles", **urls))
    assert raised.value.keys == ("logs", "log_filter")
    assert os.listdir() == []


def test_init_where_nothing_can_be_written(server):
    """That is one clear error."""
    with pytest.raises(ParameterError):
        write_first_file("x" * 300, Parameters(user_agent=AGENT))
    assert os.listdir() == []


def test_init_when_a_log_does_not_answer(server, fakes, capsys):
    """It is named, and written down with what is known of it; the exit code is 1."""
    fakes[0].down = True
    urls = [server.url(log) for log in fakes[:2]]
    words = ["--log-list", "google", *(word for url in urls for word in ("--log-url", url))]

    assert main(["init", "--user-agent", AGENT, *words]) == 1

    assert urls[0] in capsys.readouterr().err
    with open("ct.yaml") as file:
        logs = yaml.safe_load(file)["logs"]
    assert [(log["url"], log["protocol"], "last" in log) for log in logs] == [
        (urls[0], "rfc6962", False),
        (urls[1], "static-ct", True),
    ]
    assert logs[0]["key"] == base64.b64encode(fakes[0].public_key).decode()


def test_init_when_no_log_answers(server, fakes):
    """Nothing is written."""
    for fake in fakes:
        fake.down = True

    with pytest.raises(LogUnavailableError):
        write_first_file("ct.yaml", Parameters(user_agent=AGENT))
    assert os.listdir() == []


def test_init_when_entries_cannot_be_had(server, fakes, capsys):
    """A log that gives a tree head and no entries is written without a start that was measured."""
    fakes[1].missing_tiles = set(range(4))
    survey = write_first_file("ct.yaml", Parameters(user_agent=AGENT, logs=[{"url": server.url(fakes[1])}]))

    assert [(log.size, log.last_day) for log in survey.logs] == [(900, None)]
    assert survey.facts() == {"logs": 1, "entries": 900, "entries_of_last_day": 0, "unavailable": 0}
    with open("ct.yaml") as file:
        assert "last" not in yaml.safe_load(file)["logs"][0]


def test_what_a_survey_says(server):
    """A line for each log: what its last day and all of it would take on the disk, in requests and in time."""
    survey = write_first_file("ct.yaml", Parameters(user_agent=AGENT))

    table = survey.tables()["logs"].set_index("log")
    assert table.loc["Pages 2026h2", ["entries", "all: disk", "all: requests"]].tolist() == ["600", "516 kB", "3"]
    assert table.loc["Empty 2027h1", ["entries", "a day", "all: disk"]].tolist() == ["0", "0", "?"]
    assert [log.whole.wanted for log in survey.logs if log.whole] == [600, 900]
    assert "860 bytes" in survey.remark
    assert "Tiles 2026h2" in survey._repr_html_()


@pytest.mark.parametrize("by_url", [False, True])
def test_the_file_is_one_that_can_be_used(server, fakes, by_url, monkeypatch, tmp_path):
    """Whatever is written is read again, from any folder, and a table is filled with it."""
    urls = [server.url(log) for log in fakes]
    words = [word for url in urls if by_url for word in ("--log-url", url)]
    written(*words, "--log-list", "google", *([] if by_url else ["--since", "2026-01-12"]))
    monkeypatch.chdir(tmp_path)

    assert main(["backfill", "-f", "work/ct.yaml"]) == 0
    assert main(["merge", "-f", "work/ct.yaml"]) == 0
    assert main(["audit", "-f", "work/ct.yaml", "--require-proof"]) == 0

    held = first_and_last(urls, find_table("work/data/main"))
    days = [max(last - first + 1, 0) for first, last in held.values()]
    assert [last for _, last in held.values()] == [599, 899]
    assert days == [pytest.approx(200, rel=0.3), pytest.approx(300, rel=0.3)] if by_url else all(days)


@pytest.mark.parametrize("name", ["google", "./google", "https://list.example/v3.json"])
def test_the_name_of_a_list_is_no_path(tmp_path, name):
    """In a file, too, a known name means the list that is published; the file of that name has a folder before it."""
    (tmp_path / "ct.yaml").write_text(yaml.safe_dump({"log_list": name, "main_path": "google"}))
    found = read_parameters(tmp_path / "ct.yaml")

    assert found.log_list == (str(tmp_path / "google") if name.startswith(".") else name)
    assert found.main_path == str(tmp_path / "google")
