"""Which rows a merge skips: by statistics first, then by the keys themselves."""

import numpy as np
import pytest
from deltalake import DeltaTable
from rows import LOG, OTHER_LOG, add_file, as_type, make_rows, make_table

from ctkit.lake import overlap
from ctkit.lake.files import data_files
from ctkit.lake.keys import INDEX_BITS
from ctkit.lake.overlap import Overlap
from ctkit.lake.table import files_of
from ctkit.schema import row_schema

LOWEST = {"source_url": LOG, "cert_index": 5}
HIGHEST = {"source_url": LOG, "cert_index": 8}
TOP = 1 << INDEX_BITS
LONG_URL = "https://ct.example.com/" + "long/" * 20


def overlap_of(staging) -> Overlap:
    """Return the overlap of a whole table."""
    return Overlap(staging, data_files(staging))


@pytest.mark.parametrize(
    ("lowest", "highest", "may_be_in"),
    [
        (LOWEST, HIGHEST, True),
        (LOWEST | {"cert_index": 8}, HIGHEST, False),
        (LOWEST, HIGHEST | {"cert_index": 6}, False),
        (LOWEST | {"cert_index": 7}, HIGHEST | {"cert_index": 7}, True),
        (LOWEST | {"source_url": OTHER_LOG}, HIGHEST | {"source_url": OTHER_LOG}, False),
        ({"source_url": LOG[:30]}, {"source_url": LOG[:30] + "\U0010ffff"}, True),
        (LOWEST | {"source_url": LOG[:-1]}, HIGHEST | {"source_url": LOG[:-2] + "i"}, True),
        ({}, {}, True),
        ({"source_url": LOG}, HIGHEST, True),
        (LOWEST | {"source_url": None}, HIGHEST, True),
        (LOWEST, HIGHEST | {"cert_index": None}, True),
        (LOWEST | {"cert_index": None}, HIGHEST | {"cert_index": None}, True),
        (LOWEST | {"cert_index": -5}, HIGHEST, True),
        (LOWEST | {"cert_index": -5}, HIGHEST | {"cert_index": -1}, False),
        (LOWEST, HIGHEST | {"cert_index": TOP + 8}, True),
        (LOWEST | {"cert_index": TOP + 5}, HIGHEST | {"cert_index": TOP + 8}, False),
    ],
)
@pytest.mark.parametrize("keys_at_once", [1, 1000])
def test_may_be_in(tmp_path, monkeypatch, keys_at_once, lowest, highest, may_be_in):
    """A file is left out only if its statistics say that it has nothing of what is staged, whatever they leave out."""
    monkeypatch.setattr(overlap, "KEYS_AT_ONCE", keys_at_once)
    statistics = {"numRecords": 1, "minValues": lowest, "maxValues": highest}
    add_file(tmp_path / "main", as_type(make_rows([7])), statistics=statistics)
    # Another file that has it all, so that each column is there.
    everything = {"numRecords": 1, "minValues": LOWEST, "maxValues": HIGHEST}
    main = add_file(tmp_path / "main", as_type(make_rows([5])), name="part-all.parquet", statistics=everything)
    staging = make_table(tmp_path / "staging", make_rows([7]), make_rows([1, 10, 100], url=LOG + "b"))

    found = overlap_of(staging).may_be_in(main)

    assert sorted(found) == sorted(file for file in files_of(main) if may_be_in or "part-all" in file)


@pytest.mark.parametrize(
    "setting", [{"delta.dataSkippingStatsColumns": "seen"}, {"delta.dataSkippingNumIndexedCols": "2"}]
)
def test_may_be_in_when_a_table_keeps_no_statistics_of_keys(tmp_path, setting):
    """Where its settings leave keys out, every file of main may have everything."""
    DeltaTable.create(tmp_path / "main", row_schema(), partition_by=["seen_date"], configuration=setting)
    main = make_table(tmp_path / "main", make_rows([7]))

    assert overlap_of(make_table(tmp_path / "staging", make_rows([100]))).may_be_in(main) == files_of(main)


def test_may_be_in_when_urls_are_long(tmp_path):
    """Statistics that a writer has cut short still stand for all that they were cut from."""
    main = make_table(tmp_path / "main", make_rows([1, 2], url=LONG_URL + "a"), make_rows([1, 2], url=LONG_URL + "b"))
    staging = make_table(tmp_path / "staging", make_rows([2, 3], url=LONG_URL + "b"))
    skipping = overlap_of(staging)

    assert skipping.skip_present(main, skipping.may_be_in(main))
    assert skipping.skipped == 1


def test_skip_present_reads_main_once(tmp_path, monkeypatch):
    """However many parts the staged keys are in, each file of main is read once; conflicts are counted now and then."""
    others = make_rows([9, 11, 13])
    others = others.set_column(9, others.schema.field("sha256"), [["00"] * 3])
    main = make_table(tmp_path / "main", make_rows(range(8)), others, make_rows([20]))
    staging = make_table(tmp_path / "staging", make_rows(range(4, 12)), make_rows(range(12, 16)))
    monkeypatch.setattr(overlap, "KEYS_AT_ONCE", 3)
    skipping = overlap_of(staging)
    read, compared = [], []
    read_keys, differing = overlap.read_keys, Overlap._differing
    monkeypatch.setattr(overlap, "read_keys", lambda path: read.append(path) or read_keys(path))
    monkeypatch.setattr(
        Overlap, "_differing", lambda self, rows, *rest: compared.append(len(rows)) or differing(self, rows, *rest)
    )

    skipping.skip_present(main, files_of(main))

    assert len(skipping._parts) == 4
    assert read == files_of(main)
    assert sorted(compared) == [3, 4]
    assert (skipping.skipped, skipping.conflicts) == (7, 3)


def test_parts_when_keys_are_at_regular_distances(tmp_path, monkeypatch):
    """Holes that a writer left at every 25th index do not end up in one part."""
    monkeypatch.setattr(overlap, "KEYS_AT_ONCE", 40)
    staging = make_table(tmp_path / "staging", make_rows(range(0, 25_000, 25)))

    sizes = [len(part.keys) for part in overlap_of(staging)._parts]

    assert len(sizes) == 25
    assert sum(sizes) == 1000
    assert max(sizes) <= 2 * np.mean(sizes)


def test_parts_when_there_are_no_statistics(tmp_path, monkeypatch):
    """Files without statistics are counted, and do not make a part each; one without rows is none."""
    monkeypatch.setattr(overlap, "KEYS_AT_ONCE", 10)
    for at in range(4):
        staging = add_file(tmp_path / "staging", as_type(make_rows([at])), name=f"part-{at}.parquet")
    staging = add_file(
        tmp_path / "staging", as_type(make_rows([])), name="part-empty.parquet", statistics={"numRecords": 0}
    )

    assert len(overlap_of(staging)._parts) == 1
