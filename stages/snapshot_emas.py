"""a training run, or published networks → models/ema/X: the checked snapshot store."""

from pathlib import Path

from edm2.params import Params
from stages.entry import Place, main


def work(place: Place) -> None:
    """Gather snapshots, every one opened, finite and of one shape."""
    from edm2.ema.gather import gather
    from edm2.ema.store import SnapshotStore
    from stages.published import import_published, published_files

    params, out = place.params, place.out(f"models/ema/{place.config}")
    if params.ema.source == "published":
        import_published(published_files(params.ema.path), out, params.diffusion)
    else:
        source = SnapshotStore(Path(f"models/diffusion/{place.config}"))
        gather(source, out, params.diffusion.duration_nimg)


def outside(params: Params) -> str:
    """Names and sizes of published pickles, which dvc.yaml cannot name."""
    from stages.published import described

    return described(params.ema.path)


if __name__ == "__main__":
    main(work, outside)
