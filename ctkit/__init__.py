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

import lazy_loader

# __init__.pyi lists the names: a name is imported at its first use, because together they take a second.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
