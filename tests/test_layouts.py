"""Tables whose log says what it likes: where files lie, of which day they are, what the table is called."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rows import LOG, add_file, indices_of, make_rows, make_table, rows_of

from ctkit.errors import CtkitError, TableError
from ctkit.jobs.audit import audit
from ctkit.lake.drop import orphans
from ctkit.lake.gaps import find_gaps
from ctkit.lake.merge import merge_staging, preview_merge
from ctkit.lake.scratch import LINKS, SCRATCH
from ctkit.lake.table import files_of, open_table
from ctkit.lake.undo import undo_merge
from ctkit.lake.write import write_entries


def edit_log(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite the actions of all commits of a table."""
    for commit in (folder / "_delta_log").glob("*.json"):
        actions = [json.loads(line) for line in commit.read_text().splitlines()]
        for action in actions:
            edit(action)
        commit.write_text("".join(json.dumps(action) + "\n" for action in actions))


def move_files(folder: Path, name_of: Callable[[Path], str], encode: Callable[[str], str] = quote) -> None:
    """Let the files of a table lie elsewhere below its folder."""

    def move(action: dict[str, Any]) -> None:
        if "add" in action:
            old = folder / action["add"]["path"]
            name = name_of(old)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.rename(old, folder / name)
            action["add"]["path"] = encode(name)

    edit_log(folder, move)


LAYOUTS: dict[str, tuple[Callable[[Path], str], Callable[[str], str]]] = {
    "flat": (lambda path: path.name, quote),
    "deep": (lambda path: f"data/a/b/{path.name}", quote),
    "wrong day": (lambda path: f"seen_date=1999-01-01/{path.name}", quote),
    "hashed prefix": (lambda path: f"x7/seen_date=2026-03-01/{path.name}", quote),
    "spaces, encoded": (lambda path: f"my files/{path.name}", quote),
    "spaces, raw": (lambda path: f"my files/{path.name}", str),
    "a percent sign": (lambda path: f"100%/{path.name}", quote),
    "pattern characters": (lambda path: f"a*b?[c]/{path.name}", quote),
    "not ASCII": (lambda path: f"é/{path.name}", quote),
    "needlessly encoded": (lambda path: f"x/{path.name}", lambda name: "%78" + name[1:]),
    "with a dot": (lambda path: f"x/{path.name}", lambda name: "./" + name),
    "another name": (lambda path: f"{path.name[11:19]}.pq", quote),
}


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_merge_of_any_layout(tmp_path, layout, known):
    """Files of staging may lie anywhere below its folder; main has them where it has its own, and staging is gone."""
    main = make_table(tmp_path / "main", make_rows([2 if known else 10]))
    make_table(tmp_path / "staging", make_rows([1, 2, 3], day=1), make_rows([4], day=2))
    move_files(tmp_path / "staging", *LAYOUTS[layout])
    staging = open_table(tmp_path / "staging")
    expected = make_rows([1, 2, 3], day=1).to_pylist() + make_rows([4], day=2).to_pylist()

    assert rows_of(staging) == expected
    assert find_gaps(staging, within={LOG: (1, 6)})["start"].to_pylist() == [5]
    assert preview_merge(staging, main).summary["seen_date"].to_list() == ["2026-03-01", "2026-03-02"]
    report = merge_staging(staging, main)

    assert report.staging_removed
    assert rows_of(main) == sorted(
        expected + ([] if known else make_rows([10]).to_pylist()), key=lambda row: row["cert_index"]
    )
    assert {Path(file).parent.name for file in files_of(main)} == {"seen_date=2026-03-01", "seen_date=2026-03-02"}
    assert {Path(file).parents[1] for file in files_of(main)} == {tmp_path / "main"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["main"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_merge_into_any_layout(tmp_path, layout):
    """Main's own files may lie anywhere below its folder: their rows are known, and stay when a merge is undone."""
    make_table(tmp_path / "main", make_rows([1, 2]))
    move_files(tmp_path / "main", *LAYOUTS[layout])
    main = open_table(tmp_path / "main")

    assert merge_staging(make_table(tmp_path / "staging", make_rows([2, 3])), main).inserted == 1

    assert rows_of(main) == make_rows([1, 2, 3]).to_pylist()
    undo_merge(main)
    assert indices_of(main) == [1, 2]
    assert indices_of(open_table(tmp_path / "staging")) == [3]


def test_merge_of_a_file_that_keeps_its_partition(tmp_path):
    """A column ``seen_date`` in the file does not count: the partition is what the table's log says."""
    main = make_table(tmp_path / "main", make_rows([1]))
    rows = make_rows([2, 3]).set_column(3, "seen_date", pa.array(["1999-01-01"] * 2))
    staging = add_file(tmp_path / "staging", rows, day="2026-03-01")

    assert preview_merge(staging, main).summary["seen_date"].to_list() == ["2026-03-01"]
    merge_staging(staging, main)

    assert rows_of(main) == make_rows([1, 2, 3]).to_pylist()


OUTSIDE = [
    "../outside/evil.parquet",
    "%2E%2E/outside/evil.parquet",
    "..%2Foutside%2Fevil.parquet",
    "seen_date=2026-03-01/../../outside/evil.parquet",
    "{root}/outside/evil.parquet",
    "file://{root}/outside/evil.parquet",
    "s3://bucket/evil.parquet",
    "_delta_log/00000000000000000000.json",
    "evil%00.parquet",
    "",
]


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("table", ["main", "staging"])
def test_merge_when_a_path_leads_out(tmp_path, table, path):
    """A path in a table's log that is not below its folder is refused; nothing is read, linked or removed there."""
    outside = tmp_path / "outside"
    outside.mkdir()
    pq.write_table(make_rows([7]), outside / "evil.parquet")
    make_table(tmp_path / "main", make_rows([1]))
    make_table(tmp_path / "staging", make_rows([2, 3]))
    edit_log(tmp_path / table, lambda action: action.get("add", {}).update(path=path.format(root=tmp_path)))
    before = sorted(str(path) for path in tmp_path.rglob("*"))

    with pytest.raises(CtkitError):
        merge_staging(open_table(tmp_path / "staging"), open_table(tmp_path / "main"))

    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "day", ["x/../../../../outside/evil", "..", "", None, "2026-03-01/..", "20260301", "2026-13-99", "/", "nul\0"]
)
@pytest.mark.parametrize("indices", [[2, 3], [1, 3]])
def test_merge_when_the_partition_is_no_date(tmp_path, day, indices):
    """A partition value names a folder of main, so it must be a date; nothing is written where it is not."""
    main = make_table(tmp_path / "main", make_rows([1]))
    make_table(tmp_path / "staging", make_rows(indices))
    edit_log(tmp_path / "staging", lambda action: action.get("add", {}).update(partitionValues={"seen_date": day}))
    before = sorted(str(path) for path in tmp_path.rglob("*"))

    with pytest.raises(TableError):
        merge_staging(open_table(tmp_path / "staging"), main)

    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    assert indices_of(open_table(tmp_path / "main")) == [1]


@pytest.mark.parametrize("id_", ["..", ".", "", "/", "{root}/precious", "../../precious", "a/b", "x" * 300, "\x1b[2J"])
def test_merge_when_the_id_of_staging_is_a_path(tmp_path, id_):
    """What a table is called is no path: a merge does the same, whatever it is."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    main = make_table(tmp_path / "main", make_rows([1]))
    make_table(tmp_path / "staging", make_rows([2, 3]))
    edit_log(tmp_path / "staging", lambda action: action.get("metaData", {}).update(id=id_.format(root=tmp_path)))

    merge_staging(open_table(tmp_path / "staging"), main)

    assert indices_of(main) == [1, 2, 3]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.parent.name != "_delta_log" and path.is_file()) == [
        *sorted(Path(file).name for file in files_of(main)),
        "thesis.txt",
    ]


NOTES = [
    "{}",
    "[]",
    "null",
    "7",
    '{"version": 0}',
    '{"version": "0", "names": []}',
    '{"version": 0, "names": 7}',
    '{"version": 0, "names": [7]}',
    '{"version": 0, "names": ["../staging/_delta_log/00000000000000000000.json"]}',
    '{"version": 0, "names": ["seen_date=2026-03-01/notes of somebody.txt"]}',
    '{"version": true, "names": []}',
    '{"version": 99, "names": ["seen_date=2026-03-01/part-00000-00000000-0000-0000-0000-000000000000-c000.parquet"]}',
    "[" * 100_000,
]


@pytest.mark.parametrize("note", NOTES)
def test_merge_when_the_note_of_an_earlier_one_is_strange(tmp_path, note):
    """A note that no merge has written removes nothing, and is in the way of nobody."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2, 3]))
    theirs = tmp_path / "main/seen_date=2026-03-01/notes of somebody.txt"
    theirs.write_text("mine")
    path = tmp_path / "main" / SCRATCH / LINKS
    path.parent.mkdir()
    path.write_text(note)

    merge_staging(staging, main)

    assert indices_of(main) == [1, 2, 3]
    assert theirs.read_text() == "mine"
    assert not path.parent.exists()


@pytest.mark.parametrize("claimed", [0, -5, 10**15])
def test_merge_when_the_log_of_staging_miscounts_rows(tmp_path, claimed):
    """Numbers of rows that cannot be are those of the file."""
    main = make_table(tmp_path / "main", make_rows([1]))
    make_table(tmp_path / "staging", make_rows([2, 3]))

    def miscount(action: dict[str, Any]) -> None:
        if "add" in action:
            action["add"]["stats"] = json.dumps({"numRecords": claimed})

    edit_log(tmp_path / "staging", miscount)
    staging = open_table(tmp_path / "staging")

    assert preview_merge(staging, main).inserted == 2
    assert merge_staging(staging, main, confirmed=True).inserted == 2
    assert indices_of(main) == [1, 2, 3]


LIES: list[dict[str, Any]] = [
    {},
    {"cert_index": 900},
    {"cert_index": 900, "source_url": "https://zz.example"},
    {"seen": "2099-01-01T00:00:00Z"},
]


@pytest.mark.parametrize("bounds", LIES)
def test_merge_when_statistics_of_staging_lie(tmp_path, bounds):
    """Main's log has the bounds of the rows that are in the file, whatever staging's log says of them."""
    main = make_table(tmp_path / "main", make_rows([1]))
    make_table(tmp_path / "staging", make_rows([2, 3]))

    def lie(action: dict[str, Any]) -> None:
        if "add" in action:
            said = {"numRecords": 2, "minValues": bounds, "maxValues": bounds, "nullCount": {}}
            action["add"]["stats"] = json.dumps(said)

    edit_log(tmp_path / "staging", lie)
    merge_staging(open_table(tmp_path / "staging"), main)

    assert find_gaps(main, within={LOG: (0, 5)}).select(["start", "end"]).to_pylist() == [
        {"start": 0, "end": 1},
        {"start": 4, "end": 5},
    ]
    assert merge_staging(make_table(tmp_path / "staging", make_rows([2, 3, 4])), main).skipped == 2
    actions = pa.table(main.get_add_actions(flatten=True)).sort_by("min.cert_index").to_pylist()
    assert [(action["min.cert_index"], action["max.cert_index"]) for action in actions] == [(1, 1), (2, 3), (4, 4)]


def test_merge_of_a_file_that_is_a_symbolic_link(tmp_path):
    """Main has the rows of a linked file, and not a link to what the merge then removes."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2, 3]))
    (file,) = map(Path, files_of(staging))
    os.rename(file, tmp_path / "elsewhere.parquet")
    file.symlink_to(tmp_path / "elsewhere.parquet")

    merge_staging(staging, main)

    assert not any(Path(file).is_symlink() for file in files_of(main))
    assert rows_of(main) == make_rows([1, 2, 3]).to_pylist()
    assert (tmp_path / "elsewhere.parquet").exists()


@pytest.mark.parametrize("link", ["seen_date=2026-03-02", SCRATCH])
def test_nothing_is_written_through_a_symbolic_link(tmp_path, link):
    """A folder of main that is a link leads out of it: neither a merge nor a backfill writes there."""
    outside = tmp_path / "outside"
    outside.mkdir()
    main = make_table(tmp_path / "main", make_rows([1]))
    (tmp_path / "main" / link).symlink_to(outside)
    staging = make_table(tmp_path / "staging", make_rows([2, 3], day=2))

    with pytest.raises(TableError):
        merge_staging(staging, main)
    if link != SCRATCH:
        with pytest.raises(TableError):
            write_entries(main, make_rows([2, 3], day=2))

    assert list(outside.iterdir()) == []
    assert indices_of(open_table(tmp_path / "main")) == [1]
    assert indices_of(open_table(tmp_path / "staging")) == [2, 3]


@pytest.mark.parametrize("name", ["notes of somebody.txt", "part-of-mine.csv", "deeper/notes.txt"])
@pytest.mark.parametrize("where", ["seen_date=2026-03-01", "seen_date=2026-09-09", "."])
def test_merge_when_somebody_keeps_files_in_staging(tmp_path, where, name):
    """What is not the table's own stays, wherever it lies in the table's folder, and the report names it."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2, 3]))
    theirs = tmp_path / "staging" / where / name
    theirs.parent.mkdir(parents=True, exist_ok=True)
    theirs.write_text("mine")

    report = merge_staging(staging, main)

    assert indices_of(main) == [1, 2, 3]
    assert theirs.read_text() == "mine"
    assert not report.staging_removed


def test_merge_when_somebody_keeps_a_link_in_staging(tmp_path):
    """A symbolic link to a folder is somebody's, though nothing is in that folder."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2]))
    (tmp_path / "empty").mkdir()
    (tmp_path / "staging/mine").symlink_to(tmp_path / "empty")

    report = merge_staging(staging, main)

    assert indices_of(main) == [1, 2]
    assert (tmp_path / "staging/mine").is_symlink()
    assert not report.staging_removed


def test_files_that_a_commit_has_named_are_no_orphans(tmp_path):
    """What a table has taken out of itself is history: a merge leaves it."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2]), make_rows([3]))
    history = files_of(staging)
    staging.delete("cert_index > 0")
    write_entries(staging, make_rows([4]))
    orphan = tmp_path / "staging/seen_date=2026-03-01/part-00000-dead.parquet"
    orphan.write_bytes(b"PAR1")

    merge_staging(staging, main)

    assert indices_of(main) == [1, 4]
    assert all(Path(file).exists() for file in history)


def test_files_behind_a_link_are_no_orphans(tmp_path):
    """What lies in a folder that a symbolic link leads to is not the table's."""
    staging = make_table(tmp_path / "staging", make_rows([2]))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/part-00000-theirs.parquet").write_bytes(b"PAR1")
    (tmp_path / "staging/seen_date=2026-03-02").symlink_to(tmp_path / "theirs")

    assert orphans(staging) == []


def test_files_are_no_orphans_where_commits_are_gone(tmp_path):
    """Where the log does not tell any more what it has named, nothing is taken for an orphan."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2]), make_rows([3]))
    staging.create_checkpoint()
    (tmp_path / "staging/_delta_log" / f"{1:020}.json").unlink()
    orphan = tmp_path / "staging/seen_date=2026-03-01/part-00000-dead.parquet"
    orphan.write_bytes(b"PAR1")

    merge_staging(open_table(tmp_path / "staging"), main, confirmed=True)

    assert indices_of(main) == [1, 2, 3]
    assert orphan.exists()


@pytest.mark.parametrize("target", [None, "/dev/zero"], ids=["pipe", "link to a device"])
def test_a_file_that_is_none_is_not_read(tmp_path, target):
    """A pipe would be waited for, a device read for ever: refused when it is named, without opening it."""
    staging, main = (
        make_table(tmp_path / "staging", make_rows([0, 1])),
        make_table(tmp_path / "main", make_rows([2, 3])),
    )
    [file] = map(Path, files_of(staging))
    file.unlink()
    if target:
        file.symlink_to(target)
    else:
        os.mkfifo(file)

    verbs = [
        lambda: find_gaps(main, staging, within={LOG: (0, 9)}),
        lambda: merge_staging(staging, main),
        lambda: audit([], staging),
    ]
    for verb in verbs:
        with pytest.raises(TableError):
            verb()

    assert indices_of(main) == [2, 3]
