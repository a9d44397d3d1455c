"""snapshot stores → models/sweep/X: networks of the EMA lengths that params ask for, and guides."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edm2.params import Params
from edm2.params.ema import Sweep
from edm2.params.guidance import Guidance
from stages.entry import Place, main

if TYPE_CHECKING:
    import torch

    from edm2.ema.reconstruct import Reconstruction, Target
    from edm2.ema.store import SnapshotStore


@dataclass(frozen=True)
class Network:
    """A network to make: which tensors have which EMA length, in which file, and its guide's."""

    tensors: str
    sigma_rel: float
    target: "Target"
    file: str
    guide: str | None = None


def work(place: Place) -> None:
    """Reconstruct one network per EMA length, time and tensor; averages of fixed length are copied."""
    import torch

    from edm2.ema.store import SnapshotStore
    from edm2.runtime.manifest import write_manifest

    params, out = place.params, place.out(f"models/sweep/{place.config}")
    out.mkdir(exist_ok=True)
    store = SnapshotStore(Path(f"models/ema/{place.config}"))
    if store.fixed:
        print(
            f"note: config {place.config} has averages of a length fixed before; sweep.sigma_rel "
            "and sweep.tensors do not apply."
        )
    dtype = {"float16": torch.float16, "float32": torch.float32}[params.sweep.dtype]
    wanted = list(_wanted(store, params.sweep))
    own = {network.file: network.target for network in wanted}
    if params.guidance.guide == "snapshot":
        wanted, guides = _guided(wanted, store, params.guidance, "")
        own |= guides
    elif params.guidance.guide in ("trained", "published"):
        source = SnapshotStore(Path(f"models/guide/{place.config}"))
        wanted, guides = _guided(wanted, source, params.guidance, "guide-")
        _make(source, guides, out, dtype)
    made = _make(store, own, out, dtype)
    networks = [_facts(network, made[network.file], params) for network in wanted]
    for network in networks:
        if network["tensors"] == "all" and network["nimg"] == store.end:
            quality = {f"reconstruction/{key}": network[key] for key in ("error", "weight_sum")}
            place.run.log(round(1000 * network["sigma_rel"]), quality, axis="sigma_rel_permille")
    write_manifest(out, networks=networks)


def _wanted(store: "SnapshotStore", sweep: Sweep) -> Iterator[Network]:
    """The networks that params ask for, times and tensor patterns in turn."""
    from edm2.diffusion.names import PAPER_TENSORS, matching
    from edm2.ema.reconstruct import Target

    for nimg in sweep.nimg or (store.end,):
        for length in (store.at(nimg).sigma_rel,) if store.fixed else sweep.sigma_rel:
            yield Network("all", length, Target(length, nimg), _file(nimg, length))
    if store.fixed:
        return
    patterns = [
        p for entry in sweep.tensors for p in (PAPER_TENSORS if entry == "paper" else [entry])
    ]
    for number, pattern in enumerate(patterns):
        others = matching(pattern, store.parameters)
        for length in sweep.sigma_rel:
            base = sweep.tensors_base or length  # params have one wherever there are patterns
            yield Network(
                pattern,
                length,
                Target(base, store.end, dict.fromkeys(others, length)),
                _file(store.end, length, f"tensors{number}-"),
            )


def _guided(
    networks: list[Network], source: "SnapshotStore", guidance: Guidance, prefix: str
) -> tuple[list[Network], dict[str, "Target"]]:
    """The networks with their guides' files, and what those guides are, of snapshots in `source`.

    A guide has the length and time that params say; else those of the network, or the end of a
    training of its own.
    """
    from edm2.ema.reconstruct import Target

    guided, guides = [], {}
    for network in networks:
        nimg = guidance.nimg or (source.end if prefix else network.target.nimg) or source.end
        length = guidance.sigma_rel or network.target.sigma_rel
        if source.fixed:
            length = source.at(nimg).sigma_rel
        file = prefix + _file(nimg, length)
        guides[file] = Target(length, nimg)
        guided.append(
            Network(network.tensors, network.sigma_rel, network.target, network.file, file)
        )
    return guided, guides


def _file(nimg: int, length: float, kind: str = "") -> str:
    return f"{nimg:012d}-{kind}sigma_rel-{length!r}.safetensors"


def _make(
    store: "SnapshotStore", targets: Mapping[str, "Target"], out: Path, dtype: "torch.dtype"
) -> dict[str, "Reconstruction"]:
    """Write the averages, by one pass over the snapshots; tell which are not to be trusted."""
    from edm2.ema.reconstruct import copy_files, reconstruct_files

    paths = {out / name: target for name, target in targets.items()}
    specs = (copy_files if store.fixed else reconstruct_files)(store, paths, dtype)
    for path, spec in zip(paths, specs, strict=True):
        if not spec.trustworthy:
            print(
                f"warning: {path.name}: the reconstruction's response function is off by "
                f"{spec.error:.1%}; take more snapshots."
            )
    return dict(zip(targets, specs, strict=True))


def _facts(network: Network, made: "Reconstruction", params: Params) -> dict[str, Any]:
    """An entry of the manifest."""
    varied = network.tensors != "all"
    return {
        **asdict(made),
        "sigma_rel": network.sigma_rel,
        "tensors": network.tensors,
        "tensors_base": params.sweep.tensors_base if varied else None,
        "file": network.file,
        "guide": network.guide,
    }


if __name__ == "__main__":
    main(work)
