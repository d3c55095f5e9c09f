"""The denoising step as a graph: replayed with its bits, and computed as usual where this is not possible."""

import pytest
import torch
from torch import Tensor

from qdit.core.errors import Unsupported
from qdit.kernels import flags
from qdit.sampling import graphs
from qdit.sampling.graphs import GraphedStep, Step
from tests.pretended_gpu import pretended_gpu, recorded


def steps_of(step: Step, monkeypatch: pytest.MonkeyPatch) -> tuple[GraphedStep, list[str]]:
    """A graphed step, and a list that gets an entry for each time Python calls the step."""
    calls: list[str] = []

    def counted(x: Tensor, timestep: Tensor) -> Tensor:
        calls.append("step")
        return step(x, timestep)

    monkeypatch.setattr(graphs, "recorded", recorded)
    return GraphedStep(counted), calls


def inputs(device: torch.device, number: int, rows: int = 3) -> tuple[Tensor, Tensor]:
    """x and timestep of a step."""
    draw = torch.Generator().manual_seed(number)
    return torch.randn(rows, 4, generator=draw).to(device), torch.full((rows,), 100 * number).to(device)


def test_steps_after_the_first_are_replayed_with_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(9))

    with pretended_gpu() as gpu:
        there = weight.to(gpu)

        def step(x: Tensor, timestep: Tensor) -> Tensor:
            y = (x @ there).add_(timestep[:, None].cos())
            return torch.cat([y, y.softmax(dim=1)], dim=1)

        graphed, calls = steps_of(step, monkeypatch)
        results = [graphed(*inputs(gpu, number)).cpu() for number in range(4)]
        expected = [step(*inputs(gpu, number)).cpu() for number in range(4)]
        assert all(torch.equal(*pair) for pair in zip(results, expected, strict=True))
        assert len(calls) == 2 and not caplog.records, "computed once, recorded once"
        assert torch.equal(graphed(*inputs(gpu, 7, rows=2)).cpu(), step(*inputs(gpu, 7, rows=2)).cpu())
        assert len(calls) == 3


def test_a_step_that_waits_for_the_gpu_or_depends_on_python_is_computed_as_usual(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = iter(range(1, 100))
    with pretended_gpu() as gpu:
        for step, words in (
            (lambda x, timestep: x * float(x.amax()), "cannot be recorded (operation not permitted"),
            (lambda x, timestep: x * next(numbers), "has other bits than the step itself"),
        ):
            caplog.clear()
            graphed, calls = steps_of(step, monkeypatch)
            for number in range(3):
                graphed(*inputs(gpu, number))
            assert len(calls) == 4 and [words in record.message for record in caplog.records] == [True]


def test_a_result_that_is_not_finite_is_an_error_after_a_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    flag = torch.zeros(1, dtype=torch.int32)
    monkeypatch.setattr(flags, "_THREAD", flags._OfThread())
    flags._THREAD.flags[torch.device("cpu")] = flag
    with pretended_gpu() as gpu:
        graphed, _ = steps_of(lambda x, timestep: x * 2, monkeypatch)
        graphed(*inputs(gpu, 0))
        graphed(*inputs(gpu, 1))
        flag.fill_(1)  # as a kernel of the graph would
        with pytest.raises(Unsupported, match="not finite"):
            graphed(*inputs(gpu, 2))
