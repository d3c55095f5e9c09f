"""Build the commands of the workflow's jobs. The rules run them and `qdit explain` shows them.

Each method returns the words after `qdit` as text for a shell. A rule puts `qdit` before them, and the log file after
them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qdit.core.run import IMPORTED, INTEGER, SIMULATE, TOOL, Run
from qdit.core.streams import replicate_seed
from qdit.workflow import profile as profiles
from qdit.workflow.calibration_counts import samples_of, split_kind
from qdit.workflow.command_words import command, flags
from qdit.workflow.families import CLIPS, PIPELINES
from qdit.workflow.judge_commands import JudgeCommands
from qdit.workflow.pipeline_commands import PipelineCommands
from qdit.workflow.profile_pipelines import is_own_folder
from qdit.workflow.searches import SearchRun, needs_calibration


@dataclass(frozen=True)
class Commands(JudgeCommands, PipelineCommands):
    """Builds the commands of all jobs of a profile, and names their files."""

    # Flags

    def protocol(self, setting: str, *, decoded: bool = True, replicate: int = 0) -> list[str]:
        """Return the flags that decide the samples of a setting; without `decoded` only those that decide the latents.

        The seed is that of the replicate's calibration data. Images have the seed of replicate 0.
        """
        seeded = {**self.profile, "seed": replicate_seed(self.profile["seed"], replicate)}
        words = profiles.protocol_flags(seeded, setting, decoded=decoded)
        pairs = zip(words[::2], words[1::2], strict=True)
        return flags({flag: self.file(value) if flag == "--vae" else value for flag, value in pairs})

    def sha256(self, path: str) -> list[str]:
        """Return the flag with the sha256 that a downloaded file must have; none if the profile does not give it."""
        digest = self.profile.get("files", {}).get(path, {}).get("sha256")
        return ["--sha256", digest] if digest else []

    def extractor(self, setting: str) -> dict[str, Any]:
        """Return the flags of the extractor: the network whose features score a setting's images."""
        name = self.model(setting)["extractor"]
        return {"--extractor": name, "--extractor-weights": self.extractor_weights(name)}

    def text(self, setting: str) -> list[str]:
        """Return the flag of the text embeddings; none if the setting reads no embeddings."""
        path = self.text_file(setting)
        return [] if path is None else ["--text-embeddings", str(path)]

    def labels(self, setting: str) -> list[str]:
        """Return the flag that says which classes a setting's images have; none if they are random."""
        rule = self.profile["settings"][setting].get("labels", "random")
        return [] if rule == "random" else ["--labels", rule]

    def names(self, run: Run) -> list[str]:
        """Return the flags with setting, model, form, label and replicate, which metrics.json records."""
        named = {"--setting": run.setting, "--model": self.model_name(run.setting)}
        return flags(named | {"--form": run.form, "--label": run.label} | numbered(run))

    # Commands

    def import_weights(self, model: str, form: str) -> str:
        """Return the command that converts official weights to our format."""
        entry = self.profile["models"][model]
        source, shape = entry["forms"][form], json.dumps(entry.get("shape", {}), sort_keys=True)
        options = [*profiles.family_of(entry).import_flags, "--shape", shape, *self.sha256(source)]
        return command("import-weights", self.file(source), self.model_weights(model, form), *options)

    def reference(self, extractor: str, reference: str) -> str:
        """Return the command that makes a reference file from real images, or from ready statistics of real images."""
        path = self.results / "reference" / extractor / f"{reference}.npz"
        batch = self.profile.get("references", {}).get(reference)
        extractor_flags = {"--extractor": extractor, "--extractor-weights": self.extractor_weights(extractor)}
        if batch is None or is_own_folder(batch):
            data = reference if batch is None else self.file(batch)
            return command("reference", path, *flags({"--data": data} | extractor_flags))
        resolution = profiles.resolution_flag(self.profile, reference)
        return command(
            "import-reference", self.file(batch), path, *flags(extractor_flags), *resolution, *self.sha256(batch)
        )

    def embed(self, model: str) -> str:
        """Return the command that computes a model's text embeddings of the prompts."""
        encoder = self.file(self.profile["models"][model]["text_encoder"])
        path = self.results / profiles.embeddings_path(model)
        return command("video", "embed", self.file(self.profile["video"]["suite"]), path, "--encoder", encoder)

    def calibrate(self, setting: str, form: str, kind: str, replicate: int = 0) -> str:
        """Return the command that makes the calibration data of a replicate."""
        path, (name, _) = self.calibration_file(setting, form, kind, replicate), split_kind(kind)
        if self.family(setting) is PIPELINES:
            return self.calibrate_pipeline(self.weights(setting, form), path, setting, kind, replicate)
        options = [*flags({"--kind": name, "--samples": samples_of(self.profile, setting, kind)}), *self.text(setting)]
        options += self.protocol(setting, decoded=False, replicate=replicate)
        return command("calibrate", self.weights(setting, form), path, *options)

    def search(self, search: SearchRun) -> str:
        """Return the command that searches an allocation: one group size for each layer."""
        entry, shared = self.profile["searches"][search.search], self.profile["allocation"]
        values = {
            "--bits": search.bits,
            "--kind": entry["kind"],
            "--options": json.dumps(entry.get("options", {}), sort_keys=True),
            "--search-seed": replicate_seed(entry.get("seed", 0), search.replicate),
            "--sizes": ",".join(map(str, shared["sizes"])),
            "--reference-size": shared["reference"],
            "--images": shared["images"],
            "--chunk": shared["chunk"],
            "--metric": shared["metric"],
            "--fresh": shared.get("fresh", 0),
        }
        if needs_calibration(entry):
            drawn = self.calibration_file(search.setting, search.form, "trajectory", search.replicate)
            values["--calibration"] = f"trajectory={drawn}"
        if shared["metric"] == "fid":
            values["--reference-file"] = self.reference_file(search.setting)
        released = ["--as-released"] if entry.get("as_released") else []
        options = [*flags(values), *released, *self.protocol(search.setting), *flags(self.extractor(search.setting))]
        return command("search", self.weights(search.setting, search.form), self.search_file(search), *options)

    def quantize(self, run: Run, calibration: Mapping[str, str | Path]) -> str:
        """Return the command that quantizes weights to a checkpoint. `calibration` is kind → file."""
        entry = self.profile["methods"][run.label]
        if run.mode == TOOL:
            return self.quantize_by_tool(run, calibration)
        values = {
            "--method": entry["method"],
            "--bits": run.bits,
            "--scope": run.scope,
            "--options": json.dumps(entry.get("options", {}), sort_keys=True),
        }
        options = flags(values)
        for kind, path in calibration.items():
            options += ["--calibration", f"{kind}={path}"]
        if (allocation := self.allocation_file(run)) is not None:
            options += ["--allocation", str(allocation)]
        if (base := self.base(run)) is not None:
            options += ["--base", str(self.checkpoint(base))]
        if calibration and self.family(run.setting) is PIPELINES:
            options += flags(self.pipeline_precision(run.replicate))
        elif calibration:
            options += self.protocol(run.setting, decoded=False, replicate=run.replicate)
        options += flags(numbered(run))
        return command(
            "quantize", self.weights(run.setting, run.form), self.checkpoint(run), *options, "--record-failure"
        )

    def tools_python(self) -> Path:
        """Python interpreter of the environment in which the tools are installed."""
        return self.results / "envs" / "tools" / "bin" / "python"

    def quantize_by_tool(self, run: Run, calibration: Mapping[str, str | Path]) -> str:
        """Return the command in which a tool quantizes the weights."""
        values = {"--tool": self.profile["methods"][run.label]["tool"], "--bits": run.bits}
        options = flags(values | {"--python": self.tools_python()})
        for path in calibration.values():
            options += ["--calibration", str(path), *self.protocol(run.setting, decoded=False)]
        return command(
            *("tools", "quantize", self.weights(run.setting, run.form), self.checkpoint(run)),
            *options,
            "--record-failure",
        )

    def import_samples(self, run: Run) -> str:
        """Return the command that imports images of another program as samples, and computes their features."""
        counts = profiles.sampled(self.profile, run.setting, run.form)
        source = self.file(self.profile["methods"][run.label]["images"][run.bits])
        values: dict[str, Any] = {"--chunk": counts["chunk"]}
        if self.family(run.setting) is CLIPS:
            video = self.profile["video"]
            values |= {"--suite": self.file(video["suite"]), "--samples": video["clips"]}
        else:
            values |= {"--images": counts["images"]} | self.extractor(run.setting)
        values |= {"--like": self.samples(profiles.full_precision_run(self.profile, run))}
        return command("import-samples", source, self.samples(run), *flags(values))

    def speed(self, run: Run) -> str:
        """Return the command that measures speed and memory of a checkpoint's network and writes speed.json."""
        full = self.checkpoint(profiles.full_precision_run(self.profile, run))
        chunk = profiles.sampled(self.profile, run.setting, run.form)["chunk"]
        options = flags({"--full-precision": full, "--chunk": chunk, "--python": self.tools_python()})
        options += [*self.protocol(run.setting), *self.labels(run.setting)]
        return command("tools", "speed", self.checkpoint(run), self.folder(run) / "speed.json", *options)

    def sample(self, run: Run, shard: int) -> str:
        """Return the command that samples one shard from a checkpoint; for images it also computes the features."""
        if run.mode == IMPORTED:
            return self.import_samples(run)
        counts = profiles.sampled(self.profile, run.setting, run.form)
        if self.family(run.setting) is PIPELINES:
            folder, checkpoint = self.weights(run.setting, run.form), self.checkpoint(run)
            pipeline_words = self.sample_pipeline(run, folder, checkpoint, counts, shard)
            return command(*pipeline_words, *flags(self.extractor(run.setting)), "--record-failure")
        values = {"--chunk": counts["chunk"], "--shard": shard, "--chunks-per-shard": counts["chunks_per_shard"]}
        if self.family(run.setting) is CLIPS:
            video = self.profile["video"]
            values = {"--suite": self.file(video["suite"]), "--samples": video["clips"]} | values
        else:
            computed_by = {"--python": self.tools_python()} if run.mode == TOOL else {"--mode": run.mode}
            values = {"--images": counts["images"]} | values | computed_by | self.extractor(run.setting)
        if run.replicate:
            values |= {"--same-as": self.samples(replace(run, replicate=0))}
        options = [*flags(values), *self.text(run.setting), *self.protocol(run.setting), *self.labels(run.setting)]
        words = ("tools", "sample") if run.mode == TOOL else ("sample",)
        return command(*words, self.checkpoint(run), self.samples(run), *options, "--record-failure")

    def evaluate(self, run: Run) -> str:
        """Return the command that computes metrics.json from samples.

        Images are scored by their features, clips by instruments or from VBench's results.
        """
        score = self.scored_clips if self.family(run.setting) is CLIPS else self.scored_images
        words, values = score(run)
        claimed = {"--bits": run.bits, "--scope": run.scope}
        values = (claimed if run.mode == IMPORTED else {"--checkpoint": self.checkpoint(run)}) | values
        values |= {"--fp-samples": self.samples(profiles.full_precision_run(self.profile, run))}
        values |= {"--resamples": self.profile["sampling"].get("resamples", 200)}
        stated = [*self.protocol(run.setting), *self.labels(run.setting)] if run.mode != IMPORTED else []
        judged = []
        if score == self.scored_images and run.mode in (SIMULATE, INTEGER):
            judged = self.judged_flags(run, self.model(run.setting)["reference"])
        options = [*flags(values), *judged, *stated, *self.names(run)]
        return command(*words, self.samples(run), self.folder(run) / "metrics.json", *options)

    def scored_images(self, run: Run) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Return the words and flags of the command that scores images."""
        values = {
            "--reference-file": self.reference_file(run.setting),
            "--reference-name": self.model(run.setting)["reference"],
            "--images": profiles.sampled(self.profile, run.setting, run.form)["images"],
        }
        if "perceptual" in self.profile:
            values["--lpips"] = self.lpips_file(run)
        return ("evaluate",), values | self.extractor(run.setting)

    def scored_clips(self, run: Run) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Return the words and flags of the command that scores clips."""
        video, model = self.profile["video"], self.model(run.setting)
        values = {"--suite": self.file(video["suite"]), "--samples": video["clips"]}
        if "instruments" in model:
            return ("evaluate",), values | {"--instruments": self.file(model["instruments"])}
        folder = self.folder(run)
        values |= {"--results": folder / "vbench.json", "--listing": folder / "vbench" / "clips.json"}
        return ("vbench", "score"), values | {"--count": profiles.clips_of(self.profile)}

    def table(self, name: str) -> str:
        """Return the command that makes a table from the metrics of its runs."""
        return command("table", name, "--profile", self.results / "profile.json", "--results", self.results)


def numbered(run: Run) -> dict[str, Any]:
    """Return the flag with the number of a replicate; none for replicate 0."""
    return {"--replicate": run.replicate} if run.replicate else {}
