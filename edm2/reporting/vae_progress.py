"""Pictures of the same held-out images over the VAE's training, with a slider."""

import html
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from edm2.reporting.page import paragraph, picture, slider
from edm2.reporting.stage_outputs import StageOutputs

MAX_FRAMES = 12
MAX_BYTES = 2**21  # of the files of the frames in the page
TITLE = "The same held-out images over the training"


def vae_progress(outputs: StageOutputs) -> str:
    """A slider over pictures, from the first to the last; empty with fewer than two.

    The page has to stay small: of many or large pictures it has some, and names their folder.
    """
    pictures = outputs.vae_pictures
    if len(pictures) < 2:
        return ""
    heading = f"<h3>{html.escape(TITLE)}</h3>"
    times = chosen_times(pictures)
    where = f"All {len(pictures)} pictures are in {outputs.folder.name}/vae/progress."
    if not times:
        return heading + paragraph(f"They are too large for this page. {where}")
    labels = [_label(outputs.vae_training, nimg) for nimg in times]
    frames = "".join(
        picture(pictures[nimg], f"At {label}", sharp=True)
        for nimg, label in zip(times, labels, strict=True)
    )
    body = slider("frames", "Images seen", labels, len(times) - 1, frames)
    return heading + body + (paragraph(where) if len(times) < len(pictures) else "")


def chosen_times(pictures: Mapping[int, Path]) -> list[int]:
    """Times from the first to the last at about equal distances, as many as the page has room for.

    Empty if it has no room for two pictures.
    """
    times = sorted(pictures)
    sizes = np.array([pictures[nimg].stat().st_size for nimg in times])
    for count in range(min(MAX_FRAMES, len(times)), 1, -1):
        positions = np.linspace(0, len(times) - 1, count).round().astype(int)
        if sizes[positions].sum() <= MAX_BYTES:
            return [times[k] for k in positions]
    return []


def _label(curves: pd.DataFrame, nimg: int) -> str:
    """The time, with the metrics that were measured then."""
    row = curves[curves["nimg"] == nimg].dropna(subset="held_out/evaluated_images").iloc[0]
    return f"{nimg:,}: PSNR {row['held_out/psnr']:.2f} dB, SSIM {row['held_out/ssim']:.3f}"
