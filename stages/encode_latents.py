"""images, vae → data/latents: mean and std of every training image's latent."""

from pathlib import Path

from stages.entry import Place, main


def work(place: Place) -> None:
    """Encode the training images and find the latents' per-channel mean and std."""
    from edm2.data.images import ImageShards
    from edm2.data.latents import latent_facts
    from edm2.runtime.distributed import barrier, ranks
    from edm2.runtime.manifest import write_manifest
    from edm2.vae.codec import load_codec
    from edm2.vae.encoding import encode_shards

    out = place.out("data/latents")
    images = ImageShards(Path("data/images"), "train")
    codec = load_codec(Path("models/vae"), place.device)
    encode_shards(codec, images, out, place.device)
    barrier()
    if ranks().first:
        write_manifest(out, classes=images.classes, **latent_facts(out, codec.normalization))


if __name__ == "__main__":
    main(work)
