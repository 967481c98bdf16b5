"""How long it takes, and how much memory, to plan very many gaps."""

from statistics import median

from lake import in_process

GAPS = """
import sys, time
from types import SimpleNamespace
import numpy as np
import pyarrow as pa
from ctkit.jobs.plan import plan_backfill
from ctkit.schema import GAP_SCHEMA
count = int(sys.argv[1])
url = "https://ct.example.com/logs/us1/example2026h2"
starts = np.arange(0, 20 * count, 20)
codes = pa.DictionaryArray.from_arrays(np.full(count, 0, np.int32), [url])
gaps = pa.table([codes, starts, starts + 1], schema=GAP_SCHEMA)
pace = SimpleNamespace(rate=35 / 60, latency=0.1, bandwidth=1e7, concurrency=4.0)
log = SimpleNamespace(url=url, protocol="static-ct", page_size=256, page_size_known=True, entry_bytes=None, pace=pace)
began = time.perf_counter()
"""
PLAN = """
plan = plan_backfill([log], gaps, ask=False)
assert (plan.requests, plan.wanted) == (-(-20 * count // 256), count)
print(time.perf_counter() - began)
"""
BY_HAND = """
pages, wanted = set(), 0
for gap_start, gap_end in zip(gaps["start"].to_pylist(), gaps["end"].to_pylist()):
    pages.update(range(gap_start // 256, (gap_end - 1) // 256 + 1))
    wanted += gap_end - gap_start
assert (len(pages), wanted) == (-(-20 * count // 256), count)
print(time.perf_counter() - began)
"""
NOTHING = "print(0)"


def test_plan_of_50_million_gaps():
    """Fifty million one-row gaps of one log are planned in seconds, in a tenth of the memory of the gaps."""
    _, table = in_process(GAPS + NOTHING, 50_000_000)
    runs = [in_process(GAPS + PLAN, 50_000_000) for _ in range(3)]
    seconds, memory = (median(values) for values in zip(*runs, strict=True))
    some, _ = in_process(GAPS + BY_HAND, 1_000_000)
    print(
        f"\nplan of 50 million gaps: {seconds:.2f} s, {memory - table:.0f} MB beside the gaps' {table:.0f} MB;", end=" "
    )
    print(f"a loop over the gaps {50 * some:.0f} s (extrapolated from 1 million) = {50 * some / seconds:.0f} times")

    assert memory - table < 0.1 * table
    assert 50 * some / seconds >= 20
