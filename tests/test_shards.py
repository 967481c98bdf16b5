"""Logs that follow a list: new shards are begun, those that come to their end are finished and kept."""

from contextlib import closing

import pytest
from fakes import AGENT, FakeLog, check_table

from ctkit.demo.server import LogServer
from ctkit.desk.chosen_logs import choose_logs
from ctkit.desk.gap_report import report_gaps
from ctkit.desk.parameters import Parameters
from ctkit.desk.verbs import audit_main, fill_gaps, merge_staged
from ctkit.errors import LogUnavailableError
from ctkit.lake.coverage import logs_in
from ctkit.lake.table import find_table


@pytest.fixture
def old():
    """Return a log of each protocol."""
    return [FakeLog("Old 2026", 300, protocols=["rfc6962"]), FakeLog("Other 2026", 300, protocols=["static-ct"])]


@pytest.fixture
def server(old):
    """Serve them, and their list."""
    with LogServer(*old) as server:
        yield server


@pytest.fixture
def parameters(server, tmp_path):
    """Return the parameters of a table that follows the list from the last hundred entries of each log on."""
    return Parameters(
        main_path=str(tmp_path / "main"),
        staging_path=str(tmp_path / "staging"),
        log_list=server.list_url,
        last=100,
        verify="entries",
        user_agent=AGENT,
    )


def do_a_night(parameters):
    """Fill what is missing and merge it; return what was new, what is retired, and what was written of each log."""
    with closing(report_gaps(parameters, verb="append")) as gaps:
        written = fill_gaps(gaps).written
        gaps.check()
        chosen = gaps.chosen
    merge_staged(parameters)
    return set(chosen.begun), chosen.retired, {url: rows for url, rows in written.items() if rows}


def test_a_new_shard_is_begun(server, old, parameters):
    """It is named once, as long as there is no row of it, and begins where the parameters say."""
    urls = [server.url(log) for log in old]
    assert do_a_night(parameters) == ({*urls}, {}, dict.fromkeys(urls, 100))
    new = FakeLog("New 2027", 250)
    url = server.add(new)

    assert do_a_night(parameters) == ({url}, {}, {url: 100})
    assert do_a_night(parameters) == (set(), {}, {})
    within = {**dict.fromkeys(urls, (200, 300)), url: (150, 250)}
    check_table(find_table(parameters.main_path), {server.url(log): log for log in (*old, new)}, within)


@pytest.mark.parametrize("state", ["readonly", "retired", "rejected", None])
def test_a_shard_that_comes_to_its_end_is_finished(server, old, parameters, state):
    """What it had in the end is fetched; it is retired by the list, also if the list does not name it any more."""
    do_a_night(parameters)
    url = server.url(old[0])
    old[0].grow(50)
    server.listed.states[old[0].slug] = state

    assert do_a_night(parameters) == (set(), {url: state or "not listed"}, {url: 50})
    assert audit_main(parameters).passed
    assert do_a_night(parameters) == (set(), {url: state or "not listed"}, {})


@pytest.mark.parametrize("state", ["readonly", "retired", None])
def test_a_shard_that_is_gone_is_kept(server, old, parameters, state):
    """That it no longer answers is no failure, night after night; of one that is still to be read it is."""
    do_a_night(parameters)
    url = server.url(old[0])
    server.listed.states[old[0].slug] = state
    old[0].down = True
    old[1].grow(10)

    assert do_a_night(parameters) == (set(), {url: state or "not listed"}, {server.url(old[1]): 10})
    audited = audit_main(parameters)

    assert audited.passed == (state != "readonly")
    assert url in logs_in(find_table(parameters.main_path))


def test_a_shard_that_goes_on_after_its_end_is_followed(server, old, parameters, monkeypatch):
    """A list that calls a smaller tree final does not hide what the log has."""
    do_a_night(parameters)
    server.listed.states[old[0].slug] = "readonly"
    text = server.listed.text({server.url(log): log for log in old})
    monkeypatch.setattr(server.listed, "text", lambda logs: text)
    old[0].grow(50)

    _, retired, written = do_a_night(parameters)

    assert (retired, written) == ({server.url(old[0]): "readonly"}, {server.url(old[0]): 50})


def test_a_log_that_is_down_is_no_retired_one(server, old, parameters):
    """As long as the list calls it usable, it is missing."""
    do_a_night(parameters)
    old[0].down = True

    with pytest.raises(LogUnavailableError):
        do_a_night(parameters)


def test_the_filter_holds_for_retired_logs(server, old, parameters):
    """A log of the table that the list does not name is only meant if the filter keeps its name or URL."""
    do_a_night(parameters)
    server.listed.states[old[0].slug] = None
    main = find_table(parameters.main_path)

    def chosen(log_filter):
        choice = choose_logs(parameters.model_copy(update={"log_filter": log_filter}), main)
        return [log.name for log in choice.logs], [*choice.retired.values()]

    assert chosen("other") == (["Other 2026"], [])
    assert chosen("2026") == (["Other 2026", "Old 2026"], ["not listed"])
    assert chosen("operator: embedded, other") == (["Other 2026"], [])
    # Nobody knows any more whose it was.
    assert chosen("operator: embedded") == chosen("operator: embedded, 2026") == chosen("2026")


def test_retired_logs_without_rows_stay_out(server, old, parameters):
    """A table is not filled from logs that have come to their end before it was begun."""
    server.listed.states[old[0].slug] = "retired"

    assert [log.name for log in choose_logs(parameters).logs] == ["Other 2026"]


def test_a_log_that_is_named_is_not_retired(server, old, parameters):
    """Whoever names a log in `logs` means it, and its silence is a failure."""
    url = server.url(old[0])
    named = parameters.model_copy(update={"logs": Parameters(logs=[{"url": url}]).logs})
    do_a_night(named)
    server.listed.states[old[0].slug] = "retired"
    old[0].down = True

    with pytest.raises(LogUnavailableError):
        do_a_night(named)


def test_logs_in_a_table_with_a_damaged_file(server, old, parameters):
    """The logs of the other files are found all the same."""
    do_a_night(parameters)
    main = find_table(parameters.main_path)
    urls = {server.url(log) for log in old}
    assert logs_in(main, None) == urls
    for path in main.file_uris():
        with open(path.removeprefix("file://"), "wb"):
            pass

    assert logs_in(main) <= urls
