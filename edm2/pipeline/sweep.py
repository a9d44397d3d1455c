"""The networks of a sweep: which ones params list, and their reconstruction."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from edm2.diffusion.names import PAPER_TENSORS, matching
from edm2.ema.reconstruct import Reconstruction, Target, copy_files, reconstruct_files
from edm2.ema.store import SnapshotStore
from edm2.params import Params
from edm2.params.ema import Sweep
from edm2.params.guidance import Guidance
from edm2.pipeline.networks import ALL, SweptNetwork
from edm2.pipeline.paths import guide_folder, store_folder, sweep_folder
from edm2.pipeline.runner import StageContext
from edm2.runtime.manifest import write_manifest

DTYPES = {"float16": torch.float16, "float32": torch.float32}


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


def sweep_ema(context: StageContext) -> None:
    """Reconstruct one network per EMA length, time and tensor; copy averages of fixed length."""
    params, out = context.params, context.out(sweep_folder(context.config))
    out.mkdir(exist_ok=True)
    store = SnapshotStore(store_folder(context.config))
    if store.has_fixed_lengths:
        print(
            f"note: the averages of config {context.config} have a fixed length; sweep.ema_lengths "
            "and sweep.tensors have no effect."
        )
    planned = list(plan_networks(store, params.sweep))
    targets = {network.file: network.target for network in planned}
    if params.guidance.guide == "snapshot":
        planned, guides = _with_guides(planned, store, params.guidance, "")
        targets |= guides
    elif params.guidance.guide in ("trained", "published"):
        source = SnapshotStore(guide_folder(context.config))
        planned, guides = _with_guides(planned, source, params.guidance, "guide-")
        _reconstruct(source, guides, out, params.sweep)
    reconstructions = _reconstruct(store, targets, out, params.sweep)
    networks = [_record(network, reconstructions[network.file], params) for network in planned]
    for network in networks:
        if network.tensors == ALL and network.nimg == store.end:
            quality = {
                "reconstruction/error": network.error,
                "reconstruction/weight_sum": network.weight_sum,
            }
            step = round(1000 * network.ema_length)
            context.run.log(step, quality, axis="ema_length_permille")
    write_manifest(out, networks=[asdict(network) for network in networks])


def plan_networks(store: SnapshotStore, sweep: Sweep) -> Iterator[PlannedNetwork]:
    """The networks that params list: whole networks at each time, then patterns of tensors."""
    for nimg in sweep.nimg or (store.end,):
        for length in (store.at(nimg).sigma_rel,) if store.has_fixed_lengths else sweep.ema_lengths:
            yield PlannedNetwork(ALL, length, Target(length, nimg), _file(nimg, length))
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
                _file(store.end, length, f"tensors{number}-"),
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
        file = prefix + _file(nimg, length)
        guides[file] = Target(length, nimg)
        guided.append(
            PlannedNetwork(network.tensors, network.ema_length, network.target, network.file, file)
        )
    return guided, guides


def _file(nimg: int, length: float, kind: str = "") -> str:
    return f"{nimg:012d}-{kind}ema_length-{length!r}.safetensors"


def _reconstruct(
    store: SnapshotStore, targets: Mapping[str, Target], out: Path, sweep: Sweep
) -> dict[str, Reconstruction]:
    """Write the averages in one pass over the snapshots; warn about those with a large error."""
    paths = {out / name: target for name, target in targets.items()}
    dtype = DTYPES[sweep.dtype]
    if store.has_fixed_lengths:
        reconstructions = copy_files(store, paths, dtype)
    else:
        reconstructions = reconstruct_files(store, paths, dtype, sweep.normalize_weights)
    for path, reconstruction in zip(paths, reconstructions, strict=True):
        if not reconstruction.trustworthy:
            print(
                f"warning: {path.name}: the response function of this reconstruction has an error "
                f"of {reconstruction.error:.1%}. Take more snapshots (ema.snapshot_nimg)."
            )
    return dict(zip(targets, reconstructions, strict=True))


def _record(network: PlannedNetwork, average: Reconstruction, params: Params) -> SweptNetwork:
    return SweptNetwork(
        file=network.file,
        guide=network.guide,
        tensors=network.tensors,
        ema_length=network.ema_length,
        tensors_base=None if network.tensors == ALL else params.sweep.tensors_base,
        nimg=average.nimg,
        average=average.average,
        error=average.error,
        weight_sum=average.weight_sum,
        snapshots=average.snapshots,
    )
