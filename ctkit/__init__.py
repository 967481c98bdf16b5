"""ctkit makes a Delta Lake table of Certificate Transparency entries complete, and proves it.

With parameters, as notebooks and commands do it::

    read_parameters, Parameters    what to do: from a YAML file, or the names in a notebook
    report_gaps -> GapReport       what is missing from main and staging
    plot_gaps, GapPreview          the gaps as a picture; a widget to choose from them
    plan_gaps -> Plan, LogPlan     what fetching them takes
    fill_gaps -> BackfillReport    fetch them into staging; ProgressBar shows how far it is
    preview_staged -> MergePreview what a merge would do; MergePreviewPanel asks and does it
    merge_staged -> MergeReport    staging into main, in one commit; undo_staged takes it back
    audit_main -> AuditReport      what is complete, and what is proven
    repair -> RepairReport         of rows with one key keep one

Step by step, with logs and tables of your own::

    open_log, read_log_list        a Log: its Checkpoint, its entries as an EntryBlock, their proof
    open_table, find_table         a deltalake.DeltaTable of CT entries
    rows_of                        its rows as an ibis table, to ask whatever you like
    find_gaps                      source_url, start, end: half-open, ascending; IndexRange is one of them
    plan_backfill, backfill        the missing entries into a table; a Hole is what could not be had
    preview_merge, merge_staging   staging into main; undo_merge takes it back
    audit                          completeness and proof up to the tree head of each log

Errors are `CtkitError`: `LogError` (`LogUnavailableError`, `LogProtocolError`, `CheckpointError`), `TableError`
(`SchemaMismatchError`, `KeyConflictError`, `StalePreviewError`, `UnconfirmedMergeError`) and `ParameterError`.
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
    "rows_of": "lake.querying",
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
