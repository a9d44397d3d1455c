"""The outputs of the other stages, as the report reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from edm2.params.replicates import Replicate
from edm2.reporting.reading import read_metrics, read_table
from edm2.reporting.selection import read_networks
from edm2.runtime.checksums import require_checksum
from edm2.runtime.log import NONFINITE_STEPS


@dataclass(frozen=True)
class StageOutputs:
    """The tables and metrics that the stages wrote below `folder`, for the given trainings.

    Raises:
        UserError: a file is missing, or is not as it was written.
    """

    folder: Path
    replicates: Sequence[Replicate]

    @cached_property
    def networks(self) -> pd.DataFrame:
        """One row per network, guidance strength, seed block and metric."""
        return read_networks(self._file(f"fid/{replicate}.csv") for replicate in self.replicates)

    @cached_property
    def training(self) -> dict[str, pd.DataFrame]:
        """Training curves by label, without those of published networks."""
        columns = ["nimg", "train/nonfinite_gradients"]
        curves = {
            self._label(replicate): read_table(self._file(f"training/{replicate}.csv"), columns)
            for replicate in self.replicates
        }
        return {label: rows for label, rows in curves.items() if len(rows)}

    @cached_property
    def nonfinite_steps(self) -> dict[str, str]:
        """By config, which steps of its training were not finite; empty without any."""
        marks = {config: nonfinite_steps(rows) for config, rows in self.training.items()}
        return {config: mark for config, mark in marks.items() if mark}

    @cached_property
    def vae_training(self) -> pd.DataFrame:
        """Training curves of the VAE; empty if none was trained."""
        return read_table(self._file("vae/curves.csv"), ["nimg"])

    def metrics(self, stage: str) -> dict[str, float]:
        """The final metrics of a stage."""
        return read_metrics(self._file(f"{stage}/metrics.json"))

    def _label(self, replicate: Replicate) -> str:
        """The config alone, if it has one training."""
        trainings = [other for other in self.replicates if other.config == replicate.config]
        return str(replicate) if len(trainings) > 1 else replicate.config

    def _file(self, name: str) -> Path:
        return require_checksum(self.folder / name)


def nonfinite_steps(curves: pd.DataFrame) -> str:
    """Which steps of a training had a loss or gradients that were not finite; empty if none had."""
    if NONFINITE_STEPS not in curves:
        return ""
    shares = curves[NONFINITE_STEPS].fillna(0.0)  # written only where it is not 0
    if not (shares > 0).any():  # such rows were removed when the training continued before them
        return ""
    rows = (
        curves["train/nonfinite_gradients"].notna().sum()
    )  # of the log, not of other measurements
    first = int(curves["nimg"][shares > 0].iloc[0])
    return f"{shares.sum() / rows:.2%} of the steps, first before {first} images"
