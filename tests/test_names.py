"""Names of folders: every one that a file system allows works in every verb, or is refused at once."""

import os
import unicodedata

import pytest
from cycle import SIZE, run_cycle
from fakes import FakeLog

import ctkit
from ctkit.errors import ParameterError

NAMES = [
    " ~a%b$c^d|e{f,g}(h)<i>!j+k&l;m'n\"o`p@q:r=s ",
    "100%",
    "q[x]*",
    "a[!b]",
    "a#b",
    "a?b",
    "file:",
    "~a",
    "-a",
    ".a",
    "...",
    "__HIVE_DEFAULT_PARTITION__",
    "a_delta_log",
    "_delta_log2",
    "env=prod",
    "seen_date=2026-01-01",
    unicodedata.normalize("NFC", "Zürich"),
    unicodedata.normalize("NFD", "Zürich"),
    "日本😀",
    "\u202eright to left\u200b\u2028",
    "n" * 255,
    "é" * 127,
]

UNUSABLE = [
    "a%20b",
    "50%25off",
    "a%2Fb",
    "a\\b",
    "a\nb",
    "a\tb",
    "a\rb",
    "a\x01b",
    "a\x1b[31mb",
    "a\x7fb",
    os.fsdecode(b"caf\xe9"),
    "_delta_log",
]


@pytest.mark.parametrize("name", NAMES)
def test_cycle_in_folders_of_odd_names(tmp_path, serve, name):
    """Every verb works on tables whose own name is odd, in folders with the same name, and writes nowhere else."""
    fake = FakeLog("Named", SIZE, protocols=["static-ct"], days=0.5)
    url = serve(fake)
    with ctkit.open_log(url, user_agent="t@example.org", protocol="static-ct", key=fake.public_key) as log:
        run_cycle(log, tmp_path / name / name, tmp_path / name / "staging" / name)

    assert os.listdir(tmp_path) == [name]
    assert sorted(os.listdir(tmp_path / name)) == sorted({name, "staging"})


@pytest.mark.parametrize("name", UNUSABLE)
@pytest.mark.parametrize("below", [False, True])
def test_table_when_deltalake_cannot_have_its_name(tmp_path, name, below):
    """Names that deltalake does not take, or takes for others, are refused, and nothing is written."""
    path = tmp_path / name / "main" if below else tmp_path / name

    for look in (ctkit.find_table, ctkit.open_table):
        with pytest.raises(ParameterError):
            look(path)

    assert list(tmp_path.iterdir()) == []


def test_table_by_way_of_a_link_from_a_name_that_deltalake_can_have(tmp_path):
    """It is the folder's own name that counts, not that of a link to it."""
    (tmp_path / "a%20b").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a%20b")

    with pytest.raises(ParameterError):
        ctkit.open_table(tmp_path / "link" / "main")

    assert list((tmp_path / "a%20b").iterdir()) == []
