"""What runs are called in MLflow, and the tags and params by which they are found there.

A pipeline run (`dvc repro`, or an experiment of `dvc exp run`) is the parent of the runs of its stages.
"""

import getpass
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from edm2.params import Params
from edm2.params.presets import BASE
from edm2.params.replicates import Replicate
from edm2.pipeline.changed_params import changes_since_commit, nearest_preset
from edm2.pipeline.declaration import read_declarations, with_stages_before
from edm2.pipeline.git import git
from edm2.pipeline.run_datasets import dataset_name
from edm2.runtime.delivery.destination import destination
from edm2.runtime.delivery.pipeline_run import PipelineRun
from edm2.runtime.tracking import texts

LAST = "report"  # the stage with which a pipeline run is finished
STAGE = "pipeline"  # the tag `stage` of a pipeline run
MAX_CHANGES = 4  # in the name of a pipeline run
FIRST = (
    "diffusion",
    "dataset",
    "codec",
    "vae",
    "ema",
    "sweep",
    "sampling",
    "guidance",
)  # in that name
UNNAMED = ("configs", "launch", "plugins", "tracking.")  # there: named first, or without effect


def pipeline_run(stage: str, params: Params) -> PipelineRun:
    """The pipeline run that a stage belongs to: of one experiment of DVC, with one set of params.

    Args:
        params: of all configs.
    """
    goal = destination(params)
    values = [declared.values(params) for declared in read_declarations().values()]
    identity = [os.environ.get("DVC_EXP_NAME", ""), goal.kept, goal.experiment, values]
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return PipelineRun(key, stage == LAST, lambda: _describe(params))


def stage_tags(stage: str, replicate: Replicate | None, params: Params) -> dict[str, str]:
    """The tags of a stage's run.

    `replicates` is the same for the trainings of a config that differ in nothing but the seed: in no param
    that this stage or one before it depends on.
    """
    shared = {"stage": stage, **_shared_tags(params), **_source(f"stages/{stage}.py")}
    if replicate is None:
        return {**shared, "config": ""}
    values: dict[str, Any] = {}
    for declared in with_stages_before(stage):
        values |= declared.values(params)
    key = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
    return {
        **shared,
        "config": replicate.config,
        "seed": str(replicate.seed),
        "replicates": f"{stage} {replicate.config} {key}",
    }


def short_changes(params: Params, changes: Mapping[str, Any]) -> str:
    """Configs and the first changes, like "G, channels=64". Of a key, the last part if no other ends so."""
    named = {key: changes[key] for key in sorted(changes, key=_rank) if not key.startswith(UNNAMED)}
    ends = [key.rpartition(".")[2] for key in named]
    parts = [
        f"{end if ends.count(end) == 1 else key}={_short(value)}"
        for end, (key, value) in zip(ends, named.items(), strict=True)
    ]
    more = [f"{len(parts) - MAX_CHANGES} more"] if len(parts) > MAX_CHANGES else []
    return ", ".join([_short(params.configs), *parts[:MAX_CHANGES], *more])


def _rank(key: str) -> int:
    """The place of a param in the name: experiments are mostly about the first sections."""
    section = key.partition(".")[0]
    return FIRST.index(section) if section in FIRST else -1 if section == "seeds" else len(FIRST)


def _describe(params: Params) -> tuple[str, dict[str, str], dict[str, str]]:
    preset, differences = nearest_preset(params)
    changes = {key: here for key, (_, here) in differences.items()}
    tags = {"stage": STAGE, "config": _short(params.configs), "preset": preset}
    base = "" if preset == BASE else f"{preset}: "
    named = changes_since_commit(params) or changes
    name = f"{_experiment()}: {base}{short_changes(params, named)}"
    return name, {**tags, **_shared_tags(params), **_source("dvc.yaml")}, texts(changes)


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    return str(value)


def _shared_tags(params: Params) -> dict[str, str]:
    dataset, size = params.dataset, params.diffusion.size
    return {
        "dataset": dataset_name(dataset),
        "experiment": _experiment(),
        "size": f"{params.diffusion.channels} channels" if size is None else size,
        "dvc_exp": os.environ.get("DVC_EXP_NAME", ""),
        "git_commit": git("rev-parse", "HEAD") or "",
    }


def _source(file: str) -> dict[str, str]:
    """MLflow's own tags, which it shows as Source, Version and User."""
    return {
        "mlflow.source.name": file,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": git("rev-parse", "HEAD") or "",
        "mlflow.user": _user(),
    }


def _experiment() -> str:
    """The experiment of DVC; in the workspace the branch and the commit."""
    name = os.environ.get("DVC_EXP_NAME")
    branch, commit = git("branch", "--show-current"), git("rev-parse", "--short=7", "HEAD")
    return name or " ".join(filter(None, (branch, commit))) or "workspace"


def _user() -> str:
    try:
        return getpass.getuser()
    except OSError:  # a user without a name, as in some containers
        return str(os.getuid())
