"""The paper's model sizes: config G on 64×64×4 latents (EDM2 Tables 2 and 6)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """Width of the first level, reference learning rate α_ref and dropout."""

    channels: int
    lr_ref: float
    dropout: float


SIZES = {
    "XXS": Size(64, 0.0170, 0.0),
    "XS": Size(128, 0.0120, 0.0),
    "S": Size(192, 0.0100, 0.0),
    "M": Size(256, 0.0090, 0.10),
    "L": Size(320, 0.0080, 0.10),
    "XL": Size(384, 0.0070, 0.10),
    "XXL": Size(448, 0.0065, 0.10),
}
