"""VAEs of several experiments side by side: `edm2 compare --vae`."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from edm2.data.prepared import open_images
from edm2.pipeline.experiments import fetch, read_params, read_result
from edm2.pipeline.paths import IMAGES, VAE
from edm2.reporting.grids import write_rows
from edm2.reporting.tables import write_table
from edm2.reporting.vae_variants import variants, variants_table
from edm2.runtime.temporaries import temporary_folder
from edm2.runtime.tracking import flatten
from edm2.vae.codec import load_codec

METRICS = tuple(f"reports/{stage}/metrics.json" for stage in ("features", "vae", "baselines"))
COLUMNS = 16  # held-out images in the grid


def write_vae_comparison(revisions: Sequence[str], out: Path) -> pd.DataFrame:
    """Write a table of the variants (csv, md) with mean ± standard deviation over seeds to `out`, and
    a grid of held-out images with their reconstructions by the first seed of each variant.

    Args:
        revisions: commits, branches, names of experiments, or `workspace`. Those that differ only
            in `seed` are one variant.

    Raises:
        UserError: a revision is unknown or has no results.
    """
    experiments = {rev: (_metrics(rev), flatten(read_params(rev))) for rev in revisions}
    table = variants_table(experiments)
    first_seeds = {name: members[0] for name, members in variants(experiments).items()}
    _draw(first_seeds, out / "reconstructions.png")
    write_table(table, out / "compare.csv", out / "compare.md")
    return table


def _metrics(revision: str) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for path in METRICS:
        metrics |= json.loads(read_result(revision, path))
    return metrics


def _draw(revisions: dict[str, str], path: Path) -> None:
    """Draw evenly spaced held-out images of the workspace, and reconstructions in a row per variant."""
    (held_out,) = open_images(IMAGES, "held_out")
    step = max(1, len(held_out) // COLUMNS)
    images, _ = held_out.batch(range(0, len(held_out), step)[:COLUMNS])
    rows = {"image": images}
    for name, revision in revisions.items():
        with temporary_folder() as temporary:
            folder = fetch(revision, VAE.as_posix(), temporary / "vae")
            codec = load_codec(folder, torch.device("cpu"))
        rows[name] = codec.decode(codec.encode(images)[0])
    write_rows(path, rows)
