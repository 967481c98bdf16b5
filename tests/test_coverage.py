"""Which rows a table has: each file is read once, and what is remembered of it makes no difference to the answer."""

import datetime
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from raising import fails
from rows import LOG, OTHER_LOG, add_file, as_type, indices_of, keys_of, make_rows, make_table

from ctkit.errors import TableError
from ctkit.lake import coverage
from ctkit.lake.coverage import find_covered
from ctkit.lake.files import FileBounds
from ctkit.lake.gaps import find_gaps
from ctkit.lake.remembered import recall, remember
from ctkit.lake.table import files_of, open_table
from ctkit.lake.write import write_entries

EVERYWHERE = {LOG: (0, 1000), OTHER_LOG: (0, 1000)}


@pytest.fixture
def opened(monkeypatch):
    """Note the name of each file of which rows are read."""
    names = []
    read = coverage.key_batches

    def reading(path):
        names.append(os.path.basename(path))
        return read(path)

    monkeypatch.setattr(coverage, "key_batches", reading)
    return names


def covered(*tables, within=EVERYWHERE):
    """Return the keys that are said to have rows."""
    found = find_covered(within, *tables)
    return {(url, index) for url, runs in found.items() for each in runs for index in range(each.start, each.end)}


def names_of(table):
    """Return the names of the table's files."""
    return {os.path.basename(file) for file in files_of(table)}


def test_a_file_is_read_once(tmp_path, opened):
    """A second call reads nothing, and after a commit only what that has added."""
    table = make_table(tmp_path / "main", *(make_rows([at, at + 5]) for at in range(4)))
    assert covered(table) == {(LOG, at) for at in range(9)} - {(LOG, 4)}
    assert sorted(opened) == sorted(names_of(table))
    opened.clear()

    assert covered(table) == set(keys_of(table))
    assert opened == []

    before = names_of(table)
    write_entries(table, make_rows([4, 20], url=OTHER_LOG))
    assert covered(table) == set(keys_of(table))
    assert set(opened) == names_of(table) - before
    assert len(opened) == 1


def test_a_file_is_read_once_by_all_processes(tmp_path, cache):
    """What one process has read another one knows."""
    table = make_table(tmp_path / "main", make_rows([1, 2]), make_rows([5]))
    code = (
        "import sys; from ctkit.lake import coverage, gaps, table\n"
        "if sys.argv[2] == 'blind': coverage.key_batches = None\n"
        f"found = gaps.find_gaps(table.find_table(sys.argv[1]), within={{{LOG!r}: (0, 7)}})\n"
        "print(found['start'].to_pylist())"
    )
    for how in ("reading", "blind"):
        done = subprocess.run([sys.executable, "-c", code, tmp_path / "main", how], capture_output=True, text=True)
        assert done.stdout == "[0, 3, 6]\n", done.stderr
    assert set(recall(table)["file"].to_pylist()) != set()
    assert len(list((cache / "coverage").iterdir())) == 1


def test_a_file_without_rows_is_read_once(tmp_path, opened):
    """That a file has no rows is remembered, too."""
    table = add_file(tmp_path / "main", as_type(make_rows([])))
    table = add_file(tmp_path / "main", as_type(make_rows([3])), name="other.parquet")

    assert [covered(table), covered(table)] == [{(LOG, 3)}] * 2
    assert len(opened) == 2


@pytest.mark.parametrize(
    ("within", "files"),
    [
        ({LOG: (0, 100)}, 2),
        ({LOG: (0, 10)}, 1),
        ({LOG: (10, 50)}, 0),
        ({LOG: (19, 21)}, 0),
        ({LOG: (29, 31)}, 1),
        ({OTHER_LOG: (0, 100)}, 1),
        ({OTHER_LOG: (0, 100), LOG: (0, 1)}, 2),
        ({"https://ct.example.net": (0, 100)}, 0),
        ({}, 0),
    ],
)
def test_files_that_cannot_matter_are_not_read(tmp_path, opened, within, files):
    """A file is left alone if its statistics name other logs, or no index in the stretch."""
    within = {url: (start, end) if (start, end) != (10, 50) else (10, 30) for url, (start, end) in within.items()}
    table = make_table(tmp_path / "main", make_rows([0, 9]), make_rows([30, 39]), make_rows([0, 99], url=OTHER_LOG))

    found = covered(table, within=within)

    assert len(opened) == files
    wanted = {key for key in keys_of(table) if key[0] in within and within[key[0]][0] <= key[1] < within[key[0]][1]}
    assert {key for key in found if within[key[0]][0] <= key[1] < within[key[0]][1]} == wanted


def test_gaps_below_the_ceiling_read_nothing_above(tmp_path, opened):
    """Files at or above the ceiling do not matter, unless a log's highest row does."""
    main = make_table(tmp_path / "main", make_rows([1, 3]), make_rows([10, 11]))

    assert find_gaps(main, within={LOG: (None, 10)})["start"].to_pylist() == [2, 4]
    assert len(opened) == 1
    assert find_gaps(main, within={LOG: (None, 10)}, internal_only=True)["start"].to_pylist() == [2, 4]
    assert len(opened) == 2


GARBAGE = {
    "removed": lambda file, _: file.unlink(),
    "empty": lambda file, _: file.write_bytes(b""),
    "garbage": lambda file, _: file.write_bytes(b"PAR1" + bytes(range(256))),
    "cut short": lambda file, stored: file.write_bytes(stored[:-1]),
    "a folder": lambda file, _: (file.unlink(), file.mkdir()),
    "a circle": lambda file, _: (file.unlink(), file.symlink_to(file)),
    "the folder": lambda file, _: (shutil.rmtree(file.parent), file.parent.write_text("not a folder")),
} | {
    f"byte {at}": lambda file, stored, at=at: file.write_bytes(
        stored[: len(stored) * at // 8]
        + bytes([stored[len(stored) * at // 8] ^ 1])
        + stored[len(stored) * at // 8 + 1 :]
    )
    for at in range(8)
}


@pytest.mark.parametrize("damage", GARBAGE)
def test_memory_that_is_damaged(tmp_path, cache, opened, damage):
    """Whatever has become of what was remembered, the answer is that of the rows, and no run fails."""
    table = make_table(tmp_path / "main", make_rows([1, 2, 7]), make_rows([4]))
    covered(table)
    (file,) = (cache / "coverage").iterdir()
    GARBAGE[damage](file, file.read_bytes())
    opened.clear()

    assert covered(table) == set(keys_of(table))
    assert len(opened) == 2


def test_memory_of_another_program(tmp_path, cache, opened):
    """Parquet of other columns in the right place is not taken for ours."""
    table = make_table(tmp_path / "main", make_rows([1, 2, 7]))
    covered(table)
    remember(table, recall(table).rename_columns(["file", "url", "starts", "ends"]))
    opened.clear()

    assert covered(table) == set(keys_of(table))
    assert len(opened) == 1


def test_memory_turned_off(tmp_path, cache, opened, monkeypatch):
    """With an empty CTKIT_CACHE nothing is remembered anywhere."""
    monkeypatch.setenv("CTKIT_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)
    table = make_table(tmp_path / "main", make_rows([1]))

    assert [covered(table), covered(table)] == [{(LOG, 1)}] * 2
    assert len(opened) == 2
    assert sorted(os.listdir(tmp_path)) == ["cache", "main"]
    assert os.listdir(cache) == []


@pytest.mark.parametrize(
    ("environment", "folder"), [({"XDG_CACHE_HOME": "user"}, "user/ctkit"), ({"HOME": "home"}, "home/.cache/ctkit")]
)
def test_memory_is_in_the_users_cache(tmp_path, opened, monkeypatch, environment, folder):
    """Without CTKIT_CACHE it lies where the user's other caches do."""
    for name in ("CTKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    table = make_table(tmp_path / "main", make_rows([1]))

    assert [covered(table), covered(table)] == [{(LOG, 1)}] * 2
    assert len(opened) == 1
    assert len(list((tmp_path / folder / "coverage").iterdir())) == 1


def test_memory_that_cannot_be_written(tmp_path, opened, monkeypatch):
    """Where there can be no folder, each call reads the files."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("CTKIT_CACHE", str(tmp_path / "file" / "cache"))
    table = make_table(tmp_path / "main", make_rows([1]))

    assert [covered(table), covered(table)] == [{(LOG, 1)}] * 2
    assert len(opened) == 2


def test_memory_of_tables_long_gone(tmp_path, cache):
    """What nobody has changed for a quarter of a year makes room, when something else is remembered."""
    old, new = make_table(tmp_path / "old", make_rows([1])), make_table(tmp_path / "new", make_rows([1]))
    covered(old)
    (file,) = (cache / "coverage").iterdir()
    long_ago = (datetime.datetime.now() - datetime.timedelta(days=91)).timestamp()
    os.utime(file, (long_ago, long_ago))

    covered(new)

    assert file not in (cache / "coverage").iterdir()
    assert len(list((cache / "coverage").iterdir())) == 1


def test_memory_beside_other_things(tmp_path, cache, opened):
    """What else is in a folder of that name stays, however old, and is in nobody's way."""
    (cache / "coverage" / "html").mkdir(parents=True)
    (cache / "coverage" / "report.txt").touch()
    (cache / "coverage" / ("0" * 32)).mkdir()
    for path in (cache / "coverage").iterdir():
        os.utime(path, (1, 1))
    table = make_table(tmp_path / "main", make_rows([1]))

    assert [covered(table), covered(table)] == [{(LOG, 1)}] * 2
    assert len(opened) == 1
    assert {"html", "report.txt"} < set(os.listdir(cache / "coverage"))


def test_memory_that_was_not_finished(tmp_path, cache, monkeypatch):
    """What a run that was killed left behind goes in time."""
    table = make_table(tmp_path / "main", make_rows([1]))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: 1 / 0)
        patch.setattr(os, "unlink", lambda *_: None)
        with pytest.raises(ZeroDivisionError):
            covered(table)
    (unfinished,) = (cache / "coverage").iterdir()
    os.utime(unfinished, (1, 1))

    covered(table)

    assert not unfinished.exists()


@pytest.mark.parametrize("rows", [[2], [2, 3, 4, 5]])
def test_a_file_replaced_under_its_name(tmp_path, opened, rows):
    """Other bytes under a name that is known are read anew, of whatever length they are."""
    table, other = (
        add_file(tmp_path / name, as_type(make_rows(each)), compression="none", use_dictionary=False)
        for name, each in (("main", [1]), ("other", rows))
    )
    (name,) = files_of(table)
    write_entries(table, make_rows([8]))
    covered(table)
    os.replace(files_of(other)[0], name)
    write_entries(table, make_rows([9]))
    opened.clear()

    assert [covered(table), covered(table)] == [{(LOG, at) for at in [*rows, 8, 9]}] * 2
    # What has not the size that the table's log gives is not remembered.
    assert len(opened) == (2 if rows == [2] else 3)


def test_a_file_that_is_not_what_the_log_says(tmp_path, opened):
    """Of a file that has not the size that its table's log gives nothing is remembered."""
    table = make_table(tmp_path / "main", make_rows([1]))
    with open(files_of(table)[0], "r+b") as file:
        body = file.read()
        file.seek(0)
        file.write(body[:4] + bytes(8) + body[4:])

    for _ in range(2):
        with fails(TableError, uri=tmp_path / "main"):
            covered(table)
    assert len(opened) == 2


def test_a_file_replaced_again(tmp_path):
    """Of bytes that are not what the table's log says nothing stays when others come."""
    table = make_table(tmp_path / "main", make_rows([1]))
    (name,) = files_of(table)
    write_entries(table, make_rows([8]))
    for rows in (range(10, 20), range(20, 50)):
        other = make_table(tmp_path / f"other{len(rows)}", make_rows(rows))
        os.replace(files_of(other)[0], name)
        assert covered(table) == {(LOG, at) for at in [*rows, 8]}


def test_a_file_that_is_gone(tmp_path):
    """A file that was known and is not there any more is missed."""
    table = make_table(tmp_path / "main", make_rows([1]), make_rows([2]))
    covered(table)
    os.unlink(files_of(table)[0])

    with fails(TableError, uri=tmp_path / "main"):
        covered(table)


def test_a_table_made_anew_at_the_same_place(tmp_path, opened):
    """What was remembered of the table that was there before is of no use, even for a file of the same name and age."""
    answers = []
    for rows in ([1], [2]):
        shutil.rmtree(tmp_path / "main", ignore_errors=True)
        table = add_file(tmp_path / "main", as_type(make_rows(rows)), compression="none", use_dictionary=False)
        os.utime(files_of(table)[0], (1, 1))
        answers.append(covered(table))

    assert answers == [{(LOG, 1)}, {(LOG, 2)}]
    assert len(opened) == 2


def test_compaction_vacuum_restore_and_old_versions(tmp_path, opened):
    """Each version has the answer of its own files, of which only those that are new are read."""
    table = make_table(tmp_path / "main", *(make_rows(range(at, at + 3)) for at in range(0, 20, 5)))
    first = table.version()
    everything = covered(table)
    opened.clear()

    table.delete("cert_index = 6")
    assert covered(table) == everything - {(LOG, 6)}
    table.optimize.compact()
    assert covered(table) == everything - {(LOG, 6)}
    assert len(opened) == 2
    assert set(recall(table)["file"].unique().to_pylist()) != set()
    assert len(recall(table)) == 1

    assert covered(DeltaTable(tmp_path / "main", version=first)) == everything
    assert len(opened) == 2 + 4
    table.restore(first)
    assert covered(table) == everything
    assert len(opened) == 2 + 4

    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    assert covered(table) == everything
    assert len(opened) == 2 + 4


def test_what_left_the_table_is_forgotten(tmp_path):
    """The memory is not larger than the table: of files of the past neither runs nor names stay."""
    table = make_table(tmp_path / "main", *(make_rows([at]) for at in range(6)))
    covered(table)
    table.optimize.compact()
    write_entries(table, make_rows([9]))
    covered(table)

    names = recall(table)["file"].combine_chunks().dictionary.to_pylist()

    assert {os.path.basename(name) for name in names} == names_of(table)


def test_runs_beside_each_other(tmp_path, cache):
    """Many at once, of which each reads and remembers, are all right; no unfinished file stays."""
    tables = [make_table(tmp_path / "main", *(make_rows([2 * at]) for at in range(6)))]
    for at in range(5):
        write_entries(tables[-1], make_rows([100 + at]))
        tables.append(open_table(tmp_path / "main"))
    answers = {}

    def ask(at):
        answers[at] = covered(tables[at % len(tables)])

    threads = [threading.Thread(target=ask, args=[at]) for at in range(24)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert all(answers[at] == set(keys_of(tables[at % len(tables)])) for at in range(24))
    assert len(list((cache / "coverage").iterdir())) == 1
    assert covered(tables[-1]) == set(keys_of(tables[-1]))


def test_rows_of_other_writers(tmp_path):
    """Narrow integers, URLs as bytes, rows without a key or of no possible index, logs in turns, many row groups."""
    rows = pa.concat_tables(make_rows([at], url=url) for at in (7, 3, 4, 3) for url in (LOG, OTHER_LOG))
    foreign = as_type(rows, cert_index=pa.int32(), source_url=pa.binary())
    table = add_file(tmp_path / "main", foreign, row_group_size=3)
    odd = make_rows([0, 1, 2]).drop_columns(["source_url", "cert_index", "seen_date"])
    odd = odd.append_column("source_url", pa.array([None, LOG, LOG])).append_column(
        "cert_index", pa.array([20, None, -5], pa.int64())
    )
    table = add_file(tmp_path / "main", odd, name="odd.parquet")

    assert [covered(table), covered(table)] == [{(url, at) for url in (LOG, OTHER_LOG) for at in (3, 4, 7)}] * 2


def test_large_files_are_read_in_parts(tmp_path, monkeypatch):
    """The rows of a file in many parts come together, duplicates and disorder included."""
    monkeypatch.setattr("ctkit.lake.keys._ROWS_AT_ONCE", 4)
    index = [*range(10, 20), 0, 5, 5, 1, *range(18, 25), 11, 12, *range(3, 8)]
    table = add_file(tmp_path / "main", as_type(make_rows(index)), row_group_size=2)

    assert covered(table) == {(LOG, at) for at in index}


URLS = [f"https://{name}.example.com" for name in "abcdef"]


@given(
    st.lists(st.tuples(st.sampled_from(URLS), st.sampled_from(URLS), st.integers(0, 30), st.integers(0, 30))),
    st.dictionaries(st.sampled_from(URLS), st.tuples(st.integers(0, 30), st.integers(0, 30))),
)
def test_may_hold_any_leaves_out_nothing(files, stretches):
    """A file that by its bounds can have a row in a stretch is never left out; one of a single log only then kept."""
    bounds = object.__new__(FileBounds)
    urls = [sorted(each[:2]) for each in files]
    bounds.first_url = np.array([first for first, _ in urls], object)
    bounds.last_url = np.array([last for _, last in urls], object)
    bounds.lowest = np.array([min(each[2:]) for each in files], np.int64)
    bounds.highest = np.array([max(each[2:]) for each in files], np.int64)

    found = bounds.may_hold_any(stretches).tolist()

    for at, (first, last) in enumerate(urls):
        inside = [stretch for url, stretch in stretches.items() if first <= url <= last]
        hit = any(start < end and start <= bounds.highest[at] and end > bounds.lowest[at] for start, end in inside)
        assert found[at] >= hit
        if first == last and all(start < end for start, end in inside):
            assert found[at] == hit


ROWS = st.lists(st.integers(0, 40), min_size=1, max_size=12)
STEPS = st.one_of(
    st.tuples(st.just("write"), ROWS, st.sampled_from([LOG, OTHER_LOG])),
    st.tuples(st.just("both"), ROWS, ROWS),
    st.tuples(st.just("delete"), st.integers(0, 40), st.none()),
    st.tuples(st.sampled_from(["compact", "vacuum", "forget", "damage", "ask", "make anew"]), st.none(), st.none()),
    st.tuples(st.sampled_from(["restore", "look back"]), st.integers(0, 10), st.none()),
)


@given(steps=st.lists(STEPS, max_size=8), start=st.none() | st.integers(0, 45), end=st.integers(0, 45))
@example(steps=[("write", [1, 3], LOG), ("ask", None, None), ("restore", 0, None)], start=None, end=5)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_gaps_are_those_of_the_rows_whatever_happens(tmp_path_factory, cache, steps, start, end):
    """Through commits, deletes, compactions, restores and damage, gaps are always those of the rows."""
    path: Path = tmp_path_factory.mktemp("gaps") / "main"
    table = make_table(path)
    for what, first, second in [*steps, ("ask", None, None)]:
        asked = table
        if what == "write":
            write_entries(table, make_rows(first, url=second))
        elif what == "both":
            write_entries(table, pa.concat_tables([make_rows(first), make_rows(second, url=OTHER_LOG)]))
        elif what == "delete":
            table.delete(f"cert_index = {first}")
        elif what == "compact":
            table.optimize.compact()
        elif what == "vacuum":
            # Not of what an older version needs, which is looked at again.
            table.vacuum(retention_hours=1, enforce_retention_duration=False, dry_run=False)
        elif what == "restore":
            if (version := first % (table.version() + 1)) < table.version():
                table.restore(version)
        elif what == "look back":
            asked = DeltaTable(path, version=first % (table.version() + 1))
        elif what == "forget":
            shutil.rmtree(cache / "coverage", ignore_errors=True)
        elif what == "damage":
            for file in cache.glob("coverage/*"):
                file.write_bytes(file.read_bytes()[:-7] + b"damaged")
        elif what == "make anew":
            shutil.rmtree(path)
            asked = table = make_table(path, make_rows([2, 4]))
        expected = set()
        for url in (LOG, OTHER_LOG):
            rows = set(indices_of(asked, url))
            low = start if start is not None else min(rows, default=end)
            expected |= {(url, index) for index in range(low, end)} - {(url, index) for index in rows}
        found = find_gaps(asked, within={LOG: (start, end), OTHER_LOG: (start, end)}).to_pylist()
        assert {(gap["source_url"], at) for gap in found for at in range(gap["start"], gap["end"])} == expected
