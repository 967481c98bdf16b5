"""The preview runbook in JupyterLab, in a real browser: choose gaps, press the button, see what was merged."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import urlopen

import papermill
import pyarrow.compute as pc
import pytest
from fakes import check_table
from playwright.sync_api import expect, sync_playwright
from rows import commits_of
from runbooks import NOTEBOOKS, SIZE, make_world

from ctkit.desk.gap_report import report_gaps
from ctkit.desk.parameters import read_parameters
from ctkit.desk.verbs import fill_gaps
from ctkit.lake.table import open_table

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Without a sandbox, because CI is root in a container; and nothing beyond the loopback interface.
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SWITCHES += ["--disable-component-update", "--disable-sync"]

TOKEN = "for-this-test-only"
PROMPT = ".jp-CodeCell .jp-InputArea-prompt"
PATIENCE = 60_000
"""Milliseconds; two busy cores have been seen to take ten seconds for what takes one."""


@pytest.fixture(autouse=True)
def chromium():
    """Skip where no Chromium is installed, unless CTKIT_REQUIRE_BROWSER=1 says that there must be one."""
    if CHROMIUM is None:
        required = os.environ.get("CTKIT_REQUIRE_BROWSER") == "1"
        (pytest.fail if required else pytest.skip)("no Chromium is installed; Debian's package is chromium")


@pytest.fixture
def world(tmp_path, serve, monkeypatch):
    """Make a small world in the current folder. One log's holes are staged, the other's are gaps still."""
    monkeypatch.chdir(tmp_path)
    world = make_world(tmp_path, serve)
    gap_report = report_gaps(read_parameters("demo.yaml"))
    of_first = pc.equal(gap_report.gaps["source_url"], next(iter(world.logs)))
    fill_gaps(gap_report, gap_report.gaps.filter(of_first)).check()
    gap_report.close()
    return world


@contextmanager
def jupyterlab(folder):
    """Serve a folder with JupyterLab, its settings in a folder of its own, and yield its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = folder / "jupyter" / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    # Otherwise it asks whether it may fetch news, in front of everything else.
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    own = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    environment = os.environ | {name: str(folder / "jupyter" / place) for name, place in own.items()}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += [
        f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.root_dir={folder}",
        "--LabApp.extension_manager=readonly",
    ]
    with (folder / "jupyterlab.txt").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: server.poll() is not None or answers(f"http://127.0.0.1:{port}/api"))
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def answers(url):
    """Tell whether somebody answers there."""
    try:
        with urlopen(f"{url}?token={TOKEN}", timeout=5) as answer:
            return answer.read()
    except URLError:
        return b""


def wait_until(true):
    """Wait for something that happens in another process."""
    deadline = time.monotonic() + PATIENCE / 1000
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def run_all_cells(page, server):
    """Run the notebook from top to bottom and wait for its end."""

    def connected():
        sessions = json.loads(answers(f"{server}/api/sessions") or "[]")
        kernels = [session["kernel"] for session in sessions]
        return any(kernel["connections"] and kernel["execution_state"] == "idle" for kernel in kernels)

    # JupyterLab shows the kernel as idle before it is connected to it, and forgets what is run until then.
    page.locator(PROMPT).first.wait_for()
    wait_until(connected)
    started = expect(page.locator(PROMPT).first)
    for _ in range(5):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        try:
            started.to_have_text(re.compile(r"\[[*\d]+\]:"), timeout=3000)
            break
        except AssertionError:
            continue
    page.wait_for_function(
        f"() => [...document.querySelectorAll({PROMPT!r})].every(each => /^\\[\\d+\\]:$/.test(each.textContent))"
    )


def test_preview_in_jupyterlab(world):
    """A changed selection changes what is chosen; the button merges what was staged; the browser has no complaint."""
    folder, (staged_log, open_log) = world.folder, world.logs
    papermill.execute_notebook(NOTEBOOKS / "preview.ipynb", "preview.ipynb", world.parameters, prepare_only=True)
    complaints = []
    with jupyterlab(folder) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        page = browser.new_page(viewport={"width": 1280, "height": 3200})
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        page.goto(f"{server}/doc/tree/preview.ipynb?token={TOKEN}&reset")
        run_all_cells(page, server)

        chosen = page.locator(".jp-OutputArea-output", has=page.get_by_label("to index"))
        expect(chosen.get_by_role("row", name="entries chosen 250")).to_be_visible()
        page.screenshot(path="before.png")
        page.get_by_label("to index").fill("200")
        page.get_by_label("to index").press("Enter")
        expect(chosen.get_by_role("row", name="entries chosen 100")).to_be_visible()

        button = page.get_by_role("button", name="Merge")
        button.click()
        expect(page.get_by_role("heading", name="merge complete")).to_be_visible()
        expect(page.get_by_role("row", name="total inserted 51")).to_be_visible()
        expect(page.get_by_role("button", name="Merged")).to_be_disabled()
        page.wait_for_timeout(500)  # for the picture only
        page.screenshot(path="after.png")
        browser.close()

    assert complaints == []
    assert not (folder / "staging").exists()
    assert len(commits_of(folder / "main")) == 3
    check_table(open_table(folder / "main"), world.logs, {staged_log: (0, SIZE), open_log: [(0, 100), (350, SIZE)]})
