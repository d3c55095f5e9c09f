"""Build the commands of jobs in which networks score images: LPIPS and judges.

`qdit.workflow.commands` builds the other commands.
"""

from pathlib import Path

from qdit.core.run import Run
from qdit.metrics.judged import FEATURES, judged_file
from qdit.workflow.command_files import Files
from qdit.workflow.command_words import command, flags
from qdit.workflow.profile import full_precision_run
from qdit.workflow.profile_pipelines import judge_files, judges_of

DINO = "dinov2"
"""Extractor of a judge that gives features, as `qdit reference` names it."""


class JudgeCommands(Files):
    """Builds the commands of LPIPS and judges."""

    @property
    def device(self) -> str:
        """Device of the profile: `cpu` or `cuda`."""
        return str(self.profile.get("compute", {}).get("device", "cpu"))

    def perceptual(self, run: Run) -> str:
        """Return the command that computes LPIPS of each image, from samples of a run and of full precision."""
        fp_samples = self.samples(full_precision_run(self.profile, run))
        backbone, linear = self.lpips_weights()
        values = {"--network": self.profile["perceptual"]["network"], "--backbone": backbone, "--linear": linear}
        values |= {"--device": self.device, "--out": self.lpips_file(run)}
        return command("perceptual", self.samples(run), fp_samples, *flags(values))

    def judged_file(self, run: Run, judge: str) -> Path:
        """Return the file with a judge's scores or features of a run's images."""
        return judged_file(self.samples(run), judge)

    def judge_weights(self, judge: str) -> dict[str, Path]:
        """Return name → path of the files that a judge needs."""
        return {name: self.file(path) for name, path in judge_files(self.profile, judge).items()}

    def judge(self, run: Run, judge: str) -> str:
        """Return the command in which a judge computes scores or features of a run's images."""
        values = flags({"--judge": judge, "--out": self.judged_file(run, judge), "--device": self.device})
        for name, path in self.judge_weights(judge).items():
            values += ["--file", f"{name}={path}"]
        return command("judge", self.samples(run), *values)

    def judge_reference_file(self, judge: str, reference: str) -> Path:
        """Return the file with the statistics of real images in a judge's features."""
        return self.results / "reference" / judge / f"{reference}.npz"

    def judge_reference(self, judge: str, reference: str) -> str:
        """Return the command that computes mean and covariance of a judge's features over real images."""
        values = {
            "--data": self.file(self.profile["references"][reference]),
            "--extractor": DINO,
            "--extractor-weights": self.judge_weights(judge)["weights"],
            "--device": self.device,
        }
        path = self.judge_reference_file(judge, reference)
        return command("reference", path, *flags(values), "--images-only")

    def judged_flags(self, run: Run, reference: str) -> list[str]:
        """Return the flags of `qdit evaluate` that name the files of all judges."""
        words = []
        for judge in judges_of(self.profile):
            words += ["--judged", f"{judge}={self.judged_file(run, judge)}"]
            if judge in FEATURES and reference in self.profile.get("references", {}):
                words += ["--judge-reference", f"{judge}={self.judge_reference_file(judge, reference)}"]
        return words
