"""Several experiments side by side."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from edm2.metrics.minima import MIN_LENGTHS, locate_minimum
from edm2.params import UserError
from edm2.reporting.curves import STYLE, draw_curve, finish_ema_axes, save_figure
from edm2.reporting.selection import best_of, ema_curve, quality_columns, seed_block_curves

FlatParams = Mapping[str, Any]  # by key path
PER_CONFIG = "diffusion.per_config."
MAX_LEGEND_PARAMS = 3


@dataclass(frozen=True)
class Experiment:
    """The results of one experiment.

    Attributes:
        networks: the rows of reports/fid of all its configs.
        params: params.yaml as written.
        used: by config, the params with the values that this config uses: `diffusion.per_config`
            merged in, nulls replaced by the paper's values.
    """

    networks: pd.DataFrame
    params: FlatParams
    used: Mapping[str, FlatParams]


Experiments = Mapping[str, Experiment]


def compare_experiments(experiments: Experiments) -> pd.DataFrame:
    """A row per experiment and config: params that differ, and the best EMA length and its value.

    A param that differs is shown with the value that the config uses, which may be the same in all
    experiments: `diffusion.per_config` overrides a swept value. 1 / (α_ref² t_ref) is relative to
    the first row that has it; configs of constant learning rate do not.

    Raises:
        UserError: the experiments were evaluated with different metrics.
    """
    _check_metrics(experiments)
    differing, rows = differing_params(experiments), []
    for name, experiment in experiments.items():
        for (config, seed), part in experiment.networks.groupby(["config", "training_seed"]):
            best, used = best_of(part), experiment.used[str(config)]
            rows.append(
                {
                    "experiment": name,
                    "config": config,
                    "training_seed": seed,
                    **{key: used.get(key) for key in differing},
                    "best EMA length": best["ema_length"],
                    **_interval(part),
                    best["metric"]: best["value"],
                    "valued on": best["valued_on"],
                    **quality_columns(best),
                    "1/(lr_ref² lr_decay), relative": _decay_time(used),
                }
            )
    table = pd.DataFrame(rows)
    last = table.columns[-1]
    table[last] = table[last] / table[last].bfill().iloc[0]
    return table


def _interval(networks: pd.DataFrame) -> dict[str, str]:
    """95 % confidence interval of the minimum's place, from the differences of several seed blocks."""
    rows = seed_block_curves(networks)
    if rows["first_seed"].nunique() < 2 or rows["ema_length"].nunique() < MIN_LENGTHS:
        return {}
    interval = locate_minimum(
        rows["ema_length"].tolist(), rows["first_seed"].tolist(), rows["value"].tolist()
    ).interval
    assert interval is not None  # there are several seed blocks
    return {"its interval": f"{interval[0]:.3g} to {interval[1]:.3g}"}


def _check_metrics(experiments: Experiments) -> None:
    metrics = {
        name: ema_curve(experiment.networks)["metric"].iloc[0]
        for name, experiment in experiments.items()
    }
    if len(set(metrics.values())) > 1:
        pairs = ", ".join(f"{name} {metric}" for name, metric in metrics.items())
        raise UserError(
            f"experiments with different metrics: {pairs}. Expected one metric, because a Fréchet "
            "distance depends on detector and sample count. Compare experiments with the same "
            "evaluation.detector and evaluation.samples."
        )


def _decay_time(used: FlatParams) -> float:
    """1 / (α_ref² t_ref), to which the best EMA length is proportional (EDM2 Figure 13); NaN if the
    learning rate is constant or unknown.
    """
    rate, decay = used.get("diffusion.lr_ref"), used.get("diffusion.lr_decay_batches")
    if not isinstance(rate, (int, float)) or not isinstance(decay, (int, float)):
        return math.nan
    return 1 / (rate**2 * decay) if math.isfinite(decay) else math.nan


def differing_params(experiments: Experiments) -> list[str]:
    """Key paths of params that are written differently, or used differently by the same config."""
    configs = {config for experiment in experiments.values() for config in experiment.used}
    views = [[experiment.params for experiment in experiments.values()]]
    views += [
        [e.used[config] for e in experiments.values() if config in e.used] for config in configs
    ]
    keys = {
        key
        for first, *others in views
        for other in others
        for key in first.keys() | other.keys()
        if first.get(key) != other.get(key) and not key.startswith(PER_CONFIG)
    }
    return sorted(keys)


def draw_comparison(experiments: Experiments, *paths: Path) -> None:
    """All EMA curves in one figure, minima marked. The legend has the values of the params that
    differ, if these are at most MAX_LEGEND_PARAMS.
    """
    differing = differing_params(experiments)
    shown = differing if len(differing) <= MAX_LEGEND_PARAMS else []
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(10, 4.4))
        for name, experiment in experiments.items():
            curves = ema_curve(experiment.networks).groupby(["config", "training_seed"])
            for (config, seed), curve in curves:
                used = experiment.used[str(config)]
                values = ", ".join(f"{k.rpartition('.')[2]} {_value(used.get(k))}" for k in shown)
                draw_curve(
                    axes, f"{name} {config}-{seed}" + (f" ({values})" if values else ""), curve
                )
        first = next(iter(experiments.values()))
        finish_ema_axes(axes, ema_curve(first.networks), legend_outside=True)
        save_figure(figure, *paths)


def _value(value: object) -> str:
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)


VaeExperiments = Mapping[str, tuple[Mapping[str, float], FlatParams]]  # metrics, params
VAE_METRICS = re.compile(r"psnr|ssim|perceptual_.*|reconstructions/.*|latent/(std|kurtosis)")


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
