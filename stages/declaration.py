"""What dvc.yaml declares of a stage: the one place that says what it reads and makes."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from edm2.params import Params, UserError

PIPELINE = Path("dvc.yaml")


@dataclass(frozen=True)
class Declaration:
    """One stage, for one config where it is a matrix stage."""

    params: tuple[str, ...]
    deps: tuple[Path, ...]
    outs: tuple[Path, ...]

    def values(self, params: Params) -> dict[str, Any]:
        """The declared params by key path, as JSON."""
        return {key: _pick(params.model_dump(mode="json"), key) for key in self.params}


def declaration(name: str, config: str | None, pipeline: Path = PIPELINE) -> Declaration:
    """Read stage `name` of dvc.yaml, "${item.config}" being `config`."""
    try:
        stage = YAML(typ="safe").load(pipeline)["stages"][name]
    except FileNotFoundError:
        raise UserError(
            f"{pipeline}: not in this folder ({Path.cwd()}). Stages run in the project root."
        ) from None

    def names(*keys: str) -> Iterable[str]:
        for key in keys:
            for entry in stage.get(key, []):
                text = entry if isinstance(entry, str) else next(iter(entry))
                yield text.replace("${item.config}", config or "")

    return Declaration(
        params=tuple(names("params")),
        deps=tuple(Path(path) for path in names("deps")),
        outs=tuple(Path(path) for path in names("outs", "metrics", "plots")),
    )


def per_config(name: str, pipeline: Path = PIPELINE) -> bool:
    """Whether a stage runs once per training configuration."""
    return "matrix" in YAML(typ="safe").load(pipeline)["stages"][name]


def _pick(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree
