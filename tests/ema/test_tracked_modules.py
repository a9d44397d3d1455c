"""Averages of modules that do with their parameters and buffers whatever PyTorch allows."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from edm2.ema import PowerEMA, Snapshot, SnapshotStore, reconstruct, write_snapshot
from edm2.params import UserError

LENGTH, X = 0.1, torch.ones(2, 3)


class Buffers(nn.Module):
    """Buffers registered, assigned, replaced in forward, not persistent; an exact float counter."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("calls", torch.tensor(4096.0))
        self.register_buffer("cache", torch.zeros(2), persistent=False)
        self.seen = nn.Buffer(torch.tensor(100_000.0, dtype=torch.float64))
        self._buffers["mask"] = torch.tensor([True, False])

    def forward(self, x):
        self.calls = self.calls + 1
        self.seen = self.seen + 0.1
        self.cache = torch.ones(7)
        return self.linear(x)


class Tied(nn.Module):
    """A weight under two names, a module under two names, a buffer that is a parameter elsewhere."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.again = self.first
        self.register_buffer("view", self.first.bias)

    def forward(self, x):
        return self.second(self.first(x))


class Hooked(nn.Module):
    """Names, values and membership of its state_dict are made by hooks."""

    def __init__(self):
        super().__init__()
        self.inner, self.frozen = nn.Linear(3, 3), nn.Linear(3, 3)
        self.register_state_dict_post_hook(self._rename)
        self.register_load_state_dict_pre_hook(self._restore)

    @staticmethod
    def _rename(module, state, prefix, metadata):
        for name in ("weight", "bias"):
            state[f"{prefix}renamed.{name}"] = state.pop(f"{prefix}inner.{name}").clone()
            del state[f"{prefix}frozen.{name}"]
        state[f"{prefix}version"] = torch.tensor(2)

    @staticmethod
    def _restore(module, state, prefix, *_):
        del state[f"{prefix}version"]
        for name in ("weight", "bias"):
            state[f"{prefix}inner.{name}"] = state.pop(f"{prefix}renamed.{name}")
            state[f"{prefix}frozen.{name}"] = getattr(module.frozen, name).detach()

    def forward(self, x):
        return self.frozen(self.inner(x))


class OwnStateDict(nn.Linear):
    """Without the arguments of `nn.Module.state_dict`."""

    def __init__(self):
        super().__init__(3, 3)
        self.register_buffer("calls", torch.tensor(0.0))

    def state_dict(self):
        return super().state_dict()

    def forward(self, x):
        self.calls = self.calls + 1
        return super().forward(x)


class ExtraState(nn.Linear):
    def __init__(self):
        super().__init__(3, 3)
        self.history = torch.zeros(1)

    def get_extra_state(self):
        return self.history

    def set_extra_state(self, state):
        self.history = state

    def forward(self, x):
        self.history = torch.cat([self.history, self.history + 1])
        return super().forward(x)


class Replaced(nn.Linear):
    """Its parameter is another object after each forward."""

    def __init__(self):
        super().__init__(3, 3)

    def forward(self, x):
        self.weight = nn.Parameter(self.weight.detach().clone())
        return super().forward(x)


class Wrapped(nn.Module):
    """As DistributedDataParallel names its tensors."""

    def __init__(self):
        super().__init__()
        self.module = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.module(x)


def quantized():
    """A frozen weight of integers, which is a parameter."""
    module = nn.Linear(3, 3)
    module.scale = nn.Parameter(torch.tensor([1, 70_000]), requires_grad=False)
    return module


MODULES = {
    "buffers": Buffers,
    "tied": Tied,
    "hooked": Hooked,
    "own state_dict": OwnStateDict,
    "extra state": ExtraState,
    "replaced": Replaced,
    "wrapped": Wrapped,
    "integers": quantized,
    "compiled": lambda: torch.compile(nn.Linear(3, 3), backend="eager"),
    "lazy": lambda: nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d()),
    "spectral norm": lambda: spectral_norm(nn.Linear(3, 3)),
    "weight norm": lambda: weight_norm(nn.Linear(3, 3)),
    "bfloat16": lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).to(torch.bfloat16),
    "float16": lambda: nn.Linear(3, 3).half(),
    "lists": lambda: nn.ParameterDict({"a": nn.Parameter(torch.ones(2)), "b": torch.ones(3)}),
}


def run(module):
    dtype = next(module.parameters()).dtype
    if isinstance(module, nn.ParameterDict):
        return
    module(X.to(dtype if dtype.is_floating_point else torch.float32))


def train(module, ema, folder, steps=4):
    """Each step doubles all trained parameters; snapshots after each. Returns their values by step."""
    history = []
    for step in range(1, steps + 1):
        run(module)
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter += step
        history.append({n: t.detach().clone() for n, t in module.state_dict().items()})
        ema.update(step, 1)
        for snapshot, tensors in ema.snapshots(step).items():
            write_snapshot(folder, snapshot, tensors, list(ema.buffers), torch.float32)
    return history


@pytest.mark.parametrize("kind", MODULES)
def test_snapshots_are_current_and_load_strictly(tmp_path, kind):
    """Tensors that change with the parameters are averaged, all others are those of the last step."""
    torch.manual_seed(0)
    module = MODULES[kind]()
    ema = PowerEMA(module, [LENGTH, 0.2])
    history = train(module, ema, tmp_path)
    stored = load_file(tmp_path / Snapshot.power(4, LENGTH).file)
    assert stored.keys() == module.state_dict().keys()
    weights = [1.0]  # of the steps, from the definition of the profile
    for step in range(2, 5):
        beta = (1 - 1 / step) ** (ema.gammas[LENGTH] + 1)
        weights = [beta * w for w in weights] + [1 - beta]
    for name, tensor in stored.items():
        last = history[-1][name]
        if name in ema.buffers:
            assert tensor.dtype == last.dtype
            assert torch.equal(tensor, last)
        else:
            values = sum(w * h[name].double() for w, h in zip(weights, history, strict=True))
            torch.testing.assert_close(tensor.double(), values, rtol=1e-5, atol=1e-5)
            assert not torch.equal(tensor, last.float())
    restored = MODULES[kind]()
    run(restored)  # lazy modules take their shapes from the state, but lazily
    restored.load_state_dict(stored, strict=True)
    ((_, tensors),) = reconstruct(SnapshotStore(tmp_path), [0.12])
    restored.load_state_dict(tensors, strict=True)
    assert tensors.keys() == stored.keys()
    for name in ema.buffers:
        assert torch.equal(tensors[name], stored[name])


def test_what_is_averaged_and_what_is_copied():
    copied = {
        "buffers": {"calls", "seen", "mask"},
        "tied": set(),
        "hooked": {"version"},
        "extra state": {"_extra_state"},
        "integers": {"scale"},
    }
    for kind, names in copied.items():
        assert PowerEMA(MODULES[kind](), [LENGTH]).buffers.keys() == names


def test_tied_weights_are_averaged_once():
    """Their averages share memory, and checkpoints hold a single one."""
    ema = PowerEMA(Tied(), [LENGTH])
    average = ema.tensors(LENGTH)
    assert average["second.weight"] is average["first.weight"]
    assert average["view"] is average["first.bias"]
    assert set(ema.state_dict()["0.1"]) == {"first.weight", "view", "second.bias"}


def test_weights_that_are_tied_no_longer_go_on_from_the_same_average():
    module = Tied()
    ema = PowerEMA(module, [LENGTH])
    ema.update(1, 1)
    before = ema.tensors(LENGTH)["first.weight"].clone()
    module.second.weight = nn.Parameter(module.first.weight + 1)
    ema.update(2, 1)
    beta = ema.beta(LENGTH, 2, 1)
    average = ema.tensors(LENGTH)
    torch.testing.assert_close(average["first.weight"], before)
    torch.testing.assert_close(average["second.weight"], before + 1 - beta)
    module.second.weight = module.first.weight
    ema.update(3, 1)
    assert not torch.equal(ema.tensors(LENGTH)["second.weight"], before)
    restored = PowerEMA(Tied(), [LENGTH])
    restored.load_state_dict(ema.state_dict())
    for name, tensor in ema.tensors(LENGTH).items():
        assert torch.equal(restored.tensors(LENGTH)[name], tensor)


def add(module):
    module.extra = nn.Linear(1, 1)


def remove(module):
    del module.bias


def reshape(module):
    module.bias = nn.Parameter(torch.zeros(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add, r"extra\.bias: added"),
        (remove, "bias: removed"),
        (reshape, r"bias: shape \[1\].*\[3\]"),
    ],
)
def test_another_network_is_refused_by_tensor(change, message):
    """Until the first update it is followed."""
    module = nn.Linear(3, 3)
    ema = PowerEMA(module, [LENGTH])
    change(module)
    ema.update(1, 1)
    assert ema.tensors(LENGTH).keys() == module.state_dict().keys()
    module = nn.Linear(3, 3)
    ema = PowerEMA(module, [LENGTH])
    ema.update(1, 1)
    change(module)
    with pytest.raises(ValueError, match=f"{message}.*new tracker"):
        ema.update(2, 1)


def test_values_before_the_first_run_of_a_lazy_module_are_refused():
    ema = PowerEMA(nn.LazyLinear(3), [LENGTH])
    with pytest.raises(ValueError, match="weight: has no values"):
        ema.update(1, 1)


def test_averages_follow_the_module_to_another_device():
    """Meta tensors stand for those of a GPU."""
    module = nn.Linear(3, 3)
    ema = PowerEMA(module, [LENGTH])
    ema.update(1, 1)
    module.to("meta")
    ema.update(2, 1)
    assert {tensor.device.type for tensor in ema.tensors(LENGTH).values()} == {"meta"}


def test_a_module_without_parameters_has_no_averages():
    ema = PowerEMA(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3, affine=False)), [LENGTH])
    ema.update(1, 1)
    assert ema.tensors(LENGTH).keys() == {
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    }


def test_a_state_of_another_network_is_refused():
    ema = PowerEMA(nn.Linear(3, 3), [LENGTH])
    for other, message in (
        (PowerEMA(nn.Linear(3, 3, bias=False), [LENGTH]), "bias: not in"),
        (PowerEMA(nn.Linear(3, 3), [0.2]), r"0\.1: tensor weight: not in"),
    ):
        with pytest.raises(ValueError, match=message):
            ema.load_state_dict(other.state_dict())
    ema.load_state_dict(PowerEMA(nn.Linear(1, 3), [LENGTH]).state_dict())
    with pytest.raises(ValueError, match=r"weight: shape \[3, 3\].*\[3, 1\]"):
        ema.update(1, 1)


class Objects(nn.Linear):
    def get_extra_state(self):
        return {"scale": 2}

    def set_extra_state(self, state):
        pass


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.eye(3).to_sparse())


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Objects(3, 3), "_extra_state: a dict"),
        (Sparse, r"table: torch\.float32, torch\.sparse_coo"),
        (Complex, r"phase: torch\.complex64"),
    ],
)
def test_what_cannot_be_averaged_or_stored_is_refused_at_the_start(build, message):
    with pytest.raises(ValueError, match=message):
        PowerEMA(build(), [LENGTH])


@pytest.mark.parametrize(
    "buffer",
    [
        torch.ones(2, dtype=torch.uint16),
        torch.ones(2, dtype=torch.complex64),
        torch.eye(2).to_sparse(),
    ],
    ids=["uint16", "complex64", "sparse"],
)
def test_buffers_that_cannot_be_read_back_are_refused_when_written(tmp_path, buffer):
    module = nn.Linear(3, 3)
    module.register_buffer("state", buffer)
    ema = PowerEMA(module, [LENGTH])
    with pytest.raises(UserError, match=f"tensor state: {buffer.dtype}.*persistent"):
        train(module, ema, tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_a_buffer_without_values_is_refused_when_written(tmp_path):
    module = nn.Linear(3, 3)
    module.register_buffer("state", torch.ones(2, device="meta"))
    with pytest.raises(UserError, match=r"tensor state: on the meta device.*persistent"):
        train(module, PowerEMA(module, [LENGTH]), tmp_path, 1)


def test_an_infinite_buffer_is_not_taken_for_a_diverged_training(tmp_path):
    module = nn.Linear(3, 3)
    module.register_buffer("mask", torch.full((2,), -torch.inf))
    with pytest.raises(UserError, match=r"mask.*buffer.*persistent=False") as refusal:
        train(module, PowerEMA(module, [LENGTH]), tmp_path, 1)
    assert "diverged" not in str(refusal.value)
