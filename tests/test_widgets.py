"""What a notebook shows of a backfill; no front end is needed."""

from ctkit.desk.widgets import ProgressBar
from ctkit.jobs.backfill_report import Progress


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
