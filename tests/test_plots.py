"""Pictures of gaps: what is drawn where, and what it says."""

import numpy as np
import pyarrow as pa
import pytest
from matplotlib import pyplot
from rows import LOG, OTHER_LOG, make_rows, make_table

from ctkit.desk.gap_report import report_gaps
from ctkit.desk.parameters import Parameters
from ctkit.desk.plots import MOST_LOGS, plot_gaps
from ctkit.desk.state_file import write_state
from ctkit.schema import GAP_SCHEMA


def make_gaps(*gaps):
    """Return the given ``(source_url, start, end)`` as a table of gaps."""
    return pa.Table.from_pylist([dict(zip(GAP_SCHEMA.names, gap, strict=True)) for gap in gaps], schema=GAP_SCHEMA)


def texts(picture):
    """Return what the picture says, without its key."""
    found = [text.get_text() for text in picture.axes[0].texts]
    key = found.index("present")
    return [tuple(found[at : at + 4]) for at in range(0, key, 4)], found[key + 3 :]


def bars(picture):
    """Return for each bar which pixels are not drawn as present."""
    present = picture.axes[0].collections[0].get_facecolor()[0][:3]
    return [np.abs(image.get_array()[0] - present).max(axis=1) > 0.01 for image in picture.axes[0].images]


def test_plot_gaps_when_a_stretch_is_given():
    """Each log has a bar from start to end, complete ones too, with its name, its numbers and its missing stretches."""
    gaps = make_gaps((LOG, 0, 250), (LOG, 999, 1000), (OTHER_LOG, 60, 61))
    picture = plot_gaps(gaps, {f"{LOG}/": (0, 1000), OTHER_LOG: (50, 70), "https://c.example": (3, 9)})

    assert texts(picture) == (
        [
            ("ct.example.com/2026h2", "[0, 1,000)", "2 gaps", "251 missing (25.1 %)"),
            ("ct.example.org/2026h2", "[50, 70)", "1 gap", "1 missing (5.0 %)"),
            ("c.example", "[3, 9)", "no gap", "complete"),
        ],
        [],
    )
    first, second, third = bars(picture)
    pixels = len(first)
    assert np.flatnonzero(first).tolist() == [*range(pixels // 4), pixels - 1]
    assert np.flatnonzero(second).tolist() == list(range(pixels // 2, pixels // 2 + pixels // 20))
    assert not third.any()


def test_plot_gaps_when_the_stretch_is_not_given():
    """The bar runs from the first gap to the last; of a stretch without a start only the end counts."""
    gaps = make_gaps((LOG, 10, 20), (LOG, 30, 35), (OTHER_LOG, 7, 8))

    assert [row[1] for row in texts(plot_gaps(gaps))[0]] == ["[10, 35)", "[7, 8)"]
    within = {LOG: (None, 40), "https://c.example": (None, 9)}
    assert [row[1] for row in texts(plot_gaps(gaps, within))[0]] == ["[10, 40)", "[7, 8)"]


def test_plot_gaps_when_one_index_of_a_billion_is_missing():
    """A gap is seen, however small: one pixel of its bar is tinted."""
    picture = plot_gaps(make_gaps((LOG, 777_777_777, 777_777_778)), {LOG: (0, 10**9)})

    (bar,) = bars(picture)
    assert np.flatnonzero(bar).tolist() == [int(len(bar) * 0.777777777)]
    assert texts(picture)[0][0][3] == "1 missing (< 0.1 %)"


def test_plot_gaps_when_every_other_index_is_missing():
    """A million gaps of one row are a bar of one colour."""
    starts = np.arange(1_000_000) * 2
    gaps = pa.table([pa.array([LOG]).take(pa.array(starts * 0)), starts, starts + 1], schema=GAP_SCHEMA)
    picture = plot_gaps(gaps, {LOG: (0, 2_000_000)})

    (image,) = picture.axes[0].images
    assert np.ptp(image.get_array(), axis=1).max() < 0.01
    assert texts(picture)[0][0][2:] == ("1,000,000 gaps", "1,000,000 missing (50.0 %)")


def test_plot_gaps_when_there_are_many_logs():
    """The logs that miss most are shown, in the order given, and the others are counted."""
    urls = [f"https://log{number}.example" for number in range(MOST_LOGS + 5)]
    gaps = make_gaps(*((url, 0, 1 + number % 45) for number, url in enumerate(sorted(urls))))
    shown, notes = texts(plot_gaps(gaps, dict.fromkeys(urls, (0, 100))))

    left_out = {url.removeprefix("https://") for url in sorted(urls)[:5]}
    assert [row[0] for row in shown] == [url[8:] for url in urls if url[8:] not in left_out]
    assert notes == ["5 more logs, with fewer missing entries"]


def test_plot_gaps_when_names_are_long():
    """A long name is shortened in its middle, so that the shard at its end can be read."""
    ((name, *_),), _ = texts(plot_gaps(make_gaps((f"https://{'x' * 60}.example/2026h2", 0, 1))))

    assert len(name) <= 42
    assert name.startswith("xxxx")
    assert name.endswith(".example/2026h2")


def test_plot_gaps_when_there_is_nothing():
    """Without any log the picture says so."""
    assert plot_gaps(GAP_SCHEMA.empty_table()).axes[0].texts[0].get_text() == "no log to show"


def test_picture_as_png_leaves_pyplot_alone():
    """A notebook gets a PNG at twice its size on the page, and pyplot holds no figure."""
    picture = plot_gaps(make_gaps((LOG, 0, 1)))
    png, size = picture._repr_png_()

    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(png[16:20]), int.from_bytes(png[20:24])) == (2 * size["width"], 2 * size["height"])
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize(
    ("asked", "stretches"),
    [
        ({}, {LOG: (4, 20)}),
        ({"from_index": 2}, {LOG: (2, 20), OTHER_LOG: (2, 30)}),
        ({"internal_only": True}, {LOG: (4, 11)}),
        ({"from_index": 2, "internal_only": True}, {LOG: (2, 11)}),
        ({"to_index": 8}, {LOG: (4, 8)}),
    ],
)
def test_plot_gaps_of_a_report(tmp_path, asked, stretches):
    """Each bar is the stretch in which gaps were looked for: in catch-up from the log's first row on."""
    make_table(tmp_path / "main", make_rows([5, 6, 10]))
    make_table(tmp_path / "staging", make_rows([4]))
    write_state(tmp_path / "state.json", {LOG: 20, OTHER_LOG: 30})
    gap_report = report_gaps(
        Parameters(
            main_path=str(tmp_path / "main"),
            staging_path=str(tmp_path / "staging"),
            state_file=str(tmp_path / "state.json"),
            logs=[{"url": LOG, "name": "One", "protocol": "rfc6962"}, {"url": OTHER_LOG, "protocol": "static-ct"}],
            **{"internal_only": False, **asked},
        )
    )
    shown, _ = texts(plot_gaps(gap_report))
    gap_report.close()

    assert gap_report.stretches() == stretches
    names = {LOG: "One", OTHER_LOG: "ct.example.org/2026h2"}
    assert [row[:2] for row in shown] == [(names[url], f"[{start}, {end})") for url, (start, end) in stretches.items()]
    covered = [4, 5, 6, 10]
    missing = {
        url: sum(url != LOG or index not in covered for index in range(*stretch)) for url, stretch in stretches.items()
    }
    assert [int(row[3].split()[0]) for row in shown] == list(missing.values())
