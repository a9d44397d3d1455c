"""The launcher of the stages: a command for all of them, or commands by stage."""

import os
import re
import shlex
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from edm2.params.errors import UserError

STAGES = (
    "prepare",
    "train_features",
    "reference",
    "train_vae",
    "baselines",
    "encode_latents",
    "train_diffusion",
    "train_guide",
    "snapshot_emas",
    "sweep_ema",
    "fid",
    "report",
)
ONE_PROCESS = ("snapshot_emas", "sweep_ema", "report")
DEFAULT = "default"  # key of the command for all other stages
IN_PLACE = "python"  # the launcher with which a stage goes on in its own process


def _by_stage(value: Any) -> Any:
    if isinstance(value, str):
        return {DEFAULT: value}
    if not isinstance(value, dict):
        raise ValueError("a command, or commands by the names of stages and `default`")
    return value


Launch = Annotated[dict[str, str], BeforeValidator(_by_stage)]


def launcher_of(launch: Mapping[str, str], stage: str) -> str:
    """The command that starts a stage. The default is not for stages that use one process only."""
    return launch.get(stage, IN_PLACE if stage in ONE_PROCESS else launch[DEFAULT])


def split_command(command: str) -> list[str]:
    """The words of a command, with variables of the environment ($NAME, ${NAME}) in their place.

    It is split as a shell does; a variable with spaces stays one word.

    Raises:
        UserError: it is empty, a quote is not closed, or a variable is not set.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"{command!r}: {error}. Close the quotes.") from None
    if not words or not words[0]:
        raise UserError(f"{command!r}: empty. Expected a command: python, or e.g. torchrun.")
    return [os.path.expandvars(word) for word in words]


def launched_ranks(command: str) -> int:
    """Number of processes that a command starts: nodes × processes per node of torchrun, else one.

    Variables that are not set here count as one: a job of a cluster sets its own.
    """

    def option(name: str) -> int:
        match = re.search(rf"--{name}[= ](\d+)", os.path.expandvars(command).replace("_", "-"))
        return int(match.group(1)) if match else 1

    return option("nnodes") * option("nproc-per-node")
