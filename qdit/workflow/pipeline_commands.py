"""Commands of the jobs of whole pipelines; `qdit.workflow.commands` puts them among the others."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdit.core.run import Run
from qdit.core.streams import replicate_seed
from qdit.workflow.calibration_counts import samples_of, split_kind
from qdit.workflow.command_files import Files
from qdit.workflow.command_words import command, flags
from qdit.workflow.profile_pipelines import FIRST_FILE


class PipelineCommands(Files):
    """Commands of pipelines, and the files that only they read."""

    def call(self, setting: str) -> dict[str, Any] | None:
        """How a setting calls its pipeline; None for other models."""
        call = self.profile["settings"][setting].get("call")
        return None if call is None else dict(call)

    def prompt_files(self, setting: str) -> dict[str, Path]:
        """The two lists of prompts of a setting; empty for models without a pipeline."""
        call = self.call(setting)
        return {} if call is None else {key: self.file(call[key]) for key in ("prompts", "calibration_prompts")}

    def pipeline_mark(self, model: str, form: str) -> Path:
        """File of a pipeline's folder that jobs depend on."""
        return self.file(f"{self.profile['models'][model]['forms'][form]}/{FIRST_FILE}")

    def arguments(self, setting: str, *, with_guidance: bool) -> str:
        """Arguments of a pipeline's call as JSON, with the guidance scale for commands that have no flag for it."""
        entry = self.profile["settings"][setting]
        guidance = {"guidance_scale": entry["cfg_scale"]} if with_guidance else {}
        return json.dumps(entry["call"]["arguments"] | guidance, sort_keys=True)

    def pipeline_precision(self, replicate: int = 0) -> dict[str, Any]:
        """Flags of the seed of a replicate, and of the precision."""
        dtype = self.profile.get("compute", {}).get("dtype")
        return {"--seed": replicate_seed(self.profile["seed"], replicate)} | (
            {} if dtype is None else {"--dtype": dtype}
        )

    def calibrate_pipeline(self, weights: Path, path: Path, setting: str, kind: str, replicate: int = 0) -> str:
        """Pipeline and prompts → calibration data."""
        steps, (name, _) = self.profile["settings"][setting]["steps"], split_kind(kind)
        samples = samples_of(self.profile, setting, kind)
        values = {
            "--kind": name,
            "--samples": -(-samples // steps) if name == "per-step" else samples,
            "--prompts": self.prompt_files(setting)["calibration_prompts"],
            "--steps": steps,
            "--arguments": self.arguments(setting, with_guidance=True),
        }
        return command("calibrate", weights, path, *flags(values | self.pipeline_precision(replicate)))

    def sample_pipeline(
        self, run: Run, folder: Path, checkpoint: Path, counts: Mapping[str, Any], shard: int
    ) -> list[str]:
        """Words of the command checkpoint → images by the whole pipeline, without the extractor."""
        entry = self.profile["settings"][run.setting]
        values = {
            "--pipeline": folder,
            "--prompts": self.prompt_files(run.setting)["prompts"],
            "--images": counts["images"],
            "--chunk": counts["chunk"],
            "--shard": shard,
            "--chunks-per-shard": counts["chunks_per_shard"],
            "--steps": entry["steps"],
            "--cfg-scale": entry["cfg_scale"],
            "--arguments": self.arguments(run.setting, with_guidance=False),
            "--frames": entry["call"].get("frames", 0),
        }
        words = ["pipeline", "sample", str(checkpoint), str(self.samples(run))]
        return [*words, *flags(values | self.pipeline_precision())]
