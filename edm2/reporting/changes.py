"""Experiments, and which of their configs a comparison is about, each with all of its trainings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pandas as pd

from edm2.params import UserError
from edm2.reporting.seed_curves import Trainings

FlatParams = Mapping[str, Any]  # by key path
COMMON = ("configs", "seeds")  # what is trained, and not how
PER_CONFIG = "diffusion.per_config."
MAX_NAMED = 3  # params in the name of a change


@dataclass(frozen=True)
class Experiment:
    """The results of one experiment.

    Attributes:
        networks: the rows of reports/fid of all its configs.
        params: params.yaml as written.
        used: by config, the params with the values that this config uses: `diffusion.per_config`
            merged in, nulls replaced by the paper's values.
        revision: where the results are from, if the experiment is one config of a revision.
    """

    networks: pd.DataFrame
    params: FlatParams
    used: Mapping[str, FlatParams]
    revision: str = ""

    @property
    def trainings(self) -> dict[str, dict[int, pd.DataFrame]]:
        """The rows of each training, by config and seed."""
        groups: dict[str, dict[int, pd.DataFrame]] = {}
        for config, of_config in self.networks.groupby("config", sort=False):
            groups[str(config)] = {
                int(rows["training_seed"].iloc[0]): rows
                for _, rows in of_config.groupby("training_seed")
            }
        return groups


@dataclass(frozen=True)
class Variant:
    """A config with certain params, with all of its trainings.

    Attributes:
        name: the config, with what distinguishes it from the base in parentheses.
        experiments: those that its trainings are from.
        used: the params with the values that the config uses.
    """

    name: str
    experiments: Sequence[str]
    config: str
    used: FlatParams
    trainings: Trainings


@dataclass(frozen=True)
class Change:
    base: Variant
    change: Variant

    @property
    def params(self) -> dict[str, tuple[Any, Any]]:
        """The params that differ, with the values of base and change."""
        a, b = self.base.used, self.change.used
        keys = sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k) and k not in COMMON)
        return {key: (a.get(key), b.get(key)) for key in keys}


@dataclass(frozen=True)
class Changes:
    """
    Attributes:
        pairs: what is compared.
        notes: what is not, in sentences.
        variants: all configs of all experiments.
    """

    pairs: Sequence[Change]
    notes: Sequence[str]
    variants: Sequence[Variant]

    @classmethod
    def between(cls, experiments: Mapping[str, Experiment]) -> "Changes":
        """The changes from the first experiment to each of the others: the same config of both, or the only
        one of each. Of a single experiment: each config against the one before it.

        Experiments of the same configs that differ only in `seeds` are one, unless both have a training with
        the same seed: they have another state of the code.

        Raises:
            UserError: the first experiment and another one have no config to be compared.
        """
        base, *others = groups = _grouped(experiments)
        variants = [group.variant(config) for group in groups for config in group.configs]
        if not others:
            names = list(base.configs)
            pairs = [Change(base.variant(a), base.variant(b)) for a, b in pairwise(names)]
            return cls(pairs, [] if pairs else [_alone(base)], variants)
        pairs, notes = [], []
        for other in others:
            names_of_both = _counterparts(base, other)
            pairs += [Change(base.variant(a), other.variant(b)) for a, b in names_of_both]
            notes += _left_out(base, other, names_of_both)
        return cls(pairs, notes, variants)


@dataclass
class _Group:
    """Experiments with the same params and configs.

    Attributes:
        label: what distinguishes it from the first group.
        members: names of the experiments.
        revisions: where their results are from.
        configs: by config, its params as used, and its trainings.
    """

    label: str
    members: list[str] = field(default_factory=list)
    revisions: list[str] = field(default_factory=list)
    configs: dict[str, tuple[FlatParams, dict[int, Any]]] = field(default_factory=dict)

    def add(self, name: str, experiment: Experiment) -> None:
        self.members.append(name)
        self.revisions.append(experiment.revision or name)
        for config, trainings in experiment.trainings.items():
            used = experiment.used.get(config, {})
            _, of_group = self.configs.setdefault(config, (used, {}))
            of_group |= trainings

    def variant(self, config: str) -> Variant:
        name = f"{config} ({self.label})" if self.label else config
        return Variant(name, self.revisions, config, *self.configs[config])


def _grouped(experiments: Mapping[str, Experiment]) -> list[_Group]:
    """The first group has the first experiment, whose name is the base's; the others in their order."""
    revisions = {name: experiment.revision or name for name, experiment in experiments.items()}
    (first_name, first), *_ = experiments.items()
    groups: dict[tuple[str, ...], _Group] = {}
    taken: set[tuple[object, ...]] = set()
    for name, experiment in experiments.items():
        written = _written_differently(first, experiment)
        configs = experiment.networks["config"].unique()
        seeds = experiment.networks["training_seed"].unique()
        trainings = {(*written, config, seed) for config in configs for seed in seeds}
        other_code = bool(trainings & taken)
        taken |= trainings
        key = (name,) if other_code else (*written, "", *configs)
        if key not in groups:
            label = revisions[name]
            if not other_code and 0 < len(written) <= MAX_NAMED:
                label = ", ".join(written)
            elif not other_code and not written and label == revisions[first_name]:
                label = ""
            groups[key] = _Group(label)
        groups[key].add(name, experiment)
    return list(groups.values())


def _written_differently(first: Experiment, other: Experiment) -> list[str]:
    """The params that are written differently from the first experiment, with their values."""
    a, b = first.params, other.params
    keys = sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
    return [f"{key}={b.get(key)}" for key in keys if key not in COMMON]


def _alone(group: _Group) -> str:
    one = f"{group.members[0]} has one config"
    if len(group.members) > 1:
        one = f"{', '.join(group.members)} are one config: they differ at most in `seeds`"
    return f"Nothing to compare: {one}. Name a change, too."


def _counterparts(base: _Group, other: _Group) -> list[tuple[str, str]]:
    """The configs of both that are compared."""
    if len(base.configs) == len(other.configs) == 1:
        return list(zip(base.configs, other.configs, strict=True))
    shared = [config for config in other.configs if config in base.configs]
    if not shared:
        raise UserError(
            f"{base.members[0]} has the configs {', '.join(base.configs)}, {other.members[0]} has "
            f"{', '.join(other.configs)}: expected one that both have. Name one of each, like "
            f"{base.members[0]}:{next(iter(base.configs))}."
        )
    return [(config, config) for config in shared]


def _left_out(base: _Group, other: _Group, compared: Sequence[tuple[str, str]]) -> list[str]:
    """Configs that only one of both has. One that a user names on one side leaves the others out."""
    if 1 in (len(base.configs), len(other.configs)):
        return []
    shared = {config for config, _ in compared}
    return [
        f"Not compared: {', '.join(missing)}, which only {group.members[0]} has."
        for group in (base, other)
        if (missing := [config for config in group.configs if config not in shared])
    ]
