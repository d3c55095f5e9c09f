# Replicates of rows: their numbers in paths, and the files they add (qdit/workflow/replicates.py).
from qdit.workflow.replicates import with_replicates


def replicate_of(wildcards):
    """Number of a replicate: 1 for `-r1`, 0 for nothing."""
    return int(wildcards.replicate.removeprefix("-r") or 0)


def same_samples(wildcards):
    """Samples of replicate 0, for a replicate that copies them if its method drew nothing."""
    run = run_of(wildcards)
    row = replace(run, replicate=0)
    return [f"{run_folder(row)}/samples/shard-{wildcards.shard}.json"] if run.replicate else []


def metrics_files(runs):
    """Metrics of rows and of their replicates."""
    return [f"{run_folder(run)}/metrics.json" for run in with_replicates(config, runs)]
