"""List all files behind a row of a table. Each file is checked against the digest that the file made from it records.

table → metrics.json → features and images, reference, evaluator → checkpoint → calibration data, allocation → weights.
Everything is read from the results folder; nothing is computed and no torch is loaded.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from qdit.core.errors import ConfigError, DataError, QditError, did_you_mean
from qdit.core.files import read_json, sha256_file, sha256_json
from qdit.core.metrics_record import MetricsRecord, Status, mismatch, read_record
from qdit.core.run import IMPORTED, Run
from qdit.metrics.features import read_features
from qdit.metrics.image_files import open_images
from qdit.metrics.samples import listed_shards, read_chunk
from qdit.quant.folder import CONFIG_FILE, checkpoint_in_diffusers, read_failure, tensors_file
from qdit.quant.site_text import integer_text, sites_text
from qdit.workflow import profile as profiles
from qdit.workflow.calibration_counts import chosen_kind
from qdit.workflow.command_words import shown
from qdit.workflow.commands import Commands
from qdit.workflow.explain_clips import clip_facts, scored_with
from qdit.workflow.explain_judged import judged_with
from qdit.workflow.explain_record import SHOWN, measured
from qdit.workflow.families import CLIPS
from qdit.workflow.profile import Profile
from qdit.workflow.replicates import further_replicates

OK, DIFFERS, MISSING, UNCHECKED = "ok", "DIFFERS", "MISSING", "nothing says what it should be"
"""The result of a check."""
SHOWN_OF_RECORD = (
    *("method", "weight_bits", "activation_bits", "scope", "options"),
    *("calibration_sha256", "allocation_sha256", "weights_sha256"),
)
"""Entries of a checkpoint's record that are shown or followed."""


@dataclass(frozen=True)
class Link:
    """One file behind a row: what it is, the result of its check, facts, and the command that makes it again.

    `replicate` is the number of the replicate that the file belongs to.
    """

    what: str
    path: Path
    check: str
    facts: tuple[str, ...] = ()
    command: str | None = None
    replicate: int = 0

    @property
    def broken(self) -> bool:
        """Whether the file is missing or is not the file that was used."""
        return self.check.startswith((DIFFERS, MISSING))

    def text(self) -> str:
        """Write the file with its check, facts and command as a paragraph."""
        of = f" of replicate {self.replicate}" if self.replicate else ""
        lines = [f"{self.what}{of}: {self.path}", f"  {self.check}", *(f"  {fact}" for fact in self.facts)]
        return "\n".join([*lines, *([f"  $ {self.command}"] if self.command else [])])


def find_run(profile: Profile, table: str, row: str) -> Run:
    """Find the run of a table's row, by its number (from 1) or by words in its path (`q-dit w4a8`).

    ConfigError unless exactly one run fits. The message lists all runs.
    """
    if table not in profile["tables"]:
        hint = did_you_mean(table, profile["tables"])
        raise ConfigError(f"table {table!r}: allowed are {', '.join(profile['tables'])}{hint}")
    runs = profiles.runs_of(profile, table)
    if row.isdecimal() and not 1 <= int(row) <= len(runs):
        raise ConfigError(f"{table}: row {row} does not exist; the table has rows 1 to {len(runs)}; give one of them")
    if row.isdecimal():
        return runs[int(row) - 1]
    words = row.replace("/", " ").split()
    fitting = [run for run in runs if set(words) <= {*run.path.replace("/", " ").split(), *words_of(run)}]
    if len(fitting) != 1:
        listed = fitting or runs
        names = "; ".join(f"{runs.index(run) + 1} {run.path}" for run in listed)
        raise ConfigError(
            f"{table}: {len(fitting)} rows fit {row!r}, expected one row; give its number, or more words: {names}"
        )
    return fitting[0]


def words_of(run: Run) -> set[str]:
    """Return the words by which a run can be found."""
    return {run.setting, run.form, run.label, run.bits, run.scope, run.mode}


def chain(profile: Profile, table: str, run: Run, results: Path) -> Iterator[Link]:
    """Yield all files behind a row, from the table to the weights; then the files of its replicates."""
    yield from chain_of_run(profile, table, run, results)
    for replicate in further_replicates(profile, run):
        for link in chain_of_run(profile, table, replicate, results):
            yield replace(link, replicate=replicate.replicate)


def chain_of_run(profile: Profile, table: str, run: Run, results: Path) -> Iterator[Link]:
    """Yield all files behind one run. The table itself is included for replicate 0 only."""
    commands = Commands(profile, results)
    full = profiles.full_precision_run(profile, run)
    path = commands.folder(run) / "metrics.json"
    record, check = recorded(commands, run)
    if not run.replicate:
        yield table_link(commands, table, record)
    yield Link("metrics", path, check, measured(record) if record else (), shown(commands.evaluate(run)))
    if record:
        yield from evaluated_with(commands, run, record)
    roles = {full: " of full precision"} | {run: ""}
    for sampled in dict.fromkeys((run, full)):
        yield samples_link(commands, sampled, f"images{roles[sampled]}")
    if run.mode == IMPORTED:
        yield source_link(commands, run, record)
    for quantized in dict.fromkeys((run, full) if run.mode != IMPORTED else (full,)):
        yield from checkpoint_links(commands, quantized, f"checkpoint{roles[quantized]}")


def recorded(commands: Commands, run: Run) -> tuple[MetricsRecord | None, str]:
    """Read and check a run's metrics.json: return its content and the result of the check.

    The content is None if the file is missing or contradicts itself.
    """
    try:
        record = read_record(commands.folder(run) / "metrics.json")
    except FileNotFoundError:
        return None, MISSING
    except DataError as problem:
        return None, f"{DIFFERS}: {problem}"
    setting = commands.profile["settings"][run.setting]
    other = mismatch(record, setting, commands.profile["seed"]) if record.status == Status.OK else ""
    return record, f"{DIFFERS}: {other}" if other else OK


def checkpoint_of(record: MetricsRecord | None) -> str | None:
    """Return the sha256 of the checkpoint whose samples a metrics.json is about; None if it has none."""
    digest = record.inputs.get("checkpoint_sha256") if record else None
    return digest if isinstance(digest, str) else None


def table_link(commands: Commands, table: str, record: MetricsRecord | None) -> Link:
    """Check the table: does it show the numbers of this metrics.json?"""
    path = commands.results / "tables" / f"{table}.csv"
    command = shown(commands.table(table))
    if not path.is_file():
        return Link("table", path, MISSING, (), command)
    digest = checkpoint_of(record)
    is_rendered = digest is not None and digest in path.read_text(encoding="utf-8")
    stale = f"{DIFFERS}: it was rendered before this metrics.json"
    return Link("table", path, OK if is_rendered or (record and record.status != Status.OK) else stale, (), command)


def evaluated_with(commands: Commands, run: Run, record: MetricsRecord) -> Iterator[Link]:
    """Check what the images were evaluated with: reference statistics, evaluator, LPIPS and judges.

    For clips: their prompts and the program that scored them.
    """
    is_clips, protocol = commands.family(run.setting) is CLIPS, record.protocol
    if not is_clips:
        expected = {name: protocol.get(name, {}).get("sha256") for name in ("reference", "evaluator")}
        path, model = commands.reference_file(run.setting), commands.model(run.setting)
        reference_command = shown(commands.reference(model["extractor"], model["reference"]))
        yield Link("reference", path, compared(path, expected["reference"]), (), reference_command)
        path = commands.extractor_weights(model["extractor"])
        yield Link("evaluator", path, compared(path, expected["evaluator"]), origin(path))
    for what, path, digest, recorded, command in (scored_with if is_clips else judged_with)(commands, run, record):
        yield Link(what, path, MISSING if digest is None else matches(digest, recorded), origin(path), command)


def samples_link(commands: Commands, run: Run, what: str) -> Link:
    """Check the samples of a run: every chunk must have the sha256 that its job wrote into a list."""
    folder, images = commands.samples(run), profiles.sampled(commands.profile, run.setting, run.form)["images"]
    shards = profiles.run_shards(commands.profile, run)
    command = "; ".join(shown(commands.sample(run, shard)) for shard in shards[:1])
    more = [f"and so on to --shard {shards[-1]}"] if len(shards) > 1 else []
    try:
        if commands.family(run.setting) is CLIPS:
            facts = [clip_facts(commands, run, folder), *more]
            return Link(what, folder, f"{OK}: every chunk has the sha256 of its list", tuple(facts), command)
        listed = listed_shards(folder, images=images)
        if failure := next((shard.failure for shard in listed if shard.failure), None):
            return Link(what, folder, OK, (failure.text, *more), command)
        chunks = [chunk for shard in listed for chunk in shard.chunks]
        for shard in listed:
            for chunk in shard.chunks:
                read_chunk(folder, chunk, key=shard.key)
        extractor = commands.model(run.setting)["extractor"]
        weights = sha256_file(commands.extractor_weights(extractor))
        features = read_features(folder, images=images, extractor=extractor, weights_sha256=weights)
    except (QditError, OSError) as problem:
        return Link(what, folder, f"{DIFFERS if folder.is_dir() else MISSING}: {problem}", tuple(more), command)
    facts = [f"{images} images in {len(chunks)} chunk files, key {listed[0].key[:SHOWN]}", *more]
    facts.append(f"features of {len(features.features)} images by {extractor} {weights[:SHOWN]}")
    return Link(what, folder, f"{OK}: every chunk has the sha256 of its list", tuple(facts), command)


def source_link(commands: Commands, run: Run, record: MetricsRecord | None) -> Link:
    """Check imported images against the digest in metrics.json. Nothing is known about how they were made."""
    path = commands.file(commands.profile["methods"][run.label]["images"][run.bits])
    if not path.exists():
        return Link("images of another program", path, MISSING)
    if commands.family(run.setting) is CLIPS:
        digest = sha256_json({file.name: sha256_file(file) for file in path.glob("*.mp4")})
    else:
        digest = open_images(path).sha256()
    facts = ("imported: bits, and noise if protocol.json states it, are the importer's claims",)
    expected = record.inputs.get("samples_sha256") if record else None
    return Link("images of another program", path, matches(digest, expected), facts)


def checkpoint_links(commands: Commands, run: Run, what: str) -> Iterator[Link]:
    """Check a checkpoint against the run's metrics.json, and the files from which the checkpoint was made."""
    path = commands.checkpoint(run) / CONFIG_FILE
    expected = checkpoint_of(recorded(commands, run)[0])
    if not path.is_file():
        yield Link(what, path, MISSING, (), f"snakemake --cores all {path}")
        return
    try:
        failure = read_failure(path.parent)
        config = {} if failure else config_of(path)
    except QditError as problem:
        yield Link(what, path, f"{DIFFERS}: {problem}", (), f"snakemake --cores all {path}")
        return
    if failure:
        yield Link(what, path, OK, (failure.text,))
        return
    record = config["record"]
    data = commands.calibration_files(run, record["calibration_sha256"])
    bits = f"w{record['weight_bits']}a{record['activation_bits']}"
    facts = (
        f"{record['method']} {bits}, scope {record['scope']}, options {record['options']}",
        *sites_text(config["sites"]),
        *integer_text(config["sites"]),
    )
    yield Link(what, path, compared(path, expected), facts, shown(commands.quantize(run, data)))
    tensors = path.with_name(tensors_file(config))
    yield Link(f"tensors of the {what}", tensors, compared(tensors, config["files"][tensors.name]))
    if (base := commands.base(run)) is not None:
        yield from checkpoint_links(commands, base, "checkpoint that it corrects")
    for kind, digest in record["calibration_sha256"].items():
        check = compared(data[kind], digest)
        yield Link(f"calibration data {kind}", data[kind], check, (), calibrated(commands, run, kind))
    if (allocation := commands.allocation_file(run)) is not None:
        yield allocation_link(commands, run, allocation, record["allocation_sha256"])
    weights = commands.weights(run.setting, run.form)
    check = compared(weights, record["weights_sha256"])
    yield Link("weights", weights, check, origin(weights), imported(commands, run))


def config_of(path: Path) -> Mapping[str, Any]:
    """Read the configuration of a checkpoint. DataError if it lacks something that is shown, as in an older version."""
    stored = read_json(path)
    try:
        config = checkpoint_in_diffusers(stored) or stored
        lacking = [name for name in SHOWN_OF_RECORD if name not in config["record"]]
        if lacking or tensors_file(config) not in config["files"] or not isinstance(config["sites"], dict):
            raise KeyError(", ".join(lacking) or "files")
    except (KeyError, TypeError, AttributeError) as problem:
        raise DataError(f"not a checkpoint that this version writes (it lacks {problem}); quantize again") from None
    return dict(config)


def calibrated(commands: Commands, run: Run, kind: str) -> str:
    """Return the command that makes the calibration data that a run uses as `kind`."""
    kind_of_run = chosen_kind(commands.profile, run.setting, run.label, kind)
    return shown(commands.calibrate(run.setting, run.form, kind_of_run, run.replicate))


def imported(commands: Commands, run: Run) -> str | None:
    """Return the command that converts the weights of a run; None for shipped weights."""
    model = commands.model_name(run.setting)
    is_converted = commands.model(run.setting)["forms"][run.form] in commands.profile.get("files", {})
    return shown(commands.import_weights(model, run.form)) if is_converted else None


def allocation_link(commands: Commands, run: Run, path: Path, expected: str | None) -> Link:
    """Check the allocation of a run: its group sizes must have the digest that the checkpoint records."""
    search = profiles.search_of(commands.profile, run)
    command = shown(commands.search(search)) if search else None
    if not path.is_file():
        return Link("allocation", path, MISSING, (), command)
    try:
        digest = sha256_json(read_json(path)["groups"])
    except (QditError, KeyError, TypeError, ValueError) as problem:
        return Link("allocation", path, f"{DIFFERS}: no group sizes can be read ({problem})", (), command)
    check = OK if digest == expected else f"{DIFFERS}: group sizes {digest[:SHOWN]}, recorded {str(expected)[:SHOWN]}"
    return Link("allocation", path, check, (), command)


def compared(path: Path, expected: str | None) -> str:
    """Compare the sha256 of a file with the recorded one; return the result as text."""
    if not path.exists():
        return MISSING
    if path.is_dir():
        from qdit.models.weights_files import weights_sha256  # loads torch, needed for folders of weights only

        return matches(weights_sha256(path), expected)
    return matches(sha256_file(path), expected)


def matches(digest: str, expected: str | None) -> str:
    """Compare a digest with the recorded digest; return the result as text."""
    if expected is None:
        return f"sha256 {digest[:SHOWN]}: {UNCHECKED}"
    if digest == expected:
        return f"{OK}: sha256 {digest[:SHOWN]}, as recorded"
    return f"{DIFFERS}: sha256 {digest[:SHOWN]}, recorded {expected[:SHOWN]}"


def origin(path: Path) -> tuple[str, ...]:
    """Return what a file of weights says about how it was made."""
    if not path.is_file() or path.suffix != ".safetensors":
        return ()
    try:
        with safe_open(path, framework="np") as data:
            return tuple(f"made by: {text}" for text in (data.metadata() or {}).values())
    except SafetensorError as problem:
        return (f"not readable: {' '.join(str(problem).split())}",)


def listing(profile: Profile, table: str) -> str:
    """List the rows of a table with their numbers."""
    find_run(profile, table, "1")
    return "\n".join(f"{number:>3}  {run.path}" for number, run in enumerate(profiles.runs_of(profile, table), start=1))


def explain_text(profile: Profile, table: str, row: str, results: Path) -> tuple[str, bool]:
    """Return the output of `qdit explain`, and whether all files passed their checks."""
    run = find_run(profile, table, row)
    links: dict[str, Link] = {}
    for link in chain(profile, table, run, results):  # files that replicates share are shown once
        links.setdefault(link.what + str(link.path), link)
    head = f"{table} of the profile {profile['profile']}: {run.path} ({profile['face']})"
    whole = f"{sum(not link.broken for link in links.values())} of {len(links)} links hold"
    text = "\n\n".join([head, *(link.text() for link in links.values()), whole])
    return text, not any(link.broken for link in links.values())
