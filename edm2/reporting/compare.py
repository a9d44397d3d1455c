"""EMA curves of several experiments side by side."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from edm2.metrics.minima import MIN_LENGTHS, locate_minimum
from edm2.params import UserError
from edm2.reporting.changes import COMMON, PER_CONFIG, Experiment, FlatParams, Variant, shown_value
from edm2.reporting.charts import Spec
from edm2.reporting.curves import metric_curves
from edm2.reporting.seed_curves import SeedCurves
from edm2.reporting.selection import best_of, ema_curve, quality_columns
from edm2.reporting.trainings import Trainings, best_networks, mean_and_interval, place_cells

MAX_LEGEND_PARAMS = 3


def configs_table(variants: Sequence[Variant], params: Sequence[str]) -> pd.DataFrame:
    """A row per experiment and config over its trainings.

    The value is that at the best EMA length of each training, valued on other images than those that the
    length was chosen on where there are such (see `SeedCurves.own_best`): the mean over trainings, its 95 %
    interval (low, high; with two trainings or more), and that of each training. 1 / (α_ref² t_ref) is
    relative to the first row that has it; configs of constant learning rate do not.

    Args:
        params: that have a column, with the value that the config uses. It may be the same in all
            experiments: `diffusion.per_config` overrides a swept value.

    Raises:
        UserError: the trainings of a config were evaluated differently.
    """
    rows = [
        {
            "experiment": ", ".join(variant.experiments),
            "config": variant.config,
            **{key: variant.used.get(key) for key in params},
            **_over_trainings(variant.trainings),
            "1/(lr_ref² lr_decay), relative": _decay_time(variant.used),
        }
        for variant in variants
    ]
    table = pd.DataFrame(rows)
    last = table.columns[-1]
    table[last] = table[last] / table[last].bfill().iloc[0]
    return table


def _over_trainings(trainings: Trainings) -> dict[str, object]:
    """Cells of one config."""
    curves = SeedCurves.of(trainings)
    if curves.found:  # of searches, whose best lengths differ
        found = best_networks(trainings)
        length, at_edge = float(found["ema_length"].mean()), bool(found["at_edge"].any())
        interval = place_cells(found)
    else:
        place = int(curves.values.mean(axis=(0, 2)).argmin())
        length = curves.lengths[place]
        at_edge = len(curves.lengths) > 1 and place in (0, len(curves.lengths) - 1)
        interval = {} if at_edge else _interval_of_length(curves)
    best = curves.own_best(curves.valued_on)
    values = {seed: float(np.mean(of_blocks)) for seed, of_blocks in best.items()}
    mean, low, high = mean_and_interval(list(values.values()))
    at_chance = any(table["at_chance"].any() for table in trainings.values())
    return {
        "trainings": len(values),
        "best EMA length": length,
        **interval,
        "at edge of grid": "yes" if at_edge else "no",
        curves.metric: mean,
        "low": low,
        "high": high,
        "each training": ", ".join(f"{seed}: {value:.4g}" for seed, value in values.items()),
        "valued on": curves.valued_on,
        **({"detector at chance": "yes"} if at_chance else {}),
    }


def _interval_of_length(curves: SeedCurves) -> dict[str, str]:
    """95 % confidence interval of the minimum's place, from the differences between trainings, or of
    one training between seed blocks.
    """
    units = curves.values.mean(axis=2) if len(curves.seeds) > 1 else curves.values[0].T
    if len(units) < 2 or len(curves.lengths) < MIN_LENGTHS:
        return {}
    lengths = np.tile(curves.lengths, len(units)).tolist()
    numbers = np.repeat(np.arange(len(units)), len(curves.lengths)).tolist()
    interval = locate_minimum(lengths, numbers, units.ravel().tolist()).interval
    assert interval is not None  # there are several units
    return {"its interval": f"{interval[0]:.3g} to {interval[1]:.3g}"}


def trainings_table(variants: Sequence[Variant]) -> pd.DataFrame:
    """A row per training: its best EMA length, the value there, and how far to trust it."""
    rows = []
    for variant in variants:
        for seed, networks in variant.trainings.items():
            best = best_of(networks)
            row = {"name": variant.name, "config": variant.config, "training_seed": seed}
            row |= {"best EMA length": best["ema_length"], best["metric"]: best["value"]}
            rows.append({**row, "valued on": best["valued_on"], **quality_columns(best)})
    return pd.DataFrame(rows)


def one_metric(experiments: Mapping[str, Experiment]) -> str:
    """The name of the metric of all experiments.

    Raises:
        UserError: the experiments were evaluated with different metrics.
    """
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
    return str(next(iter(metrics.values())))


def _decay_time(used: FlatParams) -> float:
    """1 / (α_ref² t_ref), to which the best EMA length is proportional (EDM2 Figure 13); NaN if the
    learning rate is constant or unknown.
    """
    rate, decay = used.get("diffusion.lr_ref"), used.get("diffusion.lr_decay_batches")
    if not isinstance(rate, (int, float)) or not isinstance(decay, (int, float)):
        return math.nan
    return 1 / (rate**2 * decay) if math.isfinite(decay) else math.nan


def differing_params(experiments: Mapping[str, Experiment]) -> list[str]:
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
        if first.get(key) != other.get(key) and key not in COMMON and not key.startswith(PER_CONFIG)
    }
    return sorted(keys)


def comparison_chart(variants: Sequence[Variant], params: Sequence[str]) -> Spec:
    """All EMA curves in one chart, minima circled, with the values of `params` in the legend, if these are
    at most MAX_LEGEND_PARAMS.
    """
    shown = params if len(params) <= MAX_LEGEND_PARAMS else []
    curves = {}
    for variant in variants:
        values = [f"{k.rpartition('.')[2]} {shown_value(variant.used.get(k))}" for k in shown]
        name = f"{', '.join(variant.experiments)} {variant.config}"
        curve = pd.concat([ema_curve(networks) for networks in variant.trainings.values()])
        curves[f"{name} ({', '.join(values)})" if values else name] = curve
    return metric_curves(curves, str(curve["metric"].iloc[0]))
