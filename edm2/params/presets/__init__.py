"""Presets: fields of params.yaml for known experiments, merged into a project's file."""

from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from edm2.params.errors import UserError
from edm2.params.yaml_file import parse_yaml


def preset_names() -> list[str]:
    """Names of all presets."""
    folder = files("edm2.params.presets")
    return sorted(Path(f.name).stem for f in folder.iterdir() if f.name.endswith(".yaml"))


def apply_preset(text: str, name: str, size: str | None = None) -> str:
    """A params file with the fields of a preset set; comments and other fields are kept.

    Args:
        text: of a params.yaml.
        size: a size of the paper; None: the preset's.

    Raises:
        UserError: the text is not YAML, or lacks a section.
    """
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 120, True
    tree = parse_yaml(text, "params.yaml", yaml)
    preset = YAML(typ="safe").load((files("edm2.params.presets") / f"{name}.yaml").read_text())
    if size is not None:
        preset["diffusion"]["size"] = size
    _merge(tree, preset)
    out = StringIO()
    yaml.dump(tree, out)
    return out.getvalue()


def _merge(tree: Any, changes: dict[str, Any]) -> None:
    if not isinstance(tree, dict):
        raise UserError("params.yaml: expected all sections of edm2. See `edm2 params check`.")
    for key, value in changes.items():
        if isinstance(value, dict) and value:
            _merge(tree.get(key), value)
        else:
            tree[key] = value
