"""The Triton kernels are right in Triton's interpreter, and compile for every generation of GPUs without a GPU."""

import os
import re
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="the package triton is for Linux only")

from qdit.bench.gpu_code import BYTES, compiled_channels, compiled_for, compiled_linear, loop_of, tool_output  # noqa: E402
from qdit.kernels import triton_fake, triton_inputs, triton_quantize, triton_transform  # noqa: E402
from qdit.kernels.parts import channel_step, hadamard_step  # noqa: E402
from tests.preloaded import python  # noqa: E402

GENERATIONS = [90, *(pytest.param(capability, marks=pytest.mark.ci) for capability in (80, 100, 120))]
"""Hopper in every run of the tests; Ampere and both kinds of Blackwell in those of CI."""


@pytest.fixture(autouse=True)
def nothing_is_remembered(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def stack_bytes(kernel) -> int:
    """What each thread keeps in memory because registers do not suffice."""
    return int(re.search(r"STACK:(\d+)", tool_output(kernel, "cuobjdump", "--dump-resource-usage"))[1])


@pytest.mark.parametrize(
    ("padded", "part", "sums", "zeros"), [(64, 16, False, False), (128, 0, True, True), (288, 0, True, False)]
)
def test_the_linear_compiles_to_8_bit_tensor_cores(padded, part, sums, zeros):
    kernel = compiled_linear(90, padded, part=part, sums=sums, zeros=zeros)
    code = kernel.asm["ptx"]
    assert len(re.findall(r"wgmma\.mma_async.*\.s32\.s8\.s8", code)) == padded // 32
    assert "cp.async" in code and "fma.rn.f32" in code and ".ftz" not in code
    assert stack_bytes(kernel) <= 16 and kernel.metadata.shared <= 227 * 1024


def test_zero_points_in_the_padding_leave_three_instructions_for_an_output_and_group():
    """64 outputs of each thread: a conversion, a product and a fused multiply-add, and nothing else is in the loop."""
    loop = loop_of(compiled_linear(90, 64, sums=False, output="*fp16"))
    assert loop.scaling == 192 and loop.instructions < 320 and loop.spills == 0


@pytest.mark.parametrize("capability", GENERATIONS)
def test_a_range_for_each_token_and_channel_compiles_without_scales_in_the_loop(capability):
    kernel = compiled_channels(capability)
    code = kernel.asm["ptx"]
    assert kernel.asm["cubin"] and re.search(r"(wgmma|mma\.sync|tcgen05).*(s8|i8)", code) and ".ftz" not in code
    assert kernel.metadata.shared <= {80: 163, 90: 227, 100: 227, 120: 99}[capability] * 1024
    if capability == 90:  # registers are moved to memory after the loop only
        loop = loop_of(kernel)
        assert loop.scaling == loop.spills == 0 and stack_bytes(kernel) <= 128


CODES = {"STEPS": 0, "SPAN": 192, "SHARED": 192, "SIZE": 96, "PADDED": 96, "WIDE": 256, "BLOCK": 16}
CODES |= {"GIVEN": False, "SYMMETRIC": False, "TOTALS": True, "BEFORE": triton_inputs.NONE}
OF_INPUTS = dict.fromkeys(("rows", "width", "groups", "tokens", "shift_line", "factor_line"), "i32") | {
    "levels": "fp32"
}
OF_CODES = {"codes": BYTES, "line": "i32"} | OF_INPUTS


@pytest.mark.ci
@pytest.mark.parametrize(
    ("capability", "multiply", "shared_kib"),
    [
        (80, r"mma\.sync.*\.s32\.s8\.s8\.s32", 163),  # Ampere
        (100, r"tcgen05\.mma.*kind::i8", 227),  # Blackwell, data centre
        (120, r"mma\.sync.*\.s32\.s8\.s8\.s32", 99),  # Blackwell, workstation
    ],
)
def test_other_generations_compile_to_their_8_bit_tensor_cores_and_true_divisions(capability, multiply, shared_kib):
    linear = compiled_linear(capability, 128, zeros=True)
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


# Ten seconds each: for the other generations the tests of CI compile the same kernels without steps and branch.
@pytest.mark.ci
@pytest.mark.parametrize("capability", [90, *(pytest.param(n, marks=pytest.mark.slow) for n in (80, 100, 120))])
def test_transforms_and_branches_compile_for_every_generation(capability):
    linear = compiled_linear(capability, 64, part=16, branch=True)
    assert linear.asm["cubin"] and ".ftz" not in linear.asm["ptx"]
    # Only Hopper's accumulators fit beside two sums.
    assert stack_bytes(linear) <= (16 if capability == 90 else 320)
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
    dynamic = {"SIZE": 96, "WIDE": 128, "SYMMETRIC": False, "EXACT": False, "BEFORE": 0, "BLOCK": 32}
    types = {"x": f"*{dtype}", "y": f"*{dtype}"} | OF_INPUTS
    static = types | dict.fromkeys(("count", "width", "size"), "i32")
    for kernel, constants, signature in (
        (triton_fake.fake_groups_kernel, dynamic, types),
        (triton_fake.fake_static_kernel, {"EXACT": False, "BEFORE": 0, "BLOCK": 1024}, static),
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
    types = {"x": f"*{source}", "y": f"*{narrow}"} | OF_INPUTS
    static = types | dict.fromkeys(("count", "width", "size"), "i32")
    dynamic = {"SIZE": 96, "WIDE": 128, "SYMMETRIC": False, "EXACT": True, "BEFORE": 0, "BLOCK": 32}
    for kernel, constants, signature in (
        (triton_fake.fake_groups_kernel, dynamic, types),
        (triton_fake.fake_static_kernel, {"EXACT": True, "BEFORE": 0, "BLOCK": 1024}, static),
    ):
        code = compiled_for(90, kernel, constants, signature).asm["ptx"]
        assert "div.rn.f32" in code and not re.search(r"div\.(full|approx)|\.ftz|fma\.rn\.f32", code)
        assert f"cvt.rn.{narrow.replace('fp', 'f')}" in code
        assert bool(re.search(r"cvt\.f32\.(bf|f)16", code)) == (source == "fp16"), "only the input is widened"


def simulations(before: int):
    """Kernels of the simulated mode behind a LayerNorm of float32 or a GELU of half precision, to half precision."""
    types = {"x": "*fp32" if before == triton_inputs.NORM else "*fp16", "y": "*fp16"} | OF_INPUTS
    types |= {"shift": "*fp16", "factor": "*fp16"} | dict.fromkeys(("count", "width", "size"), "i32")
    dynamic = {"SIZE": 96, "WIDE": 128, "SYMMETRIC": False, "EXACT": True, "BEFORE": before, "BLOCK": 32}
    yield triton_fake.fake_groups_kernel, dynamic, types
    yield triton_fake.fake_static_kernel, {"EXACT": True, "BEFORE": before, "BLOCK": 1024}, types


@pytest.mark.parametrize("capability", GENERATIONS)
def test_what_comes_before_a_quantizer_compiles_with_it(capability):
    """True divisions, and no fused multiply-add but those inside of a division: each operation rounds once."""
    for before in (triton_inputs.GELU, triton_inputs.NORM):
        types = OF_CODES | {"x": "*fp16", "shift": "*fp16", "factor": "*fp16"}
        code = compiled_for(capability, triton_quantize.codes_kernel, CODES | {"BEFORE": before}, types).asm["ptx"]
        assert "div.rn.f32" in code and not re.search(r"div\.(full|approx)|\.ftz|fma\.rn\.f32", code)
        assert ("ex2" in code) == (before == triton_inputs.GELU)
        for kernel, constants, narrow in simulations(before):
            code = compiled_for(capability, kernel, constants, narrow).asm["ptx"]
            assert "div.rn.f32" in code and "cvt.rn.f16" in code
            assert not re.search(r"div\.(full|approx)|\.ftz|fma\.rn\.f32", code)
    if capability != 90:
        return
    constants, sizes = {"WIDE": 2048, "BLOCK": 2}, {"rows": "i32", "width": "i32", "epsilon": "fp32"}
    code = compiled_for(capability, triton_inputs.statistics_kernel, constants, sizes).asm["ptx"]
    assert "sqrt.rn.f32" in code and "div.rn.f32" in code and "fma.rn.f32" not in code


@pytest.mark.parametrize("capability", GENERATIONS)
def test_the_small_kernels_compile_for_every_generation(capability):
    """What is not compiled for all of them above: statistics, LayerNorm, GELU, and the simulated quantizers alone."""
    sizes = OF_INPUTS | dict.fromkeys(("count", "size"), "i32") | {"epsilon": "fp32"}
    dynamic = {"SIZE": 96, "WIDE": 128, "SYMMETRIC": True, "EXACT": True, "BEFORE": 0, "BLOCK": 32}
    before = {"WIDE": 1024, "BLOCK": 4}
    for kernel, constants, types in (
        (triton_inputs.statistics_kernel, {"WIDE": 2048, "BLOCK": 2}, {"x": "*fp32"}),
        (triton_inputs.inputs_kernel, before | {"BEFORE": triton_inputs.NORM}, {"x": "*fp32", "y": "*fp32"}),
        (triton_inputs.inputs_kernel, before | {"BEFORE": triton_inputs.GELU}, {"x": "*bf16", "y": "*bf16"}),
        (triton_fake.fake_groups_kernel, dynamic, {"x": "*bf16", "y": "*bf16"}),
        (triton_fake.fake_static_kernel, {"EXACT": True, "BEFORE": 0, "BLOCK": 1024}, {"x": "*bf16", "y": "*bf16"}),
    ):
        binary = compiled_for(capability, kernel, constants, sizes | types)
        code = binary.asm["ptx"]
        assert binary.asm["cubin"] and not re.search(r"div\.(full|approx)|\.ftz|fma\.rn\.f32", code)
        norm = kernel is triton_inputs.inputs_kernel and constants["BEFORE"] == triton_inputs.NORM
        assert norm or "div.rn.f32" in code, "the LayerNorm divides in the kernel of its statistics"


@pytest.mark.ci
def test_kernels_are_right_in_the_interpreter(repository, tmp_path):
    # The kernels' tensors are small: threads of torch would only wait for each other.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    cases = Path(__file__).with_name("triton_cases.py")
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)]
    done = python(command, repository, environment=environment, timeout=900)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= 60
