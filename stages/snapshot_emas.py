"""a training run → models/ema/X: the checked snapshot store."""

from pathlib import Path

from stages.entry import Place, main


def work(place: Place) -> None:
    """Gather the snapshots of a training, every one opened, finite and of one shape."""
    from edm2.ema.gather import gather
    from edm2.ema.store import SnapshotStore

    source = SnapshotStore(Path(f"models/diffusion/{place.config}"))
    gather(source, place.out(f"models/ema/{place.config}"), place.params.diffusion.duration_nimg)


if __name__ == "__main__":
    main(work)
