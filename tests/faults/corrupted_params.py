"""Corrupted values for each field of params.yaml."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from math import inf, nan
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from tiny import TINY, default_params

from edm2.params import Params
from edm2.params.loading import check_tree, fields
from edm2.params.number_types import numbers_in
from edm2.params.section import section_of
from edm2.params.tree_size import require_bounded

DEEP: list[Any] = []
for _ in range(300):
    DEEP = [DEEP]
VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "text": "many",
    "empty text": "",
    "long text": "a" * 100_000,
    "long path": "/".join(["folder"] * 5000),
    "NUL": "a\0b",
    "control": "\x1b[31m\u202e",
    "surrogate": "\ud800",
    "many files": "{0..99999999}.tar",
    "many nested files": "{0..99999}/{0..99999}/{a,b}.tar",
    "fine grid": "0.01...0.25 by 1e-9",
    "grid of 100 000": "1...100000 by 1",
    "long grid": "1" * 5000 + "...2 by 3",
    "device": "cuda:99999999999999999999",
    "0": 0,
    "0.0": 0.0,
    "1": 1,
    "-1": -1,
    "-0.5": -0.5,
    "1e-9": 1e-9,
    "1e-300": 1e-300,
    "5e-324": 5e-324,
    "0.001": 0.001,
    "1000": 1000,
    "100 000": 100_000,
    "10^9": 10**9,
    "2^31": 2**31,
    "2^63": 2**63,
    "2^64": 2**64,
    "10^5000": 10**5000,
    "1e300": 1e300,
    "nan": nan,
    "inf": inf,
    "[]": [],
    "{}": {},
    "[null]": [None],
    "[2^64]": [2**64],
    "[1e300]": [1e300],
    "[1e-300]": [1e-300],
    "[1, 1]": [1, 1],
    "1000 values": list(range(1, 1001)),
    "100 000 values": [1] * 100_000,
    "100 000 texts": ["a"] * 100_000,
    "nested": [[[1]]],
    "deep": DEEP,
    "key": {"a": 1},
    "keys that are no text": {1: 2, None: 3},
    "100 000 keys": dict.fromkeys(map(str, range(100_000)), 1),
}
# of the project whose stages run
SMALLER = {**TINY, "sweep.ema_lengths": [0.05, 0.2], "evaluation.samples": 100}
# sections that are null or empty by default; other values, with which more code runs
RICH: dict[str, Any] = {
    **TINY,
    "vae.images.min_area": 0.5,
    "vae.equivariance.scale": 0.5,
    "vae.equivariance.crop": 0.5,
    "vae.losses.adversarial": 0.5,
    "vae.adversarial.discriminator_nimg": 128,
    "vae.adversarial.generator_nimg": 256,
    "vae.attention": True,
    "sweep.materialize": False,
    "sweep.search": {"low": 0.05, "high": 0.2, "tolerance": 0.02},
    "evaluation.seed_blocks": 10,
    "guidance.guide": "trained",
    "guidance.changes": {"channels": 4},
    "guidance.strength": [1.0, 1.5, 2.0],
    "runtime.reading": "blocks",
}
BASES = {"tiny": TINY, "smaller": SMALLER, "rich": RICH}
CHANGES = ("diffusion.per_config.A", "guidance.changes")  # of fields of `diffusion`


@dataclass(frozen=True)
class Case:
    """One field with a corrupted value.

    Attributes:
        name: of the value.
        base: values of other fields.
    """

    key: str
    name: str
    value: Any
    base: str

    def __str__(self) -> str:
        return f"{self.base}: {self.key}: {self.name}"

    def tree(self) -> dict[str, Any]:
        tree = default_params()
        for key, value in self.changes().items():
            set_value(tree, key, deepcopy(value))
        return tree

    def changes(self) -> dict[str, Any]:
        """Values that differ from those of params.yaml, by key path."""
        return {**BASES[self.base], self.key: self.value}


def set_value(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[name] = value


def cases(base: str) -> list[Case]:
    """All fields, and those of changes of `diffusion`, with all values."""
    optional = base == "rich"
    keys = [key for key, _ in fields(Params, optional=optional)]
    if optional:
        below = [key for key in keys if key.startswith("diffusion.")]
        keys += [f"{change}.{key.partition('.')[2]}" for change in CHANGES for key in below]
    return [Case(key, name, value, base) for key in keys for name, value in VALUES.items()]


def ends(base: str) -> list[Case]:
    """The lowest and the highest value of each number, which are possible alone."""
    found = []
    for key, field in leaves(Params):
        for kind, limits in numbers_in(field.annotation, field.metadata):
            for name, end in (("lowest", limits.low), ("highest", limits.high)):
                listed = "tuple" in str(field.annotation)
                found.append(Case(key, name, [kind(end)] if listed else kind(end), base))
    return found


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Each field that is no section, by key path."""
    for name, field in model.model_fields.items():
        if section_of(field.annotation) is field.annotation:
            yield from leaves(field.annotation, f"{prefix}{name}.")
        elif section_of(field.annotation) is None:
            yield prefix + name, field


def load(case: Case) -> str:
    """Validate the params; an act of `guarded.ended`."""
    check_tree(require_bounded(case.tree(), "params.yaml"), "params.yaml")
    return "accepted"
