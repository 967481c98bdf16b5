"""Merges after merges that died, were undone, or were of the same rows: nothing is in the way, nothing foreign goes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from deltalake import DeltaTable, write_deltalake
from rows import before_commit, indices_of, make_rows, make_table

from ctkit.errors import TableError
from ctkit.lake import drop, links, merge
from ctkit.lake.digests import new_name
from ctkit.lake.merge import merge_staging
from ctkit.lake.scratch import LINKS, SCRATCH
from ctkit.lake.table import files_of, open_table
from ctkit.lake.undo import undo_merge

DYING = """
import os, signal, sys
from ctkit.lake import merge
from ctkit.lake.table import open_table

commit = merge.commit_files

def commit_and_die(*arguments):
    if sys.argv[2] == "after":
        commit(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

merge.commit_files = commit_and_die
merge.merge_staging(open_table(sys.argv[1] + "/staging"), open_table(sys.argv[1] + "/main"), confirmed=True)
"""


def merge_and_die(folder: Path, *, when: str) -> None:
    """Merge in a process that dies right before or after its commit."""
    done = subprocess.run([sys.executable, "-c", DYING, str(folder), when], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr


def check_main(folder: Path, indices: list[int]) -> None:
    """See that main has these rows, and that no file lies there that it does not know."""
    main = open_table(folder / "main")
    assert indices_of(main) == indices
    assert {str(path) for path in (folder / "main").rglob("*.parquet")} == set(files_of(main))
    assert not (folder / "main" / SCRATCH).exists()


def merge_again(folder: Path, staging: str = "staging") -> merge.MergeReport:
    """Merge what is there now, whoever wrote it."""
    return merge_staging(open_table(folder / staging), open_table(folder / "main"), confirmed=True)


def test_merge_of_a_copy_of_main(tmp_path):
    """Staging may be a copy of main of long ago: the files of main's older versions are main's."""
    main = make_table(tmp_path / "main", make_rows([1, 2]), make_rows([3, 4]))
    shutil.copytree(tmp_path / "main", tmp_path / "staging")
    main.delete("cert_index = 1")
    main.optimize.compact()

    assert merge_again(tmp_path).inserted == 1

    assert indices_of(DeltaTable(tmp_path / "main", version=2)) == [1, 2, 3, 4]
    DeltaTable(tmp_path / "main").restore(2)
    assert indices_of(open_table(tmp_path / "main")) == [1, 2, 3, 4]


def test_merge_of_a_kept_copy_of_staging(tmp_path):
    """Files that were linked and undone are not in the way of the same files."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2, 3]))
    shutil.copytree(tmp_path / "staging", tmp_path / "again")
    merge_staging(staging, main)
    undo_merge(main)

    assert merge_again(tmp_path, "again").inserted == 2

    assert indices_of(open_table(tmp_path / "main")) == [1, 2, 3]
    assert indices_of(DeltaTable(tmp_path / "main", version=2)) == [1, 2, 3]


def test_merge_after_one_that_died_and_was_undone(tmp_path):
    """A run that died after its commit may be undone; the same staging is merged anew, also if that dies once more."""
    make_table(tmp_path / "main", make_rows([1]))
    make_table(tmp_path / "staging", make_rows([2, 3]))
    merge_and_die(tmp_path, when="after")
    undo_merge(open_table(tmp_path / "main"))
    undone = set(files_of(DeltaTable(tmp_path / "main", version=2)))
    merge_and_die(tmp_path, when="before")

    assert merge_again(tmp_path).inserted == 2

    main = open_table(tmp_path / "main")
    assert indices_of(main) == [1, 2, 3]
    assert {str(path) for path in (tmp_path / "main").rglob("*.parquet")} == {*files_of(main), *undone}


def test_merge_after_one_that_died_of_a_staging_that_grew(tmp_path, monkeypatch):
    """Staging may have been merged before: what a later run linked, and died, is removed all the same."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2]))

    def interfere():
        write_deltalake(tmp_path / "staging", make_rows([3]), mode="append")

    before_commit(monkeypatch, interfere)
    merge_staging(staging, main)
    monkeypatch.undo()
    merge_and_die(tmp_path, when="before")

    assert merge_again(tmp_path).inserted == 1

    check_main(tmp_path, [1, 2, 3])


@pytest.mark.parametrize("commits_are_gone", [False, True])
def test_merge_after_one_that_died_and_others_compacted(tmp_path, caplog, commits_are_gone):
    """What was committed stays in main's history, though replaced since; also where no commit tells."""
    make_table(tmp_path / "main", make_rows([1]), make_rows([2]))
    make_table(tmp_path / "staging", make_rows([3, 4]))
    merge_and_die(tmp_path, when="after")
    write_deltalake(tmp_path / "staging", make_rows([5]), mode="append")
    main = open_table(tmp_path / "main")
    merged = files_of(main)
    main.optimize.compact()
    if commits_are_gone:
        main.create_checkpoint()
        (tmp_path / "main/_delta_log" / f"{3:020}.json").unlink()

    assert merge_again(tmp_path).inserted == 1

    assert [file for file in merged if not Path(file).exists()] == []
    assert indices_of(open_table(tmp_path / "main")) == [1, 2, 3, 4, 5]
    assert ("may be left" in caplog.text) == commits_are_gone
    assert not (tmp_path / "main" / SCRATCH).exists()


@pytest.mark.parametrize("note", [b"", b'{"version": 1, "names": ["seen_date=2026-03-01/par'])
def test_merge_after_one_that_died_writing_its_note(tmp_path, note):
    """A note that is not whole stands for links that are not there."""
    make_table(tmp_path / "main", make_rows([1]))
    make_table(tmp_path / "staging", make_rows([2]))
    scratch = tmp_path / "main" / SCRATCH
    scratch.mkdir(parents=True)
    (scratch / LINKS).write_bytes(note)

    assert merge_again(tmp_path).inserted == 1

    check_main(tmp_path, [1, 2])


def test_merge_after_one_whose_version_is_gone(tmp_path):
    """A note that names a later version is of a table that was put back since: what it names may be wanted yet."""
    main = make_table(tmp_path / "main", make_rows([1]))
    make_table(tmp_path / "staging", make_rows([2]))
    link = tmp_path / "main/seen_date=2026-03-01" / new_name(None)
    link.write_bytes(b"of a commit that is elsewhere now")
    scratch = tmp_path / "main" / SCRATCH
    scratch.mkdir()
    note = {"version": main.version() + 1, "names": [str(link.relative_to(tmp_path / "main"))]}
    (scratch / LINKS).write_text(json.dumps(note))

    assert merge_again(tmp_path).inserted == 1

    assert link.exists()


def test_merge_notes_its_links_first(tmp_path, monkeypatch):
    """Whenever a link is there, the note names it, and is on the disk."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([1, 2]), make_rows([3], day=2))
    known = {str(path) for path in (tmp_path / "main").rglob("seen_date=*/*.parquet")}
    note = tmp_path / "main" / SCRATCH / LINKS
    linked, synced = [], set()
    link, fsync = os.link, os.fsync

    def note_sync(descriptor):
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def look(source, target):
        assert {str(note), str(note.parent), f"{tmp_path}/main"} <= synced
        linked.append(str(Path(target).relative_to(tmp_path / "main")))
        assert set(linked) <= set(json.loads(note.read_text())["names"])
        link(source, target)

    monkeypatch.setattr(links.os, "link", look)
    monkeypatch.setattr(links.os, "fsync", note_sync)
    merge_staging(staging, main)

    assert sorted(f"{tmp_path}/main/{name}" for name in linked) == sorted(set(files_of(main)) - known)


def test_merge_when_cleaning_up_fails(tmp_path, monkeypatch):
    """The error that ended a merge is the one that is told; what could not be removed is removed by the next run."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2]))
    broken = tmp_path / "main/_delta_log" / f"{2:020}.json"

    def fail(*_):
        broken.write_text("{not json")
        raise KeyboardInterrupt

    monkeypatch.setattr(merge, "commit_files", fail)
    with pytest.raises(KeyboardInterrupt):
        merge_staging(staging, main)
    monkeypatch.undo()
    broken.unlink()

    assert merge_again(tmp_path).inserted == 1

    check_main(tmp_path, [1, 2])


def test_merge_that_dies_before_staging_is_emptied(tmp_path, monkeypatch):
    """Files of staging are there for as long as it names them: it can be read, and merged again."""
    main = make_table(tmp_path / "main", make_rows([1]))
    make_table(tmp_path / "staging", make_rows([2, 3]))

    def die(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(drop, "commit_files", die)
    with pytest.raises(KeyboardInterrupt):
        merge_staging(open_table(tmp_path / "staging"), main)
    monkeypatch.undo()

    assert indices_of(open_table(tmp_path / "staging")) == [2, 3]
    assert merge_again(tmp_path).skipped == 2
    check_main(tmp_path, [1, 2, 3])
    assert not (tmp_path / "staging").exists()


def test_merge_when_what_a_dead_run_left_cannot_be_removed(tmp_path, monkeypatch):
    """The error names main and what to do."""
    make_table(tmp_path / "main", make_rows([1]))
    make_table(tmp_path / "staging", make_rows([2]))
    merge_and_die(tmp_path, when="before")

    def refuse(*_, **__):
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(TableError, match="Permission denied"):
        merge_again(tmp_path)
    monkeypatch.undo()

    merge_again(tmp_path)
    check_main(tmp_path, [1, 2])
