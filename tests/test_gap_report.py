"""The logs that parameters come to, with the keys that they are verified with."""

import base64
import json
import threading
from contextlib import closing

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fakes import FakeLog, check_table
from rows import LOG, make_rows, make_table

from ctkit.desk.chosen_logs import choose_logs, open_logs
from ctkit.desk.gap_preview import GapPreview
from ctkit.desk.gap_report import report_gaps
from ctkit.desk.parameters import Parameters, read_parameters
from ctkit.desk.plots import plot_gaps
from ctkit.desk.state_file import write_state
from ctkit.desk.verbs import audit_main, fill_gaps, merge_staged, plan_gaps
from ctkit.errors import CheckpointError, CtkitError, LogUnavailableError, ParameterError, SchemaMismatchError
from ctkit.lake.table import as_der_type, find_table, open_table
from ctkit.logs.open import open_log

AGENT = "ctkit tests, ct@example.org"


@pytest.fixture(scope="module")
def fakes():
    """Return two logs with keys of their own."""
    return [FakeLog(name, 3, protocols=["rfc6962"]) for name in ("one", "two")]


@pytest.fixture
def write_list(tmp_path):
    """Write a log list and return its path: URL -> DER of the key."""

    def write(keys):
        logs = [{"url": url, "key": base64.b64encode(key).decode(), "description": url} for url, key in keys.items()]
        path = tmp_path / "list.json"
        path.write_text(json.dumps({"operators": [{"logs": logs}]}))
        return str(path)

    return write


def test_choose_logs_takes_keys_from_the_log_list(fakes, write_list):
    """A key that was given counts; one that was not is the list's; an empty one of the list is none."""
    one, two = (fake.public_key for fake in fakes)
    logs = [{"url": "a.example", "key": base64.b64encode(two).decode()}, {"url": "b.example", "name": "B"}]
    listed = write_list({"https://a.example/": one, "https://b.example/": one, "https://c.example/": b""})

    chosen = choose_logs(Parameters(logs=logs, log_list=listed, user_agent=AGENT)).logs

    assert [(log.url, log.name, log.key) for log in chosen] == [
        ("a.example", None, two),
        ("b.example", "B", one),
        ("https://c.example", "https://c.example/", None),
    ]


def test_choose_logs_when_the_list_is_signed(write_list, tmp_path, fakes):
    """A list is believed if its signature is by the key that the parameters name."""
    key = rsa.generate_private_key(65537, 2048)
    listed = write_list({"https://a.example/": fakes[0].public_key})
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "list.pem").write_bytes(public)
    parameters = Parameters(log_list=listed, log_list_key=str(tmp_path / "list.pem"), user_agent=AGENT)

    text = (tmp_path / "list.json").read_bytes()
    (tmp_path / "list.sig").write_bytes(key.sign(text, padding.PKCS1v15(), hashes.SHA256()))
    assert [log.url for log in choose_logs(parameters).logs] == ["https://a.example"]
    (tmp_path / "list.json").write_bytes(text + b" ")
    with pytest.raises(ParameterError):
        choose_logs(parameters)


def test_open_logs_gives_each_its_key(serve, fakes, write_list):
    """Tree heads are verified with the key of the list; a key that none can be verified with costs its log only."""
    urls = [serve(fake) for fake in fakes]
    keys = {urls[0]: fakes[0].public_key, urls[1]: fakes[0].public_key, "https://c.example": b"no key"}

    logs, failed = open_logs(
        choose_logs(Parameters(log_list=write_list(keys), user_agent=AGENT)).logs, user_agent=AGENT
    )

    assert [log.url for log in logs] == urls
    assert logs[0].get_checkpoint().tree_size == 3
    with pytest.raises(CheckpointError):
        logs[1].get_checkpoint()
    assert [(type(error), error.url) for error in failed] == [(LogUnavailableError, "https://c.example")]
    assert "the log list gives a key that cannot be used" in str(failed[0])
    for log in logs:
        log.close()


# Who is asked, and when


class SilentLog(FakeLog):
    """Answers nothing before it may."""

    may_answer: threading.Event
    outlasted = False
    """Whether a request outlasted the log, which holds out for less than ordinary patience."""

    def respond(self, request):
        """Wait, if it is to."""
        self.outlasted |= not self.may_answer.wait(15)
        return super().respond(request)


@pytest.fixture
def silent(serve, monkeypatch):
    """Return the URL of a log that takes requests and does not answer, with the log; few wait for it for long."""
    monkeypatch.setattr("ctkit.jobs.plan.SECONDS_TO_ANSWER", 0.5)
    monkeypatch.setattr("ctkit.desk.ceilings.SECONDS_TO_ANSWER", 0.5)
    fake = SilentLog("Silent", 30, protocols=["rfc6962"])
    fake.may_answer = threading.Event()
    yield serve(fake), fake
    fake.may_answer.set()


@pytest.fixture
def known(tmp_path):
    """Return parameters of two logs, with gaps that tables and state file tell: the second one is never there."""

    def known(url, **more):
        dead = "http://127.0.0.1:9/dead"
        make_table(tmp_path / "main", make_rows([0, 4], url=url), make_rows([0, 4], url=dead))
        write_state(tmp_path / "state.json", {url: 5, dead: 5})
        given = {
            "main_path": tmp_path / "main",
            "staging_path": tmp_path / "staging",
            "state_file": tmp_path / "state.json",
            "logs": [{"url": dead}, {"url": url, "name": "Known"}],
            "internal_only": False,
            **more,
        }
        return read_parameters(**given)

    return known


@pytest.mark.parametrize("protocol", ["auto", "rfc6962", "static-ct"])
def test_gaps_are_known_without_the_logs(known, serve, protocol):
    """With the ceilings of a state file no log is asked, and no user agent is needed."""
    fake = FakeLog(size=30)
    url = serve(fake)

    with closing(report_gaps(known(url, logs=[{"url": url, "protocol": protocol, "name": "Known"}]))) as gap_report:
        assert gap_report.gaps.to_pylist() == [{"source_url": url, "start": 1, "end": 4}]
        assert [lane["log"] for lane in GapPreview(gap_report).lanes] == ["Known"]
        plot_gaps(gap_report)
        gap_report.check()
        with pytest.raises(ParameterError) as raised:
            fill_gaps(gap_report)
        assert raised.value.keys == ("user_agent",)

    assert (fake.requests, find_table(gap_report.parameters.staging_path)) == ([], None)


def test_a_log_list_in_a_file_needs_no_user_agent(write_list, fakes):
    """It is read from the disk; only a host needs to know who asks."""
    listed = write_list({"https://a.example/": fakes[0].public_key})

    assert [log.url for log in choose_logs(Parameters(log_list=listed)).logs] == ["https://a.example"]
    with pytest.raises(ParameterError) as raised:
        choose_logs(Parameters(log_list="https://list.example/v3.json"))
    assert raised.value.keys == ("user_agent",)


def test_a_plan_does_not_wait_for_a_silent_log(known, silent, serve, tmp_path):
    """It is planned with what is assumed, and named; what can be known of the other is known."""
    url, fake = silent
    other = serve(FakeLog("Alive", 300, protocols=["rfc6962"], page_size=100))
    parameters = known(url, user_agent=AGENT, logs=[{"url": url}, {"url": other}], from_index=0)
    write_state(tmp_path / "state.json", {url: 30, other: 300})

    with closing(report_gaps(parameters)) as gap_report:
        plan = plan_gaps(gap_report)

    assert ([error.url for error in plan.unavailable], fake.outlasted) == ([url], False)
    assert url in plan.tables()["did not answer"]["why"][0]
    lines = {log.source_url: log for log in plan.logs}
    assert (lines[url].protocol, lines[url].assumed[:2]) == ("auto", ("protocol", "page size"))
    assert (lines[other].protocol, lines[other].page_size, lines[other].requests) == ("rfc6962", 100, 3)


def test_a_backfill_does_not_wait_for_a_silent_log(known, silent, serve, tmp_path):
    """What the other log misses is written before the silent one has said what it speaks."""
    url, fake = silent
    alive = FakeLog("Alive", 300, protocols=["rfc6962"], page_size=100)
    other = serve(alive)
    logs = [{"url": url, "name": fake.name}, {"url": other, "name": alive.name}]
    parameters = known(url, user_agent=AGENT, logs=logs, from_index=0)
    write_state(tmp_path / "state.json", {url: 30, other: 300})
    written = []

    def listen(progress):
        written.append(progress.written)
        if progress.written >= 300:
            fake.may_answer.set()

    with closing(report_gaps(parameters)) as gap_report, pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctkit.lake.write.SECONDS_PER_COMMIT", 0.05)
        report = fill_gaps(gap_report, on_progress=listen)

    assert (report.complete, report.written) == (True, {url: 28, other: 300})
    assert 300 in written
    table = find_table(parameters.staging_path)
    check_table(table, {url: fake, other: alive}, {url: [(1, 4), (5, 30)], other: (0, 300)})


def test_ceilings_do_not_wait_for_a_silent_log(known, silent, serve):
    """With the logs' own ceilings others are filled; a run that could not ask all of them is not complete."""
    url, _ = silent
    alive = FakeLog("Alive", 30, protocols=["static-ct"])
    other = serve(alive)
    for logs in ([{"url": url}, {"url": other}], [{"url": url}]):
        parameters = known(url, user_agent=AGENT, logs=logs, ceiling="log", from_index=0)
        with closing(report_gaps(parameters)) as gap_report:
            report = fill_gaps(gap_report)

        assert [error.url for error in gap_report.unavailable] == [url]
        assert (report.complete, report.title, len(report.unavailable)) == (False, "backfill incomplete", 1)
        assert report.written == {log["url"]: 30 for log in logs[1:]}
        assert "not known" in report.tables()
        with pytest.raises(LogUnavailableError) as raised:
            gap_report.check()
        assert raised.value.url == url


@pytest.mark.parametrize("knobs", [{"tip_status": 503, "data_lag": 1 << 30}, {"hangs": True}], ids=["503", "hangs"])
def test_a_log_without_entries_delays_no_other(known, serve, monkeypatch, knobs):
    """A log that gives its tree head and no entry is named; the other is begun at its date, and filled."""
    monkeypatch.setattr("ctkit.desk.stretches.SECONDS_TO_SEARCH", 2.0)
    bad, good = FakeLog("Bad", 30, protocols=["rfc6962"]), FakeLog("Good", 30, protocols=["rfc6962"])
    committed = threading.Event()
    if knobs.pop("hangs", False):
        bad.on_request = lambda request: "entries" in request.path and committed.wait(60)
    vars(bad).update(knobs)
    urls = [serve(bad), serve(good)]
    logs = [{"url": url, "protocol": "rfc6962", "since": "2020-01-01"} for url in urls]
    parameters = known("https://never.example", user_agent=AGENT, logs=logs, ceiling="log")
    with closing(report_gaps(parameters)) as gap_report:
        assert [error.url for error in gap_report.unavailable] == urls[:1]
        report = fill_gaps(gap_report)
    committed.set()

    assert report.written == {urls[1]: 30}
    # Patience has eight tries.
    assert len(bad.paths("ct/v1/get-entries")) < 8


def test_ceilings_wait_for_a_host_that_counts_requests(known, silent, serve):
    """A 429 is an answer: the request is repeated after the second that it asks for."""
    fake = FakeLog(size=30, protocols=["rfc6962"])
    url = serve(fake)
    logs = [{"url": url, "protocol": "rfc6962"}]
    fake.busy, fake.retry_after = [429], "1"

    parameters = known(url, user_agent=AGENT, logs=logs, ceiling="log")
    with closing(report_gaps(parameters)) as gap_report:
        assert (gap_report.unavailable, gap_report.within) == ((), {url: (None, 30)})


def test_ceilings_wait_no_longer_than_the_deadline(known, silent, serve):
    """A host that answers 429 for ever does not hold up a run that has a deadline."""
    fake = FakeLog(size=30, protocols=["rfc6962"])
    url = serve(fake)
    logs = [{"url": url, "protocol": "rfc6962"}]
    fake.always, fake.retry_after = 429, "1"

    parameters = known(url, user_agent=AGENT, logs=logs, ceiling="log", deadline=1.5)
    with closing(report_gaps(parameters)) as gap_report:
        assert [error.url for error in gap_report.unavailable] == [url]
    assert len(fake.requests) < 5


@pytest.mark.parametrize("protocol", ["auto", "rfc6962"])
def test_logs_are_closed_after_an_error(known, serve, monkeypatch, protocol):
    """What follows their opening may fail: no connection stays."""
    opened = []
    monkeypatch.setattr(
        "ctkit.desk.chosen_logs.open_log", lambda *words, **more: opened.append(open_log(*words, **more)) or opened[-1]
    )
    url = serve(FakeLog(size=30, protocols=["rfc6962"]))
    parameters = known(url, user_agent=AGENT, ceiling="log")
    logs = [{"url": serve(FakeLog("Other", 30, protocols=["rfc6962"])), "protocol": protocol}]

    with pytest.raises(ParameterError) as raised:
        report_gaps(parameters.model_copy(update={"logs": read_parameters(logs=logs).logs}))
    assert raised.value.keys == ("main_path", "from_index")

    assert [log._client._http.is_closed for log in opened] == [True]


# What is named twice, or not at all


def test_a_log_that_is_named_twice(caplog, fakes):
    """It is read once, with all that is said of it, and that is said."""
    key = base64.b64encode(fakes[0].public_key).decode()
    logs = [{"url": "a.example"}, {"url": "b.example"}, {"url": "https://a.example/", "name": "A", "key": key}]

    chosen = choose_logs(read_parameters(logs=logs)).logs

    assert [(log.url, log.name, log.key) for log in chosen] == [
        ("a.example", "A", fakes[0].public_key),
        ("b.example", None, None),
    ]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "https://a.example" in caplog.text


@pytest.mark.parametrize(
    ("key", "values"), [("name", ("A", "B")), ("protocol", ("rfc6962", "static-ct")), ("key", (0, 1))]
)
def test_a_log_that_is_named_twice_with_different_words(fakes, key, values):
    """It is not known which of them is meant."""
    if key == "key":
        values = [base64.b64encode(fakes[at].public_key).decode() for at in values]
    logs = [{"url": url, key: value} for url, value in zip(("a.example", "a.example/"), values, strict=True)]

    with pytest.raises(ParameterError) as raised:
        choose_logs(read_parameters(logs=logs))
    assert raised.value.keys == (f"logs.1.{key}",)


def test_a_log_that_is_twice_in_the_log_list(tmp_path, caplog):
    """The list's first word counts, and that is said."""
    logs = [{"url": "https://a.example/", "key": "", "description": name} for name in "AB"]
    (tmp_path / "list.json").write_text(json.dumps({"operators": [{"logs": logs}]}))

    assert [log.name for log in choose_logs(read_parameters(log_list=tmp_path / "list.json")).logs] == ["A"]
    assert "https://a.example" in caplog.text


def test_an_empty_log_list(tmp_path):
    """It is accepted together with `logs`, as by the live server, and refused without them."""
    (tmp_path / "list.json").write_text('{"operators": []}')
    listed = (tmp_path / "list.json").as_uri()

    assert [log.url for log in choose_logs(read_parameters(log_list=listed, logs=[{"url": "a.example"}])).logs] == [
        "a.example"
    ]
    with pytest.raises(ParameterError) as raised:
        choose_logs(read_parameters(log_list=listed))
    assert str(tmp_path / "list.json") in str(raised.value)


# Tables for older live servers


def test_a_new_table_holds_certificates_as_text(known, serve, tmp_path):
    """With as_der: text all tables that come to be hold base64, and one that does not is refused by name."""
    fake = FakeLog(size=30, protocols=["rfc6962"])
    url = serve(fake)
    more = {"logs": [{"url": url, "name": fake.name}], "user_agent": AGENT, "as_der": "text", "from_index": 0}
    with closing(report_gaps(known(url, **more, main_path=tmp_path / "new"))) as gap_report:
        fill_gaps(gap_report).check()

    merge_staged(gap_report.parameters)

    assert as_der_type(open_table(tmp_path / "new")) == "string"
    check_table(open_table(tmp_path / "new"), {url: fake}, {url: (0, 5)})
    with pytest.raises(SchemaMismatchError) as caught:
        report_gaps(known(url, **more))
    assert caught.value.uri == str(tmp_path / "main")


@pytest.mark.parametrize(("path", "hint"), [("mian", "did you mean main?"), ("nowhere/main", "nowhere"), ("other", "")])
def test_a_main_path_that_may_be_mistyped(tmp_path, monkeypatch, caplog, path, hint):
    """A table that is called alike is suggested, and a folder that does not exist either is named."""
    monkeypatch.chdir(tmp_path)
    make_table(tmp_path / "main", make_rows([0]))
    write_state("state.json", {LOG: 5})
    logs = [{"url": LOG, "protocol": "rfc6962"}]
    report_gaps(read_parameters(main_path=path, state_file="state.json", logs=logs, from_index=0, user_agent="a@b.c"))

    (said,) = [message for message in caplog.messages if message.startswith("main table does not exist")]
    assert hint in said
    assert said.endswith(")") == bool(hint)


@pytest.mark.parametrize(("start", "word"), [({"last": 5}, "begun"), ({"since": "2026-11-01"}, "begun"), ({}, "start")])
def test_audit_of_a_log_without_a_row(tmp_path, start, word):
    """Of a log whose start is given and not yet known, the audit says that it is not begun."""
    make_table(tmp_path / "main", make_rows([0], url="https://other.example"))
    logs = [{"url": LOG, "protocol": "rfc6962", **start}]
    report = audit_main(read_parameters(main_path=tmp_path / "main", logs=logs, user_agent="a@b.c"))

    (error,) = (problem for log in report.logs for problem in log.problems)
    assert word in error.message
    with pytest.raises(CtkitError):
        report.check()
