"""The record of a network of a sweep, from its file to the tables."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edm2.params.replicates import Replicate
from edm2.pipeline.paths import sweep_folder
from edm2.runtime.manifest import read_manifest

ALL = "all"  # tensors


@dataclass(frozen=True)
class SweptNetwork:
    """A network of a sweep: its EMA length and time, and the error of its reconstruction.

    Attributes:
        file, guide: names below the sweep's folder.
        tensors: pattern of the tensors that have `ema_length`; "all" for a whole network.
        tensors_base: EMA length of the other tensors, if there are any.
        nimg: training time in images at which the average ends.
        average, error, weight_sum, snapshots: see `Reconstruction`.
    """

    file: str
    guide: str | None
    tensors: str
    ema_length: float
    tensors_base: float | None
    nimg: int
    average: str
    error: float
    weight_sum: float
    snapshots: int

    @property
    def name(self) -> str:
        return Path(self.file).stem

    @property
    def columns(self) -> dict[str, Any]:
        """Its columns in tables."""
        return {k: value for k, value in asdict(self).items() if k not in ("file", "guide")}


def load_networks(replicate: Replicate) -> list[SweptNetwork]:
    """The networks that the stage `sweep_ema` made of one training.

    Raises:
        UserError: they are missing or damaged.
    """
    manifest = read_manifest(sweep_folder(replicate))
    return [SweptNetwork(**network) for network in manifest["networks"]]
