"""The variant for AMX. No emulator of Debian or PyPI has AMX, so its tile instructions are emulated in C++.

All else of the variant (shapes of tiles, loops, zero points, scales, ragged rows) is the code that a processor runs.
The emulation counts instructions that a processor would refuse, and is itself compared with plain matrix products.
"""

import ctypes
import re
import subprocess
from pathlib import Path

import pytest
import torch

from qdit.kernels import building, compiled, library
from qdit.kernels.backend import Backend
from qdit.kernels.packing import pack_weight
from qdit.kernels.parts import Parts, hadamard_step, make_branch
from tests.kernels.cases import (
    disassembled,
    emulated_library,
    exact,
    inputs,
    same_bits,
    variant,
    weight_of,
    x86_compiler,
)

RUNNER = r"""
#include "amx_tiles.h"
using namespace qdit::tiles;
extern "C" {
int64_t faults() { return qdit::tiles::faults().load(); }
void product(int m, int k, int n, const uint8_t* a, const int8_t* b, int32_t* sums, int rows_of_a, int palette) {
    Shapes shapes;
    shapes.palette = static_cast<uint8_t>(palette);
    shapes.set(0, m, 4 * n);
    shapes.set(1, rows_of_a, 4 * k);
    shapes.set(2, k, 4 * n);
    configure(shapes);
    load<0>(sums, 4 * n);
    load<1>(a, 4 * k);
    load<2>(b, 4 * n);
    multiply<0, 1, 2>();
    store<0>(sums, 4 * n);
    release();
    multiply<0, 1, 2>();  // a fault: the registers have no shape
}
}
"""


@pytest.fixture(scope="module")
def emulated(folder_of_the_call):
    variant("avx512-vnni")
    loaded = emulated_library(folder_of_the_call)
    loaded.qdit_amx_faults.restype = ctypes.c_int64
    backend = Backend("amx-int8", loaded)
    assert loaded.qdit_variants() >> backend.variant & 1
    yield backend
    assert loaded.qdit_amx_faults() == 0


@pytest.mark.parametrize("weight_bits", [2, 4, 6, 8])
@pytest.mark.parametrize(
    ("width", "size"),
    [(48, 4), (108, 36), (576, 32), (576, 64), (1152, 96), (1152, 128), (600, 100), (576, 288), (1200, 1200)],
)
def test_its_bits_are_those_of_the_other_variants(emulated, weight_bits, width, size):
    cases = ((1, 7, "random", False), (15, 49, "outliers", True), (16, 48, "rows", False), (35, 96, "rows", False))
    for rows, outputs, kind, symmetric in cases:
        packed = pack_weight(*weight_of(weight_bits, outputs, width, size, rows), bits=weight_bits)
        x, bias = inputs(kind, (rows, width), size), torch.randn(outputs)
        options = {"activation_bits": 8, "symmetric": symmetric, "threads": 1}
        y = compiled.grouped_linear(emulated, x, packed, bias, **options)
        expected = compiled.grouped_linear(variant("scalar"), x, packed, bias, **options)
        assert y is not None and expected is not None and same_bits(y, expected)


@pytest.mark.parametrize("weight_bits", [4, 6, 8])
@pytest.mark.parametrize("size", [32, 96, 128])
def test_near_to_quantize_dequantize(emulated, weight_bits, size):
    weight, x, bias = weight_of(weight_bits, 50, 1152, size, 1), inputs("outliers", (19, 1152), 2), torch.randn(50)
    packed = pack_weight(*weight, bits=weight_bits)
    y = compiled.grouped_linear(emulated, x, packed, bias, activation_bits=8, symmetric=False, threads=1)
    expected, magnitude = exact(x, weight, bias, 8, symmetric=False)
    assert y is not None and ((y - expected).abs() <= 1e-6 * magnitude).all()


def test_blocks_of_rows_threads_and_parts_change_no_bit(emulated):
    packed = pack_weight(*weight_of(4, 100, 192, 96, 3), bits=4)
    x, bias = inputs("rows", (530, 192), 4), torch.randn(100)
    parts = Parts((hadamard_step(4),), make_branch(torch.randn(100, 5), torch.randn(5, 192)))
    for threads in (1, 3):
        options = {"activation_bits": 8, "symmetric": False, "threads": threads, "parts": parts}
        y = compiled.grouped_linear(emulated, x, packed, bias, **options)
        expected = compiled.grouped_linear(variant("avx512-vnni"), x, packed, bias, **options)
        assert y is not None and expected is not None and same_bits(y, expected)


def test_a_result_that_is_not_finite_is_refused(emulated):
    codes, scale, zero_point = weight_of(4, 50, 64, 32, 0, "constant")
    packed = pack_weight(codes, torch.full(scale.shape, 1e38), zero_point, bits=4)
    x = inputs("positive", (17, 64), 0)
    assert compiled.grouped_linear(emulated, x, packed, None, activation_bits=8, symmetric=False, threads=1) is None


@pytest.fixture(scope="module")
def registers(tmp_path_factory):
    """The emulated registers alone."""
    folder = tmp_path_factory.mktemp("tiles")
    (folder / "runner.cpp").write_text(RUNNER)
    flags = [*building.FLAGS, "-DQDIT_AMX_EMULATED", f"-I{building.SOURCES}", "-fvisibility=default"]
    subprocess.run([x86_compiler(), *flags, "-o", folder / "r.so", folder / "runner.cpp"], check=True, timeout=300)
    loaded = ctypes.CDLL(str(folder / "r.so"))
    loaded.faults.restype = ctypes.c_int64
    return loaded


@pytest.mark.parametrize(("m", "k", "n"), [(16, 16, 16), (1, 1, 1), (5, 9, 16), (16, 8, 3)])
def test_the_emulated_product_is_a_matrix_product(registers, m, k, n):
    generator = torch.Generator().manual_seed(m + k + n)
    a = torch.randint(256, (m, 4 * k), generator=generator)
    b = torch.randint(-128, 128, (4 * k, n), generator=generator)
    sums = torch.randint(-(2**31), 2**31 - 1, (m, n), generator=generator)
    result, a8 = sums.int(), a.to(torch.uint8)
    b8 = b.unflatten(0, (k, 4)).transpose(1, 2).to(torch.int8).contiguous()
    before = registers.faults()
    registers.product(m, k, n, *(ctypes.c_void_p(t.data_ptr()) for t in (a8, b8, result)), m, 1)
    assert registers.faults() == before + 1  # the one after the release
    assert torch.equal(result, (sums + a @ b).int())  # sums wrap around


@pytest.mark.parametrize(("rows_of_a", "palette"), [(2, 1), (17, 1), (3, 0), (3, 2)])
def test_what_a_processor_refuses_is_counted(registers, rows_of_a, palette):
    arrays = [torch.zeros(17 * 64, dtype=torch.int32) for _ in range(3)]
    before = registers.faults()
    registers.product(3, 2, 4, *(ctypes.c_void_p(t.data_ptr()) for t in arrays), rows_of_a, palette)
    assert registers.faults() >= before + 2


def test_the_compiled_code_multiplies_inputs_by_weights_and_gives_the_registers_back(tmp_path):
    lines = disassembled("amx.cpp", tmp_path)
    products = [re.findall(r"tmm(\d)", line) for line in lines if "tdpbusd" in line]
    # Weights are signed and come first in this notation, then the unsigned inputs, then the sums.
    assert {(int(weights), int(codes)) for weights, codes, _ in products} == {(4, 3), (5, 3), (7, 6)}
    assert {int(sums) for *_, sums in products} == {0, 1, 2}
    assert any("ldtilecfg" in line for line in lines) and any("tilerelease" in line for line in lines)


def test_the_kernel_is_asked_only_where_the_processor_has_amx():
    loaded = library.loaded()
    if isinstance(loaded, str) or "amx_int8" in Path("/proc/cpuinfo").read_text(encoding="utf-8").split():
        pytest.skip("no library, or the processor has AMX")
    assert "amx-int8" not in library.available()
