"""State trees round-trip; corrupted files are refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from edm2.params import UserError
from edm2.runtime.checkpoint import load_tree, save_tree

TREE = {
    "nimg": 12,
    "flag": True,
    "none": None,
    "text": "σ_rel",
    "rate": 0.1,
    "optimizer": {
        "state": {0: {"step": torch.tensor(3.0)}, 17: {"step": torch.tensor(4)}},
        "groups": [{"lr": 1e-4, "betas": (0.9, 0.95), "params": [0, 1]}],
    },
    "tensors": (
        torch.arange(6, dtype=torch.int64).reshape(2, 3),
        torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
        torch.tensor([[True], [False]]),
        torch.empty(0, 4),
        torch.arange(6.0).reshape(2, 3).T,
    ),
    "empty": {"dict": {}, "list": [], "tuple": ()},
}


def assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)  # keys, their types and their order
        assert [type(key) for key in a] == [type(key) for key in b]
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def test_a_tree_round_trips(tmp_path: Path) -> None:
    save_tree(tmp_path / "a", TREE)
    assert_same(load_tree(tmp_path / "a"), TREE)


@pytest.mark.parametrize("tree", [{}, [], None, 1.5, torch.tensor(2.0)], ids=repr)
def test_small_trees_round_trip(tmp_path: Path, tree: Any) -> None:
    save_tree(tmp_path / "a", tree)
    assert_same(load_tree(tmp_path / "a"), tree)


def test_tensors_that_share_memory_round_trip(tmp_path: Path) -> None:
    whole = torch.arange(4.0)
    save_tree(tmp_path / "a", {"whole": whole, "part": whole[1:], "again": whole})
    assert_same(load_tree(tmp_path / "a"), {"whole": whole, "part": whole[1:], "again": whole})


@pytest.mark.parametrize(
    "tree",
    [
        {1: torch.tensor(1.0), "1": torch.tensor(2.0)},
        {"train/loss": torch.tensor(1.0), "train": {"loss": torch.tensor(2.0)}},
    ],
    ids=["int and str", "slash"],
)
def test_similar_keys_stay_distinct(tmp_path: Path, tree: Any) -> None:
    save_tree(tmp_path / "a", tree)
    assert_same(load_tree(tmp_path / "a"), tree)


def test_training_state_round_trips(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(layer.parameters(), betas=(0.9, 0.95))
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    save_tree(tmp_path / "a", optimizer.state_dict())
    other = torch.optim.AdamW(torch.nn.Linear(2, 3).parameters())
    other.load_state_dict(load_tree(tmp_path / "a"))
    assert_same(other.state_dict(), optimizer.state_dict())


def load_error(path: Path) -> str:
    with pytest.raises(UserError) as refusal:
        load_tree(path)
    return str(refusal.value)


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_the_error_for_a_truncated_file_has_its_path_and_the_fix(
    tmp_path: Path, kept: float
) -> None:
    path = tmp_path / "checkpoint"
    save_tree(path, TREE)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    message = load_error(path)
    assert message.startswith(str(path))
    assert "Remove" in message


def assert_flips_are_refused(path: Path, start: int, end: int) -> None:
    """Flip the lowest bit of each byte in [start, end), one at a time."""
    content = path.read_bytes()
    for k in range(start, end):
        path.write_bytes(content[:k] + bytes([content[k] ^ 1]) + content[k + 1 :])
        assert str(path) in load_error(path)


def header_end(path: Path) -> int:
    """Safetensors: 8 bytes of length, a JSON header of that length, then the tensors."""
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


SMALL = {"weight": torch.tensor([1.0, 2.0]), "step": torch.tensor(3)}


def test_a_flipped_bit_in_a_tensor_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    save_tree(path, SMALL)
    assert_flips_are_refused(path, header_end(path), len(path.read_bytes()))


def test_a_flipped_bit_in_the_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    save_tree(path, SMALL)
    assert_flips_are_refused(path, 0, header_end(path))


def test_the_old_file_remains_when_saving_fails(tmp_path: Path) -> None:
    save_tree(tmp_path / "a", {"x": torch.ones(2)})
    with pytest.raises(TypeError):
        save_tree(tmp_path / "a", {"x": object()})
    assert_same(load_tree(tmp_path / "a"), {"x": torch.ones(2)})
