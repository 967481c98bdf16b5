"""Every widget in every state that it can be in, to be shown by a kernel that works in the folder of a small world."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from rows import LOG, OTHER_LOG, make_rows, make_table

from ctkit.desk.gap_preview import GapPreview
from ctkit.desk.gap_report import report_gaps
from ctkit.desk.merge_panel import MergePreviewPanel
from ctkit.desk.parameters import read_parameters
from ctkit.desk.progress import ProgressBar
from ctkit.desk.staging_preview import StagingPreview
from ctkit.desk.widget import LiveWidget
from ctkit.jobs.progress import LogProgress, Progress
from ctkit.lake.table import open_table
from ctkit.lake.write import write_entries

STATES: dict[str, Callable[[], LiveWidget]] = {}


def state(make: Callable[[], LiveWidget]) -> Callable[[], LiveWidget]:
    """Add a state, by the name of the function that makes it."""
    STATES[make.__name__] = make
    return make


def preview_of(**others: object) -> GapPreview:
    """Return a preview of the world's gaps."""
    return GapPreview(report_gaps(read_parameters("demo.yaml", **others)))


@state
def gaps_ready() -> GapPreview:
    """Choose a part of one log; rows are staged, or above the ceiling, and one log has none."""
    first, second = (log.model_dump(by_alias=True) for log in read_parameters("demo.yaml").logs or ())
    silent = {"name": "Silent", "url": "https://silent.example/2026h2", "protocol": "rfc6962"}
    make_table(Path("some"), make_rows(range(120, 200), url=second["url"]), make_rows(range(20), url=first["url"]))
    make_table(Path("some"), make_rows(range(600, 640), url=second["url"]))
    preview = preview_of(staging_path="some", logs=[first, second, silent])
    preview.spec = "static: 200-260"
    return preview


@state
def gaps_in_time() -> GapPreview:
    """Lay the lanes along time."""
    preview = preview_of()
    preview.axis = "time"
    return preview


@state
def gaps_empty() -> GapPreview:
    """Show that nothing is missing."""
    return preview_of(from_index=360, to_index=580)


@state
def gaps_loading() -> GapPreview:
    """Wait for the tables."""
    preview = preview_of()
    preview.state = "loading"
    return preview


@state
def gaps_stale() -> GapPreview:
    """Show that staging has changed since."""
    preview = preview_of(staging_path="moved")
    make_table(Path("moved"), make_rows([1]))
    preview.check()
    return preview


@state
def gaps_failed() -> GapPreview:
    """Fail as nobody has foreseen."""
    preview = preview_of()
    preview.fail(OSError(28, "No space left on device"))
    return preview


def staging_of(name: str) -> Path:
    """Make a staging table that has something of everything."""
    names = ["/C=US/CN=E1/O=Let's Encrypt"] * 20 + ["/C=GB/O=Sectigo Limited"] * 9 + [""] + ["/CN=" + "long " * 90] * 2
    rows = make_rows(range(32))
    at = rows.schema.get_field_index("issuer_aggregated")
    rows = rows.set_column(at, rows.schema.field(at), pa.array(names))
    make_table(Path(name), rows, make_rows(range(60), url=OTHER_LOG, name="Other 2026h2", day=2))
    return Path(name)


@state
def staging_ready() -> StagingPreview:
    """Show rows of two logs."""
    return StagingPreview(staging_of("ready"))


@state
def staging_opened() -> StagingPreview:
    """Open a certificate, of rows that were searched for."""
    preview = StagingPreview(Path("main"))
    preview.search("a")
    preview.open_certificate(1)
    return preview


@state
def staging_without_matches() -> StagingPreview:
    """Search for what is not there."""
    preview = StagingPreview(staging_of("searched"))
    preview.search("no such domain")
    return preview


@state
def staging_empty() -> StagingPreview:
    """Show that nothing is staged."""
    return StagingPreview(Path("nothing"))


@state
def staging_running() -> StagingPreview:
    """Search."""
    preview = StagingPreview(staging_of("searching"))
    assert preview.report
    preview.state = "running"
    return preview


@state
def staging_stale() -> StagingPreview:
    """Show what has changed since."""
    preview = StagingPreview(staging_of("grown"))
    assert preview.report
    write_entries(open_table("grown"), make_rows([99]))
    preview.turn(20)
    preview.on_message({"do": "close"})
    return preview


@state
def staging_failed() -> StagingPreview:
    """Show rows that cannot be counted."""
    preview = StagingPreview(staging_of("damaged"))
    for file in open_table("damaged").file_uris():
        Path(file).write_bytes(b"")
    return preview


def panel_of(name: str) -> MergePreviewPanel:
    """Return the panel of a staging table, some of whose rows main has."""
    main = make_table(Path(f"{name}-main"), make_rows([1, 2, 3, 70]))
    return MergePreviewPanel(make_table(Path(f"{name}-staging"), make_rows(range(9)), make_rows(range(20, 60))), main)


@state
def merge_ready() -> MergePreviewPanel:
    """Show a merge that would insert, write again and skip rows."""
    return panel_of("merge")


@state
def merge_doubted() -> MergePreviewPanel:
    """Show a row that contradicts the one that stays, and tables that look as if they were swapped."""
    staging = make_table(Path("doubted"), make_rows(range(3000)))
    changed = make_rows([3])
    at = changed.schema.get_field_index("sha256")
    write_entries(staging, changed.set_column(at, changed.schema.field(at), pa.array(["AB" * 32])))
    return MergePreviewPanel(staging, make_table(Path("small"), make_rows([3])))


@state
def merge_empty() -> MergePreviewPanel:
    """Show that nothing is staged."""
    return MergePreviewPanel(make_table(Path("none")), make_table(Path("none-main"), make_rows([1])))


@state
def merge_running() -> MergePreviewPanel:
    """Merge."""
    panel = panel_of("running")
    panel.note, panel.state = "a merge was begun; if its end is not shown, see ctkit status", "running"
    return panel


@state
def merge_stale() -> MergePreviewPanel:
    """Merge what has changed since."""
    panel = panel_of("stale")
    write_entries(open_table("stale-staging"), make_rows([80]))
    panel.merge()
    return panel


@state
def merge_failed() -> MergePreviewPanel:
    """Merge into a table that is gone."""
    panel = panel_of("failed")
    shutil.rmtree("failed-main")
    Path("failed-main").write_text("")
    panel.merge()
    return panel


@state
def merge_done() -> MergePreviewPanel:
    """Show a merge that can be taken back."""
    panel = panel_of("done")
    panel.merge()
    return panel


@state
def merge_undone() -> MergePreviewPanel:
    """Show a merge that was taken back."""
    panel = panel_of("undone")
    panel.merge()
    panel.undo()
    return panel


def bar_of(*logs: LogProgress, ended: bool = False) -> ProgressBar:
    """Return the bar of a run."""
    bar = ProgressBar()
    bar.report = Progress(logs, 3, 12.0, ended)
    return bar


DONE = LogProgress(LOG, "Done 2026h2", 4000, 4000, 4000, "done")
FAILED = LogProgress(LOG, "Failed 2026h2", 4000, 700, 700, "failed", "503 Service Unavailable, after 5 tries")
LEFT = LogProgress(LOG, "Left 2026h2", 4000, 2000, 2000, "left")


@state
def progress_loading() -> ProgressBar:
    """Show a run that has not begun."""
    return ProgressBar()


@state
def progress_running() -> ProgressBar:
    """Show logs that are at work, wait, and have their turn before them."""
    return bar_of(
        LogProgress(LOG, "Example 2026h2", 120_000, 61_440, 40_960, "fetching", "", 5120.0, 11.4),
        LogProgress(LOG, "Waiting 2026h2", 9000, 2048, 2048, "waiting", "waiting 41 s for 429"),
        LogProgress(LOG, "Queued 2026h2", 700, 0, 0, "queued"),
        DONE,
    )


@state
def progress_stopped() -> ProgressBar:
    """Show a run that was stopped."""
    return bar_of(LEFT, DONE, ended=True)


@state
def progress_failed() -> ProgressBar:
    """Show a run in which a log has failed."""
    return bar_of(FAILED, LEFT, DONE, ended=True)


@state
def progress_ready() -> ProgressBar:
    """Show a run that has fetched all."""
    return bar_of(DONE, DONE, ended=True)
