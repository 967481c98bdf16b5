"""Front ends of widgets: linted, small, and without a way from data to markup."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ctkit
from ctkit.desk.widget import FRONT, LiveWidget

DENO = Path(sys.executable).with_name("deno")
WIDGETS = [
    value
    for value in map(ctkit.__getattr__, ctkit.__all__)
    if isinstance(value, type) and issubclass(value, LiveWidget)
]


def test_every_file_belongs_to_a_widget():
    """None is left over."""
    used = {name for widget in WIDGETS for name in ("common", *widget.modules, widget.front)}

    assert {path.stem for path in FRONT.glob("*.js")} == used


@pytest.mark.parametrize("widget", WIDGETS)
def test_front_end_is_linted(widget):
    """What a browser gets, all in one module, uses no name that is not there."""
    rules = ["--rules-include=no-undef,eqeqeq,no-eval", "--rules-exclude=no-window,no-window-prefix"]
    command = [DENO, "lint", "--no-config", "--json", "--ext=js", *rules, "-"]
    environment = os.environ | {"DENO_NO_UPDATE_CHECK": "1"}
    done = subprocess.run(command, input=widget._esm, env=environment, capture_output=True, text=True, check=False)
    found = [(each["code"], each["message"]) for each in json.loads(done.stdout)["diagnostics"]]

    # Of what is common each uses a part; and Deno has no page.
    page = ("document", "getComputedStyle", "ResizeObserver")
    expected = {("no-undef", f"{name} is not defined") for name in page}
    assert [each for each in found if each not in expected and not is_common(each)] == []
    assert json.loads(done.stdout)["errors"] == []


def is_common(found):
    """Tell whether a name that is not used is one of common.js."""
    code, message = found
    names = re.findall(r"^(?:function|const) (\w+)", (FRONT / "common.js").read_text(), re.MULTILINE)
    return code == "no-unused-vars" and message.split("`")[1] in names


@pytest.mark.parametrize("path", sorted(FRONT.glob("*.js")), ids=lambda path: path.stem)
def test_front_end_makes_no_markup_of_data(path):
    """It has about 300 lines at most, and all that it shows are nodes of text."""
    text = path.read_text()

    assert len(text.splitlines()) < 320
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|srcdoc|DOMParser|eval\(|Function\(", text
    )
    assert not re.search(r"https?://\w", text)


def test_front_ends_do_not_style_each_other():
    """A style sheet holds for the whole page: a class of one widget is in no other's, unless all share it."""
    classes = {path.stem: set(re.findall(r"\.(ctkit-[\w-]+)", path.read_text())) for path in FRONT.glob("*.css")}
    shared = classes.pop("common")
    own = [name for names in classes.values() for name in names - shared]

    assert sorted(own) == sorted(set(own))
