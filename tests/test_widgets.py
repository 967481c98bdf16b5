"""Widgets: their values, what they show, and what a click does; no front end is needed."""

import pytest
from rows import indices_of, make_rows, make_table

from ctkit.desk.parameters import Parameters
from ctkit.desk.verbs import preview_staged
from ctkit.desk.widgets import MergePreviewPanel, ProgressBar
from ctkit.jobs.backfill_report import Progress
from ctkit.lake.merge import preview_merge
from ctkit.lake.table import hold, open_table
from ctkit.lake.write import write_entries


@pytest.fixture
def tables(tmp_path):
    """Make a staging table of five rows, of which main has one."""
    return make_table(tmp_path / "staging", make_rows(range(5))), make_table(tmp_path / "main", make_rows([4, 5]))


def test_panel_when_the_button_is_pressed(tables):
    """One click merges what was shown, shows the report, and cannot be repeated."""
    panel = MergePreviewPanel(*tables)
    assert (panel.value, panel.preview.inserted, panel.preview.skipped) == (None, 4, 1)
    assert "would insert" in panel.children[0].value
    assert (panel.button.description, panel.button.disabled) == ("Merge", False)

    panel.button.click()

    assert (panel.value.inserted, panel.value.skipped, panel.value.staging_removed) == (4, 1, True)
    assert indices_of(open_table(panel.preview.main)) == [0, 1, 2, 3, 4, 5]
    assert "merge complete" in panel.children[-1].value
    assert (panel.button.description, panel.button.disabled) == ("Merged", True)

    before = panel.value
    panel.button.click()
    assert panel.value is before
    assert "merge complete" in panel.children[-1].value


def test_panel_while_a_merge_runs(tables):
    """The button is disabled as long as the merge runs."""
    panel = MergePreviewPanel(*tables)
    seen = []
    panel.observe(lambda _: seen.append((panel.button.description, panel.button.disabled)), "value")
    panel.button.click()

    assert seen == [("Merging", True)]


def test_panel_when_nothing_is_pressed(tables):
    """Looking changes nothing, and what was looked at is in the record as HTML."""
    panel = MergePreviewPanel(preview_merge(*tables))

    assert panel._repr_mimebundle_()["text/html"] == panel.preview._repr_html_()
    assert repr(panel) == str(panel.preview)
    assert [table.count() for table in map(open_table, (panel.preview.staging, panel.preview.main))] == [5, 2]


@pytest.mark.parametrize("moved", [0, 1], ids=["staging", "main"])
def test_panel_when_a_table_moved(tables, moved):
    """Nothing is merged, the message and a fresh preview are shown, and a second click merges that."""
    panel = MergePreviewPanel(*tables)
    write_entries(open_table((panel.preview.staging, panel.preview.main)[moved]), make_rows([3, 9]))
    panel.button.click()

    assert panel.value is None
    assert "StalePreviewError" in panel.children[-1].value
    assert panel.preview.staging_rows == (5 if moved else 7)
    assert not panel.button.disabled

    panel.button.click()
    assert panel.value.inserted == panel.preview.inserted
    assert "StalePreviewError" not in panel.children[-1].value
    assert indices_of(open_table(panel.preview.main)) == [0, 1, 2, 3, 4, 5, 9]


def test_panel_when_staging_has_gone(tables):
    """After a merge by someone else the button is disabled."""
    first, second = MergePreviewPanel(*tables), MergePreviewPanel(*tables)
    first.button.click()
    second.button.click()

    assert second.value is None
    assert "now gone" in second.children[-1].value
    assert (second.preview.staging_rows, second.button.disabled) == (0, True)


def test_panel_when_another_run_holds_the_table(tables):
    """An error is shown in the panel; once its cause is gone, the button merges."""
    panel = MergePreviewPanel(*tables)
    with hold(tables[1]):
        panel.button.click()
    assert "TableBusyError" in panel.children[-1].value
    assert "another run" in panel.children[-1].value
    assert (panel.value, panel.button.disabled) == (None, False)

    panel.button.click()
    assert panel.value.inserted == 4


def test_panel_when_the_merge_breaks(tables, monkeypatch, caplog):
    """An unexpected error is shown, with its type, and logged."""
    panel = MergePreviewPanel(*tables)
    monkeypatch.setattr("ctkit.desk.widgets.merge_staged", lambda *_, **__: [][1])
    panel.button.click()

    assert "IndexError: list index out of range" in panel.children[-1].value
    assert caplog.messages == [f"merge failed staging={panel.preview.staging} main={panel.preview.main}"]
    assert not panel.button.disabled


def test_panel_when_nothing_is_staged(tmp_path):
    """Without a staging table there is nothing to press, and nothing is created."""
    parameters = Parameters(main_path=str(tmp_path / "main"), staging_path=str(tmp_path / "staging"))
    panel = MergePreviewPanel(preview_staged(parameters))

    assert panel.button.disabled
    panel.button.click()
    assert panel.value is None
    assert list(tmp_path.iterdir()) == []


def test_panel_when_main_is_missing(tmp_path):
    """AC4.2: main is created by the merge, not by looking."""
    make_table(tmp_path / "staging", make_rows(range(3)))
    parameters = Parameters(main_path=str(tmp_path / "new" / "main"), staging_path=str(tmp_path / "staging"))
    panel = MergePreviewPanel(preview_staged(parameters))
    assert not (tmp_path / "new").exists()
    assert (panel.create_main.layout.display, panel.button.disabled) == (None, True)
    panel.button.click()
    assert not (tmp_path / "new").exists()

    panel.create_main.value = True
    panel.button.click()
    assert panel.value.inserted == 3
    assert indices_of(open_table(tmp_path / "new" / "main")) == [0, 1, 2]


@pytest.mark.parametrize("arguments", [("staging", "main"), ()])
def test_panel_when_it_is_given_something_else(arguments):
    """What is neither a preview nor two tables is refused."""
    with pytest.raises(TypeError):
        MergePreviewPanel(*arguments)


def test_panel_when_a_keyword_is_unknown(tables):
    """A misspelt keyword is an error."""
    with pytest.raises(TypeError):
        MergePreviewPanel(*tables, expcted=None)


def test_progress_bar_when_rows_are_committed(monkeypatch):
    """It is one display that is redrawn; its text has counts, share and version, its HTML a bar."""
    shown = []

    class Handle:
        def update(self, bar):
            shown.append(repr(bar))

    monkeypatch.setattr("ctkit.desk.widgets.display", lambda bar, display_id: shown.append(repr(bar)) or Handle())
    bar = ProgressBar()
    bar(Progress(wanted=2000, written=500, version=1))
    bar(Progress(wanted=2000, written=2000, version=2))

    assert [text.split(" [")[0] for text in shown] == [" 25% 500/2.00k", "100% 2.00k/2.00k"]
    assert [text.split()[-1] for text in shown] == ["version=1", "version=2"]
    assert "<progress value='2000' max='2000'" in bar._repr_html_()
