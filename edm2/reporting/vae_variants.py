"""VAEs of several experiments side by side."""

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from edm2.reporting.changes import FlatParams

VaeExperiments = Mapping[str, tuple[Mapping[str, float], FlatParams]]  # metrics, params
VAE_METRICS = re.compile(
    r"psnr|ssim|perceptual_.*|rfi?d_.*|reconstructions/.*|latent/(std|kurtosis)"
)


def variants(experiments: VaeExperiments) -> dict[str, list[str]]:
    """Names of experiments, grouped by all params but `vae.seed`.

    A variant is named by its params that differ from the most common value; the one without a
    difference is called base.
    """
    flats = {name: params for name, (_, params) in experiments.items()}
    keys = sorted({key for params in flats.values() for key in params} - {"vae.seed"})
    usual = {key: _most_common([str(params.get(key)) for params in flats.values()]) for key in keys}
    groups: dict[str, list[str]] = {}
    for name, params in sorted(flats.items(), key=lambda item: item[1].get("vae.seed", 0)):
        changes = [f"{key}={params.get(key)}" for key in keys if str(params.get(key)) != usual[key]]
        groups.setdefault(", ".join(changes) or "base", []).append(name)
    return dict(sorted(groups.items(), key=lambda item: (item[0] != "base", item[0])))


def variants_table(experiments: VaeExperiments) -> pd.DataFrame:
    """A row per variant: number of seeds, and mean ± standard deviation of each metric.

    Both are nan where one seed does not have the metric, as exact reconstructions have no PSNR.
    """
    rows = []
    for variant, names in variants(experiments).items():
        metrics = pd.DataFrame([experiments[name][0] for name in names])
        row: dict[str, object] = {"variant": variant, "seeds": len(names)}
        for key in (key for key in metrics if VAE_METRICS.fullmatch(str(key))):
            std = f" ± {metrics[key].std(skipna=False):.2g}" if len(names) > 1 else ""
            row[str(key)] = f"{metrics[key].mean(skipna=False):.4g}{std}"
        if any(experiments[name][0].get("at_chance") for name in names):
            row["classifier at chance"] = "yes"
        rows.append(row)
    return pd.DataFrame(rows)


def _most_common(values: Sequence[str]) -> str:
    return max(values, key=values.count)
