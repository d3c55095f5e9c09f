"""Estimate the cost of a profile before it runs: jobs, GPU-hours, wall time on n GPUs, disk and peak memory.

An evaluation is one call of the network (`qdit.workflow.cost_models` counts its operations). g is 2 under guidance and
1 without it. S is the number of steps. The numbers of evaluations are:

    sample       images or clips · S · g
    calibrate    samples · S · g; for the kind per-step samples · g, because a trajectory gives a sample at every step
    quantize     3 · iterations · batch for learned rounding (forward and backward; a block is 1/L of the network),
                 and 3 per row of calibration data for every method; a lower bound for methods that also search
    search       genomes · images · S · g; scores of layers samples · (passes + 1 + sizes): the exact outputs and those
                 at each size. The ILP has a forward pass for each block. The Hessian-based scores have one, and a
                 backward pass for each draw of signs: weights get no gradients, so it costs as much as a forward pass

Seconds are operations divided by the speed of one GPU. The speed is given by the caller, measured from finished jobs,
or computed from data sheets (`qdit.workflow.cost_speeds`). The evaluation of samples needs CPUs and is counted
separately (`qdit.workflow.cost_evaluating`). LPIPS and judges have separate lines (`qdit.workflow.cost_judges`) and are
not in the sums. The estimate leaves out the VAE, Inception, the text encoder, rendering, and the loading of files. They
need no GPU or take a few percent. It also leaves out VBench, because we could not measure its networks.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qdit.core.run import SIMULATE, Run, ending, split_bits
from qdit.metrics.bootstrap import RESAMPLES
from qdit.metrics.vbench.needed_weights import WEIGHTS
from qdit.quant.size import size_predicted_mb
from qdit.workflow import profile as profiles
from qdit.workflow.calibration_counts import rows_of, samples_of, split_kind
from qdit.workflow.cost_evaluating import evaluating_line, evaluating_seconds
from qdit.workflow.cost_judges import looking_lines
from qdit.workflow.cost_memory import Memory, largest_memory, memory_lines
from qdit.workflow.cost_models import Network, network_of
from qdit.workflow.cost_runs import calibration_kinds, is_large, learned_batch, run_learns
from qdit.workflow.cost_schedule import Job, critical_paths, makespan, without_searches
from qdit.workflow.cost_speeds import CARDS, DEFAULT_CARD
from qdit.workflow.families import CLIPS
from qdit.workflow.job_times import seconds_in
from qdit.workflow.method_index import method_sources
from qdit.workflow.profile import Profile
from qdit.workflow.profile_pipelines import branches_of, frames_of
from qdit.workflow.replicates import with_replicates
from qdit.workflow.searches import SearchRun, needs_calibration

FEATURE_BYTES = 4 * (2048 + 2023 + 1008)
"""Bytes of the features of one image: pool, spatial and logits of Inception in float32."""

GPUS = (1, 8, 64, 512)
ASSUMED = 50e12
"""Operations per second of a GPU of which nothing is known; not measured."""


@dataclass(frozen=True)
class Speed:
    """The speed of one GPU on the network in floating-point operations per second, and where this number comes from.

    `flops` is the speed of sampling. Quantization has the speed `float32`, or `tf32` if it learns with TensorFloat-32;
    it has the speed `flops` if these are None.
    """

    flops: float
    source: str
    float32: float | None = None
    tf32: float | None = None

    def quantizing(self, matmul: str = "float32") -> float:
        """Return the operations per second of a quantization; `matmul` is the arithmetic of its products."""
        return (self.tf32 if matmul == "tf32" else None) or self.float32 or self.flops

    @property
    def text(self) -> str:
        """Text with all speeds, in TFLOP/s."""
        both = f", {self.float32 / 1e12:.3g} in float32" if self.float32 else ""
        both += f", {self.tf32 / 1e12:.3g} in TensorFloat-32" if self.tf32 else ""
        return f"{self.flops / 1e12:.3g} TFLOP/s per GPU{both}"


def card_speed(name: str) -> Speed:
    """Return the speed of a GPU by its data sheet."""
    card = CARDS[name]
    return Speed(card.half, f"{name}, not measured: {card.source}", card.float32, card.tf32)


def evaluations(profile: Profile, setting: str, images: int) -> int:
    """Return the number of network evaluations that sample `images` images or clips, in all steps and branches."""
    entry = profile["settings"][setting]
    return int(images * entry["steps"] * branches_of(entry))


def quantize_evaluations(profile: Profile, run: Run, kinds: Iterable[str]) -> int:
    """Return the work of a quantization in network evaluations; passes of single blocks are added up to whole ones."""
    entry = profile["methods"][run.label]
    passes = 3 * sum(rows_of(profile, run.setting, kind) for kind in kinds)
    if not run_learns(profile, run):
        return passes
    facts = method_sources()[entry["method"]]
    options = facts.all_options(entry.get("options", {}))
    batch = learned_batch(facts, options, large=is_large(network_of(profile, run.setting)))
    return int(passes + 3 * options["iterations"] * batch)


def matmul_of(profile: Profile, label: str) -> str:
    """Return the arithmetic of matrix products while a label learns its rounding: `float32` or `tf32`."""
    return str(profile["methods"][label].get("options", {}).get("matmul", "float32"))


def search_evaluations(profile: Profile, search_run: SearchRun) -> int:
    """Return the number of network evaluations of a search.

    For racing it is an upper bound, because racing drops genomes before they have all images.
    """
    search, shared = profile["searches"][search_run.search], profile["allocation"]
    options, samples = search.get("options", {}), profile["calibration"]["trajectory"]
    if search["kind"] in ("ilp", "hessian"):
        is_ilp = search["kind"] == "ilp"
        passes = depth_of(profile, search_run.setting) if is_ilp else 1 + options.get("probes", 8)
        return scoring_evaluations(samples, passes, len(shared["sizes"]))
    if search["kind"] == "response":
        single, whole = sum(options.get("genomes", (32, 8, 8, 8))), sum(options.get("finalists", (4, 2)))
        images = single * shared["chunk"] + (whole + shared.get("fresh", 0)) * shared["images"]
        scoring = scoring_evaluations(samples, 1 + options.get("probes", 2), len(shared["sizes"]))
        return evaluations(profile, search_run.setting, images) + scoring
    if search["kind"] in ("evolution", "racing"):
        genomes = options.get("population", 50) * options.get("iterations", 10)
    else:
        genomes = options.get("evaluations", 500) if search["kind"] == "random" else 1
    return evaluations(profile, search_run.setting, (genomes + shared.get("fresh", 0)) * shared["images"])


def scoring_evaluations(samples: int, passes: int, sizes: int) -> int:
    """Network evaluations of the scores of layers on calibration samples (`qdit.search.sensitivity`).

    `passes` go through the whole network, forward or backward. Then each searched layer is computed exactly and at each
    of the `sizes`. It is an upper bound, because the other layers are counted too.
    """
    return samples * (passes + 1 + sizes)


def depth_of(profile: Profile, setting: str) -> int:
    """Blocks of the network of a setting."""
    config = network_of(profile, setting).config
    assert config is not None
    return config.depth


def jobs_of(profile: Profile, speed: Speed) -> list[Job]:
    """Return the jobs of the default tables that run a network, each once."""
    jobs: dict[str, Job] = {}
    for run in with_replicates(profile, profiles.all_runs(profile)):
        for job in run_jobs(profile, run, speed):
            jobs.setdefault(job.name, job)
    return list(jobs.values())


def run_jobs(profile: Profile, run: Run, speed: Speed) -> Iterator[Job]:
    """Yield the jobs of one run: calibration, search, quantization and sampling."""
    entry, sampling = profile["methods"][run.label], profiles.sampled(profile, run.setting, run.form)
    kinds = calibration_kinds(profile, run)
    cost = network_of(profile, run.setting).flops / speed.flops
    needs = []
    for kind in kinds:
        needs.append(f"calibrate {run.setting} {run.form} {kind}{ending(run.replicate)}")
        yield calibration_job(profile, run.setting, kind, needs[-1], cost)
    if search_run := profiles.search_of(profile, run):
        needs.append(f"search {search_run.path}")
        yield from search_jobs(profile, search_run, needs[-1], speed)
    if "base" in entry:
        base = replace(run, label=entry["base"])
        needs.append(f"quantize {base.path}")
        yield from run_jobs(profile, base, speed) if base not in profiles.all_runs(profile) else ()
    quantize = f"quantize {replace(run, mode=SIMULATE).path}"
    quantized = (
        quantize_evaluations(profile, run, kinds) * cost * speed.flops / speed.quantizing(matmul_of(profile, run.label))
    )
    yield Job(quantize, "quantize", quantized, tuple(needs))
    size = sampling["chunk"] * sampling["chunks_per_shard"]
    for shard in profiles.shards(profile, run.setting, run.form):
        images = min(size, sampling["images"] - shard * size)
        yield Job(f"sample {run.path} {shard}", "sample", evaluations(profile, run.setting, images) * cost, (quantize,))


def search_jobs(profile: Profile, search_run: SearchRun, name: str, speed: Speed) -> Iterator[Job]:
    """Yield the job of a search, and the job of the calibration data that it uses."""
    cost = network_of(profile, search_run.setting).flops / speed.flops
    needs: tuple[str, ...] = ()
    if needs_calibration(profile["searches"][search_run.search]):
        needs = (f"calibrate {search_run.setting} {search_run.form} trajectory{ending(search_run.replicate)}",)
        yield calibration_job(profile, search_run.setting, "trajectory", needs[0], cost)
    yield Job(name, "search", search_evaluations(profile, search_run) * cost, needs)


def calibration_job(profile: Profile, setting: str, kind: str, name: str, cost: float) -> Job:
    """Return the job that makes one calibration set; `cost` is the seconds of one network evaluation."""
    samples, (counted, _) = samples_of(profile, setting, kind), split_kind(kind)
    guided, frames = branches_of(profile["settings"][setting]), frames_of(profile["settings"][setting])
    count = samples * guided if counted == "per-step" else evaluations(profile, setting, samples)
    return Job(name, "calibrate", count * frames * cost)


def measured_speed(profile: Profile, results: Path) -> Speed | None:
    """Compute the speed from the times of finished jobs in a results folder. None if no sampling job is finished.

    Jobs whose file of times is damaged are left out.

    Sampling jobs give the speed of sampling. Quantizations that learn rounding give the speed in float32 or in
    TensorFloat-32.
    """
    flops, seconds, count = 0.0, 0.0, 0
    learned, learning = defaultdict[str, float](float), defaultdict[str, float](float)
    for run in profiles.all_runs(profile):
        network, sampling = network_of(profile, run.setting), profiles.sampled(profile, run.setting, run.form)
        size = sampling["chunk"] * sampling["chunks_per_shard"]
        logs = results / "runs" / run.path / "logs"
        for path in sorted(logs.glob("sample-[0-9][0-9][0-9].json")):
            if not (spent := seconds_in(path)):
                continue
            shard = int(path.stem.removeprefix("sample-"))
            images = min(size, sampling["images"] - shard * size)
            flops += evaluations(profile, run.setting, images) * network.flops
            seconds += spent
            count += 1
        if run_learns(profile, run) and (spent := seconds_in(logs / "quantize.json")):
            kinds = calibration_kinds(profile, run)
            matmul = matmul_of(profile, run.label)
            learned[matmul] += quantize_evaluations(profile, run, kinds) * network.flops
            learning[matmul] += spent
    if not seconds:
        return None
    source = f"measured by {count} sample jobs in {results}"
    rates = {matmul: learned[matmul] / learning[matmul] for matmul in learning}
    return Speed(flops / seconds, source, rates.get("float32"), rates.get("tf32"))


def speed_of(profile: Profile, results: Path, tflops: float | None) -> Speed:
    """Return the speed for the estimate.

    It is `tflops` if that is given, else the speed of finished jobs, else that of a card or an assumption.
    """
    if tflops is not None:
        return Speed(1e12 * tflops, "given")
    if (measured := measured_speed(profile, results)) is not None:
        return measured
    if profile.get("compute", {}).get("device") == "cuda":
        return card_speed(DEFAULT_CARD)
    return Speed(ASSUMED, "assumed: give --tflops, or finish some jobs")


def disk_bytes(profile: Profile, runs: Iterable[Run] | None = None) -> dict[str, float]:
    """Return kind of file → bytes that runs leave on disk; by default the runs of the default tables.

    Samples, features, checkpoints and calibration data are counted. VBench reads clips as lossless MP4 files. They are
    counted like uncompressed clips, but most are smaller.
    """
    sizes, sets = defaultdict[str, float](float), set()
    for run in with_replicates(profile, profiles.all_runs(profile)) if runs is None else runs:
        model, network = profile["models"][profile["settings"][run.setting]["model"]], network_of(profile, run.setting)
        family, samples = (
            profiles.family_at(profile, run.setting),
            profiles.sampled(profile, run.setting, run.form)["images"],
        )
        sizes[family.samples] += samples * network.pixels
        if scored_by_vbench(profile, run):
            sizes["clips as MP4"] += samples * network.pixels
        sizes["features"] += samples * FEATURE_BYTES if family.has_features and is_decoded(model) else 0
        sizes["checkpoints"] += checkpoint_bytes(network, run)
        for kind in calibration_kinds(profile, run):
            sets.add((run.setting, run.form, kind, network.cells, run.replicate))
    for setting, _, kind, cells, _ in sets:
        sizes["calibration data"] += rows_of(profile, setting, kind) * (4 * cells + 16)
    return {name: size for name, size in sizes.items() if size}


def checkpoint_bytes(network: Network, run: Run) -> float:
    """Return the estimated bytes of a run's checkpoint."""
    bits, _ = split_bits(run.bits)
    if network.shape is not None:
        return network.shape.checkpoint_bytes(bits)
    return 1e6 * size_predicted_mb(network.config, weight_bits=bits, float_bits=32, positions=False)


def scored_by_vbench(profile: Profile, run: Run) -> bool:
    """Return whether VBench scores a run: its samples are clips, and its model has no instruments of mini-VBench."""
    model = profile["models"][profile["settings"][run.setting]["model"]]
    return profiles.family_of(model) is CLIPS and "instruments" not in model


def cost_text(profile: Profile, speed: Speed, gpus: Iterable[int] = GPUS) -> str:
    """Write the estimate as text, for `qdit doctor`."""
    jobs = jobs_of(profile, speed)
    counts, seconds = Counter(job.rule for job in jobs), defaultdict[str, float](float)
    for job in jobs:
        seconds[job.rule] += job.seconds
    lines = [f"estimate at {speed.text} ({speed.source}); qdit/workflow/cost.py has the formulas"]
    memory = largest_memory(profile)
    for rule in ("calibrate", "search", "quantize", "sample"):
        hours, peak = seconds[rule] / 3600, memory.get(rule, Memory()).gpu / 1e9
        lines.append(f"  {rule:<10} {counts[rule]:>6} jobs {hours:>10.1f} GPU-hours, peak {peak:.1f} GB")
    lines.append(f"  {'all':<10} {len(jobs):>6} jobs {sum(seconds.values()) / 3600:>10.1f} GPU-hours")
    searches = [job for job in jobs if job.rule == "search"]
    longest = max(critical_paths(jobs).values(), default=0.0)
    for count in gpus:
        complete, without = makespan(jobs, count), makespan(without_searches(jobs), count)
        beside = f"; without searches {without.seconds / 3600:.1f} hours, {without.efficiency:.0%}" if searches else ""
        lines.append(
            f"  {count:>4} GPUs: {complete.seconds / 3600:.1f} hours, {complete.efficiency:.0%} of them used{beside}"
        )
    lines.append(f"  critical path {longest / 3600:.1f} hours")
    looking = looking_lines(profile, speed.quantizing())
    lines += memory_lines(profile) + evaluating_lines(profile) + looking + vbench_lines(profile)
    disk = disk_bytes(profile)
    parts = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in disk.items())
    return "\n".join([*lines, f"  disk {sum(disk.values()) / 1e9:.1f} GB: {parts}"])


def is_decoded(model: Mapping[str, Any]) -> bool:
    """Return whether a model's images come out of a VAE; then Inception's features score them."""
    return "vae" in model or "pipeline" in model


def evaluating_lines(profile: Profile) -> list[str]:
    """Write the line about the evaluation of images by Inception's features, which needs CPUs; [] without such runs."""
    seconds = []
    for run in with_replicates(profile, profiles.all_runs(profile)):
        model = profile["models"][profile["settings"][run.setting]["model"]]
        if profiles.family_of(model) is not CLIPS and is_decoded(model):
            sampling = profiles.sampled(profile, run.setting, run.form)
            seconds.append(evaluating_seconds(sampling["images"], profile["sampling"].get("resamples", RESAMPLES)))
    return evaluating_line(len(seconds), sum(seconds))


def vbench_lines(profile: Profile) -> list[str]:
    """Write the lines about the jobs of VBench, whose time is unknown; [] if VBench scores no run."""
    runs = [run for run in profiles.all_runs(profile) if scored_by_vbench(profile, run)]
    if not runs:
        return []
    clips = sum(profiles.sampled(profile, run.setting, run.form)["images"] for run in runs)
    jobs = len(runs) * len(WEIGHTS)
    return [
        f"  VBench     {jobs:>6} jobs score {clips:,} clips besides; their hours are unknown: nobody has timed them"
    ]
