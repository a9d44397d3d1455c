"""Training curves of the denoisers and of the VAE."""

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

from edm2.reporting.charts import Spec
from edm2.reporting.time_charts import Line, gaps, panel
from edm2.reporting.trainings import Trainings, mean_over_trainings
from edm2.runtime.log import NONFINITE_GRADIENTS, NONFINITE_STEPS

LOGGED = f"train/{NONFINITE_GRADIENTS}"  # in all rows of the log, and only there
NOISE = "weighted_mse/sigma_"
PANELS = {  # column: title, axis, whether it is logarithmic
    "train/weighted_mse": ("Weighted squared error", "weighted squared error", True),
    "train/loss": ("Training loss", "training loss", False),
    "train/lr": ("Learning rate", "learning rate", False),
}
NOT_TRAINED = "not trained in this project"
QUALITY = {  # pattern of a metric: title, label, whether its axis is logarithmic
    "psnr": ("PSNR", "PSNR in dB", False),
    "ssim": ("SSIM", "SSIM", False),
    "perceptual_(.*)": ("Perceptual distance", r"perceptual distance (\1)", True),
    "rfi?d_.*": ("Fréchet distance to their images", r"\g<0>", True),
}
SCORES = ("images", "reconstructions", "accuracy")


def training_panels(curves: Mapping[str, Trainings]) -> list[Spec]:
    """Loss and learning rate with a line per config, and for each config the error by noise level.

    Of several trainings: a thin line for each, a strong one for their mean.
    """
    logs = {config: _logs(trainings) for config, trainings in curves.items()}
    panels = [
        panel(
            title,
            unit,
            [
                line
                for config, log in logs.items()
                for line in _lines(log, column, f"config {config}")
            ],
            log=log_axis,
        )
        for column, (title, unit, log_axis) in PANELS.items()
    ]
    for config, log in logs.items():
        lines = [
            line for column in _noise_levels(log) for line in _lines(log, column, _noise(column))
        ]
        if lines:
            title = f"Config {config}: error by noise level σ"
            panels.append(panel(title, "weighted squared error", lines, ordered=True, log=True))
    return panels


def training_gaps(curves: Mapping[str, Trainings]) -> list[str]:
    """Which values of each training are not finite; see `gaps`."""
    notes = []
    for config, trainings in curves.items():
        log = _logs(trainings)
        for seed, rows in log.items():
            lines = [Line(k, rows[k]) for k in (*PANELS, *_noise_levels(log)) if k in rows]
            notes += gaps(lines, f"config {config}, training {seed}")
    return notes


def _logs(trainings: Trainings) -> dict[int, pd.DataFrame]:
    """The rows of the log, without those of other measurements, by images seen."""
    return {seed: rows[rows[LOGGED].notna()].set_index("nimg") for seed, rows in trainings.items()}


def _lines(log: Trainings, column: str, name: str) -> list[Line]:
    if not all(column in rows for rows in log.values()):
        return []
    if len(log) == 1:
        return [Line(name, rows[column], name) for rows in log.values()]
    mean = mean_over_trainings({seed: rows.reset_index() for seed, rows in log.items()})
    strong = Line(name, mean.set_index("nimg")[column], f"{name}, mean")
    return [*(Line(name, rows[column], faint=True) for rows in log.values()), strong]


def _noise_levels(log: Trainings) -> list[str]:
    """Columns of the error at a noise level, in ascending order."""
    columns = {str(name) for rows in log.values() for name in rows if str(name).startswith(NOISE)}
    return sorted(columns, key=lambda name: float(name.removeprefix(NOISE)))


def _noise(column: str) -> str:
    return f"σ ≈ {column.removeprefix(NOISE)}"


def vae_panels(rows: pd.DataFrame) -> list[Spec]:
    """Quality of held-out reconstructions, losses, and the discriminator's scores if there is one."""
    panels = [panel(title, line.label, [line], log=log) for title, line, log in _vae_quality(rows)]
    losses, scores = _vae_lines(rows)
    panels.append(panel("Losses", "loss", losses, log=True))
    if scores:
        panels.append(panel("Discriminator", "score, accuracy", scores))
    return panels


def vae_quality(rows: pd.DataFrame) -> pd.DataFrame:
    """A row (metric, nimg, value) per metric of reconstructions and time, if the value is finite."""
    return pd.DataFrame(
        [
            (line.label, nimg, value)
            for _, line, _ in ([] if rows.empty else _vae_quality(rows))
            for nimg, value in line.values.items()
            if np.isfinite(value)
        ],
        columns=["metric", "nimg", "value"],
    )


def vae_gaps(rows: pd.DataFrame) -> list[str]:
    """Which values are not finite; see `gaps`."""
    quality = [line for _, line, _ in _vae_quality(rows)]
    return [note for lines in (quality, *_vae_lines(rows)) for note in gaps(lines, "VAE")]


def _vae_quality(rows: pd.DataFrame) -> list[tuple[str, Line, bool]]:
    """Of each metric of reconstructions: a title, its line, and whether its axis is logarithmic."""
    evaluated = rows.set_index("nimg").dropna(subset="held_out/evaluated_images")
    lines = []
    for column in evaluated:
        if names := quality_names(str(column).removeprefix("held_out/")):
            title, label, log = names
            lines.append((title, Line(title, evaluated[column], label), log))
    return lines


def quality_names(metric: str) -> tuple[str, str, bool] | None:
    """Title, label of a metric of reconstructions, whether its axis is logarithmic; None: no such metric."""
    for pattern, (title, label, log) in QUALITY.items():
        if match := re.fullmatch(pattern, metric):
            return title, match.expand(label), log
    return None


def _vae_lines(rows: pd.DataFrame) -> tuple[list[Line], list[Line]]:
    """Losses and scores."""
    log = rows[rows[LOGGED].notna()].set_index("nimg")
    losses = [Line(k, _since_start(log, f"train/{k}"), k) for k in _losses(log)]
    shown = [name for name in SCORES if f"discriminator/{name}" in log]
    return losses, [Line(k, _since_start(log, f"discriminator/{k}"), k) for k in shown]


def _losses(log: pd.DataFrame) -> list[str]:
    columns = [str(name) for name in log if str(name).startswith("train/")]
    return [
        name.removeprefix("train/") for name in columns if name not in (LOGGED, NONFINITE_STEPS)
    ]


def _since_start(log: pd.DataFrame, column: str) -> pd.Series:
    """Without the rows before it was computed for the first time: some losses begin later than others."""
    computed = log[column].notna()
    if NONFINITE_STEPS in log:
        computed |= log[NONFINITE_STEPS] > 0
    return log[column][computed.cummax()]
