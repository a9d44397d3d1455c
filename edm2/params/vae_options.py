"""The params of a VAE that is trained without a project: a preset, changed by options of a command line."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os.path import abspath
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from edm2.params.checks import wrong_vae_combinations
from edm2.params.errors import ParamsError, Problem, UserError
from edm2.params.explanation import meant_keys
from edm2.params.loading import fields, validated
from edm2.params.presets import vae_preset_text
from edm2.params.registry import load_plugins
from edm2.params.tree import Params
from edm2.params.yaml_file import parse_yaml

SECTIONS = ("vae", "runtime")  # whose keys can be changed
OPTIONS = {  # the option that sets a key
    "vae.images.shards": "--images",
    "vae.images.held_out": "--held-out",
    "dataset.resolution": "--resolution",
    "tracking.uri": "--tracking-uri",
}
PATHS = (  # relative ones start at the current folder
    "vae.images.shards",
    "vae.images.held_out",
    "vae.init.path",
    "vae.backbone_path",
    "vae.detector_path",
    "runtime.skip_images",
)
NAME = "vae train"


@dataclass(frozen=True)
class VaeOptions:
    """Options of `edm2 vae train`.

    Attributes:
        images, held_out: folders or zips of images, or patterns of tars.
        resolution: side of the images in pixels; None: that of the preset.
        changes: KEY=VALUE, with values in YAML.
        mlflow: whether to log to MLflow, at `tracking_uri`; None: where the environment says, or `.mlflow`.
    """

    images: str
    held_out: str
    preset: str
    resolution: int | None
    changes: Sequence[str]
    mlflow: bool
    tracking_uri: str | None

    def params(self, world_size: int) -> Params:
        """The checked params; sections that a VAE does not need are those of the digits.

        Args:
            world_size: number of processes.

        Raises:
            UserError: there is no such preset, or a change is not KEY=VALUE.
            ParamsError: keys or values are wrong, alone or together. All problems are in it.
        """
        tree = YAML(typ="safe").load(vae_preset_text(self.preset))
        problems = list(load_plugins(None, Path()))
        problems += _apply(tree, dict(map(_parse, self.changes)))
        self._set_options(tree)
        try:
            params = validated(_with_absolute_paths(tree), NAME)
        except ParamsError as error:
            raise ParamsError(NAME, [*problems, *error.problems]) from None
        if not problems:
            problems += map(_named_by_options, wrong_vae_combinations(params, world_size, Path()))
        if problems:
            raise ParamsError(NAME, problems)
        return params

    def _set_options(self, tree: dict[str, Any]) -> None:
        tree["vae"]["images"] |= {"shards": self.images, "held_out": self.held_out}
        tree["tracking"] |= {"mlflow": self.mlflow, "uri": self.tracking_uri}
        if self.resolution is not None:
            tree["dataset"]["resolution"] = self.resolution


def _parse(change: str) -> tuple[str, Any]:
    key, separator, text = change.partition("=")
    if not separator or not key:
        raise UserError(f"{change}: expected KEY=VALUE, like vae.channels=64.")
    return key, parse_yaml(text, change)


def _apply(tree: dict[str, Any], changes: Mapping[str, Any]) -> Iterator[Problem]:
    """Set the values of the keys; yields problems of those that no option of this name can set."""
    keys = [key for key, _ in fields(Params) if key.startswith(tuple(f"{s}." for s in SECTIONS))]
    for key, value in changes.items():
        option, (section, _, rest) = OPTIONS.get(key), key.partition(".")
        if option is not None:
            yield Problem(key, value, f"the option {option}", f"Write {option} {value}.")
        elif section not in SECTIONS or not rest:
            meant = meant_keys(key, keys)
            fix = f"Did you mean {' or '.join(meant)}?" if meant else "Remove it."
            yield Problem(key, value, f"a key of {' or '.join(SECTIONS)}", fix)
        else:
            _set(tree, key, value)


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a value, also of a key that does not exist: validation explains that."""
    *sections, last = key.split(".")
    for section in sections:
        if not isinstance(tree.get(section), dict):
            tree[section] = {}
        tree = tree[section]
    tree[last] = value


def _with_absolute_paths(tree: dict[str, Any]) -> dict[str, Any]:
    for key in PATHS:
        *sections, last = key.split(".")
        section: Any = tree
        for name in sections:
            section = section.get(name) if isinstance(section, dict) else None
        path = section.get(last) if isinstance(section, dict) else None
        if isinstance(path, str) and path and "://" not in path and not path.startswith("~"):
            section[last] = abspath(path)  # others are refused as they are
    return tree


def _named_by_options(problem: Problem) -> Problem:
    """A problem with the names of options instead of keys, and without advice that is for projects."""

    def rename(text: str) -> str:
        for key, option in OPTIONS.items():
            text = text.replace(key, option)
        return text

    fix = problem.fix.replace("Set it to classifier, or use", "Use")
    return replace(
        problem, key=rename(problem.key), allowed=rename(problem.allowed), fix=rename(fix)
    )
