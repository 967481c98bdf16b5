"""Answers in notebooks: tables of the first rows, pictures of counts over time, and the runbook that shows them all."""

from datetime import date

import ibis
import matplotlib.colors
import nbformat
import numpy as np
import pyarrow as pa
import pytest
from rows import make_rows, make_table
from runbooks import NOTEBOOKS
from test_ask_questions import entry, twice
from test_foreign import HOSTILE, as_pandas, check_page, is_harmless

import ctkit
from ctkit.desk.answers import COLOURS
from ctkit.desk.runbook import run_notebook
from ctkit.errors import ParameterError
from ctkit.lake.querying import connect, reading
from ctkit.report import RESULT_MIME_TYPE
from ctkit.schema import row_schema


def counts_of(*rows):
    """Return counts as an ibis table."""
    return ibis.memtable(
        pa.table(
            {
                "date": pa.array([date.fromisoformat(day) for day, *_ in rows], pa.date32()),
                "issuer_o": pa.array([group for _, group, _ in rows], pa.string()),
                "certificates": pa.array([count for *_, count in rows], pa.int64()),
            }
        )
    )


def texts(picture):
    """Return what a picture says."""
    return [text.get_text() for text in picture.texts]


def test_first_rows():
    """So many rows are shown, all are counted; times, lists and nulls are text."""
    rows = pa.table(
        {
            "first_seen": pa.array([0, -62_167_219_200_000_000, None], pa.timestamp("us", "UTC")),
            "issuers": [["a", "b"], [], None],
            "certificates": [1, None, 3],
        }
    )
    answer = ctkit.show(ibis.memtable(rows), "who", first=2)

    assert (str(answer), list(answer.table)) == ("who rows=3", ["first_seen", "issuers", "certificates"])
    assert answer.table.to_numpy().tolist() == [["1970-01-01 00:00:00", "a, b", 1], ["0000-01-01 00:00:00", "", None]]
    assert "the first 2 of 3 rows" in answer._repr_html_()
    assert ">first seen</th>" in answer._repr_html_()
    assert list(ctkit.show(ibis.memtable(rows), first=3).tables()) == ["rows"]


def test_an_answer_opens_a_certificate(tmp_path):
    """The one that the key of a row names; none if there is no row, and an error without keys."""
    main = make_table(tmp_path / "main", make_rows(range(4)))
    answer = ctkit.show(ctkit.certificates(main).order_by("key").select("key"))

    assert (answer.open(main).cert_index, answer.open(main, 3).cert_index) == (0, 3)
    assert (answer.open(main, 4), answer.open(main, -1)) == (None, None)
    assert (answer.first("key", "none")[-2:], ctkit.show(ibis.memtable({"a": [1]})[:0]).first("a", "x")) == ("#0", "x")
    with pytest.raises(ParameterError):
        ctkit.show(ibis.memtable({"a": [1]})).open(main)


def test_hostile_answers():
    """What is in an answer does nothing, in any column, its title, a picture or its groups."""
    hostile = list(map(as_pandas, HOSTILE.values()))
    for text in hostile:
        rows = pa.table({"name": [text], "issuers": [[text, text]]})
        check_page(ctkit.show(ibis.memtable(rows), text)._repr_html_())
    picture = ctkit.plot_over_time(counts_of(*(("2026-11-20", text, 1) for text in hostile)), hostile[0])

    assert all(map(is_harmless, texts(picture)))
    assert "<script" not in picture._repr_svg_()
    assert picture._repr_png_()[0].startswith(b"\x89PNG")


def test_a_picture_of_counts():
    """The largest groups have colours of their own, from the bottom up; others are one."""
    groups = [("2026-11-20", f"g{at}", 10 - at) for at in range(9)]
    picture = ctkit.plot_over_time(counts_of(("2026-11-20", None, 50), *groups, ("2026-11-23", None, 7)), "by issuer")
    steps = picture.axes[0].patches

    assert texts(picture)[0] == "by issuer"
    assert texts(picture)[1:7] == ["\u25a0", "none given", "57", "\u25a0", "g0", "10"]
    assert texts(picture)[-2:] == ["3 more", "9"]
    assert [matplotlib.colors.to_hex(step.get_facecolor()).upper() for step in steps[:-1]] == list(COLOURS)
    days = [(date(2026, 11, day) - date(1970, 1, 1)).days for day in (20, 21, 23, 24)]
    # With a date in two parts, its step is three days long by the distance of the dates.
    assert steps[0].get_data().edges.tolist()[:1] == days[:1]
    assert steps[0].get_data().values.tolist() == [50, 7]
    assert steps[-1].get_data().values.tolist() == [50 + sum(count for *_, count in groups), 7]
    assert [label.get_text() for label in picture.axes[0].get_xticklabels()] == ["2026-11-20", "2026-11-23"]


@pytest.mark.parametrize(
    ("days", "edges", "values"),
    [
        (["2026-11-20"], ["2026-11-20", "2026-11-21"], [1]),
        (
            ["2026-11-20", "2026-11-21", "2026-11-24"],
            ["2026-11-20", "2026-11-21", "2026-11-22", "2026-11-24", "2026-11-25"],
            [1, 1, 0, 1],
        ),
        (["2026-02-01", "2026-03-01", "2026-04-01"], ["2026-02-01", "2026-03-01", "2026-04-01", "2026-04-29"], [1] * 3),
    ],
)
def test_periods_of_a_picture(days, edges, values):
    """A period lasts until the next one, unless some without any certificate are between them."""
    steps = ctkit.plot_over_time(counts_of(*((day, "a", 1) for day in days))).axes[0].patches[0].get_data()

    assert [str(np.datetime64(int(edge), "D")) for edge in steps.edges] == edges
    assert steps.values.tolist() == values


def test_a_picture_of_days_that_python_lacks():
    """Another writer may have any time."""
    days = pa.table({"date": pa.array([-800_000, 4_000_000], pa.int32()).cast(pa.date32()), "certificates": [1, 2]})
    picture = ctkit.plot_over_time(ibis.memtable(days))

    assert [label.get_text() for label in picture.axes[0].get_xticklabels()] == ["-221-09-04", "12921-08-18"]


def test_a_picture_of_nothing():
    """It says so; what has other columns is refused."""
    assert texts(ctkit.plot_over_time(counts_of())) == ["", "nothing to show"]
    for other in ({"a": [1]}, {"date": [1], "a": [1]}, {"date": [1], "a": [1], "b": [1], "certificates": [1]}):
        with pytest.raises(ParameterError):
            ctkit.plot_over_time(ibis.memtable(other))


def test_duckdb_draws_nothing():
    """No question leaves a bar in a notebook, of whatever connection."""
    with reading() as connection:
        for each in (connection, connect()):
            shown = each.con.execute("SELECT current_setting('enable_progress_bar')").fetchall()
            assert shown == [(False,)]


def explored(folder, **parameters):
    """Run the runbook; return the outputs of its cells."""
    given = {"main_path": str(folder / "main"), **parameters}
    assert run_notebook(NOTEBOOKS / "explore.ipynb", given, output=folder / "explore.ipynb", cwd=folder) == 0
    book = nbformat.read(folder / "explore.ipynb", as_version=4)
    return {cell.id: cell.get("outputs", []) for cell in book.cells}


def titles_of(cells):
    """Return the titles of all reports."""
    data = [output["data"] for outputs in cells.values() for output in outputs]
    return [each[RESULT_MIME_TYPE]["title"] for each in data if RESULT_MIME_TYPE in each]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_explore(tmp_path):
    """The runbook shows every question, for the busiest domain, and one certificate in full; it writes nothing."""
    hostile = [[as_pandas(text), f"{as_pandas(text)}.example.com"] for text in list(HOSTILE.values())[:12]]
    rows = [row for at, names in enumerate(hostile) for row in twice(at, names)]
    rows += [entry(900, ["example.net", "www.example.org"])]
    main = make_table(tmp_path / "main", pa.Table.from_pylist(rows, row_schema()))
    version = main.version()

    cells = explored(tmp_path)
    titles = titles_of(cells)
    assert titles[1:4] == [
        "Names of example.com, the newest first",
        "Names that share certificates with example.com",
        "Names that look like example.com",
    ]
    assert titles[-1] == "certificate"
    pictures = [output for output in cells["over-time"] + cells["domain"] if "image/png" in output["data"]]
    assert len(pictures) == 4
    assert all("image/svg+xml" in picture["data"] for picture in pictures)
    for outputs in cells.values():
        for html in (output["data"].get("text/html") for output in outputs):
            assert html is None or "<script" not in html
    main.update_incremental()
    assert main.version() == version


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_explore_a_domain_without_certificates(tmp_path):
    """There is nothing to show of it, which is no error."""
    ctkit.open_table(tmp_path / "main")

    titles = titles_of(explored(tmp_path, domain="example.org"))
    assert titles[3] == "Names that look like example.org"
    assert titles[-1] == "Entries for example.org"
