"""Name the files of a profile: its inputs, and the files that the jobs write below the folder of results."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qdit.core.repository import shipped_path
from qdit.core.run import INTEGER, SIMULATE, Run, ending
from qdit.metrics.perceptual_file import FILE as LPIPS
from qdit.workflow import profile as profiles
from qdit.workflow.calibration_counts import chosen_kind
from qdit.workflow.families import CLIPS, PIPELINES, ProfileFamily, family_at
from qdit.workflow.profile import Profile
from qdit.workflow.searches import SearchRun


@dataclass(frozen=True)
class Files:
    """Names all files of a profile. The results are in the folder `results`."""

    profile: Profile
    results: Path

    def file(self, path: str) -> Path:
        """Return an input file of the profile: the file in the current folder, or else the shipped file."""
        return shipped_path(Path(path))

    def model(self, setting: str) -> dict[str, Any]:
        """Return the entry of a setting's model in the profile."""
        return dict(self.profile["models"][self.model_name(setting)])

    def model_name(self, setting: str) -> str:
        """Return the name of a setting's model."""
        return str(self.profile["settings"][setting]["model"])

    def family(self, setting: str) -> ProfileFamily:
        """Return the family of a setting's model: images, clips or pipelines."""
        return family_at(self.profile, setting)

    def folder(self, run: Run) -> Path:
        """Return the folder of a run, below `runs/` in the results."""
        return self.results / "runs" / run.path

    def samples(self, run: Run) -> Path:
        """Return the folder of a run's samples."""
        return self.folder(run) / "samples"

    def checkpoint(self, run: Run) -> Path:
        """Return the folder of a run's checkpoint, or of a tool's quantized transformer.

        An integer run uses the checkpoint of the simulated run.
        """
        return self.folder(replace(run, mode=SIMULATE) if run.mode == INTEGER else run) / "checkpoint"

    def weights(self, setting: str, form: str) -> Path:
        """Return the full-precision weights of a setting's model: the shipped or the converted file."""
        return self.model_weights(self.model_name(setting), form)

    def model_weights(self, model: str, form: str) -> Path:
        """Return the file of a model's full-precision weights in one form; for a pipeline its folder."""
        entry = self.profile["models"][model]
        path = entry["forms"][form]
        if profiles.family_of(entry) is not PIPELINES and path in self.profile.get("files", {}):
            return self.results / "weights" / f"{model}-{form}.safetensors"
        return self.file(path)

    def vae_files(self, setting: str) -> list[Path]:
        """Return the files of the VAE of a setting's model: weights, and for images also the configuration."""
        path = self.model(setting).get("vae")
        if path is None:
            return []
        beside = [] if self.family(setting) is CLIPS else [str(Path(path).with_name("config.json"))]
        return [self.file(file) for file in (path, *beside)]

    def lpips_file(self, run: Run) -> Path:
        """Return the path of the file with the LPIPS between a run's images and those of full precision."""
        return self.samples(run) / LPIPS

    def lpips_weights(self) -> list[Path]:
        """Return the two files of weights of LPIPS; none without LPIPS in the profile."""
        entry = self.profile.get("perceptual", {})
        return [self.file(entry[name]) for name in ("backbone", "linear") if name in entry]

    def extractor_weights(self, extractor: str) -> Path:
        """Return the weights of an extractor: a network that computes features of images."""
        return self.file(self.profile["extractors"][extractor])

    def reference_file(self, setting: str) -> Path:
        """Return the file with the statistics of real images to which a setting's images are compared."""
        model = self.model(setting)
        return self.results / "reference" / model["extractor"] / f"{model['reference']}.npz"

    def calibration_file(self, setting: str, form: str, kind: str, replicate: int = 0) -> Path:
        """Return the file of calibration data of a setting, form and kind, drawn for one replicate."""
        folder = self.results / "calibration" / self.model_name(setting) / form / setting
        return folder / f"{kind}{ending(replicate)}.safetensors"

    def calibration_files(self, run: Run, kinds: Iterable[str]) -> dict[str, Path]:
        """Return kind that the method needs → file of calibration data that the run uses for it."""
        chosen = {kind: chosen_kind(self.profile, run.setting, run.label, kind) for kind in kinds}
        return {
            kind: self.calibration_file(run.setting, run.form, name, run.replicate) for kind, name in chosen.items()
        }

    def search_file(self, search: SearchRun) -> Path:
        """Return the allocation file that a search writes."""
        return self.results / "search" / f"{search.path}.json"

    def allocation_file(self, run: Run) -> Path | None:
        """Return the allocation file that a run uses, from a search or named in the profile.

        None without an allocation.
        """
        if search := profiles.search_of(self.profile, run):
            return self.search_file(search)
        path = self.profile["methods"][run.label].get("allocation")
        return None if path is None else self.file(path)

    def text_file(self, setting: str) -> Path | None:
        """Return the file of text embeddings for a setting. None for images, and for prompts that are words."""
        path = profiles.embeddings_file(self.profile, setting)
        return None if path is None else self.results / path

    def base(self, run: Run) -> Run | None:
        """Return the run whose checkpoint this run corrects; None if the method's entry names no `base`."""
        label = self.profile["methods"][run.label].get("base")
        return None if label is None else replace(run, label=label, mode=SIMULATE)
