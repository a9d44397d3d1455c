"""What dvc.yaml declares for a stage: its params, inputs and outputs."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edm2.params import Params, UserError
from edm2.params.yaml_file import read_yaml

PIPELINE = Path("dvc.yaml")
REPLICATE = "${item.config}-${item.seed}"  # as in the names of outs


@dataclass(frozen=True)
class Declaration:
    """One stage, for one training where it is a matrix stage (`per_training`)."""

    params: tuple[str, ...]
    deps: tuple[Path, ...]
    outs: tuple[Path, ...]
    per_training: bool

    def values(self, params: Params) -> dict[str, Any]:
        """The declared params by key path, as JSON."""
        tree = params.model_dump(mode="json")
        return {key: _pick(tree, key) for key in self.params}


def read_declaration(name: str, replicate: object, pipeline: Path = PIPELINE) -> Declaration:
    """Stage `name` of dvc.yaml; of a matrix stage that of the training `replicate`.

    Raises:
        UserError: there is no dvc.yaml with this stage in this folder.
    """
    return _declaration(_stage(name, pipeline), replicate)


def read_declarations(pipeline: Path = PIPELINE) -> dict[str, Declaration]:
    """All stages of dvc.yaml, with `*` for the training."""
    return {name: _declaration(stage, "*") for name, stage in _stages(pipeline).items()}


def _declaration(stage: Mapping[str, Any], replicate: object) -> Declaration:
    def entries(*keys: str) -> Iterable[str]:
        for key in keys:
            for entry in stage.get(key, []):
                text = entry if isinstance(entry, str) else next(iter(entry))
                yield text.replace(REPLICATE, str(replicate))

    return Declaration(
        params=tuple(entries("params")),
        deps=tuple(Path(path) for path in entries("deps")),
        outs=tuple(Path(path) for path in entries("outs", "metrics", "plots")),
        per_training="matrix" in stage,
    )


def all_outs(pipeline: Path = PIPELINE) -> list[str]:
    """The outs of all stages, with `*` for the training."""
    return [out.as_posix() for d in read_declarations(pipeline).values() for out in d.outs]


def with_stages_before(name: str, pipeline: Path = PIPELINE) -> list[Declaration]:
    """A stage and all stages whose results it depends on, with `*` for the training."""
    declared = read_declarations(pipeline)
    names = [name]
    for stage in names:
        deps = declared[stage].deps
        names += [
            n for n, other in declared.items() if n not in names and _overlap(deps, other.outs)
        ]
    return [declared[stage] for stage in names]


def _overlap(deps: Iterable[Path], outs: Iterable[Path]) -> bool:
    """Whether an out is a dep, in one, or has one in it."""
    return any(dep in (out, *out.parents) or out in dep.parents for dep in deps for out in outs)


def replicate_from_dvc(name: str) -> str:
    """The name of the training for which DVC runs stage `name`; empty if it does not.

    DVC names the stage that it runs, like train_diffusion@G-0, in an environment variable. The values of
    params are not in the commands of dvc.yaml, because a shell would run what is in them.
    """
    _, found, replicate = os.environ.get("DVC_STAGE", "").rpartition(f"{name}@")
    return replicate if found else ""


def has_matrix(name: str, pipeline: Path = PIPELINE) -> bool:
    """Whether a stage runs once per training."""
    return "matrix" in _stage(name, pipeline)


def _stage(name: str, pipeline: Path) -> dict[str, Any]:
    if not pipeline.exists():
        here = Path.cwd()
        root = next((folder for folder in here.parents if (folder / pipeline).exists()), None)
        way_out = f"cd {root}" if root else "change to a clone of edm2"
        raise UserError(
            f"{pipeline}: not in this folder ({here}). Stages run in the project's root: {way_out}."
        )
    stage = _stages(pipeline).get(name)
    if not isinstance(stage, dict):
        raise UserError(f"{pipeline}: has no stage {name}. Restore the file, for example from git.")
    return stage


def _stages(pipeline: Path) -> dict[str, Any]:
    tree = read_yaml(pipeline)
    stages = tree.get("stages") if isinstance(tree, dict) else None
    return stages if isinstance(stages, dict) else {}


def _pick(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree
