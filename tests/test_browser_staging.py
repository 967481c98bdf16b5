"""Staging looked into, and merged, in JupyterLab: by mouse and by keyboard, in both themes, and as it is saved."""

import pytest
from fakes import check_table
from jupyterlab import Lab, numbers_in, open_lab, require_chromium, stage_first
from playwright.sync_api import Locator, expect
from rows import commits_of
from runbooks import SIZE

from ctkit.lake.table import find_table, open_table

KEYS = ["d", "d", "x", "a", "b", "m", "Escape", "Control+a", "z"]
"""What operates a notebook in command mode."""


@pytest.fixture(autouse=True)
def chromium():
    """Skip where there is no browser."""
    require_chromium()


@pytest.fixture(params=["light", "dark"])
def lab(request, world):
    """Open `preview.ipynb` with 51 staged rows, and run it."""
    stage_first(world)
    with open_lab(world.folder, theme=request.param, height=1400) as lab:
        lab.open(lab.prepare("preview", world.parameters))
        lab.run_all()
        yield lab
    assert lab.complaints == []


def record_of(lab: Lab, cell: str) -> dict[str, object]:
    """Save the notebook, and return the facts of a cell's record."""
    (saved,) = [each for each in lab.save().cells if each.id == cell]
    (facts,) = [
        output.data["application/vnd.ctkit.result+json"]
        for output in saved.outputs
        if "application/vnd.ctkit.result+json" in output.get("data", {})
    ]
    return facts


def type_into_all(lab: Lab, widget: Locator) -> None:
    """Type what operates a notebook into each control that the tab key reaches; the notebook stays as it was."""
    before = lab.sources()
    # Of the rows, the first: they are alike.
    others = ".ctkit-rows tr + tr button"
    for control in widget.locator(f":is(button, input, summary, pre, [tabindex='0']):not({others})").all():
        if control.is_visible():
            control.focus()
            for key in KEYS:
                lab.page.keyboard.press(key)
    assert lab.sources() == before


def test_staging_in_jupyterlab(lab, world):
    """Rows are searched, turned and opened, by mouse and by keyboard; the saved notebook says what the screen says."""
    page, staging = lab.page, lab.output("staging")
    expect(staging.get_by_text("1 to 20 of 51 rows")).to_be_visible()
    expect(staging.get_by_text("top issuers")).to_be_visible()
    assert record_of(lab, "staging")["rows"] == 51
    lab.check_accessible(".ctkit-live")

    staging.get_by_role("button", name="last page").click()
    expect(staging.get_by_text("41 to 51 of 51 rows")).to_be_visible()
    expect(staging.locator(".ctkit-rows tbody tr")).to_have_count(11)
    assert record_of(lab, "staging")["shown"] == "41 to 51"

    box = staging.get_by_label("domain or issuer")
    box.fill("no such domain")
    box.press("Enter")
    expect(staging.get_by_text("0 rows with “no such domain”, of 51")).to_be_visible()
    box.fill(next(iter(world.logs.values())).name.lower()[:5])
    staging.get_by_role("button", name="Search").click()
    staging.get_by_role("button", name="All rows").click()
    expect(staging.get_by_text("1 to 20 of 51 rows")).to_be_visible()

    # By mouse, anywhere in the row.
    staging.locator(".ctkit-rows tbody tr").nth(3).locator("td").nth(4).click()
    opened = staging.get_by_role("region", name="certificate")
    expect(opened.get_by_role("row", name="index 3", exact=True)).to_be_visible()
    expect(opened.get_by_role("button", name="Close")).to_be_focused()
    assert record_of(lab, "staging")["opened"] == 3
    lab.check_accessible(".ctkit-live")
    opened.get_by_role("button", name="Close").click()
    expect(opened).to_have_count(0)

    # By keyboard: from the row's button and back to it.
    row = staging.locator(".ctkit-rows tbody button").nth(5)
    row.focus()
    page.keyboard.press("Enter")
    expect(opened.get_by_role("row", name="index 5", exact=True)).to_be_visible()
    opened.get_by_text("PEM").click()
    expect(opened.get_by_text("BEGIN CERTIFICATE")).to_be_visible()
    type_into_all(lab, staging.locator(".ctkit-certificate"))
    if opened.count():
        opened.get_by_role("button", name="Close").focus()
        page.keyboard.press("Escape")
    expect(opened).to_have_count(0)
    expect(row).to_be_focused()
    type_into_all(lab, staging)


def test_merge_in_jupyterlab(lab, world):
    """A merge is cancelled, confirmed and undone; what is staged is looked at again, and the record has each step."""
    page, panel, staging = lab.page, lab.output("panel"), lab.output("staging")
    main, (staged_log, _) = world.folder / "main", world.logs
    commits = len(commits_of(main))
    merge = panel.get_by_role("button", name="Merge 51 rows")
    expect(panel.get_by_text("insert, file as it is: 51")).to_be_visible()
    lab.check_accessible(".ctkit-live")

    # A key that is held down asks, and cancels, again and again.
    merge.focus()
    for _ in range(6):
        page.keyboard.press("Enter")
    expect(merge).to_be_focused()
    merge.click()
    expect(panel.get_by_role("button", name="Cancel")).to_be_focused()
    lab.check_accessible(".ctkit-live")
    page.keyboard.press("Escape")
    expect(merge).to_be_focused()
    assert len(commits_of(main)) == commits
    type_into_all(lab, panel)
    assert record_of(lab, "panel")["would_insert"] == 51

    merge.click()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(panel.get_by_role("row", name="total inserted 51")).to_be_visible()
    undo = panel.get_by_role("button", name="Undo the merge of 51 rows")
    expect(undo).to_be_focused()
    expect(staging.locator(".ctkit-state")).to_contain_text("run a backfill")
    lab.check_accessible(".ctkit-live")
    assert record_of(lab, "panel")["total_inserted"] == 51
    assert record_of(lab, "staging")["rows"] == 0
    assert len(commits_of(main)) == commits + 1

    expect(panel.locator(".ctkit-live").get_by_text("Undo takes these 51 rows out of main")).to_be_visible()
    undo.click()
    question = panel.get_by_role("group", name="Undo the merge of 51 rows?")
    question.get_by_role("button", name="Confirm").click()
    expect(panel.get_by_role("row", name="rows staged again 51")).to_be_visible()
    expect(staging.get_by_text("1 to 20 of 51 rows")).to_be_visible()
    expect(merge).to_be_focused()
    lab.check_accessible(".ctkit-live")
    facts = record_of(lab, "panel")
    assert numbers_in(panel.locator(".ctkit-live").inner_text()).count(51) >= 3
    assert (facts["rows_staged_again"], facts["would_insert"]) == (51, 51)
    assert find_table(world.folder / "staging").count() == 51
    check_table(open_table(main), world.logs, {staged_log: [(40, 300), (301, 590)], **rest_of(world)})


def rest_of(world):
    """Return what main has of the other log."""
    return {list(world.logs)[1]: [(0, 100), (350, SIZE)]}
