"""Build the commands of jobs for whole pipelines of diffusers.

`qdit.workflow.commands` builds the other commands.
"""

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
    """Builds the commands of pipelines, and names the files that only pipelines read."""

    def call(self, setting: str) -> dict[str, Any] | None:
        """Return the key `call` of a setting: how the pipeline is called; None for models that are no pipelines."""
        call = self.profile["settings"][setting].get("call")
        return None if call is None else dict(call)

    def prompt_files(self, setting: str) -> dict[str, Path]:
        """Return the two lists of prompts of a setting, for samples and for calibration.

        They are empty for models without a pipeline.
        """
        call = self.call(setting)
        return {} if call is None else {key: self.file(call[key]) for key in ("prompts", "calibration_prompts")}

    def pipeline_mark(self, model: str, form: str) -> Path:
        """Return the first file of a pipeline's folder. Jobs depend on it in place of the whole folder."""
        return self.file(f"{self.profile['models'][model]['forms'][form]}/{FIRST_FILE}")

    def arguments(self, setting: str, *, with_guidance: bool) -> str:
        """Return the arguments of a pipeline's call as JSON; `with_guidance` adds the guidance scale."""
        entry = self.profile["settings"][setting]
        guidance = {"guidance_scale": entry["cfg_scale"]} if with_guidance else {}
        return json.dumps(entry["call"]["arguments"] | guidance, sort_keys=True)

    def pipeline_precision(self, replicate: int = 0) -> dict[str, Any]:
        """Return the flags of a replicate's seed and of the precision."""
        dtype = self.profile.get("compute", {}).get("dtype")
        return {"--seed": replicate_seed(self.profile["seed"], replicate)} | (
            {} if dtype is None else {"--dtype": dtype}
        )

    def calibrate_pipeline(self, weights: Path, path: Path, setting: str, kind: str, replicate: int = 0) -> str:
        """Return the command that makes calibration data with a pipeline and its calibration prompts."""
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
        """Return the words of the command that samples one shard with the whole pipeline.

        The flags of the extractor are not among them.
        """
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
