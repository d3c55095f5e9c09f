"""The commands of the workflow's jobs, for one run: what Snakemake would call to make each of its files.

A test compares them with what `snakemake --dry-run --printshellcmds` prints, so that they cannot drift apart.
"""

import json
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qdit.core.run import SIMULATE, Run
from qdit.workflow import profile as profiles
from qdit.workflow.profile import Profile
from qdit.workflow.searches import SearchPlace, needs_calibration


@dataclass(frozen=True)
class Commands:
    """Commands of a profile whose results lie in `results`; each is one line for a shell in the repository."""

    profile: Profile
    results: Path

    def model(self, run: Run) -> dict[str, Any]:
        """The model's entry of a run's setting."""
        return dict(self.profile["models"][self.model_name(run.setting)])

    def model_name(self, setting: str) -> str:
        """Model of a setting."""
        return str(self.profile["settings"][setting]["model"])

    def folder(self, run: Run) -> Path:
        """Folder of a run."""
        return self.results / "runs" / run.path

    def checkpoint(self, run: Run) -> Path:
        """Folder of a run's checkpoint; an integer run samples from that of the simulated one."""
        return self.folder(replace(run, mode=SIMULATE)) / "checkpoint"

    def weights(self, run: Run) -> Path:
        """Full-precision weights of a run: as shipped, or as they were converted once."""
        path = self.model(run)["forms"][run.form]
        if path in self.profile.get("files", {}):
            return self.results / "weights" / f"{self.model_name(run.setting)}-{run.form}.safetensors"
        return Path(path)

    def imported_weights(self, run: Run) -> str | None:
        """Conversion of official weights; None where they are taken as they are shipped."""
        source = self.model(run)["forms"][run.form]
        if source not in self.profile.get("files", {}):
            return None
        shape = json.dumps(self.model(run).get("shape", {}), sort_keys=True)
        family = ["--family", "stdit3"] if self.is_video(run) else []
        return line("import-weights", source, self.weights(run), *family, "--shape", shape, *self.sha256(source))

    def sha256(self, path: str) -> list[str]:
        """The digest that a file from elsewhere must have, as a flag, if the profile gives one."""
        digest = self.profile.get("files", {}).get(path, {}).get("sha256")
        return ["--sha256", digest] if digest else []

    def extractor_weights(self, run: Run) -> Path:
        """Weights of the network whose features score a run."""
        return Path(self.profile["extractors"][self.model(run)["extractor"]])

    def reference_file(self, run: Run) -> Path:
        """Statistics of real images that a run is compared with."""
        model = self.model(run)
        return self.results / "reference" / model["extractor"] / f"{model['reference']}.npz"

    def calibration_file(self, run: Run, kind: str) -> Path:
        """Calibration data of a run: those of `kind`, or what its method's entry takes instead."""
        instead = self.profile["methods"][run.label].get("calibration", {}).get(kind, kind)
        return self.calibration_folder(run.setting, run.form) / f"{instead}.safetensors"

    def calibration_folder(self, setting: str, form: str) -> Path:
        """Folder of the calibration data of a setting and form."""
        return self.results / "calibration" / self.model_name(setting) / form / setting

    def search_file(self, place: SearchPlace) -> Path:
        """The allocation that a search finds."""
        return self.results / "search" / f"{place.path}.json"

    def protocol(self, setting: str, *, decoded: bool = True) -> list[str]:
        """What decides every image of a setting, as flags; without the VAE what decides latents."""
        return profiles.protocol_flags(self.profile, setting, decoded=decoded)

    def table(self, name: str) -> str:
        """Rendering of a table."""
        return line("table", name, "--profile", self.results / "profile.json", "--results", self.results)

    def is_video(self, run: Run) -> bool:
        """Whether a run makes clips."""
        return profiles.is_video(self.profile, run.setting)

    def names(self, run: Run) -> list[str]:
        """What metrics.json calls a run, as flags."""
        named = {"--setting": run.setting, "--model": self.model_name(run.setting)}
        return flags(named | {"--form": run.form, "--label": run.label})

    def score_clips(self, run: Run) -> str:
        """Clips → metrics.json, by the model's own instruments or from VBench's results."""
        folder, model = self.folder(run), self.model(run)
        by_vbench = "instruments" not in model
        given: dict[str, Any] = {"--checkpoint": self.checkpoint(run)}
        if by_vbench:
            given |= {"--results": folder / "vbench.json", "--listing": folder / "vbench" / "clips.json"}
        given |= {
            "--fp-samples": self.folder(profiles.full_precision_run(self.profile, run)) / "samples",
            "--suite": self.profile["video"]["suite"],
        }
        given |= {"--count": profiles.clips_of(self.profile)} if by_vbench else {}
        given |= {"--samples": self.profile["video"]["clips"]}
        given |= {"--resamples": self.profile["sampling"].get("resamples", 200)}
        given |= {} if by_vbench else {"--instruments": model["instruments"]}
        options = [*flags(given), *self.protocol(run.setting), *self.names(run)]
        kind = "vbench" if by_vbench else "video"
        return line(kind, "score", folder / "samples", folder / "metrics.json", *options)

    def text_file(self, run: Run) -> Path | None:
        """Text embeddings that a run reads; None where its prompts are words, and of images."""
        path = profiles.embeddings_file(self.profile, run.setting)
        return None if path is None else self.results / path

    def text(self, run: Run) -> list[str]:
        """The same as a flag."""
        path = self.text_file(run)
        return [] if path is None else ["--text-embeddings", str(path)]

    def embed(self, run: Run) -> str | None:
        """Prompts → text embeddings; None where there are none."""
        path = self.text_file(run)
        if path is None:
            return None
        given = (self.profile["video"]["suite"], path, "--encoder", self.model(run)["text_encoder"])
        return line("video", "embed", *given)

    def sample_clips(self, run: Run, shard: int) -> str:
        """Checkpoint → clips of a shard."""
        video = self.profile["video"]
        given = {
            "--suite": video["suite"],
            "--samples": video["clips"],
            "--chunk": video["chunk"],
            "--shard": shard,
            "--chunks-per-shard": video["chunks_per_shard"],
        }
        options = [*flags(given), *self.text(run), *self.protocol(run.setting), "--record-failure"]
        return line("video", "sample", self.checkpoint(run), self.folder(run) / "samples", *options)

    def evaluate(self, run: Run) -> str:
        """Features and images, or clips → metrics.json."""
        if self.is_video(run):
            return self.score_clips(run)
        folder, model = self.folder(run), self.model(run)
        full = self.folder(profiles.full_precision_run(self.profile, run))
        given = {
            "--checkpoint": self.checkpoint(run),
            "--reference-file": self.reference_file(run),
            "--reference-name": model["reference"],
            "--extractor": model["extractor"],
            "--extractor-weights": self.extractor_weights(run),
            "--fp-samples": full / "samples",
            "--images": self.profile["sampling"]["images"],
            "--resamples": self.profile["sampling"].get("resamples", 200),
        }
        options = [*flags(given), *self.protocol(run.setting), *self.names(run)]
        return line("evaluate", folder / "samples", folder / "metrics.json", *options)

    def reference(self, run: Run) -> str:
        """Real images → their statistics."""
        model, path = self.model(run), self.reference_file(run)
        batch = self.profile.get("references", {}).get(model["reference"])
        extractor = {"--extractor": model["extractor"], "--extractor-weights": self.extractor_weights(run)}
        if batch is not None:
            resolution = profiles.resolution_flag(self.profile, model["reference"])
            return line("import-reference", batch, path, *flags(extractor), *resolution, *self.sha256(batch))
        return line("reference", path, *flags({"--data": model["reference"]} | extractor))

    def sample(self, run: Run, shard: int) -> str:
        """Checkpoint → images of a shard and their features, or clips."""
        if self.is_video(run):
            return self.sample_clips(run, shard)
        sampling = self.profile["sampling"]
        given = {
            "--images": sampling["images"],
            "--chunk": sampling["chunk"],
            "--shard": shard,
            "--chunks-per-shard": sampling["chunks_per_shard"],
            "--mode": run.mode,
            "--extractor": self.model(run)["extractor"],
            "--extractor-weights": self.extractor_weights(run),
        }
        options = [*self.protocol(run.setting), *flags(given), "--record-failure"]
        return line("sample", self.checkpoint(run), self.folder(run) / "samples", *options)

    def quantize(self, run: Run, kinds: list[str]) -> str:
        """Weights → checkpoint, with calibration data of these kinds."""
        entry = self.profile["methods"][run.label]
        given = {
            "--method": entry["method"],
            "--bits": run.bits,
            "--scope": run.scope,
            "--options": json.dumps(entry.get("options", {}), sort_keys=True),
        }
        options = flags(given)
        for kind in kinds:
            options += ["--calibration", f"{kind}={self.calibration_file(run, kind)}"]
        if (allocation := self.allocation_file(run)) is not None:
            options += ["--allocation", str(allocation)]
        if "base" in entry:
            options += ["--base", str(self.checkpoint(self.base(run)))]
        if kinds:
            options += self.protocol(run.setting, decoded=False)
        return line("quantize", self.weights(run), self.checkpoint(run), *options, "--record-failure")

    def base(self, run: Run) -> Run:
        """The run whose checkpoint this one corrects."""
        return replace(run, label=self.profile["methods"][run.label]["base"], mode=SIMULATE)

    def allocation_file(self, run: Run) -> Path | None:
        """The allocation that a run takes, found by a search or given in the profile."""
        if place := profiles.search_of(self.profile, run):
            return self.search_file(place)
        given = self.profile["methods"][run.label].get("allocation")
        return None if given is None else Path(given)

    def calibrate(self, run: Run, kind: str) -> str:
        """Weights → calibration data."""
        path = self.calibration_file(run, kind)
        video = self.is_video(run)
        counts = self.profile["video" if video else "calibration"]
        given = {"--kind": path.stem, "--samples": (counts["calibration"] if video else counts)[path.stem]}
        options = [*flags(given), *self.text(run), *self.protocol(run.setting, decoded=False)]
        return line(*(["video"] if video else []), "calibrate", self.weights(run), path, *options)

    def search(self, place: SearchPlace) -> str:
        """Weights → allocation."""
        run = Run(place.setting, place.form, "", place.bits, "common")
        search, shared, model = self.profile["searches"][place.search], self.profile["allocation"], self.model(run)
        given = {
            "--bits": place.bits,
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
        if needs_calibration(search):
            folder = self.calibration_folder(place.setting, place.form)
            given["--calibration"] = f"trajectory={folder / 'trajectory.safetensors'}"
        if shared["metric"] == "fid":
            given["--reference-file"] = self.reference_file(run)
        released = ["--as-released"] if search.get("as_released") else []
        extractor = {"--extractor": model["extractor"], "--extractor-weights": self.extractor_weights(run)}
        options = [*flags(given), *released, *self.protocol(place.setting), *flags(extractor), "--workers", "1"]
        return line("search", self.weights(run), self.search_file(place), *options)


def flags(values: dict[str, Any]) -> list[str]:
    """Flags and their values, one after the other."""
    return [str(part) for pair in values.items() for part in pair]


def line(*words: object) -> str:
    """A command of `qdit` as a line for a shell."""
    return shlex.join(["qdit", *map(str, words)])
