"""State trees round-trip; corrupted files are refused."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from edm2.params import UserError
from edm2.runtime import checkpoint_parts
from edm2.runtime.checkpoint import load_tree, save_tree, stage, write_staged
from edm2.runtime.failures import explain

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


def load_error(folder: Path) -> str:
    with pytest.raises(UserError) as refusal:
        load_tree(folder)
    return str(refusal.value)


SMALL = {"weight": torch.tensor([1.0, 2.0]), "step": torch.tensor(3)}
FILES = ("index.json", "part-00000.safetensors")


@pytest.mark.parametrize("kept", [None, 0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("name", FILES)
def test_the_error_for_a_damaged_file_has_its_path_and_the_fix(
    tmp_path: Path, name: str, kept: float | None
) -> None:
    """Missing, or truncated."""
    folder = tmp_path / "checkpoint"
    save_tree(folder, TREE)
    content = (folder / name).read_bytes()
    if kept is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content[: int(kept * len(content))])
    message = load_error(folder)
    assert message.startswith(f"{folder / name}: ")
    assert f"Remove {folder} and run" in message


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_refused(tmp_path: Path, name: str) -> None:
    """The lowest bit of each byte, one at a time."""
    folder = tmp_path / "checkpoint"
    save_tree(folder, SMALL)
    content = (folder / name).read_bytes()
    for k in range(len(content)):
        (folder / name).write_bytes(content[:k] + bytes([content[k] ^ 1]) + content[k + 1 :])
        assert load_error(folder).startswith(f"{folder / name}: ")


def test_what_cannot_be_saved_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        stage({"x": object()})


def test_a_copy_does_not_follow_the_training(tmp_path: Path) -> None:
    weight = torch.ones(3)
    staged = stage({"weight": weight, "steps": [1]})
    weight.zero_()
    write_staged(tmp_path / "a", staged)
    assert_same(load_tree(tmp_path / "a"), {"weight": torch.ones(3), "steps": [1]})


def test_a_copy_can_take_the_memory_of_an_earlier_one(tmp_path: Path) -> None:
    first = stage({"a": torch.ones(3), "b": torch.ones(2)})
    second = stage({"a": torch.zeros(3), "b": torch.zeros(4), "c": torch.ones(1)}, first)
    taken = {key.fqn: t.data_ptr() for key, t in first.tensors.items()}
    assert {key.fqn: t.data_ptr() == taken.get(key.fqn) for key, t in second.tensors.items()} == {
        '["a"]': True,
        '["b"]': False,
        '["c"]': False,
    }
    write_staged(tmp_path / "a", second)
    expected = {"a": torch.zeros(3), "b": torch.zeros(4), "c": torch.ones(1)}
    assert_same(load_tree(tmp_path / "a"), expected)


def test_tensors_are_read_into_place(tmp_path: Path) -> None:
    """If shape and dtype are those of the checkpoint, whatever the memory layout."""
    saved = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2), "c": torch.ones(2), "n": 1}
    save_tree(tmp_path / "a", saved)
    live = {"a": torch.zeros(3, 2).T, "b": torch.zeros(3), "c": torch.zeros(2).half(), "n": 0}
    loaded = load_tree(tmp_path / "a", live)
    assert_same(loaded, saved)
    assert {name: loaded[name].data_ptr() == live[name].data_ptr() for name in "abc"} == {
        "a": True,
        "b": False,
        "c": False,
    }


def test_a_failed_save_leaves_no_checkpoint_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_parts, "save_file", fail)
        with pytest.raises(OSError, match="No space") as error:
            save_tree(tmp_path / "a", SMALL)
    assert "part-00000.safetensors: No space left on device. Free space" in explain(error.value)
    assert not (tmp_path / "a").exists()
    save_tree(tmp_path / "a", SMALL)
    assert_same(load_tree(tmp_path / "a"), SMALL)
