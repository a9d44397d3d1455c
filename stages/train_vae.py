"""images, features → models/vae, reports/vae: the autoencoder that makes the latents."""

from pathlib import Path

from edm2.params import Params
from stages.entry import Place, main

SHOWN = 24  # held-out images in the picture of reconstructions


def work(place: Place) -> None:
    """Train the VAE; measure its reconstructions of held-out images."""
    import torch

    from edm2.data.images import ImageShards
    from edm2.data.web import WebImages
    from edm2.features.classifier import load_classifier
    from edm2.reporting.grids import write_rows
    from edm2.runtime.device import activation_dtype
    from edm2.runtime.distributed import ranks
    from edm2.runtime.loop import Every, train
    from edm2.runtime.randomness import torch_seed
    from edm2.vae.codec import TrainedVae, save_vae
    from edm2.vae.network import Autoencoder
    from edm2.vae.training import VaeTask, batches, evaluate
    from stages.reports import write_curves, write_metrics
    from stages.yardsticks import reconstruction_distances

    seed, params, device = place.params.seed, place.params.vae, place.device
    prepared, prepared_held_out = (ImageShards(Path("data/images"), split)
                                   for split in ("train", "held_out"))  # fmt: skip
    others = [WebImages(paths, prepared.resolution) for paths in shards(place.params)]
    images, held_out = others or (prepared, prepared_held_out)
    classifier = load_classifier(Path("models/features"), device)
    torch.manual_seed(torch_seed(seed, "vae/init"))
    network = Autoencoder(params).to(device)

    def check(nimg: int) -> dict[str, float]:
        found = evaluate(network, held_out, classifier, device)
        return {f"held_out/{key}": value for key, value in found.items()}

    runtime = place.params.runtime
    task = VaeTask(network, params, classifier, device, activation_dtype(runtime), runtime.compile)
    train(place.title, task,
          batches(images, params, seed), params, place.state, place.run,
          checkpoint_seconds=runtime.checkpoint_seconds,
          every=[Every(params.evaluate_nimg, check)])  # fmt: skip
    if ranks().first:
        codec = TrainedVae(network.eval(), params)
        found = evaluate(network, held_out, classifier, device)
        found |= reconstruction_distances(codec, prepared, prepared_held_out, classifier, device)
        grid = place.out("reports/vae/reconstructions.png")
        shown, _ = held_out.batch(range(min(SHOWN, len(held_out))))
        decoded = codec.decode(codec.encode(shown.to(device))[0]).cpu()
        write_rows(grid, {"image": shown, "decoded": decoded})
        place.run.artifact(grid)
        write_curves(place, "reports/vae/curves.csv")
        write_metrics(place, "reports/vae/metrics.json", found)
        save_vae(network.cpu(), params, place.out("models/vae"))


def shards(params: Params) -> list[list[Path]]:
    """The tars of `vae.images`, of training and held out; empty if prepared images are used."""
    from edm2.params.checks import project_root
    from edm2.params.patterns import matching

    patterns = (params.vae.images.shards, params.vae.images.held_out)
    return [matching(pattern, project_root()) for pattern in patterns if pattern is not None]


def outside(params: Params) -> str:
    """Names, sizes and times of those tars, which dvc.yaml cannot name."""
    from edm2.runtime.files import describe

    return "\n\n".join(describe(paths) for paths in shards(params))


if __name__ == "__main__":
    main(work, outside)
