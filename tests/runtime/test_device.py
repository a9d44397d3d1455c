"""Where networks compute."""

import pytest
import torch

from edm2.params import Params, UserError
from edm2.params.runtime import Runtime
from edm2.runtime.device import activation_dtype, pick_device


@pytest.fixture
def runtime(params: Params) -> Runtime:
    return params.runtime.model_copy(update={"device": "auto", "threads": None})


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch):
    """Pretend that there are so many GPUs; gives the list of those that were chosen."""

    def pretend(count: int, local_rank: int = 0) -> list[int]:
        chosen: list[int] = []
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        monkeypatch.setenv("LOCAL_RANK", str(local_rank))
        return chosen

    return pretend


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_without_a_gpu_auto_is_the_cpu(runtime: Runtime, gpus, name: str) -> None:
    gpus(0)
    assert pick_device(runtime.model_copy(update={"device": name})) == torch.device("cpu")


def test_cpu_is_taken_when_asked_for_beside_gpus(runtime: Runtime, gpus) -> None:
    gpus(4)
    assert pick_device(runtime.model_copy(update={"device": "cpu"})).type == "cpu"


@pytest.mark.parametrize(("name", "expected"), [("auto", 1), ("cuda", 1), ("cuda:3", 3)])
def test_each_rank_has_its_gpu(runtime: Runtime, gpus, name: str, expected: int) -> None:
    chosen = gpus(4, local_rank=1)
    device = pick_device(runtime.model_copy(update={"device": name}))
    assert device == torch.device("cuda", expected)
    assert chosen == [expected]


@pytest.mark.parametrize(
    ("name", "count", "local"), [("cuda", 0, 0), ("cuda:2", 2, 0), ("auto", 1, 1)]
)
def test_gpu_that_is_not_there_is_refused(runtime: Runtime, gpus, name, count, local) -> None:
    gpus(count, local)
    with pytest.raises(UserError, match=r"runtime\.device") as refusal:
        pick_device(runtime.model_copy(update={"device": name}))
    assert repr(name) in str(refusal.value)
    assert "auto or cpu" in str(refusal.value)


def test_threads_are_set_when_asked_for(
    runtime: Runtime, gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(0)
    calls: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    pick_device(runtime)
    pick_device(runtime.model_copy(update={"threads": 3}))
    assert calls == [3]


def test_precision_names_a_dtype(runtime: Runtime) -> None:
    names = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    for name, dtype in names.items():
        assert activation_dtype(runtime.model_copy(update={"precision": name})) == dtype
