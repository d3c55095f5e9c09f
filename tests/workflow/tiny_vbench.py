"""What tests/workflow/latent.yaml names: a random model of latents, its prompts, an environment like VBench's."""

import json
import os
import venv
from pathlib import Path

from qdit.core.metrics import DIMENSIONS
from qdit.metrics.vbench.driver import VERSION
from qdit.metrics.vbench.needed_weights import SOURCES
from tests.small_latent_video import PROMPTS, write_embeddings, write_latent_video

VBENCH = '''
import json, pathlib

class VBench:
    """Scores a clip by the size of its file."""

    def __init__(self, device, suite, results):
        self.results = pathlib.Path(results)

    def evaluate(self, videos, name, **options):
        unit = 100 if name == "imaging_quality" else 1
        clips = {str(path): path.stat().st_size % 97 / 97 for path in sorted(pathlib.Path(videos).iterdir())}
        rows = [{"video_path": path, "video_results": unit * score} for path, score in clips.items()]
        found = {name: [sum(clips.values()) / len(clips), rows]}
        (self.results / f"{name}_eval_results.json").write_text(json.dumps(found))
'''
MODULES = {"vbench": VBENCH, "torch": "device = str\n", "torchvision": "", "numpy": "", "detectron2": ""}


def write_tiny_vbench(folder: Path, results: Path) -> None:
    """Weights, VAE, suite; text embeddings among the results, as if T5 had made them; VBench's environment, files."""
    write_latent_video(folder)
    rows = [{"prompt_en": prompt, "dimension": list(DIMENSIONS)} for prompt in PROMPTS]
    (folder / "suite.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "t5" / "text_encoder").mkdir(parents=True)
    (folder / "t5" / "text_encoder" / "config.json").write_text("{}")
    for name in SOURCES:
        (folder / "weights" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "weights" / name).write_text(name)
    venv.create(folder / "env", symlinks=True)
    site = next(folder.glob("env/lib/python*/site-packages"))
    for name, text in MODULES.items():
        (site / name).mkdir()
        (site / name / "__init__.py").write_text(text)
        version = VERSION if name == "vbench" else "0"
        (site / f"{name}-{version}.dist-info").mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (site / f"{name}-{version}.dist-info" / "METADATA").write_text(metadata)
    text = write_embeddings(results / "text" / "stdit3-latents.safetensors")
    newer = max(path.stat().st_mtime for path in folder.rglob("*")) + 1
    os.utime(text, (newer, newer))
