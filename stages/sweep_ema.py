"""snapshot store → models/sweep/X: networks of the EMA lengths that params ask for."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from stages.entry import Place, main

if TYPE_CHECKING:
    from edm2.ema.reconstruct import Target
    from edm2.ema.store import SnapshotStore
    from edm2.params.ema import Sweep


def work(place: Place) -> None:
    """Reconstruct one network per EMA length, time and tensor; averages of fixed length are copied."""
    import torch

    from edm2.ema.reconstruct import copy_files, reconstruct_files
    from edm2.ema.store import SnapshotStore
    from edm2.runtime.manifest import write_manifest

    sweep, out = place.params.sweep, place.out(f"models/sweep/{place.config}")
    store = SnapshotStore(Path(f"models/ema/{place.config}"))
    dtype = {"float16": torch.float16, "float32": torch.float32}[sweep.dtype]
    out.mkdir(exist_ok=True)
    if store.fixed:
        print(f"note: config {place.config} has averages of a length fixed before; sweep.sigma_rel "
              "does not apply.")  # fmt: skip
        copied = copy_files(store, sweep.nimg or [store.end], out, dtype)
        networks = [{**asdict(spec), "tensors": "all", "file": path.name, "tensors_base": None}
                    for path, spec in copied.items()]  # fmt: skip
    else:
        wanted = {out / name: target for name, target in _targets(store, sweep).items()}
        made = reconstruct_files(store, {path: t for path, (_, _, t) in wanted.items()}, dtype)
        networks = [
            {
                **asdict(spec),
                "sigma_rel": length,
                "tensors": tensors,
                "file": path.name,
                "tensors_base": None if tensors == "all" else sweep.tensors_base,
            }
            for spec, (path, (tensors, length, _)) in zip(made, wanted.items(), strict=True)
        ]
        for spec, path in zip(made, wanted, strict=True):
            if not spec.trustworthy:
                print(f"warning: {path.name}: the reconstruction's response function is off by "
                      f"{spec.error:.1%}; take more snapshots.")  # fmt: skip
    for network in networks:
        if network["tensors"] == "all" and network["nimg"] == store.end:
            quality = {f"reconstruction/{key}": network[key] for key in ("error", "weight_sum")}
            place.run.log(round(1000 * network["sigma_rel"]), quality, axis="sigma_rel_permille")
    write_manifest(out, networks=networks)


def _targets(store: "SnapshotStore", sweep: "Sweep") -> dict[str, tuple[str, float, "Target"]]:
    """By file name: which tensors have the length asked for, that length, and the average."""
    from edm2.diffusion.names import PAPER_TENSORS, matching
    from edm2.ema.reconstruct import Target

    found = {}
    for nimg in sweep.nimg or [store.end]:
        for length in sweep.sigma_rel:
            name = f"{nimg:012d}-sigma_rel-{length!r}.safetensors"
            found[name] = ("all", length, Target(length, nimg))
    patterns = [
        p for entry in sweep.tensors for p in (PAPER_TENSORS if entry == "paper" else [entry])
    ]
    for number, pattern in enumerate(patterns):
        others = matching(pattern, store.parameters)
        for length in sweep.sigma_rel:
            name = f"{store.end:012d}-tensors{number}-sigma_rel-{length!r}.safetensors"
            base = sweep.tensors_base or length  # params have one wherever there are patterns
            found[name] = (pattern, length, Target(base, store.end, dict.fromkeys(others, length)))
    return found


if __name__ == "__main__":
    main(work)
