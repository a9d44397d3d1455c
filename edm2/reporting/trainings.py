"""The trainings of a config, which differ only in their seed: means over them and intervals."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from edm2.reporting.selection import best_of, fresh_seeds_row, search_columns

CONFIDENCE = 0.95
Trainings = Mapping[int, pd.DataFrame]  # a table of each training of one config, by seed


def by_training(table: pd.DataFrame) -> dict[str, dict[int, pd.DataFrame]]:
    """The rows of each training, by config and seed, in the order of the table."""
    groups: dict[str, dict[int, pd.DataFrame]] = {}
    for (config, _), rows in table.groupby(["config", "training_seed"], sort=False):
        groups.setdefault(str(config), {})[int(rows["training_seed"].iloc[0])] = rows
    return groups


def mean_and_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean over trainings, and the ends of its 95 % confidence interval by Student's t.

    The ends are NaN with one training, whose value says nothing about others.
    """
    mean, count = float(np.mean(values)), len(values)
    if count == 1:
        return mean, np.nan, np.nan
    half = half_width(float(np.std(values, ddof=1)), count)
    return mean, mean - half, mean + half


def half_width(std: float, count: int) -> float:
    """Of the 95 % confidence interval of a mean by Student's t.

    Args:
        std: standard deviation of the values, with count - 1 degrees of freedom.
        count: of the values, at least 2.
    """
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * std / math.sqrt(count)


def mean_cells(name: str, values: Sequence[float], side: str = "") -> dict[str, object]:
    """Cells of a table: the mean of a value over trainings.

    With several trainings also its interval, their number, and the value of each; the names of these
    columns start with `side`.
    """
    mean, low, high = mean_and_interval(values)
    if len(values) == 1:
        return {name: mean}
    return {
        name: mean,
        f"{side}95 % interval": f"{low:.4g} to {high:.4g}",
        f"{side}trainings": len(values),
        f"{side}each training": listed(values),
    }


def listed(values: Sequence[float]) -> str:
    """The value of each training, in the order of seeds."""
    return ", ".join(f"{value:.4g}" for value in values)


def how_many(marks: Sequence[bool]) -> str:
    """yes or no, or in how many of the trainings."""
    if all(marks):
        return "yes"
    return f"{sum(marks)} of {len(marks)}" if any(marks) else "no"


def best_networks(trainings: Trainings) -> pd.DataFrame:
    """The best network of each training (see `best_of`), a row for each.

    Column `fresh` has the value on fresh seeds, NaN where there is none.
    """
    rows = []
    for table in trainings.values():
        best = best_of(table)
        fresh = fresh_seeds_row(table, best)
        best["fresh"] = np.nan if fresh is None else fresh["value"]
        rows.append(best)
    return pd.DataFrame(rows, index=pd.Index(trainings))


def place_cells(best: pd.DataFrame) -> dict[str, str]:
    """The 95 % confidence interval of the best EMA length that searches (sweep.search) found; else nothing.

    That of one training is of its images, that of several is over trainings, by Student's t.
    """
    if "minimum" not in best or best["minimum"].isna().any():
        return {}
    if len(best) == 1:
        return search_columns(best.iloc[0])
    _, low, high = mean_and_interval(best["minimum"].tolist())
    return {"its interval": f"{low:.3g} to {high:.3g}"}


def valued_on(best: pd.DataFrame) -> str:
    """The images that the values of best networks are of, in relation to those that chose them."""
    return ", ".join(dict.fromkeys(best["valued_on"]))


def mean_curve(rows: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """Mean over the trainings of one config, at each place on the axes `keys` that all of them have.

    Columns: keys, in ascending order; trainings; seed_blocks, those of the training with the fewest; value;
    low and high, the ends of its interval.
    """
    trainings = rows["training_seed"].nunique()
    points = []
    for place, at in rows.groupby(list(keys)):
        if at["training_seed"].nunique() == trainings:
            mean = mean_and_interval(at["value"].tolist())
            points.append((*place, trainings, at["seed_blocks"].min(), *mean))
    return pd.DataFrame(points, columns=[*keys, "trainings", "seed_blocks", "value", "low", "high"])


def lowest_point(curve: pd.DataFrame) -> pd.Series:
    """The point of a mean curve with the lowest value, of those with all seed blocks."""
    complete = curve[curve["seed_blocks"] == curve["seed_blocks"].max()]
    return complete.iloc[int(complete["value"].argmin())]


def mean_over_trainings(trainings: Trainings) -> pd.DataFrame:
    """Training curves: the mean at each time, NaN where a training has no finite value."""
    tables = [table.set_index("nimg") for table in trainings.values()]
    return (sum(tables[1:], tables[0]) / len(tables)).reset_index()
