"""Counts of instructions from a disassembly that is written here, and the bounds that follow from counts."""

from types import SimpleNamespace

import pytest

pytest.importorskip("triton", reason="the package triton is for Linux only")

from qdit.bench import gpu_bounds, gpu_code
from qdit.bench.gpu_code import Loop, loop_of
from qdit.bench.gpu_goals import CHANNEL, CHANNEL_GOAL, LINEAR_GOALS

INSTRUCTIONS = [
    (0x00, "MOV R1, c[0x0][0x28]"),
    (0x10, "I2FP.F32.S32 R9, R8"),  # before the loops
    (0x20, "LDG.E R2, desc[UR4][R2.64]"),  # the outer loop begins
    (0x30, "LDGSTS.E.BYPASS.128 [R20], desc[UR4][R22.64]"),  # the inner one begins
    (0x40, "IGMMA.64x128x32.S8.S8 R24, gdesc[UR8]"),
    (0x50, "I2FP.F32.S32 R25, R24"),
    (0x60, "FMUL R25, R25, R40"),
    (0x70, "@P1 FFMA R50, R25, R41, R50"),
    (0x80, "STL [R1], R50"),
    (0x90, "FFMA R51, R26, R41, R51"),
    (0xA0, "@P0 BRA 0x30"),
    (0xB0, "FADD R52, R52, R50"),
    (0xC0, "@P2 BRA 0x20"),
    (0xD0, "FADD R60, R60, R61"),  # a loop without products on tensor cores
    (0xE0, "@P3 BRA 0xd0"),
    (0xF0, "@P4 BRA 0x100"),  # forward
    (0x100, "EXIT"),
]
USAGE = "Function linear_kernel:\n  REG:227 STACK:16 SHARED:1024 LOCAL:0 CONSTANT[0]:712 TEXTURE:0"


def disassembly(instructions: list[tuple[int, str]]) -> str:
    """Text as `cuobjdump -sass` prints it: address, instruction, encoding."""
    return "\n".join(f"        /*{at:04x}*/  {text} ;   /* 0x{at:016x} */" for at, text in instructions)


def counted(monkeypatch: pytest.MonkeyPatch, instructions: list[tuple[int, str]]) -> Loop:
    """What is counted in a disassembly."""
    texts = {"-sass": disassembly(instructions), "--dump-resource-usage": USAGE}
    monkeypatch.setattr(gpu_code, "tool_output", lambda _kernel, _tool, flag: texts[flag])
    return loop_of(SimpleNamespace(metadata=SimpleNamespace(shared=4096)))


def test_the_innermost_loop_with_products_on_tensor_cores_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert counted(monkeypatch, INSTRUCTIONS) == Loop(8, 4, 1, 227, 4096)
    without = [(at, text) for at, text in INSTRUCTIONS if "MMA" not in text]
    with pytest.raises(ValueError, match="no loop with products on tensor cores"):
        counted(monkeypatch, without)
    longer = [(at, "FFMA R1, R1, R1, R1" if at == 0x80 else text) for at, text in INSTRUCTIONS]
    assert counted(monkeypatch, longer) == Loop(8, 5, 0, 227, 4096)


def test_a_bound_is_the_useful_share_of_the_slower_of_instructions_and_tensor_cores() -> None:
    """64 × 128 × 32 useful pairs take 64 cycles; those with padding take 128, and the loop of 281 instructions 281."""
    row = gpu_bounds.entry(32, "used", 64 * 128 * 32, Loop(281, 192, 0, 224, 0), 128)
    assert row["share"] == pytest.approx(64 / 281) and row["times bf16"] == pytest.approx(2 * 64 / 281)
    row = gpu_bounds.entry(288, "used", 64 * 128 * 288, Loop(469, 256, 0, 254, 0), 576)
    assert row["share"] == 1.0, "the tensor cores are the bottleneck"


def test_goals_are_compared_with_the_bound_of_the_form_that_is_used() -> None:
    rows = [
        {"size": 32, "form": "zero points by fma", "times bf16": 9.0},
        {"size": 32, "form": "zero points in the padding, used", "times bf16": LINEAR_GOALS[32] - 0.01},
        {"size": 96, "form": "zero points by fma, used", "times bf16": 0.1},
        {"size": 288, "form": "zero points by fma, used", "times bf16": LINEAR_GOALS[288]},
        {"size": CHANNEL, "form": "used", "times bf16": CHANNEL_GOAL + 0.1},
    ]
    judged = gpu_bounds.judge(rows)
    assert [(goal.goal.name, goal.verdict) for goal in judged] == [
        ("bound ÷ bf16, groups of 32", "missed"),
        ("bound ÷ bf16, groups of 288", "met"),
        ("bound ÷ bf16, token × channel", "met"),
    ]


@pytest.mark.slow
def test_the_compiled_kernels_have_the_instructions_that_the_scaling_needs() -> None:
    """64 outputs of a thread: a conversion, a product and a fma; with zero points by fma one more."""
    rows = {row["form"]: row for row in gpu_bounds.measure("a test", sizes=(32,))["measured"]}
    fma, padding = rows["zero points by fma"], rows["zero points in the padding, used"]
    assert (fma["scaling"], padding["scaling"]) == (4 * 64, 3 * 64)
    assert (fma["tensor"], padding["tensor"]) == (64, 128)
    assert padding["scaling"] < padding["instructions"] < fma["instructions"]
    assert padding["share"] == pytest.approx(64 / max(padding["instructions"], padding["tensor"]))
    assert rows["used"]["scaling"] == 0, "one range for each token and channel scales nothing in the loop"
