"""Published pickles: their tensors are read by name, and nothing in a file is run."""

import copyreg
import io
import os
import pickle
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch
from published_pickles import EasyDict, Persistent, pickled

from edm2.ema import pickles
from edm2.ema.pickles import read_published
from edm2.params import UserError
from edm2.runtime.pickle_records import Record

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Conv(Persistent):
    def __init__(self, *shape):
        super().__init__(shape=list(shape))
        self.weight = torch.nn.Parameter(torch.randn(*shape))


class Precond(Persistent):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.enc = torch.nn.ModuleDict({"64x64_conv": Conv(2, 3, 3, 3), "64x64_block0": Conv(2, 2)})
        self.stack = torch.nn.Sequential(Conv(1), torch.nn.SiLU(), torch.nn.Identity(), Conv(0, 2))
        self.dec = torch.nn.ModuleList([Conv(4)])
        self.gain = torch.nn.Parameter(torch.tensor(0.25))
        self.strided = torch.nn.Parameter(torch.randn(3, 5).t(), requires_grad=False)
        self.register_parameter("absent", None)
        self.register_buffer("freqs", torch.randn(6))
        self.register_buffer("tail", self.freqs[2::2])
        self.register_buffer("cache", torch.randn(2), persistent=False)
        self.register_buffer("count", torch.tensor([7, 8]))
        self.register_module("label", None)
        self.half()
        self.freqs = self.freqs.float()
        self.tail = self.freqs[2::2]


def network(meta_of=dict, **kwargs):
    torch.manual_seed(0)
    Persistent.meta_of = meta_of
    return Precond(**kwargs).eval()


def contents(net, container=dict):
    """A network with the other entries of a training snapshot."""
    return container(
        ema=net,
        loss_fn=Conv(2),
        dataset_kwargs=EasyDict(path="images.zip", use_labels=True),
        encoder={
            "scale": np.float32(0.5),
            "bias": np.arange(3, dtype=np.float32),
            "device": torch.device("cpu"),
            "dtype": torch.float16,
            "shape": torch.Size([1, 2]),
            "empty": b"",
            "names": {"a"},
            "frozen": frozenset("b"),
        },
    )


@pytest.fixture
def dumps():
    return pickled


@pytest.fixture
def read(tmp_path, dumps):
    """Write a content, or the bytes of a file, and read it."""

    def write_and_read(content, protocol=pickle.DEFAULT_PROTOCOL):
        path = tmp_path / "network.pkl"
        path.write_bytes(content if isinstance(content, bytes) else dumps(content, protocol))
        published = read_published(path)
        assert not {"torch_utils", "dnnlib"} & sys.modules.keys()
        return published

    return write_and_read


def assert_tensors(published, net):
    expected = net.state_dict()
    assert list(published.tensors) == list(expected)
    for name, tensor in published.tensors.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name])
        assert not tensor.requires_grad


@pytest.mark.parametrize("container", [dict, EasyDict, OrderedDict])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors_equal_the_state_dict(read, protocol, container):
    meta_of = dict if container is OrderedDict else container
    net = network(meta_of, img_resolution=64)
    assert {t.dtype for t in net.state_dict().values()} == {
        torch.float16,
        torch.float32,
        torch.int64,
    }
    published = read(contents(net, container), protocol)
    assert_tensors(published, net)
    assert published.class_name == "Precond"
    assert published.arguments == {"img_resolution": 64}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_storages_in_the_zip_format_of_torch_save_are_read(read, monkeypatch, protocol):
    def reduced(storage):
        file = io.BytesIO()
        torch.save(storage, file)
        assert file.getvalue().startswith(b"PK")
        return torch.storage._load_from_bytes, (file.getvalue(),)

    monkeypatch.setattr(torch.storage.TypedStorage, "__reduce__", reduced)
    net = network()
    assert_tensors(read(contents(net), protocol), net)


@pytest.mark.parametrize("dtype", pickles.DTYPES.values(), ids=str)
def test_every_dtype_is_read(read, dtype):
    net = Persistent()
    net.register_buffer("values", torch.tensor([[0, 1, 3], [1, 0, 2]]).to(dtype))
    assert_tensors(read({"ema": net}), net)


def test_parameters_with_python_attributes_are_read(read):
    net = network()
    net.gain.note = "kept by _rebuild_parameter_with_state"
    assert_tensors(read({"ema": net}), net)


@pytest.mark.parametrize("net", [torch.nn.Linear(2, 3), torch.nn.ModuleDict({"a": Conv(2)})])
def test_a_plain_network_is_read(read, net):
    published = read({"ema": net})
    assert_tensors(published, net)
    assert published.class_name == type(net).__name__
    assert published.arguments == {}


def test_a_network_under_net_is_read(read):
    net = network()
    assert_tensors(read({"net": net, "ema": None}), net)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_only_plain_arguments_are_kept(read, protocol):
    plain = {
        "class_name": "training.Precond",
        "label_dim": 1000,
        "dropout": 0.1,
        "use_fp16": True,
        "none": None,
        "mult": [1, 2, [3]],
        "pair": (1, "x"),
        "nested": {"a": {1: [False]}},
    }
    not_plain = {
        "dtype": torch.float16,
        "scalar": np.float32(1),
        "listed": [torch.device("cpu")],
        "raw": b"x",
        "set": {1},
    }
    net = network(EasyDict, **plain, **not_plain, easy=EasyDict(a=EasyDict(b=1)))
    arguments = read({"ema": net}, protocol).arguments
    assert arguments == {**plain, "easy": {"a": {"b": 1}}}
    assert type(arguments["easy"]["a"]) is dict
    assert type(arguments["pair"]) is tuple


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function, *args):
        self.reduced = (function, args)

    def __reduce__(self):
        return self.reduced


def tensor_over(saved):
    """A network with one tensor, whose storage is `saved`."""
    storage = Call(torch.storage._load_from_bytes, saved)
    net = Persistent()
    net._buffers["x"] = Call(torch._utils._rebuild_tensor_v2, storage, 0, (1,), (1,), False, {})
    return {"ema": net}


def zipped(hostile):
    file = io.BytesIO()
    torch.save(hostile, file)
    return file.getvalue()


POSITIONS = {
    "all": lambda hostile: hostile,
    "ema": lambda hostile: {"ema": hostile},
    "beside": lambda hostile: {"ema": network(), "encoder": hostile},
    "argument": lambda hostile: {"ema": network(x=hostile)},
    "key": lambda hostile: {"ema": network(), hostile: 1},
    "OrderedDict": lambda hostile: {"ema": network(), "x": Call(OrderedDict, [("a", hostile)])},
    "array": lambda hostile: {"ema": network(), "x": np.array([hostile], dtype=object)},
    "storage": lambda hostile: tensor_over(pickle.dumps(hostile)),
    "zipped storage": lambda hostile: tensor_over(zipped(hostile)),
}
SYSTEM = f"{os.system.__module__}.system"
CALLS = {
    SYSTEM: lambda trace: Call(os.system, f"touch {trace}"),
    "builtins.eval": lambda trace: Call(eval, f"open({str(trace)!r}, 'w').close()"),
    "builtins.exec": lambda trace: Call(exec, f"open({str(trace)!r}, 'w').close()"),
    "builtins.getattr": lambda trace: Call(getattr, trace, "touch"),
    "subprocess.Popen": lambda trace: Call(subprocess.Popen, ["touch", str(trace)]),
    "torch.serialization.load": lambda trace: Call(torch.load, str(trace)),
}


def assert_refused(read, content, name):
    with pytest.raises(UserError, match=rf"network\.pkl: refused: .* {name}"):
        read(content)


@pytest.mark.parametrize("position", POSITIONS)
def test_a_call_is_refused_in_every_position(read, tmp_path, position):
    trace = tmp_path / "trace"
    assert_refused(read, POSITIONS[position](CALLS[SYSTEM](trace)), SYSTEM)
    assert not trace.exists()


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("name", CALLS)
def test_calls_are_refused_by_name(read, tmp_path, name, protocol):
    trace = tmp_path / "trace"
    hostile = pickle.dumps({"ema": CALLS[name](trace)}, protocol)
    assert_refused(read, hostile, name)
    assert not trace.exists()


@pytest.mark.parametrize("name", [SYSTEM, "builtins.eval", "builtins.exec", "subprocess.Popen"])
def test_these_calls_leave_a_trace_when_pickle_runs_them(tmp_path, name):
    """Otherwise the tests above could not fail."""
    trace = tmp_path / "trace"
    outcome = pickle.loads(pickle.dumps(CALLS[name](trace)))
    if isinstance(outcome, subprocess.Popen):
        outcome.wait()
    assert trace.exists()


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def stack_global(module, name):
    return text(module) + text(name) + b"\x93"


def entry(opcodes):
    """A pickle of a dict with one entry, made by these opcodes."""
    return b"\x80\x04}" + text("encoder") + opcodes + b"s."


POPEN = stack_global("subprocess", "Popen")
SEQUENTIAL = stack_global("torch.nn.modules.container", "Sequential")
ORDERED = stack_global("collections", "OrderedDict")
RECONSTRUCTOR = stack_global("copyreg", "_reconstructor")


@pytest.mark.parametrize(
    ("name", "opcodes"),
    [
        ("torch.nn.Module.__init__", stack_global("torch.nn", "Module.__init__")),
        ("collections.OrderedDict.fromkeys", stack_global("collections", "OrderedDict.fromkeys")),
        ("torch.serialization.os.system", stack_global("torch.serialization", "os.system")),
        ("builtins.object.__subclasses__", stack_global("builtins", "object.__subclasses__")),
        ("copyreg.__newobj__", stack_global("copyreg", "__newobj__")),
        ("copyreg.add_extension", stack_global("copyreg", "add_extension")),
        ("functools.partial", stack_global("functools", "partial")),
        ("torch.load", stack_global("torch", "load")),
        ("torch.nn.modules.container.os", stack_global("torch.nn.modules.container", "os")),
        (
            "subprocess.Popen",
            RECONSTRUCTOR + POPEN + stack_global("builtins", "object") + b"N\x87R",
        ),
        ("subprocess.Popen", POPEN + text("true") + b"\x85\x81"),  # NEWOBJ
        ("subprocess.Popen", POPEN + text("true") + b"\x85}\x92"),  # NEWOBJ_EX
        ("subprocess.Popen", b"(" + POPEN + text("true") + b"o"),  # OBJ
        ("subprocess.Popen", b"(" + text("true") + b"isubprocess\nPopen\n"),  # INST
        ("builtins.eval", b"c__builtin__\neval\n" + text("1") + b"\x85R"),
    ],
)
def test_globals_are_refused_by_name_in_every_opcode(read, name, opcodes):
    assert_refused(read, entry(opcodes), name)


@pytest.mark.parametrize("cached", [False, True])
def test_extension_numbers_are_refused_by_name(read, tmp_path, cached):
    code, trace = 0xF0, tmp_path / "trace"
    number = b"\x82" + bytes([code])
    copyreg.add_extension("os", "system", code)
    try:
        if cached:
            assert pickle.loads(b"\x80\x02" + number + b".") is os.system
        assert_refused(read, entry(number + text(f"touch {trace}") + b"\x85R"), "os.system")
    finally:
        copyreg.remove_extension("os", "system", code)
    assert not trace.exists()


def attributes_of_classes():
    """Everything that a file could try to change in the record classes."""
    classes = {**pickles.CLASSES, "Record": Record}
    return {name: dict(vars(record_class)) for name, record_class in classes.items()}


STATES = {
    "dict": b"}("
    + b"".join(
        text(name) + SEQUENTIAL
        for name in ("__class__", "__reduce__", "__setstate__", "global_name", "args")
    )
    + b"u",
    "slots": b"N}"
    + text("__class__")
    + SEQUENTIAL
    + b"s"
    + text("global_name")
    + text("x")
    + b"s\x86",
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_state_changes_no_record_class(read, state):
    before = attributes_of_classes()
    with pytest.raises(UserError, match=r"holds no network: .*\['encoder'\]"):
        read(entry(ORDERED + b")R" + state + b"b"))  # an instance keeps it as data
    for record_class in (ORDERED, RECONSTRUCTOR, stack_global("torch.storage", "_load_from_bytes")):
        with pytest.raises(UserError, match="cannot be read"):
            read(entry(record_class + state + b"b"))
    assert attributes_of_classes() == before


@pytest.mark.parametrize(
    "opcodes",
    [
        b"}}" + text("a") + b"K\x01sb",  # BUILD on a dict
        ORDERED + b")RK\x01a",  # APPEND to a record
        SEQUENTIAL + b"K\x01K\x01s",  # SETITEM on a class
        ORDERED + b")R)R",  # REDUCE of a record
        RECONSTRUCTOR + RECONSTRUCTOR + b"NN\x87R",
        RECONSTRUCTOR + text("os") + b"NN\x87R",
        text("id") + b"Q",  # a persistent id
        b"\x97",  # an out-of-band buffer
        b"\x82\xf1",  # an unknown extension number
    ],
)
def test_invalid_opcodes_are_an_error(read, opcodes):
    with pytest.raises(UserError, match="cannot be read"):
        read(entry(opcodes))


def test_source_in_the_file_is_not_run(read, monkeypatch, tmp_path):
    trace = tmp_path / "trace"
    monkeypatch.setattr(Persistent, "source", f"open({str(trace)!r}, 'w').close()")
    net = network()
    assert_tensors(read(contents(net)), net)
    assert not trace.exists()


def test_objects_beside_the_network_are_ignored(read):
    net = network()
    broken = Call(torch.storage._load_from_bytes, b"no storage")
    numbers = np.array([None, {"a": 1}], dtype=object)
    assert_tensors(read({"ema": net, "encoder": [broken, numbers]}), net)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (4,), (1,)),
        (1, (3,), (1,)),
        (0, (2, 2), (2, 1)),
        (2, (2,), (-1,)),
        (-1, (1,), (1,)),
        (0, (-1,), (1,)),
        (0, (2,), (1, 1)),
        (0, ("3",), (1,)),
        (0, (2,), (2**62,)),
    ],
)
def test_tensors_that_exceed_their_storage_are_refused(read, offset, size, stride):
    net = Persistent()
    storage = torch.arange(3.0)._typed_storage()
    net._buffers["x"] = Call(
        torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict()
    )
    with pytest.raises(UserError, match="cannot be read"):
        read({"ema": net})


@pytest.mark.parametrize("tensor", [1.0, [torch.ones(1)], OrderedDict(), Conv(1)])
def test_other_objects_in_place_of_a_tensor_are_refused(read, tensor):
    net = Persistent()
    net._buffers["x"] = tensor
    with pytest.raises(UserError, match="expected a tensor"):
        read({"ema": net})


def test_a_network_that_contains_itself_is_refused(read):
    net = torch.nn.Sequential()
    net._modules["self"] = net
    with pytest.raises(UserError, match="RecursionError"):
        read({"ema": net})


def test_a_file_truncated_anywhere_is_refused(read, dumps):
    whole = dumps({"ema": network()})
    for end in range(0, len(whole), len(whole) // 50):
        with pytest.raises(UserError, match=r"network\.pkl: cannot be read"):
            read(whole[:end])


@pytest.mark.parametrize(
    "other", [b"<html>not found</html>", b"version https://git-lfs\n", zipped(1)]
)
def test_other_files_are_refused(read, other):
    with pytest.raises(UserError, match=r"network.pkl: (cannot be read|refused)"):
        read(other)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.pkl: .*FileNotFoundError"):
        read_published(tmp_path / "none.pkl")


@pytest.mark.parametrize("content", [{"loss_fn": 1}, {"ema": None, "loss_fn": 1}])
def test_a_file_without_a_network_is_refused_with_its_entries(read, content):
    with pytest.raises(UserError, match=r"holds no network: .*loss_fn"):
        read(content)


@pytest.mark.parametrize(
    "content", [[1], {"ema": {"weight": torch.ones(1)}}, {"ema": torch.ones(1)}]
)
def test_content_of_another_type_is_refused(read, content):
    with pytest.raises(UserError, match=r"expected a (dict|module)"):
        read(content)
