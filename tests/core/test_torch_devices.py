"""What is asked of torch on a GPU, which needs none to be asked."""

from pathlib import Path

import pytest
import torch

from qdit.core.devices import device_after, tensor_float_32, torch_device
from tests.preloaded import python

ASKED = """
import torch
from qdit.core.devices import torch_device
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
print(torch_device({device!r}))
print(torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory)
print(torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
"""


@pytest.mark.parametrize(
    ("device", "deterministic", "fills", "tf32"), [("cuda:0", True, False, False), ("cpu", False, True, True)]
)
def test_a_gpu_is_asked_for_the_same_arithmetic_in_every_run_without_fills(
    device: str, deterministic: bool, fills: bool, tf32: bool
) -> None:
    done = python(["-c", ASKED.format(device=device)])
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [device, str(deterministic), str(fills), str(tf32), str(tf32)]


def test_deterministic_algorithms_are_asked_for_in_one_place() -> None:
    root = Path(__file__).parents[2]
    sources = [*(root / "qdit").rglob("*.py"), *(root / "baselines").rglob("*.py")]
    asking = [path.name for path in sources if "use_deterministic_algorithms(" in path.read_text(encoding="utf-8")]
    assert asking == ["devices.py"]


def test_tensor_float_32_ends_with_its_context() -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    with tensor_float_32(enabled=True):
        assert torch.backends.cuda.matmul.allow_tf32
        with tensor_float_32(enabled=False):
            assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32 == before


def test_the_device_of_a_move_is_found_without_a_move() -> None:
    assert device_after(lambda tensor: tensor.half(), torch.ones(2)) == torch.device("cpu")
    assert device_after(lambda tensor: tensor.to("meta"), torch.ones(2)) == torch_device("meta")
