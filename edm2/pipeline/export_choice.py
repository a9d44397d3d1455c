"""Which network of a project is exported, and what is known of its quality."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from edm2.params import Params, UserError
from edm2.params.replicates import Replicate
from edm2.pipeline.networks import ALL, SweptNetwork, load_networks
from edm2.pipeline.paths import AVERAGES, sweep_folder, training_folder
from edm2.reporting.headline import doubts, value_with_interval
from edm2.reporting.selection import main_metric, metrics_of, value_in_words
from edm2.reporting.stage_outputs import StageOutputs
from edm2.runtime.checked_json import read_checked

AVERAGE_KEYS = ("ema_length", "nimg", "average", "tensors", "tensors_base", "error", "snapshots")


@dataclass(frozen=True)
class Choice:
    """A network of a project.

    Attributes:
        replicate: the training that it is of.
        file: its weights.
        average: what is known of it as an average of the training; see `SweptNetwork`.
        evaluation: what was measured; empty if nothing was.
    """

    replicate: Replicate
    file: Path
    average: Mapping[str, Any]
    evaluation: Mapping[str, Any] = field(default_factory=dict)


def choose_best(params: Params, training: str | None) -> Choice:
    """The best network of the tables of the stage `fid`: of one training, or of all.

    Raises:
        UserError: there is no such training, or a table is missing or damaged.
    """
    replicates = params.replicates if training is None else [_training(params, training)]
    outputs = StageOutputs(Path("reports"), replicates, [])
    best = pd.concat(outputs.best_networks.values())
    row = best.iloc[int(best["value"].argmin())]
    replicate = Replicate(str(row["config"]), int(row["training_seed"]))
    evaluation = _evaluation(_rows_of(outputs.networks, replicate), row)
    evaluation["value"] = value_in_words(row)
    if len(best) > 1:
        evaluation["chosen"] = f"the best of {len(best)} trainings"
    file = sweep_folder(replicate) / f"{row['network']}.safetensors"
    return Choice(replicate, file, _average(row), evaluation)


def choose_length(params: Params, training: str | None, ema_length: float) -> Choice:
    """The network of a sweep with this EMA length, at the latest time.

    Raises:
        UserError: the training is not named though there are several, or its sweep has no such network.
    """
    replicate = _training(params, training)
    networks = [n for n in load_networks(replicate) if n.tensors == ALL]
    of_length = [network for network in networks if network.ema_length == ema_length]
    if not of_length:
        lengths = ", ".join(f"{n:g}" for n in sorted({n.ema_length for n in networks}))
        raise UserError(
            f"--ema-length {ema_length:g}: the sweep of {replicate} has the EMA lengths {lengths}. Name "
            f"one of these, or make a network: edm2 ema reconstruct models/ema/{replicate} --lengths "
            f"{ema_length:g} --out DIR, and name its file (--network)."
        )
    return _of_sweep(params, replicate, max(of_length, key=lambda network: network.nimg))


def choose_file(params: Params, training: str | None, file: Path) -> Choice:
    """A file of weights: of a sweep, of `edm2 ema reconstruct`, or of a training.

    Raises:
        UserError: the training is not named though there are several, or there is no such file.
    """
    named = [r for r in params.replicates if file.parent == Path.cwd() / sweep_folder(r)]
    if named and training not in (None, str(named[0]), named[0].config):
        raise UserError(f"--training {training}: {file} is of {named[0]}. Leave out --training.")
    replicate = named[0] if named else _training(params, training)
    for network in load_networks(replicate) if named else ():
        if network.name == file.stem:
            return _of_sweep(params, replicate, network)
    if not file.is_file():
        raise UserError(f"--network {file}: no such network. Expected a safetensors file.")
    last = file == Path.cwd() / training_folder(replicate) / file.name
    return Choice(replicate, file, {"average": "none"} if last else _reconstruction(file))


def _of_sweep(params: Params, replicate: Replicate, network: SweptNetwork) -> Choice:
    file = sweep_folder(replicate) / network.file
    outputs = StageOutputs(Path("reports"), [replicate], [])
    if not Path(f"reports/fid/{replicate}.csv").exists():
        return Choice(replicate, file, _average(network.columns))
    rows = main_metric(outputs.networks)
    rows = rows[(rows["network"] == network.name) & (rows["seeds"] == "sweep")]
    if rows.empty:
        return Choice(replicate, file, _average(network.columns))
    row = rows.sort_values("guidance", key=lambda guidance: (guidance - 1).abs()).iloc[0].copy()
    row["at_edge"], row["valued_on"] = False, ""  # it was not chosen by its value
    return Choice(replicate, file, _average(network.columns), _evaluation(outputs.networks, row))


def _training(params: Params, name: str | None) -> Replicate:
    if name is not None:
        return params.replicate(name, f"--training {name}", "params.yaml")
    if len(params.replicates) > 1:
        raise UserError(
            f"--training: missing: expected one of {', '.join(map(str, params.replicates))}. Name one."
        )
    return params.replicates[0]


def _rows_of(table: pd.DataFrame, replicate: Replicate) -> pd.DataFrame:
    return table[(table["config"] == replicate.config) & (table["training_seed"] == replicate.seed)]


def _evaluation(table: pd.DataFrame, row: pd.Series) -> dict[str, Any]:
    """The quality of a network, for the model card.

    Args:
        table: all rows of its training.
        row: of the main metric.
    """
    one = pd.DataFrame([row])
    return {
        "metrics": metrics_of(table, row),
        "main_metric": str(row["metric"]),
        "interval": value_with_interval(one),
        "detector": str(row["detector"]),
        "guidance": float(row["guidance"]),
        "doubts": [text for text, marks in doubts(one).items() if marks.any()],
    }


def _average(columns: Mapping[str, Any] | pd.Series) -> dict[str, Any]:
    """The known properties of an average, as plain values."""
    values = {key: columns[key] for key in AVERAGE_KEYS if key in columns}
    known = {key: value for key, value in values.items() if not pd.isna(value)}
    return {k: v.item() if hasattr(v, "item") else v for k, v in known.items()}


def _reconstruction(file: Path) -> dict[str, Any]:
    """What `edm2 ema reconstruct` noted of a file beside it."""
    index = file.parent / AVERAGES
    notes = read_checked(index, "", "Remove it.", AVERAGES) if index.exists() else {}
    made = notes.get(file.name)
    return {} if made is None else _average({**made, "ema_length": made["sigma_rel"]})
