"""ctkit makes a Delta Lake table of Certificate Transparency entries complete, and proves it.

::

    log     = ctkit.open_log("https://log.example/2026h2", user_agent="analyst@example.org")
    main    = ctkit.open_table("data/main")
    staging = ctkit.open_table("data/staging")
    gaps    = ctkit.find_gaps(main, staging, within={log.url: (0, log.get_checkpoint().tree_size)})
    plan    = ctkit.plan_backfill([log], gaps)
    report  = ctkit.backfill([log], gaps, staging)
    preview = ctkit.preview_merge(staging, main)
    ctkit.merge_staging(staging, main, expected=preview)
"""

from ctkit.audit import audit
from ctkit.backfill import backfill
from ctkit.checkpoint import Checkpoint
from ctkit.entry import EntryBlock
from ctkit.errors import (
    CheckpointError,
    CtkitError,
    KeyConflictError,
    LogError,
    LogProtocolError,
    LogUnavailableError,
    ParameterError,
    SchemaMismatchError,
    StalePreviewError,
    TableError,
)
from ctkit.findings import AuditReport
from ctkit.gap import find_gaps
from ctkit.log import Log, open_log, read_log_list
from ctkit.merge import MergePreview, MergeReport, merge_staging, preview_merge, undo_merge
from ctkit.outcome import BackfillReport, Hole, Progress
from ctkit.parameters import Parameters, read_parameters
from ctkit.plan import LogPlan, Plan, plan_backfill
from ctkit.ranges import IndexRange
from ctkit.situation import Situation, audit_main, fill_gaps, find_situation
from ctkit.table import find_table, open_table

__all__ = [
    "AuditReport",
    "BackfillReport",
    "Checkpoint",
    "CheckpointError",
    "CtkitError",
    "EntryBlock",
    "Hole",
    "IndexRange",
    "KeyConflictError",
    "Log",
    "LogError",
    "LogPlan",
    "LogProtocolError",
    "LogUnavailableError",
    "MergePreview",
    "MergeReport",
    "ParameterError",
    "Parameters",
    "Plan",
    "Progress",
    "SchemaMismatchError",
    "Situation",
    "StalePreviewError",
    "TableError",
    "audit",
    "audit_main",
    "backfill",
    "fill_gaps",
    "find_gaps",
    "find_situation",
    "find_table",
    "merge_staging",
    "open_log",
    "open_table",
    "plan_backfill",
    "preview_merge",
    "read_log_list",
    "read_parameters",
    "undo_merge",
]
