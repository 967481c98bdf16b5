"""Benchmarks: each claim as a ratio to a baseline of the same run. They are not part of the suite.

Run them on a quiet machine with two cores: ``pytest tests/benchmarks -s``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
