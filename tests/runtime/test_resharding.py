"""What two ranks save is read by one, two or three, to the bit; parts are missing, or never written."""

import errno
import importlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from fork_ranks import fork_ranks
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, init_device_mesh

from edm2.params import UserError
from edm2.runtime import checkpoint_parts
from edm2.runtime.checkpoint import load_tree, save_tree
from edm2.runtime.checkpointing import checkpointing
from edm2.runtime.distributed import ranks
from edm2.runtime.failures import explain
from edm2.runtime.finite import nonfinite_tensors
from edm2.runtime.state import State

pytestmark = pytest.mark.slow

WEIGHTS = {
    f"layer{k}": torch.randn(5 + k, 3, generator=torch.Generator().manual_seed(k)) for k in range(6)
}
MOMENTS = torch.randn(7, 4, generator=torch.Generator().manual_seed(9)).double()


def plain() -> dict[str, Any]:
    """A state that all ranks have, as in data-parallel training."""
    return {"weights": WEIGHTS, "step": torch.tensor(3.0), "lr": 0.1 + 0.2, "times": [4, 8]}


PLACEMENTS = {"rows": Shard(0), "columns": Shard(1), "whole": Replicate()}


def local(placement: Placement, moments: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor that is divided by rows or columns, or whole on each rank."""
    if not isinstance(placement, Shard):
        return moments
    chunks = moments.chunk(ranks().world_size, placement.dim)
    empty = moments.narrow(placement.dim, 0, 0)  # of the third rank, if two have all columns
    return [*chunks, empty][ranks().rank].contiguous()


def sharded(moments: torch.Tensor = MOMENTS) -> dict[str, Any]:
    """A state of which some tensors are divided over the ranks."""
    mesh, shape, stride = init_device_mesh("cpu", (ranks().world_size,)), (7, 4), (4, 1)
    return plain() | {
        name: DTensor.from_local(local(p, moments), mesh, [p], shape=shape, stride=stride)
        for name, p in PLACEMENTS.items()
    }


def values(tree: Any) -> Any:
    """The tree with tensors as lists; of those that are divided, this rank's part."""
    if isinstance(tree, DTensor):
        return tree.to_local().tolist()
    if isinstance(tree, torch.Tensor):
        return tree.tolist()
    return {key: values(node) for key, node in tree.items()} if isinstance(tree, dict) else tree


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of two ranks."""
    folder = tmp_path_factory.mktemp("saved")
    importlib.import_module("torch._dynamo")  # for DTensor, once and not on each rank

    def save() -> None:
        assert not nonfinite_tensors(sharded())
        save_tree(folder / "plain", plain())
        save_tree(folder / "sharded", sharded())

    fork_ranks(2, folder, save)
    return folder


EXPECTED = values(plain())


def test_one_rank_reads_all(saved: Path) -> None:
    assert values(load_tree(saved / "plain")) == EXPECTED
    whole = dict.fromkeys(PLACEMENTS, MOMENTS.tolist())
    assert values(load_tree(saved / "sharded")) == EXPECTED | whole


@pytest.mark.parametrize("count", [2, 3])
def test_other_ranks_read_their_shards_into_place(saved: Path, tmp_path: Path, count: int) -> None:
    def load() -> Any:
        into = sharded(torch.zeros_like(MOMENTS))
        parts = {name: local(placement, MOMENTS) for name, placement in PLACEMENTS.items()}
        loaded = load_tree(saved / "sharded", into)
        assert values(loaded) == EXPECTED | values(parts)
        assert values(into) == values(loaded)
        return values(load_tree(saved / "plain"))

    assert fork_ranks(count, tmp_path, load) == [EXPECTED] * count


def test_each_rank_writes_about_half_of_what_both_have(saved: Path) -> None:
    parts = [load_file(path) for path in sorted((saved / "plain").glob("part-*"))]
    sizes = [sum(tensor.nbytes for tensor in part.values()) for part in parts]
    assert sum(sizes) == sum(tensor.nbytes for tensor in WEIGHTS.values()) + 4
    assert len(sizes) == 2
    assert max(sizes) < 0.6 * sum(sizes)


def test_parts_on_disks_that_are_not_shared_are_refused(tmp_path: Path) -> None:
    def save() -> str:
        with pytest.raises(UserError) as error:
            save_tree(tmp_path / f"disk{ranks().rank}" / "checkpoint", plain())
        return str(error.value)

    one, other = fork_ranks(2, tmp_path, save)
    assert one == other
    assert one.startswith(f"{tmp_path}/disk0/.checkpoint.partial/part-00001.safetensors: ")


def test_all_ranks_say_which_part_is_damaged(saved: Path, tmp_path: Path) -> None:
    def load() -> str:
        with pytest.raises(UserError) as error:
            load_tree(saved / "damaged")
        return str(error.value)

    def damage() -> None:
        save_tree(saved / "damaged", plain())

    fork_ranks(2, tmp_path, damage)
    part = saved / "damaged" / "part-00001.safetensors"
    content = part.read_bytes()
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    messages = fork_ranks(2, tmp_path, load)
    part.unlink()
    for message in (*messages, *fork_ranks(2, tmp_path, load)):
        assert message.startswith(f"{part}: ")
        assert "continues from the previous checkpoint" in message


def test_a_kill_between_the_parts_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    """Rank 1 is killed before it writes its part, while rank 0 waits for that."""
    state = State(tmp_path / "state")

    def save() -> list[str]:
        with checkpointing(state, 1e9) as checkpointer:
            checkpointer.save(1, plain())
            checkpointer.wait()
            if ranks().rank == 1:
                checkpoint_parts.save_file = lambda *args: os._exit(9)
            checkpointer.save(2, plain())
            with pytest.raises(RuntimeError):
                checkpointer.wait()
        return sorted(path.name for path in state.folder.iterdir())

    assert fork_ranks(2, tmp_path, save) == [["checkpoint-000000000001"], None]
    assert values(state.restore()) == EXPECTED


def test_a_save_that_fails_on_one_rank_is_raised_on_all(tmp_path: Path) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def save() -> str:
        with checkpointing(State(tmp_path / "state"), 1e9) as checkpointer:
            if ranks().rank == 1:
                checkpoint_parts.save_file = fail
            checkpointer.save(1, plain())
            with pytest.raises(OSError, match="No space") as error:
                checkpointer.wait()
        return explain(error.value)

    one, other = fork_ranks(2, tmp_path, save)
    assert one == other
    assert "part-00001.safetensors: No space left on device. Free space" in one
