"""What storing latents in 16 bits changes, compared with 32 (`latents.dtype`).

`python benchmarks/latents.py [PROJECT]` encodes the training images of a finished project (default: the
current folder) with its codec, and draws normal numbers with the paper's means and standard deviations of
Stable Diffusion's latents. Of both it prints, by channel, the root mean square of the rounding error of
the means:

- std: relative to the standard deviation of the latents;
- noise: relative to the encoder's own sampling noise, the root mean square of its standard deviations;
- sigma_min: in units of the denoiser (standard deviation 0.5), relative to the lowest noise level;
- and how much more noise than none that makes at the lowest level, where both add up, in percent.

Of the project it also prints how the decoded images change. Nothing is written.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

BATCH = 256
NUMBERS = 2**18  # drawn for each channel


def errors(name: str, mean: Any, std: Any, normalization: Any, sigma_min: float) -> list[Any]:
    """A row for each channel of latents with `mean` and `std` float32 [N, C, H, W]; std None: unknown."""
    from edm2.data.normalization import SIGMA_DATA

    rows = []
    for channel, total in enumerate(normalization.std.tolist()):
        exact = mean[:, channel].double()
        error = float((exact.half().double() - exact).square().mean().sqrt())
        noise = None if std is None else float(std[:, channel].double().square().mean().sqrt())
        level = error / total * SIGMA_DATA / sigma_min
        rows.append(
            {
                "latents": name,
                "channel": channel,
                "rms error": error,
                "/ std": error / total,
                "/ noise": error / noise if noise else float("nan"),
                "/ sigma_min": level,
                "more noise, %": 100 * ((1 + level**2) ** 0.5 - 1),
            }
        )
    return rows


def of_project(folder: Path, sigma_min: float) -> tuple[list[Any], dict[str, float]]:
    """Rows of the training images' latents, and the change of the images decoded from them."""
    import torch

    from edm2.data.images import ImageShards
    from edm2.data.latents import LatentMoments
    from edm2.vae.codec import load_codec

    codec = load_codec(folder / "models/vae", torch.device("cpu"))
    images = ImageShards(folder / "data/images", "train")
    batches = [range(k, min(k + BATCH, len(images))) for k in range(0, len(images), BATCH)]
    latents = [codec.encode(images.batch(batch)[0]) for batch in batches]
    mean, std = (torch.cat(parts) for parts in zip(*latents, strict=True))
    moments = LatentMoments.empty(tuple(mean.shape[1:]))
    moments.update(mean, std)
    normalization = codec.normalization or moments.normalization()
    changes = [
        codec.decode(part.half().float()).float() - codec.decode(part).float()
        for part in mean.split(BATCH)
    ]
    change = torch.cat(changes).abs()
    decoded = {
        "values of images that change, %": 100 * float((change > 0).float().mean()),
        "largest change, of 255 levels": float(change.max()),
    }
    return errors(str(folder.name or "project"), mean, std, normalization, sigma_min), decoded


def drawn(sigma_min: float) -> list[Any]:
    """Rows of normal numbers with the statistics of Stable Diffusion's latents."""
    import torch

    from edm2.vae.stable_diffusion import PAPER

    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(NUMBERS, 4, 1, 1, generator=generator)
    mean = normal * PAPER.std.reshape(4, 1, 1) + PAPER.mean.reshape(4, 1, 1)
    return errors("as Stable Diffusion's", mean, None, PAPER, sigma_min)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path, nargs="?", default=Path())
    parser.add_argument("--sigma-min", type=float, default=0.002)
    args = parser.parse_args()
    import pandas as pd

    rows, decoded = of_project(args.project.resolve(), args.sigma_min)
    table = pd.DataFrame(rows + drawn(args.sigma_min))
    print(table.to_string(index=False, float_format="{:.2g}".format))
    for name, value in decoded.items():
        print(f"{name}: {value:.2g}")


if __name__ == "__main__":
    main()
