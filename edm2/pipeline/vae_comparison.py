"""VAEs of several experiments side by side: `edm2 compare --vae`."""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch

from edm2.data.images import ImageShards
from edm2.pipeline.experiments import fetch, flat_params, read
from edm2.pipeline.paths import IMAGES, VAE
from edm2.reporting.compare import variants, variants_table
from edm2.reporting.grids import write_rows
from edm2.reporting.tables import as_markdown
from edm2.runtime.files import write_text
from edm2.vae.codec import load_codec

METRICS = ("reports/vae/metrics.json", "reports/baselines/metrics.json")
SHOWN = 16  # held-out images


def write_vae_comparison(revisions: Sequence[str], out: Path) -> pd.DataFrame:
    """Write to `out` a table of the variants (csv, md), mean ± standard deviation over seeds, and a
    grid: held-out images, and their reconstructions by the first seed of each variant.

    Args:
        revisions: commits, branches, names of experiments, or `workspace`. Those that differ only
            in `seed` are one variant.

    Raises:
        UserError: a revision is unknown or has no results.
    """
    experiments = {rev: (_metrics(rev), flat_params(rev)) for rev in revisions}
    table = variants_table(experiments)
    first = {name: members[0] for name, members in variants(experiments).items()}
    _draw(first, out / "reconstructions.png")
    write_text(out / "compare.csv", table.to_csv(index=False))
    write_text(out / "compare.md", as_markdown(table))
    return table


def _metrics(revision: str) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for path in METRICS:
        metrics |= json.loads(read(revision, path))
    return metrics


def _draw(revisions: dict[str, str], path: Path) -> None:
    """Held-out images of the workspace, spread over all of them, and a row per variant."""
    held_out = ImageShards(IMAGES, "held_out")
    step = max(1, len(held_out) // SHOWN)
    images, _ = held_out.batch(range(0, len(held_out), step)[:SHOWN])
    rows = {"image": images}
    for name, revision in revisions.items():
        with TemporaryDirectory() as scratch:
            folder = fetch(revision, VAE.as_posix(), Path(scratch) / "vae")
            codec = load_codec(folder, torch.device("cpu"))
        rows[name] = codec.decode(codec.encode(images)[0])
    write_rows(path, rows)
