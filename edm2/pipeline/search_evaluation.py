"""The evaluation of a search (sweep.search): rounds of work items, until the best EMA length is known."""

from collections.abc import Mapping, Sequence
from math import hypot
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from edm2.metrics.jackknife import pseudovalues
from edm2.metrics.search import PILOT, Found, Point, Search
from edm2.metrics.statistics import metric_name
from edm2.pipeline.evaluation_items import Evaluation, ItemEvaluator, Row
from edm2.pipeline.networks import SweptNetwork
from edm2.pipeline.searched_networks import SearchedNetworks
from edm2.runtime.distributed import on_main_process

Array = NDArray[np.float64]
DECIMALS = 4  # of the EMA length of the best network


class SearchEvaluator:
    """Evaluates the networks that a search asks for.

    What it asks for next is a function of the results of complete rounds. So launches that share the
    items, and those that continue after a kill, all ask for the same.
    """

    def __init__(self, items: ItemEvaluator, manifest: Mapping[str, Any]) -> None:
        """
        Args:
            manifest: that of the sweep.
        """
        self.items, self.params = items, items.params
        self.networks = SearchedNetworks(items.replicate, self.params.guidance, manifest)
        self.fixed = [SweptNetwork(**network) for network in manifest["networks"]]
        self.search = Search(
            **manifest["search"],
            max_blocks=self.params.evaluation.seed_blocks,
            strengths=self.params.guidance.strength,
        )
        self._asked: dict[str, Evaluation] = {}
        self._values: dict[tuple[str, ...], Array] = {}  # by names of items

    @property
    def evaluated(self) -> list[Evaluation]:
        """The items of the search itself, without fresh seeds."""
        return [item for item in self._asked.values() if item.seeds == "sweep"]

    def evaluate(self) -> pd.DataFrame:
        """The table: a row per metric of each item, then a row for all blocks of each network.

        The network at the minimum is evaluated as well, on as many blocks as its neighbors, and on as many
        fresh seeds (evaluation.confirm). An average of fixed length is evaluated on the first blocks.
        """
        found = None if self.fixed else self.search.find(self._points)
        if found is None:
            best, strength, blocks = self.fixed[0], self.search.strengths[0], PILOT
        else:
            length, strength = (round(each, DECIMALS) for each in found.place)
            (best,), blocks = self.networks.at([length]), found.blocks
        sweep = self._blocks(best, strength, blocks)
        self._complete(sweep)
        confirm = self.params.evaluation.confirm
        fresh = self._blocks(best, strength, blocks, fresh=True) if confirm else []
        self._complete(fresh)
        rows = self.items.complete(list(self._asked.values()))
        self.items.progress.close()
        merged = on_main_process(lambda: self._merged(rows, sweep, fresh, found))
        return pd.DataFrame(rows + merged)

    def _points(self, points: Sequence[Point], count: int) -> Array:
        """What each of the first `count` blocks says of the distance at infinitely many samples."""
        networks = self.networks.at([length for length, _ in points])
        files = [file for network in networks for file in (network.file, network.guide) if file]
        self.items.evaluator.networks.reader.queue = list(dict.fromkeys(files))
        groups = [
            self._blocks(network, strength, count)
            for network, (_, strength) in zip(networks, points, strict=True)
        ]
        self._complete([item for group in groups for item in group])
        return np.stack(on_main_process(lambda: [self._pseudovalues(group) for group in groups]))

    def _blocks(
        self, network: SweptNetwork, strength: float, count: int, fresh: bool = False
    ) -> list[Evaluation]:
        """The items of a network on `count` blocks; fresh ones are after all that a search may use."""
        first = self.params.evaluation.seed_blocks if fresh else 0
        return [
            Evaluation(network, strength, "fresh" if fresh else "sweep", seed)
            for seed in self.items.first_seeds(first, count)
        ]

    def _complete(self, items: Sequence[Evaluation]) -> None:
        new = {item.name: item for item in items if item.name not in self._asked}
        if new:
            self.items.complete(list(new.values()))
            self._asked |= new

    def _pseudovalues(self, items: Sequence[Evaluation]) -> Array:
        key = tuple(item.name for item in items)
        if key not in self._values:
            moments = [self.items.moments(item) for item in items]
            evaluator, singular = self.items.evaluator, self.params.evaluation.allow_singular
            self._values[key], _ = pseudovalues(moments, evaluator.reference, singular)
        return self._values[key]

    def _merged(
        self,
        rows: Sequence[Row],
        sweep: Sequence[Evaluation],
        fresh: Sequence[Evaluation],
        found: Found | None,
    ) -> list[Row]:
        """A row for each network, on all its blocks; that of the best network says where the minimum is."""
        groups: dict[tuple[str, float], list[Evaluation]] = {}
        for item in self.evaluated:
            groups.setdefault((item.network.name, item.strength), []).append(item)
        merged = {key: self._merged_row(rows, group, sweep) for key, group in groups.items()}
        if found is not None:
            merged[sweep[0].network.name, sweep[0].strength] |= _columns(found)
        return list(merged.values()) + ([self._merged_row(rows, fresh, fresh)] if fresh else [])

    def _merged_row(
        self, rows: Sequence[Row], items: Sequence[Evaluation], best: Sequence[Evaluation]
    ) -> Row:
        """The distance at infinitely many samples, of a network on all its blocks.

        A network with fewer blocks than the best one has the value of that one, plus the difference on the
        blocks of both: so all networks of a search can be compared.
        """
        count, samples = len(items), self.params.evaluation.samples
        values = self._pseudovalues(best)
        difference = self._pseudovalues(items) - self._pseudovalues(best[:count])
        name = metric_name(self.items.evaluator.detector.name, samples, "fd")
        first = items[0]
        same = {
            "network": first.network.name,
            "guidance": first.strength,
            "metric": name,
            "first_seed": first.first_seed,
        }
        common = next(row for row in rows if same.items() <= row.items())
        dims = self.items.evaluator.detector.dims
        return {
            **common,
            "metric": metric_name(self.items.evaluator.detector.name, samples, "fd_inf"),
            "value": float(values.mean() + difference.mean()),
            "standard_error": hypot(_error(values), _error(difference)),
            "singular": (count - 1) * samples <= dims,
            "samples": count * samples,
            "merged_blocks": count,
        }


def _columns(found: Found) -> Row:
    """What the row of the best network says of the minimum."""
    (length, strength), (low, high) = found.place, found.interval
    columns: Row = {"minimum": length, "minimum_low": low, "minimum_high": high}
    if found.strengths[0] < found.strengths[1]:
        names = ("minimum_guidance", "minimum_guidance_low", "minimum_guidance_high")
        columns |= dict(zip(names, (strength, *found.strengths), strict=True))
    return {**columns, "minimum_known": found.is_known}


def _error(values: Array) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))
