"""Our reader and writer of safetensors files against the safetensors package."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from edm2.ema.tensorfile import MAX_HEADER_BYTES, TensorReader, TensorWriter, load_tensors
from edm2.params import UserError

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def tensors():
    """Every dtype; odd sizes, a scalar, empty ones."""
    values = torch.tensor([[0, 1, 3], [1, 0, 100]])
    by_dtype = {f"a.{dtype}": values.to(dtype) for dtype in DTYPES}
    return by_dtype | {
        "scalar": torch.tensor(0.3, dtype=torch.bfloat16),
        "byte": torch.tensor([7], dtype=torch.uint8),
        "empty": torch.zeros(0),
        "empty.too": torch.zeros(3, 0, 2, dtype=torch.float16),
        "naïve σ": torch.tensor([float("nan"), float("inf"), -0.0]),
    }


def identical(a, b):
    """In dtype, shape and every bit."""
    return (a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(
        a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8)
    )


@pytest.mark.parametrize("metadata", [None, {"snapshot": "{}", "σ": "0.1"}])
def test_the_reader_reads_what_safetensors_writes(tmp_path, metadata):
    path, written = tmp_path / "x.safetensors", tensors()
    save_file(written, path, metadata)
    reader = TensorReader(path)
    assert reader.metadata == (metadata or {})
    assert set(reader.entries) == set(written)
    for name, tensor in written.items():
        entry = reader.entries[name]
        assert (entry.dtype, entry.shape, entry.count) == (
            tensor.dtype,
            tuple(tensor.shape),
            tensor.numel(),
        )
        assert identical(reader.tensor(name), tensor)
    reader.close()
    loaded = load_tensors(path)
    assert loaded.keys() == written.keys()
    assert all(identical(loaded[name], tensor) for name, tensor in written.items())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_range_of_values_is_read_from_within_a_tensor(tmp_path, dtype):
    values = (torch.arange(35) % 2 if dtype == torch.bool else torch.arange(35)).to(dtype)
    save_file({"before": torch.ones(3), "x": values.reshape(5, 7)}, tmp_path / "x.safetensors")
    reader = TensorReader(tmp_path / "x.safetensors")
    for begin, count in ((0, 35), (0, 1), (3, 10), (34, 1), (35, 0)):
        out = torch.empty(count, dtype=dtype)
        reader.read("x", begin, out.view(torch.uint8).numpy().data)
        assert torch.equal(out, values[begin : begin + count])
    reader.close()


def write(path, values, chunks=1):
    """In reverse order, as an example of any order."""
    writer = TensorWriter(path, {name: (t.dtype, tuple(t.shape)) for name, t in values.items()})
    for name, tensor in reversed(values.items()):
        size = max(1, -(-tensor.numel() // chunks))
        for begin in reversed(range(0, tensor.numel(), size)):
            writer.write(name, begin, tensor.flatten()[begin : begin + size])
    writer.close()


@pytest.mark.parametrize("chunks", [1, 2, 5])
def test_safetensors_reads_what_the_writer_writes(tmp_path, chunks):
    path, values = tmp_path / "x.safetensors", tensors()
    write(path, values, chunks)
    loaded = load_file(path)
    assert set(loaded) == set(values)
    assert all(identical(loaded[name], tensor) for name, tensor in values.items())


def test_the_values_of_a_written_file_are_aligned(tmp_path):
    """Each tensor begins at a multiple of its value's size, as memory maps of the file require."""
    path = tmp_path / "x.safetensors"
    write(path, tensors())
    length = int.from_bytes(path.read_bytes()[:8], "little")
    assert length % 8 == 0
    reader = TensorReader(path)
    assert reader.start == 8 + length
    assert all(entry.begin % entry.dtype.itemsize == 0 for entry in reader.entries.values())
    reader.close()


def test_an_empty_tensor_can_be_written_like_any_other(tmp_path):
    path = tmp_path / "x.safetensors"
    writer = TensorWriter(path, {"x": (torch.float32, (0, 3))})
    writer.write("x", 0, torch.zeros(0, 3))
    writer.close()
    assert load_file(path)["x"].shape == (0, 3)


def test_values_are_cast_to_the_dtype_of_the_file(tmp_path):
    path, values = tmp_path / "x.safetensors", torch.randn(4, 5, dtype=torch.float64)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        writer = TensorWriter(path, {"x": (dtype, (5, 4))})
        writer.write("x", 0, values.T)  # not contiguous
        writer.close()
        assert torch.equal(load_file(path)["x"], values.T.to(dtype))


def header(tree):
    text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    return len(text).to_bytes(8, "little") + text


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DAMAGED = {
    "nothing": b"",
    "half a length": b"\x08\x00\x00",
    "garbage": b"no tensors at all, just some text",
    "no JSON": header(b"{not json}") + bytes(8),
    "no UTF-8": header(b'{"\xff": 1}'),
    "no mapping": header([1, 2]),
    "no entry": header({"x": 5}) + bytes(8),
    "unknown dtype": header({"x": {**ENTRY, "dtype": "F7"}}) + bytes(8),
    "no shape": header({"x": {"dtype": "F32", "data_offsets": [0, 8]}}) + bytes(8),
    "header truncated": header({"x": ENTRY})[:20],
    "header too long": (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}",
    "header longer than the file": (2**63).to_bytes(8, "little") + b"{}",
    "values truncated": header({"x": ENTRY}) + bytes(7),
    "bytes after the values": header({"x": ENTRY}) + bytes(9),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused_by_name(tmp_path, name):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(DAMAGED[name])
    with pytest.raises(UserError, match=r"damaged\.safetensors"):
        TensorReader(path)


@pytest.mark.parametrize("missing", [1, 8, 30, 100])
def test_a_truncated_file_is_refused_by_name(tmp_path, missing):
    path = tmp_path / "short.safetensors"
    save_file(tensors(), path)
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(UserError, match=r"short\.safetensors: .*truncated"):
        TensorReader(path)


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "shrinks.safetensors"
    save_file({"x": torch.ones(100)}, path)
    reader = TensorReader(path)
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size - 4)
    with pytest.raises(UserError, match=r"shrinks\.safetensors.* tensor x"):
        reader.tensor("x")
    reader.close()
