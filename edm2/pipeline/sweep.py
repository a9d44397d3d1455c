"""The networks of a sweep, reconstructed or described."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edm2.ema.fixed import copy_files, describe_copies
from edm2.ema.reconstruct import Reconstruction, Target, describe_averages, reconstruct_files
from edm2.ema.store import SnapshotStore
from edm2.params.ema import Sweep
from edm2.pipeline.networks import ALL, SweptNetwork
from edm2.pipeline.paths import store_folder, sweep_folder
from edm2.pipeline.runner import StageContext
from edm2.pipeline.sweep_plan import PlannedNetwork, SweepPlan, plan_networks, record
from edm2.pipeline.unstored import DTYPES, manifest_entries
from edm2.runtime.manifest import write_manifest


def sweep_ema(context: StageContext) -> None:
    """Reconstruct one network per EMA length, time and tensor; copy averages of fixed length.

    With `sweep.materialize: false` only describe them: those who use them make them.
    """
    params, out = context.params, context.out(sweep_folder(context.replicate))
    out.mkdir(exist_ok=True)
    plan = SweepPlan.of(context.replicate, params.guidance, lambda store: _networks(context, store))
    reconstructions = {
        file: reconstruction
        for path, store in plan.stores.items()
        for file, reconstruction in _reconstruct(
            store, plan.targets[path], out, params.sweep
        ).items()
    }
    base = params.sweep.tensors_base
    networks = [record(network, reconstructions[network.file], base) for network in plan.networks]
    _log_quality(context, networks, plan.stores[store_folder(context.replicate)].end)
    context.conclude(
        f"{len(networks)} networks" + " without files" * (not params.sweep.materialize)
        if networks
        else "the range of a search"
    )
    search = params.sweep.search
    write_manifest(
        out,
        networks=[asdict(network) for network in networks],
        materialized=params.sweep.materialize,
        search=None if search is None else search.model_dump(),
        **({} if params.sweep.materialize else _unstored(plan, params.sweep)),
    )


def _networks(context: StageContext, store: SnapshotStore) -> list[PlannedNetwork]:
    """Those of the grid; none for a search, whose networks are known when it needs them."""
    sweep = context.params.sweep
    if store.has_fixed_lengths:
        print(
            f"note: the averages of config {context.replicate.config} have a fixed length; "
            "sweep.ema_lengths, sweep.tensors and sweep.search have no effect."
        )
    elif sweep.search is not None:
        return []
    return list(plan_networks(store, sweep))


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


def _unstored(plan: SweepPlan, sweep: Sweep) -> dict[str, Any]:
    """What the manifest says of networks that have no files, each followed by its guide."""
    targets = plan.targets
    averages = {file: (path, target) for path in targets for file, target in targets[path].items()}
    order = [file for network in plan.networks for file in (network.file, network.guide) if file]
    return manifest_entries({file: averages[file] for file in order}, plan.stores, sweep)


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
        reconstruction.warn(name)
    return dict(zip(targets, reconstructions, strict=True))
