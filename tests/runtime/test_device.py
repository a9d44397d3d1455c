"""The device and the precision of networks."""

import pytest
import torch

from edm2.params import Params, UserError
from edm2.params.runtime import Runtime
from edm2.runtime.device import (
    activation_dtype,
    fastest_convolutions,
    full_float32,
    pick_device,
)


@pytest.fixture
def runtime(params: Params) -> Runtime:
    return params.runtime.model_copy(update={"device": "auto", "threads": None})


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch):
    """gpus(count): simulate that many GPUs; returns the list of those chosen with set_device."""

    def simulate(count: int, local_rank: int = 0) -> list[int]:
        chosen: list[int] = []
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        monkeypatch.setenv("LOCAL_RANK", str(local_rank))
        return chosen

    return simulate


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_auto_is_the_cpu_without_a_gpu(runtime: Runtime, gpus, name: str) -> None:
    gpus(0)
    assert pick_device(runtime.model_copy(update={"device": name})) == torch.device("cpu")


def test_cpu_is_used_if_params_say_so_despite_gpus(runtime: Runtime, gpus) -> None:
    gpus(4)
    assert pick_device(runtime.model_copy(update={"device": "cpu"})).type == "cpu"


@pytest.mark.parametrize(("name", "expected"), [("auto", 1), ("cuda", 1), ("cuda:3", 3)])
def test_each_rank_uses_its_own_gpu(runtime: Runtime, gpus, name: str, expected: int) -> None:
    chosen = gpus(4, local_rank=1)
    device = pick_device(runtime.model_copy(update={"device": name}))
    assert device == torch.device("cuda", expected)
    assert chosen == [expected]


@pytest.mark.parametrize(
    ("name", "count", "local"), [("cuda", 0, 0), ("cuda:2", 2, 0), ("auto", 1, 1)]
)
def test_a_missing_gpu_is_refused(runtime: Runtime, gpus, name, count, local) -> None:
    gpus(count, local)
    with pytest.raises(UserError, match=r"runtime\.device") as refusal:
        pick_device(runtime.model_copy(update={"device": name}))
    assert repr(name) in str(refusal.value)
    assert (f"below {count}" if count else "sees none") in str(refusal.value)


def test_threads_are_set_only_if_params_say_so(
    runtime: Runtime, gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(0)
    calls: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    pick_device(runtime)
    pick_device(runtime.model_copy(update={"threads": 3}))
    assert calls == [3]


SWITCHES = (torch.backends.cudnn, torch.backends.cuda.matmul)


@pytest.fixture
def tf32():
    """TensorFloat-32 everywhere; as it was afterwards."""
    before = [switch.allow_tf32 for switch in SWITCHES]
    for switch in SWITCHES:
        switch.allow_tf32 = True
    yield
    for switch, value in zip(SWITCHES, before, strict=True):
        switch.allow_tf32 = value


def test_float32_is_not_tensorfloat32(runtime: Runtime, tf32) -> None:
    pick_device(runtime.model_copy(update={"device": "cpu"}))
    assert [switch.allow_tf32 for switch in SWITCHES] == [False, False]
    assert torch.get_float32_matmul_precision() == "highest"


def test_programs_get_back_their_tensorfloat32(tf32) -> None:
    with full_float32():
        assert [switch.allow_tf32 for switch in SWITCHES] == [False, False]
    assert [switch.allow_tf32 for switch in SWITCHES] == [True, True]


def test_cudnn_tries_algorithms_within_the_context_only() -> None:
    before = torch.backends.cudnn.benchmark
    with fastest_convolutions():
        assert torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.benchmark == before


def test_each_precision_has_a_dtype(runtime: Runtime) -> None:
    names = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    for name, dtype in names.items():
        assert activation_dtype(runtime.model_copy(update={"precision": name})) == dtype
