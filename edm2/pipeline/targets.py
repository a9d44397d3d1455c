"""What `edm2 compare` compares: a revision, or one config of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edm2.params import UserError
from edm2.params.remedies import did_you_mean
from edm2.pipeline.experiments import read_params
from edm2.pipeline.revisions import WORKSPACE, commit_of, listed, revision_names


@dataclass(frozen=True)
class Target:
    """All configs of a revision, or one.

    Attributes:
        revision: a commit, a branch, the name of an experiment, or `workspace`.
        configs: those that are compared.
        one: whether the user named a config.
        params: params.yaml as written.
    """

    revision: str
    configs: Sequence[str]
    one: bool
    params: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.revision}:{self.configs[0]}" if self.one else self.revision


def find_targets(names: Sequence[str]) -> list[Target]:
    """The targets that a user names: REVISION, REVISION:CONFIG, or CONFIG, which is one of the workspace.

    One that is named twice counts once, even by another name of the same commit.

    Raises:
        UserError: there is no such revision or config; a name is both; params.yaml cannot be read.
    """
    targets: dict[object, Target] = {}
    for name in names:
        target = _find(name)
        targets.setdefault((_identity(target.revision), *target.configs), target)
    return list(targets.values())


def _identity(revision: str) -> str | None:
    return WORKSPACE if revision == WORKSPACE else commit_of(revision)


def _find(name: str) -> Target:
    if name == WORKSPACE:
        return _of_revision(name)
    revision, colon, config = name.rpartition(":")
    if colon:
        return _of_config(name, revision, config)
    of_workspace = name in read_params(WORKSPACE)["configs"]
    is_revision = commit_of(name) is not None
    if of_workspace and is_revision:
        raise UserError(
            f"{name}: both a config of params.yaml and a revision: expected one of both. Name the "
            f"config {WORKSPACE}:{name}, or the revision by its commit, or like refs/heads/{name}."
        )
    if of_workspace:
        return _of_config(f"{WORKSPACE}:{name}", WORKSPACE, name)
    if not is_revision:
        raise _unknown(name, name)
    return _of_revision(name)


def _of_revision(revision: str) -> Target:
    params = read_params(revision)
    return Target(revision, params["configs"], False, params)


def _of_config(name: str, revision: str, config: str) -> Target:
    if _identity(revision) is None:
        raise _unknown(name, revision)
    params = read_params(revision)
    configs = params["configs"]
    if config not in configs:
        raise UserError(
            f"{name}: {revision} has no config {config}: expected one of {', '.join(configs)}. "
            f"{did_you_mean(config, configs)}".rstrip()
        )
    return Target(revision, [config], True, params)


def _unknown(name: str, revision: str) -> UserError:
    configs, revisions = read_params(WORKSPACE)["configs"], revision_names()
    known = {f"configs of the {WORKSPACE}": configs, **revisions}
    every = [WORKSPACE, *(each for names in known.values() for each in names)]
    every += ["HEAD"] if revisions else []
    which = f"{revision} is no revision"
    if name == revision:
        which = "neither a revision nor a config"
    config, _, seed = revision.rpartition("-")
    if config in configs and seed.isdigit():
        which = (
            f"a single training of config {config}. Configs are compared, with all of their seeds"
        )
    return UserError(
        f"{name}: {which}: expected a commit, {WORKSPACE}, or one of these names: "
        f"{listed(known)}. {did_you_mean(revision, every)}"
        f"{'' if revisions else f'Without commits in git there is only the {WORKSPACE}.'}".rstrip()
    )
