# Text that a run prints: the progress of its tables, and its last lines. Local jobs share one command server.
import os
import subprocess
import sys
from pathlib import Path

from qdit.workflow.ending import counted_rows, ending, row_lines, target_pages, target_rows
from qdit.workflow.first_look import FirstLook
from qdit.workflow.priorities import leading_table
from qdit.workflow.progress import ROWS, Progress, planned_jobs
from qdit.workflow.progress_findings import learned_labels, names_of
from qdit.workflow.progress_log import attach
from qdit.workflow.replicates import with_replicates


def say_what_there_is(stopped=False):
    """The last lines of a run, however it ends: rows without numbers, and the pages that were asked for."""
    jobs = workflow.dag.targetjobs
    lines = [*row_lines(target_rows(jobs)), *ending(config, Path(RESULTS), target_pages(jobs), INDEX, stopped=stopped)]
    print(*lines, sep="\n", flush=True)


# One line for each table instead of Snakemake's long output: qdit/workflow/progress_log.py.
PROGRESS = attach(workflow, when_nothing=say_what_there_is)


def watch():
    """Show the progress of the tables whose pages this run makes, and of rows that the target names."""
    outputs = {str(file) for job in workflow.dag.jobs for file in job.output}
    pages = {name: f"{RESULTS}/tables/{name}.html" for name in config["tables"]}
    pages = {name: page for name, page in pages.items() if page in outputs}
    shown = {name: with_replicates(config, profiles.runs_of(config, name)) for name in pages}
    runs = {f"{run_folder(run)}/metrics.json": run for of_table in shown.values() for run in of_table}
    rows = {name: [f"{run_folder(run)}/metrics.json" for run in of_table] for name, of_table in shown.items()}
    last_files = {name: [page] for name, page in pages.items()}
    if single := [str(file) for file in counted_rows(workflow.dag.targetjobs)]:
        every = [run for name in config["tables"] for run in with_replicates(config, profiles.runs_of(config, name))]
        runs |= {f"{run_folder(run)}/metrics.json": run for run in every}
        rows[ROWS] = last_files[ROWS] = single
    resources = workflow.resource_settings
    cores = max(resources.cores or 0, resources.nodes or 0)
    jobs = planned_jobs(workflow.dag, last_files)
    progress = Progress(rows, last_files, jobs, cores=cores, learned=learned_labels(config))
    first = leading_table(config) if leading_table(config) in pages else next(iter(pages), None)
    look = first and workflow.is_main_process and FirstLook(first, runs, Path(RESULTS), str(workflow.basedir))
    PROGRESS.begin(progress, runs, names_of(config), Path(RESULTS, "logs", "run.log"), look or None)


onstart:
    if workflow.local_exec:
        # Only a cluster needs a limit of jobs per second. With a limit, each job that ends starts a timer, and each timer
        # lets Snakemake check all waiting jobs: up to a sixth of a core.
        workflow.scheduler.job_rate_limiter = None
    if "CONDA" not in DEPLOYED and not RUNNING and hasattr(os, "pidfd_open"):
        serve = [sys.executable, str(SERVER), "serve", str(SOCKET), str(workflow.basedir)]
        # The server stops when this process ends, because its standard input closes. Ctrl-C goes to this process only.
        subprocess.Popen(serve, stdin=subprocess.PIPE, env=os.environ | JOBS, start_new_session=True)
    if PROGRESS is not None:
        watch()


onsuccess:
    if PROGRESS is not None:
        PROGRESS.finish()
    say_what_there_is()


onerror:
    if PROGRESS is not None:
        PROGRESS.finish()
    say_what_there_is(stopped=PROGRESS is not None and PROGRESS.interrupted)
