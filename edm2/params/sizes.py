"""What the paper tuned for its model sizes and datasets, besides the configs."""

from dataclasses import dataclass
from typing import Literal

Size = Literal["XXS", "XS", "S", "M", "L", "XL", "XXL"]
PaperDataset = Literal["imagenet-512", "imagenet-64"]


@dataclass(frozen=True)
class SizeSettings:
    """Width of the first level, reference learning rate α_ref and dropout (EDM2 Tables 2 and 6)."""

    channels: int
    lr_ref: float
    dropout: float


@dataclass(frozen=True)
class DatasetSettings:
    """Distribution of ln σ, and batches t_ref after which the learning rate decays (Table 6)."""

    p_mean: float
    p_std: float
    lr_decay_batches: float


SIZES: dict[Size, SizeSettings] = {
    "XXS": SizeSettings(64, 0.0170, 0.0),
    "XS": SizeSettings(128, 0.0120, 0.0),
    "S": SizeSettings(192, 0.0100, 0.0),
    "M": SizeSettings(256, 0.0090, 0.10),
    "L": SizeSettings(320, 0.0080, 0.10),
    "XL": SizeSettings(384, 0.0070, 0.10),
    "XXL": SizeSettings(448, 0.0065, 0.10),
}

DATASETS: dict[PaperDataset, DatasetSettings] = {
    "imagenet-512": DatasetSettings(-0.4, 1.0, 70_000),  # 64×64×4 latents
    "imagenet-64": DatasetSettings(-0.8, 1.6, 35_000),  # 64×64×3 pixels
}
