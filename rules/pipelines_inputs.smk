# Inputs of whole pipelines (prompts, the pipeline's folder) and of the judges of their images; real images of a
# profile.
def pipeline_of(wildcards):
    """A pipeline's folder and list of prompts, from which images are made; nothing for other models."""
    files = COMMANDS.prompt_files(wildcards.setting)
    mark = [weights_of(wildcards)] if files else []
    return [*mark, *(str(path) for name, path in files.items() if name == "prompts")]


def calibration_prompts_of(wildcards):
    """Prompts of calibration data; nothing for models without a pipeline."""
    return [str(path) for name, path in COMMANDS.prompt_files(wildcards.setting).items() if name != "prompts"]


def sampling_code(wildcards):
    """Module that samples a setting's images."""
    is_pipeline = COMMANDS.family(wildcards.setting) is PIPELINES
    return "qdit.sampling.pipeline_images" if is_pipeline else "qdit.sampling.run"


def judge_files(run):
    """What judges say of the images of a run and of full precision; nothing where the profile has no judges."""
    runs = dict.fromkeys((run, profiles.full_precision_run(config, run)))
    return [str(COMMANDS.judged_file(of, judge)) for of in runs for judge in judges_of(config)]


def judge_references(wildcards):
    """Features of real images by the judge of features."""
    name = config["models"][model_of(wildcards)]["reference"]
    has = "dino" in judges_of(config) and name in config.get("references", {})
    return [str(COMMANDS.judge_reference_file("dino", name))] if has else []


def fetched_file(path):
    """A file of `files`; of a pipeline's folder the file that jobs depend on."""
    return input_file(f"{path}/{FIRST_FILE}" if is_folder_of_pipeline(path) else path)


def is_folder_of_pipeline(path):
    models = (model for model in config["models"].values() if "pipeline" in model)
    return any(path in model["forms"].values() for model in models)


def real_images(reference):
    """A batch of real images. A folder of the user's own is not an input, so that a plan can be made without it."""
    batch = config["references"][reference]
    return [] if is_own_folder(batch) else [input_file(batch)]
