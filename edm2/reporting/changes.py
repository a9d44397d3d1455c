"""Experiments, and which of their configs a comparison is about, each with all of its trainings."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pandas as pd

from edm2.params import UserError
from edm2.reporting.trainings import Trainings, by_training

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
        return by_training(self.networks)


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
        first, *rest = variants = _variants(groups)
        every = [variant for of_group in variants for variant in of_group.values()]
        if not others:
            pairs = [Change(a, b) for a, b in pairwise(first.values())]
            return cls(pairs, [] if pairs else [_alone(base)], every)
        pairs, notes = [], []
        for other, of_other in zip(others, rest, strict=True):
            names_of_both = _counterparts(base, other)
            pairs += [Change(first[a], of_other[b]) for a, b in names_of_both]
            notes += _left_out(base, other, names_of_both)
        return cls(pairs, notes, every)


@dataclass(frozen=True)
class _Group:
    """Experiments with the same params and configs.

    Attributes:
        base: the first experiment of the comparison.
        written: params that are written differently than in `base`.
        revision: that of the group, if params do not distinguish it from the base.
        members: the experiments by name.
    """

    base: Experiment
    written: Sequence[str]
    revision: str
    members: dict[str, Experiment]

    @property
    def name(self) -> str:
        return next(iter(self.members))

    @property
    def configs(self) -> dict[str, dict[int, pd.DataFrame]]:
        """The trainings of each config."""
        configs: dict[str, dict[int, pd.DataFrame]] = {}
        for experiment in self.members.values():
            for config, trainings in experiment.trainings.items():
                configs.setdefault(config, {}).update(trainings)
        return configs

    @property
    def revisions(self) -> list[str]:
        return [experiment.revision or name for name, experiment in self.members.items()]

    def variant(self, config: str) -> Variant:
        used = next(iter(self.members.values())).used.get(config, {})
        label = self._label(config, used)
        name = f"{config} ({label})" if label else config
        return Variant(name, self.revisions, config, used, self.configs[config])

    def _label(self, config: str, used: FlatParams) -> str:
        """What distinguishes a config from the base: params with the values that it uses, or the revision.

        Empty if nothing does.
        """
        if self.revision or not self.written:
            return self.revision
        of_base, own = self.base.used.get(config), f"{PER_CONFIG}{config}."
        keys = sorted({key.replace(own, "diffusion.") for key in self.written})
        changed = [k for k in keys if k in used and (not of_base or of_base.get(k) != used[k])]
        if not 0 < len(changed) <= MAX_NAMED:
            return ", ".join(self.revisions)
        return ", ".join(f"{key}={shown_value(used[key])}" for key in changed)


def _variants(groups: Sequence[_Group]) -> list[dict[str, Variant]]:
    """By group and config. Those of the same name are named by their experiments instead."""
    variants = [{config: group.variant(config) for config in group.configs} for group in groups]
    count = Counter(variant.name for of_group in variants for variant in of_group.values())
    return [
        {
            config: replace(variant, name=f"{config} ({', '.join(variant.experiments)})")
            if count[variant.name] > 1
            else variant
            for config, variant in of_group.items()
        }
        for of_group in variants
    ]


def _grouped(experiments: Mapping[str, Experiment]) -> list[_Group]:
    """The first group has the first experiment; the others follow in their order."""
    (first_name, first), *_ = experiments.items()
    groups: dict[tuple[str, ...], _Group] = {}
    taken: set[tuple[object, ...]] = set()
    for name, experiment in experiments.items():
        written = _written_differently(first, experiment)
        values = [f"{key}={experiment.params.get(key)}" for key in written]
        trainings = {
            (*values, config, seed)
            for config, of_config in experiment.trainings.items()
            for seed in of_config
        }
        other_code, revision = bool(trainings & taken), experiment.revision or name
        taken |= trainings
        key = (name,) if other_code else (*values, "", *experiment.trainings)
        if key not in groups:
            of_base = not written and revision == (first.revision or first_name)
            named = other_code or not (written or of_base)
            groups[key] = _Group(first, written, revision if named else "", {})
        groups[key].members[name] = experiment
    return list(groups.values())


def _written_differently(first: Experiment, other: Experiment) -> list[str]:
    a, b = first.params, other.params
    keys = sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
    return [key for key in keys if key not in COMMON]


def _alone(group: _Group) -> str:
    one = f"{group.name} has one config"
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
            f"{base.name} has the configs {', '.join(base.configs)}, {other.name} has "
            f"{', '.join(other.configs)}: expected one that both have. Name one of each, like "
            f"{base.name}:{next(iter(base.configs))}."
        )
    return [(config, config) for config in shared]


def _left_out(base: _Group, other: _Group, compared: Sequence[tuple[str, str]]) -> list[str]:
    """Configs that only one of both has. One that a user names on one side leaves the others out."""
    if 1 in (len(base.configs), len(other.configs)):
        return []
    shared = {config for config, _ in compared}
    return [
        f"Not compared: {', '.join(missing)}, which only {group.name} has."
        for group in (base, other)
        if (missing := [config for config in group.configs if config not in shared])
    ]


def shown_value(value: object) -> str:
    """The value of a param, in words."""
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)
