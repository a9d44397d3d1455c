"""What the stages left, for the report to read."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd


@dataclass(frozen=True)
class StageOutputs:
    """What the stages left below `folder`, for the configs that params name."""

    folder: Path
    configs: Sequence[str]

    @property
    def networks(self) -> pd.DataFrame:
        parts = [pd.read_csv(self.folder / f"fid/{config}.csv") for config in self.configs]
        return pd.concat(parts, ignore_index=True)

    @property
    def training(self) -> dict[str, pd.DataFrame]:
        """Of what was trained here; published networks were not."""
        read = {c: pd.read_csv(self.folder / f"training/{c}.csv") for c in self.configs}
        return {config: rows for config, rows in read.items() if len(rows)}

    def metrics(self, stage: str) -> dict[str, float]:
        found: dict[str, float] = json.loads((self.folder / stage / "metrics.json").read_text())
        return found
