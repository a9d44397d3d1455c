"""Tables: our results beside the paper's."""

import math
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from edm2.params.errors import UserError
from edm2.reporting.reading import REBUILD
from edm2.reporting.selection import FRECHET, SEED_BLOCK_KEYS, main_metric
from edm2.reporting.trainings import (
    best_networks,
    by_training,
    how_many,
    listed,
    mean_cells,
    mean_curve,
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

    Of several trainings of a config, values are means over them, each at its own best EMA length.

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
        **_seed_block_statistics(best),
        **({"ours: on fresh seeds": best["fresh"].mean()} if best["fresh"].notna().all() else {}),
        "ours: EMA length": best["ema_length"].mean(),
        **({"ours: each EMA length": listed(lengths)} if len(best) > 1 else {}),
        "ours: average": best["average"].iloc[0],
        **({} if (best["guidance"] == 1).all() else {"ours: guidance": best["guidance"].mean()}),
        **({"ours: singular": "yes"} if best["singular"].any() else {}),
        **({"ours: detector at chance": "yes"} if best["at_chance"].any() else {}),
        **({"ours: training not finite": nonfinite_steps} if nonfinite_steps else {}),
        "ours: at edge of grid": how_many(best["at_edge"].tolist()),
        "ours: reconstruction error": best["error"].mean(),
    }


def _seed_block_statistics(best: pd.DataFrame) -> dict[str, object]:
    """Mean and standard deviation over the seed blocks of one training; nothing if there is only one."""
    if len(best) > 1 or best["seed_blocks"].iloc[0] == 1:
        return {}
    (row,) = best.to_dict("records")
    statistics = f"{row['mean']:.4g} ± {row['std']:.2g}"
    return {f"ours: mean ± std of {row['seed_blocks']} seed blocks": statistics}


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


def networks_table(table: pd.DataFrame) -> pd.DataFrame:
    """The main metric of every network, and how accurately each was reconstructed.

    Statistics over seed blocks are added if there are several, and whether the detector is at chance if it
    is. Other metrics with the same sample count have columns of their own, with their standard errors
    where these are known.
    """
    rows = main_metric(table)
    rows = rows.sort_values(list(NETWORK_ORDER), ascending=list(NETWORK_ORDER.values()))
    added = [] if (rows["seed_blocks"] == 1).all() else ["seed_blocks", "mean", "std"]
    added += ["at_chance"] if rows["at_chance"].any() else []
    others = table[~table["metric"].str.fullmatch(FRECHET)]
    for name, other in others.groupby("metric"):
        names = {"value": str(name), "standard_error": f"{name}: standard error"}
        values = other[[*SEED_BLOCK_KEYS, *names]].rename(columns=names)
        rows = rows.merge(values, on=SEED_BLOCK_KEYS, how="left", validate="one_to_one")
        added += [column for column in names.values() if rows[column].notna().any()]
    return rows[NETWORK_COLUMNS + added].reset_index(drop=True)


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
    metrics = sorted({key.partition("/")[2] for key in baselines})
    for config, trainings in by_training(table[table["metric"].isin(metrics)]).items():
        best = best_networks(by_training(table)[config])
        pairs = zip(trainings.values(), best.iterrows(), strict=True)
        values = [_value_of(network, rows) for rows, (_, network) in pairs]
        at = f"EMA length {best['ema_length'].iloc[0]:.3g}"
        if len(values) > 1:
            at = "the best EMA length of each training"
        images = {"images": f"generated by config {config} at {at}"}
        rows.append(images | {"metric": metrics[0]} | mean_cells("value", values))
    return pd.DataFrame(rows, columns=None if rows else ["images", "metric", "value"])


def _value_of(network: pd.Series, rows: pd.DataFrame) -> float:
    """The value of a network on the same images, in rows of one training and another metric."""
    same = ["network", "seeds", "guidance", "first_seed"]
    (value,) = rows[(rows[same] == network[same]).all(axis=1)]["value"]
    return float(value)


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
