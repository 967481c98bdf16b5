"""Every state of every widget in JupyterLab, in both themes: shown, accessible, and with the kernel gone."""

import sys
from pathlib import Path

import nbformat
import pytest
from jupyterlab import THEMES, open_lab, require_chromium
from playwright.sync_api import expect
from widget_states import STATES

SETUP = f"import sys\nsys.path[:] = {[str(Path(__file__).parent), *sys.path]}\nfrom widget_states import STATES"


@pytest.fixture(autouse=True)
def chromium():
    """Skip where there is no browser."""
    require_chromium()


def write_notebook(folder):
    """Write a notebook with a cell for each state; return its name."""
    cells = [nbformat.v4.new_code_cell(SETUP, id="setup")]
    cells += [nbformat.v4.new_code_cell(f"STATES[{name!r}]()", id=name) for name in STATES]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "states.ipynb")
    return "states.ipynb"


@pytest.mark.parametrize("theme", THEMES)
def test_states(world, theme, pictures):
    """axe-core finds nothing in any of them, nor in any that has lost its kernel, which says so."""
    with open_lab(world.folder, theme=theme, height=20_000) as lab:
        lab.open(write_notebook(world.folder))
        lab.run_all()
        for lost in (False, True):
            if lost:
                lab.close_kernels()
            for name in STATES:
                shown = lab.output(name).locator(".ctkit-live")
                wanted = "disconnected" if lost else STATE_OF.get(name, name.partition("_")[2])
                expect(shown).to_have_attribute("data-state", wanted)
                if pictures:
                    shown.screenshot(path=pictures / f"{name}-{theme}{'-lost' if lost else ''}.png")
            # Each of them is there once in a notebook of its own.
            lab.check_accessible(".ctkit-live", without=["landmark-unique"])
    assert lab.complaints == []


STATE_OF = {
    "gaps_in_time": "ready",
    "staging_opened": "ready",
    "staging_without_matches": "ready",
    "merge_doubted": "ready",
    "merge_done": "ready",
    "merge_undone": "ready",
}
"""The states of those that are not named by theirs."""
