"""The outputs of the other stages, as the report reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from edm2.params.replicates import Replicate
from edm2.reporting.changes import Experiment
from edm2.reporting.reading import read_metrics, read_table
from edm2.reporting.selection import read_networks
from edm2.reporting.trainings import best_networks, by_training
from edm2.reporting.verdict import Verdict, verdicts
from edm2.runtime.checksums import require_checksum
from edm2.runtime.log import NONFINITE_STEPS
from edm2.runtime.manifest import read_verified

LATENTS: dict[str, tuple[list[str], list[str] | None]] = {  # table: columns, those of numbers
    "spectrum": (["signal", "frequency", "power", "sigma"], ["frequency", "power", "sigma"]),
    "channels": (["channel", "mean", "std", "noise_sigma"], None),
    "robustness": (["sigma"], None),
}


@dataclass(frozen=True)
class StageOutputs:
    """The tables and metrics that the stages wrote below `folder`, for the given trainings.

    Attributes:
        classes: names of the classes of the dataset, by number.

    Raises:
        UserError: a file is missing, or is not as it was written.
    """

    folder: Path
    replicates: Sequence[Replicate]
    classes: Sequence[str]

    @cached_property
    def networks(self) -> pd.DataFrame:
        """One row per network, guidance strength, seed block and metric."""
        return read_networks(self._file(f"fid/{replicate}.csv") for replicate in self.replicates)

    @cached_property
    def best_networks(self) -> dict[str, pd.DataFrame]:
        """By config, the best network of each training; see `best_networks`."""
        trainings = by_training(self.networks)
        return {config: best_networks(of_config) for config, of_config in trainings.items()}

    @cached_property
    def training(self) -> dict[str, dict[int, pd.DataFrame]]:
        """Training curves by config and seed, without those of published networks."""
        columns = ["nimg", "train/nonfinite_gradients"]
        curves: dict[str, dict[int, pd.DataFrame]] = {}
        for replicate in self.replicates:
            rows = read_table(self._file(f"training/{replicate}.csv"), columns)
            if len(rows):
                curves.setdefault(replicate.config, {})[replicate.seed] = rows
        return curves

    @cached_property
    def nonfinite_steps(self) -> dict[str, str]:
        """By config, which steps of its trainings were not finite; empty without any."""
        marks = {}
        for config, trainings in self.training.items():
            of_seed = {seed: nonfinite_steps(rows) for seed, rows in trainings.items()}
            if len(trainings) > 1:
                of_seed = {k: f"training {k}: {mark}" for k, mark in of_seed.items() if mark}
            marks[config] = "; ".join(of_seed.values())
        return {config: mark for config, mark in marks.items() if mark}

    @cached_property
    def vae_training(self) -> pd.DataFrame:
        """Training curves of the VAE; empty if none was trained."""
        return read_table(self._file("vae/curves.csv"), ["nimg"])

    def latents(self, name: str) -> pd.DataFrame:
        """A table about the latents: spectrum, channels or robustness."""
        first, numbers = LATENTS[name]
        return read_table(self._file(f"latents/{name}.csv"), first, numbers)

    @cached_property
    def vae_ema(self) -> pd.DataFrame:
        """Quality of the VAE's reconstructions by EMA length; empty without averages."""
        return read_table(self._file("vae/ema.csv"), ["ema_length", "nimg"])

    @cached_property
    def vae_pictures(self) -> dict[int, Path]:
        """Pictures of held-out images over the VAE's training, by images seen; empty without any."""
        folder = self.folder / "vae/progress"
        files = read_verified(folder)["files"]
        return {int(Path(name).stem): folder / name for name in sorted(files)}

    @cached_property
    def steps(self) -> list[Verdict]:
        """The verdicts on the steps from each config to the next one; empty with one config.

        Raises:
            UserError: their trainings were evaluated differently.
        """
        return verdicts({"": Experiment(self.networks, {}, {})})

    def metrics(self, stage: str) -> dict[str, float]:
        """The final metrics of a stage."""
        return read_metrics(self._file(f"{stage}/metrics.json"))

    @property
    def several_trainings(self) -> bool:
        """Whether a config was trained with more than one seed."""
        return len({replicate.config for replicate in self.replicates}) < len(self.replicates)

    def training_name(self, config: str, seed: int) -> str:
        """A training in words: its config alone, unless there are several seeds."""
        return f"config {config}" + (f", training {seed}" if self.several_trainings else "")

    def class_name(self, number: int) -> str:
        """A class in words; its number alone where that is its name."""
        name = self.classes[number]
        return f"class {number}" if name == str(number) else f"class {number} ({name})"

    def samples(self, config: str, seed: int) -> Path:
        """The folder of a training's samples."""
        return self.folder / f"samples/{config}-{seed}"

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
