# Definitions that all rules use: the checked profile, wildcard patterns, paths, and digests of the code that a step
# runs.
import json
import os
import re
import secrets
import shlex
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from snakemake.utils import min_version

sys.path.insert(0, str(workflow.basedir))

from qdit.workflow import profile as profiles
from qdit.workflow.calibration_counts import COUNTED
from qdit.workflow.commands import Commands
from qdit.workflow.families import CLIPS, PIPELINES
from qdit.workflow.profile_pipelines import FIRST_FILE, is_own_folder, judges_of, own_files
from qdit.core.digest import Sources
from qdit.core.errors import ConfigError
from qdit.core.repository import PACKAGE
from qdit.metrics.extractor_names import extractor_module
from qdit.workflow.method_index import method_index, planned_code, planned_kinds
from qdit.workflow.profile_files import command_values
from qdit.workflow.paths import require_plain_folders
from qdit.workflow.priorities import Priorities

min_version("9.20")

# Sources are read once for all digests of a plan.
code_digest = Sources().digest

# All commands load a profile in this way: overlays and --config values change config/mini.yaml, or a whole profile.
try:
    require_plain_folders(workflow.basedir, Path.cwd())
    profile = profiles.load_profile(
        *workflow.overwrite_configfiles, values=command_values(workflow.config_settings.config)
    )
except ConfigError as problem:
    print(f"qdit: error: {problem}", file=sys.stderr)
    sys.exit(2)
config.clear()
config.update(profile)

for line in profiles.broken_lines(config):
    print(f"qdit: {line}", file=sys.stderr)

RESULTS = f"results/{config['profile']}"
RUN = "<results>/runs/{setting}/{form}/{label}/{bits}-{scope}{replicate}"
INDEX = f"{RESULTS}/index.html"
REPORT = [f"{RESULTS}/{name}" for name in ("claims.html", "claims.csv", "leaderboard.html", "leaderboard.csv")] + [
    INDEX
]
ALL_PUBLISHED = [*(f"{kind}.csv" for kind in profiles.PRINTED_KINDS), "methods.csv", "claims.yaml"]
# Results that were measured once and that the report shows: benchmarks, and the study of the searches.
STUDIES = sorted(
    file for name in ("bench-*", "search") for file in Path(workflow.basedir, "results/studies").glob(f"{name}.json")
)
CALIBRATION = "<results>/calibration/{model}/{form}/{setting}/{kind}{replicate}.safetensors"
ENVIRONMENT = str(Path(workflow.basedir, "environment.yml"))


pathvars:
    results=RESULTS,


def literally(text):
    """A text that Snakemake formats to itself: Python may lie under a path with braces."""
    return text.replace("{", "{{").replace("}", "}}")


# A job runs the `qdit` of this checkout, in the environment of Snakemake or in the one that --sdm conda made.
DEPLOYED = str(getattr(workflow.deployment_settings, "deployment_method", ""))
PYTHON = "python" if "CONDA" in DEPLOYED else shlex.quote(sys.executable)
SOURCES = shlex.quote(str(workflow.basedir))
# glibc keeps freed memory. So a sampling job does not request the same pages again and again.
MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "1073741824"}
# Only `qdit fetch` downloads.
JOBS = MEMORY | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
# The device of a job does not change the identity of its result.
JOBS |= {"QDIT_DEVICE": config["compute"]["device"]} if "device" in config.get("compute", {}) else {}
# Number of GPUs of a job that runs networks. The job itself chooses a free GPU (qdit/core/gpu_lease.py).
GPUS = int(config.get("compute", {}).get("device") == "cuda")
EXPORTS = " ".join(f"{name}={value}" for name, value in JOBS.items())
# Local jobs are children of one command server that has torch and the steps imported; elsewhere each job imports them.
SERVER = PACKAGE / "cli" / "server.py"
# Several short runs can share a server: QDIT_SERVER names its socket.
RUNNING = os.environ.get("QDIT_SERVER", "")
SOCKET = Path(RUNNING or Path(tempfile.gettempdir(), f"qdit-{secrets.token_hex(8)}", "socket"))
QDIT = (
    f"{PYTHON} -m qdit"
    if "CONDA" in DEPLOYED
    else f"{PYTHON} -SE {shlex.quote(str(SERVER))} run {shlex.quote(str(SOCKET))}"
)
shell.prefix(literally(f'set -euo pipefail; export PYTHONPATH={SOURCES} {EXPORTS}; qdit() {{ {QDIT} "$@"; }}; '))


def repository(path):
    """A file that belongs to the suite, wherever the results go; relative, so that a checkout can be moved."""
    file = Path(workflow.basedir, path)
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)


# Files and commands of the jobs, which `qdit explain` shows as well.
COMMANDS = Commands(config, Path(RESULTS))
# The first block of the first table is made first, so that its page appears early.
PRIORITIES = Priorities(config, COMMANDS)


def input_file(path):
    """An input file of the profile: that of the current folder, where `qdit fetch` writes, else the suite's."""
    return str(COMMANDS.file(path))


def one_of(names):
    return "|".join(map(re.escape, names)) or "(?!)"


# Samples and scores of clips have rules of their own (rules/video.smk, rules/vbench.smk).
IMAGE_SETTINGS = [name for name in config["settings"] if COMMANDS.family(name) is not CLIPS]
VIDEO_SETTINGS = [name for name in config["settings"] if name not in IMAGE_SETTINGS]


wildcard_constraints:
    setting=one_of(config["settings"]),
    form=one_of(sorted({form for model in config["models"].values() for form in model["forms"]})),
    label=one_of(config["methods"]),
    model=one_of(config["models"]),
    extractor=one_of(config["extractors"]),
    bits=r"w\d+a\d+",
    scope="common|own",
    replicate=r"|-r[1-9]\d*",
    kind=one_of(config["calibration"]) + f"|{COUNTED}",
    search=one_of(config.get("searches", {})),
    shard=r"\d{3}",
    table=one_of(config["tables"]),


def model_of(wildcards):
    return COMMANDS.model_name(wildcards.setting)


def weights_of(wildcards):
    """Weights as they are shipped, or as they were converted once (rules/paper.smk); a file of a pipeline's folder."""
    model = wildcards.get("model", None) or model_of(wildcards)
    if profiles.family_of(config["models"][model]) is PIPELINES:
        return str(COMMANDS.pipeline_mark(model, wildcards.form))
    return str(COMMANDS.model_weights(wildcards.get("model", None) or model_of(wildcards), wildcards.form))


def vae_of(wildcards):
    """Files of the VAE that decodes a model's latents; nothing where it makes pixels."""
    return list(map(str, COMMANDS.vae_files(wildcards.setting)))


def text_of(wildcards):
    """Text embeddings of the prompts that a model of latents reads (rules/video.smk); nothing where these are words."""
    return str(COMMANDS.text_file(wildcards.setting) or "") or []


def extractor_of(wildcards):
    return config["models"][model_of(wildcards)]["extractor"]


def extractor_file(wildcards):
    return str(COMMANDS.extractor_weights(extractor_of(wildcards)))


def extraction_code(wildcards):
    """Modules that extract the features of a setting's images."""
    return "qdit.metrics.extraction", extractor_module(extractor_of(wildcards))


def reference_of(wildcards):
    """Statistics of the real images that a setting's images are compared with."""
    return str(COMMANDS.reference_file(wildcards.setting))


def method_of(wildcards):
    return config["methods"][wildcards.label]["method"]


def protocol_flags(wildcards, decoded=True):
    """Flags that decide every sample of a setting; without the VAE those that decide its latents."""
    return shlex.join(COMMANDS.protocol(wildcards.setting, decoded=decoded))


def quantize_code(wildcards):
    """Digest of the contract's code and the method's own file: editing one method replans only its rows."""
    return planned_code(method_of(wildcards), digest=code_digest)


def labels_of(*methods):
    """Pattern of the labels under which the profile runs these methods."""
    return one_of(label for label, entry in config["methods"].items() if entry["method"] in methods)


def methods_without_rules():
    """Methods without a file in rules/baselines/: the generic rule makes them, as their classes say."""
    written = {file.stem for file in Path(workflow.basedir, "rules", "baselines").glob("*.smk")}
    return [name for name in method_index().names if re.sub(r"\W+", "_", name) not in written]


def quantize_inputs(*kinds):
    """Input function: weights, one calibration set per kind for the run's form and setting, allocation if given.

    Without kinds those that the method's class asks for under the label's options.
    """

    def files(wildcards):
        run, entry = run_of(wildcards), config["methods"][wildcards.label]
        inputs = COMMANDS.calibration_files(run, kinds or planned_kinds(entry["method"], entry.get("options", {})))
        if base := COMMANDS.base(run):
            inputs["base"] = COMMANDS.checkpoint(base) / "config.json"
        if allocation := COMMANDS.allocation_file(run):
            inputs["allocation"] = allocation
        return {name: str(path) for name, path in inputs.items()} | {"weights": weights_of(wildcards)}

    return files


def cluster_resource(name):
    """Memory or time that a method's class asks for on a cluster, and again as much at each further attempt."""
    default = {"memory_mb": 16000, "minutes": 60}[name]

    def amount(wildcards, attempt):
        facts = method_index().methods.get(method_of(wildcards))
        return attempt * (default if facts is None else getattr(facts, name))

    return amount


def quantize_command(wildcards, input):
    """Weights → checkpoint, with the calibration data among the inputs."""
    data = {name: path for name, path in input.items() if name in config["calibration"]}
    return COMMANDS.quantize(run_of(wildcards), data)


def search_file(search):
    """The allocation that a search finds at a setting, form and bits."""
    return str(COMMANDS.search_file(search))


def run_folder(run):
    return str(COMMANDS.folder(run))


def run_of(wildcards):
    names = {name: wildcards[name] for name in ("setting", "form", "label", "bits", "scope")}
    return profiles.Run(**names, replicate=replicate_of(wildcards))


def integer_run(wildcards):
    return replace(run_of(wildcards), mode=profiles.INTEGER)


def tool_run(wildcards):
    return replace(run_of(wildcards), mode=profiles.TOOL)


def imported_run(wildcards):
    return replace(run_of(wildcards), mode=profiles.IMPORTED)


def full_precision_run(wildcards):
    return profiles.full_precision_run(config, run_of(wildcards))


def shard_files(run):
    """Lists of the sample chunks of a run."""
    return [f"{run_folder(run)}/samples/shard-{shard:03d}.json" for shard in profiles.run_shards(config, run)]


def feature_files(run):
    """Features of the images of a run, a file per shard."""
    return [f"{run_folder(run)}/samples/features-{shard:03d}.npz" for shard in profiles.run_shards(config, run)]


def lpips_files(run):
    """LPIPS of the images of a run; nothing where the profile does not ask for it."""
    return [str(COMMANDS.lpips_file(run))] if "perceptual" in config else []


def table_files(table):
    """A table in its formats, and the folder of MP4 files where it shows clips."""
    formats = [f"{RESULTS}/tables/{table}.{suffix}" for suffix in ("html", "csv", "md", "tex")]
    clips = [f"{RESULTS}/tables/{table}-clips"] if config["tables"][table]["kind"] == "table3" else []
    return formats + clips


def published_of(wildcards):
    """The printed numbers of a table, if its kind has any."""
    kind = config["tables"][wildcards.table]["kind"]
    return repository(f"results/published/{kind}.csv") if kind in profiles.PRINTED_KINDS else []


def allocations_of(wildcards):
    """The allocations that a table shows."""
    shows = config["tables"][wildcards.table]["kind"] in ("table6", "transfer")
    return [search_file(search) for search in profiles.searches_of(config, wildcards.table)] if shows else []


def default_metrics(wildcards):
    """Metrics of the runs of all default tables."""
    return metrics_files(profiles.all_runs(config))


def metrics_of(wildcards):
    return metrics_files(profiles.runs_of(config, wildcards.table))


def speeds_of(wildcards):
    """Speeds of the runs of a table of tools; they are no part of its results."""
    runs = profiles.runs_of(config, wildcards.table) if config["tables"][wildcards.table]["kind"] == "tools" else []
    return [f"{run_folder(run)}/speed.json" for run in runs if run.mode != profiles.IMPORTED]


def samples_of(wildcards):
    """The samples that a table shows; the page of the controls shows none."""
    return table_samples(wildcards.table)


def table_samples(table):
    shows = config["tables"][table]["kind"] != "qc"
    return [file for run in profiles.runs_of(config, table) for file in shard_files(run)] if shows else []


def default_samples(wildcards):
    """The samples that the default tables show."""
    return list(dict.fromkeys(file for table in profiles.default_tables(config) for file in table_samples(table)))


def default_allocations(wildcards):
    """The allocations that the default tables show."""
    tables = [
        name for name in profiles.default_tables(config) if config["tables"][name]["kind"] in ("table6", "transfer")
    ]
    return list(dict.fromkeys(search_file(search) for name in tables for search in profiles.searches_of(config, name)))
