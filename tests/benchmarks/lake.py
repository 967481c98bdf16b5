"""Tables of real-sized rows, made fast: DER that does not compress, two chain certificates, stretches of one log."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable

from ctkit.lake.files import write_files
from ctkit.lake.links import commit_files
from ctkit.lake.table import open_table, table_path
from ctkit.lake.write import ROWS_PER_COMMIT, write_entries
from ctkit.schema import row_schema

URL = "https://ct.example.com/2026h2"
DAYS = 4

_RANDOM = np.random.default_rng(1)
# Sizes and what zstd makes of them are those of entries of public logs: 1.3 kB of DER, one half of it keys, signatures
# and hashes, the other what an issuer's certificates have in common; a chain of two, 1 kB of JSON each.
_COMMON = [_RANDOM.bytes(660) for _ in range(20)]
_SIZES = np.clip(_RANDOM.normal(660, 150, 3000), 300, 2000).astype(int)
_ISSUERS = [
    f'{{"subject":{{"C":"US","CN":"Example Issuer {at}","O":"Example"}},"sha256":"{_RANDOM.bytes(480).hex()}"}}'
    for at in range(20)
]


def make_rows(start: int, count: int) -> pa.Table:
    """Return the rows ``[start, start + count)`` of the one log, spread over some days."""
    index = np.arange(start, start + count)
    each = index.tolist()
    seen = np.datetime64("2026-03-01", "us") + (np.arange(count) * (DAYS * 86_400_000_000 // count)).astype("m8[us]")
    serial = _hex(count, 16)
    names = [f"{at}.customers.example.com" for at in each]
    unique = _RANDOM.bytes(int(_SIZES[index % len(_SIZES)].sum()))
    ends = np.cumsum(_SIZES[index % len(_SIZES)]).tolist()
    columns = {
        "cert_index": index,
        "update_type": ["PrecertLogEntry"] * count,
        "seen": pa.array(seen, pa.timestamp("us", tz="UTC")),
        "seen_date": np.datetime_as_string(seen, unit="D").tolist(),
        "source_name": ["Example 2026h2"] * count,
        "source_url": [URL] * count,
        "cert_link": [f"{URL}/ct/v1/get-entries?start={at}&end={at}" for at in each],
        "serial_number": [text.replace(":", "") for text in serial],
        "fingerprint": (sha1 := _hex(count, 20)),
        "sha256": _hex(count, 32),
        "sha1": sha1,
        "not_before": index,
        "not_after": index + 7_776_000,
        "is_ca": np.zeros(count, bool),
        "signature_algorithm": ["ecdsa, sha256"] * count,
        "subject_aggregated": [f"/CN={name}" for name in names],
        "issuer_aggregated": [f"/C=US/CN=Example Issuer {at % 20}/O=Example" for at in each],
        "all_domains": [[name, f"www.{name}", f"mail.{name}"] for name in names],
        "as_der": [
            _COMMON[at % 20] + unique[begin:end] for at, begin, end in zip(each, [0, *ends], ends, strict=False)
        ],
        "chain": [[_ISSUERS[at % 20], _ISSUERS[(at + 7) % 20]] for at in each],
    }
    return pa.table(columns, schema=row_schema())


def make_keys(table: DeltaTable, rows: int, *, logs: int, gaps: int, start: int = 0) -> None:
    """Append rows of which only the keys are real, all others being alike, in one commit of files of 100,000.

    Parameters
    ----------
    rows, logs, gaps
        Of each log there are as many rows and as many one-row gaps, at equal distances.
    start
        From which index on the first log has them; they are so far apart that none meets another.
    """
    alike = make_rows(0, 1).drop_columns(["source_url", "cert_index"])
    index = np.arange(start, start + (rows + gaps) // logs)
    index = np.delete(index, np.linspace(5, len(index) - 5, gaps // logs).astype(int))
    files = []
    for log in range(logs):
        for at in range(0, len(index), ROWS_PER_COMMIT):
            part = index[at : at + ROWS_PER_COMMIT]
            columns = {name: pa.repeat(alike[name][0], len(part)) for name in alike.column_names}
            columns |= {
                "source_url": pa.repeat(f"https://ct{log}.example.com/2026h2", len(part)),
                "cert_index": pa.array(part),
            }
            rows = pa.record_batch([columns[name] for name in row_schema().names], row_schema())
            files += write_files(table_path(table.table_uri), row_schema(), [rows])
    commit_files(files, table)


def _hex(count: int, size: int) -> list[str]:
    """Return random bytes as the table has hashes: ``4F:0A:...``."""
    text = _RANDOM.bytes(count * size).hex(":").upper() + ":"
    return [text[at : at + 3 * size - 1] for at in range(0, len(text), 3 * size)]


def make_pair(folder: Path, main_rows: int, staged_rows: int, *, overlap: float = 0.0) -> None:
    """Create ``main`` and ``staging`` in `folder`: staging has the holes of main.

    The holes are single rows all over, as in a table whose live service drops what another log has shown it. Both have
    a commit for each 100,000 rows or so, as a backfill makes them, of a file for each day.

    Parameters
    ----------
    overlap
        Share of the staged keys that main has too, spread over all of staging's files.
    """
    main, staging = open_table(folder / "main"), open_table(folder / "staging")
    every = (main_rows + staged_rows) // staged_rows
    stretch = ROWS_PER_COMMIT * every // (every - 1)
    waiting: list[pa.Table] = []
    for start in range(0, main_rows + staged_rows, stretch):
        rows = make_rows(start, stretch)
        hole = np.arange(stretch) % every == 0
        known = hole & (np.arange(stretch) % round(every / overlap) == 0) if overlap else np.zeros(stretch, bool)
        write_entries(main, rows.filter(pa.array(~hole | known)))
        waiting.append(rows.filter(pa.array(hole)))
        if sum(map(len, waiting)) >= ROWS_PER_COMMIT or start + stretch >= main_rows + staged_rows:
            write_entries(staging, pa.concat_tables(waiting))
            waiting.clear()


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def in_process(code: str, argument: object) -> tuple[float, float]:
    """Run code in a process of its own, `argument` being ``sys.argv[1]``; it prints its seconds.

    Returns
    -------
    tuple
        Seconds as printed, and the peak of the resident memory in MB.
    """
    # Not ru_maxrss, which a process has from its parent.
    code += "\nprint(int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) / 1024)"
    done = subprocess.run([sys.executable, "-c", code, str(argument)], capture_output=True, text=True, check=True)
    seconds, memory = done.stdout.split()[-2:]
    return float(seconds), float(memory)


def merge_in_one_call(main: DeltaTable, staging: DeltaTable) -> None:
    """Merge as deltalake does it: the baseline."""
    condition = "s.source_url = t.source_url AND s.cert_index = t.cert_index"
    merging = main.merge(staging.scan(), condition, source_alias="s", target_alias="t")
    merging.when_not_matched_insert_all().execute()
