"""The preview runbook in JupyterLab, in a real browser: choose gaps."""

import pytest
from jupyterlab import open_lab, require_chromium, stage_first
from playwright.sync_api import expect


@pytest.fixture(autouse=True)
def chromium():
    """Skip where there is no browser."""
    require_chromium()


def test_preview_in_jupyterlab(world):
    """A changed selection changes what is chosen; the browser has no complaint."""
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

    assert lab.complaints == []
