"""A video model of latents through the workflow: calibrate, quantize, sample in shards, by the commands of `explain`.

Text embeddings are there already: T5 needs packages that are an optional extra.
"""

import re
from pathlib import Path

import numpy as np
import pytest

from qdit.core.files import load_arrays, read_json
from qdit.core.run import Run
from qdit.sampling.run import SampleJob, sample_checkpoint
from qdit.workflow.command_words import shown
from qdit.workflow.commands import Commands
from qdit.workflow.profile import load_profile, shards
from tests.small_latent_video import FLOW, PROMPTS, write_embeddings, write_latent_video
from tests.workflow.checkout import Checkout, copied
from tests.workflow.test_explain import words

pytestmark = pytest.mark.ci

OVERLAYS = ("tests/workflow/tiny.yaml", "tests/workflow/latent_video.yaml")
TEXT = Path("results/tiny/text/stdit3-latents.safetensors")
RUN = Run("latents-cfg3.0-s2", "natural", "q-dit", "w4a8", "common")
SAMPLES = Path("results/tiny/runs", RUN.path, "samples")
TARGETS = [str(SAMPLES / f"shard-00{number}.json") for number in range(2)]


@pytest.fixture(scope="module")
def sampled(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which the clips of one run were made."""
    copy = Checkout(copied(repository, tmp_path_factory.mktemp("latent-video")))
    write_latent_video(copy.root / "data/latent-video")
    encoder = copy.root / "data/latent-video" / "t5" / "text_encoder" / "config.json"
    encoder.parent.mkdir(parents=True)
    encoder.write_text("{}", encoding="utf-8")
    write_embeddings(copy.root / TEXT)
    copy.snakemake("--cores", "2", *TARGETS, overlays=OVERLAYS)
    return copy


def test_the_clips_are_those_of_the_step_itself(sampled: Checkout, tmp_path: Path) -> None:
    listings = [read_json(sampled.root / target) for target in TARGETS]
    protocols = [listing["origin"]["protocol"] for listing in listings]
    assert [len(listing["chunks"]) for listing in listings] == [2, 1]
    assert all(protocol["dtype"] == "bfloat16" and "OpenSoraVAE" in protocol["decoder"] for protocol in protocols)
    clips = [(prompt, number) for prompt in PROMPTS for number in range(2)]
    folder, files = sampled.root / SAMPLES, sampled.root / "data/latent-video"
    sources = {"embeddings": sampled.root / TEXT, "vae": files / "vae.safetensors", "chunk": 2}
    sample_checkpoint(SampleJob(folder.parent / "checkpoint", tmp_path, FLOW, prompts=clips, **sources))
    for number in range(3):
        name = f"{number:05d}.npz"
        alone, content = (load_arrays(folder_of_chunks / name) for folder_of_chunks in (tmp_path, folder))
        assert list(content["prompts"]) == [PROMPTS[number]] * 2
        assert np.abs(content["frames"].astype(int) - alone["frames"]).mean() < 3, "but for bfloat16"


def test_a_second_run_finds_nothing_to_do(sampled: Checkout) -> None:
    assert "Nothing to be done" in sampled.snakemake("--cores", "1", *TARGETS, overlays=OVERLAYS).stderr


def test_commands_are_the_workflows(sampled: Checkout) -> None:
    done = sampled.snakemake("--dry-run", "--forceall", "--printshellcmds", *TARGETS, overlays=OVERLAYS)
    shells = re.findall(r"^Shell command: (.*)$", done.stdout + done.stderr, flags=re.MULTILINE)
    printed = {line for line in map(words, shells) if line is not None and line[1] in ("calibrate", "sample", "video")}
    profile = load_profile("mini", *(sampled.root / overlay for overlay in OVERLAYS))
    commands = Commands(profile, Path("results", "tiny"))
    lines = [commands.sample(RUN, shard) for shard in shards(profile, RUN.setting, RUN.form)]
    lines += [commands.calibrate(RUN.setting, RUN.form, "trajectory"), commands.embed("stdit3-latents")]
    assert printed == {words(shown(line)) for line in lines}
