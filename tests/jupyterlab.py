"""JupyterLab in a real browser: serve a folder, run notebooks, save and reopen them, look for what axe-core finds."""

import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import nbformat
import papermill
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect, sync_playwright
from runbooks import NOTEBOOKS, World

from ctkit.desk.gap_report import report_gaps
from ctkit.desk.parameters import read_parameters
from ctkit.desk.verbs import fill_gaps

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Without a sandbox, because CI is root in a container; and nothing beyond the loopback interface.
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SWITCHES += ["--disable-component-update", "--disable-sync"]

TOKEN = "for-this-test-only"
PATIENCE = 60_000
"""Milliseconds; two busy cores have been seen to take ten seconds for what takes one."""

THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}


def require_chromium() -> None:
    """Skip the test where no Chromium is installed, unless CTKIT_REQUIRE_BROWSER=1 says that there must be one."""
    if CHROMIUM is None:
        required = os.environ.get("CTKIT_REQUIRE_BROWSER") == "1"
        (pytest.fail if required else pytest.skip)("no Chromium is installed; Debian's package is chromium")


def stage_first(world: World) -> None:
    """Stage the holes of the first log of a small world; the other's are gaps still."""
    gap_report = report_gaps(read_parameters(world.folder / "demo.yaml"))
    first = next(iter(world.logs))
    fill_gaps(gap_report, gap_report.gaps.filter([url == first for url in gap_report.gaps["source_url"].to_pylist()]))
    gap_report.close()


@dataclass
class Lab:
    """A notebook in JupyterLab.

    Attributes
    ----------
    folder, url
        What is served, and where.
    page
        The browser's page.
    complaints
        What its console, its scripts and its requests had to complain of.
    """

    folder: Path
    url: str
    page: Page
    name: str = ""
    complaints: list[str] = field(default_factory=list)

    def prepare(self, runbook: str, parameters: dict[str, object]) -> str:
        """Put a runbook with parameters into the folder, without running it; return its name."""
        name = f"{runbook}.ipynb"
        papermill.execute_notebook(NOTEBOOKS / name, self.folder / name, parameters, prepare_only=True)
        return name

    def open(self, name: str) -> None:
        """Open a notebook of the folder with a new kernel; one that is open is closed without being saved."""
        self.close_kernels()
        self.name = name
        # From another page, so that the notebook is read again although only its name is in the address.
        self.page.goto("about:blank")
        self.page.goto(f"{self.url}/doc/tree/{name}?token={TOKEN}&reset")
        self.page.locator(".jp-CodeCell .jp-InputArea-prompt").first.wait_for()
        # JupyterLab shows the kernel as idle before it is connected to it, and forgets what is run until then.
        wait_until(self._connected)

    def run_all(self) -> None:
        """Run the notebook from top to bottom, and wait for its end."""
        self._start("notebook:run-all-cells")
        self.wait_for_cells()

    def run(self, cell: str) -> None:
        """Run one cell, named by its id, and wait for its end."""
        self.start(cell)
        self.wait_for_cells(cell)

    def run_before(self, cell: str, *, without: Sequence[str] = ()) -> None:
        """Run the cells that come before one, but for some, all named by their ids."""
        for each in self.cells():
            if each["id"] == cell:
                return
            if each["cell_type"] == "code" and each["id"] not in without:
                self.run(each["id"])

    def start(self, cell: str) -> None:
        """Start one cell, named by its id."""
        number = [each["id"] for each in self.cells()].index(cell)
        self.page.evaluate(f"{_NOTEBOOK}.activeCellIndex = {number}")
        self._start("notebook:run-cell")

    def wait_for_cells(self, *cells: str) -> None:
        """Wait until the named cells have run, or all if none is named."""
        self.page.wait_for_function(
            f"""ids => [...{_NOTEBOOK}.model.cells].every(cell => cell.type !== "code"
                || (ids.length && !ids.includes(cell.id))
                || (cell.executionCount !== null && cell.executionState === "idle"))""",
            arg=list(cells),
        )

    def output(self, cell: str) -> Locator:
        """Return what is below a cell, named by its id."""
        number = [each["id"] for each in self.cells()].index(cell)
        return self.page.locator(".jp-Notebook .jp-Cell").nth(number).locator(".jp-Cell-outputWrapper")

    def cells(self) -> list[dict[str, Any]]:
        """Return the cells that are open: also what is not saved yet."""
        cells: list[dict[str, Any]] = self.page.evaluate(f"{_NOTEBOOK}.model.toJSON()")["cells"]
        return cells

    def sources(self) -> list[tuple[str, str]]:
        """Return what a key that reaches the notebook would change: kind and text of its cells."""
        return [(cell["cell_type"], "".join(cell["source"])) for cell in self.cells()]

    def save(self) -> nbformat.NotebookNode:
        """Save the notebook, and return the file."""
        self.page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
        return nbformat.read(self.folder / self.name, as_version=4)

    def distrust(self) -> None:
        """Forget that this JupyterLab trusts the notebooks that it has saved."""
        for database in (self.folder / "jupyter").rglob("nbsignatures.db"):
            with closing(sqlite3.connect(database)) as signatures, signatures:
                signatures.execute("DELETE FROM nbsignatures")

    def close_kernels(self) -> None:
        """End all kernels of the server."""
        for session in json.loads(ask(f"{self.url}/api/sessions") or "[]"):
            ask(f"{self.url}/api/sessions/{session['id']}", method="DELETE")

    def check_accessible(self, within: str, *, without: Sequence[str] = ()) -> None:
        """Raise if axe-core finds anything within a CSS selector, which must be there, but for some rules."""
        assert self.page.locator(within).count()
        rules = {rule: {"enabled": False} for rule in without}
        found = Axe().run(self.page, context=within, options={"rules": rules}).response["violations"]
        assert [(each["id"], each["impact"], [node["html"] for node in each["nodes"]]) for each in found] == []

    def _connected(self) -> bool:
        kernels = [session["kernel"] for session in json.loads(ask(f"{self.url}/api/sessions") or "[]")]
        return any(kernel["connections"] and kernel["execution_state"] == "idle" for kernel in kernels)

    def _start(self, command: str) -> None:
        # Its promise ends with the cells, which is not waited for here.
        self.page.evaluate("command => void window.jupyterapp.commands.execute(command)", command)


_NOTEBOOK = "window.jupyterapp.shell.currentWidget.content"


@contextmanager
def jupyterlab(folder: Path, *, theme: str = "light") -> Iterator[str]:
    """Serve a folder with JupyterLab, its settings in a folder of its own, and yield its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = folder / "jupyter" / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True, exist_ok=True)
    # Otherwise it asks whether it may fetch news, in front of everything else.
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": THEMES[theme]}))
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
        "--LabApp.expose_app_in_browser=True",
    ]
    with (folder / "jupyterlab.txt").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: server.poll() is not None or bool(ask(f"http://127.0.0.1:{port}/api")))
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


@contextmanager
def open_lab(folder: Path, *, theme: str = "light", height: int = 1000) -> Iterator[Lab]:
    """Serve a folder and open a browser; nothing is open in it yet."""
    with jupyterlab(folder, theme=theme) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        page = browser.new_page(viewport={"width": 1280, "height": height}, color_scheme=theme)
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        lab = Lab(folder, url, page)
        page.on("console", lambda message: message.type == "error" and lab.complaints.append(message.text))
        page.on("pageerror", lambda error: lab.complaints.append(str(error)))
        page.on("requestfailed", lambda request: lab.complaints.append(request.url))
        yield lab
        browser.close()


def ask(url: str, *, method: str = "GET") -> bytes:
    """Return the answer of the server; empty if there is none."""
    request = Request(url, method=method, headers={"Authorization": f"token {TOKEN}"})
    try:
        with urlopen(request, timeout=5) as answer:
            body: bytes = answer.read()
            return body
    except URLError:
        return b""


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for something that happens in another process."""
    deadline = time.monotonic() + PATIENCE / 1000
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def numbers_in(text: str) -> list[int]:
    """Return the whole numbers of a text, with separators or without, in order.

    >>> numbers_in("1,328 staged, 40 %")
    [1328, 40]
    """
    return [int(number.replace(",", "")) for number in re.findall(r"\d{1,3}(?:,\d{3})+|\d+", text)]
