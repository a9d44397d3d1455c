"""The networks of a search, which are known by their EMA lengths when it asks for them."""

from collections.abc import Mapping, Sequence
from typing import Any

from edm2.ema.reconstruct import Target, describe_averages
from edm2.ema.store import SnapshotStore
from edm2.params.guidance import Guidance
from edm2.params.replicates import Replicate
from edm2.pipeline.networks import SweptNetwork
from edm2.pipeline.paths import store_folder
from edm2.pipeline.sweep_plan import SweepPlan, record, whole_networks
from edm2.runtime.distributed import on_main_process


class SearchedNetworks:
    """Networks of one training at its end, by EMA length."""

    def __init__(
        self, replicate: Replicate, guidance: Guidance, manifest: Mapping[str, Any]
    ) -> None:
        """
        Args:
            manifest: that of the sweep.
        """
        self.replicate, self.guidance = replicate, guidance
        self.normalize: bool = manifest["normalize_weights"]
        self._described: dict[float, SweptNetwork] = {}

    def at(self, lengths: Sequence[float]) -> list[SweptNetwork]:
        """
        Raises:
            UserError: snapshots are missing or damaged.
        """
        new = [length for length in lengths if length not in self._described]
        if new:
            networks = on_main_process(lambda: self._describe(new))
            self._described |= dict(zip(new, networks, strict=True))
        return [self._described[length] for length in lengths]

    def _describe(self, lengths: Sequence[float]) -> list[SweptNetwork]:
        def whole(store: SnapshotStore) -> Any:
            return whole_networks(store, lengths)

        plan = SweepPlan.of(self.replicate, self.guidance, whole)
        store = plan.stores[store_folder(self.replicate)]
        targets: list[Target] = [network.target for network in plan.networks]
        averages = describe_averages(store, targets, self.normalize)
        for network, average in zip(plan.networks, averages, strict=True):
            average.warn(network.file)
        return [record(n, average) for n, average in zip(plan.networks, averages, strict=True)]
