"""The Triton kernels are right in Triton's interpreter, and compile for every generation of GPUs without a GPU."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="the package triton is for Linux only")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from qdit.kernels import triton_linear, triton_quantize, triton_transform  # noqa: E402
from qdit.kernels.parts import channel_step, hadamard_step  # noqa: E402
from tests.preloaded import python  # noqa: E402

FLOATS, BYTES = "*fp32", "*i8"
LINEAR = {"codes": BYTES, "weight": BYTES, "flag": "*i32"}
LINEAR |= dict.fromkeys(("rows", "outputs", "groups", "line", "rank"), "i32")
MULTIPLES_OF_16 = ("outputs", "line", "width", "rank")


@pytest.fixture(autouse=True)
def nothing_is_remembered(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def compiled_for(capability, kernel, constants, types, *, warps=4, stages=3):
    """The kernel compiled for a compute capability (90 is Hopper).

    Pointers are floats unless `types` says otherwise, and aligned as torch allocates them.
    """
    signature = {name: "constexpr" if name in constants else types.get(name, FLOATS) for name in kernel.arg_names}
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*") or name in MULTIPLES_OF_16
    }
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": False}
    return triton.compile(
        ASTSource(kernel, signature, constants, aligned), target=GPUTarget("cuda", capability, 32), options=options
    )


def compiled_linear(capability, size, groups, zeros, branch=False):
    """(the linear kernel compiled for such groups of weights, its padded group size)."""
    padded, blocks = triton_quantize.padded_size(size), triton_linear.choose_blocks(8192, 1152, size)
    constants = {
        "PADDED": padded,
        "STEP": triton_linear.step_of(padded),
        "SHARED": 1,
        "PART": triton_linear.PART if groups > triton_linear.PART else 0,
        "ZEROS": zeros,
        "BIAS": True,
        "BRANCH": branch,
        "BLOCK_ROWS": blocks.rows,
        "BLOCK_COLUMNS": blocks.columns,
    }
    options = {"warps": blocks.warps, "stages": blocks.stages}
    return compiled_for(capability, triton_linear.linear_kernel, constants, LINEAR, **options), padded


def stack_bytes(kernel, folder: Path) -> int:
    """What each thread keeps in memory because registers do not suffice."""
    binary = folder / "kernel.cubin"
    binary.write_bytes(kernel.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    said = subprocess.run(
        [tool, "--dump-resource-usage", binary], capture_output=True, text=True, check=True, timeout=60
    )
    return int(re.search(r"STACK:(\d+)", said.stdout)[1])


@pytest.mark.parametrize(("size", "groups", "zeros"), [(32, 36, False), (128, 9, True), (288, 16, False)])
def test_the_linear_compiles_to_8_bit_tensor_cores(tmp_path, size, groups, zeros):
    kernel, padded = compiled_linear(90, size, groups, zeros)
    code = kernel.asm["ptx"]
    assert len(re.findall(r"wgmma\.mma_async.*\.s32\.s8\.s8", code)) == padded // 32
    assert "cp.async" in code and "fma.rn.f32" in code and ".ftz" not in code
    assert stack_bytes(kernel, tmp_path) <= 16 and kernel.metadata.shared <= 227 * 1024


CODES = {"STEPS": 0, "SPAN": 192, "SHARED": 192, "SIZE": 96, "PADDED": 96, "WIDE": 256, "BLOCK": 16}
CODES |= {"GIVEN": False, "SYMMETRIC": False, "TOTALS": True}
OF_CODES = {"codes": BYTES, "levels": "fp32"} | dict.fromkeys(("rows", "width", "line"), "i32")


@pytest.mark.parametrize(
    ("capability", "multiply", "shared_kib"),
    [
        (80, r"mma\.sync.*\.s32\.s8\.s8\.s32", 163),  # Ampere
        (100, r"tcgen05\.mma.*kind::i8", 227),  # Blackwell, data centre
        (120, r"mma\.sync.*\.s32\.s8\.s8\.s32", 99),  # Blackwell, workstation
    ],
)
def test_other_generations_compile_to_their_8_bit_tensor_cores_and_true_divisions(capability, multiply, shared_kib):
    linear, _ = compiled_linear(capability, 128, 9, True)
    code = linear.asm["ptx"]
    assert linear.asm["cubin"] and re.search(multiply, code)
    assert "fma.rn.f32" in code and ".ftz" not in code and linear.metadata.shared <= shared_kib * 1024
    quantize = compiled_for(capability, triton_quantize.codes_kernel, CODES, OF_CODES)
    code = quantize.asm["ptx"]
    assert quantize.asm["cubin"] and "div.rn.f32" in code
    assert not re.search(r"div\.(full|approx)|\.ftz|fma\.rn\.f32", code)


STEPS, _ = triton_transform.encoded(
    [channel_step("divide", torch.ones(4)), channel_step("multiply", torch.ones(4)), hadamard_step(128)], torch.ones(4)
)


# Ten seconds each: for the other generations the fast tests compile the same kernels without steps and branch.
@pytest.mark.parametrize("capability", [90, *(pytest.param(n, marks=pytest.mark.slow) for n in (80, 100, 120))])
def test_transforms_and_branches_compile_for_every_generation(tmp_path, capability):
    linear, _ = compiled_linear(capability, 64, 18, False, branch=True)
    assert linear.asm["cubin"] and ".ftz" not in linear.asm["ptx"]
    # Without a branch it is 176, 0, 136 and 80 bytes: only Hopper's accumulators fit beside two sums.
    assert stack_bytes(linear, tmp_path) <= (16 if capability == 90 else 256)
    dynamic = CODES | {"STEPS": STEPS, "SPAN": 128, "SHARED": 64, "SIZE": 64, "PADDED": 64, "WIDE": 128, "BLOCK": 32}
    quantize = compiled_for(capability, triton_quantize.codes_kernel, dynamic | {"TOTALS": False}, OF_CODES)
    code = quantize.asm["ptx"]
    assert quantize.asm["cubin"] and "div.rn.f32" in code and re.search(r"sub(\.rn)?\.f32", code)
    assert not re.search(r"div\.(full|approx)|\.ftz|fma\.rn\.f32", code)  # sums and products round apart
    constants = {"STEPS": STEPS, "SPAN": 128, "WIDE": 128, "RANK": 32, "BLOCK": 64}
    types = dict.fromkeys(("rows", "width", "rank"), "i32")
    narrow = compiled_for(capability, triton_transform.narrow_kernel, constants, types)
    code = narrow.asm["ptx"]
    assert narrow.asm["cubin"] and "tf32" not in code and ".ftz" not in code and "div.rn.f32" in code


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_quantizing_compiles_with_true_divisions(dtype):
    dynamic = {"SIZE": 96, "WIDE": 128, "SYMMETRIC": False, "EXACT": False, "BLOCK": 32}
    types = {"x": f"*{dtype}", "y": f"*{dtype}", "groups": "i32", "levels": "fp32"}
    static = types | dict.fromkeys(("count", "width", "size"), "i32")
    for kernel, constants, signature in (
        (triton_quantize.fake_groups_kernel, dynamic, types),
        (triton_quantize.fake_static_kernel, {"EXACT": False, "BLOCK": 1024}, static),
        (triton_quantize.codes_kernel, CODES, OF_CODES | {"x": f"*{dtype}"}),
    ):
        binary = compiled_for(90, kernel, constants, signature)
        code = binary.asm["ptx"]
        assert binary.asm["cubin"] and "div.rn.f32" in code
        assert not re.search(r"div\.(full|approx)|\.ftz|fma\.rn\.f32", code)
        # bfloat16 values are rounded after each step, to nearest and even
        assert (dtype == "bf16" and "codes" not in kernel.__name__) == bool(re.search(r"cvt\.rn\.bf16", code))


@pytest.mark.parametrize(("source", "narrow"), [("fp32", "fp16"), ("fp16", "fp16"), ("fp32", "bf16")])
def test_half_precision_is_written_after_steps_in_float32(source, narrow):
    """One rounding to half precision, at the end, to nearest; nothing between the steps."""
    types = {"x": f"*{source}", "y": f"*{narrow}", "groups": "i32", "levels": "fp32"}
    static = types | dict.fromkeys(("count", "width", "size"), "i32")
    dynamic = {"SIZE": 96, "WIDE": 128, "SYMMETRIC": False, "EXACT": True, "BLOCK": 32}
    for kernel, constants, signature in (
        (triton_quantize.fake_groups_kernel, dynamic, types),
        (triton_quantize.fake_static_kernel, {"EXACT": True, "BLOCK": 1024}, static),
    ):
        code = compiled_for(90, kernel, constants, signature).asm["ptx"]
        assert "div.rn.f32" in code and not re.search(r"div\.(full|approx)|\.ftz|fma\.rn\.f32", code)
        assert f"cvt.rn.{narrow.replace('fp', 'f')}" in code
        assert bool(re.search(r"cvt\.f32\.(bf|f)16", code)) == (source == "fp16"), "only the input is widened"


def test_kernels_are_right_in_the_interpreter(repository, tmp_path):
    # The kernels' tensors are small: threads of torch would only wait for each other.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    cases = Path(__file__).with_name("triton_cases.py")
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)]
    done = python(command, repository, environment=environment, timeout=900)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= 45
