"""The training of the dataset's classifier."""

import sys

import torch

from edm2.data.prepared import has_images, open_images
from edm2.features.classifier import Classifier, save_classifier
from edm2.features.training import Accuracy, ClassifierTask, accuracy, batches
from edm2.pipeline.outputs import (
    note_without_images,
    write_curves,
    write_metrics,
    write_no_curves,
)
from edm2.pipeline.paths import FEATURES, IMAGES
from edm2.pipeline.runner import StageContext
from edm2.runtime.distributed import is_main_process
from edm2.runtime.loop import train
from edm2.runtime.manifest import write_manifest
from edm2.runtime.randomness import torch_seed

CURVES, METRICS = "reports/features/curves.csv", "reports/features/metrics.json"


def train_features(context: StageContext) -> None:
    """Train the classifier, and compute its accuracy on the held-out images; say if it is chance.

    Without images the results are empty.
    """
    if not has_images(IMAGES):
        note_without_images("no classifier is trained")
        if is_main_process():
            context.out(FEATURES).mkdir(exist_ok=True)
            write_manifest(context.out(FEATURES))
            write_no_curves(context, CURVES)
            write_metrics(context, METRICS, {})
        return
    seed, params = context.params.dataset.seed, context.params.features
    images, held_out = open_images(IMAGES, "train", "held_out")
    torch.manual_seed(torch_seed(seed, "features/init"))
    classifier = Classifier(
        params.channels, params.slices, params.dims, len(images.classes), images.resolution
    ).to(context.device)
    train(
        context.title,
        ClassifierTask(classifier, params, context.device),
        batches(images, params, seed, context.params.runtime, context.device),
        params,
        context.state,
        context.run,
        checkpoint_seconds=context.params.runtime.checkpoint_seconds,
        nonfinite_patience=context.params.runtime.nonfinite_patience,
        remedy=f"Lower features.lr ({params.lr:g}).",
    )
    held_out_accuracy = accuracy(classifier, held_out, context.device)
    if held_out_accuracy is not None:
        if held_out_accuracy.at_chance:
            print(f"warning: {_at_chance(held_out_accuracy)}", file=sys.stderr)
        metrics = {
            "accuracy_held_out": held_out_accuracy.value,
            "accuracy_of_chance": held_out_accuracy.chance,
            "at_chance": held_out_accuracy.at_chance,
        }
        save_classifier(classifier.cpu(), context.out(FEATURES), **metrics)
        write_curves(context, CURVES)
        write_metrics(context, METRICS, metrics)
        context.conclude(f"{held_out_accuracy.value:.1%} accuracy on held-out images")


def _at_chance(accuracy: Accuracy) -> str:
    return (
        f"the classifier's accuracy on held-out images, {accuracy.value:.1%}, is no better than that of "
        f"always naming the most frequent class, {accuracy.chance:.1%}. Distances with "
        "evaluation.detector: classifier and perceptual losses with vae.backbone: classifier are "
        "therefore those of an untrained network. Set evaluation.detector and vae.backbone to "
        "efficientnet, use images of several classes, or train longer (features.duration_nimg)."
    )
