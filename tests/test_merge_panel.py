"""The merge panel: what it shows, what a confirmation does, and what an undo takes back; no front end is needed."""

import pandas as pd
import pyarrow as pa
import pytest
from rows import indices_of, make_rows, make_table

from ctkit.desk.merge_panel import MergePreviewPanel, UndoneMerge
from ctkit.desk.parameters import Parameters
from ctkit.desk.verbs import preview_staged
from ctkit.lake.merge import preview_merge
from ctkit.lake.table import find_table, hold, open_table
from ctkit.lake.write import write_entries
from ctkit.schema import row_schema


def tell(panel, what):
    """Send what a confirmation in the front end sends."""
    panel._received({"do": what, "versions": panel.shown["versions"]})


def main_of(panel):
    """Open the main table of a panel."""
    return open_table(panel.preview.main)


@pytest.fixture
def tables(tmp_path):
    """Make a staging table of five rows, of which main has one."""
    return make_table(tmp_path / "staging", make_rows(range(5))), make_table(tmp_path / "main", make_rows([4, 5]))


def test_merge(tables):
    """One confirmation merges what was shown, shows the report, and cannot be repeated."""
    panel = MergePreviewPanel(*tables)
    shown = {name: panel.shown[name] for name in ("rows", "inserted", "adopted", "skipped", "conflicts", "asks")}
    assert shown == {"rows": 5, "inserted": 4, "adopted": 0, "skipped": 1, "conflicts": 0, "asks": []}
    assert (panel.value, panel.outcome, panel.state, panel.ready) == (None, None, "ready", True)

    tell(panel, "merge")

    assert (panel.value.inserted, panel.value.skipped, panel.value.staging_removed) == (4, 1, True)
    assert indices_of(main_of(panel)) == [0, 1, 2, 3, 4, 5]
    assert panel.report is panel.value
    assert dict(panel.outcome["facts"])["total inserted"] == "4"
    assert (panel.state, panel.ready) == ("ready", False)

    before = panel.value
    tell(panel, "merge")
    assert panel.value is before


def test_files_that_become_mains(tmp_path):
    """Rows of files that stay as they are are told from those that are written again."""
    main = make_table(tmp_path / "main", make_rows([4]))
    panel = MergePreviewPanel(make_table(tmp_path / "staging", make_rows(range(3)), make_rows([3, 4, 5])), main)

    assert (panel.shown["inserted"], panel.shown["adopted"], panel.shown["skipped"]) == (5, 3, 1)


def test_while_a_merge_runs(tables):
    """The state says so, and nothing else can be begun."""
    panel = MergePreviewPanel(*tables)
    seen = []
    panel.observe(lambda _: seen.append((panel.state, panel.ready, tell(panel, "merge"))), "state")
    tell(panel, "merge")

    assert seen[0] == ("running", False, None)
    assert panel.value.inserted == 4


def test_looking_changes_nothing(tables):
    """What was looked at is what the record has."""
    panel = MergePreviewPanel(preview_merge(*tables))

    assert panel.report is panel.preview
    assert repr(panel) == str(panel.preview)
    assert [table.count() for table in map(open_table, (panel.preview.staging, panel.preview.main))] == [5, 2]


def test_when_it_shows_something_else_by_then(tables):
    """A confirmation that arrives after another preview merges nothing; the next one merges what is shown."""
    panel = MergePreviewPanel(*tables)
    confirmed = {"do": "merge", "versions": panel.shown["versions"]}
    write_entries(open_table(panel.preview.staging), make_rows([8, 9]))
    tell(panel, "refresh")
    panel._received(confirmed)

    assert (panel.value, panel.state, panel.shown["rows"]) == (None, "stale", 7)
    assert panel.note
    tell(panel, "merge")
    assert panel.value.inserted == 6
    panel._received(confirmed)
    assert (panel.value.inserted, panel.state) == (6, "ready")


@pytest.mark.parametrize("moved", [0, 1], ids=["staging", "main"])
def test_when_a_table_moved(tables, moved):
    """Nothing is merged, the reason and a fresh preview are shown, and another confirmation merges that."""
    panel = MergePreviewPanel(*tables)
    write_entries(open_table((panel.preview.staging, panel.preview.main)[moved]), make_rows([3, 9]))
    tell(panel, "merge")

    assert (panel.value, panel.state) == (None, "stale")
    assert "a table had changed" in panel.note
    assert panel.shown["rows"] == panel.preview.staging_rows == (5 if moved else 7)
    assert panel.ready

    tell(panel, "merge")
    assert panel.value.inserted == panel.preview.inserted
    assert panel.note == ""
    assert indices_of(main_of(panel)) == [0, 1, 2, 3, 4, 5, 9]


@pytest.mark.parametrize("moved", [0, 1], ids=["staging", "main"])
def test_when_somebody_turns_to_it(tables, moved):
    """The front end asks then whether a table has changed; one look more shows what a merge would do now."""
    panel = MergePreviewPanel(*tables)
    panel._received({"do": "check"})
    assert panel.state == "ready"
    write_entries(open_table((panel.preview.staging, panel.preview.main)[moved]), make_rows([9]))
    panel._received({"do": "check"})
    assert (panel.state, bool(panel.note)) == ("stale", True)

    panel._received({"do": "refresh"})
    assert (panel.state, panel.note) == ("ready", "")
    tell(panel, "merge")
    panel._received({"do": "check"})
    assert panel.state == "ready"


def test_when_staging_has_gone(tables):
    """After a merge by someone else there is nothing to merge."""
    first, second = MergePreviewPanel(*tables), MergePreviewPanel(*tables)
    tell(first, "merge")
    tell(second, "merge")

    assert (second.value, second.state) == (None, "stale")
    assert second.note
    assert (second.preview.staging_rows, second.ready) == (0, False)


def test_when_another_run_holds_the_table(tables):
    """An error is shown; once its cause is gone, the same confirmation merges."""
    panel = MergePreviewPanel(*tables)
    with hold(tables[1]):
        tell(panel, "merge")
    assert "another run" in panel.note
    assert (panel.value, panel.state, panel.ready) == (None, "failed", True)

    tell(panel, "merge")
    assert panel.value.inserted == 4


def test_when_the_merge_breaks(tables, monkeypatch, caplog):
    """An unexpected error is shown, with its type, and logged."""
    panel = MergePreviewPanel(*tables)
    monkeypatch.setattr("ctkit.desk.merge_panel.merge_staged", lambda *_, **__: [][1])
    tell(panel, "merge")

    assert "IndexError: list index out of range" in panel.note
    assert caplog.messages == [f"merge failed staging={panel.preview.staging} main={panel.preview.main}"]
    assert panel.ready


def test_when_nothing_is_staged(tmp_path):
    """Without a staging table there is nothing to confirm, and nothing is created."""
    parameters = Parameters(main_path=str(tmp_path / "main"), staging_path=str(tmp_path / "staging"))
    panel = MergePreviewPanel(preview_staged(parameters))

    assert (panel.state, panel.ready) == ("empty", False)
    assert "run a backfill" in panel.note
    tell(panel, "merge")
    tell(panel, "undo")
    assert panel.value is None
    assert list(tmp_path.iterdir()) == []


def test_when_main_is_missing(tmp_path):
    """AC4.2: main is created by the merge, not by looking, and only if the box is ticked."""
    make_table(tmp_path / "staging", make_rows(range(3)))
    parameters = Parameters(main_path=str(tmp_path / "new" / "main"), staging_path=str(tmp_path / "staging"))
    panel = MergePreviewPanel(preview_staged(parameters))
    assert (panel.shown["asks"], panel.shown["adopted"], panel.ready) == (["create_main"], 3, False)
    tell(panel, "merge")
    assert not (tmp_path / "new").exists()

    panel.create_main = True
    tell(panel, "merge")
    assert panel.value.inserted == 3
    assert indices_of(open_table(tmp_path / "new" / "main")) == [0, 1, 2]


def test_when_the_tables_may_be_swapped(tables, tmp_path):
    """What makes staging look like a main table is shown, and the box must be ticked."""
    MergePreviewPanel(*tables).merge()
    panel = MergePreviewPanel(open_table(tmp_path / "main"), make_table(tmp_path / "other"))
    assert panel.shown["asks"] == ["confirmed"]
    assert panel.shown["doubts"]
    tell(panel, "merge")
    assert panel.value is None

    panel.confirmed = True
    tell(panel, "merge")
    assert panel.value.inserted == 6


def test_conflicts_are_listed(tmp_path):
    """Staged rows that contradict the row that stays, in main or in staging, are named."""
    others = make_rows([4, 7], day=2).to_pylist()
    others = [{**row, "sha256": "00", "subject_aggregated": "/CN=\u202eother"} for row in others]
    staging = make_table(tmp_path / "staging", make_rows([7]), pa.Table.from_pylist(others, row_schema()))
    panel = MergePreviewPanel(staging, make_table(tmp_path / "main", make_rows([4])))

    assert (panel.shown["conflicts"], panel.preview.conflicts) == (2, 2)
    assert [row[1] for row in panel.shown["conflicting"]["rows"]] == ["4", "7"]
    assert panel.shown["conflicting"]["rows"][0][2:] == ["/CN=\\u202eother", "00"]
    assert "contradict" in panel.report._repr_html_()


def test_undo(tables):
    """It takes out exactly what was merged, stages it again, and shows what would be merged now."""
    panel = MergePreviewPanel(*tables)
    seen = []
    panel.observe(lambda change: seen.append(change["new"] and change["new"].inserted), "value")
    tell(panel, "merge")
    assert "these 4 rows" in panel.outcome["undo"]
    assert "1 skipped rows do not come back" in panel.outcome["undo"]

    tell(panel, "undo")

    assert (panel.value, panel.state, panel.outcome["merged"]) == (None, "ready", False)
    assert indices_of(main_of(panel)) == [4, 5]
    assert indices_of(find_table(panel.preview.staging)) == [0, 1, 2, 3]
    assert isinstance(panel.report, UndoneMerge)
    assert panel.report.facts()["rows_staged_again"] == panel.report.facts()["would_insert"] == 4
    assert (panel.shown["rows"], panel.shown["skipped"]) == (4, 0)

    tell(panel, "merge")
    assert indices_of(main_of(panel)) == [0, 1, 2, 3, 4, 5]
    assert seen == [4, None, 4]


def test_when_an_observer_fails(tables):
    """The merge was made all the same, and both are told."""
    panel = MergePreviewPanel(*tables)
    panel.observe(lambda _: [][1], "value")
    tell(panel, "merge")

    assert (panel.value.inserted, panel.state, panel.outcome["merged"]) == (4, "ready", True)
    assert "IndexError" in panel.note


def test_undo_when_main_has_moved(tables, tmp_path):
    """A later commit stays: nothing is undone, not even another merge."""
    panel = MergePreviewPanel(*tables)
    tell(panel, "merge")
    other = MergePreviewPanel(make_table(tmp_path / "other", make_rows([20])), main_of(panel))
    tell(other, "merge")
    tell(panel, "undo")

    assert panel.value.inserted == 4
    assert panel.state == "failed"
    assert "version 3" in panel.note
    assert indices_of(main_of(panel)) == [0, 1, 2, 3, 4, 5, 20]

    tell(other, "undo")
    tell(panel, "undo")
    assert indices_of(main_of(panel)) == [0, 1, 2, 3, 4, 5]


def test_undo_where_nothing_was_merged(tmp_path):
    """If main had all rows, there is nothing to take back."""
    panel = MergePreviewPanel(
        make_table(tmp_path / "staging", make_rows([1])), make_table(tmp_path / "main", make_rows([1]))
    )
    tell(panel, "merge")
    assert (panel.value.inserted, panel.outcome["undo"]) == (0, "")
    tell(panel, "undo")
    assert panel.value is not None


def test_refresh(tables):
    """What was staged since is previewed; a merge that was made stays."""
    panel = MergePreviewPanel(*tables)
    write_entries(open_table(panel.preview.staging), make_rows([9]))
    tell(panel, "refresh")
    assert panel.shown["rows"] == 6

    tell(panel, "merge")
    tell(panel, "refresh")
    assert panel.value.inserted == 5
    tell(panel, "undo")
    tell(panel, "refresh")
    assert (panel.outcome, panel.report) == (None, panel.preview)


def test_record_is_rewritten(tables, monkeypatch):
    """Whatever was done is in the record, an error too."""
    panel = MergePreviewPanel(*tables)
    written = []
    monkeypatch.setattr(panel, "record", lambda: written.append((panel.report.title, bool(panel.note))))
    with hold(tables[1]):
        tell(panel, "merge")
    for what in ("merge", "undo", "refresh"):
        tell(panel, what)

    # Of what was begun, before it is done, too.
    assert written == [
        ("merge preview", True),
        ("merge preview", True),
        ("merge preview", True),
        ("merge complete", False),
        ("merge complete", True),
        ("merge undone", False),
        ("merge preview", False),
    ]


@pytest.mark.parametrize("arguments", [("staging", "main"), ()])
def test_when_it_is_given_something_else(arguments):
    """What is neither a preview nor two tables is refused."""
    with pytest.raises(TypeError):
        MergePreviewPanel(*arguments)


def test_when_a_keyword_is_unknown(tables):
    """A misspelt keyword is an error."""
    with pytest.raises(TypeError):
        MergePreviewPanel(*tables, expcted=None)


@pytest.mark.parametrize("hostile", [r"$\href{javascript:x}{y}$", "<script>", "a\u202eb", "\x1b[2J", "a" * 65_536, ""])
def test_hostile_text(tables, hostile):
    """Names in the summary are short text in which nothing is hidden."""
    preview = preview_merge(*tables)
    preview.summary["source_name"] = hostile
    panel = MergePreviewPanel(preview)

    assert not set("\x1b\u202e") & set(str(panel.shown) + panel.report._repr_html_())
    assert "<script>" not in panel.report._repr_html_()
    assert max(len(cell) for row in panel.shown["logs"]["rows"] for cell in row) < 2000
    assert isinstance(panel.preview.summary, pd.DataFrame)
