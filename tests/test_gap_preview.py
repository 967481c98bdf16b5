"""The preview of gaps: what is chosen, what the front end is told, and what it may ask for."""

from contextlib import closing

import numpy as np
import pyarrow as pa
import pytest
import yaml
from rows import LOG, OTHER_LOG, make_rows
from runbooks import MISSING, parameters_of

import ctkit
from ctkit.desk.gap_preview import GapPreview
from ctkit.desk.gap_report import report_gaps
from ctkit.desk.lanes import Lanes
from ctkit.errors import ParameterError
from ctkit.lake.table import open_table
from ctkit.lake.write import write_entries
from ctkit.schema import GAP_SCHEMA


def make_gaps(*gaps):
    """Return the given ``(source_url, start, end)`` as a table of gaps."""
    return pa.Table.from_pylist([dict(zip(GAP_SCHEMA.names, gap, strict=True)) for gap in gaps], schema=GAP_SCHEMA)


GAPS = make_gaps((LOG, 0, 10), (LOG, 20, 21), (OTHER_LOG, 5, 8), (OTHER_LOG, 100, 200))


def urls(preview):
    """Return the URLs of the lanes from top to bottom."""
    return [lane["url"] for lane in preview.lanes]


def ask(preview, what, url=None, **more):
    """Do what the front end asks for, of a lane."""
    preview._received({"do": what, **({} if url is None else {"url": url}), **more})


def test_when_untouched():
    """Everything is chosen, the log that misses most comes first, and all numbers are shown."""
    preview = GapPreview(GAPS)

    assert preview.value == GAPS
    assert (preview.spec, preview.state) == ("all", "ready")
    assert urls(preview) == [OTHER_LOG, LOG]
    assert preview.verdict.endswith("114 to fetch")
    assert [lane["chosen"] for lane in preview.lanes] == [True, True]
    assert preview.report.facts() == {
        "choice": "all",
        "gaps_chosen": 4,
        "gaps_found": 4,
        "entries_chosen": 114,
        "entries_missing": 114,
    }


@pytest.mark.parametrize(
    ("asked", "spec"),
    [
        ([("toggle", LOG, {})], OTHER_LOG),
        ([("toggle", LOG, {}), ("toggle", OTHER_LOG, {})], "none"),
        ([("toggle", LOG, {}), ("toggle", LOG, {})], "all"),
        # Where everything was chosen, a range is chosen instead; then others join it.
        ([("range", LOG, {"start": 3, "end": 7})], f"{LOG}: 3-7"),
        ([("range", LOG, {"start": 3, "end": 7}), ("toggle", OTHER_LOG, {})], f"{LOG}: 3-7; {OTHER_LOG}"),
        (
            [("range", LOG, {"start": 3, "end": 7}), ("range", LOG, {"start": 9, "end": 99, "add": True})],
            f"{LOG}: 3-7, 9-21",
        ),
        ([("range", LOG, {"start": 3, "end": 7}), ("range", LOG, {"start": 1, "end": 2})], f"{LOG}: 1-2"),
        ([("range", LOG, {"start": 3, "end": 7}), ("range", LOG, {"start": None})], LOG),
        # Without ranges there is nothing to reset.
        ([("range", LOG, {"start": None})], "all"),
        ([("range", LOG, {"start": 3, "end": 3})], "all"),
        ([("toggle", LOG, {}), ("range", LOG, {"start": None})], OTHER_LOG),
        ([("range", OTHER_LOG, {"start": 5, "end": 7}), ("range", LOG, {"start": None})], f"{OTHER_LOG}: 5-7"),
        ([("size", None, {"smallest": "4"})], "size>=4"),
        ([("size", None, {"smallest": 4}), ("toggle", LOG, {})], f"{OTHER_LOG}; size>=4"),
        ([("choose", None, {"spec": f"{LOG}: -5"})], f"{LOG}: 0-5"),
        ([("choose", None, {"spec": f"{LOG}: -5"}), ("choose", None, {"spec": "all"})], "all"),
    ],
)
def test_when_something_is_chosen(asked, spec):
    """What the front end asks for becomes the choice; value, numbers and lanes follow."""
    preview = GapPreview(GAPS)
    for what, url, more in asked:
        ask(preview, what, url, **more)

    assert preview.spec == spec
    assert preview.value.to_pylist() == ctkit.GapChoice.parse(spec).apply(GAPS, {}).to_pylist()
    size = sum(gap["end"] - gap["start"] for gap in preview.value.to_pylist())
    assert (preview.report.facts()["entries_chosen"], preview.note) == (size, "")
    assert sum(int(lane["entries"].replace(",", "")) for lane in preview.lanes) == size


def test_when_no_gap_has_the_size():
    """It is no choice, whichever way it is made, and cannot be saved."""
    preview = GapPreview(GAPS)
    ask(preview, "choose", spec="size<=5")
    ask(preview, "size", smallest=10)

    assert preview.spec == "size<=5"
    assert preview.note


@pytest.mark.parametrize("spec", ["birch", "argon: 5-3", "ct.example: 1-2"])
def test_when_what_is_typed_is_wrong(spec):
    """The front end is told what is wrong, and what was chosen before still is."""
    preview = GapPreview(GAPS)
    ask(preview, "choose", spec=f"{LOG}: 0-5")
    ask(preview, "choose", spec=spec)

    assert (preview.spec, preview.state) == (f"{LOG}: 0-5", "ready")
    assert preview.note
    with pytest.raises(ParameterError):
        preview.spec = spec
    assert preview.spec == f"{LOG}: 0-5"


def test_when_the_choice_is_set():
    """A choice that is set in Python is shown like one that was made by hand."""
    preview = GapPreview(GAPS)
    preview.spec = f"{LOG}: 0 - 5"

    assert preview.spec == f"{LOG}: 0-5"
    assert preview.value.to_pylist() == make_gaps((LOG, 0, 5)).to_pylist()
    assert [lane["ranges"] for lane in preview.lanes] == [[], [[0, 5]]]


def test_when_a_lane_is_zoomed(monkeypatch):
    """The bins of the part are sent, and nothing else; what is chosen stays, and so does the zoom when that changes."""
    preview = GapPreview(GAPS)
    sent, before = [], preview.lanes
    monkeypatch.setattr(preview, "send", lambda content, buffers: sent.append((content["lane"], buffers)))
    ask(preview, "zoom", LOG, start=8, end=99)
    ((lane, (bins,)),) = sent

    assert (lane["url"], lane["from"], lane["to"], len(bins)) == (LOG, 8, 21, 13 * 3)
    assert preview.lanes is before
    ask(preview, "toggle", OTHER_LOG)
    assert [(lane["from"], lane["to"]) for lane in preview.lanes] == [(5, 200), (8, 21)]
    ask(preview, "zoom", LOG, start=9, end=9)
    assert (sent[1][0]["from"], sent[1][0]["to"], preview.spec) == (0, 21, LOG)


def test_when_there_is_no_gap():
    """Nothing to choose is shown as nothing, without an error."""
    preview = GapPreview(GAP_SCHEMA.empty_table())

    assert (preview.value, preview.state) == (GAP_SCHEMA.empty_table(), "empty")
    assert "no log to show" in preview.report._repr_html_()


def test_when_there_are_very_many():
    """Of a million gaps the browser gets a few bins."""
    starts = np.arange(1_000_000) * 2
    gaps = pa.table([pa.array([LOG]).take(pa.array(starts * 0)), starts, starts + 1], schema=GAP_SCHEMA)
    preview = GapPreview(gaps)
    ask(preview, "range", LOG, start=0, end=1001)

    assert preview.value.num_rows == 501
    assert sum(len(lane["levels"]) for lane in preview.lanes) == 3000
    assert len(preview.report._repr_html_()) < 20_000


def test_when_there_are_many_logs():
    """The record counts the logs that do not stand open, and has them."""
    urls = [f"https://log{number}.example" for number in range(60)]
    html = GapPreview(make_gaps(*((url, 0, 9) for url in urls))).report._repr_html_()

    assert "48 more logs" in html
    assert html.count("<img") == 60
    assert len(html) < 200_000


@pytest.mark.parametrize("message", [{"do": "dance"}, {}, {"do": "toggle", "url": "x"}, {"do": "zoom", "url": LOG}])
def test_when_the_front_end_says_nonsense(message):
    """It is told so; nothing else happens."""
    preview = GapPreview(GAPS)
    preview._received(message)

    assert preview.note
    assert preview.value == GAPS


def test_when_a_keyword_is_unknown():
    """A misspelt keyword is an error, not an unused trait."""
    with pytest.raises(TypeError):
        GapPreview(GAPS, lgos=())


def test_when_gaps_alone_are_to_be_saved():
    """They have no parameters."""
    with pytest.raises(ParameterError):
        GapPreview(GAPS).save()


def test_from_a_preview_to_a_backfill(world):
    """What was chosen is saved, and exactly that is fetched; the report says the same numbers as the preview."""
    static = list(world.logs)[1]
    with closing(report_gaps(parameters_of(world))) as gap_report:
        preview = GapPreview(gap_report)
        ask(preview, "range", static, start=120, end=160)
        # Typed, and not chosen before it is saved.
        ask(preview, "save", path="choice.yaml", spec="Small static-ct: 120-170")
    assert preview.spec == "Small static-ct: 120-170"
    assert preview.note.endswith("ctkit backfill -f choice.yaml")
    assert yaml.safe_load((world.folder / "choice.yaml").read_text())["choice"] == preview.spec

    with closing(report_gaps(ctkit.read_parameters("choice.yaml"))) as gap_report:
        assert gap_report.facts()["chosen"] == 50
        assert ctkit.plan_gaps(gap_report).wanted == 50
        assert GapPreview(gap_report).spec == preview.spec
        report = ctkit.fill_gaps(gap_report)
    assert report.facts()["written"] == 50
    assert open_table("staging").count() == 50


def test_preview_and_plan_name_one_cost(world):
    """They know the page sizes of logs; one that shows none is named as one whose page size is assumed."""
    first, _ = world.logs
    world.logs[first].page_size = 32
    with closing(report_gaps(parameters_of(world))) as gap_report:
        report = GapPreview(gap_report).report
        assert report.plan.facts() == ctkit.plan_gaps(gap_report).facts()
    assert report.plan.requests == 6
    assert "page size" not in report.verdict

    world.logs[first].always = 404
    with closing(report_gaps(parameters_of(world))) as gap_report:
        assert "page size assumed" in GapPreview(gap_report).verdict


def test_a_choice_that_fits_no_log_is_refused(world):
    """Before any log is asked or anything is written."""
    requests = [len(log.requests) for log in world.logs.values()]
    with pytest.raises(ParameterError):
        report_gaps(parameters_of(world, choice="birch"))

    assert [len(log.requests) for log in world.logs.values()] == requests
    assert not (world.folder / "staging").exists()


def test_an_update_takes_no_choice(world):
    """It keeps everything complete; nothing is fetched."""
    with pytest.raises(ParameterError) as raised:
        ctkit.update(parameters_of(world, choice="static"))

    assert raised.value.keys == ("choice",)
    assert not (world.folder / "staging").exists()


def test_lanes_along_time(world):
    """The days of rows date the entries of each lane, also when it is zoomed and after another look."""
    first, second = world.logs
    with closing(report_gaps(parameters_of(world))) as gap_report:
        preview = GapPreview(gap_report)
        assert [lane["times"] for lane in preview.lanes] == [None, None]
        ask(preview, "axis", axis="time")
        times = {lane["url"]: lane["times"] for lane in preview.lanes}
        assert {url: (of_lane[0][0], of_lane[-1][0]) for url, of_lane in times.items()} == {
            first: (0, 600),
            second: (0, 600),
        }
        ask(preview, "choose", spec="static: 100-200")
        assert {lane["url"]: lane["times"] for lane in preview.lanes} == times

        ctkit.fill_gaps(gap_report)
        ask(preview, "refresh")
        assert {lane["url"]: lane["times"] for lane in preview.lanes} != times
        for file in open_table("main").file_uris():
            with open(file, "wb"):
                pass
        ask(preview, "axis", axis="index")
        ask(preview, "axis", axis="time")
        assert (preview.axis, preview.lanes[0]["times"]) == ("index", None)
        assert preview.note
        ask(preview, "axis", axis="moon")
        assert preview.axis == "index"
        preview.gap_report.close()


def test_gaps_alone_have_no_dates():
    """There is no table whose rows could tell."""
    preview = GapPreview(GAPS)
    preview.axis = "time"

    assert preview.settings["dated"] is False
    assert [lane["times"] for lane in preview.lanes] == [None, None]


def refuse(*_):
    """Refuse a choice."""
    raise ParameterError("no log is like that")


def test_when_a_table_moves(world, monkeypatch):
    """The preview is stale until it looks again; the choice is kept, and staged entries are no longer missing."""
    first = next(iter(world.logs))
    with closing(report_gaps(parameters_of(world))) as gap_report:
        preview = GapPreview(gap_report)
        ask(preview, "check")
        assert preview.state == "ready"
        ask(preview, "range", first, start=0, end=300)
        write_entries(open_table("staging"), make_rows(range(30), url=first))
        records = []
        monkeypatch.setattr(preview, "record", lambda: records.append(preview.note))

        ask(preview, "check")
        assert preview.state == "stale"
        assert records == [preview.note]
        ask(preview, "choose", spec="all")
        assert preview.state == "stale"
        ask(preview, "range", first, start=0, end=300)
        state = (world.folder / "state.json").read_bytes()
        (world.folder / "state.json").unlink()
        ask(preview, "refresh")
        assert (preview.state, "state.json" in preview.note) == ("stale", True)
        (world.folder / "state.json").write_bytes(state)
        # The choice may fit what there is now no more; then everything is as it was.
        before, lanes = preview.gap_report, urls(preview)
        monkeypatch.setattr(Lanes, "choose", refuse)
        ask(preview, "refresh")
        assert (preview.state, preview.gap_report is before, urls(preview)) == ("stale", True, lanes)
        monkeypatch.undo()
        ask(preview, "refresh")
        preview.gap_report.close()

    assert preview.state == "ready"
    assert (preview.spec, preview.report.facts()["entries_chosen"]) == ("Small rfc6962: 0-300", 10)
    assert "30 staged" in preview.verdict
    assert preview.report.facts()["entries_missing"] == MISSING - 30
