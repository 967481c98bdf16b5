"""Gaps: the cases of the live server's own tests, by their names, and what ctkit decides otherwise."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rows import LOG, OTHER_LOG, make_rows, make_table

from ctkit.errors import ParameterError
from ctkit.lake.gaps import find_gaps, ranges_by_log
from ctkit.schema import GAP_SCHEMA


def gaps(main=None, staging=None, *, start=None, ceiling, internal_only=False):
    """Return the gaps of `LOG` as pairs."""
    found = find_gaps(main, staging, within={LOG: (start, ceiling)}, internal_only=internal_only)
    assert set(found["source_url"].to_pylist()) <= {LOG}
    return list(zip(found["start"].to_pylist(), found["end"].to_pylist(), strict=True))


@pytest.mark.parametrize(
    ("name", "rows", "start", "ceiling", "expected", "internal"),
    [
        # The live server never looks above its highest row; ctkit does (an interrupted run must be resumable), unless
        # internal_only is set. The last column is what the live server's test expects.
        ("ac2_1_catch_up_lower_bound_from_min", [100, 101, 102], None, 200, [(103, 200)], []),
        (
            "ac2_2_catch_up_internal_gaps",
            [10, 11, 12, 15, 16, 20],
            None,
            22,
            [(13, 15), (17, 20), (21, 22)],
            [(13, 15), (17, 20)],
        ),
        ("ac2_3_catch_up_no_frontier_gap", [0, 1, 2], None, 10, [(3, 10)], []),
        ("ac3_1_historical_pre_existing_gap", [50, 51, 52], 0, 55, [(0, 50), (53, 55)], [(0, 50)]),
        ("ac3_2_historical_from_override", [50, 51, 52], 40, 55, [(40, 50), (53, 55)], [(40, 50)]),
        ("ceiling_below_data_no_work_items", [100, 101, 102], None, 50, [], []),
        ("catch_up_ceiling_only_internal_gaps", [10, 11, 15, 16], None, 1000, [(12, 15), (17, 1000)], [(12, 15)]),
        # Corners that the live server loses (reference W17): each clipped to the ceiling instead.
        ("gap_straddles_the_ceiling", [10, 20], None, 15, [(11, 15)], [(11, 15)]),
        ("row_at_the_ceiling", [10, 20], None, 20, [(11, 20)], [(11, 20)]),
        ("from_inside_a_gap", [10, 20], 15, 21, [(15, 20)], [(15, 20)]),
        ("historical_ceiling_below_all_rows", [50, 51], 0, 10, [(0, 10)], [(0, 10)]),
        ("from_above_all_rows", [10, 11], 20, 25, [(20, 25)], []),
        ("from_at_the_ceiling", [10, 11], 25, 25, [], []),
        ("complete", [0, 1, 2], 0, 3, [], []),
        ("duplicates_and_disorder", [7, 3, 3, 5, 7, 7], None, 8, [(4, 5), (6, 7)], [(4, 5), (6, 7)]),
        ("last_index_of_a_log", [0], 2**40 - 2, 2**40, [(2**40 - 2, 2**40)], []),
    ],
)
def test_gaps_of_one_table(tmp_path, name, rows, start, ceiling, expected, internal):
    """Each listed case gives exactly its gaps, with the stretch above the highest row and without it."""
    main = make_table(tmp_path / "main", make_rows(rows))

    assert gaps(main, start=start, ceiling=ceiling) == expected
    assert gaps(main, start=start, ceiling=ceiling, internal_only=True) == internal


@pytest.mark.parametrize(
    ("main_rows", "staging_rows", "start", "ceiling", "expected"),
    [
        # test_ac2_1_union_all_excludes_entries_in_either_table, and what lies above the highest row
        ([10, 11, 15, 16], [12, 13], None, 20, [(14, 15), (17, 20)]),
        # test_ac2_2_second_staging_run_produces_fewer_work_items: before and after
        ([10, 15], [], None, 16, [(11, 15)]),
        ([10, 15], [11, 12], None, 16, [(13, 15)]),
        # test_ac2_3_ceiling_caps_union_max_cert_index: the row 25 above the ceiling closes nothing below it
        ([10, 11, 12], [13, 14, 25], None, 20, [(15, 20)]),
        # test_ac1_3_gap_detection_with_staging_catch_up_and_historical
        ([10, 11, 15, 16], [12, 13], 0, 17, [(0, 10), (14, 15)]),
        # a log that only staging has rows of
        ([], [5, 7], None, 9, [(6, 7), (8, 9)]),
    ],
)
def test_gaps_of_main_and_staging(tmp_path, main_rows, staging_rows, start, ceiling, expected):
    """AC2.1: an entry in either table is no gap."""
    main = make_table(tmp_path / "main", make_rows(main_rows))
    staging = make_table(tmp_path / "staging", make_rows(staging_rows))

    assert gaps(main, staging, start=start, ceiling=ceiling) == expected


def test_gaps_when_a_table_is_missing(tmp_path):
    """AC2.4: without staging main decides, without main staging does, and without both everything from N is a gap."""
    table = make_table(tmp_path / "table", make_rows([10, 11, 15]))

    assert gaps(table, None, ceiling=16) == [(12, 15)]
    assert gaps(None, table, ceiling=16) == [(12, 15)]
    assert gaps(None, None, start=3, ceiling=16) == [(3, 16)]
    assert gaps(None, None, ceiling=16) == []
    assert gaps(None, None, start=3, ceiling=16, internal_only=True) == []


def test_gaps_when_logs_share_files(tmp_path):
    """Logs in one table do not see each other's rows; a log without rows counts in historical mode only."""
    rows = pa.concat_tables([make_rows([1, 3]), make_rows([2, 4], url=OTHER_LOG), make_rows([6], day=2)])
    main = make_table(tmp_path / "main", rows)
    within = {
        LOG: (None, 8),
        OTHER_LOG: (0, 5),
        "https://new.example.com": (7, 9),
        "https://old.example.com": (None, 9),
    }

    found = find_gaps(main, within=within).to_pylist()

    assert [(gap["source_url"], gap["start"], gap["end"]) for gap in found] == [
        (LOG, 2, 3),
        (LOG, 4, 6),
        (LOG, 7, 8),
        (OTHER_LOG, 0, 2),
        (OTHER_LOG, 3, 4),
        ("https://new.example.com", 7, 9),
    ]


def test_gaps_when_the_url_has_a_trailing_slash(tmp_path):
    """A log's URL is looked for in its canonical form."""
    main = make_table(tmp_path / "main", make_rows([1, 3]))

    assert find_gaps(main, within={LOG + "/": (None, 4)}).to_pylist() == [{"source_url": LOG, "start": 2, "end": 3}]


def test_gaps_of_a_table_that_changed(tmp_path):
    """Rows that DELETE took out are gaps again, though their file is still there."""
    main = make_table(tmp_path / "main", make_rows(range(10)))
    main.delete("cert_index = 4")

    assert gaps(main, ceiling=10) == [(4, 5)]


@given(
    main_rows=st.lists(st.integers(0, 40)),
    staging_rows=st.lists(st.integers(0, 40)),
    start=st.none() | st.integers(0, 45),
    ceiling=st.integers(0, 45),
    internal_only=st.booleans(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_gaps_equal_set_arithmetic(tmp_path_factory, main_rows, staging_rows, start, ceiling, internal_only):
    """Whatever the rows, the gaps are the range less the covered indices, as maximal stretches."""
    folder: Path = tmp_path_factory.mktemp("gaps")
    main = make_table(folder / "main", make_rows(main_rows))
    staging = make_table(folder / "staging", make_rows(staging_rows))
    covered = {*main_rows, *staging_rows}
    low = start if start is not None else min(covered, default=ceiling)
    high = min(ceiling, max(covered, default=-1) + 1) if internal_only else ceiling

    found = gaps(main, staging, start=start, ceiling=ceiling, internal_only=internal_only)

    assert {index for start, end in found for index in range(start, end)} == set(range(low, high)) - covered
    assert all(this[1] < following[0] for this, following in itertools.pairwise(found))


def test_ranges_by_log_when_gaps_are_chosen_by_hand():
    """A part of the gaps, in any order and with the integer types of pandas, becomes ascending ranges for each log."""
    chosen = pa.table({"source_url": ["b", "a", "a"], "start": pa.array([5, 7, 1], pa.int32()), "end": [6, 9, 3]})

    ranges = ranges_by_log(chosen)

    assert {url: [(each.start, each.end) for each in found] for url, found in ranges.items()} == {
        "b": [(5, 6)],
        "a": [(1, 3), (7, 9)],
    }


@pytest.mark.parametrize(
    ("within", "message"),
    [
        ({LOG: (-1, 5)}, "-1"),
        ({LOG: (None, -1)}, "-1"),
        ({LOG: (0, 2**40 + 1)}, str(2**40 + 1)),
        ({LOG: (2**64, 2**64)}, str(2**64)),
        ({LOG: (0, 5.0)}, "5.0"),
        ({LOG: (0, None)}, "None"),
        ({"": (0, 5)}, "''"),
        ({LOG: (0, 3), f"{LOG}/": (3, 5)}, f"names the log {LOG} twice"),
    ],
)
def test_gaps_when_within_is_wrong(within, message):
    """What no log can have is refused, and so is one log with two stretches: neither is looked at in part."""
    with pytest.raises(ParameterError, match=message):
        find_gaps(None, within=within)


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (0, 2**40 + 1), (2**62, 2**62)])
def test_ranges_by_log_when_a_gap_is_none_of_a_log(start, end):
    """A gap that no log can have is refused, whatever else is there."""
    gaps = pa.table({"source_url": ["a", "b"], "start": [1, start], "end": [2, end]})

    with pytest.raises(ParameterError, match="of b "):
        ranges_by_log(gaps)


def test_gaps_are_one_piece_with_their_urls_once():
    """However many gaps there are, each URL is there once, and arrays are made of the columns without a copy."""
    found = find_gaps(None, within={LOG: (0, 5), OTHER_LOG: (2, 3)})

    assert found.schema.remove_metadata() == GAP_SCHEMA
    assert [column.num_chunks for column in found.columns] == [1, 1, 1]
    for url, ranges in ranges_by_log(found).items():
        assert np.shares_memory(ranges.starts, found["start"].chunk(0).to_numpy()), url


def test_ranges_by_log_when_logs_take_turns():
    """Gaps of two logs in any order, in chunks that have dictionaries of their own, lose nothing."""
    chunks = [[("b", 5, 6), ("a", 7, 9), ("b", 0, 2)], [("a", 1, 3)], [], [("c", 4, 4), ("b", 2, 3)]]
    tables = [
        pa.Table.from_pylist([dict(zip(GAP_SCHEMA.names, gap, strict=True)) for gap in gaps], schema=GAP_SCHEMA)
        for gaps in chunks
    ]

    ranges = ranges_by_log(pa.concat_tables(tables))

    assert {url: list(map(str, found)) for url, found in ranges.items()} == {
        "b": ["[0, 3)", "[5, 6)"],
        "a": ["[1, 3)", "[7, 9)"],
        "c": [],
    }
