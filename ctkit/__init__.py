"""ctkit makes a Delta Lake table of Certificate Transparency entries complete, and proves it.

With parameters, as notebooks and commands do it::

    read_parameters, Parameters    what to do: from a YAML file, or from the names in a notebook
    update -> UpdateReport         all steps of a night, with a LogUpdate for each log
    watch -> WatchReport           new names of domains, and names that look like brands, each told once
    follow                         these steps again and again; a FollowReport after each round
    find_status -> StatusReport    the state of the table and what to do next, with a LogStatus for each log
    report_gaps -> GapReport       what is missing from main and staging
    plot_gaps, GapPreview          the gaps as a picture; a widget to choose from them
    plan_gaps -> Plan, LogPlan     what it takes to fetch them
    fill_gaps -> BackfillReport    fetches them into staging; ProgressBar shows the progress
    StagingPreview                 a widget that looks into staging: charts, a search, rows -> StagingReport
    preview_staged -> MergePreview what a merge would do; MergePreviewPanel does it, and undoes it -> UndoneMerge
    merge_staged -> MergeReport    merges staging into main, in one commit; undo_staged undoes that
    find_main                      the main table, to be asked
    audit_main -> AuditReport      what is complete, and what is proven
    repair -> RepairReport         takes out damaged files, and all but one of several rows with the same key
    tidy_main -> TidyReport        makes few large files of many small ones

Step by step, with logs and tables of your own::

    open_log, read_log_list        a Log: its Checkpoint, its entries as an EntryBlock, their proof
    open_table, find_table         a deltalake.DeltaTable of CT entries
    rows_of                        its rows as an ibis table, for any question
    open_certificate               one of its certificates in full, an OpenCertificate
    certificates, issuances        the same typed for people, an entry or a certificate each
    find_names, search_names       the names of a domain, or like a pattern, from an index; index_names builds it ahead
    name_history, related_names    names of a domain since when, and those that share certificates with them
    look_alikes                    names that look like a brand's, with the reason
    issued_over_time               certificates over time, by issuer, log, kind, algorithm or validity
    busiest_domains, broad_certificates, expiring_names, issuance_smells    what stands out
    show -> Answer, plot_over_time    an answer's first rows, or its counts over time, in a notebook
    find_gaps                      source_url, start, end: half-open, ascending; each is an IndexRange
    plan_backfill, backfill        fetches the missing entries into a table; a Hole could not be fetched
    preview_merge, merge_staging   merges staging into main; undo_merge undoes that, with an UndoReport
    tidy                           few large files in place of many small ones
    audit                          completeness and proof up to the tree head of each log

Errors are `CtkitError`: `LogError` (`LogUnavailableError`, `LogProtocolError`, `CheckpointError`), `TableError`
(`TableBusyError`, `SchemaMismatchError`, `KeyConflictError`, `StalePreviewError`, `UnconfirmedMergeError`),
`UpdateError` and `ParameterError`.
"""

import lazy_loader

# __init__.pyi lists the names: a name is imported at its first use, because together they take a second.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
