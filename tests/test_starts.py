"""Where logs start and end, remembered by the table: with the first commit, through merges and upkeep."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import FakeLog
from rows import LOG, OTHER_LOG, before_commit, commits_of, make_rows, make_table

from ctkit.jobs.backfill import backfill
from ctkit.lake.merge import merge_staging
from ctkit.lake.repair import repair
from ctkit.lake.starts import Bounds, bounds_in, remember, remembered
from ctkit.lake.table import find_table, open_table
from ctkit.lake.tidy import tidy
from ctkit.lake.undo import undo_merge
from ctkit.schema import GAP_SCHEMA


@pytest.fixture
def main(tmp_path):
    """Return a table with rows of two logs."""
    return make_table(tmp_path / "main", make_rows([10, 11]), make_rows([5], url=OTHER_LOG))


@pytest.fixture
def staging(tmp_path):
    """Return a table with other rows of one of them."""
    return make_table(tmp_path / "staging", make_rows([12, 13]))


def gaps_of(log, start, end):
    """Return one gap."""
    return pa.Table.from_pylist([{"source_url": log.url, "start": start, "end": end}], schema=GAP_SCHEMA)


def test_nothing_is_remembered(main, staging):
    """A table that was told nothing knows nothing, nor does one that does not exist."""
    assert remembered([LOG], main, staging, None) == bounds_in(main) == {}


def test_bounds_only_widen(main):
    """A lower start and a higher end count; others are left, without a commit."""
    remember({LOG: (8, 20), OTHER_LOG: (0, None)}, main)
    version = main.version()
    remember({LOG: (9, 19), OTHER_LOG: (None, None)}, main)
    assert main.version() == version
    remember({LOG: (7, None)}, main)
    remember({LOG: (None, 21)}, main)

    assert bounds_in(main) == remembered([LOG, OTHER_LOG], main) == {LOG: Bounds(7, 21), OTHER_LOG: Bounds(0, None)}


def test_the_wider_bounds_of_two_tables_count(main, staging):
    """Staging may know more than main, and main more than staging."""
    remember({LOG: (8, 20)}, main)
    remember({LOG: (9, 25), OTHER_LOG: (3, None)}, staging)

    assert remembered([LOG, OTHER_LOG], main, staging) == {LOG: (8, 25), OTHER_LOG: (3, None)}


def test_bounds_outlive_the_commits(main, tmp_path):
    """A checkpoint has them when the commits that brought them are gone."""
    remember({LOG: (8, 20)}, main)
    main.create_checkpoint()
    for commit in commits_of(tmp_path / "main"):
        (tmp_path / "main" / "_delta_log" / commit).unlink()

    assert remembered([LOG], find_table(tmp_path / "main")) == {LOG: (8, 20)}


def test_a_backfill_remembers_with_its_first_commit(opened, tmp_path):
    """Also of logs of which it writes nothing; a later one with other words changes nothing."""
    log = opened(FakeLog(size=30))
    table = open_table(tmp_path / "staging")
    backfill([log], gaps_of(log, 10, 20), table, bounds={log.url: (10, None), OTHER_LOG: (3, 50)})
    assert bounds_in(find_table(tmp_path / "staging")) == {log.url: (10, None), OTHER_LOG: (3, 50)}
    assert table.version() == 1

    backfill([log], gaps_of(log, 20, 25), table, bounds={log.url: (20, None)})
    assert bounds_in(table) == {log.url: (10, None), OTHER_LOG: (3, 50)}


def test_a_backfill_of_nothing_remembers_nothing(opened, tmp_path):
    """There is no commit to do it with."""
    log = opened(FakeLog(size=5))
    table = open_table(tmp_path / "staging")
    backfill([log], gaps_of(log, 10, 20), table, bounds={log.url: (10, None)})

    assert (table.version(), bounds_in(table)) == (0, {})


def test_a_merge_carries_bounds(main, staging):
    """Also of logs of which staging has no row; main's wider ones stay."""
    remember({LOG: (2, 30)}, main)
    remember({LOG: (12, 40), OTHER_LOG: (4, None)}, staging)
    report = merge_staging(staging, main)

    assert (report.inserted, report.version, main.version()) == (2, report.version_before + 1, report.version)
    assert bounds_in(main) == {LOG: (2, 40), OTHER_LOG: (4, None)}


def test_a_merge_of_known_rows_carries_bounds(main, tmp_path):
    """Staging goes, and takes nothing along that main does not know."""
    staging = make_table(tmp_path / "staging", make_rows([10, 11]))
    remember({LOG: (10, None)}, staging)
    report = merge_staging(staging, main)

    assert (report.inserted, report.version, report.staging_removed) == (0, report.version_before, True)
    assert bounds_in(main) == {LOG: (10, None)}


def test_a_merge_beside_another_writer_carries_bounds(main, staging, monkeypatch, tmp_path):
    """Somebody who commits first, and remembers less, does not get in the way."""
    remember({LOG: (12, None)}, staging)
    others = iter([13])

    def interfere():
        for start in others:
            remember({LOG: (start, None)}, find_table(tmp_path / "main"))

    before_commit(monkeypatch, interfere)
    assert merge_staging(staging, main).inserted == 2
    assert bounds_in(main) == {LOG: (12, None)}


def test_undo_and_tidy_keep_bounds(main, staging):
    """The table's log keeps them, whatever becomes of rows."""
    remember({LOG: (12, 40)}, staging)
    merge_staging(staging, main)
    undo_merge(main)
    tidy(main)

    assert bounds_in(find_table(main.table_uri)) == {LOG: (12, 40)}


@pytest.mark.parametrize(("known", "start"), [(None, 10), (11, 11), (3, 3)])
def test_a_repair_keeps_the_first_row_that_is_lost(tmp_path, known, start):
    """The log begins where it did, or where it is remembered to."""
    main = make_table(tmp_path / "main", make_rows([10, 11]), make_rows([12, 13]))
    if known is not None:
        remember({LOG: (known, None)}, main)
    oldest = next(file for file in (tmp_path / "main").rglob("*.parquet") if _holds_first(file))
    oldest.write_bytes(oldest.read_bytes()[:100])
    report = repair(main)

    assert report.damaged[0].first == {LOG: 10}
    assert bounds_in(main) == {LOG: (start, None)}


def test_a_repair_of_later_rows_remembers_nothing(tmp_path):
    """A log whose first row is left begins there as before."""
    main = make_table(tmp_path / "main", make_rows([10, 11]), make_rows([12, 13]))
    latest = next(file for file in (tmp_path / "main").rglob("*.parquet") if not _holds_first(file))
    latest.unlink()
    repair(main)

    assert bounds_in(main) == {}


def _holds_first(file):
    return pq.read_table(file, columns=["cert_index"], partitioning=None)["cert_index"][0].as_py() == 10
