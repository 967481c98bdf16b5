"""Swapped tables, mistyped paths: a mistake of a person costs no row."""

import itertools
import json
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from raising import fails
from rows import OTHER_LOG, indices_of, keys_of, make_rows, make_table, read_provenance

from ctkit import cli
from ctkit.desk.parameters import read_parameters
from ctkit.desk.verbs import merge_staged
from ctkit.errors import (
    CtkitError,
    KeyConflictError,
    ParameterError,
    StalePreviewError,
    TableError,
    UnconfirmedMergeError,
)
from ctkit.lake import merge, undo
from ctkit.lake.doubts import MANY_ROWS, STAGED_FOR
from ctkit.lake.merge import merge_staging, preview_merge
from ctkit.lake.overlap import Overlap
from ctkit.lake.repair import repair
from ctkit.lake.scratch import scratch_of
from ctkit.lake.table import files_of, find_table, hold, open_table
from ctkit.lake.undo import undo_merge
from ctkit.lake.write import write_entries


def merged_into(path: Path):
    """Return a table into which a merge was made."""
    table = make_table(path, make_rows([1]))
    merge_staging(make_table(path.with_name("first"), make_rows([2])), table)
    return table


def undone(path: Path):
    """Return a table whose last merge was undone."""
    table = merged_into(path)
    undo_merge(table, path.with_name("put back"))
    return table


def of_a_live_service(path: Path):
    """Return a table that another program filled."""
    table = open_table(path)
    write_deltalake(table, make_rows([1, 2]), mode="append")
    return table


def extended(path: Path):
    """Return a table of a backfill that another program wrote to."""
    table = make_table(path, make_rows([1]))
    write_deltalake(table, make_rows([2]), mode="append")
    return table


def large(path: Path):
    """Return a table with many rows."""
    return make_table(path, make_rows(range(MANY_ROWS)))


def cleaned(path: Path):
    """Return a table whose first commits are gone, with whatever they said."""
    table = make_table(path, make_rows([1]), make_rows([2]))
    table.create_checkpoint()
    for version in (0, 1):
        (path / "_delta_log" / f"{version:020}.json").unlink()
    return table


def filled_directly(path: Path):
    """Return a main table that a backfill filled without staging."""
    table = open_table(path)
    write_entries(table, make_rows([1]), metadata={STAGED_FOR: str(table.metadata().id)})
    return table


DOUBTFUL = [merged_into, undone, of_a_live_service, extended, large, cleaned, filled_directly]


@pytest.mark.parametrize(
    ("make", "rows"),
    # A new main has fewer rows than any staging table: there many rows are no doubt.
    [(make, rows) for make in DOUBTFUL for rows in ([1], []) if rows or make is not large],
)
def test_merge_of_what_looks_like_main(tmp_path, make, rows):
    """A table that may be main is not merged unless that is confirmed; the preview says why, and nothing is changed."""
    staging, main = make(tmp_path / "staging"), make_table(tmp_path / "main", make_rows(rows))
    before = sorted(str(path) for path in tmp_path.rglob("*"))

    preview = preview_merge(staging, main)
    with pytest.raises(UnconfirmedMergeError) as raised:
        merge_staging(staging, main, expected=preview)

    assert raised.value.doubts == preview.doubts != ()
    assert (raised.value.uri, raised.value.main) == (str(tmp_path / "staging"), str(tmp_path / "main"))
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    wanted = sorted({*keys_of(staging), *keys_of(main)})
    assert merge_staging(staging, main, expected=preview, confirmed=True).staging_rows
    assert keys_of(main) == wanted


@pytest.mark.parametrize("make", DOUBTFUL)
def test_merge_of_what_looks_like_main_where_there_is_none(tmp_path, make):
    """Where main does not exist, only what staging itself says counts: how many rows it has is no doubt."""
    make(tmp_path / "staging")
    flags = ["merge", "--main-path", f"{tmp_path}/main", "--staging-path", f"{tmp_path}/staging", "--create"]

    assert cli.main(flags) == (0 if make is large else 1)
    assert (find_table(tmp_path / "main") is not None) == (make is large)
    assert cli.main([*flags, "--yes"]) == 0
    left = find_table(tmp_path / "staging")
    assert left is None or not files_of(left)


def test_merge_of_a_large_backfill_for_this_main(tmp_path):
    """What was fetched for this very main may be many times as much as it has; what was fetched for another may not."""
    main, other = (make_table(tmp_path / name, make_rows([1])) for name in ("main", "other"))
    staging = open_table(tmp_path / "staging")
    write_entries(staging, make_rows(range(MANY_ROWS)), metadata={STAGED_FOR: str(main.metadata().id)})

    assert preview_merge(staging, other).doubts != ()
    assert preview_merge(staging, main).doubts == ()
    assert merge_staging(staging, main).inserted == MANY_ROWS - 1


def test_merge_into_what_was_staged_for_it(tmp_path):
    """Main was filled by another way, staging was fetched for it: swapped, the merge is not made unasked."""
    main = make_table(tmp_path / "main", make_rows(range(9)))
    staging = open_table(tmp_path / "staging")
    write_entries(staging, make_rows([20]), metadata={STAGED_FOR: str(main.metadata().id)})

    with pytest.raises(UnconfirmedMergeError):
        merge_staging(main, staging)
    assert merge_staging(staging, main).inserted == 1


@pytest.mark.parametrize("place", [5, None, ["x"]])
def test_undo_when_the_merge_came_from_no_text(tmp_path, place):
    """A place that is no text is none; where the rows go can be named."""
    main = make_table(tmp_path / "main", make_rows([1]))
    merge_staging(make_table(tmp_path / "staging", make_rows([2])), main)
    commit = tmp_path / "main/_delta_log" / f"{2:020}.json"
    commit.write_text(commit.read_text().replace(json.dumps(f"{tmp_path}/staging"), json.dumps(place)))

    with pytest.raises(TableError):
        undo_merge(open_table(tmp_path / "main"))
    undo_merge(open_table(tmp_path / "main"), tmp_path / "staging")
    assert indices_of(open_table(tmp_path / "staging")) == [2]


def test_merge_of_a_small_staging_table(tmp_path):
    """Few rows are many times those of a main that has fewer; that is no reason to ask."""
    main = make_table(tmp_path / "main", make_rows([1]))

    assert merge_staging(make_table(tmp_path / "staging", make_rows(range(MANY_ROWS - 1))), main).staging_rows


def test_merge_when_the_main_path_is_mistyped(tmp_path):
    """A main table that a flag names and that is not there is not created unasked; one that a file names is."""
    make_table(tmp_path / "staging", make_rows([1]))
    flags = ["merge", "--staging-path", f"{tmp_path}/staging"]
    (tmp_path / "p.yaml").write_text(f"main_path: {tmp_path}/named\n")

    assert cli.main([*flags, "--main-path", f"{tmp_path}/mian"]) == 1
    assert not (tmp_path / "mian").exists()
    assert indices_of(open_table(tmp_path / "staging")) == [1]
    shutil.copytree(tmp_path / "staging", tmp_path / "again")
    assert cli.main([*flags, "-f", f"{tmp_path}/p.yaml"]) == 0
    assert cli.main(["merge", "--staging-path", f"{tmp_path}/again", "--main-path", f"{tmp_path}/new", "--create"]) == 0
    assert indices_of(open_table(tmp_path / "new")) == indices_of(open_table(tmp_path / "named")) == [1]


def test_merge_staged_when_main_is_not_to_be_created(tmp_path):
    """In Python and in a file it is a parameter."""
    make_table(tmp_path / "staging", make_rows([1]))
    parameters = read_parameters(main_path=f"{tmp_path}/main", staging_path=f"{tmp_path}/staging", create_main=False)

    with pytest.raises(ParameterError):
        merge_staged(parameters)
    assert not (tmp_path / "main").exists()


def test_merge_staged_when_another_run_holds_staging(tmp_path):
    """No main table is created for a merge that cannot be made."""
    staging = make_table(tmp_path / "staging", make_rows([1]))
    parameters = read_parameters(main_path=f"{tmp_path}/main", staging_path=f"{tmp_path}/staging")

    with hold(staging), fails(TableError, uri=tmp_path / "staging"):
        merge_staged(parameters)
    assert not (tmp_path / "main").exists()


STEPS = [
    ["merge", "--main-path", "{main}", "--staging-path", "{staging}"],
    ["merge", "--main-path", "{staging}", "--staging-path", "{main}"],
    ["merge", "--main-path", "{main}", "--staging-path", "{staging}", "--yes"],
    ["merge", "--main-path", "{staging}", "--staging-path", "{main}", "--yes"],
    ["merge", "--undo", "--main-path", "{main}"],
    ["merge", "--undo", "--main-path", "{staging}"],
    ["merge", "--undo", "--main-path", "{main}", "--staging-path", "{staging}"],
    ["merge", "--undo", "--main-path", "{staging}", "--staging-path", "{main}"],
]


ORDERS = random.Random(1).sample(list(itertools.product(range(len(STEPS)), repeat=4)), 60)


@pytest.mark.parametrize("steps", ORDERS)
def test_swaps_undos_and_merges_in_every_order(tmp_path, steps):
    """Whatever is typed, with the paths swapped or not, confirmed or not: every row is in one of the two tables."""
    paths = {name: tmp_path / name for name in ("main", "staging")}
    make_table(paths["main"], make_rows(range(4)), make_rows([1], url=OTHER_LOG))
    make_table(paths["staging"], make_rows([3, 4, 5], day=2))
    everything = {key for path in paths.values() for key in keys_of(open_table(path))}

    for step in steps:
        cli.main([word.format(**paths) for word in STEPS[step]])
        tables = [table for path in paths.values() if (table := find_table(path))]
        assert {key for table in tables for key in keys_of(table)} == everything, STEPS[step]


def test_undo_puts_rows_and_records_back(tmp_path):
    """Staging is what it was but for the rows that main has, and what was verified of them is still said."""
    from test_provenance import record, write_recorded

    main = make_table(tmp_path / "main", make_rows([1]))
    staging = open_table(tmp_path / "staging")
    write_recorded(staging, record(1, 10))
    merge_staging(staging, main)

    report = undo_merge(main)
    assert (report.version, report.rows, report.staging) == (main.version(), 8, str(tmp_path / "staging"))

    back = open_table(tmp_path / "staging")
    assert indices_of(main) == [1]
    assert indices_of(back) == list(range(2, 10))
    assert [said for _, said in read_provenance(back)] == [record(1, 10)]
    assert preview_merge(back, main).doubts == ()
    assert merge_staging(back, main).inserted == 8


def test_undo_of_a_large_merge_raises_no_doubt(tmp_path):
    """Rows that are put back are still meant for the main table that they came from."""
    main = make_table(tmp_path / "main", make_rows([0]))
    staging = open_table(tmp_path / "staging")
    write_entries(staging, make_rows(range(1, MANY_ROWS + 1)), metadata={STAGED_FOR: str(main.metadata().id)})
    merge_staging(staging, main)

    undo_merge(main)

    assert preview_merge(open_table(tmp_path / "staging"), main).doubts == ()


def test_undo_of_one_merge(tmp_path):
    """Where a version is named, only the merge that made it is undone, and none if main has moved since."""
    main = make_table(tmp_path / "main", make_rows([0]))
    first = merge_staging(make_table(tmp_path / "staging", make_rows([1])), main)
    second = merge_staging(make_table(tmp_path / "staging", make_rows([2])), main)

    with pytest.raises(StalePreviewError):
        undo_merge(main, version=first.version)
    assert (main.version(), indices_of(main)) == (second.version, [0, 1, 2])
    assert not (tmp_path / "staging").exists()

    undo_merge(main, version=second.version)
    assert indices_of(main) == [0, 1]


def test_undo_when_staging_has_new_rows(tmp_path):
    """Rows go back to the staging table that is named, beside what it has."""
    main = make_table(tmp_path / "main", make_rows([1]))
    merge_staging(make_table(tmp_path / "staging", make_rows([2])), main)
    make_table(tmp_path / "staging", make_rows([3]))

    with pytest.raises(TableError):
        undo_merge(main)
    assert indices_of(main) == [1, 2]
    undo_merge(main, tmp_path / "staging")

    assert indices_of(open_table(tmp_path / "staging")) == [2, 3]
    assert indices_of(main) == [1]


@pytest.mark.parametrize(
    "place", ["{root}/main/inside", "{root}", "{root}/main", "relative", "", "{root}/gone/staging"]
)
def test_undo_when_the_merge_says_it_came_from_elsewhere(tmp_path, monkeypatch, place):
    """Where main's log says the rows came from is looked at before anything is written there."""
    monkeypatch.chdir(tmp_path)
    main = make_table(tmp_path / "main", make_rows([1]))
    merge_staging(make_table(tmp_path / "staging", make_rows([2])), main)
    commit = tmp_path / "main/_delta_log" / f"{2:020}.json"
    commit.write_text(
        commit.read_text().replace(json.dumps(f"{tmp_path}/staging"), json.dumps(place.format(root=tmp_path)))
    )
    before = sorted(str(path) for path in tmp_path.rglob("*"))

    with pytest.raises(CtkitError):
        undo_merge(open_table(tmp_path / "main"))

    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    assert undo_merge(open_table(tmp_path / "main"), tmp_path / "staging").version == 3
    assert indices_of(open_table(tmp_path / "staging")) == [2]


def test_undo_when_somebody_commits_first(tmp_path, monkeypatch):
    """A commit between the look and the undo: main keeps all rows."""
    main = make_table(tmp_path / "main", make_rows([1]))
    merge_staging(make_table(tmp_path / "staging", make_rows([2])), main)
    confirm = undo.confirm_files

    def confirm_late(*arguments):
        confirm(*arguments)
        write_deltalake(tmp_path / "main", make_rows([9]), mode="append")

    monkeypatch.setattr(undo, "confirm_files", confirm_late)
    with pytest.raises(TableError):
        undo_merge(main)

    assert indices_of(open_table(tmp_path / "main")) == [1, 2, 9]


def test_undo_when_somebody_writes_to_staging(tmp_path, monkeypatch):
    """Their commit comes before the one that puts the rows back, which are looked for where they are."""
    main = make_table(tmp_path / "main", make_rows([1]))
    merge_staging(make_table(tmp_path / "staging", make_rows([2])), main)
    make_table(tmp_path / "other", make_rows([3]))
    link = undo.link_missing

    def link_and_write(*arguments, **options):
        linked = link(*arguments, **options)
        write_deltalake(tmp_path / "other", make_rows([4]), mode="append")
        return linked

    monkeypatch.setattr(undo, "link_missing", link_and_write)
    undo_merge(main, tmp_path / "other")

    assert indices_of(open_table(tmp_path / "main")) == [1]
    assert indices_of(open_table(tmp_path / "other")) == [2, 3, 4]


@pytest.mark.parametrize("place", ["", "below"])
def test_undo_into_main(tmp_path, place):
    """Rows are put back into a folder outside of main, or not at all."""
    main = make_table(tmp_path / "main", make_rows([1]))
    merge_staging(make_table(tmp_path / "staging", make_rows([2])), main)

    with pytest.raises(ParameterError):
        undo_merge(main, tmp_path / "main" / place)

    assert not (tmp_path / "main" / "below").exists()
    assert indices_of(open_table(tmp_path / "main")) == [1, 2]


@pytest.mark.parametrize("step", ["link_missing", "commit_files", "confirm_files", "second commit_files"])
def test_undo_after_one_that_died(tmp_path, monkeypatch, step):
    """An undo that dies at any step is completed by the same call, and no row is lost or doubled."""
    main = make_table(tmp_path / "main", make_rows([1]))
    merge_staging(make_table(tmp_path / "staging", make_rows([2, 3])), main)
    name, calls = step.split()[-1], [step.startswith("second")]
    does = getattr(undo, name)

    def die(*arguments, **options):
        if calls.pop():
            calls.append(False)
            return does(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(undo, name, die)
        with pytest.raises(KeyboardInterrupt):
            undo_merge(main)
    assert indices_of(open_table(tmp_path / "main")) == [1, 2, 3]
    undo_merge(open_table(tmp_path / "main"))

    assert indices_of(open_table(tmp_path / "main")) == [1]
    assert indices_of(open_table(tmp_path / "staging")) == [2, 3]
    merge_staging(open_table(tmp_path / "staging"), open_table(tmp_path / "main"))
    assert indices_of(open_table(tmp_path / "main")) == [1, 2, 3]


def test_undo_when_the_staging_table_is_still_there(tmp_path):
    """What is in staging now may be other rows than those that were merged, although the table is the same."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2, 3]))
    (tmp_path / "staging/notes.txt").write_text("mine")
    assert not merge_staging(staging, main).staging_removed
    write_entries(open_table(tmp_path / "staging"), make_rows([8, 9]))

    undo_merge(main)

    assert indices_of(main) == [1]
    assert indices_of(open_table(tmp_path / "staging")) == [2, 3, 8, 9]


def test_undo_when_rows_and_counts_disagree(tmp_path, monkeypatch):
    """Rows do not leave main unless staging has all of them."""
    main = make_table(tmp_path / "main", make_rows([1]))
    merge_staging(make_table(tmp_path / "staging", make_rows([10]), make_rows([11], day=2)), main)
    prepare = merge.prepare_files
    monkeypatch.setattr(merge, "prepare_files", lambda *arguments: prepare(*arguments)[1:])

    with fails(TableError, uri=tmp_path / "main"):
        undo_merge(main)

    assert indices_of(open_table(tmp_path / "main")) == [1, 10, 11]
    assert not scratch_of(open_table(tmp_path / "staging")).exists()


def test_undo_into_a_staging_table_that_has_some_of_the_rows(tmp_path):
    """Only those that it lacks are put there."""
    main = make_table(tmp_path / "main", make_rows([1]))
    merge_staging(make_table(tmp_path / "staging", make_rows([2, 3, 4])), main)
    make_table(tmp_path / "staging", make_rows([3, 5]))

    undo_merge(main, tmp_path / "staging")

    assert indices_of(main) == [1]
    assert indices_of(open_table(tmp_path / "staging")) == [2, 3, 4, 5]
    assert not scratch_of(open_table(tmp_path / "staging")).exists()


def test_undo_into_a_staging_table_that_contradicts(tmp_path):
    """Where staging has another certificate under a key, main's row would be lost: nothing is changed."""
    main = make_table(tmp_path / "main", make_rows([1]))
    merge_staging(make_table(tmp_path / "staging", make_rows([2, 3])), main)
    rows = make_rows([3])
    other = rows.set_column(rows.schema.get_field_index("sha256"), "sha256", pa.array(["0" * 64]))
    staging = make_table(tmp_path / "staging", other.cast(rows.schema))

    with fails(KeyConflictError, uri=tmp_path / "staging"):
        undo_merge(main, tmp_path / "staging")

    assert indices_of(open_table(tmp_path / "main")) == [1, 2, 3]
    assert open_table(tmp_path / "staging").version() == staging.version()


def test_merge_when_main_loses_rows_that_staging_repeats(tmp_path, monkeypatch):
    """Where main has all of staging, it is looked at once more before staging goes: others may have removed rows."""
    main = make_table(tmp_path / "main", make_rows(range(10)))
    staging = make_table(tmp_path / "staging", make_rows(range(5, 10)))
    skip = Overlap.skip_present

    def skip_and_lose(*arguments):
        found = skip(*arguments)
        open_table(tmp_path / "main").delete("cert_index >= 5")
        return found

    monkeypatch.setattr(Overlap, "skip_present", skip_and_lose)
    with pytest.raises(TableError):
        merge_staging(staging, main)
    monkeypatch.undo()

    assert indices_of(open_table(tmp_path / "staging")) == list(range(5, 10))
    assert merge_staging(staging, open_table(tmp_path / "main")).inserted == 5


def test_merge_of_a_staging_table_that_was_repaired(tmp_path):
    """What a repair and a compaction took out of staging goes with it; what others deleted stays."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2, 3]), make_rows([3, 4]))
    repair(staging)
    staging.optimize.compact()

    assert merge_staging(staging, main, confirmed=True).staging_removed
    assert indices_of(main) == [1, 2, 3, 4]

    staging = make_table(tmp_path / "staging", make_rows([5]), make_rows([6]))
    deleted = files_of(staging)
    staging.delete("cert_index = 6")
    assert not merge_staging(staging, main, confirmed=True).staging_removed
    assert sum(Path(file).exists() for file in deleted) == 1


def test_merge_of_what_somebody_compacted(tmp_path):
    """A compaction, whoever runs it, brings no row that a backfill did not write."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2]), make_rows([3]))
    staging.optimize.compact()

    assert preview_merge(staging, main).doubts == ()
    assert merge_staging(staging, main).inserted == 2
