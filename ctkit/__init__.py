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
    "AuditReport": "findings",
    "BackfillReport": "outcome",
    "Checkpoint": "checkpoint",
    "CheckpointError": "errors",
    "CtkitError": "errors",
    "EntryBlock": "entry",
    "Hole": "outcome",
    "IndexRange": "ranges",
    "KeyConflictError": "errors",
    "Log": "log",
    "LogError": "errors",
    "LogPlan": "plan",
    "LogProtocolError": "errors",
    "LogUnavailableError": "errors",
    "MergePreview": "merge",
    "MergeReport": "merge",
    "ParameterError": "errors",
    "Parameters": "parameters",
    "Plan": "plan",
    "Progress": "outcome",
    "RepairReport": "repairing",
    "SchemaMismatchError": "errors",
    "Situation": "situation",
    "StalePreviewError": "errors",
    "TableError": "errors",
    "UnconfirmedMergeError": "errors",
    "audit": "auditing",
    "audit_main": "verbs",
    "backfill": "backfilling",
    "fill_gaps": "verbs",
    "find_gaps": "gap",
    "find_situation": "situation",
    "find_table": "table",
    "merge_staging": "merge",
    "open_log": "log",
    "open_table": "table",
    "plan_backfill": "plan",
    "preview_merge": "merge",
    "read_log_list": "log_list",
    "read_parameters": "parameters",
    "repair": "repairing",
    "undo_merge": "undo",
}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
