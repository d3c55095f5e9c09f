"""Machine code of the Triton kernels, without a GPU: instructions per group in the grouped linear, and a speed bound.

A multiprocessor has four schedulers. Each issues one instruction of one warp (32 threads) in a cycle. One run of the
kernel (a *program* of Triton) computes 64 × 128 outputs with four warps, one for each scheduler. So a group of inputs
takes at least as many cycles as one warp has instructions for it. The tensor cores of a multiprocessor multiply 4096
pairs of 8-bit numbers in a cycle. So a group also takes at least (64 · 128 · bytes of the group) / 4096 cycles.
"""

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from qdit.kernels import triton_channel, triton_linear
from qdit.kernels.triton_blocks import Blocks
from qdit.kernels.triton_channel import channel_blocks

FLOATS, BYTES = "*fp32", "*i8"
ALIGNED_NUMBERS = ("outputs", "line", "width", "rank", "shift_line", "factor_line")
"""Whole numbers that are multiples of 16 in the shapes of DiT-XL/2."""
LINEAR = {"codes": BYTES, "weight": BYTES, "flag": "*i32"}
LINEAR |= dict.fromkeys(("rows", "outputs", "groups", "line", "rank"), "i32")
PAIRS_PER_CYCLE = 4096
"""Products of 8-bit numbers that the tensor cores of one multiprocessor of a Hopper GPU add in a cycle."""


def compiled_for(
    capability: int,
    kernel: Any,
    constants: Mapping[str, Any],
    types: Mapping[str, str],
    *,
    warps: int = 4,
    stages: int = 3,
) -> Any:
    """Compile a kernel for a compute capability (90 is Hopper).

    Pointers are to floats unless `types` says otherwise. They are aligned as torch allocates them.
    """
    signature = {name: "constexpr" if name in constants else types.get(name, FLOATS) for name in kernel.arg_names}
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*") or (signature[name] == "i32" and name in ALIGNED_NUMBERS)
    }
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": False}
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(ASTSource(kernel, signature, dict(constants), aligned), target=target, options=options)


def compiled_linear(
    capability: int,
    padded: int,
    *,
    part: int = 0,
    sums: bool = True,
    zeros: bool = False,
    branch: bool = False,
    output: str = FLOATS,
    blocks: Blocks | None = None,
) -> Any:
    """Compile the grouped linear kernel for groups that take `padded` bytes, with the block sizes for many rows."""
    blocks = blocks or triton_linear.choose_blocks(8192, 1152, padded)
    constants = {
        "PADDED": padded,
        "SHARED": 1,
        "PART": part,
        "SUMS": sums,
        "ZEROS": zeros,
        "BIAS": True,
        "BRANCH": branch,
        "BLOCK_ROWS": blocks.rows,
        "BLOCK_COLUMNS": blocks.columns,
    }
    types = {**LINEAR, "y": output}
    return compiled_for(
        capability, triton_linear.linear_kernel, constants, types, warps=blocks.warps, stages=blocks.stages
    )


def compiled_channels(capability: int, *, output: str = FLOATS) -> Any:
    """Compile the linear kernel for one range per token and output channel, with the block sizes for many rows."""
    blocks = channel_blocks(large=capability // 10 in triton_channel.LARGE)
    constants = {
        "SUMS": True,
        "ZEROS": False,
        "BIAS": True,
        "STEP": triton_channel.STEP,
        "BLOCK_ROWS": blocks.rows,
        "BLOCK_COLUMNS": blocks.columns,
    }
    types = {**LINEAR, "y": output}
    return compiled_for(
        capability, triton_channel.channel_kernel, constants, types, warps=blocks.warps, stages=blocks.stages
    )


def tool_output(kernel: Any, tool: str, *flags: str) -> str:
    """Run a program of Triton's package on the machine code of a kernel, and return what it prints."""
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    with tempfile.TemporaryDirectory(prefix="qdit-gpu-code-") as folder:
        binary = Path(folder, "kernel.cubin")
        binary.write_bytes(kernel.asm["cubin"])
        words = [str(program), *flags, str(binary)]
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=120).stdout


@dataclass(frozen=True)
class Loop:
    """What the kernel's loop over groups needs: instructions of one warp, registers and shared memory.

    `scaling` counts the instructions that apply scales, `spills` those that move registers to memory.
    """

    instructions: int
    scaling: int
    spills: int
    registers: int
    shared_bytes: int


def loop_of(kernel: Any) -> Loop:
    """Find the innermost loop with tensor-core products in the machine code, and count it.

    ValueError if there is none.
    """
    code = tool_output(kernel, "cuobjdump", "-sass")
    lines = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(\S[^;]*);\s*/\*", code)]
    loops = []
    for at, text in lines:
        target = re.search(r"\bBRA\S* .*?0x([0-9a-f]+)", text)
        if target and int(target[1], 16) < at:
            body = [word for place, word in lines if int(target[1], 16) <= place <= at]
            if any("MMA" in word for word in body):
                loops.append(body)
    if not loops:
        raise ValueError("the machine code has no loop with products on tensor cores")
    body = min(loops, key=len)
    registers = re.search(r"REG:(\d+)", tool_output(kernel, "cuobjdump", "--dump-resource-usage"))
    assert registers is not None
    scaling = sum(bool(re.search(r"\b(FFMA|FMUL|FADD|FSEL|I2FP?)\b", text)) for text in body)
    spills = sum(bool(re.search(r"\b(LDL|STL)\b", text)) for text in body)
    return Loop(len(body), scaling, spills, int(registers[1]), kernel.metadata.shared)
