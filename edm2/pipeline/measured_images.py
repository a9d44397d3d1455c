"""Images that a user names, and their features: what both commands of `edm2 measure` work on."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from edm2.data.sized import OddSizeError, SizedImages
from edm2.data.sources.unlabeled import open_unlabeled
from edm2.data.tally import Tally
from edm2.data.tars import INDICES
from edm2.features.backbone import Detector
from edm2.features.detectors import load_detector
from edm2.features.weights import cache_folder
from edm2.metrics.collection import Collection
from edm2.params import UserError
from edm2.params.dataset import Crop
from edm2.params.evaluation import Evaluation
from edm2.params.runtime import Runtime
from edm2.pipeline.paths import FEATURES
from edm2.pipeline.reference import collect_features
from edm2.runtime.distributed import gather_object, is_main_process, on_main_process
from edm2.runtime.manifest import load_manifest
from edm2.runtime.messages import say


@dataclass(frozen=True)
class FeatureOptions:
    """How images become features.

    Attributes:
        evaluations: one for each detector.
        project: root of the project, whose classifier may be a detector; None: there is none.
        resize: side in pixels; None: images have one size.
        crop: from images of any size to squares, with `resize`.
        batch: images that a rank reads at a time; it changes nothing but rounding.
    """

    evaluations: tuple[Evaluation, ...]
    runtime: Runtime
    project: Path | None
    resize: int | None
    crop: Crop
    batch: int


def open_images(
    path: str, key: str, options: FeatureOptions, samples: int | None = None
) -> SizedImages:
    """The images at a path, listed by the main process for all ranks; prints how many, and what is left out.

    Args:
        path, key: see `open_unlabeled`.
        samples: how many of the first ones; None: all.

    Raises:
        UserError: see `open_unlabeled`; or there are too few.
    """

    def scan() -> SizedImages:
        parent = cache_folder() if options.project is None else options.project
        files = open_unlabeled(path, key, parent / INDICES)
        total = len(files.labels)
        if samples is not None and total < samples:
            raise UserError(
                f"--samples {samples}: {files.place} has only {total:,} images. Use --samples {total} "
                "or fewer, or more images."
            )
        images = SizedImages(
            files, options.resize, options.crop, total if samples is None else samples
        )
        some = "" if samples is None else f"the first {samples:,} of "
        side = images.resolution
        say(f"{files.place}: {some}{total:,} images, {side}×{side} pixels")
        _warn(files.place, [f"left out: {line}" for line in files.left_out.lines()])
        _warn(files.place, files.doubtful.lines())
        return images

    return on_main_process(scan)


def load_detectors(options: FeatureOptions, device: torch.device) -> list[Detector]:
    """The detector of each evaluation.

    Raises:
        UserError: see `load_detector`; or there is no project with a classifier.
    """
    detectors = []
    for evaluation in options.evaluations:
        folder = (options.project or Path()) / FEATURES
        if evaluation.detector == "classifier":
            _check_classifier(options.project, folder)
        name, path = evaluation.detector, evaluation.detector_path
        detectors.append(load_detector(name, path, folder, Path.cwd(), device))
    return detectors


def features_of(
    images: SizedImages,
    detectors: list[Detector],
    options: FeatureOptions,
    device: torch.device,
    kept: int,
) -> dict[str, Collection] | None:
    """See `collect_features`.

    Raises:
        UserError: damaged images, or images of other sizes; one error lists all of these.
    """
    try:
        collections = collect_features(images, detectors, device, kept, options.batch)
    except OddSizeError:
        images.refuse_odd_sizes()
    doubtful = Tally()
    for part in gather_object(images.doubtful):
        doubtful.update(part)
    if is_main_process():
        _warn(images.files.place, doubtful.lines())
    return collections


def _warn(place: str, lines: Iterable[str]) -> None:
    for line in lines:
        print(f"warning: {place}: {line}", file=sys.stderr)


def _check_classifier(project: Path | None, folder: Path) -> None:
    if project is None or not folder.exists():
        raise UserError(
            f"--detector classifier: expected the classifier of a project in {folder}, which does not exist. "
            "Run `dvc repro train_features` there, or use --detector inception."
        )
    if is_main_process() and load_manifest(folder)["at_chance"]:
        print(
            f"warning: {folder}: this classifier is at chance; its features are those of an untrained "
            "network.",
            file=sys.stderr,
        )
