"""Training dynamics: magnitudes of activations, weights and updates over training (EDM2 Figure 3)."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from edm2.reporting.charts import Spec
from edm2.reporting.time_charts import Line, gaps, panel
from edm2.reporting.trainings import Trainings, mean_over_trainings

QUANTITIES = ("weights", "activations", "updates")
NOT_FINITE = "not finite"  # observed, if a measurement was NaN or infinite
FLAT = 1.05  # magnitudes that end within this factor of their first measurement are flat
SIDES = {"enc": "encoder", "dec": "decoder"}
BOUNDED = 1.5  # activations that grow by a smaller factor in the second half are bounded
WEIGHTS_IN_PAPER = {"C": "grow", "D": "grow", "E": "flat", "F": "flat", "G": "flat"}
ACTIVATIONS_IN_PAPER = {"C": "grow", **dict.fromkeys("DEFG", "bounded")}

# by config and seed; columns nimg and <quantity>_<max or mean>/<bucket>
Curves = Mapping[str, Trainings]
Cell = str | tuple[float, ...]


def by_bucket(rows: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """The columns `quantity`/<bucket> of training curves: one column per bucket, indexed by nimg.

    Rows without any measurement are left out; values that were not finite stay NaN.
    """
    columns = {
        name: str(name).removeprefix(f"{quantity}/")
        for name in rows
        if str(name).startswith(f"{quantity}/")
    }
    measured = [name for name in rows if str(name).partition("_")[0] in QUANTITIES]
    rows = rows.dropna(subset=measured, how="all")
    return rows.set_index("nimg")[list(columns)].rename(columns=columns)


def dynamics_table(curves: Curves) -> pd.DataFrame:
    """One row per config: the magnitudes observed here, beside what the paper reports.

    Weights: mean magnitude at the end over that at the first measurement, smallest to largest
    bucket. Activations: the maximum, and its growth over the second half in the bucket that grows
    most. Updates: mean relative size over the last quarter, and the largest bucket over the
    smallest. Of several trainings: the smallest and largest value, and how many of them an observation is
    of if they differ. The paper's columns are empty for configs of which it says nothing. Configs without
    measurements have no row.
    """
    rows = []
    for config, trainings in curves.items():
        cells = [
            {**_weights(config, table), **_activations(config, table), **_updates(table)}
            for table in trainings.values()
            if by_bucket(table, "weights_mean").size
        ]
        if cells:
            count = {"trainings": len(cells)} if len(cells) > 1 else {}
            joined = {key: _joined(key, [cell[key] for cell in cells]) for key in cells[0]}
            rows.append({"config": config, **count, **joined})
    return pd.DataFrame(rows)


def _joined(key: str, cells: Sequence[Cell]) -> object:
    """What the trainings of a config have in one column: a number or a range of numbers, or words."""
    words = Counter(cell for cell in cells if isinstance(cell, str))
    if len(words) == 1 and words.total() == len(cells):
        return cells[0]
    numbers = [number for cell in cells if not isinstance(cell, str) for number in cell]
    digits = ".3f" if key.startswith("weights") else ".4g"
    if len(numbers) == 1 and not words:
        return numbers[0]
    text = [f"{min(numbers):{digits}} to {max(numbers):{digits}}"] if numbers else []
    return ", ".join(text + [f"{word} in {count}" for word, count in words.items()])


def _weights(config: str, rows: pd.DataFrame) -> dict[str, Cell]:
    weights = by_bucket(rows, "weights_mean")
    growth = weights.iloc[-1] / weights.iloc[0]
    not_growing = "shrink" if growth.min() <= 1 / FLAT else "flat"
    cells: dict[str, Cell] = {
        "weights: end / start": (float(growth.min()), float(growth.max())),
        "weights: paper": WEIGHTS_IN_PAPER.get(config, ""),
        "weights: observed": "grow" if growth.max() >= FLAT else not_growing,
    }
    return _marked(cells, weights)


def _activations(config: str, rows: pd.DataFrame) -> dict[str, Cell]:
    maxima = by_bucket(rows, "activations_max")
    late_growth = float((maxima.iloc[-1] / maxima.iloc[len(maxima) // 2]).max())
    cells: dict[str, Cell] = {
        "activations: maximum": (float(maxima.max().max()),),
        "activations: growth in 2nd half": (late_growth,),
        "activations: paper": ACTIVATIONS_IN_PAPER.get(config, ""),
        "activations: observed": "bounded" if late_growth < BOUNDED else "grow",
    }
    return _marked(cells, maxima)


def _updates(rows: pd.DataFrame) -> dict[str, Cell]:
    updates = by_bucket(rows, "updates_mean")
    sizes = updates.iloc[-max(1, len(updates) // 4) :].mean()
    with np.errstate(invalid="ignore"):  # ∞/∞, which is marked
        spread = float(sizes.max() / sizes.min())
    cells: dict[str, Cell] = {
        "relative update": (float(sizes.mean()),),
        "updates: largest / smallest bucket": (spread,),
    }
    return _marked(cells, updates)


def _marked(cells: Mapping[str, Cell], measured: pd.DataFrame) -> dict[str, Cell]:
    """The cells; ours say so if a measurement behind them is NaN or infinite."""
    if np.isfinite(measured).all(axis=None):
        return dict(cells)
    return {key: cell if "paper" in key else NOT_FINITE for key, cell in cells.items()}


def magnitudes_panels(curves: Curves) -> list[Spec]:
    """Panels of activations, then weights, for each config; a color per resolution; means over trainings.

    If they were measured of averages (EDM2 Figure 15), these are in two more panels. Configs without
    measurements have no panel.
    """
    panels = []
    for config, trainings in curves.items():
        rows = mean_over_trainings(trainings)
        for kind in ("", "average/"):
            for quantity in ("activations", "weights"):
                if lines := _lines(rows, kind + quantity):
                    of = "averaged network, " if kind else ""
                    title = f"Config {config}: {of}{quantity}"
                    unit = f"{quantity} (root mean square)"
                    panels.append(panel(title, unit, lines, ordered=True, log=True))
    return panels


def updates_panels(curves: Curves) -> list[Spec]:
    """A panel per config: relative size of updates, which is the effective learning rate; means over
    trainings.
    """
    lines = {
        config: _lines(mean_over_trainings(trainings), "updates")
        for config, trainings in curves.items()
    }
    unit = "relative update ‖Δw‖ / ‖w‖"
    return [
        panel(f"Config {config}: updates", unit, of_config, ordered=True, log=True)
        for config, of_config in lines.items()
        if of_config
    ]


def dynamics_gaps(curves: Curves) -> list[str]:
    """Which measurements of each training are not finite; see `gaps`."""
    return [
        note
        for config, trainings in curves.items()
        for seed, rows in trainings.items()
        for quantity in (*QUANTITIES, "average/activations", "average/weights")
        for note in gaps(_lines(rows, quantity), f"{quantity} of config {config}, training {seed}")
    ]


def _lines(rows: pd.DataFrame, quantity: str) -> list[Line]:
    """Mean (strong) and maximum (faint) of every bucket, those of the highest resolution first."""
    lines = []
    for kind, faint in (("mean", False), ("max", True)):
        measured = by_bucket(rows, f"{quantity}_{kind}")
        for bucket in sorted(map(str, measured), key=_from_the_outside):
            side, _, resolution = bucket.partition("-")
            part = SIDES.get(side, "")
            name = resolution if part else bucket
            label = f"{bucket}, {kind}"
            lines.append(Line(name, measured[bucket], label, part, faint))
    return lines


def _from_the_outside(bucket: str) -> tuple[int, bool]:
    """Order of buckets such as enc-64x64: from the highest resolution; those not named by one are last."""
    side, _, resolution = bucket.partition("-")
    height = resolution.partition("x")[0]
    return -int(height) if height.isdigit() else 0, side != "enc"
