"""Checks of `launch`."""

from collections.abc import Iterator, Mapping

from edm2.params.errors import Problem, UserError
from edm2.params.launch import (
    DEFAULT,
    ONE_PROCESS,
    STAGES,
    launched_ranks,
    split_command,
    wrong_counts,
)
from edm2.params.remedies import close_names

SHELL = {"|", "||", "&", "&&", ";", "<", ">", ">>", "2>", "2>&1", "&>"}


def launch_problems(launch: Mapping[str, str]) -> Iterator[Problem]:
    """Problems of the launchers; whether their programs exist is known only where they run."""
    names = (DEFAULT, *STAGES)
    if DEFAULT not in launch:
        yield Problem(
            f"launch.{DEFAULT}", None, "a command for all other stages", f"Add {DEFAULT}: python."
        )
    for name, command in launch.items():
        key = "launch" if list(launch) == [DEFAULT] else f"launch.{name}"
        if name not in names:
            meant = close_names(name, names)[:1]
            fix = f"Did you mean {meant[0]}?" if meant else "Rename it, or remove it."
            yield Problem(key, command, f"a stage: {', '.join(names)}", fix)
        try:
            words = split_command(command)
        except UserError:
            words = []
            allowed = "a command that is not empty, with its quotes closed"
            yield Problem(key, command, allowed, "Write python, or e.g. torchrun.")
        if not SHELL.isdisjoint(words):
            allowed = "a program with arguments: no shell reads it"
            yield Problem(key, command, allowed, "Put it into a script, and write its path.")
        for option in wrong_counts(command):
            allowed = f"{option} with a number of 1 or more"
            yield Problem(key, command, allowed, f"Write e.g. {option}=8.")
        if name in ONE_PROCESS and launched_ranks(command) > 1:
            yield Problem(key, command, "one process: this stage uses no more", "Write python.")
