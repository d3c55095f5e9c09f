"""The variant for AVX-VNNI. No emulator of Debian or PyPI has it, so its code runs here in the encoding of AVX-512.

The instruction is the same (`vpdpbusd` on 256 bits); `QDIT_VNNI_AS_EVEX` chooses the encoding.
"""

import ctypes
import re
import subprocess

import pytest
import torch

from qdit.kernels import building, compiled
from qdit.kernels.backend import Backend
from qdit.kernels.packing import pack_weight
from qdit.kernels.parts import Parts, hadamard_step, make_branch
from tests.kernels.cases import disassembled, emulated_library, inputs, same_bits, variant, weight_of, x86_compiler


def test_the_compiled_code_multiplies_by_the_256_bit_instruction_in_its_vex_encoding(tmp_path):
    lines = [line for line in disassembled("avxvnni.cpp", tmp_path) if "vpdpbusd" in line]
    assert len(lines) >= 3 * (1 + 2 + 3 + 4) and all("%ymm" in line and "%zmm" not in line for line in lines)
    # VEX begins with c4; the encoding of AVX-512 begins with 62.
    assert all(line.partition(":")[2].split()[0] == "c4" for line in lines)


def test_the_loop_of_the_peak_has_nothing_but_twelve_products_of_256_bits(tmp_path):
    lines = disassembled("peak.cpp", tmp_path)
    for name, product in (("dots256", "vpdpbusd"), ("products256", "vfmadd231ps")):
        begin = next(number for number, line in enumerate(lines) if name in line and line.endswith(">:"))
        end = next((n for n, line in enumerate(lines[begin + 1 :], begin + 1) if line.endswith(">:")), len(lines))
        body = lines[begin:end]
        places = [number for number, line in enumerate(body) if product in line]
        loop = [line for line in body[places[0] : places[-1] + 1] if line.strip()]
        others = [line for line in loop if product not in line and not re.search(r"\b(add|inc|cmp|sub)", line)]
        assert len(places) == 12 and not others
        assert len({line.split(",")[-1] for line in loop if product in line}) == 12, "chains do not wait for each other"
        assert all("%ymm" in line and "%zmm" not in line for line in loop if product in line)
        assert all(line.partition(":")[2].split()[0] in ("c4", "c5") for line in loop if product in line)


@pytest.fixture(scope="module")
def as_evex(folder_of_the_call):
    variant("avx512-vnni")
    library = emulated_library(folder_of_the_call)
    backend = Backend("avx-vnni", library)
    assert library.qdit_variants() >> backend.variant & 1
    return backend


@pytest.mark.parametrize("weight_bits", [2, 4, 6, 8])
@pytest.mark.parametrize(("width", "size"), [(48, 4), (108, 36), (576, 32), (1152, 128), (576, 288)])
def test_its_bits_are_those_of_the_other_variants(as_evex, weight_bits, width, size):
    for rows, outputs, kind, symmetric in ((1, 7, "random", False), (5, 49, "outliers", True), (11, 96, "rows", False)):
        packed = pack_weight(*weight_of(weight_bits, outputs, width, size, rows), bits=weight_bits)
        x, bias = inputs(kind, (rows, width), size), torch.randn(outputs)
        branch = make_branch(torch.randn(outputs, 5), torch.randn(5, width))
        for parts in (Parts(), Parts((hadamard_step(4),), branch)):
            options = {"activation_bits": 8, "symmetric": symmetric, "threads": 1, "parts": parts}
            y = compiled.grouped_linear(as_evex, x, packed, bias, **options)
            expected = compiled.grouped_linear(variant("avx2"), x, packed, bias, **options)
            assert y is not None and expected is not None and same_bits(y, expected)


def test_the_loop_of_the_peak_says_how_many_operations_it_did(tmp_path):
    path = tmp_path / "peak.so"
    flags = [*building.FLAGS, *building.EXACT, "-DQDIT_VNNI_AS_EVEX", "-o", path]
    subprocess.run([x86_compiler(), *flags, building.SOURCES / "peak.cpp"], check=True, timeout=300)
    peak = ctypes.CDLL(str(path)).qdit_peak
    peak.restype, peak.argtypes = ctypes.c_double, [ctypes.c_int, ctypes.c_int, ctypes.c_int64]
    variant("avx512-vnni")
    assert [peak(256, kind, 10) for kind in (0, 1)] == [2 * 32 * 12 * 10, 2 * 8 * 12 * 10]
    assert [peak(512, kind, 10) for kind in (0, 1)] == [2 * 64 * 24 * 10, 2 * 16 * 24 * 10]
    assert peak(128, 0, 10) == 0


def test_extreme_codes_do_not_saturate(as_evex):
    codes, scale, zero_point = weight_of(8, 48, 128, 128, 0, "constant")
    packed = pack_weight(codes, torch.ones_like(scale), zero_point + 255, bits=8)
    x = torch.full((4, 128), -1.0)
    x[:, 0] = 0
    options = {"activation_bits": 8, "symmetric": False, "threads": 1}
    y = compiled.grouped_linear(as_evex, x, packed, None, **options)
    expected = compiled.grouped_linear(variant("scalar"), x, packed, None, **options)
    assert y is not None and expected is not None and same_bits(y, expected)
