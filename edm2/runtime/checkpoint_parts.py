"""Storage of checkpoints for `torch.distributed.checkpoint`: safetensors and JSON, no pickle.

A checkpoint is a folder. Each rank writes one part, `part-<rank>.safetensors`; the index has the
checksums of the parts and where in them each piece of each tensor is. The folder has a temporary name
until all parts and the index are written.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from edm2.params import UserError
from edm2.runtime.checked_json import write_checked
from edm2.runtime.files import replacing, sha256
from edm2.runtime.temporaries import remove, shared_name

INDEX = "index.json"


class PartWriter(StorageWriter):
    """Writes the part of this rank; on the coordinator the index, too, after all parts."""

    def __init__(self, folder: Path, skeleton: str) -> None:
        """
        Args:
            folder: of the checkpoint; must not exist.
            skeleton: the tree without its tensors.
        """
        self.folder, self.skeleton = folder, skeleton
        self.partial = shared_name(folder)
        self.part, self.is_coordinator = "", False

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self.part = f"part-{kwargs['rank']:05d}.safetensors"
        self.is_coordinator = is_coordinator
        if is_coordinator:
            remove(self.partial)
            self.partial.mkdir(parents=True)

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        tensors: dict[str, Any] = {i.index.fqn: planner.resolve_data(i) for i in plan.items}
        storage = {"part": self.part, **(self._write_part(tensors) if tensors else {})}
        sizes = [tensor.nbytes for tensor in tensors.values()]
        pairs = zip(plan.items, sizes, strict=True)
        return _done([WriteResult(item.index, size, storage) for item, size in pairs])

    def _write_part(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Write the part; its checksum."""
        path = self.partial / self.part
        with replacing(path) as temporary:
            save_file(tensors, temporary)
        return {"sha256": sha256(path)}

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        written = [result for part in results for result in part]
        places = {result.index: result.storage_data["part"] for result in written}
        parts = {r.storage_data["part"]: r.storage_data["sha256"] for r in written}
        tensors = {
            name: {
                "dtype": str(tensor.properties.dtype).removeprefix("torch."),
                "shape": list(tensor.size),
                "pieces": [
                    [list(c.offsets), list(c.sizes), places[MetadataIndex(name, c.offsets)]]
                    for c in tensor.chunks
                ],
            }
            for name, tensor in metadata.state_dict_metadata.items()
            if isinstance(tensor, TensorStorageMetadata)
        }
        for part in parts:
            if not (self.partial / part).is_file():
                raise UserError(
                    f"{self.partial / part}: not seen by the main process, though another has written it. "
                    "Start all processes in the same folder, on a disk that all machines share."
                )
        content = {"skeleton": self.skeleton, "parts": parts, "tensors": tensors}
        write_checked(self.partial / INDEX, content)
        self.partial.replace(self.folder)

    def discard(self) -> None:
        """Remove what is incomplete, once no rank writes any more; on the coordinator."""
        if self.is_coordinator:
            with suppress(OSError):
                remove(self.partial)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return False


class PartReader(StorageReader):
    """Reads pieces of tensors into place."""

    def __init__(self, folder: Path, tensors: Mapping[str, Any]) -> None:
        """
        Args:
            tensors: as in the index.
        """
        self.folder = folder
        self.places = {
            MetadataIndex(name, offset): part
            for name, tensor in tensors.items()
            for offset, _, part in tensor["pieces"]
        }
        self.metadata = Metadata({name: _metadata(tensor) for name, tensor in tensors.items()})

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self.metadata

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        for part in sorted({self.places[item.storage_index] for item in plan.items}):
            with safe_open(self.folder / part, framework="pt") as file:
                for item in plan.items:
                    if self.places[item.storage_index] == part:
                        ranges = zip(item.storage_offsets, item.lengths, strict=True)
                        place = tuple(slice(start, start + length) for start, length in ranges)
                        target = planner.resolve_tensor(item).detach()
                        target.copy_(file.get_slice(item.storage_index.fqn)[place])
                        planner.commit_tensor(item, target)
        return _done(None)

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        pass

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def reset(self, checkpoint_id: Any = None) -> None:
        pass

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return False


def dtype_of(tensor: Mapping[str, Any]) -> torch.dtype:
    """The dtype of a tensor in the index."""
    dtype: torch.dtype = getattr(torch, tensor["dtype"])
    return dtype


def _metadata(tensor: Mapping[str, Any]) -> TensorStorageMetadata:
    return TensorStorageMetadata(
        TensorProperties(dtype_of(tensor)),
        torch.Size(tensor["shape"]),
        [
            ChunkStorageMetadata(torch.Size(offset), torch.Size(shape))
            for offset, shape, _ in tensor["pieces"]
        ],
    )


def _done(value: Any) -> Any:
    future: Any = Future()
    future.set_result(value)
    return future
