"""Several experiments side by side."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from edm2.params import UserError
from edm2.reporting.curves import STYLE, draw_curve, finish_ema_axes, save_figure
from edm2.reporting.selection import best_of, ema_curve

Experiments = Mapping[str, tuple[pd.DataFrame, Mapping[str, Any]]]  # networks, flat params
MOST = 3  # params that fit into a legend


def compare_experiments(experiments: Experiments) -> pd.DataFrame:
    """A row per experiment and config: params that differ, and the best EMA length and value.

    Where learning rate and decay time are numbers there is 1 / (α_ref² t_ref), relative to the
    first row.

    Raises:
        UserError: the experiments were measured with different metrics.
    """
    metrics = {
        name: ema_curve(networks)["metric"].iloc[0] for name, (networks, _) in experiments.items()
    }
    if len(set(metrics.values())) > 1:
        told = ", ".join(f"{name} {metric}" for name, metric in metrics.items())
        raise UserError(
            f"experiments of one metric are wanted, found {told}: a Fréchet distance "
            "depends on detector and sample count."
        )
    differing, rows = _differing(experiments), []
    for name, (networks, params) in experiments.items():
        for config, part in networks.groupby("config"):
            best = best_of(part)
            rate, decay = (_own(params, str(config), key) for key in ("lr_ref", "lr_decay_batches"))
            numbers = isinstance(rate, (int, float)) and isinstance(decay, (int, float))
            rows.append(
                {
                    "experiment": name,
                    "config": config,
                    **{key: params.get(key) for key in differing},
                    "best EMA length": best["ema_length"],
                    best["metric"]: best["value"],
                    "at edge of grid": "yes" if best["at_edge"] else "no",
                    "error": best["error"],
                    "weight_sum": best["weight_sum"],
                    "snapshots": best["snapshots"],
                    "1/(lr_ref² lr_decay)": 1 / (rate**2 * decay) if numbers else float("nan"),
                }
            )
    table = pd.DataFrame(rows)
    last = table.columns[-1]
    table[last] = table[last] / table[last].iloc[0]
    return table.rename(columns={last: f"{last}, relative"})


def draw_comparison(experiments: Experiments, *paths: Path) -> None:
    """All EMA curves in one figure, minima marked; the legend tells up to MOST params that differ."""
    differing = _differing(experiments)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(10, 4.4))
        for name, (networks, params) in experiments.items():
            values = [f"{key.rpartition('.')[2]} {params.get(key)}" for key in differing]
            told = f" ({', '.join(values)})" if 0 < len(values) <= MOST else ""
            for config, line in ema_curve(networks).groupby("config"):
                draw_curve(axes, f"{name} {config}{told}", line)
        finish_ema_axes(axes, ema_curve(next(iter(experiments.values()))[0]), legend_outside=True)
        save_figure(figure, *paths)


Measured = Mapping[str, tuple[Mapping[str, float], Mapping[str, Any]]]  # metrics, flat params
QUALITY = re.compile(r"psnr|ssim|perceptual_.*|reconstructions/.*|latent/(std|kurtosis)")


def variants(experiments: Measured) -> dict[str, list[str]]:
    """Experiments that differ in nothing but `seed`, together, by the params that set them apart.

    A variant is named by what differs from the most common value of each such param; the one
    without a difference is called base.
    """
    flats = {name: params for name, (_, params) in experiments.items()}
    keys = sorted({key for params in flats.values() for key in params} - {"seed"})
    usual = {key: _most_common([str(params.get(key)) for params in flats.values()]) for key in keys}
    found: dict[str, list[str]] = {}
    for name, params in sorted(flats.items(), key=lambda item: item[1].get("seed", 0)):
        own = [f"{key}={params.get(key)}" for key in keys if str(params.get(key)) != usual[key]]
        found.setdefault(", ".join(own) or "base", []).append(name)
    return dict(sorted(found.items(), key=lambda item: (item[0] != "base", item[0])))


def variants_table(experiments: Measured) -> pd.DataFrame:
    """A row per variant: number of seeds, and mean ± standard deviation of what was measured."""
    rows = []
    for variant, names in variants(experiments).items():
        metrics = pd.DataFrame([experiments[name][0] for name in names])
        row: dict[str, object] = {"variant": variant, "seeds": len(names)}
        for key in (key for key in metrics if QUALITY.fullmatch(str(key))):
            spread = f" ± {metrics[key].std():.2g}" if len(names) > 1 else ""
            row[str(key)] = f"{metrics[key].mean():.4g}{spread}"
        rows.append(row)
    return pd.DataFrame(rows)


def _differing(experiments: Experiments) -> list[str]:
    """Key paths of params that are not the same in all experiments."""
    keys = sorted({key for _, params in experiments.values() for key in params})
    return [
        key for key in keys if len({str(params.get(key)) for _, params in experiments.values()}) > 1
    ]


def _most_common(values: Sequence[str]) -> str:
    return max(values, key=values.count)


def _own(params: Mapping[str, Any], config: str, key: str) -> Any:
    """A field of `diffusion` as one config has it."""
    return params.get(f"diffusion.per_config.{config}.{key}", params.get(f"diffusion.{key}"))
