"""Results of experiments by revision: a commit, a branch, the name of an experiment, or `workspace`."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from edm2.params import Params, UserError
from edm2.params.configs import ConfigName
from edm2.params.diffusion import Diffusion, Overrides
from edm2.params.yaml_file import parse_yaml
from edm2.pipeline.revisions import WORKSPACE
from edm2.runtime.checksums import require_checksum
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
    except UnicodeDecodeError as error:
        raise UserError(f"{revision}: {path}: not text in UTF-8 ({error.reason}).") from None
    except (DvcException, SCMError, OSError) as error:
        if _rev(revision) is None:
            raise UserError(
                f"{path}: cannot be read in the workspace. Run `dvc repro`; if that fails, `edm2 doctor`."
            ) from None
        raise UserError(
            f"{revision}: cannot read {path} ({error}). Expected a commit, or an experiment of "
            "`dvc exp show` that finished; without git there is only `workspace`."
        ) from None
    return text


def read_result(revision: str, path: str) -> str:
    """The text of a table or of metrics. In the workspace it is compared with its checksum; DVC finds
    files of other revisions by theirs.

    Raises:
        UserError: see `read`; or it is not as it was written.
    """
    if _rev(revision) is None and Path(path).exists():
        require_checksum(Path(path))
    return read(revision, path)


def read_params(revision: str) -> dict[str, Any]:
    """The tree of an experiment's params.yaml, as written.

    Raises:
        UserError: it cannot be read, or has no lists of configs and seeds.
    """
    name = f"{revision}: params.yaml"
    tree = parse_yaml(read(revision, "params.yaml"), name)
    for key, kind, kinds in (("configs", str, "names"), ("seeds", int, "numbers")):
        values = tree.get(key) if isinstance(tree, dict) else None
        if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
            raise UserError(
                f"{name}: expected `{key}`, a list of {kinds}. See `edm2 params check`."
            )
    return cast(dict[str, Any], tree)


def used_params(tree: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By config, the params of `tree` with the values that this config uses, by key path.

    `diffusion.per_config` is merged in, and nulls are replaced by the paper's values. Nulls stay in
    params of old revisions that are no longer valid.
    """
    flat = flatten(tree)
    shared = {k: value for k, value in flat.items() if not k.startswith("diffusion.per_config.")}
    used = {}
    for config in tree["configs"]:
        prefix = f"diffusion.per_config.{config}."
        changes = {
            f"diffusion.{key.removeprefix(prefix)}": value
            for key, value in flat.items()
            if key.startswith(prefix)
        }
        used[config] = shared | changes | _resolved(tree, config)
    return used


def _resolved(tree: Mapping[str, Any], config: ConfigName) -> dict[str, Any]:
    """The resolved training config as params by key path; empty if the params do not validate."""
    try:
        values = asdict(Params.complete(tree).resolved(config))
    except ValidationError:
        return {}
    paths = {name: f"diffusion.{name}" for name in Diffusion.model_fields}
    paths |= {name: f"diffusion.overrides.{name}" for name in Overrides.model_fields}
    return {
        paths[name]: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if name in paths
    }


def fetch(revision: str, folder: str, target: Path) -> Path:
    """Copy an out of an experiment from the cache to `target`.

    Raises:
        UserError: the out is not in the cache.
    """
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    try:
        DVCFileSystem(rev=_rev(revision)).get(folder, str(target), recursive=True)
    except (DvcException, SCMError, OSError) as error:
        raise UserError(
            f"{revision}: cannot read {folder} ({error}). Expected it in the cache. Run "
            "`dvc fetch --all-commits` if a remote has it, or run the experiment again."
        ) from None
    return target


def _rev(revision: str) -> str | None:
    return None if revision == WORKSPACE else revision
