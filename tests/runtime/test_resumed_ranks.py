"""What several ranks sum rounds alike whether they were interrupted or not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fork_ranks import fork_ranks
from own_process import in_own_process

from edm2.runtime.distributed import ranks
from edm2.runtime.metrics import MetricAccumulator
from edm2.runtime.parallel import data_parallel

pytestmark = pytest.mark.slow

STEPS = 5
WIDTH = 37
LAYERS = 6


def add(accumulator: MetricAccumulator, step: int) -> None:
    """Two metrics, one of a part of the batch; their sums round."""
    value = 0.1 * step + 0.7 * ranks().rank
    accumulator.add({"whole": value, "part": (value / 3, 1 + ranks().rank)})


def means(stop: int | None) -> dict[str, float]:
    """Of all steps, with a checkpoint after the step `stop` that another accumulator reads."""
    accumulator = MetricAccumulator()
    for step in range(STEPS):
        if step == stop:
            saved = accumulator.state_dict()
            accumulator = MetricAccumulator()
            accumulator.load_state_dict(saved)
        add(accumulator, step)
    return accumulator.compute_and_reset()


def test_rows_of_the_log_are_the_same_to_the_bit(tmp_path: Path) -> None:
    def run() -> None:
        expected = means(None)
        assert [means(stop) for stop in range(1, STEPS)] == [expected] * (STEPS - 1)

    fork_ranks(2, tmp_path, run)


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_ranks_continues_the_means(tmp_path: Path, count: int) -> None:
    saved: dict[str, Any] = {"sums": [(("a", "b"), torch.rand(2, 2, 2, dtype=torch.float64))]}
    total = saved["sums"][0][1].sum(0)

    def run() -> dict[str, float]:
        accumulator = MetricAccumulator()
        accumulator.load_state_dict(saved)
        return accumulator.compute_and_reset()

    expected = dict(zip("ab", (total[:, 0] / total[:, 1]).tolist(), strict=True))
    assert fork_ranks(count, tmp_path, run) == [pytest.approx(expected, rel=1e-15)] * count


def weights(stop: int | None) -> list[torch.Tensor]:
    """After all steps of SGD; from the step `stop` on those of a new module, as after a resume."""
    network = make_network()
    forward = data_parallel(network, torch.device("cpu"))
    for step in range(STEPS):
        if step == stop:
            before, network = network.state_dict(), make_network()
            network.load_state_dict(before)
            forward = data_parallel(network, torch.device("cpu"))
        seed = torch.Generator().manual_seed(100 * step + ranks().rank)
        forward(torch.randn(8, WIDTH, generator=seed)).square().mean().backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= 0.3 * parameter.grad
                parameter.grad = None
    return [parameter.detach() for parameter in network.parameters()]


def make_network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = [(torch.nn.Linear(WIDTH, WIDTH), torch.nn.GELU()) for _ in range(LAYERS)]
    return torch.nn.Sequential(*(module for pair in layers for module in pair))


@in_own_process
def test_gradients_of_four_ranks_are_the_same_to_the_bit(tmp_path: Path) -> None:
    """DDP would have other buckets in the first step of a process."""

    def run() -> None:
        for one, other in zip(weights(None), weights(3), strict=True):
            assert torch.equal(one, other)

    fork_ranks(4, tmp_path, run)
