"""Widgets: their values, what they show, and what a click does; no front end is needed."""

import numpy as np
import pyarrow as pa
import pytest
from rows import LOG, OTHER_LOG, indices_of, make_rows, make_table

from ctkit.desk.parameters import Parameters
from ctkit.desk.verbs import preview_staged
from ctkit.desk.widgets import GapPreview, MergePreviewPanel
from ctkit.lake.merge import preview_merge
from ctkit.lake.table import hold, open_table
from ctkit.lake.write import write_entries
from ctkit.schema import GAP_SCHEMA


def make_gaps(*gaps):
    """Return the given ``(source_url, start, end)`` as a table of gaps."""
    return pa.Table.from_pylist([dict(zip(GAP_SCHEMA.names, gap, strict=True)) for gap in gaps], schema=GAP_SCHEMA)


GAPS = make_gaps((LOG, 0, 10), (LOG, 20, 21), (OTHER_LOG, 5, 8), (OTHER_LOG, 100, 200))


def test_gap_preview_when_untouched():
    """Everything is chosen, and all numbers are shown."""
    preview = GapPreview(GAPS)

    assert preview.value == GAPS
    assert preview.logs.options == (
        (f"{LOG} (gaps: 2, entries: 11)", LOG),
        (f"{OTHER_LOG} (gaps: 2, entries: 103)", OTHER_LOG),
    )
    assert preview.report.facts() == {
        "gaps_chosen": 4,
        "gaps_found": 4,
        "entries_chosen": 114,
        "entries_missing": 114,
    }


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        ({"logs": (OTHER_LOG,)}, [(OTHER_LOG, 5, 8), (OTHER_LOG, 100, 200)]),
        ({"logs": ()}, []),
        ({"smallest": 4}, [(LOG, 0, 10), (OTHER_LOG, 100, 200)]),
        ({"largest": 1}, [(LOG, 20, 21)]),
        ({"smallest": 4, "largest": 3}, []),
        ({"start": 6}, [(LOG, 6, 10), (LOG, 20, 21), (OTHER_LOG, 6, 8), (OTHER_LOG, 100, 200)]),
        ({"end": 10}, [(LOG, 0, 10), (OTHER_LOG, 5, 8)]),
        ({"start": 8, "end": 8}, []),
        ({"logs": (LOG,), "largest": 10, "start": 5, "end": 21}, [(LOG, 5, 10), (LOG, 20, 21)]),
        # The size is that of the whole gap, also where only a part of it is chosen.
        ({"start": 199, "smallest": 100}, [(OTHER_LOG, 199, 200)]),
    ],
)
def test_gap_preview_when_some_are_chosen(choice, chosen):
    """The value is what all controls together let through, and observers learn of it."""
    preview = GapPreview(GAPS)
    seen = []
    preview.observe(lambda change: seen.append(change["new"]), "value")
    for control, value in choice.items():
        getattr(preview, control).value = value

    assert preview.value.to_pylist() == make_gaps(*chosen).to_pylist()
    assert preview.value.schema == GAP_SCHEMA
    assert seen[-1] == preview.value
    assert f">{len(chosen)}<" in preview._repr_mimebundle_()["text/html"]


def test_gap_preview_when_there_is_no_gap():
    """Nothing to choose is shown as nothing, without an error."""
    preview = GapPreview(GAP_SCHEMA.empty_table())

    assert preview.value == GAP_SCHEMA.empty_table()
    assert preview.report.facts()["entries_missing"] == 0


def test_gap_preview_when_there_are_very_many():
    """Of a million gaps the browser gets a screenful."""
    starts = np.arange(1_000_000) * 2
    gaps = pa.table([pa.array([LOG]).take(pa.array(starts * 0)), starts, starts + 1], schema=GAP_SCHEMA)
    preview = GapPreview(gaps)
    preview.end.value = 1001

    assert preview.value.num_rows == 501
    sent = [str(widget.get_state()) for widget in [preview, *preview.children]]
    assert sum(map(len, sent)) < 20_000


def test_gap_preview_when_a_keyword_is_unknown():
    """A misspelt keyword is an error, not an unused trait."""
    with pytest.raises(TypeError):
        GapPreview(GAPS, lgos=())


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
