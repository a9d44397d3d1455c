"""a training run, or published networks → models/ema/X: the checked snapshot store."""

from pathlib import Path

from edm2.params import Params
from stages.entry import Place, main


def work(place: Place) -> None:
    """Gather snapshots, every one opened, finite and of one shape."""
    from edm2.ema.gather import gather
    from edm2.ema.store import SnapshotStore
    from stages.published import import_published

    params, out = place.params, place.out(f"models/ema/{place.config}")
    if params.ema.source == "published":
        import_published(published_files(params), out, params.diffusion)
    else:
        source = SnapshotStore(Path(f"models/diffusion/{place.config}"))
        gather(source, out, params.diffusion.duration_nimg)


def published_files(params: Params) -> list[Path]:
    """The pickles of `ema.path`."""
    from edm2.params.checks import project_root

    return sorted((project_root() / (params.ema.path or "")).glob("*.pkl"))


def outside(params: Params) -> str:
    """Names and sizes of published pickles, which dvc.yaml cannot name."""
    if params.ema.source == "training":
        return ""
    return "; ".join(f"{path.name} {path.stat().st_size}" for path in published_files(params))


if __name__ == "__main__":
    main(work, outside)
