"""The pictures of the README, taken of the demo's tables in JupyterLab: ``--pictures tests/pictures`` renews them."""

import time
from io import BytesIO
from pathlib import Path

import pytest
from jupyterlab import open_lab, require_chromium
from PIL import Image
from playwright.sync_api import expect

from ctkit.demo import cycle
from ctkit.demo.embedded import Response
from ctkit.demo.server import LogServer

KEPT = Path(__file__).with_name("pictures")
MOST_BYTES = 60_000
SOME_REQUESTS = 16

# Of the rows of a page, a few; and where the tables are is nobody's concern.
FEWER_ROWS = ".ctkit-rows tbody tr:nth-child(n + 7) {display: none}"
RENAME = """([folder, name]) => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replaceAll(folder, name);
}"""


@pytest.fixture
def demo(tmp_path):
    """Return the demo as it is served, of smaller logs: gaps everywhere, staged rows, rows above a ceiling."""
    require_chromium()
    logs = cycle.make_logs(3000)
    with LogServer(*logs) as server:
        demo = cycle._Demo(tmp_path, logs, server)
        demo._write_files()
        demo._fill_main([0, 0])
        demo._go_on()
        yield demo


@pytest.fixture
def held(demo):
    """Hold up a backfill: the first log has answers to some requests for entries only, then it asks to wait."""
    log, asked = demo.logs[0], []
    answer = log.respond

    def respond(request):
        asked.extend([request] if request.path == "ct/v1/get-entries" else [])
        time.sleep(0.1)
        return answer(request) if len(asked) < SOME_REQUESTS else Response(429, b"", headers={"Retry-After": "41"})

    log.respond = respond


@pytest.mark.usefixtures("held")
def test_pictures(demo, pictures, tmp_path):
    """They can be taken, are small, and those that are kept show the same things: they have about the same size."""
    taken = {}

    def take(name, *outputs):
        boxes = [output.bounding_box() for output in outputs]
        top, left = (min(box[side] for box in boxes) for side in ("y", "x"))
        area = {"x": left, "y": top, "width": boxes[0]["width"], "height": 0}
        area["height"] = max(box["y"] + box["height"] for box in boxes) - top
        lab.page.mouse.move(0, 0)
        with Image.open(BytesIO(lab.page.screenshot(clip=area))) as drawn:
            small = taken[name] = drawn.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        small.save((pictures or tmp_path) / f"{name}.png", optimize=True)

    with open_lab(tmp_path, height=2400) as lab:
        lab.open(lab.prepare("preview", demo._parameters))
        lab.run_all()
        lab.page.add_style_tag(content=FEWER_ROWS)
        expect(lab.output("staging").get_by_text("top issuers")).to_be_visible()
        lab.page.evaluate(RENAME, [str(tmp_path), "ct-data"])
        take("lanes", lab.output("missing").locator(".ctkit-live"))
        take("staging", *(lab.output(cell).locator(".ctkit-live") for cell in ("staging", "panel")))

        # The proofs of both would wait for the host that the first asks to leave alone.
        lab.open(lab.prepare("backfill", demo._parameters | {"verify": "heads"}))
        lab.run_before("act", without=["picture", "plan"])
        lab.start("act")
        shown = lab.output("act").locator(".ctkit-live")
        expect(shown.get_by_role("row", name="Demo RFC 6962")).to_contain_text("waiting")
        expect(shown.get_by_role("row", name="Demo Static CT")).to_contain_text("done")
        take("progress", shown)
    for name, picture in taken.items():
        path = KEPT / f"{name}.png"
        assert path.stat().st_size < MOST_BYTES
        with Image.open(path) as kept:
            assert kept.size == pytest.approx(picture.size, rel=0.15)
    assert {path.stem for path in KEPT.iterdir()} == taken.keys()
