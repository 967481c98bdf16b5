"""Tables at rest: opened, created, told apart, and held."""

import errno
import fcntl
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.transaction import AddAction
from raising import fails
from rows import LOG, OTHER_LOG, commits_of, indices_of, make_rows, make_table, rows_of

import ctkit
from ctkit.errors import ParameterError, SchemaMismatchError, TableError
from ctkit.lake.coverage import source_names
from ctkit.lake.gaps import find_gaps
from ctkit.lake.reasons import first_line
from ctkit.lake.table import (
    as_der_type,
    check_separate,
    files_of,
    find_table,
    folder_of,
    hold,
    open_table,
    table_path,
)
from ctkit.lake.write import write_entries
from ctkit.schema import row_schema


def test_open_table_when_it_is_missing(tmp_path):
    """A new table has the 20 columns, one partition column, raw DER, and nothing above reader 1 and writer 2.

    Its commits are to be kept; see `test_commits_of_a_table_of_ours_when_they_are_old`.
    """
    table = open_table(tmp_path / "a" / "b" / "main")

    assert pa.schema(table.schema()) == row_schema()
    assert table.metadata().partition_columns == ["seen_date"]
    assert (table.protocol().min_reader_version, table.protocol().min_writer_version) == (1, 2)
    assert table.metadata().configuration.keys() == {"delta.logRetentionDuration"}


def test_open_table_that_must_be_there(tmp_path):
    """Nothing is created at a path that is mistyped, and what is called alike is named."""
    open_table(tmp_path / "main")
    with pytest.raises(TableError) as raised:
        open_table(tmp_path / "mian", create=False)

    assert raised.value.uri == str(tmp_path / "mian")
    assert "main" in raised.value.message
    assert not (tmp_path / "mian").exists()
    assert open_table(tmp_path / "main", create=False).version() == 0


def test_open_table_when_it_is_there(tmp_path):
    """Opening creates nothing a second time."""
    make_table(tmp_path / "main", make_rows([1, 2]))
    before = commits_of(tmp_path / "main")

    assert indices_of(open_table(tmp_path / "main")) == [1, 2]
    assert commits_of(tmp_path / "main") == before


def test_open_table_like_an_old_one(tmp_path):
    """A staging table follows a main table that holds DER as base64 text."""
    old = DeltaTable.create(tmp_path / "old", row_schema("string"), partition_by=["seen_date"])

    assert as_der_type(open_table(tmp_path / "staging", like=old)) == "string"


@pytest.mark.parametrize("name", ["notes.txt", ".bashrc"])
@pytest.mark.parametrize("look", [find_table, open_table])
def test_open_table_when_the_folder_holds_other_things(tmp_path, look, name):
    """No table is put into a folder with other files, hidden or not, nor is it taken for one that is only missing."""
    (tmp_path / name).write_text("mine")

    with fails(TableError, uri=tmp_path):
        look(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_open_table_when_the_path_is_a_file(tmp_path):
    """A path that is a file is an error of ours."""
    (tmp_path / "main").write_text("no folder")

    with fails(TableError, uri=tmp_path / "main"):
        open_table(tmp_path / "main")


def test_find_table_when_nothing_is_there(tmp_path):
    """A missing folder and an empty one are no tables, and looking creates nothing."""
    (tmp_path / "empty").mkdir()

    assert find_table(tmp_path / "missing") is None
    assert find_table(tmp_path / "empty") is None
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_find_table_when_its_log_is_corrupt(tmp_path):
    """A table whose log cannot be read is an error, not a missing table."""
    make_table(tmp_path / "main", make_rows([1]))
    (tmp_path / "main" / "_delta_log" / "00000000000000000000.json").write_text("{broken")

    with fails(TableError, uri=tmp_path / "main"):
        find_table(tmp_path / "main")


def test_find_table_when_it_is_not_ours(tmp_path):
    """Everything that differs is listed, in one message."""
    rows = make_rows([1]).drop_columns(["chain"]).append_column("extra", pa.array(["x"]))
    rows = rows.set_column(rows.schema.get_field_index("is_ca"), "is_ca", pa.array(["no"]))
    write_deltalake(tmp_path / "main", rows)

    with fails(SchemaMismatchError, uri=tmp_path / "main") as caught:
        find_table(tmp_path / "main")

    for difference in (
        "column chain is missing",
        "column extra is not ours",
        "column is_ca is string, not bool",
        "partitioned by [], not by ['seen_date']",
    ):
        assert difference in str(caught.value)


def test_find_table_when_the_live_server_made_it(tmp_path):
    """A table created with deltalake's own defaults, by the live server's rules, is one of ours."""
    for as_der in ("binary", "string"):
        path = tmp_path / as_der
        DeltaTable.create(path, row_schema(as_der), partition_by=["seen_date"])
        write_deltalake(path, make_rows([3, 4], as_der=as_der), mode="append")

        assert rows_of(find_table(path)) == make_rows([3, 4], as_der=as_der).to_pylist()


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/data/main", "/data/main"),
        ("/data/main/", "/data/main"),
        ("/data/x/../main", "/data/main"),
        ("file:///data/main/", "/data/main"),
        ("file://localhost/data/main", "/data/main"),
        ("file:///data/my%20main", "/data/my main"),
    ],
)
def test_table_path_of_every_spelling(uri, expected):
    """Bare paths and file URIs name the same folder."""
    assert str(table_path(uri)) == expected


def test_table_path_when_it_is_relative(tmp_path, monkeypatch):
    """Relative paths, also in the live server's form of a file URI, are relative to the current directory."""
    monkeypatch.chdir(tmp_path)

    assert table_path("data/main") == table_path("file://./data/main") == tmp_path / "data" / "main"


@pytest.mark.parametrize("uri", ["s3://bucket/main", "", "  "])
def test_table_path_when_it_cannot_be_used(uri):
    """Remote tables and empty paths are refused by name."""
    with pytest.raises(ParameterError):
        table_path(uri)


def test_check_separate_under_any_spelling(tmp_path, monkeypatch):
    """Staging that is main, or above or below it, is refused however the two are spelled."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "main")
    spellings = ["main", "main/", "./main", "x/../main", "link", f"file://{tmp_path}/main", tmp_path / "main"]

    for staging in [*spellings, "main/sub", "link/sub", "main/not-there", ".", str(tmp_path)]:
        for main in spellings:
            with pytest.raises(ParameterError):
                check_separate(staging, main)

    (tmp_path / "other").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ParameterError):
        check_separate("other", "main")
    check_separate("staging", "main")
    check_separate("main2", "main")


def test_check_separate_where_letter_case_is_ignored(tmp_path, monkeypatch):
    """Two spellings of one folder that only the file system knows to be one."""
    for name in ("main", "MAIN"):
        (tmp_path / name).mkdir()
    check_separate(tmp_path / "MAIN", tmp_path / "main")
    monkeypatch.setattr(Path, "samefile", lambda path, other: str(path).lower() == str(other).lower())

    for staging in ("MAIN", "MAIN/staging"):
        with pytest.raises(ParameterError):
            check_separate(tmp_path / staging, tmp_path / "main")


def test_open_table_that_holds_certificates_as_text(tmp_path):
    """A new table is made as it is asked for; one that is there, or is to be like another, is not what it is not."""
    text = open_table(tmp_path / "text", as_der="text")

    assert (as_der_type(text), as_der_type(open_table(tmp_path / "like", like=text))) == ("string", "string")
    assert as_der_type(open_table(tmp_path / "text", as_der="text")) == "string"
    for name, options in [("text", {}), ("new", {"like": text})]:
        with fails(SchemaMismatchError, uri=tmp_path / "text"):
            open_table(tmp_path / name, as_der="binary", **options)
    with pytest.raises(ParameterError):
        open_table(tmp_path / "new", as_der="string")
    assert not (tmp_path / "new").exists()


def test_source_names_of_live_and_backfilled_rows(tmp_path):
    """A log's name is found beside rows that have the URL in its place."""
    main = make_table(tmp_path / "main", make_rows([1], name="Example log"), make_rows([2], name=LOG))
    other = make_table(tmp_path / "other", make_rows([1], url=OTHER_LOG, name=OTHER_LOG))

    assert source_names(main, other, None) == {LOG: "Example log"}


def _try_to_hold(path: str, answers) -> None:
    try:
        with hold(open_table(path)):
            answers.put("held")
    except TableError as error:
        answers.put(str(error))


def test_hold_when_another_run_holds_it(tmp_path):
    """A second run is refused with words while the first one lasts, and only then."""
    table = open_table(tmp_path / "staging")
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()

    def try_it() -> str:
        process = context.Process(target=_try_to_hold, args=(folder_of(table), answers))
        process.start()
        process.join()
        return answers.get()

    with hold(table):
        refused = try_it()

    assert "is being written by another run of ctkit" in refused
    assert try_it() == "held"
    assert os.listdir(tmp_path / "staging") == ["_delta_log"]


def test_hold_when_the_table_is_gone(tmp_path):
    """A handle of a table that a merge removed says so, and how to go on."""
    table = open_table(tmp_path / "staging")
    shutil.rmtree(tmp_path / "staging")

    with fails(TableError, uri=tmp_path / "staging"), hold(table):
        pass


@pytest.mark.parametrize("moment", ["before", "after"])
def test_hold_when_another_folder_takes_the_place(tmp_path, monkeypatch, moment):
    """The lock lies on the folder that was opened: a copy that takes its place meanwhile is not held."""
    table = make_table(tmp_path / "main", make_rows([1]))
    lock = fcntl.flock

    def lock_beside_a_swap(*arguments):
        if moment == "after":
            lock(*arguments)
        shutil.copytree(tmp_path / "main", tmp_path / "copy")
        (tmp_path / "main").rename(tmp_path / "old")
        (tmp_path / "copy").rename(tmp_path / "main")
        if moment == "before":
            lock(*arguments)

    monkeypatch.setattr(fcntl, "flock", lock_beside_a_swap)
    with pytest.raises(TableError), hold(table):
        pytest.fail("held, though another run may hold it too")


def test_reading_when_a_file_is_missing_or_damaged(tmp_path):
    """A table of which a file cannot be read is named, in one line."""
    main, staging = make_table(tmp_path / "main", make_rows([1])), make_table(tmp_path / "staging", make_rows([2]))
    file = Path(files_of(staging)[0])
    for damage in (lambda: file.write_bytes(file.read_bytes()[:-30]), file.unlink):
        damage()
        with fails(TableError, uri=tmp_path / "staging") as caught:
            find_gaps(main, staging, within={LOG: (0, 5)})
        assert "\n" not in str(caught.value)


def test_rows_of_a_table_whose_files_are_gone(tmp_path):
    """The table is named."""
    table = make_table(tmp_path / "main", make_rows([1]))
    shutil.rmtree(tmp_path / "main")

    with fails(TableError, uri=tmp_path / "main"):
        ctkit.rows_of(table)


def test_hold_when_another_table_is_in_its_place(tmp_path):
    """A handle of a table that was removed and made anew is refused: its versions are not those on the disk."""
    table = make_table(tmp_path / "staging", make_rows([1]))
    shutil.rmtree(tmp_path / "staging")
    make_table(tmp_path / "staging", make_rows([2]), make_rows([3]))

    with fails(TableError, uri=tmp_path / "staging"), hold(table):
        pass


def test_hold_yields_the_newest_version(tmp_path):
    """A handle from before somebody's commit is not what is held."""
    table = make_table(tmp_path / "main", make_rows([1]))
    write_deltalake(tmp_path / "main", make_rows([2]), mode="append")

    with hold(table) as held:
        assert (table.version(), held.version()) == (1, 2)


def age(path: Path, days: float) -> None:
    """Let everything in a table's log be so many days old."""
    past = time.time() - days * 86_400
    for file in (path / "_delta_log").iterdir():
        os.utime(file, (past, past))


def test_commits_of_a_table_of_ours_when_they_are_old(tmp_path):
    """Checkpoints and clean-ups leave the commits that say what was proven, however old they are."""
    table = open_table(tmp_path / "main")
    for index in range(120):
        write_entries(table, make_rows([index]), metadata={"ctkit.test": "1"})
    age(tmp_path / "main", 40)
    # deltalake makes a checkpoint, and cleans up, every hundred commits.
    for index in range(120, 205):
        write_entries(table, make_rows([index]), metadata={"ctkit.test": "1"})
    age(tmp_path / "main", 30_000)
    table.create_checkpoint()
    table.cleanup_metadata()

    assert list((tmp_path / "main" / "_delta_log").glob("*.checkpoint.parquet"))
    commits = commits_of(tmp_path / "main")
    assert len(commits) == 206
    assert all("ctkit.test" in (tmp_path / "main" / "_delta_log" / name).read_text() for name in commits[1:])


@pytest.mark.parametrize("path", ["../other/{}", "{root}/other/{}"])
def test_files_outside_of_the_folder_are_refused(tmp_path, path):
    """A table whose log names files elsewhere is refused, because a merge would take them for staging's own."""
    other = make_table(tmp_path / "other", make_rows([1]))
    (name,) = pa.table(other.get_add_actions())["path"].to_pylist()
    table = open_table(tmp_path / "staging")
    action = AddAction(path.format(name, root=tmp_path), 1, {"seen_date": "2026-03-01"}, 0, True, "{}")
    table.create_write_transaction([action], "append", table.schema(), ["seen_date"])

    with fails(TableError, uri=tmp_path / "staging"):
        files_of(open_table(tmp_path / "staging"))


def test_files_behind_a_linked_partition_are_refused(tmp_path):
    """A partition folder that is a symbolic link to another table's is no part of this one."""
    make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2]))
    partition = tmp_path / "staging" / "seen_date=2026-03-01"
    shutil.rmtree(partition)
    partition.symlink_to(tmp_path / "main" / "seen_date=2026-03-01")

    with fails(TableError, uri=tmp_path / "staging"):
        files_of(staging)


@pytest.mark.parametrize("path", ["~nobody-of-this-name/main", "data\0main"])
def test_table_path_that_cannot_be(path):
    """A path that no system can follow is a wrong parameter, named."""
    with pytest.raises(ParameterError):
        table_path(path)


def test_first_line_of_a_coloured_message():
    """Colours of a library stay out of logs."""
    assert first_line(ValueError("\x1b[31mno rights\x1b[0m\nmore")) == "no rights"


def test_verbs_when_a_path_is_given_for_a_table(tmp_path):
    """Each verb says that a table has to be opened first."""
    table, gaps = make_table(tmp_path / "main", make_rows([1])), find_gaps(None, within={})
    calls = [
        lambda: ctkit.find_gaps("main", within={}),
        lambda: ctkit.find_gaps(table, "main", within={}),
        lambda: ctkit.backfill([], gaps, "main"),
        lambda: ctkit.preview_merge("main", None),
        lambda: ctkit.preview_merge(table, "main"),
        lambda: ctkit.merge_staging("main", table),
        lambda: ctkit.merge_staging(table, "main"),
        lambda: ctkit.undo_merge("main"),
        lambda: ctkit.audit([], "main"),
    ]

    for call in calls:
        with pytest.raises(ParameterError):
            call()


def test_verbs_when_a_handle_of_deltalake_is_of_another_table(tmp_path):
    """Every verb refuses what has other columns, whoever opened it, and changes nothing."""
    write_deltalake(tmp_path / "other", pa.table({"a": [1, 2]}))
    table, other = make_table(tmp_path / "main", make_rows([1])), DeltaTable(tmp_path / "other")
    gaps = find_gaps(None, within={})
    before = sorted(tmp_path.rglob("*"))
    calls = [
        lambda: ctkit.rows_of(other),
        lambda: ctkit.find_gaps(other, within={}),
        lambda: ctkit.find_gaps(table, other, within={}),
        lambda: ctkit.backfill([], gaps, other),
        lambda: ctkit.backfill([], gaps, table, main=other),
        lambda: ctkit.preview_merge(other, None),
        lambda: ctkit.preview_merge(table, other),
        lambda: ctkit.merge_staging(other, table),
        lambda: ctkit.merge_staging(table, other),
        lambda: ctkit.undo_merge(other),
        lambda: ctkit.repair(other),
        lambda: ctkit.audit([], other),
        lambda: ctkit.open_table(tmp_path / "new", like=other),
    ]

    for call in calls:
        with pytest.raises(SchemaMismatchError):
            call()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_first_line_when_there_are_no_hard_links(number):
    """What deltalake tells of a file that it cannot rename is followed by the cause: it commits by a hard link."""
    said = f"Generic LocalFileSystem error: Unable to rename file: {os.strerror(number)} (os error {number})"

    assert first_line(OSError(f"{said}\n \x1b[31m↳\x1b[0m some more")).endswith("hard links")
    assert first_line(OSError(said.replace(f"error {number})", "error 28)"))).endswith("(os error 28)")
