"""The ARM variants, cross-compiled and run in an emulator, give the bits of the portable one on this machine."""

import importlib.util
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qdit.kernels import building, compiled
from qdit.kernels.packing import pack_weight
from qdit.kernels.parts import Parts, channel_step, hadamard_step, make_branch
from tests.kernels.cases import inputs, same_bits, variant, weight_of

VARIANTS = ("scalar", "avx2", "avx-vnni", "avx512-vnni", "amx-int8", "neon-dotprod", "neon-i8mm")
RUNNER = Path(__file__).with_name("neon_runner.cpp")
FLAGS = tuple(flag for flag in building.FLAGS if flag not in ("-shared", "-fPIC", "-fvisibility=hidden"))

WITH_PARTS = (2, 8)
PROBLEMS = (
    # weight bits, group size, input group, width, outputs, rows, bits, symmetric, kind, static
    # The third and the last have a transform and a branch.
    (4, 32, 32, 96, 50, 7, 8, False, "random", False),
    (4, 12, 36, 144, 48, 5, 8, False, "outliers", False),
    (6, 36, 36, 144, 97, 6, 8, True, "rows", False),
    (6, 4, 4, 1152, 5, 3, 4, False, "positive", False),
    (8, 96, 96, 192, 49, 9, 8, False, "random", False),
    (8, 128, 640, 640, 20, 4, 8, True, "huge", False),
    (8, 12, 24, 48, 1, 1, 6, False, "zero", False),
    (8, 16, 48, 96, 51, 2, 8, False, "random", True),
    (4, 288, 288, 1152, 60, 8, 8, False, "tiny", False),
)


def cross_compiler(name: str) -> list[str]:
    """The command that makes static programs for 64-bit ARM, or skip."""
    if name == "g++":
        result = shutil.which("aarch64-linux-gnu-g++")
        if result is None:
            pytest.skip("aarch64-linux-gnu-g++ (Debian: g++-aarch64-linux-gnu) is not installed")
        return [result]
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("the package ziglang (the extra [kernels]) is not installed")
    return [sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-musl", "-mcpu=generic"]


@pytest.fixture(scope="module", params=["g++", pytest.param("zig", marks=pytest.mark.slow)])
def program(request, tmp_path_factory):
    """The runner, as a command of the emulator."""
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is None:
        pytest.skip("qemu-aarch64 (Debian: qemu-user) is not installed")
    made = tmp_path_factory.mktemp("neon") / "runner"
    sources = [*sorted(building.SOURCES.glob("*.cpp")), RUNNER]
    command = [*cross_compiler(request.param), *FLAGS, *building.EXACT, "-static", "-o", made, *sources]
    if request.param == "g++":
        command = [part for part in command if part != "-fno-sanitize=undefined"]
    subprocess.run(command, check=True, timeout=1800)
    return lambda cpu: [emulator, "-cpu", cpu, made]


def problem(weight_bits, size, shared, width, outputs, rows, bits, symmetric, kind, static):
    packed = pack_weight(*weight_of(weight_bits, outputs, width, size, rows), bits=weight_bits)
    x, bias = inputs(kind, (rows, width), size), inputs("random", (outputs,), 1)
    ranges = (torch.full((width // shared,), 0.03), torch.arange(width // shared) * 7.0) if static else None
    return packed, x, bias, ranges


def parts_of(number, case):
    """(Hadamard block, parts) of a problem; 0 and no parts for most."""
    width, outputs = case[3:5]
    if number not in WITH_PARTS:
        return 0, Parts()
    generator = torch.Generator().manual_seed(number)
    factor, up, down = (torch.rand(shape, generator=generator) + 0.5 for shape in ((width,), (outputs, 5), (5, width)))
    block = width & -width
    return block, Parts((channel_step("divide", factor), hadamard_step(block)), make_branch(up, down))


def as_bytes(number, case):
    packed, x, bias, ranges = problem(*case)
    block, parts = parts_of(number, case)
    rank = 0 if parts.branch is None else parts.branch.down.shape[1]
    _, size, shared, width, outputs, rows, bits, symmetric, *_ = case
    tensors = (
        x,
        packed.codes,
        packed.scale,
        packed.sums,
        packed.zeros,
        packed.zero_pairs,
        bias,
        *(ranges or (None,) * 2),
        *(parts.tensors() or (None,) * 3),
    )
    arrays = [b"" if tensor is None else tensor.contiguous().numpy().tobytes() for tensor in tensors]
    head = struct.pack("<10q", rows, width, outputs, size, packed.storage, shared, bits, symmetric, block, rank)
    return head + b"".join(struct.pack("<q", len(array)) + array for array in arrays)


def expected(number, case):
    """(linear, dynamic, static) of the portable variant on this machine."""
    packed, x, bias, ranges = problem(*case)
    _, size, shared, *_, bits, symmetric, _, _ = case
    backend = variant("scalar")
    yield compiled.grouped_linear(
        backend,
        x,
        packed,
        bias,
        activation_bits=bits,
        symmetric=symmetric,
        threads=1,
        input_group=shared,
        static=ranges,
        parts=parts_of(number, case)[1],
    )
    yield compiled.fake_quantize_groups(backend, x, size, bits, symmetric=symmetric, threads=1)
    given = torch.tensor([0.02]), torch.tensor([3.0])
    yield compiled.fake_quantize_static(backend, x, *given, bits, threads=1)


@pytest.mark.parametrize(
    ("cpu", "names"),
    [
        ("cortex-a57", ["scalar"]),
        ("cortex-a76", ["scalar", "neon-dotprod"]),
        ("max", ["scalar", "neon-dotprod", "neon-i8mm"]),
    ],
)
def test_every_variant_of_an_arm_processor_gives_the_bits_of_the_portable_one(program, cpu, names):
    given = struct.pack("<q", len(PROBLEMS)) + b"".join(as_bytes(*problem) for problem in enumerate(PROBLEMS))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("QEMU")}
    done = subprocess.run(program(cpu), input=given, capture_output=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    (variants,) = struct.unpack_from("<q", done.stdout)
    assert [name for bit, name in enumerate(VARIANTS) if variants >> bit & 1] == names
    at = 8
    for number, case in enumerate(PROBLEMS):
        results = [y for y in expected(number, case) if y is not None]
        assert len(results) == 3
        for name in names:
            for y in results:
                (status,) = struct.unpack_from("<q", done.stdout, at)
                result = torch.frombuffer(bytearray(done.stdout[at + 8 : at + 8 + 4 * y.numel()]), dtype=torch.float32)
                assert status == 0, (name, case)
                assert same_bits(result.view(y.shape), y), (name, case)
                at += 8 + 4 * y.numel()
    assert at == len(done.stdout)
