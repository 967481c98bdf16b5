"""A backfill in JupyterLab, in a real browser: watched, stopped by its button, continued; the record says the same."""

import re
import threading

import pytest
from fakes import check_table
from jupyterlab import numbers_in, open_lab, require_chromium
from playwright.sync_api import expect
from runbooks import HOLES, MISSING

from ctkit.lake.table import open_table

SHOWN = ".ctkit-live[aria-label='progress of the backfill']"


@pytest.fixture(autouse=True)
def chromium():
    """Skip where there is no browser."""
    require_chromium()


@pytest.fixture
def slow(world):
    """Return the world, and an event without which its second log gives no entries beyond a tile."""
    _, log = world.logs.values()
    go_on = threading.Event()

    def hold(request):
        if request.path.startswith("tile/data/001"):
            go_on.wait(120)

    log.on_request = hold
    yield world, go_on
    go_on.set()


def facts_of(lab, cell):
    """Return the facts of the report that a cell has printed."""
    data = [output.get("data", {}) for each in lab.cells() if each["id"] == cell for output in each["outputs"]]
    (facts,) = [found["application/vnd.ctkit.result+json"] for found in data if len(found) > 2]
    return facts


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_backfill_watched_stopped_and_continued(slow, theme):
    """Each log has its bar while the cell runs; Stop ends it with a report; the next run fetches the rest."""
    world, go_on = slow
    with open_lab(world.folder, theme=theme, height=1400) as lab:
        page = lab.page
        lab.open(lab.prepare("backfill", world.parameters))
        lab.run_before("act", without=["picture", "plan"])
        lab.start("act")
        shown = lab.output("act").locator(SHOWN)
        expect(shown.get_by_role("row", name="Small rfc6962")).to_contain_text("51 of 51")
        expect(shown.get_by_role("row", name="Small static-ct")).to_contain_text(re.compile("asking|fetching"))
        lab.check_accessible(SHOWN)

        before = lab.sources()
        shown.get_by_role("button", name="Stop").focus()
        for keys in ("d", "d", "x", "Control+a", "Escape"):
            page.keyboard.press(keys)
        assert lab.sources() == before
        page.keyboard.press("Enter")
        lab.wait_for_cells("act")
        expect(shown.get_by_role("button", name="Stop")).to_be_hidden()
        lab.check_accessible(SHOWN)
        facts = facts_of(lab, "act")
        total = numbers_in(shown.get_by_role("row", name="2 logs").inner_text())
        book = lab.save()

        go_on.set()
        lab.run("missing")
        lab.run("act")
        expect(lab.output("act").locator(SHOWN).get_by_role("row", name="Small static-ct")).to_contain_text("done")
        again = facts_of(lab, "act")
    assert lab.complaints == []
    # A kernel that hears its widgets while a cell runs is stopped by the message, another is interrupted.
    assert facts["stopped_by"] == "stop"
    assert (facts["written"], facts["left"], again["wanted"]) == (total[3], MISSING - total[3], MISSING - total[3])
    (cell,) = [cell for cell in book.cells if cell.id == "act"]
    records = [output.data.get("text/plain", "") for output in cell.outputs if "data" in output]
    assert any(f"wanted={MISSING} " in text and f"written={total[3]} " in text for text in records)
    staging = open_table(world.folder / "staging")
    check_table(staging, world.logs, dict(zip(world.logs, HOLES.values(), strict=True)))
