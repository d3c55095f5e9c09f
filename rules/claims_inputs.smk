# Rows that the claims read (qdit/report/claims/rows_read.py), and the inputs of the pages that show verdicts.
import functools

from qdit.workflow.targets import ALL, CLAIMS_ROWS


def claims_metrics(wildcards):
    """Metrics of the rows that the claims read."""
    from qdit.report.claims.rows_read import rows_read

    return metrics_files(rows_read(config))


def claims_page_inputs(wildcards):
    """Metrics of the rows that the page of claims reads: rows that this call makes, and other rows that exist."""
    return claims_page_files()


@functools.cache
def claims_page_files():
    from qdit.report.claims.page_inputs import page_inputs

    return list(map(str, page_inputs(config, Path(RESULTS), requested_rows())))


def requested_rows():
    """Rows that the targets of this call make: those of claims_rows and of named tables; else of all default tables."""
    from qdit.report.claims.rows_read import rows_read

    if not workflow.is_main_process:
        return []  # a job that another call sends to a cluster: all rows that it waits for exist
    targets = {rule.name for rule in workflow.dag.targetrules}
    rows = [run for table in config["tables"] if table in targets for run in profiles.runs_of(config, table)]
    if CLAIMS_ROWS in targets:
        rows += rows_read(config)
    if CLAIMS_ROWS not in targets or ALL in targets:
        rows += profiles.all_runs(config)
    return rows
