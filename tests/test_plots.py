"""Pictures of gaps: what is drawn where, and what it says."""

import numpy as np
import pyarrow as pa
import pytest
from matplotlib import pyplot
from rows import LOG, OTHER_LOG, make_rows, make_table

from ctkit.desk.choice import GapChoice
from ctkit.desk.chosen_gaps import ChosenGaps
from ctkit.desk.gap_preview import GapPreview
from ctkit.desk.gap_report import report_gaps
from ctkit.desk.lanes import COLOURS, Lane, Lanes
from ctkit.desk.parameters import Parameters
from ctkit.desk.plots import MOST_LOGS, plot_gaps
from ctkit.desk.state_file import write_state
from ctkit.errors import ParameterError
from ctkit.schema import GAP_SCHEMA


def make_gaps(*gaps):
    """Return the given ``(source_url, start, end)`` as a table of gaps."""
    return pa.Table.from_pylist([dict(zip(GAP_SCHEMA.names, gap, strict=True)) for gap in gaps], schema=GAP_SCHEMA)


def texts(picture):
    """Return what the picture says of each log (name, indices, caption), and what it says after its key."""
    found = [text.get_text() for text in picture.axes[0].texts]
    key = found.index(next(iter(COLOURS)))
    return [tuple(found[at : at + 3]) for at in range(0, key, 3)], found[key + len(COLOURS) :]


def heights(picture, part="missing"):
    """Return for each bar how many pixels of each column have a colour."""
    colour = list(bytes.fromhex(COLOURS[part][1:]))
    return [(image.get_array() == colour).all(axis=2).sum(axis=0) for image in picture.axes[0].images]


def test_plot_gaps_when_a_stretch_is_given():
    """Each log has a bar from start to end, complete ones too, with its name, its numbers and its missing stretches."""
    gaps = make_gaps((LOG, 0, 250), (LOG, 999, 1000), (OTHER_LOG, 60, 61))
    picture = plot_gaps(gaps, {f"{LOG}/": (0, 1000), OTHER_LOG: (50, 70), "https://c.example": (3, 9)})

    assert texts(picture) == (
        [
            ("ct.example.com/2026h2", "0 to 1,000", "251 missing (25.1 %)"),
            ("ct.example.org/2026h2", "50 to 70", "1 missing (5.0 %)"),
            ("c.example", "3 to 9", "nothing missing"),
        ],
        [],
    )
    first, second, third = heights(picture)
    columns = len(first)
    assert np.flatnonzero(first).tolist() == [*range(columns // 4), columns - 1]
    assert np.flatnonzero(second).tolist() == [10]
    assert not third.any()


def test_plot_gaps_when_the_stretch_is_not_given():
    """The bar runs from the first gap to the last; of a stretch without a start only the end counts."""
    gaps = make_gaps((LOG, 10, 20), (LOG, 30, 35), (OTHER_LOG, 7, 8))

    assert [row[1] for row in texts(plot_gaps(gaps))[0]] == ["10 to 35", "7 to 8"]
    within = {LOG: (None, 40), "https://c.example": (None, 9)}
    assert [row[1] for row in texts(plot_gaps(gaps, within))[0]] == ["10 to 40", "7 to 8"]


def test_plot_gaps_when_one_index_of_a_billion_is_missing():
    """A gap is seen, however small, and does not look like more: one pixel of its bar."""
    picture = plot_gaps(make_gaps((LOG, 123_456_789, 123_456_790)), {LOG: (0, 10**9)})

    (bar,) = heights(picture)
    assert np.flatnonzero(bar).tolist() == [int(len(bar) * 0.123456789)]
    assert bar.max() == 1
    assert texts(picture)[0][0][2] == "1 missing (< 0.1 %)"


def test_plot_gaps_when_every_other_index_is_missing():
    """A million gaps of one row fill half of the height."""
    starts = np.arange(1_000_000) * 2
    gaps = pa.table([pa.array([LOG]).take(pa.array(starts * 0)), starts, starts + 1], schema=GAP_SCHEMA)
    (bar,) = heights(plot_gaps(gaps, {LOG: (0, 2_000_000)}))

    assert set(bar.tolist()) == {8}


def test_plot_gaps_when_there_are_many_logs():
    """The logs that miss most are shown, and the others are counted, with the way to them."""
    urls = [f"https://log{number}.example" for number in range(MOST_LOGS + 5)]
    gaps = make_gaps(*((url, 0, 1 + number) for number, url in enumerate(sorted(urls))))
    shown, (note,) = texts(plot_gaps(gaps, dict.fromkeys(urls, (0, 200))))

    assert [row[0] for row in shown] == [url[8:] for url in sorted(urls)[:4:-1]]
    assert note.startswith("5 more logs: 5 miss less; ")


def test_plot_gaps_of_many_logs_without_an_answer():
    """Logs that failed do not miss less: nobody knows what they miss."""
    lanes = [Lane(f"https://log{number}.example", str(number), 0, 9) for number in range(MOST_LOGS + 1)]
    lanes += [Lane("https://a.example", "a", why="no answer", failed=True), Lane("https://b.example", "b", why="new")]
    names = {lane.url: None for lane in lanes}
    _, (note,) = texts(plot_gaps(ChosenGaps(Lanes(tuple(lanes), names), GapChoice(), {})))

    assert note.startswith("3 more logs: 1 miss less, 1 failed, 1 not searched; ")


def test_plot_gaps_of_sixty_logs_is_small():
    """SVG and PNG of 60 logs and 48,000 gaps are less than 200 kB together."""
    random = np.random.default_rng(1)
    parts = []
    for number in range(60):
        starts = np.sort(random.choice(10**6, 800, replace=False))
        ends = np.minimum(starts + random.integers(1, 400, 800), np.append(starts[1:], 10**6))
        parts.append(pa.table({"source_url": [f"https://log{number}.example"] * 800, "start": starts, "end": ends}))
    picture = plot_gaps(pa.concat_tables(parts), {f"https://log{number}.example": (0, 10**6) for number in range(60)})

    assert len(picture._repr_svg_()) + len(picture._repr_png_()[0]) * 4 / 3 < 200_000


def test_plot_gaps_when_names_are_long():
    """A long name is shortened in its middle, so that the shard at its end can be read."""
    ((name, *_),), _ = texts(plot_gaps(make_gaps((f"https://{'x' * 60}.example/2026h2", 0, 1))))

    assert len(name) <= 42
    assert name.startswith("xxxx")
    assert name.endswith(".example/2026h2")


def test_plot_gaps_when_there_is_nothing():
    """Without any log the picture says so."""
    assert plot_gaps(GAP_SCHEMA.empty_table()).axes[0].texts[0].get_text() == "no log to show"


def test_picture_leaves_pyplot_alone():
    """A notebook gets an SVG and a PNG, both without a background, and pyplot holds no figure."""
    picture = plot_gaps(make_gaps((LOG, 0, 1)))
    png, size = picture._repr_png_()

    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(png[16:20]), int.from_bytes(png[20:24])) == (size["width"], size["height"])
    assert b"tRNS" in png
    assert ">ct.example.com/2026h2</text>" in picture._repr_svg_()
    assert picture._repr_svg_() == plot_gaps(make_gaps((LOG, 0, 1)))._repr_svg_()
    assert pyplot.get_fignums() == []


def test_plot_gaps_of_a_choice():
    """What is not chosen has another colour."""
    preview = GapPreview(make_gaps((LOG, 0, 50), (LOG, 99, 100)))
    preview.spec = f"{LOG}: 0-25"
    (chosen,), (left,) = (heights(plot_gaps(preview.report), part) for part in ("missing", "not chosen"))

    assert [np.flatnonzero(bar).tolist() for bar in (chosen, left)] == [[*range(25)], [*range(25, 50), 99]]


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
    picture = plot_gaps(gap_report)
    with pytest.raises(ParameterError):
        plot_gaps(gap_report, stretches)
    gap_report.close()
    shown, _ = texts(picture)

    assert gap_report.stretches() == stretches
    names = {LOG: "One", OTHER_LOG: "ct.example.org/2026h2"}
    said = {name: (indices, caption) for name, indices, caption in shown[: len(stretches)]}
    assert set(said) == {names[url] for url in stretches}
    for url, (start, end) in stretches.items():
        indices, caption = said[names[url]]
        covered = [4, 5, 6, 10] if url == LOG else []
        missing = sum(index not in covered for index in range(start, end))
        assert indices == f"{start} to {end}"
        assert int(caption.split()[0]) == missing
        # The row of staging.
        assert caption.endswith("1 staged") == (url == LOG and start <= 4)
