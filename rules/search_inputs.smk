# What a search looks at and how it is told, for rules/search.smk.
from qdit.workflow import searches


def search_inputs(wildcards):
    """Weights and evaluator; calibration data and reference statistics where the search looks at them."""
    model = model_of(wildcards)
    found = {"weights": weights_of(wildcards), "extractor": repository(config["extractors"][extractor_of(wildcards)])}
    if vae := vae_of(wildcards):
        found["vae"] = vae
    if searches.needs_calibration(config["searches"][wildcards.search]):
        folder = f"{RESULTS}/calibration/{model}/{wildcards.form}/{wildcards.setting}"
        found["trajectory"] = f"{folder}/trajectory.safetensors"
    if config["allocation"]["metric"] == "fid":
        found["reference"] = f"{RESULTS}/reference/{extractor_of(wildcards)}/{reference_of(wildcards)}.npz"
    return found


def search_flags(wildcards, input):
    """Kind and options of a search, the budget and measure that all share, and the files it looks at."""
    search, shared = config["searches"][wildcards.search], config["allocation"]
    flags = {
        "--kind": search["kind"],
        "--options": json.dumps(search.get("options", {}), sort_keys=True),
        "--search-seed": search.get("seed", 0),
        "--sizes": ",".join(map(str, shared["sizes"])),
        "--reference-size": shared["reference"],
        "--images": shared["images"],
        "--chunk": shared["chunk"],
        "--metric": shared["metric"],
        "--fresh": shared.get("fresh", 0),
    }
    if "trajectory" in input.keys():
        flags["--calibration"] = f"trajectory={input.trajectory}"
    if "reference" in input.keys():
        flags["--reference-file"] = input.reference
    given = [f"{flag} {shlex.quote(str(value))}" for flag, value in flags.items()]
    return " ".join([*given, *(["--as-released"] if search.get("as_released") else [])])
