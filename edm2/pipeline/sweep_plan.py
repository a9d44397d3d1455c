"""Which networks a sweep has, and their guides."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edm2.diffusion.names import PAPER_TENSORS, matching
from edm2.ema.reconstruct import Reconstruction, Target
from edm2.ema.store import SnapshotStore
from edm2.params.ema import Sweep
from edm2.params.guidance import Guidance
from edm2.params.replicates import Replicate
from edm2.pipeline.networks import ALL, GUIDE, SweptNetwork, network_file
from edm2.pipeline.paths import guide_folder, store_folder


@dataclass(frozen=True)
class PlannedNetwork:
    """A network to reconstruct.

    Attributes:
        tensors: pattern of the tensors that have `ema_length`; "all" for a whole network.
        target: EMA length, time, and EMA lengths of single tensors.
        file: its name in the sweep's folder.
        guide: name of its guide's file, if it has one.
    """

    tensors: str
    ema_length: float
    target: Target
    file: str
    guide: str | None = None


@dataclass(frozen=True)
class SweepPlan:
    """The networks of one training's sweep.

    Attributes:
        targets: what to make, by name of the file, by folder of the snapshots.
        stores: the opened folders.
    """

    networks: list[PlannedNetwork]
    targets: Mapping[Path, Mapping[str, Target]]
    stores: Mapping[Path, SnapshotStore]

    @classmethod
    def of(
        cls,
        replicate: Replicate,
        guidance: Guidance,
        list_networks: Callable[[SnapshotStore], Iterable[PlannedNetwork]],
    ) -> "SweepPlan":
        """The networks that `list_networks` names, with their guides.

        Raises:
            UserError: snapshots are missing or damaged.
        """
        folder, guides_folder = store_folder(replicate), guide_folder(replicate)
        stores = {folder: SnapshotStore(folder)}
        planned = list(list_networks(stores[folder]))
        targets = {folder: {network.file: network.target for network in planned}}
        if guidance.guide == "snapshot":
            planned, guides = _with_guides(planned, stores[folder], guidance, "")
            targets[folder] |= guides
        elif guidance.guide in ("trained", "published"):
            stores[guides_folder] = SnapshotStore(guides_folder)
            planned, guides = _with_guides(planned, stores[guides_folder], guidance, GUIDE)
            targets[guides_folder] = guides
        return cls(planned, targets, stores)


def whole_networks(
    store: SnapshotStore, lengths: Iterable[float], nimg: int | None = None
) -> Iterator[PlannedNetwork]:
    """Networks with one EMA length for all tensors, at one time; None: the end of training."""
    end = store.end if nimg is None else nimg
    for length in lengths:
        yield PlannedNetwork(ALL, length, Target(length, end), network_file(end, length))


def plan_networks(store: SnapshotStore, sweep: Sweep) -> Iterator[PlannedNetwork]:
    """The networks that params list: whole networks at each time, then patterns of tensors."""
    for nimg in sweep.nimg or (store.end,):
        fixed = (store.at(nimg).sigma_rel,) if store.has_fixed_lengths else None
        yield from whole_networks(store, fixed or sweep.ema_lengths, nimg)
    if store.has_fixed_lengths:
        return
    patterns = [
        p for entry in sweep.tensors for p in (PAPER_TENSORS if entry == "paper" else [entry])
    ]
    for number, pattern in enumerate(patterns):
        names = matching(pattern, store.parameters)
        for length in sweep.ema_lengths:
            assert sweep.tensors_base is not None  # params require it with patterns
            yield PlannedNetwork(
                pattern,
                length,
                Target(sweep.tensors_base, store.end, dict.fromkeys(names, length)),
                network_file(store.end, length, f"tensors{number}-"),
            )


def _with_guides(
    networks: list[PlannedNetwork], source: SnapshotStore, guidance: Guidance, prefix: str
) -> tuple[list[PlannedNetwork], dict[str, Target]]:
    """The networks with the files of their guides, and the guides' targets by file.

    A guide has the length and time that params set; otherwise the length of its network, and the time
    of its network (guide snapshot) or the end of the guide's training.

    Args:
        source: store of the guides' snapshots.
        prefix: prefix of the guides' files; empty for guides of the same training.
    """
    guided, guides = [], {}
    for network in networks:
        nimg = guidance.nimg or (source.end if prefix else network.target.nimg) or source.end
        length = guidance.ema_length or network.target.sigma_rel
        if source.has_fixed_lengths:
            length = source.at(nimg).sigma_rel
        file = prefix + network_file(nimg, length)
        guides[file] = Target(length, nimg)
        guided.append(replace(network, guide=file))
    return guided, guides


def record(
    network: PlannedNetwork, average: Reconstruction, tensors_base: float | None = None
) -> SweptNetwork:
    """What is known of a network, for tables."""
    return SweptNetwork(
        file=network.file,
        guide=network.guide,
        tensors=network.tensors,
        ema_length=network.ema_length,
        tensors_base=None if network.tensors == ALL else tensors_base,
        nimg=average.nimg,
        average=average.average,
        error=average.error,
        weight_sum=average.weight_sum,
        snapshots=average.snapshots,
    )
