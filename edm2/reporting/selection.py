"""Which rows of the table of networks (reports/fid) belong together: one metric, one curve, the best."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from edm2.params.errors import NotFiniteError
from edm2.reporting.reading import read_table

FRECHET = r"(fd_.*|fid)_\d+k?"  # names of the Fréchet distance of a number of samples
# columns that identify generated images but for their number, an evaluation, and one seed block of that
IMAGE_KEYS = ["config", "training_seed", "network", "guidance", "seeds"]
EVALUATION_KEYS = [*IMAGE_KEYS, "samples"]
SEED_BLOCK_KEYS = [*EVALUATION_KEYS, "first_seed"]
# the images that a minimum is valued on, in relation to those that chose it
OTHER_BLOCKS, FRESH_SEEDS, SAME_IMAGES = "other seed blocks", "fresh seeds", "the same images"
NUMBERS = ["training_seed", "ema_length", "nimg", "guidance", "samples", "first_seed", "value"]
COLUMNS = [*SEED_BLOCK_KEYS, "tensors", "metric", *NUMBERS]


def read_networks(files: Iterable[Path | TextIO]) -> pd.DataFrame:
    """The tables of all trainings as one: a row per network, guidance strength, seed block, metric.

    Raises:
        UserError: a file is damaged.
        NotFiniteError: a value is missing, NaN or infinite.
    """
    table = pd.concat([read_table(f, COLUMNS, NUMBERS) for f in files], ignore_index=True)
    for _, row in table[~np.isfinite(table["value"])].iterrows():
        raise NotFiniteError(
            f"reports/fid/{row['config']}-{row['training_seed']}.csv, network {row['network']}, guidance "
            f"{row['guidance']:g}: {row['metric']} is {row['value']}: expected a finite number. Remove "
            "this table and run `dvc repro`."
        )
    if "at_chance" not in table:  # of revisions without this column
        table["at_chance"] = False
    return table


def main_metric(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the Fréchet distance with the most samples; a curve never mixes metrics.

    One row per evaluation, whose value is the mean over its seed blocks. The columns `seed_blocks`, `std`,
    `lowest` and `blocks` are their number, statistics over them, and their values by first seed.
    """
    rows = table[table["metric"].str.fullmatch(FRECHET)]
    rows = rows[rows["samples"] == rows["samples"].max()]
    if "seed_blocks" in rows:
        return rows  # already reduced
    evaluations = rows.sort_values("first_seed").groupby(EVALUATION_KEYS)
    values = evaluations["value"]
    blocks = {
        part.index[0]: dict(zip(part["first_seed"], part["value"], strict=True))
        for _, part in evaluations
    }
    statistics = {
        "seed_blocks": values.transform("size"),
        "value": values.transform("mean"),
        "std": values.transform("std"),
        "lowest": values.transform("min"),
        "blocks": pd.Series(blocks, dtype=object),
    }
    return rows.assign(**statistics).loc[sorted(blocks)]


def images_of(table: pd.DataFrame, row: pd.Series) -> pd.DataFrame:
    """All rows of the images that the value of a row of `main_metric`, or of a minimum, is of."""
    if "picks" in row:
        return table.merge(row["picks"], on=list(row["picks"]))
    return table[(table[IMAGE_KEYS] == row[IMAGE_KEYS]).all(axis=1)]


def metrics_of(table: pd.DataFrame, row: pd.Series) -> dict[str, float]:
    """All metrics of the images that the value of a row is of, by name; means over seed blocks."""
    images = images_of(table, row)
    means = (
        images[images["samples"] == row["samples"]].groupby("metric", sort=False)["value"].mean()
    )
    return {str(name): float(value) for name, value in means.items()}


def uniform_networks(table: pd.DataFrame) -> pd.DataFrame:
    """The main metric of networks with one EMA length for all tensors, on the sweep's seeds."""
    rows = main_metric(table)
    return rows[(rows["tensors"] == "all") & (rows["seeds"] == "sweep")]


def at_final_time(rows: pd.DataFrame) -> pd.DataFrame:
    """For each config, the rows of its latest training time."""
    return rows[rows["nimg"] == rows.groupby("config")["nimg"].transform("max")]


def at_one_guidance(rows: pd.DataFrame) -> pd.DataFrame:
    """For each config, the rows without guidance; if all are guided, those of the guidance strength
    with the lowest value, which is a mean over trainings.
    """
    strengths = {
        config: 1.0 if (part["guidance"] == 1).any() else _best_guidance(part)
        for config, part in rows.groupby("config")
    }
    return rows[rows["guidance"] == rows["config"].map(strengths)]


def _best_guidance(rows: pd.DataFrame) -> float:
    means = rows.groupby(["guidance", "network"], as_index=False)["value"].mean()
    return float(means["guidance"].iloc[int(means["value"].argmin())])


def ema_curve(table: pd.DataFrame) -> pd.DataFrame:
    """The main metric over EMA length: uniform networks at the final time, one guidance strength."""
    rows = at_one_guidance(at_final_time(uniform_networks(table)))
    return rows.sort_values(["config", "training_seed", "ema_length"])


def seed_block_curves(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `ema_curve` of one training, with all seed blocks."""
    curve = ema_curve(table).iloc[0]
    same = ["training_seed", "metric", "samples", "tensors", "seeds", "nimg", "guidance"]
    return table[(table[same] == curve[same]).all(axis=1)]


def minimum(curve: pd.DataFrame) -> pd.Series:
    """The row with the lowest value of one curve, of those with all of its seed blocks.

    A minimum of noisy values is too low on average, so of several seed blocks each is valued at the
    network that is best on the others (cross-fitting). Columns are added or changed:

    - `value`, `std`: mean and standard deviation over these; with one seed block, the value on the curve.
    - `valued_on`: OTHER_BLOCKS, or SAME_IMAGES.
    - `curve_value`: the value on the curve, which is that of the images that chose it.
    - `lowest`: of all rows and seed blocks, as in the paper.
    - `at_edge`: whether its EMA length is the shortest or the longest of several.
    - `picks`: the images that `value` is of, for `images_of`.

    Raises:
        ValueError: no row has all seed blocks.
    """
    blocks = pd.DataFrame(curve["blocks"].tolist())
    complete = blocks.notna().all(axis=1).to_numpy()
    if not complete.any():
        raise ValueError("expected a network with all seed blocks")
    candidates, blocks = curve[complete], blocks[complete]
    best = candidates.iloc[int(candidates["value"].argmin())].copy()
    edges = {curve["ema_length"].min(), curve["ema_length"].max()}
    best["at_edge"] = len(curve) > 1 and best["ema_length"] in edges
    best["curve_value"], best["lowest"] = best["value"], curve["lowest"].min()
    best["valued_on"] = SAME_IMAGES if len(blocks.columns) == 1 else OTHER_BLOCKS
    chosen = best_of_others(blocks.to_numpy()[None])[0]
    values = blocks.to_numpy()[chosen, range(len(chosen))]
    best["value"] = values.mean()
    best["std"] = values.std(ddof=1) if len(values) > 1 else math.nan
    picks = candidates.iloc[chosen][IMAGE_KEYS].reset_index(drop=True)
    best["picks"] = picks.assign(first_seed=blocks.columns)
    return best


def best_of_others(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Position of the length that is best on the mean of all other blocks; of a single block, on itself.

    Args:
        values: [trainings, EMA lengths, seed blocks].

    Returns:
        [trainings, seed blocks].
    """
    blocks = values.shape[2]
    others = values.sum(axis=2, keepdims=True) - values if blocks > 1 else values
    return others.argmin(axis=1)


def best_of(table: pd.DataFrame) -> pd.Series:
    """The minimum of one training over EMA lengths, without guidance if there is any such network, else also
    over guidance strengths. With one seed block it is valued on fresh seeds, if it was evaluated there.
    """
    rows = at_final_time(uniform_networks(table))
    unguided = rows[rows["guidance"] == 1]
    best = minimum(rows if unguided.empty else unguided)
    fresh = fresh_seeds_row(table, best)
    if best["valued_on"] == SAME_IMAGES and fresh is not None:
        best["value"], best["valued_on"] = fresh["value"], FRESH_SEEDS
        best["picks"] = fresh[IMAGE_KEYS].to_frame().T.infer_objects()
    return best


def value_in_words(best: pd.Series) -> str:
    """The value of a minimum, of which images it is, and the value of those that chose it."""
    value = f"{best['metric']} = {best['value']:.4g} on {best['valued_on']}"
    if best["valued_on"] == SAME_IMAGES:
        return f"{value} that chose it"
    return f"{value} ({best['curve_value']:.4g} where it was chosen)"


def best_unguided_and_guided(table: pd.DataFrame) -> list[pd.Series]:
    """The best network of one training without guidance and the best with it, if there are both."""
    parts = [table[table["guidance"] == 1], table[table["guidance"] != 1]]
    return [best_of(part) for part in parts if len(part)]


def fresh_seeds_row(table: pd.DataFrame, best: pd.Series) -> pd.Series | None:
    """The evaluation of the network `best` on fresh seeds (evaluation.confirm), or None."""
    rows = main_metric(table)
    fresh = rows[
        (rows["seeds"] == "fresh")
        & (rows["config"] == best["config"])
        & (rows["training_seed"] == best["training_seed"])
        & (rows["network"] == best["network"])
        & (rows["guidance"] == best["guidance"])
    ]
    return None if fresh.empty else fresh.iloc[0]


def quality_columns(best: pd.Series) -> dict[str, object]:
    """Columns that say how far a minimum can be trusted."""
    return {
        **({"detector at chance": "yes"} if best["at_chance"] else {}),
        "at edge of grid": "yes" if best["at_edge"] else "no",
        "reconstruction error": best["error"],
        "sum of weights": best["weight_sum"],
        "snapshots": best["snapshots"],
    }
