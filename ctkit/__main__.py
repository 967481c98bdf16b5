"""The ``ctkit`` command as ``python -m ctkit``."""

import sys

from ctkit.cli import main

sys.exit(main())
