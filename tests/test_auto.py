"""A log that finds out what it is when somebody asks."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakes import AGENT, FakeLog

from ctkit.errors import LogUnavailableError, ParameterError
from ctkit.logs.auto import AutoLog
from ctkit.logs.deadline import Deadline
from ctkit.logs.open import open_log
from ctkit.logs.rfc6962 import LARGEST_PAGE


@pytest.fixture
def make(serve):
    """Return what makes an `AutoLog` of a fake one, and lists how often it was opened."""
    made = []

    def make(fake):
        url, opened = serve(fake), []

        def open_it():
            opened.append(url)
            return open_log(url, user_agent=AGENT)

        made.append(AutoLog(f"{url}/", user_agent=AGENT, name="Auto", open=open_it))
        return made[-1], opened

    yield make
    for log in made:
        log.close()


@pytest.mark.parametrize(("protocol", "page_size"), [("rfc6962", 50), ("static-ct", 256)])
def test_auto_log_is_opened_when_it_is_asked(make, protocol, page_size):
    """Until then nothing is known of it, and it has had no request; then it is what it speaks."""
    fake = FakeLog(size=300, protocols=[protocol], page_size=50)
    log, opened = make(fake)
    assert (log.protocol, log.page_size, log.page_size_known, log.entry_bytes) == ("auto", LARGEST_PAGE, False, None)
    assert (log.provable(3, 9), log.in_trouble, log.pace.requests) == ((3, 9), False, 0)
    assert (fake.requests, opened) == ([], [])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(log.get_entries, [0] * 8, [9] * 8))
    log.learn_page_size()

    assert len(opened) == 1
    assert (log.protocol, log.page_size, log.page_size_known, log.entry_bytes > 0) == (protocol, page_size, True, True)
    block, head = log.get_entries(3, 9), log.get_checkpoint()
    assert log.prove(3, block.leaf_hashes(), head).all()
    assert log.entry_urls(block.index)[0].as_py().startswith(log.url)
    assert log.provable(3, 9)[1] > 9 or protocol == "rfc6962"
    log.check_consistency(head, head)


def test_auto_log_when_it_is_down(make):
    """Who asks gets the error, and the next to ask asks again."""
    fake = FakeLog(size=30, protocols=["rfc6962"])
    log, opened = make(fake)
    fake.always = 404

    for _ in range(2):
        with pytest.raises(LogUnavailableError):
            log.get_checkpoint()
    fake.always = None

    assert (log.get_checkpoint().tree_size, len(opened)) == (30, 3)


def test_auto_log_without_a_contact():
    """A bad user agent is an error before any log is asked."""
    with pytest.raises(ParameterError):
        AutoLog("https://a.example", user_agent="nobody", open=lambda: pytest.fail("asked"))


def test_deadline():
    """It is set when the time is over, or another event is."""
    stop = threading.Event()
    late, over = Deadline(1000, stop), Deadline(0, stop)

    assert (late.is_set(), over.is_set(), over.wait(), late.left > 900) == (False, True, True, True)
    stop.set()
    assert (late.is_set(), late.wait()) == (True, True)


def test_auto_log_when_it_was_closed(make):
    """It is not opened once more."""
    log, opened = make(FakeLog(size=3))
    log.close()

    with pytest.raises(ParameterError):
        log.get_checkpoint()
    assert opened == []
