"""The final numbers, for scripts and for tables of `dvc metrics show` and `dvc exp show`.

metrics.json has all of them. DVC makes a row of each file and a column of each name, so what a reader
compares is in files of its own: best/G.json of a config, shared.json of what all configs share. Their names
have no slash, so that `dvc exp show --drop` can leave out paths, which are the columns of files.
"""

from pathlib import Path

import pandas as pd

from edm2.reporting.selection import metrics_of
from edm2.reporting.stage_outputs import StageOutputs
from edm2.reporting.trainings import by_training, mean_and_interval
from edm2.runtime.files import write_json, write_text

LOSS = "train/weighted_mse"  # comparable between configs; the loss of some also has an uncertainty
VAE_METRICS = ("psnr", "ssim")
FEATURE_METRICS = ("accuracy_held_out", "at_chance")


def write_summary(outputs: StageOutputs, folder: Path) -> None:
    """Write metrics.json, best/CONFIG.json, shared.json, and training.csv, the loss of each training."""
    (folder / "best").mkdir(parents=True, exist_ok=True)
    best = best_by_config(outputs)
    stages = {stage: outputs.metrics(stage) for stage in ("vae", "baselines", "features")}
    summary = {f"{stage}/{key}": value for stage, of in stages.items() for key, value in of.items()}
    for config, metrics in best.items():
        summary |= {f"{config}/best/{key}": value for key, value in metrics.items()}
        write_json(folder / f"best/{config}.json", _without_slashes(metrics))
    write_json(folder / "metrics.json", summary)
    write_json(folder / "shared.json", _shared(stages))
    write_text(folder / "training.csv", training_losses(outputs).to_csv(index=False))


def best_by_config(outputs: StageOutputs) -> dict[str, dict[str, float]]:
    """The metrics of the best network of each config, and its EMA length.

    Of several trainings: means over them, and the interval of the main metric.
    """
    summary = {}
    for config, trainings in by_training(outputs.networks).items():
        best = outputs.best_networks[config]
        pairs = zip(trainings.values(), best.iterrows(), strict=True)
        metrics = pd.DataFrame([metrics_of(rows, network) for rows, (_, network) in pairs])
        means = metrics.mean(skipna=False)
        values = {str(key): float(value) for key, value in means.items()}
        values["ema_length"] = float(best["ema_length"].mean())
        if len(best) > 1:
            _, low, high = mean_and_interval(best["value"].tolist())
            metric = best["metric"].iloc[0]
            values |= {f"{metric}/low": low, f"{metric}/high": high}
        summary[config] = values
    return summary


def training_losses(outputs: StageOutputs) -> pd.DataFrame:
    """A row per training and time: config, training_seed, nimg, weighted_mse."""
    tables = [
        rows[["nimg", LOSS]]
        .dropna()  # rows of other measurements
        .set_axis(["nimg", "weighted_mse"], axis=1)
        .assign(config=config, training_seed=seed)
        for config, trainings in outputs.training.items()
        for seed, rows in trainings.items()
    ]
    columns = ["config", "training_seed", "nimg", "weighted_mse"]
    return pd.concat(tables)[columns] if tables else pd.DataFrame(columns=columns)


def _shared(stages: dict[str, dict[str, float]]) -> dict[str, float]:
    """Quality of the VAE, the distances that the baselines have, and the accuracy of the classifier."""
    vae, features = stages["vae"], stages["features"]
    return (
        {key: vae[key] for key in VAE_METRICS if key in vae}
        | _without_slashes(stages["baselines"])
        | {key: features[key] for key in FEATURE_METRICS if key in features}
    )


def _without_slashes(metrics: dict[str, float]) -> dict[str, float]:
    return {key.replace("/", "_"): value for key, value in metrics.items()}
