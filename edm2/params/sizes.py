"""What the paper tuned for each model size and dataset; all else is in `edm2/params/configs.py`."""

from dataclasses import dataclass
from typing import Literal

Size = Literal["XXS", "XS", "S", "M", "L", "XL", "XXL"]
PaperDataset = Literal["imagenet-512", "imagenet-64"]


@dataclass(frozen=True)
class SizeSettings:
    """Numbers of one model size (EDM2 Tables 2 and 6).

    Attributes:
        channels: width of the first level.
        lr_ref: reference learning rate α_ref, for configs that normalize weights (D to G).
        dropout: probability of dropout; a config with a higher one keeps that.
    """

    channels: int
    lr_ref: float
    dropout: float


@dataclass(frozen=True)
class DatasetSettings:
    """Numbers of one dataset of the paper (EDM2 Table 6).

    Attributes:
        p_mean, p_std: mean and standard deviation of ln σ, for all configs but A.
        lr_decay_batches: t_ref, in training batches, for configs with a decaying rate (E to G).
    """

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
