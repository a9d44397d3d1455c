"""Facts of a run for the header of the report: data, trainings, code, machine, time, params."""

import math
import os
import platform
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from edm2.params import Params
from edm2.pipeline.changed_params import nearest_preset
from edm2.pipeline.declaration import read_declarations
from edm2.pipeline.git import git
from edm2.pipeline.past_seconds import past_seconds
from edm2.reporting.facts import Facts, duration

UNKNOWN = "not known"
CPU_INFO = Path("/proc/cpuinfo")


def run_facts(params: Params, data: Mapping[str, Any], device: torch.device) -> Facts:
    """The facts of the run that writes a report now.

    Args:
        data: manifest of data/images.
    """
    seconds = stage_seconds(params)
    summary = {
        "Data set": _data(data),
        "Trained": _trainings(params),
        "Code": git_commit(),
        "Written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "Machine": _machine(device),
        "Duration": _duration(seconds["seconds"]),
    }
    preset, changes = nearest_preset(params)
    rows = [(key, *map(str, values)) for key, values in changes.items()]
    return Facts(
        summary, seconds, preset, pd.DataFrame(rows, columns=["param", f"preset {preset}", "here"])
    )


def _data(data: Mapping[str, Any]) -> str:
    images, classes, side = data["images"], len(data["classes"]), data["resolution"]
    kinds = f"{classes} classes" if classes > 1 else "one class"
    count = f"{images['train']:,} training images and {images['held_out']:,} held-out ones"
    if not images["held_out"]:
        count = f"latents of {images['train']:,} training images"
    return f"{data['source']}: {count}, {kinds}, {side}×{side} pixels"


def _trainings(params: Params) -> str:
    configs, seeds = ", ".join(params.configs), ", ".join(map(str, params.seeds))
    return (
        f"config{'s' * (len(params.configs) > 1)} {configs}; "
        f"training seed{'s' * (len(params.seeds) > 1)} {seeds}"
    )


def git_commit() -> str:
    """The commit, and which files differ from it; DVC changes dvc.lock while it runs the stages."""
    commit = git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return "not in a git repository with a commit"
    status = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock")
    changed = [line[3:] for line in (status or "").splitlines()]
    return f"commit {commit}" + (
        f", with changes that are not committed in {', '.join(changed)}" if changed else ""
    )


def _machine(device: torch.device) -> str:
    accelerator = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return (
        f"{_processor()} ({os.cpu_count()} threads){accelerator}; {platform.system()}, "
        f"Python {platform.python_version()}, PyTorch {torch.__version__}"
    )


def _processor() -> str:
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def stage_seconds(params: Params) -> pd.DataFrame:
    """What stages took with these params, in this project: a row each; of trainings, mean and number.

    Seconds are NaN where no complete run is known.
    """
    past, rows = past_seconds(params), []
    for stage, declared in read_declarations().items():
        for config in params.configs if declared.per_training else ("",):
            name = f"{stage}@{config}" if config else stage
            runs = len(params.seeds) if config else 1
            mean = past.get(name, math.nan)
            rows.append({"stage": name, "runs": runs, "mean seconds": mean, "seconds": runs * mean})
    return pd.DataFrame(rows[:-1])  # without the report, which is being written


def _duration(seconds: pd.Series) -> str:
    unknown = int(seconds.isna().sum())
    if unknown == len(seconds):
        return UNKNOWN
    total = duration(float(seconds.sum()))
    return f"{total}, without {unknown} stages whose time is not known" if unknown else total
