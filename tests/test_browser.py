"""The preview runbook in JupyterLab, in a real browser: choose gaps, press the button, see what was merged."""

import pytest
from fakes import check_table
from jupyterlab import open_lab, require_chromium, stage_first
from playwright.sync_api import expect
from rows import commits_of
from runbooks import SIZE

from ctkit.lake.table import open_table


@pytest.fixture(autouse=True)
def chromium():
    """Skip where there is no browser."""
    require_chromium()


def test_preview_in_jupyterlab(world):
    """A changed selection changes what is chosen; the button merges what was staged; the browser has no complaint."""
    staged_log, open_log = world.logs
    stage_first(world)
    with open_lab(world.folder, height=3200) as lab:
        page = lab.page
        lab.open(lab.prepare("preview", world.parameters))
        lab.run_all()

        chosen = lab.output("choice")
        expect(chosen.get_by_role("row", name="entries chosen 250")).to_be_visible()
        page.get_by_label("to index").fill("200")
        page.get_by_label("to index").press("Enter")
        expect(chosen.get_by_role("row", name="entries chosen 100")).to_be_visible()

        page.get_by_role("button", name="Merge").click()
        expect(page.get_by_role("heading", name="merge complete")).to_be_visible()
        expect(page.get_by_role("row", name="total inserted 51")).to_be_visible()
        expect(page.get_by_role("button", name="Merged")).to_be_disabled()

    assert lab.complaints == []
    assert not (world.folder / "staging").exists()
    assert len(commits_of(world.folder / "main")) == 3
    check_table(
        open_table(world.folder / "main"), world.logs, {staged_log: (0, SIZE), open_log: [(0, 100), (350, SIZE)]}
    )
