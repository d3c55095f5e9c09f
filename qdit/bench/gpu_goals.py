"""Goals of `qdit bench gpu`. The report shows them as "not measured" as long as there is no record of a card."""

from qdit.bench.goals import Goal

LINEAR_GOALS = {32: 0.35, 64: 0.70, 128: 1.10, 192: 1.30, 288: 1.30}
"""Group size → required speed relative to cuBLAS in bfloat16, W4A8, ≥ 8192 rows, quantization included."""
CHANNEL = "token × channel"
CHANNEL_GOAL = 1.7
"""The same for one range for each token and one scale for each output."""

WRONG_KERNELS = Goal("kernels that differ from the reference", 0, at_most=True)
WRONG_METHODS = Goal("methods and scopes that fail or give other images", 0, at_most=True)
PIXEL = Goal("pipeline: mean difference of a pixel to the CPU (0 … 255)", 1.0, at_most=True)
LINEARS = {
    name: Goal(f"W4A8 linear {name}, times as fast as cuBLAS bf16", must)
    for name, must in [*((f"g{size}", must) for size, must in LINEAR_GOALS.items()), (CHANNEL, CHANNEL_GOAL)]
}
FORWARDS = {
    mode: Goal(f"{mode} DiT-XL/2 forward, times half precision", must, at_most=True)
    for mode, must in (("simulated, not fused", 1.10), ("simulated", 1.03))
}
INTEGER_FORWARD = Goal("integer forward g128, times as fast as half precision", 1.3)
HOURS = {
    mode: Goal(f"hours of 10,000 images, 100 guided steps: {mode}", 0.45, at_most=True)
    for mode in ("full precision, torch's linears", "simulated")
}
GOALS = (
    *(WRONG_KERNELS, WRONG_METHODS, PIXEL),
    *(*LINEARS.values(), *FORWARDS.values(), INTEGER_FORWARD, *HOURS.values()),
)
"""All of them, in the order of a record."""
