"""Tables: our results beside the paper's."""

import math
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from edm2.params.errors import UserError
from edm2.reporting.reading import REBUILD
from edm2.reporting.selection import (
    EVALUATION_KEYS,
    FRECHET,
    OTHER_BLOCKS,
    best_of,
    fresh_seeds_row,
    images_of,
    main_metric,
)
from edm2.runtime.files import write_text

PAPER_METRIC = "fid_50k"
BASELINE_IMAGES = {
    "held_out": "held-out images",
    "reconstructions": "VAE reconstructions of held-out images",
}
NETWORK_COLUMNS = [
    "config",
    "training_seed",
    "ema_length",
    "guidance",
    "tensors",
    "average",
    "nimg",
    "seeds",
    "metric",
    "value",
    "singular",
    "error",
    "weight_sum",
    "snapshots",
    "samples",
    "first_seed",
]
NETWORK_ORDER = {  # column: ascending
    "config": True,
    "training_seed": True,
    "seeds": False,
    "tensors": True,
    "nimg": True,
    "guidance": True,
    "ema_length": True,
}


def paper_configs() -> pd.DataFrame:
    """EDM2 Table 1 and Figures 16 to 22, indexed by config name."""
    with files("edm2.reporting").joinpath("paper/configs.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, index_col="config")


def ablation_table(
    table: pd.DataFrame, nonfinite_steps: Mapping[str, str] = MappingProxyType({})
) -> pd.DataFrame:
    """One row per config: our best value and its EMA length, beside the paper's.

    The value is of other images than those that chose the EMA length, where there are any ("valued on").
    The names of the columns give detector and sample count of each side, which are never the same.
    Cells of the paper are empty for configs that it does not have.

    Args:
        nonfinite_steps: by config, which steps of its training were not finite, if any were.
    """
    paper = paper_configs().reindex(list(table["config"].unique()))
    rows = []
    for config, part in table.groupby("config"):
        best, reference = best_of(part), paper.loc[config]
        rows.append(
            {
                "config": config,
                "name": reference["name"],
                f"ours: {best['metric']}": best["value"],
                "ours: valued on": best["valued_on"],
                **_other_values(part, best),
                "ours: EMA length": best["ema_length"],
                "ours: average": best["average"],
                **({} if best["guidance"] == 1 else {"ours: guidance": best["guidance"]}),
                **({"ours: singular": "yes"} if best["singular"] else {}),
                **({"ours: detector at chance": "yes"} if best["at_chance"] else {}),
                **_training_mark(nonfinite_steps.get(str(config), "")),
                "ours: at edge of grid": "yes" if best["at_edge"] else "no",
                "ours: reconstruction error": best["error"],
                f"paper, ImageNet-512: {PAPER_METRIC}": reference["fid"],
                "paper, ImageNet-512: EMA length": reference["ema_length"],
            }
        )
    return pd.DataFrame(rows)


def _training_mark(nonfinite_steps: str) -> dict[str, object]:
    return {"ours: training not finite": nonfinite_steps} if nonfinite_steps else {}


def _other_values(networks: pd.DataFrame, best: pd.Series) -> dict[str, object]:
    """What else is known of the value: on the images that chose the network, by seed block, on fresh
    seeds.
    """
    fresh = fresh_seeds_row(networks, best)
    chosen = {"ours: where it was chosen": best["curve_value"]}
    if best["valued_on"] != OTHER_BLOCKS:
        return {} if fresh is None else chosen
    return {
        f"ours: std over {best['seed_blocks']} seed blocks": best["std"],
        **chosen,
        f"ours: {_lowest(best['seed_blocks'])}": best["lowest"],
        **({} if fresh is None else {"ours: on fresh seeds": fresh["value"]}),
    }


def _lowest(blocks: int) -> str:
    """Name of the column with the value that the paper takes."""
    return f"lowest of {blocks} seed blocks"


def networks_table(table: pd.DataFrame) -> pd.DataFrame:
    """The main metric of every network, and how accurately each was reconstructed.

    Values are means over seed blocks; statistics over these are added if there are several, and whether the
    detector is at chance if it is. Other metrics with the same sample count have columns of their own, with
    their standard errors where these are known.
    """
    rows = main_metric(table)
    rows = rows.sort_values(list(NETWORK_ORDER), ascending=list(NETWORK_ORDER.values()))
    lowest = _lowest(rows["seed_blocks"].max())
    rows = rows.rename(columns={"lowest": lowest})
    added = [] if (rows["seed_blocks"] == 1).all() else ["seed_blocks", "std", lowest]
    added += ["at_chance"] if rows["at_chance"].any() else []
    others = table[~table["metric"].str.fullmatch(FRECHET)]
    for name, other in others.groupby("metric"):
        names = {"value": str(name), "standard_error": f"{name}: standard error"}
        values = other.groupby(EVALUATION_KEYS)[list(names)].agg(
            {"value": "mean", "standard_error": _error_of_mean}
        )
        rows = rows.join(values.rename(columns=names), on=EVALUATION_KEYS)
        added += [column for column in names.values() if rows[column].notna().any()]
    return rows[NETWORK_COLUMNS + added].reset_index(drop=True)


def _error_of_mean(errors: pd.Series) -> float:
    """Standard error of the mean of independent values with these standard errors."""
    return float(np.sqrt((errors.astype(float) ** 2).sum(skipna=False)) / len(errors))


def baseline_table(table: pd.DataFrame, baselines: dict[str, float]) -> pd.DataFrame:
    """Generated images beside real and reconstructed held-out images, all with the same metric.

    Empty if there are too few held-out images for a Fréchet distance.

    Raises:
        UserError: `baselines` are of other images.
    """
    rows: list[dict[str, object]] = []
    for key, value in baselines.items():
        kind, _, metric = key.partition("/")
        if kind not in BASELINE_IMAGES:
            raise UserError(
                f"reports/baselines/metrics.json: {key}: expected {' or '.join(BASELINE_IMAGES)}, a "
                f"slash and a metric: damaged. {REBUILD}"
            )
        rows.append({"images": BASELINE_IMAGES[kind], "metric": metric, "value": value})
    metrics = {key.partition("/")[2] for key in baselines}
    for config, part in table.groupby("config"):
        best = best_of(part)
        images = f"generated by config {config} at EMA length {best['ema_length']:.3g}"
        values = images_of(part, best).groupby("metric")["value"].mean()
        for metric in sorted(metrics & set(values.index)):
            rows.append({"images": images, "metric": metric, "value": values[metric]})
    return pd.DataFrame(rows, columns=["images", "metric", "value"])


def write_table(table: pd.DataFrame, *paths: Path) -> None:
    """Write a table in the formats that the suffixes name: .csv or .md."""
    for path in paths:
        write_text(path, as_markdown(table) if path.suffix == ".md" else table.to_csv(index=False))


def as_markdown(table: pd.DataFrame) -> str:
    """A Markdown table, numbers with four digits, missing values empty."""
    cells = [[str(name) for name in table.columns], ["---"] * len(table.columns)]
    cells += [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return "" if value is None else str(value)
