"""Define what the workflow does differently for images, clips and pipelines: the families of a profile's models."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from qdit.models.config import DiffusersConfig, DiTConfig, STDiT3Config
from qdit.workflow.profile_facts import clips_of
from qdit.workflow.profile_fields import Keyed

CLIP_KEYS: dict[str, tuple[str, ...]] = {"instruments": (), "text_encoder": ("vae",)}
"""Key that makes an entry of `models` a model of clips → the keys that it needs besides.

A model of pixels is scored by its instruments, a model of latents reads the texts of an encoder.
"""

Profile = Mapping[str, Any]


class ProfileFamily(ABC):
    """Base class of the families: what differs between images, clips and pipelines in the plan of a profile."""

    name: ClassVar[str]
    """Name of the family in files: dit, stdit3 or diffusers."""
    samples: ClassVar[str]
    """What its models make, in the plural."""
    model_is: ClassVar[str]
    """What its models are called, with an article."""
    config: ClassVar[type[DiTConfig] | type[STDiT3Config] | type[DiffusersConfig]]
    """Class of its models' shapes."""
    has_features: ClassVar[bool]
    """Whether sampling extracts features, by which the samples are scored."""
    is_searched: ClassVar[bool]
    """Whether the workflow searches group sizes for its models."""
    import_flags: ClassVar[tuple[str, ...]]
    """Flags of `qdit import-weights`."""

    @abstractmethod
    def sampled(self, profile: Profile, share: float) -> dict[str, Any]:
        """Return the numbers of samples: `images` of a run, `chunk` (images in a chunk), and `chunks_per_shard`.

        `share` is the fraction of all images that a run of the setting has.
        """

    @abstractmethod
    def calibration(self, profile: Profile) -> Mapping[str, int]:
        """Return kind of calibration data → number of noisy samples."""

    @abstractmethod
    def protocol(self, profile: Profile, setting: Mapping[str, Any]) -> dict[str, Any]:
        """Return the flags that decide the samples of a setting, without VAE and precision."""

    @abstractmethod
    def dtype(self, profile: Profile) -> str | None:
        """Return the precision that the profile sets; None if it sets none."""


class ImageFamily(ProfileFamily):
    """The family of image models (DiT)."""

    name = "dit"
    samples = "images"
    model_is = "an image"
    config: ClassVar[type[DiTConfig] | type[STDiT3Config] | type[DiffusersConfig]] = DiTConfig
    has_features = True
    is_searched = True
    import_flags = ()

    def sampled(self, profile: Profile, share: float) -> dict[str, Any]:
        """Return the profile's `sampling`, with the share of its images.

        The share is rounded up to whole chunks: at least one chunk, at most all.
        """
        counts = dict(profile["sampling"])
        chunks = math.ceil(share * counts["images"] / counts["chunk"])
        return counts | {"images": min(counts["images"], chunks * counts["chunk"])}

    def calibration(self, profile: Profile) -> Mapping[str, int]:
        """Return the profile's `calibration`."""
        counts: Mapping[str, int] = profile["calibration"]
        return counts

    def protocol(self, profile: Profile, setting: Mapping[str, Any]) -> dict[str, Any]:
        """Return the flags of sampler, steps, guidance and seed."""
        return {"--sampler": setting["sampler"], **common_protocol(profile, setting)}

    def dtype(self, profile: Profile) -> str | None:
        """Return the profile's `compute.dtype`."""
        return common_dtype(profile)


class ClipFamily(ProfileFamily):
    """The family of video models (STDiT3)."""

    name = "stdit3"
    samples = "clips"
    model_is = "a video"
    config = STDiT3Config
    has_features = False
    is_searched = False
    import_flags = ("--family", "stdit3")

    def sampled(self, profile: Profile, share: float) -> dict[str, Any]:
        """Return the number of all clips of all prompts, and the chunks of `video`; `share` is not used."""
        video = profile["video"]
        return {"images": clips_of(profile), "chunk": video["chunk"], "chunks_per_shard": video["chunks_per_shard"]}

    def calibration(self, profile: Profile) -> Mapping[str, int]:
        """Return the `calibration` of the profile's `video`."""
        counts: Mapping[str, int] = profile["video"]["calibration"]
        return counts

    def protocol(self, profile: Profile, setting: Mapping[str, Any]) -> dict[str, Any]:
        """Return the flags of steps, guidance and seed, and of the clip's size and shift if the setting has them."""
        flags = common_protocol(profile, setting)
        flags |= {
            f"--{side}": setting["clip"][side] for side in ("frames", "height", "width", "fps") if "clip" in setting
        }
        return flags | {"--shift": setting["shift"]} if "shift" in setting else flags

    def dtype(self, profile: Profile) -> str | None:
        """Return the `dtype` of the profile's `video`, else its `compute.dtype`."""
        dtype: str | None = profile["video"].get("dtype", common_dtype(profile))
        return dtype


class PipelineFamily(ImageFamily):
    """The family of whole pipelines of diffusers. They make images, or clips whose frames are kept as images."""

    name = "diffusers"
    model_is = "a pipeline"
    config = DiffusersConfig
    is_searched = False

    def protocol(self, profile: Profile, setting: Mapping[str, Any]) -> dict[str, Any]:
        """Return the flags of steps, guidance and seed; other arguments of the call are not in the protocol."""
        return common_protocol(profile, setting)


IMAGES, CLIPS, PIPELINES = ImageFamily(), ClipFamily(), PipelineFamily()


def common_protocol(profile: Profile, setting: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags that all families have: steps, guidance and seed."""
    return {"--steps": setting["steps"], "--cfg-scale": setting["cfg_scale"], "--seed": profile["seed"]}


def common_dtype(profile: Profile) -> str | None:
    """Return the profile's `compute.dtype`, or None. It is for images, and for clips without a `video.dtype`."""
    dtype: str | None = profile.get("compute", {}).get("dtype")
    return dtype


def family_of(model: Keyed) -> ProfileFamily:
    """Return the family of an entry of `models`: pipelines, clips (with instruments or a text encoder), or images."""
    if model.get("pipeline") is not None:
        return PIPELINES
    return CLIPS if any(key in model for key in CLIP_KEYS) else IMAGES


def family_at(profile: Keyed, setting: str) -> ProfileFamily:
    """Return the family of the model of a setting."""
    return family_of(profile["models"][profile["settings"][setting]["model"]])
