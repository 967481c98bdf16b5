"""What widgets share: the record below the view is rewritten, and errors are shown."""

from types import SimpleNamespace

import pytest

from ctkit.desk import widget
from ctkit.desk.widget import LiveWidget
from ctkit.errors import CtkitError
from ctkit.report import Report


class Clicks(Report):
    """How often somebody clicked."""

    title = "clicks"

    def __init__(self, number):
        self.number = number

    def facts(self):
        """Return the number."""
        return {"clicked": self.number}


@pytest.fixture
def counter(tmp_path, monkeypatch):
    """Return a widget that counts clicks."""
    for name in ("common.js", "common.css", "counter.js", "counter.css"):
        (tmp_path / name).write_text(f"/* {name} */")
    monkeypatch.setattr(widget, "FRONT", tmp_path)

    class Counter(LiveWidget):
        front = "counter"
        number = 0

        @property
        def report(self):
            return Clicks(self.number)

        def on_message(self, content):
            if content["do"] != "count":
                raise ValueError(f"unknown: {content['do']}")
            self.number += 1
            self.record()

    return Counter()


class Outputs(list):
    """What is displayed instead of in a notebook; each update replaces all that was displayed under its id."""

    def __init__(self):
        super().__init__()
        self.places = {}

    def display(self, shown, *, metadata=None, raw=False, display_id=None):
        """Stand in for `IPython.display.display`."""
        self.append(shown)
        if display_id is None:
            return None
        display_id = len(self) if display_id is True else display_id
        places = self.places.setdefault(display_id, [])
        places.append(len(self) - 1)

        def update(again):
            for place in places:
                self[place] = again

        return SimpleNamespace(display_id=display_id, update=update)


@pytest.fixture
def outputs(monkeypatch):
    """Catch what is displayed."""
    outputs = Outputs()
    monkeypatch.setattr(widget, "display", outputs.display)
    return outputs


def test_a_widget_is_a_view_and_a_record_that_follows_it(counter, outputs):
    """What the saved notebook says is what was done last."""
    counter._ipython_display_()
    view, record = outputs
    assert view.keys() == {"application/vnd.jupyter.widget-view+json"}
    assert str(record) == "clicks clicked=0"

    counter._received({"do": "count"})

    assert len(outputs) == 2
    assert str(outputs[1]) == "clicks clicked=1"
    assert "ctkit-record" in outputs[1]._repr_html_()


def test_two_cells_have_one_record(counter, outputs):
    """What a widget says is true in each cell that shows it."""
    counter._ipython_display_()
    counter._received({"do": "count"})
    counter._ipython_display_()
    first = outputs[1]
    counter._received({"do": "count"})

    assert outputs[1] is outputs[3] is not first


def test_an_error_is_shown_in_the_widget_and_in_its_record(counter, outputs, caplog):
    """A front end does not show what a message raises; what we did not expect is logged with its traceback."""
    counter._ipython_display_()

    counter._received({"do": "<b>\u202e"})

    assert counter.state == "failed"
    assert counter.note == "ValueError: unknown: <b>\\u202e"
    assert "&lt;b&gt;\\u202e" in outputs[1]._repr_html_()
    (logged,) = caplog.records
    assert logged.exc_info[0] is ValueError

    counter.fail(CtkitError("as designed"))
    assert len(caplog.records) == 1


def test_a_front_end_stands_behind_what_all_share(counter):
    """One module, one style sheet."""
    assert counter._esm.index("common.js") < counter._esm.index("counter.js")
    assert counter._css.index("common.css") < counter._css.index("counter.css")
