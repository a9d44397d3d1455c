"""The reference that a user names for `edm2 measure`: statistics in a file, or images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edm2.data.sized import SizedImages
from edm2.features.backbone import Detector
from edm2.metrics.reference import MOMENTS, Reference, import_reference, load_reference
from edm2.metrics.reference_file import open_reference_file
from edm2.params import UserError
from edm2.params.seams import DETECTORS
from edm2.pipeline.measured_images import FeatureOptions, open_images
from edm2.pipeline.paths import IMAGES
from edm2.runtime.distributed import on_main_process
from edm2.runtime.files import sha256
from edm2.runtime.manifest import MANIFEST, load_manifest

KEY = "--reference"
STATISTICS = (".npz", ".pkl")


@dataclass(frozen=True)
class ReferenceSource:
    """What is known of a reference before features are computed.

    Attributes:
        images: if it is images.
        by_detector: if it is statistics; empty on ranks other than the main process.
        resolution: side of the images in pixels; None: unknown.
    """

    path: str
    images: SizedImages | None
    resolution: int | None
    by_detector: dict[str, Reference] = field(default_factory=dict)


def open_reference(
    path: str, detectors: Sequence[Detector], options: FeatureOptions, with_features: bool
) -> ReferenceSource:
    """The reference at a path.

    Args:
        path: an .npz or .pkl file, an out of the stage `reference`, or images (see `open_unlabeled`).
        with_features: whether features in a file are needed.

    Raises:
        UserError: see `open_images` and `import_reference`; or it is of another detector.
    """
    if not on_main_process(lambda: _is_statistics(Path(path))):
        images = open_images(path, KEY, options)
        return ReferenceSource(path, images, images.resolution)
    by_detector: dict[str, Reference] = {}

    def read() -> int | None:
        references, resolution = _read_statistics(Path(path), detectors, with_features)
        by_detector.update(references)
        return resolution

    return ReferenceSource(path, None, on_main_process(read), by_detector)


def require_existing(path: str | None) -> None:
    """Fail before detectors are loaded, which may mean a download.

    Raises:
        UserError: statistics that do not exist.
    """
    if path and Path(path).suffix in STATISTICS and not Path(path).is_file():
        raise UserError(f"{KEY} {path}: no such file. Correct the path.")


def _is_statistics(path: Path) -> bool:
    return path.suffix in STATISTICS or (path / MOMENTS).exists()


def _read_statistics(
    path: Path, detectors: Sequence[Detector], with_features: bool
) -> tuple[dict[str, Reference], int | None]:
    """The references by the names of their detectors, and the images' side in pixels if it is known."""
    if path.is_dir():
        return {d.name: _of_stage(path, d) for d in detectors}, _resolution(path)
    if not path.is_file():
        raise UserError(
            f"{KEY}: {path}: expected a file of statistics, found none. Correct the path."
        )
    file = open_reference_file(path) if path.suffix == ".npz" else None
    if file is None:
        return {detector.name: _published(path, detector) for detector in detectors}, None
    return {d.name: file.read(d, with_features) for d in detectors}, file.resolution


def _of_stage(folder: Path, detector: Detector) -> Reference:
    theirs = load_manifest(folder)["detector"]
    if theirs != detector.name:
        raise UserError(
            f"{KEY}: {folder}: expected features of the detector {detector.name}, found those of {theirs}. "
            f"Use --detector {theirs}, or another reference."
        )
    return load_reference(folder, detector, None)


def _resolution(folder: Path) -> int | None:
    """Side of the images behind an out of the stage `reference`, if they are beside it."""
    images = folder.parent / IMAGES.name
    manifest = images / MANIFEST
    if not manifest.exists() or sha256(manifest) != load_manifest(folder)["images"]:
        return None
    return int(load_manifest(images)["resolution"])


def _published(file: Path, detector: Detector) -> Reference:
    if not DETECTORS[detector.name].published:
        raise UserError(
            f"{KEY}: {file}: there are no published statistics of the detector {detector.name}. Use a folder "
            "of images, or a file of `edm2 measure reference`."
        )
    return import_reference(file, detector.dims, detector.name)
