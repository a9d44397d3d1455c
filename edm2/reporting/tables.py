"""Tables: our results beside the paper's."""

import math
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from edm2.params.errors import UserError
from edm2.reporting.selection import (
    EVALUATION_KEYS,
    FRECHET,
    OTHER_BLOCKS,
    images_of,
    is_searched,
    main_metric,
)
from edm2.reporting.trainings import (
    best_networks,
    by_training,
    how_many,
    listed,
    mean_cells,
    mean_curve,
    place_cells,
    valued_on,
)
from edm2.runtime.files import write_text
from edm2.runtime.manifest import REBUILD_HINT

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

    Of several trainings of a config, values are means over them, each at its own best EMA length.
    They are of other images than those that chose the EMA length, where there are any ("valued on").
    The names of the columns give detector and sample count of each side, which are never the same.
    Cells of the paper are empty for configs that it does not have.

    Args:
        nonfinite_steps: by config, which steps of its trainings were not finite, if any were.
    """
    trainings = by_training(table)
    paper = paper_configs().reindex(list(trainings))
    rows = []
    for config, of_config in trainings.items():
        reference = paper.loc[config]
        rows.append(
            {
                "config": config,
                "name": reference["name"],
                **_ours(best_networks(of_config), nonfinite_steps.get(config, "")),
                f"paper, ImageNet-512: {PAPER_METRIC}": reference["fid"],
                "paper, ImageNet-512: EMA length": reference["ema_length"],
            }
        )
    return pd.DataFrame(rows)


def _ours(best: pd.DataFrame, nonfinite_steps: str) -> dict[str, object]:
    """Our cells of one config, from the best network of each training."""
    lengths = best["ema_length"].tolist()
    return {
        **mean_cells(f"ours: {best['metric'].iloc[0]}", best["value"].tolist(), "ours: "),
        "ours: valued on": valued_on(best),
        **_other_values(best),
        "ours: EMA length": best["ema_length"].mean(),
        **({"ours: each EMA length": listed(lengths)} if len(best) > 1 else {}),
        **{f"ours: {name}": cell for name, cell in place_cells(best).items()},
        "ours: average": best["average"].iloc[0],
        **({} if (best["guidance"] == 1).all() else {"ours: guidance": best["guidance"].mean()}),
        **({"ours: singular": "yes"} if best["singular"].any() else {}),
        **({"ours: detector at chance": "yes"} if best["at_chance"].any() else {}),
        **({"ours: training not finite": nonfinite_steps} if nonfinite_steps else {}),
        "ours: at edge of grid": how_many(best["at_edge"].tolist()),
        "ours: reconstruction error": best["error"].mean(),
    }


def _other_values(best: pd.DataFrame) -> dict[str, object]:
    """What else is known of the value: on the images that chose the network, by seed block, on fresh
    seeds.
    """
    blocks = best["seed_blocks"].max()
    fresh = best["fresh"].mean(skipna=False)
    chosen: dict[str, object] = {"ours: where it was chosen": best["curve_value"].mean()}
    if OTHER_BLOCKS not in valued_on(best):
        return {} if np.isnan(fresh) else chosen
    return {
        f"ours: std over {blocks} seed blocks": best["std"].mean(),
        **chosen,
        f"ours: {_lowest(blocks)}": best["lowest"].mean(),
        **({} if np.isnan(fresh) else {"ours: on fresh seeds": fresh}),
    }


def curve_means(curve: pd.DataFrame) -> pd.DataFrame:
    """The EMA curve of each config: mean over trainings at each EMA length that all of them have, and
    the ends of its 95 % interval.
    """
    means = [
        mean_curve(rows, "ema_length").assign(config=config, metric=rows["metric"].iloc[0])
        for config, rows in curve.groupby("config", sort=False)
    ]
    columns = ["config", "ema_length", "metric", "trainings", "value", "low", "high"]
    return pd.concat(means, ignore_index=True)[columns]


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
    added += ["merged_blocks", "standard_error"] if is_searched(rows) else []
    added += ["at_chance"] if rows["at_chance"].any() else []
    others = table[~(table["metric"].str.fullmatch(FRECHET) | table["metric"].isin(rows["metric"]))]
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
                f"slash and a metric: damaged. {REBUILD_HINT}"
            )
        rows.append({"images": BASELINE_IMAGES[kind], "metric": metric, "value": value})
    metrics = {key.partition("/")[2] for key in baselines}
    for config, trainings in by_training(table).items():
        best = best_networks(trainings)
        pairs = zip(trainings.values(), best.iterrows(), strict=True)
        values = pd.DataFrame(
            [images_of(t, row).groupby("metric")["value"].mean() for t, (_, row) in pairs]
        )
        at = f"EMA length {best['ema_length'].iloc[0]:.3g}"
        if len(best) > 1:
            at = "the best EMA length of each training"
        images = {"images": f"generated by config {config} at {at}"}
        for metric in sorted(metrics & set(values.columns)):
            cells = mean_cells("value", values[metric].tolist())
            rows.append(images | {"metric": metric} | cells)
    return pd.DataFrame(rows, columns=None if rows else ["images", "metric", "value"])


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
