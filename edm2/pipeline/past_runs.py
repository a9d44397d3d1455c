"""The tables of networks of past runs of this project."""

import json
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from edm2.params.replicates import Replicate
from edm2.pipeline.experiments import read_params, read_result
from edm2.pipeline.revisions import WORKSPACE
from edm2.reporting.selection import read_networks
from edm2.runtime.checksums import require_checksum


def past_networks(planned: Mapping[str, Any], revisions: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The tables of networks of past runs, by revision; of those that differ only in `seeds`, one.

    Args:
        planned: the tree of the planned params, as written.
        revisions: commits, branches, names of experiments, or `workspace`. Of that, tables of the planned
            trainings are taken as far as they are there, whatever other params they were made with.

    Raises:
        UserError: a revision is unknown or has not all its tables; a table is damaged.
    """
    groups: dict[str, dict[str, pd.DataFrame]] = {}
    for revision in revisions:
        tree = planned if revision == WORKSPACE else read_params(revision)
        table = _networks(revision, tree)
        if table is None:
            continue
        group = json.dumps({**tree, "configs": None, "seeds": None}, sort_keys=True)
        if any(_trainings(table) & _trainings(other) for other in groups.get(group, {}).values()):
            group = revision  # the same trainings again, in another state of the code
        groups.setdefault(group, {})[revision] = table
    return {", ".join(group): pd.concat(group.values()) for group in groups.values()}


def _networks(revision: str, tree: Mapping[str, Any]) -> pd.DataFrame | None:
    trainings = [Replicate(config, seed) for config in tree["configs"] for seed in tree["seeds"]]
    paths = [f"reports/fid/{training}.csv" for training in trainings]
    if revision != WORKSPACE:
        return read_networks(StringIO(read_result(revision, path)) for path in paths)
    tables = [require_checksum(Path(path)) for path in paths if Path(path).exists()]
    return read_networks(tables) if tables else None


def _trainings(networks: pd.DataFrame) -> set[tuple[Any, ...]]:
    return set(zip(networks["config"], networks["training_seed"], strict=True))
