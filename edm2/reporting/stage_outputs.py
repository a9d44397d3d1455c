"""The outputs of the other stages, as the report reads them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from edm2.reporting.selection import read_networks


@dataclass(frozen=True)
class StageOutputs:
    """The tables and metrics that the stages wrote below `folder`, for the given configs."""

    folder: Path
    configs: Sequence[str]

    @cached_property
    def networks(self) -> pd.DataFrame:
        """One row per network, guidance strength, seed block and metric."""
        return read_networks(self.folder / f"fid/{config}.csv" for config in self.configs)

    @cached_property
    def training(self) -> dict[str, pd.DataFrame]:
        """Training curves by config, without those of published networks."""
        curves = {c: pd.read_csv(self.folder / f"training/{c}.csv") for c in self.configs}
        return {config: rows for config, rows in curves.items() if len(rows)}

    @cached_property
    def vae_training(self) -> pd.DataFrame:
        """Training curves of the VAE; empty if none was trained."""
        return pd.read_csv(self.folder / "vae/curves.csv")

    def metrics(self, stage: str) -> dict[str, float]:
        """The final metrics of a stage."""
        path = self.folder / stage / "metrics.json"
        metrics: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
        return metrics
