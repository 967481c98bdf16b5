"""Text from outside: visible wherever people meet it, and never a line that passes for one of ours."""

import io
import json
import logging
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import LOG, make_rows, make_table

import ctkit
from ctkit.cli import main
from ctkit.desk.choice import GapChoice
from ctkit.desk.chosen_gaps import ChosenGaps
from ctkit.desk.gap_preview import GapPreview
from ctkit.desk.lanes import Lanes, label
from ctkit.desk.merge_panel import MergePreviewPanel
from ctkit.desk.plots import plot_gaps
from ctkit.desk.state_file import write_state
from ctkit.desk.widget import _Record
from ctkit.errors import CtkitError, LogError, LogUnavailableError, ParameterError, TableError
from ctkit.jobs.backfill_report import BackfillReport, Hole
from ctkit.lake.merge import MergePreview
from ctkit.report import Report, frame_of, left_out, table_html
from ctkit.visible import get_logger, visible

FORGED = "2026-01-01T00:00:00Z INFO merge complete total_inserted=1"
HOSTILE = f"\x1b]0;owned\x07\x1b[2J<b>\u202egro.elpmaxe\u200b$x_1$ &amp;\r\n{FORGED}\u2028{FORGED}\x85{FORGED}\ud800"
SHOWN = visible(HOSTILE)
IN_HTML = SHOWN.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, naïve, 日本語 and 🎉", "plain, naïve, 日本語 and 🎉"),
        ("\x00\x1b[31m\x7f\x9b", r"\x00\x1b[31m\x7f\x9b"),
        ("a\nb\rc\td\x0b\x0c\x1c\x85\u2028\u2029", r"a\nb\rc\td\x0b\x0c\x1c\x85\u2028\u2029"),
        ("\u202a\u202b\u202c\u202d\u202e", r"\u202a\u202b\u202c\u202d\u202e"),
        ("\u2066\u2067\u2068\u2069\u200e\u200f\u061c", r"\u2066\u2067\u2068\u2069\u200e\u200f\u061c"),
        ("\u200b\u200c\u200d\u2060\ufeff\xad\u180e", r"\u200b\u200c\u200d\u2060\ufeff\xad\u180e"),
        # What is no format character, and cannot be seen all the same.
        ("\u034f\u115f\u17b4\u3164\ufe0f\u2800\U000e0100", r"\u034f\u115f\u17b4\u3164\ufe0f\u2800\U000e0100"),
        ("\xa0\u2003\u3000", r"\xa0\u2003\u3000"),
        ("\ud800\udc80", r"\ud800\udc80"),
        ("\U000e0041\ue000\uffff", r"\U000e0041\ue000\uffff"),
    ],
)
def test_visible(text, shown):
    """What can be seen stays, everything else is its escape."""
    assert visible(text) == shown


@given(st.text(st.characters()))
def test_visible_is_one_printable_line(text):
    """Whatever the text, nothing in it is unprintable, it is one line, and made visible again it is the same."""
    shown = visible(text)

    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    assert visible(shown) == shown


@pytest.mark.parametrize("error", [LogError(LOG, HOSTILE), TableError(HOSTILE, "x"), CtkitError(HOSTILE)])
def test_errors_are_visible(error):
    """An error is one line, whatever of it came from outside."""
    assert SHOWN in str(error)
    assert len(str(error).splitlines()) == 1


def test_errors_keep_facts_as_they_are():
    """What a program reads of an error is not changed."""
    assert (LogError(LOG, HOSTILE).message, TableError(HOSTILE, "x").uri) == (HOSTILE, HOSTILE)


def test_error_with_several_lines():
    """Lines of ours stay lines, each visible."""
    assert str(ParameterError("a\nb", "c")).splitlines() == [r"a\nb", "c"]


def test_log_lines_are_visible_for_any_handler():
    """Whoever handles them, as a notebook does that sets up nothing: one line each, numbers as they were."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = get_logger("ctkit.tests")
    logger.addHandler(handler)
    try:
        logger.warning("told name=%s error=%s count=%d", HOSTILE, LogError(LOG, HOSTILE), 5)
    finally:
        logger.removeHandler(handler)

    assert stream.getvalue() == f"told name={SHOWN} error={LOG}: {SHOWN} count=5\n"


class Found(Report):
    """A report of hostile text in each place that there is."""

    title = HOSTILE

    def facts(self):
        """Return one fact."""
        return {HOSTILE: HOSTILE}

    def tables(self):
        """Return a table."""
        # pandas holds no lone surrogates.
        text = HOSTILE.replace("\ud800", "")
        return {HOSTILE: pd.DataFrame({text: [text], "list": [[text]], "n": [1]})}


def test_report_in_a_notebook():
    """Title, names and values of facts, headings, columns and cells: visible, escaped, and left alone by MathJax."""
    with pd.option_context("display.max_colwidth", None):
        shown = Found()._repr_html_()

    assert shown.count(IN_HTML) == 3
    assert shown.count(IN_HTML.removesuffix(r"\ud800")) == 3 + 3
    assert IN_HTML.replace("_", " ") in shown
    assert shown.startswith("<div class='ctkit-report tex2jax_ignore mathjax_ignore'>")
    assert "<b>" not in shown
    assert visible(shown.replace("\n", "")) == shown.replace("\n", "")


def test_report_as_text():
    """It is one line."""
    assert str(Found()) == repr(Found()) == f"{SHOWN} {SHOWN}={SHOWN}"


def test_report_of_a_long_table():
    """A notebook shows some rows and says how many more there are."""

    class Long(Found):
        def tables(self):
            return {"rows": frame_of({"n": n} for n in range(120))}

    assert Long()._repr_html_().count("<tr>") == 1 + 1 - 1 + 50
    assert "... and 70 more" in Long()._repr_html_()
    assert left_out(frame_of([{"n": 1}]), 1) == ""


def test_pictures_and_widgets(tmp_path):
    """A name is text in them: no formula, nothing that turns it around, and the picture can be drawn."""
    gaps = pa.table({"source_url": [LOG], "start": [0], "end": [5]})
    lanes = Lanes.of_gaps(gaps, {LOG: (0, 9)})
    lanes = replace(lanes, lanes=(replace(lanes.lanes[0], name=label(LOG, {LOG: r"$\frac$ $^$" + HOSTILE})),))
    report = ChosenGaps(lanes, GapChoice(), lanes.missing)

    picture = plot_gaps(report)
    assert picture._repr_png_()[0].startswith(b"\x89PNG")
    assert picture.axes[0].texts[0].get_text().startswith(r"$\frac$ $^$\x1b]")
    assert all(not text.get_parse_math() and not text.get_usetex() for text in picture.axes[0].texts)
    assert IN_HTML[:20] in report._repr_html_()
    assert "mathjax_ignore" in report._repr_html_()

    widget = GapPreview(gaps.set_column(0, "source_url", pa.array(["https://a.example/\u202e"])))
    # The URL is what the front end sends back, and shows nowhere.
    (lane,) = widget.lanes
    assert (lane["log"], lane["title"]) == (r"a.example/\u202e", r"a.example/\u202e https://a.example/\u202e")


def test_widget_that_fails(tmp_path):
    """The error beside the button is visible, and escaped in the record, which MathJax leaves alone."""
    preview = make_table(tmp_path / "staging", make_rows([1]))
    panel = MergePreviewPanel(preview, make_table(tmp_path / "main", make_rows([0])))
    panel.preview = MergePreview(**{**vars(panel.preview), "staging": f"{tmp_path}/\x1b[2J<i>$x$"})

    panel.merge()

    assert r"\x1b[2J<i>$x$" in panel.note
    assert r"\x1b[2J&lt;i&gt;$x$" in _Record(panel)._repr_html_()


@pytest.mark.parametrize("place", ["description", "url"])
def test_command_line(tmp_path, monkeypatch, capsys, place):
    """A log list cannot write to the terminal, nor a log line of ours: neither by a name nor by a URL."""
    monkeypatch.chdir(tmp_path)
    hostile = HOSTILE.replace("\ud800", "")
    log = {"url": LOG, "key": "", "description": "good", place: f"https://a.example/{hostile}"}
    (tmp_path / "list.json").write_text(json.dumps({"operators": [{"logs": [log]}]}))
    write_state("state.json", {LOG: 5, hostile: "no index"})
    state = json.loads((tmp_path / "state.json").read_text())
    state["logs"][hostile] = {"current_index": "none"}
    (tmp_path / "state.json").write_text(json.dumps(state))
    (tmp_path / "p.yaml").write_text("{main_path: m, state_file: state.json, log_list: list.json, user_agent: a@b.c}")

    assert main(["gaps", "-f", "p.yaml", "--logs", "nothing"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert visible(hostile) in err
    for line in err.splitlines():
        assert line.isprintable()
        assert not line.startswith(FORGED)


def test_gaps_of_a_hostile_table(tmp_path, monkeypatch, capsys):
    """What the table calls a log is visible on the terminal, and as it is in JSON."""
    monkeypatch.chdir(tmp_path)
    url = "https://a.example/\u202e\u200b"
    make_table("main", make_rows([0, 2], url=url))
    write_state("state.json", {url: 5})
    (tmp_path / "p.yaml").write_text(
        f'{{main_path: main, state_file: state.json, logs: [{{url: "{url}", protocol: rfc6962}}], user_agent: a@b.c}}'
    )

    assert main(["gaps", "-f", "p.yaml"]) == 0
    assert visible(url).removeprefix("https://") in capsys.readouterr().out
    assert main(["gaps", "-f", "p.yaml", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out)[0]["source_url"] == url


def test_output_that_cannot_hold_a_character(tmp_path, monkeypatch):
    """A terminal without Unicode is shown escapes, not an error."""
    monkeypatch.chdir(tmp_path)
    url = "https://a.example/naïve"
    make_table("main", make_rows([0, 2], url=url))
    write_state("state.json", {url: 5})
    (tmp_path / "p.yaml").write_text(
        f'{{main_path: main, state_file: state.json, logs: [{{url: "{url}", protocol: rfc6962}}], user_agent: a@b.c}}',
        encoding="utf-8",
    )
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))

    assert main(["gaps", "-f", "p.yaml"]) == 0
    assert rb"a.example/na\xefve" in raw.getvalue()


def test_every_logger_makes_its_lines_visible():
    """No module of the package has a logger of its own making."""
    package = Path(ctkit.__file__).parent
    own = [path.name for path in package.rglob("*.py") if "logging.getLogger(__name__)" in path.read_text()]

    assert own == []


def test_many_errors_end_in_what_to_do():
    """However many logs failed, and however long their URLs are."""
    errors = [LogError(f"{LOG}/{at}/{'x' * 900}", "does not answer; run again later") for at in range(40)]
    assert str(LogUnavailableError.of_several(errors, "not known")).endswith("35 more logs likewise; run again later")
    assert str(CtkitError("a" * 9_000 + "; run again")).endswith("a; run again")

    urls = [error.url for error in errors]
    holes = tuple(Hole(url, 0, 9, "no answer; run again", lasting=False) for url in urls)
    nothing = BackfillReport.of_nothing("t", None, "off")
    report = replace(nothing, wanted=dict.fromkeys(urls, 9), written=dict.fromkeys(urls, 0), holes=holes)
    with pytest.raises(LogUnavailableError) as raised:
        report.check()
    assert str(raised.value).endswith("35 more logs; run again to fetch them")


def test_cells_are_shown_with_their_end():
    """What is folded says at its end what to do."""
    assert "end</details>" in table_html(pd.DataFrame({"why": ["x" * 9_000 + "end"]}))
