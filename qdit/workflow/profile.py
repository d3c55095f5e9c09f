"""Read profiles (YAML files that define models, settings, methods and tables), and list the runs of a profile."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qdit.core.run import IMPORTED, INTEGER, SIMULATE, TOOL, UNQUANTIZED, Run
from qdit.workflow.families import family_at, family_of
from qdit.workflow.method_index import method_index
from qdit.workflow.paths import check_paths
from qdit.workflow.profile_facts import (
    BUILT_IN_REFERENCES,
    MINIATURE,
    MINIATURES,
    block_runs,
    clips_of,
    full_precision_label,
    is_full,
)
from qdit.workflow.profile_fields import check
from qdit.workflow.profile_files import profile_file, read_layers
from qdit.workflow.profile_models import PRINTED_KINDS, ProfileModel, with_method
from qdit.workflow.profile_pipelines import frames_of
from qdit.workflow.profile_references import check_references
from qdit.workflow.rule_names import require_free_names
from qdit.workflow.searches import SearchRun, search_run_of

__all__ = [
    "BUILT_IN_REFERENCES",
    "IMPORTED",
    "INTEGER",
    "PRINTED_KINDS",
    "SIMULATE",
    "TOOL",
    "Profile",
    "all_runs",
    "broken_lines",
    "clips_of",
    "default_tables",
    "embeddings_file",
    "encoder_files",
    "family_at",
    "family_of",
    "full_precision_label",
    "full_precision_run",
    "is_full",
    "listing",
    "load_profile",
    "profile_file",
    "protocol_flags",
    "run_shards",
    "runs_of",
    "sampled",
    "search_of",
    "searches_of",
    "shards",
    "validate",
]


Profile = Mapping[str, Any]


def load_profile(*names: str | Path, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read a profile and its overlays, by name or path, and check it.

    The Snakefile and every command call this function. Overlays change the default profile, config/mini.yaml, unless a
    file is a whole profile (`standalone`, or all parts exist). `values` override all files (`snakemake --config`).
    ConfigError gives the problem in one line.
    """
    profile = read_layers(*names, values=values)
    validate(profile)
    say_miniature(profile)
    profile["methods"] = {label: with_method(entry) for label, entry in profile["methods"].items()}
    return profile


def say_miniature(profile: dict[str, Any]) -> None:
    """Add the key `miniature` to a profile with a small model, if it is missing: what its images show."""
    for model in profile["models"].values():
        about = MINIATURE if "instruments" in model else MINIATURES.get(model.get("reference"))
        if about is not None:
            profile.setdefault("miniature", about)


def validate(profile: Any) -> ProfileModel:
    """Check a profile and return it as pydantic models.

    ConfigError for a value that is not allowed, or for a name that no other part of the profile defines.
    """
    model = check(ProfileModel, profile)
    check_references(model)
    require_free_names(model.tables)
    check_paths(profile)
    return model


def default_tables(profile: Profile) -> list[str]:
    """Return the tables that the workflow makes if the user names none."""
    return [table for table, definition in profile["tables"].items() if not definition.get("opt_in", False)]


def runs_of(profile: Profile, table: str) -> list[Run]:
    """Return the runs that a table needs, each once, in the order of its rows.

    The quality control (kind `qc`) reads the simulated runs of all other default tables, then its two controls. A table
    of kind `integer` shows every quantized run in both modes.
    """
    runs: dict[Run, None] = {}
    if profile["tables"][table]["kind"] == "qc":
        others = [name for name in default_tables(profile) if profile["tables"][name]["kind"] != "qc"]
        runs |= {run: None for name in others for run in runs_of(profile, name) if run.mode == SIMULATE}
    for block in profile["tables"][table]["blocks"]:
        for run in block_runs(profile, block):
            runs[run] = None
            if profile["tables"][table]["kind"] == INTEGER and not is_full(profile, run.label):
                runs[replace(run, mode=INTEGER)] = None
    return list(runs)


def search_of(profile: Profile, run: Run) -> SearchRun | None:
    """Return the search whose allocation a run uses, or None."""
    at = {"setting": run.setting, "form": run.form, "label": run.label, "bits": run.bits}
    return search_run_of(profile, **at, replicate=run.replicate)


def searches_of(profile: Profile, table: str) -> list[SearchRun]:
    """Return the searches whose allocations the runs of a table use, each once."""
    searches = [search_of(profile, run) for run in runs_of(profile, table)]
    return list(dict.fromkeys(search for search in searches if search is not None))


def all_runs(profile: Profile) -> list[Run]:
    """Return the runs of the default tables, each once."""
    return list(dict.fromkeys(run for table in default_tables(profile) for run in runs_of(profile, table)))


def listing(profile: Profile) -> str:
    """List methods, settings, tables and runs as text."""
    lines = ["methods (name, where it is written, rows of this profile):"]
    for method, facts in method_index().methods.items():
        labels = [label for label, entry in profile["methods"].items() if entry["method"] == method]
        lines.append(f"  {method:<10} {facts.module:<20} {', '.join(labels) or '-'}")
    lines += [f"  {line}" for line in broken_lines(profile)]
    lines.append("settings:")
    for name, setting in profile["settings"].items():
        lines.append(f"  {name:<20} " + ", ".join(f"{key} {value}" for key, value in setting.items()))
    for table in profile["tables"]:
        opt_in = "" if table in default_tables(profile) else " (made only when it is named)"
        lines += [f"{table}{opt_in}:", *(f"  {run.path}" for run in runs_of(profile, table))]
    return "\n".join(lines)


def broken_lines(profile: Profile) -> list[str]:
    """Write lines about method files that cannot be used, and about the rows that are missing for this reason."""
    lines = []
    for file in method_index().broken:
        rows = [label for label, entry in profile["methods"].items() if entry["method"] in file.names]
        lines.append(f"broken: {file.reason}" + (f" (no rows of {', '.join(rows)})" if rows else ""))
    return lines


def protocol_flags(profile: Profile, setting: str, *, decoded: bool = True) -> list[str]:
    """Return the flags of `qdit` that decide every sample of a setting.

    Without `decoded` the VAE is left out, for steps that work on latents. VAE and precision are left out if the profile
    has none.
    """
    entry = profile["settings"][setting]
    model = profile["models"][entry["model"]]
    family = family_of(model)
    values = family.protocol(profile, entry)
    if decoded and "vae" in model:
        values["--vae"] = model["vae"]
    if (dtype := family.dtype(profile)) is not None:
        values["--dtype"] = dtype
    return [str(word) for pair in values.items() for word in pair]


def embeddings_file(profile: Profile, setting: str) -> str | None:
    """Return the file of text embeddings for a setting, below the results. None if the model has no text encoder."""
    model = profile["settings"][setting]["model"]
    return embeddings_path(model) if "text_encoder" in profile["models"][model] else None


def embeddings_path(model: str) -> str:
    """Return the file of a model's text embeddings, below the results."""
    return f"text/{model}.safetensors"


def encoder_files(profile: Profile, folder: str) -> list[str]:
    """Return the files of a text encoder that `files` of the profile lists, or else the one file that must exist."""
    known = [path for path in profile.get("files", {}) if Path(path).is_relative_to(folder)]
    return known or [f"{folder}/text_encoder/config.json"]


def resolution_flag(profile: Profile, reference: str) -> list[str]:
    """Return the flag with the side in pixels of the images that models with this reference make.

    Empty if the profile does not say it. One position of the latents stands for eight pixels, as in every VAE that DiT
    was trained with.
    """
    models = [model for model in profile["models"].values() if model.get("reference") == reference]
    shapes = [(model["shape"], 8 if "vae" in model else 1) for model in models if "shape" in model]
    sides = {shape.get("input_size", 32) * pixels for shape, pixels in shapes}
    return ["--resolution", str(sides.pop())] if len(sides) == 1 else []


def full_precision_run(profile: Profile, run: Run) -> Run:
    """Return the full-precision run with the same noise as `run`."""
    return Run(run.setting, run.form, full_precision_label(profile), UNQUANTIZED, run.scope)


def sampled(profile: Profile, setting: str, form: str) -> Mapping[str, Any]:
    """Return the numbers of a run: `images` (or clips), `chunk` (images in a chunk), and `chunks_per_shard`.

    Kept frames of clips count as images. All runs of a setting and form have the same numbers, so each can be paired
    with full precision.
    """
    entry = profile["settings"][setting]
    counts = family_at(profile, setting).sampled(profile, entry.get("share", {}).get(form, 1))
    if (frames := frames_of(entry)) == 1:
        return counts
    return counts | {"images": frames * counts["images"], "chunk": frames * counts["chunk"]}


def run_shards(profile: Profile, run: Run) -> range:
    """Return the shard numbers of a run. Images of another program are one shard."""
    return range(1) if run.mode == IMPORTED else shards(profile, run.setting, run.form)


def shards(profile: Profile, setting: str, form: str) -> range:
    """Return the shard numbers of any run of a setting and form."""
    counts = sampled(profile, setting, form)
    return range(-(-counts["images"] // (counts["chunk"] * counts["chunks_per_shard"])))
