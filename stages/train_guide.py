"""latents → models/guide/X: snapshots of a network that guides config X, if params ask for one."""

from edm2.params import Params
from stages.entry import Place, main


def work(place: Place) -> None:
    """Train the guide of one configuration, or read a published one."""
    from edm2.runtime.distributed import ranks
    from edm2.runtime.manifest import write_manifest

    params = place.params.guide_of(place.config)
    out = place.out(f"models/guide/{place.config}")
    if params.guidance.guide == "trained":
        from stages.training import train_denoiser

        train_denoiser(place, params, out)
    elif ranks().first:
        out.mkdir(exist_ok=True)
        if params.guidance.guide == "published":
            from stages.published import import_published, published_files

            import_published(published_files(params.guidance.path), out, params.diffusion)
        else:
            write_manifest(out)


def outside(params: Params) -> str:
    """Names and sizes of published pickles, which dvc.yaml cannot name."""
    from stages.published import described

    return described(params.guidance.path)


if __name__ == "__main__":
    main(work, outside)
