# Input files of figures and their analyses, for rules/figures.smk.
from qdit.report.figures import plan as figure_plan

FIGURE_NAMES = [figure for figure in figure_plan.planned(config) if not figure.opt_in]
FIGURES = f"{RESULTS}/figures/figures.json"
DEFAULT_FIGURES = [] if "files" in config else [FIGURES]
ANALYZED = {"activations": 16, "errors": 8}  # images that an analysis follows


def compared_runs(wildcards):
    """Runs whose errors a file of the analysis holds."""
    for subject in figure_plan.subjects(config):
        for comparison in figure_plan.comparisons(config, subject):
            if (subject.setting, subject.form, comparison.bits, comparison.scope) == tuple(
                wildcards[name] for name in ("setting", "form", "bits", "scope")
            ):
                return [comparison.run(label) for label in comparison.labels]
    return []


def full_precision_at(wildcards):
    """Checkpoint of full precision with which these runs are compared."""
    run = profiles.Run(wildcards.setting, wildcards.form, "", wildcards.bits, wildcards.scope)
    return f"{run_folder(profiles.full_precision_run(config, run))}/checkpoint/config.json"


def checkpoint_flags(wildcards):
    """The checkpoints to compare, as flags."""
    folders = {run.label: f"{run_folder(run)}/checkpoint" for run in compared_runs(wildcards)}
    return " ".join(f"--checkpoint {shlex.quote(f'{label}={folder}')}" for label, folder in folders.items())


def analyses(wildcards):
    """Arrays of all figures of the profile."""
    subjects = figure_plan.subjects(config)
    errors = [comparison.errors for subject in subjects for comparison in figure_plan.comparisons(config, subject)]
    return [f"{RESULTS}/{file}" for file in [*(subject.activations for subject in subjects), *errors]]


def figure_tables():
    """Tables whose rows, samples or allocations figures show."""
    return list(dict.fromkeys(figure.table for figure in FIGURE_NAMES if figure.table))


def figure_runs(wildcards):
    """Metrics and samples of these tables."""
    runs = dict.fromkeys(run for table in figure_tables() for run in profiles.runs_of(config, table))
    return [file for run in runs for file in [f"{run_folder(run)}/metrics.json", *shard_files(run)]]


def figure_allocations(wildcards):
    """Allocations of these tables."""
    return [search_file(search) for table in figure_tables() for search in profiles.searches_of(config, table)]
