"""Merges of files and tables that other writers made, each in its own way."""

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from rows import add_file, as_type, indices_of, make_rows, make_table

from ctkit import merge
from ctkit.merge import merge_staging


def test_merge_when_main_does_not_say_what_is_text(tmp_path):
    """Keys of a file of main whose ``source_url`` is bytes, as older writers leave it, are found."""
    main = add_file(tmp_path / "main", as_type(make_rows([1, 2]), source_url=pa.binary()))

    report = merge_staging(make_table(tmp_path / "staging", make_rows([1, 2, 3])), main)

    assert (report.inserted, report.skipped) == (1, 2)


@pytest.mark.parametrize("separator", ["\u2028", "\x85"])
def test_merge_when_statistics_hold_line_separators(tmp_path, monkeypatch, separator):
    """What Unicode calls the end of a line may be in a subject, and so in a commit; no action ends there."""
    main = make_table(tmp_path / "main", make_rows([1]))
    rows = make_rows([2, 3])
    rows = rows.set_column(15, rows.schema.field("subject_aggregated"), pa.array([f"/CN=a{separator}b"] * 2))
    commit = merge.commit_files

    def commit_after_somebody(*arguments):
        monkeypatch.undo()
        write_deltalake(tmp_path / "main", rows, mode="append")
        return commit(*arguments)

    monkeypatch.setattr(merge, "commit_files", commit_after_somebody)
    report = merge_staging(make_table(tmp_path / "staging", make_rows([3, 4])), main)

    assert (report.inserted, report.skipped) == (1, 1)
    assert indices_of(main) == [1, 2, 3, 4]
