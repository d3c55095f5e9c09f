"""`qdit bench gpu-code`: count the instructions of the grouped linear on a Hopper GPU, and bound its speed.

No GPU is needed. Triton compiles the kernels for compute capability 9.0. The instructions of the loop over groups are
counted in the machine code (`qdit.bench.gpu_code`).
"""

from dataclasses import replace
from typing import Any

from tabulate import tabulate

from qdit.bench.goals import Goal, Judged
from qdit.bench.gpu_goals import CHANNEL, CHANNEL_GOAL, LINEAR_GOALS
from qdit.bench.record import ending, heading, judged_of, load, record, verdicts
from qdit.core.errors import ConfigError

PEAK_RATIO = 2.0
"""Operations a second of int8 over those of bfloat16 on the tensor cores of an H100 or H200: 1979 / 989."""
ROWS, COLUMNS = 64, 128


def measure(command: str, sizes: tuple[int, ...] = (32, 64, 96, 128, 192, 288)) -> dict[str, Any]:
    """Count the instructions of each form (variant) of the kernel, for groups of these sizes.

    ConfigError without Triton.
    """
    try:
        from qdit.bench import gpu_code
    except ImportError as problem:
        raise ConfigError(f"qdit bench gpu-code compiles with Triton, which is for Linux only: {problem}") from None
    before, measured = load(), []
    for size in sizes:
        for form, padded, options in forms(size):
            loop = gpu_code.loop_of(gpu_code.compiled_linear(90, padded, **options))
            tensor = ROWS * COLUMNS * padded // gpu_code.PAIRS_PER_CYCLE
            measured.append(entry(size, form, ROWS * COLUMNS * size, loop, tensor))
    loop = gpu_code.loop_of(gpu_code.compiled_channels(90))
    pairs = 128 * 256 * 128  # eight warps: two for each scheduler
    doubled = replace(loop, instructions=2 * loop.instructions, scaling=2 * loop.scaling)
    measured.append(entry(CHANNEL, "used", pairs, doubled, pairs // gpu_code.PAIRS_PER_CYCLE))
    goals = [judged.to_dict() for judged in judge(measured)]
    return record("gpu-code", command, load_before=before, measured=measured, goals=goals)


def forms(size: int) -> list[tuple[str, int, dict[str, Any]]]:
    """List (name, bytes of a group, kernel options) of each form of the W4 kernel for groups of `size` inputs.

    The forms differ in how they treat zero points, and in the output: half precision or float32.
    """
    from qdit.kernels.triton_linear import PART
    from qdit.kernels.triton_weight import STEP, padded_for, padded_size

    used, narrow = padded_for(size, 15 * size), padded_size(size)
    half: dict[str, Any] = {"output": "*bf16"}
    zero_points = {
        "zero points by fma": (narrow, half | {"sums": True}),
        "zero points in the padding": (narrow + STEP, half | {"sums": False}),
    }
    rows = [
        (f"{name}{', used' if padded == used else ''}", padded, options)
        for name, (padded, options) in zero_points.items()
    ]
    return [*rows, (f"used, float32, chains of {PART}", used, {"part": PART, "sums": used == narrow})]


def entry(size: int | str, form: str, pairs: int, loop: Any, tensor: int) -> dict[str, Any]:
    """Entry of the record for one form. `pairs` counts useful products per group, without those of the padding."""
    most = pairs / 4096 / max(loop.instructions, tensor)
    return {
        "size": size,
        "form": form,
        "instructions": loop.instructions,
        "scaling": loop.scaling,
        "tensor": tensor,
        "registers": loop.registers,
        "share": most,
        "times bf16": PEAK_RATIO * most,
    }


def judge(measured: list[dict[str, Any]]) -> list[Judged]:
    """Compare the speed bound of the kernel form that `qdit bench gpu` runs with the goals of that benchmark."""
    bounds = {row["size"]: row["times bf16"] for row in measured if row["form"].endswith("used")}
    pairs: list[tuple[int | str, float]] = [*LINEAR_GOALS.items(), (CHANNEL, CHANNEL_GOAL)]
    goals = dict(pairs)
    return [
        Judged.measured(Goal(f"bound ÷ bf16, {size if size == CHANNEL else f'groups of {size}'}", goals[size]), value)
        for size, value in bounds.items()
        if size in goals
    ]


WAYS = {"zero points by fma": "multiply-add", "zero points in the padding": "in the product"}
"""Part of a form's name → how the kernel subtracts the zero points, in the table."""
KERNEL = ["group", "zero points", "output", "used"]
COUNTS = ["instructions", "for scaling", "tensor cycles", "registers", "bound", "bound ÷ bf16"]
"""Column titles: what a kernel is, and what was counted."""


def text(content: dict[str, Any], *, style: str = "simple") -> str:
    """Format a record as text: the counted instructions, and which goals the bounds allow."""
    rows = [
        [
            str(row["size"]),
            *described(row, content["measured"]),
            *(str(row[key]) for key in ("instructions", "scaling", "tensor", "registers")),
            f"{row['share']:.2f}",
            f"{row['times bf16']:.2f}",
        ]
        for row in content["measured"]
    ]
    judged = judged_of(content)
    lines = [*heading(content), "", tabulate(rows, [*KERNEL, *COUNTS], tablefmt=style, disable_numparse=True), ""]
    return "\n".join([*lines, verdicts(judged, style=style), *ending(judged), ""])


def described(row: dict[str, Any], measured: list[dict[str, Any]]) -> tuple[str, str, str]:
    """How a form subtracts zero points, its output, and whether the suite uses it."""
    form = row["form"]
    way = next((title for name, title in WAYS.items() if form.startswith(name)), "")
    if way:
        return way, "half precision", "yes" if form.endswith("used") else "no"
    if row["size"] == CHANNEL:
        return "after the loop", "half precision", "yes"
    used = {other["size"]: other for other in measured if other["form"].endswith(", used")}
    return described(used[row["size"]], measured)[0], "float32", "yes"
