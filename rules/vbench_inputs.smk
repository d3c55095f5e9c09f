# Inputs of VBench's rules: weights, digests, runs.
from qdit.metrics.vbench.needed_weights import WEIGHTS as VBENCH_WEIGHTS

VBENCH = config.get("vbench", {})
VBENCH_FOLDER = VBENCH.get("weights", "weights/vbench")
VBENCH_ENV = f"{RESULTS}/envs/vbench"
VBENCH_PYTHON = "python" if "CONDA" in DEPLOYED else shlex.quote(VBENCH.get("python", f"{VBENCH_ENV}/bin/python"))
VBENCH_DRIVER, VBENCH_LAUNCH = (
    shlex.quote(str(PACKAGE / "metrics" / "vbench" / f"{name}.py")) for name in ("driver", "launch")
)
VBENCH_THERE = (
    f"{{ command -v {VBENCH_PYTHON} > /dev/null || {{ echo 'vbench: error: no VBench environment at '{VBENCH_PYTHON}'; make"
    " it with snakemake vbench_env (from PyPI), or name its Python under vbench in the profile' >&2; exit 2; }; }"
)
# Settings whose clips VBench itself scores for their metrics.json.
VBENCH_SETTINGS = [name for name in VIDEO_SETTINGS if name not in INSTRUMENT_SETTINGS]


def vbench_weights(wildcards):
    """Files that a dimension needs and the profile knows; of others the driver says that they are missing."""
    files = [f"{VBENCH_FOLDER}/{name}" for name in VBENCH_WEIGHTS[wildcards.dimension]]
    return [input_file(file) for file in files if file in config.get("files", {})]


def vbench_flags(wildcards):
    """Folder of the weights, and the digests that the profile gives."""
    names = VBENCH_WEIGHTS[wildcards.dimension]
    known = {name: config.get("files", {}).get(f"{VBENCH_FOLDER}/{name}", {}).get("sha256") for name in names}
    digests = [f"--sha256 {shlex.quote(f'{name}={digest}')}" for name, digest in known.items() if digest]
    return " ".join([f"--weights {shlex.quote(input_file(VBENCH_FOLDER))}", *digests]) if names else ""


def vbench_files(wildcards):
    """VBench's results of all runs of tables of kind table3."""
    tables = [name for name, table in config["tables"].items() if table["kind"] == "table3"]
    runs = sorted({run for name in tables for run in profiles.runs_of(config, name)})
    if not runs:
        raise ConfigError("this profile has no table of kind table3, so VBench has no runs; add one (docs/vbench.md)")
    return [f"{run_folder(run)}/vbench.json" for run in runs]
