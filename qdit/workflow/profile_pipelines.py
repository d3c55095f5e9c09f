"""Define and check the parts of a profile for whole pipelines of diffusers and for networks that judge images."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from qdit.core.errors import ConfigError
from qdit.core.run import PIPELINE
from qdit.metrics.judged import FILES
from qdit.sampling.pipeline_protocol import FRAMES
from qdit.workflow.profile_fields import Keyed, Part, Plain, Text

FIRST_FILE = "model_index.json"
"""File of a pipeline's folder that jobs depend on; the digests of all others are part of what they make."""
DECIDED = ("prompt", "num_inference_steps", "guidance_scale", "generator", "output_type")
"""Arguments of a pipeline that the other keys of a setting decide."""
Shapes = dict[str, list[Annotated[int, Field(ge=1)]]]


class Pipeline(Part):
    """Facts about the transformer of a pipeline. A plan needs them before the pipeline's folder exists."""

    transformer: Text
    """Class of diffusers."""
    config: Plain = Field(default_factory=dict)
    """Differences to the usual configuration of the class."""
    text_megabytes: Annotated[float, Field(ge=0)] | None = None
    """About; of text encoders and VAE in the precision of sampling."""


class Call(Part):
    """How a setting calls its pipeline. Image i is made from prompt i of the list."""

    prompts: Text
    """Text file with one prompt a line."""
    calibration_prompts: Text
    arguments: Plain
    """Of the pipeline's call, `height` and `width` among them."""
    frames: Annotated[int, Field(ge=0)] = 0
    """Of clips: frames that are kept of each as images; 0 for a pipeline of images."""
    branches: Literal[1, 2] = 1
    """Evaluations of the transformer in a step: 2 under classifier-free guidance."""
    inputs: Shapes
    """Argument of the transformer → its shape for one sample, for the plan."""
    shared: Shapes = Field(default_factory=dict)
    """Arguments without a row for each sample."""


class ClipJudge(Part):
    """Files of the judge CLIP, which gives the CLIP score."""

    weights: Text
    vocabulary: Text


class RewardJudge(Part):
    """Files of the judge ImageReward."""

    weights: Text
    vocabulary: Text


class DinoJudge(Part):
    """Files of the judge DINOv2, whose features give FD-DINOv2."""

    weights: Text


class Judges(Part):
    """Networks that score every image of the profile (judges), with their files."""

    clip: ClipJudge | None = None
    dino: DinoJudge | None = None
    image_reward: RewardJudge | None = Field(default=None, alias="image-reward")


def judges_of(profile: Keyed) -> list[str]:
    """Return the names of the judges in a profile: networks that score images."""
    judges: Keyed = profile.get("judges", {})
    return list(judges.keys())


def judge_files(profile: Keyed, judge: str) -> dict[str, str]:
    """Return name → path of the files of a judge."""
    entry = profile["judges"][judge]
    return {name: entry[name] for name in FILES[judge]}


def calls_of(profile: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (setting, its key `call`) for every setting of a pipeline."""
    for name, setting in profile["settings"].items():
        if "call" in setting:
            yield name, setting["call"]


def own_files(profile: Mapping[str, Any]) -> dict[str, str]:
    """Return file → description, for the files that the user of pipelines must write: lists of prompts."""
    return {
        path: f"{words} of {name}: a text file with one prompt a line"
        for name, call in calls_of(profile)
        for path, words in ((call["prompts"], "prompts"), (call["calibration_prompts"], "calibration prompts"))
    }


def is_own_folder(path: str) -> bool:
    """Return whether a reference is a folder of the user's PNGs, not an npz."""
    return not path.endswith(".npz")


def frames_of(setting: Keyed) -> int:
    """Return the number of images that one sample of a setting gives: 1, or the frames that are kept of a clip."""
    call = setting.get("call")
    return 1 if call is None else max(1, int(call.get("frames", 0)))


def branches_of(setting: Keyed) -> int:
    """Return the evaluations of the network in one step: 2 under guidance, else 1; for a pipeline its `branches`."""
    call = setting.get("call")
    if call is not None:
        return int(call.get("branches", 1))
    return 2 if setting["cfg_scale"] > 1 else 1


def check_pipeline(models: Mapping[str, Any], name: str, setting: Any) -> None:
    """Raise ConfigError unless a setting has a `call` and the sampler `pipeline` exactly for a pipeline."""
    where, model = f"settings.{name}", models[setting.model]
    if (model.pipeline is not None) != (setting.sampler == PIPELINE):
        words = ("a pipeline", "must have") if model.pipeline is not None else ("not a pipeline", "cannot have")
        raise ConfigError(
            f"{where}.sampler: found {setting.sampler!r}; {setting.model} is {words[0]}, so its settings {words[1]} the"
            f" sampler {PIPELINE!r}; correct the sampler"
        )
    if (model.pipeline is not None) != (setting.call is not None):
        if setting.call is None:
            raise ConfigError(f"{where}: missing call, the arguments with which the pipeline is called; add it")
        raise ConfigError(f"{where}.call: found a call, but {setting.model} is not a pipeline; remove it")
    if setting.call is None:
        return
    arguments = setting.call.arguments
    if missing := [side for side in ("height", "width") if type(arguments.get(side)) is not int]:
        raise ConfigError(f"{where}.call.arguments: missing {' and '.join(missing)}, a whole number of pixels; add it")
    if decided := [name for name in DECIDED if name in arguments]:
        raise ConfigError(f"{where}.call.arguments: {decided[0]} is decided by other keys of the setting; remove it")
    if setting.call.frames not in (0, *FRAMES):
        raise ConfigError(
            f"{where}.call.frames: found {setting.call.frames}, allowed are 0 and {', '.join(map(str, FRAMES))}"
        )


def check_pipeline_model(model: Any, where: str) -> None:
    """Raise ConfigError for keys that a model of a pipeline must not have."""
    if excess := [key for key in ("vae", "shape", "instruments", "text_encoder") if model.get(key) is not None]:
        raise ConfigError(
            f"{where}: found pipeline and {excess[0]}; the folder of a pipeline holds what it needs; remove {excess[0]}"
        )
