"""Keys as integers: read, sorted, and found again."""

import os
from tempfile import gettempdir

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raising import fails

from ctkit.errors import CtkitError, TableError
from ctkit.lake import keys as keys_module
from ctkit.lake.keys import INDEX_BITS, NO_KEY, DiskArrays, SortedKeys, read_keys, scattered

some_keys = st.lists(st.integers(0, 30), max_size=40)


def array(values):
    """Return int64, also of nothing."""
    return np.array(values, np.int64)


def test_read_keys_of_several_row_groups(tmp_path):
    """Each row has its log and index, though every row group has a dictionary of its own."""
    rows = pa.table({"other": [0] * 5, "cert_index": [3, 4, 5, 6, 7], "source_url": ["a", "b", "b", "c", "a"]})
    pq.write_table(rows, tmp_path / "file.parquet", row_group_size=2)

    keys = read_keys(str(tmp_path / "file.parquet"))

    assert [keys.urls[log] for log in keys.log] == ["a", "b", "b", "c", "a"]
    assert keys.index.tolist() == [3, 4, 5, 6, 7]
    assert keys.numbered({"b": 0, "c": 1}).tolist() == [NO_KEY, 4, 5, (1 << INDEX_BITS) + 6, NO_KEY]


@pytest.mark.parametrize(
    "type_", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string()), pa.binary()]
)
def test_read_keys_of_any_text(tmp_path, type_):
    """Whatever layout a writer had in mind, and where it does not say that it is text, the keys are the same."""
    rows = pa.table({"cert_index": pa.array([3, 4], pa.int32()), "source_url": pa.array(["a", "b"]).cast(type_)})
    pq.write_table(rows, tmp_path / "file.parquet")

    assert read_keys(str(tmp_path / "file.parquet")).numbered({"b": 0, "a": 1}).tolist() == [(1 << INDEX_BITS) + 3, 4]


def test_read_keys_that_are_no_text(tmp_path):
    """A log's URL whose bytes are no UTF-8 is an error that names the file."""
    rows = pa.table({"cert_index": [3], "source_url": ["https://log.example"]})
    path = tmp_path / "file.parquet"
    pq.write_table(rows, path, use_dictionary=False, compression="none")
    path.write_bytes(path.read_bytes().replace(b"log.example", b"log\xffexample"))

    with fails(TableError, uri=path):
        read_keys(str(path))


def test_read_keys_that_are_none(tmp_path):
    """Nulls, and indices that no log can have, are no keys of anybody."""
    rows = pa.table({"cert_index": [None, 1, -1, 1 << INDEX_BITS, 2], "source_url": ["a", None, "a", "a", "a"]})
    pq.write_table(rows, tmp_path / "file.parquet")

    assert read_keys(str(tmp_path / "file.parquet")).numbered({"a": 0}).tolist() == [*[NO_KEY] * 4, 2]


def test_read_keys_of_no_rows(tmp_path):
    """A file without rows has no keys."""
    pq.write_table(
        pa.table({"cert_index": pa.array([], pa.int64()), "source_url": pa.array([], pa.string())}), tmp_path / "f"
    )

    assert read_keys(str(tmp_path / "f")).numbered({}).tolist() == []


@pytest.mark.parametrize("content", [b"", b"PAR1 is all there is of it PAR1"])
def test_read_keys_of_a_broken_file(tmp_path, content):
    """The error names the file."""
    (tmp_path / "broken.parquet").write_bytes(content)

    with fails(TableError, uri=tmp_path / "broken.parquet"):
        read_keys(str(tmp_path / "broken.parquet"))


def test_read_keys_of_a_file_without_them(tmp_path):
    """So it does where a column is missing."""
    pq.write_table(pa.table({"cert_index": [1]}), tmp_path / "f.parquet")

    with fails(TableError, uri=tmp_path / "f.parquet"):
        read_keys(str(tmp_path / "f.parquet"))


@given(some_keys, some_keys)
def test_repeated_and_common(keys, others):
    """Repetitions name the first row of their key, and what is common is named by its place on either side."""
    cut = len(keys) // 2
    found = SortedKeys([array(keys[:cut]), array(keys[cut:])], [array(range(cut)), array(range(cut, len(keys)))])

    again, first = found.repeated()
    ordered = sorted([*others, NO_KEY])
    rows, places = found.common(array(ordered))

    assert sorted(again.tolist()) == [at for at, key in enumerate(keys) if key in keys[:at]]
    assert [keys.index(keys[at]) for at in again] == first.tolist()
    assert {keys[row] for row in rows} == set(keys) & set(others)
    assert {keys.index(key) for key in set(keys) & set(others)} <= set(rows.tolist())
    assert [keys[row] for row in rows] == [ordered[place] for place in places]


@pytest.mark.parametrize("distance", [1, 2, 25, 1 << 20, 3 << 30])
def test_parts_are_alike(distance):
    """Keys at whatever distance are spread over all parts."""
    sizes = np.bincount(scattered(np.arange(100_000) * distance % (1 << 50), 25), minlength=25)

    assert sizes.sum() == 100_000
    assert sizes.max() < 1.2 * sizes.mean()


def test_spilled_arrays():
    """What is spilled comes back, also nothing."""
    assert [found.tolist() for found in DiskArrays([array([3, 1]), array([4, 2])]).mapped()] == [[3, 1], [4, 2]]
    assert [found.tolist() for found in DiskArrays([array([]), array([])]).mapped()] == [[], []]


def test_spilled_when_there_is_no_room(monkeypatch):
    """The error names the folder for temporary files, and what to do."""
    full = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115 - whoever is given it closes it
    monkeypatch.setattr(keys_module, "TemporaryFile", lambda: full)

    with pytest.raises(CtkitError, match=gettempdir()):
        DiskArrays([array(range(100_000))])


def test_sorted_keys_take_one_descriptor():
    """Thousands of parts are no more open files than that."""
    before = len(os.listdir("/proc/self/fd"))
    parts = [SortedKeys([array([part])], [array([0])]) for part in range(10)]

    assert len(os.listdir("/proc/self/fd")) == before + len(parts)
