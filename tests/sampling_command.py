"""`edm2 sample` with few steps and three seeds, and its images."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edm2.cli.main import edm2

SEEDS = range(3, 6)


def sample(network: str | Path | None, *options: object) -> None:
    """Run the command in the current folder; errors are exceptions."""
    common = ["--seeds", "3-5", "--steps", "3", *map(str, options)]
    networks = [] if network is None else [str(network)]
    edm2.main(["sample", *networks, *common], prog_name="edm2", standalone_mode=False)


def pixels(folder: str = "samples") -> Any:
    """uint8 [N, R, R, 3] of all seeds."""
    return np.stack([np.array(Image.open(Path(folder) / f"{s:09d}.png")) for s in SEEDS])
