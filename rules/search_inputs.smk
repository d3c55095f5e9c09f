# Input files of a search, for rules/search.smk.
from qdit.workflow import searches


def search_of(wildcards):
    return searches.SearchRun(
        wildcards.setting, wildcards.form, wildcards.search, wildcards.bits, replicate_of(wildcards)
    )


def search_inputs(wildcards):
    """Weights and evaluator; calibration data and reference statistics where the search looks at them."""
    inputs = {"weights": weights_of(wildcards), "extractor": extractor_file(wildcards)}
    if vae := vae_of(wildcards):
        inputs["vae"] = vae
    if searches.needs_calibration(config["searches"][wildcards.search]):
        inputs["trajectory"] = str(
            COMMANDS.calibration_file(wildcards.setting, wildcards.form, "trajectory", replicate_of(wildcards))
        )
    if config["allocation"]["metric"] == "fid":
        inputs["reference"] = reference_of(wildcards)
    return inputs


def search_command(wildcards):
    return COMMANDS.search(search_of(wildcards))
