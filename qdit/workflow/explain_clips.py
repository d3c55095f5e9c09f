"""Check the files that only rows of clips have, for `qdit explain`: prompts, the scoring program, chunks of clips."""

from collections.abc import Iterator
from pathlib import Path

from qdit.core.errors import DataError
from qdit.core.files import read_json, sha256_file, sha256_json
from qdit.core.metrics_record import MetricsRecord
from qdit.core.run import Run
from qdit.metrics.samples import listed_shards
from qdit.workflow import profile as profiles
from qdit.workflow.command_words import shown
from qdit.workflow.commands import Commands

Evidence = tuple[str, Path, str | None, str | None, str | None]
"""What it is, its file, the digest it has, the recorded digest, the command that makes it."""


def scored_with(commands: Commands, run: Run, record: MetricsRecord) -> Iterator[Evidence]:
    """Yield the files with which clips were scored: prompts, text embeddings, and instruments or VBench's results."""
    protocol, model = record.protocol, commands.model(run.setting)
    suite = commands.file(commands.profile["video"]["suite"])
    yield "prompts", suite, suite_sha256(suite), protocol.get("prompts", {}).get("sha256"), None
    if (text := commands.text_file(run.setting)) is not None:
        command = shown(commands.embed(commands.model_name(run.setting)))
        yield "text embeddings", text, digest(text), None, command
    if "instruments" in model:
        instruments = commands.file(model["instruments"])
        yield "instruments", instruments, digest(instruments), protocol.get("evaluator", {}).get("sha256"), None
        return
    folder, judged = commands.folder(run), record.vbench or {}
    for what, name in (("results of VBench", "vbench.json"), ("clips that VBench saw", "vbench/clips.json")):
        path = folder / name
        yield what, path, digest(path), judged.get("made_of", {}).get(name), f"snakemake --cores all {path}"


def digest(path: Path) -> str | None:
    """Return the sha256 of a file; None if there is no file."""
    return sha256_file(path) if path.is_file() else None


def suite_sha256(path: Path) -> str | None:
    """Return the digest of the prompts and dimensions of a suite, as metrics.json has it; None without file."""
    if not path.is_file():
        return None
    try:
        return sha256_json([[row["prompt_en"], row["dimension"]] for row in read_json(path)])
    except (KeyError, TypeError):
        raise DataError(f"{path}: not a list of prompts; write one with `qdit video suite`") from None


def clip_facts(commands: Commands, run: Run, folder: Path) -> str:
    """Write the number of clips. DataError unless every listed chunk exists and is unchanged."""
    clips = profiles.clips_of(commands.profile)
    listed = listed_shards(folder, images=clips)
    if failure := next((shard.failure for shard in listed if shard.failure), None):
        return failure.text
    chunks = [chunk for shard in listed for chunk in shard.chunks]
    for chunk in chunks:
        path = folder / chunk.file
        if not path.is_file() or sha256_file(path) != chunk.sha256:
            raise DataError(f"{path}: missing, or another file than its shard lists; sample again")
    return f"{clips} clips in {len(chunks)} chunk files, key {listed[0].key[:12]}"
