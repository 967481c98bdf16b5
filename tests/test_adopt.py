"""Commits of files: made or not made, and which of the two is never in doubt."""

import errno
import fcntl
import os
import resource
import stat

import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake
from raising import fails
from rows import commits_of, indices_of, make_rows, make_table

from ctkit.errors import TableError
from ctkit.lake import links, merge
from ctkit.lake.files import data_files
from ctkit.lake.links import commit_files, confirm_files, link_files
from ctkit.lake.merge import merge_staging
from ctkit.lake.table import files_of, folder_of, hold, open_table


@pytest.fixture
def linked(tmp_path):
    """Return a main and a file that is linked into it."""
    main = make_table(tmp_path / "main", make_rows([1]))
    other = make_table(tmp_path / "other", make_rows([2]))
    return main, link_files(data_files(other), main)


class FullTable(DeltaTable):
    """A table whose disk is full for each commit, and to which others commit right after that."""

    def create_write_transaction(self, *arguments, **options):
        """Commit where no file can be longer than ten bytes."""
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        try:
            super().create_write_transaction(*arguments, **options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            write_deltalake(self.table_uri, make_rows([9]), mode="append")


def test_commit_files_when_it_fails_and_others_commit(tmp_path, linked):
    """A commit that could not be written is an error, not one that others were quicker than, though others came."""
    _, files = linked

    with fails(TableError, uri=tmp_path / "main"):
        commit_files(files, FullTable(tmp_path / "main"), CommitProperties(max_commit_retries=0))

    assert indices_of(open_table(tmp_path / "main")) == [1, 9]


def test_confirm_files_when_the_commit_is_another(linked):
    """A version that does not have the files, or is not there, is an error."""
    main, files = linked

    for version in (1, 2):
        with fails(TableError, uri=folder_of(main)):
            confirm_files(files, main, version)


def test_merge_when_its_commit_is_not_on_the_disk(tmp_path, monkeypatch):
    """Staging stays until main's commit was read back from the disk."""
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2]))

    def lose(*_):
        write_deltalake(tmp_path / "main", make_rows([9]), mode="append")
        return True

    monkeypatch.setattr(merge, "commit_files", lose)
    with fails(TableError, uri=tmp_path / "main"):
        merge_staging(staging, main)
    monkeypatch.undo()

    assert indices_of(open_table(tmp_path / "staging")) == [2]
    assert commits_of(tmp_path / "staging") == [f"{version:020}.json" for version in range(2)]


def test_merge_makes_its_files_durable(tmp_path, monkeypatch):
    """Links, the folders that they came into and the names of these are durable before the commit, and then the commit.

    Links are as young as the merge: who cleans main up by age does not take them for files that died long ago.
    """
    main = make_table(tmp_path / "main", make_rows([1]))
    staging = make_table(tmp_path / "staging", make_rows([2]), make_rows([3], day=2))
    for file in files_of(staging):
        os.utime(file, (1, 1))
    before = set(files_of(main))
    # Path -> what was in it then, if it is a folder.
    synced, synced_first = {}, {}
    fsync, commit = os.fsync, merge.commit_files

    def note(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        synced[path] = os.listdir(path) if os.path.isdir(path) else []
        fsync(descriptor)

    def note_commit(*arguments):
        synced_first.update(synced)
        synced.clear()
        return commit(*arguments)

    monkeypatch.setattr(links.os, "fsync", note)
    monkeypatch.setattr(merge, "commit_files", note_commit)
    merge_staging(staging, main)

    folder, made = str(tmp_path / "main"), set(files_of(main)) - before
    assert len(made) == 2
    assert made <= synced_first.keys()
    for path in made | {os.path.dirname(link) for link in made}:
        assert os.path.basename(path) in synced_first[os.path.dirname(path)]
    assert {f"{folder}/_delta_log", f"{folder}/_delta_log/{main.version():020}.json"} <= synced.keys()
    assert all(os.stat(link).st_mtime > 1 for link in made)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF], ids=errno.errorcode.get)
def test_merge_when_the_file_system_cannot_sync_folders(tmp_path, monkeypatch, number):
    """A merge does without where there is no fsync() of folders, but not without that of files."""
    main = make_table(tmp_path / "main", make_rows([1]))
    fsync, refused = os.fsync, stat.S_ISDIR

    def refuse(descriptor):
        if refused(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(links.os, "fsync", refuse)
    merge_staging(make_table(tmp_path / "staging", make_rows([2])), main)
    assert indices_of(open_table(tmp_path / "main")) == [1, 2]

    refused = stat.S_ISREG
    with pytest.raises(TableError, match=os.strerror(number)):
        merge_staging(make_table(tmp_path / "staging", make_rows([3])), main)
    assert indices_of(open_table(tmp_path / "main")) == [1, 2]


def test_merge_when_the_disk_cannot_sync(tmp_path, monkeypatch):
    """A disk that fails is not taken for a file system without fsync(): nothing is committed."""
    main = make_table(tmp_path / "main", make_rows([1]))

    def fail(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(links.os, "fsync", fail)
    with fails(TableError, uri=tmp_path / "main"):
        merge_staging(make_table(tmp_path / "staging", make_rows([2])), main)
    monkeypatch.undo()

    assert indices_of(open_table(tmp_path / "main")) == [1]


def test_hold_when_the_file_system_cannot_lock_folders(tmp_path, monkeypatch):
    """Where there is no flock() of folders, as on NFS, the error says so."""
    made = make_table(tmp_path / "main", make_rows([1]))

    def refuse(*_):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with fails(TableError, uri=tmp_path / "main"), hold(made):
        pass
    with pytest.raises(TableError, match=r"flock\(\)"):
        open_table(tmp_path / "deep" / "staging")
    assert [each.name for each in tmp_path.iterdir()] == ["main"]
