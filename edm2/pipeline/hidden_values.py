"""Changes of params that have no effect on a config, because `diffusion.per_config` overrides them."""

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from edm2.params import Params


def hidden_changes(params: Params, config: str, file: Path) -> Iterator[str]:
    """A warning for each field of `diffusion` that was changed in `file` since the last commit (as
    `dvc exp run -S` does) and that the config's entry overrides.
    """
    committed = _committed(file)
    entry = params.diffusion.per_config.get(config, {})
    if committed is None:
        return
    diffusion = params.diffusion.model_dump(mode="json")
    for key, value in _flat(entry):
        current, before = (_pick(tree, key) for tree in (diffusion, committed))
        if current != before:
            yield (
                f"warning: diffusion.{key} = {current!r} has no effect on config {config}: "
                f"diffusion.per_config.{config}.{key} is {value!r}. "
                f"Change it with -S 'diffusion.per_config.{config}.{key}=...'."
            )


def _committed(file: Path) -> Any:
    """`diffusion` in the last commit; None without git, or if the file is not committed."""
    try:
        completed = subprocess.run(
            ["git", "show", f"HEAD:./{file.name}"],
            capture_output=True,
            cwd=file.parent,
            check=True,
        )
        return YAML(typ="safe").load(completed.stdout.decode())["diffusion"]
    except (OSError, subprocess.CalledProcessError, YAMLError, KeyError, TypeError, ValueError):
        return None


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _pick(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree
