"""The preview of gaps in JupyterLab: chosen by mouse and by keyboard, saved, reopened, accessible."""

import re

import pytest
import yaml
from jupyterlab import THEMES, open_lab, require_chromium, stage_first, wait_until
from playwright.sync_api import expect

import ctkit


@pytest.fixture(autouse=True)
def chromium():
    """Skip where there is no browser."""
    require_chromium()


@pytest.fixture(params=THEMES)
def lab(request, world):
    """Yield JupyterLab with the preview of a small world: one log's holes are staged, the other's are gaps still."""
    stage_first(world)
    with open_lab(world.folder, theme=request.param) as lab:
        lab.open(lab.prepare("preview", world.parameters))
        lab.run_all()
        lab.page.locator(".ctkit-lanes").scroll_into_view_if_needed()
        yield lab
    assert lab.complaints == []


def record_of(lab):
    """Save the notebook, and return what the file says below the preview."""
    (cell,) = [cell for cell in lab.save().cells if cell.id == "missing"]
    return cell.outputs[-1]["data"]


def says(lab, verdict, spec):
    """Wait until the widget says something; then the record in the saved file says the same numbers."""
    output = lab.output("missing")
    expect(output.locator(".ctkit-verdict")).to_contain_text(verdict)
    expect(output.get_by_label("Choice", exact=True)).to_have_value(spec)
    # The record comes last.
    wait_until(lambda: f"choice={spec} " in record_of(lab)["text/plain"])
    record = record_of(lab)
    shown = output.locator(".ctkit-verdict").inner_text()
    assert f"<b>{shown}</b>" in record["text/html"]
    # Name, bar, state, entries, requests and time; the record also has the indices.
    rows = [
        [cell.inner_text().strip() for cell in row.locator("th, td").all()]
        for row in output.locator(".ctkit-lanes tbody tr").all()
    ]
    saved = [re.sub("<[^>]*>", "|", row) for row in record["text/html"].split("<tr>")[2:]]
    assert len(rows) == len(saved) == 2
    for row, line in zip(rows, saved, strict=True):
        assert [text for text in row if text] == [text for text in line.split("|") if text and " to " not in text]


def test_gaps_are_chosen(lab):
    """By mouse and by keyboard alone; what is typed leaves the notebook as it was; the saved file says the same."""
    page, output = lab.page, lab.output("missing")
    before = lab.sources()
    says(lab, "20.8 % of 2 logs missing · 51 staged · 250 to fetch", "all")
    lab.check_accessible(".ctkit-live")

    # By mouse: of 600 indices, those from about 150 to 300, give or take a pixel.
    spec = output.get_by_label("Choice", exact=True)
    lane = output.get_by_role("application").first
    lane.scroll_into_view_if_needed()
    width = lane.evaluate("lane => lane.clientWidth")
    lane.hover(position={"x": width / 4, "y": 12})
    page.mouse.down()
    lane.hover(position={"x": width / 2, "y": 12})
    page.mouse.up()
    expect(spec).to_have_value(re.compile(r"Small static-ct: 1(49|50|51)-(299|300|301|302)"))
    first, last = map(int, re.findall(r"\d+", spec.input_value()))
    says(lab, f"{last - first} of 250 chosen to fetch", spec.input_value())
    lab.check_accessible(".ctkit-live")

    # By keyboard alone.
    lane.press("Escape")
    says(lab, "250 to fetch", "Small static-ct")
    lane.press("Control+a")
    says(lab, "250 to fetch", "all")
    lane.press("Home")
    for _ in range(20):
        lane.press("ArrowRight")
    for _ in range(10):
        lane.press("Shift+ArrowRight")
    says(lab, "60 of 250 chosen to fetch", "Small static-ct: 120-180")
    # A pause does not end the selection.
    for _ in range(5):
        lane.press("Shift+ArrowRight")
    says(lab, "90 of 250 chosen to fetch", "Small static-ct: 120-210")
    for _ in range(5):
        lane.press("Shift+ArrowLeft")
    says(lab, "60 of 250 chosen to fetch", "Small static-ct: 120-180")
    lane.press("+")
    expect(lane).to_have_attribute("aria-label", "Small static-ct, indices 90 to 390: 250 missing (41.7 %)")
    lane.press("-")
    expect(lane).to_have_attribute("aria-label", "Small static-ct, indices 0 to 600: 250 missing (41.7 %)")
    output.get_by_label("Axis").select_option("time")
    expect(lane).to_have_attribute("aria-label", re.compile("0 to 600, about 2026-01-10 00:00 UTC to 2026-01-14 "))
    expect(output.get_by_role("columnheader", name="About 2026-01-10 to 2026-01-14")).to_be_visible()
    output.get_by_label("Axis").select_option("index")
    expect(output.get_by_role("columnheader", name="From its start to its end")).to_be_visible()
    lane.press("ArrowDown")
    other = output.get_by_role("application").last
    expect(other).to_be_focused()
    other.press(" ")
    says(lab, "60 of 250 chosen to fetch", "Small static-ct: 120-180; Small rfc6962")
    spec.fill("static: 5-3")
    spec.press("Enter")
    expect(output.get_by_role("status")).to_contain_text("there is no index")
    spec.fill("static: 100-110")
    spec.press("Enter")
    says(lab, "10 of 250 chosen to fetch", "static: 100-110")
    output.get_by_role("button", name="Save choice").press("Enter")
    expect(output.get_by_role("status")).to_contain_text("ctkit backfill -f")
    assert yaml.safe_load((lab.folder / "choice.yaml").read_text())["choice"] == "static: 100-110"
    assert ctkit.read_parameters(lab.folder / "choice.yaml").main_path == str(lab.folder / "main")

    # Nothing of what is typed into a control is a command to the notebook.
    controls = output.locator(".ctkit-live :is(input, select, button, canvas):visible").element_handles()
    assert len(controls) == 13
    for control in controls:
        for key in ("d", "d", "x", "Control+a", "x", "Escape", "d", "d", "z", "a", "Enter"):
            control.press(key)
        # So that the filter hides none of the others.
        output.get_by_label("Filter logs").fill("")
    assert lab.sources() == before


def test_a_preview_is_reopened(lab):
    """Without the kernel that made it, and not trusted, the notebook shows what was chosen, and no broken widget."""
    output = lab.output("missing")
    spec = output.get_by_label("Choice", exact=True)
    spec.fill("static: 100-110")
    spec.press("Enter")
    says(lab, "10 of 250 chosen to fetch", "static: 100-110")
    lab.close_kernels()
    expect(output.get_by_role("status")).to_contain_text("the kernel is gone")
    lab.check_accessible(".ctkit-live")

    lab.distrust()
    lab.open(lab.name)
    record = lab.output("missing").locator(".ctkit-report")
    expect(record).to_contain_text("10 of 250 chosen to fetch")
    expect(lab.output("missing").get_by_text("Error displaying widget")).to_be_hidden()
    assert record.locator("img").count() == 2
    assert record.locator("img").first.evaluate("image => image.naturalWidth") == 320


def test_a_table_moves(lab):
    """The preview says so when it is looked at, and looks again."""
    output = lab.output("missing")
    parameters = ctkit.read_parameters("demo.yaml")
    gap_report = ctkit.report_gaps(parameters)
    ctkit.fill_gaps(gap_report)
    gap_report.close()

    output.locator(".ctkit-live").hover()
    expect(output.get_by_role("status")).to_contain_text("look again")
    output.get_by_role("button", name="Look again").click()
    expect(output.locator(".ctkit-verdict")).to_contain_text("nothing missing in 2 logs · 301 staged")
    lab.check_accessible(".ctkit-live")
