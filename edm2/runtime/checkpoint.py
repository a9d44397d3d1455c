"""State trees on disk, written and read by all ranks together with `torch.distributed.checkpoint`.

Each rank copies and writes its part: its shards of DTensors, and some of the tensors that all ranks
have. Reading needs not as many ranks as writing did.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import (
    DefaultLoadPlanner,
    DefaultSavePlanner,
    create_default_local_save_plan,
)
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.utils import find_state_dict_object
from torch.distributed.tensor import DTensor

from edm2.params import UserError
from edm2.runtime.checked_json import read_checked
from edm2.runtime.checkpoint_parts import INDEX, PartReader, PartWriter, dtype_of
from edm2.runtime.distributed import on_main_process, raise_together, ranks
from edm2.runtime.files import require_sha256, sha256
from edm2.runtime.system_errors import DAMAGE
from edm2.runtime.trees import join, split

# a single process is no mistake
warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)


@dataclass(frozen=True)
class Staged:
    """A copy of a tree as it was: on each rank of what that rank writes, in the memory of the host."""

    skeleton: str
    items: Sequence[WriteItem]
    tensors: Mapping[MetadataIndex, torch.Tensor]


def save_tree(folder: Path, tree: Any) -> None:
    """Write `tree` to `folder`, which must not exist and appears when it is complete."""
    write_staged(folder, stage(tree))


def stage(tree: Any, before: Staged | None = None) -> Staged:
    """Copy this rank's part of a tree. The tree may change from then on.

    What is not a DTensor must be the same on all ranks.

    Args:
        before: an earlier copy, whose memory is overwritten: new memory is slow, as each page of it has
            to be mapped.

    Raises:
        TypeError: something in the tree is no tensor and cannot be JSON.
    """
    skeleton, tensors = split(tree)
    items = _own(create_default_local_save_plan(tensors, is_coordinator=True).items, tensors)
    old = before.tensors if before is not None else {}
    copies = {
        item.index: _copy(find_state_dict_object(tensors, item.index), old.get(item.index))
        for item in items
    }
    return Staged(skeleton, items, copies)


def write_staged(folder: Path, staged: Staged, group: dist.ProcessGroup | None = None) -> None:
    """Write a copy to `folder`, as `save_tree`. Every rank must call this, and has the same error.

    Args:
        group: of all ranks; with one of its own, this can run beside a training.

    Raises:
        OSError, SafetensorError: the disk is full, for example.
    """
    writer = PartWriter(folder, staged.skeleton)
    try:
        _together(
            lambda: save(
                {}, storage_writer=writer, planner=_StagedPlanner(staged), process_group=group
            )
        )
    except Exception:
        writer.discard()
        raise


def load_tree(folder: Path, into: Any = None, group: dist.ProcessGroup | None = None) -> Any:
    """Read a tree. Every rank must call this.

    Args:
        folder: the same on all ranks.
        into: a tree; the tensors that it has in the place, shape and dtype of those of the checkpoint
            are overwritten, and parts of the result. Only the others need memory; they are on the CPU.
        group: of all ranks.

    Raises:
        UserError: a file is missing or corrupted; on all ranks.
    """
    index = verified_index(folder)
    live = split(into)[1]
    tensors: dict[str, Any] = {
        name: _memory(live.get(name), torch.Size(tensor["shape"]), dtype_of(tensor))
        for name, tensor in index["tensors"].items()
    }
    reader = PartReader(folder, index["tensors"])
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    _together(lambda: load(tensors, storage_reader=reader, planner=planner, process_group=group))
    return join(index["skeleton"], tensors)


def verified_index(folder: Path) -> dict[str, Any]:
    """The index of a checkpoint, after reading all parts. Every rank must call this.

    Raises:
        UserError: a file is missing or corrupted; on all ranks.
    """
    remedy = (
        f"This checkpoint cannot be used. Remove {folder} and run the same command again: it continues "
        "from the previous checkpoint, or from the beginning. `edm2 doctor` names all that are damaged."
    )
    index = on_main_process(lambda: read_checked(folder / INDEX, remedy, remedy))
    _verify(folder, index["parts"], remedy)
    return index


class _StagedPlanner(DefaultSavePlanner):
    """Plans to write what is staged."""

    def __init__(self, staged: Staged) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.staged = staged

    def create_local_plan(self) -> SavePlan:
        return SavePlan(list(self.staged.items))

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor:
        return self.staged.tensors[write_item.index]


def _own(items: Sequence[WriteItem], tensors: Mapping[str, torch.Tensor]) -> list[WriteItem]:
    """What this rank writes. Tensors that all ranks have are divided by size, the largest first."""
    rank, loads = ranks().rank, [0] * ranks().world_size
    own = []
    for item in sorted(items, key=_nbytes, reverse=True):
        if item.type == WriteItemType.SHARD:
            if _is_first_copy(tensors[item.index.fqn]) and _nbytes(item):
                own.append(item)
            continue
        writer = loads.index(min(loads))
        loads[writer] += _nbytes(item)
        if writer == rank:
            own.append(item)
    return own


def _nbytes(item: WriteItem) -> int:
    return item.tensor_storage_size() or 0


def _is_first_copy(tensor: torch.Tensor) -> bool:
    """Whether no rank before this one has the same shard of a DTensor."""
    assert isinstance(tensor, DTensor)
    coordinates = tensor.device_mesh.get_coordinate() or ()
    pairs = zip(coordinates, tensor.placements, strict=True)
    return all(k == 0 for k, placement in pairs if placement.is_replicate())


@torch.no_grad()
def _copy(tensor: torch.Tensor, memory: torch.Tensor | None) -> torch.Tensor:
    """On the CPU, contiguous."""
    return _memory(memory, tensor.shape, tensor.dtype).copy_(tensor)


def _memory(existing: torch.Tensor | None, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """A tensor of this shape and dtype: the existing one if it has them, or one on the CPU."""
    if existing is not None and existing.shape == shape and existing.dtype == dtype:
        return existing
    return torch.empty(shape, dtype=dtype)


def _verify(folder: Path, parts: Mapping[str, str], remedy: str) -> None:
    """Compare the parts with their checksums, each rank some of them."""
    error: Exception | None = None
    for part in sorted(parts)[ranks().rank :: ranks().world_size]:
        path = folder / part
        try:
            require_sha256(path, sha256(path), parts[part], f"in {INDEX}", remedy)
        except UserError as problem:
            error = error or problem
        except OSError as problem:
            damaged = problem.errno in DAMAGE
            error = error or (
                UserError(f"{path}: {problem.strerror}. {remedy}") if damaged else problem
            )
    raise_together(error)


def _together(call: Callable[[], object]) -> None:
    """Call a function of `torch.distributed.checkpoint`; raise the error of the first rank with one."""
    try:
        call()
    except CheckpointException as failure:
        error, _ = failure.failures[min(failure.failures)]
        raise error from None
