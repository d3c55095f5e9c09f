"""Estimate the peak memory of the jobs of a profile: bytes of live tensors on a GPU, and pinned memory of the host.

X is the size in float32 of one sample's tokens in a layer, P that of its attention probabilities. The constants below
count how many X and P are alive at the peak. tests/workflow/test_cost_memory.py compares them with the tensors that the
real code keeps on the shapes of DiT-XL/2. Scratch memory inside kernels and the allocator's gaps come on top: MARGIN.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qdit.core.run import Run, split_bits
from qdit.quant.size import size_predicted_mb
from qdit.workflow import profile as profiles
from qdit.workflow.calibration_counts import rows_of
from qdit.workflow.cost_models import Network, network_of
from qdit.workflow.cost_runs import calibration_kinds, is_large, learned_batch, run_learns
from qdit.workflow.method_index import MethodFacts, method_sources
from qdit.workflow.profile import Profile
from qdit.workflow.profile_pipelines import branches_of, frames_of

GPU_BYTES = 40e9
"""Memory of the smallest GPU that the paper profile is meant for."""
MARGIN = 1.1
"""Factor for scratch memory of kernels, the allocator's gaps, and CUDA itself."""
DEVICE_BYTES, PASS_ELEMENTS, MOST_ROWS, GRAPH_BYTES = 7e9, 2**28, 256, 2**33
"""Limits of stores, passes and graphs, as in qdit/quant/store.py and qdit/quant/passes.py."""

MLP_PASS, ATTENTION_PASS = (12.0, 0.0), (7.0, 3.0)
"""X and P of a sample in a pass without gradients: in the MLP, and in attention whose operands are sites."""
LEARNED = {("common", False): (18.5, 2.2), ("common", True): (47.5, 1.1), ("own", True): (55.0, 4.35)}
"""Scope and whether activations are quantized → X and P of a sample of a batch while a block is learned."""
LEARNED["own", False] = LEARNED["common", False]
WRITTEN = 4.0
"""P of a sample in sampling whose operands of attention are sites: scores, softmax, quantizer, and half precision."""
STATE = 10.0
"""Tensors of the size of a weight that learned rounding keeps."""
WIDE = 4.0
"""X of a sample in the inputs of fc2."""
SEEN = {"common": 8.0, "own": 11.0}
"""Scope → X of a sample in the inputs of one block and of its sites, without the probabilities."""
BLOCK_TOKENS = 16.0
"""X of a sample while a block of a pipeline's transformer runs: queries, keys, values, the MLP's hidden layer."""
SENSITIVE, SEARCHED = 29.0, 24.0
"""X of a sample in inputs and gradients of a block's sites, and in the search for the scales of its fc1 (TQ-DiT)."""
OBSERVED, OBSERVED_NDTC, HESSIAN_BATCH = 100, 256, 32
"""Samples of an initial set, of a batch of PTQ4DM, and of a batch of GPTQ."""


@dataclass(frozen=True)
class Memory:
    """Peak bytes on a GPU, and peak bytes of pinned memory on the host."""

    gpu: float = 0.0
    host: float = 0.0

    def __or__(self, other: "Memory") -> "Memory":
        """The larger number of bytes, for the GPU and for the host."""
        return Memory(max(self.gpu, other.gpu), max(self.host, other.host))


@dataclass(frozen=True)
class Sizes:
    """Bytes in float32: `tokens` X and `probabilities` P of one sample, all weights, weights of one block.

    `modulation` are the adaLN weights of one block.
    """

    tokens: float
    probabilities: float
    weights: float
    block: float
    modulation: float
    rows_per_pass: int
    large: bool

    def a_pass(self, scope: str) -> float:
        """Return the peak bytes of one sample in a forward pass without gradients."""
        return max(self.take(MLP_PASS), self.take(ATTENTION_PASS) if scope == "own" else 0.0)

    def take(self, counts: tuple[float, float]) -> float:
        """Return the bytes of `counts` = (how many times `tokens` bytes, how many times `probabilities` bytes)."""
        return counts[0] * self.tokens + counts[1] * self.probabilities


def sizes_of(network: Network) -> Sizes:
    """Return the sizes of a network's tensors at a setting."""
    config, tokens = network.config, network.tokens
    width, heads = config.hidden_size, config.num_heads
    elements = heads * tokens**2 + config.mlp_ratio * width * tokens
    return Sizes(
        tokens=4.0 * tokens * width,
        probabilities=4.0 * heads * tokens**2,
        weights=1e6 * size_predicted_mb(config, weight_bits=16, float_bits=32),
        block=4.0 * (4 + 2 * config.mlp_ratio) * width**2,
        modulation=4.0 * 6 * width**2,
        rows_per_pass=max(1, min(MOST_ROWS, PASS_ELEMENTS // elements)),
        large=is_large(network),
    )


def quantize_memory(profile: Profile, run: Run) -> Memory:
    """Return the peak memory of a quantization."""
    network = network_of(profile, run.setting)
    sizes, facts = sizes_of(network), method_sources().get(profile["methods"][run.label]["method"])
    kinds = calibration_kinds(profile, run)
    weight_bits, activation_bits = split_bits(run.bits)
    rows = {kind: rows_of(profile, run.setting, kind) for kind in kinds}
    sets = sum(rows.values()) * (4 * network.cells + 16)
    if not kinds or facts is None:
        return Memory(sizes.weights * (2 + weight_bits / 32) + sets)
    is_learned = run_learns(profile, run)
    copies = 3 if is_learned or facts.sensitive_rows else 2
    if "base" in profile["methods"][run.label]:
        peak = Memory(sizes.rows_per_pass * sizes.a_pass(run.scope))
    else:
        seen = OBSERVED_NDTC if any(kind.startswith("ndtc") for kind in kinds) else OBSERVED
        peak = observing(sizes, min(seen, max(rows.values())), run.scope)
    peak |= Memory(rows.get("trajectory", 0) * sizes.tokens + HESSIAN_BATCH * sizes.a_pass("common"))
    if facts.sensitive_rows:
        searched = facts.sensitive_rows * SEARCHED * sizes.tokens
        peak |= Memory(facts.sensitive_rows * SENSITIVE * sizes.tokens + max(GRAPH_BYTES, searched))
    if is_learned:
        options = facts.all_options(profile["methods"][run.label].get("options", {}))
        peak |= learning(sizes, facts, options, run.scope, rows=max(rows.values()), quantized=activation_bits < 16)
    return Memory(sizes.weights * (copies + weight_bits / 32) + sets + peak.gpu, peak.host)


def observing(sizes: Sizes, rows: int, scope: str) -> Memory:
    """Return the peak memory while the inputs of one block's layers are recorded for `rows` samples.

    The largest stores (inputs of the widest linear, attention probabilities) are filled on the host. Later each of them
    is read to the GPU. By then the inputs of the layers before are freed, so the GPU never holds both.
    """
    narrow, wide = rows * (SEEN[scope] - WIDE) * sizes.tokens, rows * WIDE * sizes.tokens
    probabilities = rows * sizes.probabilities if scope == "own" else 0.0
    on_host = [store for store in (wide, probabilities) if store > DEVICE_BYTES]
    filling = narrow + wide + probabilities - sum(on_host) + min(rows, sizes.rows_per_pass) * sizes.a_pass(scope)
    reading = [wide + rows * sizes.tokens] if wide in on_host else []
    if probabilities in on_host:
        behind = rows * (SEEN["common"] - WIDE) * sizes.tokens + (0.0 if wide in on_host else wide)
        reading.append(behind + probabilities)
    return Memory(max(filling, *reading, 0.0), sum(on_host))


def learning(
    sizes: Sizes, facts: MethodFacts, options: Mapping[str, Any], scope: str, *, rows: int, quantized: bool
) -> Memory:
    """Return the peak memory of learned rounding.

    It has the tokens before and after one block for all rows, and either a batch with gradients or a forward pass.
    """
    kept = min(rows, facts.learned_rows[int(sizes.large)])
    store = kept * sizes.tokens
    on_host = store > DEVICE_BYTES
    batch = sizes.take(LEARNED[scope, quantized]) * min(learned_batch(facts, options, large=sizes.large), kept)
    state = STATE * (sizes.block + (sizes.modulation if scope == "own" else 0.0))
    work = state + max(batch, min(kept, sizes.rows_per_pass) * sizes.a_pass(scope))
    peak = Memory(work + (0 if on_host else 2 * store), 2 * store if on_host else 0.0)
    modulation = facts.learns_modulation and STATE * sizes.modulation * sizes.weights / (sizes.block + sizes.modulation)
    return peak | Memory(float(modulation or 0.0))


def sample_memory(profile: Profile, run: Run) -> Memory:
    """Return the peak memory of sampling one chunk. The two branches of guidance run one after the other."""
    network, chunk = network_of(profile, run.setting), profiles.sampled(profile, run.setting, run.form)["chunk"]
    sizes, half = sizes_of(network), profile.get("compute", {}).get("dtype") == "float16"
    tokens = chunk * sizes.tokens * (3 + 2 * network.config.mlp_ratio + 4) / (2 if half else 1)
    written = chunk * sizes.probabilities * WRITTEN if run.scope == "own" else 0.0
    return Memory(sizes.weights + tokens + written)


def pipeline_memory(profile: Profile, run: Run) -> dict[str, Memory]:
    """Return rule → peak memory of the jobs of a pipeline's run: weights of all networks, and tokens of one block.

    Quantization is in float32 and has a copy of the transformer; the text encoders and the VAE are not loaded. This
    estimate was not compared with the tensors of real code.
    """
    network, chunk = network_of(profile, run.setting), profiles.sampled(profile, run.setting, run.form)["chunk"]
    shape, entry = network.shape, profile["settings"][run.setting]
    assert shape is not None
    model = profile["models"][entry["model"]]["pipeline"]
    width = 4 if profile.get("compute", {}).get("dtype", "float32") == "float32" else 2
    loaded = width * shape.parameters + 1e6 * model.get("text_megabytes", 0)
    tokens = width * BLOCK_TOKENS * network.tokens * shape.width
    kinds = calibration_kinds(profile, run)
    rows = max((rows_of(profile, run.setting, kind) for kind in kinds), default=0)
    passed = 4.0 * network.tokens * shape.width * (min(rows, HESSIAN_BATCH) * BLOCK_TOKENS + rows)
    return {
        "calibrate": Memory(loaded + tokens),
        "quantize": Memory(2 * 4.0 * shape.parameters + 4.0 * rows * network.cells + passed),
        "sample": Memory(loaded + branches_of(entry) * chunk / frames_of(entry) * tokens),
    }


def memory_of_run(profile: Profile, run: Run) -> dict[str, Memory]:
    """Return rule → peak memory of the jobs of a run."""
    if network_of(profile, run.setting).shape is not None:
        return pipeline_memory(profile, run)
    sizes, sample = sizes_of(network_of(profile, run.setting)), sample_memory(profile, run)
    plain = sample_memory(profile, Run(run.setting, run.form, run.label, run.bits, "common"))
    searched = Memory(sizes.weights + plain.gpu) if profiles.family_at(profile, run.setting).is_searched else Memory()
    return {
        "import_weights": Memory(0.0, 2 * sizes.weights),
        "calibrate": plain,
        "quantize": quantize_memory(profile, run),
        "sample": sample,
        "search": searched,
    }


def largest_memory(profile: Profile, runs: Iterable[Run] | None = None) -> dict[str, Memory]:
    """Return rule → largest peak memory over some runs, by default the runs of the default tables."""
    largest: dict[str, Memory] = {}
    for run in profiles.all_runs(profile) if runs is None else runs:
        for rule, memory in memory_of_run(profile, run).items():
            largest[rule] = memory | largest.get(rule, Memory())
    return largest


def memory_lines(profile: Profile) -> list[str]:
    """Write lines about the largest peak, and about runs of any table that do not fit a GPU of 40 GB."""
    runs = list(dict.fromkeys(run for table in profile["tables"] for run in profiles.runs_of(profile, table)))
    needs = {(rule, run): memory for run in runs for rule, memory in memory_of_run(profile, run).items()}
    gpu = MARGIN * max((memory.gpu for memory in needs.values()), default=0.0) / 1e9
    host = max((memory.host for memory in needs.values()), default=0.0) / 1e9
    total = f"  memory     at most {gpu:.0f} GB of a GPU and {host:.0f} GB of pinned memory of the host"
    large = {
        f"{rule} {run.setting} {run.label} {run.scope}: {MARGIN * memory.gpu / 1e9:.0f} GB"
        for (rule, run), memory in needs.items()
        if MARGIN * memory.gpu > GPU_BYTES
    }
    limit = f"{GPU_BYTES / 1e9:.0f} GB"
    if not large:
        return [f"{total}: all tables fit a GPU of {limit}"]
    return [
        total,
        f"             more than {limit}: take a larger GPU for these, or leave them out of your tables:",
        *(f"             {line}" for line in sorted(large)),
    ]
