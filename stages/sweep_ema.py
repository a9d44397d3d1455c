"""snapshot store → models/sweep/X: networks of the EMA lengths that params ask for."""

from dataclasses import asdict
from pathlib import Path

from stages.entry import Place, main


def work(place: Place) -> None:
    """Reconstruct one network per EMA length; a traditional EMA is taken as it is."""
    import torch

    from edm2.ema.reconstruct import reconstruct, stored
    from edm2.ema.store import SnapshotStore, write_tensors
    from edm2.runtime.manifest import write_manifest

    sweep, out = place.params.sweep, place.out(f"models/sweep/{place.config}")
    store = SnapshotStore(Path(f"models/ema/{place.config}"))
    dtype = {"float16": torch.float16, "float32": torch.float32}[sweep.dtype]
    networks = []
    if store.traditional:
        print(f"note: config {place.config} has one traditional EMA, whose length was fixed in "
              "training; sweep.sigma_rel does not apply.")  # fmt: skip
        averages = stored(store, sweep.nimg)
    else:
        averages = reconstruct(store, sweep.sigma_rel, sweep.nimg)
    for spec, tensors in averages:
        name = f"sigma_rel-{spec.sigma_rel!r}.safetensors"
        write_tensors(out / name, tensors, dtype)
        networks.append({**asdict(spec), "file": name})
        quality = {"reconstruction/error": spec.error, "reconstruction/weight_sum": spec.weight_sum}
        place.run.log(round(1000 * spec.sigma_rel), quality, axis="sigma_rel_permille")
        if not spec.trustworthy:
            print(f"warning: EMA length {spec.sigma_rel}: the reconstruction's response function "
                  f"is off by {spec.error:.1%}; take more snapshots.")  # fmt: skip
    write_manifest(out, networks=networks)


if __name__ == "__main__":
    main(work)
