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

from importlib import import_module

# A name is imported when it is first used: together they take a second. Those who read code look into __init__.pyi.
_MODULE_OF = {
    "AuditReport": "jobs.audit_report",
    "BackfillReport": "jobs.backfill_report",
    "Checkpoint": "wire.checkpoint",
    "CheckpointError": "errors",
    "CtkitError": "errors",
    "EntryBlock": "wire.entries",
    "GapPreview": "desk.widgets",
    "GapReport": "desk.gap_report",
    "Hole": "jobs.backfill_report",
    "IndexRange": "ranges",
    "KeyConflictError": "errors",
    "Log": "logs.log",
    "LogError": "errors",
    "LogPlan": "jobs.plan",
    "LogProtocolError": "errors",
    "LogUnavailableError": "errors",
    "MergePreview": "lake.merge",
    "MergePreviewPanel": "desk.widgets",
    "MergeReport": "lake.merge",
    "ParameterError": "errors",
    "Parameters": "desk.parameters",
    "Plan": "jobs.plan",
    "Progress": "jobs.backfill_report",
    "ProgressBar": "desk.widgets",
    "RepairReport": "lake.repair",
    "SchemaMismatchError": "errors",
    "StalePreviewError": "errors",
    "TableError": "errors",
    "UnconfirmedMergeError": "errors",
    "audit": "jobs.audit",
    "audit_main": "desk.verbs",
    "backfill": "jobs.backfill",
    "fill_gaps": "desk.verbs",
    "find_gaps": "lake.gaps",
    "find_table": "lake.table",
    "merge_staged": "desk.verbs",
    "merge_staging": "lake.merge",
    "open_log": "logs.log",
    "open_table": "lake.table",
    "plan_backfill": "jobs.plan",
    "plan_gaps": "desk.verbs",
    "plot_gaps": "desk.plots",
    "preview_merge": "lake.merge",
    "preview_staged": "desk.verbs",
    "read_log_list": "logs.log_list",
    "read_parameters": "desk.parameters",
    "repair": "lake.repair",
    "report_gaps": "desk.gap_report",
    "undo_merge": "lake.undo",
    "undo_staged": "desk.verbs",
}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
