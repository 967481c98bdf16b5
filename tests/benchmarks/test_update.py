"""What a nightly run and a look at the table cost, beside the steps that they are made of."""

from contextlib import closing
from statistics import median

import pytest
from lake import timed
from servers import serving_log

import ctkit

ENTRIES, ROUNDS = 51_200, 5


@pytest.fixture(scope="module")
def parameters(tmp_path_factory):
    """Serve a log; return the parameters of an update of it for a folder of its own, by name."""
    with serving_log(ENTRIES) as (url, _):

        def parameters(name):
            folder = tmp_path_factory.mktemp(name)
            return ctkit.read_parameters(
                logs=[{"name": "B", "url": url, "protocol": "static-ct"}],
                main_path=str(folder / "main"),
                staging_path=str(folder / "staging"),
                from_index=0,
                verify="off",
                user_agent="ctkit, nobody@example.org",
            )

        yield parameters


def fill(parameters):
    """Find the gaps and fill them: the steps of an update that take the network."""
    with closing(ctkit.report_gaps(parameters)) as gap_report:
        ctkit.fill_gaps(gap_report).check()


def test_update(parameters):
    """A whole night takes little more than its backfill, and one with nothing to do little more than the gaps."""
    fill(parameters("warm"))
    alone = median(timed(lambda: fill(parameters("fill"))) for _ in range(ROUNDS))
    nights = [parameters("night") for _ in range(ROUNDS)]
    whole = median(timed(lambda night=night: ctkit.update(night).check()) for night in nights)
    night = nights[0]
    again = median(timed(lambda: ctkit.update(night).check()) for _ in range(ROUNDS))
    gaps = median(timed(lambda: ctkit.report_gaps(night).close()) for _ in range(ROUNDS))
    print(f"\nupdate of {ENTRIES:,} entries: {whole:.2f} s, their backfill alone {alone:.2f} s: {whole / alone:.2f}")
    print(f"update with nothing to do: {1000 * again:.0f} ms, the gaps alone {1000 * gaps:.0f} ms: {again / gaps:.1f}")

    assert whole <= 1.5 * alone


def test_status(parameters):
    """A look at the table costs little more than finding its gaps."""
    night = parameters("looked-at")
    ctkit.update(night).check()
    gaps = median(timed(lambda: ctkit.report_gaps(night).close()) for _ in range(ROUNDS))
    status = median(timed(lambda: ctkit.find_status(night)) for _ in range(ROUNDS))
    print(f"\nstatus: {1000 * status:.0f} ms, the gaps alone {1000 * gaps:.0f} ms: {status / gaps:.1f}")

    assert status <= 5 * gaps
