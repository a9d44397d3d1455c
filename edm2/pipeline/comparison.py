"""Configs and experiments side by side, and whether a change helps: `edm2 compare`."""

from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from edm2.params.replicates import Replicate
from edm2.pipeline.experiments import read_result, used_params
from edm2.pipeline.targets import Target, find_targets
from edm2.reporting.changes import Experiment
from edm2.reporting.comparison_page import Comparison, write_page
from edm2.reporting.selection import read_networks
from edm2.runtime.tracking import flatten


def write_comparison(names: Sequence[str], out: Path) -> Comparison:
    """Compare experiments, and write the answers, tables and figures to `out`, with a page of all.

    Args:
        names: see `find_targets`. Without a second one, configs of the first are compared with each other.

    Raises:
        UserError: a name is unknown, has no results, or was evaluated with another metric.
    """
    comparison = Comparison.of({str(target): _experiment(target) for target in find_targets(names)})
    write_page(comparison, out)
    return comparison


def _experiment(target: Target) -> Experiment:
    tables = [
        read_result(target.revision, f"reports/fid/{Replicate(config, seed)}.csv")
        for config in target.configs
        for seed in target.params["seeds"]
    ]
    networks = read_networks(StringIO(text) for text in tables)
    used = {k: v for k, v in used_params(target.params).items() if k in target.configs}
    return Experiment(networks, flatten(target.params), used, target.revision)
