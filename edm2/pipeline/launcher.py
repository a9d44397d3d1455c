"""The start of a stage by its launcher, such as torchrun, from the process that DVC has started.

dvc.yaml has no launcher: DVC would run a stage again when its command changes.
"""

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from edm2.params.errors import UserError
from edm2.params.launch import IN_PLACE, Launch, launcher_of, split_command
from edm2.params.launch_checks import launch_problems

NO_LAUNCH = "--no-launch"


def launch(stage: str, tree: Any) -> None:
    """Replace this process by the launcher of a stage, unless it is `python` or has started this one.

    It gets the arguments of this process and `--no-launch`. Its folder of programs is that of this Python
    first, then PATH. Wrong params are left to the check of all of them.

    Args:
        tree: of params.yaml; only `launch` is read.

    Raises:
        UserError: the command is wrong, or its program does not exist or cannot be started.
    """
    words = _launcher(stage, tree)
    if words == [IN_PLACE] or "RANK" in os.environ:
        return
    unset = re.search(r"\$\{?([A-Za-z_]\w*)", " ".join(words))
    if unset:
        raise _error(stage, words, f"the environment has no variable {unset[1]}")
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which(words[0], path=folders)
    if program is None:
        raise _error(stage, words, f"there is no program {words[0]}")
    arguments = [*words, "-m", f"stages.{stage}", *sys.argv[1:], NO_LAUNCH]
    sys.stdout.flush()
    try:
        os.execve(program, arguments, {**os.environ, "PATH": folders})
    except OSError as error:
        raise _error(stage, words, f"{program}: {error.strerror}") from None


def _launcher(stage: str, tree: Any) -> list[str]:
    """The launcher in a tree of params; `python` if they are wrong."""
    try:
        launchers = TypeAdapter(Launch).validate_python(tree["launch"], strict=True)
        if any(launch_problems(launchers)):
            return [IN_PLACE]
        return split_command(launcher_of(launchers, stage))
    except (ValidationError, UserError, TypeError, KeyError):
        return [IN_PLACE]


def _error(stage: str, words: list[str], reason: str) -> UserError:
    return UserError(
        f"launch: {' '.join(words)!r} ({stage}): {reason}. Expected a program with arguments, which no "
        "shell reads: python, torchrun --nproc_per_node=8, env NAME=VALUE torchrun ..., or a script that "
        'ends with: exec torchrun "$@".'
    )
