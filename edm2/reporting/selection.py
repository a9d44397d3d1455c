"""Which rows of the table of networks (reports/fid) belong together: one metric, one curve, the best."""

from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd

from edm2.params.errors import NotFiniteError
from edm2.reporting.reading import read_table

FRECHET = r"(fd_.*|fid)_\d+k?"  # names of the Fréchet distance of a number of samples
# columns that identify one evaluation of a network, and one seed block of that evaluation
EVALUATION_KEYS = ["config", "training_seed", "network", "guidance", "seeds", "samples"]
SEED_BLOCK_KEYS = [*EVALUATION_KEYS, "first_seed"]
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

    One row per evaluation: of several seed blocks the one with the lowest value, as in the paper.
    The columns `seed_blocks`, `mean` and `std` are their number and the statistics over them.
    """
    rows = table[table["metric"].str.fullmatch(FRECHET)]
    rows = rows[rows["samples"] == rows["samples"].max()]
    if "seed_blocks" in rows:
        return rows  # already reduced
    values = rows.groupby(EVALUATION_KEYS)["value"]
    statistics = {
        "seed_blocks": values.transform("size"),
        "mean": values.transform("mean"),
        "std": values.transform("std"),
    }
    return rows.assign(**statistics).loc[sorted(values.idxmin())]


def metrics_of(table: pd.DataFrame, row: pd.Series) -> dict[str, float]:
    """All metrics of the images that a row describes, by name."""
    same = table[(table[SEED_BLOCK_KEYS] == row[SEED_BLOCK_KEYS]).all(axis=1)]
    return {
        str(name): float(value) for name, value in zip(same["metric"], same["value"], strict=True)
    }


def uniform_networks(table: pd.DataFrame) -> pd.DataFrame:
    """The main metric of networks with one EMA length for all tensors, on the sweep's seeds."""
    rows = main_metric(table)
    return rows[(rows["tensors"] == "all") & (rows["seeds"] == "sweep")]


def at_final_time(rows: pd.DataFrame) -> pd.DataFrame:
    """For each config, the rows of its latest training time."""
    return rows[rows["nimg"] == rows.groupby("config")["nimg"].transform("max")]


def at_one_guidance(rows: pd.DataFrame) -> pd.DataFrame:
    """For each config, the rows without guidance; if all are guided, those of the guidance strength
    with the lowest value.
    """
    strengths = {
        config: 1.0
        if (part["guidance"] == 1).any()
        else part["guidance"].iloc[int(part["value"].argmin())]
        for config, part in rows.groupby("config")
    }
    return rows[rows["guidance"] == rows["config"].map(strengths)]


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
    """The row with the lowest value of one curve, and `at_edge`: whether its EMA length is the
    shortest or the longest of several.
    """
    lowest = curve.iloc[int(curve["value"].argmin())].copy()
    edges = {curve["ema_length"].min(), curve["ema_length"].max()}
    lowest["at_edge"] = len(curve) > 1 and lowest["ema_length"] in edges
    return lowest


def best_of(table: pd.DataFrame) -> pd.Series:
    """The minimum of the EMA curve of one config."""
    return minimum(ema_curve(table))


def best_unguided_and_guided(table: pd.DataFrame) -> list[pd.Series]:
    """The best network of one config without guidance and the best with it, if there are both."""
    rows = at_final_time(uniform_networks(table))
    parts = [rows[rows["guidance"] == 1], rows[rows["guidance"] != 1]]
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
