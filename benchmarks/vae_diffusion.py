"""How well the latents of VAE variants diffuse: the images that one small denoiser makes from each.

`python benchmarks/vae_diffusion.py FOLDER PROJECT [--seeds 0 1 2] [--images 2000] [--ema-lengths 0.1 0.2]
[--set vae.duration_nimg=25600 ...] base vae.equivariance.scale=0.5 vae.variance=0.0 ...` trains for each
variant and seed a VAE and a denoiser on its latents, both with that seed, with the images, classifier and
params of PROJECT, whose stages up to `train_features` have been run. The denoiser is the first of its
configs, with the same budget for all variants. Variants and `--set` are as in vae_options.py.

FOLDER/vae_diffusion.csv has a row for each variant and seed: `fd`, the Fréchet distance of generated images
to the training images with the judge of vae_options.py, the lowest of the EMA lengths, and `ema_length`;
beside it the metrics of reconstructions, of which `fd_judge` is the same distance of reconstructed
held-out images. Generated images have the same seeds for all variants. Rows that exist are not computed
again, and a training that was interrupted goes on. The table at the end has means and, for each variant, the
mean difference from the first one over common seeds with its 95 % interval (Student's t).
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from vae_options import (
    CPU,
    METRICS,
    Comparison,
    argument_parser,
    common_changes,
    judge,
    quality,
    training_statistics,
)

from edm2.data.prepared import open_images
from edm2.metrics.statistics import Statistics, distance
from edm2.params import Params
from edm2.params.replicates import Replicate
from edm2.pipeline.networks import load_networks
from edm2.pipeline.paths import IMAGES, sweep_folder
from edm2.pipeline.project_networks import project_sampler
from edm2.pipeline.runner import run_stage
from edm2.reporting.grids import write_rows

CODEC_STAGES = ("train_vae", "encode_latents")
STAGES = ("train_diffusion", "train_guide", "snapshot_emas", "sweep_ema")
SAMPLES, COLUMNS = Path("samples.png"), 12


@dataclass(frozen=True)
class DiffusionComparison(Comparison):
    """As `Comparison`, with a denoiser for each VAE.

    Attributes:
        images: number of generated images.
        ema_lengths: those that the best of is taken.
    """

    images: int
    ema_lengths: tuple[float, ...]
    name: ClassVar = "vae_diffusion"
    metrics: ClassVar = ("fd", "ema_length", *METRICS)

    def changes(self, seed: int) -> dict[str, Any]:
        lengths = list(self.ema_lengths)
        own = {"seeds": [seed], "sweep.ema_lengths": lengths, "runtime.workers": 0}
        return {**super().changes(seed), **own}

    def measure(self, params: Params) -> dict[str, float]:
        training = params.replicates[0]
        for name in CODEC_STAGES:
            _run(name, params)
        for name in STAGES:
            _run(name, params, training)
        fd, ema_length = min(self._distances(params.of(training.config), training))
        return {"fd": fd, "ema_length": ema_length, **quality()}

    def pictures(self) -> tuple[Path, ...]:
        return (*super().pictures(), SAMPLES)

    @torch.no_grad()
    def _distances(self, params: Params, training: Replicate) -> list[tuple[float, float]]:
        """The Fréchet distance of the images of each network, and its EMA length; draws some of each."""
        (train,) = open_images(IMAGES, "train")
        real = training_statistics(str(Path.cwd() / IMAGES), len(train))
        sampler = project_sampler(params, training.config, CPU)
        seeds, distances, rows = range(self.images), [], {}
        for network in load_networks(training):
            denoise = sampler.denoise(sweep_folder(training) / network.file, None, 1.0)
            fakes = Statistics.empty(judge().dims)
            for batch in sampler.images(denoise, seeds, sampler.labels(seeds)):
                fakes.update(judge().features(batch.samples).numpy())
                rows.setdefault(f"{network.ema_length:g}", batch.samples[:COLUMNS])
            distances.append((distance(fakes, real), network.ema_length))
        write_rows(SAMPLES, rows)
        return distances


def _run(name: str, params: Params, training: Replicate | None = None) -> None:
    stage = import_module(f"stages.{name}")
    run_stage(name, stage.run, params, training, getattr(stage, "external_inputs", None))


def main() -> None:
    parser = argument_parser(__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=2000, help="to generate; default: 2000")
    parser.add_argument("--ema-lengths", type=float, nargs="+", default=[0.1, 0.2])
    args = parser.parse_args()
    folders = args.folder.resolve(), args.project.resolve()
    lengths = tuple(args.ema_lengths)
    comparison = DiffusionComparison(*folders, common_changes(args), args.images, lengths)
    comparison.run(args.variants, args.seeds)


if __name__ == "__main__":
    main()
