"""The networks of a sweep: which ones params list, and their reconstruction."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edm2.diffusion.names import PAPER_TENSORS, matching
from edm2.ema.fixed import copy_files, describe_copies
from edm2.ema.reconstruct import Reconstruction, Target, describe_averages, reconstruct_files
from edm2.ema.store import SnapshotStore
from edm2.params import Params
from edm2.params.ema import Sweep
from edm2.params.guidance import Guidance
from edm2.pipeline.networks import ALL, SweptNetwork
from edm2.pipeline.paths import guide_folder, store_folder, sweep_folder
from edm2.pipeline.runner import StageContext
from edm2.pipeline.unstored import DTYPES, manifest_entries
from edm2.runtime.manifest import write_manifest


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
    """Reconstruct one network per EMA length, time and tensor; copy averages of fixed length.

    With `sweep.materialize: false` only describe them: those who use them make them.
    """
    params, out = context.params, context.out(sweep_folder(context.replicate))
    out.mkdir(exist_ok=True)
    folder, guides_folder = store_folder(context.replicate), guide_folder(context.replicate)
    stores = {folder: SnapshotStore(folder)}
    if stores[folder].has_fixed_lengths:
        print(
            f"note: the averages of config {context.replicate.config} have a fixed length; sweep.ema_lengths "
            "and sweep.tensors have no effect."
        )
    planned = list(plan_networks(stores[folder], params.sweep))
    targets = {folder: {network.file: network.target for network in planned}}
    if params.guidance.guide == "snapshot":
        planned, guides = _with_guides(planned, stores[folder], params.guidance, "")
        targets[folder] |= guides
    elif params.guidance.guide in ("trained", "published"):
        stores[guides_folder] = SnapshotStore(guides_folder)
        planned, guides = _with_guides(planned, stores[guides_folder], params.guidance, "guide-")
        targets[guides_folder] = guides
    reconstructions = {
        file: reconstruction
        for path, store in stores.items()
        for file, reconstruction in _reconstruct(store, targets[path], out, params.sweep).items()
    }
    networks = [_record(network, reconstructions[network.file], params) for network in planned]
    _log_quality(context, networks, stores[folder].end)
    context.conclude(
        f"{len(networks)} networks" + " without files" * (not params.sweep.materialize)
    )
    write_manifest(
        out,
        networks=[asdict(network) for network in networks],
        materialized=params.sweep.materialize,
        **({} if params.sweep.materialize else _unstored(planned, targets, stores, params.sweep)),
    )


def _log_quality(context: StageContext, networks: Iterable[SweptNetwork], end: int) -> None:
    """Log the errors of whole networks at the end of training."""
    for network in networks:
        if network.tensors == ALL and network.nimg == end:
            quality = {
                "reconstruction/error": network.error,
                "reconstruction/weight_sum": network.weight_sum,
            }
            step = round(1000 * network.ema_length)
            context.run.log(step, quality, axis="ema_length_permille")


def _unstored(
    planned: Sequence[PlannedNetwork],
    targets: Mapping[Path, Mapping[str, Target]],
    stores: Mapping[Path, SnapshotStore],
    sweep: Sweep,
) -> dict[str, Any]:
    """What the manifest says of networks that have no files, each followed by its guide."""
    averages = {file: (path, target) for path in targets for file, target in targets[path].items()}
    order = [file for network in planned for file in (network.file, network.guide) if file]
    return manifest_entries({file: averages[file] for file in order}, stores, sweep)


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
    """Write the averages in one pass over the snapshots, or only describe them; warn about those with a
    large error.
    """
    paths, chosen = {out / name: target for name, target in targets.items()}, [*targets.values()]
    dtype = DTYPES[sweep.dtype]
    if store.has_fixed_lengths:
        reconstructions = (
            copy_files(store, paths, dtype) if sweep.materialize else describe_copies(store, chosen)
        )
    elif sweep.materialize:
        reconstructions = reconstruct_files(store, paths, dtype, sweep.normalize_weights)
    else:
        reconstructions = describe_averages(store, chosen, sweep.normalize_weights)
    for name, reconstruction in zip(targets, reconstructions, strict=True):
        if not reconstruction.trustworthy:
            print(
                f"warning: {name}: the response function of this reconstruction has an error "
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
