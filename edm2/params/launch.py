"""The launcher of the stages: a command for all of them, or commands by stage."""

import math
import os
import re
import shlex
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from edm2.params.errors import UserError
from edm2.params.text_types import Command, Name

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
COUNTS = ("--nnodes", "--nproc_per_node")  # torchrun's
NAMED_COUNTS = r"\d+:[1-9]\d*|auto|gpu|cpu|xpu|\$.*"  # elastic, counted by torchrun, or a variable


def _by_stage(value: Any) -> Any:
    if isinstance(value, str):
        return {DEFAULT: value}
    if not isinstance(value, dict) or not value:
        raise PydanticCustomError(
            "launch", "a command, or commands by the names of stages and `default`"
        )
    return value


Launch = Annotated[dict[Name, Command], Field(max_length=50), BeforeValidator(_by_stage)]


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
    counts = (_count(os.path.expandvars(command), option) for option in COUNTS)
    return math.prod(int(count) if re.fullmatch("[1-9][0-9]*", count) else 1 for count in counts)


def wrong_counts(command: str) -> list[str]:
    """The options of torchrun in a command whose number of nodes or processes is none."""
    expected = rf"[1-9]\d*|{NAMED_COUNTS}"
    counts = {option: _count(os.path.expandvars(command), option) for option in COUNTS}
    return [option for option, count in counts.items() if not re.fullmatch(expected, count)]


def _count(command: str, option: str) -> str:
    """The value of an option of torchrun, with `_` or `-` in its name; 1 without it."""
    name = option.replace("_", "[-_]")
    match = re.search(rf"(?:^|\s){name}(?:=|\s+|$)([^\s\"']*)", command)
    return match[1] if match else "1"
