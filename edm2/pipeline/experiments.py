"""Results of experiments by revision: a commit, a branch, the name of an experiment, or `workspace`."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from edm2.params import UserError
from edm2.runtime.tracking import flatten


def read(revision: str, path: str) -> str:
    """The text of a file of an experiment.

    Raises:
        UserError: the revision is unknown, or has no such file.
    """
    import dvc.api
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    try:
        text: str = dvc.api.read(path, rev=_rev(revision))
    except (DvcException, SCMError, OSError) as error:
        raise UserError(
            f"{revision}: expected a revision with {path}: a commit, or an experiment of "
            f"`dvc exp show` that ran to its end ({error})."
        ) from None
    return text


def flat_params(revision: str) -> dict[str, Any]:
    """Its params.yaml, by key path."""
    return flatten(YAML(typ="safe").load(read(revision, "params.yaml")))


def fetch(revision: str, folder: str, target: Path) -> Path:
    """Copy one of its outs from the cache.

    Raises:
        UserError: it is not in the cache.
    """
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    try:
        DVCFileSystem(rev=_rev(revision)).get(folder, str(target), recursive=True)
    except (DvcException, SCMError, OSError) as error:
        raise UserError(f"{revision}: {folder} cannot be read ({error}).") from None
    return target


def _rev(revision: str) -> str | None:
    return None if revision == "workspace" else revision
