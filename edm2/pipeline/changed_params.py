"""Which params differ from the nearest preset, and from those of the last commit."""

from functools import cache
from typing import Any

from pydantic import ValidationError

from edm2.params import Params
from edm2.params.errors import UserError
from edm2.params.presets import PRESETS, preset_params
from edm2.params.yaml_file import parse_yaml
from edm2.pipeline.declaration import read_declarations
from edm2.pipeline.git import git
from edm2.runtime.tracking import flatten


def nearest_preset(params: Params) -> tuple[str, dict[str, tuple[Any, Any]]]:
    """The preset with the fewest differences, and these by key path: its value and the one here.

    Only params count that determine results: those that dvc.yaml names.
    """
    here = _tracked(params)
    firsts = {preset.layers: name for name, preset in reversed(PRESETS.items())}

    def differences(name: str) -> dict[str, tuple[Any, Any]]:
        there = _tracked_of_preset(name)
        keys = {**there, **here}
        return {
            key: (there.get(key), here.get(key)) for key in keys if there.get(key) != here.get(key)
        }

    def fewest(names: list[str]) -> str:
        return min(names, key=lambda name: len(differences(name)))

    kind = PRESETS[fewest(list(reversed(firsts.values())))].layers
    nearest = fewest([name for name, preset in PRESETS.items() if preset.layers == kind])
    return nearest, differences(nearest)


def changes_since_commit(params: Params) -> dict[str, Any]:
    """The params that differ from params.yaml of the last commit, by key path: what an experiment of DVC
    changes. Without a commit, or if its params.yaml is not valid here, there are none.
    """
    text = git("show", "HEAD:./params.yaml")
    if text is None:
        return {}
    try:
        committed = _tracked(Params.complete(parse_yaml(text, "params.yaml of the commit")))
    except (UserError, ValidationError):  # of another version of edm2
        return {}
    return {key: value for key, value in _tracked(params).items() if committed.get(key) != value}


@cache
def _tracked_of_preset(name: str) -> dict[str, Any]:
    return _tracked(preset_params(name))


def _tracked(params: Params) -> dict[str, Any]:
    """The values that dvc.yaml names for any stage, by key path."""
    values: dict[str, Any] = {}
    for declared in read_declarations().values():
        values |= flatten(declared.values(params))
    return values
