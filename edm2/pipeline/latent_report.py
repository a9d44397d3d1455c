"""The part of the stage `encode_latents` that describes the latents, in reports/latents."""

from math import isfinite

import pandas as pd
import torch

from edm2.data.images import ImageDataset, to_float
from edm2.data.latents import LatentShards
from edm2.data.prepared import has_images, open_images
from edm2.features.backbones import load_backbone
from edm2.params.checks import project_root
from edm2.pipeline.outputs import note_without_images, write_table
from edm2.pipeline.paths import FEATURES, IMAGES, LATENTS
from edm2.pipeline.runner import StageContext
from edm2.runtime.distributed import is_main_process
from edm2.vae.codec import Codec
from edm2.vae.evaluation import evaluated_images
from edm2.vae.latent_statistics import ChannelSums, channels_table, spectrum_table
from edm2.vae.robustness import IMAGES as HELD_OUT_IMAGES
from edm2.vae.robustness import robustness_table

FOLDER = "reports/latents"
TRAINING_IMAGES = 1024  # that statistics are of, at most
BATCH = 64


def write_latent_report(context: StageContext, codec: Codec) -> None:
    """Write the spectrum of latents and of images, the statistics of channels, and the decoder's robustness.

    The latents must be complete. Every rank must call this. Without images there are tables of the latents
    alone, and the last one is empty.
    """
    latents = LatentShards(context.out(LATENTS), "train")
    images = open_images(IMAGES, "train", "held_out") if has_images(IMAGES) else None
    held_out = None if images is None else images[1]
    robustness = _robustness(context, codec, latents, held_out)
    if robustness is None or not is_main_process():
        return
    indices = evaluated_images(len(latents), TRAINING_IMAGES)
    sums = ChannelSums.empty(latents.shape[0], latents.shape[-1])
    for start in range(0, len(indices), BATCH):
        mean, std, _ = latents.batch(indices[start : start + BATCH])
        sums.add(mean, std)
    spectra = [spectrum_table(sums, "latents")]
    if images is not None:
        train, _ = images
        pixels = ChannelSums.empty(3, train.resolution)
        for start in range(0, len(indices), BATCH):
            pixels.add(to_float(train.batch(indices[start : start + BATCH])[0]))
        spectra.append(spectrum_table(pixels, "images"))
    channels = channels_table(sums)
    write_table(context, f"{FOLDER}/spectrum.csv", pd.concat(spectra))
    write_table(context, f"{FOLDER}/channels.csv", channels)
    write_table(context, f"{FOLDER}/robustness.csv", robustness)
    context.run.log_summary(_summary(channels))


def _robustness(
    context: StageContext, codec: Codec, latents: LatentShards, held_out: ImageDataset | None
) -> pd.DataFrame | None:
    """The table, on the main process; without rows where there are no images."""
    if held_out is None:
        note_without_images("the decoder's robustness to noise is not evaluated")
        return pd.DataFrame(columns=["sigma"])
    indices = evaluated_images(len(held_out), HELD_OUT_IMAGES)
    backbone = load_backbone(context.params.vae, FEATURES, project_root(), context.device)
    return robustness_table(
        codec, latents.normalization, held_out, indices, backbone, context.device
    )


def _summary(channels: pd.DataFrame) -> dict[str, float]:
    """What is logged: numbers that projects can be compared by."""
    correlations = channels.filter(like="correlation_").to_numpy()
    others = torch.from_numpy(abs(correlations)).fill_diagonal_(0)
    summary = {
        "latents/largest_correlation": float(others.max()),
        "latents/kurtosis": float(channels["kurtosis"].mean(skipna=False)),
        "latents/noise_sigma": float(channels["noise_sigma"].mean(skipna=False)),
    }
    return {name: value for name, value in summary.items() if isfinite(value)}
