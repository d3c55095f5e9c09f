"""Check the targets of the workflow: the tables of a profile, and other pages and files that a user can name."""

from collections.abc import Sequence

from qdit.core.errors import ConfigError, did_you_mean
from qdit.core.run import Run
from qdit.workflow.profile import Profile, default_tables, is_full, runs_of

ALL, AB, CLAIMS_ROWS = "all", "ab", "claims_rows"
OTHER_TARGETS = {
    ALL: "all default tables, the report and the figures",
    AB: "the page on which people compare images",
    CLAIMS_ROWS: "the rows that the papers' claims read, no others, and the page of claims",
    "figures": "the figures",
    "training": "the small models, trained again",
    "training_fashion": "the model and the classifier of photographs, trained again",
    "search_study": "the study of searches",
    "power_study": "the study of how many images a metric needs",
    "outliers": "the outlier study of digits",
    "outliers_fashion": "the outlier study of photographs",
    "bench_kernels": "times of the kernels",
    "bench_sampling": "times of sampling",
    "bench_memory": "memory of models",
    "bench_ranges": "times of ranges",
}
"""Rules of the workflow that are made by their name → what they make."""


def check_tables(profile: Profile, names: Sequence[str]) -> list[str]:
    """Return the names of the tables to make: `names`, or all default tables. ConfigError for an unknown name."""
    for name in names:
        if name not in profile["tables"]:
            known = ", ".join(profile["tables"])
            raise ConfigError(f"table {name!r}: allowed are {known}{did_you_mean(name, profile['tables'])}")
    return list(names) or default_tables(profile)


def check_targets(profile: Profile, names: Sequence[str]) -> list[str]:
    """Return the tables that the targets in `names` make; without names the default tables.

    Names of OTHER_TARGETS (pages and files) are allowed too, but are no tables. ConfigError for any other name.
    """
    tables: dict[str, None] = {}
    for name in names or [ALL]:
        if name == ALL:
            tables |= dict.fromkeys(default_tables(profile))
        elif name in profile["tables"]:
            tables[name] = None
        elif name not in OTHER_TARGETS:
            known = [*profile["tables"], *OTHER_TARGETS]
            raise ConfigError(
                f"target {name!r}: allowed are the tables {', '.join(profile['tables'])}, and"
                f" {', '.join(OTHER_TARGETS)}{did_you_mean(name, known)}"
            )
    return list(tables)


def unestimated(names: Sequence[str]) -> list[str]:
    """Write a line for each target whose time the plan does not estimate."""
    return [
        f"{name}: {OTHER_TARGETS[name]}; time and disk are not estimated"
        for name in names
        if name in OTHER_TARGETS and name not in (ALL, AB, CLAIMS_ROWS)
    ]


def ab_runs(profile: Profile) -> list[Run]:
    """Return the runs whose images the A/B page shows: the first table of kind `table2`, and negative controls.

    The controls are destroyed images of the same settings, from tables of kind `qc`. They test the voter.
    """
    names = [name for name, table in profile["tables"].items() if table["kind"] == "table2"][:1]
    runs = {run: None for name in names for run in runs_of(profile, name)}
    shown = {(run.setting, run.form) for run in runs}
    blocks = [block for table in profile["tables"].values() if table["kind"] == "qc" for block in table["blocks"]]
    for block in blocks:
        if (block["setting"], block["form"]) in shown:
            pairs = [(label, bits) for bits in block["bits"] for label in block["methods"]]
            for label, bits in pairs:
                if not is_full(profile, label):
                    runs[Run(block["setting"], block["form"], label, bits, block["scope"])] = None
    return list(runs)
