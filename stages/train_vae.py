"""images, features → models/vae, reports/vae: the autoencoder that makes the latents."""

from pathlib import Path

from stages.entry import Place, main

SHOWN = 24  # held-out images in the picture of reconstructions


def work(place: Place) -> None:
    """Train the VAE; measure its reconstructions of held-out images."""
    import torch

    from edm2.data.images import ImageShards
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
    images = ImageShards(Path("data/images"), "train")
    held_out = ImageShards(Path("data/images"), "held_out")
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
        found |= reconstruction_distances(codec, images, held_out, classifier, device)
        grid = place.out("reports/vae/reconstructions.png")
        shown, _ = held_out.batch(range(min(SHOWN, len(held_out))))
        decoded = codec.decode(codec.encode(shown.to(device))[0]).cpu()
        write_rows(grid, {"image": shown, "decoded": decoded})
        place.run.artifact(grid)
        write_curves(place, "reports/vae/curves.csv")
        write_metrics(place, "reports/vae/metrics.json", found)
        save_vae(network.cpu(), params, place.out("models/vae"))


if __name__ == "__main__":
    main(work)
