"""The training of the dataset's classifier."""

import torch

from edm2.data.images import ImageShards
from edm2.features.classifier import Classifier, save_classifier
from edm2.features.training import ClassifierTask, accuracy, batches
from edm2.pipeline.outputs import write_curves, write_metrics
from edm2.pipeline.paths import FEATURES, IMAGES
from edm2.pipeline.runner import StageContext
from edm2.runtime.distributed import is_main_process
from edm2.runtime.loop import train
from edm2.runtime.randomness import torch_seed


def train_features(context: StageContext) -> None:
    """Train the classifier, and compute its accuracy on the held-out images."""
    seed, params = context.params.dataset.seed, context.params.features
    images = ImageShards(IMAGES, "train")
    torch.manual_seed(torch_seed(seed, "features/init"))
    classifier = Classifier(
        params.channels, params.slices, params.dims, len(images.classes), images.resolution
    ).to(context.device)
    train(
        context.title,
        ClassifierTask(classifier, params, context.device),
        batches(images, params, seed),
        params,
        context.state,
        context.run,
        checkpoint_seconds=context.params.runtime.checkpoint_seconds,
    )
    if is_main_process():
        held_out = ImageShards(IMAGES, "held_out")
        metrics = {"accuracy_held_out": accuracy(classifier, held_out, context.device)}
        save_classifier(classifier.cpu(), context.out(FEATURES), **metrics)
        write_curves(context, "reports/features/curves.csv")
        write_metrics(context, "reports/features/metrics.json", metrics)
