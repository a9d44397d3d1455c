"""The trainings of a project: every config with every seed."""

from collections.abc import Sequence
from dataclasses import dataclass

from edm2.params.configs import ConfigName
from edm2.params.errors import UserError


@dataclass(frozen=True)
class Replicate:
    """One training of a config. Its name, like G-0, is that of its stages and results."""

    config: ConfigName
    seed: int

    def __str__(self) -> str:
        return f"{self.config}-{self.seed}"


def find_replicate(
    replicates: Sequence[Replicate], name: str, named: str, file: object
) -> Replicate:
    """The replicate that a user names: like G-0, or by its config alone if that has one seed.

    Args:
        named: how the user named it, for the error.
        file: of the params.

    Raises:
        UserError: there is no such replicate, or there are several.
    """
    exact = [replicate for replicate in replicates if str(replicate) == name]
    found = exact or [replicate for replicate in replicates if replicate.config == name]
    if not found:
        listed = ", ".join(dict.fromkeys(replicate.config for replicate in replicates))
        seeds = ", ".join(str(seed) for seed in dict.fromkeys(r.seed for r in replicates))
        raise UserError(
            f"{named}: expected one of `configs` in {file} ({listed}), followed by a hyphen and one of "
            f"`seeds` ({seeds}), like {replicates[0]}. Add it there, or name one of these."
        )
    if len(found) > 1:
        raise UserError(
            f"{named}: there is a training of it for each of `seeds` in {file}. Name one of "
            f"{', '.join(map(str, found))}."
        )
    return found[0]
