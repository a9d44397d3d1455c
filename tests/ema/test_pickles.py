"""Published pickles: their tensors are read by name, and nothing in a file is run."""

import io
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from published_pickles import Call, EasyDict, Persistent, zipped

from edm2.ema import pickles
from edm2.ema.pickles import read_encoder, read_published
from edm2.params import UserError

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
    published = read({"ema": net}, protocol)
    arguments = published.arguments
    assert published.other_arguments == tuple(not_plain)
    assert arguments == {**plain, "easy": {"a": {"b": 1}}}
    assert type(arguments["easy"]["a"]) is dict
    assert type(arguments["pair"]) is tuple


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_numbers_of_an_encoder_are_read(read, protocol, tmp_path):
    encoder = Persistent(vae_name="owner/vae", raw_mean=[5.81, 3.25], final_std=0.5)
    encoder.scale = np.array([0.12, 0.11], np.float32)
    encoder.batch_size = np.int64(8)
    encoder.callback = torch.nn.SiLU()
    record = read({"ema": network(), "encoder": encoder}, protocol).encoder
    values = read_encoder(record, tmp_path).values
    plain = {"vae_name": "owner/vae", "raw_mean": [5.81, 3.25], "final_std": 0.5, "batch_size": 8}
    assert {name: values[name] for name in plain} == plain
    assert values["scale"].dtype == np.float32
    assert values["scale"].tolist() == encoder.scale.tolist()
    assert "callback" not in values


@pytest.mark.parametrize("encoder", [[1], "StandardRGBEncoder", np.ones(2), Call(dict)])
def test_an_encoder_of_no_class_is_refused(read, encoder, tmp_path):
    record = read({"ema": network(), "encoder": encoder}).encoder
    with pytest.raises(UserError, match=f"{tmp_path}: the entry encoder"):
        read_encoder(record, tmp_path)


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
    with pytest.raises(UserError, match="occurs twice"):
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
