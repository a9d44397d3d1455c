"""images → models/features: the classifier of the data set."""

from pathlib import Path

from stages.entry import Place, main


def work(place: Place) -> None:
    """Train the classifier that stands in for VGG16 and Inception; read the held-out images."""
    import torch

    from edm2.data.images import ImageShards
    from edm2.features.classifier import Classifier, save_classifier
    from edm2.features.training import ClassifierTask, accuracy, batches
    from edm2.runtime.distributed import ranks
    from edm2.runtime.loop import train
    from edm2.runtime.randomness import torch_seed
    from stages.reports import write_curves, write_metrics

    seed, params = place.params.dataset.seed, place.params.features
    images = ImageShards(Path("data/images"), "train")
    torch.manual_seed(torch_seed(seed, "features/init"))
    classifier = Classifier(
        params.channels, params.slices, params.dims, len(images.classes), images.resolution
    ).to(place.device)
    task = ClassifierTask(classifier, params, place.device)
    train(
        place.title,
        task,
        batches(images, params, seed),
        params,
        place.state,
        place.run,
        checkpoint_seconds=place.params.runtime.checkpoint_seconds,
    )
    if ranks().first:
        held_out = ImageShards(Path("data/images"), "held_out")
        found = {"accuracy_held_out": accuracy(classifier, held_out, place.device)}
        save_classifier(classifier.cpu(), place.out("models/features"), **found)
        write_curves(place, "reports/features/curves.csv")
        write_metrics(place, "reports/features/metrics.json", found)


if __name__ == "__main__":
    main(work)
